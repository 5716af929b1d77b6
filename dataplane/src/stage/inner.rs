//! The packet that came out of a tunnel: is it what the SA carries, and to whom does it go?

use std::time::Instant;

use vipsec_distribute::service::Origin;
use vipsec_distribute::tuple::FiveTuple;
use vipsec_esp::sa::Mode;
use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ip::{self, Ecn, Header, Version, protocol};
use vipsec_wire::quote::Quote;
use vipsec_wire::tcp::Flags;
use vipsec_wire::{icmp, icmpv6, tcp};

use super::esp::Opened;
use super::{Stage, fragments};
use crate::api::{VipState, WorkerId};
use crate::drops::{DropReason, Tally};
use crate::flow::{Flow, quoted_tuple};
use crate::handoff::What;
use crate::sad::{self, SaIndex};
use crate::selector::Ends;
use crate::worker::{Verdict, Worker};

/// How a packet came from its remote host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    Clear,
    Tunnel(SaIndex),
    /// Through a tunnel of the worker that handed it over.
    Handoff,
}

/// A packet from a remote host to a VIP, checked.
pub(super) struct Inner<B> {
    pub(super) packet: B,
    pub(super) flow: Flow,
    pub(super) vip: u16,
    pub(super) via: Via,
    /// It came in fragments, so it may leave in fragments.
    pub(super) was_fragmented: bool,
}

