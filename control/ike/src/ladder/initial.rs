//! IKE_SA_INIT and IKE_AUTH (RFC 7296 §1.2).

use std::time::Duration;

use vipsec_wire::cookie::Cookies;

use super::bench::lose_nth;
use super::{ALICE, BOB, Bench, Setup};
use crate::message::NotifyType;
use crate::{Drop, Event, GoneReason, Limits, Phase, Role};

#[test]
fn four_messages() {
    let mut bench = Bench::new(Setup::default());
    bench.call();
    /* IKE_SA_INIT { SA, KEi, Ni, N(NATD_S_IP), N(NATD_D_IP) } --> */
    let first = bench.deliver().unwrap();
    assert_eq!((first.to, first.transmit.payload[18], first.transmit.ike_sa), (BOB, 34, None));
    assert_eq!((bench.sides[BOB].endpoint.half_open(), bench.sides[ALICE].endpoint.calling()), (1, 1));
    assert_eq!(bench.phases(), [vec![], vec![]]);
    /* <-- IKE_SA_INIT { SA, KEr, Nr, N(NATD_S_IP), N(NATD_D_IP) } */
    let second = bench.deliver().unwrap();
    assert_eq!((second.to, second.transmit.payload[18], second.transmit.ike_sa), (ALICE, 34, None));
    assert_eq!(bench.phases(), [vec![Phase::Authenticating], vec![]]);
    assert!(bench.sides[ALICE].installed.is_empty());
    /* IKE_AUTH { IDi, IDr, AUTH, SA, TSi, TSr } --> */
    let third = bench.deliver().unwrap();
    assert_eq!((third.to, third.transmit.payload[18]), (BOB, 35));
    assert_eq!(third.transmit.ike_sa, Some(bench.sa(ALICE).id));
    assert_eq!(bench.phases(), [vec![Phase::Authenticating], vec![Phase::Established]]);
    assert_eq!(bench.sides[BOB].installed.len(), 1);
    /* <-- IKE_AUTH { IDr, AUTH, SA, TSi, TSr } */
    let fourth = bench.deliver().unwrap();
    assert_eq!(fourth.transmit.ike_sa, Some(bench.sa(BOB).id));
    assert!(bench.deliver().is_none());

    bench.assert_children_match();
    let (alice, bob) = (bench.sa(ALICE), bench.sa(BOB));
    assert_eq!((alice.role, bob.role), (Role::Initiator, Role::Responder));
    assert_eq!((alice.id.get(), alice.remote_spi), (bob.remote_spi, bob.id.get()));
    assert_eq!(alice.remote_id.as_deref(), Some("bob.example"));
    assert_eq!(bob.remote_id.as_deref(), Some("alice.example"));
    assert_eq!(alice.suite, "aes256gcm16-prfsha256-x25519");
    // The first child SA has no key exchange of its own.
    assert_eq!(alice.children[0].suite, "aes256gcm16");
    assert_eq!((alice.next_request, alice.next_expected), (2, 0));
    assert_eq!((bob.next_request, bob.next_expected), (0, 2));
    // SPIs begin with the appliance's id.
    assert_eq!((alice.id.get() >> 56, bob.id.get() >> 56), (1, 2));
    assert_eq!((bench.child(ALICE).spi_in >> 24, bench.child(BOB).spi_in >> 24), (1, 2));
    // No NAT: protocol 50.
    assert_eq!(bench.child(ALICE).tunnel.udp, None);
    for side in [ALICE, BOB] {
        let established =
            |event: &&Event| matches!(event, Event::IkeEstablished { connection, .. } if connection == "between");
        assert_eq!(bench.sides[side].events.iter().filter(established).count(), 1);
    }
}

#[test]
fn all_suites() {
    for ike in [
        "aes128gcm16-prfsha384-ecp256",
        "aes256gcm16-prfsha512-ecp384",
        "chacha20poly1305-prfsha256-x25519",
        "aes128-sha256-prfsha256-modp2048",
        "aes256-sha384-prfsha384-modp3072",
        "aes256-sha512-prfsha512-x25519",
    ] {
        for esp in ["aes128gcm16", "aes256gcm16-esn", "chacha20poly1305"] {
            let bench = Bench::established(Setup { ike: [ike; 2], esp: [esp; 2], ..Setup::default() });
            assert_eq!(bench.sa(BOB).suite, ike);
            assert_eq!(bench.sa(BOB).children[0].suite, esp);
            bench.assert_children_match();
        }
    }
}

