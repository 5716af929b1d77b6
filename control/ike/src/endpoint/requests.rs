//! Our requests: one at a time, in the order they were asked for (RFC 7296 §2.3), and what becomes of their answers.

use std::time::Instant;

use super::contents::Contents;
use super::receive::{Ends, Freshness};
use super::timers::after;
use super::{Endpoint, Listed};
use crate::child::ChildPhase;
use crate::crypto::derive::Nonces;
use crate::crypto::exchange::KeyPair;
use crate::crypto::{EspProposal, Group, KeyExchange, Secret, offer};
use crate::event::{Event, GoneReason};
use crate::message::{Delete, Direction, ExchangeType, NotifyType, Payload};
use crate::sa::{ChildExchange, ChildWish, Exchange, IkeSa, Pending, Phase, Retry, Task};

impl Endpoint {
    /// When a request that goes out now is sent again.
    pub(super) fn first_retry(&self, now: Instant) -> Retry {
        let interval = self.config.retransmission.first;
        Retry { at: after(now, interval), interval, tries: 0, unsent: false }
    }

    /// Protects and sends a request.
    pub(super) fn send_request(
        &mut self,
        now: Instant,
        sa: &mut IkeSa,
        exchange_type: ExchangeType,
        payloads: &[Payload],
        exchange: Exchange,
    ) {
        let message_id = sa.state.next_request;
        // RFC 7296 §2.2: when message IDs grow too large, the IKE SA MUST be closed or rekeyed.
        let Some(next_request) = message_id.checked_add(1) else {
            sa.gone = Some(GoneReason::NumbersExhausted);
            return;
        };
        let Some(request) = self.seal(sa, exchange_type, Direction::Request, message_id, payloads) else { return };
        sa.state.next_request = next_request;
        let ends = Ends { local: sa.state.local, remote: sa.state.remote };
        self.transmit_message(Some(sa.id()), ends, &request, Freshness::Fresh);
        sa.state.pending = Some(Pending { message_id, request, exchange });
        sa.retry = Some(self.first_retry(now));
        sa.changed = true;
    }

    /// Sends the next request that waits, once the one before is answered.
    pub(super) fn send_next_request(&mut self, sa: &mut IkeSa, now: Instant) {
        while sa.state.pending.is_none() && sa.state.sync.is_none() && sa.gone.is_none() {
            let Some(task) = sa.state.queue.pop_front() else { return };
            sa.changed = true;
            match task {
                Task::CreateChild { wish, group } => self.request_child(now, sa, wish, group, None),
                Task::DeleteReplaced(old) => {
                    if let Err(error) = self.delete_ike(old, now) {
                        tracing::info!(ike_sa = %old, %error, "the IKE SA that was set up anew is gone already");
                    }
                }
                Task::RekeyChild { spi, group } => self.request_rekey_child(now, sa, spi, group),
                Task::RekeyIke { group } => self.request_rekey_ike(now, sa, group),
                Task::DeleteChildren(spis) => {
                    for spi in &spis {
                        if let Some(child) = sa.children.get_mut(spi) {
                            child.phase = ChildPhase::Deleting;
                        }
                    }
                    // RFC 7296 §1.4.1: the SPIs as they would be expected in inbound packets.
                    let delete = Payload::Delete(Delete::Esp(spis.clone()));
                    self.inform(now, sa, &[delete], Exchange::DeleteChildren(spis));
                }
                Task::DeleteIke => self.inform(now, sa, &[Payload::Delete(Delete::Ike)], Exchange::DeleteIke),
                Task::AuthenticationFailed => {
                    let notify = NotifyType::AUTHENTICATION_FAILED.into();
                    self.inform(now, sa, &[notify], Exchange::AuthenticationFailed);
                }
                Task::SyncReplayCounters { delta } => {
                    let notify = Self::replay_counter_sync(sa, delta);
                    self.inform(now, sa, &[notify], Exchange::SyncReplayCounters { delta });
                }
                // RFC 7296 §2.4: an empty INFORMATIONAL request.
                Task::Liveness => self.inform(now, sa, &[], Exchange::Liveness),
            }
        }
    }

