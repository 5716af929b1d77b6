//! Two appliances on one host: the region is a memory file of fixed size, passed over a Unix socket.
//!
//! Each side creates the region that it keeps for the other, and sends it with its hello. The socket carries the control
//! messages after that, and its end tells that the peer process is gone, or gave up.

mod link;
mod mapping;
mod socket;

pub use link::{Connecting, Control, LocalLink, LocalSetup, Owner, Progress};
pub use mapping::{Mapping, Protection};
pub use socket::{Connection, Listener, Received};

use nix::errno::Errno;
use thiserror::Error;

use crate::channel::ChannelError;
use crate::pairing::PairingError;
use crate::region::NotTheRegion;

/// The local link failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LocalError {
    /// The peer closed the link, or its process ended.
    #[error("the peer is gone")]
    Disconnected,
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
    /// The peer's memory is not its region.
    #[error(transparent)]
    NotTheRegion(#[from] NotTheRegion),
    /// A control message was not sealed or opened.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The system refused.
    #[error("{call}: {errno}")]
    System {
        /// What was tried.
        call: &'static str,
        /// What it said.
        errno: Errno,
    },
}

fn system(call: &'static str) -> impl FnOnce(Errno) -> LocalError {
    move |errno| LocalError::System { call, errno }
}
