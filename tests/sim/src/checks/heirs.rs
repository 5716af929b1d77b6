//! I4: what the remote peer believes in, a successor with a trusted copy knows. I6: one without may keep an IKE SA whose remote peer
//! synchronises message IDs, but no child SA.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use vipsec_control::api::Sas;

use super::Violation;
use crate::appliance::ProcessId;
use crate::remote::Belief;

/// How long a successor may take to finish exchanges that were in progress, on networks without weather.
pub(crate) const SETTLING: Duration = Duration::from_millis(300);

/// A takeover, until it has been looked at.
#[derive(Debug, Clone)]
pub(crate) struct Takeover {
    pub(crate) successor: ProcessId,
    pub(crate) at: Instant,
    /// The copy was trusted.
    pub(crate) trusted: bool,
    /// It was, and the successor knew which epochs it had once used: it has to know everything.
    pub(crate) complete: bool,
    /// What the remote peer believed when it happened.
    pub(crate) belief: Belief,
}

/// Takeovers and what they owe.
#[derive(Default)]
pub(crate) struct Heirs {
    /// Everything that the remote peer ever believed in, as far as anybody looked.
    ever: Belief,
    /// What an owner could not know, nor anybody after it.
    lost: Belief,
    pub(crate) takeover: Option<Takeover>,
    pub(crate) resumed: u64,
    pub(crate) begun_anew: u64,
    /// IKE SAs that were kept without a trusted copy.
    pub(crate) kept: u64,
}

impl Heirs {
    pub(crate) fn observe(&mut self, belief: &Belief) {
        self.ever.ike_sas.extend(&belief.ike_sas);
        self.ever.children.extend(&belief.children);
    }

    pub(crate) fn take_over(&mut self, takeover: Takeover) {
        *(if takeover.complete { &mut self.resumed } else { &mut self.begun_anew }) += 1;
        self.observe(&takeover.belief);
        if !takeover.complete {
            self.lose(&takeover.belief);
        }
        self.takeover = Some(takeover);
    }

    /// From here on nobody has to know these.
    pub(crate) fn lose(&mut self, belief: &Belief) {
        self.lost.ike_sas.extend(&belief.ike_sas);
        self.lost.children.extend(&belief.children);
    }

    /// Something happened that may cost SAs: what a takeover owed can't be asked for any more.
    pub(crate) fn disturb(&mut self) {
        self.takeover = None;
    }

    /// The successor says what it has, and the remote peer what it believes now.
    pub(crate) fn judge(&mut self, of: ProcessId, sas: &Sas, now: Belief) -> Result<(), Violation> {
        let Some(takeover) = self.takeover.take_if(|takeover| takeover.successor == of) else { return Ok(()) };
        let successor = of.appliance;
        let ike_sas: BTreeSet<u64> = sas.ike_sas.iter().map(|sa| sa.spi.0).collect();
        let all = || sas.ike_sas.iter().flat_map(|sa| &sa.children);
        let children: BTreeSet<u32> = all().map(|child| child.spi_in.0).collect();
        if takeover.complete {
            let mut still = takeover.belief.ike_sas.intersection(&now.ike_sas);
            if let Some(lost) = still.find(|spi| !ike_sas.contains(spi) && !self.lost.ike_sas.contains(spi)) {
                return Err(Violation::SaLost { successor, what: format!("IKE SA {lost:016x}") });
            }
            let mut still = takeover.belief.children.intersection(&now.children);
            if let Some(lost) = still.find(|spi| !children.contains(spi) && !self.lost.children.contains(spi)) {
                return Err(Violation::SaLost { successor, what: format!("child SA {lost:08x}") });
            }
        } else if !takeover.trusted {
            // A worker that has one says how it is processed.
            let in_use = all().filter(|child| child.state != "stale" || !child.processing.is_empty());
            let mut in_use = in_use.map(|child| child.spi_in.0);
            if let Some(resumed) = in_use.find(|spi| self.ever.children.contains(spi)) {
                return Err(Violation::UntrustedResumed { successor, what: format!("child SA {resumed:08x}") });
            }
            self.kept += ike_sas.intersection(&self.ever.ike_sas).count() as u64;
        }
        self.observe(&now);
        Ok(())
    }
}
