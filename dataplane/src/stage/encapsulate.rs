//! Into the tunnel: seal, and put the outer headers on.

use std::time::Instant;

use vipsec_wire::buffer::BufferPool;
use vipsec_wire::ip::{self, Header};

use crate::drops::DropReason;
use crate::path::Path;
use crate::sad::{self, SaIndex};
use crate::template::{Fields, Template};
use crate::worker::{Verdict, Worker};

impl<P: BufferPool> Worker<P> {
    /// Has an SA's outer headers ready, made for tables and neighbours as they are now. Returns the largest inner packet that fits the
    /// outer network in one piece, in bytes.
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
        let vip = self.sad.outbound(index).ok_or(DropReason::NoOutboundSa)?.vip;
        let next_hop = self.lookup.routes.next_hop(tunnel.remote).ok_or(DropReason::NoRoute)?;
        let path = self.path(vip, next_hop, ip::Address::from(tunnel.remote).version())?;
        let template = Template::new(&tunnel, path, generation)?;
        let inner_mtu = usize::from(template.inner_mtu);
        self.sad.outbound_mut(index).ok_or(DropReason::NoOutboundSa)?.template = template;
        Ok(inner_mtu)
    }

    /// Sends an inner packet through an SA that is [`ready`](Self::ready) and whose MTU it fits. `header` is the packet's.
    #[inline]
    pub(super) fn encapsulate(&mut self, now: Instant, index: SaIndex, header: &Header, mut packet: P::Buf) -> Verdict {
        let identification = self.next_identification();
        let sa = self.sad.outbound_mut(index).ok_or(DropReason::NoOutboundSa)?;
        sa.esp.seal(&mut packet, header.version().protocol())?;
        sad::count(&mut sa.sealed, header.total_len);
        let fields = Fields {
            // DSCP and ECN of the inner header are copied: RFC 4301 §5.1.2.1, RFC 6040 §4.1 (normal mode).
            traffic_class: header.traffic_class,
            identification,
            // RFC 4301 §5.1.2.1 (4): "Configuration determines whether to copy from the inner header (IPv4 only), clear, or set the
            // DF". Clear: path MTU messages from the outer network are unauthenticated and not taken, so with DF set a smaller MTU
            // on the way would be a black hole.
            dont_fragment: false,
        };
        sa.template.put_on(&mut packet, fields)?;
        let (path, wants_more): (Path, bool) = (sa.template.path, sa.esp.wants_more());
        self.counters.esp_out.count(header.total_len);
        if wants_more {
            self.touch(index);
        }
        self.send_frame_along(now, &path, packet)
    }
}
