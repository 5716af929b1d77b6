//! One worker: the pipeline with its tables and queues. No I/O and no clock: packets, commands and time come in as arguments.
//!
//! - [`Worker::handle_burst`]: packets that a port received.
//! - [`Worker::handle_command`]: what the control core wants.
//! - [`Worker::handle_completions`]: what a crypto device is done with, while [`Worker::in_crypto_device`] says that it has something.
//! - [`Worker::handle_handoffs`], [`Worker::outgoing`]: from and to the other workers.
//! - [`Worker::handle_released`]: before anything is received, while [`Worker::is_releasing`] says that frames were held that go now.
//! - [`Worker::handle_timeout`]: call when [`Worker::poll_timeout`] says.
//! - [`Worker::poll_transmit`], [`Worker::poll_event`]: what came of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use vipsec_distribute::connection::{self, ConnectionTable};
use vipsec_esp::engine::EngineKind;
use vipsec_wire::buffer::{BURST_MAX, BufferPool, Burst, PacketBuf};
use vipsec_wire::crypto::CryptoIo;
use vipsec_wire::ethernet::Header;

use crate::api::{Event, Policer, PortId, Tables, VipState, WorkerId};
use crate::counters::{Counters, PORTS_MAX};
use crate::deadline::Deadline;
use crate::drops::{DropReason, Tally};
use crate::events::EventQueue;
use crate::handoff::{Came, Handoff, Mates, What};
use crate::holding::Holding;
use crate::lookaside::Lookaside;
use crate::lookup::Lookup;
use crate::neighbour::NeighbourCache;
use crate::parking::Parking;
use crate::path::{Generation, Paths};
use crate::pins::Pins;
use crate::policer::TokenBucket;
use crate::reassembly::{self, Reassembler};
use crate::sad::{SaIndex, Sad};
use crate::transmit::{SentAs, TransmitQueue};

mod command;

/// What a worker is made for.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// The crypto engine.
    pub engine: EngineKind,
    /// Limits of the connection table.
    pub connections: connection::Limits,
    /// Keys the connection table's hash: a random number.
    pub hash_seed: u64,
    /// Most child SAs.
    pub sas_max: usize,
    /// Most neighbours.
    pub neighbours_max: usize,
    /// Most packets parked above the horizon.
    pub parked_packets_max: usize,
    /// Another appliance may take over: it is told of the connections that it couldn't compute, whose packets wait for that.
    pub pins: bool,
    /// Most packets that wait for their connection's record.
    pub unpinned_packets_max: usize,
    /// Most frames held while their VIP is being handed over.
    pub held_packets_max: usize,
    /// Limits of what fragments may take.
    pub reassembly: reassembly::Limits,
    /// Most packets waiting for each port.
    pub transmit_packets_max: usize,
    /// Most events waiting for the control core, those that must arrive apart.
    pub events_max: usize,
    /// Most packets on their way to each other worker.
    pub handoffs_max: usize,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            engine: EngineKind::auto(),
            connections: connection::Limits::default(),
            hash_seed: 0,
            sas_max: 16_384,
            neighbours_max: 1024,
            parked_packets_max: 1024,
            pins: false,
            unpinned_packets_max: 1024,
            held_packets_max: 1024,
            reassembly: reassembly::Limits::default(),
            transmit_packets_max: 1024,
            events_max: 1024,
            handoffs_max: 1024,
        }
    }
}

/// Advertisements passed on; each peer sends some hundred a second at most.
const ADVERTISEMENTS: Policer = Policer { rate: 2000, burst: 500 };
/// Events about unknown SPIs.
const UNKNOWN_SPIS: Policer = Policer { rate: 10, burst: 10 };
/// RFC 1812 §4.3.2.8: a router SHOULD be able to limit the rate at which it generates ICMP error messages.
const ICMP_ERRORS: Policer = Policer { rate: 100, burst: 50 };

/// How much longer each worker believes an answer of a neighbour than the one before it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Time between two steps of housekeeping.
const TICK: Duration = Duration::from_millis(10);
/// The same while others wait for the connection table to be checked, and the places then looked at: a million take half a second.
const PRESSED_TICK: Duration = Duration::from_millis(1);
const PRESSED_PLACES: usize = 2048;
/// Ticks in a second, in which each SA gets one beat.
const TICKS_PER_BEAT: usize = 100;

