//! What the RFCs demand of reassembly, and what an attacker must not get.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use vipsec_wire::buffer::{VecBuf, VecPool};
use vipsec_wire::fragment::Fragments;
use vipsec_wire::ip::{self, Ecn, Header, protocol};
use vipsec_wire::{ipv4, ipv6};

use super::*;

const HERE: Origin = Origin(1);
const MILLISECOND: Duration = Duration::from_millis(1);

struct Scene {
    now: Instant,
    pool: VecPool,
    reassembler: Reassembler<VecBuf>,
}

/// An outcome without its buffers.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Whole { packet: Vec<u8>, fragments: usize },
    Held,
    HeldInstead(Reason, usize),
    Dropped(Reason, usize),
}
use Outcome::{Dropped as DroppedFor, Held, HeldInstead, Whole};

impl Scene {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        Self { now: Instant::now(), pool: VecPool::new(1000), reassembler: Reassembler::new(&limits, 7) }
    }

    fn receive_from(&mut self, origin: Origin, fragment: &[u8]) -> Outcome {
        match self.reassembler.handle_fragment(self.now, origin, fragment, &mut self.pool) {
            Ok(Progress::Whole { packet, fragments }) => Whole { packet: packet.data().to_vec(), fragments },
            Ok(Progress::Held) => Held,
            Ok(Progress::HeldInstead(dropped)) => HeldInstead(dropped.reason, dropped.fragments),
            Err(dropped) => DroppedFor(dropped.reason, dropped.fragments),
        }
    }

    fn receive(&mut self, fragment: &[u8]) -> Outcome {
        self.receive_from(HERE, fragment)
    }

    fn expired(&mut self) -> Vec<Dropped<VecBuf>> {
        std::iter::from_fn(|| self.reassembler.handle_timeout(self.now)).collect()
    }
}

const SOURCE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 256) as u8).collect()
}

/// One IPv4 fragment: where its payload stands in the datagram of [`payload`], and whether more follow.
fn v4(range: std::ops::Range<usize>, more: bool) -> Vec<u8> {
    v4_of(|_| {}, range, more)
}

fn v4_of(change: impl FnOnce(&mut ipv4::Repr), range: std::ops::Range<usize>, more: bool) -> Vec<u8> {
    let mut header = ipv4::Repr::new(SOURCE, VIP, protocol::UDP, range.len() as u16);
    (header.identification, header.fragment_offset, header.more_fragments) = (77, range.start as u16, more);
    change(&mut header);
    let mut packet = vec![0; ipv4::HEADER_LEN];
    header.emit(&mut packet).unwrap();
    packet.extend(&payload(range.end.max(1))[range]);
    packet
}

fn whole_v4(len: usize) -> Vec<u8> {
    v4_of(|_| {}, 0..len, false)
}

fn v6_packet(len: usize) -> Vec<u8> {
    let (source, destination) = ("2001:db8::7".parse().unwrap(), "2001:db8::1".parse().unwrap());
    let mut packet = vec![0; ipv6::HEADER_LEN];
    ipv6::Repr::new(source, destination, protocol::UDP, len as u16).emit(&mut packet).unwrap();
    packet.extend(payload(len));
    packet
}

fn split(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let mut pool = VecPool::new(1000);
    let mut fragments = Fragments::new(packet, mtu, 0xabcd_ef01).unwrap();
    std::iter::from_fn(|| fragments.next(&mut pool)).map(|piece| piece.unwrap().data().to_vec()).collect()
}

#[test]
fn fragments_in_reverse_order_become_the_datagram() {
    let mut scene = Scene::new();
    assert_eq!(scene.receive(&v4(1480..2000, false)), Held);
    assert_eq!(scene.receive(&v4(800..1480, true)), Held);
    let packet = whole_v4(2000);
    assert_eq!(scene.receive(&v4(0..800, true)), Whole { packet, fragments: 3 });
    assert!(scene.reassembler.is_empty());
    assert_eq!(scene.pool.in_use(), 0, "no buffer is kept");
}

