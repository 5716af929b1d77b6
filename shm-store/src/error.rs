//! What can go wrong: on the owner's side, and with the link.

use nix::errno::Errno;
use thiserror::Error;

use crate::channel::ChannelError;
use crate::fabric::FabricError;
use crate::pairing::PairingError;
use crate::region::NotTheRegion;

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

/// The link to the other appliance failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LinkError {
    /// The peer closed the link, or its process ended.
    #[error("the peer is gone")]
    Disconnected,
    /// Whoever is at the other end took too long.
    #[error("the peer doesn't answer in time")]
    TimedOut,
    /// The socket takes no more messages now; this one was not sent.
    #[error("the socket's queue is full")]
    QueueFull,
    /// The process at the other end runs under another user.
    #[error("the peer runs under user {uid}")]
    ForeignUser {
        /// Its effective user id.
        uid: u32,
    },
    /// Somebody listens at this path already.
    #[error("the socket is in use")]
    InUse,
    /// A message that is empty, longer than allowed, or comes with descriptors that don't belong.
    #[error("a malformed message")]
    Malformed,
    /// Pairing failed.
    #[error(transparent)]
    Pairing(#[from] PairingError),
    /// The region that we are to keep is larger than the memory that is free.
    #[error("a region of {wanted_mib} MiB doesn't fit into the {free_mib} MiB of memory that are free")]
    NoMemory {
        /// What the region takes.
        wanted_mib: u64,
        /// What the system could give.
        free_mib: u64,
    },
    /// The peer's memory is not its region.
    #[error(transparent)]
    NotTheRegion(#[from] NotTheRegion),
    /// A control message was not sealed or opened.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The fabric refused.
    #[error(transparent)]
    Fabric(#[from] FabricError),
    /// The system refused.
    #[error("{call}: {errno}")]
    System {
        /// What was tried.
        call: &'static str,
        /// What it said.
        errno: Errno,
    },
}

pub(crate) fn system(call: &'static str) -> impl FnOnce(Errno) -> LinkError {
    move |errno| LinkError::System { call, errno }
}
