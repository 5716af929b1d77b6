//! Messages between two appliances about one group, over its store link. The link authenticates, numbers and orders them.
//!
//! # Versions
//!
//! Appliances are upgraded one after the other, so two releases have to understand each other. What a pairing agreed on, the *version*
//! of the link, says what its ends may send:
//!
//! | version | what it brought |
//! | --- | --- |
//! | 1 | the region's layout, the records and the other messages |
//! | 2 | [`Message::GivenUp`] |
//! | 3 | [`Message::Served`] |
//! | 4 | [`Message::Moves`], [`Message::Released`], [`Message::NotMoved`], [`Message::Configuration`] |
//!
//! A release speaks at least the newest version of the one before it. A new message, and whatever an older release could misunderstand,
//! takes a new version; what the older one may pass over (a new kind of record, a value behind a record's others, a field of a registry's
//! entry) doesn't.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::decider::NotMoved;
use crate::moves::MovesSeen;

/// Largest encoded message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 4096;

/// The oldest version of the link that this build speaks.
pub const VERSION_OLDEST: u16 = 1;
/// The newest.
pub const VERSION_NEWEST: u16 = 4;

/// What an appliance says about the group in every beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Does the sender own it, or is it taking it?
    pub owned: bool,
    /// Under which epoch it owns it, or the highest that it knows.
    pub epoch: u32,
    /// Does the sender hold a copy whose join was completed? In a pair: of whatever process. With a registry: of the receiver's, by an
    /// earlier pairing of the two, and the sender has begun to take over from it.
    pub holds_copy: bool,
    /// Of an owner: the registry's revision that it knows of; 0 without a registry.
    pub revision: u64,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Message {
    /// Every interval, each way.
    Beat {
        /// The sender's newest look, in nanoseconds of its own clock: comes back as an echo.
        stamp: u64,
        /// The newest stamp of the receiver that the sender has seen. Also of one that can't serve, so that an owner knows whether it is heard.
        echo: Option<u64>,
        /// Every worker advances and the data links are up: only then is this a heartbeat.
        healthy: bool,
        /// Where the group stands.
        status: GroupStatus,
    },
    /// Owner to backup: the join's last record is acknowledged; from here on the copy counts.
    Joined,
    /// Owner to backup (R7): have you begun to take over?
    Question {
        /// Comes back in the answer.
        nonce: u64,
    },
    /// Backup to owner: the answer. "No" starts the backup's count anew.
    Answer {
        /// The question's.
        nonce: u64,
        /// Has the sender begun to take over, or is it the owner?
        begun: bool,
    },
    /// Owner to backup: the group has stopped here, exact numbers are in the store: take it.
    HandOver {
        /// The epoch that ends.
        epoch: u32,
    },
    /// Backup to owner: I want to be handed the group (the operator asked for it here).
    WantGroup,
    /// Backup to owner: I hold nothing of the group any more and won't take it, my process ends. Its copy counts no longer, at once.
    GivenUp,
    /// Of an owner that nobody has a copy of and that has heard of another one, behind a beat: what it has done since nobody had.
    Served {
        /// So many remote peers were heard.
        remote_peers: u32,
        /// Until it heard of the other owner, that long ago.
        millis_ago: u32,
    },
    /// When the two pair: how often the group moved lately.
    Moves(MovesSeen),
    /// The operator has the group moved: how often it moved before doesn't count any more.
    Released,
    /// Owner to backup: you don't get what you asked for with [`Message::WantGroup`].
    NotMoved {
        /// Why.
        reason: NotMoved,
    },
    /// Of appliances whose configurations differ, each way, once in a pairing.
    Configuration {
        /// What the sender's parts are called, and a digest of each.
        sections: Vec<(String, u64)>,
    },
}

/// A message that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MessageError {
    /// More than [`MESSAGE_BYTES_MAX`].
    #[error("message of {0} bytes is too long")]
    TooLong(usize),
    /// Not what we speak.
    #[error("message can't be decoded")]
    Undecodable,
}

impl Message {
    /// The version of the link that brought it.
    pub const fn since(&self) -> u16 {
        match self {
            Self::Beat { .. }
            | Self::Joined
            | Self::Question { .. }
            | Self::Answer { .. }
            | Self::HandOver { .. }
            | Self::WantGroup => 1,
            Self::GivenUp => 2,
            Self::Served { .. } => 3,
            Self::Moves(_) | Self::Released | Self::NotMoved { .. } | Self::Configuration { .. } => 4,
        }
    }

    /// Bytes for the link.
    pub fn encode(&self) -> Vec<u8> {
        // Encoding plain data into a Vec has no way to fail; an empty message would be refused by the receiver.
        rmp_serde::to_vec(self).unwrap_or_default()
    }

    /// Reads a message.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(MessageError::TooLong(bytes.len()));
        }
        rmp_serde::from_slice(bytes).map_err(|_| MessageError::Undecodable)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;
    use vipsec_wire::iv::ApplianceId;

    use super::*;
    use crate::moves::{MoveLimits, Moves};

    #[test]
    fn as_many_moves_as_are_told_fit_into_a_message() {
        let moves_max = 1000;
        let mut moves = Moves::new(MoveLimits { moves_max, window: Duration::MAX, hold: Duration::from_secs(1) });
        let begin = Instant::now();
        for number in 0..moves_max {
            moves.note_owner(begin, ApplianceId::new(1 + u8::from(number % 2 == 0)).unwrap());
        }
        let message = Message::Moves(moves.seen(begin + Duration::from_secs(4_000_000)));
        assert_eq!(Message::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn a_message_survives_the_link() {
        let beat = Message::Beat {
            stamp: 5,
            echo: Some(4),
            healthy: true,
            status: GroupStatus { owned: true, epoch: 7, holds_copy: false, revision: 3 },
        };
        for message in [beat, Message::NotMoved { reason: NotMoved::Unfit }] {
            assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }

    /// What an older release doesn't know must not be sent to it.
    #[test]
    fn every_message_is_of_a_version_that_is_spoken() {
        let first = Message::Joined;
        let last = Message::NotMoved { reason: NotMoved::Joining };
        assert_eq!((first.since(), last.since()), (VERSION_OLDEST, VERSION_NEWEST));
    }

    /// A release that knows fewer messages leaves the others out, and goes on.
    #[test]
    fn an_unknown_message_is_an_error_and_no_other_message() {
        let of_a_later_release = rmp_serde::to_vec(&std::collections::BTreeMap::from([("Later", (1, 2))])).unwrap();
        assert_eq!(Message::decode(&of_a_later_release), Err(MessageError::Undecodable));
    }

    proptest! {
        #[test]
        fn garbage_is_refused_not_fatal(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
            let _ = Message::decode(&bytes);
        }
    }
}
