//! What workers hand each other, and where each packet is at home.
//!
//! Everything about a connection meets on one worker, its home: what its SA counts, its place in the connection table, what waits. A
//! packet that arrives elsewhere is handed to its home, which judges it by its own tables and its own look at the deadline.
//!
//! | what arrives | its home |
//! | --- | --- |
//! | a fragment | by a hash over what tells datagrams apart; whole, it goes on from there |
//! | ESP | where the SA is |
//! | of a connection through an SA alone | where the SA is |
//! | of a connection that may be in the clear, or whose SA is one of several lanes | by a hash over the connection |
//! | everything else (ARP, neighbour discovery, IKE, echo, advertisements) | where it arrives |

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::net::IpAddr;

use vipsec_distribute::service::{Accepts, ServiceTable};
use vipsec_distribute::tuple::FiveTuple;
use vipsec_wire::ethernet::MacAddr;
use vipsec_wire::ip::Address;

use crate::api::{PortId, WorkerId};
use crate::counters::PORTS_MAX;
use crate::own_hash::Seed;
use crate::transmit::SentAs;

/// Something that one worker hands another.
#[derive(Debug)]
pub struct Handoff<B> {
    /// The version of the tables that the sender judged it by.
    pub(crate) tables: u64,
    pub(crate) what: What<B>,
}

impl<B> Handoff<B> {
    /// Is it a packet, and not a word about something?
    pub fn is_packet(&self) -> bool {
        self.what.is_packet()
    }
}

/// What is handed over.
#[derive(Debug)]
pub(crate) enum What<B> {
    /// A frame that came in by a port; its home judges it from the start.
    Frame { port: PortId, frame: B, came: Came },
    /// A packet from a tunnel to a VIP, authentic, admitted and within its SA's selectors, at the home of its connection.
    Inner { vip: u16, packet: B, was_fragmented: bool },
    /// A target's frame whose connection has been dealt with, where the SA is that carries it.
    Reply { port: PortId, frame: B, was_fragmented: bool },
    /// A packet of our own from a VIP to a remote host, where the SA is that carries it.
    Own { vip: u16, packet: B },
    /// A frame that leaves by a port, of which only the receiver has a queue.
    Leaving { port: PortId, frame: B, sent_as: SentAs },
    /// A station says that it has an address.
    Neighbour {
        port: PortId,
        address: IpAddr,
        mac: MacAddr,
        /// Is it one that we talk to?
        is_known: bool,
    },
    /// An ICMP error about a packet to a remote peer under that SPI of the peer's, whose SA the sender doesn't have.
    PathMtu { remote: Address, spi: u32, mtu: u32 },
}

/// How a frame came to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    /// It arrived here, and may be at home elsewhere.
    ByPort,
    /// Another worker says that it is at home here. It is not handed on, whatever the tables say: two workers whose tables differ
    /// would go on for ever.
    ByHandoff,
    /// So it does, after it has put it together from fragments.
    Reassembled,
}

impl<B> What<B> {
    /// Is it a packet, and not a word about something?
    pub(crate) fn is_packet(&self) -> bool {
        !matches!(self, Self::Neighbour { .. } | Self::PathMtu { .. })
    }
}

/// No room for another packet on its way to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// A worker's place among the others: what is on its way to them, and which of them is whose home.
#[derive(Debug)]
pub(crate) struct Mates<B> {
    me: WorkerId,
    /// By worker: what it is to be handed next.
    outgoing: Vec<VecDeque<Handoff<B>>>,
    outgoing_max: usize,
    /// By port: the worker whose queue its frames leave by, if it has none here.
    leaves_by: [Option<WorkerId>; PORTS_MAX],
    hash: Seed,
    kinds: Kinds,
}

/// What kinds of services there are: questions that needn't be asked for each packet.
#[derive(Debug, Clone, Copy, Default)]
struct Kinds {
    any_clear: bool,
    any_mixed: bool,
    any_affinity: bool,
}

impl Kinds {
    fn of(services: &ServiceTable) -> Self {
        let any = |is: fn(Accepts) -> bool| services.services().iter().any(|service| is(service.accepts));
        Self {
            any_clear: any(|accepts| accepts != Accepts::Decrypted),
            any_mixed: any(|accepts| accepts == Accepts::Both),
            any_affinity: services.services().iter().any(|service| service.affinity.is_some()),
        }
    }
}

impl<B> Mates<B> {
    /// A worker on its own. All workers of an appliance hash alike.
    pub(crate) fn none(outgoing_max: usize, hash_seed: u64, services: &ServiceTable) -> Self {
        Self {
            me: WorkerId::FIRST,
            outgoing: Vec::new(),
            outgoing_max,
            leaves_by: [None; PORTS_MAX],
            // Not the connection table's own hash: there a worker's connections would share their buckets.
            hash: Seed::from(hash_seed.rotate_left(32)),
            kinds: Kinds::of(services),
        }
    }

