//! An appliance: its disk, and the process that runs on it, if one does. The process is the real control core and a real worker.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use vipsec_control::api::Request;
use vipsec_control::config::Config;
use vipsec_control::core::{Core, Facts, Surroundings};
use vipsec_dataplane::api::{Command, Event, PortId};
use vipsec_dataplane::counters::Counters;
use vipsec_dataplane::deadline::Deadline;
use vipsec_dataplane::worker::{Worker, WorkerConfig};
use vipsec_distribute::connection::Limits;
use vipsec_takeover::floor::Floor;
use vipsec_takeover::message::Message;
use vipsec_wire::buffer::{BURST_MAX, Burst, PacketBuf, VecBuf, VecPool};
use vipsec_wire::ethernet::MacAddr;

use crate::far::SharedFlight;
use crate::link::{LinkEnd, short_incarnation};
use crate::scene::{INSIDE, OUTSIDE};

/// Frames that a device holds for a worker that doesn't come; later ones are lost.
const RING_FRAMES_MAX: usize = 256;
/// Commands taken per turn, as in the worker's loop.
const COMMANDS_PER_TURN: usize = 32;

/// A process: the how-manieth of which appliance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProcessId {
    pub(crate) appliance: usize,
    pub(crate) life: u32,
}

/// What waits for the control core.
#[derive(Debug)]
pub(crate) enum Input {
    Worker(Event),
    LinkMessage {
        connection: u64,
        bytes: Vec<u8>,
    },
    LinkClosed {
        connection: u64,
    },
    FloorOnDisk {
        vip: u16,
        value: u32,
    },
    /// Planted: a message that the peer never sent.
    Forged(Message),
    Order {
        token: u64,
        request: Request,
    },
}

/// A thread of a process: when its next turn is, and how many faults keep it from running.
#[derive(Debug, Default)]
pub(crate) struct Thread {
    pub(crate) wake: Option<Instant>,
    pub(crate) stopped: u32,
}

impl Thread {
    /// Takes note of a turn at `when`; false if one is due before.
    pub(crate) fn is_due_earlier(&mut self, when: Instant) -> bool {
        let earlier = self.wake.is_none_or(|wake| when < wake);
        if earlier {
            self.wake = Some(when);
        }
        earlier
    }

    /// One more fault keeps it from running, or one less.
    pub(crate) fn stop(&mut self, stopped: bool) {
        self.stopped = if stopped { self.stopped + 1 } else { self.stopped.saturating_sub(1) };
    }
}

/// A running appliance.
pub(crate) struct Process {
    pub(crate) id: ProcessId,
    pub(crate) incarnation: [u8; 16],
    pub(crate) core: Core,
    pub(crate) core_thread: Thread,
    pub(crate) inbox: VecDeque<Input>,
    pub(crate) worker: Worker<VecPool>,
    pub(crate) worker_thread: Thread,
    pub(crate) commands: VecDeque<Command>,
    rings: [VecDeque<Vec<u8>>; 2],
    /// The next turn of the worker transmits.
    has_worked: bool,
    pub(crate) link: LinkEnd,
    /// The way of our writes into the peer's region.
    pub(crate) flight: Option<SharedFlight>,
    /// Which epochs the appliance once used was known when the process began.
    pub(crate) floor_known: bool,
    /// Looks in a row in which the worker stood still.
    standing_still: u32,
    /// How far the process's clock has fallen behind: only a planted fault sets it back.
    pub(crate) behind: Duration,
    pub(crate) rng: StdRng,
}

/// An appliance, running or not.
pub(crate) struct Appliance {
    pub(crate) config: Arc<Config>,
    pub(crate) config_digest: [u8; 32],
    pub(crate) process: Option<Process>,
    pub(crate) lives: u32,
    /// The floor on disk.
    pub(crate) disk: Option<u32>,
}

/// What is done differently in a new process.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tampering {
    /// Planted: the worker's deadline never passes.
    pub(crate) no_deadline: bool,
}

impl Appliance {
    pub(crate) fn new(config: Config, config_digest: [u8; 32], disk: Option<u32>) -> Self {
        Self { config: Arc::new(config), config_digest, process: None, lives: 0, disk }
    }

