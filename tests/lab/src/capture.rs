//! Frames at ports of the switch: counted, classified, stamped, written to a file, and sent.
//!
//! At the switch, not at the appliance: what a user-space data plane sends bypasses the taps of its own interface.

mod frame;
mod pcap;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::libc::PACKET_OUTGOING;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, sendto, setsockopt, socket, sockopt,
};
use serde::Serialize;

pub use frame::{Exchange, Kind};

use crate::clock::{self, Stamp};
use crate::error::{Context, LabError, Result};
use crate::netns::Namespace;
use crate::target::CLEAR_TEXT_MARKER;
use pcap::PcapFile;

/// Frames remembered at most; all are counted.
const FRAMES_MAX: usize = 2_000_000;
/// Bytes of a frame that go to the file.
const SNAP_BYTES: u32 = 256;
/// Bytes of a capture file.
const PCAP_BYTES_MAX: u64 = 256 << 20;
/// Bytes of frames that a recording keeps.
const RECORDING_BYTES_MAX: usize = 64 << 20;
/// Bytes that wait in a socket.
const SOCKET_BYTES: usize = 64 << 20;
/// Ports are read in turn, so frames are out of order by what piles up at one of them meanwhile.
const DISORDER_MAX: Duration = Duration::from_secs(2);
/// How often the capture looks whether it shall stop.
const STOP_INTERVAL: Duration = Duration::from_millis(50);

/// Which way a frame went at a port of the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Direction {
    /// The host at the port sent it.
    FromHost,
    /// The switch sent it to the host at the port.
    ToHost,
}

/// A frame as it is remembered.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Frame {
    /// When it passed.
    pub stamp: Stamp,
    /// At which of the capture's ports.
    pub port: usize,
    /// Which way.
    pub direction: Direction,
    /// The MAC address that sent it.
    pub source: [u8; 6],
    /// What it is.
    pub kind: Kind,
    /// Bytes, from the Ethernet header on.
    pub length: u32,
}

/// Counters of a capture.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Counts {
    /// ESP from the hosts at the ports, in frames.
    pub esp_from_hosts: u64,
    /// ESP to the hosts at the ports, in frames.
    pub esp_to_hosts: u64,
    /// ESP from the hosts at the ports, in bytes of frames.
    pub esp_bytes_from_hosts: u64,
    /// ESP to the hosts at the ports, in bytes of frames.
    pub esp_bytes_to_hosts: u64,
    /// IKE messages both ways.
    pub ike: u64,
    /// ARP and neighbour advertisements both ways.
    pub arp: u64,
    /// Owners' advertisements of the VIP, both ways.
    pub advertisements: u64,
    /// Frames that anyone can read.
    pub clear_text: u64,
    /// Frames in which the marker that is part of each HTTP message shows.
    pub marked: u64,
    /// Anything else.
    pub other: u64,
    /// Frames that the capture missed for want of room.
    pub missed: u64,
    /// Frames counted here but not remembered for want of room.
    pub not_remembered: u64,
}

#[derive(Debug, Default)]
struct Seen {
    counts: Counts,
    frames: Vec<Frame>,
    recording: Option<Recording>,
}

/// ESP packets to the hosts at the ports, whole.
#[derive(Debug, Default)]
struct Recording {
    frames: Vec<Vec<u8>>,
    bytes: usize,
}

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Captures at `ports` of the switch, and writes to `file`.
    pub fn start(switch: &Namespace, ports: &[String], file: &Path) -> Result<Self> {
        let sockets = switch.run(|| ports.iter().map(|port| PortSocket::open(port)).collect::<Result<Vec<_>>>())?;
        let pcap = PcapFile::create(file, SNAP_BYTES, PCAP_BYTES_MAX)?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (noting, told) = (seen.clone(), stop.clone());
        let thread = std::thread::spawn(move || capture(&sockets, pcap, &noting, &told));
        Ok(Self { seen, stop, thread: Some(thread) })
    }

    /// The counters now.
    pub fn counts(&self) -> Counts {
        lock(&self.seen).counts.clone()
    }

    /// The frames remembered since `since` that `fits`.
    pub fn frames(&self, since: Stamp, fits: impl Fn(&Frame) -> bool) -> Vec<Frame> {
        let seen = lock(&self.seen);
        let surely = Stamp::at(Duration::from_nanos(since.nanos()).saturating_sub(DISORDER_MAX));
        let first = seen.frames.partition_point(|frame| frame.stamp < surely);
        let frames = seen.frames.get(first..).unwrap_or_default().iter();
        frames.filter(|frame| frame.stamp >= since && fits(frame)).copied().collect()
    }

    /// The frames remembered so far that `fits`; no frame of them is remembered any longer.
    pub fn take_frames(&self, fits: impl Fn(&Frame) -> bool) -> Vec<Frame> {
        let mut frames = std::mem::take(&mut lock(&self.seen).frames);
        frames.retain(fits);
        frames
    }

    /// IKE messages of an exchange since `since`.
    pub fn ike(&self, since: Stamp, wanted: Exchange, direction: Direction, wanted_response: bool) -> Vec<Frame> {
        self.frames(since, |frame| {
            frame.direction == direction
                && matches!(frame.kind, Kind::Ike { exchange, response, .. }
                    if exchange == wanted && response == wanted_response)
        })
    }

    /// Forgets the frames remembered so far: there is room for some millions.
    pub fn forget(&self) {
        lock(&self.seen).frames.clear();
    }

    /// From now on keeps the ESP packets that are sent to the hosts at the ports.
    pub fn record(&self) {
        lock(&self.seen).recording = Some(Recording::default());
    }

    /// Ends the recording: its frames, the oldest first.
    pub fn recorded(&self) -> Vec<Vec<u8>> {
        lock(&self.seen).recording.take().unwrap_or_default().frames
    }

    /// Ends the capture and completes its file.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn capture(sockets: &[PortSocket], mut pcap: PcapFile, seen: &Mutex<Seen>, stop: &AtomicBool) {
    let mut buffer = vec![0; 1 << 16];
    let mut missed = vec![0; sockets.len()];
    while !stop.load(Ordering::Relaxed) {
        let mut waiting: Vec<_> =
            sockets.iter().map(|port| PollFd::new(port.socket.as_fd(), PollFlags::POLLIN)).collect();
        let _ = poll(&mut waiting, PollTimeout::try_from(STOP_INTERVAL).unwrap_or(PollTimeout::ZERO));
        for (port, (socket, missed)) in sockets.iter().zip(&mut missed).enumerate() {
            while let Ok(received) = clock::receive_stamped::<LinkAddr>(&socket.socket, &mut buffer) {
                let bytes = buffer.get(..received.length).unwrap_or(&buffer);
                let outgoing = received.address.is_some_and(|address| address.pkttype() == PACKET_OUTGOING);
                let direction = if outgoing { Direction::ToHost } else { Direction::FromHost };
                let (kind, source) = (frame::classify(bytes), frame::source(bytes).unwrap_or_default());
                let length = u32::try_from(received.length).unwrap_or(u32::MAX);
                *missed = received.overflow.map_or(*missed, u64::from);
                note(seen, Frame { stamp: received.stamp, port, direction, source, kind, length }, bytes);
                pcap.write(received.stamp, received.length, bytes.get(..SNAP_BYTES as usize).unwrap_or(bytes));
            }
        }
        lock(seen).counts.missed = missed.iter().sum();
    }
    pcap.flush();
}

