//! How packets reach targets that are not simply neighbours with the VIP.

use std::net::IpAddr;
use std::sync::Arc;

use vipsec_distribute::service::{Forwarding, Service, ServiceTable, Target, TargetId};
use vipsec_wire::ethernet::Header;
use vipsec_wire::ip::{self, protocol};
use vipsec_wire::udp::Datagram;

use super::dual_stack::both;
use super::fragments::with_checksum;
use super::peer::Peer;
use super::scene::*;
use crate::api::{Route, Tables};
use crate::drops::DropReason;
use crate::worker::WorkerConfig;

/// Behind a router on the inside network.
const FAR: [u8; 4] = [10, 5, 0, 9];
const FAR6: &str = "2001:db8:5::9";

fn tables_with(address: IpAddr, forwarding: Forwarding) -> Tables {
    let target = Target { forwarding, ..Target::new(TargetId(7), address) };
    let service =
        |vip: IpAddr| Service { protocol: Some(protocol::UDP), port: Some(53), ..Service::new(vip, vec![TargetId(7)]) };
    let services = ServiceTable::new(vec![target], vec![service(VIP.into()), service(VIP6.into())]).unwrap();
    let mut tables = Tables { services: Arc::new(services), ..dual_stack() };
    // The first target is the router.
    tables.routes.push(Route { prefix: "10.5.0.0/16".parse().unwrap(), via: TARGETS[0].into(), port: INSIDE });
    tables.routes.push(Route { prefix: "2001:db8:5::/48".parse().unwrap(), via: TARGET6.into(), port: INSIDE });
    tables
}

fn scene_with(tables: Tables) -> (Scene, Peer) {
    let mut scene = Scene::with(tables, &WorkerConfig::default());
    let peer = Peer::new(both(false, None));
    scene.command(peer.install());
    scene.events();
    (scene, peer)
}

#[test]
fn ip_in_ip_of_every_two_families_reaches_a_target_behind_a_router() {
    for (target, router_mac, gateway) in [
        (IpAddr::from(FAR), TARGET_MACS[0], IpAddr::from(GATEWAY)),
        (FAR6.parse().unwrap(), TARGET6_MAC, GATEWAY6.into()),
    ] {
        let (mut scene, mut peer) = scene_with(tables_with(target, Forwarding::IpInIp));
        for (remote, vip) in [(IpAddr::from(REMOTE), IpAddr::from(VIP)), (REMOTE6.into(), VIP6.into())] {
            let query = udp_between((remote, 40000), (vip, 53), b"query");
            let frame = peer.seal(&query);
            scene.receive(OUTSIDE, &frame);
            let delivered = scene.one_sent_with_arp(INSIDE);
            let (ethernet, packet) = Header::parse(&delivered).unwrap();
            assert_eq!((ethernet.source, ethernet.destination), (GATEWAY_MAC, router_mac));
            let outer = ip::Header::parse(packet).unwrap();
            assert_eq!(ethernet.ethertype, outer.version().ethertype());
            assert_eq!((outer.source, outer.destination), (gateway.into(), target.into()));
            let inner = outer.payload(packet);
            let header = ip::Header::parse(inner).unwrap();
            assert_eq!(outer.protocol, header.version().protocol());
            assert_eq!((header.source, header.destination, header.ttl), (remote.into(), vip.into(), 63));
            assert!(inner.ends_with(b"query"));
        }
        scene.assert_nothing_dropped();
    }
}

#[test]
fn gue_goes_to_the_targets_port() {
    let (mut scene, mut peer) = scene_with(tables_with(FAR.into(), Forwarding::Gue { port: 6666 }));
    let frame = peer.seal(&udp((REMOTE, 40000), (VIP, 53), b"query"));
    scene.receive(OUTSIDE, &frame);
    let delivered = scene.one_sent_with_arp(INSIDE);
    let outer = ip::Header::parse(&delivered[14..]).unwrap();
    assert_eq!((outer.destination, outer.protocol), (IpAddr::from(FAR).into(), protocol::UDP));
    let datagram = Datagram::parse(outer.payload(&delivered[14..])).unwrap();
    assert_eq!(datagram.destination_port(), 6666);
    assert_eq!(datagram.payload()[..4], [0, protocol::IPV4, 0, 0], "GUE variant 0 around IPv4");
    assert_eq!(ip::Header::parse(&datagram.payload()[4..]).unwrap().destination, VIP.into());
}

#[test]
fn a_packet_that_no_longer_fits_when_it_is_wrapped() {
    let (mut scene, mut peer) = scene_with(tables_with(FAR.into(), Forwarding::IpInIp));
    // As large as the tunnel carries is too large for the inside network, wrapped.
    scene.use_tables(Tables { ports: narrow_inside(1400), ..tables_with(FAR.into(), Forwarding::IpInIp) });
    let query = |bytes: usize, dont_fragment: bool| {
        let mut packet = udp((REMOTE, 40000), (VIP, 53), &vec![7; bytes - 28]);
        packet[6] = if dont_fragment { 0x40 } else { 0 };
        with_checksum(packet)
    };
    for (bytes, dont_fragment, pieces) in [(1380, true, 1), (1381, false, 2)] {
        let frame = peer.seal(&query(bytes, dont_fragment));
        scene.receive(OUTSIDE, &frame);
        let frames = scene.sent_with_arp(INSIDE);
        assert_eq!(frames.len(), pieces);
        assert!(frames.iter().all(|frame| frame.len() <= 14 + 1400));
    }
    let frame = peer.seal(&query(1381, true));
    scene.receive(OUTSIDE, &frame);
    let error = peer.open(&scene.one_sent_with_arp(OUTSIDE));
    assert_eq!((error[20..22].to_vec(), u16::from_be_bytes([error[26], error[27]])), (vec![3, 4], 1380));
    assert_eq!(scene.dropped(), [(DropReason::TooBig, 1)]);
}

fn narrow_inside(mtu: u16) -> Vec<crate::api::PortTable> {
    let mut ports = dual_stack().ports;
    ports[1].mtu = mtu;
    ports
}

#[test]
fn a_target_that_nothing_leads_to() {
    let (mut scene, mut peer) = scene_with(tables_with(FAR.into(), Forwarding::Mac));
    let frame = peer.seal(&udp((REMOTE, 40000), (VIP, 53), b"query"));
    scene.receive(OUTSIDE, &frame);
    scene.assert_dropped(DropReason::TargetNotOnLink);
    let mut islanded = tables_with(FAR.into(), Forwarding::IpInIp);
    islanded.routes.clear();
    scene.use_tables(islanded);
    let frame = peer.seal(&udp((REMOTE, 40000), (VIP, 53), b"query"));
    scene.receive(OUTSIDE, &frame);
    scene.assert_dropped(DropReason::NoRoute);
}
