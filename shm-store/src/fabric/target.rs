//! The backup's end: a region that one caller may write, until it is shut.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use vipsec_libfabric_sys as sys;

use super::object::{CompletionQueue, Domain, Endpoint, Event, EventQueue, Info, Listener, Registration, RemoteMemory};
use super::{FabricError, Word};
use crate::reader::Shutter;
use crate::region::Region;

/// How long the thread that serves a region sleeps without traffic; it is woken by what comes.
const SERVING_WAIT: Duration = Duration::from_millis(20);
/// Nothing completes at the end that is written to.
const COMPLETIONS: usize = 8;

/// Where peers call to write into regions of ours. Kept from one pairing to the next.
#[derive(Debug)]
pub struct DataListener {
    listener: Listener,
    events: Arc<EventQueue>,
    domain: Arc<Domain>,
}

impl DataListener {
    /// Listens at one of our own addresses.
    pub fn bind(provider: super::Provider, own: std::net::SocketAddr) -> Result<Self, FabricError> {
        let domain = Domain::at(provider, own)?;
        let events = Arc::new(domain.event_queue()?);
        let listener = domain.listener(&events)?;
        Ok(Self { listener, events, domain })
    }

    /// Registers `region` for a caller that will say `word`.
    pub(super) fn expose(&self, region: Arc<Region>, word: Word, key: u64) -> Result<Exposed<'_>, FabricError> {
        let words = region.words();
        let (start, len) = (words.as_ptr().cast_mut().cast::<u8>(), words.len() * 8);
        // SAFETY: `Serving` holds the region until the registration is gone; its words are atomics, and what the device makes of
        // them are numbers that every reader checks.
        let registration =
            unsafe { self.domain.register(start, len, sys::FI_REMOTE_WRITE | sys::FI_REMOTE_READ, key)? };
        Ok(Exposed { listener: self, accepted: None, registration, region, word })
    }
}

/// A region that waits for its caller.
#[derive(Debug)]
pub(super) struct Exposed<'a> {
    listener: &'a DataListener,
    /// The caller, once it has come.
    accepted: Option<Accepted>,
    // Before the region.
    registration: Registration,
    region: Arc<Region>,
    word: Word,
}

#[derive(Debug)]
struct Accepted {
    endpoint: Endpoint,
    events: Arc<EventQueue>,
    completions: Arc<CompletionQueue>,
}

impl Exposed<'_> {
    /// What the caller has to know.
    pub(super) fn remote(&self) -> RemoteMemory {
        self.registration.remote()
    }

    /// Goes on for at most `limit`; true when the caller that knows the word is connected. Others are turned away.
    pub(super) fn poll(&mut self, limit: Duration) -> Result<bool, FabricError> {
        if let Some(accepted) = &self.accepted {
            return match accepted.events.wait(limit)? {
                Some(Event::Connected) => Ok(true),
                Some(Event::Ended) => Err(FabricError::Closed),
                _ => Ok(false),
            };
        }
        match self.listener.events.wait(limit) {
            Ok(Some(Event::Caller(caller, said))) if self.word.is(&said) => {
                self.accepted = Some(self.accept(&caller)?);
                Ok(false)
            }
            Ok(Some(Event::Caller(caller, _))) => {
                self.listener.listener.reject(&caller);
                Ok(false)
            }
            // Garbage on the port is somebody else's mistake.
            Ok(_) | Err(FabricError::Call { call: "connection", .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn accept(&self, caller: &Info) -> Result<Accepted, FabricError> {
        let domain = &self.listener.domain;
        let events = Arc::new(domain.event_queue()?);
        let completions = Arc::new(domain.completion_queue(COMPLETIONS)?);
        let endpoint = domain.endpoint(Some(caller), &events, &completions)?;
        endpoint.accept()?;
        Ok(Accepted { endpoint, events, completions })
    }

    /// Lets the connected caller write.
    pub(super) fn serve(self) -> Result<Serving, FabricError> {
        let Self { accepted, registration, region, .. } = self;
        let Accepted { endpoint, completions, .. } = accepted.ok_or(FabricError::Closed)?;
        let shared = Arc::new(Shared {
            open: Mutex::new(Some(Open { endpoint, registration })),
            completions,
            stop: AtomicBool::new(false),
        });
        let serves = shared.clone();
        // It ends by itself soon after the region is shut.
        thread::Builder::new()
            .name("store-region".into())
            .spawn(move || serves.serve())
            .map_err(|_| FabricError::OutOfMemory)?;
        Ok(Serving { shared, _region: region })
    }
}

#[derive(Debug)]
struct Open {
    // Before the registration: once the endpoint is closed nothing is in flight.
    endpoint: Endpoint,
    registration: Registration,
}

#[derive(Debug)]
struct Shared {
    open: Mutex<Option<Open>>,
    completions: Arc<CompletionQueue>,
    stop: AtomicBool,
}

impl Shared {
    /// Where the device doesn't do it by itself (tcp), waiting on the queue carries the peer's operations out.
    fn serve(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            if self.completions.wait(SERVING_WAIT).is_err() {
                // The peer is gone. The region stays as it left it.
                return;
            }
        }
    }
}

/// A region that its caller writes into.
#[derive(Debug)]
pub(super) struct Serving {
    shared: Arc<Shared>,
    _region: Arc<Region>,
}

impl Shutter for Serving {
    /// When this returns, the connection and the key are gone, and no write is in flight.
    fn shut(&mut self) {
        let open = self.shared.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Open { endpoint, registration }) = open {
            drop(endpoint);
            drop(registration);
        }
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.shut();
    }
}
