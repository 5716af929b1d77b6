//! The registry of a small scope: honest, and sometimes mute.

use vipsec_takeover::registry::{Process, Record, Reply, Request, Standing};

use crate::planted::Planted;

/// Looks after which a client that gets no answer says so.
pub(crate) const TIMEOUT: u8 = 3;
/// Looks for which a process counts as alive that says nothing any more.
const LEASE: u8 = 8;

/// What becomes of requests that get no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Mute {
    /// They are lost.
    Lost,
    /// They are done.
    Done,
    /// They are done when the registry speaks again.
    Late,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Registry {
    revision: u64,
    record: Option<Record>,
    /// The process that spoke last of each appliance, and when.
    heard: [Option<(Process, u8)>; 2],
    pub(crate) mute: Option<Mute>,
    late: Vec<Request>,
}

impl Registry {
    pub(crate) fn hear(&mut self, side: usize, process: Process, tick: u8) {
        self.heard[side] = Some((process, tick));
    }

    /// A request; `None`: there will be no answer.
    pub(crate) fn ask(&mut self, request: Request, tick: u8, planted: Option<Planted>) -> Option<Reply> {
        match self.mute {
            None => return Some(self.take(request, tick, planted)),
            Some(Mute::Lost) => {}
            Some(Mute::Done) => drop(self.take(request, tick, planted)),
            Some(Mute::Late) => self.late.push(request),
        }
        None
    }

    /// May that process resume?
    pub(crate) fn lists(&self, incarnation: u64) -> bool {
        self.record.iter().flat_map(|record| &record.copies).any(|copy| copy.incarnation == incarnation)
    }

    /// It speaks again.
    pub(crate) fn mend(&mut self, tick: u8, planted: Option<Planted>) {
        self.mute = None;
        for request in std::mem::take(&mut self.late) {
            self.take(request, tick, planted);
        }
    }

    fn take(&mut self, request: Request, tick: u8, planted: Option<Planted>) -> Reply {
        let alive = self.heard.iter().flatten().filter(|(_, heard)| tick < heard + LEASE);
        let alive = alive.map(|(process, _)| *process).collect();
        match request {
            Request::Write { revision, record }
                if revision == self.revision || planted == Some(Planted::CarelessRegistry) =>
            {
                self.revision += 1;
                self.record = Some(record);
                Reply::Written(self.revision)
            }
            Request::Write { .. } => Reply::Refused(self.standing(alive)),
            Request::Read => Reply::Standing(self.standing(alive)),
        }
    }

    fn standing(&self, alive: Vec<Process>) -> Standing {
        Standing { revision: self.revision, record: self.record.clone(), alive }
    }
}
