//! What identifies a connection, and its hash.

use std::fmt;
use std::net::IpAddr;

use siphasher::sip::SipHasher13;

/// Protocol, addresses and ports of a connection between a remote host and a VIP. Ports are 0 where the protocol has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FiveTuple {
    /// IP protocol.
    pub protocol: u8,
    /// The host behind the remote peer.
    pub remote: IpAddr,
    /// Its port.
    pub remote_port: u16,
    /// The VIP.
    pub vip: IpAddr,
    /// The service's port.
    pub vip_port: u16,
}

impl fmt::Display for FiveTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, remote, remote_port, vip, vip_port } = self;
        write!(f, "protocol {protocol} {remote} port {remote_port} -> {vip} port {vip_port}")
    }
}

const BYTES: usize = 1 + 16 + 2 + 16 + 2;

/// Both families in 16 bytes, IPv4 as an IPv4-mapped address (RFC 4291 §2.5.5.2).
pub(crate) const fn address_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => 0xffff << 32 | v4.to_bits() as u128,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

pub(crate) const fn address_bytes(address: IpAddr) -> [u8; 16] {
    address_bits(address).to_be_bytes()
}

impl FiveTuple {
    fn to_bytes(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[0] = self.protocol;
        bytes[1..17].copy_from_slice(&address_bytes(self.remote));
        bytes[17..19].copy_from_slice(&self.remote_port.to_be_bytes());
        bytes[19..35].copy_from_slice(&address_bytes(self.vip));
        bytes[35..37].copy_from_slice(&self.vip_port.to_be_bytes());
        bytes
    }

    /// The same on every appliance and in every version: a successor must choose the target that the old owner chose.
    /// Its key is no secret; who could abuse that has authenticated as a remote peer and only unbalances its own connections.
    pub fn stable_hash(self) -> u64 {
        SipHasher13::new_with_keys(0x7669_7073_6563_2066, 0x6c6f_7720_6861_7368).hash(&self.to_bytes())
    }

    /// The same for all connections of one remote host to one VIP.
    pub fn stable_source_hash(self) -> u64 {
        Self { protocol: 0, remote_port: 0, vip_port: 0, ..self }.stable_hash()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_hash_never_changes() {
        let tuple = FiveTuple {
            protocol: 6,
            remote: "10.9.0.1".parse().unwrap(),
            remote_port: 40000,
            vip: "192.0.2.1".parse().unwrap(),
            vip_port: 80,
        };
        // Appliances of different versions must agree, so this number is part of the protocol between them.
        assert_eq!(tuple.stable_hash(), 7_081_412_316_973_286_478);
        assert_eq!(tuple.stable_source_hash(), 1_758_561_175_538_005_097);
        let other = FiveTuple { remote_port: 40001, ..tuple };
        assert_ne!(tuple.stable_hash(), other.stable_hash());
        assert_eq!(tuple.stable_source_hash(), other.stable_source_hash());
    }
}
