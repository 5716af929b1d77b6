//! Pairing: two appliances prove to each other that they know the pairing secret, and leave with fresh keys.
//!
//! ```text
//! A                                         B
//! HELLO { versions, id, incarnation, configuration digest, region, sizes, X25519 share } -->
//!                                       <-- HELLO { … }
//! CONFIRM { HMAC over both hellos } -->
//!                                       <-- CONFIRM { … }
//! ```
//!
//! Both sides send at once and run the same machine; the appliance ids tell the directions apart. The keys come from the
//! ephemeral exchange and the secret, and are bound to both hellos: whoever records today's link can't open it with
//! tomorrow's secret, and nothing in a hello can be changed unnoticed. The secret must not be guessable: an active attacker
//! learns one HMAC against which to try guesses.
//!
//! Each hello says which versions of the link its sender speaks; the highest common one is spoken. Nobody in between can make them
//! agree on an older one. It also says how its sender lays regions out by each of them: two that mean different things by that version
//! don't pair.

mod hello;
mod schedule;

use std::fmt;

use aws_lc_rs::agreement::{PrivateKey, X25519};
use rand_core::CryptoRng;
use thiserror::Error;
use vipsec_wire::iv::ApplianceId;
use zeroize::Zeroizing;

use crate::channel::Channel;
use crate::geometry::{BadSizes, Geometry, Sizes, layout_of};
use crate::grant::{ReaderKeys, WriterKeys};
use crate::region::RegionId;
use crate::version::Versions;
use hello::{CONFIRM, Hello};
use schedule::{Half, Schedule};

/// Bytes that a pairing secret has at least.
pub const SECRET_BYTES_MIN: usize = 32;

/// The secret that both appliances of a pair are configured with: random bytes, not a password.
pub struct PairingSecret(Zeroizing<Vec<u8>>);

impl PairingSecret {
    /// Refuses less than [`SECRET_BYTES_MIN`] bytes.
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Result<Self, PairingError> {
        if bytes.len() < SECRET_BYTES_MIN { Err(PairingError::SecretTooShort) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Debug for PairingSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairingSecret")
    }
}

/// What one side brings to a pairing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// Its configured id.
    pub appliance: ApplianceId,
    /// Random, drawn when the process starts: tells a restarted process from the one before.
    pub incarnation: [u8; 16],
    /// The versions of the link that it speaks.
    pub versions: Versions,
    /// Digest of the configuration that matters (VIPs, services, targets, policies).
    pub config_digest: [u8; 32],
    /// The region that it keeps for the other side to write into; fresh for each pairing.
    pub region: RegionId,
    /// That region's sizes.
    pub sizes: Sizes,
}

/// Pairing failed; begin anew, on a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PairingError {
    /// The peer doesn't know the secret, or someone changed the messages.
    #[error("the peer doesn't know the pairing secret")]
    WrongSecret,
    /// The peer has our id: ids are unique in a group.
    #[error("the peer has our own appliance id")]
    SameAppliance,
    /// One of the two is too old for the other.
    #[error(
        "the other appliance speaks version {theirs} of the store link, this one {ours}: none in common, upgrade the older one"
    )]
    NoCommonVersion {
        /// The peer's.
        theirs: Versions,
        /// Ours.
        ours: Versions,
    },
    /// The two write different things by the version that they would speak.
    #[error(
        "by version {version} of the store link the other appliance lays its store out as layout {theirs}, this one as layout {ours}: upgrade the older one"
    )]
    OtherLayout {
        /// The highest that both speak.
        version: u16,
        /// The peer's layout.
        theirs: u32,
        /// Ours.
        ours: u32,
    },
    /// A message that doesn't belong here.
    #[error("not the pairing message that is due")]
    Unexpected,
    /// The sizes of a region make no sense.
    #[error(transparent)]
    BadSizes(#[from] BadSizes),
    /// The pairing secret is too short.
    #[error("a pairing secret has at least {SECRET_BYTES_MIN} bytes")]
    SecretTooShort,
    /// Not both sides have confirmed.
    #[error("the pairing is not finished")]
    Unfinished,
}

/// Whether the copies of this pairing may be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agreement {
    /// Both sides have the same configuration, where it matters.
    Agreed,
    /// They don't: paired, but no copy is counted.
    ConfigurationDiffers,
}

/// The other side, as it authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub appliance: ApplianceId,
    /// The version of the link: the highest that both speak.
    pub version: u16,
    /// Its process.
    pub incarnation: [u8; 16],
    /// The region that it keeps for us.
    pub region: RegionId,
    /// What lies where in that region.
    pub geometry: Geometry,
}

/// A finished pairing.
#[derive(Debug)]
pub struct Pairing {
    /// The other side.
    pub peer: Peer,
    /// Whether its copy may be counted, and ours.
    pub agreement: Agreement,
    /// For messages both ways.
    pub channel: Channel,
    /// For writing into the peer's region.
    pub writer: WriterKeys,
    /// For reading what the peer writes into ours.
    pub reader: ReaderKeys,
}

enum State {
    AwaitHello { private: PrivateKey },
    AwaitConfirm { peer: Peer, agreement: Agreement, schedule: Schedule },
    Done { peer: Peer, agreement: Agreement, schedule: Schedule },
    Failed(PairingError),
}

