//! Remote peers that are silent here while the other appliance of a pair is missing. It may be cut off and serving them: so nobody deletes
//! or calls anew because one doesn't answer, until the two are paired again, or for as long as the configuration says. Who crashed and
//! doesn't come back doesn't keep the dead for ever.

use std::time::Instant;

use crate::core::Core;

impl Core {
    /// What has to be seen of every group at every look: is there reason for patience?
    pub(in crate::core) fn watch_silence(&mut self, now: Instant, group: usize) {
        let patience = self.config.shared().map(|peer| peer.split_patience).unwrap_or_default();
        let Some(entry) = self.groups.get_mut(group) else { return };
        let missing = entry.side().and_then(|side| side.decider.missing_since());
        let until = missing.and_then(|since| since.checked_add(patience)).filter(|until| now < *until);
        if until == entry.patient_until {
            return;
        }
        match (entry.patient_until, until) {
            (None, Some(until)) => {
                let at_most = until.saturating_duration_since(now);
                tracing::warn!(
                    group = entry.name,
                    ?at_most,
                    "the other appliance is missing: remote peers that don't answer are kept, it may be serving them"
                );
            }
            (Some(_), None) => {
                tracing::info!(group = entry.name, "remote peers that don't answer are taken for dead again")
            }
            _ => {}
        }
        entry.patient_until = until;
        for vip in self.vips_of(group) {
            self.ike.excuse_silence(vip, until);
        }
    }

    /// Does it prove nothing that a remote peer of the group doesn't answer?
    pub(in crate::core) fn is_patient(&self, group: usize) -> bool {
        self.groups.get(group).is_some_and(|group| group.patient_until.is_some())
    }
}
