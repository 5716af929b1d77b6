//! A flood of calls from made-up addresses (RFC 7296 §2.6), and honest peers that call meanwhile.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use serde::Serialize;
use vipsec_ike::{
    AddressMatch, ChildPolicy, Config, ConnectionPolicy, Encapsulation, Endpoint, Fragmentation, IdentityMatch, Limits,
    Mode, PACKET_BYTES_MAX, Pairs, Retransmission, Secret, Unique,
};
use vipsec_wire::iv::{ApplianceId, Epoch};
use vipsec_wire::{ethernet, ip, udp};

use super::{Progress, expect};
use crate::appliance::{Appliance, ApplianceConfig, IkeSettings};
use crate::capture::PortSocket;
use crate::error::Result;
use crate::fleet::{Calls, FleetPlan, FleetReport, Keep};
use crate::process;
use crate::supervisor::Run;
use crate::topology::{Plan, Topology, VIP, virtual_macs};

/// Nobody but the initiators asks whether anybody lives.
const DPD_DELAY: Duration = Duration::from_secs(3600);
/// Made-up addresses come from here (RFC 2544's network for benchmarks), behind the honest peers' host.
const SPOOFED: (Ipv4Addr, u32) = (Ipv4Addr::new(198, 18, 0, 0), 1 << 17);
/// Frames between two looks at the clock.
const BURST: u32 = 64;

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct FloodConfig {
    /// Calls from made-up addresses per second at most.
    pub per_second: u32,
    /// For how long.
    pub duration: Duration,
    /// Honest initiators, that call one after the other while the flood lasts and keep their SAs.
    pub honest: u32,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct FloodReport {
    /// Calls from made-up addresses that were sent.
    pub sent: u64,
    /// How many per second.
    pub sent_per_second: f64,
    /// Honest initiators.
    pub honest: u32,
    /// Those of them that got their SAs.
    pub established: u64,
    /// Those that lost them again, although they asked every second whether the gateway lives.
    pub lost: u64,
    /// How long half of their handshakes took, and the longest.
    pub p50_ms: Option<f64>,
    /// The longest.
    pub max_ms: Option<f64>,
    /// Callers that the workers asked for a cookie.
    pub cookies_asked: u64,
    /// IKE messages that reached the control core.
    pub ike_in: u64,
    /// What vipsecd dropped meanwhile, by reason.
    pub drops: BTreeMap<String, u64>,
    /// CPU time of vipsecd, of one processor.
    pub cpu_percent: f64,
    /// What its memory grew by.
    pub grown_kib: i64,
}

/// Floods vipsecd while honest initiators call.
pub fn play(config: FloodConfig, progress: &Progress) -> Result<FloodReport> {
    let (run, plan) = (Run::begin()?, Plan::new(1, 1, 1));
    let (fleet, settings) = (FleetPlan::default(), IkeSettings::default());
    let topology = Topology::build(&run, &plan)?;
    let hosts = (topology.peers.first(), topology.appliances.first(), plan.appliances.first());
    let (Some(peer), Some(host), Some(appliance)) = hosts else { unreachable!("the plan has one of each") };
    fleet.settle(peer)?;
    let settings_of = ApplianceConfig::new(&plan, appliance, &settings, DPD_DELAY, run.name_of(&appliance.name));
    let mut vipsecd = Appliance::launch(host, &run.folder().join("gateway"), &settings_of.with_fleet(&fleet))?;
    vipsecd.await_answer()?;

    progress.step("before the flood: one honest call");
    let calls = Calls { first: 0, count: 1, parallel: 1, rate: None, limit: config.duration, keep: None };
    let one = fleet.call(peer, run.folder(), &settings, calls)?;
    expect(one.established == 1, "an IKE SA", || format!("{one:?}"))?;

    let before =
        (vipsecd.counters()?, process::cpu_time(vipsecd.pid())?, process::resident_kib(vipsecd.pid()), Instant::now());
    progress.step("flood, and honest calls");
    let flood = peer.spawn(move || send_flood(config))?;
    // They begin over the first half of the flood, and live through the second.
    let half = config.duration / 2;
    let rate = f64::from(config.honest) / half.as_secs_f64();
    let keep = Some(Keep { hold: Duration::from_secs(1), dpd_delay: Duration::from_secs(1) });
    let calls = Calls { first: 1, count: config.honest, parallel: 8, rate: Some(rate), limit: config.duration, keep };
    let honest = fleet.call(peer, run.folder(), &settings, calls);
    let (sent, took) = flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let honest: FleetReport = honest?;
    let (counters, spent) = (vipsecd.counters()?, process::cpu_time(vipsecd.pid())?.saturating_sub(before.1));
    let grew = |now: &BTreeMap<String, u64>, then: &BTreeMap<String, u64>| -> BTreeMap<String, u64> {
        let growth = now.iter().map(|(name, count)| (name.clone(), count - then.get(name).unwrap_or(&0)));
        growth.filter(|(_, count)| *count > 0).collect()
    };
    let tallies = grew(&counters.counters, &before.0.counters);
    Ok(FloodReport {
        sent,
        sent_per_second: sent as f64 / took.as_secs_f64(),
        honest: config.honest,
        established: honest.established,
        lost: honest.lost,
        p50_ms: honest.handshake.map(|times| times.p50_ms),
        max_ms: honest.handshake.map(|times| times.max_ms),
        cookies_asked: tallies.get("cookies_asked").copied().unwrap_or(0),
        ike_in: tallies.get("ike_in").copied().unwrap_or(0),
        drops: grew(&counters.drops, &before.0.drops),
        cpu_percent: spent.as_secs_f64() / before.3.elapsed().as_secs_f64() * 100.0,
        grown_kib: process::resident_kib(vipsecd.pid()) - before.2,
    })
}

/// Sends calls from made-up addresses, inside the honest peers' host. How many there were, and how long it took.
fn send_flood(config: FloodConfig) -> Result<(u64, Duration)> {
    let socket = PortSocket::sender("out0")?;
    let mut frame = frame(&call());
    let began = Instant::now();
    let mut sent = 0_u64;
    while began.elapsed() < config.duration {
        let due = (began.elapsed().as_secs_f64() * f64::from(config.per_second)) as u64;
        if sent >= due {
            std::thread::sleep(Duration::from_micros(200));
            continue;
        }
        for _ in 0..BURST {
            disguise(&mut frame, sent);
            // A full queue on the way loses it, as networks do.
            let _ = socket.inject(&frame);
            sent += 1;
        }
    }
    Ok((sent, began.elapsed()))
}

/// The first message of a caller that the gateway would like to talk to.
fn call() -> Vec<u8> {
    let settings = IkeSettings::default();
    let proposals = |text: &[String]| text.iter().filter_map(|text| text.parse().ok()).collect();
    let child = ChildPolicy {
        name: "net".to_owned(),
        local_ts: Vec::new(),
        remote_ts: Vec::new(),
        proposals: Vec::new(),
        rekey_time: None,
        life_time: None,
        mode: Mode::Tunnel,
        pairs: Pairs::Any,
        lanes_max: 1,
    };
    let connection = ConnectionPolicy {
        name: "gateway".to_owned(),
        vip: 0,
        local: SPOOFED.0.into(),
        remote: vec![AddressMatch::Exact(VIP.into())],
        local_id: vipsec_ike::Identity::fqdn("nobody.example"),
        remote_id: IdentityMatch::Any,
        psk: Secret::new(Vec::new()),
        proposals: proposals(&settings.proposals),
        dpd_delay: None,
        rekey_time: None,
        over_time: None,
        reauth_time: None,
        unique: Unique::default(),
        encapsulation: Encapsulation::default(),
        fragmentation: Fragmentation::default(),
        pools: Vec::new(),
        children: vec![Arc::new(child)],
    };
    let config = Config {
        appliance: ApplianceId::new(1).unwrap_or_else(|_| unreachable!("ids begin at 1")),
        connections: vec![Arc::new(connection)],
        limits: Limits::default(),
        packet_bytes_max: PACKET_BYTES_MAX,
        retransmission: Retransmission::default(),
    };
    let mut endpoint = Endpoint::new(Arc::new(config), Box::new(rand::rngs::StdRng::from_rng(&mut rand::rng())));
    let called =
        endpoint.set_origin(0, Epoch(1)).is_ok() && endpoint.initiate("gateway", "net", Instant::now()).is_ok();
    let message = endpoint.poll_transmit().filter(|_| called);
    message.unwrap_or_else(|| unreachable!("the configuration above can call")).payload
}

const IP_AT: usize = ethernet::HEADER_LEN;
const UDP_AT: usize = IP_AT + 20;
const IKE_AT: usize = UDP_AT + udp::HEADER_LEN;

fn frame(message: &[u8]) -> Vec<u8> {
    let [vip_mac, ..] = virtual_macs();
    let header = ethernet::Header {
        destination: ethernet::MacAddr(vip_mac),
        source: ethernet::MacAddr([2, 0, 0, 0, 2, 0]),
        ethertype: ethernet::EtherType::IPV4,
    };
    let mut frame = vec![0; IKE_AT];
    frame.extend_from_slice(message);
    let _ = header.emit(&mut frame);
    frame
}

/// Another source address and another SPI.
fn disguise(frame: &mut [u8], number: u64) {
    // Fibonacci hashing: neighbours in number are far apart in address.
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let source = Ipv4Addr::from(u32::from(SPOOFED.0) + (mixed >> 40) as u32 % SPOOFED.1);
    let (source, destination) = (SocketAddr::from((source, 500)), SocketAddr::from((VIP, 500)));
    let payload_len = (frame.len() - IKE_AT) as u16;
    if let Some(spi) = frame.get_mut(IKE_AT..IKE_AT + 8) {
        spi.copy_from_slice(&(mixed | 1).to_be_bytes());
    }
    let datagram_len = payload_len + udp::HEADER_LEN as u16;
    let header = ip::Repr::new(source.ip(), destination.ip(), ip::protocol::UDP, datagram_len);
    let emitted = header.ok().and_then(|header| header.emit(frame.get_mut(IP_AT..)?).ok());
    let ports = udp::Repr { source_port: source.port(), destination_port: destination.port(), payload_len };
    let datagram = frame.get_mut(UDP_AT..).unwrap_or_default();
    let filled = ports.emit(datagram).and_then(|()| udp::fill_checksum(source.ip(), destination.ip(), datagram));
    debug_assert!(emitted.is_some() && filled.is_ok());
}
