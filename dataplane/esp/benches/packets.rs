//! Time per packet of sealing and opening, beside that of the bare AEAD on the same contexts, in the same windows.
//!
//! ```text
//! cargo bench -p vipsec-esp --bench packets [-- WORD…]     # only lines that contain all words: ipsec-mb 1420B
//! ```
//!
//! A window is a few bursts of 32 packets, each packet on another SA than the one before; SAs are prefetched before the burst and keys
//! a few packets before their use, as a worker should. Windows of all four kinds take turns, so that they share whatever else the machine does. Given are the
//! fastest window, which is what the code costs, and the median, which is what the machine made of it; nanoseconds per packet.

use std::hint::black_box;
use std::time::{Duration, Instant};

use vipsec_esp::KEY_AHEAD;
use vipsec_esp::engine::{Context, EngineKind, Footprint};
use vipsec_esp::inbound::{Admission, InboundSa};
use vipsec_esp::outbound::OutboundSa;
use vipsec_esp::sa::{Algorithm, InboundParams, KeyMaterial, OutboundParams, SALT_LEN, Spi};
use vipsec_wire::buffer::{NoRoom, PacketBuf};
use vipsec_wire::iv::{ApplianceId, Epoch, IvPrefix};

const BURST: usize = 32;
const BURSTS: usize = 4;
const WINDOW: usize = BURST * BURSTS;
const HEADROOM: usize = 128;
const TIME_PER_LINE: Duration = Duration::from_millis(250);
const SIZES: [usize; 3] = [64, 512, 1420];
const SA_COUNTS: [usize; 4] = [1, 32, 1024, 10_000];

/// A buffer like an mbuf: its bounds beside its bytes, no call to reach them.
struct Frame {
    bytes: Box<[u8; 2048]>,
    start: usize,
    end: usize,
}

impl Frame {
    fn new() -> Self {
        Self { bytes: Box::new([0x45; 2048]), start: HEADROOM, end: HEADROOM }
    }

    #[inline]
    fn set(&mut self, start: usize, len: usize) {
        (self.start, self.end) = (start, start + len);
    }
}

impl PacketBuf for Frame {
    #[inline]
    fn data(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    #[inline]
    fn data_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..self.end).unwrap_or_default()
    }

    #[inline]
    fn headroom(&self) -> usize {
        self.start
    }

    #[inline]
    fn tailroom(&self) -> usize {
        self.bytes.len() - self.end
    }

    #[inline]
    fn prepend(&mut self, n: usize) -> Result<(), NoRoom> {
        self.start = self.start.checked_sub(n).ok_or(NoRoom)?;
        Ok(())
    }

    #[inline]
    fn append(&mut self, n: usize) -> Result<(), NoRoom> {
        if n > self.tailroom() {
            return Err(NoRoom);
        }
        self.end += n;
        Ok(())
    }

    #[inline]
    fn trim_front(&mut self, n: usize) -> Result<(), NoRoom> {
        if n > self.end - self.start {
            return Err(NoRoom);
        }
        self.start += n;
        Ok(())
    }

    #[inline]
    fn trim_back(&mut self, n: usize) -> Result<(), NoRoom> {
        if n > self.end - self.start {
            return Err(NoRoom);
        }
        self.end -= n;
        Ok(())
    }
}

/// SAs with both ends here, and their contexts once more for the bare AEAD.
struct Scene {
    outbound: Vec<OutboundSa>,
    inbound: Vec<InboundSa>,
    contexts: Vec<Context>,
    footprint: Footprint,
    frames: Vec<Frame>,
    len: usize,
    /// Where the next window's first packet finds its SA.
    at: usize,
}

/// What is measured: the AEAD alone, and with all of ESP.
const KINDS: [&str; 4] = ["bare seal", "seal", "bare open", "open"];

/// Any block as nonce or AAD, written long before it is read.
#[repr(align(16))]
struct Block([u8; 16]);

