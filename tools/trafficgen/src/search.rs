//! The search for the highest rate without loss (RFC 2544 §26.1, the non-drop rate, NDR) or with a tolerated loss (the partial drop
//! rate, PDR): bisection, each rate tried several times, everything bounded.
//!
//! RFC 2544 §26.1: "The throughput is the fastest rate at which the count of test frames transmitted by the DUT is equal to the
//! number of test frames sent to it by the test equipment." On a machine that does other things, too, a single lost packet may be
//! its fault: so a rate counts as passed when more than half of its trials pass, and every trial is in the report.

use serde::Serialize;

/// The loss that a trial may have: in lost packets per million sent. 0 is NDR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LossTolerance {
    /// Packets per million.
    pub ppm: u32,
}

impl LossTolerance {
    /// No loss at all.
    pub const NONE: Self = Self { ppm: 0 };

    fn admits(self, sent: u64, received: u64) -> bool {
        let lost = u128::from(sent.saturating_sub(received));
        lost * 1_000_000 <= u128::from(sent) * u128::from(self.ppm)
    }
}

/// What to search for, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SearchPlan {
    /// Which loss is good enough.
    pub tolerance: LossTolerance,
    /// The lowest rate of interest, packets per second; at least 1.
    pub rate_min_pps: u64,
    /// The highest; not below the lowest.
    pub rate_max_pps: u64,
    /// How near to each other a rate that passes and one that doesn't have to be, in thousandths of the latter.
    pub resolution_permille: u32,
    /// Trials of one rate; a majority decides.
    pub repeats: u32,
    /// Trials in all.
    pub trials_max: u32,
}

/// How a trial ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// No more loss than tolerated.
    Passed,
    /// More.
    Lost,
    /// The generator itself, or its port, didn't reach the rate.
    NotOffered,
}

/// What a trial counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TrialCounts {
    /// Packets that should have left.
    pub wanted: u64,
    /// Packets that left.
    pub sent: u64,
    /// Packets that came through, each counted once.
    pub received: u64,
}

/// One trial of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Trial {
    /// Packets per second.
    pub rate_pps: u64,
    /// What was counted.
    #[serde(flatten)]
    pub counts: TrialCounts,
    /// How it ended.
    pub verdict: Verdict,
}

/// Why a search found nothing better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// The next rate lost too much.
    Loss,
    /// The next rate is more than the generator can do.
    Generator,
    /// The highest rate of interest passed.
    RateMax,
    /// Not even the lowest rate of interest passed.
    BelowRateMin,
    /// The trials were used up before the resolution was reached.
    TrialsMax,
}

/// The result of a search.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SearchReport {
    /// What was searched.
    pub plan: SearchPlan,
    /// The highest rate that passed.
    pub rate_pps: Option<u64>,
    /// Why not more.
    pub limit: Limit,
    /// All trials, in their order.
    pub trials: Vec<Trial>,
}

/// A search under way: ask [`poll_trial`](Self::poll_trial) for a rate, try it, tell [`handle_trial`](Self::handle_trial), until
/// there is a [`report`](Self::report).
#[derive(Debug)]
pub struct Search {
    plan: SearchPlan,
    /// The highest rate that passed.
    passed: Option<u64>,
    /// The lowest that failed, and why.
    failed: Option<(u64, Limit)>,
    /// The rate being tried, with its trials so far.
    current: u64,
    votes_passed: u32,
    votes_failed: u32,
    not_offered: u32,
    limit: Option<Limit>,
    trials: Vec<Trial>,
}

impl Search {
    /// Begins with the highest rate: if that passes there is nothing to search.
    pub fn new(plan: SearchPlan) -> Self {
        let rate_min_pps = plan.rate_min_pps.max(1);
        let rate_max_pps = plan.rate_max_pps.max(rate_min_pps);
        let repeats = plan.repeats.max(1);
        let plan = SearchPlan { rate_min_pps, rate_max_pps, repeats, ..plan };
        Self {
            plan,
            passed: None,
            failed: None,
            current: rate_max_pps,
            votes_passed: 0,
            votes_failed: 0,
            not_offered: 0,
            limit: (plan.trials_max == 0).then_some(Limit::TrialsMax),
            trials: Vec::new(),
        }
    }

    /// The rate to try next, in packets per second; `None`: the search is over.
    pub fn poll_trial(&self) -> Option<u64> {
        self.limit.is_none().then_some(self.current)
    }

    /// The trial of [`poll_trial`](Self::poll_trial)'s rate ended. Returns what it counts as.
    pub fn handle_trial(&mut self, counts: TrialCounts) -> Verdict {
        let verdict = self.judge(counts);
        self.trials.push(Trial { rate_pps: self.current, counts, verdict });
        match verdict {
            Verdict::Passed => self.votes_passed += 1,
            Verdict::Lost => self.votes_failed += 1,
            Verdict::NotOffered => {
                self.votes_failed += 1;
                self.not_offered += 1;
            }
        }
        let majority = self.plan.repeats / 2 + 1;
        if self.votes_passed >= majority {
            self.passed = Some(self.current);
            self.move_on();
        } else if self.votes_failed > self.plan.repeats - majority {
            let limit = if self.not_offered * 2 > self.votes_failed { Limit::Generator } else { Limit::Loss };
            self.failed = Some((self.current, limit));
            self.move_on();
        }
        if self.limit.is_none() && self.trials.len() >= usize::try_from(self.plan.trials_max).unwrap_or(usize::MAX) {
            self.limit = Some(Limit::TrialsMax);
        }
        verdict
    }

    /// The result, once the search is over.
    pub fn report(self) -> Option<SearchReport> {
        Some(SearchReport { plan: self.plan, rate_pps: self.passed, limit: self.limit?, trials: self.trials })
    }

