//! Inside addresses (RFC 7296 §2.19), reauthentication (§2.8.3), and the key log.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use super::{ALICE, BOB, Bench, Setup};
use crate::message::{ConfigAttribute, ConfigKind, ConfigPayload, NotifyType, Payload};
use crate::{AddressPool, Event, GoneReason, KeyLogTable, Limits, Phase};

fn with_pool(last: &str) -> Setup {
    let pool = AddressPool {
        name: "branches".to_owned(),
        first: "10.1.0.1".parse().unwrap(),
        last: last.parse().unwrap(),
        dns: vec!["10.9.0.53".parse().unwrap()],
    };
    Setup { bob_pools: vec![Arc::new(pool)], ..Setup::default() }
}

/// Alice calls, and asks as her operator would have her ask.
fn call(bench: &mut Bench, ask: impl FnOnce(&mut Vec<Payload>)) -> Vec<Payload> {
    bench.call();
    bench.deliver();
    bench.deliver();
    bench.rewrite_next(ask);
    bench.deliver();
    let answer = bench.wire.front().unwrap().clone();
    let payloads = bench.read(&answer);
    bench.run();
    payloads
}

fn request(address: Option<Ipv4Addr>) -> Payload {
    let attributes = vec![ConfigAttribute::Ip4Address(address), ConfigAttribute::Ip4Dns(None)];
    Payload::Config(ConfigPayload { kind: ConfigKind::Request, attributes })
}

fn assigned(payloads: &[Payload]) -> Option<Ipv4Addr> {
    payloads.iter().find_map(|payload| match payload {
        Payload::Config(ConfigPayload { kind: ConfigKind::Reply, attributes }) => {
            assert!(attributes.contains(&ConfigAttribute::Ip4Dns(Some(Ipv4Addr::new(10, 9, 0, 53)))));
            attributes.iter().find_map(|attribute| match attribute {
                ConfigAttribute::Ip4Address(address) => *address,
                _ => None,
            })
        }
        _ => None,
    })
}

/// A bench on which Alice has called Bob and has an inside address from him.
pub(super) fn established() -> Bench {
    let mut bench = Bench::new(with_pool("10.1.0.9"));
    call(&mut bench, |payloads| payloads.insert(1, request(None)));
    assert_eq!(bench.sides[BOB].endpoint.addresses_assigned(), 1);
    bench.forget_events();
    bench
}

/// /* IKE_AUTH { ..., CP(CFG_REQUEST), SA, TSi, TSr } -->, <-- IKE_AUTH { ..., CP(CFG_REPLY), SA, TSi, TSr } */
#[test]
fn an_address_for_the_peer() {
    let mut bench = Bench::new(with_pool("10.1.0.9"));
    let payloads = call(&mut bench, |payloads| payloads.insert(1, request(None)));
    let address = assigned(&payloads).unwrap();
    let at = |wanted: fn(&Payload) -> bool| payloads.iter().position(wanted).unwrap();
    // RFC 7296 §2.19: the CP payload MUST be inserted before the SA payload.
    assert!(at(|p| matches!(p, Payload::Config(_))) < at(|p| matches!(p, Payload::Sa(_))));
    // Its end of the child SA is that address alone.
    bench.assert_children_match();
    assert_eq!(bench.child(BOB).remote_selectors, [format!("{address}").parse().unwrap()]);
    assert_eq!(bench.sides[BOB].endpoint.addresses_assigned(), 1);
    // RFC 7296 §3.15.1: valid as long as the IKE SA or its rekeyed successors; it is in the records too.
    let id = bench.sa(ALICE).id;
    bench.sides[ALICE].endpoint.rekey_ike(id, bench.now).unwrap();
    bench.run();
    bench.replace(BOB);
    assert_eq!(bench.sides[BOB].endpoint.addresses_assigned(), 1);
    let id = bench.sa(ALICE).id;
    bench.sides[ALICE].endpoint.create_child(id, "spare", bench.now).unwrap();
    bench.run();
    bench.assert_children_match();
    assert!(bench.sides[BOB].installed.values().all(|child| child.remote_selectors.len() == 1));
    bench.sides[ALICE].endpoint.delete_ike(id, bench.now).unwrap();
    bench.run();
    assert_eq!(bench.sides[BOB].endpoint.addresses_assigned(), 0);
}

