//! IKE between the wire and the control core.
//!
//! Who already has an IKE SA with us, who shows that it receives what we send to its address (a cookie, RFC 7296 §2.6), and who has shown
//! nothing yet, are limited each by itself: a flood of the last kind takes nothing from the others, and the worker answers it.

use std::net::SocketAddr;
use std::time::Instant;

use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::cookie::{COOKIE_LEN, Caller};
use vipsec_wire::ike::{COOKIE_REQUEST_LEN, Call, emit_cookie_request};
use vipsec_wire::ip::{self, Header, protocol};
use vipsec_wire::{ethernet, ipv4, udp};

use super::outside::{NAT_TRAVERSAL_PORT, NON_ESP_MARKER};
use crate::api::{Event, IkeDatagram, PortId, VipState};
use crate::drops::{DropReason, Tally};
use crate::worker::{Verdict, Worker};

/// A frame with an IKE message.
pub(super) struct IkeFrame<'a, B> {
    pub(super) port: PortId,
    pub(super) ethernet: &'a ethernet::Header,
    pub(super) header: &'a Header,
    pub(super) frame: B,
    /// Bytes before the IKE message.
    pub(super) headers: usize,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// May a message pass?
enum Admission {
    Pass,
    /// Not without this cookie.
    AskFor {
        spi: u64,
        cookie: [u8; COOKIE_LEN],
    },
}

impl<P: BufferPool> Worker<P> {
    /// Passes a message on, without headers and marker.
    pub(super) fn punt_ike(&mut self, now: Instant, ike: IkeFrame<'_, P::Buf>) -> Verdict {
        let message = ike.frame.data().get(ike.headers..).ok_or(DropReason::MalformedIke)?;
        match self.admit_ike(now, message, ike.remote)? {
            Admission::AskFor { spi, cookie } => return self.ask_for_cookie(ike, spi, &cookie),
            Admission::Pass => {}
        }
        if !self.events.has_room() {
            return Err(DropReason::EventQueueFull);
        }
        self.counters.count(Tally::IkeIn);
        self.tell(Event::Ike(IkeDatagram { local: ike.local, remote: ike.remote, payload: message.to_vec() }));
        Ok(())
    }

    fn admit_ike(&mut self, now: Instant, message: &[u8], remote: SocketAddr) -> Result<Admission, DropReason> {
        let Some(call) = Call::parse(message) else {
            return if self.ike_policer.allows(now) { Ok(Admission::Pass) } else { Err(DropReason::IkePoliced) };
        };
        let caller = call.nonce.map(|nonce| Caller { nonce, address: remote.ip(), spi: call.spi });
        let cookies = self.lookup.cookies();
        let proven =
            call.cookie.zip(caller).zip(cookies).is_some_and(|((shown, caller), ours)| ours.verify(shown, caller));
        let policer = if proven { &mut self.proven_calls_policer } else { &mut self.calls_policer };
        if policer.allows(now) {
            return Ok(Admission::Pass);
        }
        match self.lookup.cookies().zip(caller) {
            // RFC 7296 §2.6: a wrong cookie is treated as none. The answer is no longer than the question.
            Some((cookies, caller)) if !proven && message.len() >= COOKIE_REQUEST_LEN => {
                Ok(Admission::AskFor { spi: call.spi, cookie: cookies.make(caller) })
            }
            _ => Err(DropReason::IkeCallPoliced),
        }
    }

