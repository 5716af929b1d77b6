//! IKE_AUTH, both roles (RFC 7296 §1.2, §2.15, §2.21.2).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::contents::Contents;
use super::init::HalfOpen;
use super::receive::{Ends, Freshness, read};
use super::timers::{Lifetime, after};
use super::{Endpoint, Listed};
use crate::config::{ConnectionPolicy, Unique};
use crate::counters::Drop;
use crate::crypto::KeyExchange;
use crate::crypto::auth::{METHOD_SHARED_KEY, SignedOctets, shared_key_mac, verify};
use crate::crypto::derive::Nonces;
use crate::event::{Event, GoneReason};
use crate::identity::Identity;
use crate::message::{Direction, ExchangeType, NotifyType, ParseError, Payload, Received, Role};
use crate::sa::{Answered, AuthExchange, IkeSa, IkeSaId, IkeSaState, Phase, Task};

impl Endpoint {
    /// As responder: the request that tells who the peer is.
    pub(super) fn on_auth_request(
        &mut self,
        now: Instant,
        ends: Ends,
        id: IkeSaId,
        message: &Received<'_>,
        datagram: &[u8],
    ) {
        let Ends { local, remote } = ends;
        let header = message.header;
        let Some(half) = self.half_open.get_mut(&id) else { return };
        if !half.channel.fits(&header) {
            return self.drop_unauthenticated(Drop::WrongPeer, local, remote);
        }
        if (header.exchange, header.direction, header.message_id) != (ExchangeType::IkeAuth, Direction::Request, 1) {
            return self.drop_unauthenticated(Drop::UnexpectedExchange, local, remote);
        }
        let whole = match read(&self.config, now, &half.channel, &mut half.assembling, message, datagram) {
            Ok(Some(whole)) => whole,
            Ok(None) => return,
            Err(reason) => return self.drop_unauthenticated(reason, local, remote),
        };
        let Some(half) = self.close_half(id) else { return };
        let contents = match whole.payloads {
            Ok(payloads) => Contents::sort(payloads),
            // RFC 7296 §2.21.2: MUST only lead to these notifications; payloads about authentication are not looked at.
            Err(ParseError::Critical(kind)) => {
                let notify = Payload::notify(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD, vec![kind]);
                return self.refuse_auth(now, ends, half, whole.digest, notify);
            }
            Err(_) => return self.refuse_auth(now, ends, half, whole.digest, NotifyType::INVALID_SYNTAX.into()),
        };
        match self.authenticate_initiator(now, ends, &half, &contents) {
            Ok(policy) => self.establish_as_responder(now, ends, half, policy, &contents, whole.digest),
            Err(kind) => {
                if kind == NotifyType::AUTHENTICATION_FAILED {
                    self.counters.count(Drop::AuthenticationFailed);
                }
                self.refuse_auth(now, ends, half, whole.digest, kind.into());
            }
        }
    }

