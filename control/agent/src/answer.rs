//! What the agent answers, and from what: the machine's load, a file that an operator writes, a command that looks at the application.

use std::num::NonZero;

use crate::{AgentError, AgentReport};

/// An overloaded target still gets this: if all of them are, somebody has to answer. In percent.
const SHARE_PERCENT_MIN: u16 = 1;

/// The share of its weight that a machine can take: everything when idle, less with each process that runs or waits, and next to
/// nothing from `load_full` of them per core on.
pub fn share_at(load: f64, cores: NonZero<usize>, load_full: f64) -> u16 {
    let busy = (load / cores.get() as f64 / load_full).clamp(0.0, 1.0);
    (((1.0 - busy) * 100.0).round() as u16).max(SHARE_PERCENT_MIN)
}

/// The average over a minute out of `/proc/loadavg`.
pub fn minute_load(loadavg: &str) -> Option<f64> {
    let load: f64 = loadavg.split_ascii_whitespace().next()?.parse().ok()?;
    (load.is_finite() && load >= 0.0).then_some(load)
}

/// Puts together what the sources say. An operator's word or a command's stands; where neither says something, the target works and
/// welcomes connections, with the share that its load leaves.
///
/// # Errors
/// The first source whose line has a word that isn't one of an agent's.
pub fn combine(share: Option<u16>, lines: &[&str]) -> Result<AgentReport, AgentError> {
    let mut sum = AgentReport::default();
    for line in lines.iter().filter(|line| !line.trim().is_empty()) {
        let AgentReport { works, welcomes, share_percent } = AgentReport::parse(line)?;
        // Whoever says no is heard, and whoever asks for the least.
        sum.works = sum.works.into_iter().chain(works).reduce(|a, b| a && b);
        sum.welcomes = sum.welcomes.into_iter().chain(welcomes).reduce(|a, b| a && b);
        sum.share_percent = sum.share_percent.into_iter().chain(share_percent).min();
    }
    Ok(AgentReport {
        works: Some(sum.works.unwrap_or(true)),
        welcomes: Some(sum.welcomes.unwrap_or(true)),
        share_percent: sum.share_percent.or(share),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(count: usize) -> NonZero<usize> {
        NonZero::new(count).unwrap()
    }

    #[test]
    fn the_busier_a_machine_the_smaller_its_share() {
        assert_eq!(share_at(0.0, cores(4), 1.0), 100);
        assert_eq!(share_at(1.0, cores(4), 1.0), 75);
        assert_eq!(share_at(4.0, cores(4), 1.0), SHARE_PERCENT_MIN);
        assert_eq!(share_at(400.0, cores(4), 1.0), SHARE_PERCENT_MIN);
        assert_eq!(share_at(4.0, cores(4), 2.0), 50, "two processes per core are full load here");
    }

    #[test]
    fn the_load_of_a_minute_is_the_first_number() {
        assert_eq!(minute_load("0.42 1.00 2.00 1/123 4567\n"), Some(0.42));
        for bad in ["", "\n", "x 1 2", "NaN 1 2", "-1 0 0"] {
            assert_eq!(minute_load(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_an_operator_or_a_command_says_stands() {
        let answer = |lines: &[&str]| combine(Some(60), lines).unwrap().to_string();
        assert_eq!(answer(&[]), "ready up 60%");
        assert_eq!(answer(&["\n"]), "ready up 60%", "an empty file says nothing");
        assert_eq!(answer(&["drain"]), "drain up 60%");
        assert_eq!(answer(&["drain", "up"]), "drain up 60%", "whoever says no is heard");
        assert_eq!(answer(&["", "down #no database"]), "ready down 60%");
        assert_eq!(answer(&["25%", "80%"]), "ready up 25%");
        assert!(combine(None, &["sleepy"]).is_err());
    }
}
