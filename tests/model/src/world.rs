//! The states of a small scope, and what leads from one to the next.

use std::marker::PhantomData;
use std::time::Instant;

use stateright::{Model, Property};
use vipsec_takeover::decider::{Copy, Role};
use vipsec_wire::iv::Epoch;

use crate::checks::{self, Broken, Event};
use crate::faults::{Fault, Mend};
use crate::planted::Planted;
use crate::registry::Registry;
use crate::side::{Connection, Side, Wire};
use crate::subject::{LOOK, Subject};

/// Looks after a partition for which the two count as apart: until both have had a turn.
const APART: u8 = 2;
/// Looks until everything stands: what precedes the window.
const PRELUDE: u8 = 20;
/// Looks until two that are cut off from each other both own the group, and neither has a copy: the other prelude.
const ESTRANGEMENT: u8 = 12;
/// Looks after the window within which one must own the group again and have a copy.
const QUIET: u8 = 60;

/// How much of the world is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Scope {
    /// Looks in which faults may strike.
    pub window: u8,
    /// How many of them do, at most.
    pub faults: u8,
}

/// Everything that there is.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct State<D> {
    pub(crate) tick: u8,
    /// Who has its turn first in every look.
    first: usize,
    /// How many have had their turn in this one.
    turns: u8,
    pub(crate) sides: [Side<D>; 2],
    /// The store link that stands.
    pub(crate) link: Option<Connection>,
    links: Connection,
    pub(crate) link_cut: bool,
    pub(crate) networks_cut: bool,
    /// When they could not hear each other.
    apart: Option<u8>,
    /// Both own the group, since a partition.
    split: bool,
    pub(crate) registry: Registry,
    /// Faults that have struck.
    faults: u8,
    /// The last one before this turn.
    last_fault: u8,
    epochs: Vec<(usize, Epoch)>,
    pub(crate) broken: Option<Broken>,
    /// Of the last step.
    events: u16,
    /// When the window ends.
    over: u8,
    /// Whom the remote peers reach.
    pub(crate) serves: usize,
    /// The quiet time after the window is over.
    pub(crate) settled: bool,
}

impl<D: Subject> State<D> {
    fn new(first: usize, serves: usize) -> Self {
        Self {
            tick: 0,
            first,
            turns: 0,
            sides: Default::default(),
            link: None,
            links: 0,
            link_cut: false,
            networks_cut: false,
            apart: None,
            split: false,
            registry: Registry::default(),
            faults: 0,
            last_fault: 0,
            epochs: Vec::new(),
            broken: None,
            events: 0,
            over: 0,
            serves,
            settled: false,
        }
    }

    pub(crate) fn note(&mut self, event: Event) {
        self.events |= event.bit();
    }

    pub(crate) fn has(&self, event: Event) -> bool {
        self.events & event.bit() != 0
    }

    pub(crate) fn broken(&mut self, broken: Broken) {
        self.broken.get_or_insert(broken);
    }

    pub(crate) fn note_epoch(&mut self, side: usize, epoch: Epoch) {
        if self.epochs.contains(&(side, epoch)) {
            self.broken(Broken::EpochTwice);
        }
        self.epochs.push((side, epoch));
    }

    /// One end of a connection is closed; the other one hears of it behind all that was sent.
    pub(crate) fn hang_up(&mut self, connection: Connection, other: usize) {
        if self.link == Some(connection) {
            self.link = None;
            self.sides[other].wires.push_back((connection, Wire::Closed));
        }
    }

    /// Could they not hear each other, on no path, a moment ago?
    fn were_apart(&self) -> bool {
        self.apart.is_some_and(|apart| self.tick <= apart + APART)
    }

    /// Is, or was, there a partition in which two may own the group?
    pub(crate) fn is_partitioned(&self) -> bool {
        self.split || self.were_apart()
    }

    /// Takes note of who can't hear whom.
    fn note_silence(&mut self) {
        let is_up = |side: &Side<D>| side.process.as_ref().is_some_and(|process| process.link.is_some());
        let linked = self.link.is_some() && self.sides.iter().all(is_up);
        let hears = |side: &Side<D>| {
            let by_link = linked && !side.holds_wires;
            let by_networks = !self.networks_cut && !side.holds_advertisements;
            by_link || by_networks
        };
        let taking = |side: &Side<D>| {
            side.process.as_ref().is_some_and(|process| matches!(process.decider.role(), Role::Taking { .. }))
        };
        // What has begun in a partition ends in it, and who sleeps says nothing of it.
        let begun = self.were_apart() && self.sides.iter().any(|side| side.paused || taking(side));
        // Where a registry decides and says nothing, whoever is heard may not be what he says.
        let mute = self.registry.mute.is_some();
        if begun || mute || !self.sides.iter().all(hears) || self.sides.iter().any(|side| side.stalled) {
            self.apart = Some(self.tick);
        }
        // Two that became owners in a partition are two until one has heard of the other.
        let both = self.sides.iter().all(|side| side.process.as_ref().is_some_and(|process| process.owns()));
        self.split = both && (self.split || self.were_apart());
    }

