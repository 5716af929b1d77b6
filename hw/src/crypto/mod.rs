//! Crypto devices beside the packets' way (lookaside): a worker hands packets over and gets them back encrypted or decrypted.
//!
//! ```no_run
//! # use vipsec_hw::{crypto::*, Eal, EalOptions, Mempool, MempoolOptions};
//! # use vipsec_wire::buffer::Burst;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let eal = Eal::init(&EalOptions::new("vipsec-a"))?;
//! # let pool = Mempool::new(&eal, &MempoolOptions::new("packets"))?;
//! let (device, mut queues) = CryptoDevice::start(&eal, "crypto_aesni_gcm0", &CryptoOptions::default())?;
//! let queue = queues.first_mut().ok_or("one queue per worker")?;
//! let key = [7; 16];
//! let params = SessionParams { algorithm: Algorithm::Aes128Gcm, direction: Direction::Seal, key: &key, aad_len: 8 };
//! let session = queue.open_session(&params)?;
//!
//! let packet = pool.alloc().ok_or("the pool is empty")?;
//! let job = Job { packet, session, token: 1, nonce: [0; 12], aad: [0; 12], text: 16..80, tag: 80 };
//! let mut jobs: Burst<Job> = [job].into_iter().collect();
//! queue.enqueue(&mut jobs);
//! let mut done = Burst::new();
//! queue.dequeue(&mut done);
//! # Ok(())
//! # }
//! ```

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use thiserror::Error;
use vipsec_dpdk_sys as sys;

use crate::device::{Crypto, Device, DeviceError};
use crate::eal::Eal;
use crate::errno::Errno;
use crate::netdev;

mod queue;
mod session;

pub use queue::{CryptoQueue, Done, Job};
pub use vipsec_wire::crypto::{
    AAD_MAX, Algorithm, CryptoIo, Direction, Failure, NONCE_LEN, SessionError, SessionId, SessionParams, TAG_LEN,
};

/// How a crypto device is set up.
#[derive(Debug, Clone)]
pub struct CryptoOptions {
    /// Queue pairs: one per worker.
    pub queues: u16,
    /// Most jobs in the device at a time, by queue.
    pub jobs_max: u16,
    /// Most sessions, of all queues together.
    pub sessions_max: u32,
}

impl Default for CryptoOptions {
    /// One queue, 1024 jobs, 4096 sessions: some 6 MiB of the EAL's memory.
    fn default() -> Self {
        Self { queues: 1, jobs_max: 1024, sessions_max: 4096 }
    }
}

/// The crypto device doesn't start.
#[derive(Debug, Error)]
pub enum CryptoError {
    /// No device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The device has fewer queues.
    #[error("{device} has {available} queue pairs, {wanted} are wanted")]
    TooFewQueues {
        /// The device's name.
        device: String,
        /// Its own.
        available: u32,
        /// Asked for.
        wanted: u16,
    },
    /// A step of the configuration failed.
    #[error("{device}: {step} failed: {errno}")]
    Setup {
        /// The device's name.
        device: String,
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        errno: Errno,
    },
}

/// A device's counters since it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CryptoStats {
    /// Jobs taken.
    pub enqueued: u64,
    /// Jobs given back.
    pub dequeued: u64,
    /// Jobs that the device found no room for, or something wrong with.
    pub enqueue_errors: u64,
    /// Jobs given back as failed for another reason than their tag.
    pub dequeue_errors: u64,
}

/// A started crypto device, as the control core sees it. Its queues hold it, too: it stops when all of them and this are gone.
#[derive(Debug)]
pub struct CryptoDevice {
    inner: Arc<DeviceInner>,
}

#[derive(Debug)]
pub(crate) struct DeviceInner {
    device: Device<Crypto>,
    driver: String,
    is_hardware: bool,
    is_started: bool,
    /// Fixed by the device's configuration; without caches, so that freeing them asks nothing of other threads.
    sessions: Pool,
    ops: Pool,
    /// Sessions are made and freed one at a time: drivers differ in what they promise there.
    session_lock: Mutex<()>,
}