#[test]
fn options_and_dont_fragment_are_those_of_the_first_fragment() {
    let mut scene = Scene::new();
    let later = v4_of(|header| header.ttl = 9, 1400..2000, false);
    assert_eq!(scene.receive(&later), Held);
    let mut first = v4_of(|header| header.dont_fragment = true, 0..1400, true);
    // Router alert (RFC 2113): 24 bytes of header.
    first.splice(20..20, [0x94, 4, 0, 0]);
    first[0] = 0x46;
    first[2..4].copy_from_slice(&1424u16.to_be_bytes());
    first[10..12].copy_from_slice(&[0, 0]);
    let checksum = vipsec_wire::checksum::Sum::new().bytes(&first[..24]).finish();
    first[10..12].copy_from_slice(&checksum.to_be_bytes());
    let Whole { packet, .. } = scene.receive(&first) else { panic!("incomplete") };
    let parsed = ipv4::Packet::parse(&packet).expect("a right checksum");
    assert_eq!((parsed.header_len(), parsed.total_len(), parsed.ttl()), (24, 2024, 64));
    assert!(parsed.dont_fragment() && !parsed.is_fragment());
    assert_eq!(packet[20..24], [0x94, 4, 0, 0]);
    assert_eq!(parsed.payload(), payload(2000));
}

#[test]
fn rfc_5722_overlapping_fragments_take_the_whole_datagram_with_them() {
    // Each pair overlaps: by one unit at either end, one within the other, the same place with other bytes.
    for (first, second) in [(0..800, 792..1600), (800..1600, 0..808), (0..800, 80..160), (80..160, 0..800)] {
        let mut scene = Scene::new();
        assert_eq!(scene.receive(&v4(first, true)), Held);
        assert_eq!(scene.receive(&v4(second, true)), DroppedFor(Reason::Overlap, 2));
        assert_eq!(scene.pool.in_use(), 0);
        // RFC 5722 §2: "including those not yet received".
        assert_eq!(scene.receive(&v4(1600..1700, false)), DroppedFor(Reason::Abandoned, 1));
        scene.now += Limits::default().timeout;
        assert!(scene.expired().is_empty(), "all of it is counted");
        assert!(scene.reassembler.is_empty());
        assert_eq!(scene.receive(&v4(0..800, true)), Held, "a new datagram with the old identification");
    }
    let mut scene = Scene::new();
    scene.receive(&v4(0..800, true));
    let mut other = v4(0..800, true);
    *other.last_mut().unwrap() ^= 1;
    assert_eq!(scene.receive(&other), DroppedFor(Reason::Overlap, 2));
}

#[test]
fn a_fragment_that_comes_twice_does_no_harm() {
    let mut scene = Scene::new();
    assert_eq!(scene.receive(&v4(0..800, true)), Held);
    assert_eq!(scene.receive(&v4(0..800, true)), DroppedFor(Reason::Duplicate, 1));
    assert_eq!(scene.receive(&v4(1600..1700, false)), Held);
    assert_eq!(scene.receive(&v4(1600..1700, false)), DroppedFor(Reason::Duplicate, 1));
    assert_eq!(scene.receive(&v4(800..1600, true)), Whole { packet: whole_v4(1700), fragments: 3 });
}

#[test]
fn fragments_must_agree_on_the_end() {
    // A second last fragment, a piece behind the last, a last one that doesn't reach what came before it.
    for (first, second) in [
        ((800..900, false), (904..1000, false)),
        ((800..900, false), (904..1000, true)),
        ((800..880, true), (400..500, false)),
    ] {
        let mut scene = Scene::new();
        assert_eq!(scene.receive(&v4(first.0, first.1)), Held);
        assert_eq!(scene.receive(&v4(second.0, second.1)), DroppedFor(Reason::EndConflict, 2));
    }
}

#[test]
fn wrong_lengths_and_whole_packets_are_refused() {
    let mut scene = Scene::new();
    assert_eq!(scene.receive(&v4(0..804, true)), DroppedFor(Reason::Length, 1), "no multiple of eight");
    assert_eq!(scene.receive(&v4(800..800, false)), DroppedFor(Reason::Length, 1), "empty");
    let beyond = v4_of(|header| header.fragment_offset = 65528, 0..80, false);
    assert_eq!(scene.receive(&beyond), DroppedFor(Reason::TooLong, 1));
    assert_eq!(scene.receive(&whole_v4(100)), DroppedFor(Reason::NotAFragment, 1));
    assert_eq!(scene.receive(&v6_packet(100)), DroppedFor(Reason::NotAFragment, 1));
    assert_eq!(scene.receive(&[]), DroppedFor(Reason::Malformed, 1));
    assert_eq!(scene.receive(&v4(0..800, true)[..700]), DroppedFor(Reason::Malformed, 1));
    assert!(scene.reassembler.is_empty());
}

