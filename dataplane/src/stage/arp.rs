//! ARP: answers for our addresses, learns about neighbours that ask for us or that we asked for, asks (RFC 826, RFC 5227).

use std::net::IpAddr;
use std::time::Instant;

use vipsec_wire::arp::{FRAME_LEN, Operation, Packet};
use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ethernet::{self, HEADER_LEN, MacAddr};

use crate::api::{PortId, VipState};
use crate::drops::{DropReason, Tally};
use crate::neighbour::{Pending, Request};
use crate::worker::{Verdict, Worker};

impl<P: BufferPool> Worker<P> {
    pub(super) fn arp(
        &mut self,
        now: Instant,
        port: PortId,
        ethernet: &ethernet::Header,
        mut frame: P::Buf,
    ) -> Verdict {
        let payload = frame.data().get(HEADER_LEN..).unwrap_or_default();
        let arp = Packet::parse(payload).map_err(|_| DropReason::MalformedArp)?;
        if arp.sender_mac.is_multicast() || arp.sender_mac.is_unspecified() {
            return Err(DropReason::MalformedArp);
        }
        if let Some(own) = self.lookup.own_address(port, arp.sender_ip) {
            // Another appliance with the same virtual MAC is not told apart here; advertisements are what settles ownership.
            if own.is_active() && own.mac != arp.sender_mac {
                self.counters.count(Tally::AddressConflicts);
            }
        } else {
            self.learn(now, port, arp.sender_ip.into(), arp.sender_mac);
        }
        match self.lookup.own_address(port, arp.target_ip) {
            Some(own) if own.is_active() && arp.operation == Operation::Request && own.mac != arp.sender_mac => {
                self.meet(now, port, arp.sender_ip.into(), arp.sender_mac);
                let reply = arp.reply_from(own.mac).to_frame(arp.sender_mac);
                let padding = frame.data().len().saturating_sub(FRAME_LEN);
                frame.trim_back(padding)?;
                frame.data_mut().copy_from_slice(&reply);
                self.transmit(port, frame)?;
                self.counters.count(Tally::ArpReplies);
                Ok(())
            }
            Some(own) if own.is_active() => Ok(()),
            // What is sent to everybody the new owner hears itself.
            Some(own) if own.state == VipState::HandingOver && own.mac == ethernet.destination => {
                self.hold(now, port, ethernet, own, frame)
            }
            _ => Err(DropReason::ArpNotForUs),
        }
    }

    /// Remembers who asked for an address of ours, if it is a neighbour at all: a probe has no address yet (RFC 5227 §2.1.1).
    fn meet(&mut self, now: Instant, port: PortId, address: IpAddr, mac: MacAddr) {
        let is_on_link = self
            .lookup
            .port(port)
            .is_some_and(|port| port.addresses.iter().any(|(_, prefix)| prefix.contains(address)));
        if is_on_link && self.lookup.own_address(port, address).is_none() {
            let waiting = self.neighbours.handle_introduction(now, port, address, mac);
            self.send_waiting(port, mac, waiting);
        }
    }

    /// Takes a neighbour's word for its address, and sends what waited for it.
    fn learn(&mut self, now: Instant, port: PortId, address: IpAddr, mac: MacAddr) {
        let waiting = self.neighbours.handle_claim(now, port, address, mac);
        self.send_waiting(port, mac, waiting);
    }

    fn send_waiting(&mut self, port: PortId, mac: MacAddr, waiting: Pending<P::Buf>) {
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

    /// Sends the ARP requests that have become due.
    pub(crate) fn send_requests(&mut self) {
        while let Some(request) = self.neighbours.poll_request() {
            let verdict = self.send_request(&request);
            self.count(verdict);
        }
    }

    fn send_request(&mut self, request: &Request) -> Verdict {
        let Request { port, address: IpAddr::V4(target_ip), known } = *request else {
            return Err(DropReason::OtherFamily);
        };
        let sender_mac = self.lookup.port(port).ok_or(DropReason::UnknownPort)?.mac;
        let sender_ip = self.lookup.own_ipv4_near(port, target_ip.into()).ok_or(DropReason::NoRoute)?;
        let target_mac = known.unwrap_or_default();
        let arp = Packet { operation: Operation::Request, sender_mac, sender_ip, target_mac, target_ip };
        let mut frame = self.pool.alloc().ok_or(DropReason::BufferPoolEmpty)?;
        frame.append(FRAME_LEN)?;
        frame.data_mut().copy_from_slice(&arp.to_frame(known.unwrap_or(MacAddr::BROADCAST)));
        self.transmit(port, frame)?;
        self.counters.count(Tally::ArpRequests);
        Ok(())
    }
}
