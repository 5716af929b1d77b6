//! The inbound half of a child SA.

use std::fmt;
use std::mem::offset_of;

use vipsec_ipsec_mb::{LINE_LEN, prefetch};
use vipsec_wire::buffer::PacketBuf;
use zerocopy::FromBytes;

use crate::engine::{BadTag, Context, EngineKind, Footprint};
use crate::error::{EspError, SetupError};
use crate::header::{ALIGNMENT, HEADER_LEN, Header, ICV_LEN, NO_NEXT_HEADER, TRAILER_LEN};
use crate::lifetime::{Allowance, LifetimeDue, Limits};
use crate::op::CryptoOp;
use crate::replay::ReplayWindow;
use crate::room::{Room, UNLIMITED};
use crate::sa::{DORMANT, InboundParams, Lifetime, SALT_LEN, Spi};
use crate::trailer::{self, Trailer};

/// A packet that was decrypted in place; what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Its number, authenticated; extended if the SA uses ESN.
    pub number: u64,
    /// Bytes that the cipher was applied to: payload, padding and trailer.
    pub text_len: usize,
    /// What the payload is: in tunnel mode 4 for IPv4, 41 for IPv6; in transport mode the upper layer's protocol.
    pub next_header: u8,
}

impl Opened {
    /// A dummy packet (RFC 4303 §2.6): admitted like any other, then discarded without indicating an error.
    pub fn is_dummy(&self) -> bool {
        self.next_header == NO_NEXT_HEADER
    }
}

/// A packet that was looked at and has yet to be decrypted. Whoever does that, [`complete`](Self::complete) goes on from there.
#[derive(Debug)]
#[must_use]
pub struct Opening {
    number: u64,
    op: CryptoOp,
}

impl Opening {
    /// What is to be done.
    #[inline]
    pub fn op(&self) -> &CryptoOp {
        &self.op
    }

    /// Goes on with the packet after decryption in place: checks the trailer and leaves the payload.
    ///
    /// `verdict` is that of the crypto engine or device about the ICV. The SA is not needed, and may be gone; whether the packet
    /// may be delivered is asked of the SA next, with [`InboundSa::admit`].
    #[inline]
    pub fn complete<B: PacketBuf>(self, packet: &mut B, verdict: Result<(), BadTag>) -> Result<Opened, EspError> {
        verdict.map_err(|BadTag| EspError::BadIcv)?;
        let text = self.op.text();
        let text_len = text.len();
        let Trailer { pad_len, next_header } = trailer::read(packet.data().get(text).ok_or(EspError::Truncated)?)?;
        packet.trim_back(usize::from(pad_len) + TRAILER_LEN + ICV_LEN)?;
        packet.trim_front(HEADER_LEN)?;
        Ok(Opened { number: self.number, text_len, next_header })
    }
}

/// What to do with an opened packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Admission {
    /// Hand it on. Its number now counts as seen.
    Deliver,
    /// Park it: no copy knows of numbers that high. Ask again with the same number after the next grant.
    AboveHorizon,
    /// Drop it: its number was seen in the meantime, or is too old by now.
    Replayed,
}

/// Opens the packets of one SPI and keeps their numbers.
///
/// A packet passes two gates: [`open`](Self::open) verifies and decrypts it, [`admit`](Self::admit) decides whether its number may
/// be delivered. Only `admit` moves the window, so that a parked packet is checked twice and nothing above the horizon is ever
/// delivered.
///
/// `open` is [`prepare`](Self::prepare), [`decrypt`](Self::decrypt) and [`Opening::complete`]. Where a device decrypts, it takes the
/// middle step's place.
///
/// The horizon: when [`wants_more`](Self::wants_more), report [`edge`](Self::edge) and
/// [`horizon_wanted`](Self::horizon_wanted), and once the report is on its way call [`handle_request`](Self::handle_request); at
/// most one is in flight. The answer comes in through [`grant`](Self::grant).
// The first two cache lines are what every packet touches, besides what the engine takes of its context, which follows.
#[repr(C, align(64))]
pub struct InboundSa {
    spi: Spi,
    salt: [u8; SALT_LEN],
    window: ReplayWindow,
    horizon: u64,
    /// Highest authenticated number, delivered or parked.
    top: u64,
    room: Room,
    allowance: Allowance,
    esn: bool,
    footprint: Footprint,
    context: Context,
    limits: Limits,
}

