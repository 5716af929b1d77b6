//! Whatever arrives: no panic, and no packet is kept for ever.

use proptest::prelude::*;
use vipsec_wire::ethernet::EtherType;
use vipsec_wire::ip::protocol;
use vipsec_wire::tcp::Flags;

use super::peer::{PEER, Peer, child};
use super::scene::*;
use crate::api::PortId;

/// Valid frames of every kind, sealed anew so that their numbers are good.
fn seeds(peer: &mut Peer) -> Vec<(PortId, Vec<u8>)> {
    let quoted = tcp((VIP, 80), (REMOTE, 40000), Flags::ACK, &[0; 100]);
    vec![
        (OUTSIDE, arp_request((ROUTER, ROUTER_MAC), VIP)),
        (INSIDE, arp_request((TARGETS[0], TARGET_MACS[0]), GATEWAY)),
        (OUTSIDE, to_vip(&echo_request(PEER, VIP))),
        (OUTSIDE, to_vip(&udp((PEER, 500), (VIP, 500), b"IKE message"))),
        (OUTSIDE, to_vip(&udp((PEER, 4500), (VIP, 4500), b"\0\0\0\0IKE message"))),
        (OUTSIDE, to_vip(&udp((PEER, 4500), (VIP, 4500), b"\xff"))),
        (OUTSIDE, peer.seal(&tcp((REMOTE, 40000), (VIP, 80), Flags::SYN, b"data"))),
        (OUTSIDE, peer.seal(&udp((REMOTE, 40000), (VIP, 53), b"data"))),
        (OUTSIDE, peer.seal(&echo_request(REMOTE, VIP))),
        (OUTSIDE, Peer::in_udp((PEER, 61000), &peer.esp(&echo_request(REMOTE, VIP), protocol::IPV4))),
        (INSIDE, to_gateway(&quoted)),
        (INSIDE, to_gateway(&udp((VIP, 53), (REMOTE, 40000), &[0; 1450]))),
        (INSIDE, to_gateway(&echo_request(TARGETS[0], GATEWAY))),
        (OUTSIDE, frame(VIP_MAC, ROUTER_MAC, EtherType::ADVERTISEMENT, b"advertisement")),
    ]
}

#[derive(Debug, Clone)]
enum Mutation {
    Flip { at: prop::sample::Index, mask: u8 },
    Cut(prop::sample::Index),
    Extend(Vec<u8>),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        4 => (any::<prop::sample::Index>(), 1u8..).prop_map(|(at, mask)| Mutation::Flip { at, mask }),
        1 => any::<prop::sample::Index>().prop_map(Mutation::Cut),
        1 => prop::collection::vec(any::<u8>(), 1..40).prop_map(Mutation::Extend),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation) {
    match mutation {
        Mutation::Flip { at, mask } if !bytes.is_empty() => {
            let at = at.index(bytes.len());
            bytes[at] ^= mask;
        }
        Mutation::Cut(at) if !bytes.is_empty() => bytes.truncate(at.index(bytes.len())),
        Mutation::Extend(more) => bytes.extend_from_slice(more),
        Mutation::Flip { .. } | Mutation::Cut(_) => {}
    }
}

fn scene() -> (Scene, Peer) {
    let mut scene = Scene::new();
    let peer = Peer::new(child(1));
    scene.command(peer.install());
    (scene, peer)
}

/// What waits for neighbours that answer leaves, the rest gives up.
fn settle(scene: &mut Scene) {
    scene.sent_with_arp(OUTSIDE);
    scene.sent_with_arp(INSIDE);
    scene.events();
    scene.advance(4 * SECOND);
    scene.sent_with_arp(OUTSIDE);
    scene.sent_with_arp(INSIDE);
    assert_eq!(scene.held(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn arbitrary_frames(frames in prop::collection::vec((0u8..2, prop::collection::vec(any::<u8>(), 0..120)), 1..20)) {
        let (mut scene, _) = scene();
        for (port, frame) in frames {
            scene.receive(PortId(port), &frame);
        }
        settle(&mut scene);
    }

    #[test]
    fn mutated_frames(changes in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec(mutation(), 0..4)), 1..20)) {
        let (mut scene, mut peer) = scene();
        for (which, mutations) in changes {
            let seeds = seeds(&mut peer);
            let (port, mut frame) = seeds[which.index(seeds.len())].clone();
            mutations.iter().for_each(|mutation| mutate(&mut frame, mutation));
            scene.receive(port, &frame);
        }
        settle(&mut scene);
    }

    /// The same inside the tunnel, where an authentic peer sends rubbish.
    #[test]
    fn mutated_inner_packets(
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec(mutation(), 0..4), 0u8..8), 1..20)
    ) {
        let (mut scene, mut peer) = scene();
        for (which, mutations, next_header) in changes {
            let quoted = tcp((VIP, 80), (REMOTE, 40000), Flags::ACK, &[]);
            let inner = [
                tcp((REMOTE, 40000), (VIP, 80), Flags::SYN, b"data"),
                udp((REMOTE, 40000), (VIP, 53), b"data"),
                echo_request(REMOTE, VIP),
                icmp(REMOTE, VIP, 3, 4, &[&[0, 0, 5, 0], quoted.as_slice()].concat()),
            ];
            let mut inner = inner[which.index(inner.len())].clone();
            mutations.iter().for_each(|mutation| mutate(&mut inner, mutation));
            // Repair the header's checksum, so that what was changed gets further.
            if inner.len() >= 20 {
                inner[10..12].copy_from_slice(&[0, 0]);
                let header_len = (usize::from(inner[0] & 0x0f) * 4).min(inner.len());
                let checksum = vipsec_wire::checksum::Sum::new().bytes(&inner[..header_len]).finish();
                inner[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            let esp = peer.esp(&inner, if next_header == 0 { 4 } else { protocol::IPV4 + next_header % 2 });
            scene.receive(OUTSIDE, &to_vip(&ipv4(PEER, VIP, protocol::ESP, &esp)));
        }
        settle(&mut scene);
    }
}
