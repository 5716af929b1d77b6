//! The key log: files in the formats of Wireshark's tables, which whoever asked for them copies into a profile.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;
use vipsec_ike::{KeyLog, KeyLogTable};
use zeroize::Zeroizing;

/// The key log can't be written.
#[derive(Debug, Error)]
#[error("key log {path}: {cause}; without \"key_log\" in [ike] there is none", path = .path.display())]
pub struct KeyLogError {
    path: PathBuf,
    cause: io::Error,
}

/// Both tables, open.
pub(super) struct KeyLogFiles {
    ike: File,
    esp: File,
}

impl KeyLogFiles {
    /// Opens them in that folder, for our user alone, and says loudly what that means.
    pub(super) fn open(folder: &Path) -> Result<Self, KeyLogError> {
        let failed = |path: &Path, cause| KeyLogError { path: path.to_path_buf(), cause };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|cause| failed(folder, cause))?;
        let open = |name| {
            let path = folder.join(name);
            let file =
                OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(&path);
            // One that was there before may have another mode.
            file.and_then(|file| file.set_permissions(Permissions::from_mode(0o600)).map(|()| file))
                .map_err(|cause| failed(&path, cause))
        };
        let files = Self { ike: open("ikev2_decryption_table")?, esp: open("esp_sa")? };
        tracing::warn!(
            folder = %folder.display(),
            "KEY LOG: the keys of all new SAs are written to disk, because key_log in [ike] asks for it; whoever reads them reads \
             all traffic. Take key_log out and delete the files when you have found what you look for"
        );
        Ok(files)
    }

    /// Adds a line.
    pub(super) fn write(&mut self, keys: &KeyLog) {
        let file = match keys.table {
            KeyLogTable::Ike => &mut self.ike,
            KeyLogTable::Esp => &mut self.esp,
        };
        let line = Zeroizing::new(format!("{}\n", *keys.line));
        if let Err(error) = file.write_all(line.as_bytes()) {
            tracing::warn!(%error, table = ?keys.table, "key log not written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_user_reads_it() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("keys");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("esp_sa"), "before\n").unwrap();
        let mut files = KeyLogFiles::open(&path).unwrap();
        for (table, line) in [(KeyLogTable::Ike, "ike"), (KeyLogTable::Esp, "esp")] {
            files.write(&KeyLog { table, line: Zeroizing::new(line.to_owned()) });
        }
        for (name, content) in [("ikev2_decryption_table", "ike\n"), ("esp_sa", "before\nesp\n")] {
            let file = path.join(name);
            assert_eq!(fs::read_to_string(&file).unwrap(), content);
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        }
        // Not into what a link points at.
        fs::remove_file(path.join("esp_sa")).unwrap();
        std::os::unix::fs::symlink("/dev/null", path.join("esp_sa")).unwrap();
        assert!(KeyLogFiles::open(&path).is_err());
    }
}
