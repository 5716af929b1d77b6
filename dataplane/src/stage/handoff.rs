//! From worker to worker: to whom a packet is handed, and what becomes of what others hand over.

use std::time::Instant;

use vipsec_distribute::tuple::FiveTuple;
use vipsec_wire::buffer::{BufferPool, Burst, PacketBuf};
use vipsec_wire::ethernet;
use vipsec_wire::ip::Header;

use super::Stage;
use super::inner::{Inner, Via};
use super::inside::{Reply, Way};
use crate::api::{PortId, VipState, WorkerId};
use crate::drops::{DropReason, Tally};
use crate::flow::Flow;
use crate::handoff::{Came, Handoff, What};
use crate::sad::{Carrier, Living, SaIndex};
use crate::selector::Ends;
use crate::transmit::SentAs;
use crate::worker::{Verdict, Worker};

impl<P: BufferPool> Worker<P> {
    /// Hands something to another worker.
    pub(crate) fn hand_over(&mut self, to: WorkerId, what: What<P::Buf>) -> Verdict {
        let is_packet = what.is_packet();
        let handoff = Handoff { tables: self.tables_version, what };
        self.mates.push(to, handoff).map_err(|_| DropReason::HandoffQueueFull)?;
        self.counters.count_many(Tally::HandedOver, usize::from(is_packet));
        Ok(())
    }

    /// Tells every other worker something. Who has no room for it finds out by itself.
    #[cold]
    pub(super) fn tell_mates(&mut self, word: impl Fn() -> What<P::Buf>) {
        for mate in self.mates.others() {
            let _ = self.hand_over(mate, word());
        }
    }

    /// The other worker that is the home of a connection, if there is one.
    #[inline]
    pub(super) fn home_of(&self, vip: u16, tuple: &FiveTuple, ends: &Ends) -> Option<WorkerId> {
        if self.mates.is_alone() {
            return None;
        }
        let services = self.lookup.services();
        let living =
            if self.mates.may_be_clear(services, tuple) { Living::AtHash } else { self.sad.find_living(vip, ends)? };
        match living {
            Living::Here => None,
            Living::There(worker) => Some(worker),
            Living::AtHash => self.unless_here(self.mates.by_hash(services, tuple)),
        }
    }

    /// The same for one whose packet came in the clear.
    #[inline]
    pub(super) fn home_of_clear(&self, tuple: &FiveTuple) -> Option<WorkerId> {
        let services = self.lookup.services();
        if self.mates.is_alone() || !self.mates.may_be_clear(services, tuple) {
            return None;
        }
        self.unless_here(self.mates.by_hash(services, tuple))
    }

    /// The same for one whose packet came through an SA of this worker.
    #[inline]
    pub(super) fn home_of_inner(&self, has_lanes: bool, tuple: &FiveTuple) -> Option<WorkerId> {
        let services = self.lookup.services();
        if self.mates.is_alone() || !(has_lanes || self.mates.is_mixed(services, tuple)) {
            return None;
        }
        self.unless_here(self.mates.by_hash(services, tuple))
    }

    pub(super) fn unless_here(&self, home: WorkerId) -> Option<WorkerId> {
        (home != self.mates.me()).then_some(home)
    }

    /// Takes what other workers hand over.
    pub fn handle_handoffs(&mut self, now: Instant, handoffs: impl IntoIterator<Item = Handoff<P::Buf>>) {
        // Rule R5: who handed it over was in time then.
        let may_act = !self.deadline.has_passed(now);
        let mut batch = Batch { frames: Burst::new(), of: None, inner: Stage::new(), replies: Stage::new() };
        for handoff in handoffs {
            if handoff.what.is_packet() {
                self.counters.count(Tally::TakenFromOthers);
            }
            let verdict = self.take(now, handoff, may_act, &mut batch);
            self.count(verdict);
        }
        self.take_frames(now, may_act, &mut batch);
        self.distribute(now, &mut batch.inner);
        self.send_replies(now, &mut batch.replies);
        self.end_round(now);
    }

