//! The whole lab: namespaces, appliances, remote peers, targets and captures.

mod pair;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::agent::TargetAgent;
use crate::appliance::{Appliance, ApplianceConfig, IkeSettings, PeerSettings, StoreWay, TakeoverPolicy};
use crate::capture::{Capture, Direction, Exchange, PortSocket};
pub use pair::Roles;

use crate::charon::{
    Charon, CharonConfig, Child, ChildSa, Connection, DpdAction, IkeSa, RemoteAddress, Retransmit, Scale,
};
use crate::client::{self, BulkReport, ConnectionsReport, PingPong, UdpProbe};
use crate::clock::Stamp;
use crate::command;
use crate::error::{Context, LabError, Result};
use crate::etcd::{self, Etcd};
use crate::fleet::{Calls, Echoes, Fleet};
use crate::gateway::{self, CHILD, Gateway, GatewayKind};
use crate::netns::Namespace;
use crate::supervisor::Run;
use crate::target::Target;
use crate::topology::{self, AppliancePlan, Network, PeerPlan, Plan, TargetPlan, Topology, TunnelPlan};
use crate::wait;

/// From the call to an established tunnel.
/// Where appliances on two hosts meet.
const STORE_PORT: u16 = 7475;
/// Room for what listens for one other appliance.
const STORE_PORTS_APART: u16 = 100;
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// How long one connection of a check may take.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);

/// Frames that are replayed at once.
const REPLAY_BURST: usize = 10;
/// Between two such bursts.
const REPLAY_PAUSE: Duration = Duration::from_millis(2);

/// What a lab consists of.
#[derive(Clone)]
pub struct LabConfig {
    /// Which gateway.
    pub gateway: GatewayKind,
    /// Who is there.
    pub plan: Plan,
    /// What both ends agree on.
    pub ike: IkeSettings,
    /// After how much silence the gateway asks its peers whether they live.
    pub gateway_dpd_delay: Duration,
    /// Likewise the remote peers; `None`: they don't ask.
    pub peer_dpd_delay: Option<Duration>,
    /// What a successor does, where there are two appliances.
    pub takeover: TakeoverPolicy,
    /// By place: the versions of the store link that an appliance is told to speak, as one of another release would; by default all that it
    /// can.
    pub releases: BTreeMap<usize, Option<&'static str>>,
    /// How many SAs of each kind find room in an appliance's memory for the other one; `None`: as many as vipsecd thinks right.
    pub store_records: Option<u32>,
    /// How many inherited IKE SAs an appliance deals with in a second; likewise.
    pub takeover_rate: Option<u32>,
    /// How many moves of the first VIP are too many; likewise.
    pub moves_max: Option<u32>,
    /// After how long the first VIP goes back by itself to the appliance that is its first choice; `None`: it doesn't.
    pub give_back: Option<&'static str>,
    /// How many workers each appliance has.
    pub workers: u8,
    /// The appliances' crypto device, if one processes their SAs.
    pub crypto_device: Option<String>,
    /// How soon charons give up.
    pub retransmit: Retransmit,
    /// What remote peers do with the child SAs of a gateway that they find dead.
    pub peer_dpd_action: DpdAction,
    /// Where captures and logs go, to stay; without it they go away with the lab.
    pub out: Option<PathBuf>,
}

impl LabConfig {
    /// One remote peer, two targets, one appliance.
    pub fn new(gateway: GatewayKind) -> Self {
        Self {
            gateway,
            plan: Plan::new(1, 2, 1),
            ike: IkeSettings::default(),
            gateway_dpd_delay: Duration::from_secs(2),
            peer_dpd_delay: Some(Duration::from_secs(2)),
            takeover: TakeoverPolicy::default(),
            releases: BTreeMap::new(),
            store_records: None,
            takeover_rate: None,
            moves_max: None,
            give_back: None,
            workers: 1,
            crypto_device: None,
            retransmit: Retransmit::default(),
            peer_dpd_action: DpdAction::Clear,
            out: None,
        }
    }

