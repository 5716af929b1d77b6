//! Reassembly of IPv4 (RFC 791 §3.2, RFC 815) and IPv6 fragments (RFC 8200 §4.5), as a state machine.
//!
//! A datagram is put together in one buffer from the pool, into which each fragment is copied when it comes: a datagram costs one buffer,
//! however many fragments it is in, and the fragment's own buffer is free at once. Memory is bounded by [`Limits::datagrams_max`]
//! buffers; nothing else is allocated after construction. When a datagram more would have to be kept, the oldest goes.
//!
//! ```text
//! handle_fragment ──> Held ... ──> Whole            handle_timeout ──> Dropped(TimedOut)
//!        └─> Dropped: this fragment, or with it all that came of its datagram
//! ```
//!
//! What overlaps is an attack, not an accident (RFC 1858, RFC 5722 §2): the datagram is abandoned, and what still comes of it is dropped
//! until its time is over. A fragment that came before, equal in place and content, was doubled by the network and is dropped alone.

use std::time::{Duration, Instant};

use vipsec_wire::buffer::{BufferPool, PacketBuf};

use crate::aged_table::AgedTable;
use assembly::Assembly;
use piece::{Key, Piece};

mod assembly;
mod piece;
#[cfg(test)]
mod tests;

/// How many fragments a datagram may come in. 64 KiB in packets of 1500 bytes are 45.
pub const FRAGMENTS_MAX: usize = 64;

/// What reassembly may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Datagrams kept at a time; each holds a buffer of the pool.
    pub datagrams_max: usize,
    /// How long the first fragment to come waits for the others.
    pub timeout: Duration,
}

impl Default for Limits {
    /// 256 datagrams for half a second.
    ///
    /// RFC 791 §3.2 suggests 15 s, RFC 8200 §4.5 asks for 60 s: times of slow links. The fragments of a datagram leave their sender back to
    /// back, and come within tens of milliseconds of each other or not at all. A long timeout has a price: whoever sends single
    /// fragments fills the table for that long, and IPv4's 16-bit identification comes round again after 65536 datagrams (less than a
    /// second at 1 Gbit/s), when pieces of different datagrams could be put together (RFC 4963).
    fn default() -> Self {
        Self { datagrams_max: 256, timeout: Duration::from_millis(500) }
    }
}

/// Where a fragment came from, in the caller's own numbering (a port, a VIP, an SA). Fragments of different origins never meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin(pub u64);

/// Why fragments were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Reason {
    /// Not an IP packet, or a malformed one.
    #[error("the fragment is malformed")]
    Malformed,
    /// A packet that is no fragment.
    #[error("the packet is no fragment")]
    NotAFragment,
    /// Empty, or not the last and no multiple of eight bytes long.
    #[error("the fragment's length is wrong")]
    Length,
    /// It would end behind the longest datagram that IP allows.
    #[error("the datagram would be longer than 65535 bytes")]
    TooLong,
    /// The datagram doesn't fit a buffer of the pool.
    #[error("the datagram does not fit a packet buffer")]
    TooLarge,
    /// It overlaps another fragment of its datagram.
    #[error("the fragment overlaps another one")]
    Overlap,
    /// The same fragment came before.
    #[error("the fragment came before")]
    Duplicate,
    /// Fragments disagree about the end of the datagram.
    #[error("the fragments disagree about the datagram's end")]
    EndConflict,
    /// The datagram comes in more than [`FRAGMENTS_MAX`] fragments.
    #[error("too many fragments")]
    TooManyFragments,
    /// Some fragments experienced congestion, others don't take part in ECN.
    #[error("congestion was experienced and a fragment is not ECN-capable")]
    Congestion,
    /// It belongs to a datagram that was abandoned.
    #[error("the datagram was abandoned before")]
    Abandoned,
    /// Room was needed for a newer datagram.
    #[error("evicted for a newer datagram")]
    Evicted,
    /// The rest didn't come in time.
    #[error("the other fragments did not come in time")]
    TimedOut,
    /// The pool has no free buffer.
    #[error("no free packet buffer")]
    PoolEmpty,
}

/// Fragments that were dropped together.
#[derive(Debug)]
pub struct Dropped<B> {
    /// Why.
    pub reason: Reason,
    /// How many packets they came in, that of this call included.
    pub fragments: usize,
    /// When time ran out: the first fragment of the datagram, as it came. Its sender is to be told (RFC 1122 §3.3.2, RFC 8200 §4.5); without
    /// it nobody is.
    pub first: Option<B>,
}

impl<B> Dropped<B> {
    const fn one(reason: Reason) -> Self {
        Self { reason, fragments: 1, first: None }
    }
}

/// What became of a fragment that was taken.
#[derive(Debug)]
pub enum Progress<B> {
    /// It was the last that was missing: here is the datagram, and how many fragments it came in.
    Whole {
        /// The packet, as if it had never been fragmented.
        packet: B,
        /// How many packets it came in.
        fragments: usize,
    },
    /// It is kept until the others come.
    Held,
    /// It is kept, and others had to go for it.
    HeldInstead(Dropped<B>),
}

