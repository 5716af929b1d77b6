//! The hot path: one queue pair of a crypto device.

use std::mem::{self, offset_of};
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use arrayvec::ArrayVec;
use vipsec_dpdk_sys as sys;
use vipsec_wire::buffer::{BURST_MAX, Burst, PacketBuf};
use vipsec_wire::crypto::{
    self, AAD_MAX, CryptoIo, Failure, NONCE_LEN, SessionError, SessionId, SessionParams, TAG_LEN,
};

use super::session::Session;
use super::{CryptoOptions, DeviceInner};
use crate::errno::Errno;
use crate::mbuf::Mbuf;

/// A packet for the device.
pub type Job = crypto::Job<Mbuf>;
/// A packet that the device is done with.
pub type Done = crypto::Done<Mbuf>;

/// What we keep behind an operation while the device has it.
#[repr(C)]
struct Own {
    nonce: [u8; NONCE_LEN],
    aad: [u8; AAD_MAX],
    place: u32,
    token: u64,
}

/// Room for it, in bytes.
pub(super) const OWN_BYTES: u16 = size_of::<Own>() as u16;
/// Where a driver finds the nonce, from the start of the operation.
pub(super) const NONCE_OFFSET: u16 = sys::SHIM_CRYPTO_OP_OWN_OFFSET as u16 + offset_of!(Own, nonce) as u16;

/// One queue pair of a crypto device with its sessions, for one worker. Holds the device started.
///
/// Dropping it waits for the jobs that the device still has.
#[derive(Debug)]
pub struct CryptoQueue {
    device: Arc<DeviceInner>,
    queue: u16,
    jobs_max: usize,
    /// Operations without a packet.
    idle: Vec<Op>,
    /// Operations that the device had no room for. They leave before anything newer.
    unsent: ArrayVec<Op, BURST_MAX>,
    /// Jobs that never reach the device.
    refused: Burst<Done>,
    sessions: Vec<Place>,
    free_places: Vec<u32>,
}

/// Room for a session.
#[derive(Debug, Default)]
struct Place {
    session: Option<Session>,
    generation: u32,
    /// Jobs in the device.
    in_flight: u32,
    /// Freed as soon as no job in the device uses it.
    is_closed: bool,
}

/// An operation of the queue's own. Not freed by itself: its pool goes with the device.
#[derive(Debug)]
#[repr(transparent)]
struct Op(NonNull<sys::rte_crypto_op>);

// SAFETY: an operation belongs to no thread, and this is the only reference to it.
unsafe impl Send for Op {}

impl CryptoQueue {
    pub(super) fn new(device: Arc<DeviceInner>, queue: u16, options: &CryptoOptions) -> Result<Self, Errno> {
        let jobs_max = usize::from(options.jobs_max);
        let mut raw = vec![ptr::null_mut(); jobs_max];
        // SAFETY: the pool lives as long as `device`, and `raw` has room for so many pointers.
        let count =
            unsafe { sys::shim_rte_crypto_op_bulk_alloc(device.ops.0.as_ptr(), raw.as_mut_ptr(), options.jobs_max) };
        let idle: Vec<_> = raw.into_iter().filter_map(NonNull::new).map(Op).collect();
        if usize::try_from(count) != Ok(jobs_max) || idle.len() != jobs_max {
            return Err(Errno(libc::ENOMEM));
        }
        Ok(Self {
            device,
            queue,
            jobs_max,
            idle,
            unsent: ArrayVec::new(),
            refused: Burst::new(),
            sessions: Vec::new(),
            free_places: Vec::new(),
        })
    }

    /// Which pair of the device's this is, from 0.
    pub fn index(&self) -> u16 {
        self.queue
    }

    /// Jobs in the device.
    pub fn in_flight(&self) -> usize {
        self.jobs_max - self.idle.len() + self.refused.len()
    }

    /// Hands over what the device doesn't have yet.
    fn send(&mut self) {
        while !self.unsent.is_empty() {
            let len = self.unsent.len();
            // SAFETY: the device is started, and the queue is only here and `&mut`. The array holds `len` operations (a transparent
            // pointer each), each complete, of which the device takes over those from the start that it counts.
            let taken = unsafe {
                let ops = self.unsent.as_mut_ptr().cast();
                sys::shim_rte_cryptodev_enqueue_burst(self.device.id(), self.queue, ops, len as u16)
            };
            self.unsent.drain(..usize::from(taken).min(len));
            // What stays found no room, unless the driver says that it found something wrong: it would never take that one.
            let is_wrong = self.unsent.first().is_some_and(|op| op.status() != sys::RTE_CRYPTO_OP_STATUS_NOT_PROCESSED);
            if !is_wrong || self.refused.is_full() {
                return;
            }
            let op = self.unsent.remove(0);
            let done = self.finish(op);
            self.refused.push(done);
        }
    }

