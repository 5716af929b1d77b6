//! Two endpoints, a network and a clock.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use vipsec_wire::iv::{ApplianceId, Epoch, IvPrefix};

use crate::crypto::whole;
use crate::message::{Content, Direction, ExchangeType, ParseLimits, Payload, Received};
use crate::{
    AddressMatch, AddressPool, ChildPolicy, ChildSaInfo, ChildSaRecord, Config, ConnectionPolicy, Encapsulation,
    Endpoint, Event, Fragmentation, GoneReason, IkeSaId, IkeSaRecord, IkeSaStatus, Limits, Mode, PACKET_BYTES_MAX,
    Pairs, Phase, Retransmission, Secret, Transmit, Unique,
};

pub(crate) const ALICE: usize = 0;
pub(crate) const BOB: usize = 1;

pub(crate) const VIP: u16 = 0;
const ADDRESSES: [&str; 2] = ["192.0.2.1", "198.51.100.7"];
const IDS: [&str; 2] = ["alice.example", "bob.example"];
const NETS: [&str; 2] = ["10.1.0.0/16", "10.9.0.0/16"];

/// What the two agree on, or don't.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) ike: [&'static str; 2],
    pub(crate) esp: [&'static str; 2],
    pub(crate) psk: [&'static str; 2],
    pub(crate) limits: Limits,
    pub(crate) retransmission: Retransmission,
    pub(crate) dpd_delay: Option<Duration>,
    pub(crate) ike_rekey_time: [Option<Duration>; 2],
    pub(crate) child_rekey_time: [Option<Duration>; 2],
    /// What Bob's end may be, by Alice's policy.
    pub(crate) bob_net_for_alice: &'static str,
    /// What Bob's end may be, by Bob's policy.
    pub(crate) bob_net: &'static str,
    pub(crate) bob_accepts_id: &'static str,
    pub(crate) mode: [Mode; 2],
    pub(crate) pairs: [Pairs; 2],
    pub(crate) lanes_max: [u16; 2],
    pub(crate) reauth_time: [Option<Duration>; 2],
    /// How long after its rekeying was due the IKE SA ends, and the age at which a child SA does.
    pub(crate) over_time: Option<Duration>,
    pub(crate) child_life_time: Option<Duration>,
    pub(crate) unique: [Unique; 2],
    pub(crate) encapsulation: [Encapsulation; 2],
    pub(crate) fragmentation: [Fragmentation; 2],
    pub(crate) bob_pools: Vec<Arc<AddressPool>>,
    /// What Alice's end may be, by both policies.
    pub(crate) alice_net: &'static str,
    /// Longest IP packet.
    pub(crate) packet_bytes_max: [usize; 2],
    pub(crate) seed: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            ike: ["aes256gcm16-prfsha256-x25519"; 2],
            esp: ["aes256gcm16-x25519"; 2],
            psk: ["correct horse battery staple"; 2],
            limits: Limits::default(),
            retransmission: Retransmission {
                first: Duration::from_millis(500),
                interval_max: Duration::from_secs(8),
                tries_max: 5,
            },
            dpd_delay: None,
            ike_rekey_time: [None; 2],
            child_rekey_time: [None; 2],
            bob_net_for_alice: NETS[BOB],
            bob_net: NETS[BOB],
            bob_accepts_id: IDS[ALICE],
            mode: [Mode::Tunnel; 2],
            pairs: [Pairs::Any; 2],
            lanes_max: [1; 2],
            reauth_time: [None; 2],
            over_time: None,
            child_life_time: None,
            unique: [Unique::No; 2],
            encapsulation: [Encapsulation::WhereNeeded; 2],
            fragmentation: [Fragmentation::Yes; 2],
            bob_pools: Vec::new(),
            alice_net: NETS[ALICE],
            packet_bytes_max: [PACKET_BYTES_MAX; 2],
            seed: 1,
        }
    }
}

