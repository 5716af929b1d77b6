//! The packet that came out of a tunnel: is it what the SA carries, and to whom does it go?

use std::net::IpAddr;
use std::time::Instant;

use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::icmp;
use vipsec_wire::ip::{Ecn, protocol};
use vipsec_wire::ipv4;

use crate::api::VipState;
use crate::drops::DropReason;
use crate::flow::{Flow, quoted_tuple};
use crate::parking::Parked;
use crate::sad::SaIndex;
use crate::worker::{Verdict, Worker};

impl<P: BufferPool> Worker<P> {
    pub(super) fn inner(&mut self, now: Instant, index: SaIndex, opened: Parked<P::Buf>) -> Verdict {
        let Parked { mut packet, next_header, outer, .. } = opened;
        match next_header {
            protocol::IPV4 => {}
            // RFC 4303 §2.6: "a receiver MUST be prepared to discard such packets, without indicating an error".
            protocol::NO_NEXT_HEADER => return Err(DropReason::EspDummy),
            protocol::IPV6 => return Err(DropReason::OtherFamily),
            _ => return Err(DropReason::UnexpectedNextHeader),
        }
        let flow = Flow::parse(packet.data()).map_err(|_| DropReason::InnerMalformed)?;
        // RFC 4303 §2.7: traffic flow confidentiality padding follows the inner packet; its own length says where.
        let padding = packet.data().len().saturating_sub(flow.total_len);
        packet.trim_back(padding)?;

        let sa = self.sad.get_mut(index).ok_or(DropReason::UnknownSpi)?;
        if !sa.admits_inbound(&flow) {
            return Err(DropReason::InboundSelectorMismatch);
        }
        sa.delivered.packets = sa.delivered.packets.saturating_add(1);
        sa.delivered.bytes = sa.delivered.bytes.saturating_add(flow.total_len as u64);
        let vip = sa.vip;
        self.counters.esp_in.count(flow.total_len);

        let ecn = combine(flow.ecn(), outer.ecn).ok_or(DropReason::InnerCongestion)?;
        if ecn != flow.ecn() {
            ipv4::set_ecn(packet.data_mut(), ecn)?;
        }
        let table = self.lookup.vip(vip).ok_or(DropReason::VipNotOwned)?;
        // What was parked when the VIP began to be handed over is still delivered: the successor starts behind it.
        if table.state == VipState::Elsewhere {
            return Err(DropReason::VipNotOwned);
        }
        if IpAddr::from(flow.destination) != table.vip.address {
            return Err(DropReason::NotToVip);
        }
        if flow.is_fragment {
            return Err(DropReason::InnerFragment);
        }
        if flow.protocol == protocol::ICMP {
            return self.inner_icmp(now, index, vip, &flow, packet);
        }
        self.distribute(now, vip, &flow, packet)
    }

    fn inner_icmp(&mut self, now: Instant, index: SaIndex, vip: u16, flow: &Flow, packet: P::Buf) -> Verdict {
        let bytes = packet.data().get(flow.header_len..).unwrap_or_default();
        let message = icmp::Message::parse(bytes).map_err(|_| DropReason::MalformedIcmp)?;
        if message.is_echo_request() {
            return self.answer_inner_echo(now, index, packet);
        }
        if !message.is_error() {
            return self.distribute(now, vip, flow, packet);
        }
        // It belongs to the target that sent what it quotes (RFC 1191 path MTU discovery lives on this).
        let tuple = quoted_tuple(message.payload()).ok_or(DropReason::MalformedIcmp)?;
        if tuple.vip != IpAddr::from(flow.destination) {
            return Err(DropReason::MalformedIcmp);
        }
        let target = match self.connections.target_of(&tuple) {
            Some(target) => target,
            None => self.lookup.services().choose(&tuple)?,
        };
        self.deliver(now, vip, target, packet)
    }
}

/// RFC 6040 §4.2, figure 4: the ECN field after decapsulation; `None` is a drop.
fn combine(inner: Ecn, outer: Ecn) -> Option<Ecn> {
    match (inner, outer) {
        (Ecn::NotEct, Ecn::Ce) => None,
        (Ecn::NotEct, _) => Some(Ecn::NotEct),
        (Ecn::Ce, _) | (_, Ecn::Ce) => Some(Ecn::Ce),
        (Ecn::Ect1, _) | (Ecn::Ect0, Ecn::Ect1) => Some(Ecn::Ect1),
        (Ecn::Ect0, _) => Some(Ecn::Ect0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_6040_figure_4() {
        use Ecn::{Ce, Ect0, Ect1, NotEct};
        // Rows: inner. Columns: outer Not-ECT, ECT(0), ECT(1), CE.
        let figure = [
            (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
            (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
            (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
            (Ce, [Some(Ce), Some(Ce), Some(Ce), Some(Ce)]),
        ];
        for (inner, row) in figure {
            assert_eq!([NotEct, Ect0, Ect1, Ce].map(|outer| combine(inner, outer)), row);
        }
    }
}