    fn judge(&self, counts: TrialCounts) -> Verdict {
        // A percent of slack: pacing loses a little on a machine that does other things.
        let was_offered = u128::from(counts.sent) * 100 >= u128::from(counts.wanted) * 99;
        if !self.plan.tolerance.admits(counts.sent, counts.received) || counts.sent == 0 {
            Verdict::Lost
        } else if !was_offered {
            Verdict::NotOffered
        } else {
            Verdict::Passed
        }
    }

    /// The current rate is decided: which one is next?
    fn move_on(&mut self) {
        (self.votes_passed, self.votes_failed, self.not_offered) = (0, 0, 0);
        let Some((failed, why)) = self.failed else {
            self.limit = Some(Limit::RateMax);
            return;
        };
        // The lowest rate is tried itself before the search gives up.
        let floor = self.passed.unwrap_or(self.plan.rate_min_pps - 1);
        let resolution = (u128::from(failed) * u128::from(self.plan.resolution_permille) / 1000).max(1);
        if self.passed.is_some() && u128::from(failed - floor) <= resolution {
            self.limit = Some(why);
        } else if failed <= self.plan.rate_min_pps {
            self.limit = Some(Limit::BelowRateMin);
        } else if self.passed.is_none() && u128::from(failed - self.plan.rate_min_pps) <= resolution {
            self.current = self.plan.rate_min_pps;
        } else {
            self.current = floor + (failed - floor) / 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAN: SearchPlan = SearchPlan {
        tolerance: LossTolerance::NONE,
        rate_min_pps: 1000,
        rate_max_pps: 1_000_000,
        resolution_permille: 10,
        repeats: 1,
        trials_max: 100,
    };

    /// A device that forwards `limit_pps` and loses the rest, for a second.
    fn device(limit_pps: u64) -> impl FnMut(u64) -> TrialCounts {
        move |rate| TrialCounts { wanted: rate, sent: rate, received: rate.min(limit_pps) }
    }

    fn play(plan: SearchPlan, mut device: impl FnMut(u64) -> TrialCounts) -> SearchReport {
        let mut search = Search::new(plan);
        while let Some(rate) = search.poll_trial() {
            search.handle_trial(device(rate));
        }
        search.report().unwrap()
    }

    #[test]
    fn finds_a_known_limit_to_the_resolution() {
        let report = play(PLAN, device(123_456));
        let found = report.rate_pps.unwrap();
        assert!((122_000..=123_456).contains(&found), "{report:?}");
        assert_eq!(report.limit, Limit::Loss);
        assert!(report.trials.len() < 20, "bisection: {} trials", report.trials.len());
    }

    #[test]
    fn a_tolerated_loss_finds_more() {
        // With 10 % the rate r passes as long as limit >= 0.9 r.
        let plan = SearchPlan { tolerance: LossTolerance { ppm: 100_000 }, resolution_permille: 1, ..PLAN };
        let found = play(plan, device(90_000)).rate_pps.unwrap();
        assert!((99_900..=100_000).contains(&found), "{found}");
    }

    #[test]
    fn a_device_without_a_limit_is_tried_once() {
        let report = play(PLAN, device(u64::MAX));
        assert_eq!((report.rate_pps, report.limit, report.trials.len()), (Some(1_000_000), Limit::RateMax, 1));
    }

    #[test]
    fn a_device_below_the_lowest_rate_has_none() {
        let report = play(PLAN, device(999));
        assert_eq!((report.rate_pps, report.limit), (None, Limit::BelowRateMin));
        assert_eq!(report.trials.last().map(|trial| trial.rate_pps), Some(1000), "the lowest itself was tried");
        assert_eq!(play(PLAN, device(1000)).rate_pps, Some(1000));
    }

    #[test]
    fn a_generator_that_is_too_slow_says_so() {
        let report = play(PLAN, |rate| {
            let sent = rate.min(40_000);
            TrialCounts { wanted: rate, sent, received: sent }
        });
        assert_eq!(report.limit, Limit::Generator);
        assert!((39_000..=40_404).contains(&report.rate_pps.unwrap()), "{report:?}");
    }

    #[test]
    fn one_unlucky_trial_of_three_does_not_decide() {
        let plan = SearchPlan { repeats: 3, ..PLAN };
        let mut number = 0;
        let mut honest = device(200_000);
        let report = play(plan, |rate| {
            number += 1;
            let counts = honest(rate);
            TrialCounts { received: counts.received - u64::from(number % 3 == 1), ..counts }
        });
        let found = report.rate_pps.unwrap();
        assert!((198_000..=200_000).contains(&found), "{report:?}");
        assert!(report.trials.iter().any(|trial| trial.verdict == Verdict::Lost && trial.rate_pps <= found));
    }

    #[test]
    fn nothing_sent_proves_nothing() {
        let report = play(PLAN, |rate| TrialCounts { wanted: rate, sent: 0, received: 0 });
        assert_eq!(report.rate_pps, None);
    }

    proptest! {
        #[test]
        fn always_ends_and_never_finds_more_than_the_device_does(
            limit: u64, rate_min_pps in 0u64..2000, rate_max_pps in 0u64..10_000_000,
            resolution_permille in 0u32..2000, repeats in 0u32..5, trials_max in 0u32..60,
        ) {
            let plan = SearchPlan { rate_min_pps, rate_max_pps, resolution_permille, repeats, trials_max, ..PLAN };
            let report = play(plan, device(limit));
            prop_assert!(report.trials.len() <= trials_max as usize);
            if let Some(found) = report.rate_pps {
                prop_assert!(found <= limit && found <= rate_max_pps.max(rate_min_pps).max(1));
            }
        }
    }
}
