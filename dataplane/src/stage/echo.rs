//! ICMP echo to our own addresses, answered in place (RFC 1122 §3.2.2.6).

use std::time::Instant;

use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ethernet;
use vipsec_wire::icmp;
use vipsec_wire::ip::{Header, protocol};
use vipsec_wire::ipv4::{Packet, Repr};

use crate::api::PortId;
use crate::drops::{DropReason, Tally};
use crate::sad::SaIndex;
use crate::worker::{Verdict, Worker};

/// Turns an IPv4 packet with an echo request into its answer.
fn turn(packet: &mut [u8]) -> Verdict {
    let request = Packet::parse(packet).map_err(|_| DropReason::MalformedIpv4)?;
    if request.is_fragment() || request.protocol() != protocol::ICMP {
        return Err(DropReason::UnservedProtocol);
    }
    let message = icmp::Message::parse(request.payload()).map_err(|_| DropReason::MalformedIcmp)?;
    if !message.is_echo_request() {
        return Err(DropReason::UnansweredIcmp);
    }
    // RFC 791 would have us send source routes back; a packet with options is not worth an answer.
    if request.header_len() != vipsec_wire::ipv4::HEADER_LEN {
        return Err(DropReason::UnansweredIcmp);
    }
    let payload_len = u16::try_from(request.payload().len()).map_err(|_| DropReason::MalformedIpv4)?;
    let mut header = Repr::new(request.destination(), request.source(), protocol::ICMP, payload_len);
    header.identification = request.identification();
    // The class goes back; congestion on the way here says nothing about the way back.
    header.traffic_class = request.traffic_class() & !0b11;
    header.dont_fragment = request.dont_fragment();
    header.emit(packet)?;
    icmp::make_reply(packet.get_mut(vipsec_wire::ipv4::HEADER_LEN..).unwrap_or_default())?;
    Ok(())
}

impl<P: BufferPool> Worker<P> {
    /// Answers a frame to an address of ours back to where it came from.
    pub(super) fn answer_echo(&mut self, port: PortId, ethernet: &ethernet::Header, mut frame: P::Buf) -> Verdict {
        turn(frame.data_mut().get_mut(ethernet::HEADER_LEN..).unwrap_or_default())?;
        let back = ethernet::Header { destination: ethernet.source, source: ethernet.destination, ..*ethernet };
        back.emit(frame.data_mut())?;
        self.transmit(port, frame)?;
        self.counters.count(Tally::EchoReplies);
        Ok(())
    }

    /// Answers a packet from a tunnel to its VIP through the same tunnel.
    pub(super) fn answer_inner_echo(&mut self, now: Instant, index: SaIndex, mut packet: P::Buf) -> Verdict {
        turn(packet.data_mut())?;
        let header = Header::parse(packet.data()).map_err(|_| DropReason::InnerMalformed)?;
        if header.total_len > self.ready(index)? {
            return Err(DropReason::TooBig);
        }
        self.encapsulate(now, index, &header, packet)?;
        self.counters.count(Tally::EchoReplies);
        Ok(())
    }
}
