//! The hello on the wire.

use vipsec_wire::iv::ApplianceId;

use super::{PairingError, Side};
use crate::geometry::Sizes;
use crate::region::RegionId;
use crate::version::Versions;

pub(super) const HELLO: u8 = 1;
pub(super) const CONFIRM: u8 = 2;

/// Type (8) | oldest and newest version that the sender speaks (16 each) | id (8) | incarnation (128) | configuration digest (256) |
/// region (128) | share (256) | sizes | how regions are laid out (32) by each of those versions. Later versions may add to the end, which
/// older ones pass over: it is authenticated all the same. Whoever changes what stands here shares no version with those before.
#[derive(Debug, Clone)]
pub(super) struct Hello {
    pub(super) side: Side,
    pub(super) share: [u8; 32],
    /// From the oldest version on.
    pub(super) layouts: Vec<u32>,
}

/// That of releases whose hello says nothing of it.
const LAYOUT_UNSAID: u32 = 3;

impl Hello {
    pub(super) fn encode(&self) -> Vec<u8> {
        let Side { appliance, incarnation, versions, config_digest, region, sizes } = &self.side;
        let mut out = vec![HELLO];
        out.extend_from_slice(&versions.oldest.to_be_bytes());
        out.extend_from_slice(&versions.newest.to_be_bytes());
        out.push(appliance.get());
        out.extend_from_slice(incarnation);
        out.extend_from_slice(config_digest);
        out.extend_from_slice(&region.0);
        out.extend_from_slice(&self.share);
        out.extend_from_slice(&sizes.encode());
        out.extend(self.layouts.iter().flat_map(|layout| layout.to_be_bytes()));
        out
    }

    /// How its sender lays regions out by that version.
    pub(super) fn layout_of(&self, version: u16) -> u32 {
        let nth = version.checked_sub(self.side.versions.oldest).map(usize::from);
        nth.and_then(|nth| self.layouts.get(nth)).copied().unwrap_or(LAYOUT_UNSAID)
    }

    /// Reads a hello, if it has a version in common with `ours`.
    pub(super) fn decode(message: &[u8], ours: Versions) -> Result<Self, PairingError> {
        let mut rest = message;
        let [HELLO] = take(&mut rest)? else { return Err(PairingError::Unexpected) };
        let [oldest, newest] = [take(&mut rest)?, take(&mut rest)?].map(u16::from_be_bytes);
        let versions = Versions { oldest, newest };
        if versions.common(ours).is_none() {
            return Err(PairingError::NoCommonVersion { theirs: versions, ours });
        }
        let [id] = take(&mut rest)?;
        let appliance = ApplianceId::new(id).map_err(|_| PairingError::Unexpected)?;
        let incarnation = take(&mut rest)?;
        let config_digest = take(&mut rest)?;
        let region = RegionId(take(&mut rest)?);
        let share = take(&mut rest)?;
        let sizes = Sizes::decode(&take(&mut rest)?);
        let (layouts, _) = rest.as_chunks::<4>();
        let said = usize::from(newest.saturating_sub(oldest)).saturating_add(1);
        let layouts = layouts.iter().take(said).map(|layout| u32::from_be_bytes(*layout)).collect();
        Ok(Self { side: Side { appliance, incarnation, versions, config_digest, region, sizes }, share, layouts })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], PairingError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(PairingError::Unexpected)?;
    *rest = tail;
    Ok(*head)
}
