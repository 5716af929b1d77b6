//! The world around an appliance, from the appliance's own configuration: remote peers outside, targets inside.
//!
//! ```text
//!   remote peers ── port that plays them ══ appliance ══ port that plays them ── targets
//!                     up:   seal ──►  VIP ──► open ──► count or reflect
//!                     down: open ◄──  VIP ◄── seal ◄── send
//! ```

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

use thiserror::Error;
use vipsec_control::config::{Config, Service, ServiceProtocol, Vip};
use vipsec_dataplane::api::Side;
use vipsec_esp::engine::EngineKind;
use vipsec_esp::sa::{ChildSa, Spi};
use vipsec_wire::ethernet::MacAddr;
use vipsec_wire::ip::{Address, protocol};

use crate::link::{LinkPlan, NextHop};
use crate::packet::{Transport, Tuple};
use crate::size::Sizes;
use crate::stream::{FlowPlan, Source, StreamPlan};
use crate::tunnel::{Numbers, Tunnel, TunnelError, Tunnels};

/// The destination port of flows to a service on any port: discard (RFC 863), as testpmd's default is.
const DISCARD_PORT: u16 = 9;

/// Whom a port plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// All remote peers, outside.
    Peers,
    /// All targets, inside.
    Targets,
}

/// Which way packets are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From remote peers to targets.
    Up,
    /// From targets to remote peers.
    Down,
    /// Both ways at once.
    Both,
}

/// How packets travel between remote peers and the appliance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encapsulation {
    /// Through the child SAs.
    Esp,
    /// In clear, from addresses of these on.
    Clear {
        /// The first source address.
        source: IpAddr,
    },
}

/// Where the packets of a port go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortSetting {
    /// Whom it plays.
    pub role: Role,
    /// The station that all of its packets go to; `None`: ask who has the next hop's address.
    pub eth_peer: Option<MacAddr>,
}

/// What the flows shall be.
#[derive(Debug, Clone)]
pub struct FlowSetting {
    /// How many.
    pub flows: usize,
    /// Over how many child SAs; `None`: all.
    pub sas: Option<usize>,
    /// Which way; `None`: nothing is sent.
    pub direction: Option<Direction>,
    /// Sealed or in clear.
    pub encapsulation: Encapsulation,
    /// The transport; `None`: that of the VIP's first service.
    pub transport: Option<Transport>,
    /// The first source port, on the remote side.
    pub source_port: u16,
    /// The service's port; `None`: that of the VIP's first service.
    pub destination_port: Option<u16>,
    /// Frame lengths.
    pub sizes: Sizes,
    /// Does somebody look for what was sent?
    pub looked_for: bool,
}

/// What the flows without an appliance's configuration shall be.
#[derive(Debug, Clone)]
pub struct PlainSetting {
    /// First source address, and destination address.
    pub tx_ip: (IpAddr, IpAddr),
    /// UDP or TCP.
    pub transport: Transport,
    /// First source port, and destination port.
    pub ports: (u16, u16),
    /// How many flows; 0: nothing is sent.
    pub flows: usize,
    /// Frame lengths.
    pub sizes: Sizes,
    /// By port: the station that all of its packets go to; `None`: ask who has the destination's address.
    pub eth_peers: Vec<Option<MacAddr>>,
    /// Does somebody look for what was sent?
    pub looked_for: bool,
}

/// Links, flows and tunnels around an appliance.
#[derive(Debug)]
pub struct World {
    /// By port.
    pub links: Vec<LinkPlan>,
    /// What is sent.
    pub streams: Vec<StreamPlan>,
    /// The peers' ends of the child SAs.
    pub tunnels: Tunnels,
}

/// The configuration has no such world.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WorldError {
    /// No child SAs.
    #[error(
        "the configuration has no static child SAs: [test] keys_file names a file of them; or send in clear (--clear)"
    )]
    NoChildSas,
    /// No VIP.
    #[error("the configuration has no VIP")]
    NoVip,
    /// More SAs wanted than there are.
    #[error("--sas={wanted} of {found} child SAs")]
    TooFewSas {
        /// Wanted.
        wanted: usize,
        /// There.
        found: usize,
    },
    /// A direction that starts at nobody played.
    #[error("packets {direction} start at the {starts}, and no port plays them (--play)")]
    NobodySends {
        /// `up` or `down`.
        direction: &'static str,
        /// `remote peers` or `targets`.
        starts: &'static str,
    },
    /// The remote side has too few addresses and ports.
    #[error("{whose} has too few addresses for {flows} flows: at most {available} differ")]
    TooFewAddresses {
        /// The SA, or the source range.
        whose: String,
        /// Wanted of it.
        flows: usize,
        /// Possible.
        available: u128,
    },
    /// A child SA that can't be played.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// No remote selector of the VIP's family.
    #[error("child SA {0}: no remote_ts is of the family of its VIP {1}")]
    NoRemoteAddress(Spi, IpAddr),
    /// No inside gateway to answer through.
    #[error("the VIP {0} has no inside gateway that targets could answer through")]
    NoGateway(String),
}

