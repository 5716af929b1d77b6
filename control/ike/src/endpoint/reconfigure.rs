//! Another configuration while IKE SAs stand.

use std::sync::Arc;
use std::time::Instant;

use super::timers::{Lifetime, after};
use super::{Endpoint, RateLimit};
use crate::child::ChildPhase;
use crate::config::{ChildPolicy, Config, ConnectionPolicy};
use crate::event::{ChildSaInfo, GoneReason};
use crate::sa::{Exchange, IkeSa, Phase, Task};
use crate::selector::is_subset;

impl Endpoint {
    /// Another configuration from now on. IKE SAs whose connection is what it was aren't touched. Others are held against the new
    /// policy:
    ///
    /// - one that it wouldn't allow is deleted at both ends: its connection is gone, or isn't for that address or those
    ///   identities any more, or the peer's inside address is in no pool of it. So is a child SA whose selectors or mode it wouldn't
    ///   allow;
    /// - one whose algorithms it wouldn't allow is rekeyed;
    /// - all others stay, and follow the new times.
    ///
    /// Another shared key counts from the next authentication on. Calls of ours under another policy are given up.
    pub fn reconfigure(&mut self, config: Arc<Config>, now: Instant) {
        if config.limits.unprotected_answers_per_second != self.config.limits.unprotected_answers_per_second {
            self.answers = RateLimit::new(config.limits.unprotected_answers_per_second);
        }
        self.connections = config.connections_by_name();
        self.config = config;
        let calls: Vec<_> = self.initiations.iter().filter(|(_, call)| !self.is_current(&call.policy)).collect();
        let calls: Vec<_> = calls.into_iter().map(|(id, _)| *id).collect();
        for id in calls {
            if let Some(initiation) = self.take_initiation(id) {
                self.fail_initiation(id, &initiation, GoneReason::Deleted);
            }
        }
        let changed = self.sas.iter().filter(|(_, sa)| !self.is_current(&sa.policy));
        let changed: Vec<_> = changed.map(|(id, _)| *id).collect();
        for id in changed {
            if let Some(mut sa) = self.take(id) {
                self.hold_against_policy(now, &mut sa);
                self.settle(sa, now);
            }
        }
    }

    fn is_current(&self, policy: &ConnectionPolicy) -> bool {
        self.connection(&policy.name).is_some_and(|current| **current == *policy)
    }

    fn hold_against_policy(&mut self, now: Instant, sa: &mut IkeSa) {
        let policy = self.connection(&sa.state.connection).filter(|policy| allows(policy, sa)).cloned();
        match (sa.state.phase, policy) {
            // They go anyway.
            (Phase::Deleting | Phase::Rekeyed { .. }, _) => {}
            (Phase::Authenticating, _) => sa.gone = Some(GoneReason::Deleted),
            (Phase::Established, None) => {
                tracing::info!(
                    ike_sa = %sa.id(), connection = %sa.state.connection, remote = %sa.state.remote, peer = %sa.peer(),
                    "the new configuration doesn't allow this IKE SA: it is deleted"
                );
                sa.enqueue_delete();
            }
            (Phase::Established, Some(policy)) => self.follow_policy(now, sa, policy),
        }
    }

    fn follow_policy(&mut self, now: Instant, sa: &mut IkeSa, policy: Arc<ConnectionPolicy>) {
        let before = std::mem::replace(&mut sa.policy, policy);
        let policy = Arc::clone(&sa.policy);
        sa.changed = true;
        let age = sa.age.at(now);
        if Lifetime::of_ike(&before) != Lifetime::of_ike(&policy) {
            (sa.rekey_at, sa.expires_at) = self.lifetime(now, age, Lifetime::of_ike(&policy));
        }
        if before.reauth_time != policy.reauth_time {
            sa.reauth_at = policy.reauth_time.map(|time| after(now, time.saturating_sub(age)));
        }
        let rekeying =
            matches!(sa.state.pending.as_ref().map(|pending| &pending.exchange), Some(Exchange::RekeyIke(_)));
        if !policy.allows(&sa.state.channel.suite) && !rekeying {
            sa.enqueue(Task::RekeyIke { group: None });
        }
        let mut tasks = Vec::new();
        for (spi, child) in &mut sa.children {
            let name = child.info.child.as_str();
            if Lifetime::of_child(&before, name) != Lifetime::of_child(&policy, name) {
                let age = child.age.at(now);
                (child.rekey_at, child.expires_at) = self.lifetime(now, age, Lifetime::of_child(&policy, name));
            }
            if child.phase != ChildPhase::Installed {
                continue;
            }
            match policy.child(name).filter(|policy| allows_child(policy, &child.info)) {
                None => {
                    tracing::info!(
                        connection = %policy.name, child = name, spi_in = format_args!("{spi:08x}"),
                        "the new configuration doesn't allow this child SA: it is deleted"
                    );
                    tasks.push(Task::DeleteChildren(vec![*spi]));
                }
                Some(policy) if !policy.proposals.iter().any(|proposal| proposal.allows(&child.info.suite)) => {
                    tasks.push(Task::RekeyChild { spi: *spi, group: None });
                }
                Some(_) => {}
            }
        }
        tasks.into_iter().for_each(|task| sa.enqueue(task));
    }
}

/// Would the policy allow this IKE SA, its algorithms apart?
fn allows(policy: &ConnectionPolicy, sa: &IkeSa) -> bool {
    let state = &sa.state;
    let in_pools = |address| policy.pools.iter().any(|pool| pool.contains(address));
    policy.vip == state.vip
        && policy.local == state.local.ip()
        && policy.remote.iter().any(|address| address.accepts(state.remote.ip()))
        && policy.local_id == state.local_id
        && state.remote_id.as_ref().is_none_or(|peer| policy.remote_id.accepts(peer))
        && state.assigned.iter().all(|assigned| in_pools(assigned.address))
        // RFC 7296 §2.19: with a pool the peer has to have an address from there.
        && policy.pools.is_empty() == state.assigned.is_empty()
}

/// Would the policy allow this child SA, its algorithms apart? RFC 7296 §2.23.1: in transport mode across NATs the selectors are the
/// ends of the IKE SA, whatever the policy was narrowed to.
fn allows_child(policy: &ChildPolicy, info: &ChildSaInfo) -> bool {
    policy.mode == info.mode
        && (info.original.is_some()
            || is_subset(&info.local_selectors, &policy.local_ts)
                && is_subset(&info.remote_selectors, &policy.remote_ts))
}
