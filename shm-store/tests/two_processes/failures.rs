//! What happens to the processes and the cable between them: each ends in a state that both sides know.

use std::io::Read;
use std::path::Path;
use std::time::Instant;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use vipsec_store::local::{self, Connection, Listener};
use vipsec_store::{Control, LinkError, Sizes, StoreError, WriteId, wait_readable};
use vipsec_wire::iv::Epoch;

use crate::kills::accept_and_grant;
use crate::namespaces::{Cable, OURS, THEIRS};
use crate::place::{Host, Owning, Place, back_up, call, eventually, own, soon};
use crate::process::Process;
use crate::script::{BACKUP, OWNER, key, payload, secret, setup, sizes};

// ---- the other process

/// Grants, and waits for a word; then fences, and says what it holds.
pub(crate) fn backup_until_told(place: &Place) {
    let mut host = Host::at(place);
    let mut link = host.answer(setup(BACKUP)).unwrap();
    back_up(&mut link);
    std::io::stdin().read_exact(&mut [0]).unwrap();
    link.reader.fence();
    let snapshot = link.reader.copy().unwrap();
    for record in snapshot.records().map(Result::unwrap) {
        assert_eq!(*record.bytes, payload(record.version.0));
    }
    print!("{}", snapshot.cut());
}

/// Writes one record after the other, each acknowledged, until the link is gone; then says how far it came and how it ended.
pub(crate) fn owner_counts(place: &Place) {
    let mut owner = own(call(place, setup(OWNER), secret()).unwrap());
    let mut counted = 0;
    let ended = loop {
        match write_one(&mut owner, counted + 1) {
            Ok(_) => counted += 1,
            Err(error) => break error,
        }
    };
    print!("{counted}: {ended}");
}

fn write_one(owner: &mut Owning, number: u64) -> Result<WriteId, StoreError> {
    let id = owner.writer.put(key(number % 24), Epoch(1), &payload(number))?;
    assert_eq!(id, WriteId(number));
    while owner.writer.poll_acknowledged()? < id {
        std::thread::yield_now();
    }
    Ok(id)
}

/// The process's counted writes and its last words.
fn counted(owner: &mut Process) -> (u64, String) {
    owner.end();
    let said = String::from_utf8(owner.said()).unwrap();
    let (counted, error) = said.split_once(": ").unwrap();
    (counted.parse().unwrap(), error.to_owned())
}

// ---- this process

/// As the caller, with the backup in the other process.
fn towards_a_backup(place: &Place) -> Place {
    match place {
        Place::Local(path) => Place::Local(path.clone()),
        Place::Network { port, .. } => Place::Network { host: THEIRS, caller: OURS, port: *port },
    }
}

fn call_when_it_listens(place: &Place) -> vipsec_store::Link {
    eventually("the backup listens", || match place {
        Place::Local(path) => {
            let connection = Connection::connect(path).ok()?;
            Some(local::pair(connection, setup(OWNER), secret(), soon(), &mut rand::rng()).unwrap())
        }
        Place::Network { host, .. } => {
            drop(std::net::TcpStream::connect((*host, crate::place::DATA_PORT)).ok()?);
            Some(call(place, setup(OWNER), secret()).unwrap())
        }
    })
}

/// What a peer learns from the messages' connection, if it says something now and then.
fn heartbeats_end_with(control: &mut Control) -> LinkError {
    eventually("the connection ends", || {
        if let Err(error) = control.send(b"heartbeat") {
            return Some(error);
        }
        control.recv().err()
    })
}

/// Its memory takes writes while it sleeps, where nobody has to carry them out; elsewhere they are given up in time.
pub(crate) fn the_backup_is_stopped_and_wakes(place: &Place, cable: Option<&Cable>) {
    let there = towards_a_backup(place);
    let mut backup = Process::start("backup", &there, 0, cable);
    let mut owner = own(call_when_it_listens(&there));
    let mut last = write_one(&mut owner, 1).unwrap();
    backup.stop();
    let state = write_one(&mut owner, 2);
    if cable.is_some() {
        assert_eq!(state, Err(StoreError::LinkLost));
        assert_eq!(write_one(&mut owner, 3), Err(StoreError::LinkLost), "an end is final");
    } else {
        last = state.unwrap();
    }
    backup.go_on();
    backup.tell();
    backup.end();
    let cut: u64 = String::from_utf8(backup.said()).unwrap().parse().unwrap();
    assert!(cut >= last.0, "cut {cut}, acknowledged {last}");
    println!(
        "{}: the backup is stopped: {}",
        place.to_arg(),
        state.map_or_else(|error| error.to_string(), |_| "written all the same".into())
    );
}

