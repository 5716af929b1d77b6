//! The anti-replay window (RFC 4303 §3.4.3) as a ring of 64-bit blocks (RFC 6479), on 64-bit numbers.
//!
//! ```text
//!   +--------+--------+--------+--------+   a bit per number, number mod 64 within a block,
//!   |xxxxxxcc|cccccccc|cccccccc|ccccc100|   block = (number / 64) mod (number of blocks)
//!   +--------+--------+--------+--------+
//!           ^                       ^       x  don't care
//!         edge - size + 1          edge     c  check bit
//! ```
//!
//! The ring has at least one block more than the window needs, so that moving the edge clears whole blocks and shifts nothing. The
//! newest block, the one of the edge, is kept beside the edge: packets in order reach for the ring once in 64.

use std::fmt;

/// Smallest window in packets. RFC 4303 §3.4.3: 64 is preferred and SHOULD be the default.
pub const SIZE_MIN: u32 = 64;

/// Largest window in packets.
pub const SIZE_MAX: u32 = 8192;

/// How far behind the edge a low half is still taken for an old number rather than for one of the next subspace.
///
/// RFC 4303 appendix A2.2 takes the window's size. This is the same rule with more room: a packet somewhat too late, or one
/// below an edge that a takeover set ahead, is refused as replayed before decryption instead of failing its ICV. The largest gap
/// that numbers may leave shrinks from 2^32 - size to 2^32 - 2^16.
const BEHIND_MAX: u32 = 1 << 16;
const _: () = assert!(BEHIND_MAX >= SIZE_MAX);

const BLOCK_BITS: u64 = 64;

/// A window's size is not a multiple of 64 in [`SIZE_MIN`]`..=`[`SIZE_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadSize;

/// Which numbers have been seen.
pub struct ReplayWindow {
    /// Highest number seen.
    edge: u64,
    /// The edge's block. Its place in the ring is out of date.
    newest: u64,
    /// The older blocks. A power of two of places.
    ring: Box<[u64]>,
    /// How many numbers up to and including the edge the window covers.
    size: u32,
}

impl ReplayWindow {
    /// A window of `size` packets for which everything up to `edge` counts as seen: 0 for a new SA (no packet carries number
    /// 0), the old owner's horizon after a takeover.
    pub fn new(size: u32, edge: u64) -> Result<Self, BadSize> {
        if !(SIZE_MIN..=SIZE_MAX).contains(&size) || !u64::from(size).is_multiple_of(BLOCK_BITS) {
            return Err(BadSize);
        }
        let count = (u64::from(size) / BLOCK_BITS + 1).next_power_of_two() as usize;
        let mut window = Self { edge, newest: 0, ring: vec![0; count].into_boxed_slice(), size };
        window.restart(edge);
        Ok(window)
    }

    /// Begins anew as [`new`](Self::new) does, in the same memory.
    pub fn restart(&mut self, edge: u64) {
        self.edge = edge;
        // Above the edge nothing was seen: the rest of its block. Later blocks are cleared when the edge gets there.
        self.newest = bit(edge) | (bit(edge) - 1);
        self.ring.fill(u64::MAX);
    }

    /// Highest number seen.
    #[inline]
    pub fn edge(&self) -> u64 {
        self.edge
    }

    /// May a packet with this number still be new? Asked before decryption; changes nothing.
    #[inline]
    pub fn check(&self, number: u64) -> bool {
        if number > self.edge {
            return true;
        }
        // RFC 4303 §3.4.3: packets that contain sequence numbers lower than the "left" edge of the window are rejected.
        if self.edge - number >= u64::from(self.size) {
            return false;
        }
        let block = if block_of(number) == block_of(self.edge) { self.newest } else { self.older(number) };
        block & bit(number) == 0
    }

    /// Marks the number of an authenticated packet as seen and moves the edge. `false` if it had been seen or is too old.
    ///
    /// RFC 4303 §3.4.3: the receive window is updated only if the integrity verification succeeds.
    #[inline]
    pub fn admit(&mut self, number: u64) -> bool {
        if !self.check(number) {
            return false;
        }
        if block_of(number) == block_of(self.edge) {
            self.newest |= bit(number);
            self.edge = self.edge.max(number);
        } else if number > self.edge {
            self.advance(number);
        } else {
            self.mark_older(number);
        }
        true
    }

    /// The 64-bit number of a packet that carries only the low half (RFC 4303 appendix A2.2); `None` past the last subspace.
    ///
    /// It is a guess from the edge that the ICV confirms.
    #[inline]
    pub fn infer(&self, low: u32) -> Option<u64> {
        let edge_low = self.edge as u32;
        let edge_high = (self.edge >> 32) as u32;
        // Arithmetic is mod 2^32, as in A2.3.
        let bottom = edge_low.wrapping_sub(BEHIND_MAX - 1);
        let high = if edge_low >= BEHIND_MAX - 1 {
            // Case A: the span behind the edge lies within one subspace.
            if low >= bottom { edge_high } else { edge_high.checked_add(1)? }
        } else if low >= bottom {
            // Case B: it spans two. Before the first subspace there is none: then the number lies far ahead.
            edge_high.saturating_sub(1)
        } else {
            edge_high
        };
        Some((u64::from(high) << 32) | u64::from(low))
    }

    /// Moves the edge into a later block: the newest one takes its place in the ring, those in between become empty.
    fn advance(&mut self, number: u64) {
        let newest = self.newest;
        if let Some(block) = self.place(self.edge) {
            *block = newest;
        }
        let skipped = (block_of(self.edge) + 1..block_of(number)).take(self.ring.len());
        for index in skipped {
            if let Some(block) = self.place(index * BLOCK_BITS) {
                *block = 0;
            }
        }
        self.newest = bit(number);
        self.edge = number;
    }

