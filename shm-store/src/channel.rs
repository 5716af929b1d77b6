//! Sealed, numbered messages between paired appliances: heartbeats, grants, marks.

use std::fmt;

use aws_lc_rs::aead::{Aad, LessSafeKey};
use thiserror::Error;

use crate::grant::Secret;
use crate::seal::{PURPOSE_MESSAGE, WRITES_MAX, aead_key, nonce};

/// Bytes of the largest message.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// What sealing adds: the number in front, the tag behind.
pub const OVERHEAD_BYTES: usize = NUMBER_BYTES + TAG_BYTES;
const NUMBER_BYTES: usize = 8;
const TAG_BYTES: usize = 16;

/// A message was not sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ChannelError {
    /// Longer than [`MESSAGE_BYTES_MAX`].
    #[error("a message has at most {MESSAGE_BYTES_MAX} bytes")]
    TooLarge,
    /// The key's numbers are used up: pair anew.
    #[error("the key's messages are used up")]
    KeyUsedUp,
    /// Not what the peer sealed under this pairing.
    #[error("the message doesn't authenticate")]
    NotAuthentic,
    /// The number doesn't rise: a repeated or overtaken message.
    #[error("the message was seen, or a later one was")]
    Replayed,
}

/// One end of the message channel. Each direction has its own key and counts its messages; numbers strictly rise.
pub struct Channel {
    sealing: LessSafeKey,
    opening: LessSafeKey,
    sent: u64,
    received: u64,
}

impl Channel {
    pub(crate) fn new(sealing: &Secret, opening: &Secret) -> Self {
        Self { sealing: aead_key(sealing), opening: aead_key(opening), sent: 0, received: 0 }
    }

    /// Seals a message: number (64 bits), sealed bytes, tag.
    pub fn seal_message(&mut self, message: &[u8]) -> Result<Vec<u8>, ChannelError> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(ChannelError::TooLarge);
        }
        if self.sent >= WRITES_MAX {
            return Err(ChannelError::KeyUsedUp);
        }
        self.sent += 1;
        let number = self.sent.to_be_bytes();
        let mut sealed = message.to_vec();
        let tag = self
            .sealing
            .seal_in_place_separate_tag(nonce(PURPOSE_MESSAGE, self.sent), Aad::from(number), &mut sealed)
            .map_err(|_| ChannelError::TooLarge)?;
        let mut out = Vec::with_capacity(sealed.len() + OVERHEAD_BYTES);
        out.extend_from_slice(&number);
        out.extend_from_slice(&sealed);
        out.extend_from_slice(tag.as_ref());
        Ok(out)
    }

    /// Opens a message of the peer's. After an error the channel goes on: a forged message doesn't disturb the next one.
    pub fn open_message(&mut self, sealed: &[u8]) -> Result<Vec<u8>, ChannelError> {
        let (number, sealed) = sealed.split_first_chunk::<NUMBER_BYTES>().ok_or(ChannelError::NotAuthentic)?;
        if sealed.len() > MESSAGE_BYTES_MAX + TAG_BYTES {
            return Err(ChannelError::TooLarge);
        }
        let mut message = sealed.to_vec();
        let value = u64::from_be_bytes(*number);
        let len = self
            .opening
            .open_in_place(nonce(PURPOSE_MESSAGE, value), Aad::from(*number), &mut message)
            .map_err(|_| ChannelError::NotAuthentic)?
            .len();
        if value <= self.received {
            return Err(ChannelError::Replayed);
        }
        self.received = value;
        message.truncate(len);
        Ok(message)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("sent", &self.sent).field("received", &self.received).finish_non_exhaustive()
    }
}
