//! The owner's end: writes into the peer's registered memory.

use std::collections::VecDeque;
use std::fmt;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use vipsec_libfabric_sys as sys;

use super::FabricError;
use super::object::{CompletionQueue, Domain, Endpoint, Registration, RemoteMemory};
use crate::geometry::{AT_GRANT, Geometry};
use crate::one_sided::{Answer, OneSided};
use crate::{StoreError, WriteId};

/// Words of the ring that operations are sent from.
const RING_WORDS: usize = 1 << 18;
/// Operations that the device has at once.
pub(super) const OPERATIONS_MAX: usize = 256;
/// Words that may wait for the ring, whatever the region's size. Of a large region as much may wait as it holds, for a join writes all of
/// it in one go; beyond that the peer doesn't keep up, and is no copy.
const WAITING_WORDS_MIN: usize = 1 << 20;
/// An operation that takes longer has failed: a cut link gives no error by itself.
const OPERATION_MAX: Duration = Duration::from_secs(2);

/// What an operation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Write,
    /// Reads the grant word into the ring, to say that all writes up to a number are in place.
    Ask {
        upto: WriteId,
    },
}

/// An operation: words in the ring, and where they belong in the region.
#[derive(Debug, Clone, Copy)]
struct Operation {
    purpose: Purpose,
    /// Word offset in the region.
    at: usize,
    words: usize,
}

/// An operation that the device has.
#[derive(Debug, Clone, Copy)]
struct Posted {
    operation: Operation,
    /// Word offset in the ring.
    from: usize,
    /// Words of the ring that its end frees; more than its own where it didn't fit before the ring's end.
    frees: usize,
    since: Instant,
    is_done: bool,
}

/// A region in a peer's memory, over a connection that only serves this.
///
/// Operations take effect in their order, being on one connection; they complete in any: a write when it has been sent, a read when it is
/// answered. Nothing waits: what finds no room in the ring is kept.
pub struct FabricMemory {
    // Dropped in this order: the device must be done with the ring before the ring goes.
    /// Closed as soon as anything has failed or is late: what is under way then is never repeated or completed.
    endpoint: Option<Endpoint>,
    completions: Arc<CompletionQueue>,
    registration: Registration,
    ring: Box<[AtomicU64]>,
    geometry: Geometry,
    remote: RemoteMemory,
    /// In the order of their numbers, the first of which comes first.
    posted: VecDeque<Posted>,
    first: u64,
    /// Where the next operation's words go, and how many words of the ring are in use.
    next: usize,
    used: usize,
    waiting: VecDeque<Operation>,
    waiting_words: VecDeque<u64>,
    answer: Option<Answer>,
    /// Why it is over.
    ended: Option<FabricError>,
}

impl FabricMemory {
    pub(super) fn new(
        domain: &Arc<Domain>,
        endpoint: Endpoint,
        completions: Arc<CompletionQueue>,
        geometry: Geometry,
        remote: RemoteMemory,
    ) -> Result<Self, FabricError> {
        let ring: Box<[AtomicU64]> = (0..RING_WORDS).map(|_| AtomicU64::new(0)).collect();
        let start = ring.as_ptr().cast_mut().cast::<u8>();
        // SAFETY: `ring` is dropped after the registration (field order), and its words are atomics.
        let registration = unsafe {
            domain.register(
                start,
                RING_WORDS * 8,
                sys::FI_WRITE | sys::FI_READ,
                /* a key that nobody is told */ 0,
            )?
        };
        Ok(Self {
            endpoint: Some(endpoint),
            completions,
            registration,
            ring,
            geometry,
            remote,
            posted: VecDeque::with_capacity(OPERATIONS_MAX),
            first: 0,
            next: 0,
            used: 0,
            waiting: VecDeque::new(),
            waiting_words: VecDeque::new(),
            answer: None,
            ended: None,
        })
    }

    /// Where in the ring so many words fit behind what is in use, and how much of it that takes.
    fn place(&self, words: usize) -> Option<(usize, usize)> {
        let to_end = RING_WORDS - self.next;
        let (from, frees) = if words <= to_end { (self.next, words) } else { (0, to_end + words) };
        (words <= RING_WORDS && self.used + frees <= RING_WORDS && self.posted.len() < OPERATIONS_MAX)
            .then_some((from, frees))
    }

