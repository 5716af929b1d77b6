//! A group's store link to the other appliance: found, paired, kept, lost, and found again.
//!
//! The appliances look for each other again and again. Meeting and pairing happen on a thread of their
//! own, because they take memory from the system and lock it, for longer than a worker's deadline. A finished link goes to the
//! control core's thread, which from then on reads and writes it; the other thread only wakes it when there is something to read.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use crossbeam_channel::{Receiver, Sender, bounded};
use nix::sys::socket::{Shutdown, shutdown};
use rand::rngs::StdRng;
use zeroize::Zeroizing;

use vipsec_store::pairing::{Agreement, PairingError, PairingSecret};
use vipsec_store::{BLOCK_ENTRIES_MAX, Control, Grant, LinkError, Setup, SizeClass, Sizes, Versions, wait_readable};
use vipsec_wire::iv::ApplianceId;

use super::DaemonError;
use super::meeting::{PAIRING_MAX, Way};
use crate::config::{Config, ConfigDigest, Peer};
use crate::core::{PIN_RECORD_BYTES, Paired, pin_blocks};

/// Sizes of records, and which part of `store_records` may be of that size, as a divisor: child SAs; IKE SAs, and blocks of pinned
/// connections beside them; IKE SAs with an exchange in progress and a long answer kept.
const RECORD_CLASSES: [(u32, u32); 3] = [(1024, 1), (PIN_RECORD_BYTES, 1), (32_768, 64)];
/// Between two calls.
const CALL_INTERVAL: Duration = Duration::from_millis(20);
/// The same error is logged again after so long.
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
    /// The peer wants to pair, and speaks no version that we do.
    NoCommonVersion,
    /// Gone.
    Down,
}

/// What the thread has to say.
pub(super) enum Notice {
    /// A finished link.
    Paired(Box<(Control, Paired, ConfigDigest)>),
    /// The link can be read.
    Readable,
    /// The peer is too old, or too new.
    NoCommonVersion,
}

/// What the thread is told.
enum Order {
    /// Everything was read: wake us when there is more.
    Watch,
    /// The link is gone: meet and pair anew.
    Pair,
}

/// A digest that changes with the configuration.
type SharedDigest = Arc<Mutex<ConfigDigest>>;

/// The link, as the control core's thread has it.
pub(super) struct Link {
    peer: ApplianceId,
    group: usize,
    control: Option<Control>,
    orders: Sender<Order>,
    notices: Receiver<Notice>,
    /// Paired, but not yet told.
    paired: Option<Box<Paired>>,
    /// The peer speaks no version that we do, and that isn't told yet.
    mismatched: bool,
    /// The thread waits for the link to become readable.
    watched: bool,
    /// Something could not be sent, or was agreed on that isn't so any more.
    broken: bool,
    /// Of our configuration, for the thread to compare with the peer's.
    digest: SharedDigest,
}

impl Link {
    /// Whose process it leads to.
    pub(super) fn peer(&self) -> ApplianceId {
        self.peer
    }

    /// The place of its group in the configuration.
    pub(super) fn group(&self) -> usize {
        self.group
    }

    /// Starts to look for `peer`, for the group at that place in the configuration.
    pub(super) fn start(
        config: &Config,
        peer: &Peer,
        group: usize,
        incarnation: [u8; 16],
        versions: Versions,
        rng: StdRng,
    ) -> Result<Self, DaemonError> {
        let records = peer.store_records;
        let classes = RECORD_CLASSES.iter();
        let setup = Setup {
            appliance: config.appliance.id,
            incarnation,
            versions,
            config_digest: *config.digest().as_bytes(),
            sizes: Sizes {
                classes: classes
                    .map(|(bytes, part)| {
                        let pins = if *bytes == PIN_RECORD_BYTES { pin_blocks(peer.store_pins) } else { 0 };
                        SizeClass { records: records.div_ceil(*part) + pins, bytes: *bytes }
                    })
                    .collect(),
                counter_blocks: records.div_ceil(BLOCK_ENTRIES_MAX as u32),
                journal_entries: Sizes::journal_for(records + pin_blocks(peer.store_pins)),
            },
        };
        let number = u16::try_from(group).unwrap_or(u16::MAX);
        let name = config.groups.get(group).map_or("", |group| group.name.as_str());
        let way = Way::to(peer, number, setup.appliance)?;
        let digest = Arc::new(Mutex::new(config.digest()));
        let (orders, inbox) = bounded(8);
        let (outbox, notices) = bounded(8);
        let matchmaker = Matchmaker {
            way,
            setup,
            peer: peer.id,
            secret: secret_of(peer, name),
            rng,
            logged: None,
            digest: digest.clone(),
        };
        thread::Builder::new()
            .name(format!("link-{number}-{}", peer.id))
            .spawn(move || matchmaker.run(&inbox, &outbox))?;
        Ok(Self {
            peer: peer.id,
            group,
            control: None,
            orders,
            notices,
            paired: None,
            mismatched: false,
            watched: false,
            broken: false,
            digest,
        })
    }

