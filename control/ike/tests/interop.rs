//! Against a stock strongSwan, which we didn't write, in both roles. Needs root and strongSwan's packages.
//!
//! Without arguments a few cases, as an ordinary test; `--all` runs every one, `--report FILE` writes what came of them as JSON, and any
//! other argument picks the cases whose names contain it.
#![forbid(unsafe_code)]

mod support;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;
use support::{Charon, Host, Options, PEER, SECRET, VIP};
use vipsec_ike::{
    AddressPool, ChildPolicy, ChildSaInfo, Config, ConnectionPolicy, Endpoint, Event, GoneReason, Limits, Mode,
    PACKET_BYTES_MAX, Pairs, Retransmission, Secret,
};
use vipsec_wire::iv::{ApplianceId, Epoch};

/// What we propose and accept.
#[derive(Clone)]
struct Ours {
    ike: String,
    esp: String,
    remote_ts: &'static str,
    limits: Limits,
    packet_bytes_max: usize,
    pool: bool,
    dpd_delay: Option<Duration>,
    /// Somebody else has called just before, and is not done.
    crowd: bool,
    epoch: u32,
}

impl Default for Ours {
    fn default() -> Self {
        Self {
            ike: "aes256gcm16-prfsha256-x25519".to_owned(),
            esp: "aes256gcm16-x25519".to_owned(),
            remote_ts: "10.9.0.0/16",
            limits: Limits::default(),
            packet_bytes_max: PACKET_BYTES_MAX,
            pool: false,
            dpd_delay: Some(Duration::from_secs(1)),
            crowd: false,
            epoch: 1,
        }
    }
}

impl Ours {
    fn endpoint(&self) -> Endpoint {
        let children = ["net", "spare"].map(|name| {
            Arc::new(ChildPolicy {
                name: name.to_owned(),
                local_ts: vec!["10.1.0.0/16".parse().unwrap()],
                remote_ts: vec![self.remote_ts.parse().unwrap()],
                proposals: vec![self.esp.parse().unwrap()],
                rekey_time: None,
                life_time: None,
                mode: Mode::Tunnel,
                pairs: Pairs::Any,
                lanes_max: 1,
            })
        });
        let pool = AddressPool {
            name: "branches".to_owned(),
            first: "10.9.7.1".parse().unwrap(),
            last: "10.9.7.9".parse().unwrap(),
            dns: vec!["10.1.0.53".parse().unwrap()],
        };
        let connection = ConnectionPolicy {
            name: "branch".to_owned(),
            vip: 0,
            local: VIP.parse().unwrap(),
            remote: vec![PEER.parse().unwrap()],
            local_id: "vip.example".parse().unwrap(),
            remote_id: "branch.example".parse().unwrap(),
            psk: Secret::new(SECRET.as_bytes().to_vec()),
            proposals: vec![self.ike.parse().unwrap()],
            dpd_delay: self.dpd_delay,
            rekey_time: None,
            over_time: None,
            reauth_time: None,
            unique: Default::default(),
            encapsulation: Default::default(),
            fragmentation: Default::default(),
            pools: if self.pool { vec![Arc::new(pool)] } else { Vec::new() },
            children: children.into(),
        };
        let config = Config {
            appliance: ApplianceId::new(u8::try_from(self.epoch).unwrap()).unwrap(),
            connections: vec![Arc::new(connection)],
            limits: self.limits,
            packet_bytes_max: self.packet_bytes_max,
            retransmission: Retransmission::default(),
        };
        let mut endpoint = Endpoint::new(Arc::new(config), Box::new(StdRng::from_rng(&mut rand::rng())));
        endpoint.set_origin(0, Epoch(self.epoch)).unwrap();
        endpoint.set_key_log(true);
        endpoint
    }
}

/// Our role when the IKE SA is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Responder,
    Initiator,
}

struct Case {
    name: String,
    role: Role,
    theirs: Options,
    ours: Ours,
    run: fn(&mut Scene),
    /// Among those that run without `--all`.
    always: bool,
}

/// Both ends, with a child SA between them.
struct Scene {
    charon: Charon,
    host: Host,
    ours: Ours,
    child: ChildSaInfo,
    /// What there is to say about it.
    detail: String,
}

fn installed(event: &Event) -> Option<ChildSaInfo> {
    if let Event::InstallChild(info) = event { Some((**info).clone()) } else { None }
}

fn removed(event: &Event) -> Option<u32> {
    if let Event::RemoveChild { spi_in, .. } = event { Some(*spi_in) } else { None }
}

