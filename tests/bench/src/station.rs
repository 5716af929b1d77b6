//! A worker in its loop, on a thread of its own, with ports in memory, that works when it is told to.
//!
//! The loop is [`run`], as `vipsecd` runs it. The ports hand it mbufs that were made beforehand, on the same core, and keep what it
//! transmits. Between two windows the loop stands still: it waits inside a port's `receive` for the next order, and the packets of
//! the next window are made there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use std::{mem, vec};

use crossbeam_channel::{Receiver, Sender, bounded};
use vipsec_dataplane::api::{Command, Event, PortId};
use vipsec_dataplane::counters::Counters;
use vipsec_dataplane::deadline::Deadline;
use vipsec_dataplane::run::{self, Polling};
use vipsec_dataplane::worker::{Worker, WorkerConfig};
use vipsec_distribute::connection;
use vipsec_esp::engine::EngineKind;
use vipsec_hw::{Eal, Mbuf, Mempool};
use vipsec_wire::buffer::{Burst, PortIo};

use crate::aead::BareAead;
use crate::cpu;
use crate::error::BenchError;
use crate::packets::Packets;
use crate::scene::{self, INSIDE, OUTSIDE, Protection};

/// Which way packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    /// From the remote side to targets.
    In,
    /// From targets to the remote side.
    Out,
    /// Half of them each.
    Both,
}

/// One window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    pub(crate) protection: Protection,
    pub(crate) direction: Direction,
    /// Of the inner packet, in bytes.
    pub(crate) size: usize,
    pub(crate) packets: usize,
}

/// What a window took, in nanoseconds per packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) worker_ns: f64,
    /// The cipher alone, over as many packets, under one key; for ESP in one direction.
    pub(crate) aead_ns: Option<f64>,
}

/// What a station is made for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) engine: EngineKind,
    pub(crate) sas: usize,
    pub(crate) connections: usize,
    /// Of a window.
    pub(crate) packets_max: usize,
}

/// A worker that waits for orders. Dropping it ends the worker.
pub(crate) struct Station {
    orders: Option<Sender<Order>>,
    outcomes: Receiver<Result<Outcome, BenchError>>,
    thread: Option<JoinHandle<()>>,
}

impl Station {
    pub(crate) fn start(eal: &Eal, pool: &Mempool, plan: Plan) -> Result<Self, BenchError> {
        let children = (0..plan.sas).map(scene::child).collect::<Result<Vec<_>, _>>()?;
        let packets = Packets::new(&plan, &children, pool.clone())?;
        let first = children.first().ok_or_else(|| BenchError::setup("no SA"))?;
        let aead = BareAead::new(plan.engine, first)?;

        let config = WorkerConfig {
            engine: plan.engine,
            connections: connection::Limits { connections_max: 2 * plan.connections, ..Default::default() },
            hash_seed: 0x7669_7073_6563,
            sas_max: plan.sas,
            ..WorkerConfig::default()
        };
        let counters = Arc::new(Counters::default());
        let (tables, deadline) = (Arc::new(scene::tables()?), Deadline::never(Instant::now()));
        let worker = Worker::new(&config, tables, deadline, counters.clone(), pool.clone());

        let (commands, inbox) = bounded(plan.sas);
        for child in children {
            commands.send(Command::InstallChild(Box::new(child))).map_err(|_| BenchError::WorkerGone)?;
        }
        let (outbox, events) = bounded(plan.sas + 1024);
        let (orders, order_inbox) = bounded(1);
        let (outcome_outbox, outcomes) = bounded(1);
        let (feed, fed) = bounded(1);
        let (spent_outbox, spent) = bounded(2);
        let window = Arc::new(Window::default());
        let stop = Arc::new(AtomicBool::new(false));
        let driver = Driver {
            orders: order_inbox,
            outcomes: outcome_outbox,
            window: window.clone(),
            feed,
            spent,
            events,
            counters,
            packets,
            aead,
            to_install: plan.sas,
            state: State::Installing,
            stop: stop.clone(),
        };
        let port = |number| Port {
            number,
            incoming: Vec::new().into_iter(),
            fed: fed.clone(),
            taken: Vec::with_capacity(plan.packets_max),
            spent: spent_outbox.clone(),
            window: window.clone(),
            driver: None,
        };
        let mut ports = [(OUTSIDE, Port { driver: Some(Box::new(driver)), ..port(OUTSIDE) }), (INSIDE, port(INSIDE))];
        let eal = eal.clone();
        let thread = thread::Builder::new().name("worker".to_owned()).spawn(move || {
            // Without a cache of buffers of its own, making packets would only take longer.
            let _registered = eal.register_thread();
            cpu::pin();
            // Held: an end of the channel that is gone would end the loop.
            let _commands = commands;
            run::run(worker, &mut ports, &inbox, &outbox, Instant::now, Polling::Busy, &stop);
        });
        let thread = thread.map_err(BenchError::setup)?;
        Ok(Self { orders: Some(orders), outcomes, thread: Some(thread) })
    }

