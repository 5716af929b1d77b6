//! libfabric's objects, each closed when it is dropped, and the few calls that make and join them.

use std::ffi::{CStr, CString, c_void};
use std::fmt;
use std::net::SocketAddr;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use vipsec_libfabric_sys as sys;

use super::{FabricError, Provider};

/// A structure of libfabric's that begins with a `struct fid`, as all do that `fi_close` takes.
///
/// # Safety
/// That is so.
pub(super) unsafe trait Fid {}
// SAFETY: the first member of each is `struct fid fid` (fi_domain.h, fi_endpoint.h, fi_eq.h, fabric.h).
unsafe impl Fid for sys::fid_fabric {}
// SAFETY: as above.
unsafe impl Fid for sys::fid_domain {}
// SAFETY: as above.
unsafe impl Fid for sys::fid_eq {}
// SAFETY: as above.
unsafe impl Fid for sys::fid_cq {}
// SAFETY: as above.
unsafe impl Fid for sys::fid_pep {}
// SAFETY: as above.
unsafe impl Fid for sys::fid_ep {}
// SAFETY: as above.
unsafe impl Fid for sys::fid_mr {}

/// An open object. Whoever holds one also holds what it was made from.
pub(super) struct Object<T: Fid>(NonNull<T>);

// SAFETY: domains are opened with FI_THREAD_SAFE, and fabrics and event queues are safe by themselves (fi_domain(3)): any thread may
// call into any object.
unsafe impl<T: Fid> Send for Object<T> {}
// SAFETY: as above.
unsafe impl<T: Fid> Sync for Object<T> {}

impl<T: Fid> Object<T> {
    /// # Safety
    /// `open` writes a pointer to a new object, which nobody else closes, or returns an error.
    unsafe fn open(call: &'static str, open: impl FnOnce(*mut *mut T) -> i32) -> Result<Self, FabricError> {
        let mut raw = ptr::null_mut();
        check(call, open(&raw mut raw))?;
        NonNull::new(raw).map(Self).ok_or(FabricError::Call { call, code: 0 })
    }

    pub(super) fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }

    pub(super) fn fid(&self) -> *mut sys::fid {
        self.0.as_ptr().cast()
    }
}

impl<T: Fid> fmt::Debug for Object<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Object({:p})", self.0)
    }
}

impl<T: Fid> Drop for Object<T> {
    fn drop(&mut self) {
        // SAFETY: open until now, and closed only here; what was made from it is gone, since it would hold this.
        let _ = unsafe { sys::shim_fi_close(self.fid()) };
    }
}

/// What an error number means, in libfabric's words.
pub(super) fn describe(code: i32) -> &'static str {
    // SAFETY: a string that lives as long as the library, or null (fi_errno(3)).
    let words = unsafe { sys::fi_strerror(code) };
    // SAFETY: as above.
    (!words.is_null())
        .then(|| unsafe { CStr::from_ptr(words) })
        .and_then(|words| words.to_str().ok())
        .unwrap_or("unknown error")
}

pub(super) fn check(call: &'static str, code: i32) -> Result<(), FabricError> {
    if code == 0 { Ok(()) } else { Err(FabricError::Call { call, code: -code }) }
}