    /// The same with two appliances of ours, and that many tunnels.
    pub fn pair(takeover: TakeoverPolicy, tunnels: u8) -> Self {
        let plan = if tunnels == 1 { Plan::new(1, 2, 2) } else { Plan::with_tunnels(tunnels, 2) };
        Self { plan, takeover, ..Self::new(GatewayKind::Vipsec) }
    }
}

/// A lab at work. What is dropped first comes first.
pub struct Lab {
    peers: Vec<Charon>,
    /// One per appliance of the plan.
    gateways: Vec<Gateway>,
    targets: Vec<Target>,
    /// One per target, where the plan has them.
    agents: Vec<TargetAgent>,
    /// At the switch's ports to the appliances' outside interfaces.
    pub outside: Capture,
    /// At the switch's ports to the appliances' inside interfaces.
    pub inside: Capture,
    /// Where it decides.
    etcd: Option<Etcd>,
    topology: Topology,
    folder: PathBuf,
    config: LabConfig,
    run: Run,
}

impl Lab {
    /// Builds the lab; `progress` hears of each step.
    pub fn start(config: LabConfig, progress: &dyn Fn(&str)) -> Result<Self> {
        command::check_requirements()?;
        if config.gateway == GatewayKind::Vipsec {
            command::project_program("vipsecd")?;
            command::project_program("vipsec")?;
        }
        let run = Run::begin()?;
        let folder = config.out.clone().unwrap_or_else(|| run.folder().to_owned());
        std::fs::create_dir_all(&folder).context(|| format!("making {}", folder.display()))?;
        let plan = &config.plan;
        progress("building the switch, the hosts and the links between them");
        let topology = Topology::build(&run, plan)?;
        let ports = |network: Network| plan.appliances.iter().map(|plan| network.port(plan)).collect::<Vec<_>>();
        let (outside, inside) = (ports(Network::Outside), ports(Network::Inside));
        let outside = Capture::start(&topology.switch, &outside, &folder.join("outside.pcap"))?;
        let inside = Capture::start(&topology.switch, &inside, &folder.join("inside.pcap"))?;
        progress("starting the targets");
        let vips = plan.vips();
        let targets = plan.targets.iter().zip(&topology.targets);
        let targets = targets.map(|(plan, host)| Target::start(host, &plan.name, &vips));
        let mut targets = targets.collect::<Result<Vec<_>>>()?;
        let agents = plan.targets.iter().zip(&topology.targets).filter(|_| plan.target_agents);
        let agents = agents.map(|(target, host)| TargetAgent::start(host, &agent_folder(&run, target)));
        let agents = agents.collect::<Result<_>>()?;
        progress(match (config.gateway, plan.appliances.len()) {
            (GatewayKind::Vipsec, 2..) => "starting vipsecd on all appliances",
            (GatewayKind::Vipsec, _) => "starting vipsecd",
            (GatewayKind::Strongswan, _) => "starting strongSwan as the gateway",
        });
        let etcd = topology.registry.as_ref().map(|host| Etcd::start(host, &run.folder().join("etcd"))).transpose()?;
        let hosts = plan.appliances.iter().zip(&topology.appliances);
        let mut gateways =
            hosts.map(|(plan, host)| launch_gateway(&config, plan, host, &run)).collect::<Result<Vec<_>>>()?;
        gateways.iter_mut().try_for_each(Gateway::await_answer)?;
        if plan.local_targets {
            for (plan, host) in plan.appliances.iter().zip(&topology.appliances) {
                topology::prepare_local_target(host)?;
                targets.push(Target::start(host, &plan.name, &vips)?);
            }
        }
        progress("starting strongSwan as the remote peer");
        let peers = plan.peers.iter().zip(&topology.peers);
        let peers = peers.map(|(peer, host)| start_peer(&config, peer, host, &run)).collect::<Result<_>>()?;
        Ok(Self { peers, gateways, targets, agents, outside, inside, etcd, topology, folder, config, run })
    }

    /// The lab's name, which all its namespaces begin with.
    pub fn name(&self) -> String {
        self.run.name_of("*")
    }

