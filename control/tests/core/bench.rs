//! The control core of an appliance that owns its VIP alone, workers that do as they are told, and remote peers, under one clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, Permissions};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use tempfile::TempDir;
use vipsec_control::api::{ApiError, Request, Response};
use vipsec_control::config::{Config, TestConfiguration, load};
use vipsec_control::core::{Core, Facts, Output, Slices, Surroundings, Telling};
use vipsec_dataplane::api::{
    Command, Event, IkeDatagram, Numbers, PinBatch, PinSet, PortId, RESTORED_MAX, Report, ReportKind, RestoredPin,
    Tables, VipState, Wake,
};
use vipsec_dataplane::counters::Counters;
use vipsec_dataplane::deadline::Deadline;
use vipsec_distribute::service::ServiceTable;
use vipsec_esp::sa::{ChildSa, DORMANT, Spi};
use vipsec_ike::{
    AddressMatch, ChildPolicy, ConnectionPolicy, Endpoint, Limits, Mode, PACKET_BYTES_MAX, Pairs, Retransmission,
    Secret,
};
use vipsec_takeover::floor::Floor;
use vipsec_wire::ethernet::{EtherType, Header, MacAddr};
use vipsec_wire::iv::{ApplianceId, Epoch};

pub(crate) const VIP: &str = "192.0.2.1";
pub(crate) const PSK: &str = "correct horse battery staple";

/// A configuration: what every test needs, and `more`.
pub(crate) fn config_text(more: &str) -> String {
    format!(
        r#"
        appliance = {{ id = 1, name = "a" }}
        [[port]]
        name = "out"
        side = "outside"
        device = "net_ring0"
        addresses = ["192.0.2.11/24"]
        [[port]]
        name = "in"
        side = "inside"
        device = "net_ring1"
        addresses = ["10.1.0.11/24"]
        [[vip]]
        name = "web"
        address = "{VIP}"
        port = "out"
        {more}
        "#
    )
}

/// Two targets and a service of theirs, to which more lines may be added.
pub(crate) const TARGETS: &str = r#"
    [[target]]
    name = "t1"
    address = "10.1.0.21"
    [[target]]
    name = "t2"
    address = "10.1.0.22"
    [[service]]
    vip = "web"
    targets = ["t1", "t2"]
"#;

/// A connection to the peer of that name and address, with a child to 10.`net`.0.0/16; `more`: keys of the connection and, behind
/// a line of dashes, of the child.
pub(crate) fn connection(name: &str, address: &str, net: u8, more: &str) -> String {
    let (connection, child) = more.split_once("---").unwrap_or((more, ""));
    format!(
        r#"
        [[connection]]
        name = "{name}"
        vip = "web"
        remote_addrs = ["{address}"]
        local_id = "vip.example"
        remote_id = "{name}.example"
        secret_file = "branch.psk"
        {connection}
        [[connection.child]]
        name = "net"
        remote_ts = ["10.{net}.0.0/16"]
        {child}
        "#
    )
}

/// Reads a configuration as from a file.
pub(crate) fn read_config(text: &str) -> Config {
    let folder = TempDir::new().unwrap();
    for (name, secret) in [
        ("branch.psk", PSK),
        ("other.psk", "another secret"),
        ("agents.psk", "what appliances and agents share"),
        ("pair.psk", "0123456789abcdef0123456789abcdef"),
        ("pair2.psk", "fedcba9876543210fedcba9876543210"),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, secret).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }
    let path = folder.path().join("vipsec.toml");
    fs::write(&path, text).unwrap();
    load(&path, TestConfiguration::Refused).unwrap()
}

/// A remote peer: an IKE endpoint at an address.
pub(crate) struct Peer {
    pub(crate) endpoint: Endpoint,
    pub(crate) address: IpAddr,
    pub(crate) children: BTreeMap<u32, vipsec_ike::ChildSaInfo>,
    /// By how much it was asked to skip numbers.
    pub(crate) skips: Vec<u64>,
    /// The network lets nothing through to it, or from it.
    pub(crate) cut: bool,
}

