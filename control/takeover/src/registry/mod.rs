//! Ownership by a registry: a small store that many appliances reach and that changes a record only for whoever knows its newest
//! revision (etcd, in production).
//!
//! A group has one [`Record`]: who owns it, under which epoch, and whose copies count. The rules, whose reasons are in
//! `docs/registry.md`:
//!
//! * A group is taken by a [`Request::Write`] on the revision at which its owner was last known, and by nothing else.
//! * The owner puts a copy on the list before it sends the mark that ends the join, and takes one off by a write of its own before
//!   it goes on without it. Both fail once another owns the group.
//! * Only a listed process resumes, and only from a copy whose mark it has from the process that the record calls owner.
//! * A write without an answer counts as done, until a later one of ours on the same revision is answered.
//!
//! No rule turns on a clock. [`Member`] is one appliance's part in it.

mod backup;
mod member;
mod owner;
#[cfg(test)]
mod tests;

pub use member::{Member, MemberConfig};

use serde::{Deserialize, Serialize};
use vipsec_wire::iv::ApplianceId;

/// A process of an appliance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Process {
    /// Which appliance's.
    #[serde(with = "appliance_id")]
    pub appliance: ApplianceId,
    /// Its incarnation: random, new with every process.
    pub incarnation: u64,
}

/// What the registry says of a group.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// Whose it is.
    pub owner: Process,
    /// Under which epoch.
    pub epoch: u32,
    /// Who may resume when the owner is gone, in order.
    pub copies: Vec<Process>,
}

/// What the registry said at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Standing {
    /// Rises with every change of the record; 0: there is none.
    pub revision: u64,
    /// The group's.
    pub record: Option<Record>,
    /// Processes that the registry has heard of lately.
    pub alive: Vec<Process>,
}

/// A question to the registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Request {
    /// How does it stand?
    Read,
    /// Put that record there, if the revision still is that one.
    Write {
        /// 0: there is no record yet.
        revision: u64,
        /// The new record.
        record: Record,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reply {
    /// To [`Request::Read`].
    Standing(Standing),
    /// The record stands, under that revision.
    Written(u64),
    /// It doesn't: the record had changed. So it stands instead.
    Refused(Standing),
    /// No answer: what was to be written may have been written, or may be later.
    Silence,
}

/// An id as a number.
mod appliance_id {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use vipsec_wire::iv::ApplianceId;

    pub(super) fn serialize<S: Serializer>(id: &ApplianceId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(id.get())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ApplianceId, D::Error> {
        ApplianceId::new(u8::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
