//! The worker's loop: receive, handle, hand over, transmit, again. The one place where a worker sleeps.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use crossbeam_channel::{Receiver, Sender, TrySendError};
use vipsec_wire::buffer::{BURST_MAX, BufferPool, Burst, PortIo};

use crate::api::{Command, Event, PortId};
use crate::drops::Tally;
use crate::mesh::Mesh;
use crate::worker::{Worker, bytes_in};

/// What a worker does when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polling {
    /// Ask again at once: for a core of its own.
    Busy,
    /// Sleep longer and longer, for a core that is shared. Packets wait for the end of a sleep; who sends a command unparks the thread.
    Adaptive {
        /// Empty rounds before the first sleep.
        spin_rounds: u32,
        /// The first sleep; each is twice as long as the last.
        sleep_min: Duration,
        /// The longest sleep: what latency an idle worker may add.
        sleep_max: Duration,
        /// One that is busy for so long leaves the core to others for a moment all the same: from a thread that never does, and goes
        /// before them, the kernel takes it for tens of milliseconds at a time (sched(7), real-time throttling).
        busy_max: Duration,
    },
}

/// The moment that a busy worker leaves to others.
const BREATH: Duration = Duration::from_micros(250);

impl Polling {
    /// Backs off from 20 to 500 µs, and leaves a sixteenth of the core to others.
    pub const ADAPTIVE: Self = Self::Adaptive {
        spin_rounds: 64,
        sleep_min: Duration::from_micros(20),
        sleep_max: Duration::from_micros(500),
        busy_max: Duration::from_millis(4),
    };
}

/// How long a worker has been idle.
#[derive(Debug)]
struct Idle {
    polling: Polling,
    rounds: u32,
    sleep: Duration,
    /// When it slept last.
    slept: Option<Instant>,
}

impl Idle {
    const fn new(polling: Polling) -> Self {
        Self { polling, rounds: 0, sleep: Duration::ZERO, slept: None }
    }

    /// Another round ended, that began at `now`. Returns how long to sleep.
    fn after_round(&mut self, now: Instant, was_busy: bool) -> Option<Duration> {
        let sleep = self.back_off(now, was_busy);
        if sleep.is_some() {
            self.slept = Some(now);
        }
        sleep
    }

    fn back_off(&mut self, now: Instant, was_busy: bool) -> Option<Duration> {
        let Polling::Adaptive { spin_rounds, sleep_min, sleep_max, busy_max } = self.polling else { return None };
        if was_busy {
            self.rounds = 0;
            self.sleep = Duration::ZERO;
            let slept = *self.slept.get_or_insert(now);
            return (now.saturating_duration_since(slept) >= busy_max).then_some(BREATH);
        }
        self.rounds = self.rounds.saturating_add(1);
        if self.rounds <= spin_rounds {
            return None;
        }
        self.sleep = (self.sleep * 2).max(sleep_min).min(sleep_max);
        Some(self.sleep)
    }
}

/// Commands taken per round, so that a flood of them doesn't starve the ports.
const COMMANDS_PER_ROUND: usize = 32;

/// Bursts taken from each port before tables are followed that take a VIP away, if so many are there.
const BURSTS_BEFORE_TABLES: usize = 32;

/// What ties a worker to the control core and to the other workers.
#[derive(Debug)]
pub struct Ties<B> {
    /// From the control core.
    pub commands: Receiver<Command>,
    /// To the control core.
    pub events: Sender<Event>,
    /// From and to the other workers.
    pub mesh: Mesh<B>,
}

/// Turns a worker until `stop` is set or the control core is gone. `ports` are those that it has a queue of.
pub fn run<P, Io>(
    mut worker: Worker<P>,
    ports: &mut [(PortId, Io)],
    ties: Ties<P::Buf>,
    mut clock: impl FnMut() -> Instant,
    polling: Polling,
    stop: &AtomicBool,
) where
    P: BufferPool,
    Io: PortIo<Buf = P::Buf>,
{
    let Ties { commands, events, mut mesh } = ties;
    let mut idle = Idle::new(polling);
    let mut owed: Option<Event> = None;
    let mut inbox = ArrayVec::<Command, COMMANDS_PER_ROUND>::new();
    while !stop.load(Ordering::Relaxed) {
        let mut was_busy = false;
        let now = clock();
        // While an event that must arrive is stuck, commands, which may cause more of them, wait.
        if owed.is_none() {
            inbox.extend(commands.try_iter().take(COMMANDS_PER_ROUND));
        }
        // What others handed over before a command was given is dealt with, and leaves, before the command is followed: once all
        // have followed it, nothing is under way between them that was judged before.
        if mesh.take(&mut worker, &mut clock) {
            was_busy = true;
            mesh.put(&mut worker);
            for (port, io) in &mut *ports {
                transmit_waiting(&mut worker, &mut clock, *port, io);
            }
        }
        // What arrived before a VIP goes is judged by the tables that have it: that it is at its new owner is heard on one queue, while
        // its last frames wait in all of them. What arrives once it has come has to meet the tables that say so.
        let loses_a_vip = inbox.iter().any(|command| worker.loses_a_vip_by(command));
        if loses_a_vip {
            was_busy |= receive(&mut worker, &mut mesh, ports, &mut clock, BURSTS_BEFORE_TABLES);
        }
        for command in inbox.drain(..) {
            worker.handle_command(now, command);
            was_busy = true;
        }
        if worker.is_releasing() {
            was_busy = true;
            if mesh.has_room() {
                worker.handle_released(clock());
            }
        } else {
            was_busy |= receive(&mut worker, &mut mesh, ports, &mut clock, 1);
        }
        // In the same round already: a device in software computes when it is asked.
        while worker.in_crypto_device() > 0 {
            was_busy = true;
            if worker.handle_completions(clock()) < BURST_MAX {
                break;
            }
        }
        if worker.poll_timeout().is_some_and(|timeout| timeout <= now) {
            worker.handle_timeout(now);
        }
        mesh.put(&mut worker);
        for (port, io) in &mut *ports {
            was_busy |= transmit_waiting(&mut worker, &mut clock, *port, io);
        }
        match pass_on(&mut worker, &mut owed, &events) {
            Ok(passed) => was_busy |= passed,
            Err(Gone) => return,
        }
        worker.counters().count(Tally::Loops);
        if let Some(sleep) = idle.after_round(now, was_busy) {
            // Whoever gives a command wakes it.
            std::thread::park_timeout(sleep);
        }
    }
}

