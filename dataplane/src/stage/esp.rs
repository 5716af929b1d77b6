//! ESP from remote peers: open, admit or park.

use std::time::Instant;

use vipsec_esp::KEY_AHEAD;
use vipsec_esp::inbound::{self, Admission};
use vipsec_esp::sa::{Processing, Spi};
use vipsec_wire::buffer::{BufferPool, PacketBuf};

use super::Stage;
use super::inner::Inner;
use crate::api::{ALIVE_INTERVAL, Event};
use crate::drops::{DropReason, Tally};
use crate::outer::Outer;
use crate::parking::{NotParked, Parked};
use crate::sad::SaIndex;
use crate::worker::{Verdict, Worker};

/// A packet from its ESP header to its ICV, outer headers off, and its SA.
pub(super) struct Sealed<B> {
    pub(super) packet: B,
    pub(super) index: SaIndex,
    pub(super) outer: Outer,
}

/// A packet that was authentic, decrypted.
pub(super) struct Opened<B> {
    pub(super) packet: B,
    pub(super) index: SaIndex,
    pub(super) esp: inbound::Opened,
    pub(super) outer: Outer,
}

impl<P: BufferPool> Worker<P> {
    /// Takes a burst through the tunnel.
    pub(super) fn esp(&mut self, now: Instant, sealed: &mut Stage<Sealed<P::Buf>>) {
        if sealed.is_empty() {
            return;
        }
        // The SAs of all packets are asked for at once, their keys a few packets ahead.
        let keys: Stage<(SaIndex, usize)> =
            sealed.iter().map(|sealed| (sealed.index, sealed.packet.data().len())).collect();
        for (index, _) in &keys {
            if let Some(sa) = self.sad.inbound(*index) {
                sa.prefetch();
            }
        }
        for key in keys.iter().take(KEY_AHEAD) {
            self.prefetch_inbound_key(Some(key));
        }
        let mut opened = Stage::new();
        for (n, sealed) in sealed.drain(..).enumerate() {
            self.prefetch_inbound_key(keys.get(n + KEY_AHEAD));
            let result = self.open(sealed);
            opened.extend(self.passed(result).flatten());
        }
        self.admit_all(now, &mut opened);
    }

    /// Takes authentic packets on to their targets.
    pub(super) fn admit_all(&mut self, now: Instant, opened: &mut Stage<Opened<P::Buf>>) {
        let nanos = self.nanos(now);
        let mut inner = Stage::new();
        for opened in opened.drain(..) {
            let verdict = self.take_in(now, nanos, opened, &mut inner);
            self.count(verdict);
        }
        self.distribute(now, &mut inner);
    }

    /// Takes an authentic packet on as far as its number may be delivered. `nanos` is the worker's time.
    #[inline]
    fn take_in(
        &mut self,
        now: Instant,
        nanos: u64,
        opened: Opened<P::Buf>,
        inner: &mut Stage<Inner<P::Buf>>,
    ) -> Verdict {
        match self.admit(now, nanos, opened)? {
            Some(admitted) => self.inner(now, admitted, inner),
            None => Ok(()),
        }
    }

    #[inline]
    fn prefetch_inbound_key(&self, key: Option<&(SaIndex, usize)>) {
        if let Some((index, len)) = key
            && let Some(sa) = self.sad.inbound(*index)
        {
            sa.esp.prefetch_key(*len);
        }
    }

    /// Opens a packet, or has the crypto device do it: then it comes back later.
    #[inline]
    fn open(&mut self, sealed: Sealed<P::Buf>) -> Result<Option<Opened<P::Buf>>, DropReason> {
        let sa = self.sad.inbound(sealed.index).ok_or(DropReason::UnknownSpi)?;
        if sa.vip != sealed.outer.vip {
            return Err(DropReason::WrongVip);
        }
        if sa.processing == Processing::Lookaside {
            return self.open_in_device(sealed).map(|()| None);
        }
        let Sealed { mut packet, index, outer } = sealed;
        // RFC 7296 §2.23: "all devices MUST be able to receive and process both UDP-encapsulated ESP and non-UDP-encapsulated ESP
        // packets at any time": the encapsulation is not a selector.
        let esp = sa.esp.open(&mut packet)?;
        Ok(Some(Opened { packet, index, esp, outer }))
    }

