//! A checked configuration: what holds here needs no second check.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use vipsec_dataplane::api::{PolicyAction, PortId, Side};
use vipsec_distribute::connection;
use vipsec_distribute::service::{Accepts, Forwarding, Method};
use vipsec_esp::engine::EngineKind;
use vipsec_esp::sa::{Algorithm, ChildSa, DfPolicy, DscpPolicy, EcnPolicy, Lifetime, Processing, TunnelPolicy};
use vipsec_ike::{ConnectionPolicy, Encryption, Limits, Retransmission, Secret, TrafficSelector};
use vipsec_store::fabric::Provider;
use vipsec_takeover::moves::MoveLimits;
use vipsec_takeover::timing::Timing;
use vipsec_wire::ethernet::MacAddr;
use vipsec_wire::ip::Prefix;
use vipsec_wire::iv::ApplianceId;

use super::memory::PacketMemory;

/// Everything an appliance is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[appliance]`
    pub appliance: Appliance,
    /// `[eal]`
    pub eal: Eal,
    /// `[target_agents]`
    pub target_agents: Option<TargetAgents>,
    /// `[crypto_device]`
    pub crypto_device: Option<CryptoDevice>,
    /// `[ike]`
    pub ike: Ike,
    /// `[[port]]`, indexed by [`PortId`]; at least one.
    pub ports: Vec<Port>,
    /// `[[route]]`
    pub routes: Vec<Route>,
    /// `[[vip]]`; the index is [`ChildSa::vip`].
    pub vips: Vec<Vip>,
    /// Which of them move together; each is in one.
    pub groups: Vec<VipGroup>,
    /// `[[target]]`
    pub targets: Vec<Target>,
    /// `[[service]]`
    pub services: Vec<Service>,
    /// `[[policy]]`; the first that matches decides.
    pub policies: Vec<Policy>,
    /// `[connection_table]`
    pub connection_table: connection::Limits,
    /// `[[connection]]`; their `vip` is an index into `vips`, their order is that of preference.
    pub connections: Vec<Arc<ConnectionPolicy>>,
    /// What of a `[[connection.child]]` isn't negotiated, by connection and child.
    pub child_options: BTreeMap<String, BTreeMap<String, ChildOptions>>,
    /// `[peer]` or `[[peer]]`: the other appliances. What concerns all of them (policy, times, secret) is the same in each.
    pub peers: Vec<Peer>,
    /// `[etcd]`: decides over ownership; always, where there is more than one peer.
    pub etcd: Option<Etcd>,
    /// Static child SAs of a test configuration.
    pub static_children: Vec<ChildSa>,
}

impl Config {
    /// What holds for all other appliances; `None`: there is none.
    pub fn shared(&self) -> Option<&Peer> {
        self.peers.first()
    }

    /// How packet memory is divided.
    pub fn packet_memory(&self) -> PacketMemory {
        PacketMemory::of(self.eal.memory_mib, self.appliance.workers, self.ports.len())
    }

