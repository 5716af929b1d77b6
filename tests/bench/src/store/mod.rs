//! What the store costs: publishing, bringing a copy up, taking over, and the load of many busy SAs.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use vipsec_store::{
    BLOCK_ENTRIES_MAX, Change, CounterEntry, Geometry, Link, Reader, RecordKey, SizeClass, Sizes, StoreError,
    StoreWriter, WriteId,
};
use vipsec_wire::iv::Epoch;

use crate::error::BenchError;
use crate::result::Samples;

mod cpu_time;
mod meeting;

use cpu_time::CpuTime;
pub(crate) use meeting::Way;

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoreRow {
    pub(crate) figure: Figure,
    pub(crate) way: Way,
    pub(crate) median: f64,
    /// The 99th of a hundred, where there are so many.
    pub(crate) p99: Option<f64>,
}

/// What was measured, and its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Figure {
    /// One record, written and acknowledged, before the next.
    RecordUs,
    /// One counter block of 32 SAs, likewise.
    BlockUs,
    /// Records a second, one behind the other.
    RecordsPerSecond,
    /// Counter blocks a second, likewise.
    BlocksPerSecond,
    /// A fresh copy of all SAs, until it is acknowledged and its reader has opened all of it.
    ResyncMs,
    /// From the fence until all records of 10,000 SAs are known, by a reader that followed.
    WarmTakeoverMs,
    /// The same by one that copies the region.
    ColdTakeoverMs,
    /// The store's part of the owner's core, with every SA's numbers written every interval.
    OwnerCpuPercent,
    /// The same, of the backup's.
    BackupCpuPercent,
    /// Memory of a region for that many SAs.
    RegionMib,
    /// A pinned connection's part of a batch: their block, written anew and acknowledged.
    PinNs,
    /// A fresh copy of a million pinned connections, until it is acknowledged and its reader has opened all of it.
    PinsMs,
    /// Memory of a region for them, by connection.
    PinBytes,
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) single_writes: usize,
    pub(crate) rate_for: Duration,
    pub(crate) resync_sas: u32,
    pub(crate) takeover_sas: u32,
    pub(crate) busy_sas: u32,
    pub(crate) busy_for: Duration,
    pub(crate) pins: u32,
}

impl Plan {
    pub(crate) const FULL: Self = Self {
        single_writes: 20_000,
        rate_for: Duration::from_secs(1),
        resync_sas: 100_000,
        takeover_sas: 10_000,
        busy_sas: 10_000,
        busy_for: Duration::from_secs(3),
        pins: 1_000_000,
    };
    pub(crate) const SMOKE: Self = Self {
        single_writes: 50,
        rate_for: Duration::from_millis(20),
        resync_sas: 200,
        takeover_sas: 100,
        busy_sas: 100,
        busy_for: Duration::from_millis(50),
        pins: 1000,
    };
}

/// Between two writes of a busy SA's numbers.
const INTERVAL: Duration = Duration::from_millis(10);
/// Bytes of the records: a child SA's, and an IKE SA's with its last response.
const CHILD_BYTES: usize = 500;
const IKE_BYTES: usize = 1500;
/// Pinned connections of a block, bytes of each, and how many a worker reports at once.
const BLOCK_PINS: u32 = 100;
const PIN_BYTES: usize = 40;
const BATCH_PINS: u32 = 32;

/// As an appliance has them.
fn sizes(sas: u32) -> Sizes {
    let class = |records, bytes| SizeClass { records, bytes };
    Sizes {
        classes: vec![class(sas, 1024), class(sas, 4096), class(sas.div_ceil(64), 32_768)],
        counter_blocks: sas.div_ceil(BLOCK_ENTRIES_MAX as u32),
        journal_entries: Sizes::journal_for(sas),
    }
}