    /// Passes an authentic packet on, or parks it above the horizon.
    #[inline]
    fn admit(
        &mut self,
        now: Instant,
        nanos: u64,
        opened: Opened<P::Buf>,
    ) -> Result<Option<Opened<P::Buf>>, DropReason> {
        let index = opened.index;
        let sa = self.sad.inbound_mut(index).ok_or(DropReason::UnknownSpi)?;
        let edge_before = sa.esp.edge();
        let admission = sa.esp.admit(&opened.esp);
        if admission == Admission::Replayed {
            return Err(DropReason::EspReplayed);
        }
        let wants_more = sa.esp.wants_more();
        let moved =
            sa.udp_remote.is_some() && opened.outer.remote().is_some_and(|remote| sa.udp_remote != Some(remote));
        if sa.alive_after <= nanos {
            sa.alive_after = nanos.saturating_add(ALIVE_INTERVAL.as_nanos() as u64);
            let spi = sa.esp.spi();
            self.tell(Event::Alive(spi));
        }
        self.sad.heard(index);
        if wants_more {
            self.touch(index);
        }
        if admission == Admission::AboveHorizon {
            return self.park(now, opened).map(|()| None);
        }
        if moved && opened.esp.number > edge_before {
            self.follow_peer(&opened.outer, index);
        }
        Ok(Some(opened))
    }

    #[cold]
    fn park(&mut self, now: Instant, opened: Opened<P::Buf>) -> Verdict {
        let Opened { packet, index, esp, outer } = opened;
        let spi = self.sad.inbound(index).ok_or(DropReason::UnknownSpi)?.esp.spi();
        self.parking.push(Parked { packet, spi, esp, outer, since: now }).map_err(|reason| match reason {
            // The window knows what was delivered only. Who sends the same again is not to fill the queue with it.
            NotParked::Again => DropReason::EspReplayed,
            NotParked::Full => DropReason::ParkedQueueFull,
        })?;
        self.counters.count(Tally::Parked);
        Ok(())
    }

    /// RFC 7296 §2.23: "a host … that is not behind a NAT, SHOULD send all packets (including retransmission packets) to the IP
    /// address and port in the validated packet", and "only … in response to a new packet; otherwise, an attacker can revert the
    /// addresses with old replayed packets": the packet has to be newer than all before it.
    #[cold]
    fn follow_peer(&mut self, outer: &Outer, index: SaIndex) {
        let (Some(remote), Some(sa)) = (outer.remote(), self.sad.inbound(index)) else { return };
        let spi = sa.esp.spi();
        self.sad.move_peer(index, remote);
        self.counters.count(Tally::PeersMoved);
        self.tell(Event::PeerMoved { spi, remote });
    }

    /// A grant raised an SA's horizon: its parked packets are asked about again, in their order.
    pub(crate) fn release(&mut self, now: Instant, spi: Spi) {
        let nanos = self.nanos(now);
        let Some(index) = self.sad.find_inbound(spi.get()) else { return };
        let Some(horizon) = self.sad.inbound(index).map(|sa| sa.esp.horizon()) else { return };
        let mut inner = Stage::new();
        let mut next = self.parking.first_of(spi);
        while let Some(place) = next
            && let Some((number, later)) = self.parking.look_at(place)
        {
            next = later;
            if number > horizon {
                continue;
            }
            let Some(Parked { packet, esp, outer, .. }) = self.parking.take(place) else { break };
            self.counters.count(Tally::Released);
            let verdict = self.take_in(now, nanos, Opened { packet, index, esp, outer }, &mut inner);
            self.count(verdict);
            if inner.is_full() {
                self.distribute(now, &mut inner);
            }
        }
        self.distribute(now, &mut inner);
    }
}
