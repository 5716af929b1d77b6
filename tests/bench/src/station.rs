//! A worker in its loop, on a thread of its own, that works when it is told to.
//!
//! The loop is [`run`], as `vipsecd` runs it, on ports made of DPDK's rings. Between two windows the loop stands still: it waits
//! inside a port's `receive` for the next order. There, on the same core, the packets of the next window are made and put into the
//! rings that the worker receives from; what it transmits is taken out of others when the window is over.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use vipsec_dataplane::api::{Command, Event, PortId};
use vipsec_dataplane::counters::Counters;
use vipsec_dataplane::deadline::Deadline;
use vipsec_dataplane::mesh::Mesh;
use vipsec_dataplane::run::{self, Polling, Ties};
use vipsec_dataplane::worker::{Worker, WorkerConfig};
use vipsec_distribute::connection;
use vipsec_esp::engine::EngineKind;
use vipsec_hw::{Eal, Mbuf, Mempool};
use vipsec_wire::buffer::{Burst, PortIo};

use crate::aead::BareAead;
use crate::cpu;
use crate::error::BenchError;
use crate::packets::Packets;
use crate::ring::Ring;
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
        let port = |number, driver| -> Result<_, BenchError> {
            let port = Port {
                number,
                incoming: Ring::new(eal, pool)?,
                outgoing: Ring::new(eal, pool)?,
                fed: fed.clone(),
                spent: spent_outbox.clone(),
                window: window.clone(),
                driver,
            };
            Ok((number, port))
        };
        let mut ports = [port(OUTSIDE, Some(Box::new(driver)))?, port(INSIDE, None)?];
        let eal = eal.clone();
        let thread = thread::Builder::new().name("worker".to_owned()).spawn(move || {
            // Without a cache of buffers of its own, making packets would only take longer.
            let _registered = eal.register_thread();
            cpu::pin();
            // Held: an end of the channel that is gone would end the loop.
            let _commands = commands;
            let ties = Ties { commands: inbox, events: outbox, mesh: Mesh::none() };
            run::run(worker, &mut ports, ties, Instant::now, Polling::Busy, &stop);
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
    /// Is there something for the inside port?
    is_fed: AtomicBool,
    /// Do the ports let packets through?
    is_open: AtomicBool,
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

/// A port: two rings.
struct Port {
    number: PortId,
    incoming: Ring,
    outgoing: Ring,
    /// What the inside port receives next, from the driver.
    fed: Receiver<Vec<Mbuf>>,
    spent: Sender<Vec<Mbuf>>,
    window: Arc<Window>,
    /// At the port that the loop asks first.
    driver: Option<Box<Driver>>,
}

impl PortIo for Port {
    type Buf = Mbuf;

    #[inline]
    fn receive(&mut self, into: &mut Burst<Mbuf>) -> usize {
        let received = match self.window.is_open.load(Ordering::Relaxed) {
            true => self.incoming.receive(into),
            false => 0,
        };
        if received == 0 {
            self.idle();
        }
        received
    }

    #[inline]
    fn transmit(&mut self, packets: &mut Burst<Mbuf>) -> usize {
        let count = packets.len();
        let Some(left) = self.window.left.get(usize::from(self.number.0)) else { return 0 };
        let still = left.load(Ordering::Relaxed);
        if still == 0 {
            // Outside a window: replies to our greetings, and whatever else the worker has to say.
            packets.clear();
            return count;
        }
        let count = self.outgoing.transmit(packets);
        let still = still.saturating_sub(count);
        left.store(still, Ordering::Relaxed);
        if still == 0 {
            self.window.ended.store(self.window.now(), Ordering::Relaxed);
            let _ = self.spent.try_send(self.outgoing.take_out());
        }
        count
    }
}

impl Port {
    /// Nothing to receive: is it time for something new?
    #[cold]
    fn idle(&mut self) {
        let packets = match &mut self.driver {
            Some(driver) => driver.next(),
            None if self.window.is_fed.swap(false, Ordering::Relaxed) => self.fed.try_recv().unwrap_or_default(),
            None => return,
        };
        self.incoming.put_in(packets);
    }
}

/// Makes windows out of orders, at one of the ports.
struct Driver {
    orders: Receiver<Order>,
    outcomes: Sender<Result<Outcome, BenchError>>,
    window: Arc<Window>,
    /// To the inside port.
    feed: Sender<Vec<Mbuf>>,
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
    /// The window's packets are on their way into the rings, and the ports are shut.
    Filling { order: Order, left: [usize; 2] },
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
    /// What the outside port receives next. Asked when it has nothing.
    fn next(&mut self) -> Vec<Mbuf> {
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
            State::Greeting { order, batch, polls } if polls >= GREETING_ROUNDS => {
                self.window.is_open.store(false, Ordering::Relaxed);
                self.state = State::Filling { order, left: [batch.inside.len(), batch.outside.len()] };
                self.feed_inside(batch.inside);
                return batch.outside;
            }
            State::Greeting { order, batch, polls } => {
                self.state = State::Greeting { order, batch, polls: polls + 1 };
            }
            State::Filling { order, left } => {
                for (place, count) in self.window.left.iter().zip(left) {
                    place.store(count, Ordering::Relaxed);
                }
                self.state = State::Running { order, polls: 0 };
                self.window.is_open.store(true, Ordering::Relaxed);
                self.window.began.store(self.window.now(), Ordering::Relaxed);
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
        Vec::new()
    }

    /// Makes the packets of a window; the worker meets its neighbours.
    fn greet(&mut self, order: Order) -> Vec<Mbuf> {
        while self.events.try_recv().is_ok() {}
        self.window.is_open.store(true, Ordering::Relaxed);
        let made = self.make(order).and_then(|batch| {
            let outside = self.packets.make_of(&scene::greetings(OUTSIDE))?;
            self.feed_inside(self.packets.make_of(&scene::greetings(INSIDE))?);
            self.state = State::Greeting { order, batch, polls: 0 };
            Ok(outside)
        });
        made.unwrap_or_else(|error| {
            let _ = self.outcomes.send(Err(error));
            Vec::new()
        })
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
        if !packets.is_empty() && self.feed.try_send(packets).is_ok() {
            self.window.is_fed.store(true, Ordering::Relaxed);
        }
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
