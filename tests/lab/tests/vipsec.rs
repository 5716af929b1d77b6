//! vipsecd as an appliance, small: the demo's main job, and what happens in the life of a tunnel.

mod common;

use vipsec_lab::gateway::GatewayKind;
use vipsec_lab::scenario::demo::{self, DemoConfig};
use vipsec_lab::scenario::{Outcome, Progress, exercise};

fn demonstrate(name: &str, workers: u8) {
    let out = common::folder(name);
    let config = DemoConfig {
        gateway: GatewayKind::Vipsec,
        takeover: None,
        workers,
        connections: 100,
        bulk_mib: 5,
        out: out.path(),
    };
    let (lab, report) = demo::play(&config, &Progress::default()).unwrap_or_else(|error| panic!("{error}"));
    drop(lab);
    assert_eq!(report.connections.total, 100);
    assert_eq!(report.bytes_each_way.to_client, 5 << 20);
    assert_eq!(report.bytes_each_way.to_target, 5 << 20);
    assert!(report.passed, "{}", report.to_text());
}

/// A tunnel comes up, connections spread over both targets, content crosses intact, nothing readable is seen outside.
#[test]
fn the_main_job() {
    demonstrate("main-job", 1);
}

/// The same with two workers, of which one has the SA; packets arrive at either.
#[test]
fn the_main_job_by_two_workers() {
    demonstrate("two-workers", 2);
}

/// Rekeying by either end, liveness checks, deletion and coming back.
#[test]
fn the_life_of_a_tunnel() {
    let out = common::folder("life");
    let results = exercise::play(GatewayKind::Vipsec, &out.path(), &Progress::default());
    let results = results.unwrap_or_else(|error| panic!("{error}"));
    let failed: Vec<_> = results.iter().filter(|case| case.result == Outcome::Failed).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(results.len(), 12);
}
