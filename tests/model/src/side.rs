//! An appliance of a small scope: its disk, what waits for it, and the process that runs on it, if one does.

use std::collections::VecDeque;
use std::time::Instant;

use vipsec_takeover::advertisement::Advertisement;
use vipsec_takeover::decider::{Copy, Role};
use vipsec_takeover::message::Message;
use vipsec_takeover::registry::Reply;

use crate::planted::Planted;
use crate::subject::Subject;

/// The how-manieth store link it is.
pub(crate) type Connection = u8;

/// What a link's socket has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Wire {
    /// Paired with that process.
    Up(u64),
    Message(Message),
    Closed,
}

/// The region that the other appliance writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Region {
    pub(crate) connection: Connection,
    /// The process that writes it.
    pub(crate) writer: u64,
    /// It holds all that this one has done.
    pub(crate) complete: bool,
    pub(crate) fenced: bool,
}

/// What the driver of a decider still has to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Chore {
    Reserve(u32),
    /// On the region of that connection.
    Fill(Connection),
    Install,
    Halt,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) struct Process<D> {
    pub(crate) decider: D,
    pub(crate) incarnation: u64,
    pub(crate) link: Option<Connection>,
    /// Workers may act until then.
    pub(crate) deadline: Option<Instant>,
    /// The VIPs are open.
    pub(crate) open: bool,
    pub(crate) advertisements: u64,
    /// Of the standing pairing, until its join is completed.
    pub(crate) region: Option<Region>,
    /// Of the join that was completed.
    pub(crate) held: Option<Region>,
    /// The region that was fenced last: nothing that is written there counts.
    pub(crate) fenced: Option<Connection>,
    pub(crate) chores: Vec<Chore>,
    /// Planted: the other one was missing once.
    pub(crate) has_missed: bool,
}

impl<D: Subject> Process<D> {
    /// Do its workers act?
    pub(crate) fn acts(&self, now: Instant, planted: Option<Planted>) -> bool {
        self.open && (planted == Some(Planted::NoDeadline) || self.deadline.is_some_and(|deadline| now < deadline))
    }

    /// Is the other one missing, as this one sees it?
    pub(crate) fn misses(&self) -> bool {
        self.has_missed || self.decider.missing_since().is_some()
    }

    pub(crate) fn owns(&self) -> bool {
        matches!(self.decider.role(), Role::Owner { .. } | Role::HandingOver { .. })
    }

    /// Its copy at the other appliance.
    pub(crate) fn copy(&self, now: Instant) -> Copy {
        self.decider.status(now).peers.first().map_or(Copy::None, |peer| peer.copy)
    }

    /// The regions that it keeps for the other one.
    pub(crate) fn regions(&mut self) -> impl Iterator<Item = &mut Region> {
        self.region.iter_mut().chain(&mut self.held)
    }
}

/// An appliance.
#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) struct Side<D> {
    pub(crate) process: Option<Process<D>>,
    pub(crate) lives: u8,
    pub(crate) disk: Option<u32>,
    /// The whole process sleeps.
    pub(crate) paused: bool,
    /// Its control core does.
    pub(crate) stalled: bool,
    /// Its disk, its workers and the store take their time.
    pub(crate) slow: bool,
    pub(crate) unfit: bool,
    pub(crate) wires: VecDeque<(Connection, Wire)>,
    /// What arrives by the link lies about.
    pub(crate) holds_wires: bool,
    pub(crate) advertisements: VecDeque<Advertisement>,
    /// What arrives by the networks does.
    pub(crate) holds_advertisements: bool,
    /// By when they arrive.
    pub(crate) replies: VecDeque<(u8, Reply)>,
}

impl<D> Default for Side<D> {
    fn default() -> Self {
        Self {
            process: None,
            lives: 0,
            disk: Some(0),
            paused: false,
            stalled: false,
            slow: false,
            unfit: false,
            wires: VecDeque::new(),
            holds_wires: false,
            advertisements: VecDeque::new(),
            holds_advertisements: false,
            replies: VecDeque::new(),
        }
    }
}

impl<D: Subject> Side<D> {
    /// Does its control core get the processor?
    pub(crate) fn runs(&self) -> bool {
        self.process.is_some() && !self.paused && !self.stalled
    }

    /// Do its workers act now?
    pub(crate) fn acts(&self, now: Instant, planted: Option<Planted>) -> bool {
        !self.paused && self.process.as_ref().is_some_and(|process| process.acts(now, planted))
    }

    /// The process is gone.
    pub(crate) fn clear(&mut self) {
        self.process = None;
        self.wires.clear();
        self.advertisements.clear();
        self.replies.clear();
    }
}