fn gone(event: &Event) -> Option<GoneReason> {
    if let Event::IkeGone { reason, .. } = event { Some(*reason) } else { None }
}

impl Scene {
    fn new(case: &Case, number: usize) -> Self {
        let charon = Charon::start(&format!("i{number}"), &case.theirs);
        let mut host = Host::new(&charon, case.ours.endpoint());
        match case.role {
            Role::Responder => {
                host.during(charon.swanctl(&["--initiate", "--child", "net"]));
            }
            Role::Initiator => {
                if case.ours.crowd {
                    let mut other = case.ours.endpoint();
                    other.initiate("branch", "net", Instant::now()).unwrap();
                    host.send(&other.poll_transmit().unwrap());
                }
                host.endpoint.initiate("branch", "net", Instant::now()).unwrap();
            }
        }
        let child = host.event("a child SA", installed);
        let mut scene = Self { charon, host, ours: case.ours.clone(), child, detail: String::new() };
        scene.check();
        scene.detail = format!("{}, {}", scene.sa().suite, scene.child.suite);
        scene
    }

    fn sa(&self) -> vipsec_ike::IkeSaStatus {
        self.host.endpoint.sas(Instant::now()).next().expect("an IKE SA")
    }

    /// Charon has our child SA with these SPIs and keys, and the IKE SA works both ways.
    fn check(&mut self) {
        let id = self.sa().id;
        self.host.endpoint.check_liveness(id, Instant::now()).unwrap();
        self.host.until("an answer to our liveness check", |host| {
            host.endpoint.sas(Instant::now()).any(|sa| sa.id == id && !sa.waiting)
        });
        let (sas, child) = (self.charon.list_sas(), &self.child);
        assert!(sas.contains("ESTABLISHED") && sas.contains("INSTALLED"), "{sas}");
        for spi in [child.spi_in, child.spi_out] {
            assert!(sas.contains(&format!("{spi:08x}")), "{sas}");
        }
        assert!(self.charon.has_key(child.key_in.expose()) && self.charon.has_key(child.key_out.expose()));
    }

    fn replaced(&mut self) {
        let new = self.host.event("a new child SA", installed);
        assert_eq!(new.replaces, Some(self.child.spi_in));
        assert_eq!(self.host.event("the old child SA deleted", removed), self.child.spi_in);
        self.child = new;
        self.check();
    }
}

/// Both rekeys from either side.
fn rekeys(scene: &mut Scene) {
    scene.host.during(scene.charon.swanctl(&["--rekey", "--child", "net"]));
    scene.replaced();
    scene.host.during(scene.charon.swanctl(&["--rekey", "--ike", "vip"]));
    assert_eq!(scene.host.event("the old IKE SA deleted", gone), GoneReason::Rekeyed);
    scene.check();
    scene.host.endpoint.rekey_child(scene.child.spi_in, Instant::now()).unwrap();
    scene.replaced();
    let id = scene.sa().id;
    scene.host.endpoint.rekey_ike(id, Instant::now()).unwrap();
    assert_eq!(scene.host.event("the old IKE SA deleted", gone), GoneReason::Rekeyed);
    scene.check();
}

/// Both ends check, and both live on.
fn liveness(scene: &mut Scene) {
    let (before, until) = (scene.sa(), Instant::now() + Duration::from_secs(5));
    scene.host.until("time passed", |_| Instant::now() > until);
    let after = scene.sa();
    assert!(after.next_request > before.next_request, "we have asked");
    scene.check();
    scene.detail = format!("{} of ours, {} of theirs", after.next_request, after.next_expected);
}

/// They check, and we answer.
fn liveness_checked_by_them(scene: &mut Scene) {
    let (before, until) = (scene.sa(), Instant::now() + Duration::from_secs(7));
    scene.host.until("time passed", |_| Instant::now() > until);
    let after = scene.sa();
    assert!(after.next_expected > before.next_expected, "they have asked");
    assert_eq!(after.next_request, before.next_request, "we haven't");
    scene.check();
    scene.detail = format!("{} of theirs", after.next_expected - before.next_expected);
}

fn deleted_by_us(scene: &mut Scene) {
    scene.host.endpoint.delete_child(scene.child.spi_in, Instant::now()).unwrap();
    assert_eq!(scene.host.event("the child SA deleted", removed), scene.child.spi_in);
    assert!(!scene.charon.list_sas().contains("INSTALLED"));
    let id = scene.sa().id;
    scene.host.endpoint.delete_ike(id, Instant::now()).unwrap();
    assert_eq!(scene.host.event("the IKE SA deleted", gone), GoneReason::Deleted);
    assert_eq!(scene.charon.list_sas(), "");
}

