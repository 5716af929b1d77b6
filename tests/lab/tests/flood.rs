//! IKE under a flood of calls from made-up addresses (RFC 7296 §2.6).

use std::time::Duration;

use vipsec_lab::scenario::Progress;
use vipsec_lab::scenario::flood::{self, FloodConfig};

/// 100,000 calls per second, or what this machine can send: who is honest gets in and stays, memory doesn't grow with the flood, and what
/// isn't let through has a name.
#[test]
fn honest_peers_get_in_under_a_flood() {
    const HONEST: u32 = 20;
    /// What half-open IKE SAs, each bounded, and their allocator may take.
    const GROWN_KIB_MAX: i64 = 64 << 10;
    let config = FloodConfig { per_second: 100_000, duration: Duration::from_secs(8), honest: HONEST };
    let report = flood::play(config, &Progress::default()).unwrap_or_else(|error| panic!("{error}"));
    println!("{report:#?}");
    assert_eq!((report.established, report.lost), (u64::from(HONEST), 0), "{report:#?}");
    assert!(report.cookies_asked > 0, "{report:#?}");
    assert!(report.grown_kib < GROWN_KIB_MAX, "{report:#?}");
    // The flood reached the worker, and hardly any of it the control core.
    assert!(report.cookies_asked + report.ike_in > report.sent / 100, "{report:#?}");
    assert!(report.ike_in < 30_000, "{report:#?}");
}
