//! What a peer that has the key may send: every plaintext, every number, every damage.

use std::collections::BTreeSet;

use vipsec_esp::engine::{Context, EngineKind};
use vipsec_esp::error::EspError;
use vipsec_esp::header::{ALIGNMENT, ICV_LEN, TRAILER_LEN};
use vipsec_esp::inbound::{Admission, InboundSa, Opened};
use vipsec_esp::sa::{Algorithm, InboundParams, KeyMaterial, SALT_LEN, Spi};
use vipsec_wire::buffer::{PacketBuf, VecBuf};

const SPI: u32 = 0xa1b2_c3d4;

/// Numbers that the horizon is ahead of the edge at first.
const ROOM: u64 = 64;

/// The input is an SA and packets for it:
///
/// ```text
/// 0: algorithm (2 bits), ESN (1), log2 of the window's size in blocks of 64 (3), no horizon (1)
/// 1: the edge to start from in units of 2^28: ESN's high half is about to change, or far along
/// then for each packet:
/// 0..2: its number, relative to the highest so far, signed
/// 2: where it is damaged, in units of a byte; 0: nowhere; the highest bit: afterwards a grant
/// 3: the mask of the damage
/// 4: length of the plaintext, trailer included, which follows
/// ```
///
/// What opens, what is refused for which reason, and what may be delivered is what a model says that keeps every number. All engines agree.
pub(crate) fn esp(bytes: &[u8]) {
    let Some((&[kind, edge], mut rest)) = bytes.split_first_chunk() else { return };
    let mut scene = Scene::new(kind, u64::from(edge) << 28);
    while let Some((&[high, low, damage, mask, len], behind)) = rest.split_first_chunk() {
        let plaintext = behind.get(..usize::from(len)).unwrap_or(behind);
        rest = behind.get(plaintext.len()..).unwrap_or_default();
        scene.receive(i16::from_be_bytes([high, low]), usize::from(damage & 0x7f), mask, plaintext);
        if damage & 0x80 != 0 {
            scene.grant();
        }
    }
}

/// One SA, in every engine that this machine has, and what is to be expected of it.
struct Scene {
    sas: Vec<InboundSa>,
    /// Seals as the peer does.
    context: Context,
    salt: [u8; SALT_LEN],
    esn: bool,
    edge: u64,
    /// Every number delivered.
    seen: BTreeSet<u64>,
    window: u64,
    /// Nothing up to here is new.
    start: u64,
    horizon: u64,
}

impl Scene {
    fn new(kind: u8, start: u64) -> Self {
        let algorithm = match kind & 0b11 {
            1 => Algorithm::Aes256Gcm,
            2 => Algorithm::ChaCha20Poly1305,
            _ => Algorithm::Aes128Gcm,
        };
        let esn = kind & 0b100 != 0;
        let window = 64 << (kind >> 3 & 0b111);
        let start = if esn { start } else { start & u64::from(u32::MAX) };
        let horizon = if kind & 0x40 != 0 { u64::MAX } else { start + ROOM };
        let keymat: Vec<u8> = (0..algorithm.key_len() + SALT_LEN).map(|at| at as u8 ^ 0x5a).collect();
        let key = KeyMaterial::new(algorithm, keymat.into()).expect("its length");
        let context = Context::new(EngineKind::AesGcm, algorithm, key.key()).expect("a key");
        let spi = Spi::new(SPI).expect("not reserved");
        let params = InboundParams { spi, algorithm, key, window, esn, edge: start, horizon };
        let sas = EngineKind::available().map(|engine| InboundSa::new(engine, &params).expect("sound parameters"));
        let (sas, salt) = (sas.collect(), params.key.salt());
        let (seen, window) = (BTreeSet::new(), u64::from(window));
        Self { sas, context, salt, esn, edge: start, seen, window, start, horizon }
    }

