//! CPU time that an IKE SA with a child SA costs its responder (pre-shared keys, X25519): `cargo bench -p vipsec-ike`.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use rand::SeedableRng;
use rand::rngs::StdRng;
use vipsec_ike::{
    AddressMatch, ChildPolicy, Config, ConnectionPolicy, Endpoint, Limits, Mode, PACKET_BYTES_MAX, Pairs,
    Retransmission, Secret,
};
use vipsec_wire::iv::{ApplianceId, Epoch};

const SETUPS: u32 = 2000;
const ADDRESSES: [&str; 2] = ["192.0.2.1", "192.0.2.7"];
const IDS: [&str; 2] = ["vip.example", "branch.example"];
const NETS: [&str; 2] = ["10.1.0.0/16", "10.9.0.0/16"];

fn endpoint(side: usize, ike: &str) -> Endpoint {
    let other = 1 - side;
    let child = ChildPolicy {
        name: "net".to_owned(),
        local_ts: vec![NETS[side].parse().unwrap()],
        remote_ts: vec![NETS[other].parse().unwrap()],
        proposals: vec!["aes256gcm16".parse().unwrap()],
        rekey_time: None,
        life_time: None,
        mode: Mode::Tunnel,
        pairs: Pairs::Any,
        lanes_max: 1,
    };
    let connection = ConnectionPolicy {
        name: "branch".to_owned(),
        vip: 0,
        local: ADDRESSES[side].parse().unwrap(),
        remote: vec![AddressMatch::Exact(ADDRESSES[other].parse().unwrap())],
        local_id: IDS[side].parse().unwrap(),
        remote_id: IDS[other].parse().unwrap(),
        psk: Secret::new(b"correct horse battery staple".to_vec()),
        proposals: vec![ike.parse().unwrap()],
        dpd_delay: None,
        rekey_time: None,
        over_time: None,
        reauth_time: None,
        unique: Default::default(),
        encapsulation: Default::default(),
        fragmentation: Default::default(),
        pools: Vec::new(),
        children: vec![Arc::new(child)],
    };
    let limits = Limits { ike_sas_per_peer_max: usize::MAX, ..Limits::default() };
    let config = Config {
        appliance: ApplianceId::new(1 + side as u8).unwrap(),
        connections: vec![Arc::new(connection)],
        limits,
        packet_bytes_max: PACKET_BYTES_MAX,
        retransmission: Retransmission::default(),
    };
    let mut endpoint = Endpoint::new(Arc::new(config), Box::new(StdRng::seed_from_u64(side as u64)));
    endpoint.set_origin(0, Epoch(1)).unwrap();
    endpoint
}

fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

fn main() {
    for ike in ["aes256gcm16-prfsha256-x25519", "aes256gcm16-prfsha384-ecp384", "aes256-sha256-prfsha256-modp2048"] {
        let (mut initiator, mut responder) = (endpoint(1, ike), endpoint(0, ike));
        let now = Instant::now();
        let mut spent = Duration::ZERO;
        for _ in 0..SETUPS {
            let id = initiator.initiate("branch", "net", now).unwrap();
            while let Some(request) = initiator.poll_transmit() {
                let (remote, local): (SocketAddr, SocketAddr) = (request.local, request.remote);
                let began = cpu();
                responder.handle_datagram(now, local, remote, &request.payload);
                while responder.poll_event().is_some() {}
                let answer = responder.poll_transmit();
                spent += cpu().saturating_sub(began);
                if let Some(answer) = answer {
                    initiator.handle_datagram(now, answer.remote, answer.local, &answer.payload);
                }
            }
            assert!(initiator.export(id, now).is_some());
        }
        println!(
            "{ike}: {:.1} us of CPU per IKE SA with a child SA, as responder",
            spent.as_secs_f64() * 1e6 / f64::from(SETUPS)
        );
    }
}
