//! The packet that came out of a tunnel: is it what the SA carries, and to whom does it go?

use std::time::Instant;

use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::icmp;
use vipsec_wire::ip::{self, Ecn, protocol};

use super::Stage;
use super::esp::Opened;
use crate::api::VipState;
use crate::drops::DropReason;
use crate::flow::{Flow, quoted_tuple};
use crate::sad::{self, SaIndex};
use crate::worker::{Verdict, Worker};

/// A packet from a remote host to a VIP, checked.
pub(super) struct Inner<B> {
    pub(super) packet: B,
    pub(super) flow: Flow,
    pub(super) vip: u16,
}

impl<P: BufferPool> Worker<P> {
    #[inline]
    pub(super) fn inner(
        &mut self,
        now: Instant,
        opened: Opened<P::Buf>,
        checked: &mut Stage<Inner<P::Buf>>,
    ) -> Verdict {
        let Opened { mut packet, index, esp, outer } = opened;
        match esp.next_header {
            protocol::IPV4 => {}
            // RFC 4303 §2.6: "a receiver MUST be prepared to discard such packets, without indicating an error".
            protocol::NO_NEXT_HEADER => return Err(DropReason::EspDummy),
            protocol::IPV6 => return Err(DropReason::OtherFamily),
            _ => return Err(DropReason::UnexpectedNextHeader),
        }
        let flow = Flow::parse(packet.data()).map_err(|_| DropReason::InnerMalformed)?;
        let header = &flow.header;
        if header.version().protocol() != esp.next_header {
            return Err(DropReason::InnerMalformed);
        }
        // RFC 4303 §2.7: traffic flow confidentiality padding follows the inner packet; its own length says where.
        let padding = packet.data().len().saturating_sub(header.total_len);
        packet.trim_back(padding)?;

        let sa = self.sad.inbound_mut(index).ok_or(DropReason::UnknownSpi)?;
        // RFC 4301 §5.2 step 4: the packet is matched against the inbound selectors identified by the SAD entry.
        if !sa.selectors.match_ends(&flow.ends_from_remote()) {
            return Err(DropReason::InboundSelectorMismatch);
        }
        sad::count(&mut sa.delivered, header.total_len);
        let vip = sa.vip;
        self.counters.esp_in.count(header.total_len);

        let ecn = combine(header.ecn(), outer.ecn).ok_or(DropReason::InnerCongestion)?;
        if ecn != header.ecn() {
            ip::set_ecn(packet.data_mut(), ecn)?;
        }
        let table = self.lookup.vip(vip).ok_or(DropReason::VipNotOwned)?;
        // What was parked when the VIP began to be handed over is still delivered: the successor starts behind it.
        if table.state == VipState::Elsewhere {
            return Err(DropReason::VipNotOwned);
        }
        if header.destination != table.vip.address.into() {
            return Err(DropReason::NotToVip);
        }
        if header.is_fragment() {
            return Err(DropReason::InnerFragment);
        }
        let inner = Inner { packet, flow, vip };
        if header.protocol == protocol::ICMP {
            return self.inner_icmp(now, index, inner, checked);
        }
        checked.push(inner);
        Ok(())
    }

    #[cold]
    fn inner_icmp(
        &mut self,
        now: Instant,
        index: SaIndex,
        inner: Inner<P::Buf>,
        checked: &mut Stage<Inner<P::Buf>>,
    ) -> Verdict {
        let header = inner.flow.header;
        let message =
            icmp::Message::parse(header.payload(inner.packet.data())).map_err(|_| DropReason::MalformedIcmp)?;
        if message.is_echo_request() {
            return self.answer_inner_echo(now, index, inner.packet);
        }
        if !message.is_error() {
            checked.push(inner);
            return Ok(());
        }
        // It belongs to the target that sent what it quotes (RFC 1191 path MTU discovery lives on this).
        let tuple = quoted_tuple(message.payload()).ok_or(DropReason::MalformedIcmp)?;
        if ip::Address::from(tuple.vip) != header.destination {
            return Err(DropReason::MalformedIcmp);
        }
        let target = self.connections.target_of(&tuple)?;
        self.deliver(now, target, inner)
    }
}

/// RFC 6040 §4.2, figure 4: the ECN field after decapsulation; `None` is a drop.
#[inline]
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