    /// What an operator may call another appliance.
    pub fn peer_named(&self, name: &str) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.name.as_deref() == Some(name) || peer.id.to_string() == name)
    }

    /// An appliance of the group, this one included, by name or id.
    pub fn appliance_named(&self, name: &str) -> Option<ApplianceId> {
        let me = &self.appliance;
        let is_me = me.name == name || me.id.to_string() == name;
        if is_me { Some(me.id) } else { self.peer_named(name).map(|peer| peer.id) }
    }

    /// What the configuration calls an appliance, if anything.
    pub fn name_of(&self, id: ApplianceId) -> Option<&str> {
        let peer = || self.peers.iter().find(|peer| peer.id == id).and_then(|peer| peer.name.as_deref());
        if id == self.appliance.id { Some(&self.appliance.name) } else { peer() }
    }

    /// An appliance for people: its name, if it has one, and its id.
    pub fn appliance_name(&self, id: ApplianceId) -> String {
        self.name_of(id).map_or_else(|| format!("appliance {id}"), |name| format!("{name} ({id})"))
    }

    /// What IKE may agree to, with so many workers.
    pub fn ike_config(&self, workers: usize) -> vipsec_ike::Config {
        vipsec_ike::Config {
            appliance: self.appliance.id,
            connections: self.connections.iter().map(|policy| self.with_lanes(policy, workers)).collect(),
            limits: self.ike.limits,
            packet_bytes_max: self.ike.packet_bytes_max,
            retransmission: self.ike.retransmission,
        }
    }

    /// A connection whose children have a lane for each worker, where the configuration wants that. How many those are is each
    /// appliance's own, so it isn't part of what two of a pair compare.
    fn with_lanes(&self, policy: &Arc<ConnectionPolicy>, workers: usize) -> Arc<ConnectionPolicy> {
        let lanes_max = u16::try_from(workers).unwrap_or(u16::MAX);
        let mut policy = Arc::clone(policy);
        if lanes_max > 1 {
            let connection = Arc::make_mut(&mut policy);
            for child in &mut connection.children {
                if self.child_options(&connection.name, &child.name).lanes == Lanes::PerWorker {
                    Arc::make_mut(child).lanes_max = lanes_max;
                }
            }
        }
        policy
    }

    /// The other appliance on whose host a local target is. Packets get there as to any target: by its address.
    pub fn host_elsewhere(&self, target: &Target) -> Option<ApplianceId> {
        target.host.filter(|host| *host != self.appliance.id)
    }

    /// Is a host on one of the inside networks that ports are on?
    pub fn is_inside(&self, address: IpAddr) -> bool {
        let inside = self.ports.iter().filter(|port| port.side == Side::Inside);
        inside.flat_map(|port| &port.addresses).any(|(_, prefix)| prefix.contains(address))
    }

    /// What a child SA is made with; the defaults where the configuration has no such child any more.
    pub fn child_options(&self, connection: &str, child: &str) -> ChildOptions {
        let default = ChildOptions { processing: self.appliance.processing, ..ChildOptions::DEFAULT };
        self.child_options.get(connection).and_then(|children| children.get(child)).copied().unwrap_or(default)
    }

    /// The first child SA that may ask the crypto device for an algorithm that is not among `supported`: what it is called, and the
    /// algorithm.
    pub fn unsupported_by_device(&self, supported: &[Algorithm]) -> Option<(String, Algorithm)> {
        let lacks = |algorithm: &Algorithm| !supported.contains(algorithm);
        let negotiated = self.connections.iter().flat_map(|connection| {
            let children = connection.children.iter().map(move |child| (connection, child));
            children.filter(|(connection, child)| {
                self.child_options(&connection.name, &child.name).processing == Processing::Lookaside
            })
        });
        let mut negotiated = negotiated.flat_map(|(connection, child)| {
            let proposed = child.proposals.iter().flat_map(|proposal| proposal.encryptions());
            proposed.map(|proposed| {
                (format!("child {} of connection {}", child.name, connection.name), algorithm(*proposed))
            })
        });
        let fixed = self.static_children.iter().filter(|child| child.processing == Processing::Lookaside);
        let mut fixed = fixed.map(|child| (format!("static child {}", child.inbound.spi), child.inbound.algorithm));
        negotiated.find(|(_, algorithm)| lacks(algorithm)).or_else(|| fixed.find(|(_, algorithm)| lacks(algorithm)))
    }
}

/// `[ike]`: what holds for all connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ike {
    /// When an unanswered request is sent again, and after how many times the remote peer counts as dead.
    pub retransmission: Retransmission,
    /// Longest IP packet, in bytes, of a message that could go in fragments.
    pub packet_bytes_max: usize,
    /// `[ike.limits]`
    pub limits: Limits,
    /// The folder of the key log, if one was asked for.
    pub key_log: Option<PathBuf>,
}