    fn inform(&mut self, now: Instant, sa: &mut IkeSa, payloads: &[Payload], exchange: Exchange) {
        self.send_request(now, sa, ExchangeType::Informational, payloads, exchange);
    }

    fn request_rekey_child(&mut self, now: Instant, sa: &mut IkeSa, spi: u32, group: Option<Group>) {
        let Some(child) = sa.children.get(&spi).filter(|child| child.phase == ChildPhase::Installed) else { return };
        let wish = ChildWish { lane: child.info.lane, ..ChildWish::whole(&child.info.child) };
        self.request_child(now, sa, wish, group, Some(spi));
    }

    /// SK { [N(REKEY_SA),] SA, Ni, [KEi,] TSi, TSr }
    fn request_child(
        &mut self,
        now: Instant,
        sa: &mut IkeSa,
        wish: ChildWish,
        group: Option<Group>,
        rekeys: Option<u32>,
    ) {
        let Some(policy) = sa.policy.child(&wish.policy).cloned() else {
            tracing::warn!(ike_sa = %sa.id(), connection = %sa.state.connection, child = %wish.policy, "no such child policy any more");
            return;
        };
        let old = rekeys.and_then(|spi| sa.children.get(&spi)).map(|child| child.info.clone());
        let group = group
            .or_else(|| old.as_ref().and_then(|old| old.suite.group))
            .or_else(|| policy.proposals.iter().find_map(EspProposal::first_group));
        let key_pair = match group.map(|group| KeyPair::generate(group, &mut *self.rng)).transpose() {
            Ok(key_pair) => key_pair,
            Err(_) => return,
        };
        let public = match key_pair.as_ref().map(|pair| pair.public().map(|public| (pair.group.number(), public))) {
            None => None,
            Some(Ok(public)) => Some(public),
            Some(Err(_)) => return,
        };
        let nonce = self.nonce();
        let offered = self.offer_child(sa, &policy, wish, old.as_ref());
        let mut payloads: Vec<_> =
            rekeys.map(|spi| Payload::notify_esp(NotifyType::REKEY_SA, spi)).into_iter().collect();
        payloads.extend(Self::child_notifies(&offered));
        payloads.push(Payload::Sa(offer(&offered.proposals, &offered.spi.to_be_bytes())));
        payloads.push(Payload::Nonce(nonce.clone()));
        payloads.extend(public.map(|(group, public)| Payload::KeyExchange(group, public)));
        payloads.push(Payload::TsInitiator(offered.local_ts.clone()));
        payloads.push(Payload::TsResponder(offered.remote_ts.clone()));
        let exchange = ChildExchange { offer: offered, nonce, key_pair, rekeys, collision: None };
        self.send_request(now, sa, ExchangeType::CreateChildSa, &payloads, Exchange::CreateChild(Box::new(exchange)));
    }

    /// An authentic answer to our pending request.
    pub(super) fn on_answer(&mut self, now: Instant, sa: &mut IkeSa, pending: Pending, contents: Contents) {
        match pending.exchange {
            Exchange::Auth(exchange) => self.on_auth_response(now, sa, *exchange, &contents),
            Exchange::CreateChild(exchange) => self.on_child_response(now, sa, *exchange, &contents),
            Exchange::RekeyIke(exchange) => self.on_rekey_ike_response(now, sa, *exchange, &contents),
            Exchange::DeleteChildren(spis) => {
                for spi in spis {
                    self.remove_child(sa, spi);
                }
            }
            Exchange::DeleteIke => {
                let replaced = matches!(sa.state.phase, Phase::Rekeyed { .. });
                sa.gone = Some(if replaced { GoneReason::Rekeyed } else { GoneReason::Deleted });
            }
            Exchange::AuthenticationFailed => sa.gone = Some(GoneReason::AuthenticationFailed),
            Exchange::SyncReplayCounters { .. } | Exchange::Liveness => {}
        }
    }

