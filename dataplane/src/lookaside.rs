//! What a crypto device has of a worker's packets: handed over in bursts, and what is known of each until it comes back.

use std::ops::Range;

use vipsec_esp::inbound::Opening;
use vipsec_esp::op::{AAD_ESN_LEN, AAD_LEN, CryptoOp};
use vipsec_esp::sa::ChildSa;
use vipsec_wire::buffer::{Burst, PacketBuf};
use vipsec_wire::crypto::{
    AAD_MAX, CryptoIo, Direction, Done, Failure, Job, NONCE_LEN, SessionError, SessionId, SessionParams,
};

use crate::drops::DropReason;
use crate::outer::Outer;
use crate::sad::{SaIndex, Sessions};
use crate::stage::Kept;
use crate::template::Fields;

/// A crypto device's queue, and the packets that are on their way through it.
pub(crate) struct Lookaside<B> {
    device: Box<dyn CryptoIo<Buf = B>>,
    /// To be handed over together. What the device had no room for leads.
    jobs: Burst<Job<B>>,
    /// By token. As many places as the device takes jobs: a packet that has one finds room in the device.
    pending: Vec<Option<Pending>>,
    free: Vec<u32>,
}

/// What is to become of a packet when the device is done with it.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) index: SaIndex,
    /// Whoever has that place by then is another SA if it has another session.
    pub(crate) session: SessionId,
    pub(crate) vip: u16,
    pub(crate) then: Then,
}

/// How it goes on.
#[derive(Debug)]
pub(crate) enum Then {
    /// From a remote peer.
    Open { opening: Opening, outer: Outer },
    /// To a remote peer: what goes around it, and the bytes that it had before.
    Send { around: Around, bytes: usize },
}

/// What goes around a sealed packet.
#[derive(Debug)]
pub(crate) enum Around {
    /// Outer headers with these fields.
    Tunnel(Fields),
    /// The IP header that it had.
    Transport(Kept),
}

/// A packet that came back, and what was kept of it.
pub(crate) struct Returned<B> {
    pub(crate) packet: B,
    pub(crate) result: Result<(), Failure>,
    pub(crate) pending: Pending,
}

/// What a device is told about one packet.
pub(crate) struct Work {
    nonce: [u8; NONCE_LEN],
    aad: [u8; AAD_MAX],
    text: Range<usize>,
    tag: usize,
}

impl From<&CryptoOp> for Work {
    #[inline]
    fn from(op: &CryptoOp) -> Self {
        let mut aad = [0; AAD_MAX];
        for (to, from) in aad.iter_mut().zip(op.aad()) {
            *to = *from;
        }
        Self { nonce: *op.nonce(), aad, text: op.text(), tag: op.icv().start }
    }
}

impl<B: PacketBuf> Lookaside<B> {
    pub(crate) fn new(device: Box<dyn CryptoIo<Buf = B>>) -> Self {
        let jobs_max = device.jobs_max();
        Self {
            device,
            jobs: Burst::new(),
            pending: (0..jobs_max).map(|_| None).collect(),
            free: (0..jobs_max as u32).rev().collect(),
        }
    }

    /// Sessions for both halves of a pair.
    pub(crate) fn open_sessions(&mut self, child: &ChildSa) -> Result<Sessions, SessionError> {
        let (inbound, outbound) = (&child.inbound, &child.outbound);
        let mut open = |direction, algorithm, key, esn: bool| {
            let aad_len = if esn { AAD_ESN_LEN } else { AAD_LEN };
            self.device.open_session(&SessionParams { algorithm, direction, key, aad_len })
        };
        let opening = open(Direction::Open, inbound.algorithm, inbound.key.key(), inbound.esn)?;
        match open(Direction::Seal, outbound.algorithm, outbound.key.key(), outbound.esn) {
            Ok(sealing) => Ok(Sessions { inbound: opening, outbound: sealing }),
            Err(error) => {
                self.device.close_session(opening);
                Err(error)
            }
        }
    }

    /// Closes a pair's sessions. What the device has of it still comes back.
    pub(crate) fn close_sessions(&mut self, sessions: Sessions) {
        self.device.close_session(sessions.inbound);
        self.device.close_session(sessions.outbound);
    }

    /// Is there room for another packet? Asked before anything of it is used up.
    #[inline]
    pub(crate) fn make_room(&mut self) -> Result<(), DropReason> {
        if self.jobs.is_full() {
            self.hand_over();
        }
        if self.jobs.is_full() || self.free.is_empty() { Err(DropReason::CryptoQueueFull) } else { Ok(()) }
    }

    /// Takes a packet that there is room for.
    #[inline]
    pub(crate) fn submit(&mut self, packet: B, work: Work, pending: Pending) -> Result<(), DropReason> {
        let place = self.free.pop().ok_or(DropReason::CryptoQueueFull)?;
        let Work { nonce, aad, text, tag } = work;
        let job = Job { packet, session: pending.session, token: place.into(), nonce, aad, text, tag };
        if let Some(kept) = self.pending.get_mut(place as usize) {
            *kept = Some(pending);
        }
        self.jobs.try_push(job).map_err(|_| DropReason::CryptoQueueFull)
    }

    /// Hands over what was submitted, as much as the device takes.
    #[inline]
    pub(crate) fn hand_over(&mut self) {
        if !self.jobs.is_empty() {
            self.device.enqueue(&mut self.jobs);
        }
    }

    /// Takes back what the device is done with, up to a burst.
    pub(crate) fn take_back(&mut self) -> Burst<Returned<B>> {
        self.hand_over();
        let mut done = Burst::new();
        self.device.dequeue(&mut done);
        let Self { pending, free, .. } = self;
        let returned = done.drain(..).filter_map(|Done { packet, token, result }| {
            let kept = pending.get_mut(token as usize)?.take()?;
            free.push(token as u32);
            Some(Returned { packet, result, pending: kept })
        });
        returned.collect()
    }

    /// Packets that have not come back.
    #[inline]
    pub(crate) fn in_flight(&self) -> usize {
        self.pending.len() - self.free.len()
    }

    /// Does a packet in the device satisfy that?
    pub(crate) fn any(&self, is_wanted: impl Fn(&Pending) -> bool) -> bool {
        self.in_flight() > 0 && self.pending.iter().flatten().any(is_wanted)
    }
}
