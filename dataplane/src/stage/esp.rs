//! ESP from remote peers: find the SA, open, admit or park.

use std::time::{Duration, Instant};

use vipsec_esp::header::spi_of;
use vipsec_esp::inbound::{Admission, Opened};
use vipsec_esp::sa::Spi;
use vipsec_wire::buffer::{BufferPool, PacketBuf};

use crate::api::Event;
use crate::drops::{DropReason, Tally};
use crate::outer::Outer;
use crate::parking::Parked;
use crate::sad::SaIndex;
use crate::worker::{Verdict, Worker};

/// An SA tells at most once in that time that it is alive.
const ALIVE_INTERVAL: Duration = Duration::from_secs(1);

impl<P: BufferPool> Worker<P> {
    /// `packet` starts at the ESP header and ends with the ICV.
    pub(super) fn esp(&mut self, now: Instant, outer: Outer, mut packet: P::Buf) -> Verdict {
        let spi = spi_of(packet.data()).ok_or(DropReason::EspTruncated)?;
        let Some(index) = self.sad.inbound(spi) else {
            if self.unknown_spi_policer.allows(now) {
                self.tell(Event::UnknownSpi { spi, remote: outer.source });
            }
            return Err(DropReason::UnknownSpi);
        };
        let sa = self.sad.get(index).ok_or(DropReason::UnknownSpi)?;
        if sa.vip != outer.vip {
            return Err(DropReason::WrongVip);
        }
        // RFC 7296 §2.23: "all devices MUST be able to receive and process both UDP-encapsulated ESP and non-UDP-encapsulated ESP
        // packets at any time": the encapsulation is not a selector.
        let spi = sa.inbound.spi();
        let Opened { number, next_header } = sa.inbound.open(&mut packet)?;
        self.admit(now, Parked { packet, spi, number, next_header, outer, since: now }, index)
    }

    /// Delivers an authentic packet, or parks it above the horizon.
    fn admit(&mut self, now: Instant, parked: Parked<P::Buf>, index: SaIndex) -> Verdict {
        let sa = self.sad.get_mut(index).ok_or(DropReason::UnknownSpi)?;
        let edge_before = sa.inbound.edge();
        let admission = sa.inbound.admit(parked.number);
        if admission == Admission::Replayed {
            return Err(DropReason::EspReplayed);
        }
        sa.heard();
        let spi = parked.spi;
        let was_silent = sa.alive_said.is_none_or(|said| now.saturating_duration_since(said) >= ALIVE_INTERVAL);
        if was_silent {
            sa.alive_said = Some(now);
            self.tell(Event::Alive(spi));
        }
        self.touch(index);
        if admission == Admission::AboveHorizon {
            return self.park(parked);
        }
        if parked.number > edge_before {
            self.follow_peer(&parked.outer, spi, index);
        }
        self.inner(now, index, parked)
    }

    fn park(&mut self, parked: Parked<P::Buf>) -> Verdict {
        self.parking.push(parked).map_err(|_| DropReason::ParkedQueueFull)?;
        self.counters.count(Tally::Parked);
        Ok(())
    }

    /// RFC 7296 §2.23: "a host … that is not behind a NAT, SHOULD send all packets (including retransmission packets) to the IP
    /// address and port in the validated packet", and "only … in response to a new packet; otherwise, an attacker can revert the
    /// addresses with old replayed packets": the packet has to be newer than all before it.
    fn follow_peer(&mut self, outer: &Outer, spi: Spi, index: SaIndex) {
        let (Some(remote), Some(sa)) = (outer.remote(), self.sad.get_mut(index)) else { return };
        let Some((_, port)) = sa.tunnel.udp else { return };
        if (sa.tunnel.remote, port) == (remote.ip(), remote.port()) {
            return;
        }
        sa.move_peer(remote);
        self.counters.count(Tally::PeersMoved);
        self.tell(Event::PeerMoved { spi, remote });
    }

    /// A grant raised an SA's horizon: its parked packets are asked about again, in their order.
    pub(crate) fn release(&mut self, now: Instant, spi: Spi) {
        for _ in 0..self.parking.len() {
            let Some(parked) = self.parking.take() else { return };
            let index = self.sad.inbound(parked.spi.get());
            let waits_on =
                index.and_then(|index| self.sad.get(index)).is_some_and(|sa| parked.number > sa.inbound.horizon());
            let verdict = match index {
                _ if parked.spi != spi || waits_on => {
                    self.parking.push(parked).map_err(|_| DropReason::ParkedQueueFull)
                }
                Some(index) => {
                    self.counters.count(Tally::Released);
                    self.admit(now, parked, index)
                }
                None => Err(DropReason::ParkedSaGone),
            };
            self.count(verdict);
        }
    }
}
