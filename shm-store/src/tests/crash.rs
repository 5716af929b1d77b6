//! The writer dies between any two stores, or the link is cut between any two bytes: the reader sees a prefix of the writes, whole,
//! with all acknowledged ones.

use proptest::prelude::*;

use super::support::{Step, Stepped, contents, op, record};

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn after_a_crash_at_any_store_the_region_holds_a_prefix(ops in prop::collection::vec(op(), 1..60), seed: u64) {
        let recording = record(&ops, seed);
        let mut memory = vec![0; recording.pair.region.geometry().words()];
        let mut acknowledged = 0;
        for step in [None].into_iter().chain(recording.steps.iter().map(Some)) {
            match step {
                Some(&Step::Store { at, word }) => memory[at] = word,
                Some(&Step::Learn { look }) => acknowledged = recording.looked(look),
                Some(&Step::Look { .. }) | None => {}
            }
            let snapshot = recording.pair.reader.copy_of(&Stepped::new(&memory, &[], |_| 0));
            let cut = snapshot.cut().0;
            prop_assert!(cut >= acknowledged);
            let batch = recording.pair.region.geometry().batch_writes_max();
            prop_assert!(u64::from(snapshot.unfinished()) <= batch, "one batch at most is under way");
            prop_assert_eq!(&contents(&snapshot), &recording.model.after[cut as usize]);
        }
    }

    /// Over TCP what arrives last may be a part of a word.
    #[test]
    fn a_link_cut_at_any_byte_loses_nothing_acknowledged(ops in prop::collection::vec(op(), 1..30), seed: u64) {
        let recording = record(&ops, seed);
        let mut memory = vec![0; recording.pair.region.geometry().words()];
        let mut acknowledged = 0;
        for step in &recording.steps {
            match *step {
                Step::Store { at, word } => {
                    for bytes in 1..8 {
                        let rest = u64::MAX << (8 * bytes);
                        let mut cut_off = memory.clone();
                        cut_off[at] = cut_off[at] & rest | word & !rest;
                        let snapshot = recording.pair.reader.copy_of(&Stepped::new(&cut_off, &[], |_| 0));
                        let cut = snapshot.cut().0;
                        prop_assert!(cut >= acknowledged);
                        prop_assert_eq!(&contents(&snapshot), &recording.model.after[cut as usize]);
                    }
                    memory[at] = word;
                }
                Step::Learn { look } => acknowledged = recording.looked(look),
                Step::Look { .. } => {}
            }
        }
    }
}
