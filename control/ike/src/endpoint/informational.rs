//! INFORMATIONAL requests: liveness, deletion (RFC 7296 §1.4).

use std::time::Instant;

use super::Endpoint;
use super::contents::Contents;
use crate::child::ChildPhase;
use crate::event::GoneReason;
use crate::message::{Delete, NotifyType, Payload};
use crate::sa::{Exchange, IkeSa, IkeSaId, Phase};

impl Endpoint {
    pub(super) fn on_informational(&mut self, now: Instant, sa: &mut IkeSa, contents: &Contents) -> Vec<Payload> {
        // RFC 7296 §2.21.2, §2.21.3: these delete the IKE SA without an explicit Delete payload.
        if let Some(notify) = contents.error()
            && matches!(notify.kind, NotifyType::AUTHENTICATION_FAILED | NotifyType::INVALID_SYNTAX)
        {
            tracing::warn!(ike_sa = %sa.id(), connection = %sa.state.connection, reason = %notify.kind, "peer gave the IKE SA up");
            sa.gone = Some(match notify.kind {
                NotifyType::AUTHENTICATION_FAILED => GoneReason::AuthenticationFailed,
                kind => GoneReason::Refused(kind),
            });
            return Vec::new();
        }
        if contents.deletes.contains(&Delete::Ike) {
            self.on_delete_ike(now, sa);
            // RFC 7296 §1.4.1: the response is empty.
            return Vec::new();
        }
        // RFC 6311 §5: alone, in an ordinary exchange, where both sides have asserted it.
        if sa.peer_knows(NotifyType::IPSEC_REPLAY_COUNTER_SYNC_SUPPORTED)
            && let Some(notify) = contents.notifies(NotifyType::IPSEC_REPLAY_COUNTER_SYNC).next()
        {
            self.on_replay_counter_sync(sa, &notify.data);
        }
        let spis = contents.deletes.iter().flat_map(|delete| match delete {
            Delete::Esp(spis) => spis.as_slice(),
            Delete::Ike | Delete::Other(_) => &[],
        });
        let deleted: Vec<u32> = spis.filter_map(|spi_out| self.on_delete_child(now, sa, *spi_out)).collect();
        if deleted.is_empty() { Vec::new() } else { vec![Payload::Delete(Delete::Esp(deleted))] }
    }

    /// The peer deletes a child SA. Returns our SPI for the answer, unless we are deleting it ourselves.
    fn on_delete_child(&mut self, now: Instant, sa: &mut IkeSa, spi_out: u32) -> Option<u32> {
        let Some(child) = sa.child_by_peer_spi(spi_out) else {
            // RFC 7296 §2.25.1: one that doesn't exist is answered without a Delete payload; but an heir may have it (§1.4).
            let Phase::Rekeyed { heir } = sa.state.phase else { return None };
            let mut heir = self.take(heir)?;
            let spi_in = self.on_delete_child_of_heir(&mut heir, spi_out);
            self.settle(heir, now);
            return spi_in;
        };
        let (spi_in, phase) = (child.info.spi_in, child.phase);
        self.remove_child(sa, spi_in);
        // RFC 7296 §1.4.1: crossing deletes MUST NOT be answered with a Delete payload.
        (phase != ChildPhase::Deleting).then_some(spi_in)
    }

    fn on_delete_child_of_heir(&mut self, heir: &mut IkeSa, spi_out: u32) -> Option<u32> {
        let spi_in = heir.child_by_peer_spi(spi_out)?.info.spi_in;
        self.remove_child(heir, spi_in);
        Some(spi_in)
    }

    fn on_delete_ike(&mut self, now: Instant, sa: &mut IkeSa) {
        // RFC 7296 §2.8.2: the peer has finished its rekeying without noticing ours: forget ours, its new IKE SA inherits.
        if let Some(heir) = peers_heir(sa)
            && let Some(mut heir) = self.take(heir)
        {
            self.inherit(now, sa, &mut heir);
            self.settle(heir, now);
        }
        let replaced = matches!(sa.state.phase, Phase::Rekeyed { .. });
        sa.gone = Some(if replaced { GoneReason::Rekeyed } else { GoneReason::DeletedByPeer });
    }
}

/// The IKE SA that the peer made to replace this one while we were about to replace it too.
fn peers_heir(sa: &IkeSa) -> Option<IkeSaId> {
    match &sa.state.pending.as_ref()?.exchange {
        Exchange::RekeyIke(exchange) => exchange.collision.as_ref().map(|(heir, _)| *heir),
        _ => None,
    }
}
