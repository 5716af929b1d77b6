//! What can go wrong in the lab.

use std::time::Duration;

/// The lab's error: always says what was being done.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The lab makes network namespaces, which takes root.
    #[error("the lab must run as root: it creates network namespaces (try: sudo {program})")]
    NotRoot {
        /// The program that was started.
        program: String,
    },
    /// A program that the lab needs isn't installed.
    #[error("{program} is missing: install the Debian package {package}")]
    Missing {
        /// The program or file that was looked for.
        program: String,
        /// The Debian package that contains it.
        package: &'static str,
    },
    /// A program of this project hasn't been built.
    #[error("{program} isn't beside {beside}: build it first (cargo build --workspace)")]
    NotBuilt {
        /// The program that was looked for.
        program: &'static str,
        /// Where it was looked for.
        beside: String,
    },
    /// A system call or file operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A program ran and failed.
    #[error("{command} failed with {status}: {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// What it said.
        stderr: String,
    },
    /// Something didn't happen in time.
    #[error("waited {limit:?} for {what}, in vain")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// A process that should run has ended.
    #[error("{process} has ended ({status}); the end of its log:\n{log}")]
    Ended {
        /// Which process.
        process: String,
        /// Its exit status.
        status: String,
        /// The last lines that it wrote.
        log: String,
    },
    /// An answer that isn't what the protocol or the tool promises.
    #[error("{what}: unexpected answer: {answer}")]
    Answer {
        /// Who was asked for what.
        what: String,
        /// What came back.
        answer: String,
    },
    /// A scenario's expectation that didn't hold.
    #[error("expected {what}, but {found}")]
    Expectation {
        /// What should have been so.
        what: String,
        /// What was found.
        found: String,
    },
}

/// The lab's result.
pub type Result<T> = std::result::Result<T, LabError>;

/// Says what was being done when an [`std::io::Error`] (or an errno) came back.
pub trait Context<T> {
    /// Turns the error into [`LabError::Io`], with `what` said.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| LabError::Io { what: what(), source: source.into() })
    }
}
