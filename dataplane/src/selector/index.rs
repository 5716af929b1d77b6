//! From a packet to the newest child SA whose selectors it lies in.
//!
//! The remote selectors are kept as prefixes in a hash table; a packet asks once per prefix length that occurs. So a look-up costs
//! what the number of different lengths costs, not what the number of SAs does.

use std::collections::hash_map::Entry;

use vipsec_wire::ip::Address;

use super::{Ends, Range, Selectors};
use crate::own_hash::KeyedMap;
use crate::prefix::{AddressPrefix, Lengths};

/// Finds child SAs, which are numbers to it, by their selectors.
#[derive(Debug)]
pub struct SelectorIndex {
    buckets: KeyedMap<AddressPrefix, Bucket>,
    v4: Lengths,
    v6: Lengths,
    /// Counts up with every child SA.
    born: u64,
}

/// One child SA at one prefix.
#[derive(Debug)]
struct Candidate {
    born: u64,
    sa: u32,
    vip: u16,
    local: Local,
}

/// What our end has to be, and the upper layer.
#[derive(Debug)]
enum Local {
    /// This address; any protocol and port.
    Host(Address),
    /// Whatever selectors can say: our end's and the other end's.
    Ranges(Box<(Range, Range)>),
}

impl Candidate {
    #[inline]
    fn matches(&self, vip: u16, ends: &Ends) -> bool {
        self.vip == vip
            && match &self.local {
                Local::Host(local) => *local == ends.local,
                Local::Ranges(ranges) => {
                    let (local_port, remote_port) = ends.ports.unzip();
                    ranges.0.matches(ends.local, ends.protocol, local_port)
                        && ranges.1.matches(ends.remote, ends.protocol, remote_port)
                }
            }
    }
}

/// The child SAs at one prefix, newest last.
#[derive(Debug)]
enum Bucket {
    One(Candidate),
    Many(Vec<Candidate>),
}

impl Bucket {
    fn push(&mut self, candidate: Candidate) {
        match std::mem::replace(self, Self::Many(Vec::new())) {
            Self::One(first) => *self = Self::Many(vec![first, candidate]),
            Self::Many(mut all) => {
                all.push(candidate);
                *self = Self::Many(all);
            }
        }
    }

    #[inline]
    fn as_slice(&self) -> &[Candidate] {
        match self {
            Self::One(candidate) => std::slice::from_ref(candidate),
            Self::Many(candidates) => candidates,
        }
    }

    /// Takes a child SA out; `None` when nothing is left.
    fn without(self, sa: u32) -> Option<Self> {
        match self {
            Self::One(candidate) => (candidate.sa != sa).then_some(Self::One(candidate)),
            Self::Many(mut all) => {
                all.retain(|candidate| candidate.sa != sa);
                match all.pop() {
                    Some(last) if all.is_empty() => Some(Self::One(last)),
                    Some(last) => {
                        all.push(last);
                        Some(Self::Many(all))
                    }
                    None => None,
                }
            }
        }
    }
}

impl SelectorIndex {
    /// An empty index. `seed` keys its hash: remote peers have a say in their selectors.
    pub fn new(seed: u64) -> Self {
        Self { buckets: KeyedMap::with_hasher(seed.into()), v4: Lengths::default(), v6: Lengths::default(), born: 0 }
    }

    /// Adds a child SA of a VIP, the newest from now on.
    pub fn insert(&mut self, sa: u32, vip: u16, selectors: &Selectors) {
        self.born += 1;
        for remote in selectors.remote.iter() {
            for local in selectors.local.iter() {
                let local = if remote.any && local.is_plain_host() {
                    Local::Host(local.first)
                } else {
                    Local::Ranges(Box::new((*local, *remote)))
                };
                self.insert_range(sa, vip, remote, local);
            }
        }
    }

    fn insert_range(&mut self, sa: u32, vip: u16, remote: &Range, local: Local) {
        let lengths = if remote.is_v4 { &mut self.v4 } else { &mut self.v6 };
        for prefix in remote.prefixes() {
            let local = match &local {
                Local::Host(address) => Local::Host(*address),
                Local::Ranges(ranges) => Local::Ranges(ranges.clone()),
            };
            lengths.add(prefix.len());
            let candidate = Candidate { born: self.born, sa, vip, local };
            match self.buckets.entry(prefix) {
                Entry::Vacant(vacant) => {
                    vacant.insert(Bucket::One(candidate));
                }
                Entry::Occupied(mut occupied) => occupied.get_mut().push(candidate),
            }
        }
    }

    /// Takes a child SA out that was added with these selectors.
    pub fn remove(&mut self, sa: u32, selectors: &Selectors) {
        for remote in selectors.remote.iter() {
            let lengths = if remote.is_v4 { &mut self.v4 } else { &mut self.v6 };
            for prefix in remote.prefixes() {
                for _ in selectors.local.iter() {
                    lengths.remove(prefix.len());
                }
                if let Some(rest) = self.buckets.remove(&prefix).and_then(|bucket| bucket.without(sa)) {
                    self.buckets.insert(prefix, rest);
                }
            }
        }
    }

    /// The newest child SA of a VIP whose selectors a packet lies in and that `is_ready`.
    #[inline]
    pub fn newest(&self, vip: u16, ends: &Ends, is_ready: impl Fn(u32) -> bool) -> Option<u32> {
        let lengths = if ends.remote.is_v4() { &self.v4 } else { &self.v6 };
        let mut newest: Option<&Candidate> = None;
        for len in lengths.iter() {
            let Some(bucket) = self.buckets.get(&AddressPrefix::containing(ends.remote, len)) else { continue };
            let candidates = bucket.as_slice().iter().rev();
            let matching = candidates
                .take_while(|candidate| newest.is_none_or(|newest| candidate.born > newest.born))
                .find(|candidate| candidate.matches(vip, ends) && is_ready(candidate.sa));
            newest = matching.or(newest);
        }
        newest.map(|candidate| candidate.sa)
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
        assert!(index.buckets.is_empty() && index.v4.is_empty() && index.v6.is_empty());
    }
}
