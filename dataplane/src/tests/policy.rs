//! What the outer header takes from the inner one (RFC 4301 §5.1.2, RFC 6040).

use vipsec_esp::sa::{ChildSa, DfPolicy, DscpPolicy, EcnPolicy, TunnelPolicy};
use vipsec_wire::ip;

use super::dual_stack::both;
use super::fragments::with_checksum;
use super::peer::Peer;
use super::scene::*;
use crate::worker::WorkerConfig;

/// The traffic class and DF of the outer header, for an inner one.
fn outer(policy: TunnelPolicy, is_v6: bool, traffic_class: u8, dont_fragment: bool) -> (u8, bool) {
    let mut scene = Scene::with(dual_stack(), &WorkerConfig::default());
    let mut peer = Peer::new(ChildSa { policy, ..both(is_v6, None) });
    scene.command(peer.install());
    let mut inner = udp((VIP, 53), (REMOTE, 40000), b"answer");
    inner[1] = traffic_class;
    inner[6] = if dont_fragment { 0x40 } else { 0 };
    scene.receive(INSIDE, &to_gateway(&with_checksum(inner)));
    let frame = scene.one_sent_with_arp(OUTSIDE);
    let received = peer.open(&frame);
    assert_eq!(received[1], traffic_class, "the inner header stays as it is");
    let header = ip::Header::parse(&frame[14..]).unwrap();
    (header.traffic_class, header.dont_fragment)
}

#[test]
fn dscp_and_ecn() {
    let (ef, ect1) = (46 << 2, 0b01);
    for is_v6 in [false, true] {
        let class = |policy| outer(policy, is_v6, ef | ect1, false).0;
        assert_eq!(class(TunnelPolicy::default()), ef | ect1);
        assert_eq!(class(TunnelPolicy { dscp: DscpPolicy::Set(8), ..Default::default() }), 8 << 2 | ect1);
        assert_eq!(class(TunnelPolicy { ecn: EcnPolicy::Compatibility, ..Default::default() }), ef);
    }
}

#[test]
fn dont_fragment() {
    for (df, expected) in
        [(DfPolicy::Clear, [false, false]), (DfPolicy::Copy, [false, true]), (DfPolicy::Set, [true, true])]
    {
        let policy = TunnelPolicy { df, ..Default::default() };
        assert_eq!([false, true].map(|inner| outer(policy, false, 0, inner).1), expected, "{df:?}");
    }
}