/// All figures.
pub(crate) fn measure(plan: Plan) -> Result<Vec<StoreRow>, BenchError> {
    let mut rows = Vec::new();
    for way in Way::ALL {
        if way == Way::Tcp && !nix::unistd::geteuid().is_root() {
            eprintln!("network namespaces need root: the store is measured in shared memory alone");
            continue;
        }
        rows.extend(single_writes(plan, way)?);
        rows.extend(rates(plan, way)?);
        rows.push(resync(plan, way)?);
        rows.extend(load(plan, way)?);
    }
    rows.extend(takeover(plan)?);
    rows.extend(pins(plan)?);
    let geometry = Geometry::new(sizes(plan.resync_sas)).map_err(BenchError::setup)?;
    rows.push(row(Figure::RegionMib, Way::Local, geometry.bytes() as f64 / f64::from(1 << 20)));
    Ok(rows)
}

fn row(figure: Figure, way: Way, value: f64) -> StoreRow {
    StoreRow { figure, way, median: value, p99: None }
}

fn distribution(figure: Figure, way: Way, samples: &Samples) -> StoreRow {
    StoreRow { figure, way, median: samples.median().unwrap_or(0.0), p99: samples.percentile(99) }
}

fn child(n: u32) -> RecordKey {
    RecordKey { kind: 2, vip: 0, id: u64::from(n) }
}

fn ike(n: u32) -> RecordKey {
    RecordKey { kind: 1, vip: 0, id: u64::from(n) }
}

fn entries(stamp: u64) -> [CounterEntry; BLOCK_ENTRIES_MAX] {
    [CounterEntry { spi: 256, lease: stamp, edge: stamp, horizon: stamp }; BLOCK_ENTRIES_MAX]
}

/// Waits for a write's acknowledgement.
fn wait(writer: &mut dyn StoreWriter, id: WriteId) -> Result<(), BenchError> {
    while writer.poll_acknowledged().map_err(BenchError::setup)? < id {
        std::hint::spin_loop();
    }
    Ok(())
}

/// Writes, asking for acknowledgements where that is what it takes.
fn persist(
    writer: &mut dyn StoreWriter,
    mut write: impl FnMut(&mut dyn StoreWriter) -> Result<WriteId, StoreError>,
) -> Result<WriteId, BenchError> {
    loop {
        match write(writer) {
            Err(StoreError::Behind) => drop(writer.poll_acknowledged().map_err(BenchError::setup)?),
            result => return result.map_err(BenchError::setup),
        }
    }
}

fn single_writes(plan: Plan, way: Way) -> Result<[StoreRow; 2], BenchError> {
    let copy = Replicated::new(way, sizes(1024), |_| {})?;
    let mut writer = copy.writer;
    let (mut records, mut blocks) = (Samples::default(), Samples::default());
    for n in 0..plan.single_writes as u32 {
        let started = Instant::now();
        let id = writer.put(child(n % 1000), Epoch(1), &[1; CHILD_BYTES]).map_err(BenchError::setup)?;
        wait(&mut *writer, id)?;
        records.add(micros(started.elapsed()));
        let started = Instant::now();
        let id = writer.put_counters(n % 32, &entries(u64::from(n))).map_err(BenchError::setup)?;
        wait(&mut *writer, id)?;
        blocks.add(micros(started.elapsed()));
    }
    Ok([distribution(Figure::RecordUs, way, &records), distribution(Figure::BlockUs, way, &blocks)])
}

fn rates(plan: Plan, way: Way) -> Result<[StoreRow; 2], BenchError> {
    let copy = Replicated::new(way, sizes(1024), |_| {})?;
    let mut writer = copy.writer;
    let mut rate = |write: &mut dyn FnMut(&mut dyn StoreWriter, u32) -> Result<WriteId, StoreError>| {
        let started = Instant::now();
        let mut written = 0u32;
        let mut last = WriteId::default();
        while started.elapsed() < plan.rate_for {
            last = persist(&mut *writer, |writer| write(writer, written))?;
            written += 1;
        }
        wait(&mut *writer, last)?;
        Ok::<_, BenchError>(f64::from(written) / started.elapsed().as_secs_f64())
    };
    let records = rate(&mut |writer, n| writer.put(child(n % 1000), Epoch(1), &[1; CHILD_BYTES]))?;
    let blocks = rate(&mut |writer, n| writer.put_counters(n % 32, &entries(u64::from(n))))?;
    Ok([row(Figure::RecordsPerSecond, way, records), row(Figure::BlocksPerSecond, way, blocks)])
}

