//! What is remembered of a tunnel packet's outer headers once they are off.

use std::net::{IpAddr, SocketAddr};

use vipsec_wire::ip::{Address, Ecn};

/// The outer headers of an ESP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outer {
    /// Who sent it.
    pub(crate) source: Address,
    /// Its UDP port; `None` is protocol 50.
    pub(crate) udp_port: Option<u16>,
    /// The VIP that was addressed: an index into the tables.
    pub(crate) vip: u16,
    /// Differentiated services and ECN.
    pub(crate) traffic_class: u8,
    /// Time to live, or hop limit.
    pub(crate) ttl: u8,
}

impl Outer {
    /// Explicit congestion notification.
    #[inline]
    pub(crate) fn ecn(&self) -> Ecn {
        Ecn::of(self.traffic_class)
    }

    /// Where the remote peer is, as far as UDP encapsulation shows.
    pub(crate) fn remote(&self) -> Option<SocketAddr> {
        self.udp_port.map(|port| SocketAddr::new(IpAddr::from(self.source), port))
    }
}
