//! The outer headers of one SA's packets, from Ethernet to UDP, ready but for what differs from packet to packet.

use std::net::IpAddr;

use vipsec_esp::header::{ALIGNMENT, HEADER_LEN as ESP_HEADER_LEN, ICV_LEN, TRAILER_LEN};
use vipsec_esp::sa::{DfPolicy, DscpPolicy, EcnPolicy, Mode, TunnelEnds, TunnelPolicy};
use vipsec_wire::buffer::PacketBuf;
use vipsec_wire::checksum::Sum;
use vipsec_wire::ip::{Address, Header, protocol};
use vipsec_wire::{ethernet, ipv4, ipv6, udp};

use crate::drops::DropReason;
use crate::path::{Generation, Path};

const LEN_MAX: usize = ethernet::HEADER_LEN + ipv6::HEADER_LEN + udp::HEADER_LEN;

const V4: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN;
const V4_UDP: usize = V4 + udp::HEADER_LEN;
const V6: usize = ethernet::HEADER_LEN + ipv6::HEADER_LEN;
const V6_UDP: usize = V6 + udp::HEADER_LEN;

/// What differs from packet to packet, lengths apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields {
    /// Differentiated services and ECN.
    traffic_class: u8,
    /// IPv4's.
    identification: u16,
    /// IPv4's.
    dont_fragment: bool,
}

impl Fields {
    /// As an SA's policy makes them from the inner header (RFC 4301 §5.1.2).
    #[inline]
    pub(crate) fn new(policy: TunnelPolicy, inner: &Header, identification: u16) -> Self {
        let dscp = match policy.dscp {
            DscpPolicy::Copy => inner.traffic_class & !0b11,
            DscpPolicy::Set(dscp) => dscp << 2,
        };
        // RFC 6040 §4.1: in normal mode the field is copied, in compatibility mode cleared.
        let ecn = match policy.ecn {
            EcnPolicy::Normal => inner.traffic_class & 0b11,
            EcnPolicy::Compatibility => 0,
        };
        // RFC 4301 §5.1.2.1 (4): "Configuration determines whether to copy from the inner header (IPv4 only), clear, or set the DF".
        let dont_fragment = match policy.df {
            DfPolicy::Clear => false,
            DfPolicy::Copy => inner.dont_fragment,
            DfPolicy::Set => true,
        };
        Self { traffic_class: dscp | ecn, identification, dont_fragment }
    }
}

/// Ethernet, IP and, with encapsulation, UDP.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub(crate) struct Template {
    headers: [u8; LEN_MAX],
    len: u8,
    /// IPv4: the sum over the header without the fields that differ.
    sum: u32,
    generation: Generation,
    /// Largest inner packet that leaves in one piece, in bytes.
    pub(crate) inner_mtu: u16,
    pub(crate) path: Path,
}

const _: () = assert!(size_of::<Template>() == 128);

impl Template {
    /// Of an SA that has sent nothing yet.
    pub(crate) fn none() -> Self {
        let next_hop = crate::route::NextHop { port: crate::api::PortId(0), address: IpAddr::from([0; 4]) };
        let path = Path { next_hop, ethernet: [0; ethernet::HEADER_LEN], mtu: 0, is_resolved: false };
        Self { headers: [0; LEN_MAX], len: 0, sum: 0, generation: Generation::default(), inner_mtu: 0, path }
    }

