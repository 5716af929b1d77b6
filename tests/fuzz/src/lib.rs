//! Fuzz targets as plain functions: bytes in, a panic where something is wrong.
//!
//! Ordinary tests run them on the corpus and on mutations of it (`tests/replay.rs`); libFuzzer runs them without end (`libfuzzer/`, a
//! workspace of its own). A target does more than wait for a panic: it asserts what must hold whatever the bytes, and repairs
//! checksums first, so that what is behind them is reached.
//!
//! A new target is a function in a module here, an entry in [`TARGETS`], three lines in `libfuzzer/` and a folder in `corpus/`.
#![forbid(unsafe_code)]

mod control;
mod esp;
mod frame;
mod ike;
mod packet;
mod reassembly;
mod registry;
mod repair;
mod store;
mod transport;
mod worker;

/// Something that takes bytes from outside.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, that of its folder in `corpus/` and of its binary in `libfuzzer/`.
    pub name: &'static str,
    /// Takes one input.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "ethernet", run: frame::ethernet },
    Target { name: "ip", run: packet::ip },
    Target { name: "ipv4", run: packet::ipv4 },
    Target { name: "ipv6", run: packet::ipv6 },
    Target { name: "fragment", run: packet::fragment },
    Target { name: "icmp", run: control::icmp },
    Target { name: "icmpv6", run: control::icmpv6 },
    Target { name: "udp", run: transport::udp },
    Target { name: "tcp", run: transport::tcp },
    Target { name: "gue", run: transport::gue },
    Target { name: "reassembly", run: reassembly::reassembly },
    Target { name: "esp", run: esp::esp },
    Target { name: "worker", run: worker::worker },
    Target { name: "ike", run: ike::message },
    Target { name: "ike_payloads", run: ike::payloads },
    Target { name: "store_pairing", run: store::pairing },
    Target { name: "store_message", run: store::message },
    Target { name: "store_region", run: store::region },
    Target { name: "registry", run: registry::answer },
];

/// Runs the target of that name; a name that is none is a mistake of the caller.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.unwrap_or_else(|| panic!("no fuzz target {name}"));
    (target.run)(bytes);
}
