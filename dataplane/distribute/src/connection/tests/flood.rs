//! When every place is taken.

use super::*;

/// A connection of one of 2^32 remote hosts.
fn stranger(n: u32) -> FiveTuple {
    FiveTuple { remote: std::net::Ipv4Addr::from_bits(n ^ 0x5a5a_0000).into(), ..tuple(6, 7) }
}

/// The first segments of as many connections.
fn flood(scene: &mut Scene, strangers: std::ops::Range<u32>) {
    for n in strangers {
        scene.sends(&stranger(n), &SYN);
    }
}

#[test]
fn ten_million_first_segments_displace_no_established_connection() {
    const ESTABLISHED: u16 = 600;
    let mut scene = Scene::new(1000, services(&[TargetState::Up; 4]));
    // Among half-open ones, so that they lie anywhere.
    for port in 0..ESTABLISHED {
        scene.establish(&tuple(6, port));
        scene.sends(&stranger(u32::MAX - u32::from(port)), &SYN);
    }
    let mut n = 0;
    for second in 0..100 {
        scene.now += SECOND;
        for _ in 0..100_000 / BURST_MAX {
            let burst = scene.table.prepare(scene.now, (n..).map(stranger));
            n += burst.len() as u32;
            for prepared in &burst {
                scene.table.to_target(prepared, Origin::Decrypted, &SYN).unwrap();
            }
        }
        let places = scene.table.sweep_step(SECOND);
        scene.table.sweep(scene.now, places);
        // A new connection comes through all the same.
        scene.establish(&tuple(6, 10_000 + second));
    }
    assert_eq!(n, 10_000_000);
    assert!(scene.table.len() <= 1000);
    for port in (0..ESTABLISHED).chain(10_000..10_100) {
        assert_eq!(scene.sends(&tuple(6, port), &ACK).1, Tracking::Known, "port {port}");
    }
}

#[test]
fn an_opening_connection_lives_through_as_many_others_as_there_are_places() {
    const PLACES: u32 = 500;
    let mut scene = Scene::new(PLACES as usize, services(&[TargetState::Up; 4]));
    flood(&mut scene, 0..PLACES);
    let slow = tuple(6, 1);
    assert_eq!(scene.sends(&slow, &SYN).1, Tracking::New);
    flood(&mut scene, PLACES..2 * PLACES - 1);
    assert!(scene.answer(&slow, &SYN_ACK), "the oldest gave way first");
    flood(&mut scene, 2 * PLACES..4 * PLACES);
    assert_eq!(scene.sends(&slow, &ACK).1, Tracking::Known);
    assert_eq!(scene.table.evicted(), u64::from(4 * PLACES - PLACES));
}

#[test]
fn a_stream_that_goes_one_way_outlives_single_datagrams() {
    const PLACES: u16 = 64;
    let mut scene = Scene::new(PLACES.into(), services(&[TargetState::Up; 4]));
    let stream = tuple(17, 60_000);
    scene.sends(&stream, &DATAGRAM);
    for port in 0..10 * PLACES {
        scene.sends(&tuple(17, port), &DATAGRAM);
        assert_eq!(scene.sends(&stream, &DATAGRAM).1, Tracking::Known, "after {port}");
    }
}

#[test]
fn answered_datagrams_give_way_once_they_are_silent() {
    let mut scene = Scene::new(4, services(&[TargetState::Up; 4]));
    for port in 0..4 {
        scene.sends(&tuple(17, port), &DATAGRAM);
        scene.answer(&tuple(17, port), &DATAGRAM);
    }
    assert_eq!(scene.sends(&tuple(6, 1), &SYN).1, Tracking::Stateless);
    scene.now += Timeouts::default().udp_one_way;
    scene.answer(&tuple(17, 0), &DATAGRAM);
    assert_eq!(scene.establish(&tuple(6, 1)), scene.chosen(&tuple(6, 1)));
    assert!(scene.answer(&tuple(17, 0), &DATAGRAM), "this one was not silent");
}

#[test]
fn a_round_of_the_sweep_takes_as_long_as_it_says() {
    let mut scene = Scene::new(10_000, services(&[TargetState::Up; 4]));
    flood(&mut scene, 0..9_999);
    scene.now += Timeouts::default().tcp_opening;
    let tick = Duration::from_millis(10);
    let mut forgotten = 0;
    for _ in 0..ConnectionTable::SWEEP.as_millis() / tick.as_millis() {
        let places = scene.table.sweep_step(tick);
        assert!(places <= 10, "a step is a thousandth of the table");
        forgotten += scene.table.sweep(scene.now, places);
    }
    assert_eq!((forgotten, scene.table.len()), (9_999, 0));
}
