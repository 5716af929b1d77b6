//! Secrets in files of their own, that nobody else may read: the same steps for agents and appliances, so that one file means the same
//! to both.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use thiserror::Error;
use zeroize::Zeroizing;

/// Most bytes of a secret's file.
pub const SECRET_BYTES_MAX: usize = 1024;

/// What a secret begins with whose bytes are written as hexadecimal digits, as in swanctl.conf.
const HEX: &[u8] = b"0x";

/// Why a file holds no secret that could be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SecretError {
    /// It can't be read.
    #[error("{file}: {cause}")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The operating system's words.
        cause: String,
    },
    /// Others could read it.
    #[error("{file} can be accessed by group or others (mode {mode:04o}); chmod 600 it")]
    Exposed {
        /// The file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not an ordinary file.
    #[error("{file} is not an ordinary file")]
    NotAFile {
        /// The file.
        file: PathBuf,
    },
    /// Too large to be one.
    #[error("{file} is larger than {max} bytes")]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// Bytes allowed.
        max: usize,
    },
    /// No bytes.
    #[error("{file} is empty")]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// It begins as hexadecimal digits and doesn't go on so.
    #[error("{file} begins with 0x, but what follows aren't pairs of hexadecimal digits")]
    NotHex {
        /// The file.
        file: PathBuf,
    },
    /// It could be guessed.
    #[error("{file} is shorter than {min} bytes")]
    TooShort {
        /// The file.
        file: PathBuf,
        /// Bytes needed.
        min: usize,
    },
}

/// Reads a secret of at least `bytes_min` bytes: the file's without the newline at its end, or those that it has digits for
/// (RFC 7296 §2.15: "It MUST also accept a hex encoding of the shared secret").
///
/// # Errors
/// See [`SecretError`].
pub fn read_secret(path: &Path, bytes_min: usize) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let file = || path.to_path_buf();
    let mut bytes = read_private(path, SECRET_BYTES_MAX)?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    if let Some(digits) = bytes.strip_prefix(HEX) {
        bytes = from_hex(digits).ok_or_else(|| SecretError::NotHex { file: file() })?;
    }
    match bytes.len() {
        0 => Err(SecretError::Empty { file: file() }),
        length if length < bytes_min => Err(SecretError::TooShort { file: file(), min: bytes_min }),
        _ => Ok(bytes),
    }
}

/// The bytes that pairs of hexadecimal digits stand for, in one buffer of the final size.
fn from_hex(digits: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let mut bytes = Zeroizing::new(Vec::with_capacity(pairs.len()));
    for [high, low] in pairs {
        let digit = |c: u8| char::from(c).to_digit(16);
        bytes.push(u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?);
    }
    Some(bytes)
}

/// Reads a file that only its owner may access, of at most `max` bytes.
///
/// # Errors
/// It isn't such a file, or can't be read.
pub fn read_private(path: &Path, max: usize) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let file = || path.to_path_buf();
    let unreadable = |error: io::Error| SecretError::Unreadable { file: file(), cause: error.to_string() };
    // Non-blocking, so that a FIFO is refused below and not waited for. What is checked is what was opened.
    let flags = OFlag::O_NONBLOCK.bits();
    let mut source: File = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    let metadata = source.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(SecretError::NotAFile { file: file() });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SecretError::Exposed { file: file(), mode });
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
        return Err(SecretError::TooLarge { file: file(), max });
    }
    bytes.truncate(length);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn a_fifo_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        mkfifo(&file, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        assert_eq!(read_secret(&file, 1), Err(SecretError::NotAFile { file }));
    }

    #[test]
    fn digits_and_bytes_are_the_same_secret() {
        let folder = tempfile::tempdir().unwrap();
        let read = |content: &[u8], mode: u32| {
            let file = folder.path().join("secret");
            fs::write(&file, content).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            read_secret(&file, 3).map(|bytes| bytes.to_vec())
        };
        let file = folder.path().join("secret");
        assert_eq!(read(b"abc\r\n", 0o600), Ok(b"abc".to_vec()));
        assert_eq!(read(b"0x616263\n", 0o400), Ok(b"abc".to_vec()));
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(read(b"0x61626", 0o600), Err(SecretError::NotHex { file: file.clone() }));
        assert_eq!(read(b"\n", 0o600), Err(SecretError::Empty { file: file.clone() }));
        assert_eq!(read(b"ab\n", 0o600), Err(SecretError::TooShort { file: file.clone(), min: 3 }));
        assert_eq!(read(&[b'a'; 1025], 0o600), Err(SecretError::TooLarge { file: file.clone(), max: 1024 }));
        assert_eq!(read(b"abc", 0o640), Err(SecretError::Exposed { file, mode: 0o640 }));
    }
}
