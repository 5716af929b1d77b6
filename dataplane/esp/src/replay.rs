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
//! The ring has at least one block more than the window needs, so that moving the edge clears whole blocks and shifts nothing.

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
    /// How many numbers up to and including the edge the window covers.
    size: u64,
    /// A power of two of them.
    blocks: Box<[u64]>,
}

impl ReplayWindow {
    /// A window of `size` packets for which everything up to `edge` counts as seen: 0 for a new SA (no packet carries number
    /// 0), the old owner's horizon after a takeover.
    pub fn new(size: u32, edge: u64) -> Result<Self, BadSize> {
        if !(SIZE_MIN..=SIZE_MAX).contains(&size) || !u64::from(size).is_multiple_of(BLOCK_BITS) {
            return Err(BadSize);
        }
        let size = u64::from(size);
        let count = (size / BLOCK_BITS + 1).next_power_of_two() as usize;
        let mut window = Self { edge, size, blocks: vec![u64::MAX; count].into_boxed_slice() };
        // Above the edge nothing was seen: the rest of its block. Later blocks are cleared when the edge gets there.
        if let Some((block, bit)) = window.block_mut(edge) {
            *block = bit | (bit - 1);
        }
        Ok(window)
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
        if self.edge - number >= self.size {
            return false;
        }
        self.block(number).is_some_and(|(block, bit)| block & bit == 0)
    }

    /// Marks the number of an authenticated packet as seen and moves the edge. `false` if it had been seen or is too old.
    ///
    /// RFC 4303 §3.4.3: the receive window is updated only if the integrity verification succeeds.
    #[inline]
    pub fn admit(&mut self, number: u64) -> bool {
        if !self.check(number) {
            return false;
        }
        if number > self.edge {
            self.advance(number);
        }
        let Some((block, bit)) = self.block_mut(number) else { return false };
        *block |= bit;
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

    /// Moves the edge up, clearing the blocks that it enters.
    #[inline]
    fn advance(&mut self, number: u64) {
        let entered = (number / BLOCK_BITS) - (self.edge / BLOCK_BITS);
        let first = self.edge / BLOCK_BITS + 1;
        let mask = self.blocks.len() as u64 - 1;
        for block in first..first + entered.min(self.blocks.len() as u64) {
            if let Some(block) = self.blocks.get_mut((block & mask) as usize) {
                *block = 0;
            }
        }
        self.edge = number;
    }

    #[inline]
    fn place(&self, number: u64) -> (usize, u64) {
        let mask = self.blocks.len() as u64 - 1;
        (((number / BLOCK_BITS) & mask) as usize, 1 << (number % BLOCK_BITS))
    }

    #[inline]
    fn block(&self, number: u64) -> Option<(u64, u64)> {
        let (index, bit) = self.place(number);
        self.blocks.get(index).map(|block| (*block, bit))
    }

    #[inline]
    fn block_mut(&mut self, number: u64) -> Option<(&mut u64, u64)> {
        let (index, bit) = self.place(number);
        self.blocks.get_mut(index).map(|block| (block, bit))
    }
}

impl fmt::Debug for ReplayWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayWindow").field("edge", &self.edge).field("size", &self.size).finish_non_exhaustive()
    }
}
