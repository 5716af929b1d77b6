//! I1: no IV twice under one key, whoever sends, whatever happens.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::Violation;
use crate::frames::{self, IKE_PORT, SealedIke, Seen};

/// A key, by what both ends call it: random SPIs don't come twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Esp { spi: u32 },
    Ike { initiator: u64, responder: u64, from_initiator: bool },
}

/// Every (key, IV) so far, with a digest of the message.
#[derive(Default)]
pub(crate) struct Ivs {
    used: HashMap<(Key, [u8; 8]), u64>,
}

impl Ivs {
    /// Somebody puts a frame on a wire.
    pub(crate) fn observe(&mut self, sender: &str, frame: &[u8]) -> Result<(), Violation> {
        let Some((key, iv, message)) = protected(frame) else { return Ok(()) };
        let mut hasher = DefaultHasher::new();
        message.hash(&mut hasher);
        let digest = hasher.finish();
        match self.used.insert((key, iv), digest) {
            Some(before) if before != digest => Err(Violation::IvReused {
                sender: sender.to_owned(),
                key: key.to_string(),
                iv: iv.map(|byte| format!("{byte:02x}")).concat(),
            }),
            _ => Ok(()),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.used.len()
    }
}

/// Key, IV and bytes of a frame that carries an ESP packet or an encrypted IKE message.
fn protected(frame: &[u8]) -> Option<(Key, [u8; 8], &[u8])> {
    match frames::read(frame)?.1 {
        Seen::Esp(_, esp) => {
            let key = Key::Esp { spi: u32::from_be_bytes(*esp.first_chunk()?) };
            Some((key, *esp.get(8..)?.first_chunk()?, esp))
        }
        Seen::Udp(_, (_, IKE_PORT), message) => {
            let SealedIke { initiator, responder, from_initiator, iv, .. } = SealedIke::read(message)?;
            Some((Key::Ike { initiator, responder, from_initiator }, iv, message))
        }
        _ => None,
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Esp { spi } => write!(f, "child SA {spi:08x}"),
            Self::Ike { initiator, responder, from_initiator } => {
                let end = if *from_initiator { "initiator" } else { "responder" };
                write!(f, "IKE SA {initiator:016x}-{responder:016x}, {end}'s end")
            }
        }
    }
}
