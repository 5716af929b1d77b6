//! From a TCP connection to a paired link with a region each way.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand_core::CryptoRng;

use super::memory::OPERATIONS_MAX;
use super::object::{Domain, Event, RemoteMemory};
use super::target::DataListener;
use super::{FabricError, FabricMemory, Provider, Word};
use crate::control::Control;
use crate::error::{LinkError, system};
use crate::link::{Access, Link, Owner, wait_readable};
use crate::local::{Mapping, create_memory};
use crate::pairing::{Handshake, Pairing, PairingError, PairingSecret};
use crate::reader::Reader;
use crate::region::{Region, RegionId};
use crate::stream::Stream;
use crate::{Geometry, Setup};

/// One look at a queue of connection events, while two are looked at in turn.
const LOOK: Duration = Duration::from_millis(1);

/// How two appliances on two hosts reach each other's regions.
#[derive(Debug)]
pub struct FabricSetup<'a> {
    /// What our side brings.
    pub setup: Setup,
    /// What carries writes.
    pub provider: Provider,
    /// Where the peer calls to write into our region.
    pub listener: &'a DataListener,
    /// Where we call to write into the peer's.
    pub peer_data: SocketAddr,
}

/// Pairs over a connected socket, until `deadline`; waits. For a thread that has nothing else to do.
pub fn pair(
    socket: TcpStream,
    fabric: FabricSetup<'_>,
    secret: PairingSecret,
    deadline: Instant,
    rng: &mut impl CryptoRng,
) -> Result<Link, LinkError> {
    let FabricSetup { setup, provider, listener, peer_data } = fabric;
    let geometry = Geometry::new(setup.sizes.clone()).map_err(PairingError::from)?;
    let id = RegionId::random(rng);
    let memory = create_memory(geometry.bytes())?;
    let mapping = Mapping::new(&memory, geometry.bytes()).map_err(system("mapping"))?;
    let protection = mapping.protection();
    let region = Arc::new(Region::create(mapping, geometry, id)?);

    let mut stream = Stream::new(socket)?;
    let Pairing { peer, agreement, channel, writer, reader } =
        shake_hands(&mut stream, Handshake::new(setup.side(id), secret, rng)?, deadline)?;
    let mut control = Control::stream(stream, channel);

    // Where our region is, and what its writer has to say: for the peer alone.
    let word = Word::random(rng);
    let mut key = [0; 4];
    rng.fill_bytes(&mut key);
    let mut exposed = listener.expose(region.clone(), word.clone(), u64::from(u32::from_le_bytes(key)))?;
    control.send(&Offer { word, memory: exposed.remote() }.encode())?;
    let offer = loop {
        match control.recv()? {
            Some(message) => break Offer::decode(&message).ok_or(LinkError::Malformed)?,
            None => wait_readable(&control, Some(deadline))?,
        }
    };

    let domain = Domain::towards(provider, peer_data)?;
    let events = Arc::new(domain.event_queue()?);
    let completions = Arc::new(domain.completion_queue(OPERATIONS_MAX)?);
    let endpoint = domain.endpoint(None, &events, &completions)?;
    endpoint.connect(&offer.word.0)?;
    // Both sides call and are called at once.
    let (mut connected, mut called) = (false, false);
    while !(connected && called) {
        if Instant::now() > deadline {
            return Err(LinkError::TimedOut);
        }
        called = called || exposed.poll(LOOK)?;
        if !connected {
            match events.wait(LOOK)? {
                Some(Event::Connected) => connected = true,
                Some(Event::Ended) => return Err(FabricError::Closed.into()),
                _ => {}
            }
        }
    }
    let memory = FabricMemory::new(&domain, endpoint, completions, peer.geometry.clone(), offer.memory)?;
    Ok(Link {
        peer,
        agreement,
        protection,
        control,
        reader: Reader::with_shutter(region, reader, Box::new(exposed.serve()?)),
        owner: Owner { access: Access::Fabric(Box::new(memory)), keys: writer },
    })
}

fn shake_hands(stream: &mut Stream, mut handshake: Handshake, deadline: Instant) -> Result<Pairing, LinkError> {
    loop {
        while let Some(message) = handshake.poll_transmit() {
            stream.send(&message)?;
        }
        if handshake.is_done() {
            return Ok(handshake.finish()?);
        }
        match stream.recv()? {
            Some(message) => handshake.handle_message(&message)?,
            None => wait_readable(stream, Some(deadline))?,
        }
    }
}

/// How a region is reached; travels sealed.
///
/// ```text
/// | word (16) | base address (8) | key (8) |
/// ```
struct Offer {
    word: Word,
    memory: RemoteMemory,
}

impl Offer {
    fn encode(&self) -> Vec<u8> {
        let RemoteMemory { base, key } = self.memory;
        [&self.word.0[..], &base.to_be_bytes(), &key.to_be_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (word, rest) = bytes.split_first_chunk()?;
        let (base, key) = rest.split_first_chunk()?;
        let memory = RemoteMemory { base: u64::from_be_bytes(*base), key: u64::from_be_bytes(key.try_into().ok()?) };
        Some(Self { word: Word(*word), memory })
    }
}
