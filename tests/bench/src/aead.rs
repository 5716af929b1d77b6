//! The bare cipher: what ESP can't be cheaper than.

use std::time::Instant;

use vipsec_esp::engine::{Context, EngineKind};
use vipsec_esp::header::{ALIGNMENT, ICV_LEN, NONCE_LEN, TRAILER_LEN};
use vipsec_esp::sa::{ChildSa, OutboundParams};
use vipsec_hw::Mbuf;
use vipsec_ipsec_mb::Block;
use vipsec_wire::buffer::PacketBuf;

use crate::error::BenchError;

/// Bytes of additional data with extended sequence numbers (RFC 4106 §5).
const AAD: [u8; 12] = [7; 12];

/// One key, always at hand.
pub(crate) struct BareAead {
    context: Context,
    nonce: u64,
    /// Of the packets sealed last.
    tags: Vec<[u8; ICV_LEN]>,
}

impl BareAead {
    pub(crate) fn new(engine: EngineKind, child: &ChildSa) -> Result<Self, BenchError> {
        let OutboundParams { algorithm, ref key, .. } = child.outbound;
        Ok(Self {
            context: Context::new(engine, algorithm, key.key()).map_err(BenchError::setup)?,
            nonce: 0,
            tags: Vec::new(),
        })
    }

    /// Seals texts as long as those of inner packets of `size` bytes, in the packets' own memory. Nanoseconds per packet.
    pub(crate) fn seal_ns(&mut self, packets: &mut [Mbuf], size: usize) -> Result<f64, BenchError> {
        set_lengths(packets, size)?;
        // As for opening, the texts have just been through the cipher.
        self.seal(packets)?;
        let start = Instant::now();
        self.seal(packets)?;
        Ok(start.elapsed().as_nanos() as f64 / packets.len() as f64)
    }

    /// The same for opening.
    pub(crate) fn open_ns(&mut self, packets: &mut [Mbuf], size: usize) -> Result<f64, BenchError> {
        set_lengths(packets, size)?;
        let first = self.nonce;
        self.seal(packets)?;
        let start = Instant::now();
        for ((n, packet), tag) in (first..).zip(packets.iter_mut()).zip(&self.tags) {
            self.context.open_in_place(bytes(&nonce(n)), &AAD, packet.data_mut(), tag).map_err(BenchError::setup)?;
        }
        Ok(start.elapsed().as_nanos() as f64 / packets.len() as f64)
    }

    fn seal(&mut self, packets: &mut [Mbuf]) -> Result<(), BenchError> {
        self.tags.clear();
        for packet in packets {
            let mut tag = [0; ICV_LEN];
            let sealed = self.context.seal_in_place(bytes(&nonce(self.nonce)), &AAD, packet.data_mut(), &mut tag);
            sealed.map_err(BenchError::setup)?;
            self.tags.push(tag);
            self.nonce += 1;
        }
        Ok(())
    }
}

/// In one piece, as ESP makes it: a nonce put together in memory would stall the cipher that loads it.
#[inline(always)]
fn nonce(n: u64) -> Block {
    Block::from_be(u128::from(n) << 32)
}

#[inline(always)]
fn bytes(nonce: &Block) -> &[u8; NONCE_LEN] {
    let [bytes @ .., _, _, _, _] = nonce.as_bytes();
    bytes
}

/// Makes each packet's data as long as the text that ESP makes of an inner packet of `size` bytes.
fn set_lengths(packets: &mut [Mbuf], size: usize) -> Result<(), BenchError> {
    let len = (size + TRAILER_LEN).next_multiple_of(ALIGNMENT);
    for packet in packets {
        let now = packet.data().len();
        if now < len {
            packet.append(len - now).map_err(BenchError::setup)?;
        } else {
            packet.trim_back(now - len).map_err(BenchError::setup)?;
        }
    }
    Ok(())
}
