//! NAT detection (RFC 7296 §2.23).

use std::net::SocketAddr;

use aws_lc_rs::digest;

use super::contents::Contents;
use crate::config::Encapsulation;
use crate::message::{NotifyType, Payload};
use crate::sa::Nat;

/// SHA-1 over SPIs, address and port. SHA-1 is what the protocol says; nothing depends on its strength.
pub(super) fn hash(initiator_spi: u64, responder_spi: u64, end: SocketAddr) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(&initiator_spi.to_be_bytes());
    context.update(&responder_spi.to_be_bytes());
    match end {
        SocketAddr::V4(end) => context.update(&end.ip().octets()),
        SocketAddr::V6(end) => context.update(&end.ip().octets()),
    }
    context.update(&end.port().to_be_bytes());
    context.finish().as_ref().to_vec()
}

/// The two notifications of a message of ours from `local` to `remote`.
pub(super) fn announce(
    encapsulation: Encapsulation,
    spi_i: u64,
    spi_r: u64,
    local: SocketAddr,
    remote: SocketAddr,
) -> [Payload; 2] {
    let source = match encapsulation {
        Encapsulation::WhereNeeded => local,
        // The peer finds that this isn't where our message comes from.
        Encapsulation::Always => SocketAddr::from(([0, 0, 0, 0], 0)),
    };
    [
        Payload::notify(NotifyType::NAT_DETECTION_SOURCE_IP, hash(spi_i, spi_r, source)),
        Payload::notify(NotifyType::NAT_DETECTION_DESTINATION_IP, hash(spi_i, spi_r, remote)),
    ]
}

/// What the notifications in a received message say, and what ours made the peer believe; `None`: the peer sent none, it doesn't traverse NATs.
pub(super) fn detect(
    contents: &Contents,
    encapsulation: Encapsulation,
    spi_i: u64,
    spi_r: u64,
    local: SocketAddr,
    remote: SocketAddr,
) -> Option<Nat> {
    let mut sources = contents.notifies(NotifyType::NAT_DETECTION_SOURCE_IP).peekable();
    let mut destinations = contents.notifies(NotifyType::NAT_DETECTION_DESTINATION_IP).peekable();
    if sources.peek().is_none() || destinations.peek().is_none() {
        return None;
    }
    let (source, destination) = (hash(spi_i, spi_r, remote), hash(spi_i, spi_r, local));
    Some(Nat {
        // RFC 7296 §2.23: if none of the source notifications matches, the sender is behind a NAT.
        remote: !sources.any(|notify| notify.data == source),
        local: !destinations.any(|notify| notify.data == destination),
        pretended: encapsulation == Encapsulation::Always,
    })
}