fn deleted_by_them(scene: &mut Scene) {
    scene.host.during(scene.charon.swanctl(&["--terminate", "--child", "net"]));
    assert_eq!(scene.host.event("the child SA deleted", removed), scene.child.spi_in);
    scene.host.during(scene.charon.swanctl(&["--terminate", "--ike", "vip"]));
    assert_eq!(scene.host.event("the IKE SA deleted", gone), GoneReason::DeletedByPeer);
    assert_eq!(scene.charon.list_sas(), "");
}

/// Both ends have sent fragments: payload type 53.
fn fragments(scene: &mut Scene) {
    let ours: SocketAddr = SocketAddr::new(VIP.parse().unwrap(), 4500);
    let count = |from_us: bool| {
        let all =
            scene.host.seen.iter().filter(|(from, _, datagram)| (*from == ours) == from_us && datagram.len() > 20);
        all.filter(|(.., datagram)| datagram[20] == 53).count()
    };
    let (sent, received) = (count(true), count(false));
    assert!(sent >= 2 && received >= 2, "{sent} sent, {received} received");
    scene.detail = format!("{sent} fragments sent, {received} received");
    rekeys(scene);
}

/// The first request came without a cookie, and was not taken.
fn cookies(scene: &mut Scene) {
    let asked = scene.host.endpoint.counters().get(vipsec_ike::Drop::CookieAsked);
    assert!(asked >= 1);
    scene.detail = format!("asked for a cookie {asked} times");
}

/// Their first answer was N(COOKIE), which our second request brought back.
fn asked_for_a_cookie(scene: &mut Scene) {
    // Behind the header: a Notify payload (41) of type 16390.
    let asks = |datagram: &[u8]| datagram.get(16) == Some(&41) && datagram.get(34..36) == Some(&16390u16.to_be_bytes());
    let theirs: IpAddr = PEER.parse().unwrap();
    let asked = scene.host.seen.iter().filter(|(from, _, datagram)| from.ip() == theirs && asks(datagram)).count();
    assert!(asked >= 1);
    scene.detail = format!("asked for a cookie {asked} times");
    rekeys(scene);
}

fn several_children(scene: &mut Scene) {
    let id = scene.sa().id;
    scene.host.endpoint.create_child(id, "spare", Instant::now()).unwrap();
    scene.child = scene.host.event("our second child SA", installed);
    scene.check();
    scene.host.during(scene.charon.swanctl(&["--initiate", "--child", "spare"]));
    scene.child = scene.host.event("their second child SA", installed);
    scene.check();
    scene.detail = format!("{} child SAs", scene.sa().children.len());
    assert!(scene.sa().children.len() >= 3);
}

fn narrowed(scene: &mut Scene) {
    scene.detail = format!("{:?}", scene.child.remote_selectors);
    assert_eq!(scene.child.remote_selectors, ["10.9.1.0/24".parse().unwrap()]);
    rekeys(scene);
}

fn pools(scene: &mut Scene) {
    scene.detail = format!("{:?}", scene.child.remote_selectors);
    let [only] = scene.child.remote_selectors[..] else { panic!("{:?}", scene.child.remote_selectors) };
    assert_eq!(only.first, only.last);
    assert!(scene.charon.list_sas().contains(&only.first.to_string()));
    scene.host.during(scene.charon.swanctl(&["--rekey", "--ike", "vip"]));
    assert_eq!(scene.host.event("the old IKE SA deleted", gone), GoneReason::Rekeyed);
    assert_eq!(scene.host.endpoint.addresses_assigned(), 1);
    scene.host.during(scene.charon.swanctl(&["--terminate", "--ike", "vip"]));
    assert_eq!(scene.host.event("the IKE SA deleted", gone), GoneReason::DeletedByPeer);
    assert_eq!(scene.host.endpoint.addresses_assigned(), 0);
}

/// A successor with an exact copy goes on, and charon notices nothing.
fn takeover(scene: &mut Scene) {
    let now = Instant::now();
    let (record, children) = scene.host.endpoint.export(scene.sa().id, now).unwrap();
    scene.ours.epoch += 1;
    scene.host.endpoint = scene.ours.endpoint();
    scene.host.endpoint.import(record, children, now).unwrap();
    scene.check();
    rekeys(scene);
}