impl<B> Inner<B> {
    #[inline]
    pub(super) const fn origin(&self) -> Origin {
        match self.via {
            Via::Tunnel(_) | Via::Handoff => Origin::Decrypted,
            Via::Clear => Origin::Clear,
        }
    }
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
        let sa = self.sad.inbound(index).ok_or(DropReason::UnknownSpi)?;
        let version = match (sa.mode, esp.next_header) {
            (Mode::Tunnel, protocol::IPV4) => Version::V4,
            (Mode::Tunnel, protocol::IPV6) => Version::V6,
            // RFC 4303 §2.6: "a receiver MUST be prepared to discard such packets, without indicating an error".
            (_, protocol::NO_NEXT_HEADER) => return Err(DropReason::EspDummy),
            (Mode::Tunnel, _) => return Err(DropReason::UnexpectedNextHeader),
            (Mode::Transport, next_header) => self.restore_header(index, &outer, next_header, &mut packet)?,
        };
        let flow = Flow::parse(packet.data()).map_err(|_| DropReason::InnerMalformed)?;
        let header = &flow.header;
        if header.version() != version {
            return Err(DropReason::InnerMalformed);
        }
        // RFC 4303 §2.7: traffic flow confidentiality padding follows the inner packet; its own length says where.
        let padding = packet.data().len().saturating_sub(header.total_len);
        packet.trim_back(padding)?;
        let ecn = combine(header.ecn(), outer.ecn()).ok_or(DropReason::InnerCongestion)?;
        if ecn != header.ecn() {
            ip::set_ecn(packet.data_mut(), ecn)?;
        }
        if header.is_fragment() {
            return self.inner_fragment(now, index, packet, checked);
        }
        self.inner_whole(now, index, packet, flow, false, checked)
    }

    /// Selectors name ports, and services do: they are asked about whole datagrams (RFC 4301 §7).
    #[cold]
    fn inner_fragment(
        &mut self,
        now: Instant,
        index: SaIndex,
        fragment: P::Buf,
        checked: &mut Stage<Inner<P::Buf>>,
    ) -> Verdict {
        let spi = self.sad.inbound(index).ok_or(DropReason::UnknownSpi)?.esp.spi();
        let origin = fragments::of_tunnel(spi.get());
        let Some(whole) = self.reassemble(now, origin, fragment.data())? else { return Ok(()) };
        let flow = Flow::parse(whole.data()).map_err(|_| DropReason::InnerMalformed)?;
        self.inner_whole(now, index, whole, flow, true, checked)
    }

    #[inline]
    fn inner_whole(
        &mut self,
        now: Instant,
        index: SaIndex,
        mut packet: P::Buf,
        flow: Flow,
        was_fragmented: bool,
        checked: &mut Stage<Inner<P::Buf>>,
    ) -> Verdict {
        let header = &flow.header;
        let sa = self.sad.inbound_mut(index).ok_or(DropReason::UnknownSpi)?;
        // RFC 4301 §5.2 step 4: the packet is matched against the inbound selectors identified by the SAD entry.
        if !sa.selectors.match_ends(&flow.ends_from_remote()) {
            return Err(DropReason::InboundSelectorMismatch);
        }
        sad::count(&mut sa.delivered, header.total_len);
        let (vip, has_lanes) = (sa.vip, sa.has_lanes);
        self.counters.esp_in.count(header.total_len);
        let (addressed, table) = self.lookup.vip_at(header.destination).ok_or(DropReason::NotToVip)?;
        if addressed != vip {
            return Err(DropReason::NotToVip);
        }
        // What was parked when the VIP began to be handed over is still delivered: the successor starts behind it.
        if table.state == VipState::Elsewhere {
            return Err(DropReason::VipNotOwned);
        }
        if flow.transport.tcp_flags().is_some_and(|flags| flags.contains(Flags::SYN)) {
            let inner_mtu = self.ready(index)?;
            self.clamp_mss(&flow, inner_mtu, packet.data_mut());
        }
        let inner = Inner { packet, flow, vip, via: Via::Tunnel(index), was_fragmented };
        if matches!(header.protocol, protocol::ICMP | protocol::ICMPV6) {
            return self.inner_icmp(now, index, inner, has_lanes, checked);
        }
        self.pass_inner(inner, has_lanes, checked)
    }

    /// Passes a packet on, or hands it to the home of its connection.
    #[inline]
    fn pass_inner(&mut self, inner: Inner<P::Buf>, has_lanes: bool, checked: &mut Stage<Inner<P::Buf>>) -> Verdict {
        if !self.mates.is_alone()
            && let Some(home) = self.home_of_inner(has_lanes, &inner.flow.tuple_from_remote())
        {
            return self.hand_over_inner(home, inner);
        }
        checked.push(inner);
        Ok(())
    }

    fn hand_over_inner(&mut self, home: WorkerId, inner: Inner<P::Buf>) -> Verdict {
        let Inner { packet, vip, was_fragmented, .. } = inner;
        self.hand_over(home, What::Inner { vip, packet, was_fragmented })
    }

    #[cold]
    fn inner_icmp(
        &mut self,
        now: Instant,
        index: SaIndex,
        inner: Inner<P::Buf>,
        has_lanes: bool,
        checked: &mut Stage<Inner<P::Buf>>,
    ) -> Verdict {
        match icmp_kind(&inner)? {
            Icmp::EchoRequest => self.answer_inner_echo(now, index, inner.packet),
            Icmp::Other => self.pass_inner(inner, has_lanes, checked),
            Icmp::ErrorAbout(tuple) => match self.home_of(inner.vip, &tuple, &Ends::of_connection(&tuple)) {
                Some(home) => self.hand_over_inner(home, inner),
                None => self.deliver_error(now, &tuple, inner),
            },
        }
    }

    /// At the home of its connection: an error goes to the target that it is about, everything else is distributed.
    #[inline]
    pub(super) fn distribute_or_deliver(
        &mut self,
        now: Instant,
        inner: Inner<P::Buf>,
        checked: &mut Stage<Inner<P::Buf>>,
    ) -> Verdict {
        if matches!(inner.flow.header.protocol, protocol::ICMP | protocol::ICMPV6)
            && let Icmp::ErrorAbout(tuple) = icmp_kind(&inner)?
        {
            return self.deliver_error(now, &tuple, inner);
        }
        checked.push(inner);
        Ok(())
    }

    /// It belongs to the target that sent what it quotes (RFC 1191 path MTU discovery lives on this).
    fn deliver_error(&mut self, now: Instant, about: &FiveTuple, inner: Inner<P::Buf>) -> Verdict {
        let target = self.connections.target_of(about)?;
        self.deliver(now, target, inner)
    }

    /// Lowers the segment size that a SYN announces to what fits packets of `mtu` bytes.
    #[cold]
    pub(super) fn clamp_mss(&self, flow: &Flow, mtu: usize, packet: &mut [u8]) {
        let Header { header_len, total_len, .. } = flow.header;
        let mss_max = tcp::mss_for(mtu, flow.header.version());
        let Some(segment) = packet.get_mut(header_len..total_len) else { return };
        if tcp::clamp_mss(segment, mss_max) == Ok(true) {
            self.counters.count(Tally::MssClamped);
        }
    }
}

/// What an ICMP message to a VIP is.
enum Icmp {
    EchoRequest,
    /// An error about a packet of that connection.
    ErrorAbout(FiveTuple),
    Other,
}

#[cold]
fn icmp_kind<B: PacketBuf>(inner: &Inner<B>) -> Result<Icmp, DropReason> {
    let header = &inner.flow.header;
    let bytes = header.payload(inner.packet.data());
    let (is_echo_request, is_error, quote) = match header.version() {
        Version::V4 => {
            let message = icmp::Message::parse(bytes).map_err(|_| DropReason::MalformedIcmp)?;
            (message.is_echo_request(), message.is_error(), message.payload())
        }
        Version::V6 => {
            let message = icmpv6::Message::parse(header.source, header.destination, bytes)
                .map_err(|_| DropReason::MalformedIcmp)?;
            (message.is_echo_request(), message.is_error(), message.payload())
        }
    };
    if is_echo_request {
        return Ok(Icmp::EchoRequest);
    }
    if !is_error {
        return Ok(Icmp::Other);
    }
    let quote = Quote::parse(quote).map_err(|_| DropReason::MalformedIcmp)?;
    if quote.source != header.destination {
        return Err(DropReason::MalformedIcmp);
    }
    Ok(Icmp::ErrorAbout(quoted_tuple(&quote)))
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
