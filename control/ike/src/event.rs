//! What an endpoint tells its caller.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::config::Mode;
use crate::crypto::{EspSuite, Secret};
use crate::keylog::KeyLog;
use crate::message::{NotifyType, Role};
use crate::sa::IkeSaId;
use crate::selector::TrafficSelector;

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// The IKE SA whose record it changed; `None` while nobody believes in the IKE SA yet, or any more.
    pub ike_sa: Option<IkeSaId>,
    /// From there: the VIP, port 500 or 4500. On port 4500 the caller puts the non-ESP marker in front (RFC 3948 §2.2).
    pub local: SocketAddr,
    /// To there.
    pub remote: SocketAddr,
    /// The IKE message.
    pub payload: Vec<u8>,
    /// These bytes may never have left before: with an `ike_sa` they wait until the records of all [`Event::Changed`] so far, and
    /// the end of those of [`Event::IkeGone`], are acknowledged. Otherwise a retransmission, free to go.
    pub fresh: bool,
}

/// What becomes of the traffic of a child SA that goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// A newer child SA of the same IKE SA carries it on.
    Replaced,
    /// It ends.
    Ended,
}

/// Something happened.
///
/// Take all events before the transmits of the same call: an SA is installed before the message leaves that lets the peer use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An IKE SA stands.
    IkeEstablished {
        /// Which.
        id: IkeSaId,
        /// Its connection.
        connection: String,
    },
    /// An IKE SA, or an attempt at one, is over, and with it its child SAs.
    IkeGone {
        /// Which.
        id: IkeSaId,
        /// Its connection.
        connection: String,
        /// Why.
        reason: GoneReason,
    },
    /// `new` has taken over the child SAs of `old`, which will go.
    IkeRekeyed {
        /// The one that goes.
        old: IkeSaId,
        /// The one that stays.
        new: IkeSaId,
    },
    /// Install a child SA, both directions.
    InstallChild(Box<ChildSaInfo>),
    /// Forget a child SA.
    RemoveChild {
        /// Its IKE SA.
        ike_sa: IkeSaId,
        /// Our inbound SPI.
        spi_in: u32,
        /// What becomes of its traffic.
        removal: Removal,
    },
    /// A child SA that we asked for, or that the peer asked for, did not come about.
    ChildFailed {
        /// Its IKE SA, which stays.
        ike_sa: IkeSaId,
        /// Its policy, where one was found.
        child: Option<String>,
        /// Why.
        reason: NotifyType,
    },
    /// The remote peer's end moved; so do these child SAs.
    PeerMoved {
        /// The IKE SA.
        ike_sa: IkeSaId,
        /// Inbound SPIs.
        children: Vec<u32>,
        /// The new remote end.
        remote: SocketAddr,
    },
    /// Message IDs of an IKE SA that was imported from a copy that may be stale are agreed on anew (RFC 6311).
    Synchronised(IkeSaId),
    /// The peer has failed over and may have lost count (RFC 6311 §5.2): go on that far above the numbers that were sent last.
    SkipNumbers {
        /// The IKE SA.
        ike_sa: IkeSaId,
        /// Inbound SPIs of the child SAs whose outbound numbers skip.
        children: Vec<u32>,
        /// How far, below 2^31.
        delta: u64,
    },
    /// Keys, for whoever has to read a capture: only if [asked for](crate::Endpoint::set_key_log).
    KeyLog(KeyLog),
    /// The record of an IKE SA is not what it was: export it again. For one that is gone comes [`Event::IkeGone`] instead.
    Changed(IkeSaId),
}

/// Why an IKE SA is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoneReason {
    /// The peer deleted it.
    DeletedByPeer,
    /// We deleted it.
    Deleted,
    /// Another one replaced it.
    Rekeyed,
    /// The peer doesn't answer.
    PeerDead,
    /// One side could not prove who it is.
    AuthenticationFailed,
    /// The peer has started anew: it says so (INITIAL_CONTACT), or it calls instead of agreeing on message IDs (RFC 6311).
    InitialContact,
    /// The peer refused with this notification.
    Refused(NotifyType),
    /// The peer broke the protocol.
    ProtocolError,
    /// Its lifetime ended without a successful rekeying.
    Expired,
    /// Its IVs or message IDs are used up.
    NumbersExhausted,
    /// Its VIP is no longer ours; another appliance goes on with it.
    Forgotten,
}

/// The outer addresses of a child SA, and its UDP ports where ESP travels in UDP (RFC 3948).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Our end: the VIP.
    pub local: IpAddr,
    /// The remote peer's end.
    pub remote: IpAddr,
    /// (our port, the peer's port) with UDP encapsulation.
    pub udp: Option<(u16, u16)>,
}

/// The addresses that the peer gave for a transport-mode child SA, before NATs changed them: for the fixup of TCP and UDP checksums
/// (RFC 7296 §2.23.1, RFC 3948 §3.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginalAddresses {
    /// Our end, as the peer sees it.
    pub local: IpAddr,
    /// The peer's end, as it sees itself.
    pub remote: IpAddr,
}

/// A child SA, ready to be installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildSaInfo {
    /// The IKE SA that it belongs to.
    pub ike_sa: IkeSaId,
    /// The connection's name.
    pub connection: String,
    /// The child policy's name.
    pub child: String,
    /// Index of the VIP.
    pub vip: u16,
    /// The SPI we chose, at least 256.
    pub spi_in: u32,
    /// The SPI the peer chose, at least 256.
    pub spi_out: u32,
    /// What it protects.
    pub mode: Mode,
    /// The worker that it is for, where each has one of its own (RFC 9611).
    pub lane: Option<u16>,
    /// Transport mode across NATs.
    pub original: Option<OriginalAddresses>,
    /// Algorithms.
    pub suite: EspSuite,
    /// Key and salt for what the peer sends.
    pub key_in: Secret,
    /// Key and salt for what we send.
    pub key_out: Secret,
    /// What our end of the tunnel may be.
    pub local_selectors: Vec<TrafficSelector>,
    /// What the remote end may be.
    pub remote_selectors: Vec<TrafficSelector>,
    /// Outer addresses.
    pub tunnel: Tunnel,
    /// Who asked for it. The responder of a rekeying may go on sending on the SA that is replaced until that one is removed.
    pub role: Role,
    /// The child SA that it replaces, which is removed later.
    pub replaces: Option<u32>,
    /// The VIP's epoch when it was made.
    pub birth_epoch: u32,
}
