//! ICMP errors that we send: to targets from the inside gateway, to remote hosts from the VIP, the way that their packets came.

use std::time::Instant;

use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ethernet;
use vipsec_wire::icmp_error::{self, Problem, is_reportable};
use vipsec_wire::ip::{Address, Header};

use super::inner::{Inner, Via};
use super::inside::Reply;
use crate::drops::{DropReason, Tally};
use crate::worker::{Verdict, Worker};

impl<P: BufferPool> Worker<P> {
    /// Tells the target that sent a frame what is wrong with it.
    #[cold]
    pub(super) fn tell_target(&mut self, now: Instant, problem: Problem, reply: &Reply<P::Buf>) -> Verdict {
        let (ethernet, packet) = ethernet::Header::parse(reply.frame.data()).map_err(|_| DropReason::MalformedFrame)?;
        let (port, header) = (reply.port, &reply.flow.header);
        if !is_reportable(header, packet, problem) || !self.icmp_error_policer.allows(now) {
            return Ok(());
        }
        let source = self.lookup.inside_source(reply.vip, port, header.source).ok_or(DropReason::OtherFamily)?;
        let mut error = self.icmp_error(problem, source, packet)?;
        // The target has the VIP as its own address; the frame's source says which target it was.
        let back = ethernet::Header { destination: ethernet.source, source: ethernet.destination, ..ethernet };
        error.prepend(ethernet::HEADER_LEN)?;
        back.emit(error.data_mut())?;
        self.transmit(port, error)?;
        self.counters.count(Tally::IcmpErrors);
        Ok(())
    }

    /// Tells the remote host that sent a packet what is wrong with it.
    #[cold]
    pub(super) fn tell_remote(&mut self, now: Instant, problem: Problem, inner: &Inner<P::Buf>) -> Verdict {
        let (packet, header) = (inner.packet.data(), &inner.flow.header);
        if !is_reportable(header, packet, problem) || !self.icmp_error_policer.allows(now) {
            return Ok(());
        }
        let error = self.icmp_error(problem, header.destination, packet)?;
        let header = Header::parse(error.data()).map_err(|_| DropReason::MalformedIp)?;
        match inner.via {
            Via::Tunnel(index) => self.protect_by(now, index, &header, error)?,
            Via::Handoff => self.protect(now, inner.vip, error)?,
            Via::Clear => self.send_clear(now, inner.vip, &header, error)?,
        }
        self.counters.count(Tally::IcmpErrors);
        Ok(())
    }

    fn icmp_error(&mut self, problem: Problem, source: Address, offending: &[u8]) -> Result<P::Buf, DropReason> {
        let identification = self.next_identification() as u16;
        let mut error = self.pool.alloc().ok_or(DropReason::BufferPoolEmpty)?;
        icmp_error::write(problem, source, identification, offending, &mut error)?;
        Ok(error)
    }
}
