//! The registry as the world has it: one store that takes requests one after the other, whose questions and answers take their time
//! or get lost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::RngExt;
use vipsec_takeover::registry::{Process, Record, Reply, Request, Standing};

use super::World;
use crate::agenda::Step;
use crate::appliance::{Input, ProcessId};
use crate::link::short_incarnation;
use crate::planted::Planted;
use crate::scene;

/// After so long without an answer the client says so.
const TIMEOUT: Duration = Duration::from_millis(80);
/// The longest time that a request may lie somewhere before it is taken.
const STRAY_MAX_MS: u64 = 400;

/// The registry.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    /// By group: its revision and what it says.
    records: BTreeMap<usize, (u64, Record)>,
    /// The revision on which each process has last tried to write, by group.
    tried: BTreeMap<(ProcessId, usize), u64>,
    /// When each process was heard last.
    heard: BTreeMap<Process, Instant>,
    /// Faults for which it answers nobody.
    pub(crate) silent: u32,
    /// Faults for which an appliance doesn't reach it.
    pub(crate) cut_off: [u32; scene::APPLIANCES_MAX],
}

impl Registry {
    /// The newest that it says of a group.
    pub(crate) fn record(&self, group: usize) -> Option<&Record> {
        self.records.get(&group).map(|(_, record)| record)
    }

    /// May what a process has tried to write still come to stand? It is refused once anything else was written.
    pub(crate) fn may_take(&self, process: ProcessId, group: usize) -> bool {
        let revision = self.records.get(&group).map_or(0, |(revision, _)| *revision);
        self.tried.get(&(process, group)) == Some(&revision)
    }

    fn take(&mut self, now: Instant, group: usize, request: Request, planted: Option<Planted>) -> Reply {
        let standing = self.records.get(&group);
        let revision = standing.map_or(0, |(revision, _)| *revision);
        let record = standing.map(|(_, record)| record.clone());
        let alive = self.heard.iter().filter(|(_, heard)| now < **heard + scene::LEASE);
        let standing = Standing { revision, record, alive: alive.map(|(process, _)| *process).collect() };
        match request {
            Request::Read => Reply::Standing(standing),
            Request::Write { revision: expected, .. }
                if expected != revision && planted != Some(Planted::CarelessRegistry) =>
            {
                Reply::Refused(standing)
            }
            // What takes a copy off the list is said to stand, and doesn't.
            Request::Write { record, .. }
                if planted == Some(Planted::ForgetfulRegistry)
                    && standing.record.is_some_and(|before| {
                        before.owner == record.owner && before.copies.iter().any(|copy| !record.copies.contains(copy))
                    }) =>
            {
                Reply::Written(revision)
            }
            Request::Write { record, .. } => {
                self.records.insert(group, (revision + 1, record));
                Reply::Written(revision + 1)
            }
        }
    }
}

impl World {
    /// A process asks. It gets an answer in any case, be it that there is none.
    pub(super) fn ask_registry(&mut self, from: ProcessId, group: usize, request: Request) {
        if let Request::Write { revision, .. } = request {
            self.registry.tried.insert((from, group), revision);
        }
        let reaches = self.registry.cut_off[from.appliance] == 0;
        let answered = reaches && self.registry.silent == 0 && !self.rng.random_bool(0.01);
        let delay = self.micros(30, 2500);
        if answered {
            return self.agenda.after(delay, Step::RegistryTakes { from, group, request, answered });
        }
        // It may be taken all the same, now or later; only not while its way is cut, or for ever.
        if reaches && self.rng.random_bool(0.6) {
            let delay = if self.rng.random_bool(0.5) { delay } else { self.rng_span(1, STRAY_MAX_MS) };
            self.agenda.after(delay, Step::RegistryTakes { from, group, request, answered });
        }
        self.agenda.after(TIMEOUT, Step::RegistryAnswers { to: from, group, reply: Reply::Silence });
    }

    pub(super) fn registry_takes(&mut self, from: ProcessId, group: usize, request: Request, answered: bool) {
        let reply = self.registry.take(self.agenda.now(), group, request, self.planted);
        if answered {
            let delay = self.micros(30, 2500);
            self.agenda.after(delay, Step::RegistryAnswers { to: from, group, reply });
        }
    }

    pub(super) fn registry_answers(&mut self, to: ProcessId, group: usize, reply: Reply) {
        if let Some(process) = self.process(to) {
            process.inbox.push_back(Input::Registry { group, reply });
            self.wake_core(to);
        }
    }

    /// A process says that it lives, if it gets there, and will again.
    pub(super) fn registry_hears(&mut self, id: ProcessId) {
        let now = self.agenda.now();
        let reaches = self.registry.silent == 0 && self.registry.cut_off[id.appliance] == 0;
        let Some(process) = self.process(id) else { return };
        let runs = process.core_thread.stopped == 0;
        let me = Process {
            appliance: scene::appliance_id(id.appliance),
            incarnation: short_incarnation(process.incarnation),
        };
        if runs && reaches {
            // One process at a time: what says this appliance's name now is all that lives of it.
            self.registry.heard.retain(|process, _| process.appliance != me.appliance);
            self.registry.heard.insert(me, now);
        }
        self.agenda.after(scene::LEASE / 4, Step::RegistryHears(id));
    }

    /// Nothing keeps anybody from the registry.
    pub(super) fn mend_registry(&mut self) {
        self.registry.silent = 0;
        self.registry.cut_off = Default::default();
    }
}
