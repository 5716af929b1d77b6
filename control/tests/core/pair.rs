//! Two appliances, the store link between them, the advertisements that they hear of each other, and one clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use vipsec_control::api::{ApiError, Request, Response};
use vipsec_control::config::Config;
use vipsec_control::core::Paired;
use vipsec_dataplane::api::Event;
use vipsec_store::pairing::{Handshake, PairingSecret, Side};
use vipsec_store::{
    Answer, BLOCK_ENTRIES_MAX, CounterEntry, Geometry, LocalMemory, OneSided, Reader, RecordKey, Region, RegionId,
    SizeClass, Sizes, StoreError, StoreWriter, Usage, Versions, WriteId, Writer,
};
use vipsec_takeover::message::{VERSION_NEWEST, VERSION_OLDEST};
use vipsec_wire::iv::{ApplianceId, Epoch};
use zeroize::Zeroizing;

use super::bench::{Bench, Writes, config_text, read_config};

/// The only group of VIPs.
const GROUP: usize = 0;
const STEP: Duration = Duration::from_millis(5);

/// The id of one of them.
fn id_of(side: usize) -> ApplianceId {
    ApplianceId::new([1, 2][side]).unwrap()
}

/// Two appliances.
pub(crate) struct Pair {
    pub(crate) sides: [Bench; 2],
    /// They hear each other's advertisements.
    pub(crate) in_earshot: bool,
    large_records: u32,
    /// The newest version of the link that each speaks.
    newest: [u16; 2],
    texts: [String; 2],
    /// Of the two processes.
    incarnations: [u64; 2],
    /// What becomes of the owner's writes.
    fates: [Fate; 2],
    linked: bool,
    dead: [bool; 2],
}

/// The configuration of a side.
fn text_of(side: usize, vip: &str, more_of_peer: &str, more: &str) -> String {
    let policy = if more_of_peer.contains("takeover =") { "" } else { "takeover = \"resume\"\n" };
    let peer = format!(
        "[peer]\nid = {}\nstore_socket = \"/tmp/none.sock\"\nsecret_file = \"pair.psk\"\ntakeover_rate = 5000\n{policy}",
        2 - side
    );
    let text = config_text(&format!("{vip}\n{peer}{more_of_peer}\n{more}"));
    text.replace("id = 1, name", &format!("id = {}, name", side + 1))
}

impl Pair {
    /// Both run; the first owns the VIP and the second holds its copy. `more` stands in both configurations.
    pub(crate) fn new(more: &str) -> Self {
        Self::configured("", "", more, 32, [VERSION_NEWEST; 2])
    }

    /// Of two releases: the newest version of the store link that each speaks.
    pub(crate) fn of_releases(newest: [u16; 2], more: &str) -> Self {
        Self::configured("", "", more, 32, newest)
    }

    /// With room in the store for so many records of 4096 bytes.
    pub(crate) fn with_room(more: &str, large_records: u32) -> Self {
        Self::configured("", "", more, large_records, [VERSION_NEWEST; 2])
    }

    /// A side gets the configuration that [`new`](Self::new) makes of `more`.
    pub(crate) fn reload(&mut self, side: usize, more: &str) {
        let config = Arc::new(read_config(&text_of(side, "", "", more)));
        let side = &mut self.sides[side];
        side.core.reload(side.now, config).unwrap();
        side.run();
    }

    /// With more keys of the VIP.
    pub(crate) fn with_vip(vip: &str, more: &str) -> Self {
        Self::configured(vip, "", more, 32, [VERSION_NEWEST; 2])
    }

    /// With more keys of `[peer]`.
    pub(crate) fn with_peer(peer: &str) -> Self {
        Self::configured("", peer, "", 32, [VERSION_NEWEST; 2])
    }

    /// Whoever takes over negotiates anew.
    pub(crate) fn renegotiating(more: &str) -> Self {
        Self::configured("", "takeover = \"renegotiate\"", more, 32, [VERSION_NEWEST; 2])
    }

