//! What is checked: anything that decides.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::{Duration, Instant};

use vipsec_takeover::Decider;
use vipsec_takeover::floor::Floor;
use vipsec_takeover::pair::{Pair, PairConfig};
use vipsec_takeover::registry::{Member, MemberConfig, Process};
use vipsec_takeover::timing::Timing;
use vipsec_wire::iv::ApplianceId;

/// A decider whose states can be told apart.
pub trait Subject: Decider + Clone + PartialEq + Hash + Debug + Send + Sync + 'static {
    /// Does a registry decide?
    const ASKS_REGISTRY: bool;

    /// A process begins.
    fn start(me: usize, incarnation: u64, timing: Timing, floor: Floor, now: Instant) -> Self;
}

impl Subject for Pair {
    const ASKS_REGISTRY: bool = false;

    fn start(me: usize, _incarnation: u64, timing: Timing, floor: Floor, now: Instant) -> Self {
        let config = PairConfig { me: id(me), peer: id(1 - me), timing, preferred: me == 0, floor };
        Self::new(config, now)
    }
}

impl Subject for Member {
    const ASKS_REGISTRY: bool = true;

    fn start(me: usize, incarnation: u64, timing: Timing, floor: Floor, now: Instant) -> Self {
        let me = Process { appliance: id(me), incarnation };
        Self::new(MemberConfig { me, ranks: vec![id(0), id(1)], timing, floor }, now)
    }
}

/// An appliance's id.
pub(crate) fn id(side: usize) -> ApplianceId {
    ApplianceId::new(side as u8 + 1).expect("not 0")
}

/// One look, in real time.
pub(crate) const LOOK: Duration = Duration::from_millis(10);

/// The shortest times between which what has to hold holds.
pub(crate) fn timing() -> Timing {
    Timing {
        interval: LOOK,
        deadline: 2 * LOOK,
        detection: 4 * LOOK,
        trust: 7 * LOOK,
        trust_margin: LOOK,
        claim_preferred: 5 * LOOK,
        claim_other: 12 * LOOK,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_times_are_allowed() {
        assert_eq!(super::timing().check(), Ok(()));
    }
}
