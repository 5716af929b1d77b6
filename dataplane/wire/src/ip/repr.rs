//! A header of either family, to emit.

use std::net::IpAddr;

use thiserror::Error;

use super::{Address, Version};
use crate::{Truncated, ipv4, ipv6};

/// Source and destination of a packet are of different families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("source and destination are of different address families")]
pub struct MixedFamilies;

/// An IP header without options or extension headers, to emit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repr {
    /// IPv4.
    V4(ipv4::Repr),
    /// IPv6.
    V6(ipv6::Repr),
}

impl Repr {
    /// An unfragmented packet with a time to live of 64.
    #[inline]
    pub fn new(
        source: impl Into<IpAddr>,
        destination: impl Into<IpAddr>,
        protocol: u8,
        payload_len: u16,
    ) -> Result<Self, MixedFamilies> {
        match (source.into(), destination.into()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Ok(Self::V4(ipv4::Repr::new(source, destination, protocol, payload_len)))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                Ok(Self::V6(ipv6::Repr::new(source, destination, protocol, payload_len)))
            }
            _ => Err(MixedFamilies),
        }
    }

    /// Its family.
    pub const fn version(&self) -> Version {
        match self {
            Self::V4(_) => Version::V4,
            Self::V6(_) => Version::V6,
        }
    }

    /// Length of the header in bytes.
    pub const fn header_len(&self) -> usize {
        self.version().header_len()
    }

    /// Source address.
    pub fn source(&self) -> Address {
        match self {
            Self::V4(header) => header.source.into(),
            Self::V6(header) => header.source.into(),
        }
    }

    /// Destination address.
    pub fn destination(&self) -> Address {
        match self {
            Self::V4(header) => header.destination.into(),
            Self::V6(header) => header.destination.into(),
        }
    }

    /// The same with this traffic class.
    #[must_use]
    pub const fn with_traffic_class(mut self, traffic_class: u8) -> Self {
        match &mut self {
            Self::V4(header) => header.traffic_class = traffic_class,
            Self::V6(header) => header.traffic_class = traffic_class,
        }
        self
    }

    /// The same with this time to live or hop limit.
    #[must_use]
    pub const fn with_ttl(mut self, ttl: u8) -> Self {
        match &mut self {
            Self::V4(header) => header.ttl = ttl,
            Self::V6(header) => header.hop_limit = ttl,
        }
        self
    }

    /// The same with this IPv4 identification; IPv6 has none outside fragments.
    #[must_use]
    pub const fn with_identification(mut self, identification: u16) -> Self {
        if let Self::V4(header) = &mut self {
            header.identification = identification;
        }
        self
    }

    /// Writes the header to the front of `packet`.
    #[inline]
    pub fn emit(&self, packet: &mut [u8]) -> Result<(), Truncated> {
        match self {
            Self::V4(header) => header.emit(packet),
            Self::V6(header) => header.emit(packet),
        }
    }
}
