//! The table against a map, under anything that may happen to it.

use super::*;
use crate::service::Method;
use proptest::prelude::*;
use std::collections::{HashMap, VecDeque};

/// Connections that the steps are about.
const CONNECTIONS: u16 = 24;

#[derive(Debug, Clone)]
enum Step {
    /// Packets of a burst, looked up before the first of them is taken.
    ToTarget(Vec<(u16, PacketInfo)>),
    ToRemote(Vec<(u16, PacketInfo)>),
    Wait(Duration),
    Sweep(usize),
    Services(usize),
    Announce(usize),
    /// Takes so many events: they are written, sooner or later.
    ReadPins(usize),
    /// So many of those that were taken are acknowledged.
    Acknowledge(usize),
    ForgetVip,
}

fn packet() -> impl Strategy<Value = PacketInfo> {
    prop_oneof![3 => Just(SYN), 6 => Just(ACK), 2 => Just(FIN), 1 => Just(RST)]
}

fn burst() -> impl Strategy<Value = Vec<(u16, PacketInfo)>> {
    proptest::collection::vec((0..CONNECTIONS, packet()), 1..8)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => burst().prop_map(Step::ToTarget),
        6 => burst().prop_map(Step::ToRemote),
        3 => (1u64..60).prop_map(|seconds| Step::Wait(Duration::from_secs(seconds))),
        1 => Just(Step::Wait(Timeouts::default().tcp_established)),
        4 => (1usize..12).prop_map(Step::Sweep),
        2 => (0usize..6).prop_map(Step::Services),
        1 => (0usize..6).prop_map(Step::Announce),
        4 => (1usize..6).prop_map(Step::ReadPins),
        4 => (1usize..6).prop_map(Step::Acknowledge),
        1 => Just(Step::ForgetVip),
    ]
}

fn tables() -> Vec<Arc<ServiceTable>> {
    use TargetState::{Down, Drain, Up};
    let make = |method, states: &[TargetState]| {
        service_of(targets(states), |service| {
            service.method = method;
            service.affinity = Some(Duration::from_secs(20));
        })
    };
    vec![
        services(&[Up, Up, Up]),
        services(&[Up, Drain, Up]),
        services(&[Down, Up]),
        make(Method::WeightedLeastConnections, &[Up, Up, Up, Up]),
        make(Method::WeightedRoundRobin, &[Up, Down, Up]),
        make(Method::HotStandby, &[Drain, Up, Up]),
    ]
}

/// Half of the connections are datagrams.
fn connection(n: u16) -> FiveTuple {
    tuple(if n.is_multiple_of(2) { 6 } else { 17 }, n)
}

fn packet_of(n: u16, packet: PacketInfo) -> PacketInfo {
    if n.is_multiple_of(2) { packet } else { DATAGRAM }
}

/// What the map knows of a connection.
#[derive(Debug, Clone, Copy)]
struct Known {
    target: IpAddr,
    state: ConnectionState,
    last_packet: Instant,
    is_answered: bool,
    /// A packet was let through, to that target.
    went: bool,
}

struct Model {
    scene: Scene,
    services: Arc<ServiceTable>,
    connections: HashMap<FiveTuple, Known>,
    /// May the table be full?
    is_scarce: bool,
    /// What a copy holds at least.
    copy: HashMap<FiveTuple, IpAddr>,
    /// Events that were taken: the copy may have them or not, but none before those in front of it.
    written: VecDeque<PinEvent>,
}

impl Model {
    fn new(connections_max: usize) -> Self {
        let services = tables().swap_remove(0);
        let now = Instant::now();
        let limits = Limits { connections_max, pin_events_max: 3, ..Limits::default() };
        let mut table = ConnectionTable::new(&limits, 9, now, services.clone());
        table.report_pins();
        Self {
            scene: Scene { table, now },
            services,
            connections: HashMap::new(),
            is_scarce: connections_max < usize::from(CONNECTIONS),
            copy: HashMap::new(),
            written: VecDeque::new(),
        }
    }

    /// I5: whatever of what was written has arrived, a successor would send the connection to that target as well.
    fn check_successor(&self, services: &ServiceTable, tuple: &FiveTuple, target: IpAddr) {
        if matches!(services.state(target), None | Some(TargetState::Down)) {
            return;
        }
        let record = |event: &PinEvent| match event {
            PinEvent::Pinned { target, .. } => Some(*target),
            PinEvent::Released { .. } => None,
        };
        let later = self.written.iter().filter(|event| event.tuple() == tuple).map(record);
        for record in std::iter::once(self.copy.get(tuple).copied()).chain(later) {
            match record {
                Some(pinned) => assert_eq!(pinned, target, "{tuple}: a record"),
                None => assert!(services.reproduces(tuple, target), "{tuple}: no record"),
            }
        }
    }

