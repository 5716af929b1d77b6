//! From a connection to a paired link with a region each way.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use rand_core::CryptoRng;

use super::mapping::{Mapping, Protection, create_memory};
use super::socket::Connection;
use crate::control::Control;
use crate::error::{LinkError, system};
use crate::link::{Access, Link, Owner, wait_readable};
use crate::pairing::{Handshake, Pairing, PairingError, PairingSecret};
use crate::reader::Reader;
use crate::region::{Region, RegionId};
use crate::{Geometry, Setup};

/// Pairs over a connection, until `deadline`; waits. For a thread that has nothing else to do.
///
/// The region that we keep for the peer is a fresh one: no process of an earlier pairing has it mapped.
pub fn pair(
    connection: Connection,
    setup: Setup,
    secret: PairingSecret,
    deadline: Instant,
    rng: &mut impl CryptoRng,
) -> Result<Link, LinkError> {
    let geometry = Geometry::new(setup.sizes.clone()).map_err(PairingError::from)?;
    let id = RegionId::random(rng);
    let memory = create_memory(geometry.bytes())?;
    let mapping = Mapping::new(&memory, geometry.bytes()).map_err(system("mapping"))?;
    let ours = mapping.protection();
    let region = Arc::new(Region::create(mapping, geometry, id)?);

    let handshake = Handshake::new(setup.side(id), secret, rng)?;
    let (Pairing { peer, agreement, channel, writer, reader }, memory) =
        shake_hands(&connection, handshake, memory, deadline)?;
    let mapping = Mapping::new(&memory, peer.geometry.bytes()).map_err(system("mapping"))?;
    let theirs = mapping.protection();
    let peer_region = Arc::new(Region::attach(mapping, peer.geometry.clone(), peer.region)?);
    Ok(Link {
        peer,
        agreement,
        protection: Protection { locked: ours.locked && theirs.locked, private: ours.private && theirs.private },
        control: Control::local(connection, channel),
        reader: Reader::new(region, reader),
        owner: Owner { access: Access::Local(peer_region), keys: writer },
    })
}

/// Pairs; our region's memory goes with the first message, the peer's comes with its first.
fn shake_hands(
    connection: &Connection,
    mut handshake: Handshake,
    memory: OwnedFd,
    deadline: Instant,
) -> Result<(Pairing, OwnedFd), LinkError> {
    let mut ours = Some(memory);
    let mut theirs = None;
    loop {
        while let Some(message) = handshake.poll_transmit() {
            connection.send(&message, ours.take().as_ref().map(AsFd::as_fd))?;
        }
        if handshake.is_done() {
            return Ok((handshake.finish()?, theirs.ok_or(LinkError::Malformed)?));
        }
        let Some(received) = connection.recv()? else {
            wait_readable(connection, Some(deadline))?;
            continue;
        };
        if let Some(descriptor) = received.descriptor
            && theirs.replace(descriptor).is_some()
        {
            return Err(LinkError::Malformed);
        }
        handshake.handle_message(&received.message)?;
    }
}