/// A mempool of DPDK's own objects.
#[derive(Debug)]
struct Pool(NonNull<sys::rte_mempool>);

// SAFETY: the ring behind a mempool without caches is made for many producers and many consumers.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl CryptoDevice {
    /// Attaches the device of a DPDK device string (`crypto_aesni_mb0`, `crypto_aesni_gcm0,max_nb_queue_pairs=4`), sets it up with
    /// `options.queues` queue pairs and starts it.
    pub fn start(eal: &Eal, device: &str, options: &CryptoOptions) -> Result<(Self, Vec<CryptoQueue>), CryptoError> {
        let device = Device::<Crypto>::attach(eal, device)?;
        let name = device.name.clone();
        let mut info = MaybeUninit::<sys::rte_cryptodev_info>::zeroed();
        // SAFETY: the device is attached and `info` is the struct that the call fills; zeroes are valid if it doesn't. The driver's
        // name is a static string of its plugin, which is never unloaded.
        let (info, driver) = unsafe {
            sys::rte_cryptodev_info_get(device.id, info.as_mut_ptr());
            let info = info.assume_init();
            (info, netdev::owned_text(info.driver_name))
        };
        let (available, wanted) = (info.max_nb_queue_pairs, options.queues);
        if wanted == 0 || u32::from(wanted) > available {
            return Err(CryptoError::TooFewQueues { device: name, available, wanted });
        }

        let (sessions, ops) = (session_pool(&device, options)?, op_pool(&device, options)?);
        // From here on, dropping `inner` frees the pools, and stops the device if it was started.
        let mut inner = DeviceInner {
            driver,
            is_hardware: info.feature_flags & sys::SHIM_RTE_CRYPTODEV_FF_HW_ACCELERATED != 0,
            is_started: false,
            sessions,
            ops,
            session_lock: Mutex::new(()),
            device,
        };
        inner.set_up(options)?;
        let inner = Arc::new(inner);
        let queues: Result<Vec<_>, _> =
            (0..wanted).map(|queue| CryptoQueue::new(inner.clone(), queue, options)).collect();
        let queues = queues.map_err(|errno| inner.failed("making room for jobs", errno))?;
        tracing::info!(device = name, driver = inner.driver, queues = wanted, "crypto device started");
        Ok((Self { inner }, queues))
    }

    /// The device's name: the device string up to its first comma.
    pub fn name(&self) -> &str {
        &self.inner.device.name
    }

    /// The driver's name.
    pub fn driver(&self) -> &str {
        &self.inner.driver
    }

    /// Is it a piece of hardware? Otherwise a library computes on the core that asks.
    pub fn is_hardware(&self) -> bool {
        self.inner.is_hardware
    }

    /// What it can do, as ESP needs it.
    pub fn algorithms(&self) -> Vec<Algorithm> {
        let supported = |algorithm: &Algorithm| session::is_supported(&self.inner, *algorithm);
        Algorithm::ALL.into_iter().filter(supported).collect()
    }

    /// The counters now.
    pub fn stats(&self) -> CryptoStats {
        let mut stats = MaybeUninit::<sys::rte_cryptodev_stats>::zeroed();
        // SAFETY: the device is attached and `stats` is the struct that the call fills; zeroes are valid if it doesn't.
        let stats = unsafe {
            sys::rte_cryptodev_stats_get(self.inner.id(), stats.as_mut_ptr());
            stats.assume_init()
        };
        CryptoStats {
            enqueued: stats.enqueued_count,
            dequeued: stats.dequeued_count,
            enqueue_errors: stats.enqueue_err_count,
            dequeue_errors: stats.dequeue_err_count,
        }
    }
}

const ANY_SOCKET: i32 = -1;

