//! What happens when: simulated time, and one step after the other.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::appliance::ProcessId;
use vipsec_takeover::registry::{Reply, Request};

use crate::far::SharedFlight;
use crate::link::LinkId;
use crate::network::{Net, StationId};

/// One event of one party: between any two of them a fault may fall.
#[derive(Debug)]
pub(crate) enum Step {
    /// A control core gets the processor: it takes one thing from its inbox, or does what is due.
    Core(ProcessId),
    /// A worker gets the processor: it takes commands, or a burst, or does what is due; or it transmits.
    Worker(ProcessId, usize),
    /// A frame reaches a station.
    Arrive { net: Net, station: StationId, frame: Vec<u8> },
    /// A message of the store link reaches a process.
    LinkMessage { to: ProcessId, link: LinkId, connection: u64, bytes: Vec<u8> },
    /// A process learns that its connection is gone.
    LinkClosed { to: ProcessId, link: LinkId, connection: u64 },
    /// The higher id calls the lower one.
    Meet,
    /// A request reaches the registry; its answer, if there will be one, sets out.
    RegistryTakes { from: ProcessId, group: usize, request: Request, answered: bool },
    /// What came of a request reaches the process that asked.
    RegistryAnswers { to: ProcessId, group: usize, reply: Reply },
    /// A process says that it lives.
    RegistryHears(ProcessId),
    /// One write of an owner lands in the region that is far from it, or its question is answered there.
    StoreLands { writer: ProcessId, flight: SharedFlight },
    /// Time to ask the successor of that takeover what it has of that VIP.
    Ask { successor: ProcessId, vip: usize, takeover: Instant },
    /// Planted: a mark comes too early.
    EarlyMark { to: ProcessId, link: LinkId, connection: u64 },
    /// A floor is on disk.
    FloorOnDisk { process: ProcessId, vip: u16, value: u32 },
    /// The IKE of a VIP's remote peer has something due.
    RemoteTimer(usize),
    /// Hosts behind a VIP's remote peer send.
    RemoteTraffic(usize),
    /// The adversary injects something that it recorded.
    Inject,
    /// An appliance is started again, if it doesn't run.
    Start(usize),
    /// The time of a planned fault.
    Fault(usize),
    /// A fault that was to last for a while ends.
    Mend(usize),
}

/// Simulated time and the steps to come. Steps of the same instant happen in the order in which they were put here.
#[derive(Debug)]
pub(crate) struct Agenda {
    origin: Instant,
    now: Instant,
    number: u64,
    steps: BTreeMap<(Instant, u64), Step>,
}

impl Agenda {
    pub(crate) fn new(origin: Instant) -> Self {
        Self { origin, now: origin, number: 0, steps: BTreeMap::new() }
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// Simulated time since the beginning.
    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.origin
    }

    pub(crate) fn at(&mut self, when: Instant, step: Step) {
        self.number += 1;
        self.steps.insert((when.max(self.now), self.number), step);
    }

    pub(crate) fn after(&mut self, delay: Duration, step: Step) {
        self.at(self.now + delay, step);
    }

    /// Moves on to the next step.
    pub(crate) fn next(&mut self) -> Option<Step> {
        let ((when, _), step) = self.steps.pop_first()?;
        self.now = when;
        Some(step)
    }
}