    /// Where captures and logs are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Copies the daemons' logs to where captures and logs are.
    pub fn save_logs(&self) -> Result<()> {
        let peers = self.peers.iter().zip(&self.config.plan.peers);
        let peers = peers.map(|(peer, plan)| (peer.log(), format!("{}.log", plan.name)));
        let gateways = self.gateways.iter().zip(&self.config.plan.appliances);
        let gateways = gateways.map(|(gateway, plan)| (gateway.log(), format!("{}.log", plan.name)));
        for (log, name) in peers.chain(gateways) {
            std::fs::copy(&log, self.folder.join(name)).context(|| format!("copying {}", log.display()))?;
        }
        Ok(())
    }

    /// The registry, if one decides.
    pub fn etcd(&self) -> Result<&Etcd> {
        self.etcd.as_ref().ok_or_else(no_appliance)
    }

    /// The first gateway.
    pub fn gateway(&self) -> Result<&Gateway> {
        self.gateways.first().ok_or_else(no_appliance)
    }

    /// The targets; the appliances' own hosts, where those are targets, come last.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// The agents on the targets, where the plan has them.
    pub fn agents(&self) -> &[TargetAgent] {
        &self.agents
    }

    /// Kills a target's agent.
    pub fn kill_agent(&mut self, place: usize) -> Result<()> {
        self.agents.get_mut(place).ok_or_else(no_agent)?.kill()
    }

    /// Starts one that was killed, with what it left on disk.
    pub fn restart_agent(&mut self, place: usize) -> Result<()> {
        let (plan, host) = (self.config.plan.targets.get(place), self.topology.targets.get(place));
        let (plan, host) = plan.zip(host).ok_or_else(no_agent)?;
        let agent = TargetAgent::start(host, &agent_folder(&self.run, plan))?;
        *self.agents.get_mut(place).ok_or_else(no_agent)? = agent;
        Ok(())
    }

    /// The first remote peer's charon.
    pub fn peer(&self) -> Result<&Charon> {
        self.peers.first().ok_or_else(no_peer)
    }

    /// The first remote peer's namespace: where the clients are.
    pub fn client_host(&self) -> Result<&Namespace> {
        self.topology.peers.first().ok_or_else(no_peer)
    }

    /// The tunnels of the first remote peer.
    pub fn tunnels(&self) -> Result<&[TunnelPlan]> {
        self.config.plan.peers.first().map(|peer| peer.tunnels.as_slice()).ok_or_else(no_peer)
    }

    /// The first of them.
    pub fn tunnel(&self) -> Result<&TunnelPlan> {
        self.tunnels()?.first().ok_or_else(no_peer)
    }

    /// The name of its connection.
    pub fn connection(&self) -> Result<&str> {
        Ok(&self.tunnel()?.connection)
    }

    /// Kills the first remote peer without a goodbye, and starts it anew, with no memory of its SAs.
    pub fn restart_peer(&mut self, dpd_delay: Option<Duration>) -> Result<()> {
        self.config.peer_dpd_delay = dpd_delay;
        let plan = self.config.plan.peers.first().ok_or_else(no_peer)?;
        let host = self.topology.peers.first().ok_or_else(no_peer)?;
        let peer = self.peers.first_mut().ok_or_else(no_peer)?;
        peer.kill()?;
        *peer = start_peer(&self.config, plan, host, &self.run)?;
        Ok(())
    }

    /// Lets the first remote peer call. Returns how long the handshake took on the wire: from the IKE_SA_INIT request to the
    /// IKE_AUTH response (RFC 7296 §1.2).
    pub fn bring_up(&self) -> Result<Duration> {
        self.bring_up_tunnel(self.tunnel()?)
    }

    /// The same for another of its tunnels.
    pub fn bring_up_tunnel(&self, tunnel: &TunnelPlan) -> Result<Duration> {
        let begin = Stamp::now();
        self.peer()?.initiate(&tunnel.connection, CHILD, HANDSHAKE_LIMIT)?;
        let last = |exchange, direction, response| self.outside.ike(begin, exchange, direction, response);
        wait::until("the handshake to show in the capture", HANDSHAKE_LIMIT, || {
            let request = last(Exchange::SaInit, Direction::ToHost, false).first().map(|frame| frame.stamp);
            let response = last(Exchange::Auth, Direction::FromHost, true).last().map(|frame| frame.stamp);
            Ok(request.zip(response).map(|(request, response)| response.since(request)))
        })
    }