/// The machine; messages in, messages out, in order and unharmed by the link.
pub struct Handshake {
    hello: Hello,
    /// As it was sent.
    sent: Vec<u8>,
    secret: PairingSecret,
    state: State,
    /// At most a hello and a confirmation.
    transmit: Vec<Vec<u8>>,
}

impl Handshake {
    /// Begins: the hello is ready to be sent.
    pub fn new(side: Side, secret: PairingSecret, rng: &mut impl CryptoRng) -> Result<Self, PairingError> {
        Self::with_layouts(side, secret, rng, layout_of)
    }

    /// The same of a build that lays regions out as it says for each version of the link.
    pub(crate) fn with_layouts(
        side: Side,
        secret: PairingSecret,
        rng: &mut impl CryptoRng,
        layout_of: fn(u16) -> u32,
    ) -> Result<Self, PairingError> {
        Geometry::new(side.sizes.clone())?;
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        let private = PrivateKey::from_private_key(&X25519, &*seed).expect("X25519 takes any 32 bytes");
        let public = private.compute_public_key().expect("X25519 has a public key for each private one");
        let share = public.as_ref().try_into().expect("an X25519 share has 32 bytes");
        let layouts = (side.versions.oldest..=side.versions.newest).map(layout_of).collect();
        let hello = Hello { side, share, layouts };
        let sent = hello.encode();
        let transmit = vec![sent.clone()];
        Ok(Self { hello, sent, secret, state: State::AwaitHello { private }, transmit })
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        (!self.transmit.is_empty()).then(|| self.transmit.remove(0))
    }

    /// Takes a message of the peer's. An error is final.
    pub fn handle_message(&mut self, message: &[u8]) -> Result<(), PairingError> {
        let state = std::mem::replace(&mut self.state, State::Failed(PairingError::Unexpected));
        let next = match state {
            State::AwaitHello { private } => self.handle_hello(private, message),
            State::AwaitConfirm { peer, agreement, schedule } => match message.split_first() {
                Some((&CONFIRM, tag)) if schedule.peer_confirms(tag) => Ok(State::Done { peer, agreement, schedule }),
                Some((&CONFIRM, _)) => Err(PairingError::WrongSecret),
                _ => Err(PairingError::Unexpected),
            },
            State::Done { .. } => Err(PairingError::Unexpected),
            State::Failed(error) => Err(error),
        };
        match next {
            Ok(next) => {
                self.state = next;
                Ok(())
            }
            Err(error) => {
                self.state = State::Failed(error);
                self.transmit.clear();
                Err(error)
            }
        }
    }

    fn handle_hello(&mut self, private: PrivateKey, message: &[u8]) -> Result<State, PairingError> {
        let own = &self.hello.side;
        let ours = own.versions;
        let hello = Hello::decode(message, ours)?;
        if hello.side.appliance == own.appliance {
            return Err(PairingError::SameAppliance);
        }
        let theirs = hello.side.versions;
        let version = theirs.common(ours).ok_or(PairingError::NoCommonVersion { theirs, ours })?;
        let (theirs, ours) = (hello.layout_of(version), self.hello.layout_of(version));
        if theirs != ours {
            return Err(PairingError::OtherLayout { version, theirs, ours });
        }
        let peer = Half { appliance: hello.side.appliance, hello: message };
        let own = Half { appliance: own.appliance, hello: &self.sent };
        let schedule =
            Schedule::new(private, &self.secret.0, own, peer, hello.share).ok_or(PairingError::WrongSecret)?;
        let Side { appliance, incarnation, config_digest, region, sizes, .. } = hello.side;
        let agreed = config_digest == self.hello.side.config_digest;
        let agreement = if agreed { Agreement::Agreed } else { Agreement::ConfigurationDiffers };
        let peer = Peer { appliance, version, incarnation, region, geometry: Geometry::new(sizes)? };
        let mut confirm = vec![CONFIRM];
        confirm.extend_from_slice(&schedule.confirmation());
        self.transmit.push(confirm);
        Ok(State::AwaitConfirm { peer, agreement, schedule })
    }

    /// Sends a hello with more at its end, as a later version may.
    #[cfg(test)]
    pub(crate) fn say_more(&mut self, more: &[u8]) -> Vec<u8> {
        self.sent.extend_from_slice(more);
        self.transmit.clear();
        self.sent.clone()
    }

    /// Says nothing of layouts, as releases didn't that had one.
    #[cfg(test)]
    pub(crate) fn say_no_layouts(&mut self) {
        self.sent.truncate(self.sent.len() - 4 * self.hello.layouts.len());
        self.transmit = vec![self.sent.clone()];
    }

    /// Whether both sides have proved themselves and everything was sent.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done { .. }) && self.transmit.is_empty()
    }

    /// Takes the result.
    pub fn finish(self) -> Result<Pairing, PairingError> {
        match self.state {
            State::Done { peer, agreement, schedule } if self.transmit.is_empty() => {
                let (channel, writer, reader) = schedule.into_keys();
                Ok(Pairing {
                    channel,
                    writer: WriterKeys::new(writer, self.hello.side.appliance),
                    reader: ReaderKeys::new(reader, peer.appliance),
                    peer,
                    agreement,
                })
            }
            State::Failed(error) => Err(error),
            _ => Err(PairingError::Unfinished),
        }
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").field("side", &self.hello.side).finish_non_exhaustive()
    }
}
