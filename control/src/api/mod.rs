//! The control API: what the operator's command asks a running `vipsecd`, and what it answers.
//!
//! One Unix socket, lines of JSON. A client sends one [`Request`] per line in an envelope with the API's version, and reads one
//! line for each: `{"ok": …}` or `{"error": …}`.
//!
//! ```text
//! --> {"version":1,"request":{"command":"connections","max":2}}
//! <-- {"version":1,"ok":{"kind":"connections","total":7,"entries":[…]}}
//! ```

mod client;
mod distribution;
mod line;
mod lock;
mod request;
mod response;
mod server;

pub use client::{Client, ClientError};
pub use distribution::{HealthCheck, Service, ServiceTarget, Target};
pub use request::{CONNECTIONS_MAX, Request};
pub use response::{
    AgentsTold, ApiError, Appliance, Child, ConnectionEntry, Connections, Counters, CryptoDevice, ErrorKind, EspSpi,
    GroupStore, IkeSa, IkeSpi, KeptRegion, Moved, Neighbour, PeerStore, Pins, Port, Quarantined, Response, Sas, Status,
    Store, StoreRecords, Takeover, TakeoverWay, Vip, Worker, WrittenRegion,
};
pub use server::{BindError, Call, Limits, Server};

/// The version of requests and responses. It counts up with every change that a client of the old one would misunderstand.
pub const VERSION: u32 = 1;

/// Most bytes of a request, its newline included.
pub const REQUEST_BYTES_MAX: usize = 64 << 10;

/// Most bytes of a response, its newline included.
pub const RESPONSE_BYTES_MAX: usize = 16 << 20;
