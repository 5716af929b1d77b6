//! From the command line to a generator.

use std::time::Duration;

use thiserror::Error;
use vipsec_control::api::ClientError;
use vipsec_control::config::{self, Config, ConfigErrors, TestConfiguration};
use vipsec_hw::Mempool;
use vipsec_trafficgen::generator::{Generator, PortPlan, Reaction, Stations};
use vipsec_trafficgen::header::Run;
use vipsec_trafficgen::packet::Transport;
use vipsec_trafficgen::search::{LossTolerance, SearchPlan};
use vipsec_trafficgen::size::Sizes;
use vipsec_trafficgen::stream::{Load, PlanError};
use vipsec_trafficgen::world::{self, Encapsulation, FlowSetting, PlainSetting, PortSetting, World, WorldError};
use vipsec_wire::ethernet::MacAddr;

use crate::appliance::Appliance;
use crate::args::{self, Arguments, ForwardMode, Goal, Role};
use crate::clock;
use crate::devices::Devices;

/// testpmd's number of flows, by mode.
const FLOWGEN_FLOWS: usize = 1024;
const TXONLY_MULTI_FLOWS: usize = 64;
/// testpmd's default ports: discard.
const DISCARD_PORT: u16 = 9;
/// The first source port of flows through an appliance.
const SOURCE_PORT: u16 = 1024;

const DRAIN: Duration = Duration::from_millis(500);
/// RFC 2544 §23 d: "Wait for two seconds for any residual frames to be received."
const SEARCH_DRAIN: Duration = Duration::from_secs(2);
const TRIAL: Duration = Duration::from_secs(5);

