//! The neighbour cache: who has which MAC address, as a state machine without I/O.
//!
//! ```text
//!            resolve            answer                 30 s, used             answer
//!  (unknown) -------> incomplete ------> reachable ---------------> probing --------> reachable
//!                         |                  | 30 s, unused            |
//!                         +--- 3 requests ---+------- forgotten -------+ 3 requests
//! ```
//!
//! Who asks for an address of ours is reachable without having been asked (RFC 826).
//!
//! Requests go out at most once a second per neighbour (RFC 1122 §2.3.2.1).

use std::collections::{HashMap, VecDeque, hash_map};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use vipsec_wire::ethernet::MacAddr;

use crate::api::PortId;
use crate::drops::DropReason;

/// Packets that wait for one neighbour at most.
pub(crate) const PENDING_MAX: usize = 32;

/// Requests before we give up.
const REQUESTS_MAX: u8 = 3;
/// Time between two requests.
const REQUEST_INTERVAL: Duration = Duration::from_secs(1);
/// After one that was dropped here.
const LOST_INTERVAL: Duration = Duration::from_millis(10);
/// How long an answer is believed before it is asked for again.
const REACHABLE_TIME: Duration = Duration::from_secs(30);

/// An ARP request or neighbour solicitation to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    /// Port to send by.
    pub(crate) port: PortId,
    /// Who is asked for.
    pub(crate) address: IpAddr,
    /// Where it was last: asked there alone (RFC 1122 §2.3.2.1 (2), unicast poll; RFC 4861 §7.3.3). `None`: asked of everybody.
    pub(crate) known: Option<MacAddr>,
}

/// Packets that waited for a neighbour.
pub(crate) type Pending<B> = ArrayVec<B, PENDING_MAX>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Incomplete { requests: u8 },
    Reachable { mac: MacAddr },
    Probing { mac: MacAddr, requests: u8 },
}

#[derive(Debug)]
struct Entry<B> {
    state: State,
    /// When the state ends.
    until: Instant,
    /// Since it became reachable, or is being probed.
    used: bool,
    pending: Pending<B>,
}

impl<B> Entry<B> {
    fn mac(&self) -> Option<MacAddr> {
        match self.state {
            State::Incomplete { .. } => None,
            State::Reachable { mac } | State::Probing { mac, .. } => Some(mac),
        }
    }
}

/// The neighbours of all ports.
#[derive(Debug)]
pub(crate) struct NeighbourCache<B> {
    /// Stations on the network put keys in by asking for us, so its hash is keyed.
    entries: HashMap<(PortId, IpAddr), Entry<B>>,
    entries_max: usize,
    requests: VecDeque<Request>,
    /// No entry's state ends before.
    next_timeout: Option<Instant>,
    reachable_time: Duration,
    /// Counts up whenever an answer of [`resolved`](Self::resolved) isn't good any more.
    changes: u32,
}

impl<B> NeighbourCache<B> {
    /// An empty cache for at most `entries_max` neighbours.
    pub(crate) fn new(entries_max: usize) -> Self {
        Self {
            entries: HashMap::with_capacity(entries_max),
            entries_max,
            requests: VecDeque::with_capacity(entries_max),
            next_timeout: None,
            reachable_time: REACHABLE_TIME,
            changes: 0,
        }
    }

    /// Believes answers that much longer: where several caches hear of the same answers, the most impatient one asks for all.
    pub(crate) fn be_patient(&mut self, longer: Duration) {
        self.reachable_time = REACHABLE_TIME + longer;
    }

    /// Counts up whenever what [`resolved`](Self::resolved) said has to be asked for again: an address changed or went, or a
    /// neighbour is being probed and only goes on being known if it is used.
    #[inline]
    pub(crate) fn changes(&self) -> u32 {
        self.changes
    }

    /// The MAC address of a neighbour that is resolved. Good until the next of [`changes`](Self::changes).
    pub(crate) fn resolved(&mut self, port: PortId, address: IpAddr) -> Option<MacAddr> {
        let entry = self.entries.get_mut(&(port, address))?;
        entry.used = true;
        entry.mac()
    }

    /// The MAC address of a neighbour, without making use of it.
    pub(crate) fn known(&self, port: PortId, address: IpAddr) -> Option<MacAddr> {
        self.entries.get(&(port, address)).and_then(Entry::mac)
    }

