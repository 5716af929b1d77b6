//! The stages of the pipeline, each a part of [`Worker`]. Packets go through them by bursts: a stage does its work for every packet of
//! a burst before the next stage begins, so that what one packet has to wait for is fetched while others are worked on. What a
//! stage doesn't pass on it answers, parks, tells the control core, hands to another worker, or drops for a reason.
//!
//! ```text
//! outside port                                                                            inside port
//!   frames ─┬─ ARP, neighbour discovery ──> answer                                             │
//!           ├─ advertisement ──> control core                                                  │
//!           └─ IP ─┬─ echo ──> answer                                                          │
//!    (reassembled) ├─ IKE ──> control core                                                     │
//!                  ├─ in the clear ──> policies ─────────────────────────┐                     │
//!                  └─ ESP ──> find the SA ──> open ──> admit ──> inner ──┴──> distribute ──> target
//!                                                       └─ park until granted  └─ until pinned │
//!          <── neighbour <─┬─ outer headers <── seal <── find the SA <─┬── connection <── reply
//!                          └────────────── in the clear <──────────────┘
//! ```

use std::time::Instant;

use arrayvec::ArrayVec;
use vipsec_wire::buffer::{BURST_MAX, BufferPool, Burst, PacketBuf};
use vipsec_wire::ethernet::{EtherType, Header};

use crate::api::{Event, PortId, Side};
use crate::drops::{DropReason, Tally};
use crate::handoff::Came;
use crate::worker::{Verdict, Worker};

mod arp;
mod as_target;
mod clear;
mod distribute;
mod echo;
mod encapsulate;
mod esp;
mod fragments;
mod handoff;
mod hold;
mod host;
mod icmp_error;
mod ike;
mod inner;
mod inside;
mod lookaside;
mod ndp;
mod neighbours;
mod outside;
mod path_mtu;
mod pin;
mod send;
mod transport;

use outside::FromOutside;
pub(crate) use transport::Kept;

/// A burst on its way through the stages: as many packets as came in at most. Stages drain it where it is: moving it would copy all of it.
type Stage<T> = ArrayVec<T, BURST_MAX>;

impl<P: BufferPool> Worker<P> {
    /// The first stage: what kind of frame is it? What is common goes on as a burst, the rest is dealt with at once.
    pub(crate) fn receive(&mut self, now: Instant, port: PortId, frames: Burst<P::Buf>, may_act: bool, came: Came) {
        match self.lookup.port(port).map(|port| port.side) {
            Some(Side::Outside) => {
                let mut sorted = FromOutside { sealed: Stage::new(), clear: Stage::new() };
                for frame in frames {
                    let verdict = self.frame(now, port, frame, may_act).and_then(|frame| match frame {
                        Some((ethernet, frame)) => self.outside(now, port, &ethernet, frame, came, &mut sorted),
                        None => Ok(()),
                    });
                    self.count(verdict);
                }
                self.esp(now, &mut sorted.sealed);
                self.distribute(now, &mut sorted.clear);
            }
            Some(side @ (Side::Inside | Side::Local)) if !may_act => {
                for frame in frames {
                    let verdict = self.as_host(now, port, side, frame);
                    self.count(verdict);
                }
            }
            Some(side @ (Side::Inside | Side::Local)) => {
                let mut replies = Stage::new();
                for frame in frames {
                    let verdict = self.frame(now, port, frame, may_act).and_then(|frame| match frame {
                        Some((ethernet, frame)) if side == Side::Local => {
                            self.local(now, port, &ethernet, frame, came, &mut replies)
                        }
                        Some((ethernet, frame)) => self.inside(now, port, &ethernet, frame, came, &mut replies),
                        None => Ok(()),
                    });
                    self.count(verdict);
                }
                self.answer_remotes(now, &mut replies);
            }
            None => self.counters.count_drops(DropReason::UnknownPort, frames.len()),
        }
    }

    /// Passes on what carries IP.
    #[inline]
    fn frame(
        &mut self,
        now: Instant,
        port: PortId,
        frame: P::Buf,
        may_act: bool,
    ) -> Result<Option<(Header, P::Buf)>, DropReason> {
        let (ethernet, _) = Header::parse(frame.data()).map_err(|_| DropReason::MalformedFrame)?;
        if ethernet.source.is_multicast() {
            return Err(DropReason::MalformedFrame);
        }
        match ethernet.ethertype {
            // Listening is not acting: an owner that overslept its deadline must be able to hear its successor.
            EtherType::ADVERTISEMENT => self.advertisement(now, port, &frame).map(|()| None),
            _ if !may_act => Err(DropReason::DeadlinePassed),
            EtherType::IPV4 | EtherType::IPV6 => Ok(Some((ethernet, frame))),
            EtherType::ARP => self.arp(now, port, &ethernet, frame).map(|()| None),
            _ => Err(DropReason::UnknownEtherType),
        }
    }

    #[cold]
    fn advertisement(&mut self, now: Instant, port: PortId, frame: &P::Buf) -> Verdict {
        if !self.advertisement_policer.allows(now) {
            return Err(DropReason::AdvertisementPoliced);
        }
        if !self.events.has_room() {
            return Err(DropReason::EventQueueFull);
        }
        self.counters.count(Tally::Advertisements);
        self.tell(Event::Advertisement { port, frame: frame.data().to_vec() });
        Ok(())
    }
}