#[test]
fn without_a_request_or_without_addresses() {
    let mut bench = Bench::new(with_pool("10.1.0.9"));
    // RFC 7296 §2.19: not fatal to the IKE SA.
    let payloads = call(&mut bench, |_| {});
    assert!(payloads.contains(&NotifyType::FAILED_CP_REQUIRED.into()));
    assert_eq!(bench.phases(), [vec![Phase::Established], vec![Phase::Established]]);
    let mut bench = Bench::new(with_pool("10.1.0.1"));
    assert!(assigned(&call(&mut bench, |payloads| payloads.insert(1, request(None)))).is_some());
    bench.restart(ALICE);
    // RFC 7296 §3.15.4.
    let payloads = call(&mut bench, |payloads| payloads.insert(1, request(None)));
    assert!(payloads.contains(&NotifyType::INTERNAL_ADDRESS_FAILURE.into()));
    assert_eq!(bench.phases()[BOB].len(), 2);
    // A family that we don't have is ignored.
    bench.restart(ALICE);
    let ipv6 = ConfigPayload { kind: ConfigKind::Request, attributes: vec![ConfigAttribute::Ip6Address(None)] };
    let payloads = call(&mut bench, |payloads| payloads.insert(1, Payload::Config(ipv6)));
    assert!(payloads.contains(&NotifyType::INTERNAL_ADDRESS_FAILURE.into()));
    // CFG_SET may be ignored (RFC 7296 §3.15.1).
    let mut bench = Bench::new(Setup::default());
    let set = ConfigPayload { kind: ConfigKind::Other(3), attributes: Vec::new() };
    call(&mut bench, |payloads| payloads.insert(1, Payload::Config(set)));
    bench.assert_children_match();
}

#[test]
fn the_same_address_again() {
    let mut bench = Bench::new(with_pool("10.1.255.255"));
    let first = assigned(&call(&mut bench, |payloads| payloads.insert(1, request(None)))).unwrap();
    let id = bench.sa(ALICE).id;
    bench.sides[ALICE].endpoint.delete_ike(id, bench.now).unwrap();
    bench.run();
    assert_eq!(assigned(&call(&mut bench, |payloads| payloads.insert(1, request(None)))), Some(first));
    // While that stands, it may have it once more by asking for it: so it goes when a peer authenticates anew.
    bench.restart(ALICE);
    assert_eq!(assigned(&call(&mut bench, |payloads| payloads.insert(1, request(Some(first))))), Some(first));
    bench.restart(ALICE);
    assert_ne!(assigned(&call(&mut bench, |payloads| payloads.insert(1, request(None)))), Some(first));
}

/// RFC 7296 §2.8.3: a new IKE SA from scratch, its child SAs, then the old one is deleted.
#[test]
fn reauthentication() {
    let hour = Duration::from_secs(3600);
    let mut bench = Bench::established(Setup { reauth_time: [Some(hour), None], ..Setup::default() });
    let old = bench.sa(ALICE).id;
    bench.sides[ALICE].endpoint.create_child(old, "spare", bench.now).unwrap();
    bench.run();
    bench.pass(hour - Duration::from_secs(1));
    assert_eq!(bench.sa(ALICE).id, old);
    bench.forget_events();
    bench.pass(Duration::from_secs(2));
    assert_ne!(bench.sa(ALICE).id, old);
    assert_eq!(bench.sa(ALICE).children.len(), 2);
    bench.assert_children_match();
    assert_eq!(bench.sides[BOB].gone(), [GoneReason::DeletedByPeer]);
    // At no time was there nothing to send on.
    let installed = bench.sides[ALICE].events.iter().position(|event| matches!(event, Event::InstallChild(_))).unwrap();
    let removed =
        bench.sides[ALICE].events.iter().position(|event| matches!(event, Event::RemoveChild { .. })).unwrap();
    assert!(installed < removed);
    // And again, from the heir of a rekeying.
    let id = bench.sa(ALICE).id;
    bench.sides[ALICE].endpoint.rekey_ike(id, bench.now).unwrap();
    bench.run();
    let heir = bench.sa(ALICE).id;
    bench.pass(hour + Duration::from_secs(1));
    assert_ne!(bench.sa(ALICE).id, heir);
    assert_eq!(bench.sa(ALICE).children.len(), 2);
}