    /// Makes an operation of a job.
    fn prepare(&mut self, job: Job) -> Result<Op, Done> {
        let Job { packet, session, token, nonce, aad, text, tag } = job;
        let place =
            self.sessions.get_mut(session.place as usize).filter(|place| place.generation == session.generation);
        let Some((place, raw_session, aad_len)) = place.and_then(|place| {
            let session = place.session.as_ref()?;
            let (raw, aad_len) = (session.as_ptr(), session.aad_len);
            Some((place, raw, aad_len))
        }) else {
            return Err(Done { packet, token, result: Err(Failure::NoSession) });
        };
        let len = packet.data().len();
        let tag_end = tag.checked_add(TAG_LEN);
        if text.start > text.end || text.end > len || tag_end.is_none_or(|end| end > len) {
            return Err(Done { packet, token, result: Err(Failure::OutOfBounds) });
        }
        let Some(op) = self.idle.pop() else {
            return Err(Done { packet, token, result: Err(Failure::Device) });
        };
        place.in_flight += 1;
        let own = Own { nonce, aad, place: session.place, token };
        // SAFETY: the session is open and stays so while a job is in flight; text and tag are within the packet; the session's AAD
        // is no longer than `own.aad`.
        unsafe { op.fill(packet, raw_session, aad_len, own, text, tag) };
        Ok(op)
    }

    /// Makes a finished job of an operation that came back.
    fn finish(&mut self, op: Op) -> Done {
        // SAFETY: filled by `prepare`, and the device has let go of it or never had it.
        let (packet, own) = unsafe { op.take() };
        let status = op.status();
        self.idle.push(op);
        if let Some(place) = self.sessions.get_mut(own.place as usize) {
            place.in_flight = place.in_flight.saturating_sub(1);
            if place.is_closed {
                self.free_if_unused(own.place);
            }
        }
        let result = match status {
            sys::RTE_CRYPTO_OP_STATUS_SUCCESS => Ok(()),
            sys::RTE_CRYPTO_OP_STATUS_AUTH_FAILED => Err(Failure::BadTag),
            _ => Err(Failure::Device),
        };
        Done { packet, token: own.token, result }
    }

    /// Frees a closed session that no job uses.
    fn free_if_unused(&mut self, number: u32) {
        let Some(place) = self.sessions.get_mut(number as usize) else { return };
        if place.in_flight == 0
            && let Some(session) = place.session.take()
        {
            // SAFETY: it is of this device, and no job in the device uses it.
            unsafe { session.close(&self.device) };
            place.is_closed = false;
            self.free_places.push(number);
        }
    }
}

impl CryptoIo for CryptoQueue {
    type Buf = Mbuf;

    fn jobs_max(&self) -> usize {
        self.jobs_max
    }

    fn open_session(&mut self, params: &SessionParams<'_>) -> Result<SessionId, SessionError> {
        let session = Session::new(&self.device, params)?;
        let place = self.free_places.pop().unwrap_or_else(|| {
            self.sessions.push(Place::default());
            (self.sessions.len() - 1) as u32
        });
        let slot = &mut self.sessions[place as usize];
        slot.session = Some(session);
        Ok(SessionId { place, generation: slot.generation })
    }

    fn close_session(&mut self, id: SessionId) {
        if let Some(place) = self.sessions.get_mut(id.place as usize)
            && place.generation == id.generation
            && place.session.is_some()
        {
            place.is_closed = true;
            place.generation = place.generation.wrapping_add(1);
            self.free_if_unused(id.place);
        }
    }

    fn enqueue(&mut self, jobs: &mut Burst<Job>) -> usize {
        self.send();
        if !self.unsent.is_empty() {
            return 0;
        }
        let count = jobs.len().min(self.idle.len()).min(self.refused.remaining_capacity());
        for job in jobs.drain(..count) {
            match self.prepare(job) {
                Ok(op) => self.unsent.push(op),
                Err(refused) => self.refused.push(refused),
            }
        }
        self.send();
        count
    }

    /// Software drivers compute here, and compare tags byte by byte: the time that it takes may tell how much of a forged tag was
    /// right, as far as the network lets anybody measure that.
    fn dequeue(&mut self, into: &mut Burst<Done>) -> usize {
        self.send();
        let before = into.len();
        let refused = self.refused.len().min(into.remaining_capacity());
        into.extend(self.refused.drain(..refused));
        let mut ops = [ptr::null_mut(); BURST_MAX];
        let room = into.remaining_capacity();
        // SAFETY: the device is started, and the queue is only here and `&mut`. The array has that room.
        let count = unsafe {
            sys::shim_rte_cryptodev_dequeue_burst(self.device.id(), self.queue, ops.as_mut_ptr(), room as u16)
        };
        for op in ops.into_iter().take(usize::from(count).min(room)).filter_map(NonNull::new) {
            let done = self.finish(Op(op));
            into.push(done);
        }
        into.len() - before
    }
}