    fn on_child_response(&mut self, now: Instant, sa: &mut IkeSa, exchange: ChildExchange, contents: &Contents) {
        if let Some(notify) = contents.error() {
            return self.on_child_refused(now, sa, &exchange, notify.kind, &notify.data);
        }
        let accepted = accept(sa, &exchange, contents);
        let nonce_r = contents.nonce.as_deref().ok_or("Nr is missing");
        let ((mut agreed, shared), nonce_r) = match (accepted, nonce_r) {
            (Ok(accepted), Ok(nonce_r)) => (accepted, nonce_r),
            (Err(what), _) | (_, Err(what)) => {
                tracing::warn!(ike_sa = %sa.id(), child = %exchange.offer.wish.policy, what, "bad child SA answer");
                self.child_failed(sa, &exchange, NotifyType::INVALID_SYNTAX);
                self.postpone_child_rekey(now, sa, exchange.rekeys);
                // The peer has installed it.
                return sa.enqueue(Task::DeleteChildren(vec![exchange.offer.spi]));
            }
        };
        agreed.replaces = exchange.rekeys;
        let spi = agreed.spi_in;
        let nonces = Nonces { initiator: &exchange.nonce, responder: nonce_r };
        self.install_child(now, sa, agreed, shared.as_ref(), nonces);
        let Some(old) = exchange.rekeys else { return };
        let lowest = exchange.nonce.as_slice().min(nonce_r);
        match exchange.collision {
            // RFC 7296 §2.8.1: the SA created with the lowest of the four nonces SHOULD be closed by the endpoint that created it.
            Some((survivor, theirs)) if lowest < theirs.as_slice() && sa.children.contains_key(&survivor) => {
                tracing::info!(ike_sa = %sa.id(), "simultaneous child SA rekeying: the peer's survives");
                self.mark_rekeyed(sa, old);
                sa.enqueue(Task::DeleteChildren(vec![spi]));
            }
            // RFC 7296 §2.8.1: the node that initiated the surviving rekeyed SA should delete the replaced SA.
            _ if sa.children.contains_key(&old) => sa.enqueue(Task::DeleteChildren(vec![old])),
            _ => {}
        }
    }

    /// The peer will delete this child SA; we don't rekey it any more.
    pub(super) fn mark_rekeyed(&mut self, sa: &mut IkeSa, spi: u32) {
        if let Some(child) = sa.children.get_mut(&spi)
            && child.phase == ChildPhase::Installed
        {
            child.phase = ChildPhase::Rekeyed;
            child.rekey_at = None;
            sa.changed = true;
        }
    }

