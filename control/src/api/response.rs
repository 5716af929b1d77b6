//! What is answered. Fields may be added within a version; clients ignore those that they don't know.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::distribution::{Service, Target};

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Response {
    /// To [`Request::Status`](super::Request::Status).
    Status(Box<Status>),
    /// To [`Request::Sas`](super::Request::Sas).
    Sas(Sas),
    /// To [`Request::Connections`](super::Request::Connections).
    Connections(Connections),
    /// To [`Request::Neighbours`](super::Request::Neighbours).
    Neighbours {
        /// In the order of address.
        entries: Vec<Neighbour>,
    },
    /// To [`Request::Counters`](super::Request::Counters).
    Counters(Counters),
    /// To [`Request::Store`](super::Request::Store).
    Store(Store),
    /// To [`Request::Services`](super::Request::Services).
    Services {
        /// In the order of the configuration.
        entries: Vec<Service>,
    },
    /// To [`Request::Targets`](super::Request::Targets).
    Targets {
        /// In the order of the configuration.
        entries: Vec<Target>,
    },
    /// To [`Request::Reload`](super::Request::Reload).
    Reloaded {
        /// What is not what it was, a line for each.
        changes: Vec<String>,
    },
    /// The order is carried out, or under way where that takes a remote peer.
    Done {
        /// To [`Request::MoveVip`](super::Request::MoveVip): where it is now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        moved: Option<Moved>,
    },
}

impl Response {
    /// There is nothing more to say than that it is done.
    pub const DONE: Self = Self::Done { moved: None };
}

/// Where a VIP is now, and those that move with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Names of all VIPs of the group.
    pub vips: Vec<String>,
    /// Their owner's id.
    pub appliance: u8,
    /// What the configuration calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Ownership number.
    pub epoch: u32,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("{message}")]
pub struct ApiError {
    /// For programs.
    pub kind: ErrorKind,
    /// For people.
    pub message: String,
}

impl ApiError {
    /// An error and its explanation.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// The kinds of [`ApiError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The request is not JSON, unknown, or too long.
    BadRequest,
    /// The request's version is not the daemon's.
    WrongVersion,
    /// No such SA, connection or child.
    NotFound,
    /// The appliance can't do that now.
    Refused,
    /// Too many clients or requests at once.
    Busy,
    /// The control core didn't answer in time.
    Timeout,
    /// The answer is longer than a response may be.
    TooLarge,
}

/// How an appliance is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Who answers.
    pub appliance: Appliance,
    /// Floating addresses and their owners.
    pub vips: Vec<Vip>,
    /// Ports in the order of the configuration.
    pub ports: Vec<Port>,
    /// Workers.
    pub workers: Vec<Worker>,
    /// Does packet memory lie in hugepages?
    pub hugepages: bool,
    /// What seals and opens packets on the workers' cores.
    pub engine: String,
    /// The crypto device beside them, if there is one.
    pub crypto_device: Option<CryptoDevice>,
    /// Packets dropped, by reason; only those that occurred.
    pub drops: BTreeMap<String, u64>,
    /// Peers whose messages are dropped, because owners of a VIP died over them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantine: Vec<Quarantined>,
}

/// A peer that isn't heard for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// The group of VIPs that doesn't hear it.
    pub group: String,
    /// Its address.
    pub remote: IpAddr,
    /// For so many more seconds.
    pub left_s: u64,
}

/// The appliance's own data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appliance {
    /// Configured id.
    pub id: u8,
    /// Configured name.
    pub name: String,
    /// Of vipsecd.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since the start.
    pub uptime_s: u64,
}

/// A VIP and who has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vip {
    /// Configured name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its virtual MAC address.
    pub mac: String,
    /// Inside gateways that move with it.
    pub gateways: Vec<IpAddr>,
    /// The group that it moves with: its own name, where it moves alone.
    #[serde(default)]
    pub group: String,
    /// The owner's appliance id, if known.
    pub owner: Option<u8>,
    /// What the configuration calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_name: Option<String>,
    /// What this appliance is to it: `owner`, `backup`, …
    pub state: String,
    /// Ownership number.
    pub epoch: u32,
    /// Of an owner: how far its backups' copies are (`counted`, `joining`, `leaving`, `unprotected`), by their ids where they aren't
    /// equally far; of a backup: may its own be resumed from (`trusted`, `untrusted`)? `None` without a peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<String>,
    /// Why no copy counts, or the one here may not be resumed from, as far as is known: `link down`, `no common version`, `configurations
    /// differ`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_reason: Option<String>,
    /// Ids of those who may own it, best first.
    #[serde(default)]
    pub ranks: Vec<u8>,
    /// How many agents of the targets behind it are told that it is ours, and how many of them have answered that they know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<AgentsTold>,
    /// It moved too often, as this appliance saw it, and moves no more by itself for so many seconds, or until the operator moves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_s: Option<u64>,
    /// Its group's pinned connections: the owner's, or those in the backup's copy. `None` without a peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pins: Option<Pins>,
    /// What became of its group's IKE SAs when this process last took it over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takeover: Option<Takeover>,
}

