//! Calling a remote peer anew from what an IKE SA says of it.

use std::net::SocketAddr;
use std::time::Instant;

use super::Endpoint;
use super::operate::OperateError;
use super::receive::Ends;
use crate::child::ChildPhase;
use crate::event::ChildSaInfo;
use crate::identity::Identity;
use crate::sa::{ChildWish, IkeSa, IkeSaId, IkeSaState, Task};

/// A remote peer with whom there was an IKE SA, and what was under it: enough to set it up anew, without a key in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callee {
    /// Index of the VIP.
    pub vip: u16,
    /// The connection's name.
    pub connection: String,
    /// Our end.
    pub local: SocketAddr,
    /// Where it was last.
    pub remote: SocketAddr,
    /// Who it was; `None` before it has proven that.
    pub remote_id: Option<Identity>,
    /// Policies of its child SAs, one for each; the first one comes with the IKE SA.
    pub children: Vec<String>,
    /// It has inside addresses from us: only its own call brings them back.
    pub is_client: bool,
}

impl Callee {
    /// Does a call of this one bring what the other one had, too?
    pub fn covers(&self, other: &Self) -> bool {
        let ends = |callee: &Self| (callee.vip, callee.local, callee.remote, callee.is_client);
        ends(self) == ends(other)
            && (&self.connection, &self.remote_id) == (&other.connection, &other.remote_id)
            && self.children.len() >= other.children.len()
            && other.children.iter().all(|child| self.children.contains(child))
    }

    pub(crate) fn new<'a>(state: &IkeSaState, children: impl IntoIterator<Item = &'a ChildSaInfo>) -> Self {
        // The first worker's brings those of the others with it.
        let first_lanes = children.into_iter().filter(|info| info.lane.is_none_or(|lane| lane == 0));
        Self {
            vip: state.vip,
            connection: state.connection.clone(),
            local: state.local,
            remote: state.remote,
            remote_id: state.remote_id.clone(),
            children: first_lanes.map(|info| info.child.clone()).collect(),
            is_client: !state.assigned.is_empty(),
        }
    }
}

impl Endpoint {
    /// Whom to call to set an IKE SA up anew.
    pub fn callee(&self, id: IkeSaId) -> Option<Callee> {
        let sa = self.sas.get(&id)?;
        Some(Callee::new(&sa.state, sa.children.values().map(|child| &child.info)))
    }

    /// Sets up a new IKE SA with a remote peer, at the address and port where it was last, and under it a child SA like the first that
    /// there was. An old one stays as it is: deleting it is the caller's business, once the new one carries traffic.
    pub fn call(&mut self, callee: &Callee, now: Instant) -> Result<IkeSaId, OperateError> {
        self.call_anew(callee, None, now)
    }

    /// Sets the IKE SA up anew, identities included, with all its child SAs, and then deletes the old one (RFC 7296 §2.8.3).
    pub fn reauthenticate(&mut self, id: IkeSaId, now: Instant) -> Result<IkeSaId, OperateError> {
        let callee = self.callee(id).ok_or(OperateError::UnknownIkeSa)?;
        self.call_anew(&callee, Some(id), now)
    }

    fn call_anew(&mut self, callee: &Callee, replaces: Option<IkeSaId>, now: Instant) -> Result<IkeSaId, OperateError> {
        let policy = self.connection(&callee.connection).ok_or(OperateError::UnknownConnection)?.clone();
        if policy.vip != callee.vip || policy.local != callee.local.ip() {
            return Err(OperateError::UnknownConnection);
        }
        if self.iv_prefix(policy.vip).is_none() {
            return Err(OperateError::NotOwned);
        }
        if callee.is_client {
            return Err(OperateError::NotCallable);
        }
        let child = callee.children.first().and_then(|name| policy.child(name)).or(policy.children.first()).cloned();
        let child = child.ok_or(OperateError::UnknownChild)?;
        // RFC 7296 §2.23: an initiator may begin on port 4500; behind a NAT only the port that it keeps open reaches the peer.
        let ends = Ends { local: callee.local, remote: callee.remote };
        if self.sas.len() + self.initiations.len() >= self.config.limits.ike_sas_max {
            return Err(OperateError::LimitReached);
        }
        self.start_initiation(now, policy, child, ends, replaces).map_err(|_| OperateError::Crypto)
    }

    /// The peer of `old` has authenticated anew: the other child SAs follow, then the old IKE SA goes.
    pub(super) fn take_place_of(&mut self, sa: &mut IkeSa, old: IkeSaId) {
        let Some(before) = self.sas.get(&old) else { return };
        let children = before.children.values().filter(|child| child.phase == ChildPhase::Installed).skip(1);
        for child in children {
            let wish = ChildWish { lane: child.info.lane, ..ChildWish::whole(&child.info.child) };
            sa.state.queue.push_back(Task::CreateChild { wish, group: None });
        }
        sa.state.queue.push_back(Task::DeleteReplaced(old));
        sa.changed = true;
    }
}
