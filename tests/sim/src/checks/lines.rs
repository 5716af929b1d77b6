//! What an owner knows of what was delivered before: its own, and what those had delivered from whom it has its SAs.
//!
//! Who takes over and whom it takes over from have been one until then, and go on from there each by itself. So a delivery belongs to
//! a *line*, and a takeover from a trusted copy makes two new ones: the successor knows what lies before it, and neither knows what the
//! other one does after it.

use std::collections::BTreeSet;

use crate::scene::APPLIANCES_MAX;

/// The appliances' lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    known: [BTreeSet<u32>; APPLIANCES_MAX],
    newest: u32,
}

impl Lines {
    /// An appliance takes over from the copy that it has of another one's.
    pub(crate) fn fork(&mut self, successor: usize, from: usize) {
        self.known[successor] = self.known[from].clone();
        for side in [from, successor] {
            self.newest += 1;
            self.known[side].insert(self.newest);
        }
    }

    /// An appliance begins anew: it has nobody's SAs, and so nothing of theirs to deliver.
    pub(crate) fn begin(&mut self, appliance: usize) {
        self.newest += 1;
        self.known[appliance] = (1..=self.newest).collect();
    }

    /// Those whose deliveries an appliance knows; what it delivers belongs to the newest.
    pub(crate) fn known(&self, appliance: usize) -> &BTreeSet<u32> {
        &self.known[appliance]
    }
}
