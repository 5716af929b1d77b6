use super::*;
use crate::service::{Service, Target, TargetId};

const SECOND: Duration = Duration::from_secs(1);
const SYN: PacketInfo = PacketInfo { tcp: Some(Flags::SYN), bytes: 60 };
const SYN_ACK: PacketInfo = PacketInfo { tcp: Some(Flags(0x12)), bytes: 60 };
const ACK: PacketInfo = PacketInfo { tcp: Some(Flags::ACK), bytes: 52 };
const FIN: PacketInfo = PacketInfo { tcp: Some(Flags(0x11)), bytes: 52 };
const RST: PacketInfo = PacketInfo { tcp: Some(Flags::RST), bytes: 40 };
const DATAGRAM: PacketInfo = PacketInfo { tcp: None, bytes: 100 };

fn tuple(protocol: u8, remote_port: u16) -> FiveTuple {
    let remote = IpAddr::from([10, 9, 0, 1]);
    FiveTuple { protocol, remote, remote_port, vip: IpAddr::from([192, 0, 2, 1]), vip_port: 80 }
}

fn services(states: &[TargetState]) -> ServiceTable {
    let targets: Vec<Target> = (1u16..)
        .zip(states)
        .map(|(id, &state)| Target { state, ..Target::new(TargetId(id), IpAddr::from([10, 1, 0, id as u8])) })
        .collect();
    let all = targets.iter().map(|target| target.id).collect();
    let service = Service::new(IpAddr::from([192, 0, 2, 1]), all);
    ServiceTable::new(targets, vec![service]).unwrap()
}

fn table(connections_max: usize) -> ConnectionTable {
    ConnectionTable::new(&Limits { connections_max, ..Limits::default() }, 0x5eed)
}

fn report(table: &ConnectionTable, now: Instant, services: &ServiceTable) -> ConnectionReport {
    table.reports(now, services).next().unwrap()
}

#[test]
fn a_new_connection_goes_where_the_services_say_and_is_counted_both_ways() {
    let now = Instant::now();
    let services = services(&[TargetState::Up; 3]);
    let mut table = table(8);
    let tuple = tuple(6, 40000);
    let first = table.to_target(now, &services, &tuple, &SYN).unwrap();
    assert_eq!(first, Choice { target: services.choose(&tuple).unwrap(), tracking: Tracking::New });
    assert_eq!(report(&table, now, &services).state, ConnectionState::TcpOpening);
    assert!(table.to_remote(now + SECOND, &tuple, &SYN_ACK));
    assert_eq!(table.to_target(now + 2 * SECOND, &services, &tuple, &ACK).unwrap().tracking, Tracking::Known);
    let report = report(&table, now + 5 * SECOND, &services);
    assert_eq!(report.state, ConnectionState::TcpEstablished);
    assert_eq!((report.age, report.idle), (5 * SECOND, 3 * SECOND));
    assert_eq!(report.to_target, Traffic { packets: 2, bytes: 112 });
    assert_eq!(report.to_remote, Traffic { packets: 1, bytes: 60 });
    assert!(!report.pinned);
}

#[test]
fn established_connections_stay_when_targets_change() {
    let now = Instant::now();
    let before = services(&[TargetState::Up]);
    let after = services(&[TargetState::Drain, TargetState::Up]);
    let mut table = table(8);
    let old = tuple(6, 40000);
    let target = table.to_target(now, &before, &old, &SYN).unwrap().target;
    assert_eq!(table.is_pinned(&before, &old), Some(false));

    table.services_changed();
    let choice = table.to_target(now, &after, &old, &ACK).unwrap();
    assert_eq!(choice, Choice { target, tracking: Tracking::Known });
    assert_eq!(table.is_pinned(&after, &old), Some(true), "a successor could not compute it");
    assert_eq!(table.pinned(now, &after).count(), 1);

    let new = table.to_target(now, &after, &tuple(6, 40001), &SYN).unwrap();
    assert_ne!(new.target, target, "a draining target gets nothing new");
    assert_eq!(table.is_pinned(&after, &tuple(6, 40001)), Some(false));
    assert_eq!(table.is_pinned(&after, &tuple(6, 40002)), None);
}