const _: () = assert!(offset_of!(InboundSa, context) == 2 * LINE_LEN);
#[cfg(target_arch = "x86_64")]
const _: () = assert!(size_of::<InboundSa>() == 19 * LINE_LEN);

impl InboundSa {
    /// Sets up an SA without limits to its lifetime: expands the key, allocates the window.
    pub fn new(engine: EngineKind, params: &InboundParams) -> Result<Self, SetupError> {
        let (allowance, limits) = Allowance::new(&Lifetime::NONE, 0);
        Ok(Self {
            spi: params.spi,
            salt: params.key.salt(),
            window: ReplayWindow::new(params.window, params.edge).map_err(|_| SetupError::Window(params.window))?,
            horizon: params.horizon,
            top: params.edge,
            room: Room::new(params.edge),
            allowance,
            esn: params.esn,
            footprint: Footprint::of(engine, params.algorithm),
            context: Context::new(engine, params.algorithm, params.key.key())?,
            limits,
        })
    }

    /// Limits what it carries. After a takeover the packets up to the edge count; bytes count from here on. A dormant one gets its
    /// limits when it is woken.
    pub fn with_lifetime(mut self, lifetime: &Lifetime) -> Self {
        if !self.is_dormant() {
            (self.allowance, self.limits) = Allowance::new(lifetime, self.window.edge());
        }
        self
    }

    /// Has it no numbers yet?
    pub fn is_dormant(&self) -> bool {
        self.window.edge() == DORMANT
    }

    /// Gives a dormant SA its numbers, without a horizon to hold it: everything up to `edge` counts as seen. False, and nothing has
    /// changed, if it has numbers already: they never go back.
    #[must_use]
    pub fn wake(&mut self, edge: u64, lifetime: &Lifetime) -> bool {
        if !self.is_dormant() {
            return false;
        }
        self.window.restart(edge);
        (self.top, self.horizon, self.room) = (edge, UNLIMITED, Room::new(edge));
        (self.allowance, self.limits) = Allowance::new(lifetime, edge);
        true
    }

    /// Our SPI.
    pub fn spi(&self) -> Spi {
        self.spi
    }

    /// Asks for what every packet touches here, without waiting for it: call it for a whole burst at once.
    #[inline]
    pub fn prefetch(&self) {
        let start: *const u8 = std::ptr::from_ref(self).cast();
        prefetch(start);
        prefetch(start.wrapping_add(LINE_LEN));
    }

    /// Asks for the part of the expanded key that a packet of `len` bytes takes, without waiting for it.
    ///
    /// Which part that is stands in what [`prefetch`](Self::prefetch) asked for. Call it for the packet that comes
    /// [`KEY_AHEAD`](crate::KEY_AHEAD) packets later, before working on one: the keys of a whole burst at once would stand in each
    /// other's way.
    #[inline]
    pub fn prefetch_key(&self, len: usize) {
        self.context.prefetch(self.footprint, len);
    }

    /// Verifies and decrypts a packet in place.
    ///
    /// `packet` starts at the ESP header and ends with the ICV. Afterwards it is the payload, TFC padding included: in tunnel mode
    /// the inner packet's own length says where it ends (RFC 4303 §2.7). The window is asked but not moved. After an error the
    /// contents are unspecified, and never plaintext that failed its check.
    #[inline]
    pub fn open<B: PacketBuf>(&self, packet: &mut B) -> Result<Opened, EspError> {
        let opening = self.prepare(packet.data())?;
        let verdict = self.decrypt(packet, opening.op());
        opening.complete(packet, verdict)
    }

    /// Everything before decryption: checks the form, infers the number and asks the window. Changes nothing.
    ///
    /// `packet` starts at the ESP header and ends with the ICV.
    #[inline]
    pub fn prepare(&self, packet: &[u8]) -> Result<Opening, EspError> {
        let (header, rest) = Header::ref_from_prefix(packet).map_err(|_| EspError::Truncated)?;
        let text_len = rest.len().checked_sub(ICV_LEN).filter(|len| *len >= TRAILER_LEN).ok_or(EspError::Truncated)?;
        // RFC 4303 §2.4: … to ensure that the resulting ciphertext terminates on a 4-byte boundary.
        if !text_len.is_multiple_of(ALIGNMENT) {
            return Err(EspError::Misaligned);
        }
        if self.allowance.is_used_up() {
            return Err(EspError::LifetimeOver);
        }

        let sequence = header.sequence.get();
        let number = if self.esn { self.window.infer(sequence) } else { Some(u64::from(sequence)) };
        // RFC 4303 §3.4.3: if this preliminary check fails, the packet is discarded, thus avoiding the need for any
        // cryptographic operations.
        let number = number.filter(|number| self.window.check(*number)).ok_or_else(|| self.why_refused())?;
        Ok(Opening { number, op: CryptoOp::new(self.spi, self.salt, header.iv, number, self.esn, text_len) })
    }

