//! All initiators together.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use rand_core::CryptoRng;
use vipsec_ike::Transmit;
use vipsec_wire::buffer::{PacketBuf, VecBuf};
use vipsec_wire::iv::ApplianceId;

use crate::echo::{Echo, EchoPlan, Echoes, EspPacket};
use crate::initiator::{AddressesExhausted, Ended, Initiator, Plan, Stage};
use crate::pace::{Beginnings, Pace};
use crate::report::{EchoReport, HandshakeTimes, Report};

/// Thousands of initiators, each an endpoint of its own that knows nothing of the others.
///
/// Input: [`handle_datagram`](Self::handle_datagram), [`handle_esp`](Self::handle_esp) and [`handle_timeout`](Self::handle_timeout); after
/// each drain [`poll_transmit`](Self::poll_transmit) and [`poll_packet`](Self::poll_packet), and arm a timer for
/// [`poll_timeout`](Self::poll_timeout).
pub struct Fleet {
    base: u64,
    /// Where the echo service is.
    service: Ipv4Addr,
    initiators: Vec<Initiator>,
    pace: Pace,
    beginnings: Beginnings,
    /// How many have begun: they begin in order.
    begun: usize,
    calling: usize,
    timers: BTreeSet<(Instant, usize)>,
    transmits: VecDeque<Transmit>,
    /// What the tunnels carry, once somebody wants that.
    echoes: Option<Echoes>,
    packets: VecDeque<EspPacket>,
    times: HandshakeTimes,
    strangers: u64,
    started: Instant,
    /// When the last handshake so far ended.
    last_end: Instant,
}

impl Fleet {
    /// Initiators that have not called yet. `rng` gives each its randomness.
    pub fn new(
        plan: &Plan,
        pace: Pace,
        id: ApplianceId,
        mut rng: impl FnMut() -> Box<dyn CryptoRng + Send>,
        now: Instant,
    ) -> Result<Self, AddressesExhausted> {
        Ok(Self {
            base: u64::from(u32::from(plan.address(0)?)),
            service: plan.gateway,
            initiators: (0..plan.count).map(|at| plan.initiator(at, id, rng())).collect::<Result<_, _>>()?,
            pace,
            beginnings: Beginnings::at_rate(pace.per_second, now),
            begun: 0,
            calling: 0,
            timers: BTreeSet::new(),
            transmits: VecDeque::new(),
            echoes: None,
            packets: VecDeque::new(),
            times: HandshakeTimes::default(),
            strangers: 0,
            started: now,
            last_end: now,
        })
    }

    /// Takes a datagram that arrived for an initiator on port 500 or 4500, without the non-ESP marker.
    pub fn handle_datagram(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, payload: &[u8]) {
        match self.at(local.ip()) {
            Some(at) => self.work(now, at, |one| one.endpoint.handle_datagram(now, local, remote, payload)),
            None => self.strangers += 1,
        }
        self.begin(now);
    }

    /// Takes an ESP packet, from its header on, that arrived for an initiator on port 4500.
    pub fn handle_esp(&mut self, now: Instant, local: SocketAddr, payload: &[u8]) {
        let Some(at) = self.at(local.ip()) else {
            self.strangers += 1;
            return;
        };
        let mut packet = VecBuf::from_bytes(payload);
        if let (Some(one), Some(echoes)) = (self.initiators.get_mut(at), &mut self.echoes)
            && one.tunnels.open(&mut packet)
        {
            echoes.take(now, packet.data());
        }
    }

    /// From now on datagrams go through the tunnels, to an echo service at the gateway's address, once all handshakes have ended. Only with
    /// [`Plan::engine`].
    pub fn begin_echoes(&mut self, now: Instant, plan: EchoPlan) {
        self.echoes = Some(Echoes::new(plan, now));
    }

    /// All of them so far, the oldest first.
    pub fn echoes(&self) -> &[Echo] {
        self.echoes.as_ref().map_or(&[], |echoes| &echoes.sent)
    }

    /// Which initiator has this address?
    fn at(&self, address: IpAddr) -> Option<usize> {
        let IpAddr::V4(address) = address else { return None };
        let at = usize::try_from(u64::from(u32::from(address)).checked_sub(self.base)?).ok()?;
        (at < self.initiators.len()).then_some(at)
    }

