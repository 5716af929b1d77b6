//! The remote peers' half of ESP, judged by vipsec-esp's other half and by scapy, with keys from a file as vipsecd reads it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use vipsec_control::config::{Config, TestConfiguration, load};
use vipsec_esp::engine::EngineKind;
use vipsec_esp::inbound::{Admission, InboundSa};
use vipsec_esp::outbound::OutboundSa;
use vipsec_trafficgen::generator::{Generator, PortPlan, Reaction, Stations};
use vipsec_trafficgen::header::{Payload, Run};
use vipsec_trafficgen::packet::{Transport, examine};
use vipsec_trafficgen::size::Sizes;
use vipsec_trafficgen::stream::{Load, PlanError};
use vipsec_trafficgen::time::Stamp;
use vipsec_trafficgen::tunnel::Numbers;
use vipsec_trafficgen::world::{Direction, Encapsulation, FlowSetting, PortSetting, Role, World, WorldError};
use vipsec_wire::buffer::{Burst, PacketBuf, VecBuf, VecPool};
use vipsec_wire::ethernet::{HEADER_LEN, MacAddr};
use vipsec_wire::ip::{self, protocol};
use vipsec_wire::ipv4;
use vipsec_wire::udp;

const MACS: [MacAddr; 2] = [MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])];
const VIP_MAC: MacAddr = MacAddr([2, 0x76, 192, 0, 2, 1]);
const NOW: Stamp = Stamp::from_nanos(1_000_000_000);

/// Two child SAs: AES-256 in protocol 50, and AES-128 in UDP from behind a router with extended numbers.
const KEYS: &str = r#"
[[child]]
spi_in = 0x01000001
spi_out = 0x02000001
algorithm = "aes256gcm16"
key_in = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223"
key_out = "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9fa0a1a2a3"
local = "192.0.2.1"
remote = "192.0.2.100"
local_ts = ["192.0.2.1/32"]
remote_ts = ["10.9.0.0/24"]
[[child]]
spi_in = 0x01000002
spi_out = 0x02000002
algorithm = "aes128gcm16"
key_in = "404142434445464748494a4b4c4d4e4f50515253"
key_out = "c0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3"
local = "192.0.2.1"
remote = "198.51.100.7"
udp = { local = 4500, remote = 61000 }
local_ts = ["192.0.2.1/32"]
remote_ts = ["10.9.1.7/32"]
esn = true
"#;

fn config() -> Config {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.toml");
    fs::write(&keys, KEYS).unwrap();
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).unwrap();
    let file = folder.path().join("vipsecd.toml");
    let text = r#"
        [appliance]
        id = 1
        name = "a"
        [[port]]
        name = "outside"
        side = "outside"
        device = "net_ring0"
        addresses = ["192.0.2.11/24"]
        [[port]]
        name = "inside"
        side = "inside"
        device = "net_ring1"
        addresses = ["10.1.0.11/24"]
        [[route]]
        prefix = "0.0.0.0/0"
        via = "192.0.2.254"
        port = "outside"
        [[vip]]
        name = "web"
        address = "192.0.2.1"
        port = "outside"
        gateways = [{ address = "10.1.0.1", port = "inside" }]
        [[target]]
        name = "t1"
        address = "10.1.0.21"
        [[service]]
        vip = "web"
        protocol = "udp"
        port = 7
        targets = ["t1"]
        [test]
        keys_file = "keys.toml"
    "#;
    fs::write(&file, text).unwrap();
    load(&file, TestConfiguration::Accepted).unwrap_or_else(|errors| panic!("{errors}"))
}

fn setting(direction: Direction) -> FlowSetting {
    FlowSetting {
        flows: 6,
        sas: None,
        direction: Some(direction),
        encapsulation: Encapsulation::Esp,
        transport: None,
        source_port: 1024,
        destination_port: None,
        sizes: Sizes::fixed(100),
        looked_for: true,
    }
}

const PORTS: [PortSetting; 2] = [
    PortSetting { role: Role::Peers, eth_peer: Some(VIP_MAC) },
    PortSetting { role: Role::Targets, eth_peer: Some(VIP_MAC) },
];

fn world(config: &Config, setting: &FlowSetting, numbers: Numbers) -> Result<World, WorldError> {
    World::new(config, &PORTS, setting, |_| numbers)
}

