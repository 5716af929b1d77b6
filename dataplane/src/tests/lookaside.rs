//! SAs whose packets a crypto device opens and seals: late, out of order between SAs, or not at all.

use vipsec_esp::engine::EngineKind;
use vipsec_esp::sa::{ChildSa, Mode, Processing};
use vipsec_esp::soft_device::SoftDevice;
use vipsec_wire::buffer::VecBuf;
use vipsec_wire::crypto::{Failure, SessionError};
use vipsec_wire::tcp::Flags;

use super::peer::{PEER, Peer, child, selector};
use super::scene::*;
use crate::api::{ChildRefusal, Command, Event, PortId, Report, ReportKind, SaReport, Tables, VipState};
use crate::drops::{DropReason, Tally};

const JOBS_MAX: usize = 8;

fn device() -> SoftDevice<VecBuf> {
    SoftDevice::new(EngineKind::AesGcm, JOBS_MAX, 8)
}

fn by_device(child: ChildSa) -> ChildSa {
    ChildSa { processing: Processing::Lookaside, ..child }
}

/// One SA, its connection and its neighbours known, and a device that from now on waits to be told.
fn scene() -> (Scene, Peer, SoftDevice<VecBuf>) {
    let device = device();
    let mut scene = Scene::with_device(tables(), &device);
    let mut peer = Peer::new(by_device(child(1)));
    scene.command(peer.install());
    scene.receive(OUTSIDE, &peer.seal(&query(0)));
    scene.sent_with_arp(INSIDE);
    scene.receive(INSIDE, &answer(0));
    peer.open(&scene.one_sent_with_arp(OUTSIDE));
    scene.events();
    scene.assert_nothing_dropped();
    device.be_slow();
    (scene, peer, device)
}

fn query(n: u8) -> Vec<u8> {
    tcp((REMOTE, 40000), (VIP, 80), Flags::ACK, &[n])
}

fn answer(n: u8) -> Vec<u8> {
    to_gateway(&tcp((VIP, 80), (REMOTE, 40000), Flags::ACK, &[n]))
}

fn tables_with(state: VipState) -> Tables {
    let mut tables = tables();
    tables.vips[0].state = state;
    tables
}

/// The last bytes of what leaves by a port.
fn marks(scene: &mut Scene, port: PortId) -> Vec<u8> {
    scene.sent_with_arp(port).iter().filter_map(|frame| frame.last().copied()).collect()
}

#[test]
fn packets_go_through_the_device_both_ways_in_both_modes() {
    for (mode, udp) in
        [Mode::Tunnel, Mode::Transport].into_iter().flat_map(|mode| [(mode, None), (mode, Some((4500, 61000)))])
    {
        for esn in [false, true] {
            let device = device();
            let mut scene = Scene::with_device(tables(), &device);
            let mut sa = by_device(child(1));
            (sa.mode, sa.tunnel.udp, sa.inbound.esn, sa.outbound.esn) = (mode, udp, esn, esn);
            let remote = if mode == Mode::Tunnel { REMOTE } else { PEER };
            sa.remote_selectors = vec![selector("0.0.0.0/0")];
            let mut peer = Peer::new(sa);
            scene.command(peer.install());
            for round in 0..3 {
                let query = udp_between((remote, 40000), (VIP, 53), &[round; 32]);
                scene.receive(OUTSIDE, &peer.seal(&query));
                assert!(scene.one_sent_with_arp(INSIDE).ends_with(&[round; 32]));
                let answer = udp_between((VIP, 53), (remote, 40000), &[round + 10; 32]);
                scene.receive(INSIDE, &to_gateway(&answer));
                assert!(peer.open(&scene.one_sent_with_arp(OUTSIDE)).ends_with(&[round + 10; 32]));
            }
            scene.assert_nothing_dropped();
            assert_eq!((scene.counters.esp_in.packets(), scene.counters.esp_out.packets()), (3, 3));
            assert_eq!(scene.counters.tally(Tally::CryptoJobs), 6);
        }
    }
}

