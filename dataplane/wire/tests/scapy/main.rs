//! Scapy as the judge of our parsers and of what we emit.

mod control;
mod encapsulation;
mod fragment;
mod header;
mod support;
mod transport;
