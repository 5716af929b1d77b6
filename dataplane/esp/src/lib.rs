//! ESP (RFC 4303): seal and open a packet in place, anti-replay, numbers and nonces, crypto engines behind one trait.
#![deny(unsafe_code)]

pub mod sa;
