//! Scapy as the remote peer: it opens what we seal, we open what it seals, and with the same IV both make the same bytes.

use serde_json::{Value, json};
use vipsec_esp::engine::EngineKind;
use vipsec_esp::inbound::{Admission, InboundSa};
use vipsec_esp::outbound::OutboundSa;
use vipsec_esp::sa::Algorithm;
use vipsec_wire::buffer::{PacketBuf, VecBuf};

use crate::support::{IPV4, bytes, inbound_params, keymat, outbound_params, spi};

#[path = "../../../testing/scapy_process.rs"]
mod scapy_process;

const IPV6: u8 = 41;

/// An IP protocol for experiments, so that scapy takes its payload as it is.
const EXPERIMENTAL: u8 = 253;

/// Lengths of the payloads: each remainder of four, short and long.
const LENGTHS: [usize; 8] = [40, 41, 42, 43, 64, 512, 1420, 1421];

/// What a packet's payload is.
#[derive(Debug, Clone, Copy)]
struct Kind {
    mode: &'static str,
    version: u8,
    next_header: u8,
}

const KINDS: [Kind; 4] = [
    Kind { mode: "tunnel", version: 4, next_header: IPV4 },
    Kind { mode: "tunnel", version: 6, next_header: IPV6 },
    Kind { mode: "transport", version: 4, next_header: EXPERIMENTAL },
    Kind { mode: "transport", version: 6, next_header: EXPERIMENTAL },
];

/// Asks scapy about all cases at once.
fn ask(cases: &[Value]) -> Vec<Value> {
    let modules = "scapy.layers.ipsec, cryptography.hazmat.primitives.ciphers.aead";
    scapy_process::ask(include_str!("scapy_peer.py"), modules, cases)
}

/// In tunnel mode an IP packet, in transport mode what follows an IP header.
fn payload(kind: Kind, len: usize) -> Vec<u8> {
    let mut payload: Vec<u8> = (0..len).map(|index| (index * 31) as u8).collect();
    match kind.next_header {
        IPV4 => {
            payload[..12].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0, 0, 64, EXPERIMENTAL, 0, 0]);
            payload[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        }
        IPV6 => {
            payload[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, EXPERIMENTAL, 64]);
            payload[4..6].copy_from_slice(&(len as u16 - 40).to_be_bytes());
        }
        _ => {}
    }
    payload
}

/// Scapy's word for an algorithm; it tells the key's length from the key.
fn scapy_name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Aes128Gcm | Algorithm::Aes256Gcm => "AES-GCM",
        Algorithm::ChaCha20Poly1305 => "CHACHA20-POLY1305",
    }
}

fn field(answer: &Value, name: &str) -> Vec<u8> {
    hex::decode(answer[name].as_str().expect("a string")).expect("hex")
}

#[test]
fn scapy_and_we_understand_each_other() {
    let mut cases = Vec::new();
    let mut ours = Vec::new();
    for engine in EngineKind::available() {
        for algorithm in Algorithm::ALL {
            for (esn, start) in [(false, 0), (false, 0xffff_ff00), (true, 0), (true, 0x12_89ab_cdef)] {
                let (mut out, mut into) = (outbound_params(algorithm), inbound_params(algorithm));
                (out.esn, out.sent, into.esn, into.edge) = (esn, start, esn, start);
                let mut out = OutboundSa::new(engine, &out).expect("sound parameters");
                let mut expected = Vec::new();
                for (kind, len) in KINDS.into_iter().flat_map(|kind| LENGTHS.map(|len| (kind, len))) {
                    let payload = payload(kind, len);
                    let mut packet = VecBuf::from_bytes(&payload);
                    let number = out.seal(&mut packet, kind.next_header).expect("sealed");
                    cases.push(json!({
                        "algorithm": scapy_name(algorithm),
                        "keymat": hex::encode(keymat(algorithm)),
                        "spi": spi().get(),
                        "esn": esn,
                        "number": number,
                        "mode": kind.mode,
                        "version": kind.version,
                        "next_header": kind.next_header,
                        "sealed": hex::encode(packet.data()),
                        "payload": hex::encode(&payload),
                    }));
                    expected.push((number, kind, payload, bytes(&packet)));
                }
                ours.push((InboundSa::new(engine, &into).expect("sound parameters"), expected));
            }
        }
    }

    let answers = ask(&cases);
    let mut answers = answers.iter();
    for (mut into, expected) in ours {
        for (number, kind, payload, sealed) in expected {
            let answer = answers.next().expect("an answer for each case");
            assert_eq!(field(answer, "opened"), payload, "scapy opened {number} of {into:?}, {kind:?}");
            assert_eq!(answer["next_header"], kind.next_header);
            assert_eq!(field(answer, "same_iv"), sealed, "both sealed {number} of {into:?}, {kind:?}");

            let mut packet = VecBuf::from_bytes(&field(answer, "own_iv"));
            let opened = into.open(&mut packet).unwrap_or_else(|error| panic!("{number} of {into:?}: {error}"));
            assert_eq!((opened.number, opened.next_header), (number, kind.next_header));
            assert_eq!(packet.data(), payload);
            assert_eq!(into.admit(&opened), Admission::Deliver);
        }
    }
}
