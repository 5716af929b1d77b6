//! A pair of appliances in one process, a model of what they should know, and memory that a test can step through.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_core::Rng;
use vipsec_wire::iv::{ApplianceId, Epoch};
use zeroize::Zeroizing;

use crate::geometry::AT_GRANT;
use crate::pairing::{Handshake, Pairing, PairingSecret, Side};
use crate::snapshot::Snapshot;
use crate::words::Words;
use crate::{
    Answer, CounterEntry, Geometry, LocalMemory, OneSided, Reader, RecordKey, Region, RegionId, SizeClass, Sizes,
    StoreError, StoreWriter, Versions, WriteId, Writer,
};

pub(crate) fn small_sizes() -> Sizes {
    Sizes {
        classes: vec![SizeClass { records: 2, bytes: 16 }, SizeClass { records: 4, bytes: 40 }],
        counter_blocks: 2,
        journal_entries: 16,
    }
}

pub(crate) fn side(id: u8, sizes: &Sizes) -> Side {
    Side {
        appliance: ApplianceId::new(id).unwrap(),
        incarnation: [id; 16],
        versions: Versions { oldest: 1, newest: 1 },
        config_digest: [7; 32],
        region: RegionId([id; 16]),
        sizes: sizes.clone(),
    }
}

pub(crate) fn secret(byte: u8) -> PairingSecret {
    PairingSecret::new(Zeroizing::new(vec![byte; 32])).unwrap()
}

/// The owner's and the backup's end of a pairing.
pub(crate) fn pairings(sizes: &Sizes, rng: &mut StdRng) -> (Pairing, Pairing) {
    let mut owner = Handshake::new(side(1, sizes), secret(9), rng).unwrap();
    let mut backup = Handshake::new(side(2, sizes), secret(9), rng).unwrap();
    for _ in 0..2 {
        let (out, back) = (owner.poll_transmit().unwrap(), backup.poll_transmit().unwrap());
        backup.handle_message(&out).unwrap();
        owner.handle_message(&back).unwrap();
    }
    (owner.finish().unwrap(), backup.finish().unwrap())
}

pub(crate) struct Pair {
    pub(crate) rng: StdRng,
    pub(crate) owner: Pairing,
    pub(crate) reader: Reader,
    pub(crate) region: Arc<Region>,
}

impl Pair {
    pub(crate) fn new(sizes: Sizes) -> Self {
        let mut rng = StdRng::seed_from_u64(1);
        let (owner, backup) = pairings(&sizes, &mut rng);
        let region = Arc::new(Region::anonymous(Geometry::new(sizes).unwrap(), owner.peer.region));
        let reader = Reader::new(region.clone(), backup.reader);
        Self { rng, owner, reader, region }
    }

    pub(crate) fn join(&mut self) -> Writer<LocalMemory> {
        let grant = self.reader.join(&mut self.rng).unwrap();
        Writer::new(LocalMemory::new(self.region.clone()), &mut self.owner.writer, grant).unwrap()
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Op {
    Put(u8, usize),
    Remove(u8),
    Counters(u8, u8),
    Poll,
}

/// Four keys, in two size classes.
pub(crate) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..4u8, 0..41usize).prop_map(|(key, len)| Op::Put(key, len)),
        2 => (0..4u8).prop_map(Op::Remove),
        2 => (0..2u8, 0..4u8).prop_map(|(block, count)| Op::Counters(block, count)),
        3 => Just(Op::Poll),
    ]
}

pub(crate) fn key(n: u8) -> RecordKey {
    RecordKey { kind: n % 2, vip: u16::from(n), id: u64::from(n) << 40 }
}

/// What a reader should find.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Contents {
    pub(crate) records: BTreeMap<RecordKey, Vec<u8>>,
    pub(crate) counters: BTreeMap<u32, Vec<CounterEntry>>,
}

/// Contents after each write so far, by the number of the write.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) after: Vec<Contents>,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self { after: vec![Contents::default()] }
    }

    pub(crate) fn now(&self) -> &Contents {
        self.after.last().unwrap()
    }

    fn push(&mut self, id: WriteId, change: impl FnOnce(&mut Contents)) {
        assert_eq!(id.0 as usize, self.after.len(), "write numbers rise by one");
        let mut contents = self.now().clone();
        change(&mut contents);
        self.after.push(contents);
    }

    /// Runs an operation on writer and model. `Behind` is answered by polling, as a user would.
    pub(crate) fn run(&mut self, writer: &mut impl StoreWriter, op: &Op) {
        let stamp = self.after.len();
        match *op {
            Op::Put(n, len) => {
                let mut bytes = stamp.to_le_bytes().to_vec();
                bytes.resize(len, n);
                let id = persist(writer, |writer| writer.put(key(n), Epoch(3), &bytes));
                self.push(id, |contents| drop(contents.records.insert(key(n), bytes)));
            }
            Op::Remove(n) => match persist(writer, |writer| writer.remove(key(n))) {
                None => assert!(!self.now().records.contains_key(&key(n))),
                Some(id) => self.push(id, |contents| assert!(contents.records.remove(&key(n)).is_some())),
            },
            Op::Counters(block, count) => {
                let at = stamp as u64;
                let entry = |n| CounterEntry { spi: n, lease: at, edge: at + 1, horizon: at + 2 };
                let entries: Vec<_> = (0..u32::from(count)).map(entry).collect();
                let id = persist(writer, |writer| writer.put_counters(u32::from(block), &entries));
                self.push(id, |contents| drop(contents.counters.insert(u32::from(block), entries)));
            }
            Op::Poll => assert!(writer.poll_acknowledged().unwrap().0 < stamp as u64),
        }
    }
}

