//! What can be asked.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::response::{EspSpi, IkeSpi};

/// Most connections that one answer lists.
pub const CONNECTIONS_MAX: usize = 10_000;

/// A question or an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How is the appliance? Answered by [`Response::Status`](super::Response::Status).
    Status,
    /// IKE SAs and their children. Answered by [`Response::Sas`](super::Response::Sas).
    Sas,
    /// The connection table. Answered by [`Response::Connections`](super::Response::Connections).
    Connections {
        /// Most entries in the answer; more than [`CONNECTIONS_MAX`] count as that many.
        max: usize,
    },
    /// The neighbour cache. Answered by [`Response::Neighbours`](super::Response::Neighbours).
    Neighbours,
    /// Everything that is counted. Answered by [`Response::Counters`](super::Response::Counters).
    Counters,
    /// The regions of the store. Answered by [`Response::Store`](super::Response::Store).
    Store,
    /// Services and who answers for them. Answered by [`Response::Services`](super::Response::Services).
    Services,
    /// Targets and their health. Answered by [`Response::Targets`](super::Response::Targets).
    Targets,
    /// Give a target no new connections; until it is enabled again, or the daemon ends.
    DrainTarget {
        /// The target's name.
        target: String,
    },
    /// Give a target new connections again, as its health allows.
    EnableTarget {
        /// The target's name.
        target: String,
    },
    /// Call a remote peer. Answered by [`Response::Done`](super::Response::Done) once the call has begun.
    Initiate {
        /// The connection's name.
        connection: String,
        /// One of its children; `None` is the first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<String>,
    },
    /// Rekey a child SA.
    RekeyChild {
        /// Our inbound SPI.
        spi: EspSpi,
    },
    /// Rekey an IKE SA.
    RekeyIke {
        /// Our SPI.
        spi: IkeSpi,
    },
    /// Delete an IKE SA with all its children, and tell the remote peer.
    Delete {
        /// Our SPI.
        spi: IkeSpi,
    },
    /// Hear a peer again that is quarantined, because owners of a VIP died over it.
    ReleasePeer {
        /// Its address.
        remote: IpAddr,
    },
    /// Move a VIP, and those of its group, to another appliance, or fetch it from there. Answered by
    /// [`Response::Done`](super::Response::Done) when it is there, with an error when it stays where it is.
    MoveVip {
        /// The VIP's name.
        vip: String,
        /// Name or id of the appliance that shall own it.
        to: String,
    },
    /// Read the configuration anew. Answered by [`Response::Reloaded`](super::Response::Reloaded); with an error nothing has changed.
    Reload,
    /// End the daemon.
    Shutdown,
}
