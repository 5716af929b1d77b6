//! The frames by which an owner makes itself known: gratuitous ARP and advertisements, from the virtual MACs.

use std::net::IpAddr;

use vipsec_dataplane::api::PortId;
use vipsec_takeover::advertisement::ADVERTISEMENT_LEN;
use vipsec_wire::arp;
use vipsec_wire::ethernet::{self, EtherType, MacAddr};

use crate::config::{Floating, Vip};

/// Where advertisements go: a locally administered group address, so that every switch floods it, learning the virtual MAC.
const ADVERTISEMENT_GROUP: MacAddr = MacAddr([0x03, 0x76, 0x69, 0x70, 0x00, 0x01]);

/// Shortest Ethernet frame without FCS, in bytes.
const FRAME_LEN_MIN: usize = 60;

fn floating(vip: &Vip) -> impl Iterator<Item = &Floating> {
    std::iter::once(&vip.floating).chain(&vip.gateways)
}

/// Gratuitous ARP for a VIP and its inside gateways (RFC 5227 §3 calls it an announcement).
pub(super) fn gratuitous_arp(vip: &Vip) -> impl Iterator<Item = (PortId, Vec<u8>)> {
    floating(vip).filter_map(|floating| {
        let IpAddr::V4(address) = floating.address else { return None };
        let mut frame = arp::Packet::announcement(address, floating.mac).to_frame(MacAddr::BROADCAST).to_vec();
        frame.resize(frame.len().max(FRAME_LEN_MIN), 0);
        Some((floating.port, frame))
    })
}

/// An advertisement's payload as frames: one per network that the VIP or one of its gateways lives on.
pub(super) fn advertisements(vip: &Vip, payload: &[u8; ADVERTISEMENT_LEN]) -> impl Iterator<Item = (PortId, Vec<u8>)> {
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
pub(super) fn advertisement_payload(frame: &[u8]) -> Option<&[u8]> {
    let (header, payload) = ethernet::Header::parse(frame).ok()?;
    (header.ethertype == EtherType::ADVERTISEMENT).then_some(payload)
}