/// What reading a queue gave: how much, or nothing yet. `failed` fetches the error that waits behind the queue: what failed, and its
/// number.
fn taken(
    call: &'static str,
    read: isize,
    failed: impl FnOnce() -> (&'static str, i32),
) -> Result<Option<usize>, FabricError> {
    let nothing = [sys::FI_EAGAIN, sys::FI_ETIMEDOUT, sys::FI_EINTR];
    match usize::try_from(read) {
        Ok(count) => Ok(Some(count)),
        Err(_) if nothing.iter().any(|code| read == -(*code as isize)) => Ok(None),
        Err(_) if read == -(sys::FI_EAVAIL as isize) => {
            let (call, code) = failed();
            Err(FabricError::Call { call, code })
        }
        Err(_) => Err(FabricError::Call { call, code: i32::try_from(-read).unwrap_or(i32::MAX) }),
    }
}

/// A description of a way to reach, or be reached.
#[derive(Debug)]
pub(super) struct Info(NonNull<sys::fi_info>);

// SAFETY: plain memory that only its owner touches.
unsafe impl Send for Info {}

impl Info {
    /// # Safety
    /// `raw` is null or a list that `fi_freeinfo` may free, given away.
    pub(super) unsafe fn from_raw(raw: *mut sys::fi_info) -> Option<Self> {
        NonNull::new(raw).map(Self)
    }

    /// What a store link needs: connected endpoints, one-sided writes and reads, in order.
    fn hints(provider: Provider) -> Result<Self, FabricError> {
        let name = CString::new(provider.name()).unwrap_or_default();
        // SAFETY: allocates an info with all its attributes, or returns null.
        let mut hints = unsafe { Self::from_raw(sys::shim_fi_allocinfo()) }.ok_or(FabricError::OutOfMemory)?;
        // SAFETY: fresh and ours; fi_allocinfo has allocated the attributes that are written here.
        unsafe {
            let info = hints.0.as_mut();
            info.caps = u64::from(
                sys::FI_MSG | sys::FI_RMA | sys::FI_READ | sys::FI_WRITE | sys::FI_REMOTE_READ | sys::FI_REMOTE_WRITE,
            );
            (*info.ep_attr).type_ = sys::FI_EP_MSG;
            (*info.domain_attr).threading = sys::FI_THREAD_SAFE;
            // Whatever of these the provider wants we do: the buffers are registered, keys and base addresses travel.
            (*info.domain_attr).mr_mode =
                (sys::FI_MR_LOCAL | sys::FI_MR_VIRT_ADDR | sys::FI_MR_ALLOCATED | sys::FI_MR_PROV_KEY) as i32;
            // A write is in place before a later write, and before a later read (fi_endpoint(3)).
            (*info.tx_attr).msg_order = u64::from(sys::FI_ORDER_WAW | sys::FI_ORDER_RAW);
            // fi_freeinfo frees the name with free(3).
            (*info.fabric_attr).prov_name = libc_strdup(&name);
        }
        Ok(hints)
    }

    /// Where `address` is our own (`FI_SOURCE`) or the peer's.
    fn get(provider: Provider, address: SocketAddr, flags: u64) -> Result<Self, FabricError> {
        let hints = Self::hints(provider)?;
        let node = CString::new(address.ip().to_string()).unwrap_or_default();
        let service = CString::new(address.port().to_string()).unwrap_or_default();
        let mut found = ptr::null_mut();
        // SAFETY: the strings and the hints live through the call; the result is a list that is ours.
        let code = unsafe {
            sys::fi_getinfo(
                sys::shim_fi_version(),
                node.as_ptr(),
                service.as_ptr(),
                flags,
                hints.0.as_ptr(),
                &raw mut found,
            )
        };
        check("fi_getinfo", code)?;
        // SAFETY: see above.
        unsafe { Self::from_raw(found) }.ok_or(FabricError::Call { call: "fi_getinfo", code: 0 })
    }

    /// The registration keys' and addresses' rules of the provider.
    fn mr_mode(&self) -> u32 {
        // SAFETY: every info that libfabric returns has domain attributes (fi_getinfo(3)).
        unsafe { (*self.0.as_ref().domain_attr).mr_mode as u32 }
    }

    pub(super) fn as_ptr(&self) -> *mut sys::fi_info {
        self.0.as_ptr()
    }
}

impl Drop for Info {
    fn drop(&mut self) {
        // SAFETY: ours, freed once.
        unsafe { sys::fi_freeinfo(self.0.as_ptr()) };
    }
}

fn libc_strdup(text: &CString) -> *mut std::ffi::c_char {
    // SAFETY: a string with its end; the copy is malloc's.
    unsafe { nix::libc::strdup(text.as_ptr()) }
}

/// One device, opened: where memory is registered and endpoints live.
#[derive(Debug)]
pub(super) struct Domain {
    // Dropped in this order.
    domain: Object<sys::fid_domain>,
    fabric: Object<sys::fid_fabric>,
    info: Info,
}

// SAFETY: `info` is only read, by calls that take it as constant.
unsafe impl Sync for Domain {}

/// Memory that the device may touch. The caller keeps the memory until this is dropped.
#[derive(Debug)]
pub(super) struct Registration {
    mr: Object<sys::fid_mr>,
    _domain: Arc<Domain>,
    base: u64,
}

/// Where a peer finds registered memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RemoteMemory {
    pub(super) base: u64,
    pub(super) key: u64,
}

