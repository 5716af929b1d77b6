//! Through a crypto device and back: the middle of opening and of sealing, done elsewhere and later.
//!
//! What is decided about a packet is decided on this side of the device: its number is used up before it goes in (I1), and window,
//! horizon, deadline and ownership are asked when it comes out.

use std::time::Instant;

use vipsec_esp::engine::BadTag;
use vipsec_esp::inbound::Opening;
use vipsec_esp::sa::Mode;
use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::crypto::{Failure, SessionId};
use vipsec_wire::ip::Header;

use super::Stage;
use super::esp::{Opened, Sealed};
use super::transport::Kept;
use crate::api::VipState;
use crate::drops::{DropReason, Tally};
use crate::lookaside::{Around, Pending, Returned, Then, Work};
use crate::outer::Outer;
use crate::sad::{self, SaIndex};
use crate::template::Fields;
use crate::worker::{Verdict, Worker};

impl<P: BufferPool> Worker<P> {
    /// Has the device open a packet.
    pub(super) fn open_in_device(&mut self, sealed: Sealed<P::Buf>) -> Verdict {
        let Sealed { packet, index, outer } = sealed;
        let sa = self.sad.inbound(index).ok_or(DropReason::UnknownSpi)?;
        let session = self.sad.sessions(index).ok_or(DropReason::CryptoFailed)?.inbound;
        let opening = sa.esp.prepare(packet.data())?;
        let device = self.lookaside.as_mut().ok_or(DropReason::CryptoFailed)?;
        device.make_room()?;
        let work = Work::from(opening.op());
        let pending = Pending { index, session, vip: outer.vip, then: Then::Open { opening, outer } };
        device.submit(packet, work, pending)?;
        self.counters.count(Tally::CryptoJobs);
        Ok(())
    }

    /// Has the device seal a packet. `header` is the packet's.
    pub(super) fn seal_in_device(
        &mut self,
        index: SaIndex,
        header: &Header,
        identification: u16,
        mut packet: P::Buf,
    ) -> Verdict {
        let device = self.lookaside.as_mut().ok_or(DropReason::CryptoFailed)?;
        // A packet without a place uses up no number.
        device.make_room()?;
        let session = self.sad.sessions(index).ok_or(DropReason::CryptoFailed)?.outbound;
        let sa = self.sad.outbound_mut(index).ok_or(DropReason::NoOutboundSa)?;
        let (around, next_header) = match sa.mode {
            Mode::Tunnel => {
                (Around::Tunnel(Fields::new(sa.policy, header, identification)), header.version().protocol())
            }
            Mode::Transport => (Around::Transport(Kept::take(header, &mut packet)?), header.protocol),
        };
        let sealing = sa.esp.prepare(&mut packet, next_header)?;
        let then = Then::Send { around, bytes: header.total_len };
        let pending = Pending { index, session, vip: sa.vip, then };
        let wants_more = sa.esp.wants_more();
        device.submit(packet, Work::from(sealing.op()), pending)?;
        self.counters.count(Tally::CryptoJobs);
        if wants_more {
            self.touch(index);
        }
        Ok(())
    }

    /// Goes on with what the crypto device is done with, up to a burst. Returns how many packets that were.
    pub fn handle_completions(&mut self, now: Instant) -> usize {
        let Some(device) = &mut self.lookaside else { return 0 };
        let mut returned = device.take_back();
        let count = returned.len();
        let may_act = !self.deadline.has_passed(now);
        let mut opened = Stage::new();
        for Returned { packet, result, pending } in returned.drain(..) {
            let Pending { index, session, vip, then } = pending;
            let verdict = match then {
                // R5: it was handed over in time, and it is too late all the same.
                _ if !may_act => Err(DropReason::DeadlinePassed),
                Then::Open { opening, outer } => {
                    let verdict = self.opened_by_device((index, session), packet, result, opening, outer);
                    verdict.map(|packet| opened.push(packet))
                }
                Then::Send { around, bytes } => {
                    self.sealed_by_device(now, (index, session, vip), packet, result, around, bytes)
                }
            };
            self.count(verdict);
        }
        self.admit_all(now, &mut opened);
        self.confirm_tables();
        self.end_round(now);
        count
    }

    fn opened_by_device(
        &self,
        (index, session): (SaIndex, SessionId),
        mut packet: P::Buf,
        result: Result<(), Failure>,
        opening: Opening,
        outer: Outer,
    ) -> Result<Opened<P::Buf>, DropReason> {
        if self.sad.sessions(index).is_none_or(|now| now.inbound != session) {
            return Err(DropReason::CryptoSaGone);
        }
        let verdict = match result {
            Ok(()) => Ok(()),
            Err(Failure::BadTag) => Err(BadTag),
            Err(other) => return Err(dropped_by(other)),
        };
        let esp = opening.complete(&mut packet, verdict)?;
        Ok(Opened { packet, index, esp, outer })
    }

    fn sealed_by_device(
        &mut self,
        now: Instant,
        (index, session, vip): (SaIndex, SessionId, u16),
        mut packet: P::Buf,
        result: Result<(), Failure>,
        around: Around,
        bytes: usize,
    ) -> Verdict {
        if self.sad.sessions(index).is_none_or(|now| now.outbound != session) {
            return Err(DropReason::CryptoSaGone);
        }
        // What the device had when the VIP began to be handed over still leaves: the stop is confirmed after it.
        if self.lookup.vip(vip).is_none_or(|table| table.state == VipState::Elsewhere) {
            return Err(DropReason::VipNotOwned);
        }
        result.map_err(dropped_by)?;
        // Tables and neighbours may be others than when it went in.
        self.ready(index)?;
        let sa = self.sad.outbound_mut(index).ok_or(DropReason::CryptoSaGone)?;
        let path = match around {
            Around::Tunnel(fields) => {
                let path = sa.dress(&mut packet, fields, bytes)?;
                self.counters.esp_out.count(bytes);
                return self.send_frame_along(now, &path, packet);
            }
            Around::Transport(kept) => {
                sad::count(&mut sa.sealed, bytes);
                let path = sa.template.path;
                self.put_header_back(index, kept, &mut packet)?;
                path
            }
        };
        self.counters.esp_out.count(bytes);
        self.send_transport(now, &path, packet)
    }
}

/// What the device makes of a packet that it could not work on.
fn dropped_by(failure: Failure) -> DropReason {
    match failure {
        Failure::NoSession => DropReason::CryptoSaGone,
        Failure::BadTag | Failure::OutOfBounds | Failure::Device => DropReason::CryptoFailed,
    }
}