    #[inline]
    fn take(&mut self, now: Instant, handoff: Handoff<P::Buf>, may_act: bool, batch: &mut Batch<P::Buf>) -> Verdict {
        let Handoff { tables, what } = handoff;
        match what {
            What::Frame { port, frame, came } => {
                if batch.of != Some((port, came)) || batch.frames.is_full() {
                    self.take_frames(now, may_act, batch);
                    batch.of = Some((port, came));
                }
                batch.frames.push(frame);
                return Ok(());
            }
            What::Neighbour { port, address, mac, is_known } => {
                let waiting = if is_known {
                    self.neighbours.handle_introduction(now, port, address, mac)
                } else {
                    self.neighbours.handle_claim(now, port, address, mac)
                };
                self.send_waiting(port, mac, waiting);
                return Ok(());
            }
            What::Leaving { port, frame, sent_as: SentAs::Host } => self.send_as_host(port, frame)?,
            _ if !may_act => return Err(DropReason::DeadlinePassed),
            // As what waits here when a VIP goes: of which VIP it is, is not looked at.
            _ if tables < self.vip_lost_in => return Err(DropReason::VipNotOwned),
            What::Inner { vip, packet, was_fragmented } => {
                let inner = self.taken_inner(vip, packet, was_fragmented)?;
                self.distribute_or_deliver(now, inner, &mut batch.inner)?;
                if batch.inner.is_full() {
                    self.distribute(now, &mut batch.inner);
                }
            }
            What::Reply { port, frame, was_fragmented } => {
                batch.replies.extend(self.taken_reply(now, port, frame, was_fragmented)?);
                if batch.replies.is_full() {
                    self.send_replies(now, &mut batch.replies);
                }
            }
            What::Own { vip, packet } => self.protect_own(now, vip, packet)?,
            What::Leaving { port, frame, sent_as: SentAs::Owner } => self.transmit(port, frame)?,
            What::PathMtu { remote, spi, mtu } => {
                if let Some(index) = self.sad.find_by_remote_spi(remote, spi) {
                    self.lower_path_mtu(now, index, mtu);
                }
            }
        }
        Ok(())
    }

    fn take_frames(&mut self, now: Instant, may_act: bool, batch: &mut Batch<P::Buf>) {
        if let Some((port, came)) = batch.of.take() {
            self.receive(now, port, std::mem::take(&mut batch.frames), may_act, came);
        }
    }

    fn taken_inner(&self, vip: u16, packet: P::Buf, was_fragmented: bool) -> Result<Inner<P::Buf>, DropReason> {
        // As with what was parked: while the VIP is being handed over, what was admitted before is still delivered.
        let state = self.lookup.vip(vip).map(|vip| vip.state).unwrap_or_default();
        if state == VipState::Elsewhere {
            return Err(DropReason::VipNotOwned);
        }
        let flow = Flow::parse(packet.data()).map_err(|_| DropReason::InnerMalformed)?;
        Ok(Inner { packet, flow, vip, via: Via::Handoff, was_fragmented })
    }

    fn taken_reply(
        &mut self,
        now: Instant,
        port: PortId,
        frame: P::Buf,
        was_fragmented: bool,
    ) -> Result<Option<Reply<P::Buf>>, DropReason> {
        let (ethernet, packet) = ethernet::Header::parse(frame.data()).map_err(|_| DropReason::MalformedFrame)?;
        let flow = Flow::parse(packet).map_err(|_| DropReason::MalformedIp)?;
        let (vip, table) = self.lookup.vip_at(flow.header.source).ok_or(DropReason::SourceNotVip)?;
        if table.state != VipState::Owned {
            // In one piece it can't be passed on.
            let gateway = self.gateway_of(vip, port).filter(|_| !was_fragmented).ok_or(DropReason::VipNotOwned)?;
            return self.hold(now, port, &ethernet, gateway, frame).map(|()| None);
        }
        let index = self.sad.find_outbound(vip, &flow.ends_from_target()).ok_or(DropReason::NoOutboundSa)?;
        Ok(Some(Reply { frame, flow, port, vip, was_fragmented, way: Some(Way::Tunnel(index)) }))
    }

    /// Sends a packet of our own from a VIP to a remote host through the tunnel that leads there.
    #[cold]
    pub(super) fn protect(&mut self, now: Instant, vip: u16, packet: P::Buf) -> Verdict {
        let flow = Flow::parse(packet.data()).map_err(|_| DropReason::MalformedIp)?;
        match self.sad.find_carrier(vip, &flow.ends_from_target()).ok_or(DropReason::NoOutboundSa)? {
            Carrier::Here(index) => self.protect_by(now, index, &flow.header, packet),
            Carrier::There(worker) => self.hand_over(worker, What::Own { vip, packet }),
        }
    }

    #[cold]
    fn protect_own(&mut self, now: Instant, vip: u16, packet: P::Buf) -> Verdict {
        if self.lookup.vip(vip).is_none_or(|vip| vip.state != VipState::Owned) {
            return Err(DropReason::VipNotOwned);
        }
        let flow = Flow::parse(packet.data()).map_err(|_| DropReason::MalformedIp)?;
        let index = self.sad.find_outbound(vip, &flow.ends_from_target()).ok_or(DropReason::NoOutboundSa)?;
        self.protect_by(now, index, &flow.header, packet)
    }

    /// Sends a packet of our own through a tunnel, if it fits.
    #[cold]
    pub(super) fn protect_by(&mut self, now: Instant, index: SaIndex, header: &Header, packet: P::Buf) -> Verdict {
        if header.total_len > self.ready(index)? {
            return Err(DropReason::TooBig);
        }
        self.encapsulate(now, index, header, packet)
    }
}

/// What was handed over together.
struct Batch<B> {
    frames: Burst<B>,
    /// Where the frames came in, and how they came here.
    of: Option<(PortId, Came)>,
    inner: Stage<Inner<B>>,
    replies: Stage<Reply<B>>,
}
