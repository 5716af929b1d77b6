//! UDP, TCP and GUE.

use vipsec_wire::checksum::Sum;
use vipsec_wire::gue as generic;
use vipsec_wire::ip::{Address, Header};
use vipsec_wire::tcp::{Flags, Segment, clamp_mss};
use vipsec_wire::udp::{self as datagram, ChecksumState, Datagram};

/// A datagram without an IP header.
pub(crate) fn udp(bytes: &[u8]) {
    let (v4, v6) = (Address::from_v4_octets([192, 0, 2, 1]), Address::from_octets([0x20; 16]));
    for address in [v4, v6] {
        let Ok(parsed) = Datagram::parse(bytes) else { return };
        let _ = parsed.checksum_state(address, address);
        let len = datagram::HEADER_LEN + parsed.payload().len();
        let mut filled = bytes[..len].to_vec();
        datagram::fill_checksum(address, address, &mut filled).expect("it has a header");
        let parsed = Datagram::parse(&filled).expect("only the checksum changed");
        assert_eq!(parsed.checksum_state(address, address), ChecksumState::Right);
    }
}

/// A segment without an IP header, behind the MSS that is to be kept to.
pub(crate) fn tcp(bytes: &[u8]) {
    let Some((&[m0, m1], segment)) = bytes.split_first_chunk::<2>() else { return };
    let mss_max = u16::from_be_bytes([m0, m1]);
    let mut clamped = segment.to_vec();
    let changed = clamp_mss(&mut clamped, mss_max);
    let Ok(before) = Segment::parse(segment) else {
        assert!(changed.is_err() && clamped == segment);
        return;
    };
    let after = Segment::parse(&clamped).expect("still a segment");
    assert_eq!((after.flags(), after.payload()), (before.flags(), before.payload()));
    match changed.expect("it is a segment") {
        false => assert_eq!(clamped, segment),
        true => assert!(before.flags().contains(Flags::SYN)),
    }
    if before.flags().contains(Flags::SYN) {
        assert_eq!(after.mss(), before.mss().map(|mss| mss.min(mss_max)));
    }
    // RFC 1624: what the checksum says of the segment does not change. All ones and all zeros are the same number.
    let sum = |segment: &[u8]| Sum::new().bytes(segment).finish() % 0xffff;
    assert_eq!(sum(&clamped), sum(segment));
}

/// What follows the UDP header on GUE's port.
pub(crate) fn gue(bytes: &[u8]) {
    let Ok((header, payload)) = generic::Header::parse(bytes) else { return };
    assert!(bytes.ends_with(payload));
    let mut own = [0; generic::HEADER_LEN];
    header.emit(&mut own).expect("room");
    assert_eq!(generic::Header::parse(&own), Ok((header, [].as_slice())));
    let _ = Header::parse(payload);
}
