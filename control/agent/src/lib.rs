//! What a target says of itself to the appliances, over TCP in one line: the words ([`AgentReport`]), and what `vipsec-target-agent`
//! finds out and answers. And what a VIP's new owner tells the targets ([`notice`]), under a secret that both read alike ([`secret`]).
//!
//! Nothing of DPDK is needed here: the agent runs on the targets.
#![forbid(unsafe_code)]

pub mod answer;
pub mod notice;
mod report;
pub mod secret;
pub mod server;

pub use report::{AgentError, AgentReport, LINE_BYTES_MAX, SHARE_PERCENT_MAX};