impl World {
    /// The world around the appliance with this configuration. `numbers` says of each child SA how far it was used before.
    pub fn new(
        config: &Config,
        ports: &[PortSetting],
        setting: &FlowSetting,
        numbers: impl Fn(Spi) -> Numbers,
    ) -> Result<Self, WorldError> {
        let children = match setting.encapsulation {
            Encapsulation::Esp => chosen_children(config, setting.sas)?,
            Encapsulation::Clear { .. } => &[],
        };
        let engine = EngineKind::auto();
        let tunnels = children.iter().map(|child| Tunnel::mirror(child, engine, numbers(child.inbound.spi)));
        let mut world = Self {
            links: ports
                .iter()
                .map(|port| LinkPlan { addresses: addresses(config, children, port.role), next_hops: Vec::new() })
                .collect(),
            streams: Vec::new(),
            tunnels: Tunnels::new(tunnels.collect::<Result<_, _>>()?),
        };
        if let Encapsulation::Clear { source } = setting.encapsulation {
            let peers = world.links.iter_mut().zip(ports).filter(|(_, port)| port.role == Role::Peers);
            peers.for_each(|(link, _)| link.addresses.insert(0, source));
        }
        let Some(direction) = setting.direction else { return Ok(world) };
        let flows = remote_flows(config, children, setting)?;
        let port_of = |role| ports.iter().position(|port| port.role == role);
        let (peers, targets) = (port_of(Role::Peers), port_of(Role::Targets));
        if matches!(direction, Direction::Up | Direction::Both) {
            let tx_port = peers.ok_or(WorldError::NobodySends { direction: "up", starts: "remote peers" })?;
            let next_hop = |flow: &RemoteFlow| Ok(flow.vip.floating.address);
            let flows = world.join(tx_port, ports, &flows, next_hop, |flow| (flow.tuple, flow.tunnel))?;
            world.stream("up", tx_port, targets, flows, setting);
        }
        if matches!(direction, Direction::Down | Direction::Both) {
            let tx_port = targets.ok_or(WorldError::NobodySends { direction: "down", starts: "targets" })?;
            let next_hop = |flow: &RemoteFlow| {
                let gateway = flow.vip.gateways.first().map(|gateway| gateway.address);
                gateway.ok_or_else(|| WorldError::NoGateway(flow.vip.name.clone()))
            };
            let flows = world.join(tx_port, ports, &flows, next_hop, |flow| (flow.tuple.reversed(), None))?;
            world.stream("down", tx_port, peers, flows, setting);
        }
        Ok(world)
    }

    /// A world without an appliance's configuration, as testpmd knows it: one stream, from the first port to the last.
    pub fn plain(setting: &PlainSetting) -> Result<Self, WorldError> {
        let (source, destination) = setting.tx_ip;
        let rx_port = setting.eth_peers.len().saturating_sub(1);
        let mut links = vec![LinkPlan::default(); setting.eth_peers.len()];
        if let Some(link) = links.first_mut() {
            link.addresses.push(source);
        }
        // Where the packets arrive somebody answers for their address.
        if let Some(link) = links.get_mut(rx_port).filter(|_| rx_port > 0) {
            link.addresses.push(destination);
        }
        let mut world = Self { links, streams: Vec::new(), tunnels: Tunnels::default() };
        if setting.flows == 0 {
            return Ok(world);
        }
        let hop = setting.eth_peers.first().copied().flatten().map_or(NextHop::Address(destination), NextHop::Mac);
        let next_hop = world.links.first_mut().map_or(0, |link| link.next_hop(hop));
        let flows = Flows {
            whose: source.to_string(),
            addresses: source..=last_of_family(source),
            source_port: setting.ports.0,
            destination: (destination, setting.ports.1),
            transport: setting.transport,
            flows: setting.flows,
        };
        let plan = |number| Ok(FlowPlan { tuple: flows.tuple(number)?, tunnel: None, next_hop });
        let flows = (0..setting.flows).map(plan).collect::<Result<_, WorldError>>()?;
        world.streams.push(StreamPlan {
            name: "tx".to_owned(),
            tx_port: 0,
            rx_port: setting.looked_for.then_some(rx_port),
            source: Source::Flows { flows, sizes: setting.sizes.clone() },
        });
        Ok(world)
    }

