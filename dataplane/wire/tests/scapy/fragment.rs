//! Splitting packets: scapy splits the same way, and joins what we split.

use serde_json::{Value, json};
use vipsec_wire::buffer::{PacketBuf, VecPool};
use vipsec_wire::fragment::{FragmentError, Fragments, PieceError};
use vipsec_wire::ip::Header;
use vipsec_wire::ipv4;

use crate::support::{ask, build, bytes, many_bytes};

const IDENTIFICATION: u32 = 0xc0de_cafe;

fn split(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let mut pool = VecPool::new(1000);
    let mut fragments = Fragments::new(packet, mtu, IDENTIFICATION).expect("it may be split");
    std::iter::from_fn(|| fragments.next(&mut pool)).map(|piece| piece.expect("room").data().to_vec()).collect()
}

#[test]
fn scapy_splits_the_same_way_and_joins_what_we_split() {
    let packets = build(&[
        r#"IP(src="192.0.2.1", dst="198.51.100.7", id=77, tos=0xb8) / UDP(sport=500, dport=500) / bytes(n * 31 % 251 for n in range(1900))"#,
        r#"IP(src="192.0.2.1", dst="198.51.100.7", id=78) / bytes(n * 31 % 251 for n in range(1480))"#,
        r#"IPv6(src="2001:db8::1", dst="2001:db8::2", tc=0xb8, fl=0x12345) / UDP(sport=500, dport=500) / bytes(n * 31 % 251 for n in range(1900))"#,
        r#"IPv6(src="2001:db8::1", dst="2001:db8::2") / ESP(spi=1, seq=2, data=bytes(n * 31 % 251 for n in range(1455)))"#,
    ]);
    let mut questions: Vec<Value> = Vec::new();
    let mut ours = Vec::new();
    for packet in &packets {
        let is_v4 = packet.bytes[0] >> 4 == 4;
        for mtu in [1280, 1281, 1400, 1499] {
            // Scapy wants the size of the IPv4 fragments' payload, and takes an IPv6 MTU as it is.
            let size = if is_v4 { (mtu - ipv4::HEADER_LEN) / 8 * 8 } else { mtu };
            let pieces = split(&packet.bytes, mtu);
            let hex: Vec<String> = pieces.iter().map(hex::encode).collect();
            let whole = hex::encode(&packet.bytes);
            questions.push(json!({"op": "split", "bytes": whole, "size": size, "id": IDENTIFICATION}));
            questions.push(json!({"op": "join", "fragments": hex}));
            ours.push((packet, mtu, pieces));
        }
    }
    for ((packet, mtu, pieces), answers) in ours.iter().zip(ask(&questions).chunks(2)) {
        let what = format!("{} for {mtu}", packet.expression);
        assert!(pieces.len() == 2 && pieces.iter().all(|piece| piece.len() <= *mtu), "{what}");
        assert_eq!(pieces, &many_bytes(&answers[0]["fragments"]), "{what}");
        let joined = answers[1]["packets"].as_array().expect("a list");
        assert_eq!(joined.len(), 1, "{what}");
        assert_eq!(bytes(&joined[0]), packet.bytes, "{what}");
    }
}

#[test]
fn rfc_791_options_are_copied_only_where_their_flag_says_so() {
    // Record route is not copied, router alert is; scapy copies all, so it can't judge here.
    let packets = build(&[
        r#"IP(src="192.0.2.1", dst="198.51.100.7", options=[IPOption_RR(routers=["0.0.0.0"] * 3), IPOption_Router_Alert(), IPOption_NOP()]) / bytes(200)"#,
    ]);
    let whole = ipv4::Packet::parse(&packets[0].bytes).expect("sound");
    assert_eq!(whole.header_len(), 40);
    let pieces = split(&packets[0].bytes, 100);
    let parsed: Vec<_> = pieces.iter().map(|piece| ipv4::Packet::parse(piece).expect("a right checksum")).collect();
    let places: Vec<_> =
        parsed.iter().map(|piece| (piece.header_len(), piece.fragment_offset(), piece.payload().len())).collect();
    assert_eq!(places, [(40, 0, 56), (24, 56, 72), (24, 128, 72)]);
    assert_eq!(pieces[0][20..40], packets[0].bytes[20..40]);
    assert_eq!(pieces[1][20..24], [0x94, 4, 0, 0], "the router alert");
    let payload: Vec<u8> = parsed.iter().flat_map(|piece| piece.payload().to_vec()).collect();
    assert_eq!(payload, whole.payload());
}

#[test]
fn a_fragment_that_is_split_keeps_its_place() {
    let packets = build(&[
        r#"IP(src="192.0.2.1", dst="198.51.100.7", id=9, flags="MF", frag=185, proto=17) / bytes(800)"#,
        r#"IP(src="192.0.2.1", dst="198.51.100.7", id=9, frag=185, proto=17) / bytes(801)"#,
    ]);
    let places = |packet: &[u8]| -> Vec<_> {
        let fragment = |piece: &Vec<u8>| Header::parse(piece).expect("sound").fragment.expect("a fragment");
        split(packet, 420).iter().map(fragment).map(|place| (place.identification, place.offset, place.more)).collect()
    };
    assert_eq!(places(&packets[0].bytes), [(9, 1480, true), (9, 1880, true)]);
    assert_eq!(places(&packets[1].bytes), [(9, 1480, true), (9, 1880, true), (9, 2280, false)]);
}

#[test]
fn ipv6_headers_up_to_the_routing_header_stand_in_each_piece() {
    let packets = build(&[
        r#"IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting(type=2, segleft=0, addresses=["2001:db8::9"]) / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2) / bytes(1400)"#,
    ]);
    let pieces = split(&packets[0].bytes, 1280);
    assert_eq!(pieces.len(), 2);
    // 40 bytes IPv6, 8 hop-by-hop, 24 routing.
    for piece in &pieces {
        assert_eq!((piece[6], piece[40], piece[48], piece[72]), (0, 43, 44, 60));
    }
    let answers = ask(&[json!({"op": "join", "fragments": pieces.iter().map(hex::encode).collect::<Vec<_>>()})]);
    assert_eq!(bytes(&answers[0]["packets"][0]), packets[0].bytes);
}

#[test]
fn what_must_not_be_split_is_not() {
    let packets = build(&[
        r#"IP(src="192.0.2.1", dst="198.51.100.7", flags="DF") / bytes(1000)"#,
        r#"IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrFragment(m=1, nh=17) / bytes(1400)"#,
        r#"IP(src="192.0.2.1", dst="198.51.100.7") / bytes(1000)"#,
        r#"IPv6(src="2001:db8::1", dst="2001:db8::2", nh=17) / bytes(1000)"#,
    ]);
    let error = |n: usize, mtu| Fragments::new(&packets[n].bytes, mtu, 1).err();
    assert_eq!(error(0, 576), Some(FragmentError::Forbidden));
    assert_eq!(error(1, 1280), Some(FragmentError::Forbidden));
    assert_eq!(error(2, 1020), Some(FragmentError::Fits));
    assert_eq!(error(2, 27), Some(FragmentError::MtuTooSmall));
    assert_eq!(error(3, 1040), Some(FragmentError::Fits));
    assert_eq!(error(3, 55), Some(FragmentError::MtuTooSmall));
    assert!(matches!(Fragments::new(&[], 1280, 1), Err(FragmentError::Malformed(_))));
    let mut fragments = Fragments::new(&packets[2].bytes, 576, 1).unwrap();
    assert_eq!(fragments.next(&mut VecPool::new(0)).expect("a piece").err(), Some(PieceError::PoolEmpty));
}