/// One worker.
pub struct Worker<P: BufferPool> {
    pub(crate) lookup: Lookup,
    pub(crate) deadline: Deadline,
    pub(crate) counters: Arc<Counters>,
    pub(crate) pool: P,
    /// Where datagrams are put together, if not in the pool's buffers.
    pub(crate) large_pool: Option<P>,
    pub(crate) sad: Sad,
    /// The crypto device, if there is one.
    pub(crate) lookaside: Option<Lookaside<P::Buf>>,
    pub(crate) parking: Parking<P::Buf>,
    pub(crate) holding: Holding<P::Buf>,
    pub(crate) connections: ConnectionTable,
    pub(crate) pins: Pins<P::Buf>,
    pub(crate) neighbours: NeighbourCache<P::Buf>,
    pub(crate) paths: Paths,
    pub(crate) reassembler: Reassembler<P::Buf>,
    /// Counts up with every change of the tables.
    tables_changes: u32,
    /// The version of the tables, while their being in force is not confirmed.
    tables_unconfirmed: Option<u64>,
    /// The version of the tables.
    pub(crate) tables_version: u64,
    /// The version that took the last VIP from us.
    pub(crate) vip_lost_in: u64,
    pub(crate) mates: Mates<P::Buf>,
    pub(crate) events: EventQueue,
    transmit: [TransmitQueue<P::Buf>; PORTS_MAX],
    /// SAs whose numbers moved in the burst at hand.
    touched: ArrayVec<SaIndex, BURST_MAX>,
    pub(crate) ike_policer: TokenBucket,
    pub(crate) calls_policer: TokenBucket,
    pub(crate) proven_calls_policer: TokenBucket,
    pub(crate) advertisement_policer: TokenBucket,
    pub(crate) unknown_spi_policer: TokenBucket,
    pub(crate) icmp_error_policer: TokenBucket,
    /// Identification of the last packet that we originated.
    identification: u32,
    next_tick: Option<Instant>,
    /// What the worker's nanoseconds count from: the first time that it was told.
    origin: Option<Instant>,
}

/// Bytes of all packets.
pub(crate) fn bytes_in<B: PacketBuf>(packets: &[B]) -> usize {
    packets.iter().map(|packet| packet.data().len()).sum()
}

/// What becomes of a packet that a stage took: it went on, or was dropped for a reason.
pub(crate) type Verdict = Result<(), DropReason>;

impl<P: BufferPool> Worker<P> {
    /// A worker without SAs and connections.
    pub fn new(
        config: &WorkerConfig,
        tables: Arc<Tables>,
        deadline: Deadline,
        counters: Arc<Counters>,
        pool: P,
    ) -> Self {
        let ports = tables.ports.len();
        let (services, now) = (tables.services.clone(), deadline.origin());
        let mut connections = ConnectionTable::new(&config.connections, config.hash_seed, now, services);
        if config.pins {
            connections.report_pins();
        }
        let queue = |port| TransmitQueue::new(if port < ports { config.transmit_packets_max } else { 0 });
        Self {
            ike_policer: TokenBucket::new(tables.ike_policer),
            calls_policer: TokenBucket::new(tables.ike_calls.unproven),
            proven_calls_policer: TokenBucket::new(tables.ike_calls.proven),
            connections,
            pins: Pins::new(config.unpinned_packets_max, config.pins),
            mates: Mates::none(config.handoffs_max, config.hash_seed, &tables.services),
            lookup: Lookup::new(tables),
            deadline,
            counters,
            pool,
            large_pool: None,
            sad: Sad::new(config.engine, config.sas_max, config.hash_seed),
            lookaside: None,
            parking: Parking::new(config.parked_packets_max, config.hash_seed),
            holding: Holding::new(config.held_packets_max),
            neighbours: NeighbourCache::new(config.neighbours_max),
            paths: Paths::new(),
            reassembler: Reassembler::new(&config.reassembly, config.hash_seed),
            tables_changes: 1,
            tables_unconfirmed: None,
            tables_version: 0,
            vip_lost_in: 0,
            events: EventQueue::new(config.events_max),
            transmit: std::array::from_fn(queue),
            touched: ArrayVec::new(),
            advertisement_policer: TokenBucket::new(ADVERTISEMENTS),
            unknown_spi_policer: TokenBucket::new(UNKNOWN_SPIS),
            icmp_error_policer: TokenBucket::new(ICMP_ERRORS),
            identification: 0,
            next_tick: None,
            origin: None,
        }
    }

