//! The last stage: Ethernet header, neighbour, transmit queue.

use std::time::Instant;

use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ethernet::{HEADER_LEN, Header};
use vipsec_wire::ip::{Address, Version};

use crate::drops::DropReason;
use crate::path::Path;
use crate::route::NextHop;
use crate::worker::{Verdict, Worker};

impl<P: BufferPool> Worker<P> {
    /// How a VIP's packets of that version get to a neighbour, as far as it is known now.
    #[inline]
    pub(super) fn path(&mut self, vip: u16, next_hop: NextHop, version: Version) -> Result<Path, DropReason> {
        let generation = self.generation();
        self.paths.enter(generation);
        match self.paths.to_neighbour(vip, next_hop, version) {
            Some(path) => Ok(path),
            None => self.make_path(vip, next_hop, version),
        }
    }

    /// How a VIP's packets in the clear get to a remote host, as far as it is known now.
    #[inline]
    pub(super) fn path_to_remote(&mut self, vip: u16, host: Address) -> Result<Path, DropReason> {
        let generation = self.generation();
        self.paths.enter(generation);
        match self.paths.to_remote(vip, host) {
            Some(path) => Ok(path),
            None => self.make_path_to_remote(vip, host),
        }
    }

    #[cold]
    fn make_path_to_remote(&mut self, vip: u16, host: Address) -> Result<Path, DropReason> {
        let next_hop = self.lookup.routes.next_hop(host).ok_or(DropReason::NoRoute)?;
        let path = self.path(vip, next_hop, host.version())?;
        self.paths.keep_to_remote(vip, host, path);
        Ok(path)
    }

    #[cold]
    fn make_path(&mut self, vip: u16, next_hop: NextHop, version: Version) -> Result<Path, DropReason> {
        let NextHop { port, address } = next_hop;
        let mtu = self.lookup.port(port).ok_or(DropReason::UnknownPort)?.mtu;
        let source = self.lookup.source_mac(vip, port).ok_or(DropReason::UnknownPort)?;
        let neighbour = self.neighbours.resolved(port, address);
        let destination = neighbour.unwrap_or_default();
        let ethernet = Header { destination, source, ethertype: version.ethertype() }.to_bytes();
        let path = Path { next_hop, ethernet, mtu, is_resolved: neighbour.is_some() };
        self.paths.keep_to_neighbour(vip, version, path);
        Ok(path)
    }

    /// Sends an IP packet along a path.
    #[inline]
    pub(super) fn send_along(&mut self, now: Instant, path: &Path, mut packet: P::Buf) -> Verdict {
        packet.prepend(HEADER_LEN)?;
        *packet.data_mut().first_chunk_mut().ok_or(DropReason::NoRoom)? = path.ethernet;
        self.send_frame_along(now, path, packet)
    }

    /// Sends a frame that begins with the path's Ethernet header, once its neighbour is resolved.
    #[inline]
    pub(super) fn send_frame_along(&mut self, now: Instant, path: &Path, frame: P::Buf) -> Verdict {
        if path.is_resolved { self.transmit(path.next_hop.port, frame) } else { self.wait(now, path.next_hop, frame) }
    }

    /// The neighbour cache fills the destination in when it is known.
    #[cold]
    fn wait(&mut self, now: Instant, next_hop: NextHop, frame: P::Buf) -> Verdict {
        let NextHop { port, address } = next_hop;
        // An older packet may have made room for this one.
        let verdict = self.neighbours.wait(now, port, address, frame);
        self.count(verdict);
        Ok(())
    }
}
