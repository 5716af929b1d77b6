//! Neighbour discovery: answers for our IPv6 addresses, learns about neighbours, asks for them (RFC 4861 §7).

use std::net::Ipv6Addr;
use std::time::Instant;

use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ethernet::{self, MacAddr};
use vipsec_wire::icmpv6::kind;
use vipsec_wire::ip::{Header, protocol};
use vipsec_wire::ndp::{Advertisement, Message, NdpError, Solicitation};

use crate::api::{PortId, Side, VipState};
use crate::drops::{DropReason, Tally};
use crate::transmit::SentAs;
use crate::worker::{Verdict, Worker};

/// Is it neighbour discovery? It is told by its type, since it may be for everybody.
#[inline]
pub(super) fn is_ndp(header: &Header, packet: &[u8]) -> bool {
    header.protocol == protocol::ICMPV6
        && header.payload(packet).first().is_some_and(|kind| matches!(*kind, 133..=kind::REDIRECT))
}

impl<P: BufferPool> Worker<P> {
    #[cold]
    pub(super) fn ndp(
        &mut self,
        now: Instant,
        port: PortId,
        ethernet: &ethernet::Header,
        header: &Header,
        frame: P::Buf,
    ) -> Verdict {
        let packet = frame.data().get(ethernet::HEADER_LEN..).unwrap_or_default();
        let message = Message::parse(header, packet).map_err(|error| match error {
            // Of routers, or a question for one.
            NdpError::OtherMessage => DropReason::NdpNotForUs,
            _ => DropReason::MalformedNdp,
        })?;
        match message {
            Message::Solicitation(solicitation) => self.solicitation(now, port, ethernet, &solicitation, frame),
            Message::Advertisement(advertisement) => self.advertised(now, port, &advertisement),
        }
    }

    /// Somebody asks.
    fn solicitation(
        &mut self,
        now: Instant,
        port: PortId,
        ethernet: &ethernet::Header,
        solicitation: &Solicitation,
        frame: P::Buf,
    ) -> Verdict {
        let sender = solicitation.source.zip(solicitation.link_layer);
        if let Some((source, mac)) = sender {
            if self.lookup.own_address(port, source).is_some_and(|own| own.is_active() && own.mac != mac) {
                self.counters.count(Tally::AddressConflicts);
            } else if self.lookup.own_address(port, source).is_none() {
                self.learn(now, port, source.into(), mac);
            }
        }
        match self.lookup.own_address(port, solicitation.target) {
            Some(own) if own.is_active() && own.mac != ethernet.source => {
                if let Some((source, mac)) = sender {
                    self.meet(now, port, source.into(), mac);
                }
                // RFC 4861 §7.2.4: who has to be told is the sender of the question; without a link-layer option, whom it came from.
                let to = solicitation.link_layer.unwrap_or(ethernet.source);
                let answer = solicitation.answer(own.mac, self.is_router(port));
                self.send_own(port, &answer.to_frame(own.mac, to))?;
                self.counters.count(Tally::NdpReplies);
                Ok(())
            }
            Some(own) if own.is_active() => Ok(()),
            // What is sent to everybody the new owner hears itself.
            Some(own) if own.state == VipState::HandingOver && own.mac == ethernet.destination => {
                self.hold(now, port, ethernet, own, frame)
            }
            _ => Err(DropReason::NdpNotForUs),
        }
    }

    /// Answers for a port's own address, which never moves.
    #[cold]
    pub(super) fn ndp_as_host(
        &mut self,
        port: PortId,
        ethernet: &ethernet::Header,
        header: &Header,
        frame: P::Buf,
    ) -> Verdict {
        let packet = frame.data().get(ethernet::HEADER_LEN..).unwrap_or_default();
        let Ok(Message::Solicitation(solicitation)) = Message::parse(header, packet) else {
            return Err(DropReason::DeadlinePassed);
        };
        let own = self.lookup.own_address(port, solicitation.target);
        let own = own.filter(|own| own.vip.is_none() && own.mac != ethernet.source);
        let own = own.ok_or(DropReason::DeadlinePassed)?;
        let to = solicitation.link_layer.unwrap_or(ethernet.source);
        let answer = solicitation.answer(own.mac, self.is_router(port)).to_frame(own.mac, to);
        self.send_own_as(SentAs::Host, port, &answer)?;
        self.counters.count(Tally::NdpReplies);
        Ok(())
    }

    /// Somebody says that it has an address.
    fn advertised(&mut self, now: Instant, port: PortId, advertisement: &Advertisement) -> Verdict {
        let Some(mac) = advertisement.link_layer else { return Err(DropReason::NdpNotForUs) };
        let target = advertisement.target;
        if let Some(own) = self.lookup.own_address(port, target) {
            if own.is_active() && own.mac != mac {
                self.counters.count(Tally::AddressConflicts);
            }
            return Err(DropReason::NdpNotForUs);
        }
        // RFC 4861 §7.2.5: without the override flag, an advertisement doesn't replace an address that is known.
        let known = self.neighbours.known(port, target.into());
        if advertisement.overrides || known.is_none_or(|known| known == mac) {
            self.learn(now, port, target.into(), mac);
        }
        Ok(())
    }

    /// Targets have a gateway of ours as their router. Outside, a VIP is a host.
    fn is_router(&self, port: PortId) -> bool {
        self.lookup.port(port).is_some_and(|port| port.side == Side::Inside)
    }

    pub(super) fn send_solicitation(
        &mut self,
        port: PortId,
        (sender, mac): (Ipv6Addr, MacAddr),
        target: Ipv6Addr,
        known: Option<MacAddr>,
    ) -> Verdict {
        let solicitation = match known {
            Some(_) => Solicitation::probe(sender, mac, target),
            None => Solicitation::new(sender, mac, target),
        };
        self.send_own(port, &solicitation.to_frame(mac, known.unwrap_or_default()))?;
        self.counters.count(Tally::NdpRequests);
        Ok(())
    }
}