#[test]
fn a_datagram_larger_than_a_buffer_is_refused_by_name() {
    let mut scene = Scene::new();
    assert_eq!(scene.receive(&v4(0..1480, true)), Held);
    assert_eq!(scene.receive(&v4(1480..2960, true)), DroppedFor(Reason::TooLarge, 2));
    assert_eq!(scene.receive(&v4(2960..3000, false)), DroppedFor(Reason::Abandoned, 1));
    let other = v4_of(|header| header.identification = 78, 2960..3000, false);
    assert_eq!(scene.receive(&other), DroppedFor(Reason::TooLarge, 1));
    assert_eq!(scene.pool.in_use(), 0);
}

#[test]
fn more_fragments_than_the_limit_are_refused() {
    let mut scene = Scene::new();
    for n in 0..FRAGMENTS_MAX {
        assert_eq!(scene.receive(&v4(n * 8..n * 8 + 8, true)), Held);
    }
    let next = FRAGMENTS_MAX * 8;
    let dropped = DroppedFor(Reason::TooManyFragments, FRAGMENTS_MAX + 1);
    assert_eq!(scene.receive(&v4(next..next + 8, false)), dropped);
}

#[test]
fn the_first_fragment_comes_back_as_it_came_when_the_others_stay_out() {
    let mut scene = Scene::new();
    let first_v6 = &split(&v6_packet(1900), 1280)[0];
    let first_v4 = v4(0..800, true);
    assert_eq!(scene.receive(&first_v4), Held);
    assert_eq!(scene.receive(&v4(1600..1640, true)), Held);
    scene.now += MILLISECOND;
    assert_eq!(scene.receive(first_v6), Held);
    let without_first = v4_of(|header| header.identification = 78, 800..808, true);
    assert_eq!(scene.receive(&without_first), Held);

    assert_eq!(scene.reassembler.poll_timeout(), Some(scene.now - MILLISECOND + Limits::default().timeout));
    scene.now = scene.reassembler.poll_timeout().unwrap() - MILLISECOND;
    assert!(scene.expired().is_empty());
    scene.now += 2 * MILLISECOND;
    let expired = scene.expired();
    let seen: Vec<_> = expired
        .iter()
        .map(|dropped| (dropped.reason, dropped.fragments, dropped.first.as_ref().map(|first| first.data().to_vec())))
        .collect();
    assert_eq!(
        seen,
        [
            (Reason::TimedOut, 2, Some(first_v4)),
            (Reason::TimedOut, 1, Some(first_v6.clone())),
            (Reason::TimedOut, 1, None)
        ]
    );
    assert_eq!(scene.reassembler.poll_timeout(), None);
}

#[test]
fn a_fragment_after_the_time_is_over_begins_anew() {
    let mut scene = Scene::new();
    assert_eq!(scene.receive(&v4(0..800, true)), Held);
    scene.now += Limits::default().timeout;
    assert_eq!(scene.receive(&v4(800..900, false)), HeldInstead(Reason::TimedOut, 1));
    assert_eq!(scene.receive(&v4(0..800, true)), Whole { packet: whole_v4(900), fragments: 2 });
}

#[test]
fn the_oldest_datagram_makes_room_for_a_new_one() {
    let mut scene = Scene::with(Limits { datagrams_max: 2, ..Limits::default() });
    let of = |identification, range, more| v4_of(|header| header.identification = identification, range, more);
    assert_eq!(scene.receive(&of(1, 0..80, true)), Held);
    assert_eq!(scene.receive(&of(2, 0..80, true)), Held);
    assert_eq!(scene.receive(&of(1, 160..240, true)), Held, "being used does not make it younger");
    assert_eq!(scene.receive(&of(3, 0..80, true)), HeldInstead(Reason::Evicted, 2));
    assert_eq!(scene.reassembler.len(), 2);
    assert_eq!(scene.pool.in_use(), 2, "one buffer each");
    assert!(matches!(scene.receive(&of(2, 80..90, false)), Whole { .. }));
    assert!(matches!(scene.receive(&of(3, 80..90, false)), Whole { .. }));
}

