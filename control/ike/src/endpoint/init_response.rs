//! IKE_SA_INIT as initiator (RFC 7296 §1.2, §2.6).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::contents::Contents;
use super::receive::Ends;
use super::{Endpoint, Listed, nat};
use crate::config::{ChildPolicy, ConnectionPolicy, Fragmentation};
use crate::counters::Drop;
use crate::crypto::auth::{METHOD_SHARED_KEY, SignedOctets, shared_key_mac};
use crate::crypto::derive::{IkeKeys, IkeSpis, Nonces};
use crate::crypto::exchange::KeyPair;
use crate::crypto::{CryptoError, EspProposal, Group, IkeProposal, offer, pick_ike};
use crate::event::{Event, GoneReason, Transmit};
use crate::message::{Direction, ExchangeType, Header, NotifyType, Payload, Received, Role, encode_clear};
use crate::sa::{AuthExchange, Channel, ChildWish, Exchange, IkeSa, IkeSaId, IkeSaState, Phase, Retry};

/// Our port once a NAT is found (RFC 7296 §2.23).
const PORT_NAT_TRAVERSAL: u16 = 4500;

/// How often an attempt starts over with a cookie or another group.
const RESTARTS_MAX: u32 = 8;

/// An attempt to call a peer, before there are keys. Nobody else believes in it, so it has no record.
pub(super) struct Initiation {
    pub(super) policy: Arc<ConnectionPolicy>,
    pub(super) child: Arc<ChildPolicy>,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    nonce: Vec<u8>,
    pair: KeyPair,
    cookie: Option<Vec<u8>>,
    pub(super) request: Vec<u8>,
    pub(super) retry: Retry,
    restarts: u32,
    /// See [`AuthExchange::replaces`].
    replaces: Option<IkeSaId>,
    /// Why the peer refused, should it turn out to be the last word.
    pub(super) refused: Option<NotifyType>,
}

impl Initiation {
    fn encode(&self, id: IkeSaId) -> Result<Vec<u8>, CryptoError> {
        let header = Header {
            initiator_spi: id.0,
            responder_spi: 0,
            exchange: ExchangeType::IkeSaInit,
            sender: Role::Initiator,
            direction: Direction::Request,
            message_id: 0,
        };
        // RFC 7296 §2.6: the cookie comes first, all other payloads unchanged.
        let mut payloads: Vec<Payload> =
            self.cookie.iter().map(|cookie| Payload::notify(NotifyType::COOKIE, cookie.clone())).collect();
        // RFC 7296 §1.2: with another group too the full set of suites is proposed.
        payloads.push(Payload::Sa(offer(&self.policy.proposals, &[])));
        payloads.push(Payload::KeyExchange(self.pair.group.number(), self.pair.public()?));
        payloads.push(Payload::Nonce(self.nonce.clone()));
        if self.policy.fragmentation != Fragmentation::No {
            payloads.push(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED.into());
        }
        payloads.extend(nat::announce(self.policy.encapsulation, id.0, 0, self.local, self.remote));
        Ok(encode_clear(&header, &payloads))
    }
}

impl Endpoint {
    /// Sends the first message of a new IKE SA.
    pub(super) fn start_initiation(
        &mut self,
        now: Instant,
        policy: Arc<ConnectionPolicy>,
        child: Arc<ChildPolicy>,
        ends: Ends,
        replaces: Option<IkeSaId>,
    ) -> Result<IkeSaId, CryptoError> {
        let group = policy.proposals.iter().find_map(IkeProposal::first_group).ok_or(CryptoError)?;
        let id = self.new_ike_spi();
        let mut initiation = Initiation {
            policy,
            child,
            local: ends.local,
            remote: ends.remote,
            nonce: self.nonce(),
            pair: KeyPair::generate(group, &mut *self.rng)?,
            cookie: None,
            request: Vec::new(),
            retry: self.first_retry(now),
            restarts: 0,
            replaces,
            refused: None,
        };
        initiation.request = initiation.encode(id)?;
        self.send_initiation(id, initiation);
        Ok(id)
    }

    fn send_initiation(&mut self, id: IkeSaId, initiation: Initiation) {
        self.send_clear(Ends { local: initiation.local, remote: initiation.remote }, initiation.request.clone());
        self.timers.insert((initiation.retry.at, id));
        self.initiations.insert(id, initiation);
    }

    pub(super) fn take_initiation(&mut self, id: IkeSaId) -> Option<Initiation> {
        let initiation = self.initiations.remove(&id)?;
        self.timers.remove(&(initiation.retry.at, id));
        Some(initiation)
    }

