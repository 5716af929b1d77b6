//! Time: retransmission, liveness, rekeying, and the end of what nobody finished.

use std::time::{Duration, Instant};

use super::Endpoint;
use super::receive::{Ends, Freshness};
use crate::child::ChildPhase;
use crate::config::ConnectionPolicy;
use crate::event::GoneReason;
use crate::sa::{Exchange, IkeSa, IkeSaId, Phase, Retry, Task};

/// Shortest time after which a refused rekeying is tried again; it is drawn up to twice as long.
const RETRY_DELAY: Duration = Duration::from_secs(10);

/// The same for a child SA of a stale copy: nothing passes before it is replaced.
const STALE_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Longer than anything that is waited for; keeps clock arithmetic from overflowing, whatever is configured or recorded.
const TIME_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// `time` from `now` on.
pub(crate) fn after(now: Instant, time: Duration) -> Instant {
    now.checked_add(time.min(TIME_MAX)).unwrap_or(now)
}

/// Time has come for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    at: Instant,
    /// For which IKE SA, or attempt at one.
    pub id: IkeSaId,
}

/// The ages at which an SA is rekeyed and at which it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lifetime {
    rekey: Option<Duration>,
    end: Option<Duration>,
}

impl Lifetime {
    pub(super) fn of_ike(policy: &ConnectionPolicy) -> Self {
        let end = |rekey: Duration| rekey.saturating_add(policy.over_time.unwrap_or(rekey / 10));
        Self { rekey: policy.rekey_time, end: policy.rekey_time.map(end) }
    }

    /// Of a child that has no policy any more: nobody rekeys it, and its end is its peer's business.
    pub(super) fn of_child(policy: &ConnectionPolicy, child: &str) -> Self {
        let Some(policy) = policy.child(child) else { return Self { rekey: None, end: None } };
        let end = policy.life_time.or(policy.rekey_time.map(|rekey| rekey.saturating_add(rekey / 10)));
        Self { rekey: policy.rekey_time, end }
    }
}