    fn receive(&mut self, distance: i16, damage: usize, mask: u8, plaintext: &[u8]) {
        let Some(number) = self.edge.checked_add_signed(i64::from(distance)).filter(|number| *number > 0) else {
            return;
        };
        if !self.esn && number > u64::from(u32::MAX) {
            return;
        }
        let mut packet = self.seal(number, plaintext);
        let is_damaged = match packet.get_mut(damage) {
            // The SPI found the SA; what stands there is no more looked at.
            Some(byte) if damage >= 4 && mask != 0 => {
                *byte ^= mask;
                true
            }
            _ => false,
        };
        let expected = self.expected(number, plaintext);
        let mut admissions = BTreeSet::new();
        for sa in &mut self.sas {
            let mut packet = VecBuf::from_bytes(&packet);
            let opened = sa.open(&mut packet);
            match (&opened, &expected) {
                (Err(error), _) if is_damaged => {
                    let reasons = [EspError::BadIcv, EspError::Replayed, EspError::Truncated, EspError::Misaligned];
                    assert!(reasons.contains(error), "{error} of a damaged packet");
                }
                (Err(error), Err(expected)) => assert_eq!(error, expected),
                (Ok(opened), Ok((payload, next_header))) if !is_damaged => {
                    assert_eq!((opened.number, opened.next_header), (number, *next_header));
                    assert_eq!(packet.data(), *payload);
                }
                _ => panic!("{opened:?} of a packet of which {expected:?} was expected, damaged: {is_damaged}"),
            }
            if let Ok(opened) = opened {
                admissions.insert(admission(sa, &opened));
            }
        }
        if is_damaged || expected.is_err() {
            return;
        }
        let is_above = number > self.horizon;
        assert_eq!(admissions.into_iter().collect::<Vec<_>>(), [if is_above { "above" } else { "deliver" }]);
        if !is_above {
            self.edge = self.edge.max(number);
            assert!(self.seen.insert(number), "{number} was delivered twice");
        }
        assert!(self.sas.iter().all(|sa| sa.edge() == self.edge && sa.horizon() == self.horizon));
    }

    fn grant(&mut self) {
        if self.horizon != u64::MAX {
            self.horizon += self.window / 2;
            self.sas.iter_mut().for_each(|sa| sa.grant(self.horizon));
        }
    }

    /// What RFC 4303 makes of an intact packet: its payload and next header, or why there is none.
    fn expected<'a>(&self, number: u64, plaintext: &'a [u8]) -> Result<(&'a [u8], u8), EspError> {
        let Some((payload, &[pad_len, next_header])) = plaintext.split_last_chunk::<TRAILER_LEN>() else {
            return Err(EspError::Truncated);
        };
        if !plaintext.len().is_multiple_of(ALIGNMENT) {
            return Err(EspError::Misaligned);
        }
        let is_old = number <= self.start || number + self.window <= self.edge || self.seen.contains(&number);
        if is_old {
            return Err(EspError::Replayed);
        }
        let payload_len = payload.len().checked_sub(usize::from(pad_len)).ok_or(EspError::BadPadding)?;
        let (payload, padding) = payload.split_at(payload_len);
        // RFC 4303 §2.4: 1, 2, 3 …
        if padding.iter().zip(1u8..).any(|(byte, expected)| *byte != expected) {
            return Err(EspError::BadPadding);
        }
        Ok((payload, next_header))
    }

    /// A packet from its ESP header to its ICV (RFC 4303 §2, RFC 4106 §5).
    fn seal(&self, number: u64, plaintext: &[u8]) -> Vec<u8> {
        let spi = SPI.to_be_bytes();
        let low = (number as u32).to_be_bytes();
        let aad = if self.esn { [&spi, &number.to_be_bytes()[..]].concat() } else { [spi, low].concat() };
        let iv = number.to_be_bytes();
        let mut nonce = [0; SALT_LEN + 8];
        nonce[..SALT_LEN].copy_from_slice(&self.salt);
        nonce[SALT_LEN..].copy_from_slice(&iv);
        let (mut text, mut icv) = (plaintext.to_vec(), [0; ICV_LEN]);
        self.context.seal_in_place(&nonce, &aad, &mut text, &mut icv).expect("no longer than a packet");
        [&spi[..], &low, &iv, &text, &icv].concat()
    }
}

fn admission(sa: &mut InboundSa, opened: &Opened) -> &'static str {
    match sa.admit(opened) {
        Admission::Deliver => "deliver",
        Admission::AboveHorizon => "above",
        Admission::Replayed => "replayed",
    }
}
