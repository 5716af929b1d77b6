//! The generator: streams, tunnels and links joined, packets and times in, packets and counts out.
//!
//! Whoever drives it receives from the ports into [`Generator::handle_burst`], transmits what [`Generator::poll_transmit`] hands out
//! and tells [`Generator::handle_transmitted`] what the port took. [`Generator::begin`] begins a run (or a trial of a search) as
//! soon as [`Generator::is_ready`]; a run sends, then waits for stragglers, then [is over](Phase::Over).

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use arrayvec::ArrayVec;
use vipsec_dataplane::drops::DropReason;
use vipsec_wire::arp;
use vipsec_wire::buffer::{BURST_MAX, BufferPool, Burst, PacketBuf};
use vipsec_wire::ethernet::{self, EtherType, MacAddr};
use vipsec_wire::ip::{self, Version};
use vipsec_wire::ndp;

use crate::arrivals::{Arrivals, Expected};
use crate::header::{Header, Payload, Run};
use crate::link::{Link, LinkPlan};
use crate::packet::{examine, reflect};
use crate::stream::{Load, Next, PlanError, Source, Stream, StreamError, StreamPlan};
use crate::time::Stamp;
use crate::tunnel::{Opening, Tunnels};

/// Frames that wait on a port to be sent back, ARP answers and reflected ones, at most.
pub const ANSWERS_MAX: usize = 1024;

/// Frames of a capture that wait to be replayed at most.
pub const CAPTURE_MAX: usize = 256;

/// Runs of other senders that a port tells apart at most.
pub const RUNS_MAX: usize = 16;

/// What is to be known of a port.
#[derive(Debug, Clone)]
pub struct PortPlan {
    /// Its MAC address.
    pub mac: MacAddr,
    /// The largest IP packet that it sends, in bytes.
    pub mtu: usize,
    /// Who it is and where its packets go.
    pub link: LinkPlan,
    /// Which frames are taken.
    pub stations: Stations,
    /// What happens to what arrives, besides being counted.
    pub reaction: Reaction,
}

/// Which frames are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stations {
    /// All, as testpmd does.
    All,
    /// Those to our MAC address.
    Own,
}

/// What happens to a packet that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Nothing.
    Count,
    /// It goes back, as with testpmd's 5tswap.
    Reflect,
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No run has begun.
    Idle,
    /// Packets leave.
    Sending,
    /// Stragglers arrive.
    Draining,
    /// All that counts was counted.
    Over,
}

/// What a port counted in a run.
#[derive(Debug, Clone, Default)]
pub struct PortCounts {
    /// Frames received, and their bytes.
    pub received: (u64, u64),
    /// Frames sent, and their bytes.
    pub transmitted: (u64, u64),
    /// Frames to other stations.
    pub other_station: u64,
    /// Frames that carry nothing generated.
    pub foreign: u64,
    /// Generated packets whose checksum or fill is wrong.
    pub corrupted: u64,
    /// Packets of an earlier run of ours.
    pub stale: u64,
    /// Packets of a flow, or a run, that is one too many.
    pub unknown_flow: u64,
    /// ARP requests and neighbour solicitations answered.
    pub neighbours_answered: u64,
    /// Packets sent back.
    pub reflected: u64,
    /// Answers that found no room in the queue.
    pub answers_lost: u64,
    /// Packets that were due and found no free buffer.
    pub no_buffer: u64,
    /// Packets built that the port didn't take before the end.
    pub not_taken: u64,
    /// ESP packets that didn't open, by reason.
    pub esp_drops: Vec<(DropReason, u64)>,
}

impl PortCounts {
    fn count_esp_drop(&mut self, reason: DropReason) {
        match self.esp_drops.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => self.esp_drops.push((reason, 1)),
        }
    }
}

/// What a leaving frame is.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Generated { stream: usize },
    Answer,
}

