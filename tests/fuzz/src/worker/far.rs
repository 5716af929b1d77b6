//! Remote peers, who hold the keys of their SAs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vipsec_esp::engine::EngineKind;
use vipsec_esp::inbound::{Admission, InboundSa};
use vipsec_esp::outbound::OutboundSa;
use vipsec_esp::sa::{
    Algorithm, ChildSa, DfPolicy, InboundParams, KeyMaterial, Lifetime, Mode, OutboundParams, Processing, Selector,
    Spi, TunnelEnds, TunnelPolicy,
};
use vipsec_wire::buffer::{PacketBuf, VecBuf};
use vipsec_wire::ip::{Header, Repr, protocol};
use vipsec_wire::iv::{ApplianceId, Epoch, IvPrefix};
use vipsec_wire::udp;

use super::tables::{PORTS, VIP, VIP6};
use crate::repair;

/// Peers, with one SA each.
pub(super) const PEERS: u8 = 4;

/// Behind any NAT.
const NAT_PORT: u16 = 61000;

/// What a child SA is like, by the bits of a number: transport mode, UDP, IPv6 outside, a horizon, a port, a short life, ESN, DF.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChildKind(pub(super) u8);

impl ChildKind {
    fn has(self, bit: u8) -> bool {
        self.0 >> bit & 1 != 0
    }
}

fn remote_host(peer: u8, is_v6: bool) -> IpAddr {
    if is_v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, peer.into()).into()
    } else {
        Ipv4Addr::new(10, 9, 0, peer).into()
    }
}

fn vip(is_v6: bool) -> IpAddr {
    if is_v6 { VIP6.into() } else { VIP.into() }
}

fn spi(half: u32, peer: u8) -> Spi {
    Spi::new(half << 24 | u32::from(peer)).expect("not reserved")
}

pub(super) fn spi_in(peer: u8) -> Spi {
    spi(1, peer % PEERS)
}

fn iv_prefix(appliance: u8, epoch: u32) -> IvPrefix {
    IvPrefix::new(ApplianceId::new(appliance).expect("not 0"), Epoch(epoch))
}

fn key(peer: u8, half: u8) -> KeyMaterial {
    KeyMaterial::new(Algorithm::Aes128Gcm, vec![peer << 4 | half; 20].into()).expect("its length")
}

/// Any packet of the host behind a peer to the VIP, or of a target to that host (bits of `flags` as for the instruction).
pub(super) fn packet(peer: u8, ports: u8, flags: u8, len: u8) -> Vec<u8> {
    let has = |bit: u8| flags >> bit & 1 != 0;
    let (is_v6, is_tcp) = (has(1), has(2));
    let (service, high) = (PORTS[usize::from(ports & 7)], 40000 + u16::from(ports >> 3));
    let (vip, remote) = (vip(is_v6), remote_host(peer % PEERS, is_v6));
    let ((source, from), (destination, to)) =
        if has(0) { ((vip, service), (remote, high)) } else { ((remote, high), (vip, service)) };
    let mut segment = [from.to_be_bytes(), to.to_be_bytes()].concat();
    let protocol = if is_tcp {
        // With a maximum segment size (RFC 9293 §3.7.1).
        segment.extend_from_slice(&[
            0,
            0,
            0,
            1,
            0,
            0,
            0,
            0,
            0x60,
            if has(3) { 2 } else { 0x10 },
            0xff,
            0xff,
            0,
            0,
            0,
            0,
        ]);
        segment.extend_from_slice(&[2, 4, 0x05, 0xb4]);
        protocol::TCP
    } else {
        segment.extend_from_slice(&[0; 4]);
        protocol::UDP
    };
    segment.resize(segment.len() + usize::from(len) * 6, 0x5a);
    if !is_tcp {
        let datagram_len = segment.len() as u16;
        segment[4..6].copy_from_slice(&datagram_len.to_be_bytes());
        udp::fill_checksum(source, destination, &mut segment).expect("a datagram");
    }
    let header = Repr::new(source, destination, protocol, segment.len() as u16).expect("one family");
    let header = if has(5) { header.with_ttl(1) } else { header };
    let mut packet = vec![0; header.header_len()];
    header.emit(&mut packet).expect("room");
    packet.extend_from_slice(&segment);
    if !is_v6 && has(4) {
        packet[6] |= 0x40;
        repair::ipv4(&mut packet);
    }
    packet
}

/// A remote peer's end of a child SA.
pub(super) struct Peer {
    pub(super) child: ChildSa,
    outbound: OutboundSa,
    inbound: InboundSa,
    /// An SA before this one, under the same key, was in transport mode: a packet of it may still have waited for a neighbour.
    followed_transport: bool,
}

