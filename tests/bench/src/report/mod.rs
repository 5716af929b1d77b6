//! The figures for readers: tables, the page of the documentation, its picture.

use std::fmt::Write;

use vipsec_report::grouped;

use crate::machine::Machine;
use crate::result::{Case, Row, Way};
use crate::store::StoreRow;

mod goals;
mod ike;
mod peers;
mod picture;
mod store;

pub(crate) use ike::IkeRow;
pub(crate) use peers::PeerRow;
pub(crate) use picture::picture;
pub(crate) use store::table as store_table;

/// The page, with places for what is measured.
const PAGE: &str = include_str!("page.md");

/// The whole page.
pub(crate) fn page(machine: &Machine, rows: &[Row], peers: &[PeerRow], store: &[StoreRow], ike: &[IkeRow]) -> String {
    PAGE.replace("{machine}", &machine_text(machine))
        .replace("{esp}", &esp(machine, rows))
        .replace("{path}", &path(machine, rows))
        .replace("{distribution}", &distribution(machine, rows))
        .replace("{goals}", &goals::table(machine, rows))
        .replace("{peers}", &peers::table(peers))
        .replace("{store}", &store::table(store))
        .replace("{ike}", &ike::table(ike))
}

/// The tables alone.
pub(crate) fn tables(machine: &Machine, rows: &[Row]) -> String {
    let parts = [
        machine_text(machine),
        esp(machine, rows),
        path(machine, rows),
        distribution(machine, rows),
        goals::table(machine, rows),
    ];
    parts.join("\n")
}

fn machine_text(machine: &Machine) -> String {
    let Machine { cpu, cpu_kind, cpus, cpu_flags, tsc_mhz, kernel, dpdk, packet_memory } = machine;
    let flags = cpu_flags.join(", ");
    format!(
        "{cpu} ({cpu_kind}), {cpus} CPUs, {flags}; time stamp counter at {tsc_mhz} MHz; Linux {kernel}; {dpdk}; packets in {packet_memory}.\n"
    )
}

/// Rows of a case as a table: a heading, and what stands in each row.
fn table(rows: &[Row], case: Case, heading: &[&str], cells: impl Fn(&Row) -> Vec<String>) -> String {
    table_of(heading, rows.iter().filter(|row| row.case == case), cells)
}

fn table_of<'a, R: 'a>(
    heading: &[&str],
    rows: impl Iterator<Item = &'a R>,
    cells: impl Fn(&R) -> Vec<String>,
) -> String {
    let mut table = format!("| {} |\n|{}\n", heading.join(" | "), " ---: |".repeat(heading.len()));
    for row in rows {
        let _ = writeln!(table, "| {} |", cells(row).join(" | "));
    }
    table
}

fn esp(machine: &Machine, rows: &[Row]) -> String {
    let heading = [
        "engine",
        "SAs",
        "bytes",
        "way",
        "ns",
        "median ns",
        "forwarding ns",
        "cipher ns",
        "added cycles",
        "added / cipher",
    ];
    table(rows, Case::Esp, &heading, |row| {
        let added = row.added_ns(rows);
        let ratio = added.zip(row.aead_ns).map(|(added, cipher)| format!("{:.2}", added / cipher));
        vec![
            row.engine.clone().unwrap_or_default(),
            count(row.sas),
            count(row.size_bytes),
            way(row.direction).to_owned(),
            ns(Some(row.ns_per_packet)),
            ns(Some(row.ns_per_packet_median)),
            ns(row.forward_ns),
            ns(row.aead_ns),
            added.map_or_else(none, |added| format!("{:.0}", machine.cycles(added))),
            ratio.unwrap_or_else(none),
        ]
    })
}

fn path(machine: &Machine, rows: &[Row]) -> String {
    let heading =
        ["engine", "SAs", "connections", "bytes", "ns", "median ns", "forwarding ns", "added cycles", "Mpps", "Gbit/s"];
    table(rows, Case::Path, &heading, |row| {
        let mpps = 1000.0 / row.ns_per_packet;
        let gbits = row.size_bytes.map(|bytes| format!("{:.1}", mpps * 8.0 * bytes as f64 / 1000.0));
        vec![
            row.engine.clone().unwrap_or_default(),
            count(row.sas),
            count(Some(row.connections)),
            count(row.size_bytes),
            ns(Some(row.ns_per_packet)),
            ns(Some(row.ns_per_packet_median)),
            ns(row.forward_ns),
            row.added_ns(rows).map_or_else(none, |added| format!("{:.0}", machine.cycles(added))),
            format!("{mpps:.2}"),
            gbits.unwrap_or_else(none),
        ]
    })
}

fn distribution(machine: &Machine, rows: &[Row]) -> String {
    let heading = ["connections", "ns", "median ns", "cycles"];
    table(rows, Case::Distribution, &heading, |row| {
        vec![
            count(Some(row.connections)),
            ns(Some(row.ns_per_packet)),
            ns(Some(row.ns_per_packet_median)),
            format!("{:.0}", machine.cycles(row.ns_per_packet)),
        ]
    })
}

fn none() -> String {
    "–".to_owned()
}

fn ns(ns: Option<f64>) -> String {
    ns.map_or_else(none, |ns| format!("{ns:.1}"))
}

fn way(way: Way) -> &'static str {
    match way {
        Way::In => "in",
        Way::Out => "out",
        Way::Both => "both",
    }
}

/// With commas between thousands.
fn count(count: Option<usize>) -> String {
    count.map_or_else(none, |count| grouped(count as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_no_place_left_empty() {
        let machine = Machine {
            cpu: "a CPU".to_owned(),
            cpu_kind: String::new(),
            cpus: 2,
            cpu_flags: Vec::new(),
            tsc_mhz: 2000,
            kernel: String::new(),
            dpdk: String::new(),
            packet_memory: String::new(),
        };
        let row = Row {
            case: Case::Esp,
            engine: Some("an engine".to_owned()),
            direction: Way::Out,
            size_bytes: Some(64),
            sas: Some(1),
            connections: 1,
            ns_per_packet: 150.0,
            ns_per_packet_median: 160.0,
            aead_ns: Some(50.0),
            forward_ns: Some(30.0),
        };
        let peer = PeerRow {
            peer: "another".to_owned(),
            direction: Way::In,
            size_bytes: 1420,
            ns_per_packet: None,
            forward_ns: None,
            added_cycles: 99.6,
        };
        let figure =
            StoreRow { figure: crate::store::Figure::BlockUs, way: crate::store::Way::Local, median: 0.75, p99: None };
        let page = page(&machine, &[row], &[peer], &[figure], &[]);
        assert!(page.contains("| shared memory | 0.75 | – | us | 0.5 us: missed |"), "{page}");
        assert!(page.contains("| another | 1,420 | in | – | – | 100 |"), "{page}");
        assert!(!page.contains('{'), "{page}");
        assert!(page.contains("| an engine | 1 | 64 | out | 150.0 | 160.0 | 30.0 | 50.0 | 240 | 2.40 |"), "{page}");
    }
}