    /// The first remote peer's only established IKE SA.
    pub fn ike_sa(&self) -> Result<Option<IkeSa>> {
        let mut sas = self.peer()?.sas()?;
        Ok(if sas.len() == 1 { sas.pop().filter(|sa| sa.state == "ESTABLISHED") } else { None })
    }

    /// The first remote peer's only installed child SA.
    pub fn child_sa(&self) -> Result<Option<ChildSa>> {
        let children = self.peer()?.sas()?.into_iter().flat_map(|sa| sa.children);
        let mut installed: Vec<_> = children.filter(|child| child.state == "INSTALLED").collect();
        Ok(if installed.len() == 1 { installed.pop() } else { None })
    }

    /// Lets initiators call, and stay; the plan has to have some.
    pub fn start_fleet(&self, calls: Calls, echoes: Echoes) -> Result<Fleet> {
        let (Some(plan), Some(host)) = (&self.config.plan.fleet, &self.topology.fleet) else { return Err(no_peer()) };
        plan.start(host, self.run.folder(), &self.config.ike, calls, echoes)
    }

    /// Kills a gateway that is strongSwan, and starts it anew, with no memory of its SAs.
    pub fn restart_charon_gateway(&mut self) -> Result<()> {
        let (Some(Gateway::Strongswan(charon)), Some(plan), Some(host)) =
            (self.gateways.first_mut(), self.config.plan.appliances.first(), self.topology.appliances.first())
        else {
            return Err(no_appliance());
        };
        charon.kill()?;
        *charon = launch_charon_gateway(&self.config, host, &self.run.folder().join(&plan.name))?;
        Ok(())
    }

    /// Sends a frame to an appliance's outside interface, as if it came from the outside network.
    pub fn inject_outside(&self, appliance: usize, frame: &[u8]) -> Result<()> {
        let plan = self.config.plan.appliances.get(appliance).ok_or_else(no_appliance)?;
        let port = Network::Outside.port(plan);
        self.topology.switch.run(|| PortSocket::open(&port)?.inject(frame))
    }

    /// Cuts or mends an appliance's link to a network.
    pub fn set_link(&self, appliance: usize, network: Network, up: bool) -> Result<()> {
        let plan = self.config.plan.appliances.get(appliance).ok_or_else(no_appliance)?;
        let state = if up { "up" } else { "down" };
        self.topology.switch.ip(&[format!("link set {} {state}", network.port(plan))])
    }

    /// Lets what others send reach an appliance on a network, or not: what it sends itself reaches them all the same.
    pub fn set_hearing(&self, appliance: usize, network: Network, hears: bool) -> Result<()> {
        let plan = self.config.plan.appliances.get(appliance).ok_or_else(no_appliance)?;
        let port = network.port(plan);
        // A queue for nothing drops all that the switch would send; it says so to nobody.
        let line = if hears { format!("del dev {port} root") } else { format!("add dev {port} root pfifo limit 0") };
        let mut tc = command::command("tc")?;
        tc.arg("qdisc").args(line.split(' '));
        self.topology.switch.command(tc).map(drop)
    }

    /// Lets the appliances hear each other on a network, or not: everybody else is heard and hears them all the same.
    pub fn set_earshot(&self, network: Network, hear: bool) -> Result<()> {
        let state = if hear { "off" } else { "on" };
        let port = |plan| format!("link set {} type bridge_slave isolated {state}", network.port(plan));
        self.topology.switch.ip(&self.config.plan.appliances.iter().map(port).collect::<Vec<_>>())
    }