    /// Puts datagrams together in this pool's buffers, so that they may be larger than a packet. Without it they may not.
    #[must_use]
    pub fn with_large_pool(mut self, pool: P) -> Self {
        self.large_pool = Some(pool);
        self
    }

    /// Has a crypto device for the SAs that ask for one.
    #[must_use]
    pub fn with_crypto_device(mut self, device: Box<dyn CryptoIo<Buf = P::Buf>>) -> Self {
        self.lookaside = Some(Lookaside::new(device));
        self
    }

    /// Is one of that many workers, which hand each other what belongs to another one. All have the same `hash_seed`.
    #[must_use]
    pub fn among(mut self, me: WorkerId, workers: usize) -> Self {
        self.mates.join(me, workers);
        self.limit_ike();
        self.neighbours.be_patient(PATIENCE * u32::from(me.0));
        self.identification = u32::from(me.0);
        self
    }

    /// Its part of what may come to the control core.
    pub(crate) fn limit_ike(&mut self) {
        let workers = self.mates.count();
        let [of_ike_sas, unproven, proven] = self.lookup.ike_policers().map(|all| all.shared_by(workers));
        self.ike_policer.set_limits(of_ike_sas);
        self.calls_policer.set_limits(unproven);
        self.proven_calls_policer.set_limits(proven);
    }

    /// Has no queue of a port: its frames leave by that worker's.
    #[must_use]
    pub fn leaving_by(mut self, port: PortId, worker: WorkerId) -> Self {
        self.mates.leave_by(port, worker);
        self
    }

    /// Takes the packets that a port received.
    pub fn handle_burst(&mut self, now: Instant, port: PortId, burst: Burst<P::Buf>) {
        if let Some(counters) = self.counters.port(port) {
            counters.received.add(burst.len(), bytes_in(&burst));
        }
        let may_act = !self.deadline.has_passed(now);
        self.receive(now, port, burst, may_act, Came::ByPort);
        self.end_round(now);
    }

    /// What every call ends with.
    pub(crate) fn end_round(&mut self, now: Instant) {
        if let Some(device) = &mut self.lookaside {
            device.hand_over();
        }
        self.send_requests();
        self.report_numbers();
        self.report_pins();
        self.schedule(now);
    }

    /// Packets in the crypto device: as long as there are any, [`handle_completions`](Self::handle_completions) has something to do.
    pub fn in_crypto_device(&self) -> usize {
        self.lookaside.as_ref().map_or(0, Lookaside::in_flight)
    }

    /// What another worker is to be handed, by [`handle_handoffs`](Self::handle_handoffs): empty it after every call of a `handle_*`.
    pub fn outgoing(&mut self, to: WorkerId) -> Option<&mut VecDeque<Handoff<P::Buf>>> {
        self.mates.outgoing(to)
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let waiting = [
            self.neighbours.poll_timeout(),
            self.parking.poll_timeout(),
            self.pins.waiting.poll_timeout(),
            self.holding.poll_timeout(),
            self.reassembler.poll_timeout(),
        ];
        waiting.into_iter().chain([self.next_tick]).flatten().min()
    }

    /// Does what time demands: asks neighbours again, forgets what is over.
    pub fn handle_timeout(&mut self, now: Instant) {
        let in_vain = self.neighbours.handle_timeout(now);
        self.counters.count_drops(DropReason::NeighbourUnresolved, in_vain);
        let expired = self.parking.expire(now);
        self.counters.count_drops(DropReason::ParkedTooLong, expired);
        self.expire_unpinned(now);
        let expired = self.holding.expire(now);
        self.counters.count_drops(DropReason::HeldTooLong, expired);
        self.expire_fragments(now);
        if self.next_tick.is_some_and(|tick| tick <= now) {
            let pressed = if self.connections.is_pressed() { PRESSED_PLACES } else { 0 };
            let places = self.connections.sweep_step(TICK).max(pressed);
            let expired = self.connections.sweep(now, places);
            self.counters.count_many(Tally::ConnectionsExpired, expired);
            self.beat(now);
            self.next_tick = None;
        }
        self.end_round(now);
    }

