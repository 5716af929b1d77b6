//! What the control core tells a worker, and what a worker tells the control core.
//!
//! Both travel through bounded channels. A worker never waits for the control core: what it can't do alone it parks, drops with
//! a reason, or reports.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use vipsec_distribute::connection::PinEvent;
use vipsec_distribute::service::{Origin, ServiceTable};
use vipsec_distribute::tuple::FiveTuple;
use vipsec_esp::lifetime::LifetimeDue;
use vipsec_esp::sa::{ChildSa, Lifetime, Processing, Selector, Spi};
use vipsec_wire::cookie::Cookies;
use vipsec_wire::crypto::SessionError;
use vipsec_wire::ethernet::MacAddr;
use vipsec_wire::ip::Prefix;
use vipsec_wire::iv::IvPrefix;

/// A port, by its place in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u8);

/// A worker of the appliance, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u8);

impl WorkerId {
    /// There always is one. It announces, and asks for neighbours ahead of need.
    pub const FIRST: Self = Self(0);
}

/// Most workers of an appliance.
pub const WORKERS_MAX: usize = 32;

/// Which network a port is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Remote peers: IKE and ESP arrive here.
    Outside,
    /// Targets: decrypted packets leave here, replies enter at the inside gateway.
    Inside,
    /// The appliance's own host, alone at the other end: its local services are a target. The host's interface has the port's MAC
    /// address.
    Local,
}

/// One port as a worker sees it.
#[derive(Debug, Clone)]
pub struct PortTable {
    /// Its network.
    pub side: Side,
    /// Its own MAC address: source of frames that are not a VIP's or a gateway's.
    pub mac: MacAddr,
    /// Its own addresses with their on-link prefixes. Used as the source of neighbour resolution.
    pub addresses: Vec<(IpAddr, Prefix)>,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
}

/// An address that moves between appliances, with its virtual MAC: a VIP outside, an inside gateway inside.
#[derive(Debug, Clone)]
pub struct FloatingAddress {
    /// The address.
    pub address: IpAddr,
    /// The virtual MAC that answers for it.
    pub mac: MacAddr,
    /// The port that it lives on.
    pub port: PortId,
}

/// A VIP and what moves with it.
#[derive(Debug, Clone)]
pub struct VipTable {
    /// The VIP itself, on an outside port: where tunnels end.
    pub vip: FloatingAddress,
    /// Its other addresses, of either family, on outside ports: they move with it, and tunnels end on them and carry packets to them
    /// as well.
    pub more: Vec<FloatingAddress>,
    /// The targets' way back, on inside ports.
    pub gateways: Vec<FloatingAddress>,
    /// Is it here?
    pub state: VipState,
}

/// Where a VIP is, as a worker sees it. The greater, the more is done for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum VipState {
    /// Not here: a worker touches no packet of it, and answers no ARP for it.
    #[default]
    Elsewhere,
    /// On its way: to the peer, or here, where its SAs are not all awake yet. Nothing that arrives is answered or taken, it is held: passed
    /// on as it is to the new owner once the VIP is elsewhere, or taken when it is owned. Only what was parked before is still delivered
    /// when granted.
    HandingOver,
    /// Here.
    Owned,
}

/// A static route.
#[derive(Debug, Clone)]
pub struct Route {
    /// Destination.
    pub prefix: Prefix,
    /// Next hop, on-link at `port`.
    pub via: IpAddr,
    /// Port to leave by.
    pub port: PortId,
}

/// One rule of the security policy database (RFC 4301 §4.4.1) for packets between VIPs and remote hosts.
///
/// The rules are ordered, and the first that matches decides. Where none matches, a service's own
/// [`Accepts`](vipsec_distribute::service::Accepts) does: what it takes in the clear bypasses, everything else is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The VIP's end.
    pub local: Selector,
    /// The remote host's end.
    pub remote: Selector,
    /// What becomes of such a packet.
    pub action: PolicyAction,
}

/// What becomes of packets that a policy matches, both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PolicyAction {
    /// They pass in the clear.
    Bypass,
    /// They are dropped.
    Discard,
    /// They pass through a tunnel or not at all.
    Protect,
}

/// How much of what is punted to the control core a worker lets through, per second and at once.
#[derive(Debug, Clone, Copy)]
pub struct Policer {
    /// Datagrams per second.
    pub rate: u32,
    /// Datagrams at once.
    pub burst: u32,
}

impl Policer {
    /// What each of so many workers lets through, that all of them together let through this.
    pub fn shared_by(self, workers: usize) -> Self {
        let workers = u32::try_from(workers).unwrap_or(u32::MAX).max(1);
        Self { rate: self.rate.div_ceil(workers), burst: self.burst.div_ceil(workers) }
    }
}

