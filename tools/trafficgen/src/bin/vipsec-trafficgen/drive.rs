//! The loop between ports, clock and generator.

use std::time::Duration;

use vipsec_hw::{Mbuf, Mempool};
use vipsec_stop::Stop;
use vipsec_trafficgen::generator::{Generator, Phase};
use vipsec_trafficgen::time::Stamp;
use vipsec_wire::buffer::{BURST_MAX, Burst, PortIo};

use crate::args::Polling;
use crate::clock;
use crate::devices::Devices;

/// Most that an idle loop sleeps, and with that how late it may notice a packet.
const SLEEP_MAX: Duration = Duration::from_micros(200);
/// How much earlier than wanted it wakes, because the system wakes it late.
const WAKE_EARLY: Duration = Duration::from_micros(70);

/// Turns a generator until it is done.
pub(crate) struct Driver {
    pub(crate) devices: Devices,
    pub(crate) stop: Stop,
    pub(crate) polling: Polling,
    /// The run ends when all captures that ports read have.
    pub(crate) ends_with_input: bool,
    replay_ended: bool,
}

impl Driver {
    pub(crate) fn new(devices: Devices, stop: Stop, polling: Polling, ends_with_input: bool) -> Self {
        Self { devices, stop, polling, ends_with_input, replay_ended: false }
    }

    /// Turns until every next hop is known; `false`: not within the limit.
    pub(crate) fn resolve(&mut self, generator: &mut Generator<Mempool>, limit: Duration) -> bool {
        let deadline = clock::now().after(limit);
        while !generator.is_ready() {
            if clock::now() >= deadline || self.stop.is_asked_for() {
                return false;
            }
            if !self.turn(generator) {
                std::thread::sleep(SLEEP_MAX);
            }
        }
        true
    }

    /// Turns until the run is over. `watch` is called each round.
    pub(crate) fn run(
        &mut self,
        generator: &mut Generator<Mempool>,
        mut watch: impl FnMut(Stamp, &Generator<Mempool>),
    ) {
        loop {
            let was_busy = self.turn(generator);
            let now = clock::now();
            if self.stop.is_asked_for() || (self.ends_with_input && self.devices.inputs_ended()) {
                generator.stop(now);
            }
            generator.handle_timeout(now);
            watch(now, generator);
            if generator.phase() == Phase::Over {
                return;
            }
            if !was_busy && self.polling == Polling::Adaptive {
                let wait = generator.poll_timeout(now).map_or(SLEEP_MAX, |due| due.since(now));
                let wait = wait.saturating_sub(WAKE_EARLY).min(SLEEP_MAX);
                if !wait.is_zero() {
                    std::thread::sleep(wait);
                }
            }
        }
    }

    /// One round: receives, and transmits. Returns whether anything moved.
    fn turn(&mut self, generator: &mut Generator<Mempool>) -> bool {
        let mut is_busy = false;
        let mut received = Burst::new();
        for (number, queue) in self.devices.queues.iter_mut().enumerate() {
            if queue.receive(&mut received) > 0 {
                is_busy = true;
                if let Some(recorder) = &mut self.devices.record_rx {
                    let copies = recorder.copy(&received);
                    recorder.write(copies);
                }
                generator.handle_burst(clock::now(), number, &mut received);
            }
        }
        self.feed(generator);
        for (number, queue) in self.devices.queues.iter_mut().enumerate() {
            let Some(leaving) = generator.poll_transmit(clock::now(), number) else { continue };
            if leaving.is_empty() {
                continue;
            }
            let copies = self.devices.record_tx.as_mut().map(|recorder| recorder.copy(leaving));
            let taken = queue.transmit(leaving);
            generator.handle_transmitted(clock::now(), number, taken);
            if let (Some(recorder), Some(mut copies)) = (&mut self.devices.record_tx, copies) {
                copies.truncate(taken);
                recorder.write(copies);
            }
            is_busy |= taken > 0;
        }
        is_busy
    }

    /// Brings what is replayed.
    fn feed(&mut self, generator: &mut Generator<Mempool>) {
        let Some(capture) = &mut self.devices.replay else { return };
        while !self.replay_ended && generator.capture_room(0) >= BURST_MAX {
            let mut frames: Burst<Mbuf> = Burst::new();
            if capture.receive(&mut frames) == 0 {
                self.replay_ended = capture.input_ended();
                break;
            }
            generator.handle_capture(0, &mut frames);
        }
        if self.replay_ended {
            generator.handle_capture_end(0);
        }
    }
}
