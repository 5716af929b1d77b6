//! What an operator learns of an owner that has no copy.

use std::time::Duration;

use vipsec_control::api::{Request, Response, Vip};

use super::bench::TARGETS;
use super::pair::Pair;

const SECOND: Duration = Duration::from_secs(1);

/// The VIP as an appliance shows it.
fn vip(pair: &mut Pair, side: usize) -> Vip {
    match pair.sides[side].ask(Request::Status) {
        Ok(Response::Status(status)) => status.vips[0].clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_status_says_who_owns_a_vip_and_why_nobody_has_a_copy() {
    let mut pair = Pair::new("");
    let shown = vip(&mut pair, 0);
    assert_eq!((shown.owner, shown.owner_name.as_deref()), (Some(1), Some("a")));
    assert_eq!((shown.copy.as_deref(), shown.copy_reason), (Some("counted"), None));
    assert_eq!(vip(&mut pair, 1).copy_reason, None);
    pair.cut_link();
    pair.pass(SECOND);
    let shown = vip(&mut pair, 0);
    assert_eq!((shown.copy.as_deref(), shown.copy_reason.as_deref()), (Some("unprotected"), Some("link down")));
    let now = pair.now();
    let peer = vipsec_wire::iv::ApplianceId::new(2).unwrap();
    pair.sides[0].core.handle_no_common_version(now, 0, peer);
    assert_eq!(vip(&mut pair, 0).copy_reason.as_deref(), Some("no common version"));
    let shown = vip(&mut pair, 1);
    assert_eq!((shown.copy.as_deref(), shown.copy_reason.as_deref()), (Some("untrusted"), Some("link down")));
}

#[test]
fn two_whose_configurations_differ_say_where() {
    let mut pair = Pair::new("");
    pair.kill(1);
    pair.reconfigure(1, TARGETS);
    pair.revive(1);
    pair.pass(SECOND);
    for side in [0, 1] {
        let Ok(Response::Store(store)) = pair.sides[side].ask(Request::Store) else { panic!("the store") };
        let peer = &store.groups[0].peers[0];
        assert_eq!((peer.agreed, peer.differs.as_slice()), (false, ["services and targets".to_owned()].as_slice()));
    }
    let shown = vip(&mut pair, 0);
    assert_eq!(shown.copy_reason.as_deref(), Some("configurations differ"));
}
