//! What the operator, the data plane and the caller's plans ask for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;

use super::Endpoint;
use super::receive::{Ends, PORT_IKE};
use crate::child::ChildPhase;
use crate::config::{ChildPolicy, ConnectionPolicy};
use crate::event::GoneReason;
use crate::sa::{ChildWish, IkeSa, IkeSaId, Phase, Task};
use crate::selector::TrafficSelector;

/// Why something can't be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OperateError {
    /// No such connection.
    #[error("no such connection")]
    UnknownConnection,
    /// No such child policy in the connection.
    #[error("no such child in the connection")]
    UnknownChild,
    /// No such IKE SA, or it isn't established.
    #[error("no such established IKE SA")]
    UnknownIkeSa,
    /// No child SA with that inbound SPI, or it is being replaced or deleted.
    #[error("no such child SA")]
    UnknownChildSa,
    /// The connection has no single address to call its peer at.
    #[error("the peer can't be called: its address isn't known")]
    NotCallable,
    /// We don't own its VIP.
    #[error("the VIP isn't owned here")]
    NotOwned,
    /// Too many IKE SAs.
    #[error("too many IKE SAs")]
    LimitReached,
    /// The peer doesn't synchronise replay counters (RFC 6311), or not these.
    #[error("the peer doesn't synchronise these replay counters")]
    NotSynchronisable,
    /// The crypto library refused.
    #[error("no key pair could be made")]
    Crypto,
}

impl Endpoint {
    /// Sets up an IKE SA with a child SA. [`Event::IkeGone`](crate::Event::IkeGone) tells if nothing comes of it.
    pub fn initiate(&mut self, connection: &str, child: &str, now: Instant) -> Result<IkeSaId, OperateError> {
        let (policy, child) = self.policies(connection, child)?;
        let remote = policy.callable().ok_or(OperateError::NotCallable)?;
        if self.iv_prefix(policy.vip).is_none() {
            return Err(OperateError::NotOwned);
        }
        if self.sas.len() + self.initiations.len() >= self.config.limits.ike_sas_max {
            return Err(OperateError::LimitReached);
        }
        let ends = Ends { local: SocketAddr::new(policy.local, PORT_IKE), remote: SocketAddr::new(remote, PORT_IKE) };
        self.start_initiation(now, policy, child, ends, None).map_err(|_| OperateError::Crypto)
    }

    fn policies(
        &self,
        connection: &str,
        child: &str,
    ) -> Result<(Arc<ConnectionPolicy>, Arc<ChildPolicy>), OperateError> {
        let policy = self.connection(connection).ok_or(OperateError::UnknownConnection)?;
        let child = policy.child(child).ok_or(OperateError::UnknownChild)?;
        Ok((Arc::clone(policy), Arc::clone(child)))
    }

    /// Sets up another child SA under an IKE SA.
    pub fn create_child(&mut self, id: IkeSaId, child: &str, now: Instant) -> Result<(), OperateError> {
        let policy = self.sas.get(&id).and_then(|sa| sa.policy.child(child));
        let lane = policy.and_then(|policy| (policy.lanes_max > 1).then_some(0));
        self.wish_child(id, ChildWish { lane, ..ChildWish::whole(child) }, now)
    }

    /// The same because of a packet, from the first selector (our end) to the second: they come first in what is proposed
    /// (RFC 7296 §2.9), and the child SA is for that packet alone where the peer insists (SINGLE_PAIR_REQUIRED).
    pub fn create_child_for(
        &mut self,
        id: IkeSaId,
        child: &str,
        packet: (TrafficSelector, TrafficSelector),
        now: Instant,
    ) -> Result<(), OperateError> {
        self.wish_child(id, ChildWish { packet: Some(packet), ..ChildWish::whole(child) }, now)
    }

    /// The same for one of our workers alone (RFC 9611). [`ChildSaInfo::lane`](crate::ChildSaInfo::lane) says whether the peer agreed.
    /// What makes a child SA for the first worker wants one for each of the others by itself, if the peer does agree.
    pub fn create_lane(&mut self, id: IkeSaId, child: &str, lane: u16, now: Instant) -> Result<(), OperateError> {
        self.wish_child(id, ChildWish { lane: Some(lane), ..ChildWish::whole(child) }, now)
    }

    fn wish_child(&mut self, id: IkeSaId, wish: ChildWish, now: Instant) -> Result<(), OperateError> {
        self.on_established(id, now, |sa| {
            let policy = sa.policy.child(&wish.policy).ok_or(OperateError::UnknownChild)?;
            if wish.lane.is_some_and(|lane| lane >= policy.lanes_max) {
                return Err(OperateError::UnknownChild);
            }
            sa.enqueue(Task::CreateChild { wish, group: None });
            Ok(())
        })
    }

    /// Replaces a child SA by a new one.
    pub fn rekey_child(&mut self, spi_in: u32, now: Instant) -> Result<(), OperateError> {
        self.on_child(spi_in, now, &[ChildPhase::Installed], Task::RekeyChild { spi: spi_in, group: None })
    }

