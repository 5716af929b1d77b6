//! IKE messages: what comes in the clear, and what a peer that knows the keys puts inside.

use vipsec_ike::message::{Content, ParseLimits, Received, encode_clear};

/// A datagram on UDP port 500.
pub(crate) fn message(bytes: &[u8]) {
    let limits = ParseLimits::default();
    let Ok(received) = Received::parse(bytes, limits) else { return };
    if let Ok(payloads) = received.clear() {
        assert!(payloads.len() <= limits.payloads_max);
        // What was understood can be said again.
        let again = encode_clear(&received.header, &payloads);
        let again = Received::parse(&again, limits).expect("our own message");
        assert_eq!(again.clear().expect("our own payloads"), payloads);
    }
    if let Ok(sealed) = received.sealed() {
        assert!(sealed.associated_data.len() + sealed.body.len() == bytes.len());
        let _ = sealed.payloads(sealed.body);
        let _ = sealed.piece(sealed.body);
    }
}

/// The content of an Encrypted payload: the type of its first payload, then the chain.
pub(crate) fn payloads(bytes: &[u8]) {
    let Some((first, chain)) = bytes.split_first() else { return };
    let content = Content { first: *first, bytes: chain.to_vec().into() };
    if let Ok(payloads) = content.payloads(ParseLimits::default()) {
        let again = Content::new(&payloads);
        assert_eq!(again.payloads(ParseLimits::default()).expect("our own payloads"), payloads);
    }
}