fn note(seen: &Mutex<Seen>, frame: Frame, content: &[u8]) {
    let marked = contains_marker(content);
    let mut seen = lock(seen);
    if let (Kind::Esp { .. }, Direction::ToHost, Some(recording)) = (frame.kind, frame.direction, &mut seen.recording) {
        recording.add(content);
    }
    let counts = &mut seen.counts;
    let bytes = u64::from(frame.length);
    match (frame.kind, frame.direction) {
        (Kind::Esp { .. }, Direction::FromHost) => {
            counts.esp_from_hosts += 1;
            counts.esp_bytes_from_hosts += bytes;
        }
        (Kind::Esp { .. }, Direction::ToHost) => {
            counts.esp_to_hosts += 1;
            counts.esp_bytes_to_hosts += bytes;
        }
        (Kind::Ike { .. }, _) => counts.ike += 1,
        (Kind::Arp { .. } | Kind::Neighbour { .. }, _) => counts.arp += 1,
        (Kind::Advertisement { .. }, _) => counts.advertisements += 1,
        (Kind::ClearText, _) => counts.clear_text += 1,
        (Kind::NatKeepalive | Kind::Icmp | Kind::Other, _) => counts.other += 1,
    }
    counts.marked += u64::from(marked);
    if seen.frames.len() < FRAMES_MAX {
        seen.frames.push(frame);
    } else {
        seen.counts.not_remembered += 1;
    }
}

impl Recording {
    fn add(&mut self, frame: &[u8]) {
        if self.bytes + frame.len() <= RECORDING_BYTES_MAX {
            self.bytes += frame.len();
            self.frames.push(frame.to_vec());
        }
    }
}

/// Looks for the marker where an HTTP head would have it: within the first bytes.
fn contains_marker(frame: &[u8]) -> bool {
    const HEAD_BYTES: usize = 512;
    let marker = CLEAR_TEXT_MARKER.as_bytes();
    let head = frame.get(..HEAD_BYTES).unwrap_or(frame);
    head.windows(marker.len()).any(|window| window == marker)
}

/// A packet socket at a port of the switch.
#[derive(Debug)]
pub struct PortSocket {
    socket: OwnedFd,
    address: LinkAddr,
}

impl PortSocket {
    /// Opens `port`, of the calling thread's namespace.
    pub fn open(port: &str) -> Result<Self> {
        let what = || format!("opening a packet socket at {port}");
        let address = link_address(port)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).context(what)?;
        setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BYTES).context(what)?;
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true).context(what)?;
        setsockopt(&socket, sockopt::RxqOvfl, &1).context(what)?;
        bind(socket.as_raw_fd(), &address).context(what)?;
        Ok(Self { socket, address })
    }

    /// Opens `port`, of the calling thread's namespace, only to send.
    pub fn sender(port: &str) -> Result<Self> {
        let address = link_address(port)?;
        // Without a protocol it receives nothing.
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
            .context(|| format!("opening a packet socket at {port}"))?;
        Ok(Self { socket, address })
    }

    /// Sends a frame to the host at the port.
    pub fn inject(&self, frame: &[u8]) -> Result<()> {
        sendto(self.socket.as_raw_fd(), frame, &self.address, MsgFlags::empty())
            .context(|| "injecting a frame".to_owned())?;
        Ok(())
    }
}

/// The link-layer address of an interface, which holds its index: where a packet socket is bound to.
fn link_address(interface: &str) -> Result<LinkAddr> {
    let addresses = getifaddrs().context(|| "listing interfaces".to_owned())?;
    let mut links = addresses.filter(|entry| entry.interface_name == interface);
    links.find_map(|entry| entry.address.and_then(|address| address.as_link_addr().copied())).ok_or_else(|| {
        LabError::Answer { what: format!("looking for interface {interface}"), answer: "none".to_owned() }
    })
}
