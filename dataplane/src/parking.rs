//! Packets above the horizon, waiting for a grant (rule R3).
//!
//! A grant is for one SA, and whoever sends a parked packet again is not to fill the place with it. Thousands may wait, of as many SAs,
//! so nobody goes through all of them: a packet is found by its SA and number, and each SA's own are chained in order of arrival.

use std::hash::BuildHasher;
use std::time::Instant;

use vipsec_esp::inbound::Opened;
use vipsec_esp::sa::Spi;

use crate::aged_table::AgedTable;
use crate::outer::Outer;
use crate::own_hash::{KeyedMap, Seed};
use crate::waiting::WAITING_TIME_MAX;

/// A packet that was authentic, decrypted, and is not yet delivered.
#[derive(Debug)]
pub(crate) struct Parked<B> {
    pub(crate) packet: B,
    pub(crate) spi: Spi,
    pub(crate) esp: Opened,
    pub(crate) outer: Outer,
    pub(crate) since: Instant,
}

/// Why a packet is not parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotParked {
    /// It is there already.
    Again,
    /// No room.
    Full,
}

/// Packets that are parked. All its memory is allocated at the start.
#[derive(Debug)]
pub(crate) struct Parking<B> {
    packets: AgedTable<Link<B>>,
    /// The packets of each SA that has any.
    chains: KeyedMap<Spi, Chain>,
    seed: Seed,
}

/// A packet, and its neighbours among those of its SA.
#[derive(Debug)]
struct Link<B> {
    parked: Parked<B>,
    earlier: Option<u32>,
    later: Option<u32>,
}

/// Places of an SA's packets.
#[derive(Debug, Clone, Copy)]
struct Chain {
    first: u32,
    last: u32,
}

impl<B> Parking<B> {
    /// For so many packets, at least one. `seed` keys the hash: nobody outside can aim for one bucket.
    pub(crate) fn new(packets_max: usize, seed: u64) -> Self {
        let seed = Seed::from(seed);
        // A map that has room to spare puts itself in order in place.
        let chains = KeyedMap::with_capacity_and_hasher(packets_max.max(1).saturating_mul(2), seed);
        Self { packets: AgedTable::new(packets_max), chains, seed }
    }

    /// Behind all others.
    pub(crate) fn push(&mut self, parked: Parked<B>) -> Result<(), NotParked> {
        let (spi, number) = (parked.spi, parked.esp.number);
        let hash = self.seed.hash_one((spi, number));
        let is_same = |link: &Link<B>| (link.parked.spi, link.parked.esp.number) == (spi, number);
        if self.packets.find(hash, is_same).is_some() {
            return Err(NotParked::Again);
        }
        let earlier = self.chains.get(&spi).map(|chain| chain.last);
        let at = self.packets.insert(hash, Link { parked, earlier, later: None }).map_err(|_| NotParked::Full)?;
        if let Some(earlier) = earlier.and_then(|earlier| self.packets.get_mut(earlier)) {
            earlier.later = Some(at);
        }
        self.chains.entry(spi).and_modify(|chain| chain.last = at).or_insert(Chain { first: at, last: at });
        Ok(())
    }

    /// The place of the SA's packet that came first.
    pub(crate) fn first_of(&self, spi: Spi) -> Option<u32> {
        self.chains.get(&spi).map(|chain| chain.first)
    }

    /// The number of the packet in a place, and the place of the SA's next one.
    pub(crate) fn look_at(&self, place: u32) -> Option<(u64, Option<u32>)> {
        self.packets.get(place).map(|link| (link.parked.esp.number, link.later))
    }

    /// Takes a packet out.
    pub(crate) fn take(&mut self, place: u32) -> Option<Parked<B>> {
        let Link { parked, earlier, later } = self.packets.remove(place)?;
        if let Some(earlier) = earlier.and_then(|earlier| self.packets.get_mut(earlier)) {
            earlier.later = later;
        }
        if let Some(later) = later.and_then(|later| self.packets.get_mut(later)) {
            later.earlier = earlier;
        }
        match (earlier, later, self.chains.get_mut(&parked.spi)) {
            (None, None, _) => drop(self.chains.remove(&parked.spi)),
            (None, Some(later), Some(chain)) => chain.first = later,
            (Some(earlier), None, Some(chain)) => chain.last = earlier,
            _ => {}
        }
        Some(parked)
    }

