//! Which form of a link two builds have in common.
//!
//! A link has a version: a number that stands for everything that crosses it, from the layout of a region to the messages and
//! records that its users send. What a number stands for, but for the layout, is the users' business; each side says from which to
//! which it speaks, and the highest that both do is spoken.

use std::fmt;

/// The versions that a build speaks: all from the oldest to the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The oldest.
    pub oldest: u16,
    /// The newest. A range whose newest is below its oldest is empty.
    pub newest: u16,
}

impl Versions {
    /// The highest version that both speak.
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { oldest, newest } = self;
        if oldest == newest { write!(f, "{oldest}") } else { write!(f, "{oldest}-{newest}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_that_both_speak_is_common() {
        let range = |oldest, newest| Versions { oldest, newest };
        assert_eq!(range(1, 2).common(range(2, 3)), Some(2));
        assert_eq!(range(1, 4).common(range(2, 3)), Some(3));
        assert_eq!(range(2, 2).common(range(2, 2)), Some(2));
        assert_eq!(range(1, 2).common(range(3, 4)), None);
        assert_eq!(range(3, 4).common(range(1, 2)), None);
        assert_eq!(range(3, 2).common(range(1, 4)), None, "an empty range has nothing in common with any");
    }
}
