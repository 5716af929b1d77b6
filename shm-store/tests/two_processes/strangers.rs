//! Who or what else may come to the ports: another secret, another version, our own id, garbage, silence, and somebody between the
//! two who turns bits and says again what was said before.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use vipsec_store::fabric::{self, DataListener, FabricSetup, Provider};
use vipsec_store::pairing::{PairingError, PairingSecret};
use vipsec_store::{Link, LinkError, Setup, StoreError, Versions, WriteId};
use vipsec_wire::iv::Epoch;
use zeroize::Zeroizing;

use crate::namespaces::listening;
use crate::place::{DATA_PORT, Host, Owning, PORT, Place, back_up, eventually, own, soon};
use crate::script::{BACKUP, OWNER, VERSIONS, key, payload, secret, setup};

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
const CALLER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const BETWEEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3)), DATA_PORT);
const PLACE: Place = Place::Network { host: HOST, caller: CALLER, port: PORT };

pub(crate) fn run_all() {
    let mut host = Host::at(&PLACE);
    only_the_configured_ports_are_open(&mut host);
    another_secret(&mut host);
    our_own_id(&mut host);
    another_version(&mut host);
    garbage_instead_of_a_hello(&mut host);
    silence(&mut host);
    nobody_at_the_data_port(&mut host);
    garbage_at_the_data_port(&mut host);
    let between = Between::start();
    turned_bits(&mut host, &between);
    what_was_said_before(&mut host, &between);
}

/// A caller, on a thread of its own.
fn calls(setup: Setup, secret: PairingSecret, peer_data: SocketAddr) -> thread::JoinHandle<Result<Link, LinkError>> {
    thread::spawn(move || {
        let listener = DataListener::bind(Provider::Tcp, SocketAddr::new(CALLER, DATA_PORT))?;
        let socket = TcpStream::connect((HOST, PORT)).unwrap();
        let fabric = FabricSetup { setup, provider: Provider::Tcp, listener: &listener, peer_data };
        fabric::pair(socket, fabric, secret, soon(), &mut rand::rng())
    })
}

fn data() -> SocketAddr {
    SocketAddr::new(HOST, DATA_PORT)
}

/// Both ends of a pairing, as backup and owner.
fn paired(host: &mut Host, peer_data: SocketAddr) -> (Link, Owning) {
    let caller = calls(setup(OWNER), secret(), peer_data);
    let mut backup = host.answer(setup(BACKUP)).unwrap();
    back_up(&mut backup);
    (backup, own(caller.join().unwrap().unwrap()))
}

fn acknowledge(owner: &mut Owning, id: WriteId) {
    eventually("acknowledged", || (owner.writer.poll_acknowledged().unwrap() >= id).then_some(()));
}

fn only_the_configured_ports_are_open(host: &mut Host) {
    let _link = paired(host, data());
    let mut ports = listening();
    ports.dedup();
    assert_eq!(ports, [PORT, DATA_PORT]);
    println!("ports in use: {ports:?}");
}

fn another_secret(host: &mut Host) {
    let other = PairingSecret::new(Zeroizing::new(vec![4; 32])).unwrap();
    let caller = calls(setup(OWNER), other, data());
    let errors = [host.answer(setup(BACKUP)).unwrap_err(), caller.join().unwrap().unwrap_err()];
    assert_eq!(errors, [LinkError::Pairing(PairingError::WrongSecret); 2]);
    println!("another secret: {}", errors[0]);
}

fn our_own_id(host: &mut Host) {
    let caller = calls(setup(BACKUP), secret(), data());
    let errors = [host.answer(setup(BACKUP)).unwrap_err(), caller.join().unwrap().unwrap_err()];
    assert_eq!(errors, [LinkError::Pairing(PairingError::SameAppliance); 2]);
    println!("our own id: {}", errors[0]);
}

/// A stranger that says `bytes`, and nothing more.
fn says(bytes: Vec<u8>) -> TcpStream {
    let mut socket = TcpStream::connect((HOST, PORT)).unwrap();
    socket.write_all(&bytes).unwrap();
    socket
}