fn generator(world: World) -> Generator<VecPool> {
    let ports = world.links.into_iter().zip(MACS).map(|(link, mac)| PortPlan {
        mac,
        mtu: 1500,
        link,
        stations: Stations::Own,
        reaction: Reaction::Count,
    });
    let ports: Vec<PortPlan> = ports.collect();
    Generator::new(VecPool::new(1000), &ports, world.streams, world.tunnels, Run(1), NOW).unwrap()
}

fn load_of(count: u64) -> Load {
    Load { count: Some(count), burst: 32, bucket: Duration::from_millis(10), ..Load::default() }
}

/// What leaves by a port, without Ethernet header.
fn sent(generator: &mut Generator<VecPool>, port: usize) -> Vec<VecBuf> {
    let leaving = generator.poll_transmit(NOW, port).unwrap();
    let mut packets: Vec<VecBuf> = leaving.drain(..).collect();
    generator.handle_transmitted(NOW, port, packets.len());
    for packet in &mut packets {
        assert_eq!(packet.data()[..6], VIP_MAC.octets());
        packet.trim_front(HEADER_LEN).unwrap();
    }
    packets
}

/// Takes off the outer headers. Returns whether ESP was in UDP.
fn outer(packet: &mut VecBuf) -> bool {
    let header = ip::Header::parse(packet.data()).unwrap();
    assert_eq!(header.destination.to_ip().to_string(), "192.0.2.1");
    packet.trim_front(header.header_len).unwrap();
    if header.protocol == protocol::ESP {
        assert_eq!(header.source.to_ip().to_string(), "192.0.2.100");
        return false;
    }
    assert_eq!(header.source.to_ip().to_string(), "198.51.100.7");
    let datagram = udp::Datagram::parse(packet.data()).unwrap();
    assert_eq!((datagram.source_port(), datagram.destination_port(), datagram.checksum()), (61000, 4500, 0));
    packet.trim_front(udp::HEADER_LEN).unwrap();
    true
}

#[test]
fn the_appliances_half_opens_what_the_peers_seal() {
    let config = config();
    let mut generator = generator(world(&config, &setting(Direction::Up), Numbers::default()).unwrap());
    assert!(generator.is_ready());
    generator.begin(NOW, load_of(24));
    let mut halves: Vec<InboundSa> = config
        .static_children
        .iter()
        .map(|child| InboundSa::new(EngineKind::auto(), &child.inbound).unwrap())
        .collect();
    for (number, mut packet) in sent(&mut generator, 0).into_iter().enumerate() {
        let sa = number % 2;
        assert_eq!(outer(&mut packet), sa == 1);
        let opened = halves[sa].open(&mut packet).unwrap();
        assert_eq!((opened.number, opened.next_header), (number as u64 / 2 + 1, protocol::IPV4));
        assert_eq!(halves[sa].admit(&opened), Admission::Deliver);
        let flow = number % 6;
        let inner = ip::Header::parse(packet.data()).unwrap();
        let source = if sa == 0 { "10.9.0.1" } else { "10.9.1.7" };
        assert_eq!((inner.source.to_ip().to_string(), inner.total_len), (source.to_owned(), 100 - HEADER_LEN));
        let datagram = udp::Datagram::parse(inner.payload(packet.data())).unwrap();
        assert_eq!((datagram.source_port(), datagram.destination_port()), (1024 + flow as u16 / 2, 7));
        let Payload::Generated(header) = examine(packet.data()) else { panic!("packet {number}") };
        assert_eq!((header.flow as usize, header.sequence), (flow, number as u64 / 6));
    }
}

