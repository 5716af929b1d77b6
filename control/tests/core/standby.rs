//! What a backup's workers have before it takes over: the child SAs of its copy, dormant.

use std::time::{Duration, Instant};

use vipsec_control::api::{IkeSa, Request, Response};
use vipsec_dataplane::api::{Event, IkeDatagram, Numbers, VipState};
use vipsec_esp::sa::{DORMANT, Spi};
use vipsec_ike::{ConnectionPolicy, Encapsulation, IkeSaId};

use super::bench::{Bench, Peer, VIP, connection, peer_policy};
use super::pair::Pair;

const SECOND: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(20);
const FAR: &str = "198.51.100.7";

/// The first appliance has a remote peer with that many IKE SAs, each with a child SA.
fn established(count: usize) -> Pair {
    let limits = "[ike.limits]\nike_sas_per_peer_max = 20000\n";
    let mut pair = Pair::with_room(&format!("{}{limits}", connection("branch", FAR, 9, "")), 2 * count as u32 + 32);
    pair.sides[0].peers.push(Peer::new(1, peer_policy("branch", FAR, 9)));
    for _ in 0..count {
        initiate(&mut pair);
    }
    pair.pass(SECOND);
    pair
}

fn initiate(pair: &mut Pair) {
    let now = pair.now();
    pair.sides[0].peers[0].endpoint.initiate("vip", "net", now).unwrap();
    pair.sides[0].run();
}

fn spis(side: &Bench) -> Vec<Spi> {
    side.children.keys().copied().collect()
}

/// Neither side of any of them has a number to use.
fn are_dormant(side: &Bench) -> bool {
    side.children.values().all(|(_, child)| (child.inbound.edge, child.outbound.sent) == (DORMANT, DORMANT))
}

/// The owner dies, and the other one serves.
fn take_over(pair: &mut Pair) {
    pair.kill(0);
    pair.in_earshot = false;
    while !pair.sides[1].core.is_serving() {
        pair.pass(Duration::from_millis(1));
    }
}

/// A step of the successor, as its daemon does it.
fn step(successor: &mut Bench) {
    successor.now = successor.now.max(successor.core.poll_timeout());
    successor.core.handle_timeout(successor.now);
    successor.run();
}

/// The successor goes on until its VIP is announced.
fn announce(successor: &mut Bench) {
    while state(successor) == VipState::Elsewhere {
        step(successor);
    }
}

fn state(side: &Bench) -> VipState {
    side.tables.vips[0].state
}

fn awake(side: &Bench) -> usize {
    side.children.values().filter(|(_, child)| child.inbound.edge != DORMANT).count()
}

#[test]
fn a_backup_has_what_its_copy_has_and_loses_what_that_loses() {
    let mut pair = established(3);
    assert_eq!(spis(&pair.sides[1]), spis(&pair.sides[0]));
    assert!(are_dormant(&pair.sides[1]) && !are_dormant(&pair.sides[0]));
    // One more, one gone.
    initiate(&mut pair);
    let now = pair.now();
    let peer = &mut pair.sides[0].peers[0].endpoint;
    let gone = peer.sas(now).next().unwrap().id;
    peer.delete_ike(gone, now).unwrap();
    pair.pass(LOOK);
    assert_eq!(pair.sides[0].children.len(), 3);
    assert_eq!(spis(&pair.sides[1]), spis(&pair.sides[0]));
    // Rekeyed: the new one comes, and the old one goes with its record.
    let spi = spis(&pair.sides[0])[0];
    let now = pair.now();
    let child = pair.sides[0].peers[0].children.values().find(|child| child.spi_out == spi.get()).unwrap().spi_in;
    pair.sides[0].peers[0].endpoint.rekey_child(child, now).unwrap();
    pair.pass(SECOND);
    assert!(!spis(&pair.sides[0]).contains(&spi));
    assert_eq!(spis(&pair.sides[1]), spis(&pair.sides[0]));
}

#[test]
fn at_a_takeover_nothing_has_to_be_installed() {
    let mut pair = established(3);
    let busy = spis(&pair.sides[0])[0];
    let numbers = Numbers { spi: busy, edge: 10, horizon_wanted: 100, sent: 5, lease_wanted: 4096 };
    pair.sides[0].hear(0, Event::Numbers(numbers));
    pair.pass(LOOK);
    let installed = pair.sides[1].installations;
    take_over(&mut pair);
    assert_eq!(pair.sides[1].installations, installed);
    assert_eq!(pair.sides[1].opened_with, Some(3));
    let starts = |spi| {
        let (_, child) = &pair.sides[1].children[&spi];
        (child.inbound.edge, child.outbound.sent, child.outbound.iv_prefix.iv(1).unwrap()[0])
    };
    assert_eq!(starts(busy), (100, 4096, 2), "behind what the owner may have used, under its successor's name");
    for spi in spis(&pair.sides[1]).into_iter().filter(|spi| *spi != busy) {
        assert_eq!(starts(spi), (0, 1 << 10, 2));
    }
}

