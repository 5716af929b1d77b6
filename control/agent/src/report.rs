//! What a target's agent says of itself: one line of words, as HAProxy's agent check has them, so that agents made for it serve here.
//!
//! | word | meaning |
//! | --- | --- |
//! | `75%` | the share of the configured weight |
//! | `ready` | new connections are welcome again |
//! | `drain`, `maint` | no new connections |
//! | `up` | the application works; new connections are welcome again |
//! | `down`, `fail`, `stopped` | the application doesn't work; a reason may follow behind `#` |
//! | `maxconn:…` | left out: the data plane keeps no such limit |
//!
//! Words stand in any order, between spaces, tabulators or commas. What a line doesn't mention stays as it was.

use std::fmt;

use thiserror::Error;

/// Most bytes of an agent's line.
pub const LINE_BYTES_MAX: usize = 256;

/// The greatest share, in percent; more counts as this.
pub const SHARE_PERCENT_MAX: u16 = 256;

/// What a line says. `None`: nothing about that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AgentReport {
    /// Does the application work?
    pub works: Option<bool>,
    /// Are new connections welcome?
    pub welcomes: Option<bool>,
    /// The share of the configured weight, in percent, up to [`SHARE_PERCENT_MAX`]. 0: no new connections.
    pub share_percent: Option<u16>,
}

/// A line that no agent would send.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AgentError {
    /// Not a word of the table.
    #[error("{0:?} is no word of an agent's")]
    Unknown(String),
    /// A line without words.
    #[error("an empty line")]
    Empty,
}

impl AgentReport {
    /// Reads a line, whose end may be missing.
    ///
    /// # Errors
    /// See [`AgentError`]: a service that isn't an agent shall not pass for one.
    pub fn parse(line: &str) -> Result<Self, AgentError> {
        let words = line.split_once('#').map_or(line, |(words, _reason)| words);
        let mut report = Self::default();
        let mut any = false;
        for word in words.split([' ', '\t', ',', '\r', '\n']).filter(|word| !word.is_empty()) {
            any = true;
            match word {
                "up" => {
                    report.works = report.works.or(Some(true));
                    report.welcomes = report.welcomes.or(Some(true));
                }
                "ready" => report.welcomes = report.welcomes.or(Some(true)),
                // Whatever else the line says: what stops counts.
                "drain" | "maint" => report.welcomes = Some(false),
                "down" | "fail" | "failed" | "stopped" => report.works = Some(false),
                _ if word.starts_with("maxconn:") => {}
                _ => report.share_percent = Some(share(word)?),
            }
        }
        if any { Ok(report) } else { Err(AgentError::Empty) }
    }
}

/// As a line without its end, that both HAProxy and [`AgentReport::parse`] understand. A report that says nothing is an empty one.
impl fmt::Display for AgentReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // HAProxy keeps a drained server drained until it is told `ready`.
        let welcomes = self.welcomes.map(|welcomes| if welcomes { "ready" } else { "drain" });
        let works = self.works.map(|works| if works { "up" } else { "down" });
        let share = self.share_percent.map(|percent| format!("{percent}%"));
        let words = [welcomes.map(str::to_owned), works.map(str::to_owned), share];
        f.write_str(&words.into_iter().flatten().collect::<Vec<_>>().join(" "))
    }
}

fn share(word: &str) -> Result<u16, AgentError> {
    let unknown = || AgentError::Unknown(word.chars().take(32).collect());
    let digits = word.strip_suffix('%').ok_or_else(unknown)?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(unknown());
    }
    // A number too large to read is a large number.
    Ok(digits.parse().map_or(SHARE_PERCENT_MAX, |percent: u16| percent.min(SHARE_PERCENT_MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(works: Option<bool>, welcomes: Option<bool>, share_percent: Option<u16>) -> AgentReport {
        AgentReport { works, welcomes, share_percent }
    }

    #[test]
    fn lines_of_real_agents_are_understood() {
        for (line, expected) in [
            ("up 75%\n", report(Some(true), Some(true), Some(75))),
            ("75%\r\n", report(None, None, Some(75))),
            ("ready,up\t100%", report(Some(true), Some(true), Some(100))),
            ("drain", report(None, Some(false), None)),
            ("up drain 10%", report(Some(true), Some(false), Some(10))),
            ("drain up 10%", report(Some(true), Some(false), Some(10))),
            ("maint\n", report(None, Some(false), None)),
            ("down #disk full, 3% left\n", report(Some(false), None, None)),
            ("fail", report(Some(false), None, None)),
            ("stopped # for maintenance", report(Some(false), None, None)),
            ("up 0% maxconn:30", report(Some(true), Some(true), Some(0))),
            ("up 99999999999999999999%", report(Some(true), Some(true), Some(SHARE_PERCENT_MAX))),
        ] {
            assert_eq!(AgentReport::parse(line), Ok(expected), "{line:?}");
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        for works in [None, Some(true), Some(false)] {
            for welcomes in [Some(true), Some(false)] {
                for share_percent in [None, Some(0), Some(75)] {
                    let written = report(works, welcomes, share_percent);
                    assert_eq!(AgentReport::parse(&written.to_string()), Ok(written), "{written}");
                }
            }
        }
        assert_eq!(report(Some(true), Some(true), Some(75)).to_string(), "ready up 75%");
        assert_eq!(report(Some(true), Some(false), None).to_string(), "drain up");
    }

    #[test]
    fn what_is_no_agent_is_refused() {
        for line in ["HTTP/1.1 400 Bad Request", "SSH-2.0-OpenSSH_9.2", "-5%", "%", "75", "UP", "+5%"] {
            assert!(matches!(AgentReport::parse(line), Err(AgentError::Unknown(_))), "{line:?}");
        }
        for line in ["", "\n", " , \t", "# nothing"] {
            assert_eq!(AgentReport::parse(line), Err(AgentError::Empty), "{line:?}");
        }
    }
}
