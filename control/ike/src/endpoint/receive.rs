//! Which IKE SA a datagram belongs to, and what holds for all protected messages.

use std::net::SocketAddr;
use std::time::Instant;

use super::contents::Contents;
use super::timers::after;
use super::{Endpoint, digest};
use crate::config::{Config, Fragmentation};
use crate::counters::Drop;
use crate::event::{Event, GoneReason, Transmit};
use crate::fragments::{Assembled, Assembly, Place};
use crate::message::{
    Delete, Direction, ExchangeType, Header, NotifyType, ParseError, Part, Payload, Received, Role, encode_clear,
};
use crate::sa::{Answered, Channel, Datagrams, IkeSa, IkeSaId, Phase};

/// Where peers listen (RFC 7296 §2).
pub(super) const PORT_IKE: u16 = 500;

/// The two ends of a datagram: ours and the remote peer's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// Have these bytes left before?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Perhaps never: see [`Transmit::fresh`].
    Fresh,
    /// They have.
    Again,
}

/// A protected message of the peer that has come completely.
pub(super) struct Whole {
    pub(super) payloads: Result<Vec<Payload>, ParseError>,
    /// Of the datagram that it came in, or of the one with its first fragment.
    pub(super) digest: [u8; 32],
}

/// Opens a protected datagram. `None`: a fragment, put into `slot` until the others are here.
pub(super) fn read(
    config: &Config,
    now: Instant,
    channel: &Channel,
    slot: &mut Option<Box<Assembly>>,
    message: &Received<'_>,
    datagram: &[u8],
) -> Result<Option<Whole>, Drop> {
    let sealed = message.sealed().map_err(|_| Drop::NotAuthentic)?;
    let place = match sealed.part {
        Part::Whole => {
            let content = channel.open(&sealed).map_err(|_| Drop::NotAuthentic)?;
            return Ok(Some(Whole { payloads: sealed.payloads(&content), digest: digest(datagram) }));
        }
        Part::Fragment { number, total } => Place { message_id: message.header.message_id, number, total },
    };
    if place.total > config.limits.fragments_max {
        return Err(Drop::FragmentLimit);
    }
    if !Assembly::wants(slot.as_deref(), place) {
        return Err(Drop::FragmentUnwanted);
    }
    // RFC 7383 §2.6: a fragment whose ICV doesn't fit is silently discarded.
    let content = channel.open(&sealed).map_err(|_| Drop::NotAuthentic)?;
    let piece = sealed.piece(&content).map_err(|_| Drop::Malformed)?;
    let until = after(now, config.limits.assembly_timeout);
    let bytes_max = config.limits.message_bytes_max;
    let added = Assembly::add(slot, place, piece, digest(datagram), until, bytes_max);
    let Some(Assembled { content, digest }) = added.map_err(|_| Drop::FragmentLimit)? else { return Ok(None) };
    Ok(Some(Whole { payloads: content.payloads(config.limits.parse()), digest }))
}

impl Endpoint {
    /// Takes a datagram that arrived on UDP port 500 or 4500, without the non-ESP marker.
    pub fn handle_datagram(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, payload: &[u8]) {
        let ends = Ends { local, remote };
        let message = match Received::parse(payload, self.config.limits.parse()) {
            Ok(message) => message,
            Err(ParseError::MajorVersion(header)) => return self.refuse_version(&header, ends, payload.len(), now),
            Err(error) => {
                let reason = match error {
                    ParseError::OldVersion => Drop::OldVersion,
                    ParseError::TooMany => Drop::Oversized,
                    _ => Drop::Malformed,
                };
                return self.drop_unauthenticated(reason, local, remote);
            }
        };
        let header = message.header;
        match (header.exchange, header.direction, header.sender) {
            (ExchangeType::IkeSaInit, Direction::Request, Role::Initiator)
                if header.responder_spi == 0 && header.message_id == 0 =>
            {
                self.on_init_request(now, ends, &message, payload);
            }
            (ExchangeType::IkeSaInit, Direction::Response, Role::Responder) if header.message_id == 0 => {
                self.on_init_response(now, ends, &message, payload);
            }
            (ExchangeType::IkeSaInit, ..) => self.drop_unauthenticated(Drop::UnexpectedExchange, local, remote),
            // RFC 7296 §2.6: messages are mapped to an IKE SA by the SPI that we assigned; the I flag says which of the two that is.
            (.., Role::Initiator) => self.on_protected(now, ends, IkeSaId(header.responder_spi), &message, payload),
            (.., Role::Responder) => self.on_protected(now, ends, IkeSaId(header.initiator_spi), &message, payload),
        }
    }

