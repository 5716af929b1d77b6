//! What an endpoint may agree to.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use vipsec_wire::iv::ApplianceId;

use crate::crypto::{EspProposal, IkeProposal, IkeSuite, Secret};
use crate::identity::{Identity, IdentityMatch};
use crate::message::ParseLimits;
use crate::pool::AddressPool;
use crate::selector::TrafficSelector;

/// Everything that an [`Endpoint`](crate::Endpoint) is told once.
#[derive(Debug, Clone)]
pub struct Config {
    /// Our id: the first byte of every IV and SPI of ours.
    pub appliance: ApplianceId,
    /// Connections; where several fit a peer, the first wins.
    pub connections: Vec<Arc<ConnectionPolicy>>,
    /// Bounds on what grows.
    pub limits: Limits,
    /// When an unanswered request is sent again.
    pub retransmission: Retransmission,
    /// Longest IP packet, in bytes, that carries a protected message of ours to a peer that can put fragments together
    /// (RFC 7383): a longer message goes in several. See [`PACKET_BYTES_MAX`].
    pub packet_bytes_max: usize,
}

/// RFC 7383 §2.5.1: 1280 bytes is what every IPv6 path takes, and IPv4 paths that don't are rare. (strongSwan's default too.)
pub const PACKET_BYTES_MAX: usize = 1280;

/// With whom an IKE SA may be set up, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionPolicy {
    /// Its name, unique in the configuration and the same on all appliances: records refer to it.
    pub name: String,
    /// Index of its VIP.
    pub vip: u16,
    /// The VIP's address.
    pub local: IpAddr,
    /// Where the remote peer may be.
    pub remote: Vec<AddressMatch>,
    /// Who we are.
    pub local_id: Identity,
    /// Who the remote peer may be.
    pub remote_id: IdentityMatch,
    /// The pre-shared key.
    pub psk: Secret,
    /// Acceptable algorithms, the preferred first.
    pub proposals: Vec<IkeProposal>,
    /// Silence after which a liveness check is made; `None`: never.
    pub dpd_delay: Option<Duration>,
    /// Age at which the IKE SA is rekeyed, less a random tenth at most; `None`: we don't.
    pub rekey_time: Option<Duration>,
    /// How long after `rekey_time` the IKE SA ends if rekeying doesn't succeed; `None`: a tenth of `rekey_time`.
    pub over_time: Option<Duration>,
    /// Age at which the IKE SA is set up anew, both sides' identities included (RFC 7296 §2.8.3); `None`: we don't.
    pub reauth_time: Option<Duration>,
    /// What becomes of the IKE SAs that a peer already has when it sets up another one.
    pub unique: Unique,
    /// When ESP travels in UDP.
    pub encapsulation: Encapsulation,
    /// Which long messages go in fragments (RFC 7383). Where several connections fit a peer's address, the first decides what is
    /// announced.
    pub fragmentation: Fragmentation,
    /// Where remote peers get inside addresses from. With a pool they have to ask for one (RFC 7296 §2.19), and their end of the
    /// child SAs is that address alone.
    pub pools: Vec<Arc<AddressPool>>,
    /// Child SAs that may be set up.
    pub children: Vec<Arc<ChildPolicy>>,
}

/// A child SA that may be set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildPolicy {
    /// Its name, unique in its connection.
    pub name: String,
    /// What our end of the tunnel may be.
    pub local_ts: Vec<TrafficSelector>,
    /// What the remote end may be.
    pub remote_ts: Vec<TrafficSelector>,
    /// Acceptable algorithms, the preferred first.
    pub proposals: Vec<EspProposal>,
    /// Age at which it is rekeyed, less a random tenth at most; `None`: we don't.
    pub rekey_time: Option<Duration>,
    /// Age at which it ends if rekeying doesn't succeed; `None`: a tenth after `rekey_time`.
    pub life_time: Option<Duration>,
    /// What it protects.
    pub mode: Mode,
    /// How much one child SA may cover.
    pub pairs: Pairs,
    /// How many of our workers may have a child SA of their own for the same traffic (RFC 9611); up to 1: none. The peer may set up
    /// twice as many.
    pub lanes_max: u16,
}

