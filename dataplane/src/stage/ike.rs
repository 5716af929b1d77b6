//! IKE between the wire and the control core.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ip::{self, protocol};
use vipsec_wire::{ipv4, udp};

use super::outside::{NAT_TRAVERSAL_PORT, NON_ESP_MARKER};
use crate::api::{Event, IkeDatagram, VipState};
use crate::drops::{DropReason, Tally};
use crate::worker::{Verdict, Worker};

impl<P: BufferPool> Worker<P> {
    /// Passes a message on, without headers and marker.
    pub(super) fn punt_ike(
        &mut self,
        now: Instant,
        message: Option<&[u8]>,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Verdict {
        let message = message.ok_or(DropReason::MalformedIke)?;
        if !self.ike_policer.allows(now) {
            return Err(DropReason::IkePoliced);
        }
        if !self.events.has_room() {
            return Err(DropReason::EventQueueFull);
        }
        self.counters.count(Tally::IkeIn);
        self.tell(Event::Ike(IkeDatagram { local, remote, payload: message.to_vec() }));
        Ok(())
    }

    /// Sends a message from a VIP that is ours, in IP fragments where it must be.
    pub(crate) fn send_ike(&mut self, now: Instant, message: &IkeDatagram) -> Verdict {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (message.local.ip(), message.remote.ip()) else {
            return Err(DropReason::OtherFamily);
        };
        let (vip, table) = self.lookup.vip_at(source).ok_or(DropReason::NotForUs)?;
        if table.state != VipState::Owned {
            return Err(DropReason::VipNotOwned);
        }
        let datagram = build(message, source, destination)?;
        let next_hop = self.lookup.routes.next_hop(destination.into()).ok_or(DropReason::NoRoute)?;
        let path = self.path(vip, next_hop, ip::Version::V4)?;
        // RFC 791 §3.1: fragments are counted in units of 8 bytes.
        let piece_max = usize::from(path.mtu).saturating_sub(ipv4::HEADER_LEN) / 8 * 8;
        if piece_max == 0 {
            return Err(DropReason::TooBig);
        }
        let identification = self.next_identification();
        let mut offset = 0;
        for piece in datagram.chunks(piece_max) {
            let mut packet = self.pool.alloc().ok_or(DropReason::BufferPoolEmpty)?;
            packet.append(ipv4::HEADER_LEN + piece.len())?;
            let mut header = ipv4::Repr::new(source, destination, protocol::UDP, piece.len() as u16);
            header.identification = identification;
            header.fragment_offset = offset as u16;
            header.more_fragments = offset + piece.len() < datagram.len();
            header.emit(packet.data_mut())?;
            packet.data_mut().get_mut(ipv4::HEADER_LEN..).unwrap_or_default().copy_from_slice(piece);
            self.send_along(now, &path, packet)?;
            offset += piece.len();
        }
        self.counters.count(Tally::IkeOut);
        Ok(())
    }
}

fn build(message: &IkeDatagram, source: Ipv4Addr, destination: Ipv4Addr) -> Result<Vec<u8>, DropReason> {
    // RFC 3948 §2.2: on port 4500 a marker tells IKE from ESP.
    let marker: &[u8] = if message.local.port() == NAT_TRAVERSAL_PORT { &NON_ESP_MARKER } else { &[] };
    let payload_len = u16::try_from(marker.len() + message.payload.len()).map_err(|_| DropReason::TooBig)?;
    if usize::from(payload_len) + udp::HEADER_LEN + ipv4::HEADER_LEN > usize::from(u16::MAX) {
        return Err(DropReason::TooBig);
    }
    let mut datagram = vec![0; udp::HEADER_LEN];
    datagram.extend_from_slice(marker);
    datagram.extend_from_slice(&message.payload);
    let (source_port, destination_port) = (message.local.port(), message.remote.port());
    udp::Repr { source_port, destination_port, payload_len }.emit(&mut datagram)?;
    udp::fill_checksum_v4(source, destination, &mut datagram)?;
    Ok(datagram)
}
