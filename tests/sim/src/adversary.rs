//! Records what is sent to a VIP and what owners advertise, and sends old ones again.

use rand::RngExt;
use rand::rngs::StdRng;
use vipsec_wire::ethernet::Header;

use crate::frames::{self, Seen};
use crate::scene::{ADDRESSES, ADVERSARY_MAC};

/// Frames of a kind that are kept; then the oldest give way.
const FRAMES_MAX: usize = 4096;

/// The adversary.
#[derive(Debug, Default)]
pub(crate) struct Adversary {
    packets: Recorded,
    advertisements: Recorded,
}

/// Frames of a kind.
#[derive(Debug, Default)]
struct Recorded {
    frames: Vec<Vec<u8>>,
    seen: usize,
}

impl Adversary {
    /// A frame passes on the outside network.
    pub(crate) fn observe(&mut self, frame: &[u8]) {
        let Some((header, seen)) = frames::read(frame) else { return };
        if header.source == ADVERSARY_MAC {
            return;
        }
        let to_vip = ADDRESSES.iter().any(|addresses| addresses.vip_mac == header.destination);
        match seen {
            Seen::Esp(..) | Seen::Udp(..) if to_vip => self.packets.record(frame),
            Seen::Advertisement => self.advertisements.record(frame),
            _ => {}
        }
    }

    /// An old frame, from the adversary's own MAC address.
    pub(crate) fn replay(&self, rng: &mut StdRng) -> Option<Vec<u8>> {
        let kind = if rng.random_bool(0.2) { &self.advertisements } else { &self.packets };
        let (header, payload) = Header::parse(kind.draw(rng)?).ok()?;
        let mut replayed = Header { source: ADVERSARY_MAC, ..header }.to_bytes().to_vec();
        replayed.extend_from_slice(payload);
        Some(replayed)
    }
}

impl Recorded {
    fn record(&mut self, frame: &[u8]) {
        let at = self.seen % FRAMES_MAX;
        self.seen += 1;
        if at == self.frames.len() {
            self.frames.push(frame.to_vec());
        } else {
            self.frames[at] = frame.to_vec();
        }
    }

    /// Recent ones are worth more.
    fn draw(&self, rng: &mut StdRng) -> Option<&[u8]> {
        if self.frames.is_empty() {
            return None;
        }
        let newest = self.seen - 1;
        let reach = if rng.random_bool(0.7) { 200 } else { FRAMES_MAX };
        let back = rng.random_range(0..self.frames.len().min(reach));
        Some(&self.frames[(newest - back) % FRAMES_MAX])
    }
}
