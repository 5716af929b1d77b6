//! The crate from outside: published packets, scapy as the other end, the numbers' rules, devices in the middle, malformed input.

mod malformed;
mod numbers;
mod published;
mod scapy;
mod steps;
mod support;