    /// Nothing is new to a dormant one.
    #[cold]
    fn why_refused(&self) -> EspError {
        if self.is_dormant() { EspError::Dormant } else { EspError::Replayed }
    }

    /// Decrypts a prepared packet on this core. After [`BadTag`] it holds no plaintext.
    #[inline]
    pub fn decrypt<B: PacketBuf>(&self, packet: &mut B, op: &CryptoOp) -> Result<(), BadTag> {
        let (text, icv) = op.split(packet.data_mut()).ok_or(BadTag)?;
        self.context.open_in_place(op.nonce(), op.aad(), text, icv)
    }

    /// Decides about an opened packet, now or again when it was parked. Moves the window if it says [`Admission::Deliver`].
    ///
    /// `opened` comes from [`open`](Self::open): only authenticated numbers move edge and horizon.
    #[inline]
    pub fn admit(&mut self, opened: &Opened) -> Admission {
        let number = opened.number;
        if number > self.horizon {
            if !self.window.check(number) {
                return Admission::Replayed;
            }
            self.top = self.top.max(number);
            self.room.handle_wait();
            return Admission::AboveHorizon;
        }
        if !self.window.admit(number) {
            return Admission::Replayed;
        }
        self.top = self.top.max(number);
        if self.allowance.spend(opened.text_len) {
            self.limits.handle_used_up(&mut self.allowance);
        }
        Admission::Deliver
    }

    /// The limit that its lifetime has reached since the last call. Each is told once.
    pub fn lifetime_due(&mut self) -> Option<LifetimeDue> {
        self.limits.take_due()
    }

    /// Highest number delivered, or counted as delivered.
    #[inline]
    pub fn edge(&self) -> u64 {
        self.window.edge()
    }

    /// Nothing above is delivered; `u64::MAX` is no limit.
    #[inline]
    pub fn horizon(&self) -> u64 {
        self.horizon
    }

    /// Is it time to report? Half of the room is used or a packet is parked, and no report is in flight.
    #[inline]
    pub fn wants_more(&self) -> bool {
        self.horizon != UNLIMITED && self.room.is_due(self.top, self.horizon)
    }

    /// How far the horizon should go: past everything authenticated, plus the room. Never below the horizon in force.
    #[inline]
    pub fn horizon_wanted(&self) -> u64 {
        self.room.beyond(self.top).max(self.horizon)
    }

    /// Is a report on its way that no grant has answered yet?
    pub fn awaits_grant(&self) -> bool {
        self.room.awaits_grant()
    }

    /// A report of [`horizon_wanted`](Self::horizon_wanted) left: no other until the grant.
    pub fn handle_request(&mut self) {
        self.room.handle_request(self.top);
    }

    /// Raises the horizon, never lowers it: every counted copy knows it. `u64::MAX` takes the limit away.
    pub fn grant(&mut self, horizon: u64) {
        self.horizon = self.horizon.max(horizon);
        self.room.handle_grant(self.top);
    }

    /// Gives an SA that had no limit one: what it delivered so far plus the room. Changes nothing on an SA that has one.
    pub fn bind(&mut self) {
        if self.horizon == UNLIMITED {
            self.horizon = self.room.beyond(self.top);
        }
    }

    /// Call about once a second: an SA that went quiet loses its room.
    pub fn handle_beat(&mut self) {
        self.room.handle_beat(self.top, self.horizon != UNLIMITED);
    }
}

impl fmt::Debug for InboundSa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboundSa")
            .field("spi", &self.spi)
            .field("esn", &self.esn)
            .field("window", &self.window)
            .field("horizon", &self.horizon)
            .field("top", &self.top)
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}
