//! The remote peer's end of a child SA.

use std::net::Ipv4Addr;

use vipsec_esp::engine::EngineKind;
use vipsec_esp::inbound::{Admission, InboundSa};
use vipsec_esp::outbound::OutboundSa;
use vipsec_esp::sa::{
    Algorithm, ChildSa, InboundParams, KeyMaterial, Lifetime, Mode, OutboundParams, Processing, Selector, Spi,
    TunnelEnds, TunnelPolicy,
};
use vipsec_wire::buffer::{PacketBuf, VecBuf};
use vipsec_wire::ethernet::Header;
use vipsec_wire::ip::{self as wire_ip, Prefix, Version, protocol};
use vipsec_wire::iv::{ApplianceId, Epoch, IvPrefix};
use vipsec_wire::udp::{ChecksumState, Datagram};
use zeroize::Zeroizing;

use super::scene::{VIP, ip, to_vip, udp, udp_between};
use crate::api::Command;

pub(super) const PEER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);

pub(super) fn selector(prefix: &str) -> Selector {
    let prefix: Prefix = prefix.parse().unwrap();
    Selector { addresses: prefix.address()..=prefix.last(), protocol: None, ports: 0..=65535 }
}

fn key(byte: u8) -> KeyMaterial {
    KeyMaterial::new(Algorithm::Aes128Gcm, Zeroizing::new(vec![byte; 20])).unwrap()
}

fn iv_prefix(id: u8) -> IvPrefix {
    IvPrefix::new(ApplianceId::new(id).unwrap(), Epoch(1))
}

/// Without limits and without UDP encapsulation; `n` tells SPIs and keys apart.
pub(super) fn child(n: u8) -> ChildSa {
    ChildSa {
        vip: 0,
        inbound: InboundParams {
            spi: Spi::new(0x0100_0000 + u32::from(n)).unwrap(),
            algorithm: Algorithm::Aes128Gcm,
            key: key(n),
            window: 64,
            esn: true,
            edge: 0,
            horizon: u64::MAX,
        },
        outbound: OutboundParams {
            spi: Spi::new(0xc000_0000 + u32::from(n)).unwrap(),
            algorithm: Algorithm::Aes128Gcm,
            key: key(0x80 | n),
            esn: true,
            sent: 0,
            lease: u64::MAX,
            iv_prefix: iv_prefix(1),
        },
        succeeds: None,
        lane: None,
        mode: Mode::default(),
        processing: Processing::default(),
        lifetime: Lifetime::default(),
        policy: TunnelPolicy::default(),
        tunnel: TunnelEnds { local: VIP.into(), remote: PEER.into(), udp: None },
        local_selectors: vec![selector("192.0.2.1/32")],
        remote_selectors: vec![selector("10.9.0.0/16")],
    }
}

pub(super) struct Peer {
    pub(super) child: ChildSa,
    outbound: OutboundSa,
    inbound: InboundSa,
}

impl Peer {
    pub(super) fn new(child: ChildSa) -> Self {
        let outbound = OutboundParams {
            spi: child.inbound.spi,
            algorithm: child.inbound.algorithm,
            key: child.inbound.key.clone(),
            esn: child.inbound.esn,
            sent: child.inbound.edge,
            lease: u64::MAX,
            iv_prefix: iv_prefix(200),
        };
        let inbound = InboundParams {
            spi: child.outbound.spi,
            algorithm: child.outbound.algorithm,
            key: child.outbound.key.clone(),
            window: 64,
            esn: child.outbound.esn,
            edge: child.outbound.sent,
            horizon: u64::MAX,
        };
        Self {
            outbound: OutboundSa::new(EngineKind::AesGcm, &outbound).unwrap(),
            inbound: InboundSa::new(EngineKind::AesGcm, &inbound).unwrap(),
            child,
        }
    }

    pub(super) fn spi(&self) -> Spi {
        self.child.inbound.spi
    }

    pub(super) fn install(&self) -> Command {
        Command::InstallChild(Box::new(self.child.clone()))
    }

    /// An ESP packet without outer headers.
    pub(super) fn esp(&mut self, inner: &[u8], next_header: u8) -> Vec<u8> {
        let mut packet = VecBuf::from_bytes(inner);
        self.outbound.seal(&mut packet, next_header).unwrap();
        packet.data().to_vec()
    }

    /// The frame that brings an inner packet to the VIP, or in transport mode what follows the header of one.
    pub(super) fn seal(&mut self, inner: &[u8]) -> Vec<u8> {
        let header = wire_ip::Header::parse(inner).unwrap();
        let esp = match self.child.mode {
            Mode::Tunnel => self.esp(inner, header.version().protocol()),
            Mode::Transport => self.esp(header.payload(inner), header.protocol),
        };
        let TunnelEnds { local, remote, udp } = self.child.tunnel;
        let packet = match udp {
            None => ip(remote, local, protocol::ESP, &esp),
            Some((local_port, remote_port)) => udp_between((remote, remote_port), (local, local_port), &esp),
        };
        to_vip(&packet)
    }

    /// As [`seal`](Self::seal), for what no header view accepts.
    pub(super) fn seal_as_v6(&mut self, inner: &[u8]) -> Vec<u8> {
        let esp = self.esp(inner, protocol::IPV6);
        to_vip(&ip(PEER, VIP, protocol::ESP, &esp))
    }

    pub(super) fn in_udp(source: (Ipv4Addr, u16), esp: &[u8]) -> Vec<u8> {
        to_vip(&udp(source, (VIP, 4500), esp))
    }

    /// The inner packet of a frame to this peer, or in transport mode what follows its header. The outer headers are checked.
    pub(super) fn open(&mut self, frame: &[u8]) -> Vec<u8> {
        let (ethernet, packet) = Header::parse(frame).unwrap();
        let header = wire_ip::Header::parse(packet).unwrap();
        let TunnelEnds { local, remote, udp } = self.child.tunnel;
        assert_eq!(ethernet.ethertype, header.version().ethertype());
        assert_eq!((header.source, header.destination), (local.into(), remote.into()));
        let esp = match udp {
            None => {
                assert_eq!(header.protocol, protocol::ESP);
                header.payload(packet)
            }
            Some((local_port, remote_port)) => {
                assert_eq!(header.protocol, protocol::UDP);
                let datagram = Datagram::parse(header.payload(packet)).unwrap();
                assert_eq!((datagram.source_port(), datagram.destination_port()), (local_port, remote_port));
                // RFC 3948 §2.1, RFC 8200 §8.1
                let expected =
                    if header.version() == Version::V4 { ChecksumState::Absent } else { ChecksumState::Right };
                assert_eq!(datagram.checksum_state(header.source, header.destination), expected);
                datagram.payload()
            }
        };
        let mut esp = VecBuf::from_bytes(esp);
        let opened = self.inbound.open(&mut esp).unwrap();
        assert_eq!(self.inbound.admit(&opened), Admission::Deliver);
        if self.child.mode == Mode::Tunnel {
            assert_eq!(wire_ip::Version::of(esp.data()).map(Version::protocol), Some(opened.next_header));
        }
        esp.data().to_vec()
    }
}
