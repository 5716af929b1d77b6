//! ARP: answers for our IPv4 addresses, learns about neighbours, asks for them (RFC 826, RFC 5227).

use std::net::Ipv4Addr;
use std::time::Instant;

use vipsec_wire::arp::{FRAME_LEN, Operation, Packet};
use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ethernet::{self, HEADER_LEN, MacAddr};

use crate::api::{PortId, VipState};
use crate::drops::{DropReason, Tally};
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

    /// Answers for a port's own address, which never moves.
    #[cold]
    pub(super) fn arp_as_host(&mut self, port: PortId, mut frame: P::Buf) -> Verdict {
        let payload = frame.data().get(HEADER_LEN..).unwrap_or_default();
        let arp = Packet::parse(payload).map_err(|_| DropReason::MalformedArp)?;
        let own = self.lookup.own_address(port, arp.target_ip).filter(|own| own.vip.is_none());
        match own {
            Some(own) if arp.operation == Operation::Request && own.mac != arp.sender_mac => {
                let reply = arp.reply_from(own.mac).to_frame(arp.sender_mac);
                let padding = frame.data().len().saturating_sub(FRAME_LEN);
                frame.trim_back(padding)?;
                frame.data_mut().copy_from_slice(&reply);
                self.send_as_host(port, frame)?;
                self.counters.count(Tally::ArpReplies);
                Ok(())
            }
            _ => Err(DropReason::DeadlinePassed),
        }
    }

    pub(super) fn send_arp_request(
        &mut self,
        port: PortId,
        (sender_ip, sender_mac): (Ipv4Addr, MacAddr),
        target_ip: Ipv4Addr,
        known: Option<MacAddr>,
    ) -> Verdict {
        let target_mac = known.unwrap_or_default();
        let arp = Packet { operation: Operation::Request, sender_mac, sender_ip, target_mac, target_ip };
        self.send_own(port, &arp.to_frame(known.unwrap_or(MacAddr::BROADCAST)))?;
        self.counters.count(Tally::ArpRequests);
        Ok(())
    }
}
