//! What every generated packet carries in its payload: who it is, and when it left.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |        magic, "vg"            |             run               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                             flow                              |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                  sequence number within the flow              |
//! |                           (8 bytes)                           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |      time of transmission in nanoseconds, its low 48 bits     |
//! +                               +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                               |  fill, chosen by the number ...
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! It has no checksum of its own: that of UDP or TCP covers it, and the fill shows payloads that were cut, mixed or changed.
//! A frame of 64 bytes without FCS, testpmd's default, has room for it behind IPv4 and UDP.

use std::time::Duration;

use vipsec_wire::Truncated;

use crate::time::Stamp;

/// Bytes of the header.
pub const HEADER_LEN: usize = 22;

const MAGIC: [u8; 2] = *b"vg";
const STAMP_MASK: u64 = (1 << 48) - 1;

/// The fill repeats with this period; a prime, so that it doesn't fall in step with anything.
const FILL_PERIOD: usize = 251;
const FILL_LEN: usize = FILL_PERIOD + 65_536;
/// Each packet's fill is a piece of this, from an offset that its number decides.
static FILL: [u8; FILL_LEN] = {
    let mut fill = [0; FILL_LEN];
    let mut index = 0;
    while index < FILL_LEN {
        fill[index] = ((index % FILL_PERIOD) * 37 % 256) as u8;
        index += 1;
    }
    fill
};

/// One sending process, or one trial of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run(pub u16);

/// Flow, number and time of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Who sent it, or in which trial.
    pub run: Run,
    /// Its flow, unique in the run.
    pub flow: u32,
    /// Its place in the flow, from 0.
    pub sequence: u64,
    /// When it left: the low 48 bits of a [`Stamp`].
    sent: u64,
}

/// What a payload turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// A generated packet's, intact as far as the fill can tell.
    Generated(Header),
    /// It begins like a generated packet's, and doesn't go on like one.
    Corrupted,
    /// Nothing of ours.
    Foreign,
}

impl Header {
    /// The header of a packet that leaves now.
    pub fn new(run: Run, flow: u32, sequence: u64, now: Stamp) -> Self {
        Self { run, flow, sequence, sent: now.nanos() & STAMP_MASK }
    }

    /// How long the packet was on its way, if that was less than 78 hours; zero if it came before it left.
    pub fn latency(&self, now: Stamp) -> Duration {
        let nanos = now.nanos().wrapping_sub(self.sent) & STAMP_MASK;
        // The upper half of the range is what a clock read too early looks like.
        Duration::from_nanos(if nanos > STAMP_MASK / 2 { 0 } else { nanos })
    }

    /// Writes header and fill over the whole payload.
    pub fn emit(&self, payload: &mut [u8]) -> Result<(), Truncated> {
        let (header, rest) = payload.split_first_chunk_mut::<HEADER_LEN>().ok_or(Truncated)?;
        let [_, _, stamp @ ..] = self.sent.to_be_bytes();
        header[0..2].copy_from_slice(&MAGIC);
        header[2..4].copy_from_slice(&self.run.0.to_be_bytes());
        header[4..8].copy_from_slice(&self.flow.to_be_bytes());
        header[8..16].copy_from_slice(&self.sequence.to_be_bytes());
        header[16..22].copy_from_slice(&stamp);
        let fill = fill(self.sequence, rest.len()).ok_or(Truncated)?;
        rest.copy_from_slice(fill);
        Ok(())
    }

    /// Reads a payload. The caller has checked the transport's checksum.
    pub fn parse(payload: &[u8]) -> Payload {
        let Some((header, rest)) = payload.split_first_chunk::<HEADER_LEN>() else { return Payload::Foreign };
        let [m0, m1, r0, r1, f0, f1, f2, f3, s0, s1, s2, s3, s4, s5, s6, s7, t0, t1, t2, t3, t4, t5] = *header;
        if [m0, m1] != MAGIC {
            return Payload::Foreign;
        }
        let header = Self {
            run: Run(u16::from_be_bytes([r0, r1])),
            flow: u32::from_be_bytes([f0, f1, f2, f3]),
            sequence: u64::from_be_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            sent: u64::from_be_bytes([0, 0, t0, t1, t2, t3, t4, t5]),
        };
        if fill(header.sequence, rest.len()) == Some(rest) { Payload::Generated(header) } else { Payload::Corrupted }
    }
}

/// The fill of that many bytes of the packet with that number; no IP packet is too long for it.
fn fill(sequence: u64, len: usize) -> Option<&'static [u8]> {
    let start = usize::try_from(sequence % FILL_PERIOD as u64).unwrap_or(0);
    FILL.get(start..start.checked_add(len)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LATER: Stamp = Stamp::from_nanos(1 << 50);

    #[test]
    fn known_payload() {
        let mut payload = [0; 26];
        Header::new(Run(0x0102), 7, 1, Stamp::from_nanos(0xaaaa_0011_2233_4455)).emit(&mut payload).unwrap();
        #[rustfmt::skip]
        assert_eq!(payload, [
            b'v', b'g', 1, 2,  0, 0, 0, 7,  0, 0, 0, 0, 0, 0, 0, 1,  0x00, 0x11, 0x22, 0x33, 0x44, 0x55,
            37, 74, 111, 148,
        ]);
        assert_eq!(Header::new(Run(0), 0, 0, LATER).emit(&mut [0; 21]), Err(Truncated));
    }

    #[test]
    fn every_changed_byte_of_the_fill_shows() {
        let mut payload = [0; 200];
        Header::new(Run(1), 2, 3, LATER).emit(&mut payload).unwrap();
        for at in HEADER_LEN..payload.len() {
            let mut changed = payload;
            changed[at] ^= 0x10;
            assert_eq!(Header::parse(&changed), Payload::Corrupted, "byte {at}");
        }
        assert_eq!(Header::parse(&payload[..HEADER_LEN - 1]), Payload::Foreign);
    }

    #[test]
    fn the_fill_of_one_packet_is_not_that_of_the_next() {
        let (mut one, mut next) = ([0; 64], [0; 64]);
        Header::new(Run(1), 2, 3, LATER).emit(&mut one).unwrap();
        Header::new(Run(1), 2, 4, LATER).emit(&mut next).unwrap();
        one[HEADER_LEN..].copy_from_slice(&next[HEADER_LEN..]);
        assert_eq!(Header::parse(&one), Payload::Corrupted);
    }

    #[test]
    fn latency_survives_the_wrap_of_48_bits() {
        let sent = Stamp::from_nanos((1 << 48) - 5);
        let header = Header::new(Run(0), 0, 0, sent);
        assert_eq!(header.latency(Stamp::from_nanos((1 << 48) + 37)), Duration::from_nanos(42));
        assert_eq!(header.latency(Stamp::from_nanos((1 << 48) - 6)), Duration::ZERO, "clocks read in the wrong order");
    }

    proptest! {
        #[test]
        fn emit_and_parse_agree(run: u16, flow: u32, sequence: u64, now: u64, len in HEADER_LEN..2000) {
            let header = Header::new(Run(run), flow, sequence, Stamp::from_nanos(now));
            let mut payload = vec![0; len];
            header.emit(&mut payload).unwrap();
            prop_assert_eq!(Header::parse(&payload), Payload::Generated(header));
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut ours = MAGIC.to_vec();
            ours.extend(&bytes);
            let _ = (Header::parse(&bytes), Header::parse(&ours));
        }
    }
}
