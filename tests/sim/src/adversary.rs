//! Records every frame towards a VIP, and sends old ones again.

use rand::RngExt;
use rand::rngs::StdRng;
use vipsec_wire::ethernet::Header;

use crate::frames::{self, Seen};
use crate::scene::{ADDRESSES, ADVERSARY_MAC};

/// Frames that are kept; then the oldest give way.
const FRAMES_MAX: usize = 4096;

/// The adversary.
#[derive(Debug, Default)]
pub(crate) struct Adversary {
    recorded: Vec<Vec<u8>>,
    seen: usize,
}

impl Adversary {
    /// A frame passes on the outside network.
    pub(crate) fn observe(&mut self, frame: &[u8]) {
        let Some((header, seen)) = frames::read(frame) else { return };
        let from_elsewhere = header.source != ADVERSARY_MAC;
        let to_vip = ADDRESSES.iter().any(|addresses| addresses.vip_mac == header.destination);
        if to_vip && from_elsewhere && matches!(seen, Seen::Esp(..) | Seen::Udp(..)) {
            let at = self.seen % FRAMES_MAX;
            self.seen += 1;
            if at == self.recorded.len() {
                self.recorded.push(frame.to_vec());
            } else {
                self.recorded[at] = frame.to_vec();
            }
        }
    }

    /// An old frame, from the adversary's own MAC address; recent ones are worth more.
    pub(crate) fn replay(&self, rng: &mut StdRng) -> Option<Vec<u8>> {
        if self.recorded.is_empty() {
            return None;
        }
        let newest = self.seen - 1;
        let reach = if rng.random_bool(0.7) { 200 } else { FRAMES_MAX };
        let back = rng.random_range(0..self.recorded.len().min(reach));
        let frame = &self.recorded[(newest - back) % FRAMES_MAX];
        let (header, payload) = Header::parse(frame).ok()?;
        let mut replayed = Header { source: ADVERSARY_MAC, ..header }.to_bytes().to_vec();
        replayed.extend_from_slice(payload);
        Some(replayed)
    }
}
