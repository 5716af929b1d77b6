//! What the system tests share.

use std::path::PathBuf;

/// A folder for reports, which goes with its handle.
pub(crate) struct Folder(PathBuf);

/// Makes one.
pub(crate) fn folder(name: &str) -> Folder {
    let path = std::env::temp_dir().join(format!("vl-test-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a folder can be made");
    Folder(path)
}

impl Folder {
    /// Where it is.
    pub(crate) fn path(&self) -> PathBuf {
        self.0.clone()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
