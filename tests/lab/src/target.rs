//! A target: the application behind the VIP. TCP 80 is a small HTTP server, UDP 7 echoes, UDP 19 is a paced source.
//!
//! It runs in threads of this process inside the target's namespace, so what it observed needs no collecting and no clock
//! comparison.

mod http;
pub(crate) mod udp;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;

use crate::clock::Stamp;
use crate::error::Result;
use crate::netns::Namespace;

/// The HTTP service.
pub const HTTP_PORT: u16 = 80;
/// The UDP service that sends back what it gets, and notes the probes among it.
pub const ECHO_PORT: u16 = 7;
/// The UDP service that sends numbered datagrams at a pace to whoever asks.
pub const SOURCE_PORT: u16 = 19;

/// In every HTTP request and answer: where these bytes show, nothing is encrypted.
pub const CLEAR_TEXT_MARKER: &str = "lab-clear-text-7d1f5c";

/// How often a server thread looks whether it shall stop.
const STOP_INTERVAL: Duration = Duration::from_millis(100);
/// Probe sessions that a target remembers at most.
const SESSIONS_MAX: usize = 64;
/// Datagrams of a session that a target remembers at most.
const DATAGRAMS_MAX: usize = 4_000_000;

/// A running target.
#[derive(Debug)]
pub struct Target {
    name: String,
    observed: Arc<Observed>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// What a target saw.
#[derive(Debug, Default)]
pub struct Observed {
    connections: AtomicU64,
    requests: AtomicU64,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
    sessions: Mutex<HashMap<u64, Session>>,
}

/// A probe session, as a target saw it.
#[derive(Debug, Clone, Default)]
pub struct Session {
    /// Numbers that arrived at the echo service, and when.
    pub received: Vec<(u64, Stamp)>,
    /// When number n left the source.
    pub sent: Vec<Stamp>,
}

/// Counters of a target.
#[derive(Debug, Clone, Serialize)]
pub struct TargetCounts {
    /// TCP connections accepted.
    pub connections: u64,
    /// HTTP requests answered.
    pub requests: u64,
    /// Bytes of request bodies.
    pub bytes_received: u64,
    /// Bytes of answers' bodies.
    pub bytes_sent: u64,
}

impl Target {
    /// Starts the services inside `namespace`, which has the VIPs.
    pub fn start(namespace: &Namespace, name: &str, vips: &[IpAddr]) -> Result<Self> {
        let observed = Arc::new(Observed::default());
        let stop = Arc::new(AtomicBool::new(false));
        let threads = namespace.run(|| {
            let mut threads = vec![http::serve(name.to_owned(), observed.clone(), stop.clone())?];
            for vip in vips {
                threads.push(udp::echo(*vip, observed.clone(), stop.clone())?);
                threads.push(udp::source(*vip, name, observed.clone(), stop.clone())?);
            }
            Ok(threads)
        })?;
        Ok(Self { name: name.to_owned(), observed, stop, threads })
    }

    /// Its name, which it tells its clients.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it saw of a probe session.
    pub fn session(&self, session: u64) -> Session {
        self.observed.sessions().get(&session).cloned().unwrap_or_default()
    }

    /// Its counters.
    pub fn counts(&self) -> TargetCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TargetCounts {
            connections: load(&self.observed.connections),
            requests: load(&self.observed.requests),
            bytes_received: load(&self.observed.bytes_received),
            bytes_sent: load(&self.observed.bytes_sent),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Observed {
    fn sessions(&self) -> MutexGuard<'_, HashMap<u64, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes something of a probe session, within the limits.
    fn note(&self, session: u64, note: impl FnOnce(&mut Session)) {
        let mut sessions = self.sessions();
        if sessions.len() >= SESSIONS_MAX && !sessions.contains_key(&session) {
            return;
        }
        let session = sessions.entry(session).or_default();
        if session.received.len().max(session.sent.len()) < DATAGRAMS_MAX {
            note(session);
        }
    }
}