#[test]
fn any_one_message_may_get_lost() {
    for n in 0..4 {
        let mut bench = Bench::new(Setup::default());
        bench.loss = Some(lose_nth(n));
        bench.call();
        bench.pass(Duration::from_secs(1));
        assert_eq!(bench.phases(), [vec![Phase::Established], vec![Phase::Established]], "message {n}");
        bench.assert_children_match();
        assert_eq!(bench.sides[BOB].endpoint.half_open(), 0);
    }
}

#[test]
fn messages_may_come_twice() {
    let mut bench = Bench::new(Setup::default());
    bench.call();
    while let Some(flying) = bench.deliver() {
        bench.hand_over(&flying);
    }
    assert_eq!(bench.phases(), [vec![Phase::Established], vec![Phase::Established]]);
    bench.assert_children_match();
}

/// RFC 7296 §2.4: the peer counts as dead only after repeated attempts.
#[test]
fn nobody_answers() {
    let mut bench = Bench::new(Setup::default());
    bench.loss = Some(Box::new(|_| true));
    let id = bench.call();
    bench.pass(Duration::from_secs(60));
    // 0.5 + 1 + 2 + 4 + 8 + 8 seconds
    let expected = Event::IkeGone { id, connection: "between".to_owned(), reason: GoneReason::PeerDead };
    assert_eq!(bench.sides[ALICE].events, [expected]);
    assert_eq!(bench.sides[ALICE].endpoint.poll_timeout(), None);
    assert_eq!(bench.sides[ALICE].endpoint.calling(), 0);
}

/// RFC 7296 §1.2: INVALID_KE_PAYLOAD names the group, and the initiator starts again with it.
#[test]
fn wrong_group_at_first() {
    let ike = ["aes256gcm16-prfsha256-ecp256-x25519", "aes256gcm16-prfsha256-x25519"];
    let mut bench = Bench::new(Setup { ike, ..Setup::default() });
    bench.call();
    /* IKE_SA_INIT { SA, KEi(ECP256), Ni } --> */
    bench.deliver();
    assert_eq!(bench.sides[BOB].endpoint.half_open(), 0);
    assert_eq!(bench.sides[BOB].endpoint.counters().get(Drop::InvalidKeyExchange), 1);
    /* <-- IKE_SA_INIT { N(INVALID_KE_PAYLOAD, X25519) } */
    let refusal = bench.deliver().unwrap();
    // RFC 7296 §2.6: the responder's SPI is zero then.
    assert_eq!(refusal.transmit.payload[8..16], [0; 8]);
    /* IKE_SA_INIT { SA, KEi(X25519), Ni } --> ... */
    bench.run();
    assert_eq!(bench.sa(ALICE).suite, "aes256gcm16-prfsha256-x25519");
    bench.assert_children_match();
}

#[test]
fn no_proposal_chosen() {
    let ike = ["aes256gcm16-prfsha256-x25519", "aes128gcm16-prfsha256-x25519"];
    let mut bench = Bench::new(Setup { ike, ..Setup::default() });
    bench.call();
    bench.run();
    assert_eq!(bench.sides[BOB].endpoint.half_open(), 0);
    // RFC 7296 §2.21.1: the notification is unauthenticated, so the initiator goes on trying for a while.
    assert_eq!(bench.sides[ALICE].endpoint.calling(), 1);
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.sides[ALICE].gone(), [GoneReason::Refused(NotifyType::NO_PROPOSAL_CHOSEN)]);
}

/// RFC 7296 §2.21.2.
#[test]
fn wrong_shared_key() {
    let mut bench = Bench::new(Setup { psk: ["one", "two"], ..Setup::default() });
    bench.call();
    bench.run();
    assert_eq!(bench.phases(), [vec![], vec![]]);
    assert_eq!(bench.sides[ALICE].gone(), [GoneReason::AuthenticationFailed]);
    assert_eq!(bench.sides[BOB].endpoint.counters().get(Drop::AuthenticationFailed), 1);
    assert!(bench.sides.iter().all(|side| side.installed.is_empty()));
    assert!(bench.sides[BOB].events.is_empty());
}

