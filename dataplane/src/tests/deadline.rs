//! Rule R5: past the deadline nothing is touched, sent or answered.

use std::time::Duration;

use vipsec_wire::arp::Packet;
use vipsec_wire::ethernet::{EtherType, MacAddr};

use super::peer::{Peer, child};
use super::scene::*;
use crate::api::{Command, Event, IkeDatagram, VipState};
use crate::drops::DropReason;

#[test]
fn past_the_deadline_there_is_silence() {
    let mut scene = Scene::new();
    let mut peer = Peer::new(child(1));
    scene.command(peer.install());
    scene.events();
    scene.deadline.renew(scene.now + Duration::from_millis(30));
    scene.advance(Duration::from_millis(30));

    let ping = peer.seal(&echo_request(REMOTE, VIP));
    let ike = to_vip(&udp((ROUTER, 500), (VIP, 500), b"an IKE message"));
    for (port, frame) in [
        (OUTSIDE, ping.clone()),
        (OUTSIDE, arp_request((ROUTER, ROUTER_MAC), VIP)),
        (INSIDE, arp_request((TARGETS[0], TARGET_MACS[0]), GATEWAY)),
        (OUTSIDE, to_vip(&echo_request(ROUTER, VIP))),
        (OUTSIDE, ike),
    ] {
        scene.receive(port, &frame);
        scene.assert_dropped(DropReason::DeadlinePassed);
    }
    let announcement = Packet::announcement(VIP, VIP_MAC).to_frame(MacAddr::BROADCAST).to_vec();
    scene.command(Command::SendFrame { port: OUTSIDE, frame: announcement });
    assert!(scene.sent(OUTSIDE).is_empty());
    assert_eq!(scene.dropped(), [(DropReason::DeadlinePassed, 1)]);
    assert!(scene.events().is_empty());

    scene.deadline.renew(scene.now + SECOND);
    scene.receive(OUTSIDE, &ping);
    assert_eq!(scene.sent_with_arp(OUTSIDE).len(), 1, "the packet was not touched: its number is still good");
}

#[test]
fn what_waits_to_leave_when_the_deadline_passes_does_not_leave() {
    let mut scene = Scene::new();
    let local = (VIP, 500).into();
    let message = IkeDatagram { local, remote: (ROUTER, 500).into(), payload: b"late".to_vec() };
    scene.command(Command::SendIke(message));
    scene.sent_with_arp(OUTSIDE);
    scene.receive(OUTSIDE, &arp_request((ROUTER, ROUTER_MAC), VIP));
    scene.deadline.expire();
    assert!(scene.sent(OUTSIDE).is_empty());
    scene.deadline.lift();
    assert!(scene.sent(OUTSIDE).is_empty());
    assert_eq!(scene.dropped(), [(DropReason::DeadlinePassed, 1)]);
}

#[test]
fn a_grant_past_the_deadline_releases_nothing() {
    let mut scene = Scene::new();
    let mut child = child(1);
    child.inbound.horizon = 0;
    let mut peer = Peer::new(child);
    scene.command(peer.install());
    let ping = peer.seal(&echo_request(REMOTE, VIP));
    scene.receive(OUTSIDE, &ping);
    scene.deadline.expire();
    scene.command(Command::Grant { spi: peer.spi(), horizon: 10, lease: u64::MAX });
    scene.deadline.lift();
    scene.assert_dropped(DropReason::DeadlinePassed);
}

#[test]
fn advertisements_are_heard_nevertheless() {
    let mut scene = Scene::new();
    scene.deadline.expire();
    let advertisement = frame(MacAddr::BROADCAST, OTHER_VIP_MAC, EtherType::ADVERTISEMENT, b"I own it");
    scene.receive(OUTSIDE, &advertisement);
    let events = scene.events();
    assert!(matches!(events.as_slice(), [Event::Advertisement { .. }]), "{events:?}");
}

#[test]
fn frames_of_a_vip_that_was_lost_do_not_leave() {
    let mut scene = Scene::new();
    let mut peer = Peer::new(child(1));
    scene.command(peer.install());
    /* an answer waits for the router's MAC, an ARP reply for the device */
    let ping = peer.seal(&echo_request(REMOTE, VIP));
    scene.receive(OUTSIDE, &ping);
    let requests = scene.sent(OUTSIDE);
    scene.receive(OUTSIDE, &arp_request((ROUTER, ROUTER_MAC), VIP));
    let mut lost = tables();
    lost.vips[0].state = VipState::Elsewhere;
    scene.use_tables(lost);
    assert_eq!(scene.dropped(), [(DropReason::VipNotOwned, 2)]);
    let (_, request) = vipsec_wire::ethernet::Header::parse(&requests[0]).unwrap();
    let reply = Packet::parse(request).unwrap().reply_from(ROUTER_MAC).to_frame(OUTSIDE_MAC);
    scene.receive(OUTSIDE, &reply);
    assert!(scene.sent(OUTSIDE).is_empty());
}

#[test]
fn frames_of_a_vip_that_stays_leave_when_another_is_lost() {
    let mut scene = Scene::new();
    let mut both = tables();
    both.vips[1].state = VipState::Owned;
    scene.use_tables(both.clone());
    scene.sent(OUTSIDE);
    scene.sent(INSIDE);
    for vip in [VIP, OTHER_VIP] {
        scene.receive(OUTSIDE, &arp_request((ROUTER, ROUTER_MAC), vip));
    }
    both.vips[0].state = VipState::Elsewhere;
    scene.use_tables(both);
    assert_eq!(scene.dropped(), [(DropReason::VipNotOwned, 1)]);
    let left = scene.sent(OUTSIDE);
    let from_other = |frame: &&Vec<u8>| vipsec_wire::ethernet::Header::parse(frame).unwrap().0.source == OTHER_VIP_MAC;
    assert_eq!(left.iter().filter(from_other).count(), 1, "{left:?}");
}
