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

/// Places that an operation has at most, whatever the device could do.
const PARTS_MAX: usize = 4;
/// Words that are gathered for one operation.
const GATHERED_WORDS_MAX: usize = 1 << 13;

/// Words that belong somewhere in the region.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    /// Word offset in the region.
    at: usize,
    words: usize,
}

/// What is asked of the device.
#[derive(Debug, Clone, Copy)]
enum Operation {
    /// Words that stand behind each other here, and belong into several places there. Only so many of them are used.
    Write { parts: [Part; PARTS_MAX], count: usize },
    /// Reads the grant word into the ring, to say that all writes up to a number are in place.
    Ask { upto: WriteId },
}

impl Operation {
    fn parts(&self) -> &[Part] {
        match self {
            Self::Write { parts, count } => parts.get(..*count).unwrap_or_default(),
            Self::Ask { .. } => const { &[Part { at: AT_GRANT, words: 1 }] },
        }
    }

    /// Words of the ring that it takes.
    fn words(&self) -> usize {
        self.parts().iter().map(|part| part.words).sum()
    }
}

/// Writes that nobody has to see in any order, on their way into one operation.
#[derive(Debug, Default)]
struct Gathered {
    parts: [Part; PARTS_MAX],
    count: usize,
    words: Vec<u64>,
}

impl Gathered {
    /// Adds a write, to the one before where they are neighbours; `false`: no room.
    fn add(&mut self, at: usize, words: &[u64], parts_max: usize) -> bool {
        if !self.words.is_empty() && self.words.len() + words.len() > GATHERED_WORDS_MAX {
            return false;
        }
        let last = self.count.checked_sub(1).and_then(|last| self.parts.get_mut(last));
        match last {
            Some(last) if last.at + last.words == at => last.words += words.len(),
            _ => {
                let Some(next) = self.parts.get_mut(self.count).filter(|_| self.count < parts_max) else {
                    return false;
                };
                *next = Part { at, words: words.len() };
                self.count += 1;
            }
        }
        self.words.extend_from_slice(words);
        true
    }
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
    parts_max: usize,
    gathered: Gathered,
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
            parts_max: domain.remote_places_max().clamp(1, PARTS_MAX),
            gathered: Gathered::default(),
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
        let words = operation.words();
        let local = self.ring.get(from..from + words).ok_or(FabricError::OutOfMemory)?.as_ptr().cast_mut();
        let (base, key) = (self.remote.base, self.remote.key);
        let remote = |part: &Part| sys::fi_rma_iov { addr: base + part.at as u64 * 8, len: part.words * 8, key };
        // What the completion will name it by.
        let context = ptr::without_provenance_mut((self.first + self.posted.len() as u64) as usize);
        let ep = self.endpoint.as_ref().ok_or(FabricError::Closed)?.as_ptr();
        let mut descriptor = self.registration.descriptor();
        let code = match operation {
            Operation::Write { parts, count } => {
                let places = parts.each_ref().map(remote);
                let words = sys::iovec { iov_base: local.cast(), iov_len: words * 8 };
                let message = sys::fi_msg_rma {
                    msg_iov: &raw const words,
                    desc: &raw mut descriptor,
                    iov_count: 1,
                    addr: 0,
                    rma_iov: places.as_ptr(),
                    rma_iov_count: count,
                    context,
                    data: 0,
                };
                // SAFETY: an open, connected endpoint; the message lives through the call; its words are in the registered ring, where
                // nobody reuses them before the operation has completed.
                unsafe { sys::shim_fi_writemsg(ep, &raw const message, u64::from(sys::FI_COMPLETION)) }
            }
            Operation::Ask { .. } => {
                let sys::fi_rma_iov { addr, len, key } = remote(&Part { at: AT_GRANT, words: 1 });
                // SAFETY: as above; `local` is a word of the ring.
                unsafe { sys::shim_fi_read(ep, local.cast(), len, descriptor, addr, key, context) }
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
            && let Some((from, frees)) = self.place(operation.words())
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

    /// Submits what was gathered.
    fn send(&mut self) -> Result<(), StoreError> {
        let Gathered { parts, count, mut words } = std::mem::take(&mut self.gathered);
        if count == 0 {
            return Ok(());
        }
        self.submit(Operation::Write { parts, count }, &words)?;
        words.clear();
        self.gathered.words = words;
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
            if let Operation::Ask { upto } = operation {
                let grant = self.ring.get(from).map_or(0, |word| word.load(Ordering::Acquire));
                self.answer = Some(Answer { upto, grant });
            }
        }
        while let Some(&operation) = self.waiting.front()
            && let Some((from, frees)) = self.place(operation.words())
        {
            let own = if let Operation::Write { .. } = operation { operation.words() } else { 0 };
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
        let fits = at.checked_add(words.len()).is_some_and(|end| end <= self.geometry.words());
        if !fits || self.ended.is_some() {
            return Err(StoreError::LinkLost);
        }
        if !self.gathered.add(at, words, self.parts_max) {
            self.send()?;
            self.gathered.add(at, words, self.parts_max);
        }
        Ok(())
    }

    fn order(&mut self) -> Result<(), StoreError> {
        self.send()
    }

    fn ask(&mut self, upto: WriteId) -> Result<(), StoreError> {
        self.send()?;
        self.submit(Operation::Ask { upto }, &[])
    }

    fn answered(&mut self) -> Result<Option<Answer>, StoreError> {
        if self.ended.is_some() {
            return Err(StoreError::LinkLost);
        }
        self.progress().map_err(|error| self.end(error))?;
        Ok(self.answer.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(gathered: &Gathered) -> Vec<(usize, usize)> {
        gathered.parts.iter().take(gathered.count).map(|part| (part.at, part.words)).collect()
    }

    #[test]
    fn neighbours_become_one_piece() {
        let mut gathered = Gathered::default();
        assert!(gathered.add(8, &[1, 2], 1) && gathered.add(10, &[3], 1), "even where one piece is all there may be");
        assert!(!gathered.add(8, &[4], 1) && !gathered.add(12, &[4], 1), "not behind it, and not a gap");
        assert_eq!((parts(&gathered), &gathered.words[..]), (vec![(8, 3)], &[1, 2, 3][..]));
    }

    #[test]
    fn an_operation_has_as_many_pieces_as_the_device_takes() {
        let mut gathered = Gathered::default();
        for nth in 0..3 {
            assert!(gathered.add(100 - 10 * nth, &[nth as u64], 3));
        }
        assert!(!gathered.add(0, &[9], 3) && gathered.add(81, &[3], 3));
        assert_eq!((parts(&gathered), &gathered.words[..]), (vec![(100, 1), (90, 1), (80, 2)], &[0, 1, 2, 3][..]));
    }

    #[test]
    fn what_is_large_goes_alone() {
        let mut gathered = Gathered::default();
        assert!(gathered.add(0, &vec![0; GATHERED_WORDS_MAX + 9], 4), "a record fits, however large");
        assert!(!gathered.add(GATHERED_WORDS_MAX + 9, &[1], 4));
    }
}
