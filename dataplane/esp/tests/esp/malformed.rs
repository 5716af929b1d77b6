//! Input that no honest peer sends.

use proptest::prelude::*;
use vipsec_esp::engine::{Context, EngineKind};
use vipsec_esp::error::EspError;
use vipsec_esp::header::{ICV_LEN, NO_NEXT_HEADER, spi_of};
use vipsec_esp::inbound::{Admission, InboundSa, Opened};
use vipsec_esp::sa::{Algorithm, InboundParams};
use vipsec_wire::buffer::{PacketBuf, VecBuf};

use crate::support::{bytes, inbound, inbound_params, keymat, outbound, outbound_params, pair, seal, spi};

/// A packet with this plaintext, trailer included, that authenticates on the SA of [`inbound_params`].
fn authentic(plaintext: &[u8]) -> VecBuf {
    let algorithm = Algorithm::Aes128Gcm;
    let keymat = keymat(algorithm);
    let (key, salt) = keymat.split_at(algorithm.key_len());
    let iv = [9; 8];
    let header = [spi().get().to_be_bytes(), 1u32.to_be_bytes()].concat();
    let mut buffer = plaintext.to_vec();
    let nonce = [salt, &iv].concat().try_into().expect("12 bytes");
    let mut icv = [0; ICV_LEN];
    let context = Context::new(EngineKind::AesGcm, algorithm, key).expect("key");
    context.seal_in_place(&nonce, &header, &mut buffer, &mut icv).expect("sealed");
    VecBuf::from_bytes(&[&header[..], &iv, &buffer, &icv].concat())
}

fn open(packet: &mut VecBuf) -> Result<Opened, EspError> {
    inbound(&inbound_params(Algorithm::Aes128Gcm)).open(packet)
}

/// Every engine with every algorithm.
fn everything() -> impl Iterator<Item = (EngineKind, Algorithm)> {
    EngineKind::available().flat_map(|engine| Algorithm::ALL.map(|algorithm| (engine, algorithm)))
}

#[test]
fn every_truncation_is_refused() {
    for (engine, algorithm) in everything() {
        let into = InboundSa::new(engine, &inbound_params(algorithm)).unwrap();
        let whole = bytes(&seal(&mut outbound(&outbound_params(algorithm)), &[0x45; 50]));
        for len in 0..whole.len() {
            let error = into.open(&mut VecBuf::from_bytes(&whole[..len])).unwrap_err();
            // Header, IV, an empty ciphertext and the ICV are 32 bytes; the trailer is two more.
            let expected = match len {
                0..34 => EspError::Truncated,
                _ if !len.is_multiple_of(4) => EspError::Misaligned,
                _ => EspError::BadIcv,
            };
            assert_eq!(error, expected, "{engine} {algorithm:?}: {len} of {} bytes", whole.len());
        }
    }
}

#[test]
fn what_follows_the_icv_is_refused() {
    for (engine, algorithm) in everything() {
        let into = InboundSa::new(engine, &inbound_params(algorithm)).unwrap();
        let whole = bytes(&seal(&mut outbound(&outbound_params(algorithm)), &[0x45; 50]));
        for more in 1..=20 {
            let overlong = [whole.as_slice(), &vec![0; more]].concat();
            let expected = if more % 4 == 0 { EspError::BadIcv } else { EspError::Misaligned };
            assert_eq!(into.open(&mut VecBuf::from_bytes(&overlong)), Err(expected), "{engine} {algorithm:?}: {more}");
        }
    }
}

#[test]
fn each_wrong_byte_of_the_icv_is_noticed_and_leaves_no_plaintext() {
    for (engine, algorithm) in everything() {
        let into = InboundSa::new(engine, &inbound_params(algorithm)).unwrap();
        let inner: Vec<u8> = (1..=64).collect();
        let whole = bytes(&seal(&mut outbound(&outbound_params(algorithm)), &inner));
        for at in 1..=ICV_LEN {
            let mut packet = VecBuf::from_bytes(&whole);
            let wrong = whole.len() - at;
            packet.data_mut()[wrong] ^= 0x10;
            assert_eq!(into.open(&mut packet), Err(EspError::BadIcv), "{engine} {algorithm:?}");
            let leaked = packet.data().windows(8).any(|left| inner.windows(8).any(|clear| left == clear));
            assert!(!leaked, "{engine} {algorithm:?}");
        }
    }
}

