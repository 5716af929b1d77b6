//! Why there is no measurement.

use std::fmt::Display;
use std::io;

use thiserror::Error;

/// No measurement.
#[derive(Debug, Error)]
pub(crate) enum BenchError {
    /// Something that the measurement stands on is wrong.
    #[error("the benchmark can't be set up: {0}")]
    Setup(String),
    /// DPDK.
    #[error(transparent)]
    Eal(#[from] vipsec_hw::EalError),
    /// Packet memory.
    #[error(transparent)]
    Mempool(#[from] vipsec_hw::MempoolError),
    /// Packets went in and didn't come out.
    #[error("{missing} of {packets} packets did not come out again{drops}")]
    Lost {
        /// How many are missing.
        missing: usize,
        /// Of how many.
        packets: usize,
        /// What the worker says about it.
        drops: String,
    },
    /// The worker's thread ended.
    #[error("the worker stopped in the middle of the measurement")]
    WorkerGone,
    /// A file.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: String,
        /// What is wrong.
        error: io::Error,
    },
}

impl BenchError {
    pub(crate) fn setup(error: impl Display) -> Self {
        Self::Setup(error.to_string())
    }
}
