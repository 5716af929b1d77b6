//! Counter blocks: the numbers of many child SAs in one write with one tag.

/// Entries of one block.
pub const BLOCK_ENTRIES_MAX: usize = 32;
const ENTRY_BYTES: usize = 32;
pub(crate) const BLOCK_BYTES: usize = BLOCK_ENTRIES_MAX * ENTRY_BYTES;

/// The published numbers of one child SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CounterEntry {
    /// Our inbound SPI.
    pub spi: u32,
    /// Outbound number at which a successor goes on.
    pub lease: u64,
    /// Highest inbound number delivered.
    pub edge: u64,
    /// Number up to which a successor treats everything as already seen.
    pub horizon: u64,
}

/// One block, as it was written last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterBlock {
    /// Which block.
    pub index: u32,
    /// When, in the order of writes.
    pub version: crate::WriteId,
    /// At most [`BLOCK_ENTRIES_MAX`].
    pub entries: Vec<CounterEntry>,
}

/// Four little-endian 64-bit words per entry: SPI, lease, edge, horizon.
pub(crate) fn encode(entries: &[CounterEntry], out: &mut Vec<u8>) {
    out.clear();
    out.resize(entries.len() * ENTRY_BYTES, 0);
    for (bytes, entry) in out.as_chunks_mut::<ENTRY_BYTES>().0.iter_mut().zip(entries) {
        let words = [u64::from(entry.spi), entry.lease, entry.edge, entry.horizon];
        for (into, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *into = word.to_le_bytes();
        }
    }
}

/// `None`: not the encoding of whole entries.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<CounterEntry>> {
    let (entries, rest) = bytes.as_chunks::<ENTRY_BYTES>();
    if !rest.is_empty() {
        return None;
    }
    entries
        .iter()
        .map(|entry| {
            let mut words = entry.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
            Some(CounterEntry {
                spi: u32::try_from(words.next()?).ok()?,
                lease: words.next()?,
                edge: words.next()?,
                horizon: words.next()?,
            })
        })
        .collect()
}
