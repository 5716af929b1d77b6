//! I2: no packet is delivered twice. I5: a connection keeps its target.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use crate::appliance::ProcessId;
use crate::frames::{self, PayloadId, Seen};
use crate::scene::{ADDRESSES, TARGET_MACS};

/// Who delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deliverer {
    pub(crate) process: ProcessId,
    /// How often it has come to own the VIP: who was deposed and takes it from the other one has that one's SAs.
    pub(crate) tenure: u32,
}

/// Is it the only one that owns the VIP?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Yes, or whoever else does has a copy of what this one knows.
    Alone,
    /// Another one owns it, too, and has nothing of this one's: this one has slept, and hears of that in a moment.
    Superseded,
    /// Another one owns it, too, and they can't hear each other.
    Partitioned,
}

#[derive(Debug, Clone, Copy)]
struct Delivery {
    by: Deliverer,
    partitioned: bool,
}

/// What has been handed to targets.
#[derive(Default)]
pub(crate) struct Deliveries {
    delivered: BTreeMap<PayloadId, Delivery>,
    targets: BTreeMap<(usize, u16), usize>,
    /// The exception of I2: each of two owners in a full partition delivered it once, or a later owner in the place of one.
    excused: BTreeSet<PayloadId>,
}

impl Deliveries {
    /// An appliance puts a frame on the inside network. `owner`: who that is to the frame's VIP.
    pub(crate) fn observe(
        &mut self,
        frame: &[u8],
        owner: impl FnOnce(usize) -> (Deliverer, Standing),
    ) -> Result<(), Violation> {
        let Some((header, Seen::Udp((client, flow), _, payload))) = frames::read(frame) else { return Ok(()) };
        let Some(vip) = ADDRESSES.iter().position(|addresses| addresses.client == client) else { return Ok(()) };
        let Some(payload) = PayloadId::from_bytes(payload) else { return Ok(()) };
        let Some(target) = TARGET_MACS.iter().position(|mac| *mac == header.destination) else { return Ok(()) };
        let (by, standing) = owner(vip);
        if standing != Standing::Alone {
            // Each of two owners sends it where it thinks best.
            self.forget_targets(vip);
        } else {
            let before = *self.targets.entry((vip, flow)).or_insert(target);
            if before != target {
                return Err(Violation::TargetChanged { flow, before, after: target });
            }
        }
        let partitioned = standing == Standing::Partitioned;
        match self.delivered.insert(payload, Delivery { by, partitioned }) {
            None => Ok(()),
            Some(first) if first.partitioned && first.by != by => {
                self.excused.insert(payload);
                Ok(())
            }
            Some(first) => Err(Violation::DeliveredTwice {
                payload: payload.0,
                first: first.by.process.appliance,
                second: by.process.appliance,
            }),
        }
    }

    /// Somebody owns a VIP who has no trusted copy: its connections begin anew.
    pub(crate) fn forget_targets(&mut self, vip: usize) {
        self.targets.retain(|(of, _), _| *of != vip);
    }

    /// The remote peer's host got an answer that it had before.
    pub(crate) fn check_echo(&self, payload: PayloadId) -> Result<(), Violation> {
        if self.excused.contains(&payload) { Ok(()) } else { Err(Violation::EchoedTwice { payload: payload.0 }) }
    }

    pub(crate) fn has(&self, payload: PayloadId) -> bool {
        self.delivered.contains_key(&payload)
    }

    pub(crate) fn excused(&self) -> usize {
        self.excused.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.delivered.len()
    }
}
