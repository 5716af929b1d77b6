//! The packets of a window, made before it begins.

use vipsec_esp::engine::Context;
use vipsec_esp::header::{ALIGNMENT, HEADER_LEN, ICV_LEN, NONCE_LEN, TRAILER_LEN};
use vipsec_esp::sa::{ChildSa, InboundParams};
use vipsec_hw::{Mbuf, Mempool};
use vipsec_wire::buffer::PacketBuf;
use vipsec_wire::ip::protocol;

use crate::error::BenchError;
use crate::scene::{self, Flow, Protection};
use crate::station::Plan;

/// Prime, so that it is coprime to all numbers of SAs and connections that are measured: walking in such strides visits each, and
/// no two neighbours in memory one after the other.
const STRIDE: usize = 7919;

/// Makes packets of all connections in turns. The SA changes with every packet, if there is more than one.
pub(crate) struct Packets {
    pool: Mempool,
    far_end: FarEnd,
    sas: usize,
    connections: usize,
    next: usize,
}

impl Packets {
    pub(crate) fn new(plan: &Plan, children: &[ChildSa], pool: Mempool) -> Result<Self, BenchError> {
        let far_end = FarEnd::new(plan, children)?;
        Ok(Self { pool, far_end, sas: plan.sas, connections: plan.connections.max(plan.sas), next: 0 })
    }

    fn next_flow(&mut self) -> Flow {
        let n = self.next.wrapping_mul(STRIDE) % self.connections;
        self.next = (self.next + 1) % self.connections;
        Flow { host: n % self.sas, number: (n / self.sas) as u16 }
    }

    fn buffer(&self) -> Result<Mbuf, BenchError> {
        self.pool.alloc().ok_or_else(|| BenchError::setup("the pool is empty"))
    }

    /// Frames that the outside port receives.
    pub(crate) fn make_for_vip(
        &mut self,
        protection: Protection,
        size: usize,
        count: usize,
    ) -> Result<Vec<Mbuf>, BenchError> {
        let mut packets = Vec::with_capacity(count);
        for _ in 0..count {
            let flow = self.next_flow();
            let mut packet = self.buffer()?;
            scene::write_to_vip(&mut packet, protection, flow, size)?;
            if protection == Protection::Esp {
                self.far_end.seal(flow.host, &mut packet)?;
                scene::write_outer(&mut packet)?;
            }
            scene::write_from_router(&mut packet, protection)?;
            packets.push(packet);
        }
        Ok(packets)
    }

    /// Frames that the inside port receives.
    pub(crate) fn make_for_remotes(
        &mut self,
        protection: Protection,
        size: usize,
        count: usize,
    ) -> Result<Vec<Mbuf>, BenchError> {
        let mut packets = Vec::with_capacity(count);
        for _ in 0..count {
            let flow = self.next_flow();
            let mut packet = self.buffer()?;
            scene::write_to_remote(&mut packet, protection, flow, size)?;
            packets.push(packet);
        }
        Ok(packets)
    }

    /// Frames with these contents.
    pub(crate) fn make_of(&self, frames: &[Vec<u8>]) -> Result<Vec<Mbuf>, BenchError> {
        let frame = |bytes: &Vec<u8>| {
            let mut packet = self.buffer()?;
            packet.append(bytes.len()).map_err(BenchError::setup)?;
            packet.data_mut().copy_from_slice(bytes);
            Ok(packet)
        };
        frames.iter().map(frame).collect()
    }
}

/// The remote peers, all of them with one key: a context each would drive the worker's own out of the caches between two windows.
struct FarEnd {
    context: Context,
    salt: [u8; 4],
    /// SPI and last number of each.
    peers: Vec<(u32, u64)>,
}

impl FarEnd {
    fn new(plan: &Plan, children: &[ChildSa]) -> Result<Self, BenchError> {
        let InboundParams { algorithm, ref key, .. } =
            children.first().ok_or_else(|| BenchError::setup("no SA"))?.inbound;
        Ok(Self {
            context: Context::new(plan.engine, algorithm, key.key()).map_err(BenchError::setup)?,
            salt: key.salt(),
            peers: children.iter().map(|child| (child.inbound.spi.get(), 0)).collect(),
        })
    }

    /// RFC 4303 §2 and RFC 4106, with extended sequence numbers.
    fn seal(&mut self, peer: usize, packet: &mut Mbuf) -> Result<(), BenchError> {
        let (spi, number) = self.peers.get_mut(peer).ok_or_else(|| BenchError::setup("no such SA"))?;
        *number += 1;
        let mut nonce = [0; NONCE_LEN];
        let (salt, iv) = nonce.split_at_mut(self.salt.len());
        salt.copy_from_slice(&self.salt);
        iv.copy_from_slice(&number.to_be_bytes());
        let aad: [u8; 12] =
            ((u128::from(*spi) << 64) | u128::from(*number)).to_be_bytes()[4..].try_into().unwrap_or_default();

        let unpadded = packet.data().len() + TRAILER_LEN;
        let pad_len = unpadded.next_multiple_of(ALIGNMENT) - unpadded;
        packet.append(pad_len + TRAILER_LEN).map_err(BenchError::setup)?;
        let trailer = [&[1, 2, 3][..pad_len], &[pad_len as u8, protocol::IPV4]].concat();
        let text = packet.data_mut();
        let at = text.len() - trailer.len();
        text[at..].copy_from_slice(&trailer);
        let mut icv = [0; ICV_LEN];
        self.context.seal_in_place(&nonce, &aad, text, &mut icv).map_err(BenchError::setup)?;
        packet.append(ICV_LEN).map_err(BenchError::setup)?;
        let at = packet.data().len() - ICV_LEN;
        packet.data_mut()[at..].copy_from_slice(&icv);
        packet.prepend(HEADER_LEN).map_err(BenchError::setup)?;
        let header = [&spi.to_be_bytes()[..], &(*number as u32).to_be_bytes(), &number.to_be_bytes()].concat();
        packet.data_mut()[..HEADER_LEN].copy_from_slice(&header);
        Ok(())
    }
}