fn another_version(host: &mut Host) {
    const HELLO: u8 = 1;
    let theirs = Versions { oldest: VERSIONS.newest + 1, newest: VERSIONS.newest + 2 };
    let mut hello = vec![0, 5, HELLO];
    hello.extend(theirs.oldest.to_be_bytes());
    hello.extend(theirs.newest.to_be_bytes());
    let _stranger = says(hello);
    let error = host.answer(setup(BACKUP)).unwrap_err();
    assert_eq!(error, LinkError::Pairing(PairingError::NoCommonVersion { theirs, ours: VERSIONS }));
    println!("another version: {error}");
}

fn garbage_instead_of_a_hello(host: &mut Host) {
    let mut rng = StdRng::seed_from_u64(1);
    for len in [1, 2, 3, 64, 300, 5000, 20_000] {
        let mut garbage = vec![0; len];
        rng.fill(&mut garbage[..]);
        let stranger = says(garbage);
        stranger.shutdown(Shutdown::Write).unwrap();
        let error = host.answer(setup(BACKUP)).unwrap_err();
        assert!(
            matches!(error, LinkError::Malformed | LinkError::Disconnected | LinkError::Pairing(_)),
            "{len} bytes: {error}"
        );
    }
    println!("garbage instead of a hello: refused");
}

/// Somebody who connects and says nothing keeps nobody for longer than a pairing may take.
fn silence(host: &mut Host) {
    let Host::Network { messages, data, caller_data } = host else { unreachable!("over the network") };
    let _silent = says(vec![]);
    let (socket, _) = messages.accept().unwrap();
    let fabric = FabricSetup { setup: setup(BACKUP), provider: Provider::Tcp, listener: data, peer_data: *caller_data };
    let deadline = Instant::now() + Duration::from_millis(50);
    let error = fabric::pair(socket, fabric, secret(), deadline, &mut rand::rng()).unwrap_err();
    assert_eq!(error, LinkError::TimedOut);
    assert!(Instant::now() >= deadline);
    println!("silence: {error}");
}

/// Messages get through, writes don't.
fn nobody_at_the_data_port(host: &mut Host) {
    let caller = calls(setup(OWNER), secret(), SocketAddr::new(HOST, DATA_PORT + 1));
    let ours = host.answer(setup(BACKUP)).unwrap_err();
    let theirs = caller.join().unwrap().unwrap_err();
    assert!(matches!(theirs, LinkError::Fabric(_)), "{theirs}");
    assert!(matches!(ours, LinkError::Fabric(_) | LinkError::TimedOut | LinkError::Disconnected), "{ours}");
    println!("nobody at the data port: {theirs}; at the other end: {ours}");
}

/// Who comes with garbage before, while and after the owner comes disturbs nobody.
fn garbage_at_the_data_port(host: &mut Host) {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let stranger = thread::spawn(move || {
        let mut rng = StdRng::seed_from_u64(2);
        let mut kept = Vec::new();
        let mut came = 0;
        while !stopped.load(Ordering::Relaxed) {
            let mut socket = TcpStream::connect(data()).unwrap();
            let mut garbage = vec![0; rng.random_range(0..400)];
            rng.fill(&mut garbage[..]);
            let _ = socket.write_all(&garbage);
            // Some hang up, some stay.
            kept.push(socket);
            kept.truncate(8);
            came += 1;
            thread::sleep(Duration::from_millis(2));
        }
        came
    });
    for _ in 0..5 {
        let (mut backup, mut owner) = paired(host, data());
        let id = owner.writer.put(key(1), Epoch(1), &payload(1)).unwrap();
        acknowledge(&mut owner, id);
        backup.reader.fence();
        assert_eq!(backup.reader.copy().unwrap().records().count(), 1);
    }
    stop.store(true, Ordering::Relaxed);
    println!("garbage at the data port: {} strangers, 5 pairings", stranger.join().unwrap());
}