/// What is written with the owner's last breath is no less than what came before.
#[test]
fn a_child_sa_that_came_after_the_last_look_is_taken_over_too() {
    let mut pair = established(2);
    let installed = pair.sides[1].installations;
    initiate(&mut pair);
    pair.kill(0);
    assert_eq!(pair.sides[1].children.len(), 2, "the backup has not looked since");
    take_over(&mut pair);
    assert_eq!(spis(&pair.sides[1]), spis(&pair.sides[0]));
    assert_eq!(pair.sides[1].installations, installed + 1);
    assert!(pair.sides[1].children.values().all(|(_, child)| child.inbound.edge != DORMANT));
}

/// The copy died with the pairing that filled it; a dormant child SA of it must not be woken by a later one.
#[test]
fn a_backup_without_a_copy_has_nothing() {
    let mut pair = established(2);
    pair.sides[1].core.handle_shutdown(pair.now());
    pair.sides[1].run();
    let mut waited = 0;
    while !pair.sides[1].children.is_empty() {
        pair.pass(LOOK);
        waited += 1;
        assert!(waited < 100, "{:?}", spis(&pair.sides[1]));
    }
}

/// The remote peer's NAT has given it another port: what is sent after a takeover goes there.
#[test]
fn a_tunnel_that_moved_is_prepared_anew() {
    let mut pair = Pair::new(&connection("branch", FAR, 9, ""));
    let policy = ConnectionPolicy { encapsulation: Encapsulation::Always, ..peer_policy("branch", FAR, 9) };
    pair.sides[0].peers.push(Peer::new(1, policy));
    initiate(&mut pair);
    pair.pass(SECOND);
    let port_at = |side: &Bench| side.children.values().next().and_then(|(_, child)| Some(child.tunnel.udp?.1));
    assert_eq!([0, 1].map(|side| port_at(&pair.sides[side])), [Some(4500); 2]);
    let spi = spis(&pair.sides[0])[0];
    pair.sides[0].hear(0, Event::PeerMoved { spi, remote: format!("{FAR}:40000").parse().unwrap() });
    pair.pass(LOOK);
    assert_eq!(port_at(&pair.sides[1]), Some(40000));
    assert!(are_dormant(&pair.sides[1]));
    take_over(&mut pair);
    assert_eq!(port_at(&pair.sides[1]), Some(40000));
}

/// Nothing of the old owner's stays in the store: what its next backup gets is the successor's.
#[test]
fn the_next_backup_gets_what_the_successor_has() {
    let mut pair = established(3);
    take_over(&mut pair);
    let now = pair.now();
    let gone = pair.sides[1].sas()[0].spi;
    pair.sides[1].peers.push(Peer::new(1, peer_policy("branch", FAR, 9)));
    pair.ask(1, Request::Delete { spi: gone });
    pair.revive(0);
    // Its copy is complete once it counts; then two looks.
    pair.pass(2 * SECOND);
    assert!(pair.now() > now && pair.sides[1].core.is_serving());
    let left = spis(&pair.sides[1]);
    assert_eq!(spis(&pair.sides[0]), left);
    assert!(are_dormant(&pair.sides[0]) && !are_dormant(&pair.sides[1]));
}

/// The first one's IKE and workers keep nothing, and its remote peer hears no word of it.
#[test]
fn after_a_move_nothing_of_the_sas_stays_at_the_first() {
    let mut pair = established(3);
    let before = spis(&pair.sides[0]);
    let at_peer = pair.sides[0].peers[0].children.len();
    pair.ask(0, Request::MoveVip { vip: "web".to_owned(), to: "2".to_owned() });
    pair.pass(Duration::from_millis(20));
    assert!(pair.sides[1].core.is_serving());
    assert_eq!((spis(&pair.sides[1]), are_dormant(&pair.sides[1])), (before, false));
    assert!(pair.sides[0].children.is_empty() && pair.sides[0].sas().is_empty());
    assert_eq!(pair.sides[0].peers[0].children.len(), at_peer);
}