/// A successor with an old copy agrees on message IDs with charon (RFC 6311).
fn message_id_sync(scene: &mut Scene) {
    let (record, children) = scene.host.endpoint.export(scene.sa().id, Instant::now()).unwrap();
    // What the copy misses.
    scene.check();
    scene.check();
    let before = scene.sa();
    scene.ours.epoch += 1;
    scene.host.endpoint = scene.ours.endpoint();
    let now = Instant::now();
    let id = scene.host.endpoint.import_stale(record, children, now).unwrap();
    scene.host.endpoint.synchronise(id, now).unwrap();
    scene.host.event("message IDs synchronised", |event| matches!(event, Event::Synchronised(_)).then_some(()));
    let after = scene.sa();
    scene.detail = format!("next request {} -> {}", before.next_request, after.next_request);
    scene.check();
    rekeys(scene);
}

/// tshark reads our exchanges with the key log.
fn tshark(scene: &mut Scene) {
    rekeys(scene);
    let dir = tempfile::tempdir().unwrap();
    let capture = dir.path().join("ike.pcap");
    fs::write(&capture, pcap(&scene.host.seen)).unwrap();
    let mut command = Command::new("tshark");
    command.env("HOME", dir.path()).arg("-r").arg(&capture).args(["-O", "isakmp"]);
    for line in &scene.host.keys {
        command.arg("-o").arg(format!("uat:ikev2_decryption_table:{line}"));
    }
    let output = command.output().expect("tshark");
    let text = String::from_utf8_lossy(&output.stdout);
    let (selectors, bad) = (text.matches("Traffic Selector - Initiator").count(), text.matches("[incorrect").count());
    let (auth, rekey) = (text.matches("Payload: Authentication").count(), text.matches("REKEY_SA").count());
    scene.detail = format!("{auth} AUTH, {selectors} TSi, {rekey} REKEY_SA payloads read, {bad} bad checksums");
    assert!(auth >= 2 && selectors >= 4 && rekey >= 2 && bad == 0, "{}: {text}", scene.detail);
}