/// The answer to a failed authentication is repeated too, though no IKE SA is left.
#[test]
fn wrong_shared_key_and_the_answer_is_lost() {
    let mut bench = Bench::new(Setup { psk: ["one", "two"], ..Setup::default() });
    bench.loss = Some(lose_nth(3));
    bench.call();
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.sides[ALICE].gone(), [GoneReason::AuthenticationFailed]);
}

#[test]
fn wrong_identity() {
    let mut bench = Bench::new(Setup { bob_accepts_id: "mallory.example", ..Setup::default() });
    bench.call();
    bench.run();
    assert_eq!(bench.sides[ALICE].gone(), [GoneReason::AuthenticationFailed]);
    let mut bench = Bench::new(Setup { bob_accepts_id: "*.example", ..Setup::default() });
    bench.call();
    bench.run();
    assert_eq!(bench.sa(BOB).remote_id.as_deref(), Some("alice.example"));
}

/// RFC 7296 §2.9: the responder narrows.
#[test]
fn traffic_selectors_narrow() {
    let mut bench = Bench::new(Setup { bob_net: "10.9.7.0/24", ..Setup::default() });
    bench.call();
    bench.run();
    assert_eq!(bench.child(ALICE).remote_selectors, ["10.9.7.0/24".parse().unwrap()]);
    bench.assert_children_match();
}

/// RFC 7296 §2.21.2: a child SA that fails leaves the IKE SA alone.
#[test]
fn child_refused_ike_sa_kept() {
    let esp = ["aes256gcm16", "aes128gcm16"];
    for (setup, expected) in [
        (Setup { bob_net: "172.16.0.0/12", ..Setup::default() }, NotifyType::TS_UNACCEPTABLE),
        (Setup { esp, ..Setup::default() }, NotifyType::NO_PROPOSAL_CHOSEN),
    ] {
        let mut bench = Bench::new(setup);
        bench.call();
        bench.run();
        assert_eq!(bench.phases(), [vec![Phase::Established], vec![Phase::Established]]);
        bench.assert_children_match();
        for side in &bench.sides {
            assert!(side.installed.is_empty());
            assert!(side.events.iter().any(|e| matches!(e, Event::ChildFailed { reason, .. } if *reason == expected)));
        }
    }
}

/// RFC 7296 §2.23: both ends notice the NAT, IKE moves to port 4500, and ESP goes in UDP.
#[test]
fn behind_a_nat() {
    let mut bench = Bench::new(Setup::default());
    bench.nat = Some("203.0.113.9:61000".parse().unwrap());
    // Bob calls from behind his NAT; Alice knows him by his address as the NAT shows it.
    bench.sides[BOB].endpoint.initiate("between", "net", bench.now).unwrap();
    bench.run();
    let (alice, bob) = (bench.sa(ALICE), bench.sa(BOB));
    assert!(alice.nat && bob.nat);
    assert_eq!((alice.local.port(), alice.remote), (4500, "203.0.113.9:61000".parse().unwrap()));
    assert_eq!((bob.local.port(), bob.remote.port()), (4500, 4500));
    assert_eq!(bench.child(ALICE).tunnel.udp, Some((4500, 61000)));
    assert_eq!(bench.child(BOB).tunnel.udp, Some((4500, 4500)));

    // The NAT forgets its mapping and makes another one: Alice follows a fresh request.
    bench.nat = Some("203.0.113.9:62000".parse().unwrap());
    bench.sides[BOB].endpoint.check_liveness(bob.id, bench.now).unwrap();
    bench.run();
    assert_eq!(bench.sa(ALICE).remote, "203.0.113.9:62000".parse().unwrap());
    let moved = bench.sides[ALICE].events.iter().any(|event| {
        matches!(event, Event::PeerMoved { children, remote, .. } if children.len() == 1 && remote.port() == 62000)
    });
    assert!(moved);
    assert_eq!(bench.sa(ALICE).children[0].tunnel.udp, Some((4500, 62000)));
    // ESP may see it first.
    let spi = bench.child(ALICE).spi_in;
    bench.sides[ALICE].endpoint.peer_moved(spi, "203.0.113.9:63000".parse().unwrap(), bench.now);
    assert_eq!(bench.sa(ALICE).remote.port(), 63000);
}

