//! Frames for a VIP that is not served here: held while it is being handed over, so that a move loses none.

use std::time::Instant;

use vipsec_wire::buffer::{BURST_MAX, BufferPool, PacketBuf};
use vipsec_wire::ethernet;

use crate::api::{PortId, VipState};
use crate::drops::{DropReason, Tally};
use crate::handoff::Came;
use crate::holding::Held;
use crate::lookup::OwnAddress;
use crate::worker::{Verdict, Worker};

impl<P: BufferPool> Worker<P> {
    /// Holds an unchanged frame to an address that is on its way to the peer; drops one to an address that is elsewhere.
    #[cold]
    pub(super) fn hold(
        &mut self,
        now: Instant,
        port: PortId,
        ethernet: &ethernet::Header,
        own: OwnAddress,
        frame: P::Buf,
    ) -> Verdict {
        let (Some(vip), VipState::HandingOver) = (own.vip, own.state) else { return Err(DropReason::VipNotOwned) };
        if own.mac != ethernet.destination {
            return Err(DropReason::OtherStation);
        }
        self.holding.push(Held { frame, port, vip, since: now }).map_err(|_| DropReason::HeldQueueFull)?;
        self.counters.count(Tally::Held);
        Ok(())
    }

    /// The tables changed: where do the frames belong that are held?
    pub(crate) fn release_held(&mut self) {
        let lookup = &self.lookup;
        let state = |vip| lookup.vip(vip).map(|vip| vip.state).unwrap_or_default();
        self.holding.release(|vip| state(vip) != VipState::HandingOver);
    }

    /// Were frames held that go now? They are to go, by [`handle_released`](Self::handle_released), before anything is received: what is
    /// newer would move windows on, and make them too old.
    pub fn is_releasing(&self) -> bool {
        self.holding.is_releasing()
    }

    /// A burst of what was held goes. Thousands at once would go beyond the deadline (rule R5), and overflow the rings to other workers:
    /// call it when these have room for a burst.
    pub fn handle_released(&mut self, now: Instant) {
        let may_act = !self.deadline.has_passed(now);
        for _ in 0..BURST_MAX {
            let Some(held) = self.holding.take_released() else { break };
            let verdict = match self.lookup.vip(held.vip).map(|vip| vip.state).unwrap_or_default() {
                VipState::Owned => {
                    self.receive(now, held.port, [held.frame].into_iter().collect(), may_act, Came::ByPort);
                    Ok(())
                }
                VipState::HandingOver => self.holding.push(held).map_err(|_| DropReason::HeldQueueFull),
                // Of the appliance's own host, which is a target of the new owner now.
                VipState::Elsewhere if self.lookup.local_port() == Some(held.port) => {
                    self.receive(now, held.port, [held.frame].into_iter().collect(), may_act, Came::ByPort);
                    Ok(())
                }
                VipState::Elsewhere if !may_act => Err(DropReason::DeadlinePassed),
                VipState::Elsewhere => self.pass_on(held.port, held.frame),
            };
            self.count(verdict);
        }
        self.end_round(now);
    }

    /// Sends a frame out of the port that it came in, to the new owner of its destination.
    ///
    /// From our own address: under its sender's, switches would look for the sender at our port. Nothing is learned about a
    /// neighbour from the frame around a packet, so the new owner is not misled; only what it answers straight back to a frame's
    /// source (an echo reply in the clear, "fragmentation needed") is lost.
    fn pass_on(&mut self, port: PortId, mut frame: P::Buf) -> Verdict {
        let source = self.lookup.port(port).ok_or(DropReason::UnknownPort)?.mac;
        let (header, _) = ethernet::Header::parse(frame.data()).map_err(|_| DropReason::MalformedFrame)?;
        ethernet::Header { source, ..header }.emit(frame.data_mut())?;
        self.transmit(port, frame)?;
        self.counters.count(Tally::PassedOn);
        Ok(())
    }
}
