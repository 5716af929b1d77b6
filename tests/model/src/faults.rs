//! What may go wrong, and how it ends.

use crate::registry::Mute;
use crate::side::Wire;
use crate::subject::Subject;
use crate::world::{State, World};

/// What happens between two turns beside the turns themselves. Those with a side are of that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The process dies.
    Crash(usize),
    /// It sleeps.
    Pause(usize),
    /// Its control core does; the workers go on.
    Stall(usize),
    /// Its disk, its workers and the store take their time.
    Slow(usize),
    /// Its carriers are down.
    Unfit(usize),
    /// What the link brings it lies about.
    HoldLink(usize),
    /// What the networks bring it lies about.
    HoldNetworks(usize),
    /// What is under way on the networks is lost.
    LoseAdvertisements(usize),
    /// The store link breaks, and both ends are told.
    CutLink,
    /// It breaks, and nobody is.
    CutLinkSilently,
    /// Nothing passes on the data networks.
    CutNetworks,
    /// All of it at once.
    Isolate,
    /// The operator moves the group.
    Move(usize),
    /// The registry gives no answer; requests are lost.
    MuteRegistry,
    /// The same, and they are done.
    DeafenRegistry,
    /// The same, and they are done late.
    DelayRegistry,
}

/// What ends a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mend {
    /// A new process.
    Restart(usize),
    /// A new process that finds no floor.
    RestartWithoutFloor(usize),
    /// The process wakes.
    Wake(usize),
    /// Its control core does.
    Unstall(usize),
    /// It is as quick as ever.
    Quicken(usize),
    /// Its carriers are up.
    Fit(usize),
    /// What lay about arrives.
    ReleaseLink(usize),
    /// What lay about arrives.
    ReleaseNetworks(usize),
    /// A new link may come about.
    Link,
    /// Advertisements pass.
    Networks,
    /// The registry speaks.
    Registry,
}

impl Fault {
    const ALL: [Self; 24] = [
        Self::Crash(0),
        Self::Crash(1),
        Self::Pause(0),
        Self::Pause(1),
        Self::Stall(0),
        Self::Stall(1),
        Self::Slow(0),
        Self::Slow(1),
        Self::Unfit(0),
        Self::Unfit(1),
        Self::HoldLink(0),
        Self::HoldLink(1),
        Self::HoldNetworks(0),
        Self::HoldNetworks(1),
        Self::LoseAdvertisements(0),
        Self::LoseAdvertisements(1),
        Self::CutLink,
        Self::CutLinkSilently,
        Self::CutNetworks,
        Self::Isolate,
        Self::Move(0),
        Self::Move(1),
        Self::MuteRegistry,
        Self::DelayRegistry,
    ];
}

impl<D: Subject> State<D> {
    /// Faults that can strike now. `after`: of the list, so that a set of faults comes in one order only.
    pub(crate) fn possible_faults(&self, after: u8) -> impl Iterator<Item = (u8, Fault)> {
        let numbered = (1..).zip(Fault::ALL).filter(move |(number, _)| *number > after);
        numbered.filter(|(_, fault)| self.can_strike(*fault))
    }

    fn can_strike(&self, fault: Fault) -> bool {
        let lives = |side: usize| self.sides[side].process.is_some();
        match fault {
            Fault::Crash(side) => lives(side),
            Fault::Pause(side) => lives(side) && !self.sides[side].paused,
            Fault::Stall(side) => self.sides[side].runs(),
            Fault::Slow(side) => lives(side) && !self.sides[side].slow,
            Fault::Unfit(side) => lives(side) && !self.sides[side].unfit,
            Fault::HoldLink(side) => !self.sides[side].holds_wires,
            Fault::HoldNetworks(side) => !self.sides[side].holds_advertisements,
            Fault::LoseAdvertisements(side) => !self.sides[side].advertisements.is_empty(),
            Fault::CutLink | Fault::CutLinkSilently => !self.link_cut,
            Fault::CutNetworks => !self.networks_cut,
            Fault::Isolate => !self.link_cut && !self.networks_cut,
            Fault::Move(side) => self.sides[side].process.as_ref().is_some_and(|process| process.owns()),
            Fault::MuteRegistry | Fault::DeafenRegistry | Fault::DelayRegistry => {
                D::ASKS_REGISTRY && self.registry.mute.is_none()
            }
        }
    }

