//! Putting together what came in fragments (RFC 7383 §2.6).

use std::collections::BTreeMap;
use std::time::Instant;

use zeroize::Zeroizing;

use crate::message::Content;

/// The authentic fragments of one message so far.
#[derive(Debug)]
pub(crate) struct Assembly {
    message_id: u32,
    total: u16,
    /// Type of the message's first payload, from the first fragment.
    first: u8,
    pieces: BTreeMap<u16, Zeroizing<Vec<u8>>>,
    bytes: usize,
    /// Digest of the datagram with the first fragment, by which a retransmission is recognised.
    digest: Option<[u8; 32]>,
    /// When it is given up.
    pub(crate) until: Instant,
}

/// Which fragment of which message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) message_id: u32,
    /// From 1 to `total`.
    pub(crate) number: u16,
    pub(crate) total: u16,
}

/// A message that has come completely.
#[derive(Debug)]
pub(crate) struct Assembled {
    pub(crate) content: Content,
    /// See [`Assembly::digest`].
    pub(crate) digest: [u8; 32],
}

impl Assembly {
    fn new(place: Place, until: Instant) -> Self {
        let Place { message_id, total, .. } = place;
        Self { message_id, total, first: 0, pieces: BTreeMap::new(), bytes: 0, digest: None, until }
    }

    /// May this fragment be looked at? Judged before it is decrypted.
    pub(crate) fn wants(slot: Option<&Self>, place: Place) -> bool {
        match slot.filter(|assembly| assembly.message_id == place.message_id) {
            None => true,
            // RFC 7383 §2.6: the total is not less than in the fragments that are here, and none comes twice.
            Some(assembly) if assembly.total == place.total => !assembly.pieces.contains_key(&place.number),
            Some(assembly) => place.total > assembly.total,
        }
    }

    /// Takes an authentic fragment that is [wanted](Self::wants), from a datagram with that digest. Returns the message once it is
    /// complete. One of more than `bytes_max` bytes is forgotten.
    pub(crate) fn add(
        slot: &mut Option<Box<Self>>,
        place: Place,
        piece: Content,
        digest: [u8; 32],
        until: Instant,
        bytes_max: usize,
    ) -> Result<Option<Assembled>, TooLong> {
        // RFC 7383 §2.6: a greater total means that the peer has cut the message anew: start over.
        let mut assembly = slot
            .take()
            .filter(|assembly| assembly.message_id == place.message_id && assembly.total == place.total)
            .unwrap_or_else(|| Box::new(Self::new(place, until)));
        assembly.bytes = assembly.bytes.saturating_add(piece.bytes.len());
        if assembly.bytes > bytes_max {
            return Err(TooLong);
        }
        if place.number == 1 {
            assembly.first = piece.first;
            assembly.digest = Some(digest);
        }
        assembly.pieces.insert(place.number, piece.bytes);
        match assembly.digest {
            Some(digest) if assembly.pieces.len() == usize::from(assembly.total) => {
                let mut bytes = Zeroizing::new(Vec::with_capacity(assembly.bytes));
                assembly.pieces.values().for_each(|piece| bytes.extend_from_slice(piece));
                Ok(Some(Assembled { content: Content { first: assembly.first, bytes }, digest }))
            }
            _ => {
                *slot = Some(assembly);
                Ok(None)
            }
        }
    }
}

/// The fragments hold more than we are willing to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn piece(first: u8, bytes: &[u8]) -> Content {
        Content { first, bytes: bytes.to_vec().into() }
    }

    fn place(message_id: u32, number: u16, total: u16) -> Place {
        Place { message_id, number, total }
    }

    #[test]
    fn in_any_order() {
        let until = Instant::now() + Duration::from_secs(1);
        let mut slot = None;
        let mut add = |place: Place, content| Assembly::add(&mut slot, place, content, [7; 32], until, 100).unwrap();
        assert!(add(place(1, 3, 3), piece(0, b"c")).is_none());
        assert!(add(place(1, 1, 3), piece(33, b"a")).is_none());
        let whole = add(place(1, 2, 3), piece(0, b"b")).unwrap();
        assert_eq!((whole.content.first, whole.content.bytes.as_slice()), (33, &b"abc"[..]));
        assert!(slot.is_none());
    }

    /// RFC 7383 §2.6.
    #[test]
    fn duplicates_and_smaller_totals_are_not_wanted() {
        let mut slot = None;
        Assembly::add(&mut slot, place(1, 1, 3), piece(33, b"a"), [0; 32], Instant::now(), 100).unwrap();
        let wants = |place| Assembly::wants(slot.as_deref(), place);
        assert!(!wants(place(1, 1, 3)));
        assert!(wants(place(1, 2, 3)));
        assert!(!wants(place(1, 2, 2)));
        assert!(wants(place(1, 1, 4)));
        assert!(wants(place(2, 1, 2)));
    }

    /// RFC 7383 §2.6: with a greater total the reassembly starts over.
    #[test]
    fn cut_anew() {
        let until = Instant::now();
        let mut slot = None;
        let mut add = |place: Place, content| Assembly::add(&mut slot, place, content, [0; 32], until, 100).unwrap();
        assert!(add(place(1, 1, 2), piece(33, b"ab")).is_none());
        assert!(add(place(1, 2, 3), piece(0, b"b")).is_none());
        assert!(add(place(1, 3, 3), piece(0, b"c")).is_none());
        assert_eq!(add(place(1, 1, 3), piece(33, b"a")).unwrap().content.bytes.as_slice(), b"abc");
    }

    #[test]
    fn no_more_than_we_want_to_keep() {
        let mut slot = None;
        let add = |slot: &mut _, number| {
            Assembly::add(slot, place(1, number, 3), piece(0, &[0; 60]), [0; 32], Instant::now(), 100).map(|_| ())
        };
        assert_eq!(add(&mut slot, 1), Ok(()));
        assert_eq!(add(&mut slot, 2), Err(TooLong));
        assert!(slot.is_none());
    }
}
