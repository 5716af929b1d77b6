//! Calling a remote peer anew from what an IKE SA says of it.

use std::time::Instant;

use super::Endpoint;
use super::operate::OperateError;
use super::receive::Ends;
use crate::child::ChildPhase;
use crate::sa::{ChildWish, IkeSa, IkeSaId, Task};

impl Endpoint {
    /// Sets up a new IKE SA with the remote peer of this one, at the address and port where it is now, and under it a child SA
    /// like the first that this one has. The old one stays as it is: deleting it is the caller's business, once the new one
    /// carries traffic.
    pub fn renegotiate(&mut self, id: IkeSaId, now: Instant) -> Result<IkeSaId, OperateError> {
        self.call_anew(id, None, now)
    }

    /// Sets the IKE SA up anew, identities included, with all its child SAs, and then deletes the old one (RFC 7296 §2.8.3).
    pub fn reauthenticate(&mut self, id: IkeSaId, now: Instant) -> Result<IkeSaId, OperateError> {
        self.call_anew(id, Some(id), now)
    }

    fn call_anew(&mut self, id: IkeSaId, replaces: Option<IkeSaId>, now: Instant) -> Result<IkeSaId, OperateError> {
        let sa = self.sas.get(&id).ok_or(OperateError::UnknownIkeSa)?;
        let policy = sa.policy.clone();
        let name = sa.children.values().next().map(|child| child.info.child.as_str());
        let child = name.and_then(|name| policy.child(name)).or(policy.children.first()).cloned();
        let child = child.ok_or(OperateError::UnknownChild)?;
        // RFC 7296 §2.23: an initiator may begin on port 4500; behind a NAT only the port that it keeps open reaches the peer.
        let ends = Ends { local: sa.state.local, remote: sa.state.remote };
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