/// The command line asks for something that can't be.
#[derive(Debug, Error)]
pub(crate) enum Impossible {
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    #[error(transparent)]
    World(#[from] WorldError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("--play names {played} ports, --vdev {there}")]
    Play { played: usize, there: usize },
    #[error("--play={0} twice: a port plays all of them")]
    PlayTwice(&'static str),
    #[error("{option} names port {port}; there are ports 0 to {last}")]
    NoPort { option: &'static str, port: usize, last: usize },
    #[error("--forward-mode=5tswap sends clear packets back: with --appliance it plays targets (--play=targets)")]
    SwapOfPeers,
    #[error("--search looks for what it sends: it needs --forward-mode=flowgen")]
    SearchMode,
    #[error("--rate-min={0} is above --rate-max={1}")]
    RateRange(u64, u64),
    #[error("--reflect needs somebody who reflects: a second port, or --play=peers,targets")]
    NobodyReflects,
    #[error("--direction needs --forward-mode=flowgen or txonly")]
    NothingToDirect,
}

/// The vipsecd's configuration, if there is one.
pub(crate) fn config(arguments: &Arguments) -> Result<Option<Config>, Impossible> {
    let path = arguments.appliance.appliance.as_ref();
    Ok(path.map(|path| config::load(path, TestConfiguration::Accepted)).transpose()?)
}

/// The running vipsecd, if one is asked for or listens where its configuration says.
pub(crate) fn appliance(arguments: &Arguments, config: Option<&Config>) -> Result<Option<Appliance>, Impossible> {
    if let Some(socket) = &arguments.appliance.control_socket {
        return Ok(Some(Appliance::connect(socket)?));
    }
    match config.map(|config| Appliance::connect(&config.appliance.control_socket)) {
        Some(Err(ClientError::NoDaemon(_) | ClientError::NoPermission(_))) | None => Ok(None),
        Some(appliance) => Ok(Some(appliance?)),
    }
}

/// Joins everything.
pub(crate) fn generator(
    arguments: &Arguments,
    config: Option<&Config>,
    appliance: Option<&Appliance>,
    devices: &Devices,
) -> Result<Generator<Mempool>, Impossible> {
    check(arguments)?;
    let macs: Vec<MacAddr> = devices.ports.iter().map(|port| MacAddr(port.mac())).collect();
    let roles = roles(arguments, macs.len())?;
    let eth_peers = eth_peers(arguments, macs.len())?;
    let mut world = match config {
        Some(config) => around_appliance(arguments, config, appliance, &roles, &eth_peers)?,
        None if arguments.capture.replay.is_some() => World::replay(&eth_peers, arguments.capture.rewrite_macs),
        None => World::plain(&plain(arguments, &eth_peers))?,
    };
    for &(port, address) in &arguments.port.port_ip {
        let last = macs.len() - 1;
        let link = world.links.get_mut(port).ok_or(Impossible::NoPort { option: "--port-ip", port, last })?;
        link.addresses.push(address);
    }
    let reflecting = reflecting(arguments, config.is_some(), &roles, macs.len())?;
    let ports = world.links.into_iter().zip(macs).enumerate().map(|(number, (link, mac))| PortPlan {
        mac,
        mtu: devices.mtu,
        link,
        stations: if config.is_some() { Stations::Own } else { Stations::All },
        reaction: if reflecting.contains(&number) { Reaction::Reflect } else { Reaction::Count },
    });
    let ports: Vec<PortPlan> = ports.collect();
    let now = clock::now();
    // Tells the senders of one machine apart, and today's packets from yesterday's.
    let [.., a, b] =
        (clock::unix_nanos() / 1000).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ u64::from(std::process::id())).to_be_bytes();
    let run = Run(u16::from_be_bytes([a, b]));
    Ok(Generator::new(devices.pool.clone(), &ports, world.streams, world.tunnels, run, now)?)
}

/// What the command line's parser can't see.
fn check(arguments: &Arguments) -> Result<(), Impossible> {
    let (mode, search) = (arguments.packet.forward_mode, &arguments.search);
    if search.search.is_some() && mode != ForwardMode::Flowgen {
        return Err(Impossible::SearchMode);
    }
    if search.rate_min > search.rate_max {
        return Err(Impossible::RateRange(search.rate_min, search.rate_max));
    }
    let sends = matches!(mode, ForwardMode::Flowgen | ForwardMode::Txonly);
    if arguments.appliance.direction.is_some() && !sends {
        return Err(Impossible::NothingToDirect);
    }
    Ok(())
}

fn roles(arguments: &Arguments, ports: usize) -> Result<Vec<Role>, Impossible> {
    let roles = match arguments.appliance.play.as_slice() {
        [] if arguments.packet.forward_mode == ForwardMode::FiveTupleSwap => vec![Role::Targets; ports],
        [] => [Role::Peers, Role::Targets].into_iter().take(ports).collect(),
        given => given.to_vec(),
    };
    if roles.len() != ports {
        return Err(Impossible::Play { played: roles.len(), there: ports });
    }
    match roles.as_slice() {
        [Role::Peers, Role::Peers] => Err(Impossible::PlayTwice("peers")),
        [Role::Targets, Role::Targets] if arguments.appliance.appliance.is_some() => {
            Err(Impossible::PlayTwice("targets"))
        }
        _ => Ok(roles),
    }
}

fn eth_peers(arguments: &Arguments, ports: usize) -> Result<Vec<Option<MacAddr>>, Impossible> {
    let mut peers = vec![None; ports];
    for &(port, mac) in &arguments.port.eth_peer {
        let last = ports - 1;
        *peers.get_mut(port).ok_or(Impossible::NoPort { option: "--eth-peer", port, last })? = Some(mac);
    }
    Ok(peers)
}

/// The ports that send back what arrives.
fn reflecting(
    arguments: &Arguments,
    has_appliance: bool,
    roles: &[Role],
    ports: usize,
) -> Result<Vec<usize>, Impossible> {
    let swaps = arguments.packet.forward_mode == ForwardMode::FiveTupleSwap;
    if swaps && has_appliance && roles.contains(&Role::Peers) {
        return Err(Impossible::SwapOfPeers);
    }
    if swaps {
        return Ok((0..ports).collect());
    }
    if !arguments.packet.reflect {
        return Ok(Vec::new());
    }
    let far = if has_appliance {
        roles.iter().position(|role| *role == Role::Targets)
    } else {
        Some(ports - 1).filter(|&far| far > 0)
    };
    Ok(vec![far.ok_or(Impossible::NobodyReflects)?])
}

/// How many flows; 0 where nothing is sent.
fn flows(arguments: &Arguments) -> usize {
    let asked = arguments.packet.flowgen_flows.and_then(|flows| usize::try_from(flows).ok());
    match arguments.packet.forward_mode {
        ForwardMode::Rxonly | ForwardMode::FiveTupleSwap => 0,
        ForwardMode::Flowgen => asked.unwrap_or(FLOWGEN_FLOWS),
        ForwardMode::Txonly if arguments.packet.txonly_multi_flow => TXONLY_MULTI_FLOWS,
        ForwardMode::Txonly => asked.unwrap_or(1),
    }
}

fn sizes(arguments: &Arguments) -> Sizes {
    arguments.packet.imix.clone().unwrap_or_else(|| Sizes::fixed(arguments.packet.txpkts))
}

fn transport(arguments: &Arguments) -> Option<(Transport, (u16, Option<u16>))> {
    let udp = arguments.packet.tx_udp.map(|ports| (Transport::Udp, ports));
    udp.or(arguments.packet.tx_tcp.map(|ports| (Transport::Tcp, ports)))
}

fn plain(arguments: &Arguments, eth_peers: &[Option<MacAddr>]) -> PlainSetting {
    let (transport, (source, destination)) = transport(arguments).unwrap_or((Transport::Udp, (DISCARD_PORT, None)));
    PlainSetting {
        // RFC 2544 appendix C.2.2: 198.18.0.0/15 is for tests like this.
        tx_ip: arguments.packet.tx_ip.unwrap_or(([198, 18, 0, 1].into(), [198, 18, 0, 2].into())),
        transport,
        ports: (source, destination.unwrap_or(source)),
        flows: flows(arguments),
        sizes: sizes(arguments),
        eth_peers: eth_peers.to_vec(),
        looked_for: arguments.packet.forward_mode == ForwardMode::Flowgen,
    }
}

fn around_appliance(
    arguments: &Arguments,
    config: &Config,
    appliance: Option<&Appliance>,
    roles: &[Role],
    eth_peers: &[Option<MacAddr>],
) -> Result<World, Impossible> {
    let ports = roles.iter().zip(eth_peers).map(|(role, eth_peer)| {
        let role = match role {
            Role::Peers => world::Role::Peers,
            Role::Targets => world::Role::Targets,
        };
        PortSetting { role, eth_peer: *eth_peer }
    });
    let ports: Vec<PortSetting> = ports.collect();
    let (transport, ports_given) = transport(arguments).unzip();
    let (source_port, destination_port) = ports_given.unwrap_or((SOURCE_PORT, None));
    let encapsulation = match arguments.packet.tx_ip {
        Some((source, _)) if arguments.appliance.clear => Encapsulation::Clear { source },
        _ => Encapsulation::Esp,
    };
    let setting = FlowSetting {
        flows: flows(arguments),
        sas: arguments.appliance.sas,
        direction: direction(arguments, roles),
        encapsulation,
        transport,
        source_port,
        destination_port,
        sizes: sizes(arguments),
        looked_for: arguments.packet.forward_mode == ForwardMode::Flowgen,
    };
    let numbers = |spi| appliance.map(|appliance| appliance.numbers(spi)).unwrap_or_default();
    Ok(World::new(config, &ports, &setting, numbers)?)
}

fn direction(arguments: &Arguments, roles: &[Role]) -> Option<world::Direction> {
    if flows(arguments) == 0 {
        return None;
    }
    Some(match (arguments.appliance.direction, roles) {
        (Some(args::Direction::Up), _) => world::Direction::Up,
        (Some(args::Direction::Down), _) => world::Direction::Down,
        (Some(args::Direction::Both), _) => world::Direction::Both,
        (None, [Role::Targets]) => world::Direction::Down,
        (None, [_, _]) if !arguments.packet.reflect => world::Direction::Both,
        (None, _) => world::Direction::Up,
    })
}

/// How much to send.
pub(crate) fn load(arguments: &Arguments) -> Load {
    let (load, is_search) = (&arguments.load, arguments.search.search.is_some());
    Load {
        rate_pps: load.pps,
        count: load.count,
        duration: load.duration.or(is_search.then_some(TRIAL)),
        burst: usize::from(load.burst),
        catch_up: load.catch_up,
        drain: load.drain.unwrap_or(if is_search { SEARCH_DRAIN } else { DRAIN }),
        bucket: arguments.output.timeline_interval,
    }
}

/// What to search for, if anything.
pub(crate) fn search(arguments: &Arguments) -> Option<SearchPlan> {
    let search = &arguments.search;
    let tolerance = match search.search? {
        Goal::Ndr => LossTolerance::NONE,
        Goal::Pdr => LossTolerance { ppm: search.loss_tolerance },
    };
    Some(SearchPlan {
        tolerance,
        rate_min_pps: search.rate_min,
        rate_max_pps: search.rate_max,
        resolution_permille: search.resolution,
        repeats: search.repeats,
        trials_max: search.trials_max,
    })
}
