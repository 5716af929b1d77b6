//! Another configuration while the appliance serves: what changed changes, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use vipsec_control::api::{Request, Response};
use vipsec_control::core::ReloadError;

use super::bench::{Bench, Peer, TARGETS, config_text, connection, peer_policy, read_config};

const SECOND: Duration = Duration::from_secs(1);
const ADDRESSES: [&str; 2] = ["198.51.100.7", "198.51.100.8"];

fn one(more: &str) -> String {
    connection("one", ADDRESSES[0], 9, more)
}

fn two(more: &str) -> String {
    connection("two", ADDRESSES[1], 8, more)
}

/// Two remote peers, each with a child SA.
fn served() -> Bench {
    let mut bench = Bench::new(read_config(&config_text(&format!("{TARGETS}{}{}", one(""), two("")))), 1);
    bench.peers.push(Peer::new(1, peer_policy("one", ADDRESSES[0], 9)));
    bench.peers.push(Peer::new(2, peer_policy("two", ADDRESSES[1], 8)));
    for peer in &mut bench.peers {
        peer.endpoint.initiate("vip", "net", bench.now).unwrap();
    }
    bench.pass(SECOND);
    assert_eq!(bench.children.len(), 2);
    bench
}

fn reload(bench: &mut Bench, more: &str) -> Result<Vec<String>, ReloadError> {
    let changes = bench.core.reload(bench.now, Arc::new(read_config(&config_text(more))));
    bench.run();
    changes
}

/// The SPIs of everything, by connection.
fn spis(bench: &mut Bench) -> Vec<(String, u64, Vec<u32>)> {
    let sas = bench.sas().into_iter();
    let mut spis: Vec<_> =
        sas.map(|sa| (sa.connection, sa.spi.0, sa.children.iter().map(|child| child.spi_in.0).collect())).collect();
    spis.sort();
    spis
}

#[test]
fn the_same_configuration_changes_nothing() {
    let mut bench = served();
    let (before, tables) = (spis(&mut bench), bench.tables.clone());
    assert_eq!(reload(&mut bench, &format!("{TARGETS}{}{}", one(""), two(""))).unwrap(), Vec::<String>::new());
    assert_eq!(spis(&mut bench), before);
    assert!(Arc::ptr_eq(&bench.tables, &tables), "no new tables");
}

#[test]
fn a_connection_goes_and_the_other_one_isnt_touched() {
    let mut bench = served();
    let before = spis(&mut bench);
    let changes = reload(&mut bench, &format!("{TARGETS}{}", two(""))).unwrap();
    assert_eq!(changes, ["connection one: removed"]);
    bench.pass(SECOND);
    assert_eq!(spis(&mut bench), before[1..]);
    assert!(bench.peers[0].children.is_empty(), "the remote peer knows");
    assert_eq!((bench.peers[1].children.len(), bench.children.len()), (1, 1));
    // It comes back, and is ours to set up.
    let text = format!("{TARGETS}{}{}", one("--- start_action = \"start\""), two(""));
    assert_eq!(reload(&mut bench, &text).unwrap(), ["connection one: added"]);
    bench.pass(SECOND);
    assert_eq!((bench.peers[0].children.len(), bench.children.len()), (1, 2));
    assert_eq!(spis(&mut bench)[1], before[1]);
}

#[test]
fn other_algorithms_for_one_of_them() {
    let mut bench = served();
    let before = spis(&mut bench);
    let more = "proposals = [\"aes128gcm16-prfsha256-x25519\"]\n--- esp_proposals = [\"aes128gcm16\"]";
    let changes = reload(&mut bench, &format!("{TARGETS}{}{}", one(more), two(""))).unwrap();
    assert_eq!(changes, ["connection one: changed"]);
    bench.pass(60 * SECOND);
    let after = spis(&mut bench);
    assert_eq!(after[1], before[1]);
    assert!(after[0].1 != before[0].1 && after[0].2 != before[0].2);
    let sas = bench.sas();
    let one = sas.iter().find(|sa| sa.connection == "one").unwrap();
    assert_eq!(
        (one.proposal.as_str(), one.children[0].proposal.as_str()),
        ("aes128gcm16-prfsha256-x25519", "aes128gcm16")
    );
}

#[test]
fn tables_change_and_targets_that_stay_keep_their_standing() {
    let mut bench = served();
    let before = spis(&mut bench);
    bench.ask(Request::DrainTarget { target: "t2".to_owned() }).unwrap();
    let text = r#"
        [[route]]
        prefix = "0.0.0.0/0"
        via = "192.0.2.254"
        port = "out"
        [[target]]
        name = "t3"
        address = "10.1.0.23"
        [[target]]
        name = "t2"
        address = "10.1.0.22"
        [[service]]
        vip = "web"
        targets = ["t3", "t2"]
        [[policy]]
        action = "discard"
        local_ts = ["192.0.2.1/32[tcp/22]"]
        remote_ts = ["0.0.0.0/0"]
    "#;
    let changes = reload(&mut bench, &format!("{text}{}{}", one(""), two(""))).unwrap();
    let expected = ["target t1: removed", "target t3: added", "service: changed", "policy: changed", "route: changed"];
    assert_eq!(changes, expected);
    assert_eq!((bench.tables.routes.len(), bench.tables.policies.len()), (1, 1));
    let targets: Vec<_> = bench.tables.services.targets().iter().map(|target| target.address.to_string()).collect();
    assert_eq!(targets, ["10.1.0.23", "10.1.0.22"]);
    assert!(bench.core.is_serving(), "the VIP is ours as before");
    let Ok(Response::Targets { entries }) = bench.ask(Request::Targets) else { panic!("no targets") };
    let drained: Vec<_> = entries.iter().map(|target| (target.name.as_str(), target.drained)).collect();
    assert_eq!(drained, [("t3", false), ("t2", true)], "the operator's order stands");
    assert_eq!(spis(&mut bench), before);
}

#[test]
fn what_a_process_cant_change_is_named_and_nothing_changes() {
    let mut bench = served();
    let (before, tables) = (spis(&mut bench), bench.tables.clone());
    let text = config_text(&format!("{TARGETS}{}", one("")))
        .replace("id = 1, name", "id = 3, name")
        .replace("10.1.0.11/24", "10.1.0.12/24");
    let config = Arc::new(read_config(&format!("{text}\n[connection_table]\nconnections_max = 5000")));
    let error = bench.core.reload(bench.now, config).unwrap_err().to_string();
    assert_eq!(error, "what has changed in these tables takes a restart of vipsecd: appliance, port, connection_table");
    bench.run();
    assert_eq!(spis(&mut bench), before);
    assert!(Arc::ptr_eq(&bench.tables, &tables));
}
