//! A crypto device in memory, as [`VecPort`](vipsec_wire::buffer::VecPort) is a port: for tests and simulation.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vipsec_wire::buffer::{Burst, PacketBuf};
use vipsec_wire::crypto::{
    AAD_MAX, CryptoIo, Direction, Done, Failure, Job, SessionError, SessionId, SessionParams, TAG_LEN,
};

use crate::engine::{Context, EngineKind};

/// A device whose jobs are done when they are asked for, or when it is told to. Clones share it: one is the worker's, one the test's.
pub struct SoftDevice<B>(Arc<Mutex<State<B>>>);

struct State<B> {
    engine: EngineKind,
    jobs_max: usize,
    sessions_max: usize,
    sessions: Vec<Place>,
    /// Handed over and not finished.
    waiting: VecDeque<Job<B>>,
    /// Finished and not fetched.
    done: VecDeque<Done<B>>,
    is_slow: bool,
    is_busy: bool,
}

#[derive(Default)]
struct Place {
    session: Option<(Context, Direction, usize)>,
    generation: u32,
    /// Freed when no job is under way that uses it.
    is_closed: bool,
    jobs: usize,
}

impl<B> Clone for SoftDevice<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: PacketBuf> SoftDevice<B> {
    /// A device with room for so many jobs and sessions.
    pub fn new(engine: EngineKind, jobs_max: usize, sessions_max: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            engine,
            jobs_max,
            sessions_max,
            sessions: Vec::new(),
            waiting: VecDeque::with_capacity(jobs_max),
            done: VecDeque::with_capacity(jobs_max),
            is_slow: false,
            is_busy: false,
        })))
    }

    /// From now on jobs wait for [`finish`](Self::finish).
    pub fn be_slow(&self) {
        self.lock().is_slow = true;
    }

    /// While it is busy it takes no jobs.
    pub fn be_busy(&self, is_busy: bool) {
        self.lock().is_busy = is_busy;
    }

    /// Finishes jobs, oldest first: `how` says which, and which of them fail.
    pub fn finish(&self, mut how: impl FnMut(&Job<B>) -> Option<Result<(), Failure>>) {
        let mut state = self.lock();
        for _ in 0..state.waiting.len() {
            let Some(job) = state.waiting.pop_front() else { return };
            match how(&job) {
                Some(result) => state.finish(job, result),
                None => state.waiting.push_back(job),
            }
        }
    }

    /// Finishes all jobs as they ought to be.
    pub fn finish_all(&self) {
        self.finish(|_| Some(Ok(())));
    }

    /// Jobs that are not finished.
    pub fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Sessions whose keys it still has.
    pub fn sessions(&self) -> usize {
        self.lock().sessions.iter().filter(|place| place.session.is_some()).count()
    }

    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: PacketBuf> State<B> {
    fn finish(&mut self, mut job: Job<B>, wanted: Result<(), Failure>) {
        let place = self.sessions.get_mut(job.session.place as usize);
        let result = match (place, wanted) {
            (Some(place), wanted) => {
                place.jobs -= 1;
                let result = wanted.and_then(|()| match &place.session {
                    Some((context, direction, aad_len)) => run(context, *direction, *aad_len, &mut job),
                    None => Err(Failure::NoSession),
                });
                place.free_if_unused();
                result
            }
            (None, _) => Err(Failure::NoSession),
        };
        self.done.push_back(Done { packet: job.packet, token: job.token, result });
    }
}

impl Place {
    fn free_if_unused(&mut self) {
        if self.is_closed && self.jobs == 0 {
            self.session = None;
        }
    }
}

fn run<B: PacketBuf>(context: &Context, direction: Direction, aad_len: usize, job: &mut Job<B>) -> Result<(), Failure> {
    let aad = job.aad.get(..aad_len).ok_or(Failure::OutOfBounds)?;
    let packet = job.packet.data_mut();
    let tag_end = job.tag.checked_add(TAG_LEN).ok_or(Failure::OutOfBounds)?;
    let mut tag = [0; TAG_LEN];
    tag.copy_from_slice(packet.get(job.tag..tag_end).ok_or(Failure::OutOfBounds)?);
    let text = packet.get_mut(job.text.clone()).ok_or(Failure::OutOfBounds)?;
    match direction {
        Direction::Open => context.open_in_place(&job.nonce, aad, text, &tag).map_err(|_| Failure::BadTag),
        Direction::Seal => {
            context.seal_in_place(&job.nonce, aad, text, &mut tag).map_err(|_| Failure::Device)?;
            packet.get_mut(job.tag..tag_end).ok_or(Failure::OutOfBounds)?.copy_from_slice(&tag);
            Ok(())
        }
    }
}

impl<B: PacketBuf> CryptoIo for SoftDevice<B> {
    type Buf = B;

    fn jobs_max(&self) -> usize {
        self.lock().jobs_max
    }

    fn open_session(&mut self, params: &SessionParams<'_>) -> Result<SessionId, SessionError> {
        let SessionParams { algorithm, direction, key, aad_len } = *params;
        let mut state = self.lock();
        if aad_len > AAD_MAX {
            return Err(SessionError::BadAad);
        }
        let context = Context::new(state.engine, algorithm, key).map_err(|_| SessionError::BadKey)?;
        let free = state.sessions.iter().position(|place| place.session.is_none());
        let place = match free {
            Some(place) => place,
            None if state.sessions.len() == state.sessions_max => return Err(SessionError::TooMany),
            None => {
                state.sessions.push(Place::default());
                state.sessions.len() - 1
            }
        };
        let slot = state.sessions.get_mut(place).ok_or(SessionError::TooMany)?;
        (slot.session, slot.is_closed) = (Some((context, direction, aad_len)), false);
        Ok(SessionId { place: place as u32, generation: slot.generation })
    }

    fn close_session(&mut self, session: SessionId) {
        let mut state = self.lock();
        if let Some(place) = state.sessions.get_mut(session.place as usize)
            && place.generation == session.generation
            && place.session.is_some()
        {
            place.is_closed = true;
            place.generation = place.generation.wrapping_add(1);
            place.free_if_unused();
        }
    }

    fn enqueue(&mut self, jobs: &mut Burst<Job<B>>) -> usize {
        let mut state = self.lock();
        let room = state.jobs_max.saturating_sub(state.waiting.len() + state.done.len());
        let count = if state.is_busy { 0 } else { room.min(jobs.len()) };
        for job in jobs.drain(..count) {
            match state.sessions.get_mut(job.session.place as usize) {
                Some(place) if place.generation == job.session.generation && place.session.is_some() => {
                    place.jobs += 1;
                    state.waiting.push_back(job);
                }
                _ => {
                    let Job { packet, token, .. } = job;
                    state.done.push_back(Done { packet, token, result: Err(Failure::NoSession) });
                }
            }
        }
        count
    }

    fn dequeue(&mut self, into: &mut Burst<Done<B>>) -> usize {
        let mut state = self.lock();
        if !state.is_slow {
            while let Some(job) = state.waiting.pop_front() {
                state.finish(job, Ok(()));
            }
        }
        let count = state.done.len().min(into.remaining_capacity());
        into.extend(state.done.drain(..count));
        count
    }
}
