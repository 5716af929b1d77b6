//! Keys by published vectors, where the library is available. Many more vectors run through `vipsec-esp`, which uses the keys.

use vipsec_ipsec_mb::{BadTag, Cipher, Key, KeyError, NONCE_LEN, TAG_LEN, available, powers};

const CIPHERS: [Cipher; 3] = [Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];

struct Vector {
    cipher: Cipher,
    key: Vec<u8>,
    nonce: [u8; NONCE_LEN],
    aad: Vec<u8>,
    plaintext: Vec<u8>,
    ciphertext: Vec<u8>,
    tag: Vec<u8>,
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
    (0..hex.len()).step_by(2).map(digit).collect()
}

fn vectors() -> Vec<Vector> {
    let gcm_plaintext = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525\
                         b16aedf5aa0de657ba637b39";
    let gcm_aad = "feedfacedeadbeeffeedfacedeadbeefabaddad2";
    let vector = |cipher, key: &str, nonce: &str, aad: &str, plaintext: &[u8], ciphertext: &str, tag: &str| Vector {
        cipher,
        key: bytes(key),
        nonce: bytes(nonce).try_into().expect("12 bytes"),
        aad: bytes(aad),
        plaintext: plaintext.to_vec(),
        ciphertext: bytes(ciphertext),
        tag: bytes(tag),
    };
    vec![
        // McGrew and Viega, The Galois/Counter Mode of Operation, test case 4.
        vector(
            Cipher::Aes128Gcm,
            "feffe9928665731c6d6a8f9467308308",
            "cafebabefacedbaddecaf888",
            gcm_aad,
            &bytes(gcm_plaintext),
            "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b39\
             6a0aac973d58e091",
            "5bc94fbc3221a5db94fae95ae7121a47",
        ),
        // The same, test case 16.
        vector(
            Cipher::Aes256Gcm,
            "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
            "cafebabefacedbaddecaf888",
            gcm_aad,
            &bytes(gcm_plaintext),
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e63\
             93ba7a0abcc9f662",
            "76fc6ece0f4e1768cddf8853bb2d551b",
        ),
        // RFC 8439 §2.8.2.
        vector(
            Cipher::ChaCha20Poly1305,
            "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
            "070000004041424344454647",
            "50515253c0c1c2c3c4c5c6c7",
            b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen \
              would be it.",
            "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b1a71de0a\
             9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc3ff4def08e4b7a9d\
             e576d26586cec64b6116",
            "1ae10b594f09e26a7e902ecbd0600691",
        ),
    ]
}

fn vectors_here() -> Vec<Vector> {
    if available() { vectors() } else { Vec::new() }
}

#[test]
fn published_vectors() {
    for vector in vectors_here() {
        let key = Key::new(vector.cipher, &vector.key).unwrap();
        let mut buffer = vector.plaintext.clone();
        let mut tag = [0; TAG_LEN];
        key.seal_in_place(&vector.nonce, &vector.aad, &mut buffer, &mut tag).unwrap();
        assert_eq!(buffer, vector.ciphertext, "{:?}", vector.cipher);
        assert_eq!(tag, *vector.tag, "{:?}", vector.cipher);
        assert_eq!(key.open_in_place(&vector.nonce, &vector.aad, &mut buffer, &tag), Ok(()));
        assert_eq!(buffer, vector.plaintext, "{:?}", vector.cipher);
    }
}

#[test]
fn a_bad_tag_leaves_nothing_in_the_buffer() {
    for vector in vectors_here() {
        let key = Key::new(vector.cipher, &vector.key).unwrap();
        for bit in 0..TAG_LEN * 8 {
            let mut tag: [u8; TAG_LEN] = vector.tag.as_slice().try_into().unwrap();
            tag[bit / 8] ^= 1 << (bit % 8);
            let mut buffer = vector.ciphertext.clone();
            assert_eq!(key.open_in_place(&vector.nonce, &vector.aad, &mut buffer, &tag), Err(BadTag));
            assert!(buffer.iter().all(|byte| *byte == 0), "{:?}", vector.cipher);
        }
    }
}

#[test]
fn an_empty_message_has_a_tag() {
    for vector in vectors_here() {
        let key = Key::new(vector.cipher, &vector.key).unwrap();
        let mut tag = [0; TAG_LEN];
        key.seal_in_place(&vector.nonce, &[], &mut [], &mut tag).unwrap();
        assert_ne!(tag, [0; TAG_LEN]);
        assert_eq!(key.open_in_place(&vector.nonce, &[], &mut [], &tag), Ok(()));
        tag[0] ^= 1;
        assert_eq!(key.open_in_place(&vector.nonce, &[], &mut [], &tag), Err(BadTag));
    }
}

#[test]
fn keys_of_the_wrong_length_are_refused() {
    for cipher in CIPHERS {
        for len in (0..40).filter(|len| *len != cipher.key_len()) {
            let expected = if available() { KeyError::Length } else { KeyError::Unavailable };
            assert_eq!(Key::new(cipher, &vec![7; len]).err(), Some(expected), "{cipher:?} with {len} bytes");
        }
    }
}

#[test]
fn longer_messages_take_more_powers_up_to_all_of_them() {
    assert_eq!(powers(0), 1008 - 32..1008);
    assert_eq!(powers(64), 1008 - 6 * 16..1008);
    assert_eq!(powers(9000), 240..1008);
}
