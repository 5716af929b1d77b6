//! The stages of the pipeline, each a part of [`Worker`]. A stage takes a packet; it passes it on or says why it dropped it.
//!
//! ```text
//! outside port                                                                     inside port
//!   frame ─┬─ ARP ──> answer                                                           │
//!          ├─ advertisement ──> control core                                           │
//!          └─ IPv4 ─┬─ echo ──> answer                                                 │
//!                   ├─ IKE ──> control core                                            │
//!                   └─ ESP ──> open ──> admit ──> inner checks ──> distribute ──> target
//!                                        └─ park until granted
//!          <── neighbour <── route <── outer headers <── seal <── find the SA <── reply
//! ```

use std::time::Instant;

use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ethernet::{EtherType, Header};

use crate::api::{Event, PortId, Side};
use crate::drops::{DropReason, Tally};
use crate::worker::{Verdict, Worker};

mod arp;
mod distribute;
mod echo;
mod encapsulate;
mod esp;
mod hold;
mod ike;
mod inner;
mod inside;
mod outside;
mod send;
mod too_big;

impl<P: BufferPool> Worker<P> {
    /// The first stage: what kind of frame is it?
    pub(crate) fn receive(&mut self, now: Instant, port: PortId, frame: P::Buf, may_act: bool) -> Verdict {
        let side = self.lookup.port(port).ok_or(DropReason::UnknownPort)?.side;
        let (ethernet, _) = Header::parse(frame.data()).map_err(|_| DropReason::MalformedFrame)?;
        if ethernet.source.is_multicast() {
            return Err(DropReason::MalformedFrame);
        }
        if ethernet.ethertype == EtherType::ADVERTISEMENT {
            // Listening is not acting: an owner that overslept its deadline must be able to hear its successor.
            return self.advertisement(now, port, &frame);
        }
        if !may_act {
            return Err(DropReason::DeadlinePassed);
        }
        match (ethernet.ethertype, side) {
            (EtherType::ARP, _) => self.arp(now, port, &ethernet, frame),
            (EtherType::IPV4, Side::Outside) => self.outside(now, port, &ethernet, frame),
            (EtherType::IPV4, Side::Inside) => self.inside(now, port, &ethernet, frame),
            _ => Err(DropReason::UnknownEtherType),
        }
    }

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
