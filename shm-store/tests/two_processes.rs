//! Owner and backup as two processes: the owner is killed while it writes, fenced while it writes, and stopped between
//! writing and counting.
//!
//! This program starts itself as the owner. Both sides draw the same operations from a seed, so that the backup can tell what
//! the region must hold after each write.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use vipsec_store::local::{self, Connection, Listener};
use vipsec_store::pairing::{Agreement, PairingSecret};
use vipsec_store::{
    Change, Control, CounterEntry, Grant, Link, RecordKey, Setup, SizeClass, Sizes, Snapshot, StoreError, StoreWriter,
    WriteId,
};
use vipsec_wire::iv::{ApplianceId, Epoch};
use zeroize::Zeroizing;

const KILLS: u64 = 400;
const FENCES: u64 = 200;
const KEYS: u64 = 24;
const BLOCKS: u32 = 3;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let [_, role, path, seed] = &args[..]
        && let Ok(seed) = seed.parse()
    {
        match role.as_str() {
            "writer" => owner_writes(Path::new(path), seed),
            "stopped-writer" => owner_stops_itself(Path::new(path), seed),
            _ => return ExitCode::FAILURE,
        }
        return ExitCode::SUCCESS;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut listener = Listener::bind(&path).unwrap();
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let started = Instant::now();

    let mut rng = StdRng::seed_from_u64(seed);
    let (mut writes, mut changes) = (0, 0);
    for round in 0..KILLS + FENCES {
        let end = if round < KILLS { End::Kill } else { End::Fence };
        let (wrote, changed) = round_of(&mut listener, &path, end, seed.wrapping_add(round), &mut rng);
        writes += wrote;
        changes += changed;
    }
    assert!(writes > KILLS + FENCES && changes > 0, "{writes} writes, {changes} changes: the owners hardly ran");
    println!(
        "{KILLS} kills, {FENCES} fences, {writes} writes, {changes} changes followed: ok, {:?}",
        started.elapsed()
    );

    stopped_between_write_and_look(&mut listener, &path);
    println!("stopped between write and look: ok");
    only_one_peer_at_a_time(&mut listener, &path);
    println!("one peer at a time: ok");
    ExitCode::SUCCESS
}

// ---- what both sides know

fn sizes() -> Sizes {
    let class = |records, bytes| SizeClass { records, bytes };
    Sizes { classes: vec![class(32, 128), class(32, 700)], counter_blocks: BLOCKS, journal_entries: 64 }
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Put(u64),
    Remove(u64),
    Counters(u32),
    Poll,
}

fn next_op(rng: &mut StdRng) -> Op {
    match rng.random_range(0..10) {
        0..5 => Op::Put(rng.random_range(0..KEYS)),
        5 => Op::Remove(rng.random_range(0..KEYS)),
        6 => Op::Counters(rng.random_range(0..BLOCKS)),
        _ => Op::Poll,
    }
}

fn key(n: u64) -> RecordKey {
    RecordKey { kind: 1, vip: 2, id: n }
}

/// What write `number` writes into a record: any mix of two writes shows.
fn payload(number: u64) -> Vec<u8> {
    let len = 8 + number.wrapping_mul(0x9e37_79b9) % 600;
    number.to_le_bytes().iter().copied().cycle().take(len as usize).collect()
}

fn entries(number: u64) -> Vec<CounterEntry> {
    (0..=(number % 32) as u32).map(|spi| CounterEntry { spi, lease: number, edge: number, horizon: number }).collect()
}

// ---- the owner's process

fn setup(id: u8) -> Setup {
    Setup {
        appliance: ApplianceId::new(id).unwrap(),
        incarnation: rand::rng().random(),
        config_digest: [5; 32],
        sizes: sizes(),
    }
}

