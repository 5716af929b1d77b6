//! How the methods choose, and what they remember.

use super::*;
use crate::service::{Accepts, Method};

const MINUTE: Duration = Duration::from_secs(60);

fn by_weight(method: Method, weights: &[u16]) -> Arc<ServiceTable> {
    let mut targets = targets(&vec![TargetState::Up; weights.len()]);
    targets.iter_mut().zip(weights).for_each(|(target, &weight)| target.weight = weight);
    service_of(targets, |service| service.method = method)
}

/// How many of `count` new connections each of `targets` targets gets.
fn shares(scene: &mut Scene, targets: usize, count: u16) -> Vec<usize> {
    let mut shares = vec![0; targets];
    for port in 0..count {
        let (target, tracking) = scene.sends(&tuple(6, port), &SYN);
        assert_eq!(tracking, Tracking::New);
        shares[(0..targets).position(|n| address(n as u8 + 1) == target).unwrap()] += 1;
    }
    shares
}

#[test]
fn hashed_shares_follow_the_weights() {
    for method in [Method::Maglev, Method::TargetControlled] {
        let mut scene = Scene::new(20_000, by_weight(method, &[1, 2, 0, 5]));
        let shares = shares(&mut scene, 4, 16_000);
        for (share, expected) in shares.iter().zip([2000, 4000, 0, 10_000]) {
            // Four standard deviations of what chance does to a tenth of them.
            assert!(share.abs_diff(expected) < 260, "{method:?}: {shares:?}");
        }
    }
}

#[test]
fn turns_follow_the_weights_exactly_and_lie_apart() {
    let mut scene = Scene::new(100, by_weight(Method::WeightedRoundRobin, &[1, 4, 0, 2]));
    let turns: Vec<IpAddr> = (0..14).map(|port| scene.sends(&tuple(6, port), &SYN).0).collect();
    let count = |n| turns.iter().filter(|target| **target == address(n)).count();
    assert_eq!([1, 2, 3, 4].map(count), [2, 8, 0, 4]);
    assert!(!turns.windows(3).any(|turns| turns == [address(2); 3]), "{turns:?}");
}

#[test]
fn turns_go_on_when_other_targets_of_the_table_change() {
    let of_two = |state| {
        let mut all = targets(&[TargetState::Up, TargetState::Up, state]);
        let ids = [TargetId(1), TargetId(2)].to_vec();
        all[2].weight = 7;
        let service = Service { method: Method::WeightedRoundRobin, ..Service::new(VIP, ids) };
        Arc::new(ServiceTable::new(all, vec![service]).unwrap())
    };
    let mut scene = Scene::new(100, of_two(TargetState::Up));
    let mut turns = Vec::new();
    for port in 0..10 {
        turns.push(scene.sends(&tuple(6, port), &SYN).0);
        scene.table.use_services(of_two([TargetState::Up, TargetState::Down][usize::from(port) % 2]));
    }
    assert!(turns.windows(2).all(|turns| turns[0] != turns[1]), "{turns:?}");
}

#[test]
fn the_least_loaded_target_gets_the_next_connection() {
    let mut scene = Scene::new(1000, by_weight(Method::WeightedLeastConnections, &[1, 3, 0]));
    assert_eq!(shares(&mut scene, 3, 400), [100, 300, 0]);
    let active = |scene: &Scene| [1, 2, 3].map(|n| scene.table.active(address(n)));
    assert_eq!(active(&scene), [100, 300, 0]);
    // Those of the first target end: the next ones all go there.
    let ports: Vec<u16> =
        scene.table.reports(scene.now).filter(|r| r.target == address(1)).map(|r| r.tuple.remote_port).collect();
    ports.iter().for_each(|&port| assert!(scene.answer(&tuple(6, port), &FIN)));
    assert_eq!(active(&scene), [0, 300, 0]);
    for port in 1000..1099 {
        assert_eq!(scene.sends(&tuple(6, port), &SYN).0, address(1));
    }
    scene.now += Timeouts::default().tcp_opening;
    scene.sweep();
    assert_eq!(active(&scene), [0; 3]);
    assert_eq!(scene.table.len(), 100, "those that are closing are not active");
}

#[test]
fn equally_loaded_targets_take_turns() {
    let mut scene = Scene::new(100, by_weight(Method::WeightedLeastConnections, &[1, 1, 1]));
    let mut seen = Vec::new();
    for port in 0..6 {
        // Each is over before the next one comes.
        seen.push(scene.sends(&tuple(6, port), &SYN).0);
        scene.answer(&tuple(6, port), &RST);
    }
    assert_eq!(seen, [1, 2, 3, 1, 2, 3].map(address));
}

