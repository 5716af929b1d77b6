//! The appliance's own host as a target of another appliance, which owns the VIP: what that one distributes to it, and its replies.
//!
//! The owner sends to the appliance's own address inside, as to any target; the packet goes on to the host as it is, and the host's
//! replies to the inside gateway, as those of any target. None of this is done for a VIP: no SA, no number, no connection has part in it.
//! So it depends on no ownership, and goes on past the deadline (rule R5), as answering for the own address does.

use std::time::Instant;

use vipsec_distribute::tuple::FiveTuple;
use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ethernet::{self, EtherType, Header};
use vipsec_wire::ip::Address;
use vipsec_wire::quote::Quote;

use super::inside::flow_of;
use super::ndp;
use super::path_mtu::is_icmp_error;
use crate::api::{PortId, Side, VipState};
use crate::drops::{DropReason, Tally};
use crate::flow::{Flow, quoted_tuple};
use crate::transmit::SentAs;
use crate::worker::{Verdict, Worker};

impl<P: BufferPool> Worker<P> {
    /// Takes a frame from the inside network, or of the own host, while the worker may not act for VIPs.
    #[cold]
    pub(super) fn as_host(&mut self, now: Instant, port: PortId, side: Side, frame: P::Buf) -> Verdict {
        let (ethernet, packet) = Header::parse(frame.data()).map_err(|_| DropReason::MalformedFrame)?;
        match (side, ethernet.ethertype) {
            // Listening is not acting.
            (_, EtherType::ADVERTISEMENT) => self.advertisement(now, port, &frame),
            (Side::Inside, EtherType::ARP) => self.arp_as_host(port, frame),
            (Side::Inside | Side::Local, EtherType::IPV4 | EtherType::IPV6) => {
                let flow = flow_of(&ethernet, packet)?;
                if ndp::is_ndp(&flow.header, packet) {
                    return self.ndp_as_host(port, &ethernet, &flow.header, frame);
                }
                let from = self.lookup.vip_at(flow.header.source).map(|(vip, table)| (vip, table.state));
                let is_to_vip = self.lookup.vip_at(flow.header.destination).is_some();
                match (side, from) {
                    (Side::Local, Some((vip, VipState::Elsewhere))) => self.reply_as_target(vip, &flow, frame),
                    (Side::Inside, None) if is_to_vip => self.take_as_target(port, &ethernet, &flow, frame),
                    _ => Err(DropReason::DeadlinePassed),
                }
            }
            _ => Err(DropReason::DeadlinePassed),
        }
    }

    /// A packet to a VIP that the VIP's owner has distributed to this host.
    #[cold]
    pub(super) fn take_as_target(
        &mut self,
        port: PortId,
        ethernet: &Header,
        flow: &Flow,
        mut frame: P::Buf,
    ) -> Verdict {
        let header = &flow.header;
        self.lookup.vip_at(header.destination).ok_or(DropReason::SourceNotVip)?;
        if self.lookup.port(port).is_none_or(|port| port.mac != ethernet.destination) {
            return Err(DropReason::OtherStation);
        }
        let packet = frame.data().get(ethernet::HEADER_LEN..).unwrap_or_default();
        let is_served = if header.is_fragment() {
            // Its ports are unknown; the host drops what it has no use for.
            self.lookup.serves_any_of(header.destination)
        } else {
            self.lookup.serves_here(&distributed_tuple(flow, packet))
        };
        if !is_served {
            return Err(DropReason::NoLocalTarget);
        }
        let path = self.path_to_host(header.version())?;
        if header.total_len > usize::from(path.mtu) {
            return Err(DropReason::TooBig);
        }
        trim_padding(flow, &mut frame)?;
        *frame.data_mut().first_chunk_mut().ok_or(DropReason::NoRoom)? = path.ethernet;
        self.send_as_host(path.next_hop.port, frame)?;
        self.counters.count(Tally::AsTarget);
        Ok(())
    }

    /// A packet of the own host from a VIP that is elsewhere.
    #[cold]
    pub(super) fn reply_as_target(&mut self, vip: u16, flow: &Flow, mut frame: P::Buf) -> Verdict {
        let table = self.lookup.vip(vip).ok_or(DropReason::SourceNotVip)?;
        let is_of_family = |address: Address| address.is_v4() == flow.header.source.is_v4();
        let gateway = table.gateways.iter().find(|gateway| is_of_family(gateway.address.into()));
        let gateway = gateway.ok_or(DropReason::OtherFamily)?;
        let (port, destination) = (gateway.port, gateway.mac);
        let table = self.lookup.port(port).ok_or(DropReason::UnknownPort)?;
        if flow.header.total_len > usize::from(table.mtu) {
            return Err(DropReason::TooBig);
        }
        trim_padding(flow, &mut frame)?;
        let ethertype = flow.header.version().ethertype();
        let ethernet = Header { destination, source: table.mac, ethertype }.to_bytes();
        *frame.data_mut().first_chunk_mut().ok_or(DropReason::NoRoom)? = ethernet;
        self.send_as_host(port, frame)?;
        self.counters.count(Tally::AsTarget);
        Ok(())
    }

    pub(super) fn send_as_host(&mut self, port: PortId, frame: P::Buf) -> Verdict {
        self.transmit_as(SentAs::Host, port, frame)
    }
}

/// Takes Ethernet's padding to its minimum off.
fn trim_padding<B: PacketBuf>(flow: &Flow, frame: &mut B) -> Verdict {
    let padding = frame.data().len().saturating_sub(ethernet::HEADER_LEN + flow.header.total_len);
    Ok(frame.trim_back(padding)?)
}

/// The connection that the owner distributed: of an ICMP error, that which it is about.
fn distributed_tuple(flow: &Flow, packet: &[u8]) -> FiveTuple {
    if is_icmp_error(&flow.header, packet)
        && let Some(quote) = flow.header.payload(packet).get(vipsec_wire::icmp::HEADER_LEN..)
        && let Ok(quote) = Quote::parse(quote)
    {
        return quoted_tuple(&quote);
    }
    flow.tuple_from_remote()
}