/// Every SA's records and numbers, as a join writes them.
fn write_all(writer: &mut dyn StoreWriter, sas: u32) -> Result<WriteId, BenchError> {
    for n in 0..sas {
        persist(writer, |writer| writer.put(child(n), Epoch(1), &[1; CHILD_BYTES]))?;
        persist(writer, |writer| writer.put(ike(n), Epoch(1), &[2; IKE_BYTES]))?;
    }
    let mut last = WriteId::default();
    for block in 0..sas.div_ceil(BLOCK_ENTRIES_MAX as u32) {
        last = persist(writer, |writer| writer.put_counters(block, &entries(1)))?;
    }
    Ok(last)
}

/// Follows until so many records were opened.
fn follow(reader: &mut Reader, records: usize) {
    let mut missing = records;
    while missing > 0 {
        for change in reader.poll_changes(1024) {
            match change {
                Change::Stored(_) => missing = missing.saturating_sub(1),
                // It was too slow, and looks at everything once more.
                Change::Resync => missing = records,
                Change::Removed(_) | Change::Rejected(_) => {}
            }
        }
        thread::yield_now();
    }
}

fn resync(plan: Plan, way: Way) -> Result<StoreRow, BenchError> {
    let records = 2 * plan.resync_sas as usize;
    let mut copy = Replicated::new(way, sizes(plan.resync_sas), move |reader| follow(reader, records))?;
    let started = Instant::now();
    let last = write_all(&mut *copy.writer, plan.resync_sas)?;
    wait(&mut *copy.writer, last)?;
    copy.backup_is_ready()?;
    Ok(row(Figure::ResyncMs, way, millis(started.elapsed())))
}

fn takeover(plan: Plan) -> Result<[StoreRow; 2], BenchError> {
    let (mut warm, mut cold) = (Samples::default(), Samples::default());
    let (told, times) = channel();
    let records = 2 * plan.takeover_sas as usize;
    for _ in 0..5 {
        let told = told.clone();
        let mut copy = Replicated::new(Way::Local, sizes(plan.takeover_sas), move |reader| {
            follow(reader, records);
            reader.fence();
            let started = Instant::now();
            let concluded = reader.conclude().is_ok_and(|conclusion| conclusion.is_some());
            let warm = started.elapsed();
            let started = Instant::now();
            let opened = reader.copy().map_or(0, |snapshot| snapshot.records().flatten().count());
            let _ = told.send((warm, started.elapsed(), concluded && opened == records));
        })?;
        let last = write_all(&mut *copy.writer, plan.takeover_sas)?;
        // The backup may have fenced already.
        let _ = wait(&mut *copy.writer, last);
        copy.backup_is_ready()?;
        let (warm_took, cold_took, whole) = times.recv().map_err(BenchError::setup)?;
        if !whole {
            return Err(BenchError::setup("the follower and the copy differ"));
        }
        warm.add(millis(warm_took));
        cold.add(millis(cold_took));
    }
    let figure = |figure, samples: &Samples| row(figure, Way::Local, samples.median().unwrap_or(0.0));
    Ok([figure(Figure::WarmTakeoverMs, &warm), figure(Figure::ColdTakeoverMs, &cold)])
}

