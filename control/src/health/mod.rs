//! Do the targets work? [`Monitor`] decides when which check runs, and what its results mean; [`probe`] runs one.
//!
//! - [`Monitor::poll_check`]: a check that is to run now.
//! - [`Monitor::handle_result`]: what came of it.
//! - [`Monitor::handle_timeout`]: call when [`Monitor::poll_timeout`] says.
//! - [`Monitor::health`]: what all checks of a target say together.
//!
//! ```text
//!              fall failures in a row, or an agent's "down"
//!        ┌────┐ ─────────────────────────────────────────► ┌──────┐
//!  ────► │ up │                                             │ down │
//!        └────┘ ◄───────────────────────────────────────── └──────┘
//!                        rise successes in a row
//! ```

pub mod probe;

use std::collections::BTreeSet;
use std::hash::Hasher;
use std::time::{Duration, Instant};

use siphasher::sip::SipHasher13;
use thiserror::Error;
use vipsec_agent::{AgentError, AgentReport};

use crate::config::Check;

/// Most checks that run at once; a check that is due waits until one has ended.
pub const RUNNING_MAX: usize = 64;

/// A check that has said nothing for so long beyond its timeout counts as failed: whoever ran it is gone.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// A run of a check: which, and the how-manieth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Run {
    check: usize,
    attempt: u64,
}

/// What a check found out.
pub type Outcome = Result<Success, Failure>;

/// The check went well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Success {
    /// What the agent said, if one was asked.
    pub agent: Option<AgentReport>,
}

/// The check went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Failure {
    /// No connection.
    #[error("no connection: {0}")]
    Connect(String),
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// An answer that isn't HTTP, or half of one.
    #[error("no valid answer: {0}")]
    Answer(String),
    /// Another status than the expected.
    #[error("HTTP status {0}")]
    Status(u16),
    /// The agent answered, and says no.
    #[error("the agent says that the application is down")]
    Down,
    /// What answered is no agent.
    #[error("not an agent's answer: {0}")]
    Agent(#[from] AgentError),
    /// Nobody came back with a result.
    #[error("the check did not come back")]
    Lost,
}

/// What is known of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// All its checks say that it works.
    pub works: bool,
    /// None of its agents asks for no new connections.
    pub welcomes: bool,
    /// The share of its weight that it can take, in percent: the smallest that an agent asked for.
    pub share_percent: u16,
}

/// A check as the operator sees it.
#[derive(Debug)]
pub struct CheckStatus<'a> {
    /// Which target's.
    pub target: usize,
    /// What is checked.
    pub check: &'a Check,
    /// Does it count as passed?
    pub is_up: bool,
    /// Why the last run failed; `None` if it passed, or none has ended yet.
    pub failure: Option<&'a Failure>,
    /// Results so far.
    pub results: u64,
}

/// All checks of all targets.
#[derive(Debug)]
pub struct Monitor {
    checks: Vec<Watched>,
    /// When the next run of a check is due. A check is either here or in `running`.
    waiting: BTreeSet<(Instant, usize)>,
    /// By when a run has to have a result.
    running: BTreeSet<(Instant, usize)>,
    seed: u64,
}

#[derive(Debug)]
struct Watched {
    target: usize,
    check: Check,
    /// Counts up with every run.
    attempt: u64,
    /// While it runs: its place in `running`.
    lost_at: Option<Instant>,
    is_up: bool,
    /// Results in a row that contradict `is_up`.
    contrary: u32,
    failure: Option<Failure>,
    results: u64,
    welcomes: bool,
    share_percent: u16,
}

impl Monitor {
    /// Watches targets by these checks, each with its target's number. Every target counts as working until its checks say
    /// otherwise, so that an appliance that has just started turns nobody away. `seed`: a random number, another one on each
    /// appliance, so that they don't check in step.
    pub fn new(checks: impl IntoIterator<Item = (usize, Check)>, seed: u64, now: Instant) -> Self {
        let mut monitor = Self { checks: Vec::new(), waiting: BTreeSet::new(), running: BTreeSet::new(), seed };
        for (number, (target, check)) in checks.into_iter().enumerate() {
            monitor.waiting.insert((now + monitor.part_of(check.interval, number, 0), number));
            monitor.checks.push(Watched {
                target,
                check,
                attempt: 0,
                lost_at: None,
                is_up: true,
                contrary: 0,
                failure: None,
                results: 0,
                welcomes: true,
                share_percent: 100,
            });
        }
        monitor
    }