    /// From now on it is one of that many.
    pub(crate) fn join(&mut self, me: WorkerId, workers: usize) {
        self.me = me;
        let room = if workers > 1 { self.outgoing_max } else { 0 };
        self.outgoing = (0..workers).map(|_| VecDeque::with_capacity(room)).collect();
    }

    pub(crate) fn use_services(&mut self, services: &ServiceTable) {
        self.kinds = Kinds::of(services);
    }

    /// From now on a port's frames leave by another worker's queue.
    pub(crate) fn leave_by(&mut self, port: PortId, worker: WorkerId) {
        if let Some(place) = self.leaves_by.get_mut(usize::from(port.0)) {
            *place = Some(worker).filter(|worker| *worker != self.me);
        }
    }

    #[inline]
    pub(crate) fn leaves_by(&self, port: PortId) -> Option<WorkerId> {
        self.leaves_by.get(usize::from(port.0)).copied().flatten()
    }

    pub(crate) fn is_first(&self) -> bool {
        self.me == WorkerId::FIRST
    }

    pub(crate) fn me(&self) -> WorkerId {
        self.me
    }

    /// How many workers there are.
    pub(crate) fn count(&self) -> usize {
        self.outgoing.len().max(1)
    }

    /// Is there nobody to hand anything to?
    #[inline]
    pub(crate) fn is_alone(&self) -> bool {
        self.outgoing.len() <= 1
    }

    /// The other workers.
    pub(crate) fn others(&self) -> impl Iterator<Item = WorkerId> + use<B> {
        let me = self.me;
        (0..self.outgoing.len()).map(|number| WorkerId(number as u8)).filter(move |other| *other != me)
    }

    pub(crate) fn push(&mut self, to: WorkerId, handoff: Handoff<B>) -> Result<(), Full> {
        let queue = self.outgoing.get_mut(usize::from(to.0)).ok_or(Full)?;
        if queue.len() >= self.outgoing_max {
            return Err(Full);
        }
        queue.push_back(handoff);
        Ok(())
    }

    /// What a worker is to be handed.
    pub(crate) fn outgoing(&mut self, to: WorkerId) -> Option<&mut VecDeque<Handoff<B>>> {
        self.outgoing.get_mut(usize::from(to.0))
    }

    /// Forgets what was judged already and is still here: it belongs to a VIP that isn't ours any more. Returns how many packets.
    pub(crate) fn forget_judged(&mut self) -> usize {
        let is_unjudged =
            |handoff: &Handoff<B>| matches!(handoff.what, What::Frame { .. }) || !handoff.what.is_packet();
        let before = self.outgoing.iter().map(VecDeque::len).sum::<usize>();
        self.outgoing.iter_mut().for_each(|queue| queue.retain(is_unjudged));
        before - self.outgoing.iter().map(VecDeque::len).sum::<usize>()
    }

    /// Does a connection live at its hash whatever SA it has, because its service takes packets in the clear, too?
    #[inline]
    pub(crate) fn may_be_clear(&self, services: &ServiceTable, tuple: &FiveTuple) -> bool {
        self.kinds.any_clear && accepts(services, tuple).is_some_and(|accepts| accepts != Accepts::Decrypted)
    }

    /// Does a connection whose packet came through a tunnel live at its hash all the same?
    #[inline]
    pub(crate) fn is_mixed(&self, services: &ServiceTable, tuple: &FiveTuple) -> bool {
        self.kinds.any_mixed && accepts(services, tuple) == Some(Accepts::Both)
    }

    /// The home of a connection that lives at its hash. Those of one remote host share it where the host keeps its target.
    pub(crate) fn by_hash(&self, services: &ServiceTable, tuple: &FiveTuple) -> WorkerId {
        let has_affinity = || services.service(tuple).is_some_and(|service| service.affinity.is_some());
        let hash = if self.kinds.any_affinity && has_affinity() {
            self.hash.hash_one((tuple.vip, tuple.remote))
        } else {
            self.hash.hash_one(tuple)
        };
        self.pick(hash)
    }

    /// Which worker a hash stands for.
    pub(crate) fn pick(&self, hash: u64) -> WorkerId {
        WorkerId((((hash >> 32) * self.count() as u64) >> 32) as u8)
    }
}

fn accepts(services: &ServiceTable, tuple: &FiveTuple) -> Option<Accepts> {
    services.service(tuple).map(|service| service.accepts)
}