    fn older(&self, number: u64) -> u64 {
        self.ring.get(self.index(number)).copied().unwrap_or(u64::MAX)
    }

    fn mark_older(&mut self, number: u64) {
        if let Some(block) = self.place(number) {
            *block |= bit(number);
        }
    }

    fn place(&mut self, number: u64) -> Option<&mut u64> {
        let index = self.index(number);
        self.ring.get_mut(index)
    }

    fn index(&self, number: u64) -> usize {
        block_of(number) as usize & (self.ring.len() - 1)
    }
}

#[inline]
fn block_of(number: u64) -> u64 {
    number / BLOCK_BITS
}

#[inline]
fn bit(number: u64) -> u64 {
    1 << (number % BLOCK_BITS)
}

impl fmt::Debug for ReplayWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayWindow").field("edge", &self.edge).field("size", &self.size).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The window by its definition: a set of numbers.
    struct Model {
        size: u64,
        edge: u64,
        /// Everything up to here counts as seen from the start.
        start: u64,
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn admit(&mut self, number: u64) -> bool {
            let too_old = number.saturating_add(self.size) <= self.edge;
            if too_old || number <= self.start || !self.seen.insert(number) {
                return false;
            }
            self.edge = self.edge.max(number);
            true
        }
    }

    fn sizes() -> impl Strategy<Value = u32> {
        (SIZE_MIN / 64..=SIZE_MAX / 64).prop_map(|blocks| blocks * 64)
    }

    fn starts() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), 0..300u64, any::<u64>().prop_map(|number| number >> 1)]
    }

    proptest! {
        #[test]
        fn behaves_like_a_set(
            size in prop_oneof![Just(64), sizes()],
            start in starts(),
            // Steps from the edge: in order, a little around it, within the window, beyond it, and far ahead.
            steps in prop::collection::vec(
                prop_oneof![8 => Just(1i64), 8 => -80..80i64, 4 => -8300..8300i64, 1 => -20_000..(1i64 << 40)],
                1..600,
            ),
        ) {
            let mut window = ReplayWindow::new(size, start).unwrap();
            let mut model = Model { size: u64::from(size), edge: start, start, seen: BTreeSet::new() };
            for step in steps {
                let number = model.edge.saturating_add_signed(step);
                let may_pass = window.check(number);
                prop_assert_eq!(window.check(number), may_pass, "a check changes nothing");
                let admitted = model.admit(number);
                prop_assert_eq!(may_pass, admitted);
                prop_assert_eq!(window.admit(number), admitted);
                prop_assert_eq!(window.edge(), model.edge);
            }
        }

        /// RFC 4303 appendix A2.2 says it in 32-bit arithmetic; here it is in 64-bit: of all numbers with that low half, the
        /// one in the 2^32 numbers that start [`BEHIND_MAX`] behind the edge.
        #[test]
        fn infers_the_only_candidate(edge in starts(), number_from_edge in -70_000..(1i64 << 33)) {
            let window = ReplayWindow::new(64, edge).unwrap();
            let number = edge.saturating_add_signed(number_from_edge);
            let inferred = window.infer(number as u32).unwrap();
            prop_assert_eq!(inferred as u32, number as u32);
            let first = (edge + 1).saturating_sub(u64::from(BEHIND_MAX));
            prop_assert!((first..=first + u64::from(u32::MAX)).contains(&inferred), "{inferred:#x} with edge {edge:#x}");
        }
    }

    #[test]
    fn nothing_up_to_the_starting_edge_is_new() {
        for edge in [0, 1, 63, 64, 65, 1000, u64::from(u32::MAX)] {
            for size in [64, 128, 8192] {
                let mut window = ReplayWindow::new(size, edge).unwrap();
                assert!((0..=edge).rev().take(20_000).all(|number| !window.check(number)), "edge {edge}, size {size}");
                let last = edge + 200;
                for number in (edge + 1..=last).rev() {
                    assert_eq!(
                        window.admit(number),
                        number + u64::from(size) > last,
                        "number {number} of {last}, size {size}"
                    );
                }
            }
        }
    }

    #[test]
    fn refuses_sizes_that_do_not_fit_the_ring() {
        for size in [0, 1, 32, 63, 65, 100, SIZE_MAX + 64, u32::MAX] {
            assert!(ReplayWindow::new(size, 0).is_err(), "size {size}");
        }
    }

    #[test]
    fn infers_across_subspaces() {
        let infer = |edge, low| ReplayWindow::new(64, edge).unwrap().infer(low);
        // Case A: just behind the edge, just ahead, and wrapped into the next subspace.
        assert_eq!(infer(0x5_ffff_fff0, 0xffff_ffe0), Some(0x5_ffff_ffe0));
        assert_eq!(infer(0x5_ffff_fff0, 0xffff_fff1), Some(0x5_ffff_fff1));
        assert_eq!(infer(0x5_ffff_fff0, 0x0000_0001), Some(0x6_0000_0001));
        // Case B: the late packets of the previous subspace.
        assert_eq!(infer(0x6_0000_0004, 0xffff_fffe), Some(0x5_ffff_fffe));
        assert_eq!(infer(0x6_0000_0004, 0x0000_0009), Some(0x6_0000_0009));
        // There is no subspace before the first and none after the last.
        assert_eq!(infer(4, 0xffff_fffe), Some(0xffff_fffe));
        assert_eq!(infer(u64::MAX - 4, 1), None);
    }
}