/// The policy of the peer of that name.
pub(crate) fn peer_policy(name: &str, address: &str, net: u8) -> ConnectionPolicy {
    ConnectionPolicy {
        name: "vip".to_owned(),
        vip: 0,
        local: address.parse().unwrap(),
        remote: vec![AddressMatch::Exact(VIP.parse().unwrap())],
        local_id: format!("{name}.example").parse().unwrap(),
        remote_id: "vip.example".parse().unwrap(),
        psk: Secret::new(PSK.as_bytes().to_vec()),
        proposals: vec![
            "aes256gcm16-prfsha384-x25519".parse().unwrap(),
            "aes256gcm16-aes128gcm16-prfsha256-x25519".parse().unwrap(),
        ],
        dpd_delay: None,
        rekey_time: None,
        over_time: None,
        reauth_time: None,
        unique: Default::default(),
        encapsulation: Default::default(),
        fragmentation: Default::default(),
        pools: Vec::new(),
        children: vec![Arc::new(ChildPolicy {
            name: "net".to_owned(),
            local_ts: vec![format!("10.{net}.0.0/16").parse().unwrap()],
            remote_ts: vec!["192.0.2.1/32".parse().unwrap()],
            proposals: vec![
                "aes256gcm16-aes128gcm16-x25519".parse().unwrap(),
                "aes256gcm16-aes128gcm16".parse().unwrap(),
            ],
            rekey_time: None,
            life_time: None,
            mode: Mode::Tunnel,
            pairs: Pairs::Any,
            lanes_max: 4,
        })],
    }
}

impl Peer {
    pub(crate) fn new(seed: u8, policy: ConnectionPolicy) -> Self {
        let address = policy.local;
        let config = vipsec_ike::Config {
            appliance: ApplianceId::new(200 + seed).unwrap(),
            connections: vec![Arc::new(policy)],
            limits: Limits::default(),
            packet_bytes_max: PACKET_BYTES_MAX,
            retransmission: Retransmission::default(),
        };
        let mut endpoint = Endpoint::new(Arc::new(config), Box::new(StdRng::seed_from_u64(seed.into())));
        endpoint.set_origin(0, Epoch(1)).unwrap();
        Self { endpoint, address, children: BTreeMap::new(), skips: Vec::new(), cut: false }
    }
}

/// What an appliance has written into the other one's store.
#[derive(Default)]
pub(crate) struct Writes {
    /// Records.
    pub(crate) records: AtomicU64,
    /// Batches that were published.
    pub(crate) batches: AtomicU64,
    in_step: AtomicU64,
    most_in_step: AtomicU64,
}

impl Writes {
    /// A record was written.
    pub(crate) fn count_record(&self) {
        self.records.fetch_add(1, Ordering::Relaxed);
        let in_step = self.in_step.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_in_step.fetch_max(in_step, Ordering::Relaxed);
    }

    /// The most that were written in one step of the core.
    pub(crate) fn most_in_step(&self) -> u64 {
        self.most_in_step.load(Ordering::Relaxed)
    }

    fn begin_step(&self) {
        self.in_step.store(0, Ordering::Relaxed);
    }
}

