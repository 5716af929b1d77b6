//! From a connection to a paired link with a region each way.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rand_core::CryptoRng;

use super::mapping::{Mapping, Protection, create_memory};
use super::socket::Connection;
use crate::control::Control;
use crate::error::{LinkError, system};
use crate::grant::{Grant, WriterKeys};
use crate::one_sided::LocalMemory;
use crate::pairing::{Agreement, Handshake, PairingError, PairingSecret, Peer};
use crate::reader::Reader;
use crate::region::{Region, RegionId};
use crate::writer::Writer;
use crate::{Geometry, Setup, StoreError};

/// A link that is being paired. Poll it when its descriptor is readable; how long to wait is the caller's business.
#[derive(Debug)]
pub struct Connecting {
    connection: Connection,
    handshake: Handshake,
    region: Arc<Region>,
    /// Our region's memory; goes with the first message.
    memory: Option<OwnedFd>,
    /// The peer's region's memory; comes with its first message.
    peer_memory: Option<OwnedFd>,
    protection: Protection,
}

/// How far a pairing is.
#[derive(Debug)]
pub enum Progress {
    /// Poll again.
    Waiting(Box<Connecting>),
    /// Done.
    Paired(Box<LocalLink>),
}

impl Connecting {
    /// Creates a fresh region for the peer: no process of an earlier pairing has it mapped.
    pub fn new(
        connection: Connection,
        setup: Setup,
        secret: PairingSecret,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, LinkError> {
        let geometry = Geometry::new(setup.sizes.clone()).map_err(PairingError::from)?;
        let id = RegionId::random(rng);
        let memory = create_memory(geometry.bytes()).map_err(system("memory file"))?;
        let mapping = Mapping::new(&memory, geometry.bytes()).map_err(system("mapping"))?;
        let protection = mapping.protection();
        let region = Arc::new(Region::create(mapping, geometry, id)?);
        let handshake = Handshake::new(setup.side(id), secret, rng)?;
        Ok(Self { connection, handshake, region, memory: Some(memory), peer_memory: None, protection })
    }

    /// Goes on as far as it gets without waiting.
    pub fn poll(mut self) -> Result<Progress, LinkError> {
        loop {
            while let Some(message) = self.handshake.poll_transmit() {
                self.connection.send(&message, self.memory.take().as_ref().map(AsFd::as_fd))?;
            }
            if self.handshake.is_done() {
                return self.finish().map(|link| Progress::Paired(Box::new(link)));
            }
            let Some(received) = self.connection.recv()? else { return Ok(Progress::Waiting(Box::new(self))) };
            if let Some(descriptor) = received.descriptor
                && self.peer_memory.replace(descriptor).is_some()
            {
                return Err(LinkError::Malformed);
            }
            self.handshake.handle_message(&received.message)?;
        }
    }

    fn finish(self) -> Result<LocalLink, LinkError> {
        let pairing = self.handshake.finish()?;
        let memory = self.peer_memory.ok_or(LinkError::Malformed)?;
        let Peer { geometry, region, .. } = &pairing.peer;
        let mapping = Mapping::new(&memory, geometry.bytes()).map_err(system("mapping"))?;
        let protection = Protection {
            locked: self.protection.locked && mapping.protection().locked,
            private: self.protection.private && mapping.protection().private,
        };
        let peer_region = Arc::new(Region::attach(mapping, geometry.clone(), *region)?);
        Ok(LocalLink {
            peer: pairing.peer,
            agreement: pairing.agreement,
            protection,
            control: Control::local(self.connection, pairing.channel),
            reader: Reader::new(self.region, pairing.reader),
            owner: Owner { region: peer_region, keys: pairing.writer },
        })
    }
}

impl AsFd for Connecting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

/// A paired link. Its parts go to whom they concern.
#[derive(Debug)]
pub struct LocalLink {
    /// The other side.
    pub peer: Peer,
    /// Whether copies may be counted.
    pub agreement: Agreement,
    /// What could be done to keep both regions in memory; what could not is worth a warning.
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
    region: Arc<Region>,
    keys: WriterKeys,
}

impl Owner {
    /// Starts to write under a grant that the peer sent.
    pub fn writer(&mut self, grant: Grant) -> Result<Writer<LocalMemory>, StoreError> {
        Writer::new(LocalMemory::new(self.region.clone()), &mut self.keys, grant)
    }
}
