//! The control API over a real socket.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use tempfile::TempDir;
use vipsec_control::api::{
    ApiError, BindError, Call, Client, ClientError, Counters, ErrorKind, IkeSpi, Limits, REQUEST_BYTES_MAX, Request,
    Response, Server,
};

const TIMEOUT: Duration = Duration::from_secs(10);

struct Daemon {
    folder: TempDir,
    server: Server,
}

impl Daemon {
    fn start(limits: Limits) -> (Self, Receiver<Call>) {
        let folder = TempDir::new().unwrap();
        let (calls, received) = bounded(4);
        let server = Server::bind(&folder.path().join("a.sock"), calls, limits).unwrap();
        (Self { folder, server }, received)
    }

    /// A daemon whose core answers every order with `Done` and every question with its counters.
    fn answering() -> (Self, JoinHandle<Vec<Request>>) {
        let (daemon, calls) = Self::start(Limits::default());
        let core = thread::spawn(move || {
            let mut seen = Vec::new();
            for call in calls {
                seen.push(call.request.clone());
                let answer = match call.request {
                    Request::Counters => Ok(Response::Counters(counters())),
                    Request::RekeyIke { .. } => Err(ApiError::new(ErrorKind::NotFound, "no such IKE SA")),
                    _ => Ok(Response::DONE),
                };
                call.answer(answer);
            }
            seen
        });
        (daemon, core)
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("a.sock")
    }

    fn client(&self) -> Client {
        Client::connect(&self.socket(), TIMEOUT).unwrap()
    }

    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream
    }
}

fn counters() -> Counters {
    Counters { counters: BTreeMap::from([("opened".to_owned(), u64::MAX)]), drops: BTreeMap::new() }
}

fn answer_to(stream: &mut UnixStream, line: &str) -> serde_json::Value {
    stream.write_all(line.as_bytes()).unwrap();
    let mut answer = String::new();
    BufReader::new(&*stream).read_line(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap()
}

#[test]
fn one_client_asks_many_questions() {
    let (daemon, core) = Daemon::answering();
    let mut client = daemon.client();
    assert_eq!(client.call(&Request::Counters).unwrap(), Response::Counters(counters()));
    let spi = IkeSpi(0x0123_4567_89ab_cdef);
    assert_eq!(client.call(&Request::Delete { spi }).unwrap(), Response::DONE);
    match client.call(&Request::RekeyIke { spi }) {
        Err(ClientError::Api(error)) => {
            assert_eq!((error.kind, error.message.as_str()), (ErrorKind::NotFound, "no such IKE SA"))
        }
        other => panic!("{other:?}"),
    }
    drop((client, daemon));
    assert_eq!(core.join().unwrap(), [Request::Counters, Request::Delete { spi }, Request::RekeyIke { spi }]);
}

/// The lines themselves are the interface: what other programs send and read.
#[test]
fn the_wire_format_is_stable() {
    let (daemon, core) = Daemon::answering();
    let mut stream = daemon.raw();
    let answer = answer_to(&mut stream, "{\"version\":1,\"request\":{\"command\":\"connections\",\"max\":3}}\n");
    assert_eq!(answer, serde_json::json!({ "version": 1, "ok": { "kind": "done" } }));
    let line = "{\"version\":1,\"request\":{\"command\":\"rekey-ike\",\"spi\":\"0123456789abcdef\"}}\n";
    let error = serde_json::json!({ "kind": "not-found", "message": "no such IKE SA" });
    assert_eq!(answer_to(&mut stream, line), serde_json::json!({ "version": 1, "error": error }));
    drop((stream, daemon));
    let spi = IkeSpi(0x0123_4567_89ab_cdef);
    assert_eq!(core.join().unwrap(), [Request::Connections { max: 3 }, Request::RekeyIke { spi }]);
}

#[test]
fn nonsense_gets_an_error_and_never_reaches_the_core() {
    let (daemon, core) = Daemon::answering();
    let mut stream = daemon.raw();
    for (line, kind) in [
        ("status\n", "bad-request"),
        ("{}\n", "bad-request"),
        ("{\"version\":1,\"request\":{\"command\":\"reboot\"}}\n", "bad-request"),
        ("{\"version\":1,\"request\":{\"command\":\"rekey-child\",\"spi\":\"xyz\"}}\n", "bad-request"),
        ("{\"version\":2,\"request\":{\"command\":\"status\"}}\n", "wrong-version"),
        ("\u{0}\u{1}\n", "bad-request"),
    ] {
        assert_eq!(answer_to(&mut stream, line)["error"]["kind"], kind, "{line}");
    }
    // The same client is still served.
    assert_eq!(answer_to(&mut stream, "{\"version\":1,\"request\":{\"command\":\"status\"}}\n")["ok"]["kind"], "done");
    drop((stream, daemon));
    assert_eq!(core.join().unwrap(), [Request::Status]);
}

#[test]
fn an_endless_line_is_cut_off() {
    let (daemon, _core) = Daemon::answering();
    let mut stream = daemon.raw();
    stream.write_all(&vec![b' '; REQUEST_BYTES_MAX]).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("bad-request"), "{answer}");
}