    /// A hundredth of the SAs gets its beat.
    fn beat(&mut self, now: Instant) {
        let nanos = self.nanos(now);
        let Self { sad, events, .. } = self;
        let places = sad.places().div_ceil(TICKS_PER_BEAT);
        sad.beat(nanos, places, |spi, due| {
            // An event that must arrive always finds room.
            let _ = events.push(Event::Lifetime { spi, due });
        });
    }

    /// Takes up to the burst's free capacity of what is to leave by a port. Past the deadline nothing does in a VIP's name (rule R5).
    pub fn poll_transmit(&mut self, now: Instant, port: PortId, burst: &mut Burst<P::Buf>) {
        let before = burst.len();
        self.take_leaving(now, port, burst);
        let taken = burst.get(before..).unwrap_or_default();
        self.count_transmitted(port, taken.len(), bytes_in(taken));
    }

    /// As [`poll_transmit`](Self::poll_transmit), not counted as transmitted yet.
    pub(crate) fn take_leaving(&mut self, now: Instant, port: PortId, burst: &mut Burst<P::Buf>) {
        let Some(queue) = self.transmit.get_mut(usize::from(port.0)) else { return };
        if queue.is_empty() {
            return;
        }
        if self.deadline.has_passed(now) {
            let dropped = queue.retain_of_owner(|_| false);
            self.counters.count_drops(DropReason::DeadlinePassed, dropped);
            if dropped > 0 {
                self.neighbours.handle_lost_requests(now);
            }
        }
        queue.take(burst);
    }

    /// Does anything wait to leave by a port?
    pub(crate) fn has_leaving(&self, port: PortId) -> bool {
        self.transmit.get(usize::from(port.0)).is_some_and(|queue| !queue.is_empty())
    }

    /// Takes back what the device had no room for: it leaves before anything newer.
    pub(crate) fn put_back(&mut self, port: PortId, burst: &mut Burst<P::Buf>) {
        let Some(queue) = self.transmit.get_mut(usize::from(port.0)) else { return };
        queue.put_back(burst);
    }

    pub(crate) fn count_transmitted(&self, port: PortId, packets: usize, bytes: usize) {
        if let Some(counters) = self.counters.port(port) {
            counters.transmitted.add(packets, bytes);
        }
    }

