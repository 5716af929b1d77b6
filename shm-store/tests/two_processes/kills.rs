//! The owner is killed while it writes, fenced while it writes, and stopped between writing and counting.

use std::io::Write;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, raise};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use vipsec_store::local::{Connection, Listener};
use vipsec_store::pairing::Agreement;
use vipsec_store::{Change, Link, StoreError, WriteId};
use vipsec_wire::iv::Epoch;

use crate::namespaces::Cable;
use crate::place::{Host, Place, back_up, call_and_own, eventually};
use crate::process::Process;
use crate::script::{BACKUP, OWNER, Op, assert_contents, entries, key, next_op, payload, setup};

/// The longest life of an owner.
const LIFE_MAX: Duration = Duration::from_millis(6);

// ---- the owner's process

/// Writes until it is killed or shut out, and tells which writes were acknowledged.
pub(crate) fn owner_writes(place: &Place, seed: u64) {
    let mut owner = call_and_own(place, OWNER);
    let writer = &mut owner.writer;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut out = std::io::stdout().lock();
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
            let error = match done {
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
                        continue;
                    }
                    Err(error) => error,
                },
                Err(error) => error,
            };
            match error {
                // Over a network the connection goes with the grant.
                StoreError::Refused | StoreError::LinkLost => return,
                error => panic!("{error}"),
            }
        }
    }
}

pub(crate) fn owner_stops_itself(place: &Place) {
    let mut owner = call_and_own(place, OWNER);
    let writer = &mut owner.writer;
    let counted = writer.put(key(1), Epoch(1), &payload(1)).unwrap();
    eventually("acknowledged", || (writer.poll_acknowledged() == Ok(counted)).then_some(()));
    writer.put(key(2), Epoch(1), &payload(2)).unwrap();
    writer.publish().unwrap();
    raise(Signal::SIGSTOP).unwrap();
    let ended = match place {
        Place::Local(_) => StoreError::Refused,
        // Closed from outside, before it could look at the grant.
        Place::Network { .. } => StoreError::LinkLost,
    };
    eventually("shut out", || (writer.poll_acknowledged() == Err(ended)).then_some(()));
    assert_eq!(writer.put(key(3), Epoch(1), &payload(3)), Err(ended));
    assert_eq!(writer.poll_acknowledged(), Err(ended));
    std::io::stdout().write_all(b"shut out").unwrap();
}

// ---- the backup's process

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Kill,
    Fence,
}

pub(crate) fn accept_and_grant(host: &mut Host) -> Link {
    let mut link = host.answer(setup(BACKUP)).unwrap();
    assert_eq!((link.peer.appliance.get(), link.agreement), (OWNER, Agreement::Agreed));
    back_up(&mut link);
    link
}

/// Owners at a time: while one is started, another one writes.
const LANES: u16 = 4;

/// What became of owners.
#[derive(Debug, Clone, Copy, Default)]
struct Lives {
    kills: u64,
    fences: u64,
    /// Those that wrote anything.
    alive: u64,
    writes: u64,
    changes: u64,
}

impl Lives {
    fn add(self, other: Self) -> Self {
        Self {
            kills: self.kills + other.kills,
            fences: self.fences + other.fences,
            alive: self.alive + other.alive,
            writes: self.writes + other.writes,
            changes: self.changes + other.changes,
        }
    }
}

/// That many owners' lives at a place, one of four fenced, the others killed.
pub(crate) fn rounds(place: &Place, cable: Option<&Cable>, count: u64, seed: u64) {
    let started = Instant::now();
    let each = count.div_ceil(u64::from(LANES)).max(1);
    let lanes = place.lanes(LANES);
    let lives = std::thread::scope(|scope| {
        let start = |(lane, nth): (_, u64)| {
            let rounds = (nth * each).min(count)..((nth + 1) * each).min(count);
            scope.spawn(move || lane_of(lane, cable, rounds, seed))
        };
        let lanes: Vec<_> = lanes.iter().zip(0..).map(start).collect();
        lanes.into_iter().map(|lane| lane.join().unwrap()).fold(Lives::default(), Lives::add)
    });
    let Lives { kills, fences, alive, writes, changes } = lives;
    assert!(alive >= count / 2 && changes >= count / 2, "{alive} owners wrote, {changes} changes: they hardly ran");
    println!(
        "{}: {kills} kills, {fences} fences, {writes} writes, {changes} changes followed: nothing lost, nothing torn, {:?}",
        place.to_arg(),
        started.elapsed()
    );
}

/// One owner after the other.
fn lane_of(place: &Place, cable: Option<&Cable>, rounds: std::ops::Range<u64>, seed: u64) -> Lives {
    let mut host = Host::at(place);
    let mut rng = StdRng::seed_from_u64(seed.wrapping_add(rounds.start));
    let mut lives = Lives::default();
    for round in rounds {
        let end = if round % 4 == 3 { End::Fence } else { End::Kill };
        let (writes, changes) = round_of(&mut host, place, cable, (round, end), seed.wrapping_add(round), &mut rng);
        let (kills, fences) = if end == End::Kill { (1, 0) } else { (0, 1) };
        lives = lives.add(Lives { kills, fences, alive: u64::from(writes > 0), writes, changes });
    }
    lives
}

/// One owner's life. Returns how much it wrote, and how many changes were followed.
fn round_of(
    host: &mut Host,
    place: &Place,
    cable: Option<&Cable>,
    (round, end): (u64, End),
    seed: u64,
    rng: &mut StdRng,
) -> (u64, u64) {
    let mut owner = Process::start("writer", place, seed, cable);
    let mut link = accept_and_grant(host);
    let mut followed = 0;
    // Every other one dies after it has begun to write, however long that takes; the rest wherever they are.
    if round % 2 == 0 {
        eventually("it writes", || {
            followed += link.reader.poll_changes(1).len() as u64;
            (followed > 0).then_some(())
        });
    }
    let until = Instant::now() + LIFE_MAX.mul_f64(rng.random());
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
        owner.kill();
    }
    link.reader.fence();
    let snapshot = link.reader.copy().unwrap();
    if end == End::Fence {
        // Who is shut out stops by itself.
        owner.end();
    }
    let said = owner.said();
    let acknowledged = said.as_chunks::<8>().0.last().map_or(0, |id| u64::from_le_bytes(*id));
    assert!(snapshot.cut().0 >= acknowledged, "{end:?}: cut {}, acknowledged {acknowledged}", snapshot.cut());
    assert_contents(&snapshot, seed);
    (snapshot.cut().0, followed)
}

pub(crate) fn stopped_between_write_and_look(place: &Place, cable: Option<&Cable>) {
    let mut host = Host::at(place);
    let mut owner = Process::start("stopped-writer", place, 0, cable);
    let mut link = accept_and_grant(&mut host);
    owner.wait_stopped();
    link.reader.fence();
    let snapshot = link.reader.copy().unwrap();
    owner.go_on();
    owner.end();
    assert_eq!(owner.said(), b"shut out");
    // The second write was published, so it belongs to the snapshot if it arrived, though its owner must not count on it. What came
    // after the fence doesn't.
    let keys: Vec<_> = snapshot.records().map(|record| record.unwrap().key).collect();
    assert!(keys == [key(1), key(2)] || keys == [key(1)] && cable.is_some(), "{keys:?}");
    println!("{}: stopped between write and look, fenced, woken: shut out", place.to_arg());
}

pub(crate) fn only_one_peer_at_a_time(path: &std::path::Path) {
    let mut listener = Listener::bind(path).unwrap();
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
    println!("one peer at a time: ok");
}
