//! The benchmark still measures something. How much it measures is nothing that a test can judge.

use std::fs;
use std::process::Command;

use serde_json::Value;

#[test]
fn a_short_run_writes_all_figures_down() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_vipsec-bench"))
        .arg("--smoke")
        .arg("--output")
        .arg(folder.path())
        .arg("--write-docs")
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let rows: Vec<Value> = serde_json::from_slice(&fs::read(folder.path().join("dataplane.json")).unwrap()).unwrap();
    let kind = |row: &Value| {
        let field = |name: &str| row[name].as_str().unwrap().to_owned();
        (field("case"), field("direction"), row["size_bytes"].as_u64())
    };
    let expected = [
        ("esp", "out", Some(64)),
        ("esp", "out", Some(1420)),
        ("esp", "in", Some(64)),
        ("esp", "in", Some(1420)),
        ("path", "both", Some(64)),
        ("distribution", "in", None),
    ];
    let expected = expected.map(|(case, way, size)| (case.to_owned(), way.to_owned(), size));
    assert_eq!(rows.iter().map(kind).collect::<Vec<_>>(), expected);
    for row in &rows {
        let ns = |name: &str| row[name].as_f64();
        assert!(ns("ns_per_packet").unwrap() > 0.0 && ns("ns_per_packet") <= ns("ns_per_packet_median"), "{row}");
        assert_eq!(ns("forward_ns").is_some_and(|ns| ns > 0.0), row["case"] != "distribution", "{row}");
        assert_eq!(ns("aead_ns").is_some_and(|ns| ns > 0.0), row["case"] == "esp", "{row}");
    }

    let store: Vec<Value> = serde_json::from_slice(&fs::read(folder.path().join("store.json")).unwrap()).unwrap();
    let figures = [
        "record_us",
        "block_us",
        "resync_ms",
        "warm_takeover_ms",
        "owner_cpu_percent",
        "region_mib",
        "pin_ns",
        "pins_ms",
        "pin_bytes",
    ];
    for figure in figures {
        let of_figure = store.iter().filter(|row| row["figure"] == figure);
        assert!(
            of_figure.clone().count() > 0 && of_figure.clone().all(|row| row["median"].as_f64() > Some(0.0)),
            "{store:?}"
        );
    }

    let machine: Value = serde_json::from_slice(&fs::read(folder.path().join("machine.json")).unwrap()).unwrap();
    assert!(machine["dpdk"].as_str().unwrap().starts_with("DPDK "), "{machine}");
    let page = fs::read_to_string(folder.path().join("benchmarks.md")).unwrap();
    assert!(page.contains("| 3 | 1,420 | in |"), "{page}");
    let picture = fs::read_to_string(folder.path().join("benchmarks.svg")).unwrap();
    assert!(picture.starts_with("<svg") && picture.matches("<text").count() > 8, "{picture}");
}
