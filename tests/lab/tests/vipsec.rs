//! vipsecd as an appliance, small: the demo's main job, and what happens in the life of a tunnel.

mod common;

use std::time::Duration;

use vipsec_lab::gateway::{Gateway, GatewayKind};
use vipsec_lab::scenario::calm::{self, CalmConfig};
use vipsec_lab::scenario::demo::{self, DemoConfig};
use vipsec_lab::scenario::{Outcome, Progress, exercise};

fn demonstrate(name: &str, workers: u8, crypto_device: Option<&str>) {
    let out = common::folder(name);
    let config = DemoConfig {
        gateway: GatewayKind::Vipsec,
        crypto_device: crypto_device.map(str::to_owned),
        takeover: None,
        workers,
        connections: 100,
        bulk_mib: 5,
        out: out.path(),
    };
    let (lab, report) = demo::play(&config, &Progress::default()).unwrap_or_else(|error| panic!("{error}"));
    if crypto_device.is_some() {
        let Gateway::Vipsec(appliance) = lab.gateway().unwrap() else { panic!("vipsecd") };
        let sas = appliance.ike_sas().unwrap();
        assert!(sas.iter().flat_map(|sa| &sa.children).all(|child| child.processing == "lookaside"), "{sas:#?}");
        let jobs = appliance.counters().unwrap().counters["crypto_jobs"];
        // Five mebibytes each way alone are some 7500 packets.
        assert!(jobs > 7500, "{jobs} packets went through the device");
    }
    drop(lab);
    assert_eq!(report.connections.total, 100);
    assert_eq!(report.bytes_each_way.to_client, 5 << 20);
    assert_eq!(report.bytes_each_way.to_target, 5 << 20);
    assert!(report.passed, "{}", report.to_text());
}

/// A tunnel comes up, connections spread over both targets, content crosses intact, nothing readable is seen outside.
#[test]
fn the_main_job() {
    demonstrate("main-job", 1, None);
}

/// The same with two workers, of which one has the SA; packets arrive at either.
#[test]
fn the_main_job_by_two_workers() {
    demonstrate("two-workers", 2, None);
}

/// The same with a crypto device that opens and seals all packets, a queue pair of it for each of two workers.
#[test]
fn the_main_job_through_a_crypto_device() {
    demonstrate("lookaside", 2, Some("crypto_aesni_mb0"));
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

/// Every core is busy and traffic goes at full rate: that is no reason to take over. `vipsec-lab calm` does this for longer.
#[test]
fn a_loaded_machine_is_no_takeover() {
    let out = common::folder("calm");
    let config = CalmConfig { time: Duration::from_secs(20), out: out.path() };
    let report = calm::play(&config, &Progress::default()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report.faults, [""; 0], "{}", report.summary());
}
