//! The control core and the daemon: everything that has sockets, timers and files.
#![forbid(unsafe_code)]

pub mod api;
pub mod config;
pub mod core;
pub mod daemon;
pub mod health;