    /// Frees those of an SA. Returns how many there were.
    pub(crate) fn forget(&mut self, spi: Spi) -> usize {
        std::iter::from_fn(|| self.first_of(spi).and_then(|first| self.take(first))).count()
    }

    /// Frees those that have waited too long. Returns how many there were.
    pub(crate) fn expire(&mut self, now: Instant) -> usize {
        let is_over = |link: &Link<B>| link.parked.since + WAITING_TIME_MAX <= now;
        let oldest = |parking: &Self| parking.packets.oldest().filter(|(_, link)| is_over(link)).map(|(at, _)| at);
        std::iter::from_fn(|| oldest(self).and_then(|oldest| self.take(oldest))).count()
    }

    /// When the oldest will have waited too long.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.packets.oldest().map(|(_, link)| link.parked.since + WAITING_TIME_MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use proptest::prelude::*;
    use vipsec_wire::ip::Address;

    use super::*;

    const PACKETS_MAX: usize = 10;

    fn parked(sa: u8, number: u64, since: Instant) -> Parked<()> {
        let source = Address::from(Ipv4Addr::new(192, 0, 2, 1));
        Parked {
            packet: (),
            spi: spi(sa),
            esp: Opened { number, text_len: 100, next_header: 4 },
            outer: Outer { source, udp_port: None, vip: 0, traffic_class: 0, ttl: 64 },
            since,
        }
    }

    fn spi(sa: u8) -> Spi {
        Spi::new(0x1000 + u32::from(sa)).unwrap()
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Push {
            sa: u8,
            number: u64,
        },
        /// What a grant does.
        TakeUpTo {
            sa: u8,
            horizon: u64,
        },
        Forget {
            sa: u8,
        },
        Wait {
            ms: u64,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0u8..3, 0u64..12).prop_map(|(sa, number)| Step::Push { sa, number }),
            2 => (0u8..3, 0u64..12).prop_map(|(sa, horizon)| Step::TakeUpTo { sa, horizon }),
            1 => (0u8..3).prop_map(|sa| Step::Forget { sa }),
            1 => (1u64..1500).prop_map(|ms| Step::Wait { ms }),
        ]
    }

    proptest! {
        /// Against a list that is gone through.
        #[test]
        fn behaves_like_a_list(steps in proptest::collection::vec(step(), 0..200)) {
            let mut now = Instant::now();
            let mut parking = Parking::new(PACKETS_MAX, 7);
            let mut list: Vec<(u8, u64, Instant)> = Vec::new();
            for step in steps {
                match step {
                    Step::Push { sa, number } => {
                        let expected = if list.iter().any(|(of, other, _)| (*of, *other) == (sa, number)) {
                            Err(NotParked::Again)
                        } else if list.len() == PACKETS_MAX {
                            Err(NotParked::Full)
                        } else {
                            list.push((sa, number, now));
                            Ok(())
                        };
                        prop_assert_eq!(parking.push(parked(sa, number, now)), expected);
                    }
                    Step::TakeUpTo { sa, horizon } => {
                        let mut taken = Vec::new();
                        let mut next = parking.first_of(spi(sa));
                        while let Some((place, (number, later))) = next.and_then(|at| Some((at, parking.look_at(at)?))) {
                            next = later;
                            if number <= horizon {
                                taken.push(parking.take(place).map(|parked| parked.esp.number));
                            }
                        }
                        let expected = list.extract_if(.., |(of, number, _)| *of == sa && *number <= horizon);
                        prop_assert_eq!(taken, expected.map(|(_, number, _)| Some(number)).collect::<Vec<_>>());
                    }
                    Step::Forget { sa } => {
                        let expected = list.extract_if(.., |(of, ..)| *of == sa).count();
                        prop_assert_eq!(parking.forget(spi(sa)), expected);
                    }
                    Step::Wait { ms } => {
                        now += Duration::from_millis(ms);
                        let expected = list.extract_if(.., |(.., since)| *since + WAITING_TIME_MAX <= now).count();
                        prop_assert_eq!(parking.expire(now), expected);
                    }
                }
                prop_assert_eq!(parking.poll_timeout(), list.first().map(|(.., since)| *since + WAITING_TIME_MAX));
            }
        }
    }
}
