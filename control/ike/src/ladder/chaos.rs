//! A seeded storm: both ends do what they like, messages are lost, doubled and late, and either end may be replaced by a successor
//! at any time. When it is over, both know the same SAs.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::bench::Flying;
use super::{ALICE, BOB, Bench, Setup};
use crate::{Limits, Phase, Retransmission};

const STEPS: usize = 250;

fn storm(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let limits = Limits { closed_linger: Duration::from_secs(60), ..Limits::default() };
    let retransmission =
        Retransmission { first: Duration::from_millis(500), interval_max: Duration::from_secs(4), tries_max: 12 };
    let setup = Setup {
        seed,
        limits,
        retransmission,
        dpd_delay: Some(Duration::from_secs(20)),
        ike_rekey_time: [Some(Duration::from_secs(170)), Some(Duration::from_secs(170))],
        child_rekey_time: [Some(Duration::from_secs(50)), Some(Duration::from_secs(50))],
        ..Setup::default()
    };
    let mut bench = Bench::established(setup);
    let mut late: Vec<Flying> = Vec::new();
    for _ in 0..STEPS {
        match rng.random_range(0..20) {
            0 | 1 => act(&mut bench, &mut rng),
            2 => bench.replace(rng.random_range(0..2)),
            3..=6 => {
                bench.now += Duration::from_millis(rng.random_range(1..3000));
                let now = bench.now;
                bench.sides.iter_mut().for_each(|side| side.endpoint.handle_timeout(now));
            }
            7 if !late.is_empty() => {
                let flying = late.swap_remove(rng.random_range(0..late.len()));
                bench.hand_over(&flying);
            }
            _ => {
                bench.collect();
                let Some(flying) = bench.wire.pop_front() else { continue };
                match rng.random_range(0..10) {
                    0 => {}
                    1 => late.push(flying),
                    2 => {
                        bench.hand_over(&flying);
                        late.push(flying);
                    }
                    _ => bench.hand_over(&flying),
                }
            }
        }
    }
    // The network heals, and what was given up on one end ends on the other. No rekeying is due for a moment then.
    for flying in late {
        bench.hand_over(&flying);
    }
    bench.pass(Duration::from_secs(300));
    for _ in 0..200 {
        let quiet = bench
            .sides
            .iter()
            .all(|side| side.sas(bench.now).iter().all(|sa| !sa.waiting && sa.phase == Phase::Established));
        if quiet {
            break;
        }
        bench.pass(Duration::from_millis(250));
    }
    bench.assert_children_match();
    let [alice, bob] = [ALICE, BOB].map(|side| bench.sides[side].sas(bench.now));
    let mut ours: Vec<_> = alice.iter().map(|sa| (sa.id.get(), sa.remote_spi)).collect();
    let mut theirs: Vec<_> = bob.iter().map(|sa| (sa.remote_spi, sa.id.get())).collect();
    ours.sort_unstable();
    theirs.sort_unstable();
    assert_eq!(ours, theirs);
}

fn act(bench: &mut Bench, rng: &mut StdRng) {
    let side = rng.random_range(0..2);
    let sas = bench.sides[side].sas(bench.now);
    let endpoint = &mut bench.sides[side].endpoint;
    let now = bench.now;
    let Some(sa) = sas.get(rng.random_range(0..sas.len().max(1))) else {
        let _ = endpoint.initiate("between", "net", now);
        return;
    };
    let child = sa.children.get(rng.random_range(0..sa.children.len().max(1))).map_or(0, |child| child.spi_in);
    // What doesn't fit the moment is refused, and that is fine.
    let _ = match rng.random_range(0..12) {
        0..4 => endpoint.rekey_child(child, now),
        4..7 => endpoint.rekey_ike(sa.id, now),
        7 if sa.children.len() < 4 => endpoint.create_child(sa.id, "spare", now),
        8 => endpoint.delete_child(child, now),
        9 => endpoint.check_liveness(sa.id, now),
        10 if sas.len() < 3 => endpoint.initiate("between", "net", now).map(|_| ()),
        11 => endpoint.delete_ike(sa.id, now),
        _ => Ok(()),
    };
}

#[test]
fn storms() {
    for seed in 0..60 {
        let result = std::panic::catch_unwind(|| storm(seed));
        assert!(result.is_ok(), "seed {seed}");
    }
}
