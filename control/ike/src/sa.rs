//! An IKE SA: what of it lives in its record, and its clocks, which don't.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use vipsec_wire::iv::IvPrefix;
use zeroize::Zeroizing;

use crate::child::ChildSa;
use crate::config::{ConnectionPolicy, Mode};
use crate::crypto::derive::IkeKeys;
use crate::crypto::exchange::KeyPair;
use crate::crypto::{CryptoError, EspProposal, Group, IkeProposal, IkeSuite};
use crate::endpoint::after;
use crate::event::{GoneReason, Tunnel};
use crate::fragments::Assembly;
use crate::identity::Identity;
use crate::message::{
    Content, Direction, ExchangeType, Header, NotifyType, Part, Payload, Role, Sealed, encode_unsealed,
};
use crate::pool::Assigned;
use crate::selector::TrafficSelector;

/// An IKE SA's name: the SPI that our side chose for it, whose first byte is the id of the appliance that made it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IkeSaId(pub(crate) u64);

impl IkeSaId {
    /// The SPI as a number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl From<u64> for IkeSaId {
    fn from(spi: u64) -> Self {
        Self(spi)
    }
}

impl fmt::Display for IkeSaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for IkeSaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The protected channel of an IKE SA: keys, SPIs, and the numbers for its IVs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Channel {
    /// Our role in the exchange that created the IKE SA.
    pub(crate) role: Role,
    pub(crate) local_spi: u64,
    pub(crate) remote_spi: u64,
    pub(crate) suite: IkeSuite,
    pub(crate) keys: IkeKeys,
    /// Messages sealed so far under the present origin. It isn't recorded: whoever imports the record has another IV prefix.
    #[serde(skip)]
    sealed: u64,
}

/// No message of ours can be protected any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the IKE SA's IVs are used up")]
pub(crate) struct CannotSeal;

impl Channel {
    pub(crate) const fn new(role: Role, local_spi: u64, remote_spi: u64, suite: IkeSuite, keys: IkeKeys) -> Self {
        Self { role, local_spi, remote_spi, suite, keys, sealed: 0 }
    }

    fn header(&self, exchange: ExchangeType, direction: Direction, message_id: u32) -> Header {
        let (initiator_spi, responder_spi) = match self.role {
            Role::Initiator => (self.local_spi, self.remote_spi),
            Role::Responder => (self.remote_spi, self.local_spi),
        };
        Header { initiator_spi, responder_spi, exchange, sender: self.role, direction, message_id }
    }

    /// Protects a message of ours, in fragments (RFC 7383 §2.5) where it is longer than `datagram_bytes_max`. Each datagram uses up
    /// one IV.
    pub(crate) fn seal(
        &mut self,
        prefix: IvPrefix,
        exchange: ExchangeType,
        direction: Direction,
        message_id: u32,
        payloads: &[Payload],
        datagram_bytes_max: Option<usize>,
    ) -> Result<Datagrams, CannotSeal> {
        let header = self.header(exchange, direction, message_id);
        let Content { first, bytes } = Content::new(payloads);
        let envelope = self.suite.cipher.envelope();
        let room =
            datagram_bytes_max.filter(|max| envelope.message_len(bytes.len()) > *max).map(|max| envelope.room(max));
        let Some(room) = room.filter(|room| *room > 0) else {
            return Ok(Datagrams(vec![self.seal_part(prefix, &header, Part::Whole, first, &bytes)?]));
        };
        let total = u16::try_from(bytes.len().div_ceil(room)).map_err(|_| CannotSeal)?;
        let parts = (1..=total).zip(bytes.chunks(room)).map(|(number, piece)| {
            // RFC 7383 §2.5: the type of the first inner payload in the first fragment, zero in the rest.
            let first = if number == 1 { first } else { 0 };
            self.seal_part(prefix, &header, Part::Fragment { number, total }, first, piece)
        });
        parts.collect::<Result<_, _>>().map(Datagrams)
    }

    fn seal_part(
        &mut self,
        prefix: IvPrefix,
        header: &Header,
        part: Part,
        first: u8,
        content: &[u8],
    ) -> Result<Vec<u8>, CannotSeal> {
        let iv = prefix.iv(self.sealed).map_err(|_| CannotSeal)?;
        self.sealed += 1;
        let cipher = self.suite.cipher;
        let message = encode_unsealed(header, part, first, content, cipher.envelope());
        cipher.seal(self.keys.protection(self.role), iv, message).map_err(|_| CannotSeal)
    }

    /// Opens what the peer has sealed: the content with padding and pad length.
    pub(crate) fn open(&self, sealed: &Sealed<'_>) -> Result<Zeroizing<Vec<u8>>, CryptoError> {
        self.suite.cipher.open(self.keys.protection(self.role.other()), sealed)
    }