/// Its records were good when they came.
#[test]
fn what_a_reload_took_out_of_the_configuration_is_not_gone_on_with() {
    let mut pair = Pair::new(&connection("branch", FAR, 9, ""));
    pair.sides[0].peers.push(Peer::new(1, peer_policy("branch", FAR, 9)));
    initiate(&mut pair);
    pair.pass(SECOND);
    assert_eq!(spis(&pair.sides[1]).len(), 1);
    pair.reload(1, "");
    take_over(&mut pair);
    assert!(are_dormant(&pair.sides[1]));
    pair.pass(SECOND);
    assert!(pair.sides[1].children.is_empty() && pair.sides[1].sas().is_empty());
}

/// Waking takes longer than frames may be held: those that sleep yet have to do without theirs.
#[test]
fn frames_are_held_for_a_while_only() {
    const COUNT: usize = 4500;
    let mut pair = established(COUNT);
    pair.kill(0);
    pair.in_earshot = false;
    let successor = &mut pair.sides[1];
    announce(successor);
    // Its processor is slow.
    successor.step_takes = Duration::from_millis(30);
    successor.pass(Duration::from_millis(50));
    assert_eq!(state(successor), VipState::Owned);
    assert!((1..COUNT).contains(&awake(successor)), "{} are awake", awake(successor));
    successor.pass(SECOND);
    assert_eq!(awake(successor), COUNT);
}

/// Many take several slices, here and there.
#[test]
fn after_a_move_of_many_nothing_of_the_sas_stays_at_the_first() {
    const COUNT: usize = 1000;
    let mut pair = established(COUNT);
    pair.ask(0, Request::MoveVip { vip: "web".to_owned(), to: "2".to_owned() });
    pair.pass(SECOND);
    assert_eq!((awake(&pair.sides[1]), pair.sides[1].sas().len()), (COUNT, COUNT));
    assert!(pair.sides[0].children.is_empty() && pair.sides[0].sas().is_empty());
}

/// What is left of its SAs is neither taken for those that come back, nor forgotten in their stead.
#[test]
fn a_vip_may_come_back_before_all_of_it_is_forgotten() {
    const COUNT: usize = 200;
    let mut pair = established(COUNT);
    let before = spis(&pair.sides[0]);
    pair.sides[0].step_takes = SECOND;
    pair.ask(0, Request::MoveVip { vip: "web".to_owned(), to: "2".to_owned() });
    assert_eq!(spis(&pair.sides[1]), before);
    let left = pair.sides[0].sas().len();
    assert!((1..COUNT).contains(&left), "{left} are left");
    // The new owner's copy comes.
    pair.cut_link();
    pair.link();
    pair.pass(Duration::from_millis(500));
    assert_eq!((spis(&pair.sides[0]), are_dormant(&pair.sides[0])), (before.clone(), true));
    assert!(!pair.sides[0].sas().is_empty(), "not all are forgotten");
    pair.kill(1);
    pair.in_earshot = false;
    while !pair.sides[0].core.is_serving() {
        pair.pass(Duration::from_millis(1));
    }
    assert_eq!((spis(&pair.sides[0]), awake(&pair.sides[0])), (before.clone(), COUNT));
    pair.pass(20 * SECOND);
    assert_eq!((pair.sides[0].sas().len(), awake(&pair.sides[0])), (COUNT, COUNT));
}

/// The original's way, made before the other is broken: traffic waits for no negotiation.
#[test]
fn what_is_renegotiated_carries_until_its_heir_does() {
    let mut pair = Pair::renegotiating(&connection("branch", FAR, 9, ""));
    pair.sides[0].peers.push(Peer::new(1, peer_policy("branch", FAR, 9)));
    initiate(&mut pair);
    pair.pass(SECOND);
    let old = spis(&pair.sides[0]);
    pair.kill(0);
    pair.in_earshot = false;
    let peer = pair.sides[0].peers.pop().unwrap();
    pair.sides[1].peers.push(peer);
    while !pair.sides[1].core.is_serving() {
        pair.pass(Duration::from_millis(1));
    }
    assert_eq!(pair.sides[1].opened_with, Some(1));
    assert_eq!((spis(&pair.sides[1]), are_dormant(&pair.sides[1])), (old.clone(), false));
    pair.pass(SECOND);
    let both = spis(&pair.sides[1]);
    assert!(both.len() == 2 && both.contains(&old[0]), "the old one stays until the new one carries");
    let new = *both.iter().find(|spi| **spi != old[0]).unwrap();
    pair.sides[1].hear(0, Event::Alive(new));
    pair.pass(SECOND);
    assert_eq!(spis(&pair.sides[1]), [new]);
    assert_eq!(pair.sides[1].peers[0].children.len(), 1, "and is gone at the remote peer");
}

