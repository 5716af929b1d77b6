//! Rekeying an IKE SA, both roles (RFC 7296 §1.3.2, §2.8.2, §2.18).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::contents::Contents;
use super::timers::{Lifetime, after};
use super::{Endpoint, Listed};
use crate::crypto::derive::{IkeKeys, IkeSpis, Nonces};
use crate::crypto::exchange::KeyPair;
use crate::crypto::{Group, IkeProposal, IkeSuite, Mismatch, Secret, offer, pick_ike};
use crate::event::Event;
use crate::message::sa::Proposal;
use crate::message::{ExchangeType, NotifyType, Payload, Role};
use crate::sa::{Channel, Exchange, IkeSa, IkeSaId, IkeSaState, Phase, RekeyExchange, Task};

/// The SPI in a proposal for an IKE SA.
fn ike_spi(proposal: &Proposal) -> Option<u64> {
    let spi = u64::from_be_bytes(<[u8; 8]>::try_from(proposal.spi.as_slice()).ok()?);
    (spi != 0).then_some(spi)
}

impl Endpoint {
    /// SK { SA, Ni, KEi }
    pub(super) fn request_rekey_ike(&mut self, now: Instant, sa: &mut IkeSa, group: Option<Group>) {
        if sa.state.phase != Phase::Established {
            return;
        }
        let group = group.unwrap_or(sa.state.channel.suite.group);
        let proposals = sa.policy.proposals.clone();
        let Ok(key_pair) = KeyPair::generate(group, &mut *self.rng) else { return };
        let Ok(public) = key_pair.public() else { return };
        let nonce = self.nonce();
        let spi = self.new_ike_spi().0;
        let payloads = [
            Payload::Sa(offer(&proposals, &spi.to_be_bytes())),
            Payload::Nonce(nonce.clone()),
            Payload::KeyExchange(group.number(), public),
        ];
        let exchange = RekeyExchange { spi, proposals, nonce, key_pair, collision: None };
        self.send_request(now, sa, ExchangeType::CreateChildSa, &payloads, Exchange::RekeyIke(Box::new(exchange)));
    }

    pub(super) fn on_rekey_ike_request(&mut self, now: Instant, sa: &mut IkeSa, contents: &Contents) -> Vec<Payload> {
        let (Some(proposals), Some(nonce_i), Some((group, public))) =
            (&contents.sa, &contents.nonce, &contents.key_exchange)
        else {
            // RFC 7296 §1.3.2: the KEi payload MUST be included.
            return self.invalid_syntax(sa, "SA, Ni or KEi is missing in CREATE_CHILD_SA");
        };
        // RFC 7296 §2.25.1: creating, rekeying or closing a child SA; §2.25.2: closing the IKE SA.
        let busy = matches!(
            sa.state.pending.as_ref().map(|pending| &pending.exchange),
            Some(Exchange::CreateChild(_) | Exchange::DeleteChildren(_))
        );
        if busy || sa.state.phase != Phase::Established {
            return vec![NotifyType::TEMPORARY_FAILURE.into()];
        }
        // RFC 7296 §1.3: NO_ADDITIONAL_SAS can also be used to reject IKE SA rekey.
        if self.sas.len() >= self.config.limits.ike_sas_max {
            return vec![NotifyType::NO_ADDITIONAL_SAS.into()];
        }
        let ke_group = Group::by_number(*group);
        let chosen = pick_ike(&sa.policy.proposals, proposals, ke_group)
            .and_then(|(suite, theirs)| Some((suite, theirs, ike_spi(theirs)?)));
        let Some((suite, theirs, remote_spi)) = chosen else {
            let why = Mismatch::new(sa.policy.proposals.iter(), proposals);
            tracing::warn!(
                ike_sa = %sa.id(), connection = %sa.state.connection, remote = %sa.state.remote, %why,
                "no acceptable IKE proposal for rekeying"
            );
            return vec![NotifyType::NO_PROPOSAL_CHOSEN.into()];
        };
        if ke_group != Some(suite.group) {
            return vec![Payload::notify(NotifyType::INVALID_KE_PAYLOAD, suite.group.number().to_be_bytes().to_vec())];
        }
        let exchanged = KeyPair::answer(suite.group, public, &mut *self.rng);
        let Ok((our_public, shared)) = exchanged else { return vec![NotifyType::NO_PROPOSAL_CHOSEN.into()] };
        let id = self.new_ike_spi();
        let nonce_r = self.nonce();
        let nonces = Nonces { initiator: nonce_i, responder: &nonce_r };
        let mut heir = self.make_heir(now, sa, Role::Responder, (id, remote_spi), suite, &shared, nonces);
        let payloads = vec![
            Payload::Sa(vec![suite.answer(theirs, &id.0.to_be_bytes())]),
            Payload::Nonce(nonce_r.clone()),
            Payload::KeyExchange(suite.group.number(), our_public),
        ];
        if let Some(pending) = &mut sa.state.pending
            && let Exchange::RekeyIke(exchange) = &mut pending.exchange
        {
            // RFC 7296 §2.8.2: who inherits is known when our answer is here.
            exchange.collision = Some((id, nonce_i.min(&nonce_r).clone()));
            heir.state.rival_heir_of = Some(sa.id());
        } else {
            self.inherit(now, sa, &mut heir);
        }
        self.settle(heir, now);
        payloads
    }