    /// Hands an operation to the device, its words in the ring already. `false`: the device takes no more now.
    fn post(&mut self, operation: Operation, from: usize, frees: usize) -> Result<bool, FabricError> {
        let Operation { purpose, at, words } = operation;
        let local = self.ring.get(from..from + words).ok_or(FabricError::OutOfMemory)?.as_ptr().cast_mut();
        let (len, remote) = (words * 8, self.remote.base + at as u64 * 8);
        // What the completion will name it by.
        let context = ptr::without_provenance_mut((self.first + self.posted.len() as u64) as usize);
        let ep = self.endpoint.as_ref().ok_or(FabricError::Closed)?.as_ptr();
        let (descriptor, key) = (self.registration.descriptor(), self.remote.key);
        // SAFETY: an open, connected endpoint; `local` is `len` bytes of the registered ring, which nobody reuses before the
        // operation has completed.
        let code = unsafe {
            match purpose {
                Purpose::Write => sys::shim_fi_write(ep, local.cast(), len, descriptor, remote, key, context),
                Purpose::Ask { .. } => sys::shim_fi_read(ep, local.cast(), len, descriptor, remote, key, context),
            }
        };
        if code == -(sys::FI_EAGAIN as isize) {
            return Ok(false);
        }
        super::object::check("post", i32::try_from(code).unwrap_or(i32::MIN))?;
        self.posted.push_back(Posted { operation, from, frees, since: Instant::now(), is_done: false });
        self.next = (from + words) % RING_WORDS;
        self.used += frees;
        Ok(true)
    }

    /// Posts, or keeps, an operation behind all others.
    fn submit(&mut self, operation: Operation, words: &[u64]) -> Result<(), StoreError> {
        if self.ended.is_some() {
            return Err(StoreError::LinkLost);
        }
        if self.waiting.is_empty()
            && let Some((from, frees)) = self.place(operation.words)
        {
            self.fill(from, words.iter().copied());
            match self.post(operation, from, frees) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => return Err(self.end(error)),
            }
        }
        if self.waiting_words.len() + words.len() > WAITING_WORDS_MIN.max(self.geometry.words()) {
            return Err(self.end(FabricError::Behind));
        }
        self.waiting.push_back(operation);
        self.waiting_words.extend(words);
        Ok(())
    }

    fn fill(&self, from: usize, words: impl Iterator<Item = u64>) {
        for (place, word) in self.ring.iter().skip(from).zip(words) {
            place.store(word, Ordering::Relaxed);
        }
    }

    /// Takes completions, then posts what waits.
    fn progress(&mut self) -> Result<(), FabricError> {
        let Self { posted, first, completions, .. } = self;
        let mut unknown = false;
        while completions.poll(|number| match posted.get_mut(number.wrapping_sub(*first) as usize) {
            Some(operation) => operation.is_done = true,
            None => unknown = true,
        })? > 0
        {}
        if unknown {
            return Err(FabricError::OutOfOrder);
        }
        while let Some(Posted { operation, from, frees, .. }) = self.posted.pop_front_if(|operation| operation.is_done)
        {
            self.first += 1;
            self.used -= frees;
            if let Purpose::Ask { upto } = operation.purpose {
                let grant = self.ring.get(from).map_or(0, |word| word.load(Ordering::Acquire));
                self.answer = Some(Answer { upto, grant });
            }
        }
        while let Some(&operation) = self.waiting.front()
            && let Some((from, frees)) = self.place(operation.words)
        {
            let own = if operation.purpose == Purpose::Write { operation.words } else { 0 };
            self.fill(from, self.waiting_words.iter().copied().take(own));
            if !self.post(operation, from, frees)? {
                break;
            }
            self.waiting.pop_front();
            self.waiting_words.drain(..own.min(self.waiting_words.len()));
        }
        match self.posted.front() {
            Some(oldest) if oldest.since.elapsed() > OPERATION_MAX => Err(FabricError::TimedOut),
            _ => Ok(()),
        }
    }

    fn end(&mut self, error: FabricError) -> StoreError {
        self.endpoint = None;
        self.ended = Some(error);
        StoreError::LinkLost
    }
}

impl fmt::Debug for FabricMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FabricMemory")
            .field("posted", &self.posted.len())
            .field("waiting", &self.waiting.len())
            .field("ended", &self.ended)
            .finish()
    }
}

impl OneSided for FabricMemory {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn write(&mut self, at: usize, words: &[u64]) -> Result<(), StoreError> {
        if at.checked_add(words.len()).is_none_or(|end| end > self.geometry.words()) {
            return Err(StoreError::LinkLost);
        }
        self.submit(Operation { purpose: Purpose::Write, at, words: words.len() }, words)
    }

    fn ask(&mut self, upto: WriteId) -> Result<(), StoreError> {
        self.submit(Operation { purpose: Purpose::Ask { upto }, at: AT_GRANT, words: 1 }, &[])
    }

    fn answered(&mut self) -> Result<Option<Answer>, StoreError> {
        if self.ended.is_some() {
            return Err(StoreError::LinkLost);
        }
        self.progress().map_err(|error| self.end(error))?;
        Ok(self.answer.take())
    }
}
