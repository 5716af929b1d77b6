//! Sealing and opening a place: AES-256-GCM under a key of its own for each grant.
//!
//! The nonce is a constant for the purpose (32 bits) and the number of the write (64 bits). A grant is used once, by one
//! writer, which counts its writes: no nonce repeats under a key.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use thiserror::Error;
use vipsec_wire::iv::ApplianceId;
use zeroize::Zeroizing;

use crate::geometry::{HEADER_WORDS, LINE_WORDS};
use crate::place::{Copied, Header, associated_data};
use crate::{RecordKey, StoreError};

/// Writes under one key. 2^40 writes of some 64 blocks stay far below the bound for one AES-GCM key
/// (NIST SP 800-38D, section 8.3, and the birthday bound on blocks).
pub const WRITES_MAX: u64 = 1 << 40;

pub(crate) const PURPOSE_RECORD: u32 = u32::from_be_bytes(*b"rec ");
pub(crate) const PURPOSE_MESSAGE: u32 = u32::from_be_bytes(*b"msg ");

/// Why a place's content is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum Reason {
    /// The bytes are not what the pairing's peer wrote there.
    #[error("the tag is wrong")]
    BadTag,
    /// It names another writer than the pairing's peer.
    #[error("written by another appliance")]
    ForeignWriter,
    /// The reader has seen something newer: old bytes were put back.
    #[error("older than what was there before")]
    Rollback,
    /// The header is not of this layout, or contradicts its place.
    #[error("not of this layout")]
    UnknownLayout,
    /// It is authentic or not, but its number lies beyond all writes that the region's head admits to.
    #[error("beyond the last write that was published")]
    Unpublished,
}

/// A place whose content is left out, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejected {
    /// Number of the place in the region.
    pub place: u32,
    /// What it claims to be, where that can be read; not authenticated. For a counter block the id is its index.
    pub claimed: Option<RecordKey>,
    /// Why.
    pub reason: Reason,
}

pub(crate) fn aead_key(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("AES-256-GCM takes any 32 bytes"))
}

pub(crate) fn nonce(purpose: u32, number: u64) -> Nonce {
    let mut out = [0; 12];
    let (head, tail) = out.split_at_mut(4);
    head.copy_from_slice(&purpose.to_be_bytes());
    tail.copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(out)
}

/// The writer's half: owns the number of the next write.
pub(crate) struct Sealer {
    key: LessSafeKey,
    written: u64,
    scratch: Zeroizing<Vec<u8>>,
}

impl Sealer {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self { key: aead_key(key), written: 0, scratch: Zeroizing::default() }
    }

    /// Number of the newest write.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Seals `bytes` for `place` under the next number, which is returned, and leaves the place's words in `out`. The header's version
    /// and length are set here.
    pub(crate) fn seal(
        &mut self,
        place: u32,
        mut header: Header,
        bytes: &[u8],
        out: &mut Vec<u64>,
    ) -> Result<u64, StoreError> {
        if self.written >= WRITES_MAX {
            return Err(StoreError::KeyUsedUp);
        }
        // Used up even when sealing fails: no number is tried twice.
        self.written += 1;
        header.version = self.written;
        header.len = bytes.len() as u32;
        let head = header.encode();
        self.scratch.clear();
        self.scratch.extend_from_slice(bytes);
        let aad = Aad::from(associated_data(place, head));
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(PURPOSE_RECORD, self.written), aad, &mut self.scratch)
            .map_err(|_| StoreError::TooLarge { bytes: bytes.len(), bytes_max: 0 })?;
        let [_, in_place @ ..] = head;
        out.clear();
        out.reserve((HEADER_WORDS + bytes.len().div_ceil(8)).next_multiple_of(LINE_WORDS));
        out.extend_from_slice(&in_place);
        push_words(tag.as_ref(), out);
        push_words(&self.scratch, out);
        // A place that is full is written whole, and with its neighbour's in one go.
        out.resize(out.len().next_multiple_of(LINE_WORDS), 0);
        Ok(self.written)
    }
}

fn push_words(bytes: &[u8], out: &mut Vec<u64>) {
    let (words, rest) = bytes.as_chunks::<8>();
    out.extend(words.iter().map(|word| u64::from_le_bytes(*word)));
    if !rest.is_empty() {
        let mut word = [0; 8];
        word.iter_mut().zip(rest).for_each(|(into, byte)| *into = *byte);
        out.push(u64::from_le_bytes(word));
    }
}

/// The reader's half.
pub(crate) struct Opener {
    key: LessSafeKey,
    peer: ApplianceId,
}

impl Opener {
    pub(crate) fn new(key: &[u8; 32], peer: ApplianceId) -> Self {
        Self { key: aead_key(key), peer }
    }

    /// Authenticates a private copy and opens it.
    pub(crate) fn open(&self, copied: &Copied) -> Result<(Header, Zeroizing<Vec<u8>>), Rejected> {
        let header = copied.header();
        let reject = |reason| Rejected { place: copied.place, claimed: header.map(|header| header.key), reason };
        let (Some(header), Some(sealed)) = (header, &copied.sealed) else {
            return Err(reject(Reason::UnknownLayout));
        };
        if header.writer != self.peer {
            return Err(reject(Reason::ForeignWriter));
        }
        let mut bytes = Zeroizing::new(vec![0; sealed.len()]);
        let aad = Aad::from(associated_data(copied.place, copied.head));
        self.key
            .open_separate_gather(nonce(PURPOSE_RECORD, header.version), aad, sealed, &copied.tag, &mut bytes)
            .map_err(|_| reject(Reason::BadTag))?;
        Ok((header, bytes))
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("written", &self.written).finish_non_exhaustive()
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("peer", &self.peer).finish_non_exhaustive()
    }
}