    /// Every remote peer with its host and its tunnels.
    pub fn branches(&self) -> impl Iterator<Item = Branch<'_>> {
        let peers = self.peers.iter().zip(&self.topology.peers).zip(&self.config.plan.peers);
        peers.map(|((charon, host), plan)| Branch { charon, host, tunnels: &plan.tunnels })
    }

    /// Where the first remote peer is on the outside network, for [`replay`].
    pub fn attacker(&self) -> Result<PortSocket> {
        self.client_host()?.run(|| PortSocket::sender("out0"))
    }

    /// ESP packets that the first remote peer lost by itself: under bulk traffic charon fetches them too slowly for its socket's
    /// buffer. A loss that a probe finds while this counts isn't the gateway's, so probe and bulk transfer are run apart.
    pub fn peer_overflows(&self) -> Result<u64> {
        self.client_host()?.udp_overflows()
    }

    /// Short TCP connections through the tunnel.
    pub fn connections(&self, total: u32, concurrency: u32) -> Result<ConnectionsReport> {
        client::connections(self.client_host()?, self.tunnel()?.vip, total, concurrency, CONNECTION_LIMIT)
    }

    /// A bulk transfer from a target.
    pub fn download(&self, bytes: u64, limit: Duration) -> Result<BulkReport> {
        let vip = self.tunnel()?.vip;
        self.client_host()?.run(|| client::download(vip, bytes, limit))
    }

    /// A bulk transfer to a target.
    pub fn upload(&self, bytes: u64, limit: Duration) -> Result<BulkReport> {
        let vip = self.tunnel()?.vip;
        self.client_host()?.run(|| client::upload(vip, bytes, limit))
    }

    /// Numbered datagrams each way, until stopped.
    pub fn start_probe(&self, interval: Duration) -> Result<UdpProbe> {
        UdpProbe::start(self.client_host()?, self.tunnel()?.vip, interval)
    }

    /// A busy long-lived connection, until stopped. `pause` is between an answer and the next request.
    pub fn start_pingpong(&self, pause: Duration) -> Result<PingPong> {
        PingPong::start(self.client_host()?, self.tunnel()?.vip, pause)
    }

    /// The same through another tunnel.
    pub fn start_pingpong_through(&self, tunnel: &TunnelPlan, pause: Duration) -> Result<PingPong> {
        PingPong::start(self.client_host()?, tunnel.vip, pause)
    }

    /// One UDP datagram there and back.
    pub fn echo(&self, limit: Duration) -> Result<Duration> {
        self.echo_through(self.tunnel()?, limit)
    }

    /// The same through another tunnel.
    pub fn echo_through(&self, tunnel: &TunnelPlan, limit: Duration) -> Result<Duration> {
        client::echo(self.client_host()?, tunnel.inner, tunnel.vip, limit)
    }
}

/// A remote peer at work.
#[derive(Clone, Copy)]
pub struct Branch<'a> {
    /// Its charon.
    pub charon: &'a Charon,
    /// Where it runs, and where its clients are.
    pub host: &'a Namespace,
    /// Its tunnels.
    pub tunnels: &'a [TunnelPlan],
}

/// Sends frames again, in small bursts.
pub fn replay(attacker: &PortSocket, frames: &[Vec<u8>]) -> Result<()> {
    for burst in frames.chunks(REPLAY_BURST) {
        burst.iter().try_for_each(|frame| attacker.inject(frame))?;
        std::thread::sleep(REPLAY_PAUSE);
    }
    Ok(())
}

fn no_peer() -> LabError {
    LabError::Expectation { what: "a lab with a remote peer".to_owned(), found: "its plan has none".to_owned() }
}

fn no_agent() -> LabError {
    LabError::Expectation { what: "a lab with such an agent".to_owned(), found: "its plan has none".to_owned() }
}

fn no_appliance() -> LabError {
    LabError::Expectation { what: "a lab with such an appliance".to_owned(), found: "its plan has none".to_owned() }
}

fn agent_folder(run: &Run, target: &TargetPlan) -> PathBuf {
    run.folder().join(format!("{}-agent", target.name))
}