impl Setup {
    pub(crate) fn config(&self, side: usize, appliance: u8) -> Arc<Config> {
        let other = 1 - side;
        let children = ["net", "spare"].map(|name| {
            let nets = [self.alice_net, if side == BOB { self.bob_net } else { self.bob_net_for_alice }];
            Arc::new(ChildPolicy {
                name: name.to_owned(),
                local_ts: vec![nets[side].parse().unwrap()],
                remote_ts: vec![nets[other].parse().unwrap()],
                proposals: vec![self.esp[side].parse().unwrap()],
                rekey_time: self.child_rekey_time[side],
                life_time: self.child_life_time,
                mode: self.mode[side],
                pairs: self.pairs[side],
                lanes_max: self.lanes_max[side],
            })
        });
        let remote_id = if side == BOB { self.bob_accepts_id } else { IDS[BOB] };
        Arc::new(Config {
            appliance: ApplianceId::new(appliance).unwrap(),
            connections: vec![Arc::new(ConnectionPolicy {
                name: "between".to_owned(),
                vip: VIP,
                local: ADDRESSES[side].parse().unwrap(),
                remote: vec![AddressMatch::Exact(ADDRESSES[other].parse().unwrap()), AddressMatch::Any],
                local_id: IDS[side].parse().unwrap(),
                remote_id: remote_id.parse().unwrap(),
                psk: Secret::new(self.psk[side].as_bytes().to_vec()),
                proposals: vec![self.ike[side].parse().unwrap()],
                dpd_delay: self.dpd_delay,
                rekey_time: self.ike_rekey_time[side],
                over_time: self.over_time,
                reauth_time: self.reauth_time[side],
                unique: self.unique[side],
                encapsulation: self.encapsulation[side],
                fragmentation: self.fragmentation[side],
                pools: if side == BOB { self.bob_pools.clone() } else { Vec::new() },
                children: children.into(),
            })],
            limits: self.limits,
            retransmission: self.retransmission,
            packet_bytes_max: self.packet_bytes_max[side],
        })
    }
}

/// One end.
pub(crate) struct Side {
    pub(crate) endpoint: Endpoint,
    /// Child SAs that its data plane has.
    pub(crate) installed: BTreeMap<u32, ChildSaInfo>,
    pub(crate) events: Vec<Event>,
    pub(crate) epoch: u32,
    /// Its IVs are encrypted.
    cbc: bool,
    /// What it has sent: both SPIs, IV, message; to see that no IV comes twice under one key.
    ivs: Vec<(u64, Vec<u8>, Vec<u8>)>,
}

impl Side {
    /// All its IKE SAs.
    pub(crate) fn sas(&self, now: Instant) -> Vec<IkeSaStatus> {
        self.endpoint.sas(now).collect()
    }

    /// Why IKE SAs went.
    pub(crate) fn gone(&self) -> Vec<GoneReason> {
        self.events
            .iter()
            .filter_map(|e| if let Event::IkeGone { reason, .. } = e { Some(*reason) } else { None })
            .collect()
    }
}

/// A message on its way.
#[derive(Debug, Clone)]
pub(crate) struct Flying {
    pub(crate) to: usize,
    pub(crate) transmit: Transmit,
}

/// Decides whether a message is lost.
type Loss = Box<dyn FnMut(&Flying) -> bool>;

/// Both ends and the network between them.
pub(crate) struct Bench {
    pub(crate) setup: Setup,
    pub(crate) now: Instant,
    pub(crate) sides: [Side; 2],
    pub(crate) wire: VecDeque<Flying>,
    pub(crate) loss: Option<Loss>,
    /// Replaces an end by a successor after each message that it got.
    pub(crate) take_over: Option<usize>,
    /// A NAT in front of Bob gives his messages this address and port.
    pub(crate) nat: Option<SocketAddr>,
    /// The port that Bob last sent from.
    bob_port: u16,
    loads: u64,
    forged: u64,
    pub(crate) delivered: usize,
}

impl Bench {
    pub(crate) fn new(setup: Setup) -> Self {
        let side = |side: usize| {
            let config = setup.config(side, 1 + u8::try_from(side).unwrap());
            let rng = Box::new(StdRng::seed_from_u64(setup.seed * 2 + side as u64));
            let mut endpoint = Endpoint::new(config, rng);
            endpoint.set_origin(VIP, Epoch(1)).unwrap();
            let cbc = setup.ike[side].contains("-sha");
            Side { endpoint, installed: BTreeMap::new(), events: Vec::new(), epoch: 1, cbc, ivs: Vec::new() }
        };
        Self {
            sides: [side(ALICE), side(BOB)],
            setup,
            now: Instant::now(),
            wire: VecDeque::new(),
            loss: None,
            take_over: None,
            nat: None,
            bob_port: 500,
            loads: 0,
            forged: 0,
            delivered: 0,
        }
    }

