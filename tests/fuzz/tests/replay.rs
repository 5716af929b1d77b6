//! Every input that ever mattered, and a bounded number of mutations of it from a fixed seed.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use vipsec_fuzz::{TARGETS, Target};

/// Mutated inputs for each target, shared by its corpus.
const MUTATIONS: usize = 10_000;

/// Longest input that mutation makes, in bytes.
const LEN_MAX: usize = 2048;

fn corpus_folder(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

/// The corpus of a target by file name.
fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = corpus_folder(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inputs: Vec<_> = entries
        .map(|entry| {
            let entry = entry.expect("an entry");
            (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("a file"))
        })
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} has no input", folder.display());
    inputs
}

/// Runs a target; a panic is told with the input, to be kept as a file of the corpus.
fn run(target: &Target, what: &str, input: &[u8]) {
    if catch_unwind(|| (target.run)(input)).is_err() {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("target {} fails on {what}: {hex}", target.name);
    }
}

#[test]
fn every_input_of_the_corpus_is_survived() {
    for target in TARGETS {
        for (name, input) in corpus(target) {
            run(target, &name, &input);
            // Cut short anywhere: the most frequent damage, and the one that indexes out of bounds.
            for len in 0..input.len().min(256) {
                run(target, &format!("{name}, cut to {len}"), &input[..len]);
            }
        }
    }
}

#[test]
fn mutations_of_the_corpus_are_survived() {
    for target in TARGETS {
        let corpus = corpus(target);
        let mut random = Random(0x5eed);
        for n in 0..MUTATIONS {
            let (name, input) = &corpus[n % corpus.len()];
            let mut input = input.clone();
            for _ in 0..=random.below(4) {
                let (_, other) = &corpus[random.below(corpus.len())];
                mutate(&mut input, other, &mut random);
            }
            input.truncate(LEN_MAX);
            run(target, &format!("mutation {n} of {name}"), &input);
        }
    }
}

#[test]
fn each_target_has_a_binary_for_libfuzzer() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("libfuzzer");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).expect("its manifest");
    for target in TARGETS {
        assert!(manifest.contains(&format!("name = \"{}\"", target.name)), "{}", target.name);
        let source = fs::read_to_string(folder.join("fuzz_targets").join(format!("{}.rs", target.name)));
        assert!(source.expect("its source").contains(&format!("\"{}\"", target.name)), "{}", target.name);
    }
}

/// One step of damage.
fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    const INTERESTING: [u8; 12] = [0, 1, 2, 4, 6, 7, 0x3f, 0x40, 0x7f, 0x80, 0xfe, 0xff];
    let at = random.below(input.len().max(1));
    match random.below(7) {
        0 => flip(input, at, 1 << random.below(8)),
        1 => flip(input, at, random.byte()),
        2 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = INTERESTING[random.below(INTERESTING.len())];
            }
        }
        3 => input.truncate(at),
        4 => input.extend((0..random.below(32)).map(|n| (n * 7) as u8)),
        // A piece of another input in its place.
        5 => {
            let from = random.below(other.len().max(1));
            for (to, from) in input.iter_mut().skip(at).zip(other.iter().skip(from).take(random.below(16))) {
                *to = *from;
            }
        }
        // Bytes that are taken out or doubled shift what follows.
        _ => {
            let end = (at + random.below(8)).min(input.len());
            let piece: Vec<u8> = input.drain(at.min(end)..end).collect();
            if random.below(2) == 0 {
                let at = random.below(input.len() + 1);
                input.splice(at..at, [piece.clone(), piece].concat());
            }
        }
    }
}

fn flip(input: &mut [u8], at: usize, mask: u8) {
    if let Some(byte) = input.get_mut(at) {
        *byte ^= mask;
    }
}

/// SplitMix64: enough to spread damage, the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }
}