impl Op {
    /// # Safety
    /// The session is open and stays so until the operation is back; `text` and the [`TAG_LEN`] bytes from `tag` are within the
    /// packet; `aad_len <= AAD_MAX`.
    #[inline]
    unsafe fn fill(
        &self,
        packet: Mbuf,
        session: *mut std::ffi::c_void,
        aad_len: usize,
        own: Own,
        text: Range<usize>,
        tag: usize,
    ) {
        debug_assert!(aad_len <= AAD_MAX);
        let packet = packet.into_raw();
        let op = self.0.as_ptr();
        // SAFETY: an operation of the pool has a symmetric part and our own behind it, at these offsets and aligned for them, and it
        // is ours alone. `packet` is valid, and the offset of the tag is within its data.
        unsafe {
            self.own().write(own);
            let address = (*op).phys_addr + u64::from(sys::SHIM_CRYPTO_OP_OWN_OFFSET);
            let head = &mut (*op).__bindgen_anon_1.__bindgen_anon_1;
            head.status = sys::RTE_CRYPTO_OP_STATUS_NOT_PROCESSED as u8;
            head.sess_type = sys::RTE_CRYPTO_OP_WITH_SESSION as u8;
            let mbuf = packet.as_ref();
            let data_off = usize::from(mbuf.data_off);
            let mut part: sys::rte_crypto_sym_op = mem::zeroed();
            part.m_src = packet.as_ptr();
            part.__bindgen_anon_1.session = session;
            let aead = &mut part.__bindgen_anon_2.aead;
            aead.data.offset = text.start as u32;
            aead.data.length = (text.end - text.start) as u32;
            aead.digest.data = mbuf.buf_addr.cast::<u8>().add(data_off + tag);
            aead.digest.phys_addr = mbuf.buf_iova + (data_off + tag) as u64;
            aead.aad.data = (&raw mut (*self.own()).aad).cast();
            aead.aad.phys_addr = address + offset_of!(Own, aad) as u64;
            self.symmetric().write(part);
        }
    }

    /// How far it got.
    #[inline]
    fn status(&self) -> u32 {
        // SAFETY: an operation that is ours alone, with a status from `fill` on.
        u32::from(unsafe { (*self.0.as_ptr()).__bindgen_anon_1.__bindgen_anon_1.status })
    }

    /// Packet and our own part.
    ///
    /// # Safety
    /// It was filled, nothing was taken since, and the device has let go of it.
    #[inline]
    unsafe fn take(&self) -> (Mbuf, Own) {
        // SAFETY: the caller's promise: `m_src` is the packet that `fill` gave away, and nobody else's.
        unsafe {
            let packet = NonNull::new_unchecked((*self.symmetric()).m_src);
            (Mbuf::from_raw(packet), self.own().read())
        }
    }

    fn symmetric(&self) -> *mut sys::rte_crypto_sym_op {
        // SAFETY: within the operation.
        unsafe { self.0.as_ptr().cast::<u8>().add(sys::SHIM_CRYPTO_OP_SYM_OFFSET as usize).cast() }
    }

    fn own(&self) -> *mut Own {
        // SAFETY: within the operation and what the pool adds to it.
        unsafe { self.0.as_ptr().cast::<u8>().add(sys::SHIM_CRYPTO_OP_OWN_OFFSET as usize).cast() }
    }
}

impl Drop for CryptoQueue {
    fn drop(&mut self) {
        /// Polls of a device that gives nothing back. Software is done at once; hardware within a millisecond.
        const EMPTY_POLLS_MAX: u32 = 1_000_000;
        let mut empty_polls = 0;
        while self.in_flight() > 0 && empty_polls < EMPTY_POLLS_MAX {
            let mut done = Burst::new();
            empty_polls = if self.dequeue(&mut done) == 0 { empty_polls + 1 } else { 0 };
        }
        if self.in_flight() > 0 {
            // It may still write to the packets, read the keys and the operations: they stay with it.
            tracing::error!(device = self.device.device.name, jobs = self.in_flight(), "the crypto device keeps jobs");
            mem::forget(self.device.clone());
            return;
        }
        for place in &mut self.sessions {
            if let Some(session) = place.session.take() {
                // SAFETY: it is of this device, which has no job of this queue any more, and other queues have none for it.
                unsafe { session.close(&self.device) };
            }
        }
    }
}