impl Registration {
    pub(super) fn remote(&self) -> RemoteMemory {
        // SAFETY: an open registration.
        RemoteMemory { base: self.base, key: unsafe { sys::shim_fi_mr_key(self.mr.as_ptr()) } }
    }

    /// What local operations name it by.
    pub(super) fn descriptor(&self) -> *mut c_void {
        // SAFETY: an open registration.
        unsafe { sys::shim_fi_mr_desc(self.mr.as_ptr()) }
    }
}

impl Domain {
    fn open(info: Info) -> Result<Self, FabricError> {
        // SAFETY: `info` is libfabric's, and lives as long as what is made from it.
        unsafe {
            let attr = (*info.as_ptr()).fabric_attr;
            let fabric =
                Object::<sys::fid_fabric>::open("fi_fabric", |raw| sys::fi_fabric(attr, raw, ptr::null_mut()))?;
            let domain = Object::open("fi_domain", |raw| sys::shim_fi_domain(fabric.as_ptr(), info.as_ptr(), raw))?;
            Ok(Self { domain, fabric, info })
        }
    }

    /// Places in remote memory that one write may have.
    pub(super) fn remote_places_max(&self) -> usize {
        // SAFETY: every info that libfabric returns has transmit attributes (fi_getinfo(3)).
        unsafe { (*(*self.info.as_ptr()).tx_attr).rma_iov_limit }
    }

    /// For reaching `peer`.
    pub(super) fn towards(provider: Provider, peer: SocketAddr) -> Result<Arc<Self>, FabricError> {
        Self::open(Info::get(provider, peer, 0)?).map(Arc::new)
    }

    /// For being reached at `own`.
    pub(super) fn at(provider: Provider, own: SocketAddr) -> Result<Arc<Self>, FabricError> {
        Self::open(Info::get(provider, own, sys::FI_SOURCE)?).map(Arc::new)
    }

    /// Registers memory for the device.
    ///
    /// # Safety
    /// The memory stays readable and writable until the registration is dropped; others touch it with atomics only.
    pub(super) unsafe fn register(
        self: &Arc<Self>,
        start: *mut u8,
        len: usize,
        access: u32,
        key: u64,
    ) -> Result<Registration, FabricError> {
        // SAFETY: the caller's promise.
        let mr = unsafe {
            Object::open("fi_mr_reg", |raw| {
                sys::shim_fi_mr_reg(self.domain.as_ptr(), start.cast(), len, u64::from(access), key, raw)
            })?
        };
        // fi_mr(3): without FI_MR_VIRT_ADDR remote offsets begin at 0.
        let base = if self.info.mr_mode() & sys::FI_MR_VIRT_ADDR == 0 { 0 } else { start as u64 };
        Ok(Registration { mr, _domain: self.clone(), base })
    }

    pub(super) fn event_queue(self: &Arc<Self>) -> Result<EventQueue, FabricError> {
        // SAFETY: all-zero attributes are valid (fi_eq(3)).
        let mut attr: sys::fi_eq_attr = unsafe { std::mem::zeroed() };
        attr.wait_obj = sys::FI_WAIT_UNSPEC;
        // SAFETY: the attributes live through the call; the fabric is held below.
        let eq = unsafe {
            Object::open("fi_eq_open", |raw| sys::shim_fi_eq_open(self.fabric.as_ptr(), &raw mut attr, raw))?
        };
        Ok(EventQueue { eq, _domain: self.clone() })
    }

    pub(super) fn completion_queue(self: &Arc<Self>, entries: usize) -> Result<CompletionQueue, FabricError> {
        // SAFETY: all-zero attributes are valid (fi_cq(3)).
        let mut attr: sys::fi_cq_attr = unsafe { std::mem::zeroed() };
        attr.size = entries;
        attr.format = sys::FI_CQ_FORMAT_CONTEXT;
        attr.wait_obj = sys::FI_WAIT_UNSPEC;
        // SAFETY: the attributes live through the call; the domain is held below.
        let cq = unsafe {
            Object::open("fi_cq_open", |raw| sys::shim_fi_cq_open(self.domain.as_ptr(), &raw mut attr, raw))?
        };
        Ok(CompletionQueue { cq, _domain: self.clone() })
    }