    /// Are both SPIs and the sender's role what the peer would put into a header?
    pub(crate) fn fits(&self, header: &Header) -> bool {
        let ours = self.header(header.exchange, header.direction, header.message_id);
        header.initiator_spi == ours.initiator_spi
            && header.responder_spi == ours.responder_spi
            && header.sender == self.role.other()
    }
}

/// A message of ours as it goes on the wire: one datagram, or its fragments in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Datagrams(#[serde(with = "crate::bytes::list")] pub(crate) Vec<Vec<u8>>);

/// Which ends sit behind a NAT (RFC 7296 §2.23).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Nat {
    pub(crate) local: bool,
    pub(crate) remote: bool,
    /// We have made the peer believe so.
    pub(crate) pretended: bool,
}

impl Nat {
    pub(crate) const fn found(self) -> bool {
        self.local || self.remote || self.pretended
    }
}

/// Where an IKE SA stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// We have sent our IKE_AUTH request.
    Authenticating,
    /// Both sides are authenticated.
    Established,
    /// Another IKE SA has its child SAs; it only waits for its deletion.
    Rekeyed {
        /// The other one.
        heir: IkeSaId,
    },
    /// We have asked the peer to delete it.
    Deleting,
}

/// The last request of the peer, by its digest, and our answer, byte for byte (RFC 7296 §2.1).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Answered {
    pub(crate) message_id: u32,
    /// Of the datagram that it came in, or of the one with its first fragment.
    pub(crate) digest: [u8; 32],
    pub(crate) response: Datagrams,
    /// Inbound SPI of the child SA that it agreed to. Until the peer's next request nobody knows whether the answer has arrived.
    pub(crate) child: Option<u32>,
}

/// A request of ours without an answer yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Pending {
    pub(crate) message_id: u32,
    /// RFC 7296 §2.1: a retransmission MUST be bitwise identical.
    pub(crate) request: Datagrams,
    pub(crate) exchange: Exchange,
}

/// What it takes to finish an exchange of ours.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Exchange {
    Auth(Box<AuthExchange>),
    CreateChild(Box<ChildExchange>),
    RekeyIke(Box<RekeyExchange>),
    DeleteChildren(Vec<u32>),
    DeleteIke,
    /// We tell the peer that its IKE_AUTH response did not convince us (RFC 7296 §2.21.2).
    AuthenticationFailed,
    /// See [`Task::SyncReplayCounters`].
    SyncReplayCounters {
        delta: u64,
    },
    Liveness,
}

/// We have asked the peer to agree on new message IDs (RFC 6311). What is sealed isn't kept: each try has a higher ID and another
/// nonce.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PendingSync {
    pub(crate) nonce: [u8; 4],
    /// M1: the ID that our next request will have at least.
    pub(crate) send: u32,
    pub(crate) tries: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AuthExchange {
    /// The IKE_SA_INIT response: the peer signs it.
    #[serde(with = "crate::bytes")]
    pub(crate) init_response: Vec<u8>,
    #[serde(with = "crate::bytes")]
    pub(crate) nonce_i: Vec<u8>,
    #[serde(with = "crate::bytes")]
    pub(crate) nonce_r: Vec<u8>,
    pub(crate) child: ChildOffer,
    /// The IKE SA whose place it takes: its peer is authenticated anew (RFC 7296 §2.8.3).
    pub(crate) replaces: Option<IkeSaId>,
}

/// A child SA that we proposed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ChildOffer {
    pub(crate) wish: ChildWish,
    pub(crate) mode: Mode,
    pub(crate) spi: u32,
    pub(crate) proposals: Vec<EspProposal>,
    pub(crate) local_ts: Vec<TrafficSelector>,
    pub(crate) remote_ts: Vec<TrafficSelector>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ChildExchange {
    pub(crate) offer: ChildOffer,
    #[serde(with = "crate::bytes")]
    pub(crate) nonce: Vec<u8>,
    pub(crate) key_pair: Option<KeyPair>,
    /// Inbound SPI of the child SA to be replaced.
    pub(crate) rekeys: Option<u32>,
    /// The peer's exchange that replaces the same child SA (RFC 7296 §2.8.1): the SPI of the one it made, its lower nonce.
    pub(crate) collision: Option<(u32, Vec<u8>)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RekeyExchange {
    pub(crate) spi: u64,
    pub(crate) proposals: Vec<IkeProposal>,
    #[serde(with = "crate::bytes")]
    pub(crate) nonce: Vec<u8>,
    pub(crate) key_pair: KeyPair,
    /// The peer's exchange that replaces the same IKE SA (RFC 7296 §2.8.2): the one it made, its lower nonce.
    pub(crate) collision: Option<(IkeSaId, Vec<u8>)>,
}

/// A child SA that somebody wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChildWish {
    pub(crate) policy: String,
    /// The packet that asks for it: our end, the remote end (RFC 7296 §2.9).
    pub(crate) packet: Option<(TrafficSelector, TrafficSelector)>,
    /// For nothing but that packet: the peer has asked for it (SINGLE_PAIR_REQUIRED).
    pub(crate) packet_only: bool,
    /// For that worker (RFC 9611).
    pub(crate) lane: Option<u16>,
}