#[test]
fn a_connection_leaves_a_target_that_is_down_or_gone() {
    let now = Instant::now();
    let mut table = table(8);
    let tuple = tuple(17, 40000);
    let both = services(&[TargetState::Up, TargetState::Drain]);
    let first = table.to_target(now, &both, &tuple, &DATAGRAM).unwrap().target;
    let down = services(&[TargetState::Down, TargetState::Up]);
    table.services_changed();
    let moved = table.to_target(now, &down, &tuple, &DATAGRAM).unwrap();
    assert_eq!(moved.tracking, Tracking::Moved);
    assert_ne!(moved.target, first);
    table.services_changed();
    let gone = services(&[TargetState::Up]);
    assert_eq!(table.to_target(now, &gone, &tuple, &DATAGRAM), Ok(Choice { target: first, tracking: Tracking::Moved }));
    table.services_changed();
    let none = services(&[TargetState::Down]);
    assert_eq!(table.to_target(now, &none, &tuple, &DATAGRAM), Err(Refusal::NoTargetUp));
    assert_eq!(table.to_target(now, &none, &tuple, &DATAGRAM), Err(Refusal::NoTargetUp), "and goes on being refused");
}

#[test]
fn silence_ends_a_connection_after_its_states_timeout() {
    let now = Instant::now();
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
        let mut table = table(4);
        let tuple = tuple(protocol, 40000);
        for (direction, packet) in packets {
            match direction {
                Direction::ToTarget => drop(table.to_target(now, &services, &tuple, packet).unwrap()),
                Direction::ToRemote => assert!(table.to_remote(now, &tuple, packet)),
            }
        }
        assert_eq!(report(&table, now, &services).state, state);
        assert_eq!(table.expire(now + timeout - Duration::from_millis(1), 4), 0, "{state:?}");
        assert_eq!(table.expire(now + timeout, 4), 1, "{state:?}");
        assert!(table.is_empty());
    }
}

#[test]
fn an_expired_connection_counts_as_new_before_it_is_swept() {
    let now = Instant::now();
    let services = services(&[TargetState::Up; 2]);
    let mut table = table(4);
    let tuple = tuple(17, 1);
    table.to_target(now, &services, &tuple, &DATAGRAM).unwrap();
    let later = now + Timeouts::default().udp_one_way;
    assert!(!table.to_remote(later, &tuple, &DATAGRAM));
    assert_eq!(table.reports(later, &services).count(), 0);
    assert_eq!(table.to_target(later, &services, &tuple, &DATAGRAM).unwrap().tracking, Tracking::New);
    assert_eq!(table.len(), 1);
}

#[test]
fn ports_used_again_begin_a_new_connection() {
    let now = Instant::now();
    let before = services(&[TargetState::Up]);
    let after = services(&[TargetState::Drain, TargetState::Up]);
    let mut table = table(4);
    let tuple = tuple(6, 40000);
    let old = table.to_target(now, &before, &tuple, &SYN).unwrap().target;
    table.services_changed();
    assert_eq!(table.to_target(now, &after, &tuple, &SYN).unwrap().target, old, "a SYN sent again stays");
    table.to_remote(now, &tuple, &FIN);
    table.to_target(now, &after, &tuple, &FIN).unwrap();
    let again = table.to_target(now, &after, &tuple, &SYN).unwrap();
    assert_eq!(again.tracking, Tracking::New);
    assert_ne!(again.target, old);
}

#[test]
fn at_the_limit_new_connections_are_forwarded_without_an_entry() {
    let now = Instant::now();
    let services = services(&[TargetState::Up; 3]);
    let mut table = table(4);
    for port in 0..4 {
        assert_eq!(table.to_target(now, &services, &tuple(17, port), &DATAGRAM).unwrap().tracking, Tracking::New);
    }
    let fifth = tuple(17, 4);
    let expected = Choice { target: services.choose(&fifth).unwrap(), tracking: Tracking::Stateless };
    assert_eq!(table.to_target(now, &services, &fifth, &DATAGRAM), Ok(expected));
    assert_eq!(table.len(), 4);
    let later = now + Timeouts::default().udp_one_way;
    assert_eq!(table.to_target(later, &services, &fifth, &DATAGRAM).unwrap().tracking, Tracking::New, "room was made");
}

#[test]
fn a_stray_reset_makes_no_entry() {
    let services = services(&[TargetState::Up]);
    let mut table = table(4);
    let choice = table.to_target(Instant::now(), &services, &tuple(6, 1), &RST).unwrap();
    assert_eq!(choice.tracking, Tracking::Stateless);
    assert!(table.is_empty());
}
