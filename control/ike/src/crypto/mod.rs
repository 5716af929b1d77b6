//! Keys: negotiation of algorithms, key exchange, derivation, authentication, and the Encrypted payload.

pub(crate) mod auth;
pub(crate) mod derive;
pub(crate) mod exchange;
mod prf;
mod seal;
mod secret;
mod suite;
mod transform;

#[cfg(test)]
mod tests;

use thiserror::Error;

pub use secret::Secret;
pub use suite::{EspProposal, EspSuite, IkeProposal, IkeSuite, InvalidProposal};
pub use transform::{Encryption, Group, Prf};

#[cfg(test)]
pub(crate) use seal::seal_critical;
pub(crate) use seal::{OpenError, open, seal};
pub(crate) use suite::{KeyExchange, offer, pick_esp, pick_ike};

/// The crypto library refused an input: a public value that is no point of its group, a key of the wrong length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the crypto library refused a key or a public value")]
pub(crate) struct CryptoError;