    /// A bench on which Alice has called Bob.
    pub(crate) fn established(setup: Setup) -> Self {
        let mut bench = Self::new(setup);
        bench.call();
        bench.run();
        assert_eq!(bench.phases(), [vec![Phase::Established], vec![Phase::Established]]);
        bench.forget_events();
        bench
    }

    pub(crate) fn call(&mut self) -> IkeSaId {
        self.sides[ALICE].endpoint.initiate("between", "net", self.now).unwrap()
    }

    pub(crate) fn phases(&self) -> [Vec<Phase>; 2] {
        [ALICE, BOB].map(|side| self.sides[side].sas(self.now).iter().map(|sa| sa.phase).collect())
    }

    pub(crate) fn forget_events(&mut self) {
        self.sides.iter_mut().for_each(|side| side.events.clear());
    }

    /// The only IKE SA of an end.
    pub(crate) fn sa(&self, side: usize) -> IkeSaStatus {
        let sas = self.sides[side].sas(self.now);
        assert_eq!(sas.len(), 1, "{sas:#?}");
        sas.into_iter().next().unwrap()
    }

    /// The only child SA of an end.
    pub(crate) fn child(&self, side: usize) -> ChildSaInfo {
        let installed = &self.sides[side].installed;
        assert_eq!(installed.len(), 1, "{installed:#?}");
        installed.values().next().unwrap().clone()
    }

    /// Takes what the ends have to say and puts it on the wire.
    pub(crate) fn collect(&mut self) {
        for from in [ALICE, BOB] {
            let side = &mut self.sides[from];
            while let Some(event) = side.endpoint.poll_event() {
                match &event {
                    Event::InstallChild(info) => {
                        assert!(side.installed.insert(info.spi_in, (**info).clone()).is_none());
                    }
                    Event::RemoveChild { spi_in, .. } => assert!(side.installed.remove(spi_in).is_some()),
                    _ => {}
                }
                side.events.push(event);
            }
            while let Some(transmit) = side.endpoint.poll_transmit() {
                side.note_iv(&transmit);
                let flying = Flying { to: 1 - from, transmit };
                if !self.loss.as_mut().is_some_and(|loss| loss(&flying)) {
                    self.wire.push_back(flying);
                }
            }
        }
    }

    /// Delivers the oldest message on the wire.
    pub(crate) fn deliver(&mut self) -> Option<Flying> {
        self.collect();
        let flying = self.wire.pop_front()?;
        self.hand_over(&flying);
        Some(flying)
    }

    /// Gives a message to its receiver, through the NAT.
    pub(crate) fn hand_over(&mut self, flying: &Flying) {
        let Transmit { local, remote, payload, .. } = &flying.transmit;
        let (mut from, mut to) = (*local, *remote);
        if let Some(nat) = self.nat {
            if flying.to == ALICE {
                self.bob_port = from.port();
                from = nat;
            } else {
                to = SocketAddr::new(ADDRESSES[BOB].parse::<IpAddr>().unwrap(), self.bob_port);
            }
        }
        self.sides[flying.to].endpoint.handle_datagram(self.now, to, from, payload);
        self.delivered += 1;
        // One that dies after each fragment of a message never gets it all.
        if self.take_over == Some(flying.to) && ends_message(payload) {
            self.replace(flying.to);
        }
        self.collect();
    }

    /// Delivers until nothing is on the wire. No time passes.
    pub(crate) fn run(&mut self) {
        for _ in 0..1000 {
            if self.deliver().is_none() {
                return;
            }
        }
        panic!("the ends don't come to rest");
    }