    pub(super) fn put_initiation(&mut self, id: IkeSaId, initiation: Initiation) {
        self.timers.insert((initiation.retry.at, id));
        self.initiations.insert(id, initiation);
    }

    /// Gives an attempt up.
    pub(super) fn fail_initiation(&mut self, id: IkeSaId, initiation: &Initiation, reason: GoneReason) {
        let connection = initiation.policy.name.clone();
        tracing::warn!(ike_sa = %id, %connection, remote = %initiation.remote, ?reason, "IKE SA could not be set up");
        self.events.push_back(Event::IkeGone { id, connection, reason });
    }

    pub(super) fn on_init_response(&mut self, now: Instant, ends: Ends, message: &Received<'_>, datagram: &[u8]) {
        let Ends { local, remote } = ends;
        let id = IkeSaId(message.header.initiator_spi);
        let Some(initiation) = self.initiations.get(&id) else {
            return self.drop_unauthenticated(Drop::UnknownSpi, local, remote);
        };
        if initiation.remote.ip() != remote.ip() || initiation.local != local {
            return self.drop_unauthenticated(Drop::WrongPeer, local, remote);
        }
        let Ok(payloads) = message.clear() else {
            return self.drop_unauthenticated(Drop::Malformed, local, remote);
        };
        let contents = Contents::sort(payloads);
        let Some(mut initiation) = self.take_initiation(id) else { return };
        if let Some(cookie) = contents.notifies(NotifyType::COOKIE).next() {
            // RFC 7296 §2.6: between 1 and 64 octets.
            if (1..=64).contains(&cookie.data.len()) {
                initiation.cookie = Some(cookie.data.clone());
                return self.restart_initiation(now, id, initiation);
            }
        }
        if let Some(notify) = contents.error() {
            return self.on_init_error(now, ends, id, initiation, notify.kind, &notify.data);
        }
        match self.accept_init(now, ends, id, &initiation, message, datagram, &contents) {
            Ok(sa) => self.settle(sa, now),
            Err(what) => {
                // It may be forged: the true response may still come.
                tracing::debug!(ike_sa = %id, %remote, what, "IKE_SA_INIT response ignored");
                self.counters.count(Drop::Malformed);
                self.put_initiation(id, initiation);
            }
        }
    }

    fn on_init_error(
        &mut self,
        now: Instant,
        ends: Ends,
        id: IkeSaId,
        mut initiation: Initiation,
        kind: NotifyType,
        data: &[u8],
    ) {
        if kind == NotifyType::INVALID_KE_PAYLOAD
            && let Ok(number) = <[u8; 2]>::try_from(data)
            && let Some(group) = Group::by_number(u16::from_be_bytes(number))
            && group != initiation.pair.group
            && initiation.policy.proposals.iter().any(|proposal| proposal.has_group(group))
            && let Ok(pair) = KeyPair::generate(group, &mut *self.rng)
        {
            initiation.pair = pair;
            return self.restart_initiation(now, id, initiation);
        }
        // RFC 7296 §2.21.1: error notifications are unauthenticated here; the recipient should continue trying for some time.
        self.drop_unauthenticated(Drop::UnprotectedError, ends.local, ends.remote);
        if initiation.refused.replace(kind).is_none() {
            tracing::warn!(
                ike_sa = %id, connection = %initiation.policy.name, remote = %ends.remote, reason = %kind,
                proposed = %Listed(&initiation.policy.proposals), "peer refuses IKE_SA_INIT; trying on"
            );
        }
        self.put_initiation(id, initiation);
    }

