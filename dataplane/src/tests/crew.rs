//! Several workers of one appliance in one thread, with the rings between them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use vipsec_esp::engine::EngineKind;
use vipsec_esp::sa::ChildSa;
use vipsec_wire::buffer::{Burst, PacketBuf, VecBuf, VecPool};

use super::scene::*;
use crate::api::{Command, Event, PortId, Report, ReportKind, SaReport, Steering, Tables, WorkerId};
use crate::counters::Counters;
use crate::deadline::Deadline;
use crate::drops::{DropReason, Tally};
use crate::handoff::Handoff;
use crate::worker::{Worker, WorkerConfig};

pub(super) struct Crew {
    workers: Vec<Worker<VecPool>>,
    counters: Vec<Arc<Counters>>,
    /// By sender and receiver.
    rings: BTreeMap<(usize, usize), VecDeque<Handoff<VecBuf>>>,
    pub(super) deadline: Deadline,
    pub(super) now: Instant,
    version: u64,
    seen: BTreeMap<DropReason, u64>,
}

impl Crew {
    pub(super) fn new(count: usize, tables: Tables) -> Self {
        Self::with(count, tables, &WorkerConfig::default(), |worker, _| worker)
    }

    /// `fit` gives each worker its last touch.
    pub(super) fn with(
        count: usize,
        tables: Tables,
        config: &WorkerConfig,
        fit: impl Fn(Worker<VecPool>, WorkerId) -> Worker<VecPool>,
    ) -> Self {
        let now = Instant::now();
        let deadline = Deadline::never(now);
        let config = WorkerConfig { engine: EngineKind::AesGcm, hash_seed: 42, ..config.clone() };
        let tables = Arc::new(tables);
        let counters: Vec<_> = (0..count).map(|_| Arc::new(Counters::default())).collect();
        let workers = counters.iter().zip(0u8..).map(|(counters, number)| {
            let pool = VecPool::new(4096);
            let worker = Worker::new(&config, tables.clone(), deadline.clone(), counters.clone(), pool)
                .with_large_pool(VecPool::with_room(64, 9216))
                .among(WorkerId(number), count);
            fit(worker, WorkerId(number))
        });
        Self {
            workers: workers.collect(),
            counters,
            rings: BTreeMap::new(),
            deadline,
            now,
            version: 0,
            seen: BTreeMap::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.workers.len()
    }

    /// A frame arrives; what is handed over gets into the rings.
    pub(super) fn receive(&mut self, worker: usize, port: PortId, frame: &[u8]) {
        self.receive_burst(worker, port, &[frame.to_vec()]);
    }

    pub(super) fn receive_burst(&mut self, worker: usize, port: PortId, frames: &[Vec<u8>]) {
        let burst = frames.iter().map(|frame| VecBuf::from_bytes(frame)).collect();
        self.workers[worker].handle_burst(self.now, port, burst);
        self.hand_over(worker);
    }

    pub(super) fn command(&mut self, worker: usize, command: Command) {
        self.workers[worker].handle_command(self.now, command);
        self.hand_over(worker);
        while self.workers[worker].is_releasing() {
            self.workers[worker].handle_released(self.now);
            self.hand_over(worker);
        }
    }

    /// What is handed over gets into the rings.
    fn hand_over(&mut self, from: usize) {
        for to in 0..self.workers.len() {
            if let Some(outgoing) = self.workers[from].outgoing(WorkerId(to as u8)) {
                self.rings.entry((from, to)).or_default().extend(outgoing.drain(..));
            }
        }
    }

    /// The rings that hold something.
    pub(super) fn filled_rings(&self) -> Vec<(usize, usize)> {
        self.rings.iter().filter(|(_, ring)| !ring.is_empty()).map(|(between, _)| *between).collect()
    }

    /// A worker takes the oldest few of a ring.
    pub(super) fn take(&mut self, (from, to): (usize, usize), count: usize) {
        let ring = self.rings.entry((from, to)).or_default();
        let handoffs: Vec<_> = ring.drain(..count.min(ring.len())).collect();
        self.workers[to].handle_handoffs(self.now, handoffs);
        self.hand_over(to);
    }

    /// All rings are emptied.
    pub(super) fn settle(&mut self) {
        while let Some(ring) = self.filled_rings().first() {
            self.take(*ring, usize::MAX);
        }
    }

    /// A child SA is on a worker, and all others know.
    pub(super) fn install(&mut self, worker: usize, child: &ChildSa) {
        let steering = Steering {
            spi: child.inbound.spi,
            worker: WorkerId(worker as u8),
            token: 1,
            vip: child.vip,
            lane: child.lane,
            local_selectors: child.local_selectors.clone(),
            remote_selectors: child.remote_selectors.clone(),
        };
        for other in (0..self.len()).filter(|other| *other != worker) {
            self.command(other, Command::Steer(Box::new(steering.clone())));
        }
        self.command(worker, Command::InstallChild(Box::new(child.clone())));
    }

    /// Only that worker gets these tables.
    pub(super) fn use_tables_at(&mut self, worker: usize, version: u64, tables: &Tables) {
        self.version = version;
        self.command(worker, Command::Tables { version, tables: Arc::new(tables.clone()) });
    }

    pub(super) fn use_tables(&mut self, tables: &Tables) {
        let version = self.version + 1;
        for worker in 0..self.len() {
            self.use_tables_at(worker, version, tables);
        }
    }

    /// What leaves by a port at one worker.
    pub(super) fn sent_by(&mut self, worker: usize, port: PortId) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        loop {
            let mut burst = Burst::new();
            self.workers[worker].poll_transmit(self.now, port, &mut burst);
            if burst.is_empty() {
                return frames;
            }
            frames.extend(burst.iter().map(|packet| packet.data().to_vec()));
        }
    }