impl ChildWish {
    pub(crate) fn whole(policy: &str) -> Self {
        Self { policy: policy.to_owned(), packet: None, packet_only: false, lane: None }
    }
}

/// A request that waits for its turn: our window is one (RFC 7296 §2.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Task {
    CreateChild {
        wish: ChildWish,
        group: Option<Group>,
    },
    RekeyChild {
        spi: u32,
        group: Option<Group>,
    },
    RekeyIke {
        group: Option<Group>,
    },
    DeleteChildren(Vec<u32>),
    DeleteIke,
    AuthenticationFailed,
    /// It has taken the place of that one, which is deleted once all before this in the queue is done (RFC 7296 §2.8.3).
    DeleteReplaced(IkeSaId),
    /// The peer's child SAs are to go on that far above their outbound numbers (RFC 6311 §5.2).
    SyncReplayCounters {
        delta: u64,
    },
    Liveness,
}

/// Everything of an IKE SA that another appliance needs to go on with it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct IkeSaState {
    pub(crate) channel: Channel,
    pub(crate) phase: Phase,
    pub(crate) vip: u16,
    pub(crate) connection: String,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) nat: Nat,
    pub(crate) local_id: Identity,
    /// Empty until the peer has named itself.
    pub(crate) remote_id: Option<Identity>,
    /// Status notifications of the initial exchanges: the extensions that the peer knows.
    pub(crate) announced: Vec<NotifyType>,
    /// The VIP's epoch when it was made.
    pub(crate) birth_epoch: u32,
    /// Message ID of our next request.
    pub(crate) next_request: u32,
    /// Message ID of the peer's next request.
    pub(crate) next_expected: u32,
    pub(crate) answered: Option<Answered>,
    pub(crate) pending: Option<Pending>,
    pub(crate) queue: VecDeque<Task>,
    /// Message IDs are not known: nothing is asked or answered before the peer has agreed on new ones.
    pub(crate) sync: Option<PendingSync>,
    /// Highest M1 of the peer's synchronisations (RFC 6311 §5.1).
    pub(crate) sync_seen: Option<u32>,
    /// Inside addresses that the peer has from us.
    pub(crate) assigned: Vec<Assigned>,
    /// Of an IKE SA that the peer made to replace this one, while a request of ours to replace it is under way (RFC 7296 §2.8.2): who has
    /// the child SAs is not known yet.
    pub(crate) rival_heir_of: Option<IkeSaId>,
    /// Digest of the IKE_SA_INIT request that we answered, for late retransmissions of it.
    pub(crate) init_digest: Option<[u8; 32]>,
}

/// When a pending request is sent again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retry {
    pub(crate) at: Instant,
    pub(crate) interval: Duration,
    pub(crate) tries: u32,
    /// It came with a record: whoever wrote the request may have died before it left.
    pub(crate) unsent: bool,
}

/// How old something is, across appliances: they share no clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Age {
    before: Duration,
    since: Instant,
}

impl Age {
    /// Something that is `age` old now.
    pub(crate) const fn of(age: Duration, now: Instant) -> Self {
        Self { before: age, since: now }
    }

    pub(crate) fn at(self, now: Instant) -> Duration {
        self.before.saturating_add(now.saturating_duration_since(self.since))
    }
}

/// Messages that come in fragments.
#[derive(Debug, Default)]
pub(crate) struct Assembling {
    pub(crate) request: Option<Box<Assembly>>,
    pub(crate) response: Option<Box<Assembly>>,
}

impl Assembling {
    /// When the older of the two is given up.
    fn deadline(&self) -> Option<Instant> {
        [&self.request, &self.response].into_iter().flatten().map(|assembly| assembly.until).min()
    }

    /// RFC 7383 §2.6: what doesn't come completely in time is discarded.
    pub(crate) fn expire(&mut self, now: Instant) {
        for slot in [&mut self.request, &mut self.response] {
            slot.take_if(|assembly| assembly.until <= now);
        }
    }
}