    /// The connection whose peer has proved to be who it says.
    fn authenticate_initiator(
        &mut self,
        now: Instant,
        ends: Ends,
        half: &HalfOpen,
        contents: &Contents,
    ) -> Result<Arc<ConnectionPolicy>, NotifyType> {
        let Ends { local, remote } = ends;
        let Some(peer) = &contents.id_i else { return Err(NotifyType::INVALID_SYNTAX) };
        // RFC 7296 §1.2: the request creates a child SA too. (We don't announce RFC 6023, which lets it do without.)
        if contents.sa.is_none() || contents.ts_i.is_none() || contents.ts_r.is_none() {
            return Err(NotifyType::INVALID_SYNTAX);
        }
        let policy = self
            .config
            .candidates(local.ip(), remote.ip())
            .find(|policy| {
                policy.remote_id.accepts(peer)
                    // RFC 7296 §1.2: IDr says which of our identities the peer wants to talk to.
                    && contents.id_r.as_ref().is_none_or(|wanted| *wanted == policy.local_id)
                    && policy.allows(&half.channel.suite)
            })
            .cloned();
        let Some(policy) = policy else {
            let wanted = contents.id_r.as_ref();
            if self.complaints.allows(now) {
                tracing::warn!(%local, %remote, %peer, ?wanted, "no connection for these identities");
            }
            return Err(NotifyType::AUTHENTICATION_FAILED);
        };
        let Some((METHOD_SHARED_KEY, mac)) = &contents.auth else {
            let method = contents.auth.as_ref().map(|(method, _)| method);
            if self.complaints.allows(now) {
                tracing::warn!(connection = %policy.name, %remote, %peer, ?method, "peer doesn't authenticate by a shared key");
            }
            return Err(NotifyType::AUTHENTICATION_FAILED);
        };
        let signed = SignedOctets {
            message: &half.request,
            nonce: &half.nonce_r,
            sk_p: half.channel.keys.authentication(Role::Initiator),
            identity: peer,
        };
        if !verify(&shared_key_mac(half.channel.suite.prf, &policy.psk, &signed), mac) {
            if self.complaints.allows(now) {
                tracing::warn!(connection = %policy.name, %remote, %peer, "peer doesn't know our shared key");
            }
            return Err(NotifyType::AUTHENTICATION_FAILED);
        }
        self.give_up_syncs(half.vip, &policy.local_id, peer, now);
        let others = self.by_peer.get(peer).map_or(0, BTreeSet::len);
        // RFC 7296 §2.4: INITIAL_CONTACT makes room.
        let makes_room = contents.has(NotifyType::INITIAL_CONTACT);
        if policy.unique == Unique::Keep
            && !makes_room
            && self.others(half.vip, &policy.local_id, peer).next().is_some()
        {
            self.counters.count(Drop::IkeSaLimit);
            tracing::warn!(connection = %policy.name, %remote, %peer, "the peer has an IKE SA already, which is kept");
            return Err(NotifyType::NO_ADDITIONAL_SAS);
        }
        if others >= self.config.limits.ike_sas_per_peer_max && !makes_room {
            self.counters.count(Drop::IkeSaLimit);
            tracing::warn!(connection = %policy.name, %remote, %peer, others, "too many IKE SAs with this peer");
            return Err(NotifyType::NO_ADDITIONAL_SAS);
        }
        Ok(policy)
    }

    fn establish_as_responder(
        &mut self,
        now: Instant,
        ends: Ends,
        half: HalfOpen,
        policy: Arc<ConnectionPolicy>,
        contents: &Contents,
        digest: [u8; 32],
    ) {
        let prf = half.channel.suite.prf;
        let signed = SignedOctets {
            message: &half.response,
            nonce: &half.nonce_i,
            sk_p: half.channel.keys.authentication(Role::Responder),
            identity: &policy.local_id,
        };
        let mut payloads = vec![
            Payload::IdResponder(policy.local_id.clone()),
            Payload::Auth(METHOD_SHARED_KEY, shared_key_mac(prf, &policy.psk, &signed).to_vec()),
        ];
        payloads.extend(Self::announce_sync(|kind| contents.has(kind)));
        let mut announced = half.announced;
        announced.extend(contents.announced());
        let state = IkeSaState {
            channel: half.channel,
            phase: Phase::Established,
            vip: half.vip,
            connection: policy.name.clone(),
            // RFC 7296 §2.23: the initiator may have moved to port 4500 between the exchanges.
            local: ends.local,
            remote: ends.remote,
            nat: half.nat,
            local_id: policy.local_id.clone(),
            remote_id: contents.id_i.clone(),
            announced,
            birth_epoch: self.epochs.get(&half.vip).map_or(0, |epoch| epoch.0),
            next_request: 0,
            next_expected: 2,
            answered: None,
            pending: None,
            queue: Default::default(),
            sync: None,
            sync_seen: None,
            assigned: Vec::new(),
            rival_heir_of: None,
            init_digest: Some(half.digest),
        };
        let children = policy.children.clone();
        let mut sa = IkeSa::new(state, policy, now);
        self.established(now, &mut sa);
        if contents.has(NotifyType::INITIAL_CONTACT) {
            self.forget_others(&sa, now);
        } else if sa.policy.unique == Unique::Replace {
            self.delete_others(&sa, now);
        }
        // RFC 7296 §2.21.2: a child SA that fails doesn't take the IKE SA with it.
        let agreed = self.assign_addresses(&mut sa, contents).and_then(|config| {
            // RFC 7296 §2.19: the CP payload MUST be inserted before the SA payload.
            payloads.extend(config.map(Payload::Config));
            self.agree_child(&sa, contents, &children, KeyExchange::None, None)
        });
        match agreed {
            Ok(answer) => {
                payloads.extend(answer.notifies);
                payloads.push(Payload::Sa(vec![answer.proposal]));
                payloads.push(Payload::TsInitiator(answer.agreed.traffic.remote.clone()));
                payloads.push(Payload::TsResponder(answer.agreed.traffic.local.clone()));
                // RFC 7296 §2.17: the nonces of IKE_SA_INIT.
                let nonces = Nonces { initiator: &half.nonce_i, responder: &half.nonce_r };
                self.install_child(now, &mut sa, answer.agreed, None, nonces);
            }
            Err(kind) => {
                self.events.push_back(Event::ChildFailed { ike_sa: sa.id(), child: None, reason: kind });
                payloads.push(kind.into());
            }
        }
        if let Some(response) = self.seal(&mut sa, ExchangeType::IkeAuth, Direction::Response, 1, &payloads) {
            let child = sa.children.keys().next().copied();
            self.transmit_message(Some(sa.id()), ends, &response, Freshness::Fresh);
            sa.state.answered = Some(Answered { message_id: 1, digest, response, child });
        }
        self.settle(sa, now);
    }