/// Somebody between owner and region.
struct Between {
    /// One bit in so many bytes is turned; 0: none.
    turn_every: AtomicU64,
    /// What the owner has sent.
    said: Mutex<Vec<u8>>,
    /// Towards the region, of the newest connection.
    onwards: Mutex<Option<TcpStream>>,
}

impl Between {
    fn start() -> Arc<Self> {
        let between =
            Arc::new(Self { turn_every: AtomicU64::new(0), said: Mutex::default(), onwards: Mutex::default() });
        let listener = TcpListener::bind(BETWEEN).unwrap();
        let shared = between.clone();
        // Until the test ends.
        thread::spawn(move || {
            for caller in listener.incoming() {
                let (caller, region) = (caller.unwrap(), TcpStream::connect(data()).unwrap());
                shared.said.lock().unwrap().clear();
                *shared.onwards.lock().unwrap() = Some(region.try_clone().unwrap());
                let (back, forth) = (region.try_clone().unwrap(), caller.try_clone().unwrap());
                thread::spawn(move || pass(back, forth, |_| {}));
                let shared = shared.clone();
                thread::spawn(move || {
                    let mut frames = Frames::default();
                    let mut passed = 0;
                    pass(caller, region, |bytes| {
                        shared.said.lock().unwrap().extend_from_slice(bytes);
                        let every = shared.turn_every.load(Ordering::Relaxed);
                        if every == 0 {
                            return;
                        }
                        for byte in bytes.iter_mut().filter_map(|byte| frames.is_content(*byte).then_some(byte)) {
                            passed += 1;
                            if passed % every == 0 {
                                *byte ^= 1 << (passed / every % 8);
                            }
                        }
                    });
                });
            }
        });
        between
    }

    /// Says to the region what the owner said from the `from`th byte on up to `to`.
    fn repeat(&self, from: usize, to: usize) {
        let said = self.said.lock().unwrap()[from..to].to_vec();
        self.onwards.lock().unwrap().as_mut().unwrap().write_all(&said).unwrap();
    }

    /// Bytes that the owner has said, once it is silent.
    fn said_so_far(&self) -> usize {
        let len = || self.said.lock().unwrap().len();
        let mut before = len();
        loop {
            thread::sleep(Duration::from_millis(50));
            let now = len();
            if now == before {
                return now;
            }
            before = now;
        }
    }
}

/// Where the provider's frames begin and end: it believes its own headers, and a process may die of a damaged one
/// (docs/adr/0004-store-over-libfabric.md). What is written into the region lies between them.
#[derive(Default)]
struct Frames {
    header: Vec<u8>,
    content: u64,
}

impl Frames {
    const HEADER_LEN: usize = 16;

    /// Is the next byte content of a frame, rather than header? Begins between two frames.
    fn is_content(&mut self, byte: u8) -> bool {
        if self.content > 0 {
            self.content -= 1;
            return true;
        }
        self.header.push(byte);
        // Version, operation, flags (2), data, count, length of the header, id, length of all (8).
        if let Some((fixed, rest)) = self.header.split_first_chunk::<{ Self::HEADER_LEN }>()
            && Self::HEADER_LEN + rest.len() == usize::from(fixed[6])
        {
            let all = u64::from_le_bytes(*fixed.last_chunk().unwrap());
            self.content = all.checked_sub(u64::from(fixed[6])).expect("a frame");
            self.header.clear();
        }
        false
    }
}