/// An IKE SA in memory.
#[derive(Debug)]
pub(crate) struct IkeSa {
    pub(crate) state: IkeSaState,
    pub(crate) policy: Arc<ConnectionPolicy>,
    /// By inbound SPI.
    pub(crate) children: BTreeMap<u32, ChildSa>,
    pub(crate) age: Age,
    /// When something authentic last came from the peer, or when it was imported.
    pub(crate) heard: Instant,
    /// When something first came since it is here.
    pub(crate) heard_first: Option<Instant>,
    pub(crate) rekey_at: Option<Instant>,
    pub(crate) reauth_at: Option<Instant>,
    pub(crate) expires_at: Option<Instant>,
    pub(crate) retry: Option<Retry>,
    /// Fragments of the peer's next request, and of the answer to ours. Not recorded: a successor gets them once more.
    pub(crate) assembling: Assembling,
    /// What stands in the endpoint's timer queue.
    pub(crate) timer: Option<Instant>,
    /// Its record has changed.
    pub(crate) changed: bool,
    /// It is over.
    pub(crate) gone: Option<GoneReason>,
}

impl IkeSa {
    pub(crate) fn new(state: IkeSaState, policy: Arc<ConnectionPolicy>, now: Instant) -> Self {
        Self {
            state,
            policy,
            children: BTreeMap::new(),
            age: Age::of(Duration::ZERO, now),
            heard: now,
            heard_first: Some(now),
            rekey_at: None,
            reauth_at: None,
            expires_at: None,
            retry: None,
            assembling: Assembling::default(),
            timer: None,
            changed: true,
            gone: None,
        }
    }

    /// Something authentic came from the peer.
    pub(crate) const fn note_heard(&mut self, now: Instant) {
        self.heard = now;
        if self.heard_first.is_none() {
            self.heard_first = Some(now);
        }
    }

    pub(crate) const fn id(&self) -> IkeSaId {
        IkeSaId(self.state.channel.local_spi)
    }

    /// Queues a request, once.
    pub(crate) fn enqueue(&mut self, task: Task) {
        if !self.state.queue.contains(&task) {
            self.state.queue.push_back(task);
            self.changed = true;
        }
    }

    /// Asks the peer to delete this IKE SA; nothing else is asked any more.
    pub(crate) fn enqueue_delete(&mut self) {
        self.state.queue.clear();
        self.enqueue(Task::DeleteIke);
        if self.state.phase == Phase::Established {
            self.state.phase = Phase::Deleting;
        }
    }

    /// Outer addresses for ESP. RFC 7296 §2.23: with a NAT in between, both sides MUST use UDP encapsulation; never on port 500.
    pub(crate) fn tunnel(&self) -> Tunnel {
        let (local, remote) = (self.state.local, self.state.remote);
        let encapsulate = self.state.nat.found() && local.port() != 500;
        Tunnel { local: local.ip(), remote: remote.ip(), udp: encapsulate.then_some((local.port(), remote.port())) }
    }

    /// Has the peer said that it knows this extension?
    pub(crate) fn peer_knows(&self, extension: NotifyType) -> bool {
        self.state.announced.contains(&extension)
    }

    pub(crate) fn peer(&self) -> &dyn fmt::Display {
        self.state.remote_id.as_ref().map_or(&"nobody yet" as &dyn fmt::Display, |identity| identity)
    }

    /// The child SA to which the peer sends with this SPI of its own.
    pub(crate) fn child_by_peer_spi(&mut self, spi_out: u32) -> Option<&mut ChildSa> {
        self.children.values_mut().find(|child| child.info.spi_out == spi_out)
    }

    /// The inbound SPI that a request of ours proposes, which is not answered yet.
    pub(crate) fn proposed_child(&self) -> Option<u32> {
        match &self.state.pending.as_ref()?.exchange {
            Exchange::CreateChild(exchange) => Some(exchange.offer.spi),
            Exchange::Auth(exchange) => Some(exchange.child.spi),
            _ => None,
        }
    }

    /// When something is to be done about it.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let liveness = || match (self.state.phase, self.policy.dpd_delay) {
            (Phase::Established, Some(delay)) if self.state.queue.is_empty() && self.state.sync.is_none() => {
                Some(after(self.heard, delay))
            }
            _ => None,
        };
        let request = self.retry.map_or_else(liveness, |retry| Some(retry.at));
        let children = self.children.values().filter_map(ChildSa::deadline).min();
        [request, self.rekey_at, self.reauth_at, self.expires_at, children, self.assembling.deadline()]
            .into_iter()
            .flatten()
            .min()
    }
}
