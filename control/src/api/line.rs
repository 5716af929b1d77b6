//! Lines of bounded length, and the envelopes on them.

use std::io::{self, BufRead, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::response::{ApiError, Response};

/// A request on the wire. The request itself is looked at when the version is known to be right.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RequestLine<R> {
    pub(super) version: u32,
    pub(super) request: R,
}

/// A response on the wire.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ResponseLine {
    pub(super) version: u32,
    #[serde(flatten)]
    pub(super) outcome: Outcome,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    Ok(Response),
    Error(ApiError),
}

/// How reading a line can end other than well.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The other side closed, perhaps in the middle of a line.
    Closed,
    /// The line is longer than it may be.
    TooLong,
    /// The socket failed, or nothing came in time.
    Io(io::Error),
}

/// Reads a line of at most `max` bytes, newline included.
pub(super) fn read_line(from: &mut impl BufRead, max: usize) -> Result<Vec<u8>, ReadError> {
    let mut line = Vec::new();
    from.take(max as u64).read_until(b'\n', &mut line).map_err(ReadError::Io)?;
    if line.ends_with(b"\n") {
        Ok(line)
    } else if line.len() >= max {
        Err(ReadError::TooLong)
    } else {
        Err(ReadError::Closed)
    }
}

/// Encodes a value as a line; `None` if it would be longer than `max` bytes.
pub(super) fn encode<T: Serialize>(value: &T, max: usize) -> Option<Vec<u8>> {
    let mut line = serde_json::to_vec(value).ok()?;
    line.push(b'\n');
    (line.len() <= max).then_some(line)
}

/// Decodes a line.
pub(super) fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(line)
}

/// Writes a whole line.
pub(super) fn write_line(to: &mut impl Write, line: &[u8]) -> io::Result<()> {
    to.write_all(line)?;
    to.flush()
}