    /// What leaves by a port at which worker, with the rings as they are and neighbours that answer ARP at once, at the first worker.
    fn sent_by_whom(&mut self, port: PortId) -> Vec<(usize, Vec<u8>)> {
        let mut frames = Vec::new();
        loop {
            let sent: Vec<_> = (0..self.len())
                .flat_map(|worker| self.sent_by(worker, port).into_iter().map(move |frame| (worker, frame)))
                .collect();
            if sent.is_empty() {
                return frames;
            }
            for (worker, frame) in sent {
                match answer_of_neighbour(&frame) {
                    Some(answer) => answer.iter().for_each(|answer| self.receive(0, port, answer)),
                    None => frames.push((worker, frame)),
                }
            }
        }
    }

    pub(super) fn sent(&mut self, port: PortId) -> Vec<Vec<u8>> {
        self.sent_by_whom(port).into_iter().map(|(_, frame)| frame).collect()
    }

    /// What leaves by a port at which worker once the rings are empty.
    pub(super) fn sent_at_last_by_whom(&mut self, port: PortId) -> Vec<(usize, Vec<u8>)> {
        let mut frames = Vec::new();
        loop {
            self.settle();
            let sent = self.sent_by_whom(port);
            if sent.is_empty() && self.filled_rings().is_empty() {
                return frames;
            }
            frames.extend(sent);
        }
    }

    pub(super) fn sent_at_last(&mut self, port: PortId) -> Vec<Vec<u8>> {
        self.sent_at_last_by_whom(port).into_iter().map(|(_, frame)| frame).collect()
    }

    #[track_caller]
    pub(super) fn one_sent_at_last(&mut self, port: PortId) -> Vec<u8> {
        let mut frames = self.sent_at_last(port);
        assert_eq!(frames.len(), 1, "{frames:02x?}, drops: {:?}", self.dropped());
        frames.remove(0)
    }

    pub(super) fn events(&mut self, worker: usize) -> Vec<Event> {
        std::iter::from_fn(|| self.workers[worker].poll_event()).collect()
    }

    fn reports(&mut self, worker: usize, what: ReportKind) -> Report {
        self.events(worker);
        self.command(worker, Command::Report { token: 9, what });
        match self.events(worker).pop() {
            Some(Event::Report { report, .. }) => report,
            other => panic!("no report: {other:?}"),
        }
    }

    pub(super) fn sas(&mut self, worker: usize) -> Vec<SaReport> {
        match self.reports(worker, ReportKind::Sas) {
            Report::Sas(sas) => sas,
            other => panic!("{other:?}"),
        }
    }

    /// By worker: how many connections it has.
    pub(super) fn connections(&mut self) -> Vec<usize> {
        let count = |report| match report {
            Report::Connections { total, .. } => total,
            other => panic!("{other:?}"),
        };
        (0..self.len()).map(|worker| count(self.reports(worker, ReportKind::Connections { max: 0 }))).collect()
    }

    /// Of all workers.
    pub(super) fn tally(&self, tally: Tally) -> u64 {
        self.counters.iter().map(|counters| counters.tally(tally)).sum()
    }

    pub(super) fn tally_of(&self, worker: usize, tally: Tally) -> u64 {
        self.counters[worker].tally(tally)
    }

    /// The reasons and counts of all workers' drops since the last call.
    pub(super) fn dropped(&mut self) -> Vec<(DropReason, u64)> {
        let mut dropped = Vec::new();
        for &reason in DropReason::ALL {
            let count = self.counters.iter().map(|counters| counters.dropped(reason)).sum();
            let before = self.seen.insert(reason, count).unwrap_or(0);
            if count > before {
                dropped.push((reason, count - before));
            }
        }
        dropped
    }
}
