//! Bindings to the system's libdpdk, generated at build time, and nothing else: `vipsec-hw` makes them safe.
//!
//! `shim_*` and `SHIM_*` stand for what C offers only as a static inline function or a macro.
#![allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::undocumented_unsafe_blocks
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