    /// For the ends of a tunnel, along a path.
    ///
    /// `path_mtu` is what is known of the way beyond the path's first hop, in bytes.
    pub(crate) fn new(
        tunnel: &TunnelEnds,
        mode: Mode,
        path: Path,
        path_mtu: Option<u16>,
        generation: Generation,
    ) -> Result<Self, DropReason> {
        let mut template = Self { path, ..Self::none() };
        let (ethernet, rest) = template.headers.split_at_mut(ethernet::HEADER_LEN);
        ethernet.copy_from_slice(&path.ethernet);
        let outer_protocol = if tunnel.udp.is_some() { protocol::UDP } else { protocol::ESP };
        let ip_len = match (tunnel.local, tunnel.remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                ipv4::Repr::new(local, remote, outer_protocol, 0).emit(rest)?;
                let header = rest.first_chunk_mut::<{ ipv4::HEADER_LEN }>().ok_or(DropReason::NoRoom)?;
                // Total length and checksum differ from packet to packet.
                (header[2], header[3], header[10], header[11]) = (0, 0, 0, 0);
                template.sum = u32::from(!Sum::new().bytes(header).finish());
                ipv4::HEADER_LEN
            }
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                ipv6::Repr::new(local, remote, outer_protocol, 0).emit(rest)?;
                ipv6::HEADER_LEN
            }
            _ => return Err(DropReason::OtherFamily),
        };
        let mut len = ethernet::HEADER_LEN + ip_len;
        if let Some((source_port, destination_port)) = tunnel.udp {
            // RFC 3948 §2.1: "the IPv4 UDP Checksum SHOULD be transmitted as a zero value".
            let header = rest.get_mut(ip_len..).unwrap_or_default();
            udp::Repr { source_port, destination_port, payload_len: 0 }.emit(header)?;
            len += udp::HEADER_LEN;
        }
        template.len = len as u8;
        let overhead = len - ethernet::HEADER_LEN + ESP_HEADER_LEN + ICV_LEN;
        let mtu = path_mtu.map_or(path.mtu, |path_mtu| path_mtu.min(path.mtu));
        let room = usize::from(mtu).saturating_sub(overhead);
        let protected_max = (room / ALIGNMENT * ALIGNMENT).saturating_sub(TRAILER_LEN);
        template.inner_mtu = match mode {
            Mode::Tunnel => protected_max,
            // The IP header is outside.
            Mode::Transport => protected_max + ip_len,
        } as u16;
        // While a neighbour is not resolved, the next packet asks again.
        template.generation = if path.is_resolved { generation } else { Generation::default() };
        Ok(template)
    }

    /// Is it still good?
    #[inline]
    pub(crate) fn is_of(&self, generation: Generation) -> bool {
        self.generation == generation
    }

    /// The SA's ends changed.
    pub(crate) fn forget(&mut self) {
        self.generation = Generation::default();
    }

    /// Puts the headers in front of an ESP packet.
    #[inline]
    pub(crate) fn put_on<B: PacketBuf>(&self, packet: &mut B, fields: Fields) -> Result<(), DropReason> {
        match usize::from(self.len) {
            V4 => self.put_v4::<V4, B>(packet, fields),
            V4_UDP => self.put_v4::<V4_UDP, B>(packet, fields),
            V6 => self.put_v6::<V6, B>(packet, fields),
            V6_UDP => self.put_v6::<V6_UDP, B>(packet, fields),
            _ => Err(DropReason::NoRoute),
        }
    }

    /// Copies the headers to the front and sets UDP's length.
    #[inline]
    fn put<'a, const LEN: usize, B: PacketBuf>(
        &self,
        packet: &'a mut B,
        ip_end: usize,
    ) -> Result<&'a mut [u8], DropReason> {
        let payload_len = packet.data().len();
        packet.prepend(LEN)?;
        let frame = packet.data_mut();
        let headers = frame.first_chunk_mut::<LEN>().ok_or(DropReason::NoRoom)?;
        *headers = *self.headers.first_chunk::<LEN>().ok_or(DropReason::NoRoom)?;
        if let Some(udp) = headers.get_mut(ip_end..).and_then(|udp| udp.first_chunk_mut::<{ udp::HEADER_LEN }>()) {
            let len = u16::try_from(payload_len + udp::HEADER_LEN).map_err(|_| DropReason::TooBig)?;
            [udp[4], udp[5]] = len.to_be_bytes();
        }
        Ok(frame)
    }

    #[inline]
    fn put_v4<const LEN: usize, B: PacketBuf>(&self, packet: &mut B, fields: Fields) -> Result<(), DropReason> {
        const DONT_FRAGMENT: u16 = 0x4000;
        let frame = self.put::<LEN, B>(packet, V4)?;
        let total_len = u16::try_from(frame.len() - ethernet::HEADER_LEN).map_err(|_| DropReason::TooBig)?;
        let header = frame.first_chunk_mut::<V4>().ok_or(DropReason::NoRoom)?;
        let flags = if fields.dont_fragment { DONT_FRAGMENT } else { 0 };
        let sum = self.sum
            + u32::from(fields.traffic_class)
            + u32::from(total_len)
            + u32::from(fields.identification)
            + u32::from(flags);
        let sum = (sum & 0xffff) + (sum >> 16);
        let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
        header[15] = fields.traffic_class;
        [header[16], header[17]] = total_len.to_be_bytes();
        [header[18], header[19]] = fields.identification.to_be_bytes();
        [header[20], header[21]] = flags.to_be_bytes();
        [header[24], header[25]] = checksum.to_be_bytes();
        Ok(())
    }

    #[inline]
    fn put_v6<const LEN: usize, B: PacketBuf>(&self, packet: &mut B, fields: Fields) -> Result<(), DropReason> {
        let frame = self.put::<LEN, B>(packet, V6)?;
        let payload_len = u16::try_from(frame.len() - V6).map_err(|_| DropReason::TooBig)?;
        let header = frame.first_chunk_mut::<V6>().ok_or(DropReason::NoRoom)?;
        header[14] = 0x60 | fields.traffic_class >> 4;
        header[15] = header[15] & 0x0f | fields.traffic_class << 4;
        [header[18], header[19]] = payload_len.to_be_bytes();
        if LEN == V6_UDP {
            // RFC 8200 §8.1: the UDP checksum is not optional.
            let (addresses, datagram) = frame.split_at_mut_checked(V6).ok_or(DropReason::NoRoom)?;
            let addresses = addresses.last_chunk::<32>().ok_or(DropReason::NoRoom)?;
            let (source, destination) = addresses.split_first_chunk::<16>().ok_or(DropReason::NoRoom)?;
            let destination = destination.first_chunk::<16>().ok_or(DropReason::NoRoom)?;
            udp::fill_checksum(Address::from_octets(*source), Address::from_octets(*destination), datagram)?;
        }
        Ok(())
    }
}
