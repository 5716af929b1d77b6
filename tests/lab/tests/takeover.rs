//! Takeovers by a pair of vipsecd. Nothing here depends on how fast the machine is: only that what must not happen doesn't.
//! Tales whose scenes a slow machine may miss, or call a lost datagram a failure that it explains, are left to `make stories`.

mod common;

use vipsec_lab::scenario::takeover::{self, Extent, TakeoverConfig, Tale, TaleReport};
use vipsec_lab::scenario::{Outcome, Progress};

fn tell(tale: Tale) -> TaleReport {
    let name = format!("takeover-{tale:?}");
    let out = common::folder(&name);
    let config = TakeoverConfig { tales: vec![tale], runs: 1, tunnels: 10, extent: Extent::Short, out: out.path() };
    let mut reports = takeover::play(&config, &Progress::default()).unwrap_or_else(|error| panic!("{error}"));
    let report = reports.pop().expect("one tale was told");
    for case in &report.cases {
        assert_eq!(case.result, Outcome::Passed, "{}: {}", case.case, case.detail);
    }
    report
}

/// The other one goes on: every connection lives with its target, nothing is delivered twice, nobody has to call.
#[test]
fn the_owner_is_killed() {
    let report = tell(Tale::Kill);
    let takeover = report.takeovers.first().expect("a takeover");
    assert_eq!((takeover.tcp.reset, takeover.tcp.moved, takeover.sas.calls), (0, 0, 0));
    assert!(takeover.tcp.kept > 0 && takeover.replayed > 0);
    assert_eq!(takeover.replayed_delivered, 0);
}

/// One that sleeps through its own takeover wakes as a backup and sends nothing in the VIP's name.
#[test]
fn the_owner_is_paused() {
    tell(Tale::Pause);
}

/// One that gets the VIP back by order, or gives it away because it is told to end, loses nothing.
#[test]
fn the_vip_is_given_back() {
    tell(Tale::GiveBack);
}

/// Without an order, once its first choice has had a copy for a while; and not where the operator moved it away.
#[test]
fn the_vip_goes_back_by_itself() {
    tell(Tale::BackByItself);
}

/// One that moved too often stays where it is, though every process that saw it has died; dead owners are succeeded all the same.
#[test]
fn a_flapping_vip_is_held() {
    tell(Tale::Flapping);
}

/// A target's agent that is dead at a takeover hears of it later.
#[test]
fn target_agents_are_told_who_owns_the_vip() {
    tell(Tale::Agents);
}

/// Two hosts: the same over a network, and when that network fails nobody takes over from an owner that is alive.
#[test]
fn two_hosts_share_a_network_for_the_store() {
    tell(Tale::TwoHosts);
}

/// The same with two workers in each appliance, between which most packets cross.
#[test]
fn appliances_have_two_workers() {
    tell(Tale::TwoWorkers);
}

/// Each owns a VIP; one dies and the other owns both; one VIP goes back and the other doesn't notice.
#[test]
fn two_vips_are_owned_crosswise() {
    tell(Tale::Crosswise);
}

/// Each appliance's host serves on behind the other one: moves by order break none of its connections.
#[test]
fn the_appliances_own_hosts_are_targets() {
    tell(Tale::LocalTargets);
}

/// What no successor can compute it is told: two takeovers and a change of targets move no connection.
#[test]
fn connections_in_turns_stay_with_their_targets() {
    tell(Tale::Pins);
}

/// Every tunnel is kept.
#[test]
fn many_tunnels_are_kept() {
    tell(Tale::Hundred);
}

/// The successor negotiates everything anew, and the connections live on.
#[test]
fn everything_is_renegotiated() {
    let report = tell(Tale::Renegotiate);
    let takeover = report.takeovers.first().expect("a takeover");
    assert_eq!((takeover.tcp.reset, takeover.tcp.moved, takeover.replayed_delivered), (0, 0, 0));
    assert!(takeover.sas.calls > 0);
}

/// The policy costs no more where an owner is stopped and wakes, gives the VIP away by order, or is told to end.
#[test]
fn everything_is_renegotiated_though_nobody_dies() {
    tell(Tale::RenegotiateAlive);
}

/// A successor that dies with most of its tunnels still to be rekeyed: its own successor has them all.
#[test]
fn a_successor_is_killed_before_it_is_through() {
    tell(Tale::Ladder);
}

/// Killed at each message of the call: it is finished by the successor, or lost at both ends.
#[test]
fn the_owner_is_killed_while_a_peer_calls() {
    tell(Tale::Calls);
}

/// Killed at a message of a rekeying: it is finished by the successor or begun anew, and both ends have the same SAs.
#[test]
fn the_owner_is_killed_while_sas_are_rekeyed() {
    tell(Tale::Rekeys);
}

/// A move that either appliance doesn't live to see the end of leaves one owner, and every connection.
#[test]
fn an_appliance_is_killed_during_a_move() {
    tell(Tale::Moves);
}

/// Whose outside link is cut is followed by its backup, and is a backup once it is mended. (The store's network fails in another story.)
#[test]
fn the_owners_outside_link_is_cut() {
    tell(Tale::Links);
}

/// Ten charons, none of which has to call.
#[test]
fn ten_remote_peers_keep_their_tunnels() {
    tell(Tale::Branches);
}

/// Tunnels over IPv6, unsolicited neighbour advertisements, and nothing else that differs.
#[test]
fn an_ipv6_vip_is_taken_over() {
    let report = tell(Tale::Ipv6);
    let takeover = report.takeovers.first().expect("a takeover");
    assert_eq!((takeover.tcp.reset, takeover.tcp.moved, takeover.sas.calls), (0, 0, 0));
    assert_eq!(takeover.replayed_delivered, 0);
}

/// Three appliances and a real etcd: the tunnel survives two owners' deaths without a call, and nothing is delivered twice.
#[test]
fn the_owner_is_killed_and_then_its_successor() {
    let report = tell(Tale::TwiceInARow);
    assert_eq!(report.takeovers.len(), 2);
    for takeover in &report.takeovers {
        assert_eq!((takeover.tcp.reset, takeover.tcp.moved, takeover.sas.calls), (0, 0, 0));
        assert_eq!(takeover.replayed_delivered, 0);
    }
}