/// Takes up to so many bursts from each port. Returns whether there was anything.
fn receive<P, Io>(
    worker: &mut Worker<P>,
    mesh: &mut Mesh<P::Buf>,
    ports: &mut [(PortId, Io)],
    clock: &mut impl FnMut() -> Instant,
    bursts_max: usize,
) -> bool
where
    P: BufferPool,
    Io: PortIo<Buf = P::Buf>,
{
    let mut received = Burst::new();
    let mut any = false;
    for (port, io) in ports {
        for _ in 0..bursts_max {
            if io.receive(&mut received) == 0 {
                break;
            }
            // Before each burst, and not for all at once: rule R5.
            worker.handle_burst(clock(), *port, std::mem::take(&mut received));
            mesh.put(worker);
            any = true;
        }
    }
    any
}

/// Sends what waits to leave by a port, if anything does. Returns whether anything left.
fn transmit_waiting<P, Io>(
    worker: &mut Worker<P>,
    clock: &mut impl FnMut() -> Instant,
    port: PortId,
    io: &mut Io,
) -> bool
where
    P: BufferPool,
    Io: PortIo<Buf = P::Buf>,
{
    worker.has_leaving(port) && transmit(worker, clock(), port, io)
}

/// Sends what the worker has for a port, as much as the device takes. Returns whether anything left.
fn transmit<P, Io>(worker: &mut Worker<P>, now: Instant, port: PortId, io: &mut Io) -> bool
where
    P: BufferPool,
    Io: PortIo<Buf = P::Buf>,
{
    let mut leaving = Burst::new();
    let mut sent = false;
    loop {
        worker.take_leaving(now, port, &mut leaving);
        if leaving.is_empty() {
            return sent;
        }
        let bytes = bytes_in(&leaving);
        let taken = io.transmit(&mut leaving);
        worker.count_transmitted(port, taken, bytes.saturating_sub(bytes_in(&leaving)));
        sent |= taken > 0;
        if !leaving.is_empty() {
            worker.put_back(port, &mut leaving);
            return sent;
        }
    }
}

/// The control core is gone.
struct Gone;

/// Passes events on. One that must arrive stays in `owed` when the channel is full; others are lost and counted.
fn pass_on<P: BufferPool>(
    worker: &mut Worker<P>,
    owed: &mut Option<Event>,
    events: &Sender<Event>,
) -> Result<bool, Gone> {
    let mut passed = false;
    while let Some(event) = owed.take().or_else(|| worker.poll_event()) {
        match events.try_send(event) {
            Ok(()) => passed = true,
            Err(TrySendError::Full(event)) if event.is_owed() => {
                *owed = Some(event);
                return Ok(passed);
            }
            Err(TrySendError::Full(_)) => worker.counters().count(Tally::EventsLost),
            Err(TrySendError::Disconnected(_)) => return Err(Gone),
        }
    }
    Ok(passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_worker_that_shares_its_core_leaves_some_of_it_to_others_however_busy_it_is() {
        let start = Instant::now();
        let mut idle = Idle::new(Polling::ADAPTIVE);
        let sleeps = |idle: &mut Idle| (0..20).filter(|ms| idle.after_round(start + *ms * MS, true).is_some()).count();
        assert_eq!(sleeps(&mut idle), 4);
        assert_eq!(sleeps(&mut Idle::new(Polling::Busy)), 0);
    }

    #[test]
    fn an_idle_worker_sleeps_longer_and_longer_and_a_packet_ends_that() {
        let now = Instant::now();
        let micros = Duration::from_micros;
        let (sleep_min, sleep_max) = (micros(20), micros(50));
        let mut idle = Idle::new(Polling::Adaptive { spin_rounds: 1, sleep_min, sleep_max, busy_max: MS });
        let sleeps: Vec<_> = [false, false, false, false, true, false, false]
            .map(|was_busy| idle.after_round(now, was_busy).unwrap_or_default())
            .into();
        assert_eq!(sleeps, [0, 20, 40, 50, 0, 0, 20].map(micros));
    }
}
