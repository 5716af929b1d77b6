//! Going through the table: what is over is forgotten, and whoever has to give way does.

use std::time::{Duration, Instant};

use super::ConnectionTable;
use super::clock::Tick;
use super::entry::Flags;
use super::state::ConnectionState;

/// Places looked at for one that gives way.
const LOOKS_MAX: usize = 32;

/// Where each round through the places is.
#[derive(Debug, Default)]
pub(super) struct Hands {
    sweep: usize,
    /// For those that give way: a round of its own, so that whoever was passed over longest ago comes next.
    evict: usize,
    evicted: u64,
    /// Places that a check of the pins still has to come by.
    pub(super) unchecked: usize,
    touched: usize,
}

impl Hands {
    /// A place was used for the first time: the round grows.
    pub(super) fn grow(&mut self, touched: usize) {
        if touched > self.touched && self.unchecked > 0 {
            self.unchecked += touched - self.touched;
        }
        self.touched = touched;
    }
}

fn advance(hand: &mut usize, places: usize) -> u32 {
    let at = if *hand < places { *hand } else { 0 };
    *hand = at + 1;
    at as u32
}

impl ConnectionTable {
    /// How long a round of [`sweep`](Self::sweep) should take, all steps together: so much later than its timeout is a connection
    /// forgotten at most.
    pub const SWEEP: Duration = Duration::from_secs(10);

    /// Places to look at in a step, if there is a step in every `interval`.
    pub fn sweep_step(&self, interval: Duration) -> usize {
        let steps = (Self::SWEEP.as_nanos() / interval.as_nanos().max(1)).max(1);
        self.places.touched().div_ceil(steps as usize)
    }

    /// Looks at the next `places` places: forgets what is over, checks pins, keeps affinities of living connections. Returns how
    /// many connections it forgot.
    ///
    /// A place costs a few nanoseconds, more where there is something to do.
    pub fn sweep(&mut self, now: Instant, places: usize) -> usize {
        let now = self.clock.tick(now);
        let before = self.len();
        self.heritages.expire(now);
        for _ in 0..places.min(self.places.touched()) {
            // A check finds much to report. It goes on once what there is was taken.
            if self.sweep.unchecked > 0 && self.pins.is_reporting() && !self.journal.has_room() {
                break;
            }
            let place = advance(&mut self.sweep.sweep, self.places.touched());
            self.look_at(now, place);
            self.sweep.unchecked = self.sweep.unchecked.saturating_sub(1);
        }
        before - self.len()
    }

    /// Connections that gave way to others so far, because every place was taken.
    pub const fn evicted(&self) -> u64 {
        self.sweep.evicted
    }

    fn look_at(&mut self, now: Tick, place: u32) {
        let Some(entry) = self.places.get(place) else { return };
        let flags = entry.flags;
        if self.is_over(entry, now) && self.forget(place) {
            return;
        }
        if self.sweep.unchecked > 0 {
            self.check_pin(place);
        }
        if flags.has(Flags::OWED) {
            self.report_pin(place);
        }
        if flags.has(Flags::AFFINE)
            && let Some(entry) = self.places.get(place)
            && let Some(tuple) = self.tuple(&entry.key)
            && let Some(target) = self.targets.get(entry.target)
        {
            self.chooser.keep_affinity(now, &self.services, &tuple, target.address);
        }
    }

    /// Sees to it that there is a free place. Returns whether there is.
    ///
    /// The hand goes round as a clock's: what was opened last is the last that it comes to, and what was heard of again since it
    /// came by is passed over once.
    pub(super) fn make_room(&mut self, now: Tick) -> bool {
        if self.places.has_room() {
            return true;
        }
        for _ in 0..LOOKS_MAX {
            let place = advance(&mut self.sweep.evict, self.places.touched());
            let Some(entry) = self.places.get(place) else { continue };
            let is_over = self.is_over(entry, now);
            if !is_over && !self.silence.gives_way(entry, now) {
                continue;
            }
            if !is_over && entry.flags.has(Flags::SEEN) && entry.state != ConnectionState::TcpReset {
                if let Some(entry) = self.places.get_mut(place) {
                    entry.flags = entry.flags.without(Flags::SEEN);
                }
                continue;
            }
            if self.forget(place) {
                self.sweep.evicted += u64::from(!is_over);
                return true;
            }
        }
        false
    }

    /// Forgets every connection whose VIP or target the services don't know.
    #[cold]
    pub(super) fn forget_unlisted(&mut self) {
        for place in 0..self.places.touched() as u32 {
            if let Some(entry) = self.places.get(place)
                && !(self.vips.is_listed(entry.key.vip()) && self.targets.is_listed(entry.target))
            {
                self.forget(place);
            }
        }
    }
}
