//! IKEv2 (RFC 7296) without I/O: messages, exchanges, IKE SAs, child SAs and their keys, in both roles.
//!
//! [`Endpoint`] is a state machine: datagrams, time and the operator's wishes go in; messages, events and the next deadline come
//! out. It knows no socket, no clock and no source of randomness but those it is given, so two of them and a lossy network run in
//! one thread from one seed.
//!
//! Any IKE SA that somebody believes in can be exported after any message, and imported on another appliance, which goes on with
//! it as if nothing had happened: see [`Endpoint::export`] and [`Endpoint::import`].
//!
//! What RFC 7296 has and this crate doesn't: certificates and EAP (authentication is by pre-shared keys), configuration payloads
//! as the one who asks, IPComp, AH, a window larger than one. Path MTU discovery (RFC 7383 §2.5.2) is optional, and left out.
//! INITIAL_CONTACT is honoured and never sent: our identity is replicated (RFC 7296 §2.4). NAT keepalives aren't sent: a VIP is
//! reachable.
#![forbid(unsafe_code)]

mod bytes;
mod child;
mod config;
mod counters;
mod crypto;
mod endpoint;
mod event;
mod fragments;
mod identity;
mod keylog;
pub mod message;
mod pool;
mod record;
mod sa;
mod selector;

#[cfg(test)]
mod ladder;

pub use child::ChildPhase;
pub use config::{
    AddressMatch, ChildPolicy, Config, ConnectionPolicy, Encapsulation, Fragmentation, InvalidAddressMatch, Limits,
    Mode, PACKET_BYTES_MAX, Pairs, Retransmission, Unique,
};
pub use counters::{Counters, Drop};
pub use crypto::{
    Cbc, Cipher, Encryption, EspProposal, EspSuite, Group, IkeProposal, IkeSuite, Integrity, InvalidProposal, Prf,
    Secret,
};
pub use endpoint::{
    Callee, ChildSaStatus, Due, Endpoint, EpochWentBack, IkeSaStatus, ImportError, OperateError, Standing, Vintage,
};
pub use event::{ChildSaInfo, Event, GoneReason, OriginalAddresses, Removal, Transmit, Tunnel};
pub use identity::{Identity, IdentityMatch, InvalidIdentity};
pub use keylog::{KeyLog, KeyLogTable};
pub use message::Role;
pub use pool::AddressPool;
pub use record::{ChildSaRecord, IkeSaRecord, RecordError};
pub use sa::{IkeSaId, Phase};
pub use selector::{InvalidSelector, SELECTORS_MAX, TrafficSelector, is_subset, narrow};
