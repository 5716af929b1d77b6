//! The generator around a real vipsecd: remote peers and targets, ESP between them, every packet numbered and checked.
#![forbid(unsafe_code)]

mod common;

use common::{Family, ROOMY, Setup, Vipsecd, Wires, generate, generator, is_root, keys_of, number, report};
use serde_json::Value;

fn device(number: u32, interface: &str) -> String {
    format!("net_af_packet{number},iface={interface},{ROOMY}")
}

/// A vipsecd between the remote peers' wire and the targets'.
struct Scene {
    vipsecd: Vipsecd,
    wires: Wires,
}

impl Scene {
    /// With so many static child SAs.
    fn new(children: u32, setup: &Setup) -> Self {
        let wires = Wires::new(&[("out0", "peer0"), ("in0", "target0")]);
        let vipsecd = Vipsecd::start_with(&wires, &keys_of(setup.family, children), setup);
        Self { vipsecd, wires }
    }

    /// Lets a generator be whoever is on those ends of the wires, until it is done.
    fn generate(&self, name: &str, ends: &[&str], options: &[&str]) -> Value {
        let arguments = self.arguments(ends, options);
        generate(&self.wires, name, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Everybody around the vipsecd.
    fn play(&self, name: &str, options: &[&str]) -> Value {
        self.generate(name, &["peer0", "target0"], options)
    }

    fn arguments(&self, ends: &[&str], options: &[&str]) -> Vec<String> {
        let devices = (0..).zip(ends).flat_map(|(number, end)| ["--vdev".to_owned(), device(number, end)]);
        let config = self.vipsecd.config.to_string_lossy().into_owned();
        let options = options.iter().map(|option| (*option).to_owned());
        devices.chain(["--appliance".to_owned(), config]).chain(options).collect()
    }
}

/// Nothing lost, repeated or changed of all that was sent.
fn assert_all_arrived(report: &Value, stream: usize, sent: u64) {
    let counts = |name| number(report, &format!("/runs/0/streams/{stream}/arrivals/{name}"));
    assert_eq!(number(report, &format!("/runs/0/streams/{stream}/sent")), sent);
    assert_eq!((counts("received"), counts("lost"), counts("duplicates"), counts("reordered")), (sent, 0, 0, 0));
}

fn assert_untouched(report: &Value) {
    for port in 0..2 {
        let events =
            report.pointer(&format!("/runs/0/ports/{port}/events")).expect("a port").as_object().expect("counts");
        let known = ["neighbours_answered", "reflected"];
        let others: Vec<_> = events.iter().filter(|(name, _)| !known.contains(&name.as_str())).collect();
        assert!(others.is_empty(), "port {port}: {others:?}");
    }
}

/// A number that the appliance counted.
fn counted(report: &Value, name: &str) -> Option<u64> {
    report.pointer(&format!("/appliance/counters/{name}")).and_then(Value::as_u64)
}

/// The appliance dropped nothing.
fn assert_no_drops(report: &Value) {
    assert_eq!(report.pointer("/appliance/drops"), Some(&Value::Object(Default::default())), "{report:#}");
}

#[test]
fn esp_both_ways_through_a_vipsecd_loses_nothing() {
    if !is_root() {
        return;
    }
    let scene = Scene::new(9, &Setup::default());
    let both = ["--flowgen-flows=45", "--imix=64:3,590:2,1400:1", "--pps=2000", "--count=3000"];
    let first = scene.play("both", &both);
    for stream in 0..2 {
        assert_all_arrived(&first, stream, 3000);
        assert_eq!(number(&first, &format!("/runs/0/streams/{stream}/arrivals/flows_seen")), 45);
    }
    assert_untouched(&first);
    let esp = ["esp_in_packets", "esp_out_packets"].map(|name| counted(&first, name));
    assert_eq!(esp, [Some(3000), Some(3000)], "{first:#}");
    assert_no_drops(&first);

    // A second generator goes on behind the numbers that the SAs have seen by now; its targets send everything back.
    let second = scene.play("reflect", &["--reflect", "--flowgen-flows=18", "--pps=2000", "--count=1000"]);
    assert_all_arrived(&second, 0, 1000);
    assert_eq!(number(&second, "/runs/0/streams/0/elsewhere/0/received"), 1000);
    assert_eq!(number(&second, "/runs/0/ports/1/events/reflected"), 1000);
    assert_untouched(&second);
}

/// Wherever packets arrive and however many queues there are to leave by, workers lose, repeat and reorder nothing.
#[test]
fn esp_both_ways_through_several_workers_loses_nothing() {
    if !is_root() {
        return;
    }
    for (workers, queues) in [(2, [2, 2]), (3, [2, 1])] {
        let scene = Scene::new(9, &Setup { workers, queues, ..Setup::default() });
        let both = ["--flowgen-flows=90", "--imix=64:3,590:2,1400:1", "--pps=2000", "--count=3000"];
        let report = scene.play("both", &both);
        for stream in 0..2 {
            assert_all_arrived(&report, stream, 3000);
        }
        assert_untouched(&report);
        assert_no_drops(&report);
        let status = scene.vipsecd.status();
        let sum = |count: fn(&vipsec_control::api::Worker) -> u64| status.workers.iter().map(count).sum::<u64>();
        assert_eq!((sum(|worker| worker.esp_in_packets), sum(|worker| worker.esp_out_packets)), (3000, 3000));
        let by_worker: Vec<_> = status.workers.iter().map(|worker| (worker.sas, worker.connections)).collect();
        assert!(by_worker.iter().all(|(sas, connections)| *sas > 0 && *connections > 0), "{by_worker:?}");
        assert!(sum(|worker| worker.handed_over_packets) > 1000, "where they arrive, they don't all belong");
    }
}

/// Peers and targets in a process each, as on two machines.
#[test]
fn targets_in_another_process_reflect_until_they_are_told_to_stop() {
    if !is_root() {
        return;
    }
    let scene = Scene::new(3, &Setup::default());
    let swap = scene.arguments(&["target0"], &["--play=targets", "--forward-mode=5tswap", "--stats-period=1"]);
    let mut targets = generator(&scene.wires, "targets", &swap.iter().map(String::as_str).collect::<Vec<_>>());
    targets.await_words("Port statistics");
    let send = ["--flowgen-flows=6", "--tx-udp=5000", "--pps=2000", "--count=1000"];
    let peers = scene.generate("peers", &["peer0"], &send);
    assert_all_arrived(&peers, 0, 1000);
    targets.signal("INT");
    println!("{}", targets.finish());
    let targets = report(&scene.wires, "targets");
    assert_eq!(number(&targets, "/runs/0/ports/0/events/reflected"), 1000);
    assert_eq!(number(&targets, "/runs/0/others/0/arrivals/received"), 1000);
    assert_eq!(targets.pointer("/runs/0/others/0/run"), peers.pointer("/runs/0/run"));
}

#[test]
fn ipv6_in_esp_over_ipv6_through_a_vipsecd_loses_nothing() {
    if !is_root() {
        return;
    }
    let scene = Scene::new(9, &Setup { family: Family::V6, ..Setup::default() });
    let both = ["--flowgen-flows=45", "--imix=84:3,590:2,1380:1", "--pps=2000", "--count=3000"];
    let report = scene.play("v6", &both);
    for stream in 0..2 {
        assert_all_arrived(&report, stream, 3000);
    }
    assert_untouched(&report);
    let esp = ["esp_in_packets", "esp_out_packets"].map(|name| counted(&report, name));
    assert_eq!(esp, [Some(3000), Some(3000)], "{report:#}");
    assert_no_drops(&report);
}

/// Services in the clear of either family: nothing is encrypted, and nothing but the time to live changes.
#[test]
fn clear_services_both_ways_through_a_vipsecd_lose_nothing() {
    if !is_root() {
        return;
    }
    for (family, addresses) in
        [(Family::V4, "--tx-ip=198.51.100.1,192.0.2.1"), (Family::V6, "--tx-ip=2001:db8:ffff::1,2001:db8:1::1")]
    {
        let scene = Scene::new(1, &Setup { family, accepts: "clear", ..Setup::default() });
        let both = ["--flowgen-flows=40", "--imix=84:3,590:2,1514:1", "--pps=2000", "--count=3000"];
        let report = scene.play("clear", &[&["--clear", addresses], &both[..]].concat());
        for stream in 0..2 {
            assert_all_arrived(&report, stream, 3000);
            assert_eq!(number(&report, &format!("/runs/0/streams/{stream}/arrivals/flows_seen")), 40);
        }
        assert_untouched(&report);
        let forwarded = ["to_targets_packets", "to_remotes_packets"].map(|name| counted(&report, name));
        assert_eq!(forwarded, [Some(3000), Some(3000)]);
        let esp = ["esp_in_packets", "esp_out_packets"].map(|name| counted(&report, name));
        assert_eq!(esp, [None, None], "{family:?}");
        assert_no_drops(&report);
    }
}