    /// An endpoint towards the peer that this domain was opened for, or for a caller (`info` from [`Event::Caller`]).
    pub(super) fn endpoint(
        self: &Arc<Self>,
        caller: Option<&Info>,
        events: &Arc<EventQueue>,
        completions: &Arc<CompletionQueue>,
    ) -> Result<Endpoint, FabricError> {
        let info = caller.unwrap_or(&self.info).as_ptr();
        // SAFETY: `info` is libfabric's; the queues are held by the endpoint.
        unsafe {
            let ep = Object::<sys::fid_ep>::open("fi_endpoint", |raw| {
                sys::shim_fi_endpoint(self.domain.as_ptr(), info, raw)
            })?;
            check("fi_ep_bind", sys::shim_fi_ep_bind(ep.as_ptr(), events.eq.fid(), 0))?;
            let both = u64::from(sys::FI_TRANSMIT | sys::FI_RECV);
            check("fi_ep_bind", sys::shim_fi_ep_bind(ep.as_ptr(), completions.cq.fid(), both))?;
            check("fi_enable", sys::shim_fi_enable(ep.as_ptr()))?;
            Ok(Endpoint { ep, _events: events.clone(), _completions: completions.clone(), domain: self.clone() })
        }
    }

    /// Listens at this domain's own address.
    pub(super) fn listener(self: &Arc<Self>, events: &Arc<EventQueue>) -> Result<Listener, FabricError> {
        // SAFETY: the info is this domain's; the queue is held by the listener.
        unsafe {
            let pep = Object::<sys::fid_pep>::open("fi_passive_ep", |raw| {
                sys::shim_fi_passive_ep(self.fabric.as_ptr(), self.info.as_ptr(), raw)
            })?;
            check("fi_pep_bind", sys::shim_fi_pep_bind(pep.as_ptr(), events.eq.fid()))?;
            check("fi_listen", sys::shim_fi_listen(pep.as_ptr()))?;
            Ok(Listener { pep, _events: events.clone() })
        }
    }
}

/// Something listens.
#[derive(Debug)]
pub(super) struct Listener {
    pep: Object<sys::fid_pep>,
    _events: Arc<EventQueue>,
}

impl Listener {
    /// Turns a caller away.
    pub(super) fn reject(&self, caller: &Info) {
        // SAFETY: the handle is the one that came with the request.
        let _ = unsafe { sys::shim_fi_reject(self.pep.as_ptr(), (*caller.as_ptr()).handle) };
    }
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Endpoint {
    ep: Object<sys::fid_ep>,
    _events: Arc<EventQueue>,
    _completions: Arc<CompletionQueue>,
    domain: Arc<Domain>,
}

impl Endpoint {
    /// Begins to call the peer, which sees `word`.
    pub(super) fn connect(&self, word: &[u8]) -> Result<(), FabricError> {
        // SAFETY: the destination address is part of the info that the endpoint was made from; `word` lives through the call.
        let code = unsafe {
            let to = (*self.domain.info.as_ptr()).dest_addr;
            sys::shim_fi_connect(self.ep.as_ptr(), to, word.as_ptr().cast(), word.len())
        };
        check("fi_connect", code)
    }

    pub(super) fn accept(&self) -> Result<(), FabricError> {
        // SAFETY: an endpoint made for a caller.
        check("fi_accept", unsafe { sys::shim_fi_accept(self.ep.as_ptr(), ptr::null(), 0) })
    }