#[test]
fn what_is_too_big_and_what_is_answered_goes_through_the_device_too() {
    let device = device();
    let mut scene = Scene::with_device(tables(), &device);
    let mut peer = Peer::new(by_device(child(1)));
    scene.command(peer.install());
    scene.receive(OUTSIDE, &peer.seal(&echo_request(REMOTE, VIP)));
    peer.open(&scene.one_sent_with_arp(OUTSIDE));
    scene.receive(OUTSIDE, &peer.seal(&udp((REMOTE, 40000), (VIP, 53), b"query")));
    scene.one_sent_with_arp(INSIDE);
    scene.receive(INSIDE, &to_gateway(&udp((VIP, 53), (REMOTE, 40000), &[7; 1460])));
    let pieces = scene.sent_with_arp(OUTSIDE);
    assert_eq!(pieces.len(), 2, "split before it is encrypted");
    pieces.iter().for_each(|piece| drop(peer.open(piece)));
    assert_eq!(scene.counters.tally(Tally::CryptoJobs), 5);
    scene.assert_nothing_dropped();
}

#[test]
fn a_packet_waits_in_the_device_and_the_worker_knows() {
    let (mut scene, mut peer, device) = scene();
    scene.receive(OUTSIDE, &peer.seal(&query(1)));
    scene.receive(INSIDE, &answer(2));
    assert!(scene.sent(INSIDE).is_empty() && scene.sent(OUTSIDE).is_empty());
    assert_eq!((device.waiting(), scene.worker.in_crypto_device()), (2, 2));
    device.finish_all();
    assert_eq!(scene.worker.handle_completions(scene.now), 2);
    assert_eq!(scene.worker.in_crypto_device(), 0);
    assert_eq!(marks(&mut scene, INSIDE), [1]);
    assert_eq!(peer.open(&scene.one_sent(OUTSIDE)).last(), Some(&2));
    scene.assert_nothing_dropped();
}

#[test]
fn two_copies_of_a_packet_in_the_device_are_delivered_once() {
    let (mut scene, mut peer, device) = scene();
    let frame = peer.seal(&query(1));
    scene.receive_burst(OUTSIDE, &[frame.clone(), frame.clone()]);
    scene.receive(OUTSIDE, &frame);
    assert_eq!(device.waiting(), 3, "nothing is known of it before the device has said that it is authentic");
    device.finish_all();
    scene.complete();
    assert_eq!(marks(&mut scene, INSIDE), [1]);
    assert_eq!(scene.dropped(), [(DropReason::EspReplayed, 2)]);
    scene.receive(OUTSIDE, &frame);
    scene.assert_dropped(DropReason::EspReplayed);
    assert_eq!(device.waiting(), 0, "and now it is known");
}

#[test]
fn packets_keep_their_order_within_an_sa_whatever_another_sa_does() {
    let (mut scene, mut peer, device) = scene();
    let mut other_sa = by_device(child(2));
    other_sa.remote_selectors = vec![selector("10.8.0.0/16")];
    let mut other = Peer::new(other_sa);
    scene.command(other.install());
    let from_other = |n| tcp(("10.8.0.7".parse().unwrap(), 40000), (VIP, 80), Flags::ACK, &[n]);
    scene.receive_burst(
        OUTSIDE,
        &[peer.seal(&query(1)), other.seal(&from_other(2)), peer.seal(&query(3)), other.seal(&from_other(4))],
    );
    let mut first = None;
    device.finish(|job| (*first.get_or_insert(job.session) != job.session).then_some(Ok(())));
    scene.complete();
    assert_eq!(marks(&mut scene, INSIDE), [2, 4]);
    device.finish_all();
    scene.complete();
    assert_eq!(marks(&mut scene, INSIDE), [1, 3]);
    scene.assert_nothing_dropped();
}

