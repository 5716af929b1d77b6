//! Identities (RFC 7296 §3.5) and what a connection accepts as its remote peer's.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

const ID_IPV4_ADDR: u8 = 1;
const ID_FQDN: u8 = 2;
const ID_RFC822_ADDR: u8 = 3;
const ID_IPV6_ADDR: u8 = 5;
const ID_KEY_ID: u8 = 11;

/// An identity as it stands in an IDi or IDr payload.
///
/// From text: an address gives ID_IPV4_ADDR or ID_IPV6_ADDR, something with an `@` inside ID_RFC822_ADDR,
/// `@#` and hex digits ID_KEY_ID, anything else ID_FQDN (a leading `@` is taken off).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Identity {
    kind: u8,
    data: Vec<u8>,
}

/// Text that is no identity.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no identity")]
pub struct InvalidIdentity(String);

impl Identity {
    pub(crate) const fn from_wire(kind: u8, data: Vec<u8>) -> Self {
        Self { kind, data }
    }

    /// Appends ID Type, reserved bytes and data: the payload without its generic header, as AUTH covers it (RFC 7296 §2.15).
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.kind, 0, 0, 0]);
        out.extend_from_slice(&self.data);
    }

    /// A fully-qualified domain name.
    pub fn fqdn(name: &str) -> Self {
        Self { kind: ID_FQDN, data: name.as_bytes().to_vec() }
    }
}

impl From<IpAddr> for Identity {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self { kind: ID_IPV4_ADDR, data: address.octets().to_vec() },
            IpAddr::V6(address) => Self { kind: ID_IPV6_ADDR, data: address.octets().to_vec() },
        }
    }
}

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidIdentity(text.to_owned());
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        if let Some(hex) = text.strip_prefix("@#") {
            return Ok(Self { kind: ID_KEY_ID, data: parse_hex(hex).ok_or_else(invalid)? });
        }
        let name = text.strip_prefix('@').unwrap_or(text);
        if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(invalid());
        }
        let kind = if name.contains('@') { ID_RFC822_ADDR } else { ID_FQDN };
        Ok(Self { kind, data: name.as_bytes().to_vec() })
    }
}

fn parse_hex(hex: &str) -> Option<Vec<u8>> {
    let bytes = hex.as_bytes();
    if bytes.is_empty() || !bytes.len().is_multiple_of(2) || !bytes.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    bytes.chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()).collect()
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ID_IPV4_ADDR => {
                if let Ok(octets) = <[u8; 4]>::try_from(self.data.as_slice()) {
                    return Ipv4Addr::from(octets).fmt(f);
                }
            }
            ID_IPV6_ADDR => {
                if let Ok(octets) = <[u8; 16]>::try_from(self.data.as_slice()) {
                    return Ipv6Addr::from(octets).fmt(f);
                }
            }
            ID_FQDN | ID_RFC822_ADDR => {
                // The remote peer chose these bytes, and this goes to logs.
                return self.data.escape_ascii().fmt(f);
            }
            _ => {}
        }
        write!(f, "id{}:", self.kind)?;
        self.data.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which identities a connection accepts from its remote peer.
///
/// From text: `%any`, `*.example.com` (any name below it), or one identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityMatch {
    /// Any identity at all: everyone who knows the secret.
    Any,
    /// FQDNs that end with this, which begins with a dot.
    Below(String),
    /// That one.
    Exact(Identity),
}

impl IdentityMatch {
    /// Is `identity` accepted?
    pub fn accepts(&self, identity: &Identity) -> bool {
        match self {
            Self::Any => true,
            Self::Below(suffix) => {
                identity.kind == ID_FQDN
                    && identity
                        .data
                        .len()
                        .checked_sub(suffix.len())
                        .filter(|at| *at > 0)
                        .and_then(|at| identity.data.get(at..))
                        .is_some_and(|tail| tail.eq_ignore_ascii_case(suffix.as_bytes()))
            }
            Self::Exact(one) => one == identity,
        }
    }

    /// The identity to ask for as an initiator, where there is just one.
    pub const fn exact(&self) -> Option<&Identity> {
        match self {
            Self::Exact(identity) => Some(identity),
            Self::Any | Self::Below(_) => None,
        }
    }
}

impl FromStr for IdentityMatch {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "%any" {
            return Ok(Self::Any);
        }
        if let Some(suffix) = text.strip_prefix('*') {
            return if suffix.len() > 1 && suffix.starts_with('.') && !suffix.contains('*') {
                Ok(Self::Below(suffix.to_owned()))
            } else {
                Err(InvalidIdentity(text.to_owned()))
            };
        }
        text.parse().map(Self::Exact)
    }
}

impl fmt::Display for IdentityMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("%any"),
            Self::Below(suffix) => write!(f, "*{suffix}"),
            Self::Exact(identity) => identity.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_gives_the_identity_type() {
        let kind = |text: &str| text.parse::<Identity>().unwrap().kind;
        assert_eq!(kind("192.0.2.1"), ID_IPV4_ADDR);
        assert_eq!(kind("2001:db8::1"), ID_IPV6_ADDR);
        assert_eq!(kind("vip.example"), ID_FQDN);
        assert_eq!(kind("@vip.example"), ID_FQDN);
        assert_eq!(kind("alice@example"), ID_RFC822_ADDR);
        assert_eq!("@#00ff".parse::<Identity>().unwrap().to_string(), "id11:00ff");
        for bad in ["", "@", "@#0", "@#zz", "a b"] {
            assert!(bad.parse::<Identity>().is_err(), "{bad}");
        }
    }

    #[test]
    fn wildcard_needs_a_name_below() {
        let below: IdentityMatch = "*.example".parse().unwrap();
        assert!(below.accepts(&Identity::fqdn("branch.example")));
        assert!(below.accepts(&Identity::fqdn("A.B.Example")));
        assert!(!below.accepts(&Identity::fqdn(".example")));
        assert!(!below.accepts(&Identity::fqdn("example")));
        assert!(!below.accepts(&Identity::fqdn("badexample")));
        assert!(!below.accepts(&"a@b.example".parse().unwrap()));
        for bad in ["*", "*.", "*example", "*.*.example"] {
            assert!(bad.parse::<IdentityMatch>().is_err(), "{bad}");
        }
    }

    #[test]
    fn peers_bytes_are_escaped_in_logs() {
        assert_eq!(Identity::from_wire(ID_FQDN, b"a\n\x1b[2J".to_vec()).to_string(), "a\\n\\x1b[2J");
    }
}