/// Passes on what comes, as `change` leaves it, until one end closes.
fn pass(mut from: TcpStream, mut to: TcpStream, mut change: impl FnMut(&mut [u8])) {
    let mut bytes = [0; 4096];
    loop {
        match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => {
                change(&mut bytes[..count]);
                if to.write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// Records are reported, the link breaks where the question was harmed; none is another one.
fn turned_bits(host: &mut Host, between: &Between) {
    let (mut right, mut reported, mut broken) = (0, 0, 0);
    for round in 0..16u64 {
        let (mut backup, mut owner) = paired(host, BETWEEN);
        between.turn_every.store(701 + 397 * round, Ordering::Relaxed);
        let ended = (1..100).try_for_each(|number| {
            let id = owner.writer.put(key(number % 24), Epoch(1), &payload(number))?;
            assert_eq!(id.0, number);
            // Its question or the answer may be harmed, too: then it ends in time.
            while owner.writer.poll_acknowledged()? < id {
                thread::yield_now();
            }
            Ok(())
        });
        match ended {
            Ok(()) => {}
            Err(StoreError::LinkLost | StoreError::Refused) => broken += 1,
            Err(error) => panic!("{error}"),
        }
        for change in backup.reader.poll_changes(u32::MAX) {
            if let vipsec_store::Change::Stored(record) = change {
                assert_eq!(*record.bytes, payload(record.version.0));
            }
        }
        backup.reader.fence();
        between.turn_every.store(0, Ordering::Relaxed);
        for record in backup.reader.copy().unwrap().records() {
            match record {
                Ok(record) => {
                    assert_eq!((&*record.bytes, record.key.id), (&payload(record.version.0), record.version.0 % 24));
                    right += 1;
                }
                Err(_) => reported += 1,
            }
        }
    }
    assert!(right > 0 && reported + broken > 0, "{right} right, {reported} reported, {broken} links broken");
    println!("turned bits: {right} records right, {reported} reported, {broken} links broken, none wrong");
}

/// Replayed writes change nothing that is believed.
fn what_was_said_before(host: &mut Host, between: &Between) {
    let (mut backup, mut owner) = paired(host, BETWEEN);
    let before = between.said_so_far();
    let old = owner.writer.put(key(1), Epoch(1), &payload(1)).unwrap();
    acknowledge(&mut owner, old);
    let after = between.said_so_far();
    assert_eq!(backup.reader.poll_changes(100).len(), 1);
    let new = owner.writer.put(key(1), Epoch(1), &payload(2)).unwrap();
    acknowledge(&mut owner, new);
    // The old version's place is emptied by the next writes.
    let other = owner.writer.put(key(2), Epoch(1), &payload(3)).unwrap();
    acknowledge(&mut owner, other);
    between.said_so_far();
    backup.reader.poll_changes(100);

    between.repeat(before, after);
    // Put back, somewhere in the region; or the answers to the questions confuse the owner's end, which ends.
    thread::sleep(Duration::from_millis(100));
    let state = owner.writer.poll_acknowledged();
    backup.reader.poll_changes(100);
    backup.reader.fence();
    let snapshot = backup.reader.copy().unwrap();
    for record in snapshot.records() {
        match record {
            Ok(record) => assert_eq!(*record.bytes, payload(if record.key == key(1) { 2 } else { 3 })),
            Err(rejected) => assert_eq!(rejected.reason, vipsec_store::Reason::Rollback),
        }
    }
    println!("old writes again, on the same connection: {state:?}, none taken");

    // The whole of it on another connection, while a new owner is expected: its word was for one call.
    let recorded = between.said.lock().unwrap().clone();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let stranger = thread::spawn(move || {
        let mut kept = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            let mut socket = TcpStream::connect(data()).unwrap();
            let _ = socket.write_all(&recorded);
            kept.push(socket);
            thread::sleep(Duration::from_millis(5));
        }
    });
    let (mut backup, mut owner) = paired(host, data());
    let id = owner.writer.put(key(9), Epoch(1), &payload(1)).unwrap();
    acknowledge(&mut owner, id);
    stop.store(true, Ordering::Relaxed);
    stranger.join().unwrap();
    backup.reader.fence();
    let keys: Vec<_> = backup.reader.copy().unwrap().records().map(|record| record.unwrap().key).collect();
    assert_eq!(keys, [key(9)]);
    println!("old writes again, on a connection of their own: turned away");
}
