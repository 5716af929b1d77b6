//! The store link between the two processes: met, paired, kept, lost, and met again.
//!
//! The real pairing and the real channel, over a connection whose messages arrive in order and take their time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use vipsec_control::core::Paired;
use vipsec_store::channel::Channel;
use vipsec_store::pairing::{Agreement, Handshake, Pairing, PairingSecret, Side};
use vipsec_store::{
    Geometry, Grant, LocalMemory, Reader, Region, RegionId, StoreError, StoreWriter, Versions, Writer, WriterKeys,
};
use vipsec_takeover::message::{VERSION_NEWEST, VERSION_OLDEST};
use vipsec_wire::iv::ApplianceId;

use crate::far::{self, FarMemory, Flight, SharedFlight, StoreManner};
use crate::scene;
use crate::writer::{Lie, WatchedWriter};

/// How often the caller tries.
pub(crate) const MEET_INTERVAL: Duration = Duration::from_millis(20);

/// A link as one end sees it: of which group, and to which appliance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId {
    pub(crate) group: usize,
    pub(crate) peer: usize,
}

/// One process's end.
pub(crate) enum LinkEnd {
    Idle,
    /// The handshake is under way.
    Shaking {
        connection: u64,
        handshake: Box<Handshake>,
        region: Arc<Region>,
    },
    /// Paired; the peer's grant is awaited.
    Granting {
        connection: u64,
        paired: Box<Granting>,
    },
    Up {
        connection: u64,
        channel: Box<Channel>,
    },
}

/// A pairing without the peer's grant.
pub(crate) struct Granting {
    incarnation: u64,
    version: u16,
    agreed: bool,
    channel: Channel,
    keys: WriterKeys,
    reader: Reader,
    /// The peer's.
    region: RegionId,
}

/// What a process learns from its end.
pub(crate) enum LinkNews {
    Nothing,
    Up(Box<Paired>, SharedFlight),
    Message(Vec<u8>),
    /// The peer didn't keep to the protocol.
    Broken,
}

/// What lies between the ends.
#[derive(Default)]
pub(crate) struct Wires {
    /// Counts the connections, by group and appliances, the lower one first.
    connections: BTreeMap<(usize, usize, usize), u64>,
    /// Between these no connection comes about: the lower one first, and how many faults are the reason.
    cut: BTreeMap<(usize, usize), u32>,
    /// What every message takes longer.
    pub(crate) delay: Duration,
    /// When the last message arrives, by link and receiver: they keep their order.
    pub(crate) last_arrival: BTreeMap<(LinkId, usize), Instant>,
    regions: BTreeMap<[u8; 16], Arc<Region>>,
}

