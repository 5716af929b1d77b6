//! The daemon's end: takes requests from clients and hands them to whoever reads the channel.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufReader};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{Mode, fchmod};
use parking_lot::Mutex;
use thiserror::Error;
use tracing::{debug, warn};

use super::line::{Outcome, ReadError, RequestLine, ResponseLine, decode, encode, read_line, write_line};
use super::lock::{LockError, SocketLock};
use super::request::Request;
use super::response::{ApiError, ErrorKind, Response};
use super::{REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX, VERSION};

/// Why the control socket isn't there.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another daemon serves it.
    #[error("control socket {path} in use by a running vipsecd{}", .pid.map_or(String::new(), |pid| format!(" (pid {pid})")))]
    InUse {
        /// The socket.
        path: PathBuf,
        /// The other daemon's process id, if it says so.
        pid: Option<u32>,
    },
    /// Something else has that name, and is not ours to remove.
    #[error("{0} exists and is not a socket")]
    NotASocket(PathBuf),
    /// The operating system says no.
    #[error("control socket {path}: {cause}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

/// How much clients may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Clients at once.
    pub clients_max: usize,
    /// A client that sends nothing for so long is let go.
    pub idle: Duration,
    /// So long may the reader of the channel take for an answer.
    pub answer: Duration,
    /// So long may a client take to accept bytes of an answer.
    pub write: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients_max: 16,
            idle: Duration::from_secs(60),
            answer: Duration::from_secs(5),
            write: Duration::from_secs(5),
        }
    }
}

/// A request that waits for its answer. Dropping it answers with an error.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    answer: Sender<Result<Response, ApiError>>,
}

impl Call {
    /// Answers. Nothing happens if the client is gone or its time is up.
    pub fn answer(self, answer: Result<Response, ApiError>) {
        // A client that left needs no answer.
        let _ = self.answer.try_send(answer);
    }
}

/// The control socket, bound and served. Dropping it lets answers under way go out, then closes and removes the socket.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    wake: UnixStream,
    acceptor: Option<JoinHandle<()>>,
    clients: Arc<Clients>,
    _lock: SocketLock,
}

impl Server {
    /// Binds `path`, accessible to its owner alone, and forwards requests into `calls`. A socket that a dead process left behind
    /// is replaced; its folder is made if it is missing.
    ///
    /// # Errors
    /// [`BindError::InUse`] while another daemon lives.
    pub fn bind(path: &Path, calls: Sender<Call>, limits: Limits) -> Result<Self, BindError> {
        let failed = |cause| BindError::Io { path: path.to_path_buf(), cause };
        if let Some(folder) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(failed)?;
        }
        let lock = SocketLock::take(path).map_err(|error| match error {
            LockError::Held(pid) => BindError::InUse { path: path.to_path_buf(), pid },
            LockError::Io(cause) => failed(cause),
        })?;
        // With the lock ours, a socket of that name has no owner.
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => fs::remove_file(path).map_err(failed)?,
            Ok(_) => return Err(BindError::NotASocket(path.to_path_buf())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let listener = listen(path).map_err(failed)?;
        let (wake, woken) = UnixStream::pair().map_err(failed)?;
        let clients = Arc::new(Clients::default());
        let acceptor = thread::Builder::new()
            .name("api".to_owned())
            .spawn({
                let clients = Arc::clone(&clients);
                move || accept(&listener, &woken, &clients, &calls, limits)
            })
            .map_err(failed)?;
        Ok(Self { path: path.to_path_buf(), wake, acceptor: Some(acceptor), clients, _lock: lock })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ends the acceptor's poll. Should it fail, the acceptor ended before.
        let _ = self.wake.shutdown(Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            // A panic there has been reported by the panic hook.
            let _ = acceptor.join();
        }
        self.clients.end();
        if let Err(error) = fs::remove_file(&self.path) {
            debug!(path = %self.path.display(), %error, "control socket not removed");
        }
    }
}

/// A listening socket that nobody but its owner could ever have connected to: its mode is set before it has a name.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd: OwnedFd = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket::bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    socket::listen(&fd, Backlog::new(16)?)?;
    Ok(UnixListener::from(fd))
}

