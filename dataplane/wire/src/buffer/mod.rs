//! Packet buffers and ports, as traits: an mbuf and a device in production, a `Vec` and a queue in a test.

use arrayvec::ArrayVec;
use thiserror::Error;

mod vec;

pub use vec::{HEADROOM as VEC_HEADROOM, VecBuf, VecPool, VecPort};

/// How many packets travel through the pipeline together at most.
pub const BURST_MAX: usize = 32;

/// A burst of packets. Dropping a buffer frees it.
pub type Burst<B> = ArrayVec<B, BURST_MAX>;

/// A buffer can't grow or shrink by that many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the packet buffer has no room for the change")]
pub struct NoRoom;

/// One packet, contiguous in memory, with room before and behind it.
pub trait PacketBuf: Send + 'static {
    /// The packet's bytes.
    fn data(&self) -> &[u8];
    /// The packet's bytes, to change in place.
    fn data_mut(&mut self) -> &mut [u8];
    /// Bytes free in front of the packet.
    fn headroom(&self) -> usize;
    /// Bytes free behind the packet.
    fn tailroom(&self) -> usize;
    /// Grows the packet by `n` bytes at the front; their content is unspecified.
    fn prepend(&mut self, n: usize) -> Result<(), NoRoom>;
    /// Grows the packet by `n` bytes at the back; their content is unspecified.
    fn append(&mut self, n: usize) -> Result<(), NoRoom>;
    /// Removes `n` bytes at the front.
    fn trim_front(&mut self, n: usize) -> Result<(), NoRoom>;
    /// Removes `n` bytes at the back.
    fn trim_back(&mut self, n: usize) -> Result<(), NoRoom>;
}

/// Where empty buffers come from.
pub trait BufferPool: Send {
    /// What it hands out.
    type Buf: PacketBuf;
    /// An empty buffer with headroom for a tunnel's headers (at least 128 bytes), or `None` when the pool is exhausted.
    fn alloc(&mut self) -> Option<Self::Buf>;
}

/// One receive and one transmit queue of a port, as a worker uses it.
pub trait PortIo: Send {
    /// The buffers that it moves.
    type Buf: PacketBuf;
    /// Receives what is there, up to the burst's free capacity; never waits. Returns the number received.
    fn receive(&mut self, into: &mut Burst<Self::Buf>) -> usize;
    /// Sends from the front of `packets`, removing what was taken; what the device had no room for stays.
    /// Returns the number taken.
    fn transmit(&mut self, packets: &mut Burst<Self::Buf>) -> usize;
}