/// Starts a gateway. It may not answer yet.
fn launch_gateway(config: &LabConfig, plan: &AppliancePlan, host: &Namespace, run: &Run) -> Result<Gateway> {
    let folder = run.folder().join(&plan.name);
    match config.gateway {
        GatewayKind::Vipsec => Ok(Gateway::Vipsec(launch_appliance(config, plan, host, run)?)),
        GatewayKind::Strongswan => {
            gateway::prepare_for_strongswan(host, &config.plan)?;
            Ok(Gateway::Strongswan(launch_charon_gateway(config, host, &folder)?))
        }
    }
}

fn launch_charon_gateway(config: &LabConfig, host: &Namespace, folder: &Path) -> Result<Charon> {
    let settings = gateway::strongswan_config(&config.plan, &config.ike, config.gateway_dpd_delay, config.retransmit);
    Charon::start(host, folder, &settings)
}

fn launch_appliance(config: &LabConfig, plan: &AppliancePlan, host: &Namespace, run: &Run) -> Result<Appliance> {
    let prefix = run.name_of(&plan.name);
    let mut settings = ApplianceConfig::new(&config.plan, plan, &config.ike, config.gateway_dpd_delay, prefix)
        .with_workers(config.workers)
        .with_give_back(config.give_back)
        .with_crypto_device(config.crypto_device.clone());
    let place = config.plan.appliances.iter().position(|other| other.id == plan.id);
    settings.link_versions = place.and_then(|place| config.releases.get(&place).copied().flatten());
    if let Some(fleet) = &config.plan.fleet {
        settings = settings.with_fleet(fleet);
    }
    let others = config.plan.appliances.iter().filter(|other| other.id != plan.id);
    let peers: Vec<_> = others.map(|other| peer_settings(config, plan, other, run)).collect();
    if let (Some(first), false) = (config.plan.appliances.first(), peers.is_empty()) {
        settings = settings.with_peers(peers, first.id);
    }
    if config.plan.registry {
        settings = settings.with_etcd(etcd::endpoint());
    }
    Appliance::launch(host, &run.folder().join(&plan.name), &settings)
}

fn peer_settings(config: &LabConfig, plan: &AppliancePlan, other: &AppliancePlan, run: &Run) -> PeerSettings {
    // What listens for one appliance doesn't listen for another.
    let end = |own: &AppliancePlan, other: &AppliancePlan| {
        format!("{}:{}", own.store, STORE_PORT + STORE_PORTS_APART * u16::from(other.id))
    };
    PeerSettings {
        id: other.id,
        name: other.name.clone(),
        store: if config.plan.store_network {
            StoreWay::Network { store_listen: end(plan, other), store_connect: end(other, plan) }
        } else {
            StoreWay::Socket { store_socket: run.folder().join("pair.sock") }
        },
        secret: "a pairing secret of the lab and nowhere else".to_owned(),
        takeover: config.takeover,
        store_records: config.store_records,
        takeover_rate: config.takeover_rate,
        moves_max: config.moves_max,
    }
}

fn start_peer(config: &LabConfig, peer: &PeerPlan, host: &Namespace, run: &Run) -> Result<Charon> {
    let connection = |tunnel: &TunnelPlan| Connection {
        name: tunnel.connection.clone(),
        local_address: peer.address_for(tunnel.vip),
        remote_address: RemoteAddress::Address(tunnel.vip),
        local_id: tunnel.identity.clone(),
        remote_id: config.ike.gateway_id.clone(),
        secret: config.ike.secret.clone(),
        proposals: config.ike.proposals.clone(),
        dpd_delay: config.peer_dpd_delay,
        rekey_time: None,
        children: vec![Child {
            name: CHILD.to_owned(),
            local_ts: vec![tunnel.inner_network.clone()],
            remote_ts: vec![tunnel.vip_prefix()],
            esp_proposals: config.ike.esp_proposals.clone(),
            rekey_time: None,
            dpd_action: config.peer_dpd_action,
        }],
    };
    let connections = peer.tunnels.iter().map(connection).collect();
    let settings = CharonConfig { connections, retransmit: config.retransmit, scale: Scale::Few };
    Charon::start(host, &run.folder().join(&peer.name), &settings)
}
