//! Maglev hashing: a lookup table that spreads evenly and changes little when targets come and go.
//!
//! D. E. Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, §3.4. Each target has its own
//! permutation of the table's slots; in turns, each takes the next slot of its permutation that is still free. Here a target's
//! turns are as frequent as its weight. Who gets a slot depends on the targets' addresses and weights alone, not on their order.

use std::net::IpAddr;

use siphasher::sip::SipHasher13;
use thiserror::Error;

use crate::tuple::address_bytes;

/// Slots of a table: a prime, so that every step below it visits all of them, and over 100 times the most targets, which keeps
/// the share of equal targets within 1 % of each other (NSDI 2016, §3.4). Part of the protocol between appliances.
pub const TABLE_SIZE: usize = 16_381;

/// Most targets in one table.
pub const TARGETS_MAX: usize = 160;

/// A target's address and its share, at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Share {
    /// The target.
    pub address: IpAddr,
    /// How much it gets, relative to the others.
    pub weight: u16,
}

/// Why there is no table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MaglevError {
    /// More than [`TARGETS_MAX`].
    #[error("more than {TARGETS_MAX} targets")]
    TooManyTargets,
    /// A weight was 0.
    #[error("target {0} has weight 0")]
    ZeroWeight(IpAddr),
    /// An address came twice.
    #[error("target {0} is listed twice")]
    Duplicate(IpAddr),
}

/// A lookup table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maglev {
    /// Places in the list of shares; empty when that is.
    slots: Box<[u16]>,
}

/// One target while the table fills.
struct Turn {
    place: u16,
    weight: u32,
    /// Grows by `weight` each round; a slot costs the largest weight.
    credit: u32,
    next: usize,
    skip: usize,
}

impl Turn {
    fn new(place: u16, share: &Share) -> Self {
        let bytes = address_bytes(share.address);
        let offset = SipHasher13::new_with_keys(0x6d61_676c_6576_206f, 1).hash(&bytes);
        let skip = SipHasher13::new_with_keys(0x6d61_676c_6576_2073, 2).hash(&bytes);
        Self {
            place,
            weight: u32::from(share.weight),
            credit: 0,
            next: (offset % TABLE_SIZE as u64) as usize,
            skip: (skip % (TABLE_SIZE as u64 - 1)) as usize + 1,
        }
    }
}

const FREE: u16 = u16::MAX;

impl Maglev {
    /// Fills a table.
    pub fn new(shares: &[Share]) -> Result<Self, MaglevError> {
        if shares.len() > TARGETS_MAX {
            return Err(MaglevError::TooManyTargets);
        }
        if let Some(share) = shares.iter().find(|share| share.weight == 0) {
            return Err(MaglevError::ZeroWeight(share.address));
        }
        let mut sorted: Vec<(u16, &Share)> = (0..).zip(shares).collect();
        sorted.sort_by_key(|(_, share)| share.address);
        if let Some([(_, first), _]) = sorted.array_windows().find(|[(_, one), (_, next)]| one.address == next.address)
        {
            return Err(MaglevError::Duplicate(first.address));
        }
        Ok(Self { slots: fill(sorted.into_iter().map(|(place, share)| Turn::new(place, share)).collect()) })
    }

    /// Who has the slot of a hash: a place in the list of shares; `None` when that is empty.
    pub fn lookup(&self, hash: u64) -> Option<usize> {
        self.slots.get((hash % TABLE_SIZE as u64) as usize).map(|&place| usize::from(place))
    }
}

