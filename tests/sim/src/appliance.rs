//! An appliance: its disk, and the process that runs on it, if one does. The process is the real control core and real workers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use vipsec_control::api::Request;
use vipsec_control::config::Config;
use vipsec_control::core::{Core, Facts, Slices, Surroundings};
use vipsec_dataplane::api::{Command, Event, PortId, WorkerId};
use vipsec_dataplane::counters::Counters;
use vipsec_dataplane::deadline::Deadline;
use vipsec_dataplane::handoff::Handoff;
use vipsec_dataplane::worker::{Worker, WorkerConfig};
use vipsec_distribute::connection::Limits;
use vipsec_takeover::decider::Fitness;
use vipsec_takeover::floor::Floor;
use vipsec_takeover::message::Message;
use vipsec_takeover::registry::Reply;
use vipsec_wire::buffer::{BURST_MAX, Burst, PacketBuf, VecBuf, VecPool};
use vipsec_wire::ethernet::MacAddr;

use crate::clock::Clock;
use crate::far::SharedFlight;
use crate::link::{LinkEnd, LinkId, short_incarnation};
use crate::scene::{INSIDE, OUTSIDE};

/// Frames that a device's queue holds for a worker that doesn't come; later ones are lost.
const RING_FRAMES_MAX: usize = 256;
/// Looks in a row in which a worker stands still that is stuck: as long as an owner may be silent.
const STUCK_LOOKS: u32 = 5;
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
    Worker(usize, Event),
    LinkMessage {
        link: LinkId,
        connection: u64,
        bytes: Vec<u8>,
    },
    LinkClosed {
        link: LinkId,
        connection: u64,
    },
    FloorOnDisk {
        vip: u16,
        value: u32,
    },
    /// Planted: a message that the peer never sent.
    Forged {
        link: LinkId,
        message: Message,
    },
    Registry {
        group: usize,
        reply: Reply,
    },
    Order {
        token: u64,
        request: Request,
    },
    /// It is told to end.
    End,
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

/// A worker and what waits for it.
pub(crate) struct WorkerThread {
    pub(crate) worker: Worker<VecPool>,
    pub(crate) thread: Thread,
    pub(crate) commands: VecDeque<Command>,
    /// Its queue of each device.
    queues: [VecDeque<Vec<u8>>; 2],
    /// By worker: what that one has handed over.
    handoffs: Vec<VecDeque<Handoff<VecBuf>>>,
    /// The next turn transmits.
    has_worked: bool,
}

impl WorkerThread {
    /// Has it something to do at once?
    pub(crate) fn is_busy(&self) -> bool {
        self.has_worked
            || !self.commands.is_empty()
            || self.queues.iter().any(|queue| !queue.is_empty())
            || self.handoffs.iter().any(|ring| !ring.is_empty())
    }
}

/// A running appliance.
pub(crate) struct Process {
    pub(crate) id: ProcessId,
    pub(crate) incarnation: [u8; 16],
    pub(crate) core: Core,
    pub(crate) core_thread: Thread,
    pub(crate) inbox: VecDeque<Input>,
    pub(crate) workers: Vec<WorkerThread>,
    /// What crossed from one worker to another since somebody asked.
    pub(crate) handed_over: u64,
    /// How many groups there are.
    pub(crate) groups: usize,
    /// Those that aren't idle.
    pub(crate) links: BTreeMap<LinkId, LinkEnd>,
    /// The ways of our writes into the peers' regions.
    pub(crate) flights: BTreeMap<LinkId, SharedFlight>,
    /// Which epochs the appliance once used was known when the process began.
    pub(crate) floor_known: bool,
    /// Looks in a row in which a worker stood still.
    standing_still: u32,
    /// Planted: see [`Tampering::hasty_pins`].
    hasty_pins: bool,
    pub(crate) clock: Clock,
    pub(crate) rng: StdRng,
}

/// An appliance, running or not.
pub(crate) struct Appliance {
    pub(crate) config: Arc<Config>,
    pub(crate) config_digest: [u8; 32],
    pub(crate) process: Option<Process>,
    pub(crate) lives: u32,
    /// The floors on disk, by VIP.
    pub(crate) disk: Vec<Option<u32>>,
    slices: Slices,
    clock: Clock,
}

/// What is done differently in a new process.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tampering {
    /// Planted: the worker's deadline never passes.
    pub(crate) no_deadline: bool,
    /// Planted: workers believe that a connection's record is acknowledged as soon as they have told of it.
    pub(crate) hasty_pins: bool,
}

