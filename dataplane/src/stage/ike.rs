//! IKE between the wire and the control core.

use std::net::SocketAddr;
use std::time::Instant;

use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ip::{self, protocol};
use vipsec_wire::udp;

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