impl Endpoint {
    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Until then no IKE SA of the VIP ends because its peer doesn't answer: it may be served elsewhere. `None`: silence counts.
    pub fn excuse_silence(&mut self, vip: u16, until: Option<Instant>) {
        match until {
            Some(until) => drop(self.silence_excused.insert(vip, until)),
            None => drop(self.silence_excused.remove(&vip)),
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        for due in self.due(now) {
            self.handle_due(now, due);
        }
    }

    /// What is due, of IKE SAs and attempts at one: [`handle_due`](Self::handle_due) does it, one by one.
    pub fn due(&self, now: Instant) -> Vec<Due> {
        self.timers.iter().take_while(|(at, _)| *at <= now).map(|(at, id)| Due { at: *at, id: *id }).collect()
    }

    /// Does one of the things that are due.
    pub fn handle_due(&mut self, now: Instant, due: Due) {
        let Due { at, id } = due;
        self.timers.remove(&(at, id));
        if let Some(mut sa) = self.take(id) {
            self.on_sa_timer(now, &mut sa);
            let reauthenticate = sa.reauth_at.take_if(|at| *at <= now).is_some();
            let established = sa.state.phase == Phase::Established && sa.gone.is_none();
            self.settle(sa, now);
            if reauthenticate && established {
                self.reauthenticate_in_time(now, id);
            }
        } else if self.initiations.contains_key(&id) {
            self.on_initiation_timer(now, id);
        } else if self.half_open.contains_key(&id) {
            self.close_half(id);
        } else {
            self.closed.remove(&id);
        }
    }

    /// RFC 7296 §2.8.3. What can't be called goes on until its peer does it, or the IKE SA ends otherwise.
    fn reauthenticate_in_time(&mut self, now: Instant, id: IkeSaId) {
        match self.reauthenticate(id, now) {
            Ok(new) => tracing::info!(ike_sa = %id, %new, "reauthentication begun"),
            Err(error) => tracing::warn!(ike_sa = %id, %error, "no reauthentication"),
        }
    }

    fn on_initiation_timer(&mut self, now: Instant, id: IkeSaId) {
        let Some(mut initiation) = self.take_initiation(id) else { return };
        let Some(retry) = self.next_retry(now, initiation.retry) else {
            let reason = initiation.refused.map_or(GoneReason::PeerDead, GoneReason::Refused);
            return self.fail_initiation(id, &initiation, reason);
        };
        initiation.retry = retry;
        self.resend_initiation(&initiation);
        self.put_initiation(id, initiation);
    }

    /// RFC 7296 §2.4: retransmission times MUST increase exponentially. `None`: enough.
    fn next_retry(&self, now: Instant, retry: Retry) -> Option<Retry> {
        let policy = self.config.retransmission;
        let interval = retry.interval.saturating_mul(2).min(policy.interval_max);
        let next = Retry { at: after(now, interval), interval, tries: retry.tries + 1, unsent: false };
        (retry.tries < policy.tries_max).then_some(next)
    }

    /// Silence proves nothing for now: go on asking, and count anew.
    fn excused_retry(&self, now: Instant, sa: &IkeSa) -> Option<Retry> {
        let is_excused = self.silence_excused.get(&sa.state.vip).is_some_and(|until| now < *until);
        if !is_excused || sa.state.phase != Phase::Established || given_up(sa) != GoneReason::PeerDead {
            return None;
        }
        tracing::info!(ike_sa = %sa.id(), remote = %sa.state.remote, "no answer, which proves nothing now: it is kept");
        Some(self.first_retry(now))
    }

    fn on_sa_timer(&mut self, now: Instant, sa: &mut IkeSa) {
        if let Some(retry) = sa.retry
            && retry.at <= now
        {
            match self.next_retry(now, retry).or_else(|| self.excused_retry(now, sa)) {
                Some(next) if sa.state.sync.is_some() => {
                    sa.retry = Some(next);
                    self.request_sync(sa);
                }
                Some(next) => {
                    sa.retry = Some(next);
                    self.retransmit(sa, if retry.unsent { Freshness::Fresh } else { Freshness::Again });
                }
                None => {
                    sa.gone = Some(given_up(sa));
                    return;
                }
            }
        }
        sa.assembling.expire(now);
        if sa.expires_at.is_some_and(|at| at <= now) {
            self.expire(sa);
        }
        if sa.rekey_at.is_some_and(|at| at <= now) {
            sa.rekey_at = None;
            if sa.state.phase == Phase::Established {
                sa.enqueue(Task::RekeyIke { group: None });
            }
        }
        self.on_child_timers(now, sa);
        let silent = sa.policy.dpd_delay.is_some_and(|delay| after(sa.heard, delay) <= now);
        let idle = sa.state.pending.is_none() && sa.state.sync.is_none() && sa.state.queue.is_empty();
        if silent && idle && sa.state.phase == Phase::Established {
            sa.enqueue(Task::Liveness);
        }
    }

    fn retransmit(&mut self, sa: &IkeSa, freshness: Freshness) {
        let Some(pending) = &sa.state.pending else { return };
        let ends = Ends { local: sa.state.local, remote: sa.state.remote };
        tracing::debug!(ike_sa = %sa.id(), message_id = pending.message_id, remote = %ends.remote, "request sent again");
        self.transmit_message(Some(sa.id()), ends, &pending.request, freshness);
    }

    fn expire(&mut self, sa: &mut IkeSa) {
        sa.expires_at = None;
        match sa.state.phase {
            // RFC 7296 §2.8: if rekeying failed, the IKE SA MUST be closed.
            Phase::Established => {
                tracing::warn!(ike_sa = %sa.id(), connection = %sa.state.connection, "IKE SA expired");
                sa.enqueue_delete();
            }
            // The peer should have deleted it by now.
            Phase::Rekeyed { .. }
                if !matches!(sa.state.pending.as_ref().map(|p| &p.exchange), Some(Exchange::DeleteIke)) =>
            {
                sa.state.pending = None;
                sa.retry = None;
                sa.gone = Some(GoneReason::Rekeyed);
            }
            Phase::Rekeyed { .. } | Phase::Authenticating | Phase::Deleting => {}
        }
    }

    fn on_child_timers(&mut self, now: Instant, sa: &mut IkeSa) {
        let mut tasks = Vec::new();
        for (spi, child) in &mut sa.children {
            if child.expires_at.is_some_and(|at| at <= now) {
                child.expires_at = None;
                child.rekey_at = None;
                if child.phase != ChildPhase::Deleting {
                    tasks.push(Task::DeleteChildren(vec![*spi]));
                }
            } else if child.rekey_at.is_some_and(|at| at <= now) {
                child.rekey_at = None;
                if child.phase == ChildPhase::Installed {
                    tasks.push(Task::RekeyChild { spi: *spi, group: None });
                }
            }
        }
        if sa.state.phase == Phase::Established {
            tasks.into_iter().for_each(|task| sa.enqueue(task));
        }
    }

    /// When an SA of that age is rekeyed, some time before `rekey_time`, and when it ends.
    pub(super) fn lifetime(
        &mut self,
        now: Instant,
        age: Duration,
        lifetime: Lifetime,
    ) -> (Option<Instant>, Option<Instant>) {
        let end = lifetime.end.map(|end| after(now, end.saturating_sub(age)));
        let Some(time) = lifetime.rekey.map(|time| time.min(TIME_MAX)) else { return (None, end) };
        let jitter = self.jitter(time);
        match time.checked_sub(age.saturating_add(jitter)) {
            Some(rest) => (Some(after(now, rest)), end),
            // Overdue, after an import: soon, but not all at once, and there must be time to do it in.
            None => (Some(now + self.jitter(RETRY_DELAY * 10)), end.map(|end| end.max(now + RETRY_DELAY * 12))),
        }
    }

    pub(super) fn retry_delay(&mut self) -> Duration {
        RETRY_DELAY + self.jitter(RETRY_DELAY * 10)
    }

    /// RFC 7296 §2.25: a refused rekeying is not retried immediately.
    pub(super) fn postpone_child_rekey(&mut self, now: Instant, sa: &mut IkeSa, spi: Option<u32>) {
        let (at, soon) = (now + self.retry_delay(), now + STALE_RETRY_DELAY + self.jitter(STALE_RETRY_DELAY * 10));
        if let Some(child) = spi.and_then(|spi| sa.children.get_mut(&spi)) {
            child.rekey_at = Some(if child.stale { soon } else { at });
        }
    }
}

/// Why an IKE SA is gone whose request stays without answer.
fn given_up(sa: &IkeSa) -> GoneReason {
    match sa.state.pending.as_ref().map(|pending| &pending.exchange) {
        Some(Exchange::AuthenticationFailed) => GoneReason::AuthenticationFailed,
        Some(Exchange::DeleteIke) if matches!(sa.state.phase, Phase::Rekeyed { .. }) => GoneReason::Rekeyed,
        Some(Exchange::DeleteIke) => GoneReason::Deleted,
        _ => GoneReason::PeerDead,
    }
}
