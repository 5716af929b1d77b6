//! Identities, as IKE exchanges them.

use std::fmt;
use std::net::IpAddr;

use super::error::Reason;

/// Most bytes of an identity.
const IDENTITY_BYTES_MAX: usize = 255;

/// Who a side of a connection says it is (RFC 7296 §3.5).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// `%any`: whoever knows the secret. Only for the remote side.
    Any,
    /// ID_IPV4_ADDR or ID_IPV6_ADDR.
    Address(IpAddr),
    /// ID_RFC822_ADDR: it has an `@` inside.
    Mail(String),
    /// ID_FQDN: everything else.
    Fqdn(String),
}

impl Identity {
    /// The type follows from the text. A leading `@` is taken off.
    pub(super) fn parse(text: &str) -> Result<Self, Reason> {
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
        if !printable || text.trim_start_matches('@').is_empty() || text.len() > IDENTITY_BYTES_MAX {
            return Err(Reason::Malformed {
                value: text.to_owned(),
                expected: "an identity: an address, a name, or a mail address",
            });
        }
        if text == "%any" {
            return Ok(Self::Any);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let name = text.strip_prefix('@').unwrap_or(text).to_owned();
        Ok(if name.contains('@') { Self::Mail(name) } else { Self::Fqdn(name) })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("%any"),
            Self::Address(address) => address.fmt(f),
            Self::Mail(text) | Self::Fqdn(text) => text.fmt(f),
        }
    }
}
