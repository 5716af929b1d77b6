//! As much HTTP/1.1 as the lab's clients speak: `GET /id`, `GET /bytes/N`, `POST /bytes`, with persistent connections.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{CLEAR_TEXT_MARKER, HTTP_PORT, Observed, STOP_INTERVAL};
use crate::content::Content;
use crate::error::{Context, Result};

/// Connections served at a time; more are closed at once.
const CONNECTIONS_MAX: usize = 2_048;
/// Bytes of a request's head.
const HEAD_BYTES_MAX: u64 = 8_192;
/// A silent connection is closed after this. Longer than any outage that a scenario makes.
const IDLE_LIMIT: Duration = Duration::from_secs(300);

/// Serves in threads of the calling thread's namespace.
pub(super) fn serve(name: String, observed: Arc<Observed>, stop: Arc<AtomicBool>) -> Result<JoinHandle<()>> {
    // Of IPv4 as well.
    let listener =
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, HTTP_PORT)).context(|| format!("listening at TCP {HTTP_PORT}"))?;
    listener.set_nonblocking(true).context(|| "preparing the HTTP listener".to_owned())?;
    Ok(std::thread::spawn(move || {
        let open = Arc::new(OpenConnections::default());
        while !stop.load(Ordering::Relaxed) {
            let timeout = PollTimeout::try_from(STOP_INTERVAL).unwrap_or(PollTimeout::ZERO);
            let _ = poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], timeout);
            while let Ok((stream, _)) = listener.accept() {
                let number = observed.connections.fetch_add(1, Ordering::Relaxed);
                if !open.add(number, &stream) {
                    continue;
                }
                let (name, observed, open) = (name.clone(), observed.clone(), open.clone());
                std::thread::spawn(move || {
                    // A client that goes away in the middle is its own observation: nothing to add here.
                    let _ = converse(&stream, &name, &observed);
                    open.remove(number);
                });
            }
        }
        open.shut_down();
    }))
}

/// The connections that are being served, by their number, so that none outlives the server.
#[derive(Default)]
struct OpenConnections(Mutex<HashMap<u64, TcpStream>>);

impl OpenConnections {
    /// Takes a connection in, unless there are too many.
    fn add(&self, number: u64, stream: &TcpStream) -> bool {
        let mut open = self.lock();
        let Ok(stream) = stream.try_clone() else { return false };
        open.len() < CONNECTIONS_MAX && open.insert(number, stream).is_none()
    }

    fn remove(&self, number: u64) {
        self.lock().remove(&number);
    }

    fn shut_down(&self) {
        for stream in self.lock().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, TcpStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request's head, as far as it matters here.
struct Head {
    method: String,
    path: String,
    content_length: u64,
    close: bool,
}

fn converse(stream: &TcpStream, name: &str, observed: &Observed) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE_LIMIT))?;
    stream.set_write_timeout(Some(IDLE_LIMIT))?;
    let mut reader = BufReader::with_capacity(1 << 16, stream);
    while let Some(head) = read_head(&mut reader)? {
        observed.requests.fetch_add(1, Ordering::Relaxed);
        let bytes = head.path.strip_prefix("/bytes/").and_then(|count| count.parse::<u64>().ok());
        match (head.method.as_str(), head.path.as_str(), bytes) {
            ("GET", "/id", _) => answer(stream, name, "200 OK", name.as_bytes())?,
            ("GET", _, Some(count)) => send_content(stream, name, count, observed)?,
            ("POST", "/bytes", _) => {
                let verdict = receive_content(&mut reader, head.content_length, observed)?;
                answer(stream, name, "200 OK", verdict.as_bytes())?;
            }
            _ => answer(stream, name, "404 Not Found", b"")?,
        }
        if head.close {
            break;
        }
    }
    Ok(())
}

fn read_head(reader: &mut impl BufRead) -> std::io::Result<Option<Head>> {
    let mut limited = reader.take(HEAD_BYTES_MAX);
    let mut line = String::new();
    if limited.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut head = Head { method, path, content_length: 0, close: false };
    loop {
        let mut line = String::new();
        if limited.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            return Ok(Some(head));
        }
        match line.split_once(": ") {
            Some(("content-length", length)) => head.content_length = length.parse().unwrap_or(0),
            Some(("connection", "close")) => head.close = true,
            _ => {}
        }
    }
}

fn answer(mut stream: &TcpStream, name: &str, status: &str, body: &[u8]) -> std::io::Result<()> {
    let mut message = response_head(name, status, body.len() as u64).into_bytes();
    message.extend_from_slice(body);
    stream.write_all(&message)
}

fn response_head(name: &str, status: &str, length: u64) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nX-Target: {name}\r\nX-Marker: {CLEAR_TEXT_MARKER}\r\n\r\n"
    )
}

fn send_content(mut stream: &TcpStream, name: &str, count: u64, observed: &Observed) -> std::io::Result<()> {
    stream.write_all(response_head(name, "200 OK", count).as_bytes())?;
    let mut content = Content::default();
    let mut buffer = vec![0; 1 << 16];
    let mut left = count;
    while left > 0 {
        let piece = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let Some(piece) = buffer.get_mut(..piece) else { break };
        content.fill(piece);
        stream.write_all(piece)?;
        observed.bytes_sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        left -= piece.len() as u64;
    }
    Ok(())
}

/// Takes a body and checks that it is the content; the answer is `intact N` or `corrupt N`, with the bytes taken.
fn receive_content(reader: &mut impl Read, count: u64, observed: &Observed) -> std::io::Result<String> {
    let mut content = Content::default();
    let mut buffer = vec![0; 1 << 16];
    let mut body = reader.take(count);
    let (mut taken, mut intact) = (0, true);
    loop {
        let length = body.read(&mut buffer)?;
        let piece = buffer.get(..length).unwrap_or_default();
        if piece.is_empty() {
            break;
        }
        intact &= content.check(piece);
        taken += length as u64;
        observed.bytes_received.fetch_add(length as u64, Ordering::Relaxed);
    }
    Ok(format!("{} {taken}", if intact { "intact" } else { "corrupt" }))
}
