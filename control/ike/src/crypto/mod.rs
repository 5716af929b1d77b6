//! Keys: negotiation of algorithms, key exchange, derivation, authentication, and the Encrypted payload.

pub(crate) mod auth;
mod cipher;
pub(crate) mod derive;
pub(crate) mod exchange;
mod mismatch;
mod modp;
mod prf;
mod secret;
mod suite;
mod transform;

#[cfg(test)]
mod tests;

use thiserror::Error;

pub use cipher::Cipher;
pub use secret::Secret;
pub use suite::{EspProposal, EspSuite, IkeProposal, IkeSuite, InvalidProposal};
pub use transform::{Cbc, Encryption, Group, Integrity, Prf};

pub(crate) use cipher::DirectionKeys;
#[cfg(test)]
pub(crate) use cipher::whole;
pub(crate) use mismatch::Mismatch;
pub(crate) use suite::{KeyExchange, offer, pick_esp, pick_ike};

/// The crypto library refused an input: a public value that is no point of its group, a key of the wrong length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the crypto library refused a key or a public value")]
pub(crate) struct CryptoError;
