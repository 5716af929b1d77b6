//! The inbound half of a child SA.

use std::fmt;

use vipsec_wire::buffer::PacketBuf;
use zerocopy::FromBytes;

use crate::engine::{Context, EngineKind};
use crate::error::{EspError, SetupError};
use crate::header::{ALIGNMENT, Aad, HEADER_LEN, Header, ICV_LEN, NO_NEXT_HEADER, Nonce, TRAILER_LEN};
use crate::replay::ReplayWindow;
use crate::room::{Room, UNLIMITED};
use crate::sa::{InboundParams, SALT_LEN, Spi};

/// A packet that was decrypted in place; what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Its number, authenticated; extended if the SA uses ESN.
    pub number: u64,
    /// What the payload is: 4 for IPv4, 41 for IPv6 in tunnel mode.
    pub next_header: u8,
}

impl Opened {
    /// A dummy packet (RFC 4303 §2.6): admitted like any other, then discarded without indicating an error.
    pub fn is_dummy(&self) -> bool {
        self.next_header == NO_NEXT_HEADER
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
/// The horizon: when [`wants_more`](Self::wants_more), report [`edge`](Self::edge) and
/// [`horizon_wanted`](Self::horizon_wanted), and once the report is on its way call [`handle_request`](Self::handle_request); at
/// most one is in flight. The answer comes in through [`grant`](Self::grant).
// The first two cache lines are what every packet touches; the engine's context follows.
#[repr(C, align(64))]
pub struct InboundSa {
    spi: Spi,
    salt: [u8; SALT_LEN],
    window: ReplayWindow,
    horizon: u64,
    /// Highest authenticated number, delivered or parked.
    top: u64,
    room: Room,
    esn: bool,
    context: Context,
}

const _: () = assert!(std::mem::offset_of!(InboundSa, context) <= 128);
// Twelve lines, most of them aes-gcm's round keys; AWS-LC's context is 24 bytes here and the rest on the heap.
#[cfg(target_arch = "x86_64")]
const _: () = assert!(size_of::<InboundSa>() <= 768);

impl InboundSa {
    /// Sets up an SA: expands the key, allocates the window.
    pub fn new(engine: EngineKind, params: &InboundParams) -> Result<Self, SetupError> {
        Ok(Self {
            spi: params.spi,
            salt: params.key.salt(),
            window: ReplayWindow::new(params.window, params.edge).map_err(|_| SetupError::Window(params.window))?,
            horizon: params.horizon,
            top: params.edge,
            room: Room::new(params.edge),
            esn: params.esn,
            context: Context::new(engine, params.algorithm, params.key.key()).map_err(|_| SetupError::Key)?,
        })
    }

    /// Our SPI.
    pub fn spi(&self) -> Spi {
        self.spi
    }

    /// Verifies and decrypts a packet in place.
    ///
    /// `packet` starts at the ESP header and ends with the ICV. Afterwards it is the payload, TFC padding included: in tunnel mode
    /// the inner packet's own length says where it ends (RFC 4303 §2.7). The window is asked but not moved. After an error the
    /// contents are unspecified, and never plaintext that failed its check.
    #[inline]
    pub fn open<B: PacketBuf>(&self, packet: &mut B) -> Result<Opened, EspError> {
        let (header, rest) = Header::mut_from_prefix(packet.data_mut()).map_err(|_| EspError::Truncated)?;
        let (ciphertext, icv) = rest.split_last_chunk_mut::<ICV_LEN>().ok_or(EspError::Truncated)?;
        if ciphertext.len() < TRAILER_LEN {
            return Err(EspError::Truncated);
        }
        // RFC 4303 §2.4: … to ensure that the resulting ciphertext terminates on a 4-byte boundary.
        if !ciphertext.len().is_multiple_of(ALIGNMENT) {
            return Err(EspError::Misaligned);
        }

        let sequence = header.sequence.get();
        let number = if self.esn { self.window.infer(sequence) } else { Some(u64::from(sequence)) };
        // RFC 4303 §3.4.3: if this preliminary check fails, the packet is discarded, thus avoiding the need for any
        // cryptographic operations.
        let number = number.filter(|number| self.window.check(*number)).ok_or(EspError::Replayed)?;

        let nonce = Nonce::new(self.salt, header.iv);
        let aad = Aad::new(self.spi, number, self.esn);
        self.context.open_in_place(nonce.as_bytes(), aad.as_bytes(), ciphertext, icv).map_err(|_| EspError::BadIcv)?;

        let [payload @ .., pad_len, next_header] = &*ciphertext else { return Err(EspError::Truncated) };
        let (pad_len, next_header) = (usize::from(*pad_len), *next_header);
        let padding = payload.len().checked_sub(pad_len).and_then(|start| payload.get(start..));
        // RFC 4303 §2.4: 1, 2, 3, …; the receiver SHOULD inspect the Padding field.
        if !padding.is_some_and(|padding| padding.iter().zip(1..=u8::MAX).all(|(found, expected)| *found == expected)) {
            return Err(EspError::BadPadding);
        }

        packet.trim_back(pad_len + TRAILER_LEN + ICV_LEN)?;
        packet.trim_front(HEADER_LEN)?;
        Ok(Opened { number, next_header })
    }

    /// Decides about an opened packet, now or again when it was parked. Moves the window if it says [`Admission::Deliver`].
    ///
    /// `number` comes from [`open`](Self::open): only authenticated numbers move edge and horizon.
    #[inline]
    pub fn admit(&mut self, number: u64) -> Admission {
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
        Admission::Deliver
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