fn persist<W: StoreWriter, T>(writer: &mut W, mut write: impl FnMut(&mut W) -> Result<T, StoreError>) -> T {
    for _ in 0..100 {
        match write(writer) {
            Err(StoreError::Behind) => drop(writer.poll_acknowledged().unwrap()),
            result => return result.unwrap(),
        }
    }
    panic!("still behind after everything was acknowledged");
}

/// Contents of a snapshot in which nothing is rejected.
pub(crate) fn contents(snapshot: &Snapshot) -> Contents {
    let records = snapshot.records().map(|record| {
        let record = record.unwrap();
        assert_eq!((record.writer.get(), record.epoch), (1, Epoch(3)));
        (record.key, record.bytes.to_vec())
    });
    let counters = snapshot.counters().map(|block| {
        let block = block.unwrap();
        (block.index, block.entries)
    });
    Contents { records: records.collect(), counters: counters.collect() }
}

/// One step of a writer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Store {
        at: usize,
        word: u64,
    },
    /// The grant word is looked at, all writes up to this one being in place.
    Look {
        upto: u64,
    },
    /// The writer learns what the look at that step saw.
    Learn {
        look: usize,
    },
}

/// A link that keeps each store as a step of its own, in any order that was not ruled out, and whose answers are late.
pub(crate) struct Recorder {
    geometry: Geometry,
    grant: u64,
    steps: Rc<RefCell<Vec<Step>>>,
    /// Stores among which there is no order.
    stores: Vec<Step>,
    rng: StdRng,
    /// Looks, as numbers of steps, that were not answered yet.
    looks: VecDeque<(usize, WriteId)>,
}

impl OneSided for Recorder {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn write(&mut self, at: usize, words: &[u64]) -> Result<(), StoreError> {
        self.stores.extend(words.iter().enumerate().map(|(nth, &word)| Step::Store { at: at + nth, word }));
        Ok(())
    }

    fn order(&mut self) -> Result<(), StoreError> {
        for nth in (1..self.stores.len()).rev() {
            self.stores.swap(nth, self.rng.next_u64() as usize % (nth + 1));
        }
        self.steps.borrow_mut().append(&mut self.stores);
        Ok(())
    }

    fn ask(&mut self, upto: WriteId) -> Result<(), StoreError> {
        self.order()?;
        let mut steps = self.steps.borrow_mut();
        self.looks.push_back((steps.len(), upto));
        steps.push(Step::Look { upto: upto.0 });
        Ok(())
    }

    fn answered(&mut self) -> Result<Option<Answer>, StoreError> {
        let arrived = self.rng.next_u64() as usize % (self.looks.len() + 1);
        let Some((look, upto)) = self.looks.drain(..arrived).next_back() else { return Ok(None) };
        self.steps.borrow_mut().push(Step::Learn { look });
        Ok(Some(Answer { upto, grant: self.grant }))
    }
}

/// All steps of a writer that nobody disturbs, and the model of what it wrote.
pub(crate) struct Recording {
    pub(crate) pair: Pair,
    pub(crate) model: Model,
    pub(crate) steps: Vec<Step>,
}

impl Recording {
    /// The number up to which the look at this step acknowledges.
    pub(crate) fn looked(&self, step: usize) -> u64 {
        match self.steps[step] {
            Step::Look { upto } => upto,
            other => panic!("{other:?} is no look"),
        }
    }
}

pub(crate) fn record(ops: &[Op], seed: u64) -> Recording {
    let mut pair = Pair::new(small_sizes());
    let grant = pair.reader.join(&mut pair.rng).unwrap();
    let steps = Rc::new(RefCell::new(Vec::new()));
    let recorder = Recorder {
        geometry: pair.region.geometry().clone(),
        grant: pair.region.load(AT_GRANT),
        steps: steps.clone(),
        stores: Vec::new(),
        rng: StdRng::seed_from_u64(seed),
        looks: VecDeque::new(),
    };
    let mut writer = Writer::new(recorder, &mut pair.owner.writer, grant).unwrap();
    let mut model = Model::new();
    for op in ops {
        model.run(&mut writer, op);
    }
    Recording { pair, model, steps: steps.take() }
}

/// Memory in which a writer takes steps between the reader's loads.
pub(crate) struct Stepped<'a> {
    words: Vec<Cell<u64>>,
    loads: Cell<usize>,
    steps: Cell<&'a [Step]>,
    /// Steps before a load, by the load's number.
    schedule: Box<dyn Fn(usize) -> usize + 'a>,
}

impl<'a> Stepped<'a> {
    pub(crate) fn new(words: &[u64], steps: &'a [Step], schedule: impl Fn(usize) -> usize + 'a) -> Self {
        let words = words.iter().copied().map(Cell::new).collect();
        Self { words, loads: Cell::new(0), steps: Cell::new(steps), schedule: Box::new(schedule) }
    }

    pub(crate) fn loads(&self) -> usize {
        self.loads.get()
    }
}

impl Words for Stepped<'_> {
    fn load(&self, at: usize) -> u64 {
        let due = (self.schedule)(self.loads.get());
        let (now, later) = self.steps.get().split_at(due.min(self.steps.get().len()));
        self.steps.set(later);
        for step in now {
            if let Step::Store { at, word } = *step {
                self.words[at].set(word);
            }
        }
        self.loads.set(self.loads.get() + 1);
        self.words[at].get()
    }
}