/// RFC 7296 §2.4.
#[test]
fn initial_contact_is_honoured() {
    let mut bench = Bench::established(Setup::default());
    let old = bench.sa(BOB);
    // Alice has lost everything and calls again.
    bench.restart(ALICE);
    bench.call();
    bench.run();
    // We never send INITIAL_CONTACT, so Bob keeps the old one ...
    assert_eq!(bench.phases()[BOB].len(), 2);
    // ... but a peer that does send it means it.
    bench.restart(ALICE);
    bench.call();
    /* IKE_SA_INIT */
    bench.deliver();
    bench.deliver();
    /* IKE_AUTH { ..., N(INITIAL_CONTACT) } --> */
    bench.rewrite_next(|payloads| payloads.push(NotifyType::INITIAL_CONTACT.into()));
    bench.run();
    assert_eq!(bench.sides[BOB].gone(), [GoneReason::InitialContact; 2]);
    assert_ne!(bench.sa(BOB).id, old.id);
    bench.assert_children_match();
}

/// RFC 7296 §2.6.
#[test]
fn cookies_above_the_threshold() {
    let limits = Limits { half_open_cookie_threshold: 0, ..Limits::default() };
    let mut bench = Bench::new(Setup { limits, ..Setup::default() });
    bench.call();
    /* IKE_SA_INIT { SA, KEi, Ni } --> */
    let first = bench.deliver().unwrap();
    assert_eq!(bench.sides[BOB].endpoint.half_open(), 0);
    /* <-- IKE_SA_INIT { N(COOKIE) } */
    let cookie = bench.deliver().unwrap();
    assert!(cookie.transmit.payload.len() < first.transmit.payload.len());
    /* IKE_SA_INIT { N(COOKIE), SA, KEi, Ni } --> ... */
    let second = bench.deliver().unwrap();
    assert_eq!(bench.sides[BOB].endpoint.half_open(), 1);
    // All other payloads are unchanged.
    let rest = &first.transmit.payload[28..];
    assert!(second.transmit.payload.ends_with(rest));
    bench.run();
    bench.assert_children_match();
    assert_eq!(bench.phases(), [vec![Phase::Established], vec![Phase::Established]]);
    // From elsewhere the same cookie is worth nothing.
    let mut other = Bench::new(bench.setup.clone());
    let now = other.now;
    let local = second.transmit.remote;
    other.sides[BOB].endpoint.handle_datagram(
        now,
        local,
        "198.51.100.8:500".parse().unwrap(),
        &second.transmit.payload,
    );
    assert_eq!(other.sides[BOB].endpoint.half_open(), 0);
    assert_eq!(other.sides[BOB].endpoint.counters().get(Drop::CookieWrong), 1);
}

#[test]
fn cookies_of_a_shared_secret() {
    let limits = Limits { half_open_cookie_threshold: 0, ..Limits::default() };
    let mut bench = Bench::new(Setup { limits, ..Setup::default() });
    let share = |bench: &mut Bench| {
        bench.sides[BOB].endpoint.set_cookies(Cookies::new(7, [9; 16]));
    };
    share(&mut bench);
    bench.call();
    bench.deliver();
    // The successor has the secret and takes the cookie of its predecessor.
    bench.deliver();
    bench.replace(BOB);
    share(&mut bench);
    bench.run();
    assert_eq!(bench.sides[BOB].endpoint.counters().get(Drop::CookieWrong), 0);
    assert_eq!(bench.phases(), [vec![Phase::Established], vec![Phase::Established]]);
}

#[test]
fn half_open_ones_are_bounded_and_end() {
    let limits = Limits { half_open_max: 3, half_open_cookie_threshold: 10, ..Limits::default() };
    let mut bench = Bench::new(Setup { limits, ..Setup::default() });
    for _ in 0..5 {
        bench.call();
    }
    for _ in 0..5 {
        assert_eq!(bench.deliver().unwrap().to, BOB);
    }
    assert_eq!(bench.sides[BOB].endpoint.half_open(), 3);
    assert_eq!(bench.sides[BOB].endpoint.counters().get(Drop::HalfOpenLimit), 2);
    let later = bench.now + limits.half_open_timeout;
    bench.sides[BOB].endpoint.handle_timeout(later);
    assert_eq!(bench.sides[BOB].endpoint.half_open(), 0);
    assert_eq!(bench.sides[BOB].endpoint.poll_timeout(), None);
}