#[derive(Debug)]
pub(crate) struct Port<B> {
    link: Link,
    stations: Stations,
    reaction: Reaction,
    answers: VecDeque<B>,
    leaving: Burst<B>,
    /// Of each frame in `leaving`: what it is, and its bytes.
    kinds: ArrayVec<(Kind, usize), BURST_MAX>,
    /// Of a capture, to leave by this port.
    capture: VecDeque<B>,
    pub(crate) counts: PortCounts,
    /// By stream.
    pub(crate) own: Vec<Option<Box<Arrivals>>>,
    pub(crate) others: Vec<(Run, Box<Arrivals>)>,
}

/// Makes and counts packets on one or more ports.
#[derive(Debug)]
pub struct Generator<P: BufferPool> {
    pool: P,
    pub(crate) ports: Vec<Port<P::Buf>>,
    pub(crate) streams: Vec<Stream>,
    tunnels: Tunnels,
    first_run: Run,
    pub(crate) run: Run,
    pub(crate) began: Stamp,
    pub(crate) load: Load,
    phase: Phase,
    drain_until: Stamp,
}

impl<P: BufferPool> Generator<P> {
    /// A generator that has not begun. `run` sets its packets apart from those of other senders; each further run counts on from it.
    pub fn new(
        pool: P,
        ports: &[PortPlan],
        streams: Vec<StreamPlan>,
        tunnels: Tunnels,
        run: Run,
        now: Stamp,
    ) -> Result<Self, PlanError> {
        let mtus: Vec<usize> = ports.iter().map(|port| port.mtu).collect();
        let mut base = 0u32;
        let mut planned = Vec::new();
        for plan in streams {
            let next_hops = ports.get(plan.tx_port).map_or(0, |port| port.link.next_hops.len());
            plan.check(&tunnels, &mtus, next_hops)?;
            let flows = plan.source.flows().len();
            planned.push(Stream::new(plan, base));
            base =
                u32::try_from(flows).ok().and_then(|flows| base.checked_add(flows)).ok_or(PlanError::Flows(flows))?;
        }
        let ports = ports.iter().map(|plan| Port {
            link: Link::new(plan.mac, &plan.link, now),
            stations: plan.stations,
            reaction: plan.reaction,
            answers: VecDeque::new(),
            leaving: Burst::new(),
            kinds: ArrayVec::new(),
            capture: VecDeque::new(),
            counts: PortCounts::default(),
            own: Vec::new(),
            others: Vec::new(),
        });
        Ok(Self {
            pool,
            ports: ports.collect(),
            streams: planned,
            tunnels,
            first_run: run,
            run,
            began: now,
            load: Load::default(),
            phase: Phase::Idle,
            drain_until: now,
        })
    }

    /// Does every port know where its packets go?
    pub fn is_ready(&self) -> bool {
        self.ports.iter().all(|port| port.link.is_ready())
    }