    fn configured(vip: &str, more_of_peer: &str, more: &str, large_records: u32, newest: [u16; 2]) -> Self {
        let texts = [0, 1].map(|side| text_of(side, vip, more_of_peer, more));
        let (now, incarnations) = (Instant::now(), [1, 2]);
        let sides = [0, 1].map(|side| Bench::unowned(read_config(&texts[side]), now, incarnations[side]));
        let mut pair = Self {
            sides,
            large_records,
            newest,
            texts,
            incarnations,
            fates: Default::default(),
            in_earshot: true,
            linked: false,
            dead: [false; 2],
        };
        pair.link();
        pair.pass(Duration::from_secs(20));
        assert!(pair.sides[0].core.is_serving() && !pair.sides[1].core.is_serving());
        pair
    }

    pub(crate) fn now(&self) -> Instant {
        self.sides.iter().map(|side| side.now).max().unwrap()
    }

    /// The store link is paired: each has a region for the other.
    pub(crate) fn link(&mut self) {
        let mut rng = StdRng::seed_from_u64(5);
        let sizes = Sizes {
            classes: vec![
                SizeClass { records: 32, bytes: 1024 },
                SizeClass { records: self.large_records, bytes: 4096 },
            ],
            counter_blocks: 2 + self.large_records / BLOCK_ENTRIES_MAX as u32,
            journal_entries: 256,
        };
        let mut shake = |id: u8| {
            let appliance = ApplianceId::new(id).unwrap();
            let side = Side {
                appliance,
                incarnation: [id; 16],
                versions: Versions { oldest: VERSION_OLDEST, newest: self.newest[usize::from(id) - 1] },
                config_digest: [7; 32],
                region: RegionId([id; 16]),
                sizes: sizes.clone(),
            };
            Handshake::new(side, PairingSecret::new(Zeroizing::new(vec![9; 32])).unwrap(), &mut rng).unwrap()
        };
        let mut ends = [shake(1), shake(2)];
        for _ in 0..2 {
            let messages = ends.each_mut().map(|end| end.poll_transmit().unwrap());
            ends[0].handle_message(&messages[1]).unwrap();
            ends[1].handle_message(&messages[0]).unwrap();
        }
        let [mut a, mut b] = ends.map(|end| end.finish().unwrap());
        let version = a.peer.version;
        // A pairing names the peer's region: the one that we write into.
        let region = |id| Arc::new(Region::anonymous(Geometry::new(sizes.clone()).unwrap(), id));
        let regions = [region(b.peer.region), region(a.peer.region)];
        let mut reader_a = Reader::new(regions[1].clone(), a.reader);
        let mut reader_b = Reader::new(regions[0].clone(), b.reader);
        let [for_a, for_b] = [reader_b.join(&mut rng).unwrap(), reader_a.join(&mut rng).unwrap()];
        let memory =
            |side: usize| Brittle { inner: LocalMemory::new(regions[side].clone()), fate: self.fates[side].clone() };
        let writer_a = Writer::new(memory(0), &mut a.writer, for_a).unwrap();
        let writer_b = Writer::new(memory(1), &mut b.writer, for_b).unwrap();
        let now = self.now();
        let [one, other] = self.texts.each_ref().map(|text| read_config(text).digest());
        let agreed = one == other;
        let mut up = |side: usize, incarnation, writer: Writer<Brittle>, reader| {
            let (fate, writes) = (self.fates[side].clone(), self.sides[side].writes.clone());
            let writer = Mortal { inner: Box::new(writer), fate, writes, unpublished: false, acknowledged: WriteId(0) };
            let paired = Paired { incarnation, version, agreed, writer: Box::new(writer), reader };
            self.sides[side].core.handle_link_up(now, GROUP, id_of(1 - side), paired);
        };
        let [first, second] = self.incarnations;
        up(0, second, writer_a, reader_a);
        up(1, first, writer_b, reader_b);
        self.linked = true;
    }

    /// The store link breaks, and both notice.
    pub(crate) fn cut_link(&mut self) {
        self.linked = false;
        let now = self.now();
        for (number, side) in self.sides.iter_mut().enumerate() {
            side.core.handle_link_down(now, GROUP, id_of(1 - number));
        }
    }

    /// An appliance dies.
    pub(crate) fn kill(&mut self, side: usize) {
        self.dead[side] = true;
        self.cut_link();
    }

    /// A new process of an appliance that died; the two are paired.
    pub(crate) fn revive(&mut self, side: usize) {
        self.begin_anew(side, Bench::unowned);
    }

    /// The same of one whose floor went with its disk.
    pub(crate) fn revive_with_a_new_disk(&mut self, side: usize) {
        self.begin_anew(side, Bench::without_floor);
    }