#[test]
fn what_fails_in_the_device_is_dropped_for_a_reason() {
    let (mut scene, mut peer, device) = scene();
    let mut forged = peer.seal(&query(1));
    *forged.last_mut().unwrap() ^= 1;
    let genuine = peer.seal(&query(2));
    for (frame, result, reason) in [
        (&forged, Ok(()), DropReason::EspBadIcv),
        (&genuine, Err(Failure::BadTag), DropReason::EspBadIcv),
        (&genuine, Err(Failure::Device), DropReason::CryptoFailed),
        (&genuine, Err(Failure::OutOfBounds), DropReason::CryptoFailed),
        (&genuine, Err(Failure::NoSession), DropReason::CryptoSaGone),
    ] {
        scene.receive(OUTSIDE, frame);
        device.finish(|_| Some(result));
        scene.complete();
        scene.assert_dropped(reason);
    }
    scene.receive(OUTSIDE, &genuine);
    device.finish_all();
    scene.complete();
    assert_eq!(marks(&mut scene, INSIDE), [2], "none of this moved the window");
    assert_eq!(scene.worker.in_crypto_device(), 0);
}

#[test]
fn a_number_is_used_once_whatever_becomes_of_its_packet() {
    let (mut scene, mut peer, device) = scene();
    let sent = |scene: &mut Scene| report(scene)[0].sent;
    let before = sent(&mut scene);
    let mut nonces = Vec::new();
    for n in 0..3 {
        scene.receive(INSIDE, &answer(n));
        device.finish(|job| {
            nonces.push(job.nonce);
            Some(if n == 1 { Ok(()) } else { Err(Failure::Device) })
        });
        scene.complete();
    }
    peer.open(&scene.one_sent(OUTSIDE));
    assert_eq!(scene.dropped(), [(DropReason::CryptoFailed, 2)]);
    assert_eq!(sent(&mut scene), before + 3);
    assert!(nonces[0] != nonces[1] && nonces[1] != nonces[2] && nonces[0] != nonces[2]);
}

#[test]
fn a_full_device_refuses_before_a_number_is_used_up() {
    let (mut scene, mut peer, device) = scene();
    let before = report(&mut scene)[0].sent;
    let answers: Vec<_> = (0..JOBS_MAX as u8 + 3).map(answer).collect();
    scene.receive_burst(INSIDE, &answers);
    assert_eq!(scene.dropped(), [(DropReason::CryptoQueueFull, 3)]);
    assert_eq!(report(&mut scene)[0].sent, before + JOBS_MAX as u64);
    scene.receive(OUTSIDE, &peer.seal(&query(1)));
    scene.assert_dropped(DropReason::CryptoQueueFull);
    device.finish_all();
    scene.complete();
    let frames = scene.sent(OUTSIDE);
    let payloads: Vec<_> = frames.iter().filter_map(|frame| peer.open(frame).last().copied()).collect();
    assert_eq!(payloads, (0..JOBS_MAX as u8).collect::<Vec<_>>());
    scene.receive(INSIDE, &answer(99));
    assert_eq!(device.waiting(), 1, "there is room again");
}

#[test]
fn what_a_busy_device_does_not_take_waits_for_it() {
    let (mut scene, mut peer, device) = scene();
    device.be_busy(true);
    scene.receive(OUTSIDE, &peer.seal(&query(1)));
    scene.receive(INSIDE, &answer(2));
    assert_eq!((device.waiting(), scene.worker.in_crypto_device()), (0, 2));
    device.be_busy(false);
    scene.complete();
    assert_eq!(device.waiting(), 2);
    device.finish_all();
    scene.complete();
    assert_eq!(marks(&mut scene, INSIDE), [1]);
    assert_eq!(peer.open(&scene.one_sent(OUTSIDE)).last(), Some(&2));
    scene.assert_nothing_dropped();
}

#[test]
fn past_the_deadline_nothing_comes_out_of_the_device() {
    let (mut scene, mut peer, device) = scene();
    scene.receive(OUTSIDE, &peer.seal(&query(1)));
    scene.receive(INSIDE, &answer(2));
    device.finish_all();
    scene.deadline.expire();
    scene.complete();
    assert_eq!(scene.dropped(), [(DropReason::DeadlinePassed, 2)]);
    scene.deadline.lift();
    assert!(scene.sent(INSIDE).is_empty() && scene.sent(OUTSIDE).is_empty());
}