    /// Next hops that nobody answers for, by port.
    pub fn unresolved(&self) -> impl Iterator<Item = (usize, IpAddr)> + '_ {
        self.ports.iter().enumerate().flat_map(|(number, port)| port.link.unresolved().map(move |hop| (number, hop)))
    }

    /// Begins a run: everything is counted anew.
    pub fn begin(&mut self, now: Stamp, load: Load) {
        if self.phase != Phase::Idle {
            self.run = Run(self.run.0.wrapping_add(1));
        }
        (self.began, self.load, self.phase) = (now, load, Phase::Sending);
        for (number, port) in self.ports.iter_mut().enumerate() {
            port.counts = PortCounts::default();
            port.others.clear();
            let expected = self.streams.iter().map(|stream| {
                let is_expected = stream.plan.rx_port == Some(number);
                is_expected.then(|| Box::new(Arrivals::new(expected(stream), now, load.bucket)))
            });
            port.own = expected.collect();
        }
        for stream in &mut self.streams {
            stream.begin(now, &load);
        }
    }

    /// Ends sending before its time.
    pub fn stop(&mut self, now: Stamp) {
        if self.phase == Phase::Sending {
            self.phase = Phase::Draining;
            self.drain_until = now.after(self.load.drain);
        }
    }

    /// Where the run is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Call in each round.
    pub fn handle_timeout(&mut self, now: Stamp) {
        if self.phase == Phase::Sending {
            let time_is_over = self.load.duration.is_some_and(|duration| now >= self.began.after(duration));
            let all_left = !self.streams.is_empty()
                && self.streams.iter().all(Stream::is_finished)
                && self.ports.iter().all(|port| port.leaving.is_empty());
            if time_is_over || all_left {
                self.stop(now);
            }
        }
        if self.phase == Phase::Draining && now >= self.drain_until {
            self.phase = Phase::Over;
            for port in &mut self.ports {
                let generated = port.kinds.iter().filter(|(kind, _)| matches!(kind, Kind::Generated { .. }));
                port.counts.not_taken += generated.count() as u64;
                port.leaving.clear();
                port.kinds.clear();
            }
        }
    }

    /// When there is something to do again, if nothing arrives until then.
    pub fn poll_timeout(&self, now: Stamp) -> Option<Stamp> {
        match self.phase {
            Phase::Idle | Phase::Over => None,
            Phase::Draining => Some(self.drain_until),
            Phase::Sending => {
                let end = self.load.duration.map(|duration| self.began.after(duration));
                self.streams.iter().filter_map(|stream| stream.next_due(now)).chain(end).min()
            }
        }
    }

    /// What shall leave by a port now; transmit from its front and tell [`handle_transmitted`](Self::handle_transmitted) how much
    /// left. What the port doesn't take stays and comes first the next time.
    pub fn poll_transmit(&mut self, now: Stamp, port: usize) -> Option<&mut Burst<P::Buf>> {
        let Self { pool, ports, streams, tunnels, run, phase, .. } = self;
        let state = ports.get_mut(port)?;
        state.queue_answers(now, pool);
        if *phase == Phase::Sending {
            let own = streams.iter_mut().enumerate().filter(|(_, stream)| stream.plan.tx_port == port);
            for (number, stream) in own {
                match stream.plan.source {
                    Source::Flows { .. } => state.queue_generated(now, *run, number, stream, tunnels, pool),
                    Source::Capture { next_hop } => state.queue_capture(now, number, stream, next_hop),
                }
            }
        }
        Some(&mut state.leaving)
    }

    /// The port took that many frames from the front.
    pub fn handle_transmitted(&mut self, now: Stamp, port: usize, taken: usize) {
        let Some(state) = self.ports.get_mut(port) else { return };
        for (kind, bytes) in state.kinds.drain(..taken.min(state.kinds.len())) {
            state.counts.transmitted.0 += 1;
            state.counts.transmitted.1 += bytes as u64;
            if let Kind::Generated { stream } = kind
                && let Some(stream) = self.streams.get_mut(stream)
            {
                stream.handle_sent(now, bytes);
            }
        }
    }

    /// How many frames of a capture have room, to be replayed on a port.
    pub fn capture_room(&self, port: usize) -> usize {
        self.ports.get(port).map_or(0, |port| CAPTURE_MAX.saturating_sub(port.capture.len()))
    }

    /// The next frames of the capture that is replayed on a port; what has no room is lost.
    pub fn handle_capture(&mut self, port: usize, frames: &mut Burst<P::Buf>) {
        let room = self.capture_room(port);
        if let Some(port) = self.ports.get_mut(port) {
            port.capture.extend(frames.drain(..).take(room));
        }
    }

    /// That was all of the capture.
    pub fn handle_capture_end(&mut self, port: usize) {
        let is_empty = self.ports.get(port).is_none_or(|port| port.capture.is_empty());
        let streams = self.streams.iter_mut().filter(|stream| stream.plan.tx_port == port);
        for stream in streams.filter(|stream| matches!(stream.plan.source, Source::Capture { .. })) {
            stream.capture_ended = is_empty;
        }
    }

    /// Frames arrived.
    pub fn handle_burst(&mut self, now: Stamp, port: usize, frames: &mut Burst<P::Buf>) {
        for frame in frames.drain(..) {
            self.handle_frame(now, port, frame);
        }
    }

    fn handle_frame(&mut self, now: Stamp, port: usize, mut frame: P::Buf) {
        let Some(state) = self.ports.get_mut(port) else { return };
        let frame_len = frame.data().len();
        state.counts.received.0 += 1;
        state.counts.received.1 += frame_len as u64;
        let Ok((ethernet, payload)) = ethernet::Header::parse(frame.data()) else {
            state.counts.foreign += 1;
            return;
        };
        match ethernet.ethertype {
            EtherType::ARP => {
                if let Ok(packet) = arp::Packet::parse(payload) {
                    let answer = state.link.handle_arp(&packet);
                    state.answer_neighbour(answer, &mut self.pool);
                }
                return;
            }
            EtherType::IPV6 => {
                let header = ip::Header::parse(payload).ok();
                if let Some(message) = header.and_then(|header| ndp::Message::parse(&header, payload).ok()) {
                    let answer = state.link.handle_ndp(&message, ethernet.source);
                    return state.answer_neighbour(answer, &mut self.pool);
                }
            }
            EtherType::IPV4 => {}
            _ => {
                state.counts.foreign += 1;
                return;
            }
        }
        let is_ours = ethernet.destination == state.link.mac();
        if !is_ours && state.stations == Stations::Own {
            state.counts.other_station += 1;
            return;
        }
        if frame.trim_front(ethernet::HEADER_LEN).is_err() {
            return;
        }
        let opening = match self.tunnels.open(&mut frame) {
            Ok(opening) => opening,
            Err(reason) => return state.counts.count_esp_drop(reason),
        };
        let payload = examine(frame.data());
        // A frame for another station would be sent back by that one, too.
        if state.reaction == Reaction::Reflect && opening == Opening::Clear && is_ours {
            state.reflect(&ethernet, frame);
        }
        match payload {
            Payload::Foreign => state.counts.foreign += 1,
            Payload::Corrupted => state.counts.corrupted += 1,
            Payload::Generated(header) => self.handle_generated(now, port, &header, frame_len),
        }
    }

    fn handle_generated(&mut self, now: Stamp, port: usize, header: &Header, frame_len: usize) {
        let Some(state) = self.ports.get_mut(port) else { return };
        let age = self.run.0.wrapping_sub(header.run.0);
        let arrivals = if age == 0 {
            let number = self.streams.iter().rposition(|stream| header.flow >= stream.base);
            let stream = number.and_then(|number| Some((self.streams.get(number)?, state.own.get_mut(number)?)));
            stream.map(|(stream, own)| {
                own.get_or_insert_with(|| Box::new(Arrivals::new(expected(stream), self.began, self.load.bucket)))
            })
        } else if age <= self.run.0.wrapping_sub(self.first_run.0) {
            state.counts.stale += 1;
            return;
        } else {
            state.others_of(header.run, self.began, self.load.bucket)
        };
        let counted = arrivals.is_some_and(|arrivals| arrivals.handle(now, header, frame_len).is_ok());
        if !counted {
            state.counts.unknown_flow += 1;
        }
    }
}