    /// Other checks from now on. One that was there before goes on from how it stood; `before`: the number that its target had.
    pub fn replace(
        &mut self,
        checks: impl IntoIterator<Item = (usize, Check)>,
        before: impl Fn(usize) -> Option<usize>,
        now: Instant,
    ) {
        let old = std::mem::replace(self, Self::new([], self.seed, now));
        *self = Self::new(checks, old.seed, now);
        // So that the result of a run that is under way is left out: checks have other numbers now.
        let attempts = old.checks.iter().map(|watched| watched.attempt).max().unwrap_or(0);
        for watched in &mut self.checks {
            watched.attempt = attempts;
            let same = |other: &&Watched| Some(other.target) == before(watched.target) && other.check == watched.check;
            if let Some(other) = old.checks.iter().find(same) {
                watched.is_up = other.is_up;
                watched.contrary = other.contrary;
                watched.failure.clone_from(&other.failure);
                watched.results = other.results;
                watched.welcomes = other.welcomes;
                watched.share_percent = other.share_percent;
            }
        }
    }

    /// A part of `whole`, between nothing and all of it, that differs from check to check and from run to run.
    fn part_of(&self, whole: Duration, check: usize, attempt: u64) -> Duration {
        let mut hasher = SipHasher13::new_with_keys(self.seed, 0);
        hasher.write_usize(check);
        hasher.write_u64(attempt);
        whole.mul_f64(hasher.finish() as f64 / u64::MAX as f64)
    }

    /// A check that is to run now; its result goes to [`Monitor::handle_result`].
    pub fn poll_check(&mut self, now: Instant) -> Option<(Run, &Check)> {
        if self.running.len() >= RUNNING_MAX || self.waiting.first()?.0 > now {
            return None;
        }
        let (_, check) = self.waiting.pop_first()?;
        let watched = self.checks.get_mut(check)?;
        let lost_at = now + watched.check.timeout + SILENCE_MAX;
        watched.attempt += 1;
        watched.lost_at = Some(lost_at);
        self.running.insert((lost_at, check));
        Some((Run { check, attempt: watched.attempt }, &watched.check))
    }

    /// When [`Monitor::poll_check`] or [`Monitor::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let may_run = self.running.len() < RUNNING_MAX;
        let due = self.waiting.first().filter(|_| may_run);
        due.into_iter().chain(self.running.first()).map(|(at, _)| *at).min()
    }

    /// Gives up the runs that never came back.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, check)) = self.running.first().copied().filter(|(lost_at, _)| *lost_at <= now) {
            let attempt = self.checks.get(check).map_or(0, |watched| watched.attempt);
            self.handle_result(now, Run { check, attempt }, Err(Failure::Lost));
        }
    }

    /// A run has ended. A result that comes after its run was given up is left out.
    pub fn handle_result(&mut self, now: Instant, run: Run, outcome: Outcome) {
        let Run { check, attempt } = run;
        let Some(watched) = self.checks.get_mut(check).filter(|watched| watched.attempt == attempt) else { return };
        let Some(lost_at) = watched.lost_at.take() else { return };
        watched.judge(outcome);
        // Between 90 and 110 % of the interval, so that what began in step doesn't stay so.
        let interval = watched.check.interval;
        let next = now + interval * 9 / 10 + self.part_of(interval / 5, check, attempt);
        self.running.remove(&(lost_at, check));
        self.waiting.insert((next, check));
    }

    /// What all checks of a target say together; a target without checks works.
    pub fn health(&self, target: usize) -> Health {
        let checks = self.checks.iter().filter(|watched| watched.target == target);
        let agents = checks.clone().filter(|watched| watched.check.asks_agent());
        Health {
            works: checks.clone().all(|watched| watched.is_up),
            welcomes: agents.clone().all(|watched| watched.welcomes),
            share_percent: agents.map(|watched| watched.share_percent).min().unwrap_or(100),
        }
    }

    /// All checks, for the operator.
    pub fn statuses(&self) -> impl Iterator<Item = CheckStatus<'_>> {
        self.checks.iter().map(|watched| CheckStatus {
            target: watched.target,
            check: &watched.check,
            is_up: watched.is_up,
            failure: watched.failure.as_ref(),
            results: watched.results,
        })
    }
}

