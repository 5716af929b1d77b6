//! Into the tunnel: seal, and put the outer headers on.

use std::time::Instant;

use vipsec_esp::sa::{Mode, Processing};
use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ip::{self, Header, protocol};

use super::transport::{Kept, put_udp};
use crate::drops::DropReason;
use crate::path::Path;
use crate::sad::{self, SaIndex};
use crate::template::{Fields, Template};
use crate::worker::{Verdict, Worker};

impl<P: BufferPool> Worker<P> {
    /// Has an SA's outer headers ready, made for tables and neighbours as they are now. Returns the largest packet that fits the outer
    /// network in one piece once it is protected, in bytes.
    #[inline]
    pub(super) fn ready(&mut self, index: SaIndex) -> Result<usize, DropReason> {
        let generation = self.generation();
        let sa = self.sad.outbound(index).ok_or(DropReason::NoOutboundSa)?;
        if sa.template.is_of(generation) {
            return Ok(usize::from(sa.template.inner_mtu));
        }
        self.make_template(index)
    }

    #[cold]
    fn make_template(&mut self, index: SaIndex) -> Result<usize, DropReason> {
        let generation = self.generation();
        let tunnel = self.sad.tunnel(index).ok_or(DropReason::NoOutboundSa)?;
        let sa = self.sad.outbound(index).ok_or(DropReason::NoOutboundSa)?;
        let (vip, mode, path_mtu) = (sa.vip, sa.mode, sa.path_mtu());
        let next_hop = self.lookup.routes.next_hop(tunnel.remote).ok_or(DropReason::NoRoute)?;
        let path = self.path(vip, next_hop, ip::Address::from(tunnel.remote).version())?;
        let template = Template::new(&tunnel, mode, path, path_mtu, generation)?;
        let inner_mtu = usize::from(template.inner_mtu);
        self.sad.outbound_mut(index).ok_or(DropReason::NoOutboundSa)?.template = template;
        Ok(inner_mtu)
    }

    /// Sends a packet through an SA that is [`ready`](Self::ready) and whose MTU it fits. `header` is the packet's.
    #[inline]
    pub(super) fn encapsulate(&mut self, now: Instant, index: SaIndex, header: &Header, mut packet: P::Buf) -> Verdict {
        let identification = self.next_identification() as u16;
        let sa = self.sad.outbound_mut(index).ok_or(DropReason::NoOutboundSa)?;
        if sa.mode == Mode::Transport {
            return self.encapsulate_transport(now, index, header, packet);
        }
        if sa.processing == Processing::Lookaside {
            return self.seal_in_device(index, header, identification, packet);
        }
        sa.esp.seal(&mut packet, header.version().protocol())?;
        let path = sa.dress(&mut packet, Fields::new(sa.policy, header, identification), header.total_len)?;
        let wants_more = sa.esp.wants_more();
        self.counters.esp_out.count(header.total_len);
        if wants_more {
            self.touch(index);
        }
        self.send_frame_along(now, &path, packet)
    }

    /// In transport mode the packet keeps its IP header.
    #[cold]
    fn encapsulate_transport(&mut self, now: Instant, index: SaIndex, header: &Header, mut packet: P::Buf) -> Verdict {
        let tunnel = self.sad.tunnel(index).ok_or(DropReason::NoOutboundSa)?;
        // RFC 4301 §4.1: a transport mode SA is "between a pair of hosts", and the packet's header is all that says where it goes.
        if (header.source, header.destination) != (tunnel.local.into(), tunnel.remote.into()) {
            return Err(DropReason::NoOutboundSa);
        }
        let sa = self.sad.outbound_mut(index).ok_or(DropReason::NoOutboundSa)?;
        if sa.processing == Processing::Lookaside {
            // The identification is the header's own.
            return self.seal_in_device(index, header, 0, packet);
        }
        let kept = Kept::take(header, &mut packet)?;
        sa.esp.seal(&mut packet, header.protocol)?;
        sad::count(&mut sa.sealed, header.total_len);
        let (path, wants_more) = (sa.template.path, sa.esp.wants_more());
        self.counters.esp_out.count(header.total_len);
        if wants_more {
            self.touch(index);
        }
        self.put_header_back(index, kept, &mut packet)?;
        self.send_transport(now, &path, packet)
    }

    /// Puts in front of a sealed packet what it had there, with UDP between if its SA has.
    pub(super) fn put_header_back(&self, index: SaIndex, kept: Kept, packet: &mut P::Buf) -> Verdict {
        let tunnel = self.sad.tunnel(index).ok_or(DropReason::NoOutboundSa)?;
        let outer_protocol = match tunnel.udp {
            Some(ports) => {
                put_udp(ports, (tunnel.local, tunnel.remote), packet)?;
                protocol::UDP
            }
            None => protocol::ESP,
        };
        kept.put_back(outer_protocol, packet)
    }

    /// Sends a packet that was protected in transport mode, in fragments if that made it too big.
    pub(super) fn send_transport(&mut self, now: Instant, path: &Path, packet: P::Buf) -> Verdict {
        if packet.data().len() > usize::from(path.mtu) {
            return self.send_in_fragments(now, path, packet.data());
        }
        self.send_along(now, path, packet)
    }

    pub(super) fn is_transport(&self, index: SaIndex) -> bool {
        self.sad.outbound(index).is_some_and(|sa| sa.mode == Mode::Transport)
    }
}