    fn living(&self, tuple: &FiveTuple) -> Option<Known> {
        let known = self.connections.get(tuple)?;
        let silence = self.scene.now.duration_since(known.last_packet);
        (silence < Timeouts::default().of(known.state)).then_some(*known)
    }

    fn sent(&mut self, tuple: FiveTuple, packet: &PacketInfo, result: Result<Choice, Refusal>) {
        let now = self.scene.now;
        let mut known = self.living(&tuple).filter(|known| !(known.state.is_over() && packet.opens()));
        if known.is_none() && !self.scene.table.journal.has_room() {
            // It is over, but there is no room to release its record: it may have to live on.
            let lives_on = |choice: &Choice| matches!(choice.tracking, Tracking::Known | Tracking::Moved);
            known = self.connections.get(&tuple).copied().filter(|_| result.as_ref().is_ok_and(lives_on));
        }
        let Ok(choice) = result else {
            assert_eq!(result, Err(Refusal::NoTargetUp));
            let moves =
                known.is_none_or(|known| matches!(self.services.state(known.target), None | Some(TargetState::Down)));
            assert!(moves && self.services.choose(&tuple).is_err());
            return;
        };
        let target = self.services.target(choice.target).unwrap().address;
        assert_ne!(self.services.state(target), Some(TargetState::Down));
        // A packet without an entry says nothing of those before and after it.
        if choice.pin != Pin::Awaited && choice.tracking != Tracking::Stateless {
            self.check_successor(&self.services, &tuple, target);
        }
        match (choice.tracking, known) {
            (Tracking::Known, Some(known)) => assert_eq!(target, known.target),
            (Tracking::Moved, Some(known)) => {
                assert!(matches!(self.services.state(known.target), None | Some(TargetState::Down)));
                assert_eq!(Ok(choice.target), self.services.choose(&tuple));
            }
            (Tracking::New, None) => assert_eq!(self.services.state(target), Some(TargetState::Up)),
            // An entry that gave way, which one that is open never does.
            (Tracking::New, Some(known)) => {
                let is_open = known.is_answered && known.state == ConnectionState::TcpEstablished;
                assert!(self.is_scarce && !is_open, "{known:?}");
            }
            (Tracking::Stateless, known) => {
                let is_reset = packet.tcp.is_some_and(|flags| flags.contains(TcpFlags::RST));
                assert!(self.is_scarce || known.is_none() && is_reset, "{known:?}");
                assert_eq!(Ok(choice.target), self.services.choose(&tuple));
                self.connections.remove(&tuple);
                return;
            }
            (tracking, None) => panic!("{tracking:?}, but it was not known"),
        }
        let before = known.filter(|_| choice.tracking != Tracking::New);
        let state = match before {
            Some(known) => known.state.after(Direction::ToTarget, packet.tcp),
            None => ConnectionState::first(tuple.protocol, packet.tcp),
        };
        let is_answered = before.is_some_and(|known| known.is_answered);
        let went = choice.pin != Pin::Awaited || before.is_some_and(|known| known.went && known.target == target);
        self.connections.insert(tuple, Known { target, state, last_packet: now, is_answered, went });
    }

    fn answered(&mut self, tuple: FiveTuple, packet: &PacketInfo, was_known: bool) {
        let now = self.scene.now;
        match self.living(&tuple) {
            Some(known) if was_known => {
                let state = known.state.after(Direction::ToRemote, packet.tcp);
                self.connections.insert(tuple, Known { state, last_packet: now, is_answered: true, ..known });
            }
            Some(known) => {
                assert!(self.is_scarce, "{known:?}");
                self.connections.remove(&tuple);
            }
            None => assert!(!was_known),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::ToTarget(packets) => {
                let prepared = self.scene.table.prepare(self.scene.now, packets.iter().map(|(n, _)| connection(*n)));
                for ((n, packet), prepared) in packets.into_iter().zip(prepared) {
                    let packet = packet_of(n, packet);
                    let result = self.scene.table.to_target(&prepared, Origin::Decrypted, &packet);
                    self.sent(connection(n), &packet, result);
                }
            }
            Step::ToRemote(packets) => {
                let prepared = self.scene.table.prepare(self.scene.now, packets.iter().map(|(n, _)| connection(*n)));
                for ((n, packet), prepared) in packets.into_iter().zip(prepared) {
                    let packet = packet_of(n, packet);
                    let was_known = self.scene.table.to_remote(&prepared, &packet).is_some();
                    self.answered(connection(n), &packet, was_known);
                }
            }
            Step::Wait(time) => self.scene.now += time,
            Step::Sweep(places) => {
                self.scene.table.sweep(self.scene.now, places);
            }
            Step::Services(n) => self.change_services(tables().swap_remove(n)),
            Step::Announce(n) => self.scene.table.announce(tables().swap_remove(n)),
            Step::ReadPins(count) => self.read_pins(count),
            Step::Acknowledge(count) => self.acknowledge(count),
            Step::ForgetVip => {
                self.scene.table.forget_vip(VIP);
                for event in std::mem::take(&mut self.written) {
                    self.scene.table.abandon(&event);
                }
                self.connections.clear();
                self.copy.clear();
            }
        }
    }

