//! IPv4 from the inside network: targets' packets to remote hosts, sent to the inside gateway.

use std::net::IpAddr;
use std::time::Instant;

use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ethernet;
use vipsec_wire::ip::protocol;
use vipsec_wire::ipv4;

use crate::api::{PortId, VipState};
use crate::drops::{DropReason, Tally};
use crate::flow::Flow;
use crate::lookup::OwnAddress;
use crate::worker::{Verdict, Worker};

impl<P: BufferPool> Worker<P> {
    pub(super) fn inside(
        &mut self,
        now: Instant,
        port: PortId,
        ethernet: &ethernet::Header,
        mut frame: P::Buf,
    ) -> Verdict {
        let bytes = frame.data().get(ethernet::HEADER_LEN..).unwrap_or_default();
        let flow = Flow::parse(bytes).map_err(|_| DropReason::MalformedIpv4)?;
        let padding = bytes.len().saturating_sub(flow.total_len);

        if let Some(own) = self.lookup.own_address(port, flow.destination.into()) {
            if !own.is_active() {
                return self.hold(now, port, ethernet, own, frame);
            }
            frame.trim_back(padding)?;
            return match own {
                own if own.mac != ethernet.destination => Err(DropReason::OtherStation),
                _ if flow.protocol == protocol::ICMP => self.answer_echo(port, ethernet, frame),
                _ => Err(DropReason::UnservedProtocol),
            };
        }
        let (vip, table) = self.lookup.vip_at(IpAddr::from(flow.source)).ok_or(DropReason::SourceNotVip)?;
        let gateway = table.gateways.iter().find(|gateway| gateway.port == port).ok_or(DropReason::SourceNotVip)?;
        if table.state != VipState::Owned {
            let own = OwnAddress { mac: gateway.mac, vip: Some(vip), state: table.state };
            return self.hold(now, port, ethernet, own, frame);
        }
        if gateway.mac != ethernet.destination {
            return Err(DropReason::OtherStation);
        }
        let gateway = gateway.address;
        frame.trim_back(padding)?;

        let index = self.sad.outbound(vip, &flow).ok_or(DropReason::NoOutboundSa)?;
        let known = self.connections.to_remote(now, &flow.tuple_from_target(), &flow.packet_info());
        if !known {
            self.counters.count(Tally::RepliesUnknown);
        }
        frame.trim_front(ethernet::HEADER_LEN)?;
        if flow.total_len > self.inner_mtu(index)? {
            if flow.dont_fragment {
                self.say_too_big(now, port, ethernet, gateway, index, frame)?;
            }
            return Err(DropReason::TooBig);
        }
        // RFC 4301 §5.1.2.1 (2): "decremented by the encapsulator prior to forwarding".
        ipv4::decrement_ttl(frame.data_mut()).map_err(|_| DropReason::TtlExpired)?;
        self.encapsulate(now, index, frame)?;
        self.counters.to_remotes.count(flow.total_len);
        Ok(())
    }
}
