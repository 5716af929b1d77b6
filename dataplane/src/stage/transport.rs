//! Transport mode (RFC 4303 §3.1.1): ESP stands between the IP header and what it carried.

use std::net::IpAddr;

use vipsec_wire::buffer::{BufferPool, PacketBuf};
use vipsec_wire::ip::{self, Address, Header, Version, protocol};
use vipsec_wire::{checksum, ipv4, ipv6, tcp, udp};

use crate::drops::DropReason;
use crate::outer::Outer;
use crate::sad::SaIndex;
use crate::worker::{Verdict, Worker};

/// Longest IP header that is kept, in bytes: an IPv4 header with all options.
const HEADER_LEN_MAX: usize = 60;

/// An IP header on its own while what it carried is encrypted.
#[derive(Debug)]
pub(crate) struct Kept {
    bytes: [u8; HEADER_LEN_MAX],
    len: usize,
}

impl Kept {
    /// Takes the header of a packet off.
    pub(super) fn take<B: PacketBuf>(header: &Header, packet: &mut B) -> Result<Self, DropReason> {
        if header.version() == Version::V6 && header.header_len != ipv6::HEADER_LEN {
            return Err(DropReason::TransportExtension);
        }
        let mut kept = Self { bytes: [0; HEADER_LEN_MAX], len: header.header_len };
        let from = packet.data().get(..kept.len).ok_or(DropReason::MalformedIp)?;
        kept.bytes.get_mut(..kept.len).ok_or(DropReason::MalformedIp)?.copy_from_slice(from);
        packet.trim_front(kept.len)?;
        Ok(kept)
    }

    /// Puts it in front of an ESP packet, or of one in UDP.
    pub(super) fn put_back<B: PacketBuf>(mut self, protocol: u8, packet: &mut B) -> Verdict {
        let total_len = packet.data().len() + self.len;
        let header = self.bytes.get_mut(..self.len).ok_or(DropReason::NoRoom)?;
        // RFC 4303 §3.1.1: the IP header stays as it was but for what it announces and its length.
        if Version::of(header) == Some(Version::V4) {
            let fixed = header.first_chunk_mut::<{ ipv4::HEADER_LEN }>().ok_or(DropReason::NoRoom)?;
            let total_len = u16::try_from(total_len).map_err(|_| DropReason::TooBig)?;
            [fixed[2], fixed[3]] = total_len.to_be_bytes();
            fixed[9] = protocol;
            [fixed[10], fixed[11]] = [0, 0];
            let sum = checksum::Sum::new().bytes(header).finish();
            let fixed = header.first_chunk_mut::<{ ipv4::HEADER_LEN }>().ok_or(DropReason::NoRoom)?;
            [fixed[10], fixed[11]] = sum.to_be_bytes();
        } else {
            let fixed = header.first_chunk_mut::<{ ipv6::HEADER_LEN }>().ok_or(DropReason::NoRoom)?;
            let payload_len = total_len.saturating_sub(ipv6::HEADER_LEN);
            [fixed[4], fixed[5]] = u16::try_from(payload_len).map_err(|_| DropReason::TooBig)?.to_be_bytes();
            fixed[6] = protocol;
        }
        packet.prepend(self.len)?;
        packet.data_mut().get_mut(..self.len).ok_or(DropReason::NoRoom)?.copy_from_slice(header);
        Ok(())
    }
}

/// Puts UDP in front of an ESP packet between these ends (RFC 3948 §2.1).
pub(super) fn put_udp<B: PacketBuf>(ports: (u16, u16), ends: (IpAddr, IpAddr), packet: &mut B) -> Verdict {
    let payload_len = u16::try_from(packet.data().len()).map_err(|_| DropReason::TooBig)?;
    packet.prepend(udp::HEADER_LEN)?;
    let (source_port, destination_port) = ports;
    udp::Repr { source_port, destination_port, payload_len }.emit(packet.data_mut())?;
    // RFC 3948 §2.1: "the IPv4 UDP Checksum SHOULD be transmitted as a zero value"; IPv6 doesn't allow that (RFC 8200 §8.1).
    if ends.0.is_ipv6() {
        udp::fill_checksum(ends.0, ends.1, packet.data_mut())?;
    }
    Ok(())
}

impl<P: BufferPool> Worker<P> {
    /// Gives a packet that came in transport mode the IP header back that it had outside.
    #[cold]
    pub(super) fn restore_header(
        &self,
        index: SaIndex,
        outer: &Outer,
        next_header: u8,
        packet: &mut P::Buf,
    ) -> Result<Version, DropReason> {
        let local = Address::from(self.sad.tunnel(index).ok_or(DropReason::UnknownSpi)?.local);
        if outer.udp_port.is_some() {
            renew_checksum(outer.source, local, next_header, packet.data_mut())?;
        }
        let payload_len = u16::try_from(packet.data().len()).map_err(|_| DropReason::InnerMalformed)?;
        let header = ip::Repr::new(outer.source, local, next_header, payload_len)
            .map_err(|_| DropReason::OtherFamily)?
            .with_traffic_class(outer.traffic_class)
            .with_ttl(outer.ttl);
        packet.prepend(header.header_len())?;
        header.emit(packet.data_mut())?;
        Ok(header.version())
    }
}

/// The NAT changed addresses under the encrypted checksum. RFC 3948 §3.1.2 (2): "recompute the checksum field in the TCP/UDP header";
/// the ICV has vouched for the segment.
fn renew_checksum(source: Address, destination: Address, protocol: u8, segment: &mut [u8]) -> Verdict {
    match protocol {
        protocol::TCP => {
            let len = u32::try_from(segment.len()).map_err(|_| DropReason::InnerMalformed)?;
            let header = segment.first_chunk_mut::<{ tcp::HEADER_LEN }>().ok_or(DropReason::InnerMalformed)?;
            (header[16], header[17]) = (0, 0);
            let sum = checksum::Sum::new().pseudo_header(source, destination, protocol, len).bytes(segment).finish();
            let header = segment.first_chunk_mut::<{ tcp::HEADER_LEN }>().ok_or(DropReason::InnerMalformed)?;
            [header[16], header[17]] = sum.to_be_bytes();
            Ok(())
        }
        protocol::UDP => {
            let datagram = udp::Datagram::parse(segment).map_err(|_| DropReason::InnerMalformed)?;
            if datagram.checksum() != 0 {
                udp::fill_checksum(source, destination, segment)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
