//! Simulation, interoperability and system tests.
#![forbid(unsafe_code)]
