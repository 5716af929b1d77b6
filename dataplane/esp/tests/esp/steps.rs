//! Packets whose ops somebody else does: a device between `prepare` and `complete`.

use vipsec_esp::engine::{BadTag, Context, EngineKind};
use vipsec_esp::error::EspError;
use vipsec_esp::header::{HEADER_LEN, ICV_LEN};
use vipsec_esp::inbound::{Admission, InboundSa};
use vipsec_esp::op::{AAD_ESN_LEN, AAD_LEN, CryptoOp};
use vipsec_esp::outbound::OutboundSa;
use vipsec_esp::sa::{Algorithm, InboundParams, OutboundParams};
use vipsec_wire::buffer::{PacketBuf, VecBuf};

use crate::support::{IPV4, bytes, inbound, inbound_params, keymat, outbound, outbound_params, pair, seal};

/// A crypto device that was told the key when the SA was installed, and per packet what an op says.
struct Device(Context);

impl Device {
    fn new(algorithm: Algorithm) -> Self {
        let key = &keymat(algorithm)[..algorithm.key_len()];
        Self(Context::new(EngineKind::AesGcm, algorithm, key).expect("a key"))
    }

    fn encrypt(&self, packet: &mut VecBuf, op: &CryptoOp) {
        let mut icv = [0; ICV_LEN];
        let text = &mut packet.data_mut()[op.text()];
        self.0.seal_in_place(op.nonce(), op.aad(), text, &mut icv).expect("encrypted");
        packet.data_mut()[op.icv()].copy_from_slice(&icv);
    }

    fn decrypt(&self, packet: &mut VecBuf, op: &CryptoOp) -> Result<(), BadTag> {
        let icv: [u8; ICV_LEN] = packet.data()[op.icv()].try_into().expect("16 bytes");
        self.0.open_in_place(op.nonce(), op.aad(), &mut packet.data_mut()[op.text()], &icv)
    }
}

#[test]
fn a_device_makes_and_reads_the_same_packets_as_an_engine() {
    for algorithm in Algorithm::ALL {
        for esn in [false, true] {
            let device = Device::new(algorithm);
            let out_params = OutboundParams { esn, ..outbound_params(algorithm) };
            let in_params = InboundParams { esn, ..inbound_params(algorithm) };
            let (mut by_device, mut by_engine) = (outbound(&out_params), outbound(&out_params));
            let mut into = inbound(&in_params);
            for len in 0..70 {
                let payload = vec![0x45; len];
                let mut packet = VecBuf::from_bytes(&payload);
                let sealing = by_device.prepare(&mut packet, IPV4).unwrap();
                assert_eq!(sealing.op().aad().len(), if esn { AAD_ESN_LEN } else { AAD_LEN });
                assert_eq!((sealing.op().text().start, sealing.op().icv().end), (HEADER_LEN, packet.data().len()));
                device.encrypt(&mut packet, sealing.op());
                assert_eq!(packet, seal(&mut by_engine, &payload), "{algorithm:?}, {len} bytes");

                let opening = into.prepare(packet.data()).unwrap();
                let verdict = device.decrypt(&mut packet, opening.op());
                let opened = opening.complete(&mut packet, verdict).unwrap();
                assert_eq!((opened.number, packet.data()), (sealing.number(), payload.as_slice()));
                assert_eq!(into.admit(&opened), Admission::Deliver);
            }
        }
    }
}

#[test]
fn numbers_are_used_up_when_a_packet_is_prepared() {
    let (mut out, _) = pair(|_, _| ());
    let prepare = |out: &mut OutboundSa| out.prepare(&mut VecBuf::from_bytes(&[0x45; 20]), IPV4).unwrap().number();
    // A device that loses its ops costs numbers, and never repeats one.
    assert_eq!([prepare(&mut out), prepare(&mut out)], [1, 2]);
    assert_eq!(bytes(&seal(&mut out, &[0x45; 20]))[4..8], [0, 0, 0, 3]);
}

#[test]
fn the_window_is_asked_again_when_a_device_is_done() {
    let (mut out, mut into) = pair(|_, _| ());
    let whole = bytes(&seal(&mut out, &[0x45; 20]));
    // Twice on its way through the device at the same time.
    let packets = [VecBuf::from_bytes(&whole), VecBuf::from_bytes(&whole)];
    let openings = packets.each_ref().map(|packet| into.prepare(packet.data()).unwrap());
    let mut admissions = Vec::new();
    for (mut packet, opening) in packets.into_iter().zip(openings) {
        let verdict = into.decrypt(&mut packet, opening.op());
        let opened = opening.complete(&mut packet, verdict).unwrap();
        admissions.push(into.admit(&opened));
    }
    assert_eq!(admissions, [Admission::Deliver, Admission::Replayed]);
}

#[test]
fn what_a_device_refuses_is_refused() {
    let (mut out, into) = pair(|_, _| ());
    let mut packet = seal(&mut out, &[0x45; 20]);
    let opening = into.prepare(packet.data()).unwrap();
    assert_eq!(opening.complete(&mut packet, Err(BadTag)), Err(EspError::BadIcv));
}

#[test]
fn an_op_tells_nothing_of_the_nonce() {
    let (mut out, _) = pair(|_, _| ());
    let sealing = out.prepare(&mut VecBuf::from_bytes(&[0x45; 20]), IPV4).unwrap();
    let salt = &sealing.op().nonce()[..4];
    let printed = format!("{sealing:?}");
    assert!(!printed.contains(&format!("{}, {}, {}", salt[0], salt[1], salt[2])), "{printed}");
}

#[test]
fn an_op_that_is_not_the_packets_harms_nobody() {
    // A device mixed up two packets.
    let (mut out, into) = pair(|_, _| ());
    let long = seal(&mut out, &[0x45; 200]);
    let mut short = seal(&mut out, &[0x45; 20]);
    let opening = into.prepare(long.data()).unwrap();
    assert_eq!(into.decrypt(&mut short, opening.op()), Err(BadTag));
    assert_eq!(opening.complete(&mut short, Ok(())), Err(EspError::Truncated));
    let mut empty = VecBuf::from_bytes(&[]);
    let sealing = out.prepare(&mut VecBuf::from_bytes(&[0x45; 20]), IPV4).unwrap();
    assert_eq!(out.encrypt(&mut empty, sealing), Err(EspError::NoRoom));
}

#[test]
fn engines_share_their_packets() {
    for algorithm in Algorithm::ALL {
        for sealer in EngineKind::available() {
            let mut out = OutboundSa::new(sealer, &outbound_params(algorithm)).unwrap();
            for len in [0, 1, 2, 3, 64, 1420] {
                let payload = vec![0x60; len];
                let sealed = bytes(&seal(&mut out, &payload));
                for opener in EngineKind::available() {
                    let into = InboundSa::new(opener, &inbound_params(algorithm)).unwrap();
                    let mut packet = VecBuf::from_bytes(&sealed);
                    into.open(&mut packet).unwrap_or_else(|error| panic!("{sealer} to {opener}: {error}"));
                    assert_eq!(packet.data(), payload, "{sealer} to {opener}");
                }
            }
        }
    }
}