/// It has called the peer, and not yet deleted what the call replaces.
#[test]
fn a_successor_that_dies_between_a_call_and_its_end_leaves_one_tunnel_not_two() {
    let mut pair = Pair::renegotiating(&connection("branch", FAR, 9, ""));
    pair.sides[0].peers.push(Peer::new(1, peer_policy("branch", FAR, 9)));
    initiate(&mut pair);
    pair.pass(SECOND);
    for (dies, heir) in [(0, 1), (1, 0)] {
        pair.kill(dies);
        let peer = pair.sides[dies].peers.pop().unwrap();
        pair.sides[heir].peers.push(peer);
        while !pair.sides[heir].core.is_serving() {
            pair.pass(Duration::from_millis(1));
        }
        pair.revive(dies);
        pair.pass(2 * SECOND);
        assert!(pair.sides[heir].children.len() > 1, "no traffic has come yet");
    }
    pair.pass(10 * SECOND);
    assert_eq!((pair.sides[0].sas().len(), pair.sides[0].children.len()), (1, 1));
    assert_eq!(pair.sides[0].peers[0].children.len(), 1);
}

/// More IKE SAs than IKE is given in one go: what comes for one of them meanwhile waits, and isn't taken for a stranger's.
#[test]
fn deadlines_are_renewed_while_ike_is_given_its_sas_and_requests_wait_for_it() {
    const COUNT: usize = 1000;
    let mut pair = established(COUNT);
    pair.kill(0);
    pair.in_earshot = false;
    let mut peer = pair.sides[0].peers.pop().unwrap();
    let successor = &mut pair.sides[1];
    let sas = |successor: &mut Bench| -> Vec<IkeSa> {
        match successor.ask(Request::Sas) {
            Ok(Response::Sas(sas)) => sas.ike_sas,
            other => panic!("{other:?}"),
        }
    };
    announce(successor);
    assert_eq!(
        (awake(successor), state(successor)),
        (0, VipState::HandingOver),
        "nothing keeps the announcement waiting"
    );
    let announced = successor.now;
    while state(successor) != VipState::Owned {
        let next = successor.core.poll_timeout();
        assert!(next <= successor.now + Duration::from_millis(1), "there is more to do at once");
        step(successor);
    }
    assert_eq!((awake(successor), successor.opened_with), (COUNT, Some(COUNT)), "no frame meets one that sleeps");
    assert!(successor.now < announced + Duration::from_millis(1));
    let known = sas(successor).len();
    assert!(known < COUNT, "all of them carry before IKE knows them");
    let now = successor.now;
    let asked = peer.endpoint.sas(now).last().unwrap().id;
    peer.endpoint.create_child(asked, "net", now).unwrap();
    let request = peer.endpoint.poll_transmit().unwrap();
    let datagram =
        IkeDatagram { local: format!("{VIP}:500").parse().unwrap(), remote: request.local, payload: request.payload };
    successor.hear(0, Event::Ike(datagram));
    let mut steps = 0;
    while sas(successor).len() < COUNT {
        step(successor);
        steps += 1;
    }
    assert!(steps >= 4, "{COUNT} in {steps} steps");
    // It is answered, once published where a copy counts: here at once.
    let answered = successor.unheard.iter().any(|answer| answer.payload[..16] == peer_spis(&peer, asked));
    assert!(answered, "{} messages", successor.unheard.len());
}

/// What is woken while a backup's copy is filled already is bound like the rest before that copy counts.
#[test]
fn a_join_in_the_middle_of_a_takeover_binds_every_child_sa() {
    const COUNT: usize = 1500;
    let mut pair = established(COUNT);
    pair.kill(0);
    pair.in_earshot = false;
    let successor = &mut pair.sides[1];
    announce(successor);
    pair.revive(0);
    // The returned one is quick; no time goes by at the successor.
    for _ in 0..5 {
        pair.sides[0].pass(Duration::from_millis(10));
        pair.talk();
    }
    let dormant = pair.sides[1].children.values().filter(|(_, child)| child.inbound.edge == DORMANT).count();
    assert!(dormant > 0, "nothing is left to be woken");
    pair.pass(3 * SECOND);
    assert_eq!(spis(&pair.sides[0]).len(), COUNT, "the copy is complete");
    let unbound = pair.sides[1].children.values().filter(|(_, child)| child.inbound.horizon != 0).count();
    assert_eq!(unbound, 0);
}

/// Both SPIs of an IKE SA as its messages carry them.
fn peer_spis(peer: &Peer, id: IkeSaId) -> [u8; 16] {
    let sa = peer.endpoint.sas(Instant::now()).find(|sa| sa.id == id).unwrap();
    let mut spis = [0; 16];
    spis[..8].copy_from_slice(&sa.id.get().to_be_bytes());
    spis[8..].copy_from_slice(&sa.remote_spi.to_be_bytes());
    spis
}