    /// What the thread has to say: for [`Link::take`].
    pub(super) fn notices(&self) -> &Receiver<Notice> {
        &self.notices
    }

    /// Takes what the thread had to say; [`Link::poll`] tells what follows.
    pub(super) fn take(&mut self, notice: Notice) {
        match notice {
            Notice::Readable => self.watched = false,
            Notice::NoCommonVersion => self.mismatched = true,
            Notice::Paired(paired) => {
                let (control, paired, digest) = *paired;
                self.control = Some(control);
                self.paired = Some(Box::new(paired));
                self.watched = false;
                if digest != current(&self.digest) {
                    // The configuration changed while the two paired.
                    self.close();
                }
            }
        }
    }

    /// What happened next, without waiting; `None`: nothing.
    pub(super) fn poll(&mut self) -> Option<LinkEvent> {
        while let Ok(notice) = self.notices.try_recv() {
            self.take(notice);
        }
        if let Some(paired) = self.paired.take() {
            return Some(LinkEvent::Up(paired));
        }
        if std::mem::take(&mut self.mismatched) {
            return Some(LinkEvent::NoCommonVersion);
        }
        if std::mem::take(&mut self.broken) && self.control.is_some() {
            self.close();
            return Some(LinkEvent::Down);
        }
        match self.control.as_mut()?.recv() {
            Ok(Some(message)) => Some(LinkEvent::Message(message)),
            Ok(None) => {
                if !std::mem::replace(&mut self.watched, true) {
                    self.order(Order::Watch);
                }
                None
            }
            Err(error) => {
                tracing::warn!(appliance = %self.peer, %error, "store link lost");
                self.close();
                Some(LinkEvent::Down)
            }
        }
    }

    /// Sends. A peer that reads so little that its socket is full is no peer: the link ends, rather than lose a message that
    /// is sent once.
    pub(super) fn send(&mut self, message: &[u8]) {
        if let Some(control) = &mut self.control
            && let Err(error) = control.send(message)
        {
            tracing::warn!(%error, "store link");
            self.broken = true;
        }
    }

    /// The configuration is another one: what the two agreed on at pairing says nothing any more, so they pair anew.
    pub(super) fn set_digest(&mut self, digest: ConfigDigest) {
        if digest != current(&self.digest) {
            tracing::info!("the configuration has changed where it matters to the other appliance: pair anew");
            *self.digest.lock().unwrap_or_else(PoisonError::into_inner) = digest;
            self.broken = true;
        }
    }

    /// Closes the link, to begin anew.
    pub(super) fn close(&mut self) {
        self.paired = None;
        self.broken = false;
        if let Some(control) = self.control.take() {
            // The thread holds the socket too, to watch it: without this the peer would notice only when that one lets go.
            let _ = shutdown(control.as_fd().as_raw_fd(), Shutdown::Both);
            self.order(Order::Pair);
        }
    }

    /// At most one of each is under way, so the queue never is full.
    fn order(&self, order: Order) {
        let _ = self.orders.try_send(order);
    }
}