fn session_pool(device: &Device<Crypto>, options: &CryptoOptions) -> Result<Pool, CryptoError> {
    let name = pool_name(device, "sessions")?;
    // SAFETY: the device is attached; DPDK copies the C string.
    let pool = unsafe {
        let bytes = sys::rte_cryptodev_sym_get_private_session_size(device.id);
        sys::rte_cryptodev_sym_session_pool_create(name.as_ptr(), options.sessions_max, bytes, 0, 0, ANY_SOCKET)
    };
    NonNull::new(pool).map(Pool).ok_or_else(|| failed(device, "making room for sessions", Errno::last()))
}

fn op_pool(device: &Device<Crypto>, options: &CryptoOptions) -> Result<Pool, CryptoError> {
    let name = pool_name(device, "ops")?;
    let ops = u32::from(options.jobs_max) * u32::from(options.queues);
    const SYMMETRIC: u32 = sys::RTE_CRYPTO_OP_TYPE_SYMMETRIC;
    // SAFETY: DPDK copies the C string.
    let pool =
        unsafe { sys::rte_crypto_op_pool_create(name.as_ptr(), SYMMETRIC, ops, 0, queue::OWN_BYTES, ANY_SOCKET) };
    NonNull::new(pool).map(Pool).ok_or_else(|| failed(device, "making room for jobs", Errno::last()))
}

/// By number: DPDK's names are short, and the device's own may not fit.
fn pool_name(device: &Device<Crypto>, what: &'static str) -> Result<CString, CryptoError> {
    CString::new(format!("crypto{}_{what}", device.id))
        .map_err(|_| failed(device, "naming a pool", Errno(libc::EINVAL)))
}

fn failed(device: &Device<Crypto>, step: &'static str, errno: Errno) -> CryptoError {
    CryptoError::Setup { device: device.name.clone(), step, errno }
}

impl DeviceInner {
    fn set_up(&mut self, options: &CryptoOptions) -> Result<(), CryptoError> {
        let device = self.id();
        let step = |step, code| Errno::check(code).map_err(|errno| failed(&self.device, step, errno));
        let mut configuration =
            sys::rte_cryptodev_config { socket_id: ANY_SOCKET, nb_queue_pairs: options.queues, ff_disable: 0 };
        // SAFETY: for this and the following, the device is attached and not yet started, nobody else knows it, and the pointers
        // are to live structs that DPDK copies; the pool lives as long as `self`.
        step("configuring", unsafe { sys::rte_cryptodev_configure(device, &mut configuration) })?;
        let queue_pair = sys::rte_cryptodev_qp_conf {
            // Never all in use: of a ring's places one stays free, and crypto_openssl computes before it looks for a place, so that an
            // operation that it then gives back must not be offered again.
            nb_descriptors: (u32::from(options.jobs_max) + 1).next_power_of_two(),
            mp_session: self.sessions.0.as_ptr(),
        };
        for queue in 0..options.queues {
            // SAFETY: see above.
            let code = unsafe { sys::rte_cryptodev_queue_pair_setup(device, queue, &queue_pair, ANY_SOCKET) };
            step("setting up a queue pair", code)?;
        }
        // SAFETY: see above.
        step("starting", unsafe { sys::rte_cryptodev_start(device) })?;
        self.is_started = true;
        Ok(())
    }

    fn id(&self) -> u8 {
        self.device.id
    }

    fn failed(&self, step: &'static str, errno: Errno) -> CryptoError {
        failed(&self.device, step, errno)
    }
}

impl Drop for DeviceInner {
    fn drop(&mut self) {
        if self.is_started {
            // SAFETY: the queues hold this, too, so none of them is in use any more. The device goes with its field, afterwards.
            unsafe { sys::rte_cryptodev_stop(self.id()) };
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: no thread has a cache of it, and what came from it is not used any more: each queue, which holds its device and so
        // this, closes its sessions and has its jobs back before it goes.
        unsafe { sys::rte_mempool_free(self.0.as_ptr()) };
    }
}