    /// Requests may have been dropped before they left: who is not resolved is asked again soon, and the lost one doesn't count.
    pub(crate) fn handle_lost_requests(&mut self, now: Instant) {
        let again = now + LOST_INTERVAL;
        for entry in self.entries.values_mut() {
            if let State::Incomplete { requests } = &mut entry.state {
                *requests = requests.saturating_sub(1);
                entry.until = entry.until.min(again);
                self.next_timeout = Some(self.next_timeout.map_or(again, |next| next.min(again)));
            }
        }
    }

    /// Begins to resolve a neighbour that packets will soon be sent to. Without room for it they will have to wait.
    pub(crate) fn prepare(&mut self, now: Instant, port: PortId, address: IpAddr) {
        let _ = self.entry(now, port, address);
    }

    /// The entry of a neighbour; a new one is being resolved.
    fn entry(&mut self, now: Instant, port: PortId, address: IpAddr) -> Result<&mut Entry<B>, DropReason> {
        let full = self.entries.len() >= self.entries_max;
        match self.entries.entry((port, address)) {
            hash_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            hash_map::Entry::Vacant(_) if full => Err(DropReason::NeighbourTableFull),
            hash_map::Entry::Vacant(vacant) => {
                let until = now + REQUEST_INTERVAL;
                self.requests.push_back(Request { port, address, known: None });
                self.next_timeout = Some(self.next_timeout.map_or(until, |next| next.min(until)));
                Ok(vacant.insert(Entry {
                    state: State::Incomplete { requests: 1 },
                    until,
                    used: false,
                    pending: Pending::new(),
                }))
            }
        }
    }

    /// Keeps a packet until its neighbour is resolved, and begins to resolve it.
    /// Returns a reason when a packet, this one or an older one, was dropped for it.
    pub(crate) fn wait(&mut self, now: Instant, port: PortId, address: IpAddr, packet: B) -> Result<(), DropReason> {
        let entry = self.entry(now, port, address)?;
        // RFC 1122 §2.3.2.2: "SHOULD save (rather than discard) at least one (the latest) packet of each set of packets destined
        // to the same unresolved IP address": the oldest one makes room.
        let dropped = if entry.pending.is_full() { entry.pending.pop_at(0) } else { None };
        entry.pending.push(packet);
        if dropped.is_some() { Err(DropReason::NeighbourQueueFull) } else { Ok(()) }
    }

    /// A station says that it has an address. Only neighbours that we are interested in are remembered.
    /// Returns the packets that waited for it.
    pub(crate) fn handle_claim(&mut self, now: Instant, port: PortId, address: IpAddr, mac: MacAddr) -> Pending<B> {
        let Some(entry) = self.entries.get_mut(&(port, address)) else { return Pending::new() };
        if entry.mac().is_some_and(|before| before != mac) {
            self.changes = self.changes.wrapping_add(1);
        }
        entry.state = State::Reachable { mac };
        entry.until = now + self.reachable_time;
        // Packets that waited are a use.
        entry.used |= !entry.pending.is_empty();
        // Timeouts only move back here, so the earliest known one stays a lower bound.
        std::mem::take(&mut entry.pending)
    }

    /// A station that asks for an address of ours says its own with the question. Returns the packets that waited for it.
    pub(crate) fn handle_introduction(
        &mut self,
        now: Instant,
        port: PortId,
        address: IpAddr,
        mac: MacAddr,
    ) -> Pending<B> {
        // RFC 826: "Am I the target protocol address? … If Merge_flag is false, add the triplet": who asks is about to be talked to.
        // Half of the places stay for neighbours that we ask for ourselves, so that nobody can crowd them out.
        let known = self.entries.contains_key(&(port, address));
        if !known && self.entries.len() < self.entries_max / 2 {
            let until = now + self.reachable_time;
            self.next_timeout = Some(self.next_timeout.map_or(until, |next| next.min(until)));
            let entry = Entry { state: State::Reachable { mac }, until, used: false, pending: Pending::new() };
            self.entries.insert((port, address), entry);
        }
        self.handle_claim(now, port, address, mac)
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.next_timeout
    }

