//! How far ahead of its traffic an inbound SA asks for numbers.
//!
//! A successor treats everything up to the granted horizon as seen, so each number of room is a packet that a takeover may cost.
//! A packet above the horizon waits for one round trip to the store. So a slow SA gets no room and its packets wait; a fast SA
//! gets about two round trips' traffic, which it asks for anew when half is used, so that none waits.
//!
//! Without a clock: the traffic of a round trip is what arrives between a request and its grant. A second, slow beat takes the
//! room away from an SA that went quiet, and tells what an SA without limit would need when it is bound to one.

/// The horizon or lease that stands for no limit.
pub(crate) const UNLIMITED: u64 = u64::MAX;

/// An SA with fewer packets than that per round trip is slow: they wait.
const SLOW_PACKETS: u64 = 4;

/// Most room in packets: two round trips of 5 ms at 1.6 million packets per second.
pub(crate) const ROOM_PACKETS_MAX: u64 = 1 << 14;

/// Round trips that a beat of one second stands for, as long as none has been measured.
const ROUND_TRIPS_PER_BEAT: u64 = 100;

/// The room of one SA. `top` is the highest authenticated number, delivered or waiting.
#[derive(Debug, Default)]
pub(crate) struct Room {
    packets: u64,
    /// `top` when the request left that has not been answered.
    asked_at: Option<u64>,
    /// `top` at the last beat.
    beat_at: u64,
    /// A packet went above the horizon though there was room.
    missed: bool,
}

impl Room {
    pub(crate) fn new(top: u64) -> Self {
        Self { beat_at: top, ..Self::default() }
    }

    /// How far to ask for: the room beyond `top`.
    #[inline]
    pub(crate) fn beyond(&self, top: u64) -> u64 {
        top.saturating_add(self.packets).min(UNLIMITED - 1)
    }

    /// Is it time to ask? No request is in flight, and a packet waits or half of the room is used.
    #[inline]
    pub(crate) fn is_due(&self, top: u64, horizon: u64) -> bool {
        self.asked_at.is_none() && horizon.checked_sub(top).is_none_or(|unused| unused < self.packets.div_ceil(2))
    }

    /// Is a request in flight?
    pub(crate) fn awaits_grant(&self) -> bool {
        self.asked_at.is_some()
    }

    /// A packet has to wait.
    #[inline]
    pub(crate) fn handle_wait(&mut self) {
        self.missed = self.packets > 0;
    }

    /// A request left.
    pub(crate) fn handle_request(&mut self, top: u64) {
        self.asked_at = Some(top);
    }

    /// A request was answered: adapts the room to the traffic since it left.
    pub(crate) fn handle_grant(&mut self, top: u64) {
        let Some(asked_at) = self.asked_at.take() else { return };
        let traffic = top.saturating_sub(asked_at);
        let two_round_trips = traffic.saturating_mul(2);
        self.packets = if traffic < SLOW_PACKETS {
            self.packets / 2
        } else if self.missed {
            two_round_trips.max(self.packets * 2)
        } else if self.packets / 2 > two_round_trips {
            self.packets / 2
        } else {
            two_round_trips.max(self.packets)
        }
        .min(ROOM_PACKETS_MAX);
        self.missed = false;
    }

    /// About a second went by.
    pub(crate) fn handle_beat(&mut self, top: u64, limited: bool) {
        let per_round_trip = top.saturating_sub(self.beat_at) / ROUND_TRIPS_PER_BEAT;
        self.beat_at = top;
        if per_round_trip < SLOW_PACKETS {
            self.packets = 0;
        } else if !limited {
            // Nothing is asked and so nothing measured: have an estimate ready for the moment the SA is bound.
            self.packets = per_round_trip.saturating_mul(2).min(ROOM_PACKETS_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An SA at a steady rate of `rate` packets per round trip, for that many round trips.
    /// Returns how many packets waited in the last half and the largest number of unused numbers left behind.
    fn run(rate: u64, round_trips: u64) -> (u64, u64) {
        let mut room = Room::new(0);
        let (mut top, mut horizon, mut wanted) = (0, 0, 0);
        let (mut waited, mut unused_max) = (0, 0);
        for tick in 0..rate * round_trips {
            // A request takes exactly as long as `rate` packets.
            if let Some(asked_at) = room.asked_at
                && top - asked_at >= rate
            {
                horizon = wanted;
                room.handle_grant(top);
            }
            top += 1;
            if top > horizon {
                room.handle_wait();
                waited += u64::from(tick > rate * round_trips / 2);
            }
            if room.is_due(top, horizon) {
                wanted = room.beyond(top);
                room.handle_request(top);
            }
            unused_max = unused_max.max(horizon.saturating_sub(top));
        }
        (waited, unused_max)
    }

    #[test]
    fn fast_sa_settles_without_waiting() {
        for rate in [4, 10, 100, 1000, 3000] {
            let (waited, unused_max) = run(rate, 100);
            assert_eq!(waited, 0, "rate {rate}");
            assert!(unused_max <= 8 * rate, "rate {rate} leaves {unused_max} numbers unused");
        }
    }

    #[test]
    fn slow_sa_gets_no_room() {
        for per_round_trip in 0..SLOW_PACKETS {
            let mut room = Room::new(0);
            for round_trip in 1..1000 {
                let top = round_trip * (per_round_trip + 1);
                room.handle_wait();
                room.handle_request(top);
                room.handle_grant(top + per_round_trip);
                assert_eq!(room.packets, 0, "{per_round_trip} packets per round trip");
            }
        }
    }

    #[test]
    fn room_goes_when_the_traffic_goes() {
        let mut room = Room::new(0);
        room.handle_request(0);
        room.handle_grant(1000);
        assert_eq!(room.packets, 2000);
        // Grants without traffic in between halve it, one silent beat takes it all.
        room.handle_request(1000);
        room.handle_grant(1000);
        assert_eq!(room.packets, 1000);
        room.handle_beat(1000, true);
        room.handle_beat(1001, true);
        assert_eq!(room.packets, 0);
    }

    #[test]
    fn room_doubles_on_a_miss_up_to_its_limit() {
        let mut room = Room::new(0);
        room.handle_request(0);
        room.handle_grant(100);
        for doubled in [400, 800, 1600, 3200, 6400, 12800, ROOM_PACKETS_MAX, ROOM_PACKETS_MAX] {
            room.handle_wait();
            room.handle_request(0);
            room.handle_grant(100);
            assert_eq!(room.packets, doubled);
        }
    }
}