/// What shall arrive of a stream.
fn expected(stream: &Stream) -> Expected {
    Expected::Flows { base: stream.base, count: u32::try_from(stream.plan.source.flows().len()).unwrap_or(u32::MAX) }
}

impl<B: PacketBuf> Port<B> {
    fn others_of(&mut self, run: Run, began: Stamp, bucket: Duration) -> Option<&mut Box<Arrivals>> {
        let index = match self.others.iter().position(|(known, _)| *known == run) {
            Some(index) => index,
            None if self.others.len() < RUNS_MAX => {
                self.others.push((run, Box::new(Arrivals::new(Expected::Anything, began, bucket))));
                self.others.len() - 1
            }
            None => return None,
        };
        self.others.get_mut(index).map(|(_, arrivals)| arrivals)
    }

    fn answer_neighbour<P: BufferPool<Buf = B>>(&mut self, answer: Option<ndp::Frame>, pool: &mut P) {
        let Some(answer) = answer else { return };
        match copied(&answer, pool) {
            Some(frame) => {
                self.counts.neighbours_answered += 1;
                self.answer(frame);
            }
            None => self.counts.no_buffer += 1,
        }
    }

    /// Sends an IP packet back to whoever its frame came from.
    fn reflect(&mut self, ethernet: &ethernet::Header, mut packet: B) {
        if !reflect(packet.data_mut()) || packet.prepend(ethernet::HEADER_LEN).is_err() {
            return;
        }
        let back = ethernet::Header { destination: ethernet.source, source: self.link.mac(), ..*ethernet };
        if back.emit(packet.data_mut()).is_ok() {
            self.counts.reflected += 1;
            self.answer(packet);
        }
    }

