use super::*;
use crate::service::{Service, Target, TargetId};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const SYN: PacketInfo = PacketInfo { tcp: Some(TcpFlags::SYN), bytes: 60 };
const SYN_ACK: PacketInfo = PacketInfo { tcp: Some(TcpFlags(0x12)), bytes: 60 };
const ACK: PacketInfo = PacketInfo { tcp: Some(TcpFlags::ACK), bytes: 52 };
const FIN: PacketInfo = PacketInfo { tcp: Some(TcpFlags(0x11)), bytes: 52 };
const RST: PacketInfo = PacketInfo { tcp: Some(TcpFlags::RST), bytes: 40 };
const DATAGRAM: PacketInfo = PacketInfo { tcp: None, bytes: 100 };

const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

fn tuple(protocol: u8, remote_port: u16) -> FiveTuple {
    let remote = IpAddr::from([10, 9, 0, 1]);
    FiveTuple { protocol, remote, remote_port, vip: VIP, vip_port: 80 }
}

fn address(n: u8) -> IpAddr {
    IpAddr::from([10, 1, 0, n])
}

/// Targets 1, 2, … in these states.
fn targets(states: &[TargetState]) -> Vec<Target> {
    (1u8..).zip(states).map(|(n, &state)| Target { state, ..Target::new(TargetId(n.into()), address(n)) }).collect()
}

/// One service of all of them, changed by `change`.
fn service_of(targets: Vec<Target>, change: impl FnOnce(&mut Service)) -> Arc<ServiceTable> {
    let mut service = Service::new(VIP, targets.iter().map(|target| target.id).collect());
    change(&mut service);
    ServiceTable::new(targets, vec![service]).unwrap().into()
}

fn services(states: &[TargetState]) -> Arc<ServiceTable> {
    service_of(targets(states), |_| {})
}

/// A table with a clock.
struct Scene {
    table: ConnectionTable,
    now: Instant,
}

impl Scene {
    fn new(connections_max: usize, services: Arc<ServiceTable>) -> Self {
        let now = Instant::now();
        let limits = Limits { connections_max, ..Limits::default() };
        Self { table: ConnectionTable::new(&limits, 0x5eed, now, services), now }
    }

    fn send(&mut self, tuple: &FiveTuple, packet: &PacketInfo) -> Result<Choice, Refusal> {
        let prepared = self.table.prepare_one(self.now, tuple);
        self.table.to_target(&prepared, Origin::Decrypted, packet)
    }

    /// The address and the tracking of a choice.
    fn sends(&mut self, tuple: &FiveTuple, packet: &PacketInfo) -> (IpAddr, Tracking) {
        let choice = self.send(tuple, packet).unwrap();
        (self.address(choice.target), choice.tracking)
    }

    fn answer(&mut self, tuple: &FiveTuple, packet: &PacketInfo) -> bool {
        let prepared = self.table.prepare_one(self.now, tuple);
        self.table.to_remote(&prepared, packet).is_some()
    }

    /// A whole handshake.
    fn establish(&mut self, tuple: &FiveTuple) -> IpAddr {
        let (target, _) = self.sends(tuple, &SYN);
        assert!(self.answer(tuple, &SYN_ACK));
        assert_eq!(self.sends(tuple, &ACK), (target, Tracking::Known));
        target
    }

    fn chosen(&self, tuple: &FiveTuple) -> IpAddr {
        self.address(self.table.services().choose(tuple).unwrap())
    }

    fn address(&self, target: TargetIndex) -> IpAddr {
        self.table.services().target(target).unwrap().address
    }

    fn sweep(&mut self) -> usize {
        self.table.sweep(self.now, usize::MAX)
    }

    fn report(&self) -> ConnectionReport {
        self.table.reports(self.now).next().unwrap()
    }
}