    /// Both sides are authenticated.
    fn established(&mut self, now: Instant, sa: &mut IkeSa) {
        sa.state.phase = Phase::Established;
        (sa.rekey_at, sa.expires_at) = self.lifetime(now, Duration::ZERO, Lifetime::of_ike(&sa.policy));
        sa.reauth_at = sa.policy.reauth_time.map(|time| after(now, time));
        sa.changed = true;
        tracing::info!(
            ike_sa = %sa.id(), connection = %sa.state.connection, local = %sa.state.local, remote = %sa.state.remote,
            peer = %sa.peer(), suite = %sa.state.channel.suite, nat = sa.state.nat.found(), "IKE SA established"
        );
        self.events.push_back(Event::IkeEstablished { id: sa.id(), connection: sa.state.connection.clone() });
    }

    /// RFC 7296 §2.4: INITIAL_CONTACT says that this is the peer's only IKE SA. (We never send it: our identity is replicated.)
    fn forget_others(&mut self, sa: &IkeSa, now: Instant) {
        for id in self.others_of(sa) {
            if let Some(other) = self.take(id) {
                self.bury(&other, GoneReason::InitialContact, now);
            }
        }
    }

    /// A peer that calls while we want to agree on message IDs with it doesn't know those IKE SAs any more, or gives them up.
    fn give_up_syncs(&mut self, vip: u16, local_id: &Identity, peer: &Identity, now: Instant) {
        let unsettled = |id: &IkeSaId| self.sas.get(id).is_some_and(|other| other.state.sync.is_some());
        let ids: Vec<IkeSaId> = self.others(vip, local_id, peer).filter(unsettled).collect();
        for id in ids {
            if let Some(other) = self.take(id) {
                self.bury(&other, GoneReason::InitialContact, now);
            }
        }
    }

    /// The peer has one IKE SA at a time.
    fn delete_others(&mut self, sa: &IkeSa, now: Instant) {
        for id in self.others_of(sa) {
            tracing::info!(ike_sa = %sa.id(), replaces = %id, peer = %sa.peer(), "the peer's older IKE SA is deleted");
            if let Err(error) = self.delete_ike(id, now) {
                tracing::debug!(ike_sa = %id, %error, "it goes already");
            }
        }
    }

    fn others_of(&self, sa: &IkeSa) -> Vec<IkeSaId> {
        let peer = sa.state.remote_id.iter();
        peer.flat_map(|peer| self.others(sa.state.vip, &sa.state.local_id, peer)).filter(|id| *id != sa.id()).collect()
    }