    /// A new process begins.
    pub(crate) fn start(&mut self, appliance: usize, seed: u64, tampering: Tampering, now: Instant) -> ProcessId {
        self.lives += 1;
        let id = ProcessId { appliance, life: self.lives };
        let mut rng = StdRng::seed_from_u64(seed);
        let mut incarnation = [0; 16];
        rng.fill_bytes(&mut incarnation);
        let tables = self.config.tables(|_| MacAddr::default()).expect("services that don't contradict each other");
        let counters = Arc::new(Counters::default());
        let deadline = Deadline::never(now);
        deadline.expire();
        let workers_deadline = if tampering.no_deadline { Deadline::never(now) } else { deadline.clone() };
        let worker_config = WorkerConfig {
            hash_seed: rng.next_u64(),
            connections: Limits { connections_max: 256, ..Limits::default() },
            sas_max: 64,
            neighbours_max: 16,
            parked_packets_max: 64,
            transmit_packets_max: 256,
            events_max: 256,
            ..WorkerConfig::default()
        };
        let pool = VecPool::new(4096);
        let worker = Worker::new(&worker_config, Arc::new(tables.clone()), workers_deadline, counters.clone(), pool);
        let floor = Floor::from_disk(self.disk);
        let surroundings = Surroundings {
            counters: vec![counters],
            tables,
            deadline,
            floors: vec![floor],
            incarnation: short_incarnation(incarnation),
            health_seed: rng.next_u64(),
            rng: Box::new(StdRng::from_rng(&mut rng)),
            facts: Facts::default(),
        };
        let core = Core::new(self.config.clone(), surroundings, now);
        self.process = Some(Process {
            id,
            incarnation,
            core,
            core_thread: Thread::default(),
            inbox: VecDeque::new(),
            worker,
            worker_thread: Thread::default(),
            commands: VecDeque::new(),
            rings: Default::default(),
            has_worked: false,
            link: LinkEnd::Idle,
            flight: None,
            floor_known: floor.is_known(),
            standing_still: 0,
            behind: Duration::ZERO,
            rng,
        });
        id
    }
}

impl Process {
    /// Are its threads scheduled at all?
    pub(crate) fn runs(&self) -> bool {
        self.core_thread.stopped == 0 && self.worker_thread.stopped == 0
    }

    /// A frame arrives at a port.
    pub(crate) fn receive(&mut self, port: PortId, frame: Vec<u8>) {
        let ring = &mut self.rings[usize::from(port.0)];
        if ring.len() < RING_FRAMES_MAX {
            ring.push_back(frame);
        }
    }

    /// Is this appliance fit to own anything? As the daemon judges at each look.
    pub(crate) fn is_healthy(&mut self, carriers_up: bool) -> bool {
        self.standing_still = if self.worker_thread.stopped == 0 { 0 } else { self.standing_still + 1 };
        carriers_up && self.standing_still < 2
    }

    /// One turn of the worker's loop: it takes commands, or a burst, or does what is due; the turn after that transmits what came
    /// of it, and passes events on. Returns what leaves by which port.
    pub(crate) fn worker_turn(&mut self, now: Instant) -> Vec<(PortId, Vec<u8>)> {
        if self.has_worked {
            self.has_worked = false;
            return self.transmit(now);
        }
        self.has_worked = true;
        if !self.commands.is_empty() {
            for command in self.commands.drain(..self.commands.len().min(COMMANDS_PER_TURN)) {
                self.worker.handle_command(now, command);
            }
        } else if let Some(port) =
            [OUTSIDE, INSIDE].into_iter().find(|port| !self.rings[usize::from(port.0)].is_empty())
        {
            let ring = &mut self.rings[usize::from(port.0)];
            let burst = ring.drain(..ring.len().min(BURST_MAX)).map(|frame| VecBuf::from_bytes(&frame));
            self.worker.handle_burst(now, port, burst.collect());
        } else if self.worker.poll_timeout().is_some_and(|due| due <= now) {
            self.worker.handle_timeout(now);
        } else {
            self.has_worked = false;
        }
        Vec::new()
    }

    fn transmit(&mut self, now: Instant) -> Vec<(PortId, Vec<u8>)> {
        let mut frames = Vec::new();
        for port in [OUTSIDE, INSIDE] {
            loop {
                let mut burst = Burst::new();
                self.worker.poll_transmit(now, port, &mut burst);
                if burst.is_empty() {
                    break;
                }
                frames.extend(burst.iter().map(|packet| (port, packet.data().to_vec())));
            }
        }
        while let Some(event) = self.worker.poll_event() {
            self.inbox.push_back(Input::Worker(event));
        }
        frames
    }

    /// Has the worker something to do at once?
    pub(crate) fn worker_is_busy(&self) -> bool {
        self.has_worked || !self.commands.is_empty() || self.rings.iter().any(|ring| !ring.is_empty())
    }
}
