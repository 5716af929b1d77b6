//! Waiting, always with a limit and always saying for what.

use std::time::{Duration, Instant};

use crate::error::{LabError, Result};

/// How often a condition is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Looks at `condition` until it gives a value. After `limit`: [`LabError::Timeout`] naming `what`.
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            return Err(LabError::Timeout { what: what.to_owned(), limit });
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// [`until`] for a plain condition.
pub fn until_true(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    until(what, limit, || Ok(condition()?.then_some(())))
}
