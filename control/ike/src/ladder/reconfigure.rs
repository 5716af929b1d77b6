//! Another configuration while SAs stand, as both ends feel it.

use std::sync::Arc;
use std::time::Duration;

use super::{ALICE, BOB, Bench, Setup};
use crate::{Config, ConnectionPolicy, GoneReason, Phase};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Gives Bob's side another configuration, and lets both come to rest.
fn reconfigure(bench: &mut Bench, change: impl FnOnce(&mut Config)) {
    let mut config = (*bench.setup.config(BOB, 2)).clone();
    change(&mut config);
    bench.sides[BOB].endpoint.reconfigure(Arc::new(config), bench.now);
    bench.run();
}

fn connection(config: &mut Config) -> &mut ConnectionPolicy {
    Arc::make_mut(&mut config.connections[0])
}

fn ids(bench: &Bench) -> (u64, Vec<u32>) {
    (bench.sa(BOB).id.get(), bench.sides[BOB].installed.keys().copied().collect())
}

#[test]
fn what_didnt_change_isnt_touched() {
    let mut bench = Bench::established(Setup::default());
    let before = ids(&bench);
    bench.delivered = 0;
    reconfigure(&mut bench, |_| {});
    // Nor by another connection, other limits, another key: that counts from the next authentication on.
    reconfigure(&mut bench, |config| {
        let mut other = (*config.connections[0]).clone();
        other.name = "other".to_owned();
        config.connections.insert(0, Arc::new(other));
        config.limits.ike_sas_max = 1;
        connection(config).psk = crate::Secret::new(b"another".to_vec());
    });
    assert_eq!((ids(&bench), bench.delivered), (before, 0));
}

#[test]
fn what_isnt_allowed_any_more_is_deleted_at_both_ends() {
    type Change = fn(&mut Config);
    let changes: [(&str, Change); 5] = [
        ("the connection is gone", |config| config.connections.clear()),
        ("another peer", |config| connection(config).remote_id = "eve.example".parse().unwrap()),
        ("another name of ours", |config| connection(config).local_id = "eve.example".parse().unwrap()),
        ("elsewhere", |config| connection(config).remote = vec!["203.0.113.0/24".parse().unwrap()]),
        ("a pool", |config| {
            let pool = crate::AddressPool {
                name: "p".to_owned(),
                first: "10.1.0.1".parse().unwrap(),
                last: "10.1.0.9".parse().unwrap(),
                dns: Vec::new(),
            };
            connection(config).pools.push(Arc::new(pool));
        }),
    ];
    for (what, change) in changes {
        let mut bench = Bench::established(Setup::default());
        reconfigure(&mut bench, change);
        assert_eq!(bench.phases(), [vec![], vec![]], "{what}");
        assert_eq!(bench.sides[ALICE].gone(), [GoneReason::DeletedByPeer], "{what}");
        assert!(bench.sides.iter().all(|side| side.installed.is_empty()), "{what}");
    }
}

#[test]
fn a_child_sa_that_isnt_allowed_any_more_goes_alone() {
    let mut bench = Bench::established(Setup::default());
    let id = bench.sa(ALICE).id;
    bench.sides[ALICE].endpoint.create_child(id, "spare", bench.now).unwrap();
    bench.run();
    let before = bench.sa(BOB).id;
    reconfigure(&mut bench, |config| {
        // It is the first that fits what Alice proposes, so both child SAs are of this one.
        let net = Arc::make_mut(&mut connection(config).children[0]);
        net.remote_ts = vec!["10.1.0.0/24".parse().unwrap()];
    });
    assert!(bench.sides.iter().all(|side| side.installed.is_empty()));
    assert_eq!((bench.sa(BOB).id, bench.sa(BOB).phase), (before, Phase::Established));
}

#[test]
fn other_algorithms_come_by_rekeying() {
    let both = "aes256gcm16-aes128gcm16-prfsha256-x25519";
    let setup = Setup { ike: [both; 2], esp: ["aes256gcm16-aes128gcm16"; 2], ..Setup::default() };
    let mut bench = Bench::established(setup);
    let (id, children) = ids(&bench);
    assert!(bench.sa(BOB).suite.starts_with("aes256gcm16"));
    reconfigure(&mut bench, |config| {
        connection(config).proposals = vec!["aes128gcm16-prfsha256-x25519".parse().unwrap()];
        Arc::make_mut(&mut connection(config).children[0]).proposals = vec!["aes128gcm16".parse().unwrap()];
    });
    bench.pass(60 * SECOND);
    assert!(bench.sa(BOB).suite.starts_with("aes128gcm16"), "{}", bench.sa(BOB).suite);
    assert_eq!(bench.child(BOB).suite.to_string(), "aes128gcm16");
    let (new_id, new_children) = ids(&bench);
    assert!(new_id != id && new_children != children);
    bench.assert_children_match();
}

#[test]
fn other_times_are_followed_from_the_present_age_on() {
    let mut bench = Bench::established(Setup::default());
    bench.pass(HOUR);
    let before = ids(&bench);
    assert_eq!((bench.sa(BOB).rekey_in, bench.sa(BOB).children[0].rekey_in), (None, None));
    reconfigure(&mut bench, |config| {
        connection(config).rekey_time = Some(4 * HOUR);
        Arc::make_mut(&mut connection(config).children[0]).rekey_time = Some(2 * HOUR);
    });
    assert_eq!(ids(&bench), before);
    let sa = bench.sa(BOB);
    let (ike, child) = (sa.rekey_in.unwrap(), sa.children[0].rekey_in.unwrap());
    assert!(ike <= 3 * HOUR && ike >= 3 * HOUR - 4 * HOUR / 10, "{ike:?}");
    assert!(child <= HOUR && child >= HOUR - 2 * HOUR / 10, "{child:?}");
}

/// A call under the old policy would set up what the new one doesn't know.
#[test]
fn calls_of_ours_begin_anew() {
    for delivered in [0, 2] {
        let mut bench = Bench::new(Setup::default());
        let now = bench.now;
        bench.sides[BOB].endpoint.initiate("between", "net", now).unwrap();
        for _ in 0..delivered {
            bench.deliver();
        }
        reconfigure(&mut bench, |config| connection(config).psk = crate::Secret::new(b"another".to_vec()));
        assert_eq!(bench.sides[BOB].gone(), [GoneReason::Deleted], "after {delivered} messages");
    }
}