/// How requests for an IKE SA get to the control core: from callers that nobody knows yet.
#[derive(Debug, Clone)]
pub struct IkeCalls {
    /// Requests without a good cookie. Who is above has to show one (RFC 7296 §2.6): the worker says so.
    pub unproven: Policer,
    /// Requests with a good cookie.
    pub proven: Policer,
    /// What cookies are made with. `None`: what is above the limit is dropped.
    pub cookies: Option<Cookies>,
}

/// Everything that all workers read: an immutable snapshot that a worker picks up between two bursts.
#[derive(Debug, Clone)]
pub struct Tables {
    /// Ports, indexed by [`PortId`].
    pub ports: Vec<PortTable>,
    /// VIPs, indexed by [`ChildSa::vip`].
    pub vips: Vec<VipTable>,
    /// Static routes.
    pub routes: Vec<Route>,
    /// What may pass in the clear; empty leaves it to the services.
    pub policies: Vec<Policy>,
    /// Services behind the VIPs and their targets.
    pub services: Arc<ServiceTable>,
    /// Limit for IKE datagrams of those who have an IKE SA with us, or say so.
    pub ike_policer: Policer,
    /// How others get one.
    pub ike_calls: IkeCalls,
}

/// An IKE message on its way between the wire and the control core, without IP and UDP headers and without the non-ESP marker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IkeDatagram {
    /// Our end: the VIP, and port 500 or 4500. On port 4500 the worker takes off and puts on the non-ESP marker (RFC 3948 §2.2).
    pub local: SocketAddr,
    /// The remote peer's end.
    pub remote: SocketAddr,
    /// The IKE message.
    pub payload: Vec<u8>,
}

/// What the control core tells a worker.
#[derive(Debug)]
pub enum Command {
    /// Use these tables from the next burst on. Confirmed by [`Event::TablesInForce`].
    Tables {
        /// Counts up with every change.
        version: u64,
        /// The snapshot.
        tables: Arc<Tables>,
    },
    /// Install a child SA pair, replacing one with the same inbound SPI. Outbound, the newest SA whose selectors match wins.
    ///
    /// An SA is on one worker at a time: there are its numbers. All others are told by [`Command::Steer`]. Lanes (RFC 9611) are several
    /// child SAs with the same selectors, one per worker; what a worker sends goes by the newest that it has itself.
    /// Confirmed by [`Event::ChildInstalled`].
    InstallChild(Box<ChildSa>),
    /// Give dormant child SAs their numbers: they carry from now on. No copy counts yet, so neither horizon nor lease holds them.
    WakeChildren {
        /// What makes this owner's IVs its own.
        iv_prefix: IvPrefix,
        /// At most [`WOKEN_MAX`].
        wakes: Vec<Wake>,
    },
    /// Forget a child SA pair and its keys.
    RemoveChild(Spi),
    /// A child SA is on another worker: what belongs to it is handed there. Confirmed by [`Event::Steered`].
    ///
    /// A device that can steer (by RSS over the outer flow, by rules for SPIs) spares that; which packets it brings to the wrong
    /// worker is no matter of correctness, so whoever teaches one does it beside this command.
    Steer(Box<Steering>),
    /// No worker has that child SA any more.
    Unsteer(Spi),
    /// Every counted copy has acknowledged: inbound numbers up to `horizon` may be delivered, outbound ones up to `lease` used.
    /// Neither ever moves back. `u64::MAX` stands for no limit (no counted copy).
    Grant {
        /// Inbound SPI.
        spi: Spi,
        /// Inbound.
        horizon: u64,
        /// Outbound.
        lease: u64,
    },
    /// Bind an SA that had no limit to what it has used so far plus its room; answered by [`Event::Numbers`].
    /// How an SA starts to be counted when a copy joins.
    Bind(Spi),
    /// These services will be in force next. Confirmed by [`Event::ServicesPinned`] once every connection that they would move is known to
    /// every counted copy (rule R6); a later announcement takes the place of one that isn't confirmed.
    Announce {
        /// Counts up with every announcement.
        version: u64,
        /// The services.
        services: Arc<ServiceTable>,
    },
    /// Every counted copy has acknowledged what a batch says, or there is none: [`Event::Pins`] answered.
    PinsKnown(Box<PinBatch>),
    /// Nobody will: the batch's VIP went elsewhere.
    PinsAbandoned(Box<PinBatch>),
    /// Forget the connections of a VIP, by its number: another appliance serves it, or has served it.
    ForgetConnections(u16),
    /// A VIP, by its number, comes from an owner that went by these services: connections that it computed stay where they are.
    Inherit {
        /// The VIP.
        vip: u16,
        /// As they were in force there.
        services: Arc<ServiceTable>,
    },
    /// Go on with connections of a VIP whose last owner had pinned them: each where its packets will arrive. Confirmed by
    /// [`Event::PinsRestored`].
    RestorePins {
        /// Comes back in the confirmation.
        token: u64,
        /// At most [`RESTORED_MAX`].
        pins: Arc<[RestoredPin]>,
    },
    /// Send an IKE message.
    SendIke(IkeDatagram),
    /// The remote peer's end of a tunnel moved (IKE saw it first).
    MovePeer {
        /// Inbound SPI.
        spi: Spi,
        /// New remote address and, with UDP encapsulation, port.
        remote: SocketAddr,
    },
    /// The remote peer has failed over and may have lost count (RFC 6311 §5.2): go on that far above the last outbound number.
    SkipNumbers {
        /// Inbound SPI.
        spi: Spi,
        /// How far.
        delta: u64,
    },
    /// Send a complete Ethernet frame (gratuitous ARP, an advertisement).
    SendFrame {
        /// Port to leave by.
        port: PortId,
        /// From the destination MAC on, without FCS.
        frame: Vec<u8>,
    },
    /// Answer with [`Event::Report`].
    Report {
        /// Comes back in the answer.
        token: u64,
        /// What about.
        what: ReportKind,
    },
}

