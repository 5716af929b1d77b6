//! The floors on disk: one small file per VIP in the state folder, written by a thread of its own so that no takeover waits
//! for a disk.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use thiserror::Error;

use vipsec_takeover::floor::Floor;

use crate::config::VIPS_MAX;

/// Writes that may wait: at its start the core asks for every VIP's.
const QUEUE_LEN: usize = 4 * VIPS_MAX;
/// Between two attempts to save.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The state folder or a floor can't be used.
#[derive(Debug, Error)]
pub enum FloorError {
    /// Not there, or not ours.
    #[error("can't use the state folder {folder}: {source}")]
    Folder {
        /// As configured.
        folder: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A floor that can't be read could hide epochs that were used: refusing to start is safe, guessing isn't.
    #[error("{file} is no floor: it should hold one decimal number (remove it only if every SA of this VIP is gone)")]
    Unreadable {
        /// Which file.
        file: PathBuf,
    },
}

/// The state folder.
#[derive(Debug, Clone)]
pub(super) struct FloorFiles {
    folder: PathBuf,
}

impl FloorFiles {
    /// Opens the folder, making it if need be.
    pub(super) fn open(folder: &Path) -> Result<Self, FloorError> {
        let failed = |source| FloorError::Folder { folder: folder.to_path_buf(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        Ok(Self { folder: folder.to_path_buf() })
    }

    fn file(&self, vip: &str) -> PathBuf {
        self.folder.join(format!("floor-{vip}"))
    }

    /// The floor of a VIP, by its configured name.
    pub(super) fn load(&self, vip: &str) -> Result<Floor, FloorError> {
        let file = self.file(vip);
        match fs::read_to_string(&file) {
            Ok(text) => {
                let value = text.trim().parse().map_err(|_| FloorError::Unreadable { file })?;
                Ok(Floor::from_disk(Some(value)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Floor::from_disk(None)),
            Err(source) => Err(FloorError::Folder { folder: self.folder.clone(), source }),
        }
    }

    /// Puts a floor on disk: it is there, whole, when this returns.
    fn save(&self, vip: &str, value: u32) -> io::Result<()> {
        let new = self.folder.join(format!(".floor-{vip}.new"));
        let mut file = File::create(&new)?;
        writeln!(file, "{value}")?;
        file.sync_all()?;
        fs::rename(&new, self.file(vip))?;
        File::open(&self.folder)?.sync_all()
    }

    /// Starts the thread that saves, for VIPs of these names.
    pub(super) fn saver(self, names: Vec<String>) -> io::Result<FloorSaver> {
        let (orders, inbox) = bounded::<(u16, u32)>(QUEUE_LEN);
        let (saved, done) = bounded(QUEUE_LEN);
        thread::Builder::new().name("floors".into()).spawn(move || {
            for (vip, value) in inbox {
                let Some(name) = names.get(usize::from(vip)) else { continue };
                // Without its floor on disk the core takes no VIP: rather none than one under an epoch that could be forgotten.
                while let Err(error) = self.save(name, value) {
                    tracing::error!(vip = %name, %error, "can't save the floor: trying again");
                    thread::sleep(RETRY_INTERVAL);
                }
                if saved.send((vip, value)).is_err() {
                    return;
                }
            }
        })?;
        Ok(FloorSaver { orders, done })
    }
}

/// The thread that saves.
pub(super) struct FloorSaver {
    orders: Sender<(u16, u32)>,
    done: Receiver<(u16, u32)>,
}

impl FloorSaver {
    /// Puts a VIP's floor on disk, later. The queue is longer than there are orders under way: the core asks again only for more.
    pub(super) fn save(&self, vip: u16, value: u32) {
        if self.orders.try_send((vip, value)).is_err() {
            tracing::error!("the floor's saver is gone or stuck");
        }
    }

    /// Each (VIP, value) that is on disk.
    pub(super) fn done(&self) -> &Receiver<(u16, u32)> {
        &self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_outlives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let files = FloorFiles::open(folder.path()).unwrap();
        assert!(!files.load("web").unwrap().is_known());
        let saver = files.clone().saver(vec!["web".into()]).unwrap();
        saver.save(0, 17);
        assert_eq!(saver.done().recv().unwrap(), (0, 17));
        let floor = FloorFiles::open(folder.path()).unwrap().load("web").unwrap();
        assert!(floor.is_known());
        assert_eq!(floor, Floor::from_disk(Some(17)));
    }

    #[test]
    fn a_damaged_floor_stops_the_start() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("floor-web"), "seventeen").unwrap();
        let error = FloorFiles::open(folder.path()).unwrap().load("web").unwrap_err();
        assert!(error.to_string().contains("floor-web"));
    }
}
