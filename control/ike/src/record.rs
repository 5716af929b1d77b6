//! Records: an IKE SA and its child SAs in a form that another appliance can go on with.
//!
//! Times are ages, never clock readings. What they hold is as secret as the SAs themselves: the store seals them.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use vipsec_wire::iv::Epoch;
use zeroize::Zeroizing;

use crate::child::ChildPhase;
use crate::endpoint::Callee;
use crate::event::ChildSaInfo;
use crate::message::NotifyType;
use crate::sa::{IkeSaId, IkeSaState, Phase};

/// The form of a record. What a later release puts behind the fields below, an older one passes over; whatever else changes takes a new
/// number, and a version of the store link of its own: a release writes what its backup reads, and refuses another form.
const VERSION: u16 = 4;

/// Bytes that are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Written by another version.
    #[error("record version {0} is not {VERSION}")]
    Version(u16),
    /// Not a record at all.
    #[error("the record is malformed")]
    Malformed,
}

/// An IKE SA with all that its exchanges need, naming its child SAs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IkeSaRecord {
    /// Who wrote it: appliance id and the epoch its IVs carry.
    pub(crate) origin: (u8, u32),
    pub(crate) age: Duration,
    pub(crate) children: Vec<u32>,
    pub(crate) state: IkeSaState,
}

/// A child SA.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChildSaRecord {
    pub(crate) age: Duration,
    pub(crate) phase: ChildPhase,
    pub(crate) stale: bool,
    pub(crate) info: ChildSaInfo,
}

impl IkeSaRecord {
    /// Which IKE SA.
    pub const fn id(&self) -> IkeSaId {
        IkeSaId(self.state.channel.local_spi)
    }

    /// Index of its VIP.
    pub const fn vip(&self) -> u16 {
        self.state.vip
    }

    /// Its connection's name.
    pub fn connection(&self) -> &str {
        &self.state.connection
    }

    /// The remote peer's end.
    pub const fn remote(&self) -> SocketAddr {
        self.state.remote
    }

    /// The epoch of its writer.
    pub const fn epoch(&self) -> Epoch {
        Epoch(self.origin.1)
    }

    /// How old it was when the record was made. Of an IKE SA and the one that it was rekeyed to, the elder is the older.
    pub const fn age(&self) -> Duration {
        self.age
    }

    /// May new message IDs be agreed on with its peer (RFC 6311)?
    pub fn is_synchronisable(&self) -> bool {
        // Of another phase the peer may not know, and it would take that one for alive.
        self.state.phase == Phase::Established
            && self.state.announced.contains(&NotifyType::IKEV2_MESSAGE_ID_SYNC_SUPPORTED)
    }

    /// Another one has its place, or it is being deleted.
    pub const fn is_leaving(&self) -> bool {
        matches!(self.state.phase, Phase::Rekeyed { .. } | Phase::Deleting)
    }

    /// Its message IDs come from a copy that may have been stale, and were not agreed on anew since.
    pub const fn is_unsynchronised(&self) -> bool {
        self.state.sync.is_some()
    }

    /// Does the peer go on above numbers that may be lost, if it is asked to (RFC 6311 §5.2)?
    pub fn peer_skips_numbers(&self) -> bool {
        self.state.announced.contains(&NotifyType::IPSEC_REPLAY_COUNTER_SYNC_SUPPORTED)
    }

    /// Whom to call to set the IKE SA up anew, with what was under it.
    pub fn callee(&self, children: &[ChildSaRecord]) -> Callee {
        Callee::new(&self.state, children.iter().map(ChildSaRecord::info))
    }

    /// Inbound SPIs of its child SAs. One that isn't among them doesn't exist.
    pub fn children(&self) -> &[u32] {
        &self.children
    }

    /// The record as bytes.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        encode(self)
    }

    /// A record from bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        decode(bytes)
    }
}

impl ChildSaRecord {
    /// Our inbound SPI: the key of the record.
    pub const fn spi_in(&self) -> u32 {
        self.info.spi_in
    }

    /// How old it was when the record was made.
    pub const fn age(&self) -> Duration {
        self.age
    }

    /// It comes from a copy that may have been stale, and was not replaced since: nobody knows where its numbers stand, so it must not
    /// be used.
    pub const fn is_stale(&self) -> bool {
        self.stale
    }

    /// Where its numbers stand isn't known, or whether its keys were used under this appliance's name already: it isn't to be used.
    pub fn set_stale(&mut self) {
        self.stale = true;
    }

    /// What a data plane needs to install it.
    pub const fn info(&self) -> &ChildSaInfo {
        &self.info
    }

    /// The record as bytes.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        encode(self)
    }

    /// A record from bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        decode(bytes)
    }
}

/// Encodes into a buffer of the right size: one that grows would leave copies of keys behind.
fn encode<T: Serialize>(record: &T) -> Zeroizing<Vec<u8>> {
    struct Count(usize);

    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(VERSION.to_be_bytes().len());
    // Nothing in a record can fail to be serialised, and neither writer fails.
    let _ = rmp_serde::encode::write(&mut count, record);
    let mut out = Zeroizing::new(Vec::with_capacity(count.0));
    out.extend_from_slice(&VERSION.to_be_bytes());
    let _ = rmp_serde::encode::write(&mut *out, record);
    out
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RecordError> {
    let (version, body) = bytes.split_first_chunk().ok_or(RecordError::Malformed)?;
    match u16::from_be_bytes(*version) {
        VERSION => rmp_serde::from_slice(body).map_err(|_| RecordError::Malformed),
        other => Err(RecordError::Version(other)),
    }
}