impl Default for Ike {
    fn default() -> Self {
        Self {
            retransmission: Retransmission::default(),
            packet_bytes_max: vipsec_ike::PACKET_BYTES_MAX,
            limits: Limits::default(),
            key_log: None,
        }
    }
}

/// Who sets a child SA up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartAction {
    /// The remote peer, or an operator's order.
    #[default]
    None,
    /// We, and again when it goes.
    Start,
}

/// How many child SAs there are for the same traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lanes {
    /// One.
    #[default]
    One,
    /// One for each worker (RFC 9611), with a peer that agrees.
    PerWorker,
}

/// What of a child isn't negotiated: how workers treat its SAs, who sets it up, how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChildOptions {
    /// Who sets it up.
    pub start: StartAction,
    /// How often.
    pub lanes: Lanes,
    /// Anti-replay window, in packets: a multiple of 64.
    pub replay_window: u32,
    /// How much it carries.
    pub lifetime: Lifetime,
    /// How outer headers are made.
    pub outer: TunnelPolicy,
    /// By whom it is processed: each appliance's own matter.
    pub processing: Processing,
}

/// An algorithm of IKE's as a worker takes it.
pub fn algorithm(encryption: Encryption) -> Algorithm {
    match encryption {
        Encryption::Aes128Gcm => Algorithm::Aes128Gcm,
        Encryption::Aes256Gcm => Algorithm::Aes256Gcm,
        Encryption::ChaCha20Poly1305 => Algorithm::ChaCha20Poly1305,
    }
}

impl ChildOptions {
    /// What is taken where the configuration says nothing.
    pub const DEFAULT: Self = Self {
        start: StartAction::None,
        lanes: Lanes::One,
        replay_window: 1024,
        lifetime: Lifetime::NONE,
        outer: TunnelPolicy { dscp: DscpPolicy::Copy, df: DfPolicy::Clear, ecn: EcnPolicy::Normal },
        processing: Processing::Cpu,
    };
}

impl Default for ChildOptions {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What is this appliance's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appliance {
    /// Unique in its group.
    pub id: ApplianceId,
    /// For people.
    pub name: String,
    /// Where the control API listens. Default: `/run/vipsec/<name>.sock`.
    pub control_socket: PathBuf,
    /// What has to outlive the process. Default: `/var/lib/vipsec/<name>`.
    pub state_dir: PathBuf,
    /// How many workers there are.
    pub workers: usize,
    /// How workers wait for packets.
    pub polling: Polling,
    /// Which implementation seals and opens packets on the workers' cores.
    pub engine: EngineKind,
    /// By whom SAs are processed where they don't say so themselves.
    pub processing: Processing,
    /// How much is logged.
    pub log: LogLevel,
}

/// How workers wait for packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polling {
    /// Sleep when idle.
    Adaptive,
    /// Never sleep: lowest latency, one core each.
    Busy,
}

/// The least severe messages that are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Only errors.
    Error,
    /// And warnings.
    Warn,
    /// And what an operator wants to see.
    Info,
    /// And what a developer wants to see.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// As a filter directive.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// How DPDK's environment is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eal {
    /// Tells the DPDK processes of one machine apart. Default: `vipsec-<name>`.
    pub file_prefix: String,
    /// Memory for packets and tables, in MiB.
    pub memory_mib: u32,
    /// Where that memory comes from.
    pub hugepages: Hugepages,
}

/// A crypto device beside the workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CryptoDevice {
    /// DPDK's device string.
    pub device: String,
    /// Most packets in the device at a time, by worker.
    pub jobs_max: u16,
    /// Most child SAs whose keys the device has.
    pub sas_max: u32,
}

/// Are hugepages used?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hugepages {
    /// If there are any.
    Auto,
    /// No.
    Never,
    /// Fail without.
    Always,
}