/// A new process has a new region: what the old one acknowledged is worth nothing.
pub(crate) fn the_backup_restarts(place: &Place, cable: Option<&Cable>) {
    let there = towards_a_backup(place);
    let mut backup = Process::start("backup", &there, 0, cable);
    let link = call_when_it_listens(&there);
    let (process, region) = (link.peer.incarnation, link.peer.region);
    let mut owner = own(link);
    write_one(&mut owner, 1).unwrap();
    backup.kill();
    let learned = heartbeats_end_with(&mut owner.control);
    assert_eq!(learned, LinkError::Disconnected);
    if cable.is_some() {
        let lost = eventually("the region is lost", || owner.writer.poll_acknowledged().err());
        assert_eq!(lost, StoreError::LinkLost);
    }
    drop(owner);

    let mut backup = Process::start("backup", &there, 0, cable);
    let link = call_when_it_listens(&there);
    assert!(link.peer.incarnation != process && link.peer.region != region);
    let mut owner = own(link);
    assert_eq!(owner.writer.poll_acknowledged(), Ok(WriteId(0)), "it begins with nothing");
    write_one(&mut owner, 1).unwrap();
    backup.tell();
    backup.end();
    assert_eq!(backup.said(), b"1");
    println!("{}: the backup restarts: {learned}; paired anew", place.to_arg());
}

/// A cut gives no error by itself: both sides find out by their deadlines, and the fence waits for nobody.
pub(crate) fn the_cable_is_cut(place: &Place, cable: &Cable) {
    let mut host = Host::at(place);
    let mut owner = Process::start("counting-writer", place, 0, Some(cable));
    let mut link = accept_and_grant(&mut host);
    eventually("it writes", || (!link.reader.poll_changes(100).is_empty()).then_some(()));
    cable.unplug();
    let started = Instant::now();
    link.reader.fence();
    let fenced = started.elapsed();
    let cut = link.reader.copy().unwrap().cut();
    let (counted, error) = counted(&mut owner);
    assert_eq!(error, StoreError::LinkLost.to_string());
    assert!(counted <= cut.0, "cut {cut}, acknowledged {counted}");
    let learned = heartbeats_end_with(&mut link.control);
    assert_eq!(learned, LinkError::Disconnected);

    cable.plug_in();
    let mut owner = Process::start("counting-writer", place, 0, Some(cable));
    let mut anew = accept_and_grant(&mut host);
    eventually("it writes", || (!anew.reader.poll_changes(100).is_empty()).then_some(()));
    anew.reader.fence();
    let (counted, _) = self::counted(&mut owner);
    assert!(counted <= anew.reader.copy().unwrap().cut().0);
    assert_eq!(link.reader.copy().unwrap().cut(), cut, "the old region stays as it was");
    println!(
        "{}: the cable is cut: fenced in {fenced:?}; owner: {error}; backup: {learned}; paired anew",
        place.to_arg()
    );
}

/// Half-open: this side believes in a connection of which nobody knows at the other.
pub(crate) fn the_owner_vanishes_behind_a_cut_cable(place: &Place, cable: &Cable) {
    let mut host = Host::at(place);
    let mut owner = Process::start("counting-writer", place, 0, Some(cable));
    let mut link = accept_and_grant(&mut host);
    eventually("it writes", || (!link.reader.poll_changes(100).is_empty()).then_some(()));
    cable.unplug();
    owner.kill();
    cable.plug_in();
    let learned = heartbeats_end_with(&mut link.control);
    assert_eq!(learned, LinkError::Disconnected);
    link.reader.fence();
    for record in link.reader.copy().unwrap().records().map(Result::unwrap) {
        assert_eq!(*record.bytes, payload(record.version.0));
    }
    let mut owner = Process::start("counting-writer", place, 0, Some(cable));
    let mut anew = accept_and_grant(&mut host);
    eventually("it writes", || (!anew.reader.poll_changes(100).is_empty()).then_some(()));
    anew.reader.fence();
    counted(&mut owner);
    println!("{}: the owner vanishes behind a cut cable: {learned}; paired anew", place.to_arg());
}

/// A region that finds no memory is refused before anybody is told of it, not when a record meets the missing page.
pub(crate) fn there_is_no_memory_for_a_region(dir: &Path) {
    let path = dir.join("poor");
    let mut listener = Listener::bind(&path).unwrap();
    let mut refusal = |sizes: Sizes| {
        let caller = Connection::connect(&path).unwrap();
        let host = listener.accept().unwrap().expect("the seat is free");
        let setup = vipsec_store::Setup { sizes, ..setup(OWNER) };
        let error = local::pair(caller, setup, secret(), soon(), &mut rand::rng()).unwrap_err();
        wait_readable(&host, Some(soon())).unwrap();
        assert_eq!(host.recv().unwrap_err(), LinkError::Disconnected, "the peer learns it");
        error
    };

    let huge = vipsec_store::SizeClass { records: vipsec_store::RECORDS_MAX, bytes: vipsec_store::RECORD_BYTES_MAX };
    let error = refusal(Sizes { classes: vec![huge], ..sizes() });
    assert!(matches!(error, LinkError::NoMemory { .. }), "{error}");
    println!("more than there is: {error}");

    // The memory file's own limit, as a full file system has one.
    let (soft, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    // SAFETY: no handler runs: the signal is ignored.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, 16 << 10, hard).unwrap();
    let error = refusal(sizes());
    setrlimit(Resource::RLIMIT_FSIZE, soft, hard).unwrap();
    assert!(matches!(error, LinkError::System { call: "memory file", .. }), "{error}");
    println!("no room: {error}");
}
