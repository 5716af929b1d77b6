//! Finding the library's direct calls.

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use std::sync::OnceLock;

use super::sys;

/// Encrypts or decrypts one message: key data, scratch, out, in, bytes, nonce, AAD, its bytes, tag, its bytes.
pub(super) type GcmCall = unsafe extern "C" fn(
    *const sys::gcm_key_data,
    *mut sys::gcm_context_data,
    *mut u8,
    *const u8,
    u64,
    *const u8,
    *const u8,
    u64,
    *mut u8,
    u64,
);
/// Expands a key: key, key data.
pub(super) type GcmExpand = unsafe extern "C" fn(*const c_void, *mut sys::gcm_key_data);
type ChaChaContext = sys::chacha20_poly1305_context_data;
/// Begins a message: key, state, nonce, AAD, its bytes.
pub(super) type ChaChaInit = unsafe extern "C" fn(*const c_void, *mut ChaChaContext, *const c_void, *const c_void, u64);
/// Encrypts or decrypts: key, state, out, in, bytes.
pub(super) type ChaChaUpdate = unsafe extern "C" fn(*const c_void, *mut ChaChaContext, *mut c_void, *const c_void, u64);
/// Ends a message: state, tag, its bytes.
pub(super) type ChaChaFinalize = unsafe extern "C" fn(*mut ChaChaContext, *mut c_void, u64);

/// The calls for this CPU. None of them keeps state.
pub(super) struct Calls {
    pub(super) gcm128_enc: GcmCall,
    pub(super) gcm128_dec: GcmCall,
    pub(super) gcm256_enc: GcmCall,
    pub(super) gcm256_dec: GcmCall,
    pub(super) chacha_init: ChaChaInit,
    pub(super) chacha_enc: ChaChaUpdate,
    pub(super) chacha_dec: ChaChaUpdate,
    pub(super) chacha_finalize: ChaChaFinalize,
    pub(super) gcm128_expand: GcmExpand,
    pub(super) gcm256_expand: GcmExpand,
}

/// The calls, if the library is worth using here.
pub(super) fn calls() -> Option<&'static Calls> {
    static CALLS: OnceLock<Option<Calls>> = OnceLock::new();
    CALLS.get_or_init(find).as_ref()
}

/// The version of the library that is loaded: major and minor.
pub(super) fn version() -> (u8, u8) {
    // SAFETY: no precondition.
    let version = unsafe { sys::imb_get_version() };
    ((version >> 16) as u8, (version >> 8) as u8)
}

/// What the library's fastest code asks for. Its own detection doesn't ask whether the operating system saves the registers; the
/// standard library's does.
fn cpu_has_it() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("avx512f")
        && has!("avx512dq")
        && has!("avx512cd")
        && has!("avx512bw")
        && has!("avx512vl")
        && has!("avx512ifma")
        && has!("vaes")
        && has!("vpclmulqdq")
        && has!("gfni")
        && has!("sha")
}

fn find() -> Option<Calls> {
    if !cpu_has_it() {
        return None;
    }
    let manager = Manager::new()?;
    // SAFETY: `Manager::new` has initialised what it points to, and nobody else has the pointer. The layout is the header's that
    // the bindings are made from; the library keeps it within a soname (new members go behind those used here).
    let found = unsafe { manager.0.as_ref() };
    Some(Calls {
        gcm128_enc: found.gcm128_enc?,
        gcm128_dec: found.gcm128_dec?,
        gcm256_enc: found.gcm256_enc?,
        gcm256_dec: found.gcm256_dec?,
        chacha_init: found.chacha20_poly1305_init?,
        chacha_enc: found.chacha20_poly1305_enc_update?,
        chacha_dec: found.chacha20_poly1305_dec_update?,
        chacha_finalize: found.chacha20_poly1305_finalize?,
        gcm128_expand: found.gcm128_pre?,
        gcm256_expand: found.gcm256_pre?,
    })
}

/// The library's table of calls, as long as it is looked at.
struct Manager(NonNull<sys::IMB_MGR>);

impl Manager {
    /// `None` if there is no memory, or the library's self-test fails.
    fn new() -> Option<Self> {
        // SAFETY: no precondition; the result is null or memory for a manager.
        let manager = Self(NonNull::new(unsafe { sys::alloc_mb_mgr(0) })?);
        let mut arch: sys::IMB_ARCH = sys::IMB_ARCH_NONE;
        // SAFETY: the manager was allocated by the library just now; `arch` outlives the call.
        unsafe { sys::init_mb_mgr_auto(manager.0.as_ptr(), &mut arch) };
        // SAFETY: the manager is alive.
        let errno: c_int = unsafe { sys::imb_get_errno(manager.0.as_ptr()) };
        (errno == 0 && arch == sys::IMB_ARCH_AVX512).then_some(manager)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // SAFETY: allocated by `alloc_mb_mgr`, freed once. The calls copied from it are the library's code, which stays.
        unsafe { sys::free_mb_mgr(self.0.as_ptr()) }
    }
}
