//! One worker between its ports, and who is behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vipsec_dataplane::api::{Command, IkeDatagram, PortId, ReportKind};
use vipsec_dataplane::counters::Counters;
use vipsec_dataplane::deadline::Deadline;
use vipsec_dataplane::drops::Tally;
use vipsec_dataplane::worker::{Worker, WorkerConfig};
use vipsec_distribute::connection;
use vipsec_esp::engine::EngineKind;
use vipsec_esp::header::HEADER_LEN as ESP_HEADER_LEN;
use vipsec_wire::buffer::{BufferPool, Burst, PacketBuf, VecPool};
use vipsec_wire::ethernet::{self, EtherType};
use vipsec_wire::ip::{Header, Version, protocol};
use vipsec_wire::udp::{self, Datagram};
use vipsec_wire::{arp, ndp};

use super::far::{ChildKind, PEERS, Peer, spi_in};
use super::tables::{GATEWAY_MAC, NEIGHBOUR_MAC, VIP, VIP_MAC, VIP6, tables};

pub(super) const OUTSIDE: PortId = PortId(0);
pub(super) const INSIDE: PortId = PortId(1);
/// To the own host.
const LOCAL: PortId = PortId(2);

const BUFFERS: usize = 256;
/// Longer than anything waits: for fragments, grants, neighbours, the end of a move.
const SETTLED: Duration = Duration::from_secs(60);

pub(super) struct Scene {
    worker: Worker<VecPool>,
    counters: Arc<Counters>,
    deadline: Deadline,
    now: Instant,
    /// Where received frames come from.
    wire: VecPool,
    peers: BTreeMap<u8, Peer>,
    /// Every IV that left, by SPI.
    ivs: BTreeSet<(u32, [u8; 8])>,
    /// Frames that authenticated at a peer.
    authentic: u64,
    /// The last packet of a peer.
    last: Vec<u8>,
    epoch: u32,
    version: u64,
}

