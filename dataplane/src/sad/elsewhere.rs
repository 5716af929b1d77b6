//! Child SAs of other workers: what this one has to know to find them.

use vipsec_esp::sa::Spi;

use super::spi_map::SpiMap;
use crate::api::{Steering, WorkerId};
use crate::selector::{SelectorIndex, Selectors};

/// In the selector index, numbers from here on are places among the SAs of other workers.
const FIRST_PLACE: u32 = 1 << 31;

#[derive(Debug)]
pub(super) struct Elsewhere {
    by_spi: SpiMap,
    places: Vec<Option<Place>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Place {
    worker: WorkerId,
    has_lanes: bool,
    selectors: Selectors,
}

/// Where a child SA of another worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Whereabouts {
    pub(super) worker: WorkerId,
    pub(super) has_lanes: bool,
}

impl Elsewhere {
    pub(super) fn new() -> Self {
        Self { by_spi: SpiMap::new(), places: Vec::new(), free: Vec::new() }
    }

    /// Does a number of the selector index stand for an SA of another worker?
    #[inline]
    pub(super) fn is_number(number: u32) -> bool {
        number >= FIRST_PLACE
    }

    pub(super) fn insert(&mut self, steering: &Steering, index: &mut SelectorIndex) {
        self.remove(steering.spi, index);
        let at = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            (self.places.len() - 1) as u32
        });
        let selectors = Selectors::new(&steering.local_selectors, &steering.remote_selectors);
        index.insert(FIRST_PLACE | at, steering.vip, &selectors);
        self.by_spi.insert(steering.spi.get(), at);
        if let Some(place) = self.places.get_mut(at as usize) {
            *place = Some(Place { worker: steering.worker, has_lanes: steering.lane.is_some(), selectors });
        }
    }

    /// Returns whether it was there.
    pub(super) fn remove(&mut self, spi: Spi, index: &mut SelectorIndex) -> bool {
        let Some(at) = self.by_spi.remove(spi.get()) else { return false };
        if let Some(place) = self.places.get_mut(at as usize).and_then(Option::take) {
            index.remove(FIRST_PLACE | at, &place.selectors);
            self.free.push(at);
        }
        true
    }

    /// The worker that has an SA.
    pub(super) fn worker_of(&self, spi: u32) -> Option<WorkerId> {
        self.place(self.by_spi.get(spi)?).map(|place| place.worker)
    }

    /// What a number of the selector index stands for.
    pub(super) fn whereabouts(&self, number: u32) -> Option<Whereabouts> {
        let place = self.place(number & !FIRST_PLACE)?;
        Some(Whereabouts { worker: place.worker, has_lanes: place.has_lanes })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_spi.len() == 0
    }

    fn place(&self, at: u32) -> Option<&Place> {
        self.places.get(at as usize)?.as_ref()
    }
}
