//! Rules that are broken on purpose: a check that doesn't find them proves nothing.

use std::time::Duration;

use vipsec_takeover::timing::Timing;

/// One rule that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Planted {
    /// The second appliance trusts its copy for ever.
    EndlessTrust,
    /// The first appliance leaves a copy behind at once.
    HastyOwner,
    /// R5: workers have no deadline.
    NoDeadline,
    /// An appliance finds an old floor on its disk and believes it.
    OldFloor,
    /// Joining: the mark is sent before the last record is acknowledged.
    EarlyMark,
    /// The fence: a deposed owner's writes are acknowledged.
    LeakyFence,
    /// An appliance that was missing once is missing for ever.
    EndlessAbsence,
    /// With a registry: it takes every write, whatever has been written since the writer read.
    CarelessRegistry,
}

impl Planted {
    /// An appliance's times under this fault.
    pub(crate) fn timing(planted: Option<Self>, side: usize, right: Timing) -> Timing {
        match (planted, side) {
            (Some(Self::EndlessTrust), 1) => Timing { trust: Duration::from_secs(3600), ..right },
            (Some(Self::HastyOwner), 0) => Timing { trust: Duration::ZERO, trust_margin: Duration::ZERO, ..right },
            _ => right,
        }
    }
}
