//! Two appliances on two hosts: the region is memory that the peer writes over libfabric's connected endpoints, `tcp` where there
//! is no RDMA and `verbs` where there is, by the same code.
//!
//! Each pairing has a TCP connection for messages and one fabric connection for each region. The messages carry the pairing and,
//! sealed, where the region is and the word that its writer has to say when it calls; so whoever else calls is turned away. A region
//! takes one caller, once: to fence it is to close its endpoint and its registration, and a new grant comes with a new pairing.
//!
//! What differs between providers: registration keys and base addresses (both travel), and who carries a write out (with `tcp` a
//! thread of ours, see [`target`]). Operations are ordered on a connection (write after write, read after write), so the read of the
//! grant word also says that all writes before it are in place, without atomics or delivery completions, which `tcp` and `verbs`
//! don't both have.
//!
//! `verbs` was written after the manual pages and not tried: no RDMA device was at hand.

mod link;
mod memory;
mod object;
mod target;

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use rand_core::CryptoRng;
use thiserror::Error;

pub use link::{FabricSetup, pair};
pub use memory::FabricMemory;
pub use target::DataListener;

/// Which of libfabric's providers carries the writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// Ordinary TCP.
    Tcp,
    /// RDMA network cards.
    Verbs,
}

impl Provider {
    /// Its name, in libfabric and in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Verbs => "verbs",
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No provider has that name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no fabric provider is called {0:?}; there are tcp and verbs")]
pub struct UnknownProvider(pub String);

impl FromStr for Provider {
    type Err = UnknownProvider;

    fn from_str(name: &str) -> Result<Self, UnknownProvider> {
        [Self::Tcp, Self::Verbs]
            .into_iter()
            .find(|provider| provider.name() == name)
            .ok_or_else(|| UnknownProvider(name.to_owned()))
    }
}

/// The fabric refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FabricError {
    /// A call of libfabric's failed.
    #[error("{call}: {} ({code})", object::describe(*code))]
    Call {
        /// Which one.
        call: &'static str,
        /// `FI_*` number, positive (fi_errno(3)).
        code: i32,
    },
    /// No memory, or no thread.
    #[error("out of memory or threads")]
    OutOfMemory,
    /// Something took too long: the link is as good as cut.
    #[error("no answer in time")]
    TimedOut,
    /// The peer closed the connection.
    #[error("the peer closed the connection")]
    Closed,
    /// More waits to be written than the peer takes.
    #[error("the peer doesn't keep up")]
    Behind,
    /// The provider completed an operation that it didn't have.
    #[error("a completion without an operation")]
    OutOfOrder,
}

/// What a region's writer says when it calls: random, for one call.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Word([u8; Self::BYTES]);

impl Word {
    /// Fits what every provider lets a caller say.
    const BYTES: usize = 16;

    fn random(rng: &mut impl CryptoRng) -> Self {
        let mut word = [0; Self::BYTES];
        rng.fill_bytes(&mut word);
        Self(word)
    }

    /// A provider may say more than the caller did, padded with zeros.
    fn is(&self, said: &[u8]) -> bool {
        said.split_at_checked(Self::BYTES).is_some_and(|(word, rest)| {
            verify_slices_are_equal(word, &self.0).is_ok() && rest.iter().all(|byte| *byte == 0)
        })
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Word")
    }
}
