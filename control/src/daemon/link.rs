//! The store link to the other appliance: found, paired, kept, lost, and found again.
//!
//! The appliance with the lower id listens, the other one calls, again and again. Everything here happens on the control core's
//! thread; a thread of its own only waits for the socket to become readable.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rand::rngs::StdRng;

use vipsec_store::local::{Connecting, Connection, Control, Listener, LocalError, LocalLink, LocalSetup, Progress};
use vipsec_store::pairing::{Agreement, PairingSecret};
use vipsec_store::{BLOCK_ENTRIES_MAX, Grant, LocalMemory, SizeClass, Sizes, Writer};
use zeroize::Zeroizing;

use super::DaemonError;
use crate::config::{Config, Peer};
use crate::core::Paired;

/// Sizes of records, and how many of `store_records` are of that size at most, as a divisor: child SAs; IKE SAs; those with an
/// exchange in progress and a long answer kept.
const RECORD_CLASSES: [(u32, u32); 3] = [(1024, 1), (4096, 1), (32_768, 64)];
/// Writes by which a follower may lag.
const JOURNAL_ENTRIES: u32 = 4096;
/// Between two calls, and the longest time that a pairing may take.
const CALL_INTERVAL: Duration = Duration::from_millis(20);
const PAIRING_MAX: Duration = Duration::from_secs(2);
/// An error is logged again after so long.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// A process, as advertisements name it.
pub(super) fn short_incarnation(incarnation: [u8; 16]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = incarnation;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// What became of the link.
pub(super) enum LinkEvent {
    /// Paired; each side may write into the other's region.
    Up(Box<Paired>),
    /// A message of the pair protocol.
    Message(Vec<u8>),
    /// Gone.
    Down,
}

enum State {
    Idle,
    Connecting {
        connecting: Box<Connecting>,
        since: Instant,
    },
    /// Paired; the peer's grant is awaited.
    Granting {
        link: Box<LocalLink>,
        since: Instant,
    },
    Up(Control),
}

/// The link, whatever state it is in.
pub(super) struct Link {
    path: PathBuf,
    listener: Option<Listener>,
    calls: bool,
    setup: LocalSetup,
    secret: Zeroizing<Vec<u8>>,
    rng: StdRng,
    state: State,
    next_call: Instant,
    logged: Option<(LocalError, Instant)>,
    readable: Readable,
}

impl Link {
    /// The link to `peer`, not met yet.
    pub(super) fn new(config: &Config, peer: &Peer, incarnation: [u8; 16], rng: StdRng) -> Result<Self, DaemonError> {
        let records = peer.store_records;
        let setup = LocalSetup {
            appliance: config.appliance.id,
            incarnation,
            config_digest: *config.digest().as_bytes(),
            sizes: Sizes {
                classes: RECORD_CLASSES
                    .iter()
                    .map(|(bytes, divisor)| SizeClass { records: records.div_ceil(*divisor), bytes: *bytes })
                    .collect(),
                counter_blocks: records.div_ceil(BLOCK_ENTRIES_MAX as u32),
                journal_entries: JOURNAL_ENTRIES,
            },
        };
        let secret = Zeroizing::new(peer.secret.expose().to_vec());
        let calls = setup.appliance > peer.id;
        if let Some(folder) = peer.store_socket.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let readable = Readable::start()?;
        Ok(Self {
            path: peer.store_socket.clone(),
            listener: None,
            calls,
            setup,
            secret,
            rng,
            state: State::Idle,
            next_call: Instant::now(),
            logged: None,
            readable,
        })
    }

    /// Something can be read when this has a message: call [`Link::poll`] then.
    pub(super) fn readable(&self) -> &Receiver<()> {
        &self.readable.woken
    }

    /// When [`Link::poll`] is due whether or not something can be read.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        (!matches!(self.state, State::Up(_))).then_some(self.next_call)
    }

    /// Goes on as far as it gets without waiting; call until it returns `None`.
    pub(super) fn poll(&mut self, now: Instant) -> Option<LinkEvent> {
        self.next_call = now + CALL_INTERVAL;
        match self.step(now) {
            Ok(event) => {
                if event.is_none() {
                    self.readable.rearm();
                }
                event
            }
            Err(error) => {
                self.log(now, error);
                let was_up = matches!(self.state, State::Up(_));
                self.state = State::Idle;
                was_up.then_some(LinkEvent::Down)
            }
        }
    }

    /// Sends; what the socket has no room for is lost, as any beat may be.
    pub(super) fn send(&mut self, message: &[u8]) {
        if let State::Up(control) = &mut self.state {
            // A link that is gone shows at the next read.
            let _ = control.send(message);
        }
    }

    /// Closes the link; the next poll begins anew.
    pub(super) fn close(&mut self) {
        self.state = State::Idle;
    }

    fn step(&mut self, now: Instant) -> Result<Option<LinkEvent>, LocalError> {
        loop {
            match std::mem::replace(&mut self.state, State::Idle) {
                State::Idle => {
                    let Some(connection) = self.meet()? else { return Ok(None) };
                    self.readable.watch(connection.as_fd());
                    let secret = PairingSecret::new(self.secret.clone())?;
                    let connecting = Connecting::new(connection, self.setup.clone(), secret, &mut self.rng)?;
                    self.state = State::Connecting { connecting: Box::new(connecting), since: now };
                }
                State::Connecting { connecting, since } => match connecting.poll()? {
                    Progress::Waiting(connecting) => {
                        if now < since + PAIRING_MAX {
                            self.state = State::Connecting { connecting, since };
                        }
                        return Ok(None);
                    }
                    Progress::Paired(mut link) => {
                        // The region that we keep for the peer is open to it from now on: its grant is the first message.
                        let grant = link.reader.join(&mut self.rng).map_err(|_| LocalError::Malformed)?;
                        link.control.send(&grant.to_bytes())?;
                        self.state = State::Granting { link, since: now };
                    }
                },
                State::Granting { mut link, since } => match link.control.recv()? {
                    None => {
                        if now < since + PAIRING_MAX {
                            self.state = State::Granting { link, since };
                        }
                        return Ok(None);
                    }
                    Some(message) => {
                        let grant: [u8; 8] = message.try_into().map_err(|_| LocalError::Malformed)?;
                        return self.up(*link, Grant::from_bytes(grant)).map(Some);
                    }
                },
                State::Up(mut control) => {
                    let message = control.recv();
                    // Also with an error: `poll` has to know that the link was up.
                    self.state = State::Up(control);
                    return Ok(message?.map(LinkEvent::Message));
                }
            }
        }
    }

    fn up(&mut self, link: LocalLink, grant: Grant) -> Result<LinkEvent, LocalError> {
        let LocalLink { peer, agreement, protection, control, reader, mut owner } = link;
        if !protection.locked {
            tracing::warn!("the store's memory can't be locked: sealed records may reach swap");
        }
        let writer: Writer<LocalMemory> = owner.writer(grant).map_err(|_| LocalError::Malformed)?;
        self.state = State::Up(control);
        Ok(LinkEvent::Up(Box::new(Paired {
            incarnation: short_incarnation(peer.incarnation),
            agreed: agreement == Agreement::Agreed,
            writer: Box::new(writer),
            reader,
        })))
    }

    /// Calls the peer, or takes its call.
    fn meet(&mut self) -> Result<Option<Connection>, LocalError> {
        if self.calls {
            return Connection::connect(&self.path).map(Some);
        }
        let listener = match &mut self.listener {
            Some(listener) => listener,
            none => {
                let listener = Listener::bind(&self.path)?;
                self.readable.watch(listener.as_fd());
                none.insert(listener)
            }
        };
        listener.accept()
    }

    fn log(&mut self, now: Instant, error: LocalError) {
        let news = self.logged.is_none_or(|(logged, at)| logged != error || now >= at + LOG_INTERVAL);
        if news {
            self.logged = Some((error, now));
            tracing::warn!(%error, "store link");
        }
    }
}

/// A thread that waits until a descriptor is readable, says so once, and waits to be armed again.
struct Readable {
    orders: Sender<Option<OwnedFd>>,
    woken: Receiver<()>,
    armed: bool,
}

impl Readable {
    fn start() -> std::io::Result<Self> {
        let (orders, inbox) = bounded::<Option<OwnedFd>>(8);
        let (wake, woken) = bounded(1);
        thread::Builder::new().name("store-link".into()).spawn(move || {
            let mut watched: Option<OwnedFd> = None;
            while let Ok(order) = inbox.recv() {
                watched = order.or(watched);
                let Some(descriptor) = &watched else { continue };
                let mut set = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
                // Bounded, so that a new descriptor is taken up soon.
                let _ = poll(&mut set, PollTimeout::from(20u8));
                if wake.send(()).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { orders, woken, armed: false })
    }

    fn watch(&mut self, descriptor: std::os::fd::BorrowedFd<'_>) {
        if let Ok(own) = descriptor.try_clone_to_owned() {
            let _ = self.orders.try_send(Some(own));
        }
    }

    fn rearm(&mut self) {
        self.armed = true;
        let _ = self.orders.try_send(None);
    }
}