#[test]
fn a_new_connection_goes_where_the_services_say_and_is_counted_both_ways() {
    let mut scene = Scene::new(8, services(&[TargetState::Up; 3]));
    let tuple = tuple(6, 40000);
    let chosen = scene.chosen(&tuple);
    assert_eq!(scene.sends(&tuple, &SYN), (chosen, Tracking::New));
    assert_eq!(scene.report().state, ConnectionState::TcpOpening);
    scene.now += SECOND;
    assert!(scene.answer(&tuple, &SYN_ACK));
    scene.now += SECOND;
    assert_eq!(scene.sends(&tuple, &ACK), (chosen, Tracking::Known));
    scene.now += 3 * SECOND;
    let report = scene.report();
    assert_eq!((report.tuple, report.target), (tuple, chosen));
    assert_eq!(report.state, ConnectionState::TcpEstablished);
    assert_eq!((report.age, report.idle), (5 * SECOND, 3 * SECOND));
    assert_eq!(report.to_target, Traffic { packets: 2, bytes: 112 });
    assert_eq!(report.to_remote, Traffic { packets: 1, bytes: 60 });
    assert!(!report.pinned);
}

#[test]
fn established_connections_stay_when_targets_change() {
    let mut scene = Scene::new(8, services(&[TargetState::Up]));
    let (old, new) = (tuple(6, 40000), tuple(6, 40001));
    let (target, _) = scene.sends(&old, &SYN);
    assert_eq!(scene.table.is_pinned(&old), Some(false));

    scene.table.use_services(services(&[TargetState::Drain, TargetState::Up]));
    assert_eq!(scene.sends(&old, &ACK), (target, Tracking::Known));
    assert_eq!(scene.table.is_pinned(&old), Some(true), "a successor could not compute it");
    assert_eq!(scene.table.pinned(scene.now).count(), 1);

    assert_ne!(scene.sends(&new, &SYN).0, target, "a draining target gets nothing new");
    assert_eq!(scene.table.is_pinned(&new), Some(false));
    assert_eq!(scene.table.is_pinned(&tuple(6, 40002)), None);
}

#[test]
fn a_connection_leaves_a_target_that_is_down_or_gone() {
    let mut scene = Scene::new(8, services(&[TargetState::Up, TargetState::Drain]));
    let tuple = tuple(17, 40000);
    let (first, _) = scene.sends(&tuple, &DATAGRAM);
    scene.table.use_services(services(&[TargetState::Down, TargetState::Up]));
    let (second, tracking) = scene.sends(&tuple, &DATAGRAM);
    assert_eq!(tracking, Tracking::Moved);
    assert_ne!(second, first);
    scene.table.use_services(services(&[TargetState::Up]));
    assert_eq!(scene.sends(&tuple, &DATAGRAM), (first, Tracking::Moved));
    scene.table.use_services(services(&[TargetState::Down]));
    assert_eq!(scene.send(&tuple, &DATAGRAM), Err(Refusal::NoTargetUp));
    assert_eq!(scene.send(&tuple, &DATAGRAM), Err(Refusal::NoTargetUp), "and goes on being refused");
}

#[test]
fn a_target_that_comes_back_leaves_moved_connections_where_they_are() {
    let both = services(&[TargetState::Up; 2]);
    let mut scene = Scene::new(64, both.clone());
    let tuples: Vec<FiveTuple> = (0..32).map(|port| tuple(6, port)).collect();
    tuples.iter().for_each(|tuple| assert_eq!(scene.establish(tuple), scene.chosen(tuple)));
    scene.table.use_services(services(&[TargetState::Down, TargetState::Up]));
    tuples.iter().for_each(|tuple| assert_eq!(scene.sends(tuple, &ACK).0, address(2)));
    scene.table.use_services(both);
    for tuple in &tuples {
        assert_eq!(scene.sends(tuple, &ACK), (address(2), Tracking::Known));
        assert_eq!(scene.table.is_pinned(tuple), Some(scene.chosen(tuple) != address(2)));
    }
}