fn current(digest: &SharedDigest) -> ConfigDigest {
    *digest.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The pairing secret of a group: no link of one group can be taken for another's, wherever its bytes are led.
fn secret_of(peer: &Peer, group: &str) -> Zeroizing<Vec<u8>> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, peer.secret.expose());
    let mut context = hmac::Context::with_key(&key);
    context.update(b"vipsec store link of group ");
    context.update(group.as_bytes());
    Zeroizing::new(context.sign().as_ref().to_vec())
}

/// Meets the peer and pairs, on a thread of its own.
struct Matchmaker {
    way: Way,
    setup: Setup,
    peer: ApplianceId,
    secret: Zeroizing<Vec<u8>>,
    rng: StdRng,
    logged: Option<(LinkError, Instant)>,
    digest: SharedDigest,
}

impl Matchmaker {
    /// Until the control core's thread is gone.
    fn run(mut self, orders: &Receiver<Order>, notices: &Sender<Notice>) {
        loop {
            let (control, paired, digest) = loop {
                match self.pair() {
                    Ok(Some(link)) => break link,
                    Ok(None) => {}
                    Err(error) => {
                        let mismatched = matches!(
                            error,
                            LinkError::Pairing(PairingError::NoCommonVersion { .. } | PairingError::OtherLayout { .. })
                        );
                        if self.log(error) && mismatched {
                            // A full queue has other things to say.
                            let _ = notices.try_send(Notice::NoCommonVersion);
                        }
                    }
                }
                thread::sleep(CALL_INTERVAL);
            };
            let Ok(socket) = control.as_fd().try_clone_to_owned() else { continue };
            if notices.send(Notice::Paired(Box::new((control, paired, digest)))).is_err() {
                return;
            }
            loop {
                match orders.recv() {
                    Err(_) => return,
                    Ok(Order::Pair) => break,
                    Ok(Order::Watch) => {
                        // Without a deadline there is no error.
                        let _ = wait_readable(&socket, None);
                        if notices.send(Notice::Readable).is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// One attempt: from a connection to a link with a grant each way. `None`: nobody there.
    fn pair(&mut self) -> Result<Option<(Control, Paired, ConfigDigest)>, LinkError> {
        let digest = current(&self.digest);
        self.setup.config_digest = *digest.as_bytes();
        let secret = PairingSecret::new(self.secret.clone())?;
        let Some(mut link) = self.way.pair(&self.setup, secret, &mut self.rng)? else { return Ok(None) };
        if link.peer.appliance != self.peer {
            tracing::warn!(id = %link.peer.appliance, "another appliance than the configured peer knows the pairing secret");
            return Ok(None);
        }
        // The region that we keep for the peer is open to it from now on: its grant is the first message.
        let grant = link.reader.join(&mut self.rng).map_err(|_| LinkError::Malformed)?;
        link.control.send(&grant.to_bytes())?;
        let deadline = Instant::now() + PAIRING_MAX;
        let grant = loop {
            match link.control.recv()? {
                Some(message) => break <[u8; 8]>::try_from(message).map_err(|_| LinkError::Malformed)?,
                None => wait_readable(&link.control, Some(deadline))?,
            }
        };
        let vipsec_store::Link { peer, agreement, protection, control, reader, owner } = link;
        if !protection.locked {
            tracing::warn!("the store's memory can't be locked: sealed records may reach swap");
        }
        if agreement == Agreement::ConfigurationDiffers {
            tracing::warn!("the other appliance's configuration differs where it matters: no copy will count");
        }
        let writer = owner.writer(Grant::from_bytes(grant)).map_err(|_| LinkError::Malformed)?;
        let paired = Paired {
            incarnation: short_incarnation(peer.incarnation),
            version: peer.version,
            agreed: agreement == Agreement::Agreed,
            writer,
            reader,
        };
        Ok(Some((control, paired, digest)))
    }

    /// True if it is logged: one that occurs again and again is, now and then.
    fn log(&mut self, error: LinkError) -> bool {
        let now = Instant::now();
        let is_due = self.logged.is_none_or(|(logged, at)| logged != error || now >= at + LOG_INTERVAL);
        if is_due {
            self.logged = Some((error, now));
            tracing::warn!(%error, "store link");
        }
        is_due
    }
}
