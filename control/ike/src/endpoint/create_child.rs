//! CREATE_CHILD_SA as responder: new and rekeyed child SAs (RFC 7296 §1.3.1, §1.3.3, §2.25).

use std::time::Instant;

use super::Endpoint;
use super::contents::Contents;
use crate::child::ChildPhase;
use crate::crypto::derive::Nonces;
use crate::crypto::exchange::KeyPair;
use crate::crypto::{Group, KeyExchange};
use crate::event::Event;
use crate::message::sa::Protocol;
use crate::message::{NotifyType, Payload};
use crate::sa::{Exchange, IkeSa, Phase};

impl Endpoint {
    pub(super) fn on_create_child_sa(&mut self, now: Instant, sa: &mut IkeSa, contents: &Contents) -> Vec<Payload> {
        let rekeys_ike = contents
            .sa
            .as_ref()
            .is_some_and(|proposals| proposals.iter().any(|proposal| proposal.protocol == Protocol::Ike));
        if rekeys_ike {
            return self.on_rekey_ike_request(now, sa, contents);
        }
        let complete =
            contents.sa.is_some() && contents.nonce.is_some() && contents.ts_i.is_some() && contents.ts_r.is_some();
        if !complete {
            return self.invalid_syntax(sa, "SA, Ni, TSi or TSr is missing in CREATE_CHILD_SA");
        }
        match self.answer_child(now, sa, contents) {
            Ok(payloads) => payloads,
            Err(payload) => {
                tracing::warn!(
                    ike_sa = %sa.id(), connection = %sa.state.connection, remote = %sa.state.remote, ?payload,
                    "child SA refused"
                );
                vec![payload]
            }
        }
    }

    fn answer_child(&mut self, now: Instant, sa: &mut IkeSa, contents: &Contents) -> Result<Vec<Payload>, Payload> {
        // RFC 7296 §2.25.2: while the IKE SA is being rekeyed or closed.
        let rekeying = matches!(sa.state.pending.as_ref().map(|p| &p.exchange), Some(Exchange::RekeyIke(_)));
        if rekeying || sa.state.phase != Phase::Established {
            return Err(NotifyType::TEMPORARY_FAILURE.into());
        }
        let old = self.child_to_rekey(sa, contents)?;
        // RFC 7296 §2.19: a connection with a pool needs an address first.
        if !sa.policy.pools.is_empty() && sa.state.assigned.is_empty() {
            return Err(self.refuse_child(sa, NotifyType::FAILED_CP_REQUIRED));
        }
        // RFC 7296 §1.3: unwilling to accept any more child SAs.
        if sa.children.len() >= self.config.limits.children_per_ike_sa_max {
            return Err(NotifyType::NO_ADDITIONAL_SAS.into());
        }
        // RFC 7296 §2.8: the new child SA SHOULD NOT differ, so the old one's policy alone counts when rekeying.
        let policies: Vec<_> = match old.and_then(|spi| sa.children.get(&spi)) {
            Some(child) => sa.policy.child(&child.info.child).cloned().into_iter().collect(),
            None => sa.policy.children.clone(),
        };
        let ke_group = contents.key_exchange.as_ref().and_then(|(group, _)| Group::by_number(*group));
        let answer = self
            .agree_child(sa, contents, &policies, KeyExchange::Allowed(ke_group), old)
            .map_err(|kind| self.refuse_child(sa, kind))?;
        let (public, shared) = match answer.agreed.suite.group {
            None => (None, None),
            // RFC 7296 §1.3: the data is the group that we selected.
            Some(group) if ke_group != Some(group) => {
                let data = group.number().to_be_bytes().to_vec();
                return Err(Payload::notify(NotifyType::INVALID_KE_PAYLOAD, data));
            }
            Some(group) => {
                let theirs = contents.key_exchange.as_ref().map_or(&[][..], |(_, public)| public);
                let exchanged = KeyPair::answer(group, theirs, &mut *self.rng)
                    .map(|(ours, shared)| (Payload::KeyExchange(group.number(), ours), shared));
                let Ok((public, shared)) = exchanged else {
                    return Err(self.refuse_child(sa, NotifyType::NO_PROPOSAL_CHOSEN));
                };
                (Some(public), Some(shared))
            }
        };
        let Some(nonce_i) = contents.nonce.as_deref() else { return Err(NotifyType::INVALID_SYNTAX.into()) };
        let nonce_r = self.nonce();
        let mut payloads = answer.notifies;
        payloads.extend([Payload::Sa(vec![answer.proposal]), Payload::Nonce(nonce_r.clone())]);
        payloads.extend(public);
        payloads.push(Payload::TsInitiator(answer.agreed.traffic.remote.clone()));
        payloads.push(Payload::TsResponder(answer.agreed.traffic.local.clone()));
        let spi = answer.agreed.spi_in;
        let nonces = Nonces { initiator: nonce_i, responder: &nonce_r };
        self.install_child(now, sa, answer.agreed, shared.as_ref(), nonces);
        if let Some(old) = old {
            self.note_child_collision(sa, old, spi, nonce_i.min(&nonce_r).to_vec());
        }
        Ok(payloads)
    }

    fn refuse_child(&mut self, sa: &IkeSa, reason: NotifyType) -> Payload {
        self.events.push_back(Event::ChildFailed { ike_sa: sa.id(), child: None, reason });
        reason.into()
    }

    /// Which child SA a REKEY_SA notification is about, by its inbound SPI.
    fn child_to_rekey(&mut self, sa: &mut IkeSa, contents: &Contents) -> Result<Option<u32>, Payload> {
        let Some(notify) = contents.notifies(NotifyType::REKEY_SA).next() else { return Ok(None) };
        // RFC 7296 §1.3.3: the SPI that the exchange's initiator would expect in inbound packets.
        let spi_out = <[u8; 4]>::try_from(notify.spi.as_slice()).map_or(0, u32::from_be_bytes);
        match sa.child_by_peer_spi(spi_out) {
            // RFC 7296 §2.25.1: one that we are trying to close; likewise one that the peer has rekeyed already.
            Some(child) if child.phase != ChildPhase::Installed => Err(NotifyType::TEMPORARY_FAILURE.into()),
            Some(child) => Ok(Some(child.info.spi_in)),
            // RFC 7296 §2.25: the SPI is copied from the REKEY_SA notification.
            None => Err(Payload::notify_esp(NotifyType::CHILD_SA_NOT_FOUND, spi_out)),
        }
    }

    /// The peer has replaced `old` by `new`; perhaps we are about to do the same (RFC 7296 §2.8.1).
    fn note_child_collision(&mut self, sa: &mut IkeSa, old: u32, new: u32, lowest: Vec<u8>) {
        if let Some(pending) = &mut sa.state.pending
            && let Exchange::CreateChild(exchange) = &mut pending.exchange
            && exchange.rekeys == Some(old)
        {
            exchange.collision = Some((new, lowest));
        } else {
            // RFC 7296 §2.8: the initiator of the rekeying deletes the old one.
            self.mark_rekeyed(sa, old);
        }
    }
}