#[test]
fn the_peers_open_what_the_appliances_half_seals() {
    let config = config();
    let mut generator = generator(world(&config, &setting(Direction::Down), Numbers::default()).unwrap());
    generator.begin(NOW, load_of(30));
    let mut halves: Vec<OutboundSa> = config
        .static_children
        .iter()
        .map(|child| OutboundSa::new(EngineKind::auto(), &child.outbound).unwrap())
        .collect();
    let replies = sent(&mut generator, 1);
    assert_eq!(replies.len(), 30);
    for (number, mut packet) in replies.into_iter().enumerate() {
        let inner = ip::Header::parse(packet.data()).unwrap();
        assert_eq!(inner.source.to_ip().to_string(), "192.0.2.1");
        let child = &config.static_children[number % 2];
        assert!(child.remote_selectors[0].addresses.contains(&inner.destination.to_ip()));
        halves[number % 2].seal(&mut packet, protocol::IPV4).unwrap();
        let mut payload_len = packet.data().len() as u16;
        let mut kind = protocol::ESP;
        if let Some((source_port, destination_port)) = child.tunnel.udp {
            packet.prepend(udp::HEADER_LEN).unwrap();
            udp::Repr { source_port, destination_port, payload_len }.emit(packet.data_mut()).unwrap();
            (kind, payload_len) = (protocol::UDP, payload_len + udp::HEADER_LEN as u16);
        }
        let outer = ip::Repr::new(child.tunnel.local, child.tunnel.remote, kind, payload_len).unwrap();
        packet.prepend(ipv4::HEADER_LEN).unwrap();
        outer.emit(packet.data_mut()).unwrap();
        let mut frame = [MACS[0].octets(), VIP_MAC.octets()].concat();
        frame.extend([0x08, 0x00]);
        frame.extend(packet.data());
        if number == 29 {
            *frame.last_mut().unwrap() ^= 1;
        }
        let mut arriving: Burst<VecBuf> =
            [VecBuf::from_bytes(&frame), VecBuf::from_bytes(&frame)].into_iter().collect();
        if number != 3 {
            arriving.pop();
        }
        generator.handle_burst(NOW.after(Duration::from_micros(50)), 0, &mut arriving);
    }
    let report = generator.report();
    let arrivals = report.streams[0].arrivals.as_ref().unwrap();
    assert_eq!((arrivals.received, arrivals.lost, arrivals.duplicates), (29, 1, 0));
    assert_eq!((report.ports[0].events["esp_replayed"], report.ports[0].events["esp_bad_icv"]), (1, 1));
}

#[test]
fn numbers_go_on_behind_those_that_a_running_appliance_has_seen() {
    let config = config();
    let used = Numbers { to_appliance: 1000, from_appliance: 77 };
    let mut generator = generator(world(&config, &setting(Direction::Up), used).unwrap());
    generator.begin(NOW, load_of(1));
    let mut packet = sent(&mut generator, 0).remove(0);
    outer(&mut packet);
    assert_eq!(packet.data()[4..8], 1001u32.to_be_bytes());
}

#[test]
fn the_port_of_the_peers_answers_for_neighbours_and_routers_that_of_the_targets_for_targets() {
    let world = world(&config(), &setting(Direction::Both), Numbers::default()).unwrap();
    let addresses = |port: usize| world.links[port].addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(addresses(0), ["192.0.2.100", "192.0.2.254"], "198.51.100.7 is behind the router");
    assert_eq!(addresses(1), ["10.1.0.21"]);
    assert_eq!(world.streams.len(), 2);
    assert_eq!((world.streams[0].tx_port, world.streams[0].rx_port), (0, Some(1)));
    assert_eq!((world.streams[1].tx_port, world.streams[1].rx_port), (1, Some(0)));
}

#[test]
fn what_cannot_be_is_refused_in_words() {
    let config = config();
    let refused = |change: &dyn Fn(&mut FlowSetting)| {
        let mut setting = setting(Direction::Up);
        change(&mut setting);
        world(&config, &setting, Numbers::default()).unwrap_err().to_string()
    };
    assert_eq!(refused(&|setting| setting.sas = Some(3)), "--sas=3 of 2 child SAs");
    // Its second SA has a single address and 64512 ports.
    let said = refused(&|setting| setting.flows = 2 * 64_512 + 2);
    assert_eq!(said, "child SA 01000002 has too few addresses for 129026 flows: at most 64512 differ");
    let only_targets = World::new(&config, &PORTS[1..], &setting(Direction::Up), |_| Numbers::default());
    assert!(matches!(only_targets, Err(WorldError::NobodySends { direction: "up", .. })));

    let mut too_long = setting(Direction::Up);
    too_long.sizes = Sizes::fixed(1514);
    let world = world(&config, &too_long, Numbers::default()).unwrap();
    let ports = world.links.into_iter().zip(MACS).map(|(link, mac)| PortPlan {
        mac,
        mtu: 1500,
        link,
        stations: Stations::Own,
        reaction: Reaction::Count,
    });
    let ports: Vec<PortPlan> = ports.collect();
    let error = Generator::new(VecPool::new(1), &ports, world.streams, world.tunnels, Run(1), NOW).unwrap_err();
    // RFC 4303 §2: 1500 + 20 outer header + 16 ESP header and IV + 2 trailer (1502 padded to 1504) + 16 ICV.
    let expected = PlanError::TooLong { port: 0, found: 1514, packet: 1556, mtu: 1500, fits: 1460 };
    assert_eq!(error, expected);
}