#[test]
fn an_empty_pool_costs_the_new_fragment_only() {
    let mut scene = Scene::with(Limits { datagrams_max: 1, ..Limits::default() });
    scene.pool = VecPool::new(1);
    assert_eq!(scene.receive(&v4(0..800, true)), Held);
    let other = v4_of(|header| header.identification = 78, 0..800, true);
    assert_eq!(scene.receive(&other), DroppedFor(Reason::PoolEmpty, 1));
    assert!(matches!(scene.receive(&v4(800..900, false)), Whole { .. }));
}

#[test]
fn only_what_belongs_together_is_put_together() {
    type Change = fn(&mut ipv4::Repr);
    let others: [Change; 4] = [
        |header| header.source = Ipv4Addr::new(198, 51, 100, 8),
        |header| header.destination = Ipv4Addr::new(192, 0, 2, 2),
        |header| header.protocol = protocol::TCP,
        |header| header.identification = 78,
    ];
    let mut scene = Scene::new();
    assert_eq!(scene.receive(&v4(0..800, true)), Held);
    for other in others {
        assert_eq!(scene.receive(&v4_of(other, 800..900, false)), Held);
    }
    assert_eq!(scene.receive_from(Origin(2), &v4(800..900, false)), Held);
    assert_eq!(scene.receive(&v4(800..900, false)), Whole { packet: whole_v4(900), fragments: 2 });
}

