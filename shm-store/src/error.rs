//! What can go wrong on the owner's side.

use thiserror::Error;

/// A write was not taken, or will never be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The backup took the grant back: no write after the last acknowledged one counts, and none ever will.
    /// The owner can't exclude that the backup acts.
    #[error("the backup revoked the grant")]
    Refused,
    /// The link to the region is gone.
    #[error("the link to the region is lost")]
    LinkLost,
    /// Every place that a record of this size may take holds a live record. Nothing was written or lost.
    #[error("no room for another record of this size")]
    Full,
    /// All spare places wait for an acknowledgement: poll for it and write again. Nothing was written or lost.
    #[error("too many writes wait for their acknowledgement")]
    Behind,
    /// The bytes fit no size class. Nothing was written.
    #[error("{bytes} bytes are more than the region's largest record of {bytes_max}")]
    TooLarge {
        /// Size of the record that was offered.
        bytes: usize,
        /// Size of the largest record that the region takes.
        bytes_max: usize,
    },
    /// The region has no such counter block, or the block has fewer entries.
    #[error("no such counter block, or too many entries for one")]
    NoSuchBlock,
    /// The grant's key sealed as many writes as it may: the copy has to be joined anew.
    #[error("the key's writes are used up")]
    KeyUsedUp,
    /// The grant is not newer than one that was used before under this pairing.
    #[error("the grant was used before")]
    StaleGrant,
}