/// Everything.
pub(crate) struct Bench {
    pub(crate) now: Instant,
    pub(crate) core: Core,
    pub(crate) peers: Vec<Peer>,
    /// What the workers have.
    pub(crate) children: BTreeMap<Spi, (usize, Box<ChildSa>)>,
    pub(crate) tables: Arc<Tables>,
    /// How many child SAs the workers were ever told to install.
    pub(crate) installations: usize,
    /// How many child SAs the workers had when the VIP was last opened to packets.
    pub(crate) opened_with: Option<usize>,
    pub(crate) replies: Vec<Result<Response, ApiError>>,
    /// The process was told to end, and may.
    pub(crate) has_ended: bool,
    pub(crate) key_log: Vec<vipsec_ike::KeyLog>,
    /// What went from the appliance to a peer that isn't there.
    pub(crate) unheard: Vec<IkeDatagram>,
    /// What went to the other appliance over the store link.
    pub(crate) link_messages: Vec<Vec<u8>>,
    /// Frames of our own making: announcements, advertisements.
    pub(crate) frames: Vec<(PortId, Vec<u8>)>,
    /// What agents of targets are to be told.
    pub(crate) tellings: Vec<Telling>,
    /// Past it the workers do nothing, and lose the frames that they are told to send.
    pub(crate) deadline: Deadline,
    pub(crate) writes: Arc<Writes>,
    /// VIPs whose advertisement has left.
    advertised: BTreeSet<u16>,
    /// VIPs whose packets workers could have sent before an advertisement had left.
    pub(crate) served_unadvertised: BTreeSet<u16>,
    /// Answers to what workers said of pinned connections.
    pub(crate) pins_known: Vec<PinBatch>,
    pub(crate) pins_abandoned: Vec<PinBatch>,
    /// Up to which number inbound packets may be delivered, as granted last.
    pub(crate) horizons: BTreeMap<Spi, u64>,
    /// Distribution tables of last owners.
    pub(crate) inherited: Vec<Arc<ServiceTable>>,
    /// Connections of a last owner that workers have taken over.
    pub(crate) restored: Vec<RestoredPin>,
    /// Announced services are not confirmed, but held.
    pub(crate) hold_announcements: bool,
    pub(crate) announced: Vec<u64>,
    /// What peers send isn't delivered, but held.
    pub(crate) hold: bool,
    pub(crate) held: VecDeque<Event>,
    events: VecDeque<(usize, Event)>,
    tokens: u64,
    /// How long each step takes, as its daemon finds out.
    pub(crate) step_takes: Duration,
}

impl Bench {
    /// The appliance owns its VIP.
    pub(crate) fn new(config: Config, workers: usize) -> Self {
        let mut bench = Self::started(config, workers, Instant::now(), 1, Some(0));
        bench.run();
        assert!(bench.core.is_serving());
        bench
    }

    /// It owns nothing yet.
    pub(crate) fn unowned(config: Config, now: Instant, incarnation: u64) -> Self {
        Self::started(config, 1, now, incarnation, Some(0))
    }

    /// The same, and it doesn't know which epochs it once used.
    pub(crate) fn without_floor(config: Config, now: Instant, incarnation: u64) -> Self {
        Self::started(config, 1, now, incarnation, None)
    }

    fn started(config: Config, workers: usize, now: Instant, incarnation: u64, floor: Option<u32>) -> Self {
        let tables = config.tables(|_| MacAddr([2, 0, 0, 0, 0, 1])).unwrap();
        let deadline = Deadline::never(now);
        let surroundings = Surroundings {
            counters: (0..workers).map(|_| Arc::new(Counters::default())).collect(),
            tables: tables.clone(),
            deadline: deadline.clone(),
            floors: config.vips.iter().map(|_| Floor::from_disk(floor)).collect(),
            incarnation,
            health_seed: 1,
            rng: Box::new(StdRng::seed_from_u64(99)),
            facts: Facts::default(),
            slices: Slices::default(),
        };
        let core = Core::new(Arc::new(config), surroundings, now);
        Self {
            now,
            core,
            peers: Vec::new(),
            children: BTreeMap::new(),
            tables: Arc::new(tables),
            installations: 0,
            opened_with: None,
            replies: Vec::new(),
            has_ended: false,
            key_log: Vec::new(),
            unheard: Vec::new(),
            link_messages: Vec::new(),
            frames: Vec::new(),
            tellings: Vec::new(),
            deadline,
            writes: Arc::default(),
            advertised: BTreeSet::new(),
            served_unadvertised: BTreeSet::new(),
            pins_known: Vec::new(),
            pins_abandoned: Vec::new(),
            horizons: BTreeMap::new(),
            inherited: Vec::new(),
            restored: Vec::new(),
            hold_announcements: false,
            announced: Vec::new(),
            hold: false,
            held: VecDeque::new(),
            events: VecDeque::new(),
            tokens: 0,
            step_takes: Duration::ZERO,
        }
    }

    /// A worker has something to say.
    pub(crate) fn hear(&mut self, worker: usize, event: Event) {
        self.events.push_back((worker, event));
        self.run();
    }