#[test]
fn rfc_3168_congestion_survives_reassembly() {
    use Ecn::{Ce, Ect0, Ect1, NotEct};
    for (first, second, expected) in [
        (NotEct, NotEct, Some(NotEct)),
        (Ect0, Ect0, Some(Ect0)),
        (Ect1, Ect0, Some(Ect1)),
        (Ect0, Ce, Some(Ce)),
        (Ce, Ect1, Some(Ce)),
        (Ce, Ce, Some(Ce)),
        (NotEct, Ect0, Some(NotEct)),
        (NotEct, Ce, None),
        (Ce, NotEct, None),
    ] {
        let mut scene = Scene::new();
        let class = |ecn: Ecn| move |header: &mut ipv4::Repr| header.traffic_class = 0xb8 | ecn.bits();
        scene.receive(&v4_of(class(first), 0..800, true));
        let outcome = scene.receive(&v4_of(class(second), 800..900, false));
        let traffic_class = match &outcome {
            Whole { packet, .. } => Some(Header::parse(packet).expect("a right checksum").traffic_class),
            DroppedFor(Reason::Congestion, 2) => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(traffic_class, expected.map(|ecn| 0xb8 | ecn.bits()), "{first:?} and {second:?}");
    }
}

#[test]
fn ipv6_fragments_may_differ_in_their_next_header() {
    // RFC 8200 §4.5: only the first fragment's value is used.
    let packet = v6_packet(1900);
    let mut fragments = split(&packet, 1280);
    fragments[1][ipv6::HEADER_LEN] = protocol::TCP;
    let mut scene = Scene::new();
    assert_eq!(scene.receive(&fragments[1]), Held);
    assert_eq!(scene.receive(&fragments[0]), Whole { packet, fragments: 2 });
}

#[test]
fn ipv6_headers_in_front_of_the_fragment_header_stay() {
    let mut packet = v6_packet(1900);
    packet[6] = protocol::HOP_BY_HOP;
    packet[4..6].copy_from_slice(&1908u16.to_be_bytes());
    packet.splice(40..40, [protocol::UDP, 0, 5, 2, 0, 0, 1, 0]);
    let fragments = split(&packet, 1280);
    assert_eq!(fragments.len(), 2);
    for order in [[0, 1], [1, 0]] {
        let mut scene = Scene::new();
        assert_eq!(scene.receive(&fragments[order[0]]), Held);
        assert_eq!(scene.receive(&fragments[order[1]]), Whole { packet: packet.clone(), fragments: 2 });
    }
}

#[test]
fn an_ipv6_fragment_that_hides_its_upper_layer_is_refused() {
    // RFC 7112 §5: a first fragment that ends within destination options.
    let mut packet = vec![0; 56];
    ipv6::Repr::new(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST, protocol::FRAGMENT, 16).emit(&mut packet).unwrap();
    packet[40..56].copy_from_slice(&[protocol::DESTINATION_OPTIONS, 0, 0, 1, 0, 0, 0, 9, 6, 1, 1, 4, 0, 0, 0, 0]);
    assert_eq!(Scene::new().receive(&packet), DroppedFor(Reason::Malformed, 1));
}

#[test]
fn the_packet_has_all_headroom_of_a_fresh_buffer() {
    for packet in [whole_v4(1900), v6_packet(1900)] {
        let mut scene = Scene::new();
        let fresh = scene.pool.alloc().unwrap().headroom();
        let mut whole = None;
        for fragment in split(&packet, 1280) {
            match scene.reassembler.handle_fragment(scene.now, HERE, &fragment, &mut scene.pool) {
                Ok(Progress::Whole { packet, .. }) => whole = Some(packet.headroom()),
                other => assert!(other.is_ok()),
            }
        }
        assert!(whole.expect("complete") >= fresh);
    }
}

proptest! {
    /// Whatever the sizes, the order, the interleaving of two datagrams and the doubled fragments.
    #[test]
    fn any_order_gives_the_datagram_back(
        lens in [1200usize..1950, 1200usize..1950], mtus in [200usize..1180, 200usize..1180], is_v6: bool,
        order in proptest::collection::vec(any::<(proptest::sample::Index, bool)>(), 64),
    ) {
        let packets = lens.map(|len| if is_v6 { v6_packet(len) } else { whole_v4(len) });
        let mut pieces: Vec<(usize, Vec<u8>)> = Vec::new();
        for (which, packet) in packets.iter().enumerate() {
            pieces.extend(split(packet, mtus[which]).into_iter().map(|piece| (which, piece)));
        }
        let mut scene = Scene::new();
        let mut whole = [false; 2];
        for (at, doubled) in order {
            if pieces.is_empty() {
                break;
            }
            let (which, piece) = pieces.remove(at.index(pieces.len()));
            let origin = Origin(which as u64);
            if let Whole { packet, .. } = scene.receive_from(origin, &piece) {
                prop_assert_eq!(&packet, &packets[which]);
                whole[which] = true;
            } else if doubled {
                prop_assert_eq!(scene.receive_from(origin, &piece), DroppedFor(Reason::Duplicate, 1));
            }
        }
        prop_assert!(pieces.is_empty());
        prop_assert_eq!((whole, scene.pool.in_use()), ([true; 2], 0));
    }

    /// Fragments of one datagram, anywhere: every packet that goes in comes out or is counted, and what comes out is sound.
    #[test]
    fn every_fragment_is_accounted_for(
        pieces in proptest::collection::vec((0usize..40, 0usize..20, any::<bool>(), 0u16..3, any::<u8>()), 1..60),
    ) {
        let mut scene = Scene::with(Limits { datagrams_max: 2, ..Limits::default() });
        let (mut received, mut out) = (0, 0);
        for (start, units, more, identification, late) in pieces {
            let fragment = v4_of(|header| header.identification = identification, start * 8..(start + units) * 8, more);
            received += 1;
            out += match scene.receive(&fragment) {
                Whole { packet, fragments } => {
                    prop_assert!(!Header::parse(&packet).unwrap().is_fragment());
                    let len = packet.len() - ipv4::HEADER_LEN;
                    prop_assert_eq!(&packet[ipv4::HEADER_LEN..], payload(len));
                    fragments
                }
                Held => 0,
                HeldInstead(_, fragments) | DroppedFor(_, fragments) => fragments,
            };
            scene.now += u32::from(late) * 2 * MILLISECOND;
            out += scene.expired().iter().map(|dropped| dropped.fragments).sum::<usize>();
        }
        scene.now += Limits::default().timeout;
        out += scene.expired().iter().map(|dropped| dropped.fragments).sum::<usize>();
        prop_assert_eq!(out, received);
        prop_assert!(scene.reassembler.is_empty());
        prop_assert_eq!(scene.pool.in_use(), 0);
    }

    #[test]
    fn never_panics(packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..20)) {
        let mut scene = Scene::new();
        for mut packet in packets {
            scene.receive(&packet);
            if let Some(first) = packet.first_mut() {
                *first = 0x60;
            }
            scene.receive(&packet);
            let _ = ip::decrement_ttl(&mut packet);
        }
    }
}