    /// RFC 7296 §2.6: the initiator should limit the number of cookie exchanges.
    fn restart_initiation(&mut self, now: Instant, id: IkeSaId, mut initiation: Initiation) {
        initiation.restarts += 1;
        match initiation.encode(id) {
            Ok(request) if initiation.restarts <= RESTARTS_MAX => {
                initiation.request = request;
                initiation.retry = self.first_retry(now);
                self.send_initiation(id, initiation);
            }
            _ => self.put_initiation(id, initiation),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all of the message and all of the attempt meet here")]
    fn accept_init(
        &mut self,
        now: Instant,
        ends: Ends,
        id: IkeSaId,
        initiation: &Initiation,
        message: &Received<'_>,
        datagram: &[u8],
        contents: &Contents,
    ) -> Result<IkeSa, &'static str> {
        let (Some(accepted), Some((group, public)), Some(nonce_r)) =
            (&contents.sa, &contents.key_exchange, &contents.nonce)
        else {
            return Err("SA, KE or Nr is missing");
        };
        let remote_spi = message.header.responder_spi;
        if remote_spi == 0 {
            return Err("the responder's SPI is zero");
        }
        let policy = &initiation.policy;
        let [one] = accepted.as_slice() else { return Err("not one proposal was accepted") };
        let numbered = usize::from(one.number).checked_sub(1).and_then(|at| policy.proposals.get(at..=at));
        let chosen = numbered.and_then(|ours| pick_ike(ours, accepted, Some(initiation.pair.group)));
        let Some((suite, _)) = chosen else { return Err("the accepted proposal is none of ours") };
        if suite.group != initiation.pair.group || *group != suite.group.number() {
            return Err("the groups of SA and KE don't fit together");
        }
        let shared = initiation.pair.agree(public).map_err(|_| "the public value is no point of its group")?;
        let spis = IkeSpis { initiator: id.0, responder: remote_spi };
        let nonces = Nonces { initiator: &initiation.nonce, responder: nonce_r };
        let keys = IkeKeys::initial(suite, &shared, nonces, spis);
        let detected = nat::detect(contents, policy.encapsulation, id.0, remote_spi, ends.local, ends.remote);
        let detected = detected.unwrap_or_default();
        let (mut local, mut remote) = (initiation.local, initiation.remote);
        if detected.found() {
            // RFC 7296 §2.23: all future IKE and ESP packets go over port 4500.
            local.set_port(PORT_NAT_TRAVERSAL);
            remote.set_port(if remote.port() == 500 { PORT_NAT_TRAVERSAL } else { remote.port() });
        }
        let channel = Channel::new(Role::Initiator, id.0, remote_spi, suite, keys);
        self.log_ike_keys(&channel);
        let state = IkeSaState {
            channel,
            phase: Phase::Authenticating,
            vip: policy.vip,
            connection: policy.name.clone(),
            local,
            remote,
            nat: detected,
            local_id: policy.local_id.clone(),
            remote_id: None,
            announced: contents
                .announced()
                .filter(|kind| {
                    // RFC 7383 §2.3: only if both have announced it.
                    policy.fragmentation != Fragmentation::No || *kind != NotifyType::IKEV2_FRAGMENTATION_SUPPORTED
                })
                .collect(),
            birth_epoch: self.epochs.get(&policy.vip).map_or(0, |epoch| epoch.0),
            next_request: 1,
            next_expected: 0,
            answered: None,
            pending: None,
            queue: Default::default(),
            sync: None,
            sync_seen: None,
            assigned: Vec::new(),
            rival_heir_of: None,
            init_digest: None,
        };
        let mut sa = IkeSa::new(state, Arc::clone(policy), now);
        self.send_auth(now, &mut sa, initiation, nonce_r, datagram);
        Ok(sa)
    }

    /// SK { IDi, IDr, AUTH, SA, TSi, TSr }
    fn send_auth(&mut self, now: Instant, sa: &mut IkeSa, initiation: &Initiation, nonce_r: &[u8], datagram: &[u8]) {
        let policy = &initiation.policy;
        let lane = (initiation.child.lanes_max > 1).then_some(0);
        let wish = ChildWish { lane, ..ChildWish::whole(&initiation.child.name) };
        let child = self.offer_child(sa, &initiation.child, wish, None);
        let signed = SignedOctets {
            message: &initiation.request,
            nonce: nonce_r,
            sk_p: sa.state.channel.keys.authentication(Role::Initiator),
            identity: &policy.local_id,
        };
        let mac = shared_key_mac(sa.state.channel.suite.prf, &policy.psk, &signed).to_vec();
        let proposals: Vec<_> = child.proposals.iter().map(EspProposal::without_groups).collect();
        let mut payloads = vec![Payload::IdInitiator(policy.local_id.clone())];
        payloads.extend(policy.remote_id.exact().cloned().map(Payload::IdResponder));
        payloads.push(Payload::Auth(METHOD_SHARED_KEY, mac));
        payloads.extend(Self::announce_sync(|_| true));
        payloads.extend(Self::child_notifies(&child));
        payloads.extend([
            Payload::Sa(offer(&proposals, &child.spi.to_be_bytes())),
            Payload::TsInitiator(child.local_ts.clone()),
            Payload::TsResponder(child.remote_ts.clone()),
        ]);
        let exchange = AuthExchange {
            init_response: datagram.to_vec(),
            nonce_i: initiation.nonce.clone(),
            nonce_r: nonce_r.to_vec(),
            child,
            replaces: initiation.replaces,
        };
        self.send_request(now, sa, ExchangeType::IkeAuth, &payloads, Exchange::Auth(Box::new(exchange)));
    }

    pub(super) fn resend_initiation(&mut self, initiation: &Initiation) {
        let payload = initiation.request.clone();
        let Initiation { local, remote, .. } = *initiation;
        self.transmit(Transmit { ike_sa: None, local, remote, payload, fresh: false });
    }
}