fn pins(plan: Plan) -> Result<[StoreRow; 3], BenchError> {
    let blocks = plan.pins.div_ceil(BLOCK_PINS);
    let sizes = Sizes {
        classes: vec![SizeClass { records: blocks, bytes: 4096 }],
        counter_blocks: 1,
        journal_entries: Sizes::journal_for(blocks),
    };
    let bytes = Geometry::new(sizes.clone()).map_err(BenchError::setup)?.bytes();
    let records = blocks as usize;
    let mut copy = Replicated::new(Way::Local, sizes, move |reader| follow(reader, records))?;
    let key = |block| RecordKey { kind: 4, vip: 0, id: u64::from(block) };
    let full = [3; BLOCK_PINS as usize * PIN_BYTES];
    let started = Instant::now();
    let mut last = WriteId::default();
    for block in 0..blocks {
        last = persist(&mut *copy.writer, |writer| writer.put(key(block), Epoch(1), &full))?;
    }
    wait(&mut *copy.writer, last)?;
    copy.backup_is_ready()?;
    let fresh = started.elapsed();
    let mut batches = Samples::default();
    for n in 0..plan.single_writes as u32 {
        let started = Instant::now();
        let id = copy.writer.put(key(n % blocks), Epoch(1), &full).map_err(BenchError::setup)?;
        wait(&mut *copy.writer, id)?;
        batches.add(micros(started.elapsed()) * 1e3 / f64::from(BATCH_PINS));
    }
    Ok([
        distribution(Figure::PinNs, Way::Local, &batches),
        row(Figure::PinsMs, Way::Local, millis(fresh)),
        row(Figure::PinBytes, Way::Local, bytes as f64 / f64::from(plan.pins)),
    ])
}

/// Writes every SA's numbers once an interval, as an owner does whose SAs all have traffic.
fn load(plan: Plan, way: Way) -> Result<[StoreRow; 2], BenchError> {
    let mut copy = Replicated::new(way, sizes(plan.busy_sas), |_| {})?;
    let blocks = plan.busy_sas.div_ceil(BLOCK_ENTRIES_MAX as u32);
    let (owner, process) = (CpuTime::of_this_thread(), CpuTime::of_this_process());
    let started = Instant::now();
    let mut round = 0;
    while started.elapsed() < plan.busy_for {
        round += 1;
        let mut last = WriteId::default();
        for block in 0..blocks {
            last = persist(&mut *copy.writer, |writer| writer.put_counters(block, &entries(u64::from(round))))?;
        }
        while copy.writer.poll_acknowledged().map_err(BenchError::setup)? < last {
            // Others may have the core meanwhile.
            thread::sleep(Duration::from_micros(100));
        }
        let next = started + INTERVAL * round;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let elapsed = started.elapsed().as_secs_f64();
    let (owner, process) = (owner.spent().as_secs_f64(), process.spent().as_secs_f64());
    let percent = |seconds: f64| 100.0 * seconds / elapsed;
    Ok([
        row(Figure::OwnerCpuPercent, way, percent(owner)),
        row(Figure::BackupCpuPercent, way, percent((process - owner).max(0.0))),
    ])
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// An owner's link to a backup that lives on a thread of its own.
struct Replicated {
    writer: Box<dyn StoreWriter + Send>,
    ready: Receiver<()>,
    /// The backup ends when this goes.
    _end: Sender<()>,
    _control: vipsec_store::Control,
    _reader: Reader,
}

impl Replicated {
    /// `work`: what the backup does once it has granted.
    fn new(way: Way, sizes: Sizes, work: impl FnOnce(&mut Reader) + Send + 'static) -> Result<Self, BenchError> {
        let (said, ready) = channel();
        let (end, ended) = channel();
        let backup = move |mut link: Link| {
            work(&mut link.reader);
            let _ = said.send(());
            let _ = ended.recv();
        };
        let (owner, grant) = meeting::pair(way, sizes, backup)?;
        let Link { owner, control, reader, .. } = owner;
        let writer = owner.writer(grant).map_err(BenchError::setup)?;
        Ok(Self { writer, ready, _end: end, _control: control, _reader: reader })
    }

    fn backup_is_ready(&mut self) -> Result<(), BenchError> {
        self.ready.recv().map_err(BenchError::setup)
    }
}