#[test]
fn silence_ends_a_connection_after_its_states_timeout() {
    let services = services(&[TargetState::Up; 2]);
    let timeouts = Timeouts::default();
    type Exchange<'a> = (u8, &'a [(Direction, PacketInfo)], ConnectionState, Duration);
    let (there, back) = (Direction::ToTarget, Direction::ToRemote);
    let exchanges: [Exchange<'_>; 8] = [
        (6, &[(there, SYN)], ConnectionState::TcpOpening, timeouts.tcp_opening),
        (6, &[(there, SYN), (back, SYN_ACK)], ConnectionState::TcpEstablished, timeouts.tcp_established),
        (6, &[(there, ACK)], ConnectionState::TcpEstablished, timeouts.tcp_established),
        (6, &[(there, ACK), (back, FIN)], ConnectionState::TcpClosing, timeouts.tcp_closing),
        (6, &[(there, ACK), (back, RST)], ConnectionState::TcpReset, timeouts.tcp_reset),
        (17, &[(there, DATAGRAM), (there, DATAGRAM)], ConnectionState::UdpOneWay, timeouts.udp_one_way),
        (17, &[(there, DATAGRAM), (back, DATAGRAM)], ConnectionState::UdpTwoWay, timeouts.udp_two_way),
        (1, &[(there, DATAGRAM)], ConnectionState::Icmp, timeouts.icmp),
    ];
    for (protocol, packets, state, timeout) in exchanges {
        let mut scene = Scene::new(4, services.clone());
        let tuple = tuple(protocol, 40000);
        for (direction, packet) in packets {
            match direction {
                Direction::ToTarget => assert!(scene.send(&tuple, packet).is_ok()),
                Direction::ToRemote => assert!(scene.answer(&tuple, packet)),
            }
        }
        assert_eq!(scene.report().state, state);
        scene.now += timeout - Duration::from_millis(1);
        assert_eq!(scene.sweep(), 0, "{state:?}");
        scene.now += Duration::from_millis(1);
        assert_eq!(scene.sweep(), 1, "{state:?}");
        assert!(scene.table.is_empty());
    }
}

#[test]
fn an_expired_connection_counts_as_new_before_it_is_swept() {
    let mut scene = Scene::new(4, services(&[TargetState::Up; 2]));
    let tuple = tuple(17, 1);
    scene.sends(&tuple, &DATAGRAM);
    scene.now += Timeouts::default().udp_one_way;
    assert!(!scene.answer(&tuple, &DATAGRAM));
    assert_eq!(scene.table.reports(scene.now).count(), 0);
    assert_eq!(scene.sends(&tuple, &DATAGRAM).1, Tracking::New);
    assert_eq!(scene.table.len(), 1);
}

#[test]
fn ports_used_again_begin_a_new_connection() {
    let mut scene = Scene::new(4, services(&[TargetState::Up]));
    let tuple = tuple(6, 40000);
    let (old, _) = scene.sends(&tuple, &SYN);
    scene.table.use_services(services(&[TargetState::Drain, TargetState::Up]));
    assert_eq!(scene.sends(&tuple, &SYN).0, old, "a SYN sent again stays");
    scene.answer(&tuple, &FIN);
    scene.sends(&tuple, &FIN);
    let (again, tracking) = scene.sends(&tuple, &SYN);
    assert_eq!(tracking, Tracking::New);
    assert_ne!(again, old);
}

#[test]
fn at_the_limit_new_connections_are_forwarded_without_an_entry() {
    let mut scene = Scene::new(4, services(&[TargetState::Up; 3]));
    for port in 0..4 {
        scene.establish(&tuple(6, port));
    }
    let fifth = tuple(6, 4);
    let chosen = scene.chosen(&fifth);
    assert_eq!(scene.sends(&fifth, &SYN), (chosen, Tracking::Stateless));
    assert_eq!(scene.sends(&fifth, &ACK), (chosen, Tracking::Stateless));
    assert_eq!(scene.table.len(), 4);
    scene.now += Timeouts::default().tcp_established;
    assert_eq!(scene.sends(&fifth, &ACK), (chosen, Tracking::New), "room was made");
}

#[test]
fn a_stray_reset_makes_no_entry() {
    let mut scene = Scene::new(4, services(&[TargetState::Up]));
    assert_eq!(scene.sends(&tuple(6, 1), &RST).1, Tracking::Stateless);
    assert!(scene.table.is_empty());
}

mod flood;
mod methods;
mod model;
mod pins;