/// What a child SA protects (RFC 7296 §1.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Mode {
    /// Whole IP packets, under outer headers of their own.
    #[default]
    Tunnel,
    /// What follows the IP header, between the ends of the IKE SA themselves.
    Transport,
}

/// What becomes of the IKE SAs that a peer has, by its identity, when it sets up another one. INITIAL_CONTACT ends them anyway
/// (RFC 7296 §2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Unique {
    /// They stay, beside the new one.
    #[default]
    No,
    /// They are deleted.
    Replace,
    /// They stay, and the new one is refused.
    Keep,
}

/// When ESP travels in UDP (RFC 3948).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Encapsulation {
    /// With a NAT in between.
    #[default]
    WhereNeeded,
    /// Always: we make the peer believe that there is a NAT.
    Always,
}

/// Which long messages go in fragments (RFC 7383).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Fragmentation {
    /// Ours too, to a peer that can put them together.
    #[default]
    Yes,
    /// The peer's alone.
    Accept,
    /// None.
    No,
}

/// How many pairs of addresses one child SA may cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Pairs {
    /// Whatever the selectors allow.
    #[default]
    Any,
    /// One: a peer that asks for more gets SINGLE_PAIR_REQUIRED (RFC 7296 §2.9).
    Single,
}

/// Where a remote peer may be. From text: `%any`, an address, a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressMatch {
    /// Anywhere. Such a peer can't be called.
    Any,
    /// There.
    Exact(IpAddr),
    /// Anywhere in that prefix.
    Within(TrafficSelector),
}

/// Text that is no address to match.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is neither %any nor an address nor a prefix")]
pub struct InvalidAddressMatch(String);

/// Bounds on everything that a remote peer could make grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// IKE SAs, the established ones.
    pub ike_sas_max: usize,
    /// Child SAs per IKE SA.
    pub children_per_ike_sa_max: usize,
    /// IKE SAs with one peer, by its identity: it may authenticate anew before it lets go of the old one.
    pub ike_sas_per_peer_max: usize,
    /// IKE SAs whose peer has not authenticated yet, as responder.
    pub half_open_max: usize,
    /// Above that many half-open IKE SAs a peer has to return a cookie first (RFC 7296 §2.6).
    pub half_open_cookie_threshold: usize,
    /// How long a half-open IKE SA is kept.
    pub half_open_timeout: Duration,
    /// How long the last answer of a closed IKE SA is kept for retransmissions of its request, and how long an IKE SA that was
    /// replaced waits for its deletion.
    pub closed_linger: Duration,
    /// How many of those.
    pub closed_max: usize,
    /// Answers to messages that no IKE SA protects, other than cookies, per second.
    pub unprotected_answers_per_second: u32,
    /// Longest message that is read, in bytes, put together from its fragments.
    pub message_bytes_max: usize,
    /// Payloads in one message.
    pub payloads_max: usize,
    /// Fragments of one message. An IKE SA has at most two such messages in the making.
    pub fragments_max: u16,
    /// How long the first fragments of a message wait for the others.
    pub assembly_timeout: Duration,
}

impl Limits {
    /// What the parser has to know of them.
    pub(crate) const fn parse(&self) -> ParseLimits {
        ParseLimits { message_bytes_max: self.message_bytes_max, payloads_max: self.payloads_max }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ike_sas_max: 20_000,
            children_per_ike_sa_max: 64,
            ike_sas_per_peer_max: 16,
            half_open_max: 2_000,
            half_open_cookie_threshold: 200,
            half_open_timeout: Duration::from_secs(30),
            closed_linger: Duration::from_secs(30),
            closed_max: 2_000,
            unprotected_answers_per_second: 100,
            message_bytes_max: ParseLimits::default().message_bytes_max,
            payloads_max: ParseLimits::default().payloads_max,
            fragments_max: 64,
            assembly_timeout: Duration::from_secs(30),
        }
    }
}