#[test]
fn a_successor_finishes_a_reauthentication() {
    let mut bench = Bench::established(Setup::default());
    let old = bench.sa(ALICE).id;
    bench.sides[ALICE].endpoint.create_child(old, "spare", bench.now).unwrap();
    bench.run();
    bench.sides[ALICE].endpoint.reauthenticate(old, bench.now).unwrap();
    bench.deliver();
    bench.deliver();
    bench.take_over = Some(ALICE);
    bench.pass(Duration::from_secs(2));
    assert_ne!(bench.sa(ALICE).id, old);
    assert_eq!(bench.sa(ALICE).children.len(), 2);
    bench.assert_children_match();
}

#[test]
fn ike_sas_per_peer_are_bounded() {
    let limits = Limits { ike_sas_per_peer_max: 2, ..Limits::default() };
    let mut bench = Bench::established(Setup { limits, ..Setup::default() });
    for _ in 0..2 {
        bench.restart(ALICE);
        bench.call();
        bench.run();
    }
    assert_eq!(bench.phases()[BOB].len(), 2);
    assert_eq!(bench.sides[ALICE].gone(), [GoneReason::Refused(NotifyType::NO_ADDITIONAL_SAS)]);
    // INITIAL_CONTACT makes room (RFC 7296 §2.4).
    bench.restart(ALICE);
    call(&mut bench, |payloads| payloads.push(NotifyType::INITIAL_CONTACT.into()));
    assert_eq!(bench.phases()[BOB].len(), 1);
}

/// Keys are told only to whoever asks, and don't show when somebody prints an event.
#[test]
fn key_log() {
    let logged = |bench: &Bench| -> Vec<(KeyLogTable, String)> {
        let lines = bench.sides[BOB].events.iter().filter_map(|event| match event {
            Event::KeyLog(log) => Some((log.table, log.line.to_string())),
            _ => None,
        });
        lines.collect()
    };
    let mut bench = Bench::new(Setup::default());
    bench.call();
    bench.run();
    assert_eq!(logged(&bench), []);
    bench.sides[BOB].endpoint.set_key_log(true);
    let id = bench.sa(ALICE).id;
    bench.sides[ALICE].endpoint.rekey_ike(id, bench.now).unwrap();
    bench.run();
    let spi = bench.child(ALICE).spi_in;
    bench.sides[ALICE].endpoint.rekey_child(spi, bench.now).unwrap();
    bench.run();
    let lines = logged(&bench);
    let tables: Vec<_> = lines.iter().map(|(table, _)| *table).collect();
    assert_eq!(tables, [KeyLogTable::Ike, KeyLogTable::Esp, KeyLogTable::Esp]);
    let sa = bench.sa(BOB);
    assert!(lines[0].1.starts_with(&format!("{:016x},{:016x},", sa.remote_spi, sa.id.get())), "{}", lines[0].1);
    assert!(lines[1].1.contains(&format!("\"0x{:08x}\"", bench.child(BOB).spi_in)));
    let key = lines[1].1.split('"').nth(11).unwrap();
    assert_eq!(key.trim_start_matches("0x"), hex::encode(bench.child(BOB).key_in.expose()));
    assert!(!format!("{:?}", bench.sides[BOB].events).contains(key));
}