#[test]
fn the_horizon_is_asked_when_a_packet_comes_out() {
    let device = device();
    let mut scene = Scene::with_device(tables(), &device);
    let mut sa = by_device(child(1));
    sa.inbound.horizon = 0;
    let mut peer = Peer::new(sa);
    scene.command(peer.install());
    scene.events();
    device.be_slow();
    scene.receive(OUTSIDE, &peer.seal(&query(1)));
    scene.receive(OUTSIDE, &peer.seal(&query(2)));
    scene.command(Command::Grant { spi: peer.spi(), horizon: 1, lease: u64::MAX });
    device.finish_all();
    scene.complete();
    assert_eq!(scene.one_sent_with_arp(INSIDE).last(), Some(&1), "granted while it was in the device");
    assert_eq!(scene.counters.tally(Tally::Parked), 1);
    scene.command(Command::Grant { spi: peer.spi(), horizon: 2, lease: u64::MAX });
    assert_eq!(marks(&mut scene, INSIDE), [2]);
    scene.assert_nothing_dropped();
}

#[test]
fn an_sa_removed_while_its_packets_are_in_the_device_keeps_its_keys_until_they_are_back() {
    let (mut scene, mut peer, device) = scene();
    scene.receive(OUTSIDE, &peer.seal(&query(1)));
    scene.receive(INSIDE, &answer(2));
    scene.command(Command::RemoveChild(peer.spi()));
    assert_eq!((device.waiting(), device.sessions()), (2, 2));
    device.finish_all();
    scene.complete();
    assert_eq!(scene.dropped(), [(DropReason::CryptoSaGone, 2)]);
    assert!(scene.sent(INSIDE).is_empty() && scene.sent(OUTSIDE).is_empty());
    assert_eq!((device.sessions(), scene.worker.in_crypto_device()), (0, 0));
}

#[test]
fn an_sa_in_the_place_of_a_removed_one_gets_none_of_its_packets() {
    for again in [1, 2] {
        let (mut scene, mut peer, device) = scene();
        scene.receive(OUTSIDE, &peer.seal(&query(1)));
        scene.receive(INSIDE, &answer(2));
        scene.command(Command::RemoveChild(peer.spi()));
        // With the same SPI and keys, and with others.
        let mut successor = Peer::new(by_device(child(again)));
        scene.command(successor.install());
        device.finish_all();
        scene.complete();
        assert_eq!(scene.dropped(), [(DropReason::CryptoSaGone, 2)]);
        scene.receive(OUTSIDE, &successor.seal(&query(3)));
        device.finish_all();
        scene.complete();
        assert_eq!(marks(&mut scene, INSIDE), [3]);
        assert_eq!(device.sessions(), 2);
    }
}

#[test]
fn a_hand_over_is_confirmed_when_the_device_has_none_of_the_vips_packets() {
    let (mut scene, mut peer, device) = scene();
    scene.receive(OUTSIDE, &peer.seal(&query(1)));
    scene.receive(INSIDE, &answer(2));
    scene.use_tables(tables_with(VipState::HandingOver));
    assert_eq!(scene.events().len(), 0, "the last numbers are not known yet");
    let held = peer.seal(&query(3));
    scene.receive(OUTSIDE, &held);
    assert_eq!(device.waiting(), 2, "what comes from now on is held");
    device.finish_all();
    scene.complete();
    // A move loses no packet: what was taken is delivered and sent.
    assert_eq!(marks(&mut scene, INSIDE), [1]);
    peer.open(&scene.one_sent(OUTSIDE));
    assert!(matches!(scene.events().as_slice(), [Event::TablesInForce(2)]));
    scene.use_tables(tables_with(VipState::Elsewhere));
    assert_eq!(scene.one_sent(OUTSIDE)[12..], held[12..], "passed on");
    assert!(matches!(scene.events().as_slice(), [Event::TablesInForce(2)]));
    scene.assert_nothing_dropped();
}