/// A process, as messages of the pair name it.
pub(crate) fn short_incarnation(incarnation: [u8; 16]) -> u64 {
    incarnation.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

impl LinkEnd {
    pub(crate) fn connection(&self) -> Option<u64> {
        match self {
            Self::Idle => None,
            Self::Shaking { connection, .. } | Self::Granting { connection, .. } | Self::Up { connection, .. } => {
                Some(*connection)
            }
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(self, Self::Up { .. })
    }

    /// What a message of the pair becomes on its way; `None` if the link isn't up.
    pub(crate) fn seal(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        let Self::Up { channel, .. } = self else { return None };
        channel.seal_message(message).ok()
    }
}

impl Wires {
    /// The number of the newest connection between two appliances.
    pub(crate) fn newest(&mut self, group: usize, a: usize, b: usize) -> &mut u64 {
        self.connections.entry((group, a.min(b), a.max(b))).or_default()
    }

    /// Is there no way between two appliances?
    pub(crate) fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cut.get(&(a.min(b), a.max(b))).is_some_and(|faults| *faults > 0)
    }

    /// One more fault cuts the way, or one less.
    pub(crate) fn cut(&mut self, a: usize, b: usize, cut: bool) {
        let faults = self.cut.entry((a.min(b), a.max(b))).or_default();
        *faults = if cut { *faults + 1 } else { faults.saturating_sub(1) };
    }

    /// Every way is mended.
    pub(crate) fn mend(&mut self) {
        self.cut.clear();
    }

    /// Begins a handshake at one end of a connection.
    pub(crate) fn shake(
        &mut self,
        connection: u64,
        appliance: ApplianceId,
        incarnation: [u8; 16],
        config_digest: [u8; 32],
        rng: &mut StdRng,
    ) -> (LinkEnd, Vec<u8>) {
        let sizes = scene::region_sizes();
        let geometry = Geometry::new(sizes.clone()).expect("sizes in bounds");
        let id = RegionId::random(rng);
        let region = Arc::new(Region::anonymous(geometry, id));
        self.regions.insert(id.0, region.clone());
        let secret = PairingSecret::new(scene::pairing_secret()).expect("a long secret");
        let versions = Versions { oldest: VERSION_OLDEST, newest: VERSION_NEWEST };
        let side = Side { appliance, incarnation, versions, config_digest, region: id, sizes };
        let mut handshake = Handshake::new(side, secret, rng).expect("sizes in bounds");
        let hello = handshake.poll_transmit().expect("the hello");
        (LinkEnd::Shaking { connection, handshake: Box::new(handshake), region }, hello)
    }

    /// A message arrives at an end. What has to be sent in return goes into `out`.
    pub(crate) fn receive(
        &mut self,
        end: &mut LinkEnd,
        bytes: &[u8],
        manner: StoreManner,
        rng: &mut StdRng,
        out: &mut Vec<Vec<u8>>,
    ) -> LinkNews {
        match std::mem::replace(end, LinkEnd::Idle) {
            LinkEnd::Idle => LinkNews::Nothing,
            LinkEnd::Shaking { connection, mut handshake, region } => {
                if handshake.handle_message(bytes).is_err() {
                    return LinkNews::Broken;
                }
                out.extend(std::iter::from_fn(|| handshake.poll_transmit()));
                if !handshake.is_done() {
                    *end = LinkEnd::Shaking { connection, handshake, region };
                    return LinkNews::Nothing;
                }
                let Some((paired, grant)) = handshake.finish().ok().and_then(|pairing| granting(pairing, region, rng))
                else {
                    return LinkNews::Broken;
                };
                out.push(grant);
                *end = LinkEnd::Granting { connection, paired: Box::new(paired) };
                LinkNews::Nothing
            }
            LinkEnd::Granting { connection, paired } => {
                let Granting { incarnation, version, agreed, mut channel, keys, reader, region } = *paired;
                let grant = channel.open_message(bytes).ok().and_then(|grant| grant.try_into().ok());
                let Some((grant, region)) = grant.zip(self.regions.remove(&region.0)) else { return LinkNews::Broken };
                let flight = Flight::new(LocalMemory::new(region), manner);
                let Ok(writer) = writer(&flight, keys, Grant::from_bytes(grant), manner.lies) else {
                    return LinkNews::Broken;
                };
                *end = LinkEnd::Up { connection, channel: Box::new(channel) };
                LinkNews::Up(Box::new(Paired { incarnation, version, agreed, writer, reader }), flight)
            }
            LinkEnd::Up { connection, mut channel } => {
                let message = channel.open_message(bytes);
                *end = LinkEnd::Up { connection, channel };
                message.map_or(LinkNews::Broken, LinkNews::Message)
            }
        }
    }
}

/// The region that we keep for the peer is open to it from now on: its grant is the first message.
fn granting(pairing: Pairing, region: Arc<Region>, rng: &mut StdRng) -> Option<(Granting, Vec<u8>)> {
    let Pairing { peer, agreement, mut channel, writer: keys, reader } = pairing;
    let mut reader = Reader::new(region, reader);
    let grant = reader.join(rng).ok()?;
    let sealed = channel.seal_message(&grant.to_bytes()).ok()?;
    let granting = Granting {
        incarnation: short_incarnation(peer.incarnation),
        version: peer.version,
        agreed: agreement == Agreement::Agreed,
        channel,
        keys,
        reader,
        region: peer.region,
    };
    Some((granting, sealed))
}

fn writer(
    flight: &SharedFlight,
    mut keys: WriterKeys,
    grant: Grant,
    lie: Option<Lie>,
) -> Result<Box<dyn StoreWriter + Send>, StoreError> {
    let inner = Writer::new(FarMemory::new(flight.clone()), &mut keys, grant)?;
    let known = far::with(flight, |flight| flight.known.clone());
    Ok(Box::new(WatchedWriter::new(inner, lie, known)))
}