    /// A world in which a capture leaves by the first port.
    pub fn replay(eth_peers: &[Option<MacAddr>], rewrite_macs: bool) -> Self {
        let mut links = vec![LinkPlan::default(); eth_peers.len()];
        let peer = eth_peers.first().copied().flatten().unwrap_or(MacAddr::BROADCAST);
        let next_hop = links.first_mut().filter(|_| rewrite_macs).map(|link| link.next_hop(NextHop::Mac(peer)));
        let source = Source::Capture { next_hop };
        let stream = StreamPlan { name: "replay".to_owned(), tx_port: 0, rx_port: None, source };
        Self { links, streams: vec![stream], tunnels: Tunnels::default() }
    }

    /// Gives flows their next hops on a port.
    fn join(
        &mut self,
        port: usize,
        settings: &[PortSetting],
        flows: &[RemoteFlow],
        next_hop: impl Fn(&RemoteFlow) -> Result<IpAddr, WorldError>,
        tuple_and_tunnel: impl Fn(&RemoteFlow) -> (Tuple, Option<usize>),
    ) -> Result<Vec<FlowPlan>, WorldError> {
        let eth_peer = settings.get(port).and_then(|setting| setting.eth_peer);
        let mut plans = Vec::with_capacity(flows.len());
        for flow in flows {
            let hop = match (eth_peer, next_hop(flow)?) {
                (Some(mac), _) => NextHop::Mac(mac),
                (None, address) => NextHop::Address(address),
            };
            let next_hop = self.links.get_mut(port).map_or(0, |link| link.next_hop(hop));
            let (tuple, tunnel) = tuple_and_tunnel(flow);
            plans.push(FlowPlan { tuple, tunnel, next_hop });
        }
        Ok(plans)
    }

    fn stream(&mut self, name: &str, tx_port: usize, far: Option<usize>, flows: Vec<FlowPlan>, setting: &FlowSetting) {
        self.streams.push(StreamPlan {
            name: name.to_owned(),
            tx_port,
            // Who plays one side only expects its packets back.
            rx_port: setting.looked_for.then_some(far.unwrap_or(tx_port)),
            source: Source::Flows { flows, sizes: setting.sizes.clone() },
        });
    }
}

/// A flow, as the remote peer sees it.
struct RemoteFlow<'a> {
    vip: &'a Vip,
    tuple: Tuple,
    tunnel: Option<usize>,
}

fn chosen_children(config: &Config, sas: Option<usize>) -> Result<&[ChildSa], WorldError> {
    let all = config.static_children.as_slice();
    if all.is_empty() {
        return Err(WorldError::NoChildSas);
    }
    let wanted = sas.unwrap_or(all.len());
    all.get(..wanted).filter(|chosen| !chosen.is_empty()).ok_or(WorldError::TooFewSas { wanted, found: all.len() })
}

/// Whose ARP requests a port answers.
fn addresses(config: &Config, children: &[ChildSa], role: Role) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = match role {
        Role::Targets => config.targets.iter().map(|target| target.address).collect(),
        Role::Peers => {
            let outside = || config.ports.iter().filter(|port| port.side == Side::Outside);
            let is_on_link =
                |address: IpAddr| outside().any(|port| port.addresses.iter().any(|(_, net)| net.contains(address)));
            let remotes = children.iter().map(|child| child.tunnel.remote).filter(|&remote| is_on_link(remote));
            // The others are behind routers, which are played, too.
            let routers = config.routes.iter().filter(|route| is_on_link(route.via)).map(|route| route.via);
            remotes.chain(routers).collect()
        }
    };
    addresses.sort();
    addresses.dedup();
    addresses
}

fn remote_flows<'a>(
    config: &'a Config,
    children: &[ChildSa],
    setting: &FlowSetting,
) -> Result<Vec<RemoteFlow<'a>>, WorldError> {
    match setting.encapsulation {
        Encapsulation::Esp => {
            let sources: Vec<_> =
                children.iter().map(|child| tunnel_source(config, child, setting)).collect::<Result<_, _>>()?;
            let flows = (0..setting.flows).map(|flow| {
                let tunnel = flow % sources.len().max(1);
                let (vip, source) = sources.get(tunnel).ok_or(WorldError::NoChildSas)?;
                let tuple = source.tuple(flow / sources.len())?;
                Ok(RemoteFlow { vip, tuple, tunnel: Some(tunnel) })
            });
            flows.collect()
        }
        Encapsulation::Clear { source } => {
            let vip = config.vips.first().ok_or(WorldError::NoVip)?;
            let (transport, port) = service(config, 0, setting);
            let flows = Flows {
                whose: format!("{source}"),
                addresses: source..=last_of_family(source),
                source_port: setting.source_port,
                destination: (vip.floating.address, port),
                transport,
                flows: setting.flows,
            };
            let tuple = |flow| Ok(RemoteFlow { vip, tuple: flows.tuple(flow)?, tunnel: None });
            (0..setting.flows).map(tuple).collect()
        }
    }
}