#[test]
fn a_hand_over_taken_back_is_confirmed_at_once() {
    let (mut scene, mut peer, device) = scene();
    scene.receive(OUTSIDE, &peer.seal(&query(1)));
    scene.use_tables(tables_with(VipState::HandingOver));
    scene.use_tables(tables_with(VipState::Owned));
    assert!(matches!(scene.events().as_slice(), [Event::TablesInForce(2)]), "once, for the newest");
    device.finish_all();
    scene.complete();
    assert_eq!(marks(&mut scene, INSIDE), [1]);
    assert_eq!(scene.events().len(), 0);
}

#[test]
fn what_the_device_has_of_a_lost_vip_goes_nowhere() {
    let (mut scene, mut peer, device) = scene();
    scene.receive(OUTSIDE, &peer.seal(&query(1)));
    scene.receive(INSIDE, &answer(2));
    scene.use_tables(tables_with(VipState::Elsewhere));
    assert!(matches!(scene.events().as_slice(), [Event::TablesInForce(2)]));
    device.finish_all();
    scene.complete();
    assert_eq!(scene.dropped(), [(DropReason::VipNotOwned, 2)]);
    assert!(scene.sent(INSIDE).is_empty() && scene.sent(OUTSIDE).is_empty());
}

#[test]
fn sas_on_the_cpu_and_in_the_device_live_side_by_side() {
    let (mut scene, mut peer, device) = scene();
    let mut on_cpu = child(2);
    on_cpu.remote_selectors = vec![selector("10.8.0.0/16")];
    let mut on_cpu = Peer::new(on_cpu);
    scene.command(on_cpu.install());
    let from_other = tcp(("10.8.0.7".parse().unwrap(), 40000), (VIP, 80), Flags::ACK, &[2]);
    scene.receive_burst(OUTSIDE, &[peer.seal(&query(1)), on_cpu.seal(&from_other)]);
    assert_eq!(marks(&mut scene, INSIDE), [2]);
    device.finish_all();
    scene.complete();
    assert_eq!(marks(&mut scene, INSIDE), [1]);
    let processing: Vec<_> = report(&mut scene).iter().map(|sa| sa.processing).collect();
    assert_eq!(processing, [Processing::Lookaside, Processing::Cpu]);
}

#[test]
fn without_a_device_or_room_in_it_an_sa_is_refused() {
    let refusal = |scene: &mut Scene, child: ChildSa| {
        scene.command(Command::InstallChild(Box::new(child)));
        scene.events().into_iter().find_map(|event| match event {
            Event::ChildRefused(_, refusal) => Some(refusal),
            _ => None,
        })
    };
    let no_device = refusal(&mut Scene::new(), by_device(child(1)));
    assert_eq!(no_device, Some(ChildRefusal::Processing(Processing::Lookaside)));

    let device = SoftDevice::new(EngineKind::AesGcm, JOBS_MAX, 3);
    let mut scene = Scene::with_device(tables(), &device);
    assert_eq!(refusal(&mut scene, by_device(child(1))), None);
    let full = ChildRefusal::Session(SessionError::TooMany);
    assert_eq!(refusal(&mut scene, by_device(child(2))), Some(full));
    assert_eq!(device.sessions(), 2, "half a pair is none");
    for other in [Processing::InlineCrypto, Processing::InlineProtocol] {
        let child = ChildSa { processing: other, ..child(3) };
        assert_eq!(refusal(&mut scene, child), Some(ChildRefusal::Processing(other)));
    }
    let mut bad = by_device(child(4));
    bad.inbound.window = 3;
    scene.command(Command::RemoveChild(child(1).inbound.spi));
    assert_eq!(refusal(&mut scene, bad), Some(ChildRefusal::Setup));
    assert_eq!(device.sessions(), 0, "what can't be installed leaves no key behind");
}

fn report(scene: &mut Scene) -> Vec<SaReport> {
    scene.command(Command::Report { token: 1, what: ReportKind::Sas });
    let reports = scene.events().into_iter().find_map(|event| match event {
        Event::Report { report: Report::Sas(sas), .. } => Some(sas),
        _ => None,
    });
    reports.unwrap()
}