    fn on_child_refused(
        &mut self,
        now: Instant,
        sa: &mut IkeSa,
        exchange: &ChildExchange,
        kind: NotifyType,
        data: &[u8],
    ) {
        let offer = &exchange.offer;
        tracing::warn!(
            ike_sa = %sa.id(), connection = %sa.state.connection, remote = %sa.state.remote, child = %offer.wish.policy,
            rekeys = ?exchange.rekeys, reason = %kind, proposed = %Listed(&offer.proposals), local = %Listed(&offer.local_ts),
            remote_ts = %Listed(&offer.remote_ts), "peer refused a child SA"
        );
        if kind == NotifyType::INVALID_KE_PAYLOAD
            && let Ok(number) = <[u8; 2]>::try_from(data)
            && let Some(group) = Group::by_number(u16::from_be_bytes(number))
            && exchange.key_pair.as_ref().is_none_or(|pair| pair.group != group)
            && exchange.offer.proposals.iter().any(|proposal| proposal.has_group(group))
        {
            // RFC 7296 §1.3: the initiator will probably retry with the group that the responder gave.
            let wish = exchange.offer.wish.clone();
            sa.state.queue.push_front(match exchange.rekeys {
                Some(spi) => Task::RekeyChild { spi, group: Some(group) },
                None => Task::CreateChild { wish, group: Some(group) },
            });
            return;
        }
        let wish = &exchange.offer.wish;
        if kind == NotifyType::SINGLE_PAIR_REQUIRED && wish.packet.is_some() && !wish.packet_only {
            // RFC 7296 §2.9: the requestor asks for an SA for only the specific traffic that it is trying to forward.
            let wish = ChildWish { packet_only: true, ..wish.clone() };
            return sa.state.queue.push_front(Task::CreateChild { wish, group: None });
        }
        let old = exchange.rekeys.filter(|spi| sa.children.contains_key(spi));
        match (kind, old) {
            // RFC 7296 §2.8.1: the peer has finished its own rekeying before ours arrived; nothing is wrong.
            _ if exchange.collision.is_some() => {
                if let Some(old) = old {
                    self.mark_rekeyed(sa, old);
                }
            }
            // The peer asked for it and hasn't had our answer yet: it will find it when it asks once more.
            (NotifyType::CHILD_SA_NOT_FOUND, Some(old))
                if sa.state.answered.as_ref().is_some_and(|answered| answered.child == Some(old)) =>
            {
                self.postpone_child_rekey(now, sa, Some(old));
            }
            // RFC 7296 §2.25: silently delete the child SA and create a new one from scratch.
            (NotifyType::CHILD_SA_NOT_FOUND, Some(old)) => {
                self.remove_child(sa, old);
                let wish = ChildWish { packet: None, packet_only: false, ..exchange.offer.wish.clone() };
                sa.enqueue(Task::CreateChild { wish, group: None });
            }
            (NotifyType::CHILD_SA_NOT_FOUND, None) if exchange.rekeys.is_some() => {}
            // RFC 7296 §4: a peer may know nothing but the initial exchanges.
            (NotifyType::NO_ADDITIONAL_SAS, Some(_)) => {
                self.child_failed(sa, exchange, kind);
                sa.reauth_at = Some(now);
            }
            (_, Some(old)) if sa.children.get(&old).is_some_and(|child| child.stale) => {
                self.child_failed(sa, exchange, kind);
                self.on_stale_child_refused(now, sa, exchange, old, kind);
            }
            _ => {
                self.child_failed(sa, exchange, kind);
                self.postpone_child_rekey(now, sa, exchange.rekeys);
            }
        }
    }

    /// The peer doesn't replace a child SA of a stale copy: it would go on sending into nothing.
    fn on_stale_child_refused(
        &mut self,
        now: Instant,
        sa: &mut IkeSa,
        exchange: &ChildExchange,
        old: u32,
        kind: NotifyType,
    ) {
        let temporary = kind == NotifyType::TEMPORARY_FAILURE;
        let again = sa.children.get_mut(&old).is_some_and(|child| !std::mem::replace(&mut child.refused, true));
        if temporary && again {
            return self.postpone_child_rekey(now, sa, Some(old));
        }
        sa.enqueue(Task::DeleteChildren(vec![old]));
        if temporary {
            // The peer may have replaced it with our predecessor, and waits for its deletion.
            let wish = ChildWish { packet: None, packet_only: false, ..exchange.offer.wish.clone() };
            sa.enqueue(Task::CreateChild { wish, group: None });
        }
    }

    fn child_failed(&mut self, sa: &IkeSa, exchange: &ChildExchange, reason: NotifyType) {
        let child = Some(exchange.offer.wish.policy.clone());
        self.events.push_back(Event::ChildFailed { ike_sa: sa.id(), child, reason });
    }
}

/// What an answer to CREATE_CHILD_SA agrees to, and the shared secret of its own key exchange.
fn accept(
    sa: &IkeSa,
    exchange: &ChildExchange,
    contents: &Contents,
) -> Result<(super::child::Agreed, Option<Secret>), &'static str> {
    let group = exchange.key_pair.as_ref().map(|pair| pair.group);
    let agreed = Endpoint::check_child_answer(sa, contents, &exchange.offer, KeyExchange::Allowed(group))?;
    let Some(chosen) = agreed.suite.group else { return Ok((agreed, None)) };
    let (Some(pair), Some((number, public))) = (&exchange.key_pair, &contents.key_exchange) else {
        return Err("KE is missing");
    };
    if pair.group != chosen || *number != chosen.number() {
        return Err("the groups of SA and KE don't fit together");
    }
    let shared = pair.agree(public).map_err(|_| "the public value is no point of its group")?;
    Ok((agreed, Some(shared)))
}
