//! ICMP errors from the outside network to a VIP: about a tunnel's packets, or about those of a connection in the clear.

use std::time::Instant;

use vipsec_distribute::service::Origin;
use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ip::{Address, Header, Version, protocol};
use vipsec_wire::quote::Quote;
use vipsec_wire::{ethernet, icmp, icmpv6};

use super::inner::{Inner, Via};
use super::outside::NAT_TRAVERSAL_PORT;
use crate::api::PortId;
use crate::drops::{DropReason, Tally};
use crate::flow::{Flow, quoted_tuple};
use crate::handoff::{Came, What};
use crate::sad::SaIndex;
use crate::worker::{Verdict, Worker};

/// What an ICMP error says.
struct Error<'a> {
    /// The next hop's MTU, if it is about a packet that was too big.
    mtu: Option<u32>,
    quote: &'a [u8],
}

fn parse<'a>(header: &Header, packet: &'a [u8]) -> Result<Error<'a>, DropReason> {
    let bytes = header.payload(packet);
    match header.version() {
        Version::V4 => {
            let message = icmp::Message::parse(bytes).map_err(|_| DropReason::MalformedIcmp)?;
            Ok(Error { mtu: message.next_hop_mtu().map(u32::from), quote: message.payload() })
        }
        Version::V6 => {
            let message = icmpv6::Message::parse(header.source, header.destination, bytes)
                .map_err(|_| DropReason::MalformedIcmp)?;
            Ok(Error { mtu: message.next_hop_mtu(), quote: message.payload() })
        }
    }
}

/// Is it an ICMP error?
#[inline]
pub(super) fn is_icmp_error(header: &Header, packet: &[u8]) -> bool {
    let kind = header.payload(packet).first().copied();
    match header.protocol {
        protocol::ICMP => kind.is_some_and(icmp::is_error),
        protocol::ICMPV6 => kind.is_some_and(icmpv6::is_error),
        _ => false,
    }
}

impl<P: BufferPool> Worker<P> {
    /// Takes an ICMP error in the clear.
    #[cold]
    pub(super) fn outside_error(
        &mut self,
        now: Instant,
        (port, ethernet): (PortId, &ethernet::Header),
        vip: u16,
        header: &Header,
        packet: P::Buf,
        came: Came,
    ) -> Verdict {
        let error = parse(header, packet.data())?;
        let quote = Quote::parse(error.quote).map_err(|_| DropReason::MalformedIcmp)?;
        if quote.source != header.destination {
            return Err(DropReason::MalformedIcmp);
        }
        let in_udp = || quote.ports().filter(|(source, _)| *source == NAT_TRAVERSAL_PORT).and(quote.esp_in_udp_spi());
        if let Some(spi) = quote.esp_spi().or_else(in_udp) {
            return self.path_mtu_of(now, spi, quote.destination, error.mtu);
        }
        // It belongs to the target that sent what it quotes, if that went out in the clear.
        let tuple = quoted_tuple(&quote);
        if let Some(home) = self.home_of_clear(&tuple).filter(|_| came == Came::ByPort) {
            return self.hand_over_as_frame(port, home, ethernet, packet);
        }
        let service = self.lookup.services().service(&tuple).ok_or(DropReason::UnknownService)?;
        service.accepts.check(Origin::Clear)?;
        let target = self.connections.target_of(&tuple)?;
        let flow = Flow::parse(packet.data()).map_err(|_| DropReason::MalformedIp)?;
        self.deliver(now, target, Inner { packet, flow, vip, via: Via::Clear, was_fragmented: false })
    }

    /// RFC 4301 §8.2: an unauthenticated message about the path MTU is taken when what it quotes fits an SA of ours, and not below what
    /// every link of that family carries.
    fn path_mtu_of(&mut self, now: Instant, spi: u32, remote: Address, mtu: Option<u32>) -> Verdict {
        let mtu = mtu.ok_or(DropReason::UnansweredIcmp)?;
        match self.sad.find_by_remote_spi(remote, spi) {
            Some(index) => self.lower_path_mtu(now, index, mtu),
            // The peer's SPIs are not known of other workers' SAs; they know themselves.
            None if self.sad.knows_others() => self.tell_mates(|| What::PathMtu { remote, spi, mtu }),
            None => return Err(DropReason::UnansweredIcmp),
        }
        Ok(())
    }

    pub(super) fn lower_path_mtu(&mut self, now: Instant, index: SaIndex, mtu: u32) {
        let nanos = self.nanos(now);
        if self.sad.lower_path_mtu(nanos, index, mtu) {
            self.counters.count(Tally::PathMtuLowered);
        }
    }
}
