//! I2: no packet is delivered twice. I5: a connection keeps its target.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use crate::frames::{self, PayloadId, Seen};
use crate::scene::{ADDRESSES, TARGET_MACS};

/// Who delivers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deliverer<'a> {
    pub(crate) appliance: usize,
    /// The lines whose deliveries it knows, and last its own: see [`super::lines`].
    pub(crate) lines: &'a BTreeSet<u32>,
    pub(crate) standing: Standing,
}

/// Is it the only one that owns the VIP?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Yes, or whoever else does comes before it, or has a copy of what this one knows.
    Alone,
    /// A later one owns it, too, and has nothing of this one's: this one has slept, and hears of that in a moment.
    Superseded,
    /// Another one owns it, too, and they can't hear each other.
    Partitioned,
}

#[derive(Debug, Clone, Copy)]
struct Delivery {
    appliance: usize,
    line: u32,
    partitioned: bool,
}

/// What has been handed to targets.
#[derive(Default)]
pub(crate) struct Deliveries {
    delivered: BTreeMap<PayloadId, Vec<Delivery>>,
    targets: BTreeMap<(usize, u16), usize>,
    /// The exception of I2: each of two owners in a full partition delivered it once, or who took over from one.
    excused: BTreeSet<PayloadId>,
}

impl Deliveries {
    /// An appliance puts a frame on the inside network. `owner`: who that is to the frame's VIP.
    pub(crate) fn observe<'a>(
        &mut self,
        frame: &[u8],
        owner: impl FnOnce(usize) -> Deliverer<'a>,
    ) -> Result<(), Violation> {
        let Some((header, Seen::Udp((client, flow), _, payload))) = frames::read(frame) else { return Ok(()) };
        let Some(vip) = ADDRESSES.iter().position(|addresses| addresses.client == client) else { return Ok(()) };
        let Some(payload) = PayloadId::from_bytes(payload) else { return Ok(()) };
        let Some(target) = TARGET_MACS.iter().position(|mac| *mac == header.destination) else { return Ok(()) };
        let by = owner(vip);
        match by.standing {
            // Each of two owners sends it where it thinks best.
            Standing::Partitioned => self.forget_targets(vip),
            // So does this one, and the other one's are none of its business.
            Standing::Superseded => {}
            Standing::Alone => {
                let before = *self.targets.entry((vip, flow)).or_insert(target);
                if before != target {
                    return Err(Violation::TargetChanged { flow, before, after: target });
                }
            }
        }
        self.deliver(payload, by)
    }

    fn deliver(&mut self, payload: PayloadId, by: Deliverer<'_>) -> Result<(), Violation> {
        let deliveries = self.delivered.entry(payload).or_default();
        let is_known = |first: &&Delivery| !first.partitioned || by.lines.contains(&first.line);
        if let Some(first) = deliveries.iter().find(is_known) {
            let (first, second) = (first.appliance, by.appliance);
            return Err(Violation::DeliveredTwice { payload: payload.0, first, second });
        }
        if !deliveries.is_empty() {
            self.excused.insert(payload);
        }
        let line = by.lines.last().copied().unwrap_or_default();
        let partitioned = by.standing == Standing::Partitioned;
        deliveries.push(Delivery { appliance: by.appliance, line, partitioned });
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::lines::Lines;

    const PACKET: PayloadId = PayloadId(7);

    /// The first appliance owned it alone, and the second one took over while the two could not hear each other.
    struct Split {
        lines: Lines,
        deliveries: Deliveries,
    }

    impl Split {
        fn new() -> Self {
            let (mut lines, deliveries) = (Lines::default(), Deliveries::default());
            lines.begin(0);
            let mut split = Self { lines, deliveries };
            assert_eq!(split.deliver(0, Standing::Alone, PayloadId(1)), Ok(()));
            split.lines.fork(1, 0);
            split
        }

        fn deliver(&mut self, appliance: usize, standing: Standing, packet: PayloadId) -> Result<(), Violation> {
            self.deliveries.deliver(packet, Deliverer { appliance, lines: self.lines.known(appliance), standing })
        }

        fn is_broken(&mut self, appliance: usize, standing: Standing, packet: PayloadId) -> bool {
            self.deliver(appliance, standing, packet).is_err()
        }
    }

    #[test]
    fn each_of_two_owners_may_deliver_a_packet_once() {
        let mut split = Split::new();
        assert!(split.is_broken(1, Standing::Partitioned, PayloadId(1)), "delivered before there were two");
        assert_eq!(split.deliver(0, Standing::Partitioned, PACKET), Ok(()));
        assert_eq!(split.deliver(1, Standing::Partitioned, PACKET), Ok(()));
        assert!(split.is_broken(0, Standing::Partitioned, PACKET) && split.is_broken(1, Standing::Alone, PACKET));
    }

    #[test]
    fn who_takes_over_from_one_of_two_owners_delivers_what_that_one_may() {
        let mut split = Split::new();
        assert_eq!(split.deliver(0, Standing::Partitioned, PACKET), Ok(()));
        assert_eq!(split.deliver(1, Standing::Partitioned, PayloadId(8)), Ok(()));
        // The first one was deposed, and the second one dies.
        split.lines.fork(0, 1);
        assert_eq!(
            split.deliver(0, Standing::Alone, PACKET),
            Ok(()),
            "it has the other one's SAs, which knew nothing of it"
        );
        assert!(split.is_broken(0, Standing::Alone, PACKET));
        assert!(split.is_broken(0, Standing::Alone, PayloadId(8)), "the other one did that");
    }

    #[test]
    fn who_begins_anew_has_nothing_to_deliver_that_another_one_did() {
        let mut split = Split::new();
        assert_eq!(split.deliver(1, Standing::Partitioned, PACKET), Ok(()));
        split.lines.begin(0);
        assert!(split.is_broken(0, Standing::Alone, PACKET));
    }

    #[test]
    fn an_owner_that_slept_may_deliver_nothing_that_its_heir_delivers() {
        let mut split = Split::new();
        assert_eq!(split.deliver(0, Standing::Superseded, PACKET), Ok(()));
        assert!(split.is_broken(1, Standing::Alone, PACKET));
    }
}
