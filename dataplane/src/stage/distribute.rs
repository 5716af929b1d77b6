//! To the target: which one, and how it is reached.

use std::net::IpAddr;
use std::time::Instant;

use vipsec_distribute::connection::{Prepared, Tracking};
use vipsec_distribute::service::{Origin, TargetIndex};
use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ip;

use super::Stage;
use super::inner::Inner;
use crate::drops::{DropReason, Tally};
use crate::path::Path;
use crate::route::NextHop;
use crate::worker::{Verdict, Worker};

impl<P: BufferPool> Worker<P> {
    /// Hands packets to the targets of their connections.
    pub(super) fn to_targets(&mut self, now: Instant, burst: Stage<Inner<P::Buf>>) {
        let prepared = self.connections.prepare(now, burst.iter().map(|inner| inner.flow.tuple_from_remote()));
        for (inner, prepared) in burst.into_iter().zip(&prepared) {
            let verdict = self.to_target(now, prepared, inner);
            self.count(verdict);
        }
    }

    #[inline]
    fn to_target(&mut self, now: Instant, prepared: &Prepared, inner: Inner<P::Buf>) -> Verdict {
        let choice = self.connections.to_target(prepared, Origin::Decrypted, &inner.flow.packet_info())?;
        match choice.tracking {
            Tracking::Known => {}
            Tracking::New => self.counters.count(Tally::ConnectionsNew),
            Tracking::Moved => self.counters.count(Tally::ConnectionsMoved),
            Tracking::Stateless => self.counters.count(Tally::ConnectionsStateless),
        }
        self.deliver(now, choice.target, inner)
    }

    /// Sends a packet as it is, but for its TTL, to a target's MAC address: the target has the VIP itself.
    #[inline]
    pub(super) fn deliver(&mut self, now: Instant, target: TargetIndex, inner: Inner<P::Buf>) -> Verdict {
        let target = self.connections.services().target(target).ok_or(DropReason::NoTargetUp)?.address;
        let Inner { mut packet, flow, vip } = inner;
        // RFC 4301 §5.1.2.1 (2): decremented "by the decapsulator if it forwards the packet".
        ip::decrement_ttl(packet.data_mut()).map_err(|_| DropReason::TtlExpired)?;
        let path = self.path_to_target(vip, flow.header.version(), target)?;
        let bytes = flow.header.total_len;
        if bytes > usize::from(path.mtu) {
            return Err(DropReason::TooBig);
        }
        self.send_along(now, &path, packet)?;
        self.counters.to_targets.count(bytes);
        Ok(())
    }

    #[inline]
    fn path_to_target(&mut self, vip: u16, version: ip::Version, target: IpAddr) -> Result<Path, DropReason> {
        let generation = self.generation();
        if let Some(path) = self.target_paths.get(generation, vip, version, target) {
            return Ok(path);
        }
        let port = self.lookup.routes.inside_port(target).ok_or(DropReason::TargetNotOnLink)?;
        let path = self.path(vip, NextHop { port, address: target }, version)?;
        self.target_paths.put(vip, version, target, path);
        Ok(path)
    }
}
