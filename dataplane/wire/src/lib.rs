//! Packet views and reprs, checksums, and the traits that let the same code run on a DPDK mbuf and on a `Vec`.
//!
//! Nothing here knows a socket, a clock, a thread or DPDK. Views read a header in place and check it once, when they are made;
//! reprs hold the fields of a header to emit. No parser panics, whatever the bytes.
#![forbid(unsafe_code)]

use thiserror::Error;

pub mod arp;
pub mod buffer;
pub mod checksum;
pub mod cookie;
pub mod crypto;
pub mod encapsulation;
pub mod ethernet;
pub mod fragment;
pub mod gue;
pub mod icmp;
pub mod icmp_error;
pub mod icmpv6;
pub mod ike;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod iv;
pub mod ndp;
pub mod quote;
pub mod tcp;
pub mod transport;
pub mod udp;

/// There are fewer bytes than the header takes (reading), or than the repr takes (emitting).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not enough bytes for the header")]
pub struct Truncated;
