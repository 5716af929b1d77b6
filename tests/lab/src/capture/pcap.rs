//! A pcap file (the classic format, with nanoseconds).

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock::Stamp;
use crate::error::{Context, Result};

const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const LINKTYPE_ETHERNET: u32 = 1;

/// Writes frames to a file until it is full.
pub(super) struct PcapFile {
    file: BufWriter<File>,
    room_bytes: u64,
    /// When the lab's clock was at zero.
    origin: Duration,
}

impl PcapFile {
    pub(super) fn create(path: &Path, snap_bytes: u32, bytes_max: u64) -> Result<Self> {
        let file = File::create(path).context(|| format!("creating {}", path.display()))?;
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let origin = since_epoch.saturating_sub(Duration::from_nanos(Stamp::now().nanos()));
        let mut pcap = Self { file: BufWriter::new(file), room_bytes: bytes_max, origin };
        let version = 2_u32 | 4 << 16;
        pcap.words(&[MAGIC_NANOSECONDS, version, 0, 0, snap_bytes, LINKTYPE_ETHERNET])
            .context(|| format!("writing {}", path.display()))?;
        Ok(pcap)
    }

    /// Writes a frame of which `kept` was kept. A full file, or disk, takes no more: the counts don't depend on it.
    pub(super) fn write(&mut self, stamp: Stamp, length: usize, kept: &[u8]) {
        let size = kept.len() as u64 + 16;
        if self.room_bytes < size {
            return;
        }
        let time = self.origin + Duration::from_nanos(stamp.nanos());
        let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        let lengths = [kept.len(), length].map(|length| u32::try_from(length).unwrap_or(u32::MAX));
        let written = self
            .words(&[seconds, time.subsec_nanos(), lengths[0], lengths[1]])
            .and_then(|()| self.file.write_all(kept));
        self.room_bytes = if written.is_ok() { self.room_bytes - size } else { 0 };
    }

    pub(super) fn flush(&mut self) {
        let _ = self.file.flush();
    }

    fn words(&mut self, words: &[u32]) -> std::io::Result<()> {
        words.iter().try_for_each(|word| self.file.write_all(&word.to_ne_bytes()))
    }
}
