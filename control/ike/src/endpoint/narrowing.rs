//! Which traffic a child SA carries: narrowing by policy (RFC 7296 §2.9), and the addresses of transport mode behind NATs
//! (§2.23.1).

use std::net::IpAddr;

use crate::config::{ChildPolicy, Mode, Pairs};
use crate::event::OriginalAddresses;
use crate::message::NotifyType;
use crate::sa::IkeSa;
use crate::selector::{TrafficSelector, narrow};

/// What a child SA may carry: our end and the remote one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) local: Vec<TrafficSelector>,
    pub(super) remote: Vec<TrafficSelector>,
}

/// What the responder makes of a proposal.
#[derive(Debug, Clone)]
pub(super) struct Narrowed {
    pub(super) traffic: Traffic,
    /// More of what was proposed would be acceptable, in another child SA.
    pub(super) more: bool,
    /// Transport mode: the addresses that the peer named, where a NAT changed them.
    pub(super) original: Option<OriginalAddresses>,
}

/// The one address that all selectors are about.
fn single(selectors: &[TrafficSelector]) -> Option<IpAddr> {
    let first = selectors.first()?.first;
    selectors.iter().all(|one| one.first == first && one.last == first).then_some(first)
}

fn only(address: IpAddr) -> TrafficSelector {
    TrafficSelector { protocol: 0, ports: (0, u16::MAX), first: address, last: address }
}

/// The same protocols and ports at another address.
fn moved(selectors: &[TrafficSelector], to: IpAddr) -> Vec<TrafficSelector> {
    selectors.iter().map(|one| TrafficSelector { first: to, last: to, ..*one }).collect()
}

impl Traffic {
    /// RFC 7296 §2.23.1: where an end is behind a NAT, its address is the one that IKE's packets carry. Also says what the addresses
    /// were. `None`: in transport mode there is exactly one address at each end.
    pub(super) fn substituted(&self, sa: &IkeSa) -> Option<(Self, Option<OriginalAddresses>)> {
        let (local, remote) = (single(&self.local)?, single(&self.remote)?);
        let nat = sa.state.nat;
        let ours = if nat.local { sa.state.local.ip() } else { local };
        let theirs = if nat.remote { sa.state.remote.ip() } else { remote };
        let original = ((ours, theirs) != (local, remote)).then_some(OriginalAddresses { local, remote });
        Some((Self { local: moved(&self.local, ours), remote: moved(&self.remote, theirs) }, original))
    }

    /// What a policy lets us propose. RFC 7296 §2.23.1: in transport mode the ends of the IKE SA.
    pub(super) fn offered(sa: &IkeSa, policy: &ChildPolicy) -> Self {
        match policy.mode {
            Mode::Tunnel => Self { local: policy.local_ts.clone(), remote: policy.remote_ts.clone() },
            Mode::Transport => Self {
                local: narrow(&[only(sa.state.local.ip())], &policy.local_ts),
                remote: narrow(&[only(sa.state.remote.ip())], &policy.remote_ts),
            },
        }
    }
}

/// What of a proposal a policy allows, in that mode. The error is why nothing.
pub(super) fn narrow_to(
    sa: &IkeSa,
    policy: &ChildPolicy,
    mode: Mode,
    proposed: &Traffic,
) -> Result<Narrowed, NotifyType> {
    let (proposed, original) = match mode {
        Mode::Tunnel => (proposed.clone(), None),
        Mode::Transport => proposed.substituted(sa).ok_or(NotifyType::TS_UNACCEPTABLE)?,
    };
    // A peer that has an inside address speaks from there alone.
    let remote_ts: Vec<TrafficSelector> = if sa.policy.pools.is_empty() {
        policy.remote_ts.clone()
    } else {
        let own: Vec<_> = sa.state.assigned.iter().map(|assigned| only(assigned.address)).collect();
        narrow(&own, &policy.remote_ts)
    };
    let mut traffic =
        Traffic { local: narrow(&proposed.local, &policy.local_ts), remote: narrow(&proposed.remote, &remote_ts) };
    if mode == Mode::Transport {
        traffic.local = narrow(&traffic.local, &[only(sa.state.local.ip())]);
        traffic.remote = narrow(&traffic.remote, &[only(sa.state.remote.ip())]);
    }
    if traffic.local.is_empty() || traffic.remote.is_empty() {
        return Err(NotifyType::TS_UNACCEPTABLE);
    }
    let mut more = false;
    if policy.pairs == Pairs::Single && (single(&traffic.local).is_none() || single(&traffic.remote).is_none()) {
        // RFC 7296 §2.9: the first selectors may be those of the packet that is to be sent.
        let first = |ts: &[TrafficSelector]| ts.first().and_then(|first| single(&[*first]));
        let (Some(local), Some(remote)) = (first(&traffic.local), first(&traffic.remote)) else {
            return Err(NotifyType::SINGLE_PAIR_REQUIRED);
        };
        traffic.local = narrow(&traffic.local, &[only(local)]);
        traffic.remote = narrow(&traffic.remote, &[only(remote)]);
        more = true;
    }
    Ok(Narrowed { traffic, more, original })
}
