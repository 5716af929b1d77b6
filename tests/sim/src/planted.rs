//! Faults that are built in on purpose, at the edges of the world: a simulation that doesn't find them proves nothing.

use std::time::Duration;

use vipsec_takeover::timing::Timing;

use crate::scene::APPLIANCES_MAX;
use crate::writer::Lie;

/// One rule that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Planted {
    /// R1: a child SA counts as acknowledged before its record is written.
    EarlySas,
    /// R2: IKE messages, their IDs and what they changed count as acknowledged before they are written.
    EarlyMessages,
    /// I3: a successor's fence keeps nobody out: a deposed owner's writes go on to be acknowledged.
    LeakyFence,
    /// R3: the workers have no horizon, though a copy counts.
    NoHorizon,
    /// R5: the workers' deadline never passes.
    NoDeadline,
    /// R7: whoever asks is told that the backup has not begun, and no refusal is heard.
    NoDoubt,
    /// R7: a paused process doesn't notice that time went by (a suspended virtual machine: outside of what a pair promises).
    StoppedClock,
    /// I1: a restarted appliance finds an old floor on its disk and believes it.
    OldFloor,
    /// The second appliance trusts its copy for ever.
    EndlessTrust,
    /// The first appliance leaves a copy behind at once.
    HastyOwner,
    /// With a registry: it takes every write, whatever has been written since the writer read.
    CarelessRegistry,
    /// With a registry: it says that a write stands that it has thrown away.
    ForgetfulRegistry,
    /// R6: a connection is forwarded before its record is acknowledged.
    HastyPins,
    /// R4: a successor's outbound numbers begin anew, not behind the lease.
    NoLeaseJump,
    /// The commit point: an IKE SA's record is written before those of its child SAs.
    CommitFirst,
    /// Joining: the mark comes before the join is through.
    EarlyMark,
    /// Step 6 of a takeover: packets leave before the first advertisement.
    LateAdvertisement,
    /// The trust time's margin: the first appliance's clock runs faster than it covers.
    RacingClock,
    /// Healing a split: whom an owner has served doesn't count.
    UncountedService,
    /// During a split: who doesn't answer is taken for dead.
    Impatience,
}

impl Planted {
    /// What an owner is told of its writes, under this fault.
    pub(crate) fn lies_of_the_store(planted: Option<Self>) -> Option<Lie> {
        match planted? {
            Self::EarlySas => Some(Lie::EarlySas),
            Self::EarlyMessages => Some(Lie::EarlyMessages),
            Self::NoDoubt => Some(Lie::NeverRefused),
            Self::CommitFirst => Some(Lie::CommitFirst),
            _ => None,
        }
    }

    /// Does it show only where writes take their time?
    pub(crate) fn needs_a_far_store(planted: Option<Self>) -> bool {
        matches!(planted, Some(Self::EarlySas | Self::EarlyMessages))
    }

    /// How much faster the appliances' clocks run, in thousandths, under this fault.
    pub(crate) fn drift(planted: Option<Self>, right: [i16; APPLIANCES_MAX]) -> [i16; APPLIANCES_MAX] {
        if planted != Some(Self::RacingClock) {
            return right;
        }
        let mut racing = [0; APPLIANCES_MAX];
        racing[0] = 2000;
        racing
    }

    /// The times of both appliances, under this fault.
    pub(crate) fn timing(planted: Option<Self>, right: Timing) -> [Timing; APPLIANCES_MAX] {
        let mut timing = [right; APPLIANCES_MAX];
        match planted {
            Some(Self::EndlessTrust) => timing[1].trust = Duration::from_secs(3600),
            Some(Self::HastyOwner) => (timing[0].trust, timing[0].trust_margin) = (Duration::ZERO, Duration::ZERO),
            _ => {}
        }
        timing
    }
}
