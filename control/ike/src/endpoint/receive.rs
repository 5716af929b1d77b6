//! Which IKE SA a datagram belongs to, and what holds for all protected messages.

use std::net::SocketAddr;
use std::time::Instant;

use super::contents::Contents;
use super::{Endpoint, digest};
use crate::counters::Drop;
use crate::crypto::OpenError;
use crate::event::{Event, GoneReason, Transmit};
use crate::message::{Direction, ExchangeType, Header, NotifyType, ParseError, Payload, Received, Role, encode_clear};
use crate::sa::{Answered, IkeSa, IkeSaId, Phase};

/// The two ends of a datagram: ours and the remote peer's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

impl Endpoint {
    /// Takes a datagram that arrived on UDP port 500 or 4500, without the non-ESP marker.
    pub fn handle_datagram(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, payload: &[u8]) {
        let ends = Ends { local, remote };
        let message = match Received::parse(payload) {
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

    fn on_protected(&mut self, now: Instant, ends: Ends, id: IkeSaId, message: &Received<'_>, datagram: &[u8]) {
        let Ends { local, remote } = ends;
        if let Some(closed) = self.closed.get(&id) {
            if closed.digest == digest(datagram) {
                let payload = closed.response.clone();
                self.transmit(Transmit { ike_sa: None, local, remote, payload, fresh: false });
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
                self.on_response(now, ends, &mut sa, message);
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
            && answered.digest == digest(datagram)
        {
            // RFC 7296 §2.1: a retransmitted request only causes a retransmission of the response.
            let payload = answered.response.clone();
            return self.transmit(Transmit { ike_sa: Some(sa.id()), local, remote, payload, fresh: false });
        }
        // RFC 7296 §2.3: our window is one.
        if message_id != sa.state.next_expected {
            return self.drop_unauthenticated(Drop::UnexpectedMessageId, local, remote);
        }
        // Until its IKE_AUTH response is here, nobody has authenticated the responder.
        if sa.state.phase == Phase::Authenticating {
            return self.drop_unauthenticated(Drop::UnexpectedExchange, local, remote);
        }
        let opened = sa.state.channel.open(message);
        if opened == Err(OpenError::NotAuthentic) {
            return self.drop_unauthenticated(Drop::NotAuthentic, local, remote);
        }
        self.heard(sa, now, ends);
        let exchange = message.header.exchange;
        let before: Vec<u32> = sa.children.keys().copied().collect();
        let payloads = match opened {
            Err(OpenError::Malformed(ParseError::Critical(kind))) => {
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
        let answered = Answered { message_id, digest: digest(datagram), response: response.clone(), child };
        sa.state.answered = Some(answered);
        sa.changed = true;
        self.transmit(Transmit { ike_sa: Some(sa.id()), local, remote, payload: response, fresh: true });
    }

    /// The payloads that answer a request.
    fn answer(&mut self, now: Instant, sa: &mut IkeSa, exchange: ExchangeType, contents: Contents) -> Vec<Payload> {
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

    fn on_response(&mut self, now: Instant, ends: Ends, sa: &mut IkeSa, message: &Received<'_>) {
        let Ends { local, remote } = ends;
        let Some(pending) = &sa.state.pending else {
            return self.drop_unauthenticated(Drop::UnexpectedMessageId, local, remote);
        };
        if pending.message_id != message.header.message_id {
            return self.drop_unauthenticated(Drop::UnexpectedMessageId, local, remote);
        }
        let opened = sa.state.channel.open(message);
        if opened == Err(OpenError::NotAuthentic) {
            // RFC 7296 §2.21.4: an unprotected notification changes nothing; here it isn't even a hint, the request is being
            // retransmitted anyway.
            return self.drop_unauthenticated(Drop::NotAuthentic, local, remote);
        }
        self.heard(sa, now, ends);
        sa.retry = None;
        sa.changed = true;
        let Some(pending) = sa.state.pending.take() else { return };
        match opened {
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
    fn heard(&mut self, sa: &mut IkeSa, now: Instant, ends: Ends) {
        sa.heard = now;
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
    ) -> Option<Vec<u8>> {
        let sealed = self
            .iv_prefix(sa.state.vip)
            .and_then(|prefix| sa.state.channel.seal(prefix, exchange, direction, message_id, payloads).ok());
        if sealed.is_none() {
            self.counters.count(Drop::NumbersExhausted);
            sa.gone.get_or_insert(GoneReason::NumbersExhausted);
        }
        sealed
    }
}
