//! Faults that are built in on purpose, at the edges of the world: a simulation that doesn't find them proves nothing.

use std::time::Duration;

use vipsec_takeover::timing::Timing;

use crate::far::Lie;
use crate::scene::APPLIANCES_MAX;

/// One rule that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Planted {
    /// R1, R2: everything counts as acknowledged before it has landed in the store.
    EarlyAcknowledgement,
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
}

impl Planted {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::EarlyAcknowledgement,
        Self::NoHorizon,
        Self::NoDeadline,
        Self::NoDoubt,
        Self::StoppedClock,
        Self::OldFloor,
        Self::EndlessTrust,
        Self::HastyOwner,
        Self::CarelessRegistry,
        Self::ForgetfulRegistry,
        Self::HastyPins,
        Self::NoLeaseJump,
        Self::CommitFirst,
        Self::EarlyMark,
        Self::LateAdvertisement,
        Self::RacingClock,
        Self::UncountedService,
    ];

    /// What an owner is told of its writes, under this fault.
    pub(crate) fn lies_of_the_store(planted: Option<Self>) -> Option<Lie> {
        match planted? {
            Self::EarlyAcknowledgement => Some(Lie::Early),
            Self::NoDoubt => Some(Lie::NeverRefused),
            Self::CommitFirst => Some(Lie::CommitFirst),
            _ => None,
        }
    }

    /// How much faster the appliances' clocks run, in thousandths, under this fault.
    pub(crate) fn drift(planted: Option<Self>, right: [i16; APPLIANCES_MAX]) -> [i16; APPLIANCES_MAX] {
        if planted == Some(Self::RacingClock) { [2000, 0, 0] } else { right }
    }

    /// The times of both appliances, under this fault.
    pub(crate) fn timing(planted: Option<Self>, right: Timing) -> [Timing; APPLIANCES_MAX] {
        match planted {
            Some(Self::EndlessTrust) => [right, Timing { trust: Duration::from_secs(3600), ..right }, right],
            Some(Self::HastyOwner) => {
                [Timing { trust: Duration::ZERO, trust_margin: Duration::ZERO, ..right }, right, right]
            }
            _ => [right; APPLIANCES_MAX],
        }
    }
}
