//! How much is done in one go of what there may be a hundred thousand of: between two slices heartbeats leave, and workers that share
//! our processor get it.

/// The sizes of slices. But for the first, each is at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slices {
    /// IKE SAs whose child SAs are woken before a VIP opens: what is there of most, and does not keep the rest waiting.
    pub woken_before: usize,
    /// IKE SAs whose child SAs are woken: some hundred microseconds' work. With four times as many a worker that shares our processor
    /// waited so long that its deadline passed.
    pub woken: usize,
    /// IKE SAs that IKE is given: some hundred microseconds' work.
    pub given: usize,
    /// Records of SAs that are written for a join, and SAs that are bound: a millisecond's work, well below a deadline.
    pub copied: usize,
    /// SAs whose limits are taken away.
    pub freed: usize,
    /// Child SAs that a backup prepares: about a millisecond's work, here and in a worker.
    pub prepared: usize,
}

impl Default for Slices {
    fn default() -> Self {
        Self { woken_before: 256, woken: 512, given: 64, copied: 128, freed: 1024, prepared: 256 }
    }
}