#[test]
fn the_first_target_that_is_up_takes_all_and_gets_it_back() {
    use TargetState::{Down, Drain, Up};
    let standby = |states: &[TargetState]| service_of(targets(states), |service| service.method = Method::HotStandby);
    let mut scene = Scene::new(100, standby(&[Up; 3]));
    assert_eq!(shares(&mut scene, 3, 10), [10, 0, 0]);
    let early = tuple(6, 1);
    scene.table.use_services(standby(&[Down, Drain, Up]));
    assert_eq!(scene.sends(&early, &ACK), (address(3), Tracking::Moved));
    let late = tuple(6, 50);
    assert_eq!(scene.sends(&late, &SYN).0, address(3));
    scene.table.use_services(standby(&[Up; 3]));
    assert_eq!(scene.sends(&late, &ACK).0, address(3), "what it took over it keeps");
    assert_eq!(scene.sends(&tuple(6, 51), &SYN).0, address(1));
}

#[test]
fn nobody_takes_what_is_new_when_all_weights_are_0() {
    for method in [
        Method::Maglev,
        Method::WeightedRoundRobin,
        Method::WeightedLeastConnections,
        Method::HotStandby,
        Method::TargetControlled,
    ] {
        let mut scene = Scene::new(10, by_weight(method, &[1, 0]));
        let old = tuple(6, 1);
        assert_eq!(scene.establish(&old), address(1), "{method:?}");
        scene.table.use_services(by_weight(method, &[0, 0]));
        assert_eq!(scene.send(&tuple(6, 2), &SYN), Err(Refusal::NoTargetUp), "{method:?}");
        assert_eq!(scene.sends(&old, &ACK), (address(1), Tracking::Known), "{method:?}");
    }
}

#[test]
fn every_appliance_chooses_the_same_without_a_past() {
    for method in [Method::Maglev, Method::HotStandby, Method::TargetControlled] {
        let services = by_weight(method, &[3, 1, 4, 1]);
        let mut one = Scene::new(500, services.clone());
        let mut other = Scene { table: ConnectionTable::new(&Limits::default(), 99, one.now, services), now: one.now };
        for port in (0..200).rev() {
            one.sends(&tuple(17, 1000 + port), &DATAGRAM);
        }
        for port in 0..200 {
            let (tcp, udp) = (tuple(6, port), tuple(17, port));
            assert_eq!(one.sends(&tcp, &SYN).0, other.sends(&tcp, &ACK).0, "{method:?}");
            assert_eq!(one.sends(&udp, &DATAGRAM).0, other.sends(&udp, &DATAGRAM).0, "{method:?}");
            assert_eq!((one.table.is_pinned(&tcp), one.table.is_pinned(&udp)), (Some(false), Some(false)));
        }
    }
}

#[test]
fn a_segment_in_the_midst_of_a_connection_goes_where_every_appliance_would_look_for_it() {
    for method in [Method::WeightedRoundRobin, Method::WeightedLeastConnections] {
        let mut scene = Scene::new(100, by_weight(method, &[1, 1, 1]));
        for port in 0..50 {
            let tuple = tuple(6, port);
            assert_eq!(scene.sends(&tuple, &ACK).0, scene.chosen(&tuple), "{method:?}");
            assert_eq!(scene.table.is_pinned(&tuple), Some(false));
        }
        for port in 100..130 {
            let tuple = tuple(6, port);
            let (target, _) = scene.sends(&tuple, &SYN);
            assert_eq!(scene.table.is_pinned(&tuple), Some(target != scene.chosen(&tuple)));
        }
        // A datagram doesn't say whether it is the first one.
        scene.sends(&tuple(17, 1), &DATAGRAM);
        assert_eq!(scene.table.is_pinned(&tuple(17, 1)), Some(true), "{method:?}");
    }
}

#[test]
fn a_remote_host_keeps_its_target_for_the_affinitys_time() {
    for method in [Method::WeightedRoundRobin, Method::WeightedLeastConnections] {
        let services = service_of(targets(&[TargetState::Up; 3]), |service| {
            service.method = method;
            service.affinity = Some(5 * MINUTE);
        });
        let mut scene = Scene::new(100, services);
        let other = FiveTuple { remote: IpAddr::from([10, 9, 0, 2]), ..tuple(6, 1) };
        let (first, _) = scene.sends(&tuple(6, 1), &SYN);
        assert_ne!(scene.sends(&other, &SYN).0, first, "another host is another turn");
        for port in 2..12 {
            scene.now += 4 * MINUTE;
            assert_eq!(scene.sends(&tuple(6, port), &SYN).0, first, "each connection prolongs it");
            scene.sweep();
        }
        scene.now += 5 * MINUTE;
        scene.sweep();
        assert_ne!(scene.sends(&tuple(6, 20), &SYN).0, first, "it ran out, and others are next");
    }
}

#[test]
fn a_living_connection_keeps_the_affinity_alive() {
    let services = service_of(targets(&[TargetState::Up; 3]), |service| {
        service.method = Method::WeightedRoundRobin;
        service.affinity = Some(MINUTE);
    });
    let mut scene = Scene::new(100, services);
    let first = scene.establish(&tuple(6, 1));
    for _ in 0..10 {
        scene.now += MINUTE / 2;
        scene.sends(&tuple(6, 1), &ACK);
        scene.sweep();
    }
    assert_eq!(scene.sends(&tuple(6, 2), &SYN).0, first);
}

