//! What becomes of the SAs of a group that isn't ours any more: they are forgotten, without a word to the remote peers. There may be ten
//! thousand, and its new owner may wait for the frames that were held for it, so that goes slice by slice. From the first moment on
//! nothing is done with any of them: IKE has left their VIPs, which the workers know to be elsewhere.

use std::time::Instant;

use vipsec_dataplane::api::Command;
use vipsec_esp::sa::Spi;

use crate::core::Core;
use crate::core::store::in_hand::Hands;

impl Core {
    /// The group's SAs are to be forgotten; its connections are.
    pub(in crate::core) fn forget_sas(&mut self, group: usize) {
        self.stop_inheriting(group);
        self.forget_connections(group);
        self.end_notices(group);
        if let Some(entry) = self.groups.get_mut(group) {
            entry.hands = Hands::default();
            entry.forgetting = true;
        }
        for vip in self.vips_of(group) {
            self.ike.leave_vip(vip);
            self.forget_lingering(vip);
        }
    }

    /// A slice of that. True if there was anything.
    pub(in crate::core) fn go_on_forgetting(&mut self) -> bool {
        let Some(group) = self.groups.iter().position(|group| group.forgetting) else { return false };
        self.forget_some(group, self.slices.forgotten);
        true
    }

    /// Is there anything left to be forgotten?
    pub(in crate::core) fn is_forgetting(&self) -> bool {
        self.groups.iter().any(|group| group.forgetting)
    }

    /// The group comes back: what is left of it would be taken for what comes.
    pub(in crate::core) fn forget_rest(&mut self, now: Instant, group: usize) {
        while self.groups.get(group).is_some_and(|group| group.forgetting) {
            self.forget_some(group, usize::MAX);
            self.pump_ike(now);
        }
    }

    /// A child SA has come to its new owner already, and from there to us: ours is forgotten before its turn.
    pub(in crate::core) fn forget_child(&mut self, group: usize, spi: Spi) {
        let is_left = self.groups.get(group).is_some_and(|group| group.forgetting);
        if is_left && self.children.get(&spi).is_some_and(|child| self.group_of(child.vip) == group) {
            self.children.remove(&spi);
            self.tell(Command::RemoveChild(spi));
        }
    }

    fn forget_some(&mut self, group: usize, most: usize) {
        let vips = self.vips_of(group);
        // It tells which child SAs go with them.
        if vips.iter().any(|vip| self.ike.forget_some(*vip, most)) {
            return;
        }
        // Those that IKE had not heard of yet, or never does.
        let left = self.children.iter().filter(|(_, child)| vips.contains(&child.vip));
        let left: Vec<Spi> = left.map(|(spi, _)| *spi).take(most).collect();
        for spi in &left {
            self.children.remove(spi);
            self.tell(Command::RemoveChild(*spi));
        }
        if left.len() < most {
            self.succession.ladder.forget(group);
            if let Some(entry) = self.groups.get_mut(group) {
                entry.forgetting = false;
            }
        }
    }
}
