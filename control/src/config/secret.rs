//! Secrets in files of their own, that nobody else may read.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use super::error::Reason;

/// Most bytes of a pre-shared key.
pub const SECRET_BYTES_MAX: usize = 1024;

/// A pre-shared key. Wiped when dropped; never printed.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// The key's bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Reads a secret: the file's bytes without the newline at its end.
    pub(super) fn read(path: &Path) -> Result<Self, Reason> {
        let mut bytes = read_private(path, SECRET_BYTES_MAX)?;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        if bytes.is_empty() {
            return Err(Reason::SecretEmpty { file: path.to_path_buf() });
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Reads a file that only its owner may access, of at most `max` bytes.
pub(super) fn read_private(path: &Path, max: usize) -> Result<Zeroizing<Vec<u8>>, Reason> {
    let file = || path.to_path_buf();
    let unreadable = |error: io::Error| Reason::SecretUnreadable { file: file(), cause: error.to_string() };
    // Non-blocking, so that a FIFO is refused below and not waited for. What is checked is what was opened.
    let mut source: File =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(unreadable)?;
    let metadata = source.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Reason::SecretNotAFile { file: file() });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Reason::SecretExposed { file: file(), mode });
    }
    // One buffer of the final size: a vector that grows leaves copies behind that nobody wipes.
    let mut bytes = Zeroizing::new(vec![0; max + 1]);
    let mut length = 0;
    while let Some(free) = bytes.get_mut(length..).filter(|free| !free.is_empty()) {
        match source.read(free) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
    if length > max {
        return Err(Reason::SecretTooLarge { file: file(), max });
    }
    bytes.truncate(length);
    Ok(bytes)
}
