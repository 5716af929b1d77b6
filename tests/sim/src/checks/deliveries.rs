//! I2: no packet is delivered twice. I5: a connection keeps its target.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use crate::appliance::ProcessId;
use crate::frames::{self, PayloadId, Seen};
use crate::scene::{ADDRESSES, TARGET_MACS};

#[derive(Debug, Clone, Copy)]
struct Delivery {
    process: ProcessId,
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
    /// An appliance puts a frame on the inside network. `partitioned`: two own the VIP and can't hear of each other.
    pub(crate) fn observe(
        &mut self,
        process: ProcessId,
        frame: &[u8],
        partitioned: impl FnOnce(usize) -> bool,
    ) -> Result<(), Violation> {
        let Some((header, Seen::Udp((client, flow), _, payload))) = frames::read(frame) else { return Ok(()) };
        let Some(vip) = ADDRESSES.iter().position(|addresses| addresses.client == client) else { return Ok(()) };
        let Some(payload) = PayloadId::from_bytes(payload) else { return Ok(()) };
        let Some(target) = TARGET_MACS.iter().position(|mac| *mac == header.destination) else { return Ok(()) };
        let partitioned = partitioned(vip);
        if partitioned {
            // Each of two owners sends it where it thinks best.
            self.forget_targets(vip);
        } else {
            let before = *self.targets.entry((vip, flow)).or_insert(target);
            if before != target {
                return Err(Violation::TargetChanged { flow, before, after: target });
            }
        }
        match self.delivered.insert(payload, Delivery { process, partitioned }) {
            None => Ok(()),
            Some(first) if first.partitioned && first.process != process => {
                self.excused.insert(payload);
                Ok(())
            }
            Some(first) => Err(Violation::DeliveredTwice {
                payload: payload.0,
                first: first.process.appliance,
                second: process.appliance,
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