/// When an unanswered request is sent again (RFC 7296 §2.1, §2.4). The interval doubles with every try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retransmission {
    /// Time to the first retransmission.
    pub first: Duration,
    /// Longest interval.
    pub interval_max: Duration,
    /// Retransmissions before the peer counts as dead.
    pub tries_max: u32,
}

impl Default for Retransmission {
    /// RFC 7296 §2.4: at least a dozen times over a period of at least several minutes. Here: 12 times in 4 minutes.
    fn default() -> Self {
        Self { first: Duration::from_millis(500), interval_max: Duration::from_secs(32), tries_max: 12 }
    }
}

impl Config {
    /// Connections that this pair of addresses may use.
    pub(crate) fn candidates(&self, local: IpAddr, remote: IpAddr) -> impl Iterator<Item = &Arc<ConnectionPolicy>> {
        self.connections
            .iter()
            .filter(move |policy| policy.local == local && policy.remote.iter().any(|address| address.accepts(remote)))
    }

    /// Where each connection is, by its name.
    pub(crate) fn connections_by_name(&self) -> HashMap<String, usize> {
        self.connections.iter().enumerate().rev().map(|(at, policy)| (policy.name.clone(), at)).collect()
    }
}

impl ConnectionPolicy {
    /// The child SA of that name.
    pub(crate) fn child(&self, name: &str) -> Option<&Arc<ChildPolicy>> {
        self.children.iter().find(|policy| policy.name == name)
    }

    /// Could this suite come out of this policy?
    pub(crate) fn allows(&self, suite: &IkeSuite) -> bool {
        self.proposals.iter().any(|proposal| proposal.allows(suite))
    }

    /// The address to call the peer at.
    pub(crate) fn callable(&self) -> Option<IpAddr> {
        self.remote.iter().find_map(|address| match address {
            AddressMatch::Exact(address) => Some(*address),
            AddressMatch::Any | AddressMatch::Within(_) => None,
        })
    }
}

impl AddressMatch {
    /// Does an address match?
    pub fn accepts(&self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(one) => *one == address,
            Self::Within(prefix) => {
                prefix.first.is_ipv4() == address.is_ipv4() && (prefix.first..=prefix.last).contains(&address)
            }
        }
    }
}

impl FromStr for AddressMatch {
    type Err = InvalidAddressMatch;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "%any" {
            return Ok(Self::Any);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Exact(address));
        }
        let prefix = text.split_once('/').and_then(|(address, len)| {
            TrafficSelector::prefix(address.parse().ok()?, len.parse().ok()?).map(Self::Within)
        });
        prefix.ok_or_else(|| InvalidAddressMatch(text.to_owned()))
    }
}

impl fmt::Display for AddressMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("%any"),
            Self::Exact(address) => address.fmt(f),
            Self::Within(prefix) => prefix.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_from_text() {
        let within: AddressMatch = "198.51.100.7/24".parse().unwrap();
        assert!(within.accepts("198.51.100.255".parse().unwrap()));
        assert!(!within.accepts("198.51.101.0".parse().unwrap()));
        assert!(!within.accepts("::1".parse().unwrap()));
        assert_eq!(within.to_string(), "198.51.100.0/24");
        let exact: AddressMatch = "2001:db8::1".parse().unwrap();
        assert!(exact.accepts("2001:db8::1".parse().unwrap()));
        assert!(!exact.accepts("2001:db8::2".parse().unwrap()));
        for bad in ["", "any", "198.51.100.0/33", "198.51.100.0/"] {
            assert!(bad.parse::<AddressMatch>().is_err(), "{bad}");
        }
    }
}