/// A DPDK port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// For other tables to refer to.
    pub name: String,
    /// Its network.
    pub side: Side,
    /// DPDK's device string.
    pub device: String,
    /// `None`: what the device says.
    pub mac: Option<MacAddr>,
    /// Own addresses with their on-link prefixes; at least one, unless the port leads to the own host.
    pub addresses: Vec<(IpAddr, Prefix)>,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
}

/// A static route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub prefix: Prefix,
    /// Next hop, on-link at `port`.
    pub via: IpAddr,
    /// Port to leave by.
    pub port: PortId,
}

/// A virtual IP address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vip {
    /// For other tables to refer to.
    pub name: String,
    /// Address, MAC and outside port.
    pub floating: Floating,
    /// Inside gateways that move with it.
    pub gateways: Vec<Floating>,
    /// Index into [`Config::groups`].
    pub group: u16,
}

/// VIPs that move together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VipGroup {
    /// The VIPs' `group`, or the name of the only one.
    pub name: String,
    /// Indices into [`Config::vips`]; at least one.
    pub vips: Vec<u16>,
    /// The appliance that takes it first when nobody owns it: ours or the peer's, by default the one with the lower id.
    /// Without a peer it may be `None`.
    pub owner: Option<ApplianceId>,
    /// Who may take it over, best first: by default all others.
    pub backups: Vec<ApplianceId>,
    /// How long the copy of its `owner`, who came back, has to count before the group is given back to it; `None`: only the operator
    /// gives it back.
    pub give_back: Option<Duration>,
}

impl VipGroup {
    /// Everybody who may own it, best first.
    pub fn ranks(&self) -> Vec<ApplianceId> {
        self.owner.into_iter().chain(self.backups.iter().copied()).collect()
    }
}

/// An address that moves between appliances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floating {
    /// The address.
    pub address: IpAddr,
    /// Configured, or [derived](virtual_mac) from the address.
    pub mac: MacAddr,
    /// The port it lives on.
    pub port: PortId,
}

/// The virtual MAC address of an address whose table names none: the same on every appliance without an agreement between them.
///
/// IPv4: `02:76` and the address, so that two addresses never share one. IPv6: `06:76` and four bytes of the address's SHA-256; should
/// two of them share one after all, the configuration is refused. Both are locally administered unicast addresses (the second bit
/// of the first byte set, the first clear).
pub fn virtual_mac(address: IpAddr) -> MacAddr {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            MacAddr([0x02, 0x76, a, b, c, d])
        }
        IpAddr::V6(v6) => {
            let digest = digest(&SHA256, &v6.octets());
            let [a, b, c, d] = *digest.as_ref().first_chunk().unwrap_or(&[0; 4]);
            MacAddr([0x06, 0x76, a, b, c, d])
        }
    }
}

/// A host that runs the application behind a VIP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// For services to refer to.
    pub name: String,
    /// On-link at an inside port, unless packets to it are wrapped or it is local.
    pub address: IpAddr,
    /// How packets reach it.
    pub forwarding: Forwarding,
    /// Of a local target: on whose host it is. `address` is an inside address of that appliance's.
    pub host: Option<ApplianceId>,
    /// Its share of new connections relative to the other targets of a service, at least 1.
    pub weight: u16,
    /// How its health is found out; none: it counts as healthy.
    pub checks: Vec<Check>,
}

/// A health check of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is tried.
    pub probe: Probe,
    /// Where: the target's address, or another one that leads to it.
    pub address: SocketAddr,
    /// Between the end of a run and the next one.
    pub interval: Duration,
    /// For a whole run.
    pub timeout: Duration,
    /// Successes in a row that bring a target back, at least 1.
    pub rise: u32,
    /// Failures in a row that take a target away, at least 1.
    pub fall: u32,
}

impl Check {
    /// Is it the target's agent that is asked?
    pub fn asks_agent(&self) -> bool {
        self.probe == Probe::Agent
    }
}

/// What a health check tries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// To connect.
    Tcp,
    /// To get a page.
    Http(HttpProbe),
    /// To ask the target's agent.
    Agent,
}