#[test]
fn a_replayed_packet_is_refused_before_decryption() {
    for (engine, algorithm) in everything() {
        let mut into = InboundSa::new(engine, &inbound_params(algorithm)).unwrap();
        let whole = bytes(&seal(&mut outbound(&outbound_params(algorithm)), &[0x45; 50]));
        let opened = into.open(&mut VecBuf::from_bytes(&whole)).unwrap();
        assert_eq!(into.admit(&opened), Admission::Deliver);
        let mut again = VecBuf::from_bytes(&whole);
        assert_eq!(into.open(&mut again), Err(EspError::Replayed), "{engine} {algorithm:?}");
        assert_eq!(again.data(), whole, "untouched");
    }
}

#[test]
fn padding_is_inspected() {
    let opened = |plaintext: &[u8]| {
        let mut packet = authentic(plaintext);
        open(&mut packet).map(|opened| (opened.next_header, bytes(&packet)))
    };
    assert_eq!(opened(&[0x45, 0x46, 0, 4]), Ok((4, vec![0x45, 0x46])));
    assert_eq!(opened(&[0x45, 1, 1, 41]), Ok((41, vec![0x45])));
    assert_eq!(opened(&[1, 2, 2, 4]), Ok((4, vec![])));
    // RFC 4303 §2.4: the sender MAY add 0 to 255 bytes of padding.
    let long: Vec<u8> = (0..3).chain(1..=255).chain([255, 4]).collect();
    assert_eq!(opened(&long), Ok((4, vec![0, 1, 2])));
    for bad in [[0x45, 0, 1, 4], [1, 1, 2, 4], [2, 1, 2, 4], [0, 1, 2, 4], [1, 2, 3, 4], [1, 2, 255, 4]] {
        assert_eq!(opened(&bad), Err(EspError::BadPadding), "{bad:?}");
    }
}

#[test]
fn dummies_are_told_apart() {
    // RFC 4303 §2.6: a transmitter MUST be capable of generating dummy packets.
    let (mut out, mut into) = pair(|_, _| ());
    let mut packet = VecBuf::from_bytes(&[]);
    out.seal(&mut packet, NO_NEXT_HEADER).unwrap();
    let dummy = into.open(&mut packet).unwrap();
    assert!(dummy.is_dummy());
    assert_eq!(into.admit(&dummy), Admission::Deliver);
    let mut packet = seal(&mut out, &[0x45; 20]);
    assert!(!into.open(&mut packet).unwrap().is_dummy());
}

#[test]
fn the_other_number_format_does_not_authenticate() {
    for esn in [false, true] {
        let (mut out, into) = pair(|out, into| (out.esn, into.esn) = (esn, !esn));
        assert_eq!(into.open(&mut seal(&mut out, &[0x45; 20])), Err(EspError::BadIcv));
    }
}

#[test]
fn spi_is_read_before_anything_else() {
    assert_eq!(spi_of(&[0xa1, 0xb2, 0xc3, 0xd4, 0]), Some(0xa1b2_c3d4));
    assert_eq!(spi_of(&[0xa1, 0xb2, 0xc3]), None);
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_refused(contents in prop::collection::vec(any::<u8>(), 0..300), esn in any::<bool>()) {
        for (engine, algorithm) in everything() {
            let params = InboundParams { esn, ..inbound_params(algorithm) };
            let sa = InboundSa::new(engine, &params).unwrap();
            prop_assert!(sa.open(&mut VecBuf::from_bytes(&contents)).is_err());
            prop_assert_eq!(sa.edge(), 0);
        }
    }

    /// Whatever a peer with the key encrypts: the payload that comes out is a prefix of it, or nothing does.
    #[test]
    fn authentic_nonsense_does_no_harm(mut plaintext in prop::collection::vec(any::<u8>(), 0..200)) {
        plaintext.truncate(plaintext.len() / 4 * 4);
        let mut packet = authentic(&plaintext);
        if open(&mut packet).is_ok() {
            prop_assert!(plaintext.starts_with(packet.data()));
            prop_assert!(packet.data().len() + 2 <= plaintext.len());
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed(
        inner in prop::collection::vec(any::<u8>(), 0..100),
        algorithm in prop::sample::select(Algorithm::ALL.as_slice()),
        esn in any::<bool>(),
        flipped in any::<prop::sample::Index>(),
    ) {
        let (mut out, mut into) = (outbound_params(algorithm), inbound_params(algorithm));
        (out.esn, into.esn) = (esn, esn);
        let mut packet = seal(&mut outbound(&out), &inner);
        let bit = flipped.index(packet.data().len() * 8);
        // A wrong SPI finds another SA or none; this SA answers for its own SPI whatever stands there.
        prop_assume!(bit >= 32);
        packet.data_mut()[bit / 8] ^= 1 << (bit % 8);
        let result = inbound(&into).open(&mut packet);
        prop_assert!(matches!(result, Err(EspError::BadIcv | EspError::Replayed)), "{:?}", result);
    }
}
