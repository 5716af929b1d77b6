//! Which places are free, on the owner's side.

use std::collections::VecDeque;

use crate::StoreError;
use crate::geometry::{Geometry, SizeClass};
use crate::writer::ClassUsage;

#[derive(Debug)]
struct Class {
    size: SizeClass,
    live: u32,
    places: std::ops::Range<u32>,
    free: VecDeque<u32>,
}

/// Free places by size class. A class of N records has spare places beyond N, which hold old versions and tombstones
/// until these may go; only live records count against N.
#[derive(Debug)]
pub(crate) struct Pool {
    classes: Vec<Class>,
}

impl Pool {
    pub(crate) fn new(geometry: &Geometry) -> Self {
        let class = |(size, places): (SizeClass, std::ops::Range<u32>)| Class {
            size,
            live: 0,
            free: places.clone().collect(),
            places,
        };
        Self { classes: geometry.classes().map(class).collect() }
    }

    fn of(&mut self, place: u32) -> Option<&mut Class> {
        self.classes.iter_mut().find(|class| class.places.contains(&place))
    }

    /// Takes a place for a live record of `bytes`, which replaces the one in place `old`: the smallest that fits and has room.
    pub(crate) fn take(&mut self, bytes: usize, old: Option<u32>) -> Result<u32, StoreError> {
        let bytes_max = self.classes.last().map_or(0, |class| class.size.bytes as usize);
        if bytes > bytes_max {
            return Err(StoreError::TooLarge { bytes, bytes_max });
        }
        let class = self
            .classes
            .iter_mut()
            .filter(|class| class.size.bytes as usize >= bytes)
            .find(|class| class.live < class.size.records || old.is_some_and(|old| class.places.contains(&old)))
            .ok_or(StoreError::Full)?;
        let place = class.free.pop_front().ok_or(StoreError::Behind)?;
        class.live += 1;
        if let Some(class) = old.and_then(|old| self.of(old)) {
            class.live -= 1;
        }
        Ok(place)
    }

    /// Takes a place for the tombstone of the record in place `old`, which is live no more.
    pub(crate) fn take_tombstone(&mut self, old: u32) -> Result<u32, StoreError> {
        let class = self.of(old).ok_or(StoreError::Behind)?;
        let place = class.free.pop_front().ok_or(StoreError::Behind)?;
        class.live -= 1;
        Ok(place)
    }

    /// The place holds nothing any more.
    pub(crate) fn give(&mut self, place: u32) {
        if let Some(class) = self.of(place) {
            class.free.push_back(place);
        }
    }

    /// How full each class is.
    pub(crate) fn usage(&self) -> Vec<ClassUsage> {
        let usage = |class: &Class| ClassUsage {
            bytes: class.size.bytes,
            records: class.live,
            records_max: class.size.records,
        };
        self.classes.iter().map(usage).collect()
    }

    /// How many more records of `bytes` there is room for.
    pub(crate) fn room(&self, bytes: usize) -> u32 {
        let fits = self.classes.iter().filter(|class| class.size.bytes as usize >= bytes);
        fits.map(|class| class.size.records.saturating_sub(class.live)).sum()
    }
}