    /// R6: other services are in force when the connections that they would move are pinned.
    fn change_services(&mut self, services: Arc<ServiceTable>) {
        self.scene.table.announce(services.clone());
        self.complete();
        let unsettled: Vec<FiveTuple> = self.connections.keys().copied().collect();
        for tuple in unsettled {
            // One that was never let through has been promised to nobody.
            let lives = self.scene.table.standing(&tuple).is_some();
            if let Some(known) = self.living(&tuple).filter(|known| known.went && lives) {
                self.check_successor(&services, &tuple, known.target);
            }
        }
        self.services = services.clone();
        self.scene.table.use_services(services);
    }

    fn complete(&mut self) {
        for _ in 0..200 {
            if self.scene.table.pin_progress().is_complete() {
                return;
            }
            self.read_pins(usize::MAX);
            self.acknowledge(usize::MAX);
            self.scene.sweep();
        }
        panic!("never complete: {:?}", self.scene.table.pin_progress());
    }

    fn read_pins(&mut self, count: usize) {
        let table = &mut self.scene.table;
        self.written.extend(std::iter::from_fn(|| table.poll_pin()).take(count));
    }

    fn acknowledge(&mut self, count: usize) {
        for event in self.written.drain(..count.min(self.written.len())) {
            match event {
                PinEvent::Pinned { tuple, target, .. } => self.copy.insert(tuple, target),
                PinEvent::Released { tuple } => self.copy.remove(&tuple),
            };
            self.scene.table.acknowledge(&event);
        }
    }

    /// What has to be true after every step.
    fn check(&self) {
        let table = &self.scene.table;
        let mut active: HashMap<u16, u32> = HashMap::new();
        let mut sums = [0; 3];
        for entry in table.places.iter() {
            *active.entry(entry.target).or_default() += u32::from(entry.state.is_active());
            for (sum, flag) in sums.iter_mut().zip([Flags::PINNED, Flags::ACKNOWLEDGED, Flags::OWED]) {
                *sum += usize::from(entry.flags.has(flag));
            }
            let spot = table.spot(&entry.key);
            assert!(table.index.find(spot, |place| table.places.holds(place, &entry.key)).is_some());
        }
        for (slot, active) in active {
            assert_eq!(table.targets.get(slot).unwrap().value.active, active);
        }
        let progress = table.pin_progress();
        assert_eq!(sums, [progress.pinned, progress.pinned - progress.unacknowledged, progress.owed]);
        assert_eq!(table.len(), table.places.iter().count());
        if !self.is_scarce {
            let mut reported = 0;
            for report in table.reports(self.scene.now) {
                let known = self.living(&report.tuple).expect("it lives");
                assert_eq!((report.target, report.state), (known.target, known.state));
                reported += 1;
            }
            assert_eq!(reported, self.connections.keys().filter(|tuple| self.living(tuple).is_some()).count());
        }
    }

    /// Once everything was reported, a copy and the services in force give every connection its target.
    fn settle(&mut self) {
        self.scene.table.use_services(self.services.clone());
        for _ in 0..100 {
            self.read_pins(usize::MAX);
            self.acknowledge(usize::MAX);
            self.scene.sweep();
        }
        self.read_pins(usize::MAX);
        self.acknowledge(usize::MAX);
        assert!(self.scene.table.pin_progress().is_complete());
        for report in self.scene.table.reports(self.scene.now) {
            let told = self.copy.remove(&report.tuple);
            if matches!(self.services.state(report.target), Some(TargetState::Up | TargetState::Drain)) {
                assert!(told.is_some() || !report.pinned, "{report:?}");
                assert!(told.is_none_or(|target| target == report.target));
            }
        }
        assert!(self.copy.is_empty(), "records of nobody: {:?}", self.copy);
    }
}

proptest! {
    #[test]
    fn with_room_for_all(steps in proptest::collection::vec(step(), 1..120)) {
        let mut model = Model::new(usize::from(CONNECTIONS) * 120);
        for step in steps {
            model.step(step);
            model.check();
        }
        model.settle();
    }

    #[test]
    fn with_room_for_few(steps in proptest::collection::vec(step(), 1..120)) {
        let mut model = Model::new(5);
        for step in steps {
            model.step(step);
            model.check();
        }
        model.settle();
    }
}
