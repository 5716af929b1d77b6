//! An HTTP client with a deadline, and bulk transfers over it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::content::Content;
use crate::error::{Context, LabError, Result};
use crate::target::{CLEAR_TEXT_MARKER, HTTP_PORT};

/// Longest body that is kept, not streamed.
const SMALL_BODY_BYTES_MAX: u64 = 65_536;

/// A connection to the HTTP service, in the namespace of the thread that opened it. After its deadline nothing waits any more.
#[derive(Debug)]
pub struct Http {
    reader: BufReader<TcpStream>,
    deadline: Instant,
}

/// An answer's head.
#[derive(Debug)]
struct Answer {
    /// Which target answered.
    target: String,
    /// Bytes of the body, still to be read.
    length: u64,
}

impl Http {
    /// Opens a connection that may live for `limit`.
    pub fn open(address: IpAddr, limit: Duration) -> Result<Self> {
        let deadline = Instant::now() + limit;
        let address = SocketAddr::from((address, HTTP_PORT));
        let stream = TcpStream::connect_timeout(&address, limit).context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true).context(|| "preparing a connection".to_owned())?;
        Ok(Self { reader: BufReader::with_capacity(1 << 16, stream), deadline })
    }

    /// A handle to break the connection off with, from another thread.
    pub fn breaker(&self) -> Result<TcpStream> {
        self.reader.get_ref().try_clone().context(|| "cloning a connection".to_owned())
    }

    /// Moves the deadline: from now on `limit`.
    pub fn extend(&mut self, limit: Duration) {
        self.deadline = Instant::now() + limit;
    }

    /// `GET /id`: which target answers.
    pub fn id(&mut self) -> Result<String> {
        let answer = self.request("GET", "/id", 0, |_| Ok(()))?;
        let body = self.small_body(&answer)?;
        if body != answer.target {
            return Err(LabError::Answer { what: "GET /id".to_owned(), answer: body });
        }
        Ok(answer.target)
    }

    /// Says goodbye.
    pub fn close(self) {
        let _ = self.reader.get_ref().shutdown(Shutdown::Both);
    }

    fn request(
        &mut self,
        method: &str,
        path: &str,
        length: u64,
        body: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Answer> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: vip\r\nContent-Length: {length}\r\nX-Marker: {CLEAR_TEXT_MARKER}\r\n\r\n"
        );
        let what = || format!("{method} {path}");
        self.write_all(head.as_bytes()).context(what)?;
        body(self)?;
        let mut status = String::new();
        self.read_line(&mut status).context(what)?;
        if !status.starts_with("HTTP/1.1 200 ") {
            return Err(LabError::Answer { what: what(), answer: status });
        }
        let mut answer = Answer { target: String::new(), length: 0 };
        loop {
            let mut line = String::new();
            self.read_line(&mut line).context(what)?;
            match line.trim_end().split_once(": ") {
                Some(("Content-Length", length)) => answer.length = length.parse().unwrap_or(0),
                Some(("X-Target", name)) => name.clone_into(&mut answer.target),
                Some(_) => {}
                None => return Ok(answer),
            }
        }
    }

    fn small_body(&mut self, answer: &Answer) -> Result<String> {
        let length = answer.length.min(SMALL_BODY_BYTES_MAX);
        let mut body = vec![0; usize::try_from(length).unwrap_or(0)];
        self.arm()
            .and_then(|()| self.reader.read_exact(&mut body))
            .map_err(timely)
            .context(|| "reading an answer".to_owned())?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Lets the next system calls wait until the deadline only.
    fn arm(&self) -> std::io::Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        self.reader.get_ref().set_read_timeout(Some(left))?;
        self.reader.get_ref().set_write_timeout(Some(left))
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.arm()?;
        self.reader.get_mut().write_all(bytes).map_err(timely)
    }

    fn read_line(&mut self, line: &mut String) -> std::io::Result<()> {
        self.arm()?;
        match self.reader.read_line(line).map_err(timely)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// A socket whose time is up says EAGAIN; what that means here is that the deadline has passed.
fn timely(error: std::io::Error) -> std::io::Error {
    if error.kind() == std::io::ErrorKind::WouldBlock { std::io::ErrorKind::TimedOut.into() } else { error }
}

/// A bulk transfer.
#[derive(Debug, Clone, Serialize)]
pub struct BulkReport {
    /// Which target it was with.
    pub target: String,
    /// Bytes transferred.
    pub bytes: u64,
    /// How long it took.
    pub milliseconds: u64,
    /// Megabits per second.
    pub mbit_per_second: f64,
    /// Did each byte arrive, in its place and unchanged?
    pub intact: bool,
}

/// Fetches `bytes` and checks each of them.
pub fn download(address: IpAddr, bytes: u64, limit: Duration) -> Result<BulkReport> {
    let begin = Instant::now();
    let mut http = Http::open(address, limit)?;
    let answer = http.request("GET", &format!("/bytes/{bytes}"), 0, |_| Ok(()))?;
    let mut content = Content::default();
    let mut buffer = vec![0; 1 << 16];
    let (mut taken, mut intact) = (0, true);
    while taken < answer.length {
        http.arm().context(|| format!("downloading, after {taken} bytes"))?;
        let length =
            http.reader.read(&mut buffer).map_err(timely).context(|| format!("downloading, after {taken} bytes"))?;
        let piece = buffer.get(..length).unwrap_or_default();
        if piece.is_empty() {
            break;
        }
        intact &= content.check(piece);
        taken += length as u64;
    }
    http.close();
    Ok(bulk_report(answer.target, taken, begin, intact && taken == bytes))
}

/// Sends `bytes`; the target checks each of them.
pub fn upload(address: IpAddr, bytes: u64, limit: Duration) -> Result<BulkReport> {
    let begin = Instant::now();
    let mut http = Http::open(address, limit)?;
    let answer = http.request("POST", "/bytes", bytes, |http| {
        let mut content = Content::default();
        let mut buffer = vec![0; 1 << 16];
        let mut left = bytes;
        while left > 0 {
            let length = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let piece = buffer.get_mut(..length).unwrap_or_default();
            content.fill(piece);
            http.write_all(piece).context(|| format!("uploading, with {left} bytes left"))?;
            left -= length as u64;
        }
        Ok(())
    })?;
    let verdict = http.small_body(&answer)?;
    http.close();
    Ok(bulk_report(answer.target, bytes, begin, verdict == format!("intact {bytes}")))
}

fn bulk_report(target: String, bytes: u64, begin: Instant, intact: bool) -> BulkReport {
    let elapsed = begin.elapsed();
    let mbit_per_second = bytes as f64 * 8.0 / 1e6 / elapsed.as_secs_f64().max(1e-9);
    let milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    BulkReport { target, bytes, milliseconds, mbit_per_second, intact }
}
