//! ICMP echo to our own addresses, answered in place (RFC 1122 §3.2.2.6, RFC 4443 §4.2).

use std::time::Instant;

use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ip::{self, Header, Version, protocol};
use vipsec_wire::{ethernet, icmp, icmpv6, ipv4};

use crate::api::PortId;
use crate::drops::{DropReason, Tally};
use crate::sad::SaIndex;
use crate::worker::{Verdict, Worker};

/// Turns a packet with an echo request into its answer, and returns the answer's header.
fn turn(packet: &mut [u8]) -> Result<Header, DropReason> {
    let request = Header::parse(packet).map_err(|_| DropReason::MalformedIp)?;
    let is_request = match (request.version(), request.protocol) {
        _ if request.is_fragment() => return Err(DropReason::UnservedProtocol),
        (Version::V4, protocol::ICMP) => {
            let message = icmp::Message::parse(request.payload(packet));
            message.map_err(|_| DropReason::MalformedIcmp)?.is_echo_request()
        }
        (Version::V6, protocol::ICMPV6) => {
            let message = icmpv6::Message::parse(request.source, request.destination, request.payload(packet));
            message.map_err(|_| DropReason::MalformedIcmp)?.is_echo_request()
        }
        _ => return Err(DropReason::UnservedProtocol),
    };
    // RFC 791 would have us send source routes back; a packet with options or extension headers is not worth an answer.
    if !is_request || request.header_len != request.version().header_len() {
        return Err(DropReason::UnansweredIcmp);
    }
    let payload_len = u16::try_from(request.payload_len()).map_err(|_| DropReason::MalformedIp)?;
    let identification = ipv4::Packet::parse(packet).map_or(0, |packet| packet.identification());
    let mut header = ip::Repr::new(request.destination, request.source, request.protocol, payload_len)
        .map_err(|_| DropReason::MalformedIp)?
        // The class goes back; congestion on the way here says nothing about the way back.
        .with_traffic_class(request.traffic_class & !0b11)
        .with_identification(identification);
    if let ip::Repr::V4(header) = &mut header {
        header.dont_fragment = request.dont_fragment;
    }
    header.emit(packet)?;
    let message = packet.get_mut(request.header_len..request.total_len).unwrap_or_default();
    match request.version() {
        Version::V4 => icmp::make_reply(message)?,
        Version::V6 => icmpv6::make_reply(message)?,
    }
    Header::parse(packet).map_err(|_| DropReason::MalformedIp)
}

impl<P: BufferPool> Worker<P> {
    /// Answers a frame to an address of ours back to where it came from.
    #[cold]
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
        let header = turn(packet.data_mut())?;
        let inner_mtu = self.ready(index)?;
        if header.total_len > inner_mtu {
            self.encapsulate_in_fragments(now, index, inner_mtu, packet)?;
        } else {
            self.encapsulate(now, index, &header, packet)?;
        }
        self.counters.count(Tally::EchoReplies);
        Ok(())
    }
}
