//! A simulation is worth what it finds: each rule, once it is broken, is found within the schedules that the tests run.

use vipsec_sim::{Deciders, Planted, Violation, run_split, run_with};

/// As many as `schedules.rs` runs.
const SCHEDULES: u64 = 3000;

/// Some schedule of a pair breaks the expected promise, and it doesn't without the fault.
fn assert_found(planted: Planted, expected: impl Fn(&Violation) -> bool) {
    assert_found_with(planted, Deciders::Pair, expected);
}

/// The same, with a registry.
fn assert_found_with(planted: Planted, deciders: Deciders, expected: impl Fn(&Violation) -> bool) {
    let broken =
        |seed, planted| run_with(seed, planted, deciders).violation.is_some_and(|(.., violation)| expected(&violation));
    let found = (1..=SCHEDULES).find(|seed| broken(*seed, Some(planted)) && !broken(*seed, None));
    assert!(found.is_some(), "{planted:?} is not found in {SCHEDULES} schedules");
}

#[test]
fn an_sa_that_is_used_before_its_record_is_acknowledged() {
    assert_found(Planted::EarlySas, |violation| matches!(violation, Violation::UsedUnpublished { .. }));
}

#[test]
fn an_ike_message_that_leaves_before_it_is_acknowledged() {
    assert_found(Planted::EarlyMessages, |violation| matches!(violation, Violation::SpokenUnpublished { .. }));
}

#[test]
fn a_fence_that_keeps_nobody_out() {
    assert_found(Planted::LeakyFence, |violation| matches!(violation, Violation::AcknowledgedBehindFence { .. }));
}

#[test]
fn packets_above_the_horizon() {
    assert_found(Planted::NoHorizon, |violation| matches!(violation, Violation::DeliveredTwice { .. }));
}

#[test]
fn workers_without_a_deadline() {
    assert_found(Planted::NoDeadline, |violation| matches!(violation, Violation::TwoActors { .. }));
}

#[test]
fn an_owner_without_doubt() {
    assert_found(Planted::NoDoubt, |violation| {
        matches!(violation, Violation::TwoActors { .. } | Violation::DeliveredTwice { .. } | Violation::SaLost { .. })
    });
}

#[test]
fn a_process_whose_clock_stood_still() {
    assert_found(Planted::StoppedClock, |violation| matches!(violation, Violation::TwoActors { .. }));
}

#[test]
fn a_floor_that_went_back() {
    assert_found(Planted::OldFloor, |violation| matches!(violation, Violation::IvReused { .. }));
}

#[test]
fn a_backup_that_trusts_for_ever() {
    assert_found(Planted::EndlessTrust, |violation| {
        matches!(violation, Violation::DeliveredTwice { .. } | Violation::SaLost { .. })
    });
}

#[test]
fn an_owner_that_leaves_its_copy_behind_at_once() {
    assert_found(Planted::HastyOwner, |violation| {
        matches!(violation, Violation::DeliveredTwice { .. } | Violation::SaLost { .. })
    });
}

#[test]
fn a_registry_that_compares_nothing() {
    assert_found_with(Planted::CarelessRegistry, Deciders::Registry, |violation| {
        !matches!(violation, Violation::Stuck(_))
    });
}

#[test]
fn a_registry_that_forgets_whom_it_was_told_to_strike_off() {
    assert_found_with(Planted::ForgetfulRegistry, Deciders::Registry, |violation| {
        !matches!(violation, Violation::Stuck(_))
    });
}

/// What counts as an appliance that could not know better is told apart from one that doesn't stop, also where claims come late.
#[test]
fn workers_without_a_deadline_with_a_registry() {
    let found = |violation: &Violation| matches!(violation, Violation::TwoActors { .. });
    assert_found_with(Planted::NoDeadline, Deciders::Registry, found);
}

/// Of several owners in a row only the one is fenced off whose copy is taken.
#[test]
fn a_fence_that_keeps_nobody_out_with_a_registry() {
    let found = |violation: &Violation| matches!(violation, Violation::AcknowledgedBehindFence { .. });
    assert_found_with(Planted::LeakyFence, Deciders::Registry, found);
}

#[test]
fn connections_forwarded_before_their_record_is_acknowledged() {
    assert_found(Planted::HastyPins, |violation| matches!(violation, Violation::TargetChanged { .. }));
}

#[test]
fn a_successor_that_counts_anew() {
    assert_found(Planted::NoLeaseJump, |violation| matches!(violation, Violation::NumberRefused { .. }));
}

#[test]
fn a_commit_point_that_comes_first() {
    assert_found(Planted::CommitFirst, |violation| matches!(violation, Violation::SaLost { .. }));
}

#[test]
fn a_mark_before_the_join_is_through() {
    assert_found(Planted::EarlyMark, |violation| {
        matches!(violation, Violation::DeliveredTwice { .. } | Violation::SaLost { .. })
    });
}

#[test]
fn packets_before_the_first_advertisement() {
    assert_found(Planted::LateAdvertisement, |violation| matches!(violation, Violation::NotAdvertised { .. }));
}

#[test]
fn a_clock_that_runs_faster_than_the_margin_covers() {
    assert_found(Planted::RacingClock, |violation| {
        matches!(
            violation,
            Violation::DeliveredTwice { .. }
                | Violation::SaLost { .. }
                | Violation::TwoActors { .. }
                | Violation::TargetChanged { .. }
        )
    });
}

/// A remote peer that is silent may be served by the missing appliance.
#[test]
fn a_split_in_which_silence_counts() {
    let broken = |seed, planted| {
        let violation = run_split(seed, planted).violation;
        violation.is_some_and(|(.., violation)| matches!(violation, Violation::GivenUpInSplit { .. }))
    };
    assert!((1..=50).any(|seed| broken(seed, Some(Planted::Impatience)) && !broken(seed, None)));
}

/// The two of a split compare whom they have served; otherwise the backup that was cut off would depose its owner.
#[test]
fn a_split_in_which_service_does_not_count() {
    let broken = |seed, planted| {
        let violation = run_split(seed, planted).violation;
        violation.is_some_and(|(.., violation)| matches!(violation, Violation::Usurped { .. }))
    };
    assert!((1..=50).any(|seed| broken(seed, Some(Planted::UncountedService)) && !broken(seed, None)));
}