    pub(super) fn on_rekey_ike_response(
        &mut self,
        now: Instant,
        sa: &mut IkeSa,
        exchange: RekeyExchange,
        contents: &Contents,
    ) {
        if let Some(notify) = contents.error() {
            return self.on_rekey_ike_refused(now, sa, &exchange, notify.kind, &notify.data);
        }
        let accepted = accept(&exchange, contents);
        let (Some(nonce_r), Ok((suite, remote_spi, shared))) = (&contents.nonce, accepted) else {
            return self.bad_response(sa, "the answer to our rekeying doesn't fit our proposal");
        };
        let nonces = Nonces { initiator: &exchange.nonce, responder: nonce_r };
        let spis = (IkeSaId(exchange.spi), remote_spi);
        let mut ours = self.make_heir(now, sa, Role::Initiator, spis, suite, &shared, nonces);
        let lowest = exchange.nonce.as_slice().min(nonce_r);
        let rival = exchange.collision.and_then(|(id, nonce)| Some((self.take(id)?, nonce)));
        match rival {
            // The peer went on with its own before our answer was here: see `resolve_collision`.
            rival if matches!(sa.state.phase, Phase::Rekeyed { .. }) => {
                if let Some((theirs, _)) = rival {
                    self.settle(theirs, now);
                }
                ours.enqueue_delete();
            }
            // RFC 7296 §2.8.2: the new IKE SA with the lowest nonce SHOULD be deleted by the node that created it.
            Some((mut theirs, nonce)) if lowest < nonce.as_slice() => {
                tracing::info!(ike_sa = %sa.id(), "simultaneous IKE SA rekeying: the peer's survives");
                self.inherit(now, sa, &mut theirs);
                self.settle(theirs, now);
                ours.enqueue_delete();
            }
            rival => {
                self.inherit(now, sa, &mut ours);
                if let Some((mut theirs, _)) = rival {
                    tracing::info!(ike_sa = %sa.id(), "simultaneous IKE SA rekeying: ours survives");
                    theirs.state.phase = Phase::Rekeyed { heir: ours.id() };
                    theirs.rekey_at = None;
                    theirs.expires_at = Some(after(now, self.config.limits.closed_linger));
                    theirs.changed = true;
                    self.settle(theirs, now);
                }
                // RFC 7296 §2.8: the initiator deletes the old IKE SA, as the last request over it.
                sa.enqueue(Task::DeleteIke);
            }
        }
        self.settle(ours, now);
    }

    fn on_rekey_ike_refused(
        &mut self,
        now: Instant,
        sa: &mut IkeSa,
        exchange: &RekeyExchange,
        kind: NotifyType,
        data: &[u8],
    ) {
        tracing::warn!(
            ike_sa = %sa.id(), connection = %sa.state.connection, remote = %sa.state.remote, reason = %kind,
            proposed = %Listed(&exchange.proposals), "peer refused to rekey the IKE SA"
        );
        if kind == NotifyType::INVALID_KE_PAYLOAD
            && let Ok(number) = <[u8; 2]>::try_from(data)
            && let Some(group) = Group::by_number(u16::from_be_bytes(number))
            && group != exchange.key_pair.group
            && exchange.proposals.iter().any(|proposal| proposal.has_group(group))
        {
            return sa.state.queue.push_front(Task::RekeyIke { group: Some(group) });
        }
        if matches!(sa.state.phase, Phase::Rekeyed { .. }) {
            return;
        }
        // RFC 7296 §2.8.2: the peer had rekeyed it before our request came; its new IKE SA inherits.
        if let Some((heir, _)) = &exchange.collision
            && let Some(mut heir) = self.take(*heir)
        {
            self.inherit(now, sa, &mut heir);
            return self.settle(heir, now);
        }
        // RFC 7296 §4: a peer may know nothing but the initial exchanges.
        if kind == NotifyType::NO_ADDITIONAL_SAS {
            sa.reauth_at = Some(now);
        }
        // RFC 7296 §2.25: MUST NOT immediately retry.
        sa.rekey_at = Some(now + self.retry_delay());
    }

    /// The peer speaks of child SAs over the IKE SA that it has made while our own request for one is under way: so for the peer that one
    /// has inherited them (RFC 7296 §2.8.2), whatever becomes of ours.
    pub(super) fn resolve_collision(&mut self, now: Instant, heir: &mut IkeSa) {
        if let Some(mut old) = heir.state.rival_heir_of.take().and_then(|old| self.take(old)) {
            tracing::info!(ike_sa = %old.id(), heir = %heir.id(), "simultaneous IKE SA rekeying: the peer goes on with its own");
            self.inherit(now, &mut old, heir);
            self.settle(old, now);
        }
    }