impl Scene {
    fn new(engine: EngineKind, algorithm: Algorithm, esn: bool, len: usize, sas: usize) -> Self {
        let key = |sa: usize| -> Vec<u8> {
            (0..algorithm.key_len() + SALT_LEN).map(|at| (at * 7) as u8 ^ (sa >> (at % 3 * 8)) as u8).collect()
        };
        let material = |sa| KeyMaterial::new(algorithm, key(sa).into()).expect("key and salt");
        let spi = |sa: usize| Spi::new(0x0100_0000 + sa as u32).expect("not reserved");
        let outbound = |sa| OutboundParams {
            spi: spi(sa),
            algorithm,
            key: material(sa),
            esn,
            sent: 0,
            lease: u64::MAX,
            iv_prefix: IvPrefix::new(ApplianceId::new(1).expect("not zero"), Epoch(1)),
        };
        let inbound = |sa| InboundParams {
            spi: spi(sa),
            algorithm,
            key: material(sa),
            window: 1024,
            esn,
            edge: 0,
            horizon: u64::MAX,
        };
        let context = |sa| Context::new(engine, algorithm, &key(sa)[..algorithm.key_len()]).expect("a key");
        Self {
            outbound: (0..sas).map(|sa| OutboundSa::new(engine, &outbound(sa)).expect("sound")).collect(),
            inbound: (0..sas).map(|sa| InboundSa::new(engine, &inbound(sa)).expect("sound")).collect(),
            contexts: (0..sas).map(context).collect(),
            footprint: Footprint::of(engine, algorithm),
            frames: (0..WINDOW).map(|_| Frame::new()).collect(),
            len,
            at: 0,
        }
    }

    /// The SA of a packet: a walk through all of them that no hardware prefetcher follows.
    #[inline]
    fn sa(&self, packet: usize) -> usize {
        (self.at + packet).wrapping_mul(7919) % self.outbound.len()
    }

    fn reset(&mut self, start: usize, len: usize) {
        for frame in &mut self.frames {
            frame.set(start, len);
        }
    }

    /// The plaintext of the bare AEAD is what ESP encrypts: padding and trailer belong to it.
    fn text_len(&self) -> usize {
        (self.len + 2).next_multiple_of(4)
    }

    /// Which SAs the packets of the next window belong to.
    fn sas(&self) -> Vec<usize> {
        (0..WINDOW).map(|packet| self.sa(packet)).collect()
    }

    fn seal(&mut self) -> Duration {
        self.reset(HEADROOM, self.len);
        let (all_sas, outbound, len) = (self.sas(), &mut self.outbound, self.len);
        let start = Instant::now();
        for (sas, frames) in all_sas.chunks(BURST).zip(self.frames.chunks_mut(BURST)) {
            sas.iter().for_each(|sa| outbound[*sa].prefetch());
            sas.iter().take(KEY_AHEAD).for_each(|sa| outbound[*sa].prefetch_key(len));
            for (at, frame) in frames.iter_mut().enumerate() {
                if let Some(sa) = sas.get(at + KEY_AHEAD) {
                    outbound[*sa].prefetch_key(len);
                }
                black_box(outbound[sas[at]].seal(frame, 4)).expect("sealed");
            }
        }
        start.elapsed()
    }

    /// Opens what [`seal`](Self::seal) made in the same turn.
    fn open(&mut self) -> Duration {
        let (all_sas, inbound, len) = (self.sas(), &mut self.inbound, self.len);
        let start = Instant::now();
        for (sas, frames) in all_sas.chunks(BURST).zip(self.frames.chunks_mut(BURST)) {
            sas.iter().for_each(|sa| inbound[*sa].prefetch());
            sas.iter().take(KEY_AHEAD).for_each(|sa| inbound[*sa].prefetch_key(len));
            for (at, frame) in frames.iter_mut().enumerate() {
                if let Some(sa) = sas.get(at + KEY_AHEAD) {
                    inbound[*sa].prefetch_key(len);
                }
                let sa = &mut inbound[sas[at]];
                let opened = black_box(sa.open(frame)).expect("opened");
                assert_eq!(sa.admit(&opened), Admission::Deliver);
            }
        }
        start.elapsed()
    }