impl Appliance {
    pub(crate) fn new(
        config: Config,
        config_digest: [u8; 32],
        disk: Vec<Option<u32>>,
        slices: Slices,
        clock: Clock,
    ) -> Self {
        Self { config: Arc::new(config), config_digest, process: None, lives: 0, disk, slices, clock }
    }

    /// A new process begins.
    pub(crate) fn start(&mut self, appliance: usize, seed: u64, tampering: Tampering, now: Instant) -> ProcessId {
        self.lives += 1;
        let now = self.clock.at(now);
        let id = ProcessId { appliance, life: self.lives };
        let mut rng = StdRng::seed_from_u64(seed);
        let mut incarnation = [0; 16];
        rng.fill_bytes(&mut incarnation);
        let tables = self.config.tables(|_| MacAddr::default()).expect("services that don't contradict each other");
        let deadline = Deadline::never(now);
        deadline.expire();
        let workers_deadline = if tampering.no_deadline { Deadline::never(now) } else { deadline.clone() };
        let worker_config = WorkerConfig {
            hash_seed: rng.next_u64(),
            connections: Limits { connections_max: 2048, ..Limits::default() },
            pins: true,
            unpinned_packets_max: 64,
            sas_max: 64,
            neighbours_max: 16,
            parked_packets_max: 64,
            transmit_packets_max: 256,
            events_max: 256,
            handoffs_max: RING_FRAMES_MAX,
            ..WorkerConfig::default()
        };
        let count = self.config.appliance.workers;
        // A device may have fewer queues than there are workers: the rest leaves by the first worker's.
        let one_queue = rng.random_bool(0.3);
        let counters: Vec<_> = (0..count).map(|_| Arc::new(Counters::default())).collect();
        let workers = counters.iter().zip(0u8..).map(|(counters, number)| {
            let (tables, deadline) = (Arc::new(tables.clone()), workers_deadline.clone());
            let mut worker = Worker::new(&worker_config, tables, deadline, counters.clone(), VecPool::new(4096))
                .among(WorkerId(number), count);
            if one_queue {
                worker = worker.leaving_by(INSIDE, WorkerId::FIRST);
            }
            WorkerThread {
                worker,
                thread: Thread::default(),
                commands: VecDeque::new(),
                queues: Default::default(),
                handoffs: (0..count).map(|_| VecDeque::new()).collect(),
                has_worked: false,
            }
        });
        let workers = workers.collect();
        let floors: Vec<Floor> = self.disk.iter().copied().map(Floor::from_disk).collect();
        let floor_known = floors.iter().all(Floor::is_known);
        let groups = self.config.groups.len();
        let surroundings = Surroundings {
            counters,
            tables,
            deadline,
            floors,
            incarnation: short_incarnation(incarnation),
            health_seed: rng.next_u64(),
            rng: Box::new(StdRng::from_rng(&mut rng)),
            facts: Facts::default(),
            slices: self.slices,
        };
        let core = Core::new(self.config.clone(), surroundings, now);
        self.process = Some(Process {
            id,
            incarnation,
            core,
            core_thread: Thread::default(),
            inbox: VecDeque::new(),
            workers,
            handed_over: 0,
            groups,
            links: BTreeMap::new(),
            flights: BTreeMap::new(),
            floor_known,
            standing_still: 0,
            hasty_pins: tampering.hasty_pins,
            clock: self.clock,
            rng,
        });
        id
    }
}

impl Process {
    /// Are its threads scheduled at all?
    pub(crate) fn runs(&self) -> bool {
        self.core_thread.stopped == 0 && self.workers_run()
    }

    /// Its end of a link.
    pub(crate) fn link(&mut self, link: LinkId) -> &mut LinkEnd {
        self.links.entry(link).or_insert(LinkEnd::Idle)
    }

    /// The connection of a link, if there is one.
    pub(crate) fn connection(&self, link: LinkId) -> Option<u64> {
        self.links.get(&link).and_then(LinkEnd::connection)
    }

    /// Is a link up?
    pub(crate) fn is_linked(&self, link: LinkId) -> bool {
        self.links.get(&link).is_some_and(LinkEnd::is_up)
    }

    /// Are its workers scheduled?
    pub(crate) fn workers_run(&self) -> bool {
        self.workers.iter().all(|worker| worker.thread.stopped == 0)
    }