    /// A new link comes about where there is none and nothing prevents it.
    fn meet(&mut self) {
        let ready = |side: &Side<D>| {
            let no_link = side.process.as_ref().is_some_and(|process| process.link.is_none());
            side.runs() && no_link && !side.wires.iter().any(|(_, wire)| matches!(wire, Wire::Up(_)))
        };
        if self.link_cut || self.link.is_some() || !self.sides.iter().all(ready) {
            return;
        }
        self.links += 1;
        self.link = Some(self.links);
        let incarnations = [0, 1].map(|side: usize| self.sides[side].process.as_ref().map_or(0, |it| it.incarnation));
        for (side, incarnation) in self.sides.iter_mut().zip(incarnations.into_iter().rev()) {
            side.wires.push_back((self.links, Wire::Up(incarnation)));
        }
    }
}

impl<D: Subject> World<D> {
    /// A state in one line.
    pub(crate) fn describe(&self, state: &State<D>) -> String {
        let now = self.now(state);
        let sides = state.sides.iter().map(|side| {
            let Some(process) = &side.process else { return "dead".to_owned() };
            let status = process.decider.status(now);
            let copy = match process.copy(now) {
                Copy::None => "no copy",
                Copy::Joining => "joining",
                Copy::Counted => "counted",
                Copy::Leaving { .. } => "leaving",
            };
            let acts = if side.acts(now, self.planted) { "acts" } else { "still" };
            let trusts = if status.trusted { ", trusts" } else { "" };
            format!("{:?}, {acts}, {copy}{trusts}", status.role)
        });
        let sides: Vec<_> = sides.collect();
        format!("look {}: {}", state.tick, sides.join(" | "))
    }
}

/// What may happen next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The next appliance has its turn.
    Turn,
    /// Something goes wrong before it: of the list of faults, which.
    Strike(u8, Fault),
    /// Something is mended before it.
    Mend(Mend),
    /// The window is over: all is mended, and time goes by.
    Settle,
}

/// The world, and how much of it is looked at.
#[derive(Debug)]
pub struct World<D> {
    origin: Instant,
    scope: Scope,
    pub(crate) planted: Option<Planted>,
    subject: PhantomData<fn() -> D>,
}

impl<D: Subject> World<D> {
    /// All schedules of that scope.
    pub fn new(scope: Scope, planted: Option<Planted>) -> Self {
        Self { origin: Instant::now(), scope, planted, subject: PhantomData }
    }

    pub(crate) fn now(&self, state: &State<D>) -> Instant {
        self.origin + LOOK * u32::from(state.tick)
    }

    /// Two processes have begun, one owns the group, the other one has a copy that counts.
    fn begin(&self, first: usize, serves: usize) -> State<D> {
        let mut state = State::new(first, serves);
        (0..2).for_each(|side| self.start(&mut state, side));
        self.pass(&mut state, PRELUDE);
        state
    }

    /// The two have been cut off from each other for long.
    fn begin_apart(&self, first: usize, serves: usize) -> State<D> {
        let mut state = self.begin(first, serves);
        self.strike(&mut state, Fault::Isolate);
        // That was one.
        state.faults = 1;
        self.pass(&mut state, ESTRANGEMENT);
        state
    }

    /// Time goes by before the window.
    fn pass(&self, state: &mut State<D>, looks: u8) {
        (0..2 * looks).for_each(|_| self.turn(state));
        state.over = state.tick + self.scope.window;
        state.events = 0;
    }

    fn turn(&self, state: &mut State<D>) {
        let number = (state.first + usize::from(state.turns)) % 2;
        state.last_fault = 0;
        self.let_workers_act(state);
        self.take_turn(state, number);
        self.let_workers_act(state);
        state.note_silence();
        self.judge(state);
        state.turns += 1;
        if state.turns == 2 {
            state.turns = 0;
            state.tick += 1;
            state.meet();
        }
    }

    /// Everything is mended, and a quiet time goes by in which nothing may break either.
    fn settle(&self, state: &mut State<D>) {
        for mend in state.possible_mends().collect::<Vec<_>>() {
            self.mend(state, mend);
        }
        let end = state.tick + QUIET;
        while state.tick < end && state.broken.is_none() {
            self.turn(state);
        }
        if !self.stands(state) {
            state.broken(Broken::NotSettled);
        }
        state.settled = true;
    }
}

impl<D: Subject> Model for World<D> {
    type State = State<D>;
    type Action = Step;

    fn init_states(&self) -> Vec<State<D>> {
        let mut states = vec![self.begin(0, 1), self.begin(1, 0)];
        if !D::ASKS_REGISTRY && self.scope.faults > 0 {
            states.extend([self.begin_apart(0, 1), self.begin_apart(1, 0)]);
        }
        states
    }

    fn actions(&self, state: &State<D>, steps: &mut Vec<Step>) {
        if state.settled || state.broken.is_some() {
            return;
        }
        if state.tick >= state.over {
            return steps.push(Step::Settle);
        }
        steps.push(Step::Turn);
        steps.extend(state.possible_mends().map(Step::Mend));
        if state.faults < self.scope.faults {
            steps.extend(state.possible_faults(state.last_fault).map(|(number, fault)| Step::Strike(number, fault)));
        }
    }

    fn next_state(&self, last: &State<D>, step: Step) -> Option<State<D>> {
        let mut state = last.clone();
        state.events = 0;
        match step {
            Step::Turn => self.turn(&mut state),
            Step::Strike(number, fault) => {
                state.faults += 1;
                state.last_fault = number;
                self.strike(&mut state, fault);
                state.note_silence();
                self.judge(&mut state);
            }
            Step::Mend(mend) => {
                self.mend(&mut state, mend);
                self.judge(&mut state);
            }
            Step::Settle => self.settle(&mut state),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        checks::properties()
    }
}