/// What the targets' agents know of a VIP's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentsTold {
    /// How many there are.
    pub agents: u64,
    /// How many know it.
    pub know: u64,
    /// How many know of a newer one.
    pub refuse: u64,
}

/// Connections of a group that a successor couldn't compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pins {
    /// How many have a record.
    pub pins: u64,
    /// How many there is room for: `store_pins`, in whole records.
    pub pins_max: u64,
    /// Those that found no room since the process began: a successor sends them elsewhere.
    pub pins_left_out: u64,
}

/// A takeover, seen from its successor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Takeover {
    /// Seconds since then.
    pub ago_s: u64,
    /// The copy was trusted.
    pub trusted: bool,
    /// IKE SAs whose turn hasn't come yet.
    pub waiting: u64,
    /// In which ways the IKE SAs went on, the gentlest first.
    pub ways: Vec<TakeoverWay>,
}

/// A way in which IKE SAs went on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeoverWay {
    /// `keep`, `replay sync`, `rekey`, `message-id sync`, `renegotiate` or `lost`.
    pub way: String,
    /// Why that one.
    pub reason: String,
    /// How many.
    pub ike_sas: u64,
}

/// A port and its counters since the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Configured name.
    pub name: String,
    /// `outside` or `inside`.
    pub side: String,
    /// DPDK's device string.
    pub device: String,
    /// Its own MAC address.
    pub mac: String,
    /// Does it have a carrier?
    pub link_up: bool,
    /// Received packets.
    pub rx_packets: u64,
    /// Received bytes.
    pub rx_bytes: u64,
    /// Packets that the device dropped because nobody fetched them, or for want of memory.
    pub rx_missed: u64,
    /// Sent packets.
    pub tx_packets: u64,
    /// Sent bytes.
    pub tx_bytes: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
}

/// A crypto device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CryptoDevice {
    /// As configured.
    pub device: String,
    /// Its driver.
    pub driver: String,
    /// Is it a piece of hardware? Otherwise a library computes on the workers' cores.
    pub hardware: bool,
    /// Packets handed to it.
    pub jobs: u64,
    /// Packets that came back.
    pub jobs_done: u64,
    /// Packets that it failed on, wrong ICVs apart.
    pub errors: u64,
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Its number.
    pub id: u32,
    /// The CPU that it is bound to, if any.
    pub cpu: Option<u32>,
    /// Does its loop go round?
    pub alive: bool,
    /// Child SAs installed.
    pub sas: u64,
    /// Connections in its table.
    pub connections: u64,
    /// ESP packets that were authentic and delivered.
    pub esp_in_packets: u64,
    /// ESP packets sealed.
    pub esp_out_packets: u64,
    /// Packets that it handed to other workers, because they belong there or leave there.
    pub handed_over_packets: u64,
    /// Packets dropped, for all reasons.
    pub dropped_packets: u64,
}

/// All IKE SAs, and child SAs that have none (static ones).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sas {
    /// In the order of their birth.
    pub ike_sas: Vec<IkeSa>,
    /// Child SAs of a test configuration.
    pub static_children: Vec<Child>,
}

/// An IKE SA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IkeSa {
    /// Configured connection.
    pub connection: String,
    /// Name of the VIP that it ends on.
    pub vip: String,
    /// `established`, `rekeying`, …
    pub state: String,
    /// Our SPI; commands name the SA by it.
    pub spi: IkeSpi,
    /// The remote peer's SPI.
    pub peer_spi: IkeSpi,
    /// Did we call?
    pub initiator: bool,
    /// Our end.
    pub local: SocketAddr,
    /// The remote peer's end.
    pub remote: SocketAddr,
    /// The remote peer's identity.
    pub remote_id: String,
    /// In swanctl's notation.
    pub proposal: String,
    /// Seconds since it was established.
    pub age_s: u64,
    /// In which way it was taken over, and why, until that is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takeover: Option<String>,
    /// Its child SAs.
    pub children: Vec<Child>,
}

/// A child SA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// Configured child.
    pub name: String,
    /// `installed`, `rekeyed`, `deleting`.
    pub state: String,
    /// Our SPI; commands name the SA by it.
    pub spi_in: EspSpi,
    /// The remote peer's SPI.
    pub spi_out: EspSpi,
    /// In swanctl's notation.
    pub proposal: String,
    /// Who processes its packets: `cpu` or `lookaside`; empty while it is not installed.
    pub processing: String,
    /// Where the remote peer is; with a port if ESP travels in UDP.
    pub remote: String,
    /// Our side's traffic selectors.
    pub local_ts: Vec<String>,
    /// The remote side's traffic selectors.
    pub remote_ts: Vec<String>,
    /// Seconds since it was installed.
    pub age_s: u64,
    /// Highest inbound number delivered.
    pub edge: u64,
    /// Inbound numbers granted up to here; `None`: no limit.
    pub horizon: Option<u64>,
    /// Last outbound number used.
    pub sent: u64,
    /// Outbound numbers granted up to here; `None`: no limit.
    pub lease: Option<u64>,
    /// Delivered inbound packets.
    pub packets_in: u64,
    /// Their inner bytes.
    pub bytes_in: u64,
    /// Sealed outbound packets.
    pub packets_out: u64,
    /// Their inner bytes.
    pub bytes_out: u64,
}

