//! From a packet to the newest child SA whose selectors it lies in.
//!
//! The remote selectors are kept as prefixes in a hash table for each family; a packet asks once per prefix length that occurs. So a
//! look-up costs what the number of different lengths costs, not what the number of SAs does. What is looked at lies close
//! together, so that the tables of a hundred thousand SAs still fit a cache.

use std::hash::Hash;

use vipsec_wire::ip::Address;

use super::{Ends, Range, Selectors};
use crate::own_hash::KeyedMap;
use crate::prefix::{AddressPrefix, Lengths};

/// The end of a chain.
const NONE: u32 = u32::MAX;

/// Most addresses of ours that have a number; there are as many as VIPs have addresses.
const HOSTS_MAX: usize = 256;

/// Finds child SAs, which are numbers to it, by their selectors.
#[derive(Debug)]
pub struct SelectorIndex {
    v4: Table<u64>,
    v6: Table<AddressPrefix>,
    candidates: Vec<Candidate>,
    /// Places among the candidates.
    free: Vec<u32>,
    /// Addresses of ours, by the numbers that candidates name.
    hosts: Vec<Address>,
    /// Counts up with every child SA.
    born: u64,
}

/// The newest candidate at each prefix.
#[derive(Debug)]
struct Table<K> {
    newest: KeyedMap<K, u32>,
    lengths: Lengths,
}

impl<K: Eq + Hash> Table<K> {
    fn new(seed: u64) -> Self {
        Self { newest: KeyedMap::with_hasher(seed.into()), lengths: Lengths::default() }
    }
}

/// One child SA at one prefix.
#[derive(Debug)]
struct Candidate {
    born: u64,
    local: Local,
    sa: u32,
    /// The next older one at this prefix.
    older: u32,
    vip: u16,
}

const _: () = assert!(size_of::<Candidate>() <= 40);

/// What our end has to be, and the upper layer.
#[derive(Debug)]
enum Local {
    /// The address of this number; any protocol and port.
    Host(u16),
    /// Whatever selectors can say: our end's and the other end's.
    Ranges(Box<(Range, Range)>),
}

impl SelectorIndex {
    /// An empty index. `seed` keys its hashes: remote peers have a say in their selectors.
    pub fn new(seed: u64) -> Self {
        Self {
            v4: Table::new(seed),
            v6: Table::new(seed),
            candidates: Vec::new(),
            free: Vec::new(),
            hosts: Vec::new(),
            born: 0,
        }
    }

    /// Adds a child SA of a VIP, the newest from now on.
    pub fn insert(&mut self, sa: u32, vip: u16, selectors: &Selectors) {
        self.born += 1;
        for remote in selectors.remote.iter() {
            for local in selectors.local.iter() {
                for prefix in remote.prefixes() {
                    let local = self.local(local, remote);
                    let place = self.put(Candidate { born: self.born, local, sa, older: NONE, vip });
                    let older = match v4_key(prefix) {
                        Some(key) => push(&mut self.v4, prefix, key, place),
                        None => push(&mut self.v6, prefix, prefix, place),
                    };
                    if let Some(candidate) = self.candidates.get_mut(place as usize) {
                        candidate.older = older;
                    }
                }
            }
        }
    }

    fn local(&mut self, local: &Range, remote: &Range) -> Local {
        if remote.any && local.is_plain_host() {
            let known = self.hosts.iter().position(|host| *host == local.first);
            let number = known.or_else(|| {
                (self.hosts.len() < HOSTS_MAX).then(|| {
                    self.hosts.push(local.first);
                    self.hosts.len() - 1
                })
            });
            if let Some(number) = number {
                return Local::Host(number as u16);
            }
        }
        Local::Ranges(Box::new((*local, *remote)))
    }

    fn put(&mut self, candidate: Candidate) -> u32 {
        match self.free.pop() {
            Some(place) => {
                if let Some(free) = self.candidates.get_mut(place as usize) {
                    *free = candidate;
                }
                place
            }
            None => {
                self.candidates.push(candidate);
                (self.candidates.len() - 1) as u32
            }
        }
    }

