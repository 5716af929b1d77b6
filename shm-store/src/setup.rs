//! What a side brings to a link.

use vipsec_wire::iv::ApplianceId;

use crate::Sizes;
use crate::pairing::Side;
use crate::region::RegionId;

/// What our side brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// Our configured id.
    pub appliance: ApplianceId,
    /// Random, drawn when the process starts.
    pub incarnation: [u8; 16],
    /// Digest of the configuration that matters.
    pub config_digest: [u8; 32],
    /// Sizes of the region that we keep for the peer; [`crate::Geometry::bytes`] tells its memory.
    pub sizes: Sizes,
}

impl Setup {
    /// Ours, with the region that we keep.
    pub(crate) fn side(self, region: RegionId) -> Side {
        let Self { appliance, incarnation, config_digest, sizes } = self;
        Side { appliance, incarnation, config_digest, region, sizes }
    }
}