fn fill(mut turns: Vec<Turn>) -> Box<[u16]> {
    let Some(cost) = turns.iter().map(|turn| turn.weight).max() else {
        return Box::default();
    };
    let mut slots = vec![FREE; TABLE_SIZE].into_boxed_slice();
    let mut left = TABLE_SIZE;
    loop {
        for turn in &mut turns {
            turn.credit += turn.weight;
            if turn.credit < cost {
                continue;
            }
            turn.credit -= cost;
            // A slot is free as long as `left` is above 0, and the permutation visits all of them.
            while let Some(slot) = slots.get_mut(turn.next) {
                turn.next = (turn.next + turn.skip) % TABLE_SIZE;
                if *slot == FREE {
                    *slot = turn.place;
                    break;
                }
            }
            left -= 1;
            if left == 0 {
                return slots;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn share(n: u8, weight: u16) -> Share {
        Share { address: Ipv4Addr::new(10, 1, 0, n).into(), weight }
    }

    /// How many slots each share has.
    fn counts(shares: &[Share]) -> Vec<usize> {
        let table = Maglev::new(shares).unwrap();
        let mut counts = vec![0; shares.len()];
        for hash in 0..TABLE_SIZE as u64 {
            counts[table.lookup(hash).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn table_size_is_prime() {
        assert!((2..TABLE_SIZE).take_while(|n| n * n <= TABLE_SIZE).all(|n| !TABLE_SIZE.is_multiple_of(n)));
        assert!(TABLE_SIZE > 100 * TARGETS_MAX && TARGETS_MAX < usize::from(FREE));
    }

    #[test]
    fn equal_targets_get_equal_shares() {
        let shares: Vec<Share> = (1..=7).map(|n| share(n, 10)).collect();
        let counts = counts(&shares);
        // They take turns, so none is more than one slot ahead.
        assert!(counts.iter().all(|count| count.abs_diff(TABLE_SIZE / 7) <= 1), "{counts:?}");
    }

    #[test]
    fn shares_follow_weights() {
        let counts = counts(&[share(1, 1), share(2, 2), share(3, 5)]);
        for (count, weight) in counts.iter().zip([1, 2, 5]) {
            assert!(count.abs_diff(TABLE_SIZE * weight / 8) <= TABLE_SIZE / 1000, "{counts:?}");
        }
    }

    #[test]
    fn a_target_that_goes_disturbs_few_others() {
        let shares: Vec<Share> = (1..=10).map(|n| share(n, 1)).collect();
        let before = Maglev::new(&shares).unwrap();
        let after = Maglev::new(&shares[..9]).unwrap();
        let mut kept = 0;
        let mut moved = 0;
        for hash in 0..TABLE_SIZE as u64 {
            match (before.lookup(hash).unwrap(), after.lookup(hash).unwrap()) {
                (9, _) => {}
                (was, is) if was == is => kept += 1,
                _ => moved += 1,
            }
        }
        // A plain `hash % n` would move nine of ten.
        assert!(moved * 20 < kept, "{moved} moved, {kept} kept");
    }

    #[test]
    fn every_appliance_computes_the_same_table() {
        let one = Maglev::new(&[share(1, 1), share(2, 3), share(3, 1)]).unwrap();
        let other = Maglev::new(&[share(3, 1), share(1, 1), share(2, 3)]).unwrap();
        for hash in 0..TABLE_SIZE as u64 {
            let place = one.lookup(hash).unwrap();
            assert_eq!(other.lookup(hash), Some((place + 1) % 3), "the order of configuration doesn't matter");
        }
        // Known answers: appliances of different versions must agree.
        let firsts: Vec<u16> = one.slots[..16].to_vec();
        assert_eq!(firsts, [1, 2, 1, 0, 2, 1, 1, 1, 1, 1, 2, 1, 2, 1, 1, 2]);
    }

    #[test]
    fn limits() {
        assert_eq!(Maglev::new(&[]).unwrap().lookup(7), None);
        assert_eq!(Maglev::new(&[share(1, 0)]), Err(MaglevError::ZeroWeight(share(1, 0).address)));
        assert_eq!(Maglev::new(&[share(1, 1), share(1, 2)]), Err(MaglevError::Duplicate(share(1, 0).address)));
        let many: Vec<Share> = (0..=TARGETS_MAX as u8).map(|n| share(n, 1)).collect();
        assert_eq!(Maglev::new(&many), Err(MaglevError::TooManyTargets));
        assert!(counts(&[share(1, 1), share(2, u16::MAX)])[1] >= TABLE_SIZE - 1);
    }
}
