//! A child SA as IKE sees it.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::event::ChildSaInfo;
use crate::sa::Age;

/// Where a child SA stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChildPhase {
    /// In use.
    Installed,
    /// The peer has replaced it and will delete it.
    Rekeyed,
    /// We have asked the peer to delete it.
    Deleting,
}

/// A child SA in memory.
#[derive(Debug)]
pub(crate) struct ChildSa {
    pub(crate) info: ChildSaInfo,
    pub(crate) phase: ChildPhase,
    /// Nobody knows where its numbers stand: it waits, shut, to be replaced.
    pub(crate) stale: bool,
    /// The peer has refused to replace it, for the time being.
    pub(crate) refused: bool,
    pub(crate) age: Age,
    pub(crate) rekey_at: Option<Instant>,
    pub(crate) expires_at: Option<Instant>,
}

impl ChildSa {
    /// When something is to be done about it.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            ChildPhase::Deleting => None,
            ChildPhase::Rekeyed => self.expires_at,
            ChildPhase::Installed => [self.rekey_at, self.expires_at].into_iter().flatten().min(),
        }
    }
}
