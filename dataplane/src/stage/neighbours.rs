//! What ARP and neighbour discovery have in common: learning about neighbours, and asking for them.

use std::net::IpAddr;
use std::time::Instant;

use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ethernet::MacAddr;
use vipsec_wire::ip::Address;

use crate::api::PortId;
use crate::drops::DropReason;
use crate::handoff::What;
use crate::neighbour::{Pending, Request};
use crate::transmit::SentAs;
use crate::worker::{Verdict, Worker};

impl<P: BufferPool> Worker<P> {
    /// Remembers who asked for an address of ours, if it is a neighbour at all: a probe has no address yet (RFC 5227 §2.1.1).
    pub(super) fn meet(&mut self, now: Instant, port: PortId, address: IpAddr, mac: MacAddr) {
        let is_link_local = address.is_ipv6() && Address::from(address).is_link_local();
        let is_on_link = is_link_local
            || self
                .lookup
                .port(port)
                .is_some_and(|port| port.addresses.iter().any(|(_, prefix)| prefix.contains(address)));
        if is_on_link && self.lookup.own_address(port, address).is_none() {
            let waiting = self.neighbours.handle_introduction(now, port, address, mac);
            self.send_waiting(port, mac, waiting);
            self.tell_mates(|| What::Neighbour { port, address, mac, is_known: true });
        }
    }

    /// Takes a neighbour's word for its address, and sends what waited for it.
    pub(super) fn learn(&mut self, now: Instant, port: PortId, address: IpAddr, mac: MacAddr) {
        let waiting = self.neighbours.handle_claim(now, port, address, mac);
        self.send_waiting(port, mac, waiting);
        // The answer to a question of another worker may come in here; and one that is talked to here, others will talk to, too.
        let is_known = self.neighbours.known(port, address).is_some();
        self.tell_mates(|| What::Neighbour { port, address, mac, is_known });
    }

    pub(super) fn send_waiting(&mut self, port: PortId, mac: MacAddr, waiting: Pending<P::Buf>) {
        for mut frame in waiting {
            let verdict = match frame.data_mut().first_chunk_mut() {
                Some(destination) => {
                    *destination = mac.octets();
                    self.transmit(port, frame)
                }
                None => Err(DropReason::MalformedFrame),
            };
            self.count(verdict);
        }
    }

    /// Sends the requests that have become due.
    pub(crate) fn send_requests(&mut self) {
        while let Some(request) = self.neighbours.poll_request() {
            let verdict = self.send_request(&request);
            self.count(verdict);
        }
    }

    fn send_request(&mut self, request: &Request) -> Verdict {
        let Request { port, address, known } = *request;
        let mac = self.lookup.port(port).ok_or(DropReason::UnknownPort)?.mac;
        let sender = self.lookup.own_address_near(port, address).ok_or(DropReason::OtherFamily)?;
        match (sender, address) {
            (IpAddr::V4(sender), IpAddr::V4(target)) => self.send_arp_request(port, (sender, mac), target, known),
            (IpAddr::V6(sender), IpAddr::V6(target)) => self.send_solicitation(port, (sender, mac), target, known),
            _ => Err(DropReason::OtherFamily),
        }
    }

    /// Sends a frame that the worker made itself.
    pub(super) fn send_own(&mut self, port: PortId, contents: &[u8]) -> Verdict {
        self.send_own_as(SentAs::Owner, port, contents)
    }

    /// The same as that which it says.
    pub(super) fn send_own_as(&mut self, sent_as: SentAs, port: PortId, contents: &[u8]) -> Verdict {
        let mut frame = self.pool.alloc().ok_or(DropReason::BufferPoolEmpty)?;
        frame.append(contents.len())?;
        frame.data_mut().copy_from_slice(contents);
        self.transmit_as(sent_as, port, frame)
    }
}
