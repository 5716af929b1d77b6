//! What a backup knows of its owner: signs of life, counted in looks, and how long its copy may be trusted. And what an owner knows of
//! its backup: whether that one hears it.

use std::time::{Duration, Instant};

use crate::timing::Timing;

/// Counts looks without a sign of life on either path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Silence {
    last_look: Option<Instant>,
    heard: bool,
    looks: u32,
    /// Until then silence says nothing, unless something is heard before.
    excused_until: Option<Instant>,
}

impl Default for Silence {
    fn default() -> Self {
        Self { last_look: None, heard: true, looks: 0, excused_until: None }
    }
}

impl Silence {
    /// A heartbeat or an advertisement of the owner arrived.
    pub fn heard(&mut self) {
        self.heard = true;
        self.excused_until = None;
    }

    /// Starts the count at zero: after pairing, a mark, or a question that was answered.
    pub fn restart(&mut self) {
        self.looks = 0;
        self.heard();
    }

    /// The owner has just spoken, and the path on which it did is gone: where it can't be heard on the other one, it is not silent before
    /// it had the time to come back.
    pub fn excuse(&mut self, until: Instant) {
        self.restart();
        self.excused_until = Some(until);
    }

    /// Looks, at `now`; returns how many looks in a row saw nothing.
    pub fn look(&mut self, now: Instant, timing: &Timing) -> u32 {
        // A backup that slept may have missed what was sent meanwhile: it starts anew.
        let overslept = self
            .last_look
            .is_some_and(|last| now.saturating_duration_since(last) >= 2 * timing.interval + timing.interval / 2);
        self.last_look = Some(now);
        self.excused_until = self.excused_until.filter(|until| now < *until);
        if std::mem::take(&mut self.heard) || overslept || self.excused_until.is_some() {
            self.looks = 0;
        } else {
            self.looks = self.looks.saturating_add(1);
        }
        self.looks
    }

    /// Looks in a row without a sign of life.
    pub fn looks(&self) -> u32 {
        self.looks
    }
}

/// Stamps of our own looks: what goes out with a beat and comes back as an echo.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Stamps {
    origin: Instant,
    newest: u64,
}

impl Stamps {
    /// Stamps count from `origin`.
    pub fn new(origin: Instant) -> Self {
        Self { origin, newest: 0 }
    }

    /// The stamp of a look at `now`.
    pub fn stamp(&mut self, now: Instant) -> u64 {
        let nanos = u64::try_from(now.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX);
        self.newest = self.newest.max(nanos).max(1);
        self.newest
    }

    /// When the echoed look was; `None` for a stamp that we never gave out.
    pub fn when(&self, echo: u64) -> Option<Instant> {
        (echo <= self.newest).then(|| self.origin + Duration::from_nanos(echo))
    }
}

/// Does the other one hear us? Its beats echo the newest of our stamps that it has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Hearing {
    /// The newest stamp that it echoed, and when that was, or when we last knew nothing of that.
    newest: Option<(u64, Instant)>,
}

impl Hearing {
    /// A beat of the other one. `healthy`: it says that it could serve.
    pub fn handle_beat(&mut self, now: Instant, echo: Option<u64>, healthy: bool) {
        match (echo, &mut self.newest) {
            (Some(echo), Some((newest, _))) if echo <= *newest => {}
            (Some(echo), newest) => *newest = Some((echo, now)),
            // A release that echoes nothing while it can't serve: whether it hears us is not known.
            (None, Some((_, at))) if !healthy => *at = now,
            (None, _) => {}
        }
    }

    /// We slept, so we know nothing of what it echoed meanwhile.
    pub fn overslept(&mut self, now: Instant) {
        if let Some((_, at)) = &mut self.newest {
            *at = now;
        }
    }

    /// It has heard us, and nothing newer for that long, though it goes on speaking.
    pub fn is_lost(&self, now: Instant, patience: Duration) -> bool {
        self.newest.is_some_and(|(_, at)| now >= at + patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(10);

    #[test]
    fn silence_counts_looks_not_time() {
        let timing = Timing::default();
        let start = Instant::now();
        let mut silence = Silence::default();
        silence.heard();
        assert_eq!(silence.look(start, &timing), 0);
        assert_eq!(silence.look(start + TICK, &timing), 1);
        assert_eq!(silence.look(start + 2 * TICK, &timing), 2);
        // It slept: what came meanwhile is unknown.
        assert_eq!(silence.look(start + 30 * TICK, &timing), 0);
        assert_eq!(silence.look(start + 31 * TICK, &timing), 1);
        silence.heard();
        assert_eq!(silence.look(start + 32 * TICK, &timing), 0);
    }

    #[test]
    fn silence_is_excused_for_a_while_or_until_something_is_heard() {
        let timing = Timing::default();
        let start = Instant::now();
        for heard_at in [None, Some(3)] {
            let mut silence = Silence::default();
            silence.excuse(start + 10 * TICK);
            let silent: Vec<u32> = (0..14)
                .map(|look| {
                    if heard_at == Some(look) {
                        silence.heard();
                    }
                    silence.look(start + look * TICK, &timing)
                })
                .collect();
            let from = heard_at.map_or(9, |at| at);
            let expected: Vec<u32> = (0..14_u32).map(|look| look.saturating_sub(from)).collect();
            assert_eq!(silent, expected);
        }
    }

    #[test]
    fn an_echo_of_the_future_is_no_echo() {
        let start = Instant::now();
        let mut stamps = Stamps::new(start);
        let stamp = stamps.stamp(start + TICK);
        assert_eq!(stamps.when(stamp), Some(start + TICK));
        assert_eq!(stamps.when(stamp + 1), None);
    }
}