    /// The time has come that [`poll_timeout`](Self::poll_timeout) named.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, at)) = self.timers.first().copied().filter(|(due, _)| *due <= now) {
            self.work(now, at, |one| one.endpoint.handle_timeout(now));
        }
        self.begin(now);
        self.send_echoes(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due; `None`: not before something arrives.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let beginning = self.may_begin().then(|| self.beginnings.next());
        let echo = self.echoes.as_ref().filter(|_| self.is_settled()).and_then(Echoes::next);
        [self.timers.first().map(|(due, _)| *due), beginning, echo].into_iter().flatten().min()
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next ESP packet to send.
    pub fn poll_packet(&mut self) -> Option<EspPacket> {
        self.packets.pop_front()
    }

    /// Has every handshake ended, well or not?
    pub fn is_settled(&self) -> bool {
        self.begun == self.initiators.len() && self.calling == 0
    }

    /// Deletes all IKE SAs.
    pub fn delete_all(&mut self, now: Instant) {
        for at in 0..self.initiators.len() {
            self.work(now, at, |one| {
                let ids: Vec<_> = one.endpoint.sas(now).map(|sa| sa.id).collect();
                for id in ids {
                    // One that is on its way out by itself refuses.
                    let _ = one.endpoint.delete_ike(id, now);
                }
            });
        }
    }

    /// Does any initiator still have an IKE SA?
    pub fn is_deserted(&self, now: Instant) -> bool {
        self.initiators.iter().all(|one| one.endpoint.sas(now).next().is_none())
    }

    /// How it stands.
    pub fn report(&self) -> Report {
        let stages = |wanted: fn(&Stage) -> bool| self.initiators.iter().filter(|one| wanted(&one.stage)).count();
        let mut ends: BTreeMap<String, u64> = BTreeMap::new();
        let mut drops: BTreeMap<&'static str, u64> = BTreeMap::new();
        for one in &self.initiators {
            for (why, count) in &one.journal.ends {
                *ends.entry(why.clone()).or_default() += count;
            }
            for (reason, count) in one.endpoint.counters().iter().filter(|(_, count)| *count > 0) {
                *drops.entry(reason.text()).or_default() += count;
            }
        }
        let took = self.last_end.saturating_duration_since(self.started);
        let established = self.times.count();
        Report {
            initiators: self.initiators.len(),
            begun: self.begun,
            established,
            failed: stages(|stage| *stage == Stage::Failed),
            calling: self.calling,
            up: stages(|stage| *stage == Stage::Up),
            lost: stages(|stage| *stage == Stage::Lost),
            seconds: took.as_secs_f64(),
            per_second: if took > Duration::ZERO { established as f64 / took.as_secs_f64() } else { 0.0 },
            handshake: self.times.latency(),
            ike_rekeys: self.initiators.iter().map(|one| one.journal.ike_rekeys).sum(),
            child_rekeys: self.initiators.iter().map(|one| one.journal.child_rekeys).sum(),
            ends,
            drops,
            strangers: self.strangers,
            echoes: self.echoes.as_ref().map(|echoes| EchoReport::of(&echoes.sent)),
        }
    }

    fn may_begin(&self) -> bool {
        self.begun < self.initiators.len() && self.calling < self.pace.parallel_max.max(1)
    }

    /// Sends what is due. Whose turn it is, and has no tunnel, misses it.
    fn send_echoes(&mut self, now: Instant) {
        if !self.is_settled() {
            return;
        }
        let Some(echoes) = &mut self.echoes else { return };
        while let Some(at) = echoes.take_turn(now, self.initiators.len()) {
            let Some(one) = self.initiators.get_mut(at).filter(|one| one.tunnels.is_up()) else { continue };
            let Ok(mut packet) = echoes.send(now, at, one.inner, self.service) else { continue };
            if let Some((local, remote)) = one.tunnels.seal(&mut packet) {
                self.packets.push_back(EspPacket { local, remote, payload: packet.data().to_vec() });
            }
        }
    }

    /// Begins what is due.
    fn begin(&mut self, now: Instant) {
        while self.may_begin() && self.beginnings.take(now) {
            let at = self.begun;
            self.begun += 1;
            self.calling += 1;
            self.work(now, at, |one| one.call(now));
        }
    }

    /// Lets one initiator work, and takes what comes of it.
    fn work(&mut self, now: Instant, at: usize, work: impl FnOnce(&mut Initiator)) {
        let Some(one) = self.initiators.get_mut(at) else { return };
        if let Some(timer) = one.timer.take() {
            self.timers.remove(&(timer, at));
        }
        work(one);
        let ended = one.take_events(now);
        while let Some(transmit) = one.endpoint.poll_transmit() {
            self.transmits.push_back(transmit);
        }
        one.timer = one.endpoint.poll_timeout();
        if let Some(timer) = one.timer {
            self.timers.insert((timer, at));
        }
        if let Some(ended) = ended {
            self.calling = self.calling.saturating_sub(1);
            self.last_end = now;
            if let Ended::Up(time) = ended {
                self.times.record(time);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use vipsec_esp::engine::EngineKind;
    use vipsec_ike::{
        AddressMatch, ChildPolicy, Config, ConnectionPolicy, Encapsulation, Endpoint, Event, Fragmentation,
        IdentityMatch, Limits, Mode, PACKET_BYTES_MAX, Pairs, Retransmission, Secret, Unique,
    };
    use vipsec_wire::iv::Epoch;

    use super::*;

    const GATEWAY: &str = "192.0.2.1";
    const IKE: &str = "aes256gcm16-prfsha256-x25519";

    fn plan(count: u32) -> Plan {
        Plan {
            base_address: "10.64.0.0".parse().unwrap(),
            first_number: 1,
            count,
            domain: "peers.example".to_owned(),
            gateway: GATEWAY.parse().unwrap(),
            gateway_id: "vip.example".parse().unwrap(),
            gateway_ts: vec!["192.0.2.1/32".parse().unwrap()],
            base_inner: Some("10.128.0.0".parse().unwrap()),
            secret: Secret::new(b"a secret of this test".to_vec()),
            proposals: vec![IKE.parse().unwrap()],
            esp_proposals: vec!["aes256gcm16-x25519".parse().unwrap()],
            dpd_delay: None,
            rekey_time: None,
            child_rekey_time: None,
            retransmission: Retransmission { tries_max: 2, ..Retransmission::default() },
            engine: None,
        }
    }

    fn gateway(secret: &[u8], limits: Limits) -> Endpoint {
        let child = ChildPolicy {
            name: "net".to_owned(),
            local_ts: vec!["192.0.2.1/32".parse().unwrap()],
            remote_ts: vec!["10.128.0.0/10".parse().unwrap()],
            proposals: vec!["aes256gcm16-x25519".parse().unwrap()],
            rekey_time: None,
            life_time: None,
            mode: Mode::Tunnel,
            pairs: Pairs::Any,
            lanes_max: 1,
        };
        let connection = ConnectionPolicy {
            name: "branches".to_owned(),
            vip: 0,
            local: GATEWAY.parse().unwrap(),
            remote: vec![AddressMatch::Any],
            local_id: "vip.example".parse().unwrap(),
            remote_id: IdentityMatch::Below(".peers.example".to_owned()),
            psk: Secret::new(secret.to_vec()),
            proposals: vec![IKE.parse().unwrap()],
            dpd_delay: None,
            rekey_time: None,
            over_time: None,
            reauth_time: None,
            unique: Unique::default(),
            encapsulation: Encapsulation::default(),
            fragmentation: Fragmentation::default(),
            pools: Vec::new(),
            children: vec![Arc::new(child)],
        };
        let config = Config {
            appliance: ApplianceId::new(1).unwrap(),
            connections: vec![Arc::new(connection)],
            limits,
            packet_bytes_max: PACKET_BYTES_MAX,
            retransmission: Retransmission::default(),
        };
        let mut endpoint = Endpoint::new(Arc::new(config), Box::new(StdRng::seed_from_u64(9)));
        endpoint.set_origin(0, Epoch(1)).unwrap();
        endpoint
    }

    fn fleet(plan: &Plan, pace: Pace, now: Instant) -> Fleet {
        let mut seed = 0;
        let rng = move || {
            seed += 1;
            Box::new(StdRng::seed_from_u64(seed)) as Box<dyn CryptoRng + Send>
        };
        Fleet::new(plan, pace, ApplianceId::new(7).unwrap(), rng, now).unwrap()
    }

    const CLOSED_LOOP: Pace = Pace { parallel_max: 3, per_second: None };

    /// Carries messages between the two until none is left.
    fn exchange(fleet: &mut Fleet, gateway: &mut Endpoint, now: Instant) {
        fleet.handle_timeout(now);
        loop {
            let mut busy = false;
            while let Some(message) = fleet.poll_transmit() {
                busy = true;
                gateway.handle_datagram(now, message.remote, message.local, &message.payload);
            }
            while gateway.poll_event().is_some() {}
            while let Some(message) = gateway.poll_transmit() {
                busy = true;
                fleet.handle_datagram(now, message.remote, message.local, &message.payload);
            }
            if !busy {
                return;
            }
        }
    }

    #[test]
    fn every_initiator_gets_its_own_sas() {
        let now = Instant::now();
        let (mut fleet, mut gateway) =
            (fleet(&plan(20), CLOSED_LOOP, now), gateway(b"a secret of this test", Limits::default()));
        exchange(&mut fleet, &mut gateway, now);
        let report = fleet.report();
        assert!(fleet.is_settled());
        assert_eq!((report.established, report.up, report.failed), (20, 20, 0), "{report:?}");
        let mut peers: Vec<_> = gateway.sas(now).map(|sa| sa.remote_id.unwrap().to_string()).collect();
        peers.sort_by_key(|name| name.split('.').next().and_then(|number| number.parse::<u32>().ok()));
        assert_eq!(peers.first().unwrap(), "1.peers.example");
        assert_eq!(peers.last().unwrap(), "20.peers.example");
        let remote: Vec<_> = gateway.sas(now).map(|sa| sa.remote.ip()).collect();
        assert!(remote.contains(&"10.64.0.20".parse().unwrap()));
    }

    /// A gateway's ends of the tunnels; what comes out of them goes back in.
    #[derive(Default)]
    struct Mirror(crate::tunnel::Tunnels);

    impl Mirror {
        fn follow(&mut self, gateway: &mut Endpoint) {
            while let Some(event) = gateway.poll_event() {
                match event {
                    Event::InstallChild(info) => {
                        self.0.install(&info, ApplianceId::new(1).unwrap(), EngineKind::auto()).unwrap();
                    }
                    Event::RemoveChild { spi_in, .. } => self.0.remove(spi_in),
                    _ => {}
                }
            }
        }

        /// Sends a datagram back where it came from.
        fn reflect(&mut self, packet: &EspPacket) -> EspPacket {
            let mut buffer = VecBuf::from_bytes(&packet.payload);
            assert!(self.0.open(&mut buffer));
            let bytes = buffer.data_mut();
            assert_eq!(bytes[16..20], [192, 0, 2, 1], "the service is at the gateway");
            let (source, destination) = bytes[12..20].split_at_mut(4);
            source.swap_with_slice(destination);
            let (local, remote) = self.0.seal(&mut buffer).unwrap();
            EspPacket { local, remote, payload: buffer.data().to_vec() }
        }
    }

    fn exchange_all(fleet: &mut Fleet, gateway: &mut Endpoint, mirror: &mut Mirror, now: Instant) {
        fleet.handle_timeout(now);
        loop {
            mirror.follow(gateway);
            let to_gateway: Vec<_> = std::iter::from_fn(|| fleet.poll_transmit()).collect();
            let to_fleet: Vec<_> = std::iter::from_fn(|| gateway.poll_transmit()).collect();
            if to_gateway.is_empty() && to_fleet.is_empty() {
                return;
            }
            for message in to_gateway {
                gateway.handle_datagram(now, message.remote, message.local, &message.payload);
            }
            mirror.follow(gateway);
            for message in to_fleet {
                fleet.handle_datagram(now, message.remote, message.local, &message.payload);
            }
        }
    }

    fn reflect_echoes(fleet: &mut Fleet, mirror: &mut Mirror, now: Instant) {
        fleet.handle_timeout(now);
        while let Some(packet) = fleet.poll_packet() {
            let back = mirror.reflect(&packet);
            fleet.handle_esp(now, back.remote, &back.payload);
        }
    }

    #[test]
    fn datagrams_come_back_through_each_tunnel_before_and_after_a_rekeying() {
        let mut now = Instant::now();
        let plan = Plan { engine: Some(EngineKind::auto()), ..plan(3) };
        let (mut fleet, mut gateway) =
            (fleet(&plan, CLOSED_LOOP, now), gateway(b"a secret of this test", Limits::default()));
        let mut mirror = Mirror::default();
        fleet.begin_echoes(now, EchoPlan { per_second: 1000.0, port: 7, session: 5 });
        exchange_all(&mut fleet, &mut gateway, &mut mirror, now);
        let mut echo = |fleet: &mut Fleet, mirror: &mut Mirror| {
            for _ in 0..6 {
                now += Duration::from_millis(1);
                reflect_echoes(fleet, mirror, now);
            }
        };
        echo(&mut fleet, &mut mirror);
        let spi = gateway.sas(Instant::now()).next().unwrap().children[0].spi_in;
        gateway.rekey_child(spi, Instant::now()).unwrap();
        exchange_all(&mut fleet, &mut gateway, &mut mirror, Instant::now());
        echo(&mut fleet, &mut mirror);
        let report = fleet.report();
        assert_eq!(report.child_rekeys, 1, "{report:?}");
        let echoes = report.echoes.unwrap();
        assert!(echoes.sent >= 12, "{echoes:?}");
        assert_eq!(echoes.missing, 0);
        let initiators: BTreeSet<u32> = fleet.echoes().iter().map(|echo| echo.initiator).collect();
        assert_eq!(initiators, BTreeSet::from([0, 1, 2]));
        // What is damaged is nobody's.
        fleet.handle_esp(now, "10.64.0.1:4500".parse().unwrap(), &[0; 60]);
        assert_eq!(fleet.report().strangers, 0);
    }

    #[test]
    fn so_many_handshakes_are_under_way_and_no_more() {
        let now = Instant::now();
        let mut fleet = fleet(&plan(20), CLOSED_LOOP, now);
        fleet.handle_timeout(now);
        assert_eq!(std::iter::from_fn(|| fleet.poll_transmit()).count(), 3);
        assert!(!fleet.is_settled());
    }

    #[test]
    fn what_fails_is_told_with_its_reason() {
        let now = Instant::now();
        let (mut fleet, mut gateway) =
            (fleet(&plan(5), CLOSED_LOOP, now), gateway(b"another secret", Limits::default()));
        exchange(&mut fleet, &mut gateway, now);
        let report = fleet.report();
        assert_eq!((report.established, report.failed), (0, 5));
        assert_eq!(report.ends.get("authentication failed"), Some(&5), "{:?}", report.ends);
    }

    #[test]
    fn silence_is_a_failure_too() {
        let now = Instant::now();
        let mut fleet = fleet(&plan(2), CLOSED_LOOP, now);
        fleet.handle_timeout(now);
        while let Some(due) = fleet.poll_timeout() {
            fleet.handle_timeout(due);
        }
        assert_eq!(fleet.report().ends.get("no answer"), Some(&2), "{:?}", fleet.report());
        assert!(fleet.is_settled());
    }

    #[test]
    fn the_gateway_rekeys_and_deletes_and_it_is_noticed() {
        let now = Instant::now();
        let (mut fleet, mut gateway) =
            (fleet(&plan(4), CLOSED_LOOP, now), gateway(b"a secret of this test", Limits::default()));
        exchange(&mut fleet, &mut gateway, now);
        let sas: Vec<_> = gateway.sas(now).map(|sa| (sa.id, sa.children[0].spi_in)).collect();
        gateway.rekey_ike(sas[0].0, now).unwrap();
        gateway.rekey_child(sas[1].1, now).unwrap();
        gateway.delete_ike(sas[2].0, now).unwrap();
        while let Some(message) = gateway.poll_transmit() {
            fleet.handle_datagram(now, message.remote, message.local, &message.payload);
        }
        exchange(&mut fleet, &mut gateway, now);
        let report = fleet.report();
        assert_eq!((report.ike_rekeys, report.child_rekeys, report.up, report.lost), (1, 1, 3, 1), "{report:?}");
        assert_eq!(report.ends.get("deleted by the gateway"), Some(&1));
    }

    #[test]
    fn deleting_leaves_nothing_at_either_end() {
        let now = Instant::now();
        let (mut fleet, mut gateway) =
            (fleet(&plan(4), CLOSED_LOOP, now), gateway(b"a secret of this test", Limits::default()));
        exchange(&mut fleet, &mut gateway, now);
        fleet.delete_all(now);
        exchange(&mut fleet, &mut gateway, now);
        assert!(fleet.is_deserted(now));
        assert_eq!(gateway.sas(now).count(), 0);
    }

    #[test]
    fn a_gateway_that_asks_for_cookies_gets_them() {
        let now = Instant::now();
        let limits = Limits { half_open_cookie_threshold: 0, ..Limits::default() };
        let (mut fleet, mut gateway) = (fleet(&plan(5), CLOSED_LOOP, now), gateway(b"a secret of this test", limits));
        exchange(&mut fleet, &mut gateway, now);
        assert_eq!(fleet.report().up, 5);
        assert_eq!(gateway.counters().get(vipsec_ike::Drop::CookieAsked), 5);
    }

    #[test]
    fn addresses_end_somewhere() {
        let plan = Plan { base_address: "255.255.255.250".parse().unwrap(), ..plan(20) };
        let pace = Pace { parallel_max: 1, per_second: None };
        let rng = || Box::new(StdRng::seed_from_u64(1)) as Box<dyn CryptoRng + Send>;
        assert!(Fleet::new(&plan, pace, ApplianceId::new(1).unwrap(), rng, Instant::now()).is_err());
    }
}