#[test]
fn the_same_flows_can_go_in_clear() {
    let mut setting = setting(Direction::Both);
    setting.encapsulation = Encapsulation::Clear { source: [192, 0, 2, 200].into() };
    let world = world(&config(), &setting, Numbers::default()).unwrap();
    let [up, down] = world.streams.as_slice() else { panic!("{:?}", world.streams) };
    let flow = up.source.flows()[1];
    assert_eq!(
        (flow.tuple.source, flow.tuple.destination),
        (([192, 0, 2, 200].into(), 1025), ([192, 0, 2, 1].into(), 7))
    );
    assert_eq!((flow.tunnel, down.source.flows()[1].tuple), (None, flow.tuple.reversed()));
    assert!(world.links[0].addresses.contains(&[192, 0, 2, 200].into()), "answers come back to it");
    assert!(world.tunnels.tunnels().is_empty());
}

#[test]
fn the_transport_can_be_chosen() {
    let mut setting = setting(Direction::Up);
    (setting.transport, setting.destination_port) = (Some(Transport::Tcp), Some(80));
    let world = world(&config(), &setting, Numbers::default()).unwrap();
    let flow = world.streams[0].source.flows()[3];
    assert_eq!((flow.tuple.transport, flow.tuple.destination.1), (Transport::Tcp, 80));
}

/// scapy as the appliance: it opens what the peers seal, and knows the packets inside.
#[test]
fn scapy_opens_what_the_peers_seal() {
    const SCRIPT: &str = r#"
import json, sys
from scapy.config import conf
conf.use_pcap = False
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.ipsec import ESP, SecurityAssociation
keys = {0x01000001: "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223",
        0x01000002: "404142434445464748494a4b4c4d4e4f50515253"}
answers = []
for text in json.load(sys.stdin):
    packet = IP(bytes.fromhex(text))
    assert packet.chksum == IP(bytes(packet)).chksum
    esp = packet[ESP]
    esn = esp.spi == 0x01000002
    sa = SecurityAssociation(ESP, spi=esp.spi, crypt_algo="AES-GCM", crypt_key=bytes.fromhex(keys[esp.spi]),
                             tunnel_header=IP(src=packet.src, dst=packet.dst), esn_en=esn,
                             nat_t_header=UDP(sport=61000, dport=4500) if esn else None)
    inner = sa.decrypt(packet, esn_en=esn, esn=0) if esn else sa.decrypt(packet)
    layer = inner[TCP] if TCP in inner else inner[UDP]
    found = layer.chksum
    del layer.chksum
    right = IP(bytes(inner))
    answers.append([esp.spi, inner.src, layer.sport, layer.dport, found == (right[TCP] if TCP in right else right[UDP]).chksum,
                    bytes(layer.payload)[:2].decode()])
json.dump(answers, sys.stdout)
"#;
    let config = config();
    let mut frames = Vec::new();
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut setting = setting(Direction::Up);
        setting.transport = Some(transport);
        let mut generator = generator(world(&config, &setting, Numbers::default()).unwrap());
        generator.begin(NOW, load_of(6));
        frames.extend(sent(&mut generator, 0).iter().map(|packet| hex(packet.data())));
    }
    let has_scapy = |python: &&str| {
        let mut probe = Command::new(python);
        probe.args(["-c", "import scapy.layers.ipsec, cryptography"]).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    };
    let python = ["python3", "/usr/bin/python3"].into_iter().find(has_scapy);
    let python = python.expect("this test needs scapy: install python3-scapy and python3-cryptography");
    let mut scapy =
        Command::new(python).args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    scapy.stdin.take().unwrap().write_all(&serde_json::to_vec(&frames).unwrap()).unwrap();
    let output = scapy.wait_with_output().unwrap();
    assert!(output.status.success(), "scapy failed; its error is above");
    let answers: Vec<(u32, String, u16, u16, bool, String)> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answers.len(), 12);
    for (number, answer) in answers.into_iter().enumerate() {
        let (spi, source) = if number % 2 == 0 { (0x0100_0001, "10.9.0.1") } else { (0x0100_0002, "10.9.1.7") };
        let port = 1024 + (number as u16 % 6) / 2;
        assert_eq!(answer, (spi, source.to_owned(), port, if number < 6 { 7 } else { 9 }, true, "vg".to_owned()));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
