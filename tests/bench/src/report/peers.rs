//! What others cost on the same machine: read from what `make bench-peers` wrote.

use serde::{Deserialize, Serialize};

use super::{count, none, ns, table_of, way};
use crate::result::Way;

/// One measurement of a peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PeerRow {
    /// A program, or a crypto driver by itself.
    pub(crate) peer: String,
    pub(crate) direction: Way,
    /// Of the inner packet.
    pub(crate) size_bytes: usize,
    /// Protected, in nanoseconds.
    pub(crate) ns_per_packet: Option<f64>,
    /// Past the SA, in nanoseconds.
    pub(crate) forward_ns: Option<f64>,
    /// The difference, in cycles of the time stamp counter; of a driver, all that it takes.
    pub(crate) added_cycles: f64,
}

pub(super) fn table(rows: &[PeerRow]) -> String {
    if rows.is_empty() {
        return "Not measured in this run.\n".to_owned();
    }
    let heading = ["peer", "bytes", "way", "ns", "forwarding ns", "cycles"];
    table_of(&heading, rows.iter(), |row| {
        vec![
            row.peer.clone(),
            count(Some(row.size_bytes)),
            way(row.direction).to_owned(),
            row.ns_per_packet.map_or_else(none, |value| ns(Some(value))),
            row.forward_ns.map_or_else(none, |value| ns(Some(value))),
            format!("{:.0}", row.added_cycles),
        ]
    })
}
