//! IKEv2 (RFC 7296) without I/O: messages, exchanges, IKE SAs, child SAs and their keys, in both roles.
#![forbid(unsafe_code)]

mod crypto;
mod identity;
pub mod message;
mod selector;

pub use crypto::{Encryption, EspProposal, EspSuite, Group, IkeProposal, IkeSuite, InvalidProposal, Prf, Secret};
pub use identity::{Identity, IdentityMatch, InvalidIdentity};
pub use selector::{InvalidSelector, SELECTORS_MAX, TrafficSelector, is_subset, narrow};
