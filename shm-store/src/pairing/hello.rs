//! The hello on the wire.

use vipsec_wire::iv::ApplianceId;

use super::{PairingError, Side};
use crate::geometry::{LAYOUT_VERSION, Sizes};
use crate::region::RegionId;

pub(super) const HELLO: u8 = 1;
pub(super) const CONFIRM: u8 = 2;

/// Type (8) | layout version (32) | id (8) | incarnation (128) | configuration digest (256) | region (128) | share (256) |
/// sizes. A later layout may change everything behind the version.
#[derive(Debug, Clone)]
pub(super) struct Hello {
    pub(super) side: Side,
    pub(super) share: [u8; 32],
}

impl Hello {
    pub(super) fn encode(&self) -> Vec<u8> {
        let Side { appliance, incarnation, config_digest, region, sizes } = &self.side;
        let mut out = vec![HELLO];
        out.extend_from_slice(&LAYOUT_VERSION.to_be_bytes());
        out.push(appliance.get());
        out.extend_from_slice(incarnation);
        out.extend_from_slice(config_digest);
        out.extend_from_slice(&region.0);
        out.extend_from_slice(&self.share);
        out.extend_from_slice(&sizes.encode());
        out
    }

    pub(super) fn decode(message: &[u8]) -> Result<Self, PairingError> {
        let mut rest = message;
        let [HELLO] = take(&mut rest)? else { return Err(PairingError::Unexpected) };
        let theirs = u32::from_be_bytes(take(&mut rest)?);
        if theirs != LAYOUT_VERSION {
            return Err(PairingError::LayoutVersion { theirs });
        }
        let [id] = take(&mut rest)?;
        let appliance = ApplianceId::new(id).map_err(|_| PairingError::Unexpected)?;
        let incarnation = take(&mut rest)?;
        let config_digest = take(&mut rest)?;
        let region = RegionId(take(&mut rest)?);
        let share = take(&mut rest)?;
        let sizes = Sizes::decode(&take(&mut rest)?);
        if !rest.is_empty() {
            return Err(PairingError::Unexpected);
        }
        Ok(Self { side: Side { appliance, incarnation, config_digest, region, sizes }, share })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], PairingError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(PairingError::Unexpected)?;
    *rest = tail;
    Ok(*head)
}
