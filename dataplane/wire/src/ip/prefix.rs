//! Address prefixes of both families.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

use super::Address;

/// An address prefix; no bit is set behind its length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

/// Why something is not a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PrefixError {
    /// Longer than the address.
    #[error("prefix length {len} does not fit {address}")]
    TooLong {
        /// The address.
        address: IpAddr,
        /// The length in bits.
        len: u8,
    },
    /// Bits behind the length are set.
    #[error("{address}/{len} has bits set behind its length")]
    HostBits {
        /// The address.
        address: IpAddr,
        /// The length in bits.
        len: u8,
    },
    /// Not `address/length`.
    #[error("{0:?} is not an address and a length (192.0.2.0/24)")]
    Syntax(String),
}

const fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn mask(address: IpAddr, len: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

impl Prefix {
    /// A prefix; refuses bits behind the length.
    pub fn new(address: IpAddr, len: u8) -> Result<Self, PrefixError> {
        let prefix = Self::containing(address, len)?;
        if prefix.address != address {
            return Err(PrefixError::HostBits { address, len });
        }
        Ok(prefix)
    }

    /// The prefix of that length that `address` lies in.
    pub fn containing(address: IpAddr, len: u8) -> Result<Self, PrefixError> {
        if len > width(address) {
            return Err(PrefixError::TooLong { address, len });
        }
        Ok(Self { address: mask(address, len), len })
    }

    /// The prefix of one address.
    pub const fn host(address: IpAddr) -> Self {
        Self { address, len: width(address) }
    }

    /// Its first address.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Its length in bits.
    pub const fn bits(&self) -> u8 {
        self.len
    }

    /// Does `address` lie in it?
    #[inline]
    pub fn contains(&self, address: impl Into<Address>) -> bool {
        let (address, prefix) = (address.into(), Address::from(self.address));
        // An IPv4 address stands in the last 32 bits, behind 96 that all IPv4 addresses share.
        let host_bits = width(self.address) - self.len;
        let differing = (address.to_bits() ^ prefix.to_bits()).checked_shr(u32::from(host_bits)).unwrap_or(0);
        address.is_v4() == self.address.is_ipv4() && differing == 0
    }

    /// Its last address.
    pub fn last(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(v4) => {
                let host = u32::MAX.checked_shr(u32::from(self.len)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() | host))
            }
            IpAddr::V6(v6) => {
                let host = u128::MAX.checked_shr(u32::from(self.len)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() | host))
            }
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn split(text: &str) -> Result<(IpAddr, u8), PrefixError> {
    let syntax = || PrefixError::Syntax(text.to_owned());
    let (address, len) = text.split_once('/').ok_or_else(syntax)?;
    if len.is_empty() || !len.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(syntax());
    }
    Ok((address.parse().map_err(|_| syntax())?, len.parse().map_err(|_| syntax())?))
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, len) = split(text)?;
        Self::new(address, len)
    }
}

/// Reads the address of an interface with the length of its on-link prefix (`192.0.2.11/24`).
pub fn parse_interface(text: &str) -> Result<(IpAddr, Prefix), PrefixError> {
    let (address, len) = split(text)?;
    Ok((address, Prefix::containing(address, len)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn contains() {
        assert!(prefix("10.9.0.0/16").contains(ip("10.9.255.255")));
        assert!(!prefix("10.9.0.0/16").contains(ip("10.10.0.0")));
        assert!(prefix("0.0.0.0/0").contains(ip("203.0.113.9")));
        assert!(!prefix("0.0.0.0/0").contains(ip("::1")));
        assert!(prefix("192.0.2.1/32").contains(ip("192.0.2.1")));
        assert!(!prefix("192.0.2.1/32").contains(ip("192.0.2.0")));
        assert!(prefix("2001:db8::/32").contains(ip("2001:db8:ffff::1")));
        assert!(!prefix("::/0").contains(ip("10.0.0.1")));
    }

    #[test]
    fn text() {
        assert_eq!(prefix("10.9.0.0/16").to_string(), "10.9.0.0/16");
        assert!(matches!("10.9.0.1/16".parse::<Prefix>(), Err(PrefixError::HostBits { .. })));
        assert!(matches!("10.0.0.0/33".parse::<Prefix>(), Err(PrefixError::TooLong { .. })));
        for wrong in ["10.0.0.0", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/256", "ten/8", "/8"] {
            assert!(matches!(wrong.parse::<Prefix>(), Err(PrefixError::Syntax(_))), "{wrong}");
        }
        assert_eq!(parse_interface("192.0.2.11/24"), Ok((ip("192.0.2.11"), prefix("192.0.2.0/24"))));
    }

    proptest! {
        #[test]
        fn first_and_last_are_its_bounds(address: [u8; 4], len in 0u8..=32) {
            let prefix = Prefix::containing(IpAddr::from(address), len).unwrap();
            prop_assert!(prefix.contains(IpAddr::from(address)));
            prop_assert!(prefix.contains(prefix.last()));
            let (IpAddr::V4(first), IpAddr::V4(last)) = (prefix.address(), prefix.last()) else { panic!("family") };
            prop_assert_eq!(u64::from(last.to_bits()) - u64::from(first.to_bits()) + 1, 1u64 << (32 - len));
            prop_assert_eq!(prefix.to_string().parse(), Ok(prefix));
        }

        #[test]
        fn parsing_never_panics(text in "[0-9a-f.:/]{0,24}") {
            let _ = text.parse::<Prefix>();
            let _ = parse_interface(&text);
        }
    }
}