/// Some or all connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// How many there are.
    pub total: u64,
    /// As many as were asked for.
    pub entries: Vec<ConnectionEntry>,
}

/// A connection through a VIP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionEntry {
    /// `tcp`, `udp`, or a number.
    pub protocol: String,
    /// The remote peer's side, before the VIP.
    pub client: SocketAddr,
    /// VIP and port.
    pub service: SocketAddr,
    /// Name of the target that has it.
    pub target: String,
    /// `new`, `established`, `closing`, …
    pub state: String,
    /// Seconds since its first packet.
    pub age_s: u64,
}

/// An entry of the neighbour cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// `None` while it is being asked for.
    pub mac: Option<String>,
    /// Name of the port that it is on.
    pub port: String,
}

/// The store.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Store {
    /// Each group of VIPs has its own; none without other appliances.
    pub groups: Vec<GroupStore>,
}

/// A group's store.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroupStore {
    /// Its name.
    pub group: String,
    /// Connections of ours that a successor couldn't compute.
    pub pins: u64,
    /// How many there is room for: `store_pins`, in whole records.
    pub pins_max: u64,
    /// Those that found no room in the store since the process began: a successor sends them elsewhere.
    pub pins_left_out: u64,
    /// Memory that their records take in each copy.
    pub pin_bytes: u64,
    /// By other appliance, best rank first.
    pub peers: Vec<PeerStore>,
}

/// A group's link to another appliance: the region that we write there, and the one that we keep for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PeerStore {
    /// Its id.
    pub appliance: u8,
    /// The two are paired.
    pub linked: bool,
    /// By that version of the link.
    pub version: Option<u16>,
    /// Their configurations agree, so that copies may count.
    pub agreed: bool,
    /// In which parts they differ, as far as the two have told each other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differs: Vec<String>,
    /// `None` while we write to nobody.
    pub written: Option<WrittenRegion>,
    /// `None` while we keep none.
    pub kept: Option<KeptRegion>,
}

/// A region that we write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenRegion {
    /// `counted`, `joining`, `leaving` or `unprotected`.
    pub copy: String,
    /// Memory that it takes.
    pub bytes: u64,
    /// By size, smallest first.
    pub records: Vec<StoreRecords>,
    /// Blocks of child SAs' numbers in use.
    pub counter_blocks_used: u32,
    /// Blocks that were never written.
    pub counter_blocks_free: u32,
    /// Number of the newest write.
    pub writes: u64,
    /// How many writes the copy lags behind.
    pub unacknowledged: u64,
    /// How many records of pinned connections have changed and are still to be written.
    pub pin_blocks_unwritten: u64,
}

/// Room for records up to a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRecords {
    /// Bytes of the largest one.
    pub bytes_max: u32,
    /// Records that exist.
    pub used: u32,
    /// Room for so many more.
    pub free: u32,
}

/// A region that we keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptRegion {
    /// We would resume from it now.
    pub trusted: bool,
    /// Memory that it takes.
    pub bytes: u64,
    /// Number of the newest write.
    pub writes: u64,
    /// Its pinned connections, ready for a takeover.
    pub pins: u64,
}

/// Everything that is counted, summed over the workers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Packets and events by name.
    pub counters: BTreeMap<String, u64>,
    /// Packets dropped by reason; all reasons.
    pub drops: BTreeMap<String, u64>,
}

/// An SPI that isn't hexadecimal, or too long.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is not an SPI of up to {digits} hexadecimal digits")]
pub struct InvalidSpi {
    text: String,
    digits: usize,
}

macro_rules! spi {
    ($(#[$doc:meta])* $name:ident, $number:ty, $digits:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(pub $number);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", $digits, "x}"), self.0)
            }
        }

        impl From<$name> for String {
            fn from(spi: $name) -> Self {
                spi.to_string()
            }
        }

        impl FromStr for $name {
            type Err = InvalidSpi;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let hex = text.strip_prefix("0x").unwrap_or(text);
                let valid = (1..=$digits).contains(&hex.len()) && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
                <$number>::from_str_radix(hex, 16)
                    .ok()
                    .filter(|_| valid)
                    .map(Self)
                    .ok_or_else(|| InvalidSpi { text: text.to_owned(), digits: $digits })
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidSpi;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }
    };
}

spi!(
    /// An SPI of IKE. Hexadecimal in JSON, where numbers lose digits above 2^53.
    IkeSpi,
    u64,
    16
);
spi!(
    /// An SPI of ESP. Hexadecimal in JSON, as in captures.
    EspSpi,
    u32,
    8
);
