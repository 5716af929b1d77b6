//! Numbered UDP datagrams at a fixed pace, each way by itself: what is lost, and how long nothing came.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::SockaddrStorage;
use serde::Serialize;

use crate::clock::{self, Stamp};
use crate::error::{Context, LabError, Result};
use crate::netns::Namespace;
use crate::target::udp::{Datagram, name_of, stamped_socket, wait_readable};
use crate::target::{ECHO_PORT, SOURCE_PORT, Session, Target};

/// Numbers of lost datagrams that a report lists; all are counted.
const LOST_KEPT_MAX: usize = 20;
/// How often a client tells the source that it is still there.
const ASK_INTERVAL: Duration = Duration::from_millis(500);
/// How long the last datagrams may still arrive after the probe was stopped.
const GRACE: Duration = Duration::from_millis(300);

/// A running probe.
#[derive(Debug)]
pub struct UdpProbe {
    session: u64,
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<Vec<Stamp>>>,
    receiver: Option<JoinHandle<BTreeMap<String, Arrivals>>>,
}

/// Numbers with the moments of their arrival, in the order of arrival.
pub type Arrivals = Vec<(u64, Stamp)>;

/// Everything that a probe saw, datagram by datagram.
#[derive(Debug, Clone, Default)]
pub struct ProbeRecord {
    /// When number n left the client.
    pub sent: Vec<Stamp>,
    /// What arrived at each target.
    pub up: BTreeMap<String, Arrivals>,
    /// What each target that was asked sent, number by number, and what of it arrived at the client.
    pub down: BTreeMap<String, (Vec<Stamp>, Arrivals)>,
}

/// What a probe found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ProbeReport {
    /// From the client to each target that got something (one, unless flows were moved).
    pub up: BTreeMap<String, FlowReport>,
    /// From each target that sent something to the client.
    pub down: BTreeMap<String, FlowReport>,
}

/// One way of a probe.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct FlowReport {
    /// Datagrams sent.
    pub sent: u64,
    /// Different datagrams received.
    pub received: u64,
    /// Sent and never received.
    pub lost: u64,
    /// The first few numbers of those.
    pub first_lost: Vec<u64>,
    /// Received once more.
    pub duplicated: u64,
    /// Received after one that was sent later.
    pub reordered: u64,
    /// Longest time between two arrivals, in milliseconds.
    pub largest_gap_ms: f64,
    /// When that gap began.
    pub largest_gap_at: Option<Stamp>,
}

impl FlowReport {
    /// Compares what was sent (the nth entry is number n) with what arrived.
    pub(crate) fn of(sent: u64, arrivals: &[(u64, Stamp)]) -> Self {
        let mut report = Self { sent, ..Self::default() };
        let mut seen = vec![false; usize::try_from(sent).unwrap_or(0)];
        let mut highest = None;
        for (number, _) in arrivals {
            let Some(seen) = usize::try_from(*number).ok().and_then(|number| seen.get_mut(number)) else { continue };
            if std::mem::replace(seen, true) {
                report.duplicated += 1;
                continue;
            }
            report.received += 1;
            report.reordered += u64::from(highest.is_some_and(|highest| *number < highest));
            highest = highest.max(Some(*number));
        }
        report.lost = sent - report.received;
        let lost = (0..).zip(&seen).filter(|(_, seen)| !**seen).map(|(number, _)| number);
        report.first_lost = lost.take(LOST_KEPT_MAX).collect();
        let gaps = arrivals.windows(2).filter_map(|pair| match pair {
            [(_, earlier), (_, later)] => Some((later.since(*earlier), *earlier)),
            _ => None,
        });
        if let Some((gap, at)) = gaps.max_by_key(|(gap, _)| *gap) {
            report.largest_gap_ms = gap.as_secs_f64() * 1e3;
            report.largest_gap_at = Some(at);
        }
        report
    }
}

impl ProbeRecord {
    /// What was lost, doubled, late.
    pub fn report(&self) -> ProbeReport {
        let sent = self.sent.len() as u64;
        let up = self.up.iter().map(|(target, arrivals)| (target.clone(), FlowReport::of(sent, arrivals)));
        let down = self.down.iter();
        let down = down.map(|(target, (sent, arrivals))| (target.clone(), FlowReport::of(sent.len() as u64, arrivals)));
        let mut report = ProbeReport { up: up.collect(), down: down.collect() };
        if report.up.is_empty() {
            // No target got anything: the report still tells what was sent.
            report.up.insert("no target".to_owned(), FlowReport::of(sent, &[]));
        }
        report
    }
}

