//! What the appliance sets up by itself, and what a configuration asks of IKE as a whole.

use std::time::{Duration, Instant};

use vipsec_control::api::Request;

use super::bench::{Bench, Peer, config_text, connection, peer_policy, read_config};

const SECOND: Duration = Duration::from_secs(1);
const FAR: &str = "198.51.100.7";

fn bench(more: &str, workers: usize) -> Bench {
    Bench::new(read_config(&config_text(&connection("branch", FAR, 9, more))), workers)
}

fn with_peer(mut bench: Bench) -> Bench {
    bench.peers.push(Peer::new(1, peer_policy("branch", FAR, 9)));
    bench
}

#[test]
fn nothing_is_set_up_unasked() {
    let mut bench = with_peer(bench("", 1));
    bench.pass(60 * SECOND);
    assert!(bench.children.is_empty() && bench.unheard.is_empty());
    let initiate = Request::Initiate { connection: "branch".to_owned(), child: None };
    bench.ask(initiate).unwrap();
    bench.pass(SECOND);
    assert_eq!((bench.children.len(), bench.peers[0].children.len()), (1, 1));
}

/// `start_action = "start"`: at once, and again whatever became of it.
#[test]
fn a_child_to_start_stands_whenever_it_can() {
    let mut bench = with_peer(bench("--- start_action = \"start\"", 1));
    bench.pass(SECOND);
    assert_eq!((bench.children.len(), bench.peers[0].children.len()), (1, 1));
    // The peer deletes the child SA, then the IKE SA, then dies and comes back.
    let now = bench.now;
    let spi = *bench.peers[0].children.first_key_value().unwrap().0;
    bench.peers[0].endpoint.delete_child(spi, now).unwrap();
    bench.run();
    assert!(bench.children.is_empty());
    bench.pass(10 * SECOND);
    assert_eq!((bench.children.len(), bench.sas().len()), (1, 1), "a child SA under the same IKE SA");

    let id = bench.peers[0].endpoint.sas(bench.now).next().unwrap().id;
    bench.peers[0].endpoint.delete_ike(id, bench.now).unwrap();
    bench.run();
    assert!(bench.children.is_empty());
    bench.pass(10 * SECOND);
    assert_eq!((bench.children.len(), bench.sas().len()), (1, 1));

    bench.peers[0] = Peer::new(2, peer_policy("branch", FAR, 9));
    bench.peers[0].cut = true;
    // Longer than a liveness check and all its retransmissions take.
    bench.pass(600 * SECOND);
    assert!(bench.children.is_empty());
    bench.peers[0].cut = false;
    bench.pass(60 * SECOND);
    assert_eq!((bench.children.len(), bench.sas().len(), bench.peers[0].children.len()), (1, 1, 1));
    // And then it is left in peace.
    let before = bench.sas()[0].spi;
    bench.pass(600 * SECOND);
    assert_eq!((bench.sas()[0].spi, bench.children.len()), (before, 1));
}

/// A peer that refuses is asked again, at leisure.
#[test]
fn a_refusal_is_not_answered_by_a_storm() {
    let mut bench = bench("--- start_action = \"start\"", 1);
    bench.peers.push(Peer::new(1, peer_policy("stranger", FAR, 9)));
    bench.pass(60 * SECOND);
    assert!(bench.children.is_empty());
    let refused = bench.peers[0].endpoint.counters().get(vipsec_ike::Drop::AuthenticationFailed);
    assert!((5..=20).contains(&refused), "{refused}");
}

/// `per_cpu_sas`: a child SA for each worker, with a peer that has as many.
#[test]
fn a_child_sa_for_each_worker() {
    for (per_cpu_sas, expected) in [(false, 1), (true, 3)] {
        let more = format!("--- start_action = \"start\"\nper_cpu_sas = {per_cpu_sas}");
        let mut bench = with_peer(bench(&more, 3));
        bench.pass(SECOND);
        assert_eq!((bench.children.len(), bench.peers[0].children.len()), (expected, expected));
        bench.pass(600 * SECOND);
        assert_eq!(bench.children.len(), expected);
    }
}

#[test]
fn keys_are_logged_only_if_the_configuration_asks() {
    for (ike, lines) in [("", 0), ("[ike]\nkey_log = \"/tmp/keys\"", 3)] {
        let text = config_text(&format!("{ike}\n{}", connection("branch", FAR, 9, "--- start_action = \"start\"")));
        let mut bench = with_peer(Bench::new(read_config(&text), 1));
        bench.pass(SECOND);
        assert_eq!(bench.key_log.len(), lines, "of the IKE SA, and of each direction of its child SA");
    }
}

/// RFC 7296 §2.6: one of a pair asks for a cookie, and dies; what the remote peer sends back is good for the other one.
#[test]
fn a_cookie_is_good_at_the_successor() {
    // No appliance of this pair has the other; so each has a peer that is never paired, and takes its VIP in the end.
    let pair = |id: u8, other: u8, secret: &str| {
        let limits = "[ike.limits]\ncookie_threshold = 0\n";
        let peer = format!(
            "[peer]\nid = {other}\nstore_socket = \"/tmp/none.sock\"\nsecret_file = \"{secret}\"\ntakeover = \"resume\"\n"
        );
        let text = config_text(&format!("{limits}{peer}{}", connection("branch", FAR, 9, "")));
        let text = text.replace("id = 1, name", &format!("id = {id}, name"));
        read_config(&text)
    };
    let cookies = |secrets: [&str; 2]| {
        let mut owner = Bench::unowned(pair(1, 2, secrets[0]), Instant::now(), 1);
        owner.pass(60 * SECOND);
        owner.peers.push(Peer::new(1, peer_policy("branch", FAR, 9)));
        let now = owner.now;
        owner.peers[0].endpoint.initiate("vip", "net", now).unwrap();
        // IKE_SA_INIT -->, <-- N(COOKIE), IKE_SA_INIT { N(COOKIE), ... } --> to the successor.
        owner.hold = true;
        owner.run();
        let first = owner.held.pop_front().unwrap();
        owner.core.handle_events(now, [(0, first)]);
        owner.run();
        let second = owner.held.pop_front().unwrap();
        let mut successor = Bench::unowned(pair(2, 1, secrets[1]), Instant::now(), 1);
        successor.pass(60 * SECOND);
        successor.core.handle_events(successor.now, [(0, second)]);
        successor.run();
        // An answer to IKE_SA_INIT, or another cookie: that is no longer than that.
        successor.unheard.last().unwrap().payload.len()
    };
    assert!(cookies(["pair.psk", "pair.psk"]) > 200, "IKE_SA_INIT is answered");
    assert!(cookies(["pair.psk", "pair2.psk"]) < 100, "of another pair, a cookie is none");
}
