//! The IKE SA in hand. Whose message or timer is being dealt with is written into the copies before, so that a successor learns over what its
//! predecessor died. A peer that was in hand at two deaths in a row is taken for poison: its IKE SA isn't taken over, and for a while
//! what it sends is dropped, but for what belongs to other IKE SAs that stand.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use vipsec_dataplane::api::IkeDatagram;
use vipsec_ike::IkeSaId;
use vipsec_store::RecordKey;

use super::publishing::KIND_IN_HAND;
use crate::core::Core;

/// Most addresses that are quarantined at a time, for each group; the record has to fit into the store.
const QUARANTINE_MAX: usize = 64;
/// For how long one is.
const QUARANTINE: Duration = Duration::from_secs(600);

/// A peer that is being dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::core) struct Hand {
    /// Its IKE SA, by our SPI; 0: it has none.
    pub(in crate::core) ike_sa: u64,
    /// Where it is.
    pub(in crate::core) remote: IpAddr,
}

impl Hand {
    /// The same peer, as far as can be told: an IKE SA has another SPI after it was rekeyed.
    fn is_of(self, other: Self) -> bool {
        self.remote == other.remote || (self.ike_sa != 0 && self.ike_sa == other.ike_sa)
    }
}

/// What a copy says of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(in crate::core) struct HandRecord {
    in_hand: Option<Hand>,
    /// What was in hand when the owner before this one died.
    before: Option<Hand>,
    /// Addresses, and for how many more seconds.
    quarantined: Vec<(IpAddr, u64)>,
}

impl HandRecord {
    /// Who was in hand at two deaths in a row.
    pub(in crate::core) fn poison(&self) -> Option<Hand> {
        self.in_hand.filter(|hand| self.before.is_some_and(|before| before.is_of(*hand)))
    }
}

/// Reads a record.
pub(in crate::core) fn open_hand(bytes: &[u8]) -> Option<HandRecord> {
    let record: HandRecord = rmp_serde::from_slice(bytes).ok()?;
    (record.quarantined.len() <= QUARANTINE_MAX).then_some(record)
}

/// Whom an owner of a group deals with, and whom it doesn't.
#[derive(Debug, Default)]
pub(in crate::core) struct Hands {
    in_hand: Option<Hand>,
    before: Option<Hand>,
    /// Until when.
    quarantine: BTreeMap<IpAddr, Instant>,
}

impl Hands {
    /// As a successor of the one who wrote the record.
    pub(in crate::core) fn inherit(now: Instant, record: HandRecord) -> Self {
        let poison = record.poison();
        let HandRecord { in_hand, quarantined, .. } = record;
        let until = |seconds| now + Duration::from_secs(seconds).min(QUARANTINE);
        let mut quarantine: BTreeMap<_, _> = quarantined.into_iter().map(|(at, left)| (at, until(left))).collect();
        if let Some(hand) = poison {
            if quarantine.len() >= QUARANTINE_MAX {
                quarantine.pop_first();
            }
            quarantine.insert(hand.remote, now + QUARANTINE);
        }
        Self { in_hand: None, before: in_hand, quarantine }
    }

    fn record(&self, now: Instant) -> HandRecord {
        let left = self.quarantined(now).map(|(remote, left)| (remote, left.as_secs()));
        HandRecord { in_hand: self.in_hand, before: self.before, quarantined: left.collect() }
    }

    fn holds(&self, now: Instant, remote: IpAddr) -> bool {
        self.quarantine.get(&remote).is_some_and(|until| now < *until)
    }

    /// Who is quarantined, and for how much longer.
    pub(in crate::core) fn quarantined(&self, now: Instant) -> impl Iterator<Item = (IpAddr, Duration)> {
        let left = move |until: &Instant| until.saturating_duration_since(now);
        self.quarantine.iter().map(move |(remote, until)| (*remote, left(until))).filter(|(_, left)| !left.is_zero())
    }
}

impl Core {
    /// An IKE message came in.
    pub(in crate::core) fn handle_ike_datagram(&mut self, now: Instant, datagram: &IkeDatagram) {
        let remote = datagram.remote.ip();
        let ike_sa = self.ike.ike_sa_of(&datagram.payload);
        if let Some(vip) = self.vip_at(datagram.local.ip()) {
            let group = self.groups.get(self.group_of(vip));
            if ike_sa.is_none() && group.is_some_and(|group| group.hands.holds(now, remote)) {
                self.quarantine_drops += 1;
                return tracing::debug!(%remote, "IKE message dropped: its sender is quarantined");
            }
            self.take_in_hand(now, vip, ike_sa, remote);
        }
        self.ike.handle_datagram(now, datagram.local, datagram.remote, &datagram.payload);
        self.finish_with(now);
    }

    /// Time has come for something of IKE: a message again, a rekeying, a question whether the peer lives.
    pub(in crate::core) fn handle_ike_timers(&mut self, now: Instant) {
        self.pump_ownership(now);
        for due in self.ike.due(now) {
            if let Some((vip, remote)) = self.ike.ends_of(due.id) {
                self.take_in_hand(now, vip, Some(due.id), remote.ip());
            }
            self.ike.handle_due(now, due);
            self.finish_with(now);
        }
    }

    /// Lets IKE and what it leads to be done while this peer is in hand: the next one may be innocent. What was decided before comes first.
    pub(in crate::core) fn finish_with(&mut self, now: Instant) {
        while self.pump_ownership(now) | self.pump_ike(now) {}
    }

