//! The remote peer's end of a child SA.

use std::net::{IpAddr, Ipv4Addr};

use vipsec_esp::engine::EngineKind;
use vipsec_esp::inbound::{Admission, InboundSa};
use vipsec_esp::outbound::OutboundSa;
use vipsec_esp::sa::{
    Algorithm, ChildSa, InboundParams, KeyMaterial, Lifetime, Mode, OutboundParams, Processing, Selector, Spi,
    TunnelEnds, TunnelPolicy,
};
use vipsec_wire::buffer::{PacketBuf, VecBuf};
use vipsec_wire::ethernet::{EtherType, Header};
use vipsec_wire::ip::{Prefix, protocol};
use vipsec_wire::ipv4;
use vipsec_wire::iv::{ApplianceId, Epoch, IvPrefix};
use vipsec_wire::udp::Datagram;
use zeroize::Zeroizing;

use super::scene::{VIP, ipv4, to_vip, udp};
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

    /// The frame that brings an inner IPv4 packet to the VIP.
    pub(super) fn seal(&mut self, inner: &[u8]) -> Vec<u8> {
        let esp = self.esp(inner, protocol::IPV4);
        match self.child.tunnel.udp {
            None => to_vip(&ipv4(PEER, VIP, protocol::ESP, &esp)),
            Some((_, port)) => Self::in_udp((PEER, port), &esp),
        }
    }

    pub(super) fn in_udp(source: (Ipv4Addr, u16), esp: &[u8]) -> Vec<u8> {
        to_vip(&udp(source, (VIP, 4500), esp))
    }

    /// The inner packet of a frame to this peer, whose outer headers are checked.
    pub(super) fn open(&mut self, frame: &[u8]) -> Vec<u8> {
        let (ethernet, payload) = Header::parse(frame).unwrap();
        assert_eq!(ethernet.ethertype, EtherType::IPV4);
        let packet = ipv4::Packet::parse(payload).unwrap();
        assert_eq!(IpAddr::from(packet.source()), self.child.tunnel.local);
        assert_eq!(IpAddr::from(packet.destination()), self.child.tunnel.remote);
        let esp = match self.child.tunnel.udp {
            None => {
                assert_eq!(packet.protocol(), protocol::ESP);
                packet.payload()
            }
            Some((local, remote)) => {
                assert_eq!(packet.protocol(), protocol::UDP);
                let datagram = Datagram::parse(packet.payload()).unwrap();
                assert_eq!((datagram.source_port(), datagram.destination_port()), (local, remote));
                datagram.payload()
            }
        };
        let mut esp = VecBuf::from_bytes(esp);
        let opened = self.inbound.open(&mut esp).unwrap();
        assert_eq!(opened.next_header, protocol::IPV4);
        assert_eq!(self.inbound.admit(&opened), Admission::Deliver);
        esp.data().to_vec()
    }
}
