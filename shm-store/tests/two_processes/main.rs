//! Owner and backup as two processes, on one host and between two network namespaces: killed, fenced, stopped, restarted, cut off,
//! and met by strangers.
//!
//! This program starts itself as the other process. Both sides draw the same operations from a seed, so that the backup can tell
//! what the region must hold after each write. `VIPSEC_STORE_OWNERS` says how many owners live and die at each place.

use std::path::Path;
use std::process::ExitCode;

use rand::RngExt;

use namespaces::{Cable, OURS, THEIRS};
use place::{PORT, Place};

mod failures;
mod kills;
mod namespaces;
mod place;
mod process;
mod script;
mod strangers;

/// Owners that live and die at each place; three of four are killed.
const OWNERS: u64 = 200;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args[..] {
        [role] if role == "hold" => namespaces::hold(),
        [role, place, seed, namespace] if Place::from_arg(place).is_some() => {
            namespaces::enter(namespace.parse().unwrap());
            let (place, seed) = (Place::from_arg(place).unwrap(), seed.parse().unwrap());
            match role.as_str() {
                "writer" => kills::owner_writes(&place, seed),
                "stopped-writer" => kills::owner_stops_itself(&place),
                "counting-writer" => failures::owner_counts(&place),
                "backup" => failures::backup_until_told(&place),
                _ => return ExitCode::FAILURE,
            }
        }
        // Options of the test runner mean nothing here.
        _ => run_all(),
    }
    ExitCode::SUCCESS
}

fn run_all() {
    let owners = std::env::var("VIPSEC_STORE_OWNERS").ok().and_then(|count| count.parse().ok()).unwrap_or(OWNERS);
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let dir = tempfile::tempdir().unwrap();
    let local = Place::Local(dir.path().join("store"));
    // Before there are other threads.
    let cable = Cable::lay();
    on_one_host(&local, dir.path(), owners, seed);
    match cable {
        Some(cable) => over_a_network(&cable, owners, seed),
        None => println!("no network namespace may be made: the tests between two of them are left out"),
    }
}

fn on_one_host(local: &Place, dir: &Path, owners: u64, seed: u64) {
    kills::rounds(local, None, owners, seed);
    kills::stopped_between_write_and_look(local, None);
    kills::only_one_peer_at_a_time(&dir.join("seat"));
    failures::the_backup_is_stopped_and_wakes(local, None);
    failures::the_backup_restarts(local, None);
    failures::there_is_no_memory_for_a_region(dir);
}

fn over_a_network(cable: &Cable, owners: u64, seed: u64) {
    let place = Place::Network { host: OURS, caller: THEIRS, port: PORT };
    kills::rounds(&place, Some(cable), owners, seed);
    kills::stopped_between_write_and_look(&place, Some(cable));
    failures::the_backup_is_stopped_and_wakes(&place, Some(cable));
    failures::the_backup_restarts(&place, Some(cable));
    failures::the_cable_is_cut(&place, cable);
    failures::the_owner_vanishes_behind_a_cut_cable(&place, cable);
    strangers::run_all();
}