    /// A new IKE SA of the same pair of peers, without child SAs.
    #[expect(clippy::too_many_arguments, reason = "what the old IKE SA and the exchange give to the new one")]
    fn make_heir(
        &mut self,
        now: Instant,
        old: &IkeSa,
        role: Role,
        (id, remote_spi): (IkeSaId, u64),
        suite: IkeSuite,
        shared: &Secret,
        nonces: Nonces<'_>,
    ) -> IkeSa {
        let spis = match role {
            Role::Initiator => IkeSpis { initiator: id.0, responder: remote_spi },
            Role::Responder => IkeSpis { initiator: remote_spi, responder: id.0 },
        };
        let from = &old.state.channel;
        // RFC 7296 §2.18: the old IKE SA's PRF makes SKEYSEED.
        let keys = IkeKeys::rekeyed(suite, (from.suite.prf, &from.keys.sk_d), shared, nonces, spis);
        let state = IkeSaState {
            channel: Channel::new(role, id.0, remote_spi, suite, keys),
            phase: Phase::Established,
            birth_epoch: self.epochs.get(&old.state.vip).map_or(0, |epoch| epoch.0),
            // RFC 7296 §2.18: the message counters are reset to 0.
            next_request: 0,
            next_expected: 0,
            answered: None,
            pending: None,
            queue: Default::default(),
            sync: None,
            sync_seen: None,
            assigned: Vec::new(),
            rival_heir_of: None,
            init_digest: None,
            vip: old.state.vip,
            connection: old.state.connection.clone(),
            local: old.state.local,
            remote: old.state.remote,
            nat: old.state.nat,
            local_id: old.state.local_id.clone(),
            remote_id: old.state.remote_id.clone(),
            announced: old.state.announced.clone(),
        };
        self.log_ike_keys(&state.channel);
        let mut heir = IkeSa::new(state, Arc::clone(&old.policy), now);
        heir.heard_first = old.heard_first;
        (heir.rekey_at, heir.expires_at) = self.lifetime(now, Duration::ZERO, Lifetime::of_ike(&heir.policy));
        tracing::info!(
            old = %old.id(), new = %id, connection = %old.state.connection, peer = %old.peer(), %suite, ?role, "IKE SA rekeyed"
        );
        heir
    }

    /// RFC 7296 §2.8: the new IKE SA inherits all child SAs, and what we still wanted to ask.
    pub(super) fn inherit(&mut self, now: Instant, old: &mut IkeSa, heir: &mut IkeSa) {
        // It has one already.
        if matches!(old.state.phase, Phase::Rekeyed { .. }) {
            return;
        }
        let id = heir.id();
        for (spi_in, mut child) in std::mem::take(&mut old.children) {
            child.info.ike_sa = id;
            self.child_owner.insert(spi_in, id);
            heir.children.insert(spi_in, child);
        }
        self.inherit_addresses(old, heir);
        heir.reauth_at = old.reauth_at.take();
        let queue = std::mem::take(&mut old.state.queue);
        let about_children = |task: &Task| !matches!(task, Task::RekeyIke { .. } | Task::Liveness | Task::DeleteIke);
        let (inherited, stays): (Vec<_>, Vec<_>) = queue.into_iter().partition(about_children);
        heir.state.queue.extend(inherited);
        if stays.contains(&Task::DeleteIke) {
            // The operator wants it gone, not rekeyed.
            heir.enqueue_delete();
        }
        heir.state.rival_heir_of = None;
        old.state.phase = Phase::Rekeyed { heir: id };
        old.rekey_at = None;
        // Should the peer forget to delete it, it ends by itself.
        old.expires_at = Some(after(now, self.config.limits.closed_linger));
        old.changed = true;
        heir.changed = true;
        self.events.push_back(Event::IkeRekeyed { old: old.id(), new: id });
    }
}

/// What an answer to our rekeying agrees to: suite, the peer's SPI, the shared secret.
fn accept(exchange: &RekeyExchange, contents: &Contents) -> Result<(IkeSuite, u64, Secret), &'static str> {
    let (Some(proposals), Some((group, public))) = (&contents.sa, &contents.key_exchange) else {
        return Err("SA or KE is missing");
    };
    let [accepted] = proposals.as_slice() else { return Err("not one proposal was accepted") };
    let at = usize::from(accepted.number).checked_sub(1);
    let numbered: Option<&[IkeProposal]> = at.and_then(|at| exchange.proposals.get(at..=at));
    let chosen = numbered.and_then(|ours| pick_ike(ours, proposals, Some(exchange.key_pair.group)));
    let Some((suite, _)) = chosen else { return Err("the accepted proposal is none of ours") };
    let Some(remote_spi) = ike_spi(accepted) else { return Err("the SPI is zero or of the wrong size") };
    if suite.group != exchange.key_pair.group || *group != suite.group.number() {
        return Err("the groups of SA and KE don't fit together");
    }
    let shared = exchange.key_pair.agree(public).map_err(|_| "the public value is no point of its group")?;
    Ok((suite, remote_spi, shared))
}
