//! The times of the protocol, and what has to hold between them.

use std::time::Duration;

use thiserror::Error;

/// The protocol's times. Both appliances of a pair use the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timing {
    /// Between two heartbeats of an owner, and between two looks of a backup.
    pub interval: Duration,
    /// How long a worker may act after the control core last said so (R5).
    pub deadline: Duration,
    /// Silence on both paths after which a backup acts.
    pub detection: Duration,
    /// How long a backup trusts its copy, counted from the look that the owner's newest heartbeat echoes.
    pub trust: Duration,
    /// What an owner waits beyond `trust` before it leaves a copy behind: covers clocks that don't run at the same rate.
    pub trust_margin: Duration,
    /// How long a fresh appliance listens before it takes a VIP that it prefers and nobody owns.
    pub claim_preferred: Duration,
    /// The same, for a VIP that it doesn't prefer.
    pub claim_other: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(10),
            deadline: Duration::from_millis(30),
            detection: Duration::from_millis(50),
            trust: Duration::from_millis(250),
            trust_margin: Duration::from_millis(25),
            claim_preferred: Duration::from_millis(500),
            claim_other: Duration::from_millis(3000),
        }
    }
}

/// Times that can't keep the protocol's promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TimingError {
    /// A zero interval.
    #[error("the heartbeat interval must be at least 1 ms")]
    NoInterval,
    /// A deadline that one lost heartbeat passes.
    #[error("the deadline must be at least two heartbeat intervals")]
    DeadlineTooShort,
    /// A backup would act while the owner's workers still may.
    #[error("detection must be at least deadline + 2 x interval")]
    DetectionTooShort,
    /// A backup would never trust its copy when it has to.
    #[error("trust must be longer than detection + 2 x interval")]
    TrustTooShort,
    /// Two fresh appliances would claim together.
    #[error("claim_other must be longer than claim_preferred, and that longer than detection")]
    ClaimsTooClose,
}

impl Timing {
    /// Checks what has to hold between the times.
    pub fn check(&self) -> Result<(), TimingError> {
        if self.interval < Duration::from_millis(1) {
            return Err(TimingError::NoInterval);
        }
        if self.deadline < 2 * self.interval {
            return Err(TimingError::DeadlineTooShort);
        }
        // Silence of d + h + l: the owner's last sign of life, its deadline, and a look's granularity.
        if self.detection < self.deadline + 2 * self.interval {
            return Err(TimingError::DetectionTooShort);
        }
        if self.trust <= self.detection + 2 * self.interval {
            return Err(TimingError::TrustTooShort);
        }
        if self.claim_preferred <= self.detection || self.claim_other <= self.claim_preferred {
            return Err(TimingError::ClaimsTooClose);
        }
        Ok(())
    }

    /// Looks without a sign of life after which a backup acts.
    pub fn looks_until_detection(&self) -> u32 {
        self.looks_in(self.detection)
    }

    /// The same of a backup without a copy. It would end every SA of an owner that was only slow, and an owner is slowest when it has just
    /// taken over; while remote peers that have to call anew wait for far longer than this.
    pub fn looks_without_copy(&self) -> u32 {
        self.looks_in(self.claim_preferred)
    }

    fn looks_in(&self, time: Duration) -> u32 {
        let interval = self.interval.as_nanos().max(1);
        u32::try_from(time.as_nanos().div_ceil(interval)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_hold() {
        assert_eq!(Timing::default().check(), Ok(()));
        assert_eq!(Timing::default().looks_until_detection(), 5);
    }

    #[test]
    fn a_backup_must_outwait_the_deadline() {
        let timing = Timing { deadline: Duration::from_millis(40), ..Timing::default() };
        assert_eq!(timing.check(), Err(TimingError::DetectionTooShort));
    }

    #[test]
    fn trust_must_outlast_detection() {
        let timing = Timing { trust: Duration::from_millis(60), ..Timing::default() };
        assert_eq!(timing.check(), Err(TimingError::TrustTooShort));
    }
}
