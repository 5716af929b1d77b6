//! Buffers on the heap and ports in memory: for tests and simulation.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{BufferPool, Burst, NoRoom, PacketBuf, PortIo};

/// Room in front of a packet in bytes, as DPDK's default (RTE_PKTMBUF_HEADROOM).
pub const HEADROOM: usize = 128;

/// Room for a packet and its growth in bytes.
const ROOM: usize = 2048;

/// A packet in a `Vec`, with room before and behind.
#[derive(Clone)]
pub struct VecBuf {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Counts the buffer as handed out by a pool for as long as it lives.
    _from_pool: Option<Arc<()>>,
}

impl VecBuf {
    /// An empty buffer with that much room in front and behind, in bytes.
    pub fn with_room(headroom: usize, tailroom: usize) -> Self {
        Self { bytes: vec![0; headroom + tailroom], start: headroom, end: headroom, _from_pool: None }
    }

    /// A buffer with these contents, [`HEADROOM`] in front and at least as much behind.
    pub fn from_bytes(contents: &[u8]) -> Self {
        let mut buffer = Self::with_room(HEADROOM, ROOM.max(contents.len() + HEADROOM));
        buffer.end += contents.len();
        buffer.data_mut().copy_from_slice(contents);
        buffer
    }
}

impl fmt::Debug for VecBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VecBuf({:02x?})", self.data())
    }
}

impl PartialEq for VecBuf {
    fn eq(&self, other: &Self) -> bool {
        self.data() == other.data()
    }
}

impl Eq for VecBuf {}

impl PacketBuf for VecBuf {
    fn data(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    fn data_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..self.end).unwrap_or_default()
    }

    fn headroom(&self) -> usize {
        self.start
    }

    fn tailroom(&self) -> usize {
        self.bytes.len() - self.end
    }

    fn prepend(&mut self, n: usize) -> Result<(), NoRoom> {
        self.start = self.start.checked_sub(n).ok_or(NoRoom)?;
        Ok(())
    }

    fn append(&mut self, n: usize) -> Result<(), NoRoom> {
        if n > self.tailroom() {
            return Err(NoRoom);
        }
        self.end += n;
        Ok(())
    }

    fn trim_front(&mut self, n: usize) -> Result<(), NoRoom> {
        if n > self.end - self.start {
            return Err(NoRoom);
        }
        self.start += n;
        Ok(())
    }

    fn trim_back(&mut self, n: usize) -> Result<(), NoRoom> {
        if n > self.end - self.start {
            return Err(NoRoom);
        }
        self.end -= n;
        Ok(())
    }
}

/// A pool of [`VecBuf`]s that can run dry like a real one.
#[derive(Debug)]
pub struct VecPool {
    buffers_max: usize,
    room: usize,
    handed_out: Arc<()>,
}

impl VecPool {
    /// A pool of which at most `buffers_max` buffers are out at a time.
    pub fn new(buffers_max: usize) -> Self {
        Self::with_room(buffers_max, ROOM)
    }

    /// A pool whose buffers have that much room behind the headroom, in bytes.
    pub fn with_room(buffers_max: usize, room: usize) -> Self {
        Self { buffers_max, room, handed_out: Arc::new(()) }
    }

    /// How many buffers are out.
    pub fn in_use(&self) -> usize {
        Arc::strong_count(&self.handed_out) - 1
    }
}

impl BufferPool for VecPool {
    type Buf = VecBuf;

    fn alloc(&mut self) -> Option<VecBuf> {
        if self.in_use() >= self.buffers_max {
            return None;
        }
        let mut buffer = VecBuf::with_room(HEADROOM, self.room);
        buffer._from_pool = Some(self.handed_out.clone());
        Some(buffer)
    }
}

type Queue = Arc<Mutex<VecDeque<VecBuf>>>;

/// A port made of two queues. Clones share them.
#[derive(Debug, Clone)]
pub struct VecPort {
    incoming: Queue,
    outgoing: Queue,
    queue_max: usize,
}

fn lock(queue: &Queue) -> MutexGuard<'_, VecDeque<VecBuf>> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl VecPort {
    /// A port whose queues take `queue_max` packets each.
    pub fn new(queue_max: usize) -> Self {
        Self { incoming: Queue::default(), outgoing: Queue::default(), queue_max }
    }

    /// The port at the other end of the wire: it receives what this one transmits.
    pub fn other_end(&self) -> Self {
        Self { incoming: self.outgoing.clone(), outgoing: self.incoming.clone(), queue_max: self.queue_max }
    }

    /// Sends one packet; gives it back when the queue is full.
    pub fn send(&self, packet: VecBuf) -> Result<(), VecBuf> {
        let mut outgoing = lock(&self.outgoing);
        if outgoing.len() >= self.queue_max {
            return Err(packet);
        }
        outgoing.push_back(packet);
        Ok(())
    }

    /// Receives one packet.
    pub fn take(&self) -> Option<VecBuf> {
        lock(&self.incoming).pop_front()
    }
}

impl PortIo for VecPort {
    type Buf = VecBuf;

    fn receive(&mut self, into: &mut Burst<VecBuf>) -> usize {
        let mut incoming = lock(&self.incoming);
        let count = incoming.len().min(into.remaining_capacity());
        into.extend(incoming.drain(..count));
        count
    }

    fn transmit(&mut self, packets: &mut Burst<VecBuf>) -> usize {
        let mut outgoing = lock(&self.outgoing);
        let count = packets.len().min(self.queue_max.saturating_sub(outgoing.len()));
        outgoing.extend(packets.drain(..count));
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_and_shrinks_within_its_room() {
        let mut buffer = VecBuf::with_room(4, 8);
        buffer.append(3).unwrap();
        buffer.data_mut().copy_from_slice(&[1, 2, 3]);
        buffer.prepend(4).unwrap();
        assert_eq!(buffer.prepend(1), Err(NoRoom));
        assert_eq!(buffer.append(6), Err(NoRoom));
        assert_eq!((buffer.headroom(), buffer.tailroom()), (0, 5));
        buffer.trim_front(5).unwrap();
        buffer.trim_back(1).unwrap();
        assert_eq!(buffer.data(), [2]);
        assert_eq!(buffer.trim_front(2), Err(NoRoom));
        assert_eq!(buffer.trim_back(2), Err(NoRoom));
    }

    #[test]
    fn pool_runs_dry_until_a_buffer_is_freed() {
        let mut pool = VecPool::new(2);
        let first = pool.alloc().unwrap();
        let _second = pool.alloc().unwrap();
        assert!(first.headroom() >= 128);
        assert!(pool.alloc().is_none());
        drop(first);
        assert!(pool.alloc().is_some());
    }

    #[test]
    fn what_one_end_transmits_the_other_receives() {
        let mut here = VecPort::new(2);
        let mut there = here.other_end();
        let mut burst: Burst<VecBuf> = (0..3u8).map(|n| VecBuf::from_bytes(&[n])).collect();
        assert_eq!(here.transmit(&mut burst), 2);
        assert_eq!(burst.as_slice(), [VecBuf::from_bytes(&[2])], "what had no room stays");
        let mut received = Burst::new();
        assert_eq!(there.receive(&mut received), 2);
        assert_eq!(received.as_slice(), [VecBuf::from_bytes(&[0]), VecBuf::from_bytes(&[1])]);
    }
}