    /// Takes a child SA out that was added with these selectors.
    pub fn remove(&mut self, sa: u32, selectors: &Selectors) {
        for remote in selectors.remote.iter() {
            for prefix in remote.prefixes() {
                match v4_key(prefix) {
                    Some(key) => take_out(&mut self.v4, prefix, key, sa, &mut self.candidates, &mut self.free),
                    None => take_out(&mut self.v6, prefix, prefix, sa, &mut self.candidates, &mut self.free),
                }
            }
        }
    }

    /// The newest child SA of a VIP whose selectors a packet lies in and that `is_ready`.
    #[inline]
    pub fn newest(&self, vip: u16, ends: &Ends, is_ready: impl Fn(u32) -> bool) -> Option<u32> {
        if ends.remote.is_v4() {
            let at = |len| self.v4.newest.get(&v4_key(AddressPrefix::containing(ends.remote, len))?).copied();
            self.search(self.v4.lengths.iter().filter_map(at), vip, ends, is_ready)
        } else {
            let at = |len| self.v6.newest.get(&AddressPrefix::containing(ends.remote, len)).copied();
            self.search(self.v6.lengths.iter().filter_map(at), vip, ends, is_ready)
        }
    }

    #[inline]
    fn search(
        &self,
        chains: impl Iterator<Item = u32>,
        vip: u16,
        ends: &Ends,
        is_ready: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let mut newest: Option<&Candidate> = None;
        for mut place in chains {
            while let Some(candidate) = self.candidates.get(place as usize) {
                if newest.is_some_and(|newest| newest.born >= candidate.born) {
                    break;
                }
                if candidate.vip == vip && self.matches(&candidate.local, ends) && is_ready(candidate.sa) {
                    newest = Some(candidate);
                    break;
                }
                place = candidate.older;
            }
        }
        newest.map(|candidate| candidate.sa)
    }

    #[inline]
    fn matches(&self, local: &Local, ends: &Ends) -> bool {
        match local {
            Local::Host(number) => self.hosts.get(usize::from(*number)) == Some(&ends.local),
            Local::Ranges(ranges) => {
                let (local_port, remote_port) = ends.ports.unzip();
                ranges.0.matches(ends.local, ends.protocol, local_port)
                    && ranges.1.matches(ends.remote, ends.protocol, remote_port)
            }
        }
    }
}

/// An IPv4 prefix in one word: eight bytes a key instead of thirty-two.
#[inline]
fn v4_key(prefix: AddressPrefix) -> Option<u64> {
    prefix.is_v4().then(|| (prefix.bits() as u32 as u64) << 8 | u64::from(prefix.len()))
}

/// Makes a candidate the newest at a prefix. Returns the one before it.
fn push<K: Eq + Hash>(table: &mut Table<K>, prefix: AddressPrefix, key: K, place: u32) -> u32 {
    table.lengths.add(prefix.len());
    table.newest.insert(key, place).unwrap_or(NONE)
}