    /// IKE SAs between the same two identities.
    fn others<'a>(
        &'a self,
        vip: u16,
        local_id: &'a Identity,
        peer: &Identity,
    ) -> impl Iterator<Item = IkeSaId> + use<'a> {
        let ids = self.by_peer.get(peer).into_iter().flatten().copied();
        ids.filter(move |id| {
            self.sas.get(id).is_some_and(|other| other.state.vip == vip && other.state.local_id == *local_id)
        })
    }

    /// Answers an IKE_AUTH request with an error, and nothing remains but the answer.
    fn refuse_auth(&mut self, now: Instant, ends: Ends, mut half: HalfOpen, digest: [u8; 32], payload: Payload) {
        tracing::debug!(local = %ends.local, remote = %ends.remote, ?payload, "IKE_AUTH refused");
        let id = IkeSaId(half.channel.local_spi);
        let Some(prefix) = self.iv_prefix(half.vip) else { return };
        let sealed = half.channel.seal(prefix, ExchangeType::IkeAuth, Direction::Response, 1, &[payload], None);
        let Ok(response) = sealed else { return };
        self.transmit_message(None, ends, &response, Freshness::Fresh);
        self.linger(id, digest, response, now);
    }

    /// As initiator: the response that tells who the peer is.
    pub(super) fn on_auth_response(
        &mut self,
        now: Instant,
        sa: &mut IkeSa,
        exchange: AuthExchange,
        contents: &Contents,
    ) {
        let (Some(peer), Some((method, mac))) = (&contents.id_r, &contents.auth) else {
            // RFC 7296 §1.2: the sender is known to be the IKE_SA_INIT responder, whoever that is. Without IKE SA there is nothing to keep.
            let reason = match contents.error() {
                Some(notify) if notify.kind == NotifyType::AUTHENTICATION_FAILED => GoneReason::AuthenticationFailed,
                Some(notify) => GoneReason::Refused(notify.kind),
                None => GoneReason::ProtocolError,
            };
            tracing::warn!(connection = %sa.state.connection, remote = %sa.state.remote, ?reason, "peer refused IKE_AUTH");
            sa.gone = Some(reason);
            return;
        };
        let policy = Arc::clone(&sa.policy);
        let channel = &sa.state.channel;
        let signed = SignedOctets {
            message: &exchange.init_response,
            nonce: &exchange.nonce_i,
            sk_p: channel.keys.authentication(Role::Responder),
            identity: peer,
        };
        let authentic =
            *method == METHOD_SHARED_KEY && verify(&shared_key_mac(channel.suite.prf, &policy.psk, &signed), mac);
        if !authentic || !policy.remote_id.accepts(peer) {
            self.counters.count(Drop::AuthenticationFailed);
            tracing::warn!(
                connection = %policy.name, remote = %sa.state.remote, %peer, method, wanted = %policy.remote_id, authentic,
                "peer isn't who it should be"
            );
            // RFC 7296 §2.21.2: the notification MAY be returned in a separate INFORMATIONAL exchange; the peer believes in the IKE SA.
            sa.state.phase = Phase::Deleting;
            sa.state.queue.clear();
            sa.enqueue(Task::AuthenticationFailed);
            return;
        }
        sa.state.remote_id = Some(peer.clone());
        sa.state.announced.extend(contents.announced());
        self.established(now, sa);
        if contents.has(NotifyType::INITIAL_CONTACT) {
            self.forget_others(sa, now);
        }
        if let Some(old) = exchange.replaces {
            self.take_place_of(sa, old);
        }
        let child = &exchange.child.wish.policy;
        let ike_sa = sa.id();
        let failed = |reason| Event::ChildFailed { ike_sa, child: Some(child.clone()), reason };
        if let Some(notify) = contents.error() {
            // RFC 7296 §2.21.2: the initiator MUST NOT fail the authentication because of this.
            let offer = &exchange.child;
            tracing::warn!(
                connection = %policy.name, remote = %sa.state.remote, %peer, %child, reason = %notify.kind,
                proposed = %Listed(&offer.proposals), local = %Listed(&offer.local_ts), remote_ts = %Listed(&offer.remote_ts),
                "peer refused the child SA"
            );
            let event = failed(notify.kind);
            return self.events.push_back(event);
        }
        match Self::check_child_answer(sa, contents, &exchange.child, KeyExchange::None) {
            Ok(agreed) => {
                let nonces = Nonces { initiator: &exchange.nonce_i, responder: &exchange.nonce_r };
                self.install_child(now, sa, agreed, None, nonces);
            }
            Err(what) => {
                tracing::warn!(connection = %policy.name, %child, what, "bad child SA answer");
                let event = failed(NotifyType::INVALID_SYNTAX);
                self.events.push_back(event);
                // The peer has installed it.
                sa.enqueue(Task::DeleteChildren(vec![exchange.child.spi]));
            }
        }
    }
}