    /// Answers a call in place, to where its frame came from: without a look at routes and neighbours, which made-up addresses could fill.
    fn ask_for_cookie(&mut self, ike: IkeFrame<'_, P::Buf>, spi: u64, cookie: &[u8; COOKIE_LEN]) -> Verdict {
        let IkeFrame { port, ethernet, header, mut frame, headers, local, remote } = ike;
        // A caller whose packets have options or extension headers isn't answered under a flood.
        if header.header_len != header.version().header_len() {
            return Err(DropReason::IkeCallPoliced);
        }
        frame.trim_back(frame.data().len().saturating_sub(headers + COOKIE_REQUEST_LEN))?;
        let before_udp = ethernet::HEADER_LEN + header.header_len;
        let datagram_len = frame.data().len().saturating_sub(before_udp) as u16;
        let packet = frame.data_mut().get_mut(ethernet::HEADER_LEN..).unwrap_or_default();
        let identification = ipv4::Packet::parse(packet).map_or(0, |packet| packet.identification());
        ip::Repr::new(header.destination, header.source, protocol::UDP, datagram_len)
            .map_err(|_| DropReason::MalformedIp)?
            .with_identification(identification)
            .emit(packet)?;
        emit_cookie_request(spi, cookie, frame.data_mut().get_mut(headers..).unwrap_or_default())?;
        let datagram = frame.data_mut().get_mut(before_udp..).unwrap_or_default();
        let payload_len = datagram_len.saturating_sub(udp::HEADER_LEN as u16);
        udp::Repr { source_port: local.port(), destination_port: remote.port(), payload_len }.emit(datagram)?;
        udp::fill_checksum(header.destination, header.source, datagram)?;
        let back = ethernet::Header { destination: ethernet.source, source: ethernet.destination, ..*ethernet };
        back.emit(frame.data_mut())?;
        self.transmit(port, frame)?;
        self.counters.count(Tally::CookiesAsked);
        Ok(())
    }

    /// Sends a message from a VIP that is ours, in IP fragments where it must be.
    pub(crate) fn send_ike(&mut self, now: Instant, message: &IkeDatagram) -> Verdict {
        let (vip, table) = self.lookup.vip_at(message.local.ip()).ok_or(DropReason::NotForUs)?;
        if table.state != VipState::Owned {
            return Err(DropReason::VipNotOwned);
        }
        let identification = self.next_identification() as u16;
        let datagram = build(message, identification)?;
        let next_hop = self.lookup.routes.next_hop(message.remote.ip()).ok_or(DropReason::NoRoute)?;
        let path = self.path(vip, next_hop, ip::Address::from(message.remote.ip()).version())?;
        if datagram.len() > usize::from(path.mtu) {
            self.send_in_fragments(now, &path, &datagram)?;
        } else {
            let mut packet = self.pool.alloc().ok_or(DropReason::BufferPoolEmpty)?;
            packet.append(datagram.len())?;
            packet.data_mut().copy_from_slice(&datagram);
            self.send_along(now, &path, packet)?;
        }
        self.counters.count(Tally::IkeOut);
        Ok(())
    }
}

/// The whole IP packet.
fn build(message: &IkeDatagram, identification: u16) -> Result<Vec<u8>, DropReason> {
    let (source, destination) = (message.local.ip(), message.remote.ip());
    // RFC 3948 §2.2: on port 4500 a marker tells IKE from ESP.
    let marker: &[u8] = if message.local.port() == NAT_TRAVERSAL_PORT { &NON_ESP_MARKER } else { &[] };
    let payload_len = u16::try_from(marker.len() + message.payload.len()).map_err(|_| DropReason::TooBig)?;
    let datagram_len = payload_len.checked_add(udp::HEADER_LEN as u16).ok_or(DropReason::TooBig)?;
    let header = ip::Repr::new(source, destination, protocol::UDP, datagram_len)
        .map_err(|_| DropReason::OtherFamily)?
        .with_identification(identification);
    if header.header_len() + usize::from(datagram_len) > usize::from(u16::MAX) {
        return Err(DropReason::TooBig);
    }
    let mut packet = vec![0; header.header_len() + udp::HEADER_LEN];
    header.emit(&mut packet)?;
    packet.extend_from_slice(marker);
    packet.extend_from_slice(&message.payload);
    let datagram = packet.get_mut(header.header_len()..).unwrap_or_default();
    let (source_port, destination_port) = (message.local.port(), message.remote.port());
    udp::Repr { source_port, destination_port, payload_len }.emit(datagram)?;
    udp::fill_checksum(source, destination, datagram)?;
    Ok(packet)
}
