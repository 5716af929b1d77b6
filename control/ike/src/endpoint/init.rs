//! IKE_SA_INIT as responder (RFC 7296 §1.2, §2.6, §2.7).

use std::time::Instant;

use vipsec_wire::cookie::Caller;

use super::contents::Contents;
use super::receive::Ends;
use super::timers::after;
use super::{Endpoint, digest, nat};
use crate::config::Fragmentation;
use crate::counters::Drop;
use crate::crypto::derive::{IkeKeys, IkeSpis, Nonces};
use crate::crypto::exchange::KeyPair;
use crate::crypto::{Group, IkeSuite, Mismatch, pick_ike};
use crate::event::Transmit;
use crate::fragments::Assembly;
use crate::message::sa::Proposal;
use crate::message::{Direction, ExchangeType, Header, NotifyType, ParseError, Payload, Received, Role, encode_clear};
use crate::sa::{Channel, IkeSaId, Nat};

/// An IKE_SA_INIT request that we answered.
pub(super) struct HalfOpen {
    pub(super) channel: Channel,
    pub(super) vip: u16,
    pub(super) nat: Nat,
    pub(super) nonce_i: Vec<u8>,
    pub(super) nonce_r: Vec<u8>,
    /// The initiator signs it.
    pub(super) request: Vec<u8>,
    pub(super) digest: [u8; 32],
    /// We sign it.
    pub(super) response: Vec<u8>,
    pub(super) announced: Vec<NotifyType>,
    /// Fragments of the IKE_AUTH request.
    pub(super) assembling: Option<Box<Assembly>>,
    pub(super) until: Instant,
}

/// What of a request we agree to.
struct Accepted<'a> {
    vip: u16,
    suite: IkeSuite,
    chosen: &'a Proposal,
    public: &'a [u8],
    nonce: &'a [u8],
}

impl Endpoint {
    pub(super) fn on_init_request(&mut self, now: Instant, ends: Ends, message: &Received<'_>, datagram: &[u8]) {
        let Ends { local, remote } = ends;
        let digest = digest(datagram);
        // RFC 7296 §2.1: the whole message tells a retransmission from another peer that chose the same SPI.
        if let Some(id) = self.by_init.get(&digest) {
            // For an IKE SA whose IKE_AUTH request was received already, it is ignored.
            if let Some(half) = self.half_open.get(id) {
                let payload = half.response.clone();
                self.transmit(Transmit { ike_sa: None, local, remote, payload, fresh: false });
            }
            return;
        }
        let header = message.header;
        let contents = match message.clear() {
            Ok(payloads) => Contents::sort(payloads),
            Err(ParseError::Critical(kind)) => {
                self.drop_unauthenticated(Drop::Malformed, local, remote);
                let notify = Payload::notify(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![kind]);
                return self.refuse_init(now, &header, ends, notify);
            }
            // RFC 7296 §3.10.1: INVALID_SYNTAX may only be returned in an encrypted message.
            Err(_) => return self.drop_unauthenticated(Drop::Malformed, local, remote),
        };
        let (Some(proposals), Some((group, public)), Some(nonce)) =
            (&contents.sa, &contents.key_exchange, &contents.nonce)
        else {
            return self.drop_unauthenticated(Drop::Malformed, local, remote);
        };
        let Some(vip) = self.config.connections.iter().find(|policy| policy.local == local.ip()).map(|p| p.vip) else {
            return self.drop_unauthenticated(Drop::NoConnection, local, remote);
        };
        if self.iv_prefix(vip).is_none() {
            return self.drop_unauthenticated(Drop::NotOwned, local, remote);
        }
        if !self.may_open(ends, &header, nonce, &contents) {
            return;
        }
        let ke_group = Group::by_number(*group);
        let Some((suite, chosen)) = self.select_init(ends, proposals, ke_group) else {
            self.counters.count(Drop::NoProposalChosen);
            if self.complaints.allows(now) {
                let candidates: Vec<_> = self.config.candidates(local.ip(), remote.ip()).collect();
                let connections: Vec<_> = candidates.iter().map(|policy| policy.name.as_str()).collect();
                let why = Mismatch::new(candidates.iter().flat_map(|policy| &policy.proposals), proposals);
                tracing::warn!(%local, %remote, ?connections, %why, "no acceptable IKE proposal");
            }
            return self.refuse_init(now, &header, ends, NotifyType::NO_PROPOSAL_CHOSEN.into());
        };
        if ke_group != Some(suite.group) {
            // RFC 7296 §1.2, §3.4: the data is the group that we selected.
            self.drop_unauthenticated(Drop::InvalidKeyExchange, local, remote);
            let data = suite.group.number().to_be_bytes().to_vec();
            return self.refuse_init(now, &header, ends, Payload::notify(NotifyType::INVALID_KE_PAYLOAD, data));
        }
        let accepted = Accepted { vip, suite, chosen, public, nonce };
        let Some((id, half)) = self.open_half(now, ends, &header, &contents, &accepted, datagram) else {
            return self.drop_unauthenticated(Drop::BadPublicValue, local, remote);
        };
        tracing::debug!(ike_sa = %id, %local, %remote, %suite, "IKE_SA_INIT answered");
        self.transmit(Transmit { ike_sa: None, local, remote, payload: half.response.clone(), fresh: true });
        self.timers.insert((half.until, id));
        self.by_init.insert(digest, id);
        self.half_open.insert(id, half);
    }