impl Watched {
    fn judge(&mut self, outcome: Outcome) {
        self.results += 1;
        let report = outcome.as_ref().ok().and_then(|success| success.agent).unwrap_or_default();
        // An agent that says so knows; a lost connection may be bad luck.
        let at_once = report.works == Some(false);
        self.failure = outcome.err().or(at_once.then_some(Failure::Down));
        let passed = self.failure.is_none();
        self.welcomes = report.welcomes.unwrap_or(self.welcomes);
        self.share_percent = report.share_percent.unwrap_or(self.share_percent);
        if passed == self.is_up {
            self.contrary = 0;
            return;
        }
        self.contrary += 1;
        let needed = if passed { self.check.rise } else { self.check.fall };
        if at_once || self.contrary >= needed {
            self.is_up = passed;
            self.contrary = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::config::Probe;

    const INTERVAL: Duration = Duration::from_secs(2);

    fn check(probe: Probe) -> Check {
        let address = SocketAddr::from(([10, 1, 0, 21], 80));
        Check { probe, address, interval: INTERVAL, timeout: Duration::from_secs(1), rise: 2, fall: 3 }
    }

    /// Runs what is due next and hands in its result.
    fn step(monitor: &mut Monitor, now: &mut Instant, outcome: Outcome) {
        *now = monitor.poll_timeout().unwrap().max(*now);
        let (run, _) = monitor.poll_check(*now).expect("a check is due when the monitor says so");
        monitor.handle_result(*now, run, outcome);
    }

    fn says(works: Option<bool>, welcomes: Option<bool>, share_percent: Option<u16>) -> Outcome {
        Ok(Success { agent: Some(AgentReport { works, welcomes, share_percent }) })
    }

    #[test]
    fn a_target_goes_after_fall_failures_and_comes_back_after_rise_successes() {
        let mut now = Instant::now();
        let mut monitor = Monitor::new([(0, check(Probe::Tcp))], 1, now);
        let refused = || Err(Failure::Timeout);
        let passed = || Ok(Success::default());
        let expected = [
            (refused(), true),
            (refused(), true),
            (passed(), true), // a success in between: the failures are not in a row
            (refused(), true),
            (refused(), true),
            (refused(), false),
            (passed(), false),
            (refused(), false),
            (passed(), false),
            (passed(), true),
        ];
        for (number, (outcome, works)) in expected.into_iter().enumerate() {
            step(&mut monitor, &mut now, outcome);
            assert_eq!(monitor.health(0).works, works, "after result {number}");
        }
        assert!(monitor.health(1).works, "a target without checks works");
    }

    /// A reload: the target that is down stays down, under whatever number, and a late result is nobody's.
    #[test]
    fn other_checks_go_on_from_how_they_stood() {
        let mut now = Instant::now();
        let one = Check { fall: 1, ..check(Probe::Tcp) };
        let mut monitor = Monitor::new([(0, one.clone())], 1, now);
        step(&mut monitor, &mut now, Err(Failure::Timeout));
        now = monitor.poll_timeout().unwrap();
        let (late, _) = monitor.poll_check(now).unwrap();
        let other = Check { timeout: Duration::from_millis(10), ..one.clone() };
        monitor.replace([(0, other), (1, one)], |number| number.checked_sub(1), now);
        assert_eq!([0, 1].map(|target| monitor.health(target).works), [true, false]);
        monitor.handle_result(now, late, Err(Failure::Timeout));
        assert!(monitor.health(0).works);
    }

    #[test]
    fn a_target_works_only_if_all_its_checks_say_so() {
        let mut now = Instant::now();
        let one = Check { fall: 1, ..check(Probe::Tcp) };
        let mut monitor = Monitor::new([(0, one.clone()), (0, one.clone()), (1, one)], 1, now);
        for _ in 0..3 {
            now = monitor.poll_timeout().unwrap().max(now);
            let (run, _) = monitor.poll_check(now).unwrap();
            let outcome = if run.check == 1 { Err(Failure::Status(503)) } else { Ok(Success::default()) };
            monitor.handle_result(now, run, outcome);
        }
        assert_eq!([0, 1].map(|target| monitor.health(target).works), [false, true]);
        let failures: Vec<_> = monitor.statuses().map(|status| status.failure.cloned()).collect();
        assert_eq!(failures, [None, Some(Failure::Status(503)), None]);
    }

    #[test]
    fn an_agents_word_counts_at_once_and_its_silence_after_fall_failures() {
        let mut now = Instant::now();
        let mut monitor = Monitor::new([(0, check(Probe::Agent))], 1, now);
        step(&mut monitor, &mut now, says(Some(true), Some(true), Some(60)));
        assert_eq!(monitor.health(0), Health { works: true, welcomes: true, share_percent: 60 });
        step(&mut monitor, &mut now, says(None, Some(false), None));
        let drained = Health { works: true, welcomes: false, share_percent: 60 };
        assert_eq!(monitor.health(0), drained, "what a line doesn't mention stays");
        step(&mut monitor, &mut now, Err(Failure::Timeout));
        assert_eq!(monitor.health(0), drained, "one lost connection is no news");
        step(&mut monitor, &mut now, says(Some(false), None, None));
        assert!(!monitor.health(0).works, "down");
        step(&mut monitor, &mut now, says(Some(true), Some(true), Some(100)));
        step(&mut monitor, &mut now, says(Some(true), Some(true), Some(100)));
        assert_eq!(monitor.health(0), Health { works: true, welcomes: true, share_percent: 100 });
        for works in [true, true, false] {
            step(&mut monitor, &mut now, Err(Failure::Timeout));
            assert_eq!(monitor.health(0).works, works);
        }
    }

    #[test]
    fn runs_of_a_check_are_an_interval_apart_give_or_take_a_tenth() {
        let mut now = Instant::now();
        let mut monitor = Monitor::new([(0, check(Probe::Tcp))], 7, now);
        let mut gaps = Vec::new();
        step(&mut monitor, &mut now, Ok(Success::default()));
        for _ in 0..50 {
            let before = now;
            step(&mut monitor, &mut now, Ok(Success::default()));
            gaps.push(now - before);
        }
        assert!(gaps.iter().all(|gap| (INTERVAL * 9 / 10..=INTERVAL * 11 / 10).contains(gap)), "{gaps:?}");
        gaps.sort();
        gaps.dedup();
        assert!(gaps.len() > 25, "jitter: {gaps:?}");
    }

    #[test]
    fn checks_of_many_targets_dont_start_at_once_and_at_most_so_many_run() {
        let now = Instant::now();
        let mut monitor = Monitor::new((0..1000).map(|target| (target, check(Probe::Tcp))), 3, now);
        let early = std::iter::from_fn(|| monitor.poll_check(now + INTERVAL / 100).map(drop)).count();
        assert!(early < 40, "{early} in the first hundredth of the interval");
        let running = early + std::iter::from_fn(|| monitor.poll_check(now + INTERVAL).map(drop)).count();
        assert_eq!(running, RUNNING_MAX);
        // Nothing is due before a result comes, or a run is lost.
        assert!(monitor.poll_timeout().unwrap() > now + INTERVAL);
    }

    #[test]
    fn a_check_that_never_comes_back_has_failed() {
        let now = Instant::now();
        let mut monitor = Monitor::new([(0, Check { fall: 1, ..check(Probe::Tcp) })], 1, now);
        let due = monitor.poll_timeout().unwrap();
        let (run, _) = monitor.poll_check(due).unwrap();
        let lost = monitor.poll_timeout().unwrap();
        assert!(lost > due + Duration::from_secs(1), "not before its own timeout");
        monitor.handle_timeout(lost);
        assert!(!monitor.health(0).works);
        monitor.handle_result(lost, run, Ok(Success::default()));
        assert_eq!(monitor.statuses().next().unwrap().failure, Some(&Failure::Lost), "too late");
    }
}
