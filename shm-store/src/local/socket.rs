//! The control socket: SOCK_SEQPACKET, never blocking, one peer at a time.

use std::fs;
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect,
    getsockopt, listen, recvmsg, sendmsg, socket, sockopt,
};
use nix::unistd::geteuid;

use crate::channel::{MESSAGE_BYTES_MAX, OVERHEAD_BYTES};
use crate::error::{LinkError, system};

/// Connections that wait to be accepted.
const BACKLOG_MAX: i32 = 4;
const PACKET_BYTES_MAX: usize = MESSAGE_BYTES_MAX + OVERHEAD_BYTES;

fn new_socket() -> Result<OwnedFd, LinkError> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).map_err(system("socket"))
}

/// Waits for the peer at a path that only our own user may reach.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Held by the connection that was accepted last.
    seat: Weak<()>,
}

impl Listener {
    /// Listens at `path`. A socket that a dead process left there is replaced.
    pub fn bind(path: &Path) -> Result<Self, LinkError> {
        let address = UnixAddr::new(path).map_err(system("socket path"))?;
        let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
        if is_socket {
            match connect(new_socket()?.as_raw_fd(), &address) {
                Err(Errno::ECONNREFUSED) => drop(fs::remove_file(path)),
                _ => return Err(LinkError::InUse),
            }
        }
        let socket = new_socket()?;
        bind(socket.as_raw_fd(), &address).map_err(system("bind"))?;
        // Nobody can connect before `listen`.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .map_err(|error| system("chmod")(Errno::from_raw(error.raw_os_error().unwrap_or(0))))?;
        let backlog = Backlog::new(BACKLOG_MAX).map_err(system("listen"))?;
        listen(&socket, backlog).map_err(system("listen"))?;
        Ok(Self { socket: UnixListener::from(socket), path: path.to_owned(), seat: Weak::new() })
    }

    /// The next peer, if one waits. While the connection that was accepted before lives, others are turned away.
    pub fn accept(&mut self) -> Result<Option<Connection>, LinkError> {
        let stream = match self.socket.accept() {
            Ok((stream, _)) => stream,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted) => {
                return Ok(None);
            }
            Err(error) => return Err(system("accept")(Errno::from_raw(error.raw_os_error().unwrap_or(0)))),
        };
        if self.seat.upgrade().is_some() {
            return Ok(None);
        }
        let seat = Arc::new(());
        self.seat = Arc::downgrade(&seat);
        Connection::new(stream.into(), Some(seat)).map(Some)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// A message as it came, and the descriptor that came with it.
#[derive(Debug)]
pub struct Received {
    /// At least one byte.
    pub message: Vec<u8>,
    /// At most one.
    pub descriptor: Option<OwnedFd>,
}

/// A connection to a process of our own user. Dropping it tells the peer.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    _seat: Option<Arc<()>>,
}

impl Connection {
    fn new(socket: OwnedFd, seat: Option<Arc<()>>) -> Result<Self, LinkError> {
        let uid = getsockopt(&socket, sockopt::PeerCredentials).map_err(system("SO_PEERCRED"))?.uid();
        if uid != geteuid().as_raw() {
            return Err(LinkError::ForeignUser { uid });
        }
        Ok(Self { socket, _seat: seat })
    }

    /// Connects to a listener. Nobody there: [`LinkError::Disconnected`].
    pub fn connect(path: &Path) -> Result<Self, LinkError> {
        let socket = new_socket()?;
        let address = UnixAddr::new(path).map_err(system("socket path"))?;
        match connect(socket.as_raw_fd(), &address) {
            Ok(()) => Self::new(socket, None),
            Err(Errno::ECONNREFUSED | Errno::ENOENT | Errno::EAGAIN) => Err(LinkError::Disconnected),
            Err(errno) => Err(system("connect")(errno)),
        }
    }

    /// Sends a message, or refuses it; never waits.
    pub fn send(&self, message: &[u8], descriptor: Option<BorrowedFd<'_>>) -> Result<(), LinkError> {
        // An empty packet can't be told from the end of the connection.
        if message.is_empty() || message.len() > PACKET_BYTES_MAX {
            return Err(LinkError::Malformed);
        }
        let descriptors = descriptor.map(|descriptor| [descriptor.as_raw_fd()]);
        let rights: Vec<_> = descriptors.iter().map(|one| ControlMessage::ScmRights(one)).collect();
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(message)], &rights, flags, None) {
            Ok(_) => Ok(()),
            Err(Errno::EAGAIN | Errno::ENOBUFS) => Err(LinkError::QueueFull),
            Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => Err(LinkError::Disconnected),
            Err(errno) => Err(system("sendmsg")(errno)),
        }
    }

    /// The next message, if one came; never waits.
    pub fn recv(&self) -> Result<Option<Received>, LinkError> {
        let mut message = vec![0; PACKET_BYTES_MAX];
        let mut control = cmsg_space!([RawFd; 1]);
        let mut parts = [IoSliceMut::new(&mut message)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let received = match recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Ok(received) => received,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(Errno::ECONNRESET | Errno::ENOTCONN) => return Err(LinkError::Disconnected),
            Err(errno) => return Err(system("recvmsg")(errno)),
        };
        let mut descriptors = Vec::new();
        for part in received.cmsgs().map_err(|_| LinkError::Malformed)? {
            if let ControlMessageOwned::ScmRights(raw) = part {
                // SAFETY: the kernel has just opened these descriptors for this message; nobody else knows them, so we own
                // them and close each once.
                descriptors.extend(raw.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
            }
        }
        let (bytes, cut) = (received.bytes, received.flags.contains(MsgFlags::MSG_TRUNC));
        if bytes == 0 {
            return Err(LinkError::Disconnected);
        }
        if cut || descriptors.len() > 1 {
            return Err(LinkError::Malformed);
        }
        message.truncate(bytes);
        Ok(Some(Received { message, descriptor: descriptors.pop() }))
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