/// Transport and port of a VIP's service.
fn service(config: &Config, vip: u16, setting: &FlowSetting) -> (Transport, u16) {
    let transport_of = |service: &Service| match service.protocol {
        ServiceProtocol::Tcp => Transport::Tcp,
        ServiceProtocol::Udp | ServiceProtocol::Any => Transport::Udp,
    };
    let fits = |service: &&Service| {
        service.vip == vip
            && setting
                .transport
                .is_none_or(|transport| service.protocol == ServiceProtocol::Any || transport_of(service) == transport)
    };
    let first = config.services.iter().find(fits);
    let transport = setting.transport.or(first.map(transport_of)).unwrap_or(Transport::Udp);
    let port = setting.destination_port.or(first.and_then(|service| service.port)).unwrap_or(DISCARD_PORT);
    (transport, port)
}

/// The flows from a range of addresses to one destination.
#[derive(Debug, Clone)]
pub struct Flows {
    /// Whose they are, for messages.
    pub whose: String,
    /// Source addresses.
    pub addresses: RangeInclusive<IpAddr>,
    /// The first source port.
    pub source_port: u16,
    /// Destination address and port.
    pub destination: (IpAddr, u16),
    /// UDP or TCP.
    pub transport: Transport,
    /// How many there shall be.
    pub flows: usize,
}

impl Flows {
    /// The flow with that number: first the port varies, then the address.
    pub fn tuple(&self, number: usize) -> Result<Tuple, WorldError> {
        let ports = u128::from(u16::MAX - self.source_port) + 1;
        let number = number as u128;
        let available = bits(*self.addresses.end())
            .saturating_sub(bits(*self.addresses.start()))
            .saturating_add(1)
            .saturating_mul(ports);
        if number >= available {
            return Err(WorldError::TooFewAddresses { whose: self.whose.clone(), flows: self.flows, available });
        }
        let port = u16::try_from(number % ports).unwrap_or(0) + self.source_port;
        let source = plus(*self.addresses.start(), number / ports);
        Ok(Tuple { transport: self.transport, source: (source, port), destination: self.destination })
    }
}

fn tunnel_source<'a>(
    config: &'a Config,
    child: &ChildSa,
    setting: &FlowSetting,
) -> Result<(&'a Vip, Flows), WorldError> {
    let spi = child.inbound.spi;
    let vip = config.vips.get(usize::from(child.vip)).ok_or(WorldError::NoVip)?;
    let address = vip.floating.address;
    let (transport, port) = service(config, child.vip, setting);
    let number = match transport {
        Transport::Udp => protocol::UDP,
        Transport::Tcp => protocol::TCP,
    };
    let fits = |selector: &&vipsec_esp::sa::Selector| {
        selector.addresses.start().is_ipv4() == address.is_ipv4()
            && selector.protocol.is_none_or(|protocol| protocol == number)
    };
    let remote = child.remote_selectors.iter().find(fits).ok_or(WorldError::NoRemoteAddress(spi, address))?;
    // The first address of a network is no host's.
    let skip = u128::from(remote.addresses.start() != remote.addresses.end());
    let first = plus(*remote.addresses.start(), skip);
    let flows = Flows {
        whose: format!("child SA {spi}"),
        addresses: first..=*remote.addresses.end(),
        source_port: setting.source_port,
        destination: (address, port),
        transport,
        flows: setting.flows,
    };
    Ok((vip, flows))
}

/// The last address of a family.
fn last_of_family(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::BROADCAST),
        IpAddr::V6(_) => IpAddr::V6([u16::MAX; 8].into()),
    }
}

/// An address as a number.
fn bits(address: IpAddr) -> u128 {
    Address::from(address).to_bits()
}

/// The address `n` further; the caller knows that there is one.
fn plus(address: IpAddr, n: u128) -> IpAddr {
    Address::from_octets(bits(address).saturating_add(n).to_be_bytes()).to_ip()
}