impl Scene {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let counters = Arc::new(Counters::default());
        let deadline = Deadline::never(now);
        let config = WorkerConfig {
            engine: EngineKind::AwsLc,
            connections: connection::Limits {
                connections_max: 16,
                affinities_max: 8,
                pin_events_max: 8,
                ..Default::default()
            },
            sas_max: 3,
            neighbours_max: 6,
            parked_packets_max: 8,
            held_packets_max: 8,
            transmit_packets_max: 64,
            events_max: 16,
            ..WorkerConfig::default()
        };
        let pool = VecPool::new(BUFFERS);
        let worker = Worker::new(&config, Arc::new(tables(0)), deadline.clone(), counters.clone(), pool)
            .with_large_pool(VecPool::with_room(BUFFERS, 9216));
        Self {
            worker,
            counters,
            deadline,
            now,
            wire: VecPool::new(usize::MAX),
            peers: BTreeMap::new(),
            ivs: BTreeSet::new(),
            authentic: 0,
            last: Vec::new(),
            epoch: 0,
            version: 1,
        }
    }

    /// A frame arrives.
    pub(super) fn receive(&mut self, port: PortId, frame: &[u8]) {
        let mut buffer = self.wire.alloc().expect("as many as it takes");
        buffer.append(frame.len()).expect("room");
        buffer.data_mut().copy_from_slice(frame);
        self.worker.handle_burst(self.now, port, [buffer].into_iter().collect());
    }

    /// An IP packet arrives in a frame for the VIP or for the inside gateway.
    pub(super) fn receive_ip(&mut self, port: PortId, packet: &[u8]) {
        let ethertype = Version::of(packet).map_or(EtherType::IPV4, Version::ethertype);
        let destination = if port == OUTSIDE { VIP_MAC } else { GATEWAY_MAC };
        let header = ethernet::Header { destination, source: NEIGHBOUR_MAC, ethertype };
        self.receive(port, &[&header.to_bytes()[..], packet].concat());
    }

    /// A peer sends a packet through its tunnel; see [`Peer::seal`].
    pub(super) fn seal(&mut self, peer: u8, packet: &[u8], next_header: Option<u8>) {
        let sealed = self.peers.get_mut(&(peer % PEERS)).and_then(|peer| peer.seal(packet, next_header));
        if let Some(sealed) = sealed {
            self.last = sealed;
            self.repeat();
        }
    }

    pub(super) fn repeat(&mut self) {
        let packet = self.last.clone();
        self.receive_ip(OUTSIDE, &packet);
    }

    pub(super) fn command(&mut self, command: Command) {
        self.worker.handle_command(self.now, command);
        while self.worker.is_releasing() {
            self.worker.handle_released(self.now);
        }
    }

    pub(super) fn install(&mut self, peer: u8, kind: ChildKind) {
        // What left under the old SA is taken first, by the peer that still has it.
        self.transmit(true);
        self.epoch += 1;
        let new = Peer::new(peer, kind, self.epoch);
        let new = match self.peers.get(&(peer % PEERS)) {
            Some(old) => new.following(old),
            None => new,
        };
        self.command(Command::InstallChild(Box::new(new.child.clone())));
        self.peers.insert(peer % PEERS, new);
    }

    pub(super) fn remove(&mut self, peer: u8) {
        self.command(Command::RemoveChild(spi_in(peer)));
    }

    pub(super) fn grant(&mut self, peer: u8, room: u8) {
        let up_to = if room == 255 { u64::MAX } else { u64::from(room) };
        self.command(Command::Grant { spi: spi_in(peer), horizon: up_to, lease: up_to });
    }

    pub(super) fn bind(&mut self, peer: u8) {
        self.command(Command::Bind(spi_in(peer)));
    }

    pub(super) fn use_tables(&mut self, kind: u8) {
        self.version += 1;
        self.command(Command::Tables { version: self.version, tables: Arc::new(tables(kind)) });
    }

    /// Commands that say little about the packets to come.
    pub(super) fn order(&mut self, peer: u8, what: u8) {
        let spi = spi_in(peer);
        let at = |port| SocketAddr::new([203, 0, 113, peer].into(), port);
        let local = |port| SocketAddr::new(if what & 0x80 != 0 { VIP6.into() } else { VIP.into() }, port);
        let ike = |port, len| IkeDatagram { local: local(port), remote: at(port), payload: vec![7; len] };
        self.command(match what % 9 {
            0 => Command::MovePeer { spi, remote: at(61000 + u16::from(what)) },
            1 => Command::SkipNumbers { spi, delta: u64::from(what) << 24 },
            2 => Command::SendIke(ike(500, usize::from(what))),
            3 => Command::SendIke(ike(4500, 40 * usize::from(what))),
            4 => Command::SendFrame { port: PortId(peer % 3), frame: vec![what; usize::from(what)] },
            5 => Command::Report { token: 1, what: ReportKind::Sas },
            6 => Command::Report { token: 2, what: ReportKind::Connections { max: 4 } },
            7 => Command::Report { token: 3, what: ReportKind::Neighbours },
            _ => Command::Report { token: 4, what: ReportKind::Targets },
        });
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.deadline.lift();
        let end = self.now + time;
        while let Some(timeout) = self.worker.poll_timeout().filter(|timeout| *timeout <= end) {
            self.now = self.now.max(timeout);
            self.worker.handle_timeout(self.now);
        }
        self.now = end;
    }

    /// From now on, until time passes again.
    pub(super) fn pass_the_deadline(&mut self) {
        self.deadline.expire();
    }

    pub(super) fn drain_events(&mut self) {
        while self.worker.poll_event().is_some() {}
    }

    /// Everything that waits leaves, and what that brings about as well.
    pub(super) fn transmit(&mut self, neighbours_answer: bool) {
        // Answers bring out what waited for them, and that is all: a few rounds are enough, whatever it is.
        for _ in 0..4 {
            for port in [OUTSIDE, INSIDE, LOCAL] {
                let mut burst = Burst::new();
                loop {
                    self.worker.poll_transmit(self.now, port, &mut burst);
                    if burst.is_empty() {
                        break;
                    }
                    for frame in burst.drain(..) {
                        self.leave(port, frame.data(), neighbours_answer);
                    }
                }
            }
        }
        let sealed = self.counters.esp_out.packets();
        assert!(self.authentic <= sealed, "{} packets authenticated of {sealed}", self.authentic);
    }

    fn leave(&mut self, port: PortId, frame: &[u8], neighbours_answer: bool) {
        // Frames that are passed on, or ordered, are whatever came.
        if self.counters.tally(Tally::PassedOn) > 0 {
            return;
        }
        let Ok((ethernet, payload)) = ethernet::Header::parse(frame) else { return };
        match ethernet.ethertype {
            EtherType::ARP => {
                let packet = arp::Packet::parse(payload).expect("sound ARP");
                if packet.operation == arp::Operation::Request && neighbours_answer {
                    self.receive(port, &packet.reply_from(NEIGHBOUR_MAC).to_frame(packet.sender_mac));
                }
            }
            EtherType::IPV4 | EtherType::IPV6 => self.leave_ip(port, &ethernet, payload, neighbours_answer),
            _ => {}
        }
    }

    fn leave_ip(&mut self, port: PortId, ethernet: &ethernet::Header, packet: &[u8], neighbours_answer: bool) {
        let header = Header::parse(packet).expect("a sound IP packet");
        assert_eq!(header.version().ethertype(), ethernet.ethertype);
        assert_eq!(header.total_len, packet.len(), "nothing before or behind it");
        if let Ok(ndp::Message::Solicitation(asked)) = ndp::Message::parse(&header, packet) {
            if neighbours_answer {
                let answer = asked.answer(NEIGHBOUR_MAC, false);
                self.receive(port, &answer.to_frame(NEIGHBOUR_MAC, ethernet.source));
            }
            return;
        }
        if header.is_fragment() {
            return;
        }
        let esp = match header.protocol {
            protocol::ESP => header.payload(packet),
            protocol::UDP => match Datagram::parse(header.payload(packet)) {
                Ok(datagram) if datagram.source_port() == 4500 => {
                    header.payload(packet).get(udp::HEADER_LEN..).unwrap_or_default()
                }
                _ => return,
            },
            _ => return,
        };
        let is_authentic = self
            .peers
            .values_mut()
            .any(|peer| vipsec_esp::header::spi_of(esp) == Some(peer.child.outbound.spi.get()) && peer.take(esp));
        if is_authentic {
            self.authentic += 1;
            let (spi, iv) = (vipsec_esp::header::spi_of(esp), esp.get(ESP_HEADER_LEN - 8..ESP_HEADER_LEN));
            let iv = iv.and_then(|iv| iv.try_into().ok());
            assert!(self.ivs.insert(spi.zip(iv).expect("it was opened")), "invariant I1");
        }
    }

    /// After the longest time that anything waits, nothing is kept.
    pub(super) fn settle(&mut self) {
        self.deadline.lift();
        self.use_tables(0);
        self.transmit(true);
        for _ in 0..3 {
            self.pass(SETTLED);
            self.transmit(false);
        }
        assert_eq!(self.wire.in_use(), 0, "received buffers that nobody gave back");
    }
}