    fn begin_anew(&mut self, side: usize, begin: fn(Config, Instant, u64) -> Bench) {
        let now = self.now();
        self.incarnations[side] += 10;
        self.fates[side] = Fate::default();
        self.sides[side] = begin(read_config(&self.texts[side]), now, self.incarnations[side]);
        self.dead[side] = false;
        self.in_earshot = true;
        self.link();
    }

    /// From its next process on an appliance's configuration says more.
    pub(crate) fn reconfigure(&mut self, side: usize, more: &str) {
        self.texts[side].push_str(more);
    }

    /// What an appliance writes into the other one's store ends with the next peer that it takes in hand.
    pub(crate) fn let_die_over_the_next_peer(&mut self, side: usize) {
        self.fates[side].0.store(DIES_SOON, Ordering::Relaxed);
    }

    /// Acknowledgements of what an appliance writes are under way, or come at once again.
    pub(crate) fn delay_acknowledgements(&mut self, side: usize, delay: bool) {
        self.fates[side].0.store(if delay { FAR } else { 0 }, Ordering::Relaxed);
    }

    /// What an appliance writes into the other one's store isn't what it should be from now on, or is again.
    pub(crate) fn set_flaw(&mut self, side: usize, flaw: Option<Flaw>) {
        self.fates[side].0.store(flaw.map_or(0, |flaw| flaw as u8), Ordering::Relaxed);
    }

    /// It has come to that.
    pub(crate) fn has_died(&self, side: usize) -> bool {
        self.fates[side].0.load(Ordering::Relaxed) == DEAD
    }

    /// Lets time pass for both, in small steps.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now() + time;
        while self.now() < end {
            let now = (self.now() + STEP).min(end);
            for side in 0..2 {
                let since = now - self.sides[side].now;
                if !self.dead[side] {
                    self.sides[side].pass(since);
                }
                self.sides[side].now = now;
            }
            self.talk();
        }
    }

    /// Everything that was said arrives. No time passes.
    pub(crate) fn talk(&mut self) {
        for _ in 0..20 {
            let mut any = false;
            for from in 0..2 {
                let (sender, to) = (&mut self.sides[from], 1 - from);
                let messages = std::mem::take(&mut sender.link_messages);
                let frames = std::mem::take(&mut sender.frames);
                if self.dead[from] || self.dead[to] {
                    continue;
                }
                let receiver = &mut self.sides[to];
                for message in messages.iter().filter(|_| self.linked) {
                    any = true;
                    receiver.core.handle_link_message(receiver.now, GROUP, id_of(from), message);
                }
                // What isn't an advertisement is left out there.
                for (port, frame) in frames.into_iter().filter(|_| self.in_earshot) {
                    receiver.core.handle_events(receiver.now, [(0, Event::Advertisement { port, frame })]);
                }
                receiver.run();
            }
            if !any {
                return;
            }
        }
    }

    /// What an appliance's operator asks for, and gets.
    pub(crate) fn ask(&mut self, side: usize, request: Request) {
        self.order(side, request).unwrap();
    }

    /// What an appliance's operator asks for, and the answer, however long it takes.
    pub(crate) fn order(&mut self, side: usize, request: Request) -> Result<Response, ApiError> {
        self.sides[side].begin(request);
        loop {
            if let Some(reply) = self.sides[side].replies.pop() {
                return reply;
            }
            self.pass(STEP);
        }
    }
}

/// The kinds of the records of IKE SAs and child SAs, and of the one that says who is in hand.
const KIND_IKE: u8 = 1;
const KIND_CHILD: u8 = 2;
const KIND_IN_HAND: u8 = 5;
const DIES_SOON: u8 = 1;
const DEAD: u8 = 2;
const FAR: u8 = 3;

/// What may be wrong with what an appliance writes into the other one's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Records of child SAs don't arrive.
    LosesChildren = 4,
    /// What is written is damaged on its way.
    Damages = 5,
    /// Remote peers seem not to have announced message-id sync.
    HidesMessageIdSync = 6,
    /// Nor replay counter sync.
    HidesReplaySync = 7,
}

