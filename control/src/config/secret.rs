//! Secrets in files of their own, that nobody else may read.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use vipsec_ike::Secret;
use zeroize::Zeroizing;

use super::error::Reason;
use super::read::Field;

/// Most bytes of a secret.
pub const SECRET_BYTES_MAX: usize = 1024;

/// What a secret begins with whose bytes are written as hexadecimal digits, as in swanctl.conf.
const HEX: &[u8] = b"0x";

/// Reads the secret in the file that `field` names: the file's bytes without the newline at its end, or those that it has digits for
/// (RFC 7296 §2.15: "It MUST also accept a hex encoding of the shared secret").
pub(super) fn secret(field: &Field, folder: &Path, bytes_min: usize) -> Option<Secret> {
    field.parse(|file| {
        if file.is_empty() {
            return Err(Reason::Missing);
        }
        let path = folder.join(file);
        let mut bytes = read_private(&path, SECRET_BYTES_MAX)?;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        if let Some(digits) = bytes.strip_prefix(HEX) {
            bytes = from_hex(digits).ok_or(Reason::SecretNotHex { file: path.clone() })?;
        }
        match bytes.len() {
            0 => Err(Reason::SecretEmpty { file: path }),
            length if length < bytes_min => Err(Reason::SecretTooShort { file: path, min: bytes_min }),
            _ => Ok(Secret::new(std::mem::take(&mut bytes))),
        }
    })
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