    /// An order of the operator, and its answer.
    pub(crate) fn ask(&mut self, request: Request) -> Result<Response, ApiError> {
        self.begin(request);
        self.replies.pop().unwrap()
    }

    /// An order whose answer may take its time.
    pub(crate) fn begin(&mut self, request: Request) {
        self.tokens += 1;
        self.core.handle_request(self.now, self.tokens, request);
        self.run();
    }

    /// What became of the IKE SAs that it took over last: ways, reasons, and how many of each.
    pub(crate) fn takeover(&mut self) -> Vec<(String, String, u64)> {
        let Ok(Response::Status(status)) = self.ask(Request::Status) else { panic!("no status") };
        let takeover = status.vips[0].takeover.clone().expect("a takeover");
        takeover.ways.into_iter().map(|way| (way.way, way.reason, way.ike_sas)).collect()
    }

    /// The IKE SAs of the appliance.
    pub(crate) fn sas(&mut self) -> Vec<vipsec_control::api::IkeSa> {
        match self.ask(Request::Sas) {
            Ok(Response::Sas(sas)) => sas.ike_sas,
            other => panic!("{other:?}"),
        }
    }

    /// Lets time pass, with everything that happens in it.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.run();
        loop {
            let peers = self.peers.iter().filter_map(|peer| peer.endpoint.poll_timeout());
            let next = peers.fold(self.core.poll_timeout(), Instant::min);
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            self.writes.begin_step();
            self.core.handle_timeout(self.now);
            self.core.end_step(self.now + self.step_takes);
            for peer in &mut self.peers {
                peer.endpoint.handle_timeout(self.now);
            }
            self.run();
        }
    }

    /// Carries out what everybody wants, until nobody wants anything. No time passes.
    pub(crate) fn run(&mut self) {
        loop {
            let mut busy = false;
            while let Some(output) = self.core.poll_output() {
                busy = true;
                self.carry_out(output);
            }
            while let Some((worker, event)) = self.events.pop_front() {
                busy = true;
                self.writes.begin_step();
                self.core.handle_events(self.now, [(worker, event)]);
            }
            for at in 0..self.peers.len() {
                busy |= self.collect(at);
            }
            if !busy {
                return;
            }
        }
    }

    fn collect(&mut self, at: usize) -> bool {
        let peer = &mut self.peers[at];
        let mut busy = false;
        while let Some(event) = peer.endpoint.poll_event() {
            busy = true;
            match event {
                vipsec_ike::Event::InstallChild(info) => drop(peer.children.insert(info.spi_in, *info)),
                vipsec_ike::Event::RemoveChild { spi_in, .. } => drop(peer.children.remove(&spi_in)),
                vipsec_ike::Event::SkipNumbers { delta, .. } => peer.skips.push(delta),
                _ => {}
            }
        }
        while let Some(transmit) = peer.endpoint.poll_transmit() {
            busy = true;
            if !peer.cut {
                let (local, remote) = (transmit.remote, transmit.local);
                let datagram = IkeDatagram { local, remote, payload: transmit.payload };
                if self.hold {
                    self.held.push_back(Event::Ike(datagram));
                } else {
                    self.events.push_back((0, Event::Ike(datagram)));
                }
            }
        }
        busy
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Worker(worker, command) => self.obey(worker, command),
            Output::SaveFloor { vip, value } => self.core.handle_floor_saved(self.now, vip, value),
            Output::Reply(_, reply) => self.replies.push(reply),
            Output::Shutdown => self.has_ended = true,
            Output::Tell(telling) => self.tellings.push(telling),
            Output::KeyLog(keys) => self.key_log.push(keys),
            Output::LinkSend { message, .. } => self.link_messages.push(message),
            _ => {}
        }
    }

    fn obey(&mut self, worker: usize, command: Command) {
        let stopped = self.deadline.has_passed(self.now);
        if !stopped {
            let vips = (0..).zip(&self.tables.vips).filter(|(_, vip)| vip.state == VipState::Owned);
            let silent = vips.map(|(vip, _)| vip).filter(|vip| !self.advertised.contains(vip));
            self.served_unadvertised.extend(silent);
        }
        match command {
            Command::Tables { version, tables } => {
                let is_owned = |tables: &Tables| tables.vips[0].state == VipState::Owned;
                if is_owned(&tables) && !is_owned(&self.tables) {
                    self.opened_with = Some(self.children.len());
                }
                self.tables = tables;
                self.events.push_back((worker, Event::TablesInForce(version)));
            }
            Command::InstallChild(child) => {
                let spi = child.inbound.spi;
                self.installations += 1;
                self.children.insert(spi, (worker, child));
                self.events.push_back((worker, Event::ChildInstalled(spi)));
            }
            Command::WakeChildren { iv_prefix, wakes } => {
                for Wake { spi, edge, sent, lifetime } in wakes {
                    let (_, child) =
                        self.children.get_mut(&spi).expect("a child SA that this worker doesn't have is woken");
                    let (inbound, outbound) = (&mut child.inbound, &mut child.outbound);
                    assert_eq!((inbound.edge, outbound.sent), (DORMANT, DORMANT), "woken twice");
                    (inbound.edge, inbound.horizon) = (edge, u64::MAX);
                    (outbound.sent, outbound.lease, outbound.iv_prefix) = (sent, u64::MAX, iv_prefix);
                    child.lifetime = lifetime;
                }
            }
            // Nothing was ever sent.
            Command::Bind(spi) => {
                if let Some((_, child)) = self.children.get_mut(&spi) {
                    child.inbound.horizon = 0;
                }
                let numbers = Numbers { spi, edge: 0, horizon_wanted: 0, sent: 0, lease_wanted: 1 << 10 };
                self.events.push_back((worker, Event::Numbers(numbers)));
            }
            Command::Steer(steering) => {
                self.events.push_back((worker, Event::Steered { spi: steering.spi, token: steering.token }));
            }
            Command::Announce { version, .. } if self.hold_announcements => self.announced.push(version),
            Command::Announce { version, .. } => self.events.push_back((worker, Event::ServicesPinned(version))),
            Command::PinsKnown(batch) => self.pins_known.push(*batch),
            Command::PinsAbandoned(batch) => self.pins_abandoned.push(*batch),
            Command::RestorePins { token, pins } => {
                assert!(pins.len() <= RESTORED_MAX);
                let mut taken = PinSet::default();
                (0..pins.len()).for_each(|place| taken.insert(place));
                self.restored.extend(pins.iter());
                self.events.push_back((worker, Event::PinsRestored { token, taken }));
            }
            Command::Grant { spi, horizon, .. } if self.children.contains_key(&spi) => {
                self.horizons.insert(spi, horizon);
            }
            Command::Inherit { services, .. } => self.inherited.push(services),
            Command::RemoveChild(spi) => drop(self.children.remove(&spi)),
            Command::SendIke(datagram) => self.deliver(datagram),
            Command::SendFrame { .. } if stopped => {}
            Command::SendFrame { port, frame } => {
                let (header, payload) = Header::parse(&frame).unwrap();
                if header.ethertype == EtherType::ADVERTISEMENT {
                    self.advertised.insert(u16::from_be_bytes([payload[6], payload[7]]));
                }
                self.frames.push((port, frame));
            }
            Command::Report { token, what } => {
                let report = match what {
                    ReportKind::Sas => Report::Sas(Vec::new()),
                    ReportKind::Connections { .. } => Report::Connections { total: 0, entries: Vec::new() },
                    ReportKind::Neighbours => Report::Neighbours(Vec::new()),
                    ReportKind::Targets => Report::Targets(Vec::new()),
                };
                self.events.push_back((worker, Event::Report { token, report }));
            }
            _ => {}
        }
    }

    fn deliver(&mut self, datagram: IkeDatagram) {
        match self.peers.iter_mut().find(|peer| peer.address == datagram.remote.ip()) {
            Some(peer) if peer.cut => {}
            Some(peer) => {
                let (local, remote): (SocketAddr, SocketAddr) = (datagram.remote, datagram.local);
                peer.endpoint.handle_datagram(self.now, local, remote, &datagram.payload);
            }
            None => self.unheard.push(datagram),
        }
    }
}
