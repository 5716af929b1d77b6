//! The crate from outside: published packets, scapy as the other end, the numbers' rules, malformed input.

mod malformed;
mod numbers;
mod published;
mod scapy;
mod support;