    fn bare_seal(&mut self, nonces: &[Block], tags: &mut [[u8; 16]], aad_len: usize) -> Duration {
        self.reset(HEADROOM, self.text_len());
        let (sas, contexts, len) = (self.sas(), &self.contexts, self.len);
        let prefetch = |at| sas.get(at).into_iter().for_each(|sa: &usize| contexts[*sa].prefetch(self.footprint, len));
        let start = Instant::now();
        (0..KEY_AHEAD).for_each(prefetch);
        for (at, frame) in self.frames.iter_mut().enumerate() {
            prefetch(at + KEY_AHEAD);
            let block = &nonces[at].0;
            let nonce = block.first_chunk().expect("12 of 16");
            let (aad, tag) = (&block[..aad_len], &mut tags[at]);
            contexts[sas[at]].seal_in_place(nonce, aad, frame.data_mut(), tag).expect("sealed");
        }
        start.elapsed()
    }

    fn bare_open(&mut self, nonces: &[Block], tags: &[[u8; 16]], aad_len: usize) -> Duration {
        let (sas, contexts, len) = (self.sas(), &self.contexts, self.len);
        let prefetch = |at| sas.get(at).into_iter().for_each(|sa: &usize| contexts[*sa].prefetch(self.footprint, len));
        let start = Instant::now();
        (0..KEY_AHEAD).for_each(prefetch);
        for (at, frame) in self.frames.iter_mut().enumerate() {
            prefetch(at + KEY_AHEAD);
            let block = &nonces[at].0;
            let nonce = block.first_chunk().expect("12 of 16");
            contexts[sas[at]].open_in_place(nonce, &block[..aad_len], frame.data_mut(), &tags[at]).expect("opened");
        }
        start.elapsed()
    }

    /// Minimum and median of each kind, in nanoseconds per packet, in the order of [`KINDS`].
    fn measure(&mut self, esn: bool) -> [(f64, f64); KINDS.len()] {
        let nonces: Vec<Block> = (0..WINDOW).map(|packet| Block([packet as u8; 16])).collect();
        let mut tags = vec![[0; 16]; WINDOW];
        let aad_len = if esn { 12 } else { 8 };
        let mut times: [Vec<Duration>; KINDS.len()] = Default::default();
        let begin = Instant::now();
        while begin.elapsed() < TIME_PER_LINE || times[0].len() < 20 {
            times[0].push(self.bare_seal(&nonces, &mut tags, aad_len));
            times[2].push(self.bare_open(&nonces, &tags, aad_len));
            times[1].push(self.seal());
            times[3].push(self.open());
            self.at += WINDOW;
        }
        times.map(|mut times| {
            times.sort_unstable();
            let per_packet = |time: Duration| time.as_nanos() as f64 / WINDOW as f64;
            (per_packet(times[0]), per_packet(times[times.len() / 2]))
        })
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    println!(
        "{:<42} {:>11} {:>11} {:>11} {:>11}   ns/packet: min median",
        "", "bare seal", "seal", "bare open", "open"
    );
    for engine in EngineKind::available() {
        for algorithm in Algorithm::ALL {
            for esn in [false, true] {
                for len in SIZES {
                    for sas in SA_COUNTS {
                        let numbers = if esn { "esn" } else { "seq" };
                        let line = format!("{engine} {algorithm:?} {numbers} {len}B {sas}SA");
                        if !words.iter().all(|word| line.split(' ').any(|part| part.eq_ignore_ascii_case(word))) {
                            continue;
                        }
                        let times = Scene::new(engine, algorithm, esn, len, sas).measure(esn);
                        let columns = times.map(|(min, median)| format!("{min:>5.0} {median:>5.0}"));
                        println!("{line:<42} {}", columns.join(" "));
                    }
                }
            }
        }
    }
}
