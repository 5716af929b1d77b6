//! A target: answers ARP, and sends every payload back through the inside gateway of the VIP that it came for.

use vipsec_wire::arp;

use crate::frames::{self, Seen};
use crate::scene::{ADDRESSES, SERVICE_PORT, TARGET_MACS, TARGETS};

/// A frame arrives at target `n`; returns what it sends.
pub(crate) fn receive(n: usize, frame: &[u8]) -> Option<Vec<u8>> {
    let (header, seen) = frames::read(frame)?;
    match seen {
        Seen::Arp(request) if request.operation == arp::Operation::Request && request.target_ip == TARGETS[n] => {
            Some(request.reply_from(TARGET_MACS[n]).to_frame(request.sender_mac).to_vec())
        }
        // The VIPs are addresses of the target too: only the MAC address was rewritten.
        Seen::Udp(client, service, payload) if header.destination == TARGET_MACS[n] && service.1 == SERVICE_PORT => {
            let vip = ADDRESSES.iter().find(|addresses| addresses.vip == service.0)?;
            Some(frames::frame(vip.gateway_mac, TARGET_MACS[n], &frames::udp(service, client, payload)))
        }
        _ => None,
    }
}