    /// From here on, until all that follows is done, it is this peer that is dealt with.
    pub(in crate::core) fn take_in_hand(&mut self, now: Instant, vip: u16, ike_sa: Option<IkeSaId>, remote: IpAddr) {
        let group = self.group_of(vip);
        let hand = Hand { ike_sa: ike_sa.map_or(0, IkeSaId::get), remote };
        let Some(entry) = self.groups.get_mut(group) else { return };
        if entry.hands.in_hand.replace(hand) != Some(hand) {
            self.put_hand(now, group);
            // Now: the process may not live to do it later.
            if let Some(entry) = self.groups.get_mut(group) {
                entry.replica.publish();
            }
        }
    }

    /// All of it is done, and written. It is published with that, before a message leaves.
    pub(in crate::core) fn lay_down(&mut self, now: Instant) {
        for group in 0..self.groups.len() {
            if self.groups.get_mut(group).is_some_and(|entry| entry.hands.in_hand.take().is_some()) {
                self.put_hand(now, group);
            }
        }
    }

    /// Writes the group's record, to be published with what comes next. Nothing waits for it.
    pub(in crate::core) fn put_hand(&mut self, now: Instant, group: usize) {
        let Some(entry) = self.groups.get_mut(group) else { return };
        if !entry.replica.is_on() {
            return;
        }
        let (Some(vip), Some(epoch)) = (entry.vips.first().copied(), entry.ownership.epoch_of_sas()) else { return };
        // Plain data: this can't fail; an empty record would be left out by its reader.
        let bytes = rmp_serde::to_vec(&entry.hands.record(now)).unwrap_or_default();
        entry.replica.put(RecordKey { kind: KIND_IN_HAND, vip, id: 0 }, epoch, &bytes);
    }

    /// A copy says who was in hand.
    pub(in crate::core) fn judge_hand(&mut self, now: Instant, group: usize, record: HandRecord) {
        let Some(entry) = self.groups.get_mut(group) else { return };
        let name = &entry.name;
        match (record.poison(), record.in_hand) {
            (Some(Hand { remote, .. }), _) => tracing::error!(
                group = name, %remote, for_s = QUARANTINE.as_secs(),
                "two owners in a row died over this peer: its IKE SA is left out, and its messages are dropped for a while"
            ),
            (None, Some(Hand { remote, .. })) => {
                tracing::warn!(group = name, %remote, "the owner died while it dealt with this peer");
            }
            (None, None) => {}
        }
        entry.hands = Hands::inherit(now, record);
    }

    /// Is a peer quarantined, whichever VIP's?
    pub fn is_quarantined(&self, now: Instant, remote: IpAddr) -> bool {
        self.groups.iter().any(|group| group.hands.holds(now, remote))
    }

    /// The operator wants a peer to be heard again. False if it is.
    pub(in crate::core) fn release_peer(&mut self, now: Instant, remote: IpAddr) -> bool {
        let mut any = false;
        for group in 0..self.groups.len() {
            let Some(entry) = self.groups.get_mut(group) else { continue };
            if entry.hands.quarantine.remove(&remote).is_some() {
                any = true;
                // What it did before doesn't count any more.
                entry.hands.before.take_if(|before| before.remote == remote);
                self.put_hand(now, group);
            }
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn hand(ike_sa: u64, last: u8) -> Hand {
        Hand { ike_sa, remote: [198, 51, 100, last].into() }
    }

    /// The owner dies with that in hand, and its successor goes on.
    fn die(now: Instant, owner: Hands, in_hand: Option<Hand>) -> (Hands, Option<Hand>) {
        let record = Hands { in_hand, ..owner }.record(now);
        let bytes = rmp_serde::to_vec(&record).unwrap();
        assert_eq!(open_hand(&bytes), Some(record.clone()));
        let poison = record.poison();
        (Hands::inherit(now, record), poison)
    }

    #[test]
    fn who_is_in_hand_at_two_deaths_in_a_row_is_left_out() {
        let now = Instant::now();
        let (owner, poison) = die(now, Hands::default(), Some(hand(5, 7)));
        assert_eq!(poison, None, "anybody may be in hand once");
        // Rekeyed since.
        let (owner, poison) = die(now, owner, Some(hand(6, 7)));
        assert_eq!(poison, Some(hand(6, 7)));
        assert!(owner.holds(now, hand(6, 7).remote) && !owner.holds(now, hand(1, 8).remote));
        // A third one doesn't forget.
        let later = now + 60 * SECOND;
        let (owner, poison) = die(later, owner, None);
        assert_eq!(poison, None);
        assert!(owner.holds(later + 539 * SECOND, hand(6, 7).remote));
        assert!(!owner.holds(later + 541 * SECOND, hand(6, 7).remote), "but time does");
    }

    #[test]
    fn deaths_that_have_nothing_to_do_with_each_other_leave_nobody_out() {
        let now = Instant::now();
        let mut owner = Hands::default();
        for in_hand in [Some(hand(5, 7)), Some(hand(6, 8)), None, Some(hand(6, 8)), None, Some(hand(6, 8))] {
            let (heir, poison) = die(now, owner, in_hand);
            assert_eq!(poison, None);
            owner = heir;
        }
        assert_eq!(owner.quarantined(now).count(), 0);
        // Moved by its NAT meanwhile.
        let (_, poison) = die(now, owner, Some(hand(6, 9)));
        assert_eq!(poison, Some(hand(6, 9)));
    }

    #[test]
    fn garbage_is_no_record() {
        for bytes in [&b""[..], b"x", &[0x93, 0xc0]] {
            assert_eq!(open_hand(bytes), None);
        }
    }
}
