//! What a side brings to a link.

use vipsec_wire::iv::ApplianceId;

use crate::pairing::Side;
use crate::region::RegionId;
use crate::{Sizes, Versions};

/// What our side brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// Our configured id.
    pub appliance: ApplianceId,
    /// Random, drawn when the process starts.
    pub incarnation: [u8; 16],
    /// The versions of the link that we speak.
    pub versions: Versions,
    /// Digest of the configuration that matters.
    pub config_digest: [u8; 32],
    /// Sizes of the region that we keep for the peer; [`crate::Geometry::bytes`] tells its memory.
    pub sizes: Sizes,
}

impl Setup {
    /// Ours, with the region that we keep.
    pub(crate) fn side(self, region: RegionId) -> Side {
        let Self { appliance, incarnation, versions, config_digest, sizes } = self;
        Side { appliance, incarnation, versions, config_digest, region, sizes }
    }
}