    /// Lets time pass, with timers and messages as they come.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.run();
        for _ in 0..100_000 {
            let next = self.sides.iter().filter_map(|side| side.endpoint.poll_timeout()).min();
            match next.filter(|at| *at <= end) {
                Some(at) => {
                    self.now = self.now.max(at);
                    self.sides.iter_mut().for_each(|side| side.endpoint.handle_timeout(at));
                    self.run();
                }
                None => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("timers don't come to rest");
    }

    /// An end loses everything and starts anew.
    pub(crate) fn restart(&mut self, side: usize) {
        self.collect();
        let fresh = Self::new(Setup { seed: 7000 + self.loads, ..self.setup.clone() });
        self.loads += 1;
        let [alice, bob] = fresh.sides;
        self.sides[side] = if side == ALICE { alice } else { bob };
    }

    /// Changes what is inside the protected message that is next on the wire, as its sender could.
    pub(crate) fn rewrite_next(&mut self, change: impl FnOnce(&mut Vec<Payload>)) {
        self.collect();
        let mut flying = self.wire.pop_front().unwrap();
        let mut payloads = self.read(&flying);
        change(&mut payloads);
        self.seal_anew(&mut flying, &Content::new(&payloads));
        self.wire.push_front(flying);
    }

    /// Puts something else into a protected message, under an IV that its sender never uses.
    fn seal_anew(&mut self, flying: &mut Flying, content: &Content) {
        self.forged += 1;
        let iv = (0xff00_0000_0000_0000 | self.forged).to_be_bytes();
        let channel = self.sides[1 - flying.to].endpoint.channel(flying.transmit.ike_sa.unwrap());
        let header = received(&flying.transmit.payload).header;
        let keys = channel.keys.protection(channel.role);
        flying.transmit.payload = whole::seal(channel.suite.cipher, keys, iv, &header, content).unwrap();
    }

    /// A request as `from` could send it on its only IKE SA: with that message ID.
    pub(crate) fn forge(
        &mut self,
        from: usize,
        exchange: ExchangeType,
        message_id: u32,
        payloads: &[Payload],
    ) -> Flying {
        self.forge_fragments(from, exchange, message_id, payloads, usize::MAX).remove(0)
    }

    /// The same in fragments, where it is longer than that.
    pub(crate) fn forge_fragments(
        &mut self,
        from: usize,
        exchange: ExchangeType,
        message_id: u32,
        payloads: &[Payload],
        datagram_bytes_max: usize,
    ) -> Vec<Flying> {
        let id = self.sa(from).id;
        self.forge_on(from, id, exchange, message_id, payloads, datagram_bytes_max)
    }

    /// The same where `from` has several IKE SAs.
    pub(crate) fn forge_on(
        &mut self,
        from: usize,
        id: IkeSaId,
        exchange: ExchangeType,
        message_id: u32,
        payloads: &[Payload],
        datagram_bytes_max: usize,
    ) -> Vec<Flying> {
        let sa = self.sides[from].sas(self.now).into_iter().find(|sa| sa.id == id).unwrap();
        self.forged += 1;
        let prefix = IvPrefix::new(ApplianceId::new(0xff).unwrap(), Epoch(u32::try_from(self.forged).unwrap()));
        let mut channel = self.sides[from].endpoint.channel(sa.id).clone();
        let max = Some(datagram_bytes_max);
        let sealed = channel.seal(prefix, exchange, Direction::Request, message_id, payloads, max).unwrap();
        let fly = |payload| {
            let transmit = Transmit { ike_sa: Some(sa.id), local: sa.local, remote: sa.remote, payload, fresh: true };
            Flying { to: 1 - from, transmit }
        };
        sealed.0.into_iter().map(fly).collect()
    }

    /// An INFORMATIONAL request with an unknown payload of that type and the critical bit.
    pub(crate) fn forge_critical(&mut self, from: usize, message_id: u32, kind: u8) -> Flying {
        let payloads = [Payload::Unknown(kind, vec![1, 2, 3])];
        let mut flying = self.forge(from, ExchangeType::Informational, message_id, &payloads);
        let mut content = Content::new(&payloads);
        content.bytes[1] |= 0x80;
        self.seal_anew(&mut flying, &content);
        flying
    }

    /// What is inside a protected message.
    pub(crate) fn read(&self, flying: &Flying) -> Vec<Payload> {
        let channel = self.sides[1 - flying.to].endpoint.channel(flying.transmit.ike_sa.unwrap());
        let keys = channel.keys.protection(channel.role);
        whole::open(channel.suite.cipher, keys, &received(&flying.transmit.payload)).unwrap()
    }

    /// Both ends have the same child SAs with the same keys and selectors, and none but those.
    pub(crate) fn assert_children_match(&self) {
        let [alice, bob] = &self.sides;
        assert_eq!(alice.installed.len(), bob.installed.len());
        for ours in alice.installed.values() {
            let theirs = &bob.installed[&ours.spi_out];
            assert_eq!(theirs.spi_out, ours.spi_in);
            assert_eq!((&ours.key_in, &ours.key_out), (&theirs.key_out, &theirs.key_in));
            assert_ne!(ours.key_in, ours.key_out);
            assert_eq!(ours.suite, theirs.suite);
            assert_eq!(ours.local_selectors, theirs.remote_selectors);
            assert_eq!(ours.remote_selectors, theirs.local_selectors);
            assert_ne!(ours.role, theirs.role);
        }
        for side in &self.sides {
            let known: Vec<u32> = side.sas(self.now).iter().flat_map(|sa| &sa.children).map(|c| c.spi_in).collect();
            assert_eq!(known.len(), side.installed.len());
            assert!(known.iter().all(|spi| side.installed.contains_key(spi)));
        }
    }

    /// The end crashes; a successor with a higher epoch and another id goes on with what its records say.
    pub(crate) fn replace(&mut self, side: usize) {
        // What the old owner held back until its records were acknowledged leaves before it dies.
        self.collect();
        let old = &self.sides[side];
        let records: Vec<_> = old
            .sas(self.now)
            .iter()
            .map(|sa| {
                let (record, children) = old.endpoint.export(sa.id, self.now).unwrap();
                let record = IkeSaRecord::decode(&record.encode()).unwrap();
                let children: Vec<_> =
                    children.iter().map(|child| ChildSaRecord::decode(&child.encode()).unwrap()).collect();
                (record, children)
            })
            .collect();
        for child in records.iter().flat_map(|(_, children)| children) {
            let installed = &old.installed[&child.spi_in()];
            let tunnel = installed.tunnel;
            assert_eq!(installed, &ChildSaInfo { ike_sa: installed.ike_sa, tunnel, ..child.info().clone() });
        }
        self.replace_with(side, |successor, now| {
            for (record, children) in records {
                let id = successor.import(record, children, now).unwrap();
                // If its message IDs weren't agreed on yet.
                let _ = successor.synchronise(id, now);
            }
        });
    }

    /// The same with a successor that imports what it likes, how it likes.
    pub(crate) fn replace_with(&mut self, side: usize, import: impl FnOnce(&mut Endpoint, Instant)) {
        self.collect();
        self.loads += 1;
        let epoch = self.sides[side].epoch + 1;
        let appliance = 1 + u8::try_from((side as u64 + 2 * self.loads) % 200).unwrap();
        let rng = Box::new(StdRng::seed_from_u64(1000 * self.setup.seed + self.loads));
        let mut successor = Endpoint::new(self.setup.config(side, appliance), rng);
        successor.set_origin(VIP, Epoch(epoch)).unwrap();
        import(&mut successor, self.now);
        let side = &mut self.sides[side];
        side.endpoint = successor;
        side.epoch = epoch;
    }
}

impl Side {
    /// I1: no IV twice under one key, retransmissions of the same bytes apart. A key is as good as (SPIs, direction).
    fn note_iv(&mut self, transmit: &Transmit) {
        let payload = &transmit.payload;
        // Behind the header of an Encrypted payload or an Encrypted Fragment payload.
        let iv_at = match payload[16] {
            46 => 32,
            53 => 36,
            _ => return,
        };
        let spi = u64::from_be_bytes(payload[..8].try_into().unwrap())
            ^ u64::from_be_bytes(payload[8..16].try_into().unwrap());
        let iv = &payload[iv_at..iv_at + 8];
        if !self.cbc {
            // Its epoch is one that we had.
            let epoch = u32::from(u16::from_be_bytes([iv[1], iv[2]]));
            assert!((1..=self.epoch).contains(&epoch));
        }
        for (other_spi, other_iv, other) in &self.ivs {
            if *other_spi == spi && other_iv == iv {
                assert_eq!(other, payload, "an IV was used for two messages");
            }
        }
        self.ivs.push((spi, iv.to_vec(), payload.clone()));
    }
}

/// Is it a message in one piece, or the last of its fragments?
fn ends_message(datagram: &[u8]) -> bool {
    const PAYLOAD_SKF: u8 = 53;
    // Behind the header and that of the payload: Fragment Number, Total Fragments (RFC 7383 §2.5).
    datagram[16] != PAYLOAD_SKF || datagram[32..34] == datagram[34..36]
}

fn received(datagram: &[u8]) -> Received<'_> {
    Received::parse(datagram, ParseLimits::default()).unwrap()
}

/// Loses the `n`th message (from 0) of all that pass.
pub(crate) fn lose_nth(n: usize) -> Loss {
    let mut count = 0;
    Box::new(move |_| {
        count += 1;
        count == n + 1
    })
}

/// Loses every message to `side` in that direction.
pub(crate) fn lose_all(side: usize, direction: Direction) -> Loss {
    Box::new(move |flying| {
        let response = flying.transmit.payload[19] & 0x20 != 0;
        flying.to == side && response == (direction == Direction::Response)
    })
}