#[test]
fn a_core_that_is_silent_or_swamped_costs_a_client_an_error() {
    let (daemon, calls) = Daemon::start(Limits { answer: Duration::from_millis(50), ..Limits::default() });
    let kind = |daemon: &Daemon| match daemon.client().call(&Request::Status) {
        Err(ClientError::Api(error)) => error.kind,
        other => panic!("{other:?}"),
    };
    for _ in 0..4 {
        assert_eq!(kind(&daemon), ErrorKind::Timeout);
    }
    assert_eq!(kind(&daemon), ErrorKind::Busy, "the channel is full");
    drop(calls);
    assert_eq!(kind(&daemon), ErrorKind::Refused);
}

#[test]
fn clients_are_limited_and_idle_ones_let_go() {
    let idle = Duration::from_millis(1500);
    let (daemon, _calls) = Daemon::start(Limits { clients_max: 1, idle, ..Limits::default() });
    let mut first = daemon.raw();
    let mut second = String::new();
    daemon.raw().read_to_string(&mut second).unwrap();
    assert!(second.contains("\"busy\""), "{second}");
    assert_eq!(first.read(&mut [0]).unwrap(), 0, "closed after {idle:?} of silence");
}

#[test]
fn only_the_owner_can_connect() {
    let (daemon, _calls) = Daemon::start(Limits::default());
    let metadata = fs::metadata(daemon.socket()).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_living_daemons_socket_is_not_taken() {
    let (daemon, core) = Daemon::answering();
    let error = Server::bind(&daemon.socket(), bounded(1).0, Limits::default()).unwrap_err();
    let expected = format!(
        "control socket {} in use by a running vipsecd (pid {})",
        daemon.socket().display(),
        std::process::id()
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!(daemon.client().call(&Request::Status).unwrap(), Response::DONE, "the first one goes on");
    drop(daemon);
    core.join().unwrap();
}

#[test]
fn a_dead_daemons_socket_is_replaced() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.sock");
    // A listener that goes without removing its name, as a killed process does.
    drop(UnixListener::bind(&path).unwrap());
    assert!(matches!(Client::connect(&path, TIMEOUT), Err(ClientError::NoDaemon(_))));
    let _server = Server::bind(&path, bounded(1).0, Limits::default()).unwrap();
    Client::connect(&path, TIMEOUT).unwrap();
}

#[test]
fn somebody_elses_file_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.sock");
    fs::write(&path, "precious").unwrap();
    let error = Server::bind(&path, bounded(1).0, Limits::default()).unwrap_err();
    assert!(matches!(error, BindError::NotASocket(_)), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn the_end_removes_the_socket_and_frees_its_name() {
    let (Daemon { folder, server }, _calls) = Daemon::start(Limits::default());
    let path = folder.path().join("a.sock");
    let _client = Client::connect(&path, TIMEOUT).unwrap();
    drop(server);
    assert!(!path.exists());
    let error = Client::connect(&path, TIMEOUT).unwrap_err();
    assert_eq!(error.to_string(), format!("no vipsecd listens on {}", path.display()));
    Server::bind(&path, bounded(1).0, Limits::default()).unwrap();
}

#[test]
fn an_answer_under_way_survives_the_end() {
    let (Daemon { folder, server }, calls) = Daemon::start(Limits::default());
    let path = folder.path().join("a.sock");
    let client = thread::spawn(move || Client::connect(&path, TIMEOUT).unwrap().call(&Request::Shutdown));
    let call = calls.recv_timeout(TIMEOUT).unwrap();
    let ending = thread::spawn(move || drop(server));
    thread::sleep(Duration::from_millis(50));
    call.answer(Ok(Response::DONE));
    ending.join().unwrap();
    assert_eq!(client.join().unwrap().unwrap(), Response::DONE);
}

#[test]
fn a_folder_that_is_missing_is_made() {
    let folder = TempDir::new().unwrap();
    let path: &Path = &folder.path().join("run/vipsec/a.sock");
    let _server = Server::bind(path, bounded(1).0, Limits::default()).unwrap();
    Client::connect(path, TIMEOUT).unwrap();
}
