//! What an IKE SA costs in memory.

use std::fs;

use vipsec_wire::iv::Epoch;

use super::bench::VIP;
use super::{BOB, Bench, Setup};
use crate::{ChildSaRecord, Identity, IkeSaRecord};

const IKE_SAS: u64 = 100_000;
const BYTES_MAX: u64 = 1 << 30;

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Each with a child SA, a peer of its own, and the last answer kept for its retransmission. Other tests of this process may run
/// beside it; they take little.
#[test]
fn a_hundred_thousand_ike_sas_fit_into_a_gibibyte() {
    let bench = Bench::established(Setup::default());
    let (record, children) = bench.sides[BOB].endpoint.export(bench.sa(BOB).id, bench.now).unwrap();
    let (record, child) = (record.encode(), children[0].encode());
    let mut successor = Bench::new(Setup { seed: 5, ..Setup::default() });
    let [_, bob] = &mut successor.sides;
    bob.endpoint.set_origin(VIP, Epoch(2)).unwrap();
    let before = resident();
    for n in 0..IKE_SAS {
        let mut record = IkeSaRecord::decode(&record).unwrap();
        let mut child = ChildSaRecord::decode(&child).unwrap();
        record.state.channel.local_spi = n + 1;
        record.state.remote_id = Some(Identity::fqdn(&format!("branch-{n}.example")));
        record.state.init_digest = record.state.init_digest.map(|mut digest| {
            digest[..8].copy_from_slice(&n.to_be_bytes());
            digest
        });
        child.info.spi_in = u32::try_from(0x0100_0000 + n).unwrap();
        record.children = vec![child.info.spi_in];
        bob.endpoint.import(record, vec![child], bench.now).unwrap();
    }
    let grown = resident() - before;
    assert_eq!(bob.endpoint.sas(bench.now).count() as u64, IKE_SAS);
    println!("{} bytes per IKE SA with a child SA", grown / IKE_SAS);
    assert!(grown < BYTES_MAX, "{grown} bytes for {IKE_SAS} IKE SAs");
}
