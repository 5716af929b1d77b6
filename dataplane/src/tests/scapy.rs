//! Scapy as remote peer of a whole worker: frames that it seals reach their target, frames that we send it opens, over the cross product
//! of families, modes, encapsulations, numbers, windows and algorithms.

use std::net::IpAddr;

use serde_json::{Value, json};
use vipsec_esp::sa::{Algorithm, ChildSa, KeyMaterial, Mode, TunnelEnds};
use vipsec_wire::ethernet::Header;
use vipsec_wire::ip;
use zeroize::Zeroizing;

use super::dual_stack::{PEER6, both};
use super::peer::{PEER, child, selector};
use super::scene::*;
use crate::api::Command as Order;
use crate::worker::WorkerConfig;

#[path = "../../testing/scapy_process.rs"]
mod scapy_process;

/// Anti-replay windows: the least, one that fills its ring, the most.
const WINDOWS: [u32; 3] = [64, 448, 8192];

/// The last number used: a new SA, and with ESN one whose low half is about to come round.
const SENT: [(bool, u64); 4] = [(false, 0), (false, 0xffff_ff00), (true, 0), (true, 0x7_ffff_fffd)];

/// Packets of a case each way: enough for the low half to come round.
const PACKETS: usize = 5;

#[derive(Debug, Clone, Copy)]
struct Case {
    outer_v6: bool,
    inner_v6: bool,
    mode: Mode,
    in_udp: bool,
    esn: bool,
    sent: u64,
    window: u32,
    algorithm: Algorithm,
}

/// Everything with everything; transport mode has no inner family of its own.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (outer_v6, inner_v6, mode) in [
        (false, false, Mode::Tunnel),
        (false, true, Mode::Tunnel),
        (true, false, Mode::Tunnel),
        (true, true, Mode::Tunnel),
        (false, false, Mode::Transport),
        (true, true, Mode::Transport),
    ] {
        for (in_udp, (esn, sent)) in [false, true].into_iter().flat_map(|in_udp| SENT.map(|sent| (in_udp, sent))) {
            for (window, algorithm) in WINDOWS.into_iter().flat_map(|window| Algorithm::ALL.map(|own| (window, own))) {
                cases.push(Case { outer_v6, inner_v6, mode, in_udp, esn, sent, window, algorithm });
            }
        }
    }
    cases
}

fn keymat(algorithm: Algorithm, half: u8) -> Vec<u8> {
    (0..algorithm.key_len() as u8 + 4).map(|byte| byte.wrapping_mul(11) ^ half).collect()
}

impl Case {
    fn child(self) -> ChildSa {
        let Self { outer_v6, mode, in_udp, esn, sent, window, algorithm, .. } = self;
        let key = |half| KeyMaterial::new(algorithm, Zeroizing::new(keymat(algorithm, half))).unwrap();
        let mut child = both(outer_v6, in_udp.then_some((4500, 61000)));
        child.mode = mode;
        if mode == Mode::Transport {
            child.remote_selectors = vec![selector("203.0.113.5/32"), selector("2001:db8:f::5/128")];
        }
        (child.inbound.algorithm, child.inbound.key) = (algorithm, key(1));
        (child.inbound.esn, child.inbound.edge, child.inbound.window) = (esn, sent, window);
        (child.outbound.algorithm, child.outbound.key) = (algorithm, key(2));
        (child.outbound.esn, child.outbound.sent) = (esn, sent);
        child
    }

    /// The remote host and the VIP inside.
    fn ends(self) -> (IpAddr, IpAddr) {
        match (self.mode, self.inner_v6) {
            (Mode::Tunnel, false) => (REMOTE.into(), VIP.into()),
            (Mode::Tunnel, true) => (REMOTE6.into(), VIP6.into()),
            (Mode::Transport, false) => (PEER.into(), VIP.into()),
            (Mode::Transport, true) => (PEER6.into(), VIP6.into()),
        }
    }

    /// The n-th packet of a remote host, or of a target to it; each remainder of four, short and long.
    fn packet(self, to_vip: bool, n: usize) -> Vec<u8> {
        let (remote, vip) = self.ends();
        let payload = vec![n as u8; [0, 1, 2, 3, 1100][n % PACKETS]];
        match to_vip {
            true => udp_between((remote, 40000), (vip, 53), &payload),
            false => udp_between((vip, 53), (remote, 40000), &payload),
        }
    }

