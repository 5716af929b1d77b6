//! What was aimed at, and by how much it is missed.

use std::fmt::Write;

use super::{count, way};
use crate::machine::Machine;
use crate::result::{Case, Row, Way};

/// For ESP: cycles that protection adds to forwarding.
struct Goal {
    sas: usize,
    size_bytes: usize,
    direction: Way,
    added_cycles: f64,
    /// The same in units of the bare cipher, whatever the machine.
    added_per_cipher: Option<f64>,
    /// What VPP 26.10 with VAES added on the machine that the goals are for.
    vpp_cycles: f64,
}

const fn goal(
    (sas, size_bytes, direction): (usize, usize, Way),
    added_cycles: f64,
    added_per_cipher: Option<f64>,
    vpp_cycles: f64,
) -> Goal {
    Goal { sas, size_bytes, direction, added_cycles, added_per_cipher, vpp_cycles }
}

/// In cycles of a time stamp counter at 2.6 GHz on a Zen 5, AES-128-GCM.
const ESP: [Goal; 8] = [
    goal((1, 64, Way::Out), 100.0, Some(1.4), 106.0),
    goal((1, 64, Way::In), 130.0, Some(2.0), 144.0),
    goal((1, 1420, Way::Out), 250.0, Some(1.15), 257.0),
    goal((1, 1420, Way::In), 290.0, Some(1.4), 310.0),
    goal((1024, 64, Way::Out), 190.0, None, 207.0),
    goal((1024, 64, Way::In), 220.0, None, 255.0),
    goal((1024, 1420, Way::Out), 360.0, None, 400.0),
    goal((1024, 1420, Way::In), 390.0, None, 436.0),
];

/// Connections, and cycles for each look-up.
const DISTRIBUTION: [(usize, f64, &str); 2] = [(1_000, 35.0, "31–52"), (1_000_000, 150.0, "153–215")];

/// Goals and what was measured.
pub(super) fn table(machine: &Machine, rows: &[Row]) -> String {
    let mut table = String::from("| | VPP | goal | measured | of the goal |\n| --- | ---: | ---: | ---: | ---: |\n");
    let mut line = |what: String, vpp: &str, goal: f64, measured: f64, digits: usize| {
        let share = 100.0 * measured / goal;
        let _ = writeln!(table, "| {what} | {vpp} | {goal} | {measured:.digits$} | {share:.0} % |");
    };
    for goal in &ESP {
        let Some(row) = rows.iter().find(|row| is_for(goal, row)) else { continue };
        let Some(added) = row.added_ns(rows) else { continue };
        let what = format!(
            "{}, {} bytes {}",
            if goal.sas == 1 { "one SA".to_owned() } else { format!("{} SAs", count(Some(goal.sas))) },
            goal.size_bytes,
            way(goal.direction)
        );
        let vpp = format!("{:.0}", goal.vpp_cycles);
        line(format!("{what}: added cycles"), &vpp, goal.added_cycles, machine.cycles(added), 0);
        if let Some((limit, cipher)) = goal.added_per_cipher.zip(row.aead_ns) {
            line(format!("{what}: added / cipher"), "", limit, added / cipher, 2);
        }
    }
    for (connections, goal, vpp) in DISTRIBUTION {
        let mut measured = rows.iter().filter(|row| row.case == Case::Distribution && row.connections == connections);
        if let Some(row) = measured.next() {
            let what = format!("distribution, {} connections: cycles", count(Some(connections)));
            line(what, vpp, goal, machine.cycles(row.ns_per_packet), 0);
        }
    }
    table
}

fn is_for(goal: &Goal, row: &Row) -> bool {
    row.case == Case::Esp
        && row.sas == Some(goal.sas)
        && row.size_bytes == Some(goal.size_bytes)
        && row.direction == goal.direction
}