/// Most child SAs of a [`Command::WakeChildren`]: some microseconds' work.
pub const WOKEN_MAX: usize = 64;

/// Where the numbers of a child SA go on that was installed dormant ([`DORMANT`](vipsec_esp::sa::DORMANT)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wake {
    /// Inbound SPI.
    pub spi: Spi,
    /// Inbound numbers up to here count as seen.
    pub edge: u64,
    /// Outbound numbers up to here count as used.
    pub sent: u64,
    /// How much it carries, what its numbers stand for included.
    pub lifetime: Lifetime,
}

/// Most pins of a batch.
pub const PINS_PER_BATCH: usize = 32;

/// What changed of the pins of a VIP, on its way to the store and back. Each worker has a few batches, which go round: so nothing is
/// allocated for them, and what is under way is bounded.
#[derive(Debug, Clone)]
pub struct PinBatch {
    /// Whose connections.
    pub worker: WorkerId,
    /// The VIP's number.
    pub vip: u16,
    /// The version of the worker's tables when it said so.
    pub tables: u64,
    /// In order.
    pub pins: ArrayVec<PinEvent, PINS_PER_BATCH>,
}

/// Most pins of a [`Command::RestorePins`].
pub const RESTORED_MAX: usize = 256;

/// A connection that the VIP's last owner had pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestoredPin {
    /// The VIP's number.
    pub vip: u16,
    /// Which connection.
    pub tuple: FiveTuple,
    /// How it comes in.
    pub origin: Origin,
    /// Its target.
    pub target: IpAddr,
}

/// Some of the pins of a [`Command::RestorePins`], by their places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PinSet([u64; RESTORED_MAX / 64]);

impl PinSet {
    /// Adds one.
    pub fn insert(&mut self, place: usize) {
        if let Some(word) = self.0.get_mut(place / 64) {
            *word |= 1 << (place % 64);
        }
    }

    /// Is it one of them?
    pub fn contains(&self, place: usize) -> bool {
        self.0.get(place / 64).is_some_and(|word| word & 1 << (place % 64) != 0)
    }
}

/// Where a child SA is, for all other workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steering {
    /// Inbound SPI.
    pub spi: Spi,
    /// The worker that has it.
    pub worker: WorkerId,
    /// Comes back in the confirmation: the same SPI may be steered again.
    pub token: u64,
    /// As [`ChildSa::vip`].
    pub vip: u16,
    /// As [`ChildSa::lane`].
    pub lane: Option<u16>,
    /// As [`ChildSa::local_selectors`].
    pub local_selectors: Vec<Selector>,
    /// As [`ChildSa::remote_selectors`].
    pub remote_selectors: Vec<Selector>,
}

/// What a report is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportKind {
    /// Numbers and counters of each child SA.
    Sas,
    /// Connections, at most that many.
    Connections {
        /// Most entries in the answer.
        max: usize,
    },
    /// The neighbour cache.
    Neighbours,
    /// How many connections each target has.
    Targets,
}