    /// What can be mended now.
    pub(crate) fn possible_mends(&self) -> impl Iterator<Item = Mend> {
        let of_side = |number: usize| {
            let side = &self.sides[number];
            [
                (side.process.is_none(), Mend::Restart(number)),
                (side.paused, Mend::Wake(number)),
                (side.stalled, Mend::Unstall(number)),
                (side.slow, Mend::Quicken(number)),
                (side.unfit, Mend::Fit(number)),
                (side.holds_wires, Mend::ReleaseLink(number)),
                (side.holds_advertisements, Mend::ReleaseNetworks(number)),
            ]
        };
        let of_world = [
            (self.link_cut, Mend::Link),
            (self.networks_cut, Mend::Networks),
            (self.registry.mute.is_some(), Mend::Registry),
        ];
        let all = of_side(0).into_iter().chain(of_side(1)).chain(of_world);
        all.filter(|(broken, _)| *broken).map(|(_, mend)| mend)
    }
}

impl<D: Subject> World<D> {
    pub(crate) fn strike(&self, state: &mut State<D>, fault: Fault) {
        match fault {
            Fault::Crash(side) => self.crash(state, side),
            Fault::Pause(side) => state.sides[side].paused = true,
            Fault::Stall(side) => state.sides[side].stalled = true,
            Fault::Slow(side) => state.sides[side].slow = true,
            Fault::Unfit(side) => state.sides[side].unfit = true,
            Fault::HoldLink(side) => state.sides[side].holds_wires = true,
            Fault::HoldNetworks(side) => state.sides[side].holds_advertisements = true,
            Fault::LoseAdvertisements(side) => state.sides[side].advertisements.clear(),
            Fault::CutLink => self.cut_link(state, true),
            Fault::CutLinkSilently => self.cut_link(state, false),
            Fault::CutNetworks => self.cut_networks(state),
            Fault::Isolate => {
                self.cut_link(state, false);
                self.cut_networks(state);
            }
            Fault::Move(side) => self.with(state, side, |decider, _| {
                // Refused where it can't be.
                let _ = decider.order_move(crate::subject::id(1 - side));
            }),
            Fault::MuteRegistry => state.registry.mute = Some(Mute::Lost),
            Fault::DeafenRegistry => state.registry.mute = Some(Mute::Done),
            Fault::DelayRegistry => state.registry.mute = Some(Mute::Late),
        }
    }

    pub(crate) fn mend(&self, state: &mut State<D>, mend: Mend) {
        match mend {
            Mend::Restart(side) => self.start(state, side),
            Mend::RestartWithoutFloor(side) => {
                state.sides[side].disk = None;
                self.start(state, side);
            }
            Mend::Wake(side) => state.sides[side].paused = false,
            Mend::Unstall(side) => state.sides[side].stalled = false,
            Mend::Quicken(side) => state.sides[side].slow = false,
            Mend::Fit(side) => state.sides[side].unfit = false,
            Mend::ReleaseLink(side) => state.sides[side].holds_wires = false,
            Mend::ReleaseNetworks(side) => state.sides[side].holds_advertisements = false,
            Mend::Link => state.link_cut = false,
            Mend::Networks => state.networks_cut = false,
            Mend::Registry => state.registry.mend(state.tick, self.planted),
        }
    }

    fn crash(&self, state: &mut State<D>, side: usize) {
        state.sides[side].clear();
        if let Some(connection) = state.link {
            state.hang_up(connection, 1 - side);
        }
    }

    /// What is under way on the link is lost.
    fn cut_link(&self, state: &mut State<D>, told: bool) {
        state.link_cut = true;
        state.link = None;
        for side in &mut state.sides {
            side.wires.clear();
            if let (true, Some(connection)) = (told, side.process.as_ref().and_then(|process| process.link)) {
                side.wires.push_back((connection, Wire::Closed));
            }
        }
    }

    fn cut_networks(&self, state: &mut State<D>) {
        state.networks_cut = true;
        state.sides.iter_mut().for_each(|side| side.advertisements.clear());
    }
}