    /// Deletes a child SA at both ends.
    pub fn delete_child(&mut self, spi_in: u32, now: Instant) -> Result<(), OperateError> {
        // One that the peer has replaced, too: it should delete it, and may forget to.
        let allowed = [ChildPhase::Installed, ChildPhase::Rekeyed];
        self.on_child(spi_in, now, &allowed, Task::DeleteChildren(vec![spi_in]))
    }

    /// Do we have a child SA with that inbound SPI, whatever its state?
    pub fn has_child(&self, spi_in: u32) -> bool {
        self.child_owner.contains_key(&spi_in)
    }

    /// The IKE SA that a datagram claims to belong to, going by the SPIs in its header.
    pub fn ike_sa_of(&self, datagram: &[u8]) -> Option<IkeSaId> {
        let (initiator, rest) = datagram.split_first_chunk()?;
        let (responder, _) = rest.split_first_chunk()?;
        let spis = [initiator, responder].map(|spi| IkeSaId(u64::from_be_bytes(*spi)));
        spis.into_iter().find(|id| self.sas.contains_key(id))
    }

    /// The IKE SA of the child SA with that inbound SPI.
    pub fn owner_of_child(&self, spi_in: u32) -> Option<IkeSaId> {
        self.child_owner.get(&spi_in).copied()
    }

    /// Has the peer delete a child SA that we don't have, though it does: a copy that may have been stale didn't tell of it.
    pub fn disown_child(&mut self, id: IkeSaId, spi_in: u32, now: Instant) -> Result<(), OperateError> {
        let known = self.has_child(spi_in);
        self.on_established(id, now, |sa| {
            // The peer may use the child SA that we have proposed before its answer is here.
            if known || sa.proposed_child() == Some(spi_in) {
                return Err(OperateError::UnknownChildSa);
            }
            sa.enqueue(Task::DeleteChildren(vec![spi_in]));
            Ok(())
        })
    }

    fn on_child(&mut self, spi_in: u32, now: Instant, allowed: &[ChildPhase], task: Task) -> Result<(), OperateError> {
        let owner = *self.child_owner.get(&spi_in).ok_or(OperateError::UnknownChildSa)?;
        self.on_established(owner, now, |sa| {
            if sa.children.get(&spi_in).is_none_or(|child| !allowed.contains(&child.phase)) {
                return Err(OperateError::UnknownChildSa);
            }
            sa.enqueue(task);
            Ok(())
        })
    }

    /// Replaces an IKE SA by a new one.
    pub fn rekey_ike(&mut self, id: IkeSaId, now: Instant) -> Result<(), OperateError> {
        self.on_established(id, now, |sa| {
            sa.enqueue(Task::RekeyIke { group: None });
            Ok(())
        })
    }

    /// Deletes an IKE SA with its child SAs at both ends, or gives an attempt at one up.
    pub fn delete_ike(&mut self, id: IkeSaId, now: Instant) -> Result<(), OperateError> {
        if let Some(initiation) = self.take_initiation(id) {
            self.fail_initiation(id, &initiation, GoneReason::Deleted);
            return Ok(());
        }
        self.on_established(id, now, |sa| {
            sa.enqueue_delete();
            Ok(())
        })
    }

    /// Asks a peer whether it lives, now.
    pub fn check_liveness(&mut self, id: IkeSaId, now: Instant) -> Result<(), OperateError> {
        self.on_established(id, now, |sa| {
            if sa.state.pending.is_none() {
                sa.enqueue(Task::Liveness);
            }
            Ok(())
        })
    }

    pub(super) fn on_established(
        &mut self,
        id: IkeSaId,
        now: Instant,
        f: impl FnOnce(&mut IkeSa) -> Result<(), OperateError>,
    ) -> Result<(), OperateError> {
        let mut sa = self.take(id).ok_or(OperateError::UnknownIkeSa)?;
        let done = if sa.state.phase == Phase::Established { f(&mut sa) } else { Err(OperateError::UnknownIkeSa) };
        self.settle(sa, now);
        done
    }

    /// An authentic ESP packet came on a child SA: the peer lives (RFC 7296 §2.4).
    pub fn peer_alive(&mut self, spi_in: u32, now: Instant) {
        if let Some(mut sa) = self.child_owner.get(&spi_in).copied().and_then(|id| self.take(id)) {
            sa.note_heard(now);
            self.settle(sa, now);
        }
    }

    /// An authentic and fresh ESP packet came from elsewhere (RFC 7296 §2.23, RFC 3948 §3): the peer's NAT has moved it.
    pub fn peer_moved(&mut self, spi_in: u32, remote: SocketAddr, now: Instant) {
        if let Some(mut sa) = self.child_owner.get(&spi_in).copied().and_then(|id| self.take(id)) {
            sa.note_heard(now);
            // A host behind a NAT SHOULD NOT follow its peer.
            if sa.state.nat.remote && !sa.state.nat.local && sa.state.remote != remote {
                let local = sa.state.local;
                self.move_peer(&mut sa, Ends { local, remote });
            }
            self.settle(sa, now);
        }
    }
}
