//! The state machine: all IKE SAs of one appliance.

mod assign;
mod auth;
mod child;
mod contents;
mod create_child;
mod informational;
mod init;
mod init_response;
mod narrowing;
mod nat;
mod operate;
mod rate;
mod receive;
mod reconfigure;
mod records;
mod rekey_ike;
mod renegotiate;
mod requests;
mod status;
mod sync;
mod timers;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand_core::CryptoRng;
use thiserror::Error;
use vipsec_wire::cookie::{Cookies, SECRET_LEN};
use vipsec_wire::iv::{Epoch, IvPrefix};

use crate::config::{Config, ConnectionPolicy};
use crate::counters::{Counters, Drop};
use crate::event::{Event, GoneReason, Removal, Transmit};
use crate::identity::Identity;
use crate::keylog;
use crate::pool::Leases;
use crate::sa::{Channel, Datagrams, IkeSa, IkeSaId};
use init::HalfOpen;
use init_response::Initiation;
use rate::RateLimit;

pub(crate) use timers::after;

pub use operate::OperateError;
pub use records::{ImportError, Vintage};
pub use renegotiate::Callee;
pub use status::{ChildSaStatus, IkeSaStatus, Standing};
pub use timers::Due;

/// Length of our nonces in bytes. RFC 7296 §2.10: at least half the key size of every PRF that we propose.
const NONCE_LEN: usize = 32;

/// All IKE SAs of one appliance, in both roles, without I/O.
///
/// Input: [`handle_datagram`](Self::handle_datagram), [`handle_timeout`](Self::handle_timeout) and the operator's requests.
/// After each of them drain [`poll_event`](Self::poll_event), then [`poll_transmit`](Self::poll_transmit), and arm a timer for
/// [`poll_timeout`](Self::poll_timeout).
///
/// After each input the state is complete: a record exported then holds the bytes of every message that
/// [`poll_transmit`](Self::poll_transmit) is about to give.
pub struct Endpoint {
    config: Arc<Config>,
    /// Where the configuration has a connection, by its name.
    connections: HashMap<String, usize>,
    rng: Box<dyn CryptoRng + Send>,
    /// The epoch of each VIP that we own.
    epochs: BTreeMap<u16, Epoch>,
    /// VIPs that were ours, whose SAs are not all forgotten yet: those before that one are.
    leaving: BTreeMap<u16, IkeSaId>,
    /// IKE SAs of which both sides have keys and one of them at least has spoken under them as itself.
    sas: BTreeMap<IkeSaId, IkeSa>,
    /// Attempts of ours whose IKE_SA_INIT has no good answer yet.
    initiations: BTreeMap<IkeSaId, Initiation>,
    /// IKE_SA_INIT requests that we answered; nobody believes in them yet.
    half_open: BTreeMap<IkeSaId, HalfOpen>,
    /// Closed IKE SAs that still answer retransmissions.
    closed: BTreeMap<IkeSaId, Closed>,
    /// By VIP: until when a peer that doesn't answer isn't taken for dead.
    silence_excused: BTreeMap<u16, Instant>,
    /// Which IKE SA has the child SA with that inbound SPI.
    child_owner: BTreeMap<u32, IkeSaId>,
    /// Inbound SPIs of child SAs that aren't ours, but may become ours: none of them is given to another one.
    reserved: HashSet<u32>,
    /// IKE SAs by the peer's identity.
    by_peer: BTreeMap<Identity, BTreeSet<IkeSaId>>,
    /// IKE SAs that we answered for, by the digest of the IKE_SA_INIT request (RFC 7296 §2.1).
    by_init: BTreeMap<[u8; 32], IkeSaId>,
    timers: BTreeSet<(Instant, IkeSaId)>,
    cookies: Cookies,
    answers: RateLimit,
    complaints: RateLimit,
    leases: Leases,
    key_log: bool,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    counters: Counters,
}

/// What stays of a closed IKE SA for a while: the peer may not have got our last answer.
struct Closed {
    digest: [u8; 32],
    response: Datagrams,
}

/// An epoch must not go back: the IVs of the higher one may have been used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("epoch {new} of VIP {vip} is below its epoch {current}")]
pub struct EpochWentBack {
    /// The VIP's index.
    pub vip: u16,
    /// The one asked for.
    pub new: Epoch,
    /// The one in force.
    pub current: Epoch,
}