    /// RFC 7296 §2.5: a message with a higher major version is dropped, and SHOULD be answered. The answer is 8 bytes longer than a
    /// bare header, so only a longer message gets one.
    fn refuse_version(&mut self, header: &Header, ends: Ends, len: usize, now: Instant) {
        self.drop_unauthenticated(Drop::NewVersion, ends.local, ends.remote);
        let payload = Payload::from(NotifyType::INVALID_MAJOR_VERSION);
        if header.direction == Direction::Request && len >= 36 && self.may_answer(now) {
            let answer = Header { direction: Direction::Response, sender: header.sender.other(), ..*header };
            self.send_clear(ends, encode_clear(&answer, &[payload]));
        }
    }

    /// RFC 7296 §2.21.4: a node needs to limit the rate of its answers to unprotected messages.
    pub(super) fn may_answer(&mut self, now: Instant) -> bool {
        let allowed = self.answers.allows(now);
        if !allowed {
            self.counters.count(Drop::RateLimited);
        }
        allowed
    }

    pub(super) fn send_clear(&mut self, ends: Ends, payload: Vec<u8>) {
        self.transmit(Transmit { ike_sa: None, local: ends.local, remote: ends.remote, payload, fresh: true });
    }

    /// Sends a protected message: all its datagrams.
    pub(super) fn transmit_message(
        &mut self,
        ike_sa: Option<IkeSaId>,
        ends: Ends,
        message: &Datagrams,
        freshness: Freshness,
    ) {
        let Ends { local, remote } = ends;
        let fresh = freshness == Freshness::Fresh;
        for payload in message.0.iter().cloned() {
            self.transmit(Transmit { ike_sa, local, remote, payload, fresh });
        }
    }

    fn on_protected(&mut self, now: Instant, ends: Ends, id: IkeSaId, message: &Received<'_>, datagram: &[u8]) {
        let Ends { local, remote } = ends;
        if let Some(closed) = self.closed.get(&id) {
            if closed.digest == digest(datagram) {
                let response = closed.response.clone();
                // The first one may still be waiting for the copies to learn that the IKE SA is gone.
                self.transmit_message(Some(id), ends, &response, Freshness::Again);
            } else {
                self.drop_unauthenticated(Drop::UnknownSpi, local, remote);
            }
        } else if self.half_open.contains_key(&id) {
            self.on_auth_request(now, ends, id, message, datagram);
        } else if let Some(mut sa) = self.take(id) {
            if !sa.state.channel.fits(&message.header) || sa.state.local.ip() != local.ip() {
                self.drop_unauthenticated(Drop::WrongPeer, local, remote);
            } else if message.header.direction == Direction::Request {
                self.on_request(now, ends, &mut sa, message, datagram);
            } else {
                self.on_response(now, ends, &mut sa, message, datagram);
            }
            self.settle(sa, now);
        } else {
            // RFC 7296 §2.21.4 allows an INVALID_IKE_SPI here. We stay silent: after a takeover the IKE SA may be about to be
            // imported, and an answer would help nobody but a scanner.
            self.drop_unauthenticated(Drop::UnknownSpi, local, remote);
        }
    }

