//! An address of either family in a register pair.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Version;

/// Where IPv4 addresses lie: the prefix of IPv4-mapped IPv6 addresses, ::ffff:0:0/96 (RFC 4291 §2.5.5.2).
const MAPPED: u128 = 0xffff;

/// An IPv4 or IPv6 address in 16 bytes, to copy, compare, mask and hash without a branch on the family.
///
/// An IPv4 address is held as the IPv4-mapped IPv6 address, so an IPv6 packet that carried such an address would pass for an IPv4 one;
/// [`super::Header::parse`] refuses those. The order is IPv4 between the IPv6 addresses below and above `::ffff:0:0/96`.
// Eight bytes' alignment is enough for two registers, and leaves no gaps in what holds addresses, which is copied from stage to stage.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(Rust, packed(8))]
pub struct Address(u128);

impl Address {
    /// An IPv4 address.
    #[inline]
    pub const fn v4(address: Ipv4Addr) -> Self {
        Self(MAPPED << 32 | address.to_bits() as u128)
    }

    /// An IPv6 address; an IPv4-mapped one becomes the IPv4 address.
    #[inline]
    pub const fn v6(address: Ipv6Addr) -> Self {
        Self(address.to_bits())
    }

    /// From four bytes of an IPv4 header.
    #[inline]
    pub const fn from_v4_octets(octets: [u8; 4]) -> Self {
        Self(MAPPED << 32 | u32::from_be_bytes(octets) as u128)
    }

    /// From the sixteen bytes of an IPv6 header, or those of [`Address::octets`].
    #[inline]
    pub const fn from_octets(octets: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(octets))
    }

    /// Sixteen bytes in network order; an IPv4 address as IPv4-mapped.
    #[inline]
    pub const fn octets(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The address as a number: an IPv4 address as IPv4-mapped.
    #[inline]
    pub const fn to_bits(self) -> u128 {
        self.0
    }

    /// Its family.
    #[inline]
    pub const fn version(self) -> Version {
        if self.is_v4() { Version::V4 } else { Version::V6 }
    }

    /// Is it an IPv4 address?
    #[inline]
    pub const fn is_v4(self) -> bool {
        self.0 >> 32 == MAPPED
    }

    /// The IPv4 address, if it is one.
    #[inline]
    pub const fn to_v4(self) -> Option<Ipv4Addr> {
        if self.is_v4() { Some(Ipv4Addr::from_bits(self.0 as u32)) } else { None }
    }

    /// The IPv6 address, if it is one.
    #[inline]
    pub const fn to_v6(self) -> Option<Ipv6Addr> {
        if self.is_v4() { None } else { Some(Ipv6Addr::from_bits(self.0)) }
    }

    /// In the standard library's form.
    #[inline]
    pub const fn to_ip(self) -> IpAddr {
        if self.is_v4() {
            IpAddr::V4(Ipv4Addr::from_bits(self.0 as u32))
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(self.0))
        }
    }

    /// 0.0.0.0 or `::`.
    #[inline]
    pub const fn is_unspecified(self) -> bool {
        self.0 == 0 || self.0 == MAPPED << 32
    }

    /// 224.0.0.0/4 or ff00::/8.
    #[inline]
    pub const fn is_multicast(self) -> bool {
        if self.is_v4() { self.0 as u32 >> 28 == 0xe } else { self.0 >> 120 == 0xff }
    }

    /// 127.0.0.0/8 or `::1`.
    #[inline]
    pub const fn is_loopback(self) -> bool {
        if self.is_v4() { self.0 as u32 >> 24 == 127 } else { self.0 == 1 }
    }

    /// 169.254.0.0/16 or fe80::/10: good on one link only.
    #[inline]
    pub const fn is_link_local(self) -> bool {
        if self.is_v4() { self.0 as u32 >> 16 == 0xa9fe } else { self.0 >> 118 == 0x3fa }
    }

    /// May it stand as the source of a packet that one host sent (RFC 1122 §3.2.1.3, RFC 4291 §2.5.2 and §2.7)?
    #[inline]
    pub const fn is_host(self) -> bool {
        let limited_broadcast = self.0 == (MAPPED << 32 | 0xffff_ffff);
        !(self.is_unspecified() || self.is_multicast() || self.is_loopback() || limited_broadcast)
    }
}

impl From<Ipv4Addr> for Address {
    #[inline]
    fn from(address: Ipv4Addr) -> Self {
        Self::v4(address)
    }
}

impl From<Ipv6Addr> for Address {
    #[inline]
    fn from(address: Ipv6Addr) -> Self {
        Self::v6(address)
    }
}

impl From<IpAddr> for Address {
    #[inline]
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::v4(address),
            IpAddr::V6(address) => Self::v6(address),
        }
    }
}

impl From<Address> for IpAddr {
    #[inline]
    fn from(address: Address) -> Self {
        address.to_ip()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_ip(), f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn kinds() {
        for (text, unspecified, multicast, loopback, link_local, host) in [
            ("0.0.0.0", true, false, false, false, false),
            ("::", true, false, false, false, false),
            ("224.0.0.1", false, true, false, false, false),
            ("239.255.255.255", false, true, false, false, false),
            ("ff02::1", false, true, false, false, false),
            ("127.0.0.1", false, false, true, false, false),
            ("::1", false, false, true, false, false),
            ("169.254.1.1", false, false, false, true, true),
            ("fe80::1", false, false, false, true, true),
            ("fec0::1", false, false, false, false, true),
            ("255.255.255.255", false, false, false, false, false),
            ("192.0.2.1", false, false, false, false, true),
            ("2001:db8::1", false, false, false, false, true),
        ] {
            let a = address(text);
            let kinds = (a.is_unspecified(), a.is_multicast(), a.is_loopback(), a.is_link_local(), a.is_host());
            assert_eq!(kinds, (unspecified, multicast, loopback, link_local, host), "{text}");
            assert_eq!(a.to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn ipv4_comes_back(octets: [u8; 4]) {
            let address = Address::from_v4_octets(octets);
            prop_assert_eq!(address, Address::from(Ipv4Addr::from(octets)));
            prop_assert_eq!(address.to_ip(), IpAddr::from(octets));
            prop_assert_eq!((address.to_v4(), address.to_v6()), (Some(Ipv4Addr::from(octets)), None));
            prop_assert_eq!(address.octets(), Ipv4Addr::from(octets).to_ipv6_mapped().octets());
        }

        #[test]
        fn ipv6_comes_back(octets: [u8; 16]) {
            prop_assume!(Ipv6Addr::from(octets).to_ipv4_mapped().is_none());
            let address = Address::from_octets(octets);
            prop_assert_eq!(address.to_ip(), IpAddr::from(octets));
            prop_assert_eq!((address.to_v4(), address.to_v6()), (None, Some(Ipv6Addr::from(octets))));
        }
    }
}
