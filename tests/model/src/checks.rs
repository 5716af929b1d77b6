//! What must never happen, and what must happen somewhere lest nothing has been shown.

use stateright::Property;
use vipsec_takeover::decider::Copy;

use crate::planted::Planted;
use crate::side::Process;
use crate::subject::Subject;
use crate::world::{State, World};

/// A promise that was broken at some step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Broken {
    /// A backup would resume, and the owner doesn't wait for it.
    TrustedNotCounted,
    /// A copy was resumed from that its owner has gone on without.
    IncompleteResumed,
    /// A write counted though the successor had fenced it off.
    DeposedAcknowledged,
    /// Two act, and there was no partition in which the second one began.
    TwoAct,
    /// An appliance took an epoch again.
    EpochTwice,
    /// An owner waits for a backup's copy, and takes that backup for missing.
    MissingCounted,
    /// Everything was mended long ago, and there isn't one owner with a counted copy.
    NotSettled,
}

/// What a step was good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Resumed,
    BegunAnew,
    TakenBack,
    Raised,
    Deposed,
    GaveUp,
    Refused,
    Moved,
    Unfit,
}

impl Event {
    pub(crate) fn bit(self) -> u16 {
        1 << self as u16
    }
}

impl<D: Subject> World<D> {
    /// Takes note of what the last step broke.
    pub(crate) fn judge(&self, state: &mut State<D>) {
        if self.planted == Some(Planted::EndlessAbsence) {
            let processes = state.sides.iter_mut().filter_map(|side| side.process.as_mut());
            processes.for_each(|process| process.has_missed = process.misses());
        }
        if self.missing_counted(state) {
            state.broken(Broken::MissingCounted);
        }
        if self.trusted_alone(state) {
            state.broken(Broken::TrustedNotCounted);
        }
        if self.two_act(state) {
            state.broken(Broken::TwoAct);
        }
    }

    /// Two act, though the first one's copy is waited for and they can hear each other.
    fn two_act(&self, state: &State<D>) -> bool {
        let now = self.now(state);
        let both = state.sides.iter().all(|side| side.acts(now, self.planted));
        let epoch = |number: usize| state.sides[number].process.as_ref().and_then(|it| it.decider.owned_epoch());
        let older = usize::from((epoch(1), 1) < (epoch(0), 0));
        let waited_for = state.sides[older].process.as_ref().map(|process| process.copy(now));
        let protected = matches!(waited_for, Some(Copy::Counted | Copy::Leaving { .. }));
        both && protected && !state.is_partitioned()
    }

    /// A backup would resume, and the owner doesn't wait for it.
    fn trusted_alone(&self, state: &State<D>) -> bool {
        let now = self.now(state);
        state.sides.iter().any(|side| {
            side.process.as_ref().is_some_and(|process| {
                let trusted = process.decider.status(now).trusted;
                let may = !D::ASKS_REGISTRY || state.registry.lists(process.incarnation);
                trusted && may && !process.owns() && process.held.as_ref().is_some_and(|held| !held.complete)
            })
        })
    }

    /// An owner waits for a backup's copy, and takes that backup for missing: it would be patient with remote peers that are dead.
    fn missing_counted(&self, state: &State<D>) -> bool {
        let now = self.now(state);
        let mut processes = state.sides.iter().filter_map(|side| side.process.as_ref());
        processes.any(|process| process.copy(now) == Copy::Counted && process.misses())
    }

    /// One owns the group, and has a counted copy.
    pub(crate) fn stands(&self, state: &State<D>) -> bool {
        let now = self.now(state);
        let mut acting = state.sides.iter().filter(|side| side.acts(now, self.planted));
        let owner = acting.next().and_then(|side| side.process.as_ref());
        owner.is_some_and(|owner| owner.copy(now) == Copy::Counted) && acting.next().is_none()
    }
}

/// All of them.
pub(crate) fn properties<D: Subject>() -> Vec<Property<World<D>>> {
    let mut properties: Vec<Property<World<D>>> = vec![
        Property::always("trusted implies counted", |_, state: &State<D>| {
            state.broken != Some(Broken::TrustedNotCounted)
        }),
        Property::always("nothing is resumed that its owner went on without", |_, state: &State<D>| {
            state.broken != Some(Broken::IncompleteResumed)
        }),
        Property::always("a deposed owner's write never counts", |_, state: &State<D>| {
            state.broken != Some(Broken::DeposedAcknowledged)
        }),
        Property::always("one acts, outside of a partition", |_, state: &State<D>| {
            state.broken != Some(Broken::TwoAct)
        }),
        Property::always("no appliance uses an epoch twice", |_, state: &State<D>| {
            state.broken != Some(Broken::EpochTwice)
        }),
        Property::always("a backup whose copy counts isn't missing", |_, state: &State<D>| {
            state.broken != Some(Broken::MissingCounted)
        }),
        Property::always("when all is mended one owns the group and has a counted copy", |_, state: &State<D>| {
            state.broken != Some(Broken::NotSettled)
        }),
        Property::sometimes("a copy is resumed from", |_, state: &State<D>| state.has(Event::Resumed)),
        Property::sometimes("a takeover begins anew", |_, state: &State<D>| state.has(Event::BegunAnew)),
        Property::sometimes("an owner is deposed", |_, state: &State<D>| state.has(Event::Deposed)),
        Property::sometimes("a group moves", |_, state: &State<D>| state.has(Event::Moved)),
    ];
    if !D::ASKS_REGISTRY {
        let pair: [Property<World<D>>; 5] = [
            Property::sometimes("an owner misses the other one", |_, state: &State<D>| {
                state.sides.iter().any(|side| side.process.as_ref().is_some_and(Process::misses))
            }),
            Property::sometimes("an owner stays above another one", |_, state: &State<D>| state.has(Event::Raised)),
            Property::sometimes("a move is taken back", |_, state: &State<D>| state.has(Event::TakenBack)),
            Property::sometimes("an owner gives up in doubt", |_, state: &State<D>| state.has(Event::GaveUp)),
            Property::sometimes("two own the group in a partition", |world: &World<D>, state: &State<D>| {
                let now = world.now(state);
                state.sides.iter().all(|side| side.acts(now, None))
            }),
        ];
        properties.extend(pair);
    }
    properties
}
