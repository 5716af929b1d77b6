//! The frames by which an owner makes itself known: gratuitous ARP, unsolicited neighbour advertisements, and advertisements of
//! our own, from the virtual MACs.

use std::net::IpAddr;

use vipsec_dataplane::api::PortId;
use vipsec_takeover::advertisement::ADVERTISEMENT_LEN;
use vipsec_wire::arp;
use vipsec_wire::ethernet::{self, EtherType, MacAddr};
use vipsec_wire::ndp;

use crate::config::{Floating, Vip};

/// Where advertisements go: a locally administered group address, so that every switch floods it, learning the virtual MAC.
const ADVERTISEMENT_GROUP: MacAddr = MacAddr([0x03, 0x76, 0x69, 0x70, 0x00, 0x01]);

/// Shortest Ethernet frame without FCS, in bytes.
const FRAME_LEN_MIN: usize = 60;

fn floating(vip: &Vip) -> impl Iterator<Item = &Floating> {
    std::iter::once(&vip.floating).chain(&vip.gateways)
}

/// Gratuitous ARP for a VIP and its inside gateways (RFC 5227 §3 calls it an announcement), in IPv6 unsolicited neighbour
/// advertisements (RFC 4861 §7.2.6).
pub(in crate::core) fn announcements(vip: &Vip) -> impl Iterator<Item = (PortId, Vec<u8>)> {
    floating(vip).map(|floating| {
        let mut frame = match floating.address {
            IpAddr::V4(address) => {
                arp::Packet::announcement(address, floating.mac).to_frame(MacAddr::BROADCAST).to_vec()
            }
            IpAddr::V6(address) => {
                // RFC 4861 §4.4: who forgets the router flag is taken off the list of routers.
                let is_router = !std::ptr::eq(floating, &vip.floating);
                let announcement = ndp::Advertisement::unsolicited(address, floating.mac, is_router);
                announcement.to_frame(floating.mac, ndp::multicast_mac(ndp::ALL_NODES)).to_vec()
            }
        };
        frame.resize(frame.len().max(FRAME_LEN_MIN), 0);
        (floating.port, frame)
    })
}

/// An advertisement's payload as frames: one per network that the VIP or one of its gateways lives on.
pub(in crate::core) fn advertisements(
    vip: &Vip,
    payload: &[u8; ADVERTISEMENT_LEN],
) -> impl Iterator<Item = (PortId, Vec<u8>)> {
    floating(vip).map(|floating| {
        let header = ethernet::Header {
            destination: ADVERTISEMENT_GROUP,
            source: floating.mac,
            ethertype: EtherType::ADVERTISEMENT,
        };
        let mut frame = header.to_bytes().to_vec();
        frame.extend_from_slice(payload);
        frame.resize(frame.len().max(FRAME_LEN_MIN), 0);
        (floating.port, frame)
    })
}

/// The payload of an advertisement's frame.
pub(in crate::core) fn advertisement_payload(frame: &[u8]) -> Option<&[u8]> {
    let (header, payload) = ethernet::Header::parse(frame).ok()?;
    (header.ethertype == EtherType::ADVERTISEMENT).then_some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_is_announced_to_all_nodes_from_its_virtual_mac() {
        let floating = |address: &str, last| Floating {
            address: address.parse().unwrap(),
            mac: MacAddr([6, 0x76, 0, 0, 0, last]),
            port: PortId(last),
        };
        let vip = Vip {
            name: "web".to_owned(),
            floating: floating("2001:db8::1", 0),
            gateways: vec![floating("2001:db8:2::1", 1)],
            group: 0,
        };
        let frames: Vec<_> = announcements(&vip).collect();
        assert_eq!(frames.iter().map(|(port, _)| port.0).collect::<Vec<_>>(), [0, 1]);
        for ((_, frame), (last, flags)) in frames.iter().zip([(0, 0x20), (1, 0xa0)]) {
            assert_eq!(frame[..12], [0x33, 0x33, 0, 0, 0, 1, 6, 0x76, 0, 0, 0, last], "RFC 2464 §7");
            assert_eq!((frame[20], frame[21], frame[54]), (58, 255, 136), "ICMPv6, hop limit, RFC 4861 §4.4");
            assert_eq!(frame[58], flags, "it overrides what neighbours know; only a gateway is a router");
        }
    }
}