    /// Measures a window.
    pub(crate) fn measure(&self, order: Order) -> Result<Outcome, BenchError> {
        let orders = self.orders.as_ref().ok_or(BenchError::WorkerGone)?;
        orders.send(order).map_err(|_| BenchError::WorkerGone)?;
        self.outcomes.recv().map_err(|_| BenchError::WorkerGone)?
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The window under way. Written by the worker's thread alone: atomics, because ports are made to move between threads.
#[derive(Debug, Default)]
struct Window {
    /// Packets that are still to leave, by port.
    left: [AtomicUsize; 2],
    /// ARP replies that have left.
    replies: AtomicUsize,
    /// Is there something for the inside port?
    is_fed: AtomicBool,
    /// When it began and ended, in nanoseconds since `origin`.
    began: AtomicU64,
    ended: AtomicU64,
    origin: Origin,
}

#[derive(Debug)]
struct Origin(Instant);

impl Default for Origin {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Window {
    fn now(&self) -> u64 {
        self.origin.0.elapsed().as_nanos() as u64
    }

    fn left(&self) -> usize {
        self.left.iter().map(|left| left.load(Ordering::Relaxed)).sum()
    }
}

/// A port in memory.
struct Port {
    number: PortId,
    incoming: vec::IntoIter<Mbuf>,
    fed: Receiver<vec::IntoIter<Mbuf>>,
    taken: Vec<Mbuf>,
    spent: Sender<Vec<Mbuf>>,
    window: Arc<Window>,
    /// At the port that the loop asks first.
    driver: Option<Box<Driver>>,
}

impl PortIo for Port {
    type Buf = Mbuf;

    #[inline]
    fn receive(&mut self, into: &mut Burst<Mbuf>) -> usize {
        if self.incoming.len() == 0 {
            if let Some(driver) = &mut self.driver {
                self.incoming = driver.next();
            } else if self.window.is_fed.load(Ordering::Relaxed) {
                self.window.is_fed.store(false, Ordering::Relaxed);
                self.incoming = self.fed.try_recv().unwrap_or_default();
            }
        }
        let before = into.len();
        into.extend(self.incoming.by_ref().take(into.remaining_capacity()));
        into.len() - before
    }

    #[inline]
    fn transmit(&mut self, packets: &mut Burst<Mbuf>) -> usize {
        let count = packets.len();
        let Some(left) = self.window.left.get(usize::from(self.number.0)) else { return 0 };
        let still = left.load(Ordering::Relaxed);
        if still == 0 {
            // Outside a window: replies to our greetings, and whatever else the worker has to say.
            self.window.replies.fetch_add(count, Ordering::Relaxed);
            packets.clear();
            return count;
        }
        self.taken.extend(packets.drain(..));
        let still = still.saturating_sub(count);
        left.store(still, Ordering::Relaxed);
        if still == 0 {
            self.window.ended.store(self.window.now(), Ordering::Relaxed);
            let room = Vec::with_capacity(self.taken.capacity());
            let _ = self.spent.try_send(mem::replace(&mut self.taken, room));
        }
        count
    }
}

/// Makes windows out of orders, at one of the ports.
struct Driver {
    orders: Receiver<Order>,
    outcomes: Sender<Result<Outcome, BenchError>>,
    window: Arc<Window>,
    /// To the inside port.
    feed: Sender<vec::IntoIter<Mbuf>>,
    /// What the ports have transmitted.
    spent: Receiver<Vec<Mbuf>>,
    events: Receiver<Event>,
    counters: Arc<Counters>,
    packets: Packets,
    aead: BareAead,
    to_install: usize,
    state: State,
    stop: Arc<AtomicBool>,
}

enum State {
    /// Until all SAs are there.
    Installing,
    /// Nothing under way.
    Waiting,
    /// The worker meets its neighbours again, and does what time demands: for the window that comes then.
    Greeting { order: Order, batch: Batch, polls: usize },
    /// The window is under way.
    Running { order: Order, polls: usize },
}

/// A window's packets, by the port that receives them.
struct Batch {
    outside: Vec<Mbuf>,
    inside: Vec<Mbuf>,
}

/// Rounds without a packet after which one counts as lost.
const POLLS_MAX: usize = 100_000;
/// Rounds between greeting and window.
const GREETING_ROUNDS: usize = 16;

impl Driver {
    /// What the outside port receives next.
    fn next(&mut self) -> vec::IntoIter<Mbuf> {
        match mem::replace(&mut self.state, State::Waiting) {
            State::Installing => {
                let installed = self.events.try_iter().filter(|event| matches!(event, Event::ChildInstalled(_)));
                self.to_install = self.to_install.saturating_sub(installed.count());
                if self.to_install > 0 {
                    self.state = State::Installing;
                }
            }
            State::Waiting => match self.orders.recv() {
                Ok(order) => return self.greet(order),
                Err(_) => self.stop.store(true, Ordering::Relaxed),
            },
            State::Greeting { order, batch, polls } if polls >= GREETING_ROUNDS => return self.begin(order, batch),
            State::Greeting { order, batch, polls } => {
                self.state = State::Greeting { order, batch, polls: polls + 1 };
            }
            State::Running { order, .. } if self.window.left() == 0 => {
                let outcome = self.end(order);
                let _ = self.outcomes.send(outcome);
            }
            State::Running { order, polls } if polls >= POLLS_MAX => {
                let error = self.lost(order);
                let _ = self.outcomes.send(Err(error));
            }
            State::Running { order, polls } => self.state = State::Running { order, polls: polls + 1 },
        }
        Vec::new().into_iter()
    }

    /// Makes the packets of a window; the worker meets its neighbours.
    fn greet(&mut self, order: Order) -> vec::IntoIter<Mbuf> {
        while self.events.try_recv().is_ok() {}
        let made = self.make(order).and_then(|batch| {
            let outside = self.packets.make_of(&scene::greetings(OUTSIDE))?;
            self.feed_inside(self.packets.make_of(&scene::greetings(INSIDE))?);
            self.state = State::Greeting { order, batch, polls: 0 };
            Ok(outside)
        });
        match made {
            Ok(outside) => outside.into_iter(),
            Err(error) => {
                let _ = self.outcomes.send(Err(error));
                Vec::new().into_iter()
            }
        }
    }

    fn make(&mut self, order: Order) -> Result<Batch, BenchError> {
        let (outside, inside) = match order.direction {
            Direction::In => (order.packets, 0),
            Direction::Out => (0, order.packets),
            Direction::Both => (order.packets / 2, order.packets / 2),
        };
        Ok(Batch {
            outside: self.packets.make_for_vip(order.protection, order.size, outside)?,
            inside: self.packets.make_for_remotes(order.protection, order.size, inside)?,
        })
    }

    fn feed_inside(&self, packets: Vec<Mbuf>) {
        if !packets.is_empty() && self.feed.try_send(packets.into_iter()).is_ok() {
            self.window.is_fed.store(true, Ordering::Relaxed);
        }
    }

    fn begin(&mut self, order: Order, batch: Batch) -> vec::IntoIter<Mbuf> {
        let [left_outside, left_inside] = &self.window.left;
        left_outside.store(batch.inside.len(), Ordering::Relaxed);
        left_inside.store(batch.outside.len(), Ordering::Relaxed);
        self.state = State::Running { order, polls: 0 };
        self.feed_inside(batch.inside);
        let outside = batch.outside.into_iter();
        self.window.began.store(self.window.now(), Ordering::Relaxed);
        outside
    }

    fn end(&mut self, order: Order) -> Result<Outcome, BenchError> {
        let ns = self.window.ended.load(Ordering::Relaxed) - self.window.began.load(Ordering::Relaxed);
        let mut spent: Vec<Mbuf> = self.spent.try_iter().flatten().collect();
        let aead_ns = match (order.protection, order.direction) {
            (Protection::Esp, Direction::In) => Some(self.aead.open_ns(&mut spent, order.size)?),
            (Protection::Esp, Direction::Out) => Some(self.aead.seal_ns(&mut spent, order.size)?),
            _ => None,
        };
        Ok(Outcome { worker_ns: ns as f64 / spent.len() as f64, aead_ns })
    }

    fn lost(&mut self, order: Order) -> BenchError {
        let missing = self.window.left();
        for left in &self.window.left {
            left.store(0, Ordering::Relaxed);
        }
        let drops = self.counters.drops().filter(|(_, count)| *count > 0);
        let drops = drops.map(|(reason, count)| format!(", {} {count}", reason.label())).collect();
        BenchError::Lost { missing, packets: order.packets, drops }
    }
}
