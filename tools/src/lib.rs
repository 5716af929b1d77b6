//! The operator's command and the lab.
#![forbid(unsafe_code)]

pub mod operator;
