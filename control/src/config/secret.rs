//! Secrets in files of their own, that nobody else may read.

use std::path::Path;

pub use vipsec_agent::secret::SECRET_BYTES_MAX;
pub(super) use vipsec_agent::secret::read_private;
use vipsec_agent::secret::read_secret;
use vipsec_ike::Secret;

use super::error::Reason;
use super::read::Field;

/// Reads the secret in the file that `field` names.
pub(super) fn secret(field: &Field, folder: &Path, bytes_min: usize) -> Option<Secret> {
    field.parse(|file| {
        if file.is_empty() {
            return Err(Reason::Missing);
        }
        let mut bytes = read_secret(&folder.join(file), bytes_min)?;
        Ok(Secret::new(std::mem::take(&mut bytes)))
    })
}