    pub(super) fn as_ptr(&self) -> *mut sys::fid_ep {
        self.ep.as_ptr()
    }
}

/// What an event queue tells.
#[derive(Debug)]
pub(super) enum Event {
    /// Somebody calls; what it said.
    Caller(Info, Vec<u8>),
    /// A connection stands.
    Connected,
    /// A connection ended.
    Ended,
}

#[derive(Debug)]
pub(super) struct EventQueue {
    eq: Object<sys::fid_eq>,
    _domain: Arc<Domain>,
}

/// Bytes that a caller's word may have.
const WORD_BYTES_MAX: usize = 64;

/// A `struct fi_eq_cm_entry` with room behind it for what the caller said.
#[repr(C, align(8))]
struct Entry {
    fid: sys::fid_t,
    info: *mut sys::fi_info,
    data: [u8; WORD_BYTES_MAX],
}

impl EventQueue {
    /// The next event, waiting for at most `limit`; `None`: there was none.
    pub(super) fn wait(&self, limit: Duration) -> Result<Option<Event>, FabricError> {
        const { assert!(std::mem::offset_of!(Entry, data) == size_of::<sys::fi_eq_cm_entry>()) };
        let mut entry = Entry { fid: ptr::null_mut(), info: ptr::null_mut(), data: [0; WORD_BYTES_MAX] };
        let mut event = 0;
        let timeout = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: room for an entry and what comes with it.
        let read = unsafe {
            sys::shim_fi_eq_sread(
                self.eq.as_ptr(),
                &raw mut event,
                (&raw mut entry).cast(),
                size_of::<Entry>(),
                timeout,
            )
        };
        let taken = taken("fi_eq_sread", read, || {
            // SAFETY: all-zero is valid for the entry that the call fills.
            let mut error: sys::fi_eq_err_entry = unsafe { std::mem::zeroed() };
            // SAFETY: the entry is ours.
            unsafe { sys::shim_fi_eq_readerr(self.eq.as_ptr(), &raw mut error) };
            ("connection", error.err)
        })?;
        let Some(read) = taken else { return Ok(None) };
        let said = read.saturating_sub(size_of::<sys::fi_eq_cm_entry>());
        Ok(match event {
            sys::FI_CONNREQ => {
                // SAFETY: a request comes with an info that is ours to free (fi_cm(3)).
                let caller = unsafe { Info::from_raw(entry.info) };
                let word = entry.data.get(..said).unwrap_or_default().to_vec();
                caller.map(|caller| Event::Caller(caller, word))
            }
            sys::FI_CONNECTED => Some(Event::Connected),
            sys::FI_SHUTDOWN => Some(Event::Ended),
            _ => None,
        })
    }
}

#[derive(Debug)]
pub(super) struct CompletionQueue {
    cq: Object<sys::fid_cq>,
    _domain: Arc<Domain>,
}

/// Completions taken at once.
const COMPLETIONS_AT_ONCE: usize = 32;

impl CompletionQueue {
    /// Calls `done` with the number of each operation that has completed since the last call, at most a handful. Returns how many
    /// these were.
    pub(super) fn poll(&self, mut done: impl FnMut(u64)) -> Result<usize, FabricError> {
        let mut entries = [sys::fi_cq_entry { op_context: ptr::null_mut() }; COMPLETIONS_AT_ONCE];
        // SAFETY: room for that many entries of the format that the queue was opened with.
        let read = unsafe { sys::shim_fi_cq_read(self.cq.as_ptr(), entries.as_mut_ptr().cast(), COMPLETIONS_AT_ONCE) };
        let completed = self.completed(read)?;
        entries.iter().take(completed).for_each(|entry| done(entry.op_context.addr() as u64));
        Ok(completed)
    }

    /// Waits for at most `limit`. Drives what the peer does to our memory, where the device doesn't do that itself.
    pub(super) fn wait(&self, limit: Duration) -> Result<(), FabricError> {
        let mut entries = [sys::fi_cq_entry { op_context: ptr::null_mut() }; COMPLETIONS_AT_ONCE];
        let timeout = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: as in `poll`.
        let read = unsafe {
            sys::shim_fi_cq_sread(self.cq.as_ptr(), entries.as_mut_ptr().cast(), COMPLETIONS_AT_ONCE, timeout)
        };
        self.completed(read).map(drop)
    }

    fn completed(&self, read: isize) -> Result<usize, FabricError> {
        let taken = taken("fi_cq_read", read, || {
            // SAFETY: all-zero is valid for the entry that the call fills.
            let mut error: sys::fi_cq_err_entry = unsafe { std::mem::zeroed() };
            // SAFETY: the entry is ours.
            unsafe { sys::shim_fi_cq_readerr(self.cq.as_ptr(), &raw mut error) };
            ("operation", error.err)
        })?;
        Ok(taken.unwrap_or(0))
    }
}
