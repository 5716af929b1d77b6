//! The UDP services, and the datagrams that probes and services exchange.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockaddrStorage, setsockopt, sockopt};

use super::{ECHO_PORT, Observed, SESSIONS_MAX, SOURCE_PORT, STOP_INTERVAL};
use crate::clock::{self, Stamp};
use crate::error::{Context, Result};

/// A source stops when its client hasn't asked again for this long.
const SOURCE_PATIENCE: Duration = Duration::from_secs(30);
/// Fastest pace of a source.
const INTERVAL_MIN: Duration = Duration::from_micros(100);

/// A numbered datagram of a probe session.
///
/// ```text
/// | session (8) | number (8) | interval in µs (8) | target's tag (8) |
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Datagram {
    /// Which probe.
    pub(crate) session: u64,
    /// Which of its datagrams.
    pub(crate) number: u64,
    /// To a source: the pace that is asked for.
    pub(crate) interval: Duration,
    /// From a source: which target sends.
    pub(crate) tag: [u8; 8],
}

impl Datagram {
    /// Bytes of a datagram.
    pub(crate) const LENGTH: usize = 32;

    pub(crate) fn encode(&self) -> [u8; Self::LENGTH] {
        let interval = u64::try_from(self.interval.as_micros()).unwrap_or(u64::MAX);
        let words = [self.session.to_be_bytes(), self.number.to_be_bytes(), interval.to_be_bytes(), self.tag];
        let mut bytes = [0; Self::LENGTH];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word);
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |nth: usize| -> Option<[u8; 8]> { bytes.chunks_exact(8).nth(nth)?.try_into().ok() };
        Some(Self {
            session: u64::from_be_bytes(word(0)?),
            number: u64::from_be_bytes(word(1)?),
            interval: Duration::from_micros(u64::from_be_bytes(word(2)?)),
            tag: word(3)?,
        })
    }
}

/// A target's name as it stands in a datagram.
fn tag_of(name: &str) -> [u8; 8] {
    let mut tag = [0; 8];
    for (place, byte) in tag.iter_mut().zip(name.bytes()) {
        *place = byte;
    }
    tag
}

/// A target's name from a datagram.
pub(crate) fn name_of(tag: [u8; 8]) -> String {
    String::from_utf8_lossy(&tag).trim_end_matches('\0').to_owned()
}

/// A UDP socket whose datagrams carry the kernel's time stamps.
pub(crate) fn stamped_socket(address: IpAddr, port: u16) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((address, port)).context(|| format!("binding UDP {address}:{port}"))?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true).context(|| "asking for time stamps".to_owned())?;
    setsockopt(&socket, sockopt::RcvBufForce, &(1 << 22)).context(|| "enlarging a socket's buffer".to_owned())?;
    Ok(socket)
}

/// Where a datagram came from.
fn socket_address(address: SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|address| SocketAddr::from((address.ip(), address.port())));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddr::from((address.ip(), address.port()))))
}

/// Waits for something to receive, at most for `limit`.
pub(crate) fn wait_readable(socket: &UdpSocket, limit: Duration) {
    let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    let _ = poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], timeout);
}

/// Sends back what comes (from the VIP, as it came for the VIP: hence the bound address), and notes which probe datagrams came when.
pub(super) fn echo(vip: IpAddr, observed: Arc<Observed>, stop: Arc<AtomicBool>) -> Result<JoinHandle<()>> {
    let socket = stamped_socket(vip, ECHO_PORT)?;
    Ok(std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while !stop.load(Ordering::Relaxed) {
            wait_readable(&socket, STOP_INTERVAL);
            while let Ok(received) = clock::receive_stamped::<SockaddrStorage>(&socket, &mut buffer) {
                let bytes = buffer.get(..received.length).unwrap_or_default();
                if let Some(datagram) = Datagram::decode(bytes) {
                    observed.note(datagram.session, |session| session.received.push((datagram.number, received.stamp)));
                }
                if let Some(address) = received.address.and_then(socket_address) {
                    let _ = socket.send_to(bytes, address);
                }
            }
        }
    }))
}

/// One client of the source.
struct Stream {
    client: SocketAddr,
    interval: Duration,
    number: u64,
    next: Instant,
    asked: Instant,
}

/// Sends numbered datagrams, at the pace that they ask for, to clients that keep asking.
pub(super) fn source(
    vip: IpAddr,
    name: &str,
    observed: Arc<Observed>,
    stop: Arc<AtomicBool>,
) -> Result<JoinHandle<()>> {
    let socket = stamped_socket(vip, SOURCE_PORT)?;
    let tag = tag_of(name);
    Ok(std::thread::spawn(move || {
        let mut streams: HashMap<u64, Stream> = HashMap::new();
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            let next = streams.values().map(|stream| stream.next).min().unwrap_or(now + STOP_INTERVAL);
            let pause = next.saturating_duration_since(now).min(STOP_INTERVAL);
            // poll() counts in milliseconds: a shorter rest is slept.
            if pause < Duration::from_millis(1) {
                std::thread::sleep(pause)
            } else {
                wait_readable(&socket, pause)
            }
            take_requests(&socket, &mut streams);
            let now = Instant::now();
            streams.retain(|_, stream| now.saturating_duration_since(stream.asked) < SOURCE_PATIENCE);
            for (session, stream) in &mut streams {
                while stream.next <= now {
                    let datagram =
                        Datagram { session: *session, number: stream.number, interval: stream.interval, tag };
                    observed.note(*session, |session| session.sent.push(Stamp::now()));
                    let _ = socket.send_to(&datagram.encode(), stream.client);
                    stream.number += 1;
                    stream.next += stream.interval;
                }
            }
        }
    }))
}

/// A request begins a stream, or tells that its client is still there. A zero interval ends it.
fn take_requests(socket: &UdpSocket, streams: &mut HashMap<u64, Stream>) {
    let mut buffer = [0; 2048];
    while let Ok(received) = clock::receive_stamped::<SockaddrStorage>(socket, &mut buffer) {
        let datagram = buffer.get(..received.length).and_then(Datagram::decode);
        let client = received.address.and_then(socket_address);
        let (Some(Datagram { session, interval, .. }), Some(client)) = (datagram, client) else { continue };
        if interval.is_zero() {
            streams.remove(&session);
            continue;
        }
        if streams.len() >= SESSIONS_MAX && !streams.contains_key(&session) {
            continue;
        }
        let now = Instant::now();
        let interval = interval.max(INTERVAL_MIN);
        let fresh = Stream { client, interval, number: 0, next: now, asked: now };
        streams.entry(session).or_insert(fresh).asked = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_read_as_it_was_written() {
        let datagram = Datagram { session: 7, number: u64::MAX, interval: Duration::from_millis(5), tag: tag_of("t1") };
        assert_eq!(Datagram::decode(&datagram.encode()), Some(datagram));
        assert_eq!(name_of(datagram.tag), "t1");
        assert_eq!(Datagram::decode(&datagram.encode()[..31]), None);
    }
}