/// Datagrams as a capture of raw IP packets.
fn pcap(seen: &[(SocketAddr, SocketAddr, Vec<u8>)]) -> Vec<u8> {
    const LINKTYPE_RAW: u32 = 101;
    let mut out = Vec::new();
    for word in [0xa1b2_c3d4, 0x0002_0004, 0, 0, 0xffff, LINKTYPE_RAW] {
        // Major version 2, minor version 4 are two 16-bit numbers.
        let word: u32 = if word == 0x0002_0004 { 0x0004_0002 } else { word };
        out.extend_from_slice(&word.to_le_bytes());
    }
    for (from, to, datagram) in seen {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (from.ip(), to.ip()) else { continue };
        let udp_len = u16::try_from(8 + datagram.len()).unwrap();
        let mut packet = vec![0x45, 0];
        packet.extend_from_slice(&(20 + udp_len).to_be_bytes());
        packet.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0]);
        packet.extend_from_slice(&source.octets());
        packet.extend_from_slice(&destination.octets());
        for field in [from.port(), to.port(), udp_len, 0] {
            packet.extend_from_slice(&field.to_be_bytes());
        }
        packet.extend_from_slice(datagram);
        let len = u32::try_from(packet.len()).unwrap();
        for word in [0, 0, len, len] {
            out.extend_from_slice(&u32::to_le_bytes(word));
        }
        out.extend_from_slice(&packet);
    }
    out
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut both = |name: &str, theirs: Options, ours: Ours, run: fn(&mut Scene), always: bool| {
        for role in [Role::Responder, Role::Initiator] {
            let (theirs, ours) = (theirs.clone(), ours.clone());
            cases.push(Case { name: name.to_owned(), role, theirs, ours, run, always });
        }
    };
    let (theirs, ours) = (Options::default, Ours::default);
    for (ike, esp) in [
        ("aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256"),
        ("aes256gcm16-prfsha384-ecp384", "aes256gcm16-ecp384"),
        ("chacha20poly1305-prfsha512-x25519", "chacha20poly1305-x25519"),
        ("aes128-sha256-prfsha256-modp2048", "aes128gcm16-modp2048"),
        ("aes256-sha384-prfsha384-modp3072", "aes256gcm16-modp3072"),
        ("aes256-sha512-prfsha512-x25519", "aes256gcm16"),
    ] {
        let (theirs, ours) = (
            Options { ike: ike.to_owned(), esp: esp.to_owned(), ..theirs() },
            Ours { ike: ike.to_owned(), esp: esp.to_owned(), ..ours() },
        );
        both(&format!("psk, {ike}, {esp}, both rekeys from either side"), theirs, ours, rekeys, false);
    }
    both("liveness checks", theirs(), ours(), liveness, false);
    let patient = Ours { dpd_delay: None, ..ours() };
    both("liveness checks by them alone", theirs(), patient, liveness_checked_by_them, false);
    both("deleted by us", theirs(), ours(), deleted_by_us, false);
    both("deleted by them", theirs(), ours(), deleted_by_them, false);
    let small = Options { connection: "fragmentation = force", daemon: "fragment_size = 200", ..theirs() };
    both("fragmentation", small, Ours { packet_bytes_max: 200, ..ours() }, fragments, false);
    both("several children", theirs(), ours(), several_children, false);
    both("takeover with an exact copy", theirs(), ours(), takeover, false);
    both("tshark decrypts with the key log", theirs(), ours(), tshark, true);
    let crowded = Options { daemon: "cookie_threshold = 1", ..theirs() };
    let (run, ours_crowded) = (asked_for_a_cookie as fn(&mut Scene), Ours { crowd: true, ..ours() });
    let narrow = Options { local_ts: "local_ts = 10.9.1.0/24", ..theirs() };
    for (name, theirs, ours, run) in
        [("cookies", crowded, ours_crowded, run), ("narrowing", narrow, ours(), narrowed as fn(&mut Scene))]
    {
        cases.push(Case { name: name.to_owned(), role: Role::Initiator, theirs, ours, run, always: false });
    }
    // Configuration payloads as the one who asks aren't there; strongSwan 5.9.8 synchronises message IDs as initiator alone.
    let mut responder = |name: &str, theirs, ours, run, always| {
        cases.push(Case { name: name.to_owned(), role: Role::Responder, theirs, ours, run, always });
    };
    let limits = Limits { half_open_cookie_threshold: 0, ..Limits::default() };
    responder("cookies", theirs(), Ours { limits, ..ours() }, cookies_and_rekeys, false);
    responder("narrowing", theirs(), Ours { remote_ts: "10.9.1.0/24", ..ours() }, narrowed, false);
    let asks = Options { local_ts: "", connection: "vips = 0.0.0.0", ..theirs() };
    responder("address pool", asks, Ours { pool: true, ..ours() }, pools, true);
    // strongSwan 5.9.8 makes GCM's IVs from message IDs, so it can't answer twice under ID zero: with GCM the answer to the
    // synchronisation fails ("encrypting encrypted payload failed") once we have asked anything before. CBC has random IVs.
    let cbc = "aes256-sha256-prfsha256-x25519".to_owned();
    let (theirs, ours) = (Options { ike: cbc.clone(), ..theirs() }, Ours { ike: cbc, ..ours() });
    responder("message-ID sync after a takeover", theirs, ours, message_id_sync, true);
    cases
}

fn cookies_and_rekeys(scene: &mut Scene) {
    cookies(scene);
    rekeys(scene);
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut all, mut report, mut filter) = (false, None, String::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--all" => all = true,
            "--report" => report = arguments.next(),
            // What the ordinary harness would understand.
            other if other.starts_with('-') => {}
            other => filter = other.to_owned(),
        }
    }
    if !nix::unistd::geteuid().is_root() {
        println!("left out: these tests make network namespaces, which needs root");
        return ExitCode::SUCCESS;
    }
    let mut results = Vec::new();
    for (number, case) in cases().into_iter().enumerate() {
        if !(all || case.always) || !case.name.contains(&filter) {
            continue;
        }
        let (name, role) = (case.name.clone(), case.role);
        // A thread of its own: it moves into the case's namespace.
        let outcome = std::thread::spawn(move || {
            let mut scene = Scene::new(&case, number);
            (case.run)(&mut scene);
            std::mem::take(&mut scene.detail)
        })
        .join();
        let (result, detail) = match outcome {
            Ok(detail) => ("passed", detail),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
                ("failed", text.unwrap_or("panicked").lines().next().unwrap_or("").to_owned())
            }
        };
        println!("{result}: {name} ({role:?}): {detail}");
        results.push(
            json!({ "case": name, "role": format!("{role:?}").to_lowercase(), "result": result, "detail": detail }),
        );
    }
    let failed = results.iter().filter(|result| result["result"] != "passed").count();
    if let Some(path) = report {
        // Tests run in their crate's folder; the report belongs to the workspace.
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder for the report");
        fs::write(&path, serde_json::to_vec_pretty(&results).expect("JSON")).expect("the report can be written");
    }
    println!("{} cases, {failed} failed", results.len());
    if failed == 0 && !results.is_empty() || !filter.is_empty() && results.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