    /// Asks again, refreshes what is used, forgets what is not. Returns how many packets waited in vain.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> usize {
        if self.next_timeout.is_none_or(|next| next > now) {
            return 0;
        }
        let mut in_vain = 0;
        let (requests, changes) = (&mut self.requests, &mut self.changes);
        self.entries.retain(|&(port, address), entry| {
            if entry.until > now {
                return true;
            }
            let (known, count) = match entry.state {
                State::Reachable { .. } if !entry.used => {
                    *changes = changes.wrapping_add(1);
                    return false;
                }
                State::Reachable { mac } => {
                    *changes = changes.wrapping_add(1);
                    entry.used = false;
                    (Some(mac), 1)
                }
                State::Incomplete { requests } => (None, requests.saturating_add(1)),
                State::Probing { mac, requests } => (Some(mac), requests.saturating_add(1)),
            };
            if count > REQUESTS_MAX {
                *changes = changes.wrapping_add(1);
                in_vain += entry.pending.len();
                return false;
            }
            entry.state = match known {
                Some(mac) => State::Probing { mac, requests: count },
                None => State::Incomplete { requests: count },
            };
            entry.until = now + REQUEST_INTERVAL;
            requests.push_back(Request { port, address, known });
            true
        });
        // The same input gives the same output: the table's own order is a random one.
        self.requests.make_contiguous().sort_unstable_by_key(|request| (request.port, request.address));
        self.next_timeout = self.entries.values().map(|entry| entry.until).min();
        in_vain
    }

    /// Frees the packets that wait, but those to be kept. Returns how many it were.
    pub(crate) fn forget_pending(&mut self, keep: impl Fn(&B) -> bool) -> usize {
        let forget = |entry: &mut Entry<B>| {
            let before = entry.pending.len();
            entry.pending.retain(|packet| keep(packet));
            before - entry.pending.len()
        };
        self.entries.values_mut().map(forget).sum()
    }

    /// The next request to send.
    pub(crate) fn poll_request(&mut self) -> Option<Request> {
        self.requests.pop_front()
    }

    /// All neighbours.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpAddr, Option<MacAddr>, PortId)> + '_ {
        self.entries.iter().map(|(&(port, address), entry)| (address, entry.mac(), port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: PortId = PortId(0);
    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
    const SECOND: Duration = Duration::from_secs(1);

    fn host(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    fn request(known: Option<MacAddr>) -> Option<Request> {
        Some(Request { port: PORT, address: host(9), known })
    }

    #[test]
    fn resolves_with_one_request_and_releases_in_order() {
        let now = Instant::now();
        let mut cache = NeighbourCache::new(4);
        assert_eq!(cache.resolved(PORT, host(9)), None);
        /* who has 192.0.2.9? --> */
        cache.wait(now, PORT, host(9), 'a').unwrap();
        cache.wait(now, PORT, host(9), 'b').unwrap();
        assert_eq!(cache.poll_request(), request(None));
        assert_eq!(cache.poll_request(), None, "one request, however many packets");
        /* <-- 192.0.2.9 is at MAC */
        assert_eq!(cache.handle_claim(now, PORT, host(9), MAC).as_slice(), ['a', 'b']);
        assert_eq!(cache.resolved(PORT, host(9)), Some(MAC));
        assert_eq!(cache.resolved(PortId(1), host(9)), None, "a neighbour belongs to a port");
    }

    #[test]
    fn asks_three_times_once_a_second_then_gives_up() {
        let now = Instant::now();
        let mut cache = NeighbourCache::new(4);
        cache.wait(now, PORT, host(9), 'a').unwrap();
        assert_eq!(cache.poll_request(), request(None));
        for n in 1..=2 {
            assert_eq!(cache.handle_timeout(now + n * SECOND - Duration::from_millis(1)), 0);
            assert_eq!(cache.poll_request(), None);
            assert_eq!(cache.poll_timeout(), Some(now + n * SECOND));
            assert_eq!(cache.handle_timeout(now + n * SECOND), 0);
            assert_eq!(cache.poll_request(), request(None));
        }
        assert_eq!(cache.handle_timeout(now + 3 * SECOND), 1, "the packet waited in vain");
        assert_eq!((cache.poll_request(), cache.poll_timeout(), cache.iter().count()), (None, None, 0));
    }

    #[test]
    fn refreshes_what_is_used_at_its_place_and_forgets_the_rest() {
        let now = Instant::now();
        let mut cache: NeighbourCache<char> = NeighbourCache::new(4);
        for n in [8, 9] {
            cache.prepare(now, PORT, host(n));
            cache.handle_claim(now, PORT, host(n), MAC);
        }
        while cache.poll_request().is_some() {}
        assert_eq!(cache.resolved(PORT, host(9)), Some(MAC));
        let changes = cache.changes();
        cache.handle_timeout(now + 30 * SECOND);
        assert_ne!(cache.changes(), changes, "who relies on it has to ask again");
        assert_eq!(cache.poll_request(), request(Some(MAC)));
        assert_eq!(cache.poll_request(), None, "the other one was not used");
        assert_eq!(cache.resolved(PORT, host(8)), None);
        assert_eq!(cache.resolved(PORT, host(9)), Some(MAC), "good while it is being asked");
        let changes = cache.changes();
        for n in 31..=33 {
            cache.handle_timeout(now + n * SECOND);
        }
        assert_eq!(cache.resolved(PORT, host(9)), None, "it didn't answer");
        assert_ne!(cache.changes(), changes);
    }

    #[test]
    fn what_is_used_while_it_is_probed_stays_known() {
        let now = Instant::now();
        let mut cache: NeighbourCache<char> = NeighbourCache::new(4);
        cache.prepare(now, PORT, host(9));
        cache.handle_claim(now, PORT, host(9), MAC);
        assert_eq!(cache.resolved(PORT, host(9)), Some(MAC));
        for round in 1..4 {
            let probed = now + round * 30 * SECOND;
            cache.handle_timeout(probed);
            /* used once, before the answer */
            assert_eq!(cache.resolved(PORT, host(9)), Some(MAC));
            cache.handle_claim(probed, PORT, host(9), MAC);
            let changes = cache.changes();
            cache.handle_timeout(probed + 29 * SECOND);
            assert_eq!(cache.changes(), changes, "nobody has to ask again");
        }
        cache.handle_timeout(now + 120 * SECOND);
        cache.handle_claim(now + 120 * SECOND, PORT, host(9), MAC);
        cache.handle_timeout(now + 150 * SECOND);
        assert_eq!(cache.resolved(PORT, host(9)), None, "nobody used it for a round");
    }

    #[test]
    fn believes_claims_about_known_neighbours_only() {
        let now = Instant::now();
        let mut cache: NeighbourCache<char> = NeighbourCache::new(4);
        assert!(cache.handle_claim(now, PORT, host(9), MAC).is_empty());
        assert_eq!(cache.resolved(PORT, host(9)), None);
        cache.wait(now, PORT, host(9), 'a').unwrap();
        cache.handle_claim(now, PORT, host(9), MAC);
        let moved = MacAddr([2, 0, 0, 0, 0, 10]);
        let changes = cache.changes();
        cache.handle_claim(now, PORT, host(9), moved);
        assert_eq!(cache.resolved(PORT, host(9)), Some(moved));
        assert_ne!(cache.changes(), changes);
    }

    #[test]
    fn who_asks_for_us_is_known_until_it_falls_silent() {
        let now = Instant::now();
        let mut cache: NeighbourCache<char> = NeighbourCache::new(4);
        for n in [7, 8, 9] {
            assert!(cache.handle_introduction(now, PORT, host(n), MAC).is_empty());
        }
        assert_eq!(
            [7, 8, 9].map(|n| cache.resolved(PORT, host(n))),
            [Some(MAC), Some(MAC), None],
            "half of the places"
        );
        cache.wait(now, PORT, host(9), 'a').unwrap();
        assert_eq!(cache.handle_introduction(now, PORT, host(9), MAC).as_slice(), ['a'], "as good as an answer");
        cache.handle_introduction(now + SECOND, PORT, host(7), MAC);
        cache.handle_timeout(now + 31 * SECOND);
        cache.handle_introduction(now + 31 * SECOND, PORT, host(7), MAC);
        cache.handle_timeout(now + 61 * SECOND);
        assert_eq!(cache.resolved(PORT, host(7)), None, "nobody used it since");
    }

    #[test]
    fn limits() {
        let now = Instant::now();
        let mut cache = NeighbourCache::new(1);
        for n in 0..PENDING_MAX {
            cache.wait(now, PORT, host(9), n).unwrap();
        }
        assert_eq!(cache.wait(now, PORT, host(9), PENDING_MAX), Err(DropReason::NeighbourQueueFull));
        assert_eq!(cache.wait(now, PORT, host(8), 0), Err(DropReason::NeighbourTableFull));
        let released = cache.handle_claim(now, PORT, host(9), MAC);
        assert_eq!(released.first(), Some(&1), "the oldest made room");
        assert_eq!(released.last(), Some(&PENDING_MAX));
    }
}