#[test]
fn affinity_outlives_a_change_of_the_table_but_not_the_target() {
    let affine = |states: &[TargetState]| service_of(targets(states), |service| service.affinity = Some(5 * MINUTE));
    use TargetState::{Drain, Up};
    let mut scene = Scene::new(100, affine(&[Up]));
    assert_eq!(scene.sends(&tuple(6, 1), &SYN).0, address(1));
    scene.table.use_services(affine(&[Up, Up, Up, Up, Up]));
    let computed = scene.chosen(&tuple(6, 2));
    assert_ne!(computed, address(1), "what makes this test one");
    assert_eq!(scene.sends(&tuple(6, 2), &SYN).0, address(1));
    assert_eq!(scene.table.is_pinned(&tuple(6, 2)), Some(true), "a successor doesn't know the affinity");
    scene.table.use_services(affine(&[Drain, Up, Up, Up, Up]));
    let (elsewhere, _) = scene.sends(&tuple(6, 3), &SYN);
    assert_ne!(elsewhere, address(1), "a draining target gets nothing new");
    // The connections on it are still there, and don't bring the remote host back.
    scene.sweep();
    assert_eq!(scene.sends(&tuple(6, 4), &SYN).0, elsewhere);
}

#[test]
fn without_an_affinitys_record_all_connections_of_a_remote_host_are_computed_alike() {
    let services = service_of(targets(&[TargetState::Up; 5]), |service| service.affinity = Some(MINUTE));
    let mut one = Scene::new(100, services.clone());
    let mut other = Scene::new(100, services);
    for port in 0..20 {
        let target = one.sends(&tuple(6, port), &SYN).0;
        assert_eq!(
            (one.table.is_pinned(&tuple(6, port)), target),
            (Some(false), other.sends(&tuple(17, 0), &DATAGRAM).0)
        );
    }
}

#[test]
fn a_service_takes_what_came_in_its_way() {
    let cases = [
        (Accepts::Decrypted, Origin::Clear, Err(Refusal::NotInClear)),
        (Accepts::Decrypted, Origin::Decrypted, Ok(())),
        (Accepts::Clear, Origin::Clear, Ok(())),
        (Accepts::Clear, Origin::Decrypted, Err(Refusal::OnlyInClear)),
        (Accepts::Both, Origin::Clear, Ok(())),
        (Accepts::Both, Origin::Decrypted, Ok(())),
    ];
    for (accepts, origin, expected) in cases {
        let services = service_of(targets(&[TargetState::Up]), |service| service.accepts = accepts);
        let mut scene = Scene::new(10, services);
        let prepared = scene.table.prepare_one(scene.now, &tuple(6, 1));
        let verdict = scene.table.to_target(&prepared, origin, &SYN).map(|_| ());
        assert_eq!(verdict, expected, "{accepts:?} {origin:?}");
        assert_eq!(scene.table.to_remote(&prepared, &SYN_ACK), verdict.ok().map(|()| origin));
    }
}

#[test]
fn nobody_speaks_in_the_clear_for_a_connection_from_a_tunnel() {
    let mut scene = Scene::new(10, service_of(targets(&[TargetState::Up]), |service| service.accepts = Accepts::Both));
    let tuple = tuple(6, 1);
    let prepared = scene.table.prepare_one(scene.now, &tuple);
    let clear = |scene: &mut Scene| scene.table.to_target(&prepared, Origin::Clear, &RST).map(|choice| choice.tracking);
    assert_eq!(scene.table.to_target(&prepared, Origin::Clear, &SYN).unwrap().tracking, Tracking::New);
    assert_eq!(scene.send(&tuple, &SYN).unwrap().tracking, Tracking::New, "the authentic one takes its place");
    assert_eq!(clear(&mut scene), Err(Refusal::NotInClear));
    assert_eq!(scene.report().state, ConnectionState::TcpOpening, "not reset");
    assert_eq!(scene.table.to_remote(&prepared, &SYN_ACK), Some(Origin::Decrypted));
}

#[test]
fn an_icmp_error_follows_its_connection() {
    let mut scene = Scene::new(10, services(&[TargetState::Up]));
    let (known, unknown) = (tuple(6, 1), tuple(6, 2));
    scene.establish(&known);
    scene.table.use_services(services(&[TargetState::Drain, TargetState::Up]));
    let target = |scene: &Scene, tuple| scene.table.target_of(tuple).map(|index| scene.address(index));
    assert_eq!(target(&scene, &known), Ok(address(1)));
    assert_eq!(target(&scene, &unknown), Ok(address(2)));
    let elsewhere = FiveTuple { vip: address(99), ..known };
    assert_eq!(target(&scene, &elsewhere), Err(Refusal::UnknownService));
}
