//! To the target: which one, and how it is reached.

use std::time::Instant;

use vipsec_distribute::connection::{Pin, Prepared, Tracking};
use vipsec_distribute::service::{Forwarding, TargetIndex};
use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::encapsulation::{Encapsulation, PerPacket, Tunnel, UdpChecksum};
use vipsec_wire::fragment::Fragments;
use vipsec_wire::icmp_error::Problem;
use vipsec_wire::ip::{self, Address};

use super::Stage;
use super::inner::Inner;
use crate::drops::{DropReason, Tally};
use crate::flow::Flow;
use crate::path::{Path, TargetKey, TargetPath};
use crate::route::NextHop;
use crate::worker::{Verdict, Worker};

impl<P: BufferPool> Worker<P> {
    /// Hands packets to the targets of their connections.
    pub(super) fn distribute(&mut self, now: Instant, burst: &mut Stage<Inner<P::Buf>>) {
        if burst.is_empty() {
            return;
        }
        let generation = self.generation();
        self.paths.enter(generation);
        let prepared = self.connections.prepare(now, burst.iter().map(|inner| inner.flow.tuple_from_remote()));
        let (mut packets, mut bytes) = (0, 0);
        for (inner, prepared) in burst.drain(..).zip(&prepared) {
            let total_len = inner.flow.header.total_len;
            let waiting = self.pins.waiting.len();
            let verdict = self.choose(now, now, prepared, inner);
            if verdict.is_ok() && self.pins.waiting.len() == waiting {
                packets += 1;
                bytes += total_len;
            }
            self.count(verdict);
        }
        self.counters.to_targets.add(packets, bytes);
    }

    /// `since`: when the packet came.
    #[inline]
    pub(super) fn choose(
        &mut self,
        now: Instant,
        since: Instant,
        prepared: &Prepared,
        inner: Inner<P::Buf>,
    ) -> Verdict {
        let choice = self.connections.to_target(prepared, inner.origin(), &inner.flow.packet_info())?;
        match choice.tracking {
            Tracking::Known => {}
            Tracking::New => self.counters.count(Tally::ConnectionsNew),
            Tracking::Moved => self.counters.count(Tally::ConnectionsMoved),
            Tracking::Stateless => self.counters.count(Tally::ConnectionsStateless),
        }
        if choice.pin == Pin::Awaited {
            return self.await_pin(since, inner);
        }
        self.deliver(now, choice.target, inner)
    }

    /// Sends a packet to a target, as it is but for its time to live and what may have to wrap it.
    #[inline]
    pub(super) fn deliver(&mut self, now: Instant, target: TargetIndex, mut inner: Inner<P::Buf>) -> Verdict {
        let header = inner.flow.header;
        let (path, mtu, is_wrapped) = self.path_to_target(inner.vip, header.version(), target)?;
        if header.total_len > usize::from(mtu) {
            return self.deliver_in_fragments(now, &path, mtu, target, inner);
        }
        // RFC 4301 §5.1.2.1 (2): decremented "by the decapsulator if it forwards the packet".
        if ip::decrement_ttl(inner.packet.data_mut()).is_err() {
            self.tell_remote(now, Problem::TtlExpired, &inner)?;
            return Err(DropReason::TtlExpired);
        }
        if is_wrapped {
            self.wrap(inner.vip, &inner.flow, target, &mut inner.packet)?;
        }
        self.send_along(now, &path, inner.packet)
    }

    /// A packet that is too big for the way to its target.
    #[cold]
    fn deliver_in_fragments(
        &mut self,
        now: Instant,
        path: &Path,
        mtu: u16,
        target: TargetIndex,
        mut inner: Inner<P::Buf>,
    ) -> Verdict {
        if inner.flow.header.dont_fragment && !inner.was_fragmented {
            self.tell_remote(now, Problem::TooBig { mtu: u32::from(mtu) }, &inner)?;
            return Err(DropReason::TooBig);
        }
        ip::decrement_ttl(inner.packet.data_mut()).map_err(|_| DropReason::TtlExpired)?;
        let identification = self.next_identification();
        let mut pieces = Fragments::new(inner.packet.data(), usize::from(mtu), identification)?;
        while let Some(piece) = pieces.next(&mut self.pool) {
            let mut piece = piece?;
            self.wrap(inner.vip, &inner.flow, target, &mut piece)?;
            self.send_along(now, path, piece)?;
        }
        self.counters.count(Tally::Fragmented);
        Ok(())
    }

    /// Puts in front of a packet what its target's forwarding method puts there.
    #[inline]
    fn wrap(&mut self, vip: u16, flow: &Flow, target: TargetIndex, packet: &mut P::Buf) -> Verdict {
        let version = flow.header.version();
        let key = TargetKey::new(vip, version, target.0);
        let identification = self.next_identification() as u16;
        let tunnel = match self.paths.to_target(key) {
            Some(known) => known.tunnel,
            None => self.make_path_to_target(vip, version, target)?.tunnel,
        };
        if let Some(tunnel) = tunnel {
            tunnel.encapsulate(packet, PerPacket { identification, flow_hash: flow.hash() })?;
        }
        Ok(())
    }

    /// The path, the largest packet that it carries, and whether it wraps packets.
    #[inline]
    fn path_to_target(
        &mut self,
        vip: u16,
        version: ip::Version,
        target: TargetIndex,
    ) -> Result<(Path, u16, bool), DropReason> {
        let key = TargetKey::new(vip, version, target.0);
        if let Some(known) = self.paths.to_target(key) {
            return Ok((known.path, known.mtu, known.tunnel.is_some()));
        }
        let made = self.make_path_to_target(vip, version, target)?;
        self.paths.keep_to_target(key, made);
        Ok((made.path, made.mtu, made.tunnel.is_some()))
    }

    #[cold]
    fn make_path_to_target(
        &mut self,
        vip: u16,
        version: ip::Version,
        target: TargetIndex,
    ) -> Result<TargetPath, DropReason> {
        let target = self.connections.services().target(target).ok_or(DropReason::NoTargetUp)?;
        let (address, forwarding) = (target.address, target.forwarding);
        let encapsulation = match forwarding {
            Forwarding::Local => {
                let path = self.path_to_host(version)?;
                return Ok(TargetPath { path, mtu: path.mtu, tunnel: None });
            }
            Forwarding::Mac => {
                let port = self.lookup.routes.inside_port(address).ok_or(DropReason::TargetNotOnLink)?;
                let path = self.path(vip, NextHop { port, address }, version)?;
                return Ok(TargetPath { path, mtu: path.mtu, tunnel: None });
            }
            Forwarding::IpInIp => Encapsulation::IpInIp,
            // RFC 768 and RFC 8200 §8.1: only over IPv4 may the sender leave the checksum out.
            Forwarding::Gue { port } if address.is_ipv4() => Encapsulation::Gue { port, checksum: UdpChecksum::Zero },
            Forwarding::Gue { port } => Encapsulation::Gue { port, checksum: UdpChecksum::Computed },
        };
        let next_hop = self.lookup.routes.next_hop(address).ok_or(DropReason::NoRoute)?;
        let destination = Address::from(address);
        let source = self.lookup.inside_source(vip, next_hop.port, destination).ok_or(DropReason::OtherFamily)?;
        let tunnel = Tunnel::new(source.into(), address, encapsulation).map_err(|_| DropReason::OtherFamily)?;
        let path = self.path(vip, next_hop, destination.version())?;
        let mtu = usize::from(path.mtu).saturating_sub(tunnel.overhead()) as u16;
        Ok(TargetPath { path, mtu, tunnel: Some(tunnel) })
    }
}
