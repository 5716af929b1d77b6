//! What can be wrong with a configuration, and where.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use vipsec_agent::secret::SecretError;
use vipsec_esp::engine::EngineError;
use vipsec_takeover::timing::TimingError;

/// One mistake in a configuration: reads `file:line: key: reason`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct ConfigError {
    /// The file it is in.
    pub file: PathBuf,
    /// The line, counted from 1; `None` when it isn't about a line (the file can't be read).
    pub line: Option<usize>,
    /// The key with the tables around it, as in `port.mtu`; empty when no key is to blame.
    pub key: String,
    /// What is wrong.
    pub reason: Reason,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}", self.reason)
    }
}

/// Every mistake found, in the order of the lines. Displays one per line.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

/// Why a value is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Reason {
    /// The file can't be read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// The file is larger than any sensible one.
    #[error("is larger than {max} bytes")]
    FileTooLarge {
        /// Bytes allowed.
        max: u64,
    },
    /// Not TOML.
    #[error("{0}")]
    Syntax(String),
    /// Two keys of which one is enough.
    #[error("and {0} don't go together")]
    Exclusive(&'static str),
    /// A key that has to be there isn't.
    #[error("is missing")]
    Missing,
    /// A key that nobody reads.
    #[error("is not a key of this table (known: {known})")]
    UnknownKey {
        /// The keys that the table has, separated by commas.
        known: String,
    },
    /// A value of another TOML type.
    #[error("expected {expected}, found {found}")]
    WrongType {
        /// The type asked for.
        expected: &'static str,
        /// The type found.
        found: &'static str,
    },
    /// A number outside its range.
    #[error("{value} is not in {}..={}", .range.start(), .range.end())]
    OutOfRange {
        /// As it stands in the file.
        value: String,
        /// What is allowed.
        range: RangeInclusive<u64>,
    },
    /// A duration outside its range.
    #[error("{value:?} is not between {min:?} and {max:?}")]
    DurationOutOfRange {
        /// As it stands in the file.
        value: String,
        /// Shortest allowed.
        min: Duration,
        /// Longest allowed.
        max: Duration,
    },
    /// Memory that doesn't hold the packets of what is configured.
    #[error(
        "{memory_mib} MiB hold too few packets for {workers} workers and {ports} ports, which take {least_mib} MiB"
    )]
    TooLittleMemory {
        /// As configured, or by default.
        memory_mib: u32,
        /// Workers configured.
        workers: usize,
        /// Ports configured.
        ports: usize,
        /// What would be enough, in MiB.
        least_mib: u64,
    },
    /// Text that can't be understood.
    #[error("{value:?} is not {expected}")]
    Malformed {
        /// As it stands in the file.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// Text that is none of the words allowed.
    #[error("{value:?} is not one of {allowed}")]
    NotAChoice {
        /// As it stands in the file.
        value: String,
        /// The words, separated by commas.
        allowed: String,
    },
    /// A proposal with a part that isn't implemented or not in its place, or without one that it needs.
    #[error("{value:?} is not a proposal of the form {form}: {detail}")]
    BadProposal {
        /// The whole proposal.
        value: String,
        /// What one looks like.
        form: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// A list that may not be empty, or a table that has to appear at least once.
    #[error("at least one is needed")]
    Empty,
    /// More entries than there may be.
    #[error("{count} entries, at most {max} are allowed")]
    TooMany {
        /// Found.
        count: usize,
        /// Allowed.
        max: usize,
    },
    /// A name, address or MAC for the second time.
    #[error("{value} is already used on line {first_line}")]
    Duplicate {
        /// The value.
        value: String,
        /// Where it was used first.
        first_line: usize,
    },
    /// A prefix that shares addresses with another port's.
    #[error("{prefix} overlaps with the prefix of another port on line {first_line}")]
    Overlap {
        /// The prefix.
        prefix: String,
        /// Where the other is.
        first_line: usize,
    },
    /// A name that no table has.
    #[error("there is no {kind} named {name:?}")]
    NoSuch {
        /// The kind of table.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A port of the wrong side.
    #[error("{port:?} is not an {expected} port")]
    WrongSide {
        /// The port's name.
        port: String,
        /// The side it should be on.
        expected: &'static str,
    },
    /// An address that the port can't reach directly.
    #[error("{address} is in no prefix of port {port:?}")]
    NotOnLink {
        /// The address.
        address: String,
        /// The port's name.
        port: String,
    },
    /// A target that no inside port can reach directly: its MAC address could not be learnt.
    #[error("{0} is in no prefix of an inside port")]
    TargetNotOnLink(String),
    /// A prefix with bits set behind its length.
    #[error("{value} has bits set behind its prefix length; did you mean {network}?")]
    HostBits {
        /// As it stands in the file.
        value: String,
        /// The network it is in.
        network: String,
    },
    /// Addresses that another pool has, too.
    #[error("has addresses of the pool on line {first_line}, too; an address is in one pool")]
    PoolsOverlap {
        /// Where the other is.
        first_line: usize,
    },
    /// A pool for connections of several VIPs.
    #[error(
        "is a pool of another VIP's connections already; each VIP has pools of its own, because VIPs move one by one"
    )]
    PoolOfTwoVips,
    /// A child that we are to set up with a peer whose address isn't known.
    #[error("\"start\" needs an address in the connection's remote_addrs to call the peer at")]
    NobodyToCall,
    /// A key of strongSwan's that has no meaning here.
    #[error("is a key of swanctl.conf that has no meaning here: {0}")]
    NotHere(&'static str),
    /// A lifetime that leaves no time for a replacement.
    #[error("ends the child SA before or when it is rekeyed; name a smaller rekey limit of the same kind")]
    EndsBeforeRekeying,
    /// Two addresses of different families that belong together.
    #[error("{0} and {1} are of different address families")]
    MixedFamilies(String, String),
    /// An address that can't belong to a host.
    #[error("{0} is not a host's address")]
    NotAHost(String),
    /// A multicast or all-zero MAC address.
    #[error("{0} is not a unicast MAC address")]
    NotUnicast(String),
    /// A path that a Unix socket can't be bound to.
    #[error("is longer than the {max} bytes of a Unix socket's path")]
    SocketPathTooLong {
        /// Bytes allowed.
        max: usize,
    },
    /// A path in no folder, and none could be made.
    #[error("the folder of {0:?} doesn't exist and can't be created")]
    NoFolder(String),
    /// A relative path where only an absolute one makes sense.
    #[error("{0:?} is not an absolute path")]
    NotAbsolute(String),
    /// A secret's file that can't be used.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A file of certificates or a key that TLS can do nothing with. Never shows the key.
    #[error("{cause}")]
    CertificateUnusable {
        /// Which file, and why.
        cause: String,
    },
    /// Key material that is not hexadecimal, or too short or long for its algorithm. Never shows the value.
    #[error("expected {expected_len} bytes in hexadecimal: the key, then 4 bytes of salt")]
    BadKey {
        /// Bytes that the algorithm takes.
        expected_len: usize,
    },
    /// Static child SAs outside a test.
    #[error("static child SAs are for tests only: start with --test-configuration to accept them")]
    TestConfigurationRefused,
    /// The other appliance has our id.
    #[error("{0} is the id of this appliance; the peer has another one")]
    OwnId(u8),
    /// Each group has two ports of the store link.
    #[error("each of the {groups} groups of VIPs needs two ports, from {port} on: there are not so many")]
    NoPortsForGroups {
        /// The first one.
        port: u16,
        /// How many groups there are.
        groups: usize,
    },
    /// What concerns all other appliances, said in two ways.
    #[error("all tables [[peer]] have to say the same here")]
    PeersDiffer,
    /// More than two appliances, and nobody who decides among them.
    #[error("more than two appliances need an [etcd] that decides which of them owns a VIP")]
    NeedsRegistry,
    /// A registry, and nobody to decide among.
    #[error("without a [[peer]] there is nothing to decide")]
    NoPeers,
    /// The store links to two appliances would listen at the same place.
    #[error(
        "the store link to appliance {0} would listen where that of another one does: each group of VIPs takes two ports, or a socket"
    )]
    StoreLinksCollide(u8),
    /// Ranks in a pair.
    #[error("ranks take an [etcd]; in a pair the other appliance is the backup")]
    BackupsNeedRegistry,
    /// The owner among its own backups.
    #[error("{0} is the VIP's owner")]
    OwnerIsNoBackup(u8),
    /// VIPs of a group that name different owners.
    #[error(
        "the VIPs of group {group:?} move together, and the first of them gives another owner, other backups or another give_back"
    )]
    OwnersDiffer {
        /// Which.
        group: String,
    },
    /// A group that would be mistaken for a VIP that moves alone.
    #[error("{0:?} is the name of a VIP that isn't in this group")]
    GroupIsAVip(String),
    /// Times that can't keep what a takeover promises.
    #[error(transparent)]
    BadTiming(TimingError),
    /// An owner that is no appliance of the pair.
    #[error("{id} is no appliance's id here (known: {known})")]
    NotAnAppliance {
        /// The id.
        id: u8,
        /// The ids that are known, separated by commas.
        known: String,
    },
    /// No crypto engine, or none for this machine.
    #[error(transparent)]
    Engine(EngineError),
    /// Two ways to the appliance's own host.
    #[error("there is a local port already; an appliance has one host")]
    SecondLocalPort,
    /// A local target without a way to it.
    #[error("needs a port with side = \"local\"")]
    NoLocalPort,
    /// A local target under somebody else's address.
    #[error("{0} is no address of this appliance's ports")]
    NotOwnAddress(String),
    /// Lookaside without a device to look aside to.
    #[error("\"lookaside\" needs a [crypto_device] table")]
    NoCryptoDevice,
    /// Packets' own end of a static child SA.
    #[error("{0} is not the address of a VIP")]
    NotAVip(String),
}