    fn answer(&mut self, frame: B) {
        if self.answers.len() < ANSWERS_MAX {
            self.answers.push_back(frame);
        } else {
            self.counts.answers_lost += 1;
        }
    }

    fn queue_answers<P: BufferPool<Buf = B>>(&mut self, now: Stamp, pool: &mut P) {
        while !self.leaving.is_full() {
            let frame = match self.answers.pop_front() {
                Some(frame) => frame,
                None => match self.link.poll_request(now).and_then(|request| copied(&request, pool)) {
                    Some(request) => request,
                    None => return,
                },
            };
            self.kinds.push((Kind::Answer, frame.data().len()));
            self.leaving.push(frame);
        }
    }

    fn queue_capture(&mut self, now: Stamp, number: usize, stream: &mut Stream, next_hop: Option<usize>) {
        for _ in 0..stream.due(now).min(self.leaving.remaining_capacity()) {
            let Some(mut frame) = self.capture.pop_front() else { return };
            if let Some(next_hop) = next_hop {
                let destination = self.link.mac_of(next_hop).unwrap_or_default();
                let Ok((header, _)) = ethernet::Header::parse(frame.data()) else { continue };
                let rewritten = ethernet::Header { destination, source: self.link.mac(), ..header };
                // It was parsed: there is room for it.
                let _ = rewritten.emit(frame.data_mut());
            }
            stream.handle_taken();
            self.kinds.push((Kind::Generated { stream: number }, frame.data().len()));
            self.leaving.push(frame);
        }
    }

    fn queue_generated<P: BufferPool<Buf = B>>(
        &mut self,
        now: Stamp,
        run: Run,
        number: usize,
        stream: &mut Stream,
        tunnels: &mut Tunnels,
        pool: &mut P,
    ) {
        for _ in 0..stream.due(now).min(self.leaving.remaining_capacity()) {
            let Some(next) = stream.next(now, run) else { return };
            let Some(buffer) = pool.alloc() else {
                self.counts.no_buffer += 1;
                return;
            };
            match build(buffer, &next, &self.link, tunnels) {
                Ok(frame) => {
                    stream.handle_built(&next);
                    self.kinds.push((Kind::Generated { stream: number }, frame.data().len()));
                    self.leaving.push(frame);
                }
                Err(error) => {
                    stream.error = Some(error);
                    return;
                }
            }
        }
    }
}

/// The whole frame of a packet.
fn build<B: PacketBuf>(mut frame: B, next: &Next, link: &Link, tunnels: &mut Tunnels) -> Result<B, StreamError> {
    let destination = link.mac_of(next.flow.next_hop).ok_or(StreamError::NoNextHop)?;
    frame.append(next.packet_len)?;
    next.flow.tuple.emit(&next.header, frame.data_mut())?;
    if let Some(tunnel) = next.flow.tunnel.and_then(|index| tunnels.get_mut(index)) {
        tunnel.seal(&mut frame)?;
    }
    let ethertype = Version::of(frame.data()).map_or(EtherType::IPV4, Version::ethertype);
    frame.prepend(ethernet::HEADER_LEN)?;
    let header = ethernet::Header { destination, source: link.mac(), ethertype };
    header.emit(frame.data_mut()).map_err(crate::packet::BuildError::from)?;
    Ok(frame)
}

/// A frame in a buffer.
fn copied<P: BufferPool>(bytes: &[u8], pool: &mut P) -> Option<P::Buf> {
    let mut frame = pool.alloc()?;
    frame.append(bytes.len()).ok()?;
    frame.data_mut().copy_from_slice(bytes);
    Some(frame)
}
