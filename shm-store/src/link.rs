//! A paired link to the other appliance, whatever carries it.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::StoreError;
use crate::control::Control;
use crate::error::LinkError;
use crate::fabric::FabricMemory;
use crate::grant::{Grant, WriterKeys};
use crate::local::Protection;
use crate::one_sided::LocalMemory;
use crate::pairing::{Agreement, Peer};
use crate::reader::Reader;
use crate::region::Region;
use crate::writer::{StoreWriter, Writer};

/// A paired link. Its parts go to whom they concern.
#[derive(Debug)]
pub struct Link {
    /// The other side.
    pub peer: Peer,
    /// Whether copies may be counted.
    pub agreement: Agreement,
    /// What could be done to keep the regions in memory; what could not is worth a warning.
    pub protection: Protection,
    /// Messages both ways.
    pub control: Control,
    /// We as the peer's backup.
    pub reader: Reader,
    /// We as an owner.
    pub owner: Owner,
}

/// Access to the region that the peer keeps for us.
#[derive(Debug)]
pub struct Owner {
    pub(crate) access: Access,
    pub(crate) keys: WriterKeys,
}

/// How the peer's region is reached.
#[derive(Debug)]
pub(crate) enum Access {
    Local(Arc<Region>),
    Fabric(Box<FabricMemory>),
}

impl Owner {
    /// Starts to write under a grant that the peer sent.
    pub fn writer(self, grant: Grant) -> Result<Box<dyn StoreWriter + Send>, StoreError> {
        let Self { access, mut keys } = self;
        Ok(match access {
            Access::Local(region) => Box::new(Writer::new(LocalMemory::new(region), &mut keys, grant)?),
            Access::Fabric(memory) => Box::new(Writer::new(*memory, &mut keys, grant)?),
        })
    }
}

/// Waits until there is something to read, or the other end is closed; at most until `deadline`, if there is one.
pub fn wait_readable(socket: &impl AsFd, deadline: Option<Instant>) -> Result<(), LinkError> {
    loop {
        let limit = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            None => PollTimeout::NONE,
            Some(left) if left.is_zero() => return Err(LinkError::TimedOut),
            Some(left) => PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
        };
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], limit) {
            Ok(0) | Err(Errno::EINTR) => {}
            // Readable, closed, or no socket any more: the next read tells.
            Ok(_) | Err(_) => return Ok(()),
        }
    }
}