    /// Bounds the half-open IKE SAs: above the threshold only peers that show a cookie may open one, above the maximum nobody.
    fn may_open(&mut self, ends: Ends, header: &Header, nonce: &[u8], contents: &Contents) -> bool {
        let Ends { local, remote } = ends;
        let limits = self.config.limits;
        if self.half_open.len() >= limits.half_open_cookie_threshold {
            let caller = Caller { nonce, address: remote.ip(), spi: header.initiator_spi };
            let verified =
                contents.notifies(NotifyType::COOKIE).any(|cookie| self.cookies.verify(&cookie.data, caller));
            if !verified {
                // RFC 7296 §2.6: a wrong cookie is treated as none: the answer is a new one.
                let wrong = contents.has(NotifyType::COOKIE);
                let reason = if wrong { Drop::CookieWrong } else { Drop::CookieAsked };
                self.drop_unauthenticated(reason, local, remote);
                let cookie = self.cookies.make(caller).to_vec();
                self.answer_init(header, ends, Payload::notify(NotifyType::COOKIE, cookie));
                return false;
            }
        }
        if self.half_open.len() >= limits.half_open_max {
            self.drop_unauthenticated(Drop::HalfOpenLimit, local, remote);
            return false;
        }
        if self.sas.len() >= limits.ike_sas_max {
            self.drop_unauthenticated(Drop::IkeSaLimit, local, remote);
            return false;
        }
        true
    }

    /// The suite that the first connection which agrees would choose.
    fn select_init<'a>(
        &self,
        ends: Ends,
        proposals: &'a [Proposal],
        group: Option<Group>,
    ) -> Option<(IkeSuite, &'a Proposal)> {
        self.config
            .candidates(ends.local.ip(), ends.remote.ip())
            .find_map(|policy| pick_ike(&policy.proposals, proposals, group))
    }

    fn open_half(
        &mut self,
        now: Instant,
        ends: Ends,
        header: &Header,
        contents: &Contents,
        accepted: &Accepted<'_>,
        datagram: &[u8],
    ) -> Option<(IkeSaId, HalfOpen)> {
        let Accepted { vip, suite, chosen, public, nonce: nonce_i } = *accepted;
        let (our_public, shared) = KeyPair::answer(suite.group, public, &mut *self.rng).ok()?;
        let id = self.new_ike_spi();
        let nonce_r = self.nonce();
        let spis = IkeSpis { initiator: header.initiator_spi, responder: id.0 };
        let keys = IkeKeys::initial(suite, &shared, Nonces { initiator: nonce_i, responder: &nonce_r }, spis);
        let channel = Channel::new(Role::Responder, id.0, header.initiator_spi, suite, keys);
        self.log_ike_keys(&channel);
        let mut payloads = vec![
            Payload::Sa(vec![suite.answer(chosen, &[])]),
            Payload::KeyExchange(suite.group.number(), our_public),
            Payload::Nonce(nonce_r.clone()),
        ];
        // Who the peer is, and so which connection is meant, only IKE_AUTH tells.
        let first = self.config.candidates(ends.local.ip(), ends.remote.ip()).next();
        let (encapsulation, fragmentation) =
            first.map(|policy| (policy.encapsulation, policy.fragmentation)).unwrap_or_default();
        let (spi_i, spi_r) = (header.initiator_spi, header.responder_spi);
        let nat = nat::detect(contents, encapsulation, spi_i, spi_r, ends.local, ends.remote);
        // RFC 7383 §2.3: if we support it too.
        let mut announced: Vec<_> = contents.announced().collect();
        if fragmentation == Fragmentation::No {
            announced.retain(|kind| *kind != NotifyType::IKEV2_FRAGMENTATION_SUPPORTED);
        } else if contents.has(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED) {
            payloads.push(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED.into());
        }
        if nat.is_some() {
            payloads.extend(nat::announce(encapsulation, spi_i, id.0, ends.local, ends.remote));
        }
        let header = Header { responder_spi: id.0, sender: Role::Responder, direction: Direction::Response, ..*header };
        let half = HalfOpen {
            channel,
            vip,
            nat: nat.unwrap_or_default(),
            nonce_i: nonce_i.to_vec(),
            nonce_r,
            request: datagram.to_vec(),
            digest: digest(datagram),
            response: encode_clear(&header, &payloads),
            announced,
            assembling: None,
            until: after(now, self.config.limits.half_open_timeout),
        };
        Some((id, half))
    }

    /// Refuses an IKE_SA_INIT request, not too often.
    fn refuse_init(&mut self, now: Instant, header: &Header, ends: Ends, payload: Payload) {
        if self.may_answer(now) {
            self.answer_init(header, ends, payload);
        }
    }

    /// RFC 7296 §2.6: without an IKE SA the responder's SPI is zero in the response too.
    fn answer_init(&mut self, header: &Header, ends: Ends, payload: Payload) {
        let header = Header {
            exchange: ExchangeType::IkeSaInit,
            sender: Role::Responder,
            direction: Direction::Response,
            ..*header
        };
        self.send_clear(ends, encode_clear(&header, &[payload]));
    }

    /// Forgets a half-open IKE SA.
    pub(super) fn close_half(&mut self, id: IkeSaId) -> Option<HalfOpen> {
        let half = self.half_open.remove(&id)?;
        self.timers.remove(&(half.until, id));
        self.by_init.remove(&half.digest);
        Some(half)
    }
}