fn pair(connection: Connection, id: u8) -> Link {
    let secret = PairingSecret::new(Zeroizing::new(vec![3; 32])).unwrap();
    local::pair(connection, setup(id), secret, soon(), &mut rand::rng()).unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn wait_readable(what: &impl AsFd) {
    vipsec_store::wait_readable(what, Some(soon())).expect("the other process says nothing");
}

fn connect_and_join(path: &Path) -> (Control, Box<dyn StoreWriter + Send>) {
    let mut link = pair(Connection::connect(path).unwrap(), 1);
    wait_readable(&link.control);
    let grant = link.control.recv().unwrap().unwrap();
    let writer = link.owner.writer(Grant::from_bytes(grant.try_into().unwrap())).unwrap();
    (link.control, writer)
}

/// Writes until it is killed or refused, and tells which writes were acknowledged.
fn owner_writes(path: &Path, seed: u64) {
    let (_link, mut writer) = connect_and_join(path);
    let mut rng = StdRng::seed_from_u64(seed);
    let mut out = std::io::stdout();
    let mut next = 1;
    loop {
        let op = next_op(&mut rng);
        loop {
            let done = match op {
                Op::Put(n) => writer.put(key(n), Epoch(1), &payload(next)).map(Some),
                Op::Remove(n) => writer.remove(key(n)),
                Op::Counters(block) => writer.put_counters(block, &entries(next)).map(Some),
                Op::Poll => Err(StoreError::Behind),
            };
            match done {
                Ok(id) => {
                    next += u64::from(id.is_some());
                    break;
                }
                Err(StoreError::Behind) => match writer.poll_acknowledged() {
                    Ok(WriteId(id)) => {
                        out.write_all(&id.to_le_bytes()).unwrap();
                        out.flush().unwrap();
                        if matches!(op, Op::Poll) {
                            break;
                        }
                    }
                    Err(StoreError::Refused) => return,
                    Err(error) => panic!("{error}"),
                },
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn owner_stops_itself(path: &Path, _seed: u64) {
    let (_link, mut writer) = connect_and_join(path);
    let counted = writer.put(key(1), Epoch(1), &payload(1)).unwrap();
    assert_eq!(writer.poll_acknowledged(), Ok(counted));
    writer.put(key(2), Epoch(1), &payload(2)).unwrap();
    raise(Signal::SIGSTOP).unwrap();
    assert_eq!(writer.poll_acknowledged(), Err(StoreError::Refused));
    assert_eq!(writer.put(key(3), Epoch(1), &payload(3)), Err(StoreError::Refused));
    assert_eq!(writer.poll_acknowledged(), Err(StoreError::Refused));
    std::io::stdout().write_all(b"refused").unwrap();
}

// ---- the backup's process

struct OwnerProcess {
    child: Child,
    out: Option<JoinHandle<Vec<u8>>>,
}

impl OwnerProcess {
    fn start(role: &str, path: &Path, seed: u64) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut child =
            Command::new(program).arg(role).arg(path).arg(seed.to_string()).stdout(Stdio::piped()).spawn().unwrap();
        let out: ChildStdout = child.stdout.take().unwrap();
        Self { child, out: Some(std::thread::spawn(move || read_all(out))) }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Everything it said, once it has ended.
    fn said(&mut self) -> Vec<u8> {
        self.out.take().unwrap().join().unwrap()
    }
}

impl Drop for OwnerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_all(mut out: ChildStdout) -> Vec<u8> {
    let mut said = Vec::new();
    out.read_to_end(&mut said).unwrap();
    said
}

fn accept_and_grant(listener: &mut Listener) -> Link {
    wait_readable(listener);
    let mut link = pair(listener.accept().unwrap().unwrap(), 2);
    assert_eq!((link.peer.appliance.get(), link.agreement), (1, Agreement::Agreed));
    let grant = link.reader.join(&mut rand::rng()).unwrap();
    link.control.send(&grant.to_bytes()).unwrap();
    link
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Kill,
    Fence,
}

/// One owner's life. Returns how much it wrote, and how many changes were followed.
fn round_of(listener: &mut Listener, path: &Path, end: End, seed: u64, rng: &mut StdRng) -> (u64, u64) {
    let mut owner = OwnerProcess::start("writer", path, seed);
    let mut link = accept_and_grant(listener);
    let until = Instant::now() + Duration::from_micros(rng.random_range(0..15_000));
    let mut followed = 0;
    if rng.random() {
        while Instant::now() < until {
            let changes = link.reader.poll_changes(rng.random_range(1..100));
            followed += changes.len() as u64;
            for change in changes {
                match change {
                    Change::Stored(record) => assert_eq!(*record.bytes, payload(record.version.0)),
                    Change::Rejected(rejected) => panic!("{rejected:?}"),
                    Change::Removed(_) | Change::Resync => {}
                }
            }
        }
    } else {
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }

    if end == End::Kill {
        owner.child.kill().unwrap();
        owner.child.wait().unwrap();
    }
    link.reader.fence();
    let snapshot = link.reader.copy().unwrap();
    if end == End::Fence {
        assert!(owner.child.wait().unwrap().success(), "a refused owner stops by itself");
    }
    let said = owner.said();
    let acknowledged = said.as_chunks::<8>().0.last().map_or(0, |id| u64::from_le_bytes(*id));
    assert!(snapshot.cut().0 >= acknowledged, "{end:?}: cut {}, acknowledged {acknowledged}", snapshot.cut());
    assert_contents(&snapshot, seed);
    (snapshot.cut().0, followed)
}

/// The snapshot is what all writes up to its cut make, no more and no less.
fn assert_contents(snapshot: &Snapshot, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut records, mut blocks) = (BTreeMap::new(), BTreeMap::new());
    let mut next = 1;
    while next <= snapshot.cut().0 {
        let wrote = match next_op(&mut rng) {
            Op::Put(n) => {
                records.insert(key(n), next);
                true
            }
            Op::Remove(n) => records.remove(&key(n)).is_some(),
            Op::Counters(block) => {
                blocks.insert(block, next);
                true
            }
            Op::Poll => false,
        };
        next += u64::from(wrote);
    }
    let found: BTreeMap<_, _> = snapshot.records().map(|record| record.unwrap()).map(|r| (r.key, r)).collect();
    assert_eq!(found.keys().collect::<Vec<_>>(), records.keys().collect::<Vec<_>>());
    for (key, number) in records {
        assert_eq!((found[&key].version.0, &*found[&key].bytes), (number, &payload(number)));
    }
    let found: BTreeMap<_, _> = snapshot.counters().map(|block| block.unwrap()).map(|b| (b.index, b.entries)).collect();
    let expected: BTreeMap<_, _> = blocks.into_iter().map(|(block, number)| (block, entries(number))).collect();
    assert_eq!(found, expected);
}

fn stopped_between_write_and_look(listener: &mut Listener, path: &Path) {
    let mut owner = OwnerProcess::start("stopped-writer", path, 0);
    let mut link = accept_and_grant(listener);
    let stopped = waitpid(owner.pid(), Some(WaitPidFlag::WUNTRACED)).unwrap();
    assert_eq!(stopped, WaitStatus::Stopped(owner.pid(), Signal::SIGSTOP));
    link.reader.fence();
    let snapshot = link.reader.copy().unwrap();
    kill(owner.pid(), Signal::SIGCONT).unwrap();
    assert!(owner.child.wait().unwrap().success());
    assert_eq!(owner.said(), b"refused");
    // The second write was published, so it belongs to the snapshot, though its owner must not count on it. What came
    // after the fence doesn't.
    let keys: Vec<_> = snapshot.records().map(|record| record.unwrap().key).collect();
    assert_eq!(keys, [key(1), key(2)]);
}

fn only_one_peer_at_a_time(listener: &mut Listener, path: &Path) {
    let first = Connection::connect(path).unwrap();
    let accepted = listener.accept().unwrap().expect("the seat is free");
    let second = Connection::connect(path).unwrap();
    assert!(listener.accept().unwrap().is_none());
    assert!(second.recv().is_err(), "turned away");
    assert!(first.recv().unwrap().is_none(), "still connected");
    assert!(Listener::bind(path).is_err(), "in use");
    // The listener that probed was a connection too.
    while listener.accept().unwrap().is_some() {}
    drop(accepted);
    assert!(first.recv().is_err(), "the end of the connection is an event");
}