    fn numbers(self) -> impl Iterator<Item = u64> {
        (1..=PACKETS as u64).map(move |n| self.sent + n)
    }

    /// What scapy has to know of one half.
    fn question(self, op: &str, spi: u32, half: u8, packets: Vec<Value>) -> Value {
        let TunnelEnds { local, remote, udp } = self.child().tunnel;
        json!({
            "op": op,
            "algorithm": match self.algorithm {
                Algorithm::Aes128Gcm | Algorithm::Aes256Gcm => "AES-GCM",
                Algorithm::ChaCha20Poly1305 => "CHACHA20-POLY1305",
            },
            "keymat": hex::encode(keymat(self.algorithm, half)),
            "spi": spi,
            "esn": self.esn,
            "tunnel": self.mode == Mode::Tunnel,
            "vip": local.to_string(),
            "peer": remote.to_string(),
            "udp": udp.map(|(local, remote)| [local, remote]),
            "packets": packets,
        })
    }
}

/// Asks scapy about all cases at once; for each packet of each case it answers in bytes.
fn ask(questions: &[Value]) -> Vec<Vec<Vec<u8>>> {
    let modules = "scapy.layers.ipsec, cryptography.hazmat.primitives.ciphers.aead";
    let answers = scapy_process::ask(include_str!("scapy_peer.py"), modules, questions);
    let packet = |packet: &Value| hex::decode(packet.as_str().expect("text")).expect("hex");
    answers.iter().map(|packets| packets.as_array().expect("a list").iter().map(packet).collect()).collect()
}

/// A packet after a hop: time to live less one.
fn a_hop_later(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    vipsec_wire::ip::decrement_ttl(&mut packet).unwrap();
    packet
}

#[test]
fn whole_frames_of_scapy_are_taken_and_ours_are_opened_by_it() {
    let cases = cases();
    let (spi_in, spi_out) = (child(1).inbound.spi.get(), child(1).outbound.spi.get());
    let to_seal: Vec<Value> = cases
        .iter()
        .map(|case| {
            let packets = case.numbers().enumerate();
            let packets = packets.map(|(n, number)| json!([number, hex::encode(case.packet(true, n))])).collect();
            case.question("seal", spi_in, 1, packets)
        })
        .collect();
    let sealed = ask(&to_seal);

    let mut to_open = Vec::new();
    for (case, sealed) in cases.iter().zip(&sealed) {
        let mut scene = Scene::with(dual_stack(), &WorkerConfig::default());
        scene.command(Order::InstallChild(Box::new(case.child())));
        for (n, packet) in sealed.iter().enumerate() {
            scene.receive(OUTSIDE, &to_vip(packet));
            let delivered = scene.one_sent_with_arp(INSIDE);
            let (ethernet, inner) = Header::parse(&delivered).unwrap();
            assert_eq!(ethernet.source, GATEWAY_MAC, "{case:?}");
            let expected = a_hop_later(&case.packet(true, n));
            match case.mode {
                Mode::Tunnel => assert_eq!(inner, expected, "{case:?}, packet {n}"),
                // The header is the outer one's, whose identification is scapy's business.
                Mode::Transport => {
                    let (header, wanted) = (ip::Header::parse(inner).unwrap(), ip::Header::parse(&expected).unwrap());
                    assert_eq!((header.source, header.destination), (wanted.source, wanted.destination), "{case:?}");
                    assert_eq!(header.payload(inner), wanted.payload(&expected), "{case:?}, packet {n}");
                }
            }
        }
        let frames: Vec<Vec<u8>> = (0..PACKETS)
            .map(|n| {
                scene.receive(INSIDE, &to_gateway(&case.packet(false, n)));
                scene.one_sent_with_arp(OUTSIDE)
            })
            .collect();
        scene.assert_nothing_dropped();
        let packets = case.numbers().zip(&frames);
        let packets = packets.map(|(number, frame)| json!([number, hex::encode(&frame[14..])])).collect();
        to_open.push(case.question("open", spi_out, 2, packets));
    }

    for (case, opened) in cases.iter().zip(ask(&to_open)) {
        for (n, opened) in opened.iter().enumerate() {
            assert_eq!(*opened, a_hop_later(&case.packet(false, n)), "{case:?}: scapy opened packet {n}");
        }
    }
}