    /// A frame arrives at a port: at any of its queues.
    pub(crate) fn receive(&mut self, port: PortId, frame: Vec<u8>) -> usize {
        let number = self.rng.random_range(0..self.workers.len());
        let queue = &mut self.workers[number].queues[usize::from(port.0)];
        if queue.len() < RING_FRAMES_MAX {
            queue.push_back(frame);
        }
        number
    }

    /// Is this appliance fit to own anything? As the daemon judges at each look.
    pub(crate) fn fitness(&mut self, carriers_up: bool) -> Fitness {
        self.standing_still = if self.workers_run() { 0 } else { self.standing_still + 1 };
        match (self.standing_still, carriers_up) {
            (0..STUCK_LOOKS, true) => Fitness::Fit,
            (0..STUCK_LOOKS, false) => Fitness::LinkDown,
            _ => Fitness::WorkerStuck,
        }
    }

    /// One turn of a worker's loop: it takes commands, or a burst, or what others have handed over, or does what is due; the turn after
    /// that transmits what came of it, and passes events on. Returns what leaves by which port.
    pub(crate) fn worker_turn(&mut self, number: usize, now: Instant) -> Vec<(PortId, Vec<u8>)> {
        let thread = &mut self.workers[number];
        if thread.has_worked {
            thread.has_worked = false;
            return self.transmit(number, now);
        }
        thread.has_worked = true;
        let mut frames = Vec::new();
        let handed_over = thread.handoffs.iter().any(|ring| !ring.is_empty());
        if !thread.commands.is_empty() {
            let count = thread.commands.len().min(COMMANDS_PER_TURN);
            let commands: Vec<_> = thread.commands.drain(..count).collect();
            // As in the worker's loop: what was handed over before a command was given leaves before it.
            self.take_handoffs(number, now);
            frames = self.transmit(number, now);
            let worker = &mut self.workers[number].worker;
            for command in commands {
                worker.handle_command(now, command);
            }
            while worker.is_releasing() {
                worker.handle_released(now);
            }
        } else if handed_over && self.rng.random_bool(0.5) {
            self.take_handoffs(number, now);
        } else if let Some(port) =
            [OUTSIDE, INSIDE].into_iter().find(|port| !thread.queues[usize::from(port.0)].is_empty())
        {
            let queue = &mut thread.queues[usize::from(port.0)];
            let burst = queue.drain(..queue.len().min(BURST_MAX)).map(|frame| VecBuf::from_bytes(&frame));
            thread.worker.handle_burst(now, port, burst.collect());
        } else if handed_over {
            self.take_handoffs(number, now);
        } else if thread.worker.poll_timeout().is_some_and(|due| due <= now) {
            thread.worker.handle_timeout(now);
        } else {
            thread.has_worked = false;
        }
        self.hand_over(number);
        frames
    }

    /// The worker takes all that the others have handed over.
    fn take_handoffs(&mut self, number: usize, now: Instant) {
        let WorkerThread { worker, handoffs, .. } = &mut self.workers[number];
        for ring in handoffs {
            worker.handle_handoffs(now, ring.drain(..));
        }
        self.hand_over(number);
    }

    /// What the worker has for others gets into the rings.
    fn hand_over(&mut self, from: usize) {
        for to in 0..self.workers.len() {
            let Some(outgoing) = self.workers[from].worker.outgoing(WorkerId(to as u8)) else { continue };
            let outgoing: Vec<_> = outgoing.drain(..).collect();
            self.handed_over += outgoing.iter().filter(|handoff| handoff.is_packet()).count() as u64;
            self.workers[to].handoffs[from].extend(outgoing);
        }
    }

    fn transmit(&mut self, number: usize, now: Instant) -> Vec<(PortId, Vec<u8>)> {
        let worker = &mut self.workers[number].worker;
        let mut frames = Vec::new();
        for port in [OUTSIDE, INSIDE] {
            loop {
                let mut burst = Burst::new();
                worker.poll_transmit(now, port, &mut burst);
                if burst.is_empty() {
                    break;
                }
                frames.extend(burst.iter().map(|packet| (port, packet.data().to_vec())));
            }
        }
        while let Some(event) = worker.poll_event() {
            if let (Event::Pins(batch), true) = (&event, self.hasty_pins) {
                worker.handle_command(now, Command::PinsKnown(batch.clone()));
            }
            self.inbox.push_back(Input::Worker(number, event));
        }
        frames
    }
}
