//! Our own EtherType, and frames that nobody should send us.

use vipsec_wire::ethernet::{EtherType, MacAddr};

use super::scene::*;
use crate::api::{Command, Event, PortId};
use crate::drops::{DropReason, Tally};
use crate::worker::WorkerConfig;

fn advertisement() -> Vec<u8> {
    frame(MacAddr::BROADCAST, OTHER_VIP_MAC, EtherType::ADVERTISEMENT, b"I own it")
}

#[test]
fn advertisements_reach_the_control_core_whole() {
    let mut scene = Scene::new();
    scene.receive(INSIDE, &advertisement());
    let events = scene.events();
    let [Event::Advertisement { port: INSIDE, frame }] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(*frame, advertisement());
}

#[test]
fn advertisements_are_policed() {
    let mut scene = Scene::with(tables(), &WorkerConfig { events_max: 100_000, ..Default::default() });
    for _ in 0..100 {
        scene.receive_burst(OUTSIDE, &vec![advertisement(); 32]);
    }
    let passed = scene.counters.tally(Tally::Advertisements);
    assert!(passed < 3200);
    assert_eq!(scene.dropped(), [(DropReason::AdvertisementPoliced, 3200 - passed)]);
}

#[test]
fn events_are_bounded() {
    let mut scene = Scene::with(tables(), &WorkerConfig { events_max: 2, ..Default::default() });
    scene.receive_burst(OUTSIDE, &vec![advertisement(); 3]);
    scene.assert_dropped(DropReason::EventQueueFull);
    scene.receive(OUTSIDE, &to_vip(&udp((ROUTER, 500), (VIP, 500), b"message")));
    scene.assert_dropped(DropReason::EventQueueFull);
    scene.use_tables(tables());
    let events = scene.events();
    assert!(matches!(events.as_slice(), [_, _, Event::TablesInForce(2)]), "an answer always finds room: {events:?}");
}

#[test]
fn frames_that_make_no_sense() {
    let mut scene = Scene::new();
    scene.receive(OUTSIDE, &[0xff; 13]);
    scene.assert_dropped(DropReason::MalformedFrame);
    scene.receive(OUTSIDE, &frame(VIP_MAC, MacAddr::BROADCAST, EtherType::IPV4, &[]));
    scene.assert_dropped(DropReason::MalformedFrame);
    scene.receive(OUTSIDE, &frame(VIP_MAC, ROUTER_MAC, EtherType(0x8863), &[0x60; 40]));
    scene.assert_dropped(DropReason::UnknownEtherType);
    for port in [PortId(2), PortId(255)] {
        scene.receive(port, &advertisement());
        scene.assert_dropped(DropReason::UnknownPort);
        scene.command(Command::SendFrame { port, frame: advertisement() });
        scene.assert_dropped(DropReason::UnknownPort);
    }
}

#[test]
fn the_control_cores_frames_leave_as_they_are_within_bounds() {
    let mut scene = Scene::with(tables(), &WorkerConfig { transmit_packets_max: 2, ..Default::default() });
    for _ in 0..3 {
        scene.command(Command::SendFrame { port: INSIDE, frame: advertisement() });
    }
    assert_eq!(scene.dropped(), [(DropReason::TransmitQueueFull, 1)]);
    assert_eq!(scene.sent(INSIDE), vec![advertisement(); 2]);
    scene.command(Command::SendFrame { port: INSIDE, frame: vec![0; 10_000] });
    scene.assert_dropped(DropReason::NoRoom);
}
