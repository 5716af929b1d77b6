//! Bindings to the system's libfabric, made when this crate is built: what the store's fabric link calls, and nothing else.
//!
//! `fi_*` are libfabric's own functions; `shim_*` stand for its static inlines (`fi_write` is `shim_fi_write`), with the arguments
//! that we never use left out. What each does is in libfabric's manual pages.
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
