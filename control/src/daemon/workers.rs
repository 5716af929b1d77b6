//! Worker threads and their channels.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use vipsec_dataplane::api::{Command, Event, Tables, WorkerId};
use vipsec_dataplane::counters::Counters;
use vipsec_dataplane::deadline::Deadline;
use vipsec_dataplane::drops::Tally;
use vipsec_dataplane::mesh::Mesh;
use vipsec_dataplane::run::{self, Polling, Ties};
use vipsec_dataplane::worker::{Worker, WorkerConfig};
use vipsec_hw::{Mbuf, Port, QueuePair};
use vipsec_wire::buffer::{Burst, PortIo};

use super::hardening;
use super::ports::{Hardware, Share};

/// Commands and events that may wait in a channel.
const CHANNEL_LEN: usize = 4096;

/// All workers, as the control core's thread sees them.
pub(super) struct Workers {
    threads: Vec<WorkerThread>,
    stop: Arc<AtomicBool>,
    captures: Arc<Captures>,
}

/// Ports that read captures. Nothing is read before the VIPs are served: a capture doesn't send again what came too early.
#[derive(Default)]
struct Captures {
    open: AtomicBool,
    /// Queues at their end.
    ended: AtomicUsize,
}

struct WorkerThread {
    commands: Sender<Command>,
    events: Receiver<Event>,
    /// Commands that the channel had no room for: nothing that the core decided is lost.
    backlog: VecDeque<Command>,
    counters: Arc<Counters>,
    loops_seen: u64,
    handle: Option<JoinHandle<()>>,
}

/// A queue pair that may read a capture, with a beginning and an end.
struct WatchedQueue {
    queue: QueuePair,
    is_capture: bool,
    told: bool,
    captures: Arc<Captures>,
}

impl PortIo for WatchedQueue {
    type Buf = Mbuf;

    fn receive(&mut self, into: &mut Burst<Mbuf>) -> usize {
        if self.is_capture && !self.captures.open.load(Ordering::Relaxed) {
            return 0;
        }
        let received = self.queue.receive(into);
        if received == 0 && !self.told && self.queue.input_ended() {
            self.told = true;
            self.captures.ended.fetch_add(1, Ordering::Relaxed);
        }
        received
    }

    fn transmit(&mut self, packets: &mut Burst<Mbuf>) -> usize {
        self.queue.transmit(packets)
    }
}

impl Workers {
    /// Starts one worker per share of the devices.
    pub(super) fn start(
        hardware: &Hardware,
        shares: Vec<Share>,
        config: &WorkerConfig,
        tables: &Arc<Tables>,
        deadline: &Deadline,
        polling: Polling,
    ) -> io::Result<Self> {
        let Hardware { eal, pool, large_pool, ports, .. } = hardware;
        let stop = Arc::new(AtomicBool::new(false));
        let captures = Arc::new(Captures::default());
        let mut threads = Vec::new();
        let count = shares.len();
        let meshes = Mesh::between(count, config.handoffs_max);
        for ((number, share), mesh) in (0..).zip(shares).zip(meshes) {
            let (commands, inbox) = bounded(CHANNEL_LEN);
            let (outbox, events) = bounded(CHANNEL_LEN);
            let counters = Arc::new(Counters::default());
            let worker = Worker::new(config, tables.clone(), deadline.clone(), counters.clone(), pool.clone())
                .with_large_pool(large_pool.clone())
                .among(WorkerId(number), count);
            let worker = share.elsewhere.into_iter().fold(worker, |worker, (port, by)| worker.leaving_by(port, by));
            let worker = match share.crypto {
                Some(crypto) => worker.with_crypto_device(Box::new(crypto)),
                None => worker,
            };
            let watched = share.queues.into_iter().map(|(port, queue)| {
                let is_capture = ports.get(usize::from(port.0)).is_some_and(Port::input_is_finite);
                (port, WatchedQueue { queue, is_capture, told: false, captures: captures.clone() })
            });
            let mut watched: Vec<_> = watched.collect();
            let (eal, stop) = (eal.clone(), stop.clone());
            let ties = Ties { commands: inbox, events: outbox, mesh };
            let handle = thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                if let Polling::Adaptive { .. } = polling {
                    hardening::be_ahead_of_ordinary();
                }
                let _registered = match eal.register_thread() {
                    Ok(registered) => Some(registered),
                    Err(error) => {
                        tracing::warn!(%error, "the worker runs without a buffer cache of its own");
                        None
                    }
                };
                run::run(worker, &mut watched, ties, Instant::now, polling, &stop);
            })?;
            threads.push(WorkerThread {
                commands,
                events,
                backlog: VecDeque::new(),
                counters,
                loops_seen: 0,
                handle: Some(handle),
            });
        }
        Ok(Self { threads, stop, captures })
    }

    /// Each worker's counters.
    pub(super) fn counters(&self) -> Vec<Arc<Counters>> {
        self.threads.iter().map(|thread| thread.counters.clone()).collect()
    }

    /// Each worker's events.
    pub(super) fn events(&self) -> impl Iterator<Item = &Receiver<Event>> {
        self.threads.iter().map(|thread| &thread.events)
    }

    /// Events that have arrived already, each with its worker.
    pub(super) fn waiting_events(&self) -> impl Iterator<Item = (usize, Event)> {
        let threads = self.threads.iter().enumerate();
        threads.flat_map(|(number, thread)| {
            thread.events.try_iter().take(thread.events.len()).map(move |event| (number, event))
        })
    }

    /// Tells a worker. `false`: it is gone.
    pub(super) fn command(&mut self, worker: usize, command: Command) -> bool {
        let Some(thread) = self.threads.get_mut(worker) else { return true };
        thread.backlog.push_back(command);
        thread.send_backlog()
    }

    /// Offers again what a full channel refused. `false`: a worker is gone.
    pub(super) fn send_backlogs(&mut self) -> bool {
        self.threads.iter_mut().all(WorkerThread::send_backlog)
    }

    /// Does something wait for room in a channel?
    pub(super) fn have_backlog(&self) -> bool {
        self.threads.iter().any(|thread| !thread.backlog.is_empty())
    }

    /// By worker: did its loop go round since the last call?
    pub(super) fn advanced(&mut self) -> Vec<bool> {
        let check = self.threads.iter_mut().map(|thread| {
            let loops = thread.counters.tally(Tally::Loops);
            std::mem::replace(&mut thread.loops_seen, loops) != loops
        });
        check.collect()
    }

    /// How many receive queues have come to the end of their capture.
    pub(super) fn ended(&self) -> usize {
        self.captures.ended.load(Ordering::Relaxed)
    }

    /// Captures may be read.
    pub(super) fn open_captures(&self) {
        self.captures.open.store(true, Ordering::Relaxed);
    }

    /// Ends all workers and waits for them.
    pub(super) fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in &mut self.threads {
            if let Some(handle) = thread.handle.take() {
                // A worker that panicked has said so on stderr; there is nothing to add.
                let _ = handle.join();
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}

impl WorkerThread {
    fn send_backlog(&mut self) -> bool {
        let mut any = false;
        let is_there = loop {
            let Some(command) = self.backlog.pop_front() else { break true };
            match self.commands.try_send(command) {
                Ok(()) => any = true,
                Err(TrySendError::Full(command)) => {
                    self.backlog.push_front(command);
                    break true;
                }
                Err(TrySendError::Disconnected(_)) => break false,
            }
        };
        // An idle worker sleeps: a takeover would wait for it once and again.
        if any && let Some(handle) = &self.handle {
            handle.thread().unpark();
        }
        is_there
    }
}
