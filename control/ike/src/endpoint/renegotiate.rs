//! Calling a remote peer anew from what an IKE SA says of it.

use std::time::Instant;

use super::Endpoint;
use super::operate::OperateError;
use super::receive::Ends;
use crate::crypto::IkeProposal;
use crate::sa::IkeSaId;

impl Endpoint {
    /// Sets up a new IKE SA with the remote peer of this one, at the address and port where it is now, and under it a child SA
    /// like the first that this one has. The old one stays as it is: deleting it is the caller's business, once the new one
    /// carries traffic.
    pub fn renegotiate(&mut self, id: IkeSaId, now: Instant) -> Result<IkeSaId, OperateError> {
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
        let group = policy.proposals.iter().find_map(IkeProposal::first_group).ok_or(OperateError::Crypto)?;
        self.start_initiation(now, policy, child, group, ends).map_err(|_| OperateError::Crypto)
    }
}
