//! "Fragmentation needed and DF set", to a target whose packet doesn't fit the tunnel (RFC 1191).

use std::net::IpAddr;
use std::time::Instant;

use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::icmp::{self, QUOTE_MAX};
use vipsec_wire::ip::protocol;
use vipsec_wire::{ethernet, ipv4};

use super::inside::Reply;
use crate::api::PortId;
use crate::drops::{DropReason, Tally};
use crate::worker::{Verdict, Worker};

/// Does RFC 1812 §4.3.2.7 forbid an error about this packet?
fn is_unanswerable(packet: &[u8]) -> bool {
    let Ok(parsed) = ipv4::Packet::parse(packet) else { return true };
    let about_an_error = parsed.protocol() == protocol::ICMP
        && !icmp::Message::parse(parsed.payload()).is_ok_and(|message| !message.is_error());
    parsed.fragment_offset() != 0 || about_an_error
}

impl<P: BufferPool> Worker<P> {
    /// Tells the sender of a frame, from the inside gateway's address, how large a packet may be.
    #[cold]
    pub(super) fn say_too_big(
        &mut self,
        now: Instant,
        port: PortId,
        inner_mtu: usize,
        reply: &Reply<P::Buf>,
    ) -> Verdict {
        let (ethernet, packet) = ethernet::Header::parse(reply.frame.data()).map_err(|_| DropReason::MalformedFrame)?;
        let gateways = &self.lookup.vip(reply.vip).ok_or(DropReason::VipNotOwned)?.gateways;
        let gateway = gateways.iter().find(|gateway| gateway.port == port).ok_or(DropReason::SourceNotVip)?;
        let (IpAddr::V4(gateway), IpAddr::V4(target)) = (gateway.address, reply.flow.header.source.to_ip()) else {
            return Err(DropReason::OtherFamily);
        };
        if is_unanswerable(packet) || !self.icmp_error_policer.allows(now) {
            return Ok(());
        }
        let inner_mtu = u16::try_from(inner_mtu).unwrap_or(u16::MAX);
        let quote = packet.get(..QUOTE_MAX).unwrap_or(packet);
        let message_len = icmp::HEADER_LEN + quote.len();
        let identification = self.next_identification();

        let mut frame = self.pool.alloc().ok_or(DropReason::BufferPoolEmpty)?;
        frame.append(ethernet::HEADER_LEN + ipv4::HEADER_LEN + message_len)?;
        // The target has the VIP as its own address; the frame's source says which target it was.
        let back = ethernet::Header { destination: ethernet.source, source: ethernet.destination, ..ethernet };
        back.emit(frame.data_mut())?;
        let header = frame.data_mut().get_mut(ethernet::HEADER_LEN..).unwrap_or_default();
        let mut repr = ipv4::Repr::new(gateway, target, protocol::ICMP, message_len as u16);
        repr.identification = identification;
        repr.emit(header)?;
        let message = header.get_mut(ipv4::HEADER_LEN..).unwrap_or_default();
        message.get_mut(icmp::HEADER_LEN..).unwrap_or_default().copy_from_slice(quote);
        icmp::emit_fragmentation_needed(inner_mtu, message)?;
        self.transmit(port, frame)?;
        self.counters.count(Tally::IcmpErrors);
        Ok(())
    }
}