/// The clients' threads, and a handle on each one's stream to end it by.
#[derive(Debug, Default)]
struct Clients {
    streams: Mutex<HashMap<u64, UnixStream>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Clients {
    /// Stops reading from everyone; who waits for an answer still gets it.
    fn end(&self) {
        for stream in self.streams.lock().values() {
            // Fails only if the client closed first.
            let _ = stream.shutdown(Shutdown::Read);
        }
        for thread in std::mem::take(&mut *self.threads.lock()) {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &UnixListener, woken: &UnixStream, clients: &Arc<Clients>, calls: &Sender<Call>, limits: Limits) {
    for id in 0.. {
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN), PollFd::new(woken.as_fd(), PollFlags::POLLIN)];
        if let Err(errno) = poll(&mut fds, PollTimeout::NONE)
            && errno != nix::errno::Errno::EINTR
        {
            warn!(%errno, "control API ends");
            return;
        }
        if fds[1].any().unwrap_or(true) {
            return;
        }
        match listener.accept() {
            Ok((stream, _)) => {
                if let Err(error) = admit(id, stream, clients, calls.clone(), limits) {
                    warn!(%error, "control API client not served");
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                // Out of file descriptors, most likely: try again, but not at once.
                warn!(%error, "control API can't accept");
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Starts a thread for a client, or sends it away.
fn admit(id: u64, stream: UnixStream, clients: &Arc<Clients>, calls: Sender<Call>, limits: Limits) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(limits.idle))?;
    stream.set_write_timeout(Some(limits.write))?;
    clients.threads.lock().retain(|thread| !thread.is_finished());
    if clients.streams.lock().len() >= limits.clients_max {
        let busy = ApiError::new(ErrorKind::Busy, format!("{} clients are connected already", limits.clients_max));
        return respond(&stream, Err(busy));
    }
    clients.streams.lock().insert(id, stream.try_clone()?);
    let thread = thread::Builder::new().name("api-client".to_owned()).spawn({
        let clients = Arc::clone(clients);
        move || {
            if let Err(error) = serve(&stream, &calls, limits) {
                debug!(%error, "control API client ended");
            }
            clients.streams.lock().remove(&id);
        }
    });
    match thread {
        Ok(thread) => {
            clients.threads.lock().push(thread);
            Ok(())
        }
        Err(error) => {
            clients.streams.lock().remove(&id);
            Err(error)
        }
    }
}

/// Answers one client until it closes, idles or sends what isn't a line.
fn serve(stream: &UnixStream, calls: &Sender<Call>, limits: Limits) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        match read_line(&mut reader, REQUEST_BYTES_MAX) {
            Ok(line) => respond(stream, parse(&line).and_then(|request| forward(request, calls, limits.answer)))?,
            Err(ReadError::Closed) => return Ok(()),
            Err(ReadError::Io(error)) => return Err(error),
            Err(ReadError::TooLong) => {
                let message = format!("a request has at most {REQUEST_BYTES_MAX} bytes");
                return respond(stream, Err(ApiError::new(ErrorKind::BadRequest, message)));
            }
        }
    }
}

fn parse(line: &[u8]) -> Result<Request, ApiError> {
    let bad = |error: serde_json::Error| ApiError::new(ErrorKind::BadRequest, error.to_string());
    let RequestLine { version, request } = decode::<RequestLine<serde_json::Value>>(line).map_err(bad)?;
    if version != VERSION {
        let message = format!("this vipsecd speaks version {VERSION} of the control API, not {version}");
        return Err(ApiError::new(ErrorKind::WrongVersion, message));
    }
    serde_json::from_value(request).map_err(bad)
}

fn forward(request: Request, calls: &Sender<Call>, wait: Duration) -> Result<Response, ApiError> {
    let (answer, answered): (_, Receiver<_>) = bounded(1);
    calls.try_send(Call { request, answer }).map_err(|error| match error {
        TrySendError::Full(_) => ApiError::new(ErrorKind::Busy, "too many requests at once"),
        TrySendError::Disconnected(_) => ApiError::new(ErrorKind::Refused, "vipsecd is ending"),
    })?;
    answered.recv_timeout(wait).unwrap_or_else(|error| {
        Err(match error {
            RecvTimeoutError::Timeout => ApiError::new(ErrorKind::Timeout, "no answer from the control core in time"),
            RecvTimeoutError::Disconnected => ApiError::new(ErrorKind::Refused, "vipsecd is ending"),
        })
    })
}

fn respond(mut stream: &UnixStream, answer: Result<Response, ApiError>) -> io::Result<()> {
    let line = |answer| {
        let outcome = match answer {
            Ok(response) => Outcome::Ok(response),
            Err(error) => Outcome::Error(error),
        };
        encode(&ResponseLine { version: VERSION, outcome }, RESPONSE_BYTES_MAX)
    };
    let too_large = || {
        let message = format!("the answer has more than {RESPONSE_BYTES_MAX} bytes");
        line(Err(ApiError::new(ErrorKind::TooLarge, message)))
    };
    let bytes = line(answer).or_else(too_large).ok_or(io::ErrorKind::InvalidData)?;
    write_line(&mut stream, &bytes)
}
