//! From a packet to the newest child SA whose selectors it lies in.
//!
//! The remote selectors are kept as prefixes in a hash table for each family; a packet asks once per prefix length that occurs. So a
//! look-up costs what the number of different lengths costs, not what the number of SAs does: mostly one cache line, which
//! [`SelectorIndex::prefetch`] asks for while other packets are worked on.

use vipsec_wire::ip::Address;

use super::prefix_table::{Bits, NONE, Newest, PrefixTable};
use super::{Ends, Range, Selectors};
use crate::prefix::AddressPrefix;

/// Most addresses of ours that have a number; there are as many as VIPs have addresses.
const HOSTS_MAX: usize = NO_HOST as usize;
/// More than an address has to be compared.
const NO_HOST: u8 = u8::MAX;

/// Finds child SAs, which are numbers to it, by their selectors.
#[derive(Debug)]
pub struct SelectorIndex {
    v4: PrefixTable<u32>,
    v6: PrefixTable<u128>,
    candidates: Vec<Candidate>,
    /// Places among the candidates.
    free: Vec<u32>,
    /// Addresses of ours, by the numbers that candidates name.
    hosts: Vec<Address>,
    /// Counts up with every child SA.
    born: u64,
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
    Host(u8),
    /// Whatever selectors can say: our end's and the other end's.
    Ranges(Box<(Range, Range)>),
}

impl SelectorIndex {
    /// An empty index. `seed` keys its hashes: remote peers have a say in their selectors.
    pub fn new(seed: u64) -> Self {
        Self {
            v4: PrefixTable::new(seed),
            v6: PrefixTable::new(seed),
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
                    let older = if prefix.is_v4() { self.v4.at(prefix) } else { self.v6.at(prefix) };
                    let place = self.put(Candidate { born: self.born, local, sa, older, vip });
                    if prefix.is_v4() {
                        self.v4.lengths.add(prefix.len());
                        set_newest(&mut self.v4, prefix, place, &self.candidates);
                    } else {
                        self.v6.lengths.add(prefix.len());
                        set_newest(&mut self.v6, prefix, place, &self.candidates);
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
                return Local::Host(number as u8);
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
                if prefix.is_v4() {
                    take_out(&mut self.v4, prefix, sa, &mut self.candidates, &mut self.free);
                } else {
                    take_out(&mut self.v6, prefix, sa, &mut self.candidates, &mut self.free);
                }
            }
        }
    }

    /// Asks for what [`newest`](Self::newest) touches for packets to a remote host, without waiting: call it for a whole burst first.
    #[inline]
    pub fn prefetch(&self, remote: Address) {
        if remote.is_v4() { self.v4.prefetch(remote) } else { self.v6.prefetch(remote) }
    }

    /// The newest child SA of a VIP whose selectors a packet lies in and that `is_ready`.
    #[inline]
    pub fn newest(&self, vip: u16, ends: &Ends, is_ready: impl Fn(u32) -> bool) -> Option<u32> {
        if ends.remote.is_v4() {
            self.search(self.v4.newest(ends.remote), vip, ends, is_ready)
        } else {
            self.search(self.v6.newest(ends.remote), vip, ends, is_ready)
        }
    }

    #[inline]
    fn search(
        &self,
        at_prefixes: impl Iterator<Item = Newest>,
        vip: u16,
        ends: &Ends,
        is_ready: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let mut found: Option<Found> = None;
        for Newest { candidate, sa, vip: own, host } in at_prefixes {
            // What nearly every packet meets: one prefix, whose newest child SA takes it.
            let is_host = self.hosts.get(usize::from(host)) == Some(&ends.local);
            if found.is_none() && own == vip && is_host && is_ready(sa) {
                found = Some(Found { candidate, sa });
            } else {
                found = self.newer(found, candidate, vip, ends, &is_ready);
            }
        }
        found.map(|found| found.sa)
    }

    /// The newest of a chain that takes a packet, if it is newer than what was found before.
    #[inline(never)]
    fn newer(
        &self,
        before: Option<Found>,
        mut place: u32,
        vip: u16,
        ends: &Ends,
        is_ready: impl Fn(u32) -> bool,
    ) -> Option<Found> {
        let born = before.and_then(|before| self.candidates.get(before.candidate as usize)).map(|found| found.born);
        while let Some(candidate) = self.candidates.get(place as usize) {
            if born.is_some_and(|born| born >= candidate.born) {
                break;
            }
            if candidate.vip == vip && self.matches(&candidate.local, ends) && is_ready(candidate.sa) {
                return Some(Found { candidate: place, sa: candidate.sa });
            }
            place = candidate.older;
        }
        before
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

/// A child SA that takes a packet.
#[derive(Debug, Clone, Copy)]
struct Found {
    candidate: u32,
    sa: u32,
}

/// Makes a candidate the newest at a prefix.
fn set_newest<B: Bits>(table: &mut PrefixTable<B>, prefix: AddressPrefix, place: u32, candidates: &[Candidate]) {
    let Some(&Candidate { sa, vip, ref local, .. }) = candidates.get(place as usize) else { return };
    let host = match local {
        Local::Host(number) => *number,
        Local::Ranges(_) => NO_HOST,
    };
    table.put(prefix, Newest { candidate: place, sa, vip, host });
}

/// Takes every candidate of a child SA out of the chain at a prefix.
fn take_out<B: Bits>(
    table: &mut PrefixTable<B>,
    prefix: AddressPrefix,
    sa: u32,
    candidates: &mut [Candidate],
    free: &mut Vec<u32>,
) {
    let (mut first, mut before, mut place) = (NONE, NONE, table.at(prefix));
    while let Some(candidate) = candidates.get_mut(place as usize) {
        let older = candidate.older;
        if candidate.sa == sa {
            // What it held goes; the place is taken again later.
            candidate.local = Local::Host(NO_HOST);
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
        table.remove(prefix);
    } else {
        set_newest(table, prefix, first, candidates);
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
        assert!(index.v4.is_empty() && index.v4.lengths.is_empty() && index.candidates.len() == index.free.len());
    }
}
