//! What came of looking at a scope.

use std::fmt;

use stateright::{Checker, Expectation, HasDiscoveries, Model};

use crate::planted::Planted;
use crate::subject::Subject;
use crate::world::{Scope, World};

/// Threads that look at states.
const THREADS: usize = 2;

/// What came of looking at all schedules of a scope, or at as many as it took to find one that breaks a promise.
#[derive(Debug)]
pub struct Verdict {
    /// States that were looked at, and how many of them were different.
    pub states: (usize, usize),
    /// Steps of the longest schedule.
    pub steps_max: usize,
    /// Promises that a schedule breaks, with its steps.
    pub broken: Vec<(&'static str, String)>,
    /// What should have happened somewhere, and didn't.
    pub missing: Vec<&'static str>,
}

/// Looks at all schedules of a scope.
pub fn check<D: Subject>(scope: Scope, planted: Option<Planted>) -> Verdict {
    let builder = World::<D>::new(scope, planted).checker().threads(THREADS).finish_when(HasDiscoveries::AnyFailures);
    let checker = builder.spawn_dfs().join();
    let mut broken = Vec::new();
    let mut missing = Vec::new();
    for property in checker.model().properties() {
        match (property.expectation, checker.discovery(property.name)) {
            (Expectation::Sometimes, None) => missing.push(property.name),
            (Expectation::Always, Some(path)) => {
                let steps = path.into_vec().into_iter();
                let steps = steps.map(|(state, step)| (checker.model().describe(&state), step));
                let steps = steps.map(|(state, step)| format!("  {state}\n    {step:?}\n")).collect();
                broken.push((property.name, steps));
            }
            _ => {}
        }
    }
    let states = (checker.state_count(), checker.unique_state_count());
    Verdict { states, steps_max: checker.max_depth(), broken, missing }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (promise, steps) in &self.broken {
            write!(f, "broken: {promise}\n{steps}")?;
        }
        for event in &self.missing {
            writeln!(f, "never happened: {event}")?;
        }
        let (all, different) = self.states;
        write!(f, "{all} states, {different} of them different, up to {} steps ", self.steps_max)
    }
}