    fn on_request(&mut self, now: Instant, ends: Ends, sa: &mut IkeSa, message: &Received<'_>, datagram: &[u8]) {
        let Ends { local, remote } = ends;
        let message_id = message.header.message_id;
        if let Some(answered) = &sa.state.answered
            && answered.message_id == message_id
            && is_retransmission(&sa.state.channel, answered, message, datagram)
        {
            // RFC 7296 §2.1: a retransmitted request only causes a retransmission of the response.
            return self.transmit_message(Some(sa.id()), ends, &answered.response, Freshness::Again);
        }
        if self.is_about_sync(now, ends, sa, message, datagram) {
            return;
        }
        // RFC 7296 §2.3: our window is one. RFC 6311 §8.1: with IDs that may be stale, none is taken.
        if message_id != sa.state.next_expected || sa.state.sync.is_some() {
            return self.drop_unauthenticated(Drop::UnexpectedMessageId, local, remote);
        }
        // Until its IKE_AUTH response is here, nobody has authenticated the responder.
        if sa.state.phase == Phase::Authenticating {
            return self.drop_unauthenticated(Drop::UnexpectedExchange, local, remote);
        }
        let slot = &mut sa.assembling.request;
        let whole = match read(&self.config, now, &sa.state.channel, slot, message, datagram) {
            Ok(Some(whole)) => whole,
            Ok(None) => return,
            Err(reason) => return self.drop_unauthenticated(reason, local, remote),
        };
        self.heard(sa, now, ends);
        let exchange = message.header.exchange;
        let before: Vec<u32> = sa.children.keys().copied().collect();
        let payloads = match whole.payloads {
            Err(ParseError::Critical(kind)) => {
                tracing::warn!(ike_sa = %sa.id(), %remote, kind, "request with an unknown critical payload refused");
                // RFC 7296 §2.5: the Notification Data contains the payload type.
                vec![Payload::notify(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![kind])]
            }
            Ok(payloads) => self.answer(now, sa, exchange, Contents::sort(payloads)),
            Err(_) => self.invalid_syntax(sa, "malformed payloads"),
        };
        let child = sa.children.keys().copied().find(|spi| !before.contains(spi));
        let Some(next_expected) = message_id.checked_add(1) else {
            sa.gone.get_or_insert(GoneReason::NumbersExhausted);
            return;
        };
        sa.state.next_expected = next_expected;
        let Some(response) = self.seal(sa, exchange, Direction::Response, message_id, &payloads) else { return };
        self.transmit_message(Some(sa.id()), ends, &response, Freshness::Fresh);
        sa.state.answered = Some(Answered { message_id, digest: whole.digest, response, child });
        sa.changed = true;
    }

    /// Looks into messages with ID zero, which may synchronise message IDs (RFC 6311 §5.1).
    fn is_about_sync(
        &mut self,
        now: Instant,
        ends: Ends,
        sa: &mut IkeSa,
        message: &Received<'_>,
        datagram: &[u8],
    ) -> bool {
        let Header { message_id, exchange, direction, .. } = message.header;
        if message_id != 0
            || exchange != ExchangeType::Informational
            || sa.state.phase == Phase::Authenticating
            || !sa.peer_knows(NotifyType::IKEV2_MESSAGE_ID_SYNC_SUPPORTED)
        {
            return false;
        }
        // It is short: never in fragments.
        match read(&self.config, now, &sa.state.channel, &mut None, message, datagram) {
            Ok(Some(whole)) => self.on_message_zero(now, ends, sa, direction, &whole),
            Ok(None) | Err(_) => false,
        }
    }

    /// The payloads that answer a request.
    fn answer(&mut self, now: Instant, sa: &mut IkeSa, exchange: ExchangeType, contents: Contents) -> Vec<Payload> {
        let about_children = |delete: &Delete| matches!(delete, Delete::Esp(_));
        if exchange == ExchangeType::CreateChildSa || contents.deletes.iter().any(about_children) {
            self.resolve_collision(now, sa);
        }
        match exchange {
            ExchangeType::CreateChildSa => self.on_create_child_sa(now, sa, &contents),
            ExchangeType::Informational => self.on_informational(now, sa, &contents),
            ExchangeType::IkeSaInit | ExchangeType::IkeAuth | ExchangeType::Other(_) => {
                self.invalid_syntax(sa, "exchange that has no place on an established IKE SA")
            }
        }
    }

    /// RFC 7296 §2.21.3: INVALID_SYNTAX is fatal in both peers: the IKE SA is deleted without an explicit Delete payload.
    pub(super) fn invalid_syntax(&mut self, sa: &mut IkeSa, what: &str) -> Vec<Payload> {
        tracing::warn!(ike_sa = %sa.id(), connection = %sa.state.connection, remote = %sa.state.remote, what, "invalid syntax");
        sa.gone = Some(GoneReason::ProtocolError);
        vec![NotifyType::INVALID_SYNTAX.into()]
    }

    fn on_response(&mut self, now: Instant, ends: Ends, sa: &mut IkeSa, message: &Received<'_>, datagram: &[u8]) {
        let Ends { local, remote } = ends;
        if self.is_about_sync(now, ends, sa, message, datagram) {
            return;
        }
        let Some(pending) = &sa.state.pending else {
            return self.drop_unauthenticated(Drop::UnexpectedMessageId, local, remote);
        };
        if pending.message_id != message.header.message_id {
            return self.drop_unauthenticated(Drop::UnexpectedMessageId, local, remote);
        }
        let slot = &mut sa.assembling.response;
        let whole = match read(&self.config, now, &sa.state.channel, slot, message, datagram) {
            Ok(Some(whole)) => whole,
            Ok(None) => return,
            // RFC 7296 §2.21.4: an unprotected notification changes nothing; here it isn't even a hint, the request is being
            // retransmitted anyway.
            Err(reason) => return self.drop_unauthenticated(reason, local, remote),
        };
        self.heard(sa, now, ends);
        sa.retry = None;
        sa.changed = true;
        let Some(pending) = sa.state.pending.take() else { return };
        match whole.payloads {
            Ok(payloads) => self.on_answer(now, sa, pending, Contents::sort(payloads)),
            Err(_) => self.bad_response(sa, "malformed payloads"),
        }
    }