/// A page and what is expected of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProbe {
    /// Path and query.
    pub path: String,
    /// The `Host` header; `None`: the address.
    pub host: Option<String>,
    /// Every status that is good.
    pub status: RangeInclusive<u16>,
}

/// What is distributed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Index into [`Config::vips`].
    pub vip: u16,
    /// Protocol.
    pub protocol: ServiceProtocol,
    /// Destination port; `None` is any.
    pub port: Option<u16>,
    /// Indices into [`Config::targets`], each once; at least one.
    pub targets: Vec<usize>,
    /// How the target of a new connection is chosen.
    pub method: Method,
    /// For how long after its last connection a remote host keeps its target.
    pub affinity: Option<Duration>,
    /// Which packets it takes.
    pub accepts: Accepts,
}

/// A rule of the security policy database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The VIP's end: each of them.
    pub local: Vec<TrafficSelector>,
    /// The remote host's end: each of them.
    pub remote: Vec<TrafficSelector>,
    /// What becomes of such packets.
    pub action: PolicyAction,
}

/// A service's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Every protocol.
    Any,
}

/// A registry that decides over ownership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Etcd {
    /// Where its servers answer, as `http://host:port` or `https://host:port`; at least one.
    pub endpoints: Vec<String>,
    /// What all keys begin with; no slash at its end.
    pub prefix: String,
    /// How long a process counts as alive that isn't heard.
    pub lease: Duration,
    /// For a request, after which it counts as unanswered.
    pub timeout: Duration,
    /// User and password.
    pub credentials: Option<(String, Secret)>,
    /// How its servers are known, and we by them; where they are reached by TLS.
    pub tls: Option<Tls>,
}

/// Certificates that are believed, and our own; as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Who signs the server's certificate: at least one.
    pub ca: Vec<u8>,
    /// Our own certificate, with those that lead to its signer, and its key.
    pub identity: Option<(Vec<u8>, Secret)>,
}

/// How the targets' agents are told who owns a VIP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetAgents {
    /// What appliances and agents know.
    pub secret: Secret,
    /// Where agents listen for that, at the addresses where they are asked for the targets' health.
    pub port: u16,
}

/// Another appliance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its id; not ours.
    pub id: ApplianceId,
    /// What an operator may call it besides its id.
    pub name: Option<String>,
    /// How each reaches the memory that the other keeps for it.
    pub store: StoreLink,
    /// What the two know: at least [`SECRET_BYTES_MIN`](vipsec_store::pairing::SECRET_BYTES_MIN) bytes.
    pub secret: Secret,
    /// What a successor does with the SAs that it finds in the store.
    pub takeover: TakeoverPolicy,
    /// How many IKE SAs a successor deals with in a second.
    pub takeover_rate: u32,
    /// When a group moved too often.
    pub moves: MoveLimits,
    /// How long remote peers that don't answer are kept while the other appliance of a pair is missing, and may be serving them.
    pub split_patience: Duration,
    /// The protocol's times; checked.
    pub timing: Timing,
    /// How many records each appliance keeps room for in the region that the other one writes, for each group.
    pub store_records: u32,
    /// How many connections that a successor couldn't compute the same region has room for.
    pub store_pins: u32,
}

/// How two appliances reach each other's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreLink {
    /// On one host: they meet at a socket, whose folder exists or can be made. For groups beyond the first their number follows
    /// the path, behind a dot.
    Local(PathBuf),
    /// On two hosts.
    Fabric {
        /// What carries writes.
        provider: Provider,
        /// Our own address and port; the port above it is used, too, and so are two more for each further group.
        listen: SocketAddr,
        /// The other appliance's `listen`.
        connect: SocketAddr,
    },
}

/// What a successor does with the SAs that it finds in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakeoverPolicy {
    /// Goes on with them.
    Resume,
    /// Negotiates new ones with the remote peers, and deletes them.
    Renegotiate,
}