impl Peer {
    /// A peer and its SA. `epoch` makes its IVs differ from those of an earlier one under the same key.
    pub(super) fn new(peer: u8, kind: ChildKind, epoch: u32) -> Self {
        let peer = peer % PEERS;
        let (is_transport, is_v6, esn) = (kind.has(0), kind.has(2), kind.has(6));
        let outer: IpAddr = if is_transport {
            remote_host(peer, is_v6)
        } else if is_v6 {
            Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, peer.into()).into()
        } else {
            Ipv4Addr::new(203, 0, 113, peer).into()
        };
        let selector = |address: IpAddr| Selector {
            addresses: address..=address,
            protocol: kind.has(4).then_some(protocol::UDP),
            ports: 0..=u16::MAX,
        };
        let both = |address: fn(u8, bool) -> IpAddr| [false, true].map(|is_v6| selector(address(peer, is_v6))).to_vec();
        let mut local_selectors = both(|_, is_v6| vip(is_v6));
        if kind.has(4) {
            local_selectors.iter_mut().for_each(|selector| selector.ports = 53..=80);
        }
        let child = ChildSa {
            vip: 0,
            inbound: InboundParams {
                spi: spi_in(peer),
                algorithm: Algorithm::Aes128Gcm,
                key: key(peer, 1),
                window: 64,
                esn,
                edge: 0,
                horizon: if kind.has(3) { 8 } else { u64::MAX },
            },
            outbound: OutboundParams {
                spi: spi(0xc0, peer),
                algorithm: Algorithm::Aes128Gcm,
                key: key(peer, 2),
                esn,
                sent: 0,
                lease: if kind.has(3) { 8 } else { u64::MAX },
                iv_prefix: iv_prefix(1, epoch),
            },
            succeeds: kind.has(3).then(|| spi_in(peer.wrapping_add(1))),
            lane: None,
            mode: if is_transport { Mode::Transport } else { Mode::Tunnel },
            processing: Processing::Cpu,
            lifetime: if kind.has(5) {
                Lifetime { soft_packets: 4, hard_packets: 8, ..Lifetime::NONE }
            } else {
                Lifetime::NONE
            },
            policy: TunnelPolicy { df: if kind.has(7) { DfPolicy::Set } else { DfPolicy::Copy }, ..Default::default() },
            tunnel: TunnelEnds { local: vip(is_v6), remote: outer, udp: kind.has(1).then_some((4500, NAT_PORT)) },
            local_selectors,
            remote_selectors: both(remote_host),
        };
        let outbound = OutboundParams {
            spi: child.inbound.spi,
            key: child.inbound.key.clone(),
            lease: u64::MAX,
            iv_prefix: iv_prefix(200, epoch),
            ..child.outbound.clone()
        };
        let inbound = InboundParams {
            spi: child.outbound.spi,
            key: child.outbound.key.clone(),
            window: 8192,
            horizon: u64::MAX,
            ..child.inbound.clone()
        };
        Self {
            outbound: OutboundSa::new(EngineKind::AwsLc, &outbound).expect("sound parameters"),
            inbound: InboundSa::new(EngineKind::AwsLc, &inbound).expect("sound parameters"),
            child,
            followed_transport: false,
        }
    }

    /// In the place of another one.
    pub(super) fn following(self, old: &Self) -> Self {
        Self { followed_transport: old.followed_transport || old.child.mode == Mode::Transport, ..self }
    }

    /// The IP packet that brings `packet` to the VIP: as what it is, or as `next_header`.
    pub(super) fn seal(&mut self, packet: &[u8], next_header: Option<u8>) -> Option<Vec<u8>> {
        let (payload, next_header) = match (next_header, self.child.mode) {
            (Some(next_header), _) => (packet, next_header),
            (None, Mode::Tunnel) => (packet, if packet.first()? >> 4 == 6 { protocol::IPV6 } else { protocol::IPV4 }),
            (None, Mode::Transport) => {
                let header = Header::parse(packet).ok()?;
                (header.payload(packet), header.protocol)
            }
        };
        let mut esp = VecBuf::from_bytes(payload);
        self.outbound.seal(&mut esp, next_header).ok()?;
        let TunnelEnds { local, remote, udp } = self.child.tunnel;
        let (protocol, payload) = match udp {
            None => (protocol::ESP, esp.data().to_vec()),
            Some((to, from)) => {
                let mut datagram = [from.to_be_bytes(), to.to_be_bytes(), [0; 2], [0; 2]].concat();
                datagram.extend_from_slice(esp.data());
                let len = datagram.len() as u16;
                datagram[4..6].copy_from_slice(&len.to_be_bytes());
                udp::fill_checksum(remote, local, &mut datagram).ok()?;
                (protocol::UDP, datagram)
            }
        };
        let header = Repr::new(remote, local, protocol, payload.len() as u16).ok()?;
        let mut packet = vec![0; header.header_len()];
        header.emit(&mut packet).ok()?;
        packet.extend_from_slice(&payload);
        Some(packet)
    }

    /// Takes an ESP packet. Returns whether it is authentic; then its number is new, and what is in it makes sense.
    pub(super) fn take(&mut self, esp: &[u8]) -> bool {
        let mut packet = VecBuf::from_bytes(esp);
        // Opened without the window's opinion: a number that comes again is what must never be.
        let Ok(opened) = self.inbound.open(&mut packet) else { return false };
        assert_eq!(self.inbound.admit(&opened), Admission::Deliver, "number {} was used twice", opened.number);
        if self.child.mode == Mode::Tunnel && !self.followed_transport {
            let header = Header::parse(packet.data()).expect("an IP packet");
            assert_eq!(header.version().protocol(), opened.next_header);
            assert_eq!(header.total_len, packet.data().len());
            let source = IpAddr::from(header.source);
            let is_ours = |selector: &Selector| selector.addresses.contains(&source);
            assert!(self.child.local_selectors.iter().any(is_ours), "from {source}");
        }
        true
    }
}