impl UdpProbe {
    /// Starts sending every `interval` both ways between `namespace` and the VIP's UDP services.
    pub fn start(namespace: &Namespace, address: IpAddr, interval: Duration) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let session = NEXT.fetch_add(1, Ordering::Relaxed);
        let (up, down) = namespace.run(|| {
            let any: IpAddr =
                if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = |port| socket_to(any, address, port);
            Ok((socket(ECHO_PORT)?, socket(SOURCE_PORT)?))
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let (told_sender, told_receiver) = (stop.clone(), stop.clone());
        let sender = std::thread::spawn(move || send(&up, session, interval, &told_sender));
        let receiver = std::thread::spawn(move || receive(&down, session, interval, &told_receiver));
        Ok(Self { session, stop, sender: Some(sender), receiver: Some(receiver) })
    }

    /// Stops, lets the last datagrams arrive, and compares with what the targets sent and received.
    pub fn stop(self, targets: &[Target]) -> ProbeReport {
        self.finish(targets).report()
    }

    /// Stops, lets the last datagrams arrive, and tells everything.
    pub fn finish(mut self, targets: &[Target]) -> ProbeRecord {
        let (sent, mut arrived) = self.end();
        let mut record = ProbeRecord { sent, ..ProbeRecord::default() };
        for target in targets {
            let Session { received, sent } = target.session(self.session);
            if !received.is_empty() {
                record.up.insert(target.name().to_owned(), received);
            }
            if !sent.is_empty() {
                let arrivals = arrived.remove(target.name()).unwrap_or_default();
                record.down.insert(target.name().to_owned(), (sent, arrivals));
            }
        }
        record
    }

    fn end(&mut self) -> (Vec<Stamp>, BTreeMap<String, Arrivals>) {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let arrived = self.receiver.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        (sent, arrived)
    }
}

impl Drop for UdpProbe {
    fn drop(&mut self) {
        self.end();
    }
}

fn socket_to(source: IpAddr, address: IpAddr, port: u16) -> Result<UdpSocket> {
    let socket = stamped_socket(source, 0)?;
    socket.connect((address, port)).context(|| format!("connecting UDP to {address}:{port}"))?;
    Ok(socket)
}

fn send(socket: &UdpSocket, session: u64, interval: Duration, stop: &AtomicBool) -> Vec<Stamp> {
    let mut sent = Vec::new();
    let mut next = Instant::now();
    let mut echoed = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let datagram = Datagram { session, number: sent.len() as u64, interval, tag: [0; 8] };
        sent.push(Stamp::now());
        let _ = socket.send(&datagram.encode());
        // The echoes only show that the way back is there; the source measures it.
        while clock::receive_stamped::<SockaddrStorage>(socket, &mut echoed).is_ok() {}
        next += interval;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    std::thread::sleep(GRACE);
    sent
}

fn receive(socket: &UdpSocket, session: u64, interval: Duration, stop: &AtomicBool) -> BTreeMap<String, Arrivals> {
    let mut arrived: BTreeMap<String, Arrivals> = BTreeMap::new();
    let ask = |interval| socket.send(&Datagram { session, number: 0, interval, tag: [0; 8] }.encode());
    let mut next_ask = Instant::now();
    let mut end = None;
    let mut buffer = [0; 2048];
    while end.is_none_or(|end| Instant::now() < end) {
        if end.is_none() && stop.load(Ordering::Relaxed) {
            end = Some(Instant::now() + GRACE);
            let _ = ask(Duration::ZERO);
        }
        if end.is_none() && Instant::now() >= next_ask {
            let _ = ask(interval);
            next_ask = Instant::now() + ASK_INTERVAL;
        }
        wait_readable(socket, Duration::from_millis(20));
        while let Ok(received) = clock::receive_stamped::<SockaddrStorage>(socket, &mut buffer) {
            let datagram = buffer.get(..received.length).and_then(Datagram::decode);
            if let Some(datagram) = datagram.filter(|datagram| datagram.session == session) {
                arrived.entry(name_of(datagram.tag)).or_default().push((datagram.number, received.stamp));
            }
        }
    }
    arrived
}

/// After so long without an answer an echo is asked for again.
const ECHO_RETRY: Duration = Duration::from_millis(250);

/// Sends a datagram from an address of `namespace` to the echo service, until it comes back or the limit is over.
pub fn echo(namespace: &Namespace, source: IpAddr, address: IpAddr, limit: Duration) -> Result<Duration> {
    namespace.run(|| {
        let socket = socket_to(source, address, ECHO_PORT)?;
        let sent = Stamp::now();
        let bytes = Datagram { session: 0, number: 0, interval: Duration::ZERO, tag: *b"one echo" }.encode();
        let mut buffer = [0; 2048];
        // A datagram may be lost, and a busy strongSwan loses some by itself: what is asked here is whether the path works.
        while Stamp::now().since(sent) < limit {
            socket.send(&bytes).context(|| "sending a datagram".to_owned())?;
            wait_readable(&socket, ECHO_RETRY.min(limit));
            match clock::receive_stamped::<SockaddrStorage>(&socket, &mut buffer) {
                Ok(received) if buffer.get(..received.length) == Some(&bytes[..]) => {
                    return Ok(received.stamp.since(sent));
                }
                Ok(_) => {
                    return Err(LabError::Answer { what: "UDP echo".to_owned(), answer: "other bytes".to_owned() });
                }
                Err(_) => {}
            }
        }
        Err(LabError::Timeout { what: "a UDP echo".to_owned(), limit })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Stamp {
        Stamp::at(Duration::from_millis(milliseconds))
    }

    #[test]
    fn loss_duplicates_order_and_the_largest_gap_are_told_apart() {
        let arrivals = [(0, at(0)), (1, at(10)), (1, at(11)), (5, at(50)), (4, at(51)), (7, at(60))];
        let report = FlowReport::of(8, &arrivals);
        let expected = FlowReport {
            sent: 8,
            received: 5,
            lost: 3,
            first_lost: vec![2, 3, 6],
            duplicated: 1,
            reordered: 1,
            largest_gap_ms: 39.0,
            largest_gap_at: Some(at(11)),
        };
        assert_eq!(report, expected);
    }

    #[test]
    fn nothing_received_is_all_lost() {
        assert_eq!(
            FlowReport::of(3, &[]),
            FlowReport { sent: 3, lost: 3, first_lost: vec![0, 1, 2], ..FlowReport::default() }
        );
    }
}
