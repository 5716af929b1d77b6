//! ESP (RFC 4303): seal and open a packet in place, anti-replay, numbers and nonces, crypto engines behind one trait.
//!
//! Each direction of a child SA is one struct that a worker owns alone: [`inbound::InboundSa`] and [`outbound::OutboundSa`].
//! Nothing here knows a clock, a thread or a lock, and sealing and opening allocate nothing.
//!
//! Sealing and opening are the same in both modes: what is protected is the caller's to cut out, and where it goes too.
//!
//! A packet may be encrypted elsewhere than on this core: both directions prepare an [`op::CryptoOp`], which says all that a device
//! needs to know, and go on when it is done. The path through a crypto engine is made of the same pieces.
//!
//! Not here: transport mode's header surgery, outer headers and UDP encapsulation (the pipeline's), manual keys, sender-side TFC
//! padding (RFC 4303 §2.7, optional), ICVs shorter than 16 bytes (RFC 4106 §6, optional), SAs without anti-replay.
#![forbid(unsafe_code)]

pub mod engine;
pub mod error;
pub mod header;
pub mod inbound;
pub mod lifetime;
pub mod op;
pub mod outbound;
pub mod replay;
mod room;
pub mod sa;
pub mod soft_device;
mod trailer;

pub use vipsec_ipsec_mb::prefetch;

/// How many packets ahead of its use a key is best asked for. With 10,000 SAs in turn that halves the time of a small packet,
/// compared with asking for all keys of a burst before its first packet.
pub const KEY_AHEAD: usize = 4;