/// A datagram of which something came.
#[derive(Debug)]
struct Datagram<B> {
    key: Key,
    deadline: Instant,
    /// `None`: it was abandoned, and what still comes of it is dropped.
    assembly: Option<Assembly<B>>,
}

impl<B: PacketBuf> Datagram<B> {
    /// What is lost when it goes.
    fn into_dropped(self, reason: Reason) -> Option<Dropped<B>> {
        let assembly = self.assembly?;
        let fragments = assembly.fragments();
        let first = if reason == Reason::TimedOut { assembly.into_first_fragment() } else { None };
        Some(Dropped { reason, fragments, first })
    }
}

/// Puts fragments together. One per worker.
#[derive(Debug)]
pub struct Reassembler<B> {
    timeout: Duration,
    seed: u64,
    datagrams: AgedTable<Datagram<B>>,
}

impl<B: PacketBuf> Reassembler<B> {
    /// An empty one, with all its tables. `seed` keys the hash, so that nobody outside can aim for one bucket.
    pub fn new(limits: &Limits, seed: u64) -> Self {
        Self { timeout: limits.timeout, seed, datagrams: AgedTable::new(limits.datagrams_max) }
    }

    /// A number that all fragments of a datagram share; `None`: it is no fragment, or a malformed one.
    pub(crate) fn hash(&self, origin: Origin, packet: &[u8]) -> Option<u64> {
        Piece::read(origin, packet).ok().map(|piece| piece.key.hash(self.seed))
    }

    /// How many datagrams are kept, abandoned ones included.
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes a fragment: an IP packet of either family, without what stands in front of it. It is copied.
    pub fn handle_fragment<P: BufferPool<Buf = B>>(
        &mut self,
        now: Instant,
        origin: Origin,
        packet: &[u8],
        pool: &mut P,
    ) -> Result<Progress<B>, Dropped<B>> {
        let piece = Piece::read(origin, packet).map_err(Dropped::one)?;
        let hash = piece.key.hash(self.seed);
        let Some((at, datagram)) = self.datagrams.find(hash, |datagram| datagram.key == piece.key) else {
            return self.begin(now, hash, None, &piece, pool);
        };
        if datagram.deadline <= now {
            return self.begin(now, hash, Some(at), &piece, pool);
        }
        let assembly = datagram.assembly.as_mut().ok_or(Dropped::one(Reason::Abandoned))?;
        match assembly.add(&piece) {
            Ok(()) if assembly.is_complete() => self.finish(at),
            Ok(()) => Ok(Progress::Held),
            Err(Reason::Duplicate) => Err(Dropped::one(Reason::Duplicate)),
            Err(reason) => {
                let fragments = assembly.fragments() + 1;
                datagram.assembly = None;
                Err(Dropped { reason, fragments, first: None })
            }
        }
    }

    /// The first to come of a datagram, or the first after its time was over.
    fn begin<P: BufferPool<Buf = B>>(
        &mut self,
        now: Instant,
        hash: u64,
        expired: Option<u32>,
        piece: &Piece<'_>,
        pool: &mut P,
    ) -> Result<Progress<B>, Dropped<B>> {
        let buffer = pool.alloc().ok_or(Dropped::one(Reason::PoolEmpty))?;
        let assembly = Assembly::new(buffer, piece).map_err(Dropped::one)?;
        // Nothing can fail any more: what has to go may go.
        let oldest = self.datagrams.oldest().filter(|_| self.datagrams.is_full()).map(|(at, _)| at);
        let gone = match (expired, oldest) {
            (Some(expired), _) => self.drop_datagram(expired, Reason::TimedOut),
            (None, Some(oldest)) => self.drop_datagram(oldest, Reason::Evicted),
            (None, None) => None,
        };
        let datagram = Datagram { key: piece.key, deadline: now + self.timeout, assembly: Some(assembly) };
        match self.datagrams.insert(hash, datagram) {
            Ok(_) => Ok(gone.map_or(Progress::Held, Progress::HeldInstead)),
            Err(_) => Err(Dropped::one(Reason::Evicted)),
        }
    }

    fn drop_datagram(&mut self, at: u32, reason: Reason) -> Option<Dropped<B>> {
        self.datagrams.remove(at)?.into_dropped(reason)
    }

    /// All fragments are there.
    fn finish(&mut self, at: u32) -> Result<Progress<B>, Dropped<B>> {
        let assembly = self.datagrams.remove(at).and_then(|datagram| datagram.assembly);
        let assembly = assembly.ok_or(Dropped::one(Reason::Abandoned))?;
        let fragments = assembly.fragments();
        match assembly.into_packet() {
            Ok(packet) => Ok(Progress::Whole { packet, fragments }),
            Err(reason) => Err(Dropped { reason, fragments, first: None }),
        }
    }

    /// When [`Reassembler::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.datagrams.oldest().map(|(_, datagram)| datagram.deadline)
    }

    /// Drops a datagram whose time is over. Call it until it returns `None`.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Dropped<B>> {
        while let Some((at, datagram)) = self.datagrams.oldest()
            && datagram.deadline <= now
        {
            // Of an abandoned one nothing is left to report.
            if let Some(dropped) = self.drop_datagram(at, Reason::TimedOut) {
                return Some(dropped);
            }
        }
        None
    }
}