    /// The next thing to tell the control core.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop()
    }

    /// The worker's counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    #[inline]
    pub(crate) fn count(&self, verdict: Verdict) {
        if let Err(reason) = verdict {
            self.counters.count_drops(reason, 1);
        }
    }

    /// What a stage passed on; what it dropped is counted.
    #[inline]
    pub(crate) fn passed<T>(&self, result: Result<T, DropReason>) -> Option<T> {
        result.map_err(|reason| self.counters.count_drops(reason, 1)).ok()
    }

    /// Tables and neighbours as they are now.
    #[inline]
    pub(crate) fn generation(&self) -> Generation {
        Generation(self.tables_changes.wrapping_add(self.neighbours.changes()))
    }

    /// The worker's time in nanoseconds.
    #[inline]
    pub(crate) fn nanos(&mut self, now: Instant) -> u64 {
        let origin = *self.origin.get_or_insert(now);
        now.saturating_duration_since(origin).as_nanos() as u64
    }

    /// Queues a complete frame.
    #[inline]
    pub(crate) fn transmit(&mut self, port: PortId, frame: P::Buf) -> Verdict {
        self.transmit_as(SentAs::Owner, port, frame)
    }

    /// The same as that which it says.
    #[inline]
    pub(crate) fn transmit_as(&mut self, sent_as: SentAs, port: PortId, frame: P::Buf) -> Verdict {
        self.lookup.port(port).ok_or(DropReason::UnknownPort)?;
        if let Some(mate) = self.mates.leaves_by(port) {
            return self.hand_over(mate, What::Leaving { port, frame, sent_as });
        }
        let queue = self.transmit.get_mut(usize::from(port.0)).ok_or(DropReason::UnknownPort)?;
        queue.push(sent_as, frame).map_err(|_| DropReason::TransmitQueueFull)
    }

    /// An event that may be lost.
    pub(crate) fn tell(&mut self, event: Event) {
        if self.events.push(event).is_err() {
            self.counters.count(Tally::EventsLost);
        }
    }

    /// Drops every frame that waits to leave, but those of VIPs that are here by `next` too, and what is passed on: one of a VIP that
    /// isn't ours any more must not draw its traffic to us.
    pub(crate) fn drop_waiting(&mut self, next: &Lookup) {
        let stays =
            |frame: &P::Buf| Header::parse(frame.data()).is_ok_and(|(header, _)| next.may_send_as(header.source));
        let mut dropped = self.neighbours.forget_pending(stays) + self.mates.forget_judged();
        for queue in &mut self.transmit {
            dropped += queue.retain_of_owner(stays);
        }
        self.counters.count_drops(DropReason::VipNotOwned, dropped);
    }

    /// Drops the frames of a VIP that is handed over which wait for a neighbour's answer: when that comes, the new owner may act already, and
    /// they would draw its traffic to us (R5).
    pub(crate) fn drop_unresolved(&mut self, next: &Lookup) {
        let stopped =
            |frame: &P::Buf| Header::parse(frame.data()).is_ok_and(|(header, _)| next.has_stopped(header.source));
        let dropped = self.neighbours.forget_pending(|frame| !stopped(frame));
        self.counters.count_drops(DropReason::VipNotOwned, dropped);
    }

    /// IPv4 takes the low half of it. No two workers use the same number within a round.
    #[inline]
    pub(crate) fn next_identification(&mut self) -> u32 {
        let step = self.mates.count().next_power_of_two() as u32;
        self.identification = self.identification.wrapping_add(step);
        self.identification
    }

    /// An SA's numbers moved: it may want more before the burst is over.
    #[cold]
    pub(crate) fn touch(&mut self, index: SaIndex) {
        if !self.touched.contains(&index) && self.touched.try_push(index).is_err() {
            self.report_numbers();
            self.touched.push(index);
        }
    }

    /// One report per SA that wants one, however many of its packets were in the burst.
    pub(crate) fn report_numbers(&mut self) {
        for index in self.touched.drain(..) {
            if self.sad.wants_more(index)
                && let Some(numbers) = self.sad.report_numbers(index)
                && self.events.push(Event::Numbers(numbers)).is_err()
            {
                self.counters.count(Tally::EventsLost);
            }
        }
    }

    /// The tables are others now.
    pub(crate) fn tables_changed(&mut self, version: u64) {
        self.tables_changes = self.tables_changes.wrapping_add(1);
        self.tables_unconfirmed = Some(version);
    }

    /// Tells that the tables are in force. A VIP that is being handed over has stopped only when the crypto device has none of its
    /// packets any more, whose numbers are not known before, and none waits for its connection's record: it was admitted here, and
    /// nobody else will deliver it.
    pub(crate) fn confirm_tables(&mut self) {
        let Some(version) = self.tables_unconfirmed else { return };
        let (lookup, device) = (&self.lookup, &self.lookaside);
        let leaving = |vip| lookup.vip(vip).is_some_and(|table| table.state == VipState::HandingOver);
        let in_device = device.as_ref().is_some_and(|device| device.any(|pending| leaving(pending.vip)));
        if !in_device && !self.pins.waiting.any(|unpinned| leaving(unpinned.vip)) {
            self.tables_unconfirmed = None;
            self.tell(Event::TablesInForce(version));
        }
    }

    fn schedule(&mut self, now: Instant) {
        if !self.connections.is_empty() && self.connections.is_pressed() {
            let pressed = now + PRESSED_TICK;
            self.next_tick = Some(self.next_tick.map_or(pressed, |tick| tick.min(pressed)));
        } else if self.next_tick.is_none() && (!self.connections.is_empty() || self.sad.len() > 0) {
            self.next_tick = Some(now + TICK);
        }
    }
}