    /// RFC 7296 §2.21: an error in a response is not answered, but the state is cleaned up.
    pub(super) fn bad_response(&mut self, sa: &mut IkeSa, what: &str) {
        tracing::warn!(ike_sa = %sa.id(), connection = %sa.state.connection, remote = %sa.state.remote, what, "bad response");
        if sa.state.phase == Phase::Authenticating {
            sa.gone = Some(GoneReason::ProtocolError);
        } else {
            sa.enqueue_delete();
        }
    }

    /// A fresh authentic message came: the peer lives, and perhaps elsewhere than before.
    pub(super) fn heard(&mut self, sa: &mut IkeSa, now: Instant, ends: Ends) {
        sa.note_heard(now);
        if sa.state.remote == ends.remote && sa.state.local == ends.local {
            return;
        }
        // RFC 7296 §2.23: a host that is not behind a NAT updates the address of one that is; a host behind a NAT SHOULD NOT.
        if sa.state.nat.remote && !sa.state.nat.local {
            self.move_peer(sa, ends);
        }
    }

    /// The peer's end of an IKE SA and its child SAs is elsewhere now.
    pub(super) fn move_peer(&mut self, sa: &mut IkeSa, ends: Ends) {
        tracing::info!(ike_sa = %sa.id(), connection = %sa.state.connection, from = %sa.state.remote, to = %ends.remote, "peer moved");
        sa.state.local = ends.local;
        sa.state.remote = ends.remote;
        sa.changed = true;
        let tunnel = sa.tunnel();
        for child in sa.children.values_mut() {
            child.info.tunnel = tunnel;
        }
        let children = sa.children.keys().copied().collect();
        self.events.push_back(Event::PeerMoved { ike_sa: sa.id(), children, remote: ends.remote });
    }

    /// Protects a message of ours. `None`: it can't be; the IKE SA is lost.
    pub(super) fn seal(
        &mut self,
        sa: &mut IkeSa,
        exchange: ExchangeType,
        direction: Direction,
        message_id: u32,
        payloads: &[Payload],
    ) -> Option<Datagrams> {
        let fragments =
            sa.policy.fragmentation == Fragmentation::Yes && sa.peer_knows(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED);
        let max = fragments.then(|| self.datagram_bytes_max(sa.state.local));
        let sealed = self
            .iv_prefix(sa.state.vip)
            .and_then(|prefix| sa.state.channel.seal(prefix, exchange, direction, message_id, payloads, max).ok());
        if sealed.is_none() {
            self.counters.count(Drop::NumbersExhausted);
            sa.gone.get_or_insert(GoneReason::NumbersExhausted);
        }
        sealed
    }

    /// Longest IKE message that leaves from there in one piece, where the peer can put fragments together.
    pub(super) fn datagram_bytes_max(&self, local: SocketAddr) -> usize {
        const UDP_HEADER_LEN: usize = 8;
        const NON_ESP_MARKER_LEN: usize = 4;
        let ip_header_len = if local.is_ipv4() { 20 } else { 40 };
        let marker_len = if local.port() == PORT_IKE { 0 } else { NON_ESP_MARKER_LEN };
        self.config.packet_bytes_max.saturating_sub(ip_header_len + UDP_HEADER_LEN + marker_len)
    }
}

/// Is this the request that we have answered?
fn is_retransmission(channel: &Channel, answered: &Answered, message: &Received<'_>, datagram: &[u8]) -> bool {
    if answered.digest == digest(datagram) {
        return true;
    }
    // RFC 7383 §2.6.1: of a fragmented request only fragment 1 counts, the others are ignored. The peer may have cut its request
    // anew, so the bytes need not be the same; but they are the peer's.
    message
        .sealed()
        .is_ok_and(|sealed| matches!(sealed.part, Part::Fragment { number: 1, .. }) && channel.open(&sealed).is_ok())
}