/// Takes every candidate of a child SA out of the chain at a prefix.
fn take_out<K: Eq + Hash>(
    table: &mut Table<K>,
    prefix: AddressPrefix,
    key: K,
    sa: u32,
    candidates: &mut [Candidate],
    free: &mut Vec<u32>,
) {
    let Some(&newest) = table.newest.get(&key) else { return };
    let (mut first, mut before, mut place) = (NONE, NONE, newest);
    while let Some(candidate) = candidates.get_mut(place as usize) {
        let older = candidate.older;
        if candidate.sa == sa {
            // What it held goes; the place is taken again later.
            candidate.local = Local::Host(u16::MAX);
            free.push(place);
            table.lengths.remove(prefix.len());
            if let Some(before) = candidates.get_mut(before as usize) {
                before.older = older;
            }
        } else {
            if first == NONE {
                first = place;
            }
            before = place;
        }
        place = older;
    }
    if first == NONE {
        table.newest.remove(&key);
    } else {
        table.newest.insert(key, first);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use proptest::prelude::*;
    use vipsec_esp::sa::Selector;

    const VIP: [u8; 4] = [192, 0, 2, 1];

    fn ends(remote: [u8; 4], protocol: u8, ports: Option<(u16, u16)>) -> Ends {
        Ends { local: IpAddr::from(VIP).into(), remote: IpAddr::from(remote).into(), protocol, ports }
    }

    /// Few addresses, so that selectors overlap.
    fn selector() -> impl Strategy<Value = Selector> {
        let addresses = prop_oneof![
            3 => (0u8..16).prop_map(|n| (n, n)),
            2 => (0u8..16, 0u8..16).prop_map(|(a, b)| (a.min(b), a.max(b))),
            1 => Just((0, 255)),
        ];
        let addresses = addresses.prop_map(|(a, b)| IpAddr::from([10, 0, 0, a])..=IpAddr::from([10, 0, 0, b]));
        let ports = prop_oneof![2 => Just(0..=u16::MAX), 1 => Just(80..=81u16)];
        (addresses, prop_oneof![2 => Just(None), 1 => Just(Some(6u8))], ports)
            .prop_map(|(addresses, protocol, ports)| Selector { addresses, protocol, ports })
    }

    fn local() -> impl Strategy<Value = Selector> {
        let any = Selector { addresses: VIP.into()..=VIP.into(), protocol: None, ports: 0..=u16::MAX };
        let net = Selector { addresses: [192, 0, 2, 0].into()..=[192, 0, 2, 9].into(), ..any.clone() };
        let http = Selector { protocol: Some(6), ports: 80..=80, ..any.clone() };
        prop_oneof![2 => Just(any), 1 => Just(net), 1 => Just(http)]
    }

    proptest! {
        /// Against the definition: try all, the newest first.
        #[test]
        fn finds_the_newest_that_matches(
            sas in prop::collection::vec(
                (0u16..2, prop::collection::vec(local(), 1..3), prop::collection::vec(selector(), 1..4), any::<bool>(), any::<bool>()),
                0..24,
            ),
            asked in prop::collection::vec((0u8..18, 0u16..2, prop::sample::select(vec![6u8, 17]), prop::option::of(79u16..83)), 1..20),
        ) {
            let mut index = SelectorIndex::new(7);
            let compiled: Vec<Selectors> = sas.iter().map(|(_, local, remote, ..)| Selectors::new(local, remote)).collect();
            for (sa, (vip, ..)) in (0u32..).zip(&sas) {
                index.insert(sa, *vip, &compiled[sa as usize]);
            }
            for (sa, (.., removed)) in (0u32..).zip(&sas) {
                if *removed {
                    index.remove(sa, &compiled[sa as usize]);
                }
            }
            let is_ready = |sa: u32| sas[sa as usize].3;
            for (last, vip, protocol, port) in asked {
                let ends = ends([10, 0, 0, last], protocol, port.map(|port| (port, port)));
                let expected = (0..sas.len() as u32).rev().find(|sa| {
                    let (own, _, _, _, removed) = &sas[*sa as usize];
                    *own == vip && !removed && is_ready(*sa) && compiled[*sa as usize].match_ends(&ends)
                });
                prop_assert_eq!(index.newest(vip, &ends, is_ready), expected);
            }
        }
    }

    #[test]
    fn nothing_stays_behind() {
        let mut index = SelectorIndex::new(7);
        let any = |a, b| Selector { addresses: IpAddr::from(a)..=IpAddr::from(b), protocol: None, ports: 0..=u16::MAX };
        let selectors = Selectors::new(
            &[any(VIP, VIP)],
            &[any([10, 0, 0, 1], [10, 0, 0, 254]), any([10, 1, 0, 0], [10, 1, 255, 255])],
        );
        index.insert(1, 0, &selectors);
        index.insert(2, 0, &selectors);
        index.remove(1, &selectors);
        assert_eq!(index.newest(0, &ends([10, 1, 2, 3], 6, None), |_| true), Some(2));
        index.remove(2, &selectors);
        assert!(
            index.v4.newest.is_empty() && index.v4.lengths.is_empty() && index.candidates.len() == index.free.len()
        );
    }
}