impl Endpoint {
    /// An endpoint that owns no VIP yet.
    pub fn new(config: Arc<Config>, mut rng: Box<dyn CryptoRng + Send>) -> Self {
        let mut cookie_secret = [0; SECRET_LEN];
        rng.fill_bytes(&mut cookie_secret);
        let answers = RateLimit::new(config.limits.unprotected_answers_per_second);
        Self {
            connections: config.connections_by_name(),
            config,
            rng,
            epochs: BTreeMap::new(),
            leaving: BTreeMap::new(),
            sas: BTreeMap::new(),
            initiations: BTreeMap::new(),
            half_open: BTreeMap::new(),
            closed: BTreeMap::new(),
            silence_excused: BTreeMap::new(),
            child_owner: BTreeMap::new(),
            reserved: HashSet::new(),
            by_peer: BTreeMap::new(),
            by_init: BTreeMap::new(),
            timers: BTreeSet::new(),
            cookies: Cookies::new(0, cookie_secret),
            answers,
            complaints: RateLimit::new(COMPLAINTS_PER_SECOND),
            leases: Leases::default(),
            key_log: false,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// From now on we own a VIP, under that epoch: the IVs of its IKE SAs carry it. The epoch never goes back.
    ///
    /// Messages to a VIP without an epoch are dropped.
    pub fn set_origin(&mut self, vip: u16, epoch: Epoch) -> Result<(), EpochWentBack> {
        match self.epochs.get(&vip) {
            Some(current) if *current > epoch => Err(EpochWentBack { vip, new: epoch, current: *current }),
            _ => {
                // What we had of it before another owner did is not to come back.
                self.forget_some(vip, usize::MAX);
                self.epochs.insert(vip, epoch);
                Ok(())
            }
        }
    }

    /// Our cookies from now on (RFC 7296 §2.6); until then they are our own. Appliances that share their secret accept each other's,
    /// and what stands before us may ask for them in our stead.
    pub fn set_cookies(&mut self, cookies: Cookies) {
        self.cookies = cookies;
    }

    /// From now on the keys of all new SAs come as [`Event::KeyLog`], or no longer. For debugging: whoever has them reads everything.
    pub fn set_key_log(&mut self, on: bool) {
        self.key_log = on;
    }

    fn log_ike_keys(&mut self, channel: &Channel) {
        if let Some(line) = self.key_log.then(|| keylog::ike(channel)).flatten() {
            self.events.push_back(Event::KeyLog(line));
        }
    }

    /// The next message to send, after all events were taken.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Why messages were dropped, and how often.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The connection of that name.
    fn connection(&self, name: &str) -> Option<&Arc<ConnectionPolicy>> {
        self.config.connections.get(*self.connections.get(name)?)
    }

    /// The prefix of our IVs, while we own the VIP.
    fn iv_prefix(&self, vip: u16) -> Option<IvPrefix> {
        self.epochs.get(&vip).map(|epoch| IvPrefix::new(self.config.appliance, *epoch))
    }

    fn random<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }

    fn nonce(&mut self) -> Vec<u8> {
        self.random::<NONCE_LEN>().to_vec()
    }

    /// An SPI for an IKE SA: our id, then random bits.
    fn new_ike_spi(&mut self) -> IkeSaId {
        loop {
            let [_, rest @ ..] = self.random::<8>();
            let [a, b, c, d, e, f, g] = rest;
            let id = IkeSaId(u64::from_be_bytes([self.config.appliance.get(), a, b, c, d, e, f, g]));
            let taken = self.sas.contains_key(&id)
                || self.initiations.contains_key(&id)
                || self.half_open.contains_key(&id)
                || self.closed.contains_key(&id);
            if !taken {
                return id;
            }
        }
    }

    /// An SPI for ESP: our id, then random bits. Ids begin at 1, so none of the reserved SPIs up to 255 comes out.
    fn new_esp_spi(&mut self) -> u32 {
        loop {
            let [a, b, c] = self.random();
            let spi = u32::from_be_bytes([self.config.appliance.get(), a, b, c]);
            if !self.child_owner.contains_key(&spi) && !self.reserved.contains(&spi) {
                return spi;
            }
        }
    }

    /// No child SA of ours gets that inbound SPI: one that another appliance has would be lost by it when it becomes ours.
    pub fn reserve_spi(&mut self, spi_in: u32) {
        self.reserved.insert(spi_in);
    }

    /// The other appliance's child SA is gone. One that is imported is ours from then on.
    pub fn release_spi(&mut self, spi_in: u32) {
        self.reserved.remove(&spi_in);
    }

    /// Up to a tenth of `time`, at random (RFC 7296 §2.8.1: rekeying SHOULD be jittered).
    fn jitter(&mut self, time: Duration) -> Duration {
        let [byte] = self.random();
        time * u32::from(byte) / (10 * 256)
    }

    fn transmit(&mut self, transmit: Transmit) {
        self.transmits.push_back(transmit);
    }

    /// Drops a message of which nobody knows the sender.
    fn drop_unauthenticated(&mut self, reason: Drop, local: SocketAddr, remote: SocketAddr) {
        self.counters.count(reason);
        tracing::debug!(%local, %remote, reason = reason.text(), "IKE message dropped");
    }

    /// Takes an IKE SA out to work on it; [`settle`](Self::settle) puts it back. Nothing is done with one that is about to be forgotten.
    fn take(&mut self, id: IkeSaId) -> Option<IkeSa> {
        if !self.leaving.is_empty() && self.sas.get(&id).is_some_and(|sa| self.leaving.contains_key(&sa.state.vip)) {
            return None;
        }
        self.take_out(id)
    }

    fn take_out(&mut self, id: IkeSaId) -> Option<IkeSa> {
        let mut sa = self.sas.remove(&id)?;
        if let Some(timer) = sa.timer.take() {
            self.timers.remove(&(timer, id));
        }
        Some(sa)
    }

    /// Ends the work on an IKE SA: sends what waits, tells of changes, arms its timer; or buries it.
    fn settle(&mut self, mut sa: IkeSa, now: Instant) {
        if sa.gone.is_none() {
            self.send_next_request(&mut sa, now);
        }
        if let Some(reason) = sa.gone {
            return self.bury(&sa, reason, now);
        }
        let id = sa.id();
        if std::mem::take(&mut sa.changed) {
            self.events.push_back(Event::Changed(id));
        }
        if let Some(peer) = &sa.state.remote_id {
            self.by_peer.entry(peer.clone()).or_default().insert(id);
        }
        if let Some(digest) = sa.state.init_digest {
            self.by_init.insert(digest, id);
        }
        sa.timer = sa.deadline();
        if let Some(timer) = sa.timer {
            self.timers.insert((timer, id));
        }
        self.sas.insert(id, sa);
    }

    /// Forgets an IKE SA that was taken out, and tells.
    fn bury(&mut self, sa: &IkeSa, reason: GoneReason, now: Instant) {
        let id = sa.id();
        self.forget(sa, reason);
        if let Some(answered) = &sa.state.answered {
            self.linger(id, answered.digest, answered.response.clone(), now);
        }
        tracing::info!(
            ike_sa = %id, connection = %sa.state.connection, remote = %sa.state.remote, peer = %sa.peer(), ?reason,
            "IKE SA gone"
        );
    }

    /// Nothing of an IKE SA stays that was taken out.
    fn forget(&mut self, sa: &IkeSa, reason: GoneReason) {
        let id = sa.id();
        self.release_addresses(sa);
        for spi_in in sa.children.keys() {
            self.child_owner.remove(spi_in);
            self.events.push_back(Event::RemoveChild { ike_sa: id, spi_in: *spi_in, removal: Removal::Ended });
        }
        if let Some(peer) = &sa.state.remote_id
            && let Some(ids) = self.by_peer.get_mut(peer)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_peer.remove(peer);
            }
        }
        if let Some(digest) = &sa.state.init_digest {
            self.by_init.remove(digest);
        }
        self.events.push_back(Event::IkeGone { id, connection: sa.state.connection.clone(), reason });
    }

    /// Goes on answering retransmissions of an IKE SA's last request for a while.
    fn linger(&mut self, id: IkeSaId, digest: [u8; 32], response: Datagrams, now: Instant) {
        if self.closed.len() < self.config.limits.closed_max {
            let until = after(now, self.config.limits.closed_linger);
            self.closed.insert(id, Closed { digest, response });
            self.timers.insert((until, id));
        }
    }
}

#[cfg(test)]
impl Endpoint {
    /// The keys of an IKE SA, for tests that play its peer.
    pub(crate) fn channel(&self, id: IkeSaId) -> &crate::sa::Channel {
        &self.sas[&id].state.channel
    }
}

/// Log lines per second about peers that nobody has authenticated.
const COMPLAINTS_PER_SECOND: u32 = 5;

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("appliance", &self.config.appliance)
            .field("ike_sas", &self.sas.len())
            .field("half_open", &self.half_open.len())
            .finish_non_exhaustive()
    }
}

/// Things in a row, for the log.
struct Listed<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for Listed<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(i, one)| write!(f, "{}{one}", if i == 0 { "" } else { ", " }))
    }
}

/// SHA-256, to recognise a datagram that we have seen.
fn digest(datagram: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, datagram);
    let mut out = [0; 32];
    for (to, from) in out.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    out
}
