//! The measurement of failovers, small. Nothing here depends on how fast the machine is.

mod common;

use vipsec_lab::report::failover::page;
use vipsec_lab::scenario::Progress;
use vipsec_lab::scenario::failover::{self, Case, FailoverConfig};

/// The owner of a hundred tunnels is killed, comes back, and the other one is killed: every tunnel is kept, connections live on, and what was lost is counted.
#[test]
fn a_crash_is_measured() {
    const TUNNELS: u32 = 100;
    let out = common::folder("failover");
    let config = FailoverConfig { cases: vec![Case::Crash], tunnels: vec![TUNNELS], runs: Some(2), out: out.path() };
    let rows = failover::play(&config, &Progress::default()).unwrap_or_else(|error| panic!("{error}"));
    let [row] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((row.tcp_reset, row.sas_kept, row.sas_lost), (0, 2 * TUNNELS, 0), "{row:?}");
    assert!(row.tcp_kept > 0 && row.lost.up > 0, "{row:?}");
    assert!(row.lost.up < row.offered.up / 2 && row.lost.down < row.offered.down / 2, "{row:?}");
    assert!(row.detection_ms.median > 0.0 && row.first_packet_ms.median > 0.0, "{row:?}");
    assert!(row.first_packet_ms.median <= row.all_sas_ms.median, "{row:?}");
    let read = failover::read(&out.path()).unwrap_or_else(|error| panic!("{error}"));
    assert!(page(&read).contains("| crash, SAs resumed | 100 | 2 |"));
}
