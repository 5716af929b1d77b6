//! Scapy as the remote peer: it opens what we seal, we open what it seals, and with the same IV both make the same bytes.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use vipsec_esp::engine::EngineKind;
use vipsec_esp::inbound::{Admission, InboundSa};
use vipsec_esp::outbound::OutboundSa;
use vipsec_wire::buffer::{PacketBuf, VecBuf};

use crate::support::{ALGORITHMS, IPV4, bytes, inbound_params, keymat, outbound_params, spi};

const IPV6: u8 = 41;

/// Lengths of the inner packets: each remainder of four, short and long.
const LENGTHS: [usize; 10] = [40, 41, 42, 43, 64, 512, 1279, 1419, 1420, 1421];

/// The Python that has scapy: the one on the path or the system's own.
fn python() -> &'static str {
    ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(|python| {
            Command::new(python)
                .args(["-c", "import scapy.layers.ipsec, cryptography.hazmat.primitives.ciphers.aead"])
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        })
        .expect("this test needs scapy as an independent ESP: install python3-scapy and python3-cryptography")
}

/// Asks scapy about all cases at once.
fn ask(cases: &[Value]) -> Vec<Value> {
    let mut peer = Command::new(python())
        .args(["-c", include_str!("scapy_peer.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python starts");
    let question = serde_json::to_vec(cases).expect("JSON");
    peer.stdin.take().expect("piped").write_all(&question).expect("scapy reads its cases");
    let output = peer.wait_with_output().expect("Python ends");
    assert!(output.status.success(), "scapy failed; its error is above");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// An inner packet of a protocol number for experiments, so that scapy takes its payload as it is.
fn inner(next_header: u8, len: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..len).map(|index| (index * 31) as u8).collect();
    if next_header == IPV4 {
        packet[..12].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0, 0, 64, 253, 0, 0]);
        packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    } else {
        packet[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, 253, 64]);
        packet[4..6].copy_from_slice(&(len as u16 - 40).to_be_bytes());
    }
    packet
}

fn field(answer: &Value, name: &str) -> Vec<u8> {
    hex::decode(answer[name].as_str().expect("a string")).expect("hex")
}

#[test]
fn scapy_and_we_understand_each_other() {
    let mut cases = Vec::new();
    let mut ours = Vec::new();
    for engine in EngineKind::available() {
        for algorithm in ALGORITHMS {
            for (esn, start) in [(false, 0), (false, 0xffff_ff00), (true, 0), (true, 0x12_89ab_cdef)] {
                let (mut out, mut into) = (outbound_params(algorithm), inbound_params(algorithm));
                (out.esn, out.sent, into.esn, into.edge) = (esn, start, esn, start);
                let mut out = OutboundSa::new(engine, &out).expect("sound parameters");
                let mut expected = Vec::new();
                for next_header in [IPV4, IPV6] {
                    for len in LENGTHS {
                        let inner = inner(next_header, len);
                        let mut packet = VecBuf::from_bytes(&inner);
                        let number = out.seal(&mut packet, next_header).expect("sealed");
                        cases.push(json!({
                            "keymat": hex::encode(keymat(algorithm)),
                            "spi": spi().get(),
                            "esn": esn,
                            "number": number,
                            "sealed": hex::encode(packet.data()),
                            "inner": hex::encode(&inner),
                        }));
                        expected.push((number, next_header, inner, bytes(&packet)));
                    }
                }
                ours.push((InboundSa::new(engine, &into).expect("sound parameters"), expected));
            }
        }
    }

    let answers = ask(&cases);
    assert_eq!(answers.len(), cases.len());
    let mut answers = answers.iter();
    for (mut into, expected) in ours {
        for (number, next_header, inner, sealed) in expected {
            let answer = answers.next().expect("an answer for each case");
            assert_eq!(field(answer, "opened"), inner, "scapy opened {number} of {into:?}");
            assert_eq!(answer["next_header"], next_header);
            assert_eq!(field(answer, "same_iv"), sealed, "both sealed {number} of {into:?}");

            let mut packet = VecBuf::from_bytes(&field(answer, "own_iv"));
            let opened = into.open(&mut packet).unwrap_or_else(|error| panic!("{number} of {into:?}: {error}"));
            assert_eq!((opened.number, opened.next_header), (number, next_header));
            assert_eq!(packet.data(), inner);
            assert_eq!(into.admit(&opened), Admission::Deliver);
        }
    }
}