/// An SA tells at most once in that time that it is alive.
pub const ALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// What a worker tells the control core.
#[derive(Debug, Clone)]
pub enum Event {
    /// The tables of that version are in force.
    TablesInForce(u64),
    /// A child SA is installed: its packets are taken from now on.
    ChildInstalled(Spi),
    /// A child SA could not be installed: nothing of it is there.
    ChildRefused(Spi, ChildRefusal),
    /// What belongs to a child SA of another worker is handed there from now on.
    Steered {
        /// Inbound SPI.
        spi: Spi,
        /// The command's.
        token: u64,
    },
    /// An IKE message for a VIP that we own.
    Ike(IkeDatagram),
    /// An SA wants more room, or was asked by [`Command::Bind`].
    Numbers(Numbers),
    /// Connections that a successor couldn't compute, or can again. Answered by [`Command::PinsKnown`]; the first packets of such a
    /// connection wait for that (rule R6).
    Pins(Box<PinBatch>),
    /// What services that were announced would move is pinned.
    ServicesPinned(u64),
    /// A worker has taken over the connections that belong to it.
    PinsRestored {
        /// The command's.
        token: u64,
        /// Which of them it has.
        taken: PinSet,
    },
    /// An authenticated packet that was admitted, newer than all before it, came from a new remote address or port (RFC 7296 §2.23).
    PeerMoved {
        /// Inbound SPI.
        spi: Spi,
        /// The new remote end.
        remote: SocketAddr,
    },
    /// An authenticated ESP packet arrived on an SA that had been silent (for liveness, RFC 7296 §2.4), one in [`ALIVE_INTERVAL`] for each SA.
    Alive(Spi),
    /// A child SA has carried what its lifetime allows: it is to be replaced, or it is over. Each is told once for each direction.
    Lifetime {
        /// Inbound SPI.
        spi: Spi,
        /// Which limit it has reached.
        due: LifetimeDue,
    },
    /// ESP for an unknown SPI, policed (RFC 7296 §2.21.4 leaves the answer to IKE).
    UnknownSpi {
        /// As it stood in the packet.
        spi: u32,
        /// Where it came from.
        remote: IpAddr,
    },
    /// A frame of our own EtherType (an advertisement), whole.
    Advertisement {
        /// Where it came in.
        port: PortId,
        /// From the destination MAC on.
        frame: Vec<u8>,
    },
    /// What was asked for.
    Report {
        /// The question's.
        token: u64,
        /// The answer.
        report: Report,
    },
}

/// Why a child SA could not be installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChildRefusal {
    /// The worker has as many SAs as its configuration allows.
    #[error("the worker has as many child SAs as it may have")]
    TooMany,
    /// Its key or its anti-replay window is of a size that the engine doesn't take.
    #[error("the key or the anti-replay window is of a wrong size")]
    Setup,
    /// No device here processes it as it asks for.
    #[error("no device processes it as {0:?} here")]
    Processing(Processing),
    /// The crypto device doesn't take its key.
    #[error("no session in the crypto device: {0}")]
    Session(SessionError),
    /// It names a VIP that is not in the tables.
    #[error("the VIP is not in the worker's tables")]
    UnknownVip,
}

/// Where an SA's numbers stand and how far it would like to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// Inbound SPI.
    pub spi: Spi,
    /// Highest inbound number delivered.
    pub edge: u64,
    /// Inbound numbers wanted up to here.
    pub horizon_wanted: u64,
    /// Last outbound number used.
    pub sent: u64,
    /// Outbound numbers wanted up to here.
    pub lease_wanted: u64,
}

/// Answer to [`Command::Report`].
#[derive(Debug, Clone)]
pub enum Report {
    /// One per child SA.
    Sas(Vec<SaReport>),
    /// Some or all connections, and how many there are.
    Connections {
        /// All of them.
        total: usize,
        /// Those asked for.
        entries: Vec<vipsec_distribute::connection::ConnectionReport>,
    },
    /// Address, MAC if resolved, port.
    Neighbours(Vec<(IpAddr, Option<MacAddr>, PortId)>),
    /// Each target's address, and its connections that are not over.
    Targets(Vec<(IpAddr, u32)>),
}

/// One child SA's numbers and counters.
#[derive(Debug, Clone)]
pub struct SaReport {
    /// Inbound SPI.
    pub spi: Spi,
    /// Its numbers.
    pub edge: u64,
    /// Granted inbound.
    pub horizon: u64,
    /// Last outbound number used.
    pub sent: u64,
    /// Granted outbound.
    pub lease: u64,
    /// Delivered inbound packets and their inner bytes.
    pub packets_in: u64,
    /// See `packets_in`.
    pub bytes_in: u64,
    /// Sealed outbound packets and their inner bytes.
    pub packets_out: u64,
    /// See `packets_out`.
    pub bytes_out: u64,
    /// Its numbers were reported and the grant is still to come; packets may be parked until then.
    pub awaits_grant: bool,
    /// By whom it is processed.
    pub processing: Processing,
    /// Where the remote peer is now.
    pub tunnel: vipsec_esp::sa::TunnelEnds,
}