impl Flaw {
    /// Of what a remote peer announced one notification (RFC 6311 §6) is another, as MessagePack has it.
    fn change(self, record: &mut [u8]) {
        let hidden: u16 = match self {
            Self::HidesMessageIdSync => 16420,
            Self::HidesReplaySync => 16421,
            Self::LosesChildren | Self::Damages => return,
        };
        let [high, low] = hidden.to_be_bytes();
        // An IKE SA that is yet to be authenticated knows nothing of it.
        if let Some(at) = record.windows(3).position(|bytes| bytes == [0xcd, high, low]) {
            record[at + 1..at + 3].copy_from_slice(&40960u16.to_be_bytes());
        }
    }
}

/// Memory that what is written into it may be damaged in.
struct Brittle {
    inner: LocalMemory,
    fate: Fate,
}

impl OneSided for Brittle {
    fn geometry(&self) -> &Geometry {
        self.inner.geometry()
    }

    fn write(&mut self, at: usize, words: &[u64]) -> Result<(), StoreError> {
        let mut words = words.to_vec();
        // What leads to a record is shorter than this.
        if self.fate.has(Flaw::Damages)
            && let Some(sealed) = words.get_mut(6)
        {
            *sealed ^= 1;
        }
        self.inner.write(at, &words)
    }

    fn order(&mut self) -> Result<(), StoreError> {
        self.inner.order()
    }

    fn ask(&mut self, upto: WriteId) -> Result<(), StoreError> {
        self.inner.ask(upto)
    }

    fn answered(&mut self) -> Result<Option<Answer>, StoreError> {
        self.inner.answered()
    }
}

/// What becomes of a process: known to its writer.
#[derive(Clone, Default)]
struct Fate(Arc<AtomicU8>);

impl Fate {
    fn has(&self, flaw: Flaw) -> bool {
        self.0.load(Ordering::Relaxed) == flaw as u8
    }
}

/// A writer whose process may die between two writes: what comes after reaches nobody.
struct Mortal {
    inner: Box<dyn StoreWriter + Send>,
    fate: Fate,
    writes: Arc<Writes>,
    unpublished: bool,
    acknowledged: WriteId,
}

impl Mortal {
    fn is_dead(&self) -> bool {
        self.fate.0.load(Ordering::Relaxed) == DEAD
    }

    fn count_batch(&mut self) {
        if std::mem::take(&mut self.unpublished) {
            self.writes.batches.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl StoreWriter for Mortal {
    fn put(&mut self, key: RecordKey, epoch: Epoch, bytes: &[u8]) -> Result<WriteId, StoreError> {
        let is_lost = key.kind == KIND_CHILD && self.fate.has(Flaw::LosesChildren);
        if self.is_dead() || is_lost {
            return self.inner.poll_acknowledged();
        }
        self.writes.count_record();
        self.unpublished = true;
        let mut bytes = bytes.to_vec();
        for flaw in [Flaw::HidesMessageIdSync, Flaw::HidesReplaySync] {
            if key.kind == KIND_IKE && self.fate.has(flaw) {
                flaw.change(&mut bytes);
            }
        }
        let written = self.inner.put(key, epoch, &bytes);
        if key.kind == KIND_IN_HAND && self.fate.0.load(Ordering::Relaxed) == DIES_SOON {
            self.fate.0.store(DEAD, Ordering::Relaxed);
        }
        written
    }

    fn remove(&mut self, key: RecordKey) -> Result<Option<WriteId>, StoreError> {
        if self.is_dead() {
            return Ok(None);
        }
        let written = self.inner.remove(key)?;
        self.unpublished |= written.is_some();
        Ok(written)
    }

    fn put_counters(&mut self, block: u32, entries: &[CounterEntry]) -> Result<WriteId, StoreError> {
        if self.is_dead() {
            return self.inner.poll_acknowledged();
        }
        self.unpublished = true;
        self.inner.put_counters(block, entries)
    }

    fn publish(&mut self) -> Result<(), StoreError> {
        self.count_batch();
        self.inner.publish()
    }

    fn poll_acknowledged(&mut self) -> Result<WriteId, StoreError> {
        self.count_batch();
        if self.fate.0.load(Ordering::Relaxed) == FAR {
            self.inner.publish()?;
        } else {
            self.acknowledged = self.inner.poll_acknowledged()?;
        }
        Ok(self.acknowledged)
    }

    fn free_slots(&self, bytes: usize) -> u32 {
        self.inner.free_slots(bytes)
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }
}
