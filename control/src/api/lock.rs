//! Who may bind the control socket: the process that holds the lock on the file beside it.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Why the lock wasn't taken.
#[derive(Debug)]
pub(super) enum LockError {
    /// Another process holds it; its process id if it has written one.
    Held(Option<u32>),
    /// The file can't be opened or locked.
    Io(io::Error),
}

/// The lock. The kernel lets go of it when the process ends, however it ends; the file stays, because removing it would let two
/// processes lock two files of the same name.
#[derive(Debug)]
pub(super) struct SocketLock {
    _file: Flock<File>,
}

fn path_beside(socket: &Path) -> PathBuf {
    let mut path = OsString::from(socket);
    path.push(".lock");
    path.into()
}

impl SocketLock {
    /// Takes the lock of `socket`, or says who has it.
    pub(super) fn take(socket: &Path) -> Result<Self, LockError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(path_beside(socket)).map_err(LockError::Io)?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((mut file, Errno::EWOULDBLOCK)) => return Err(LockError::Held(read_pid(&mut file))),
            Err((_, errno)) => return Err(LockError::Io(errno.into())),
        };
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(LockError::Io)?;
        Ok(Self { _file: file })
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
