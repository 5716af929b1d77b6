//! Against a stock strongSwan, which we didn't write. Needs root and strongSwan's packages.
#![forbid(unsafe_code)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use support::{Charon, Host, Options, PEER, SECRET, VIP};
use vipsec_ike::{
    ChildPolicy, ChildSaInfo, ChildSaRecord, Config, ConnectionPolicy, Endpoint, Event, GoneReason, IkeSaRecord,
    Limits, Phase, Retransmission, Secret,
};
use vipsec_wire::iv::{ApplianceId, Epoch};

fn endpoint(appliance: u8, epoch: u32) -> Endpoint {
    let child = ChildPolicy {
        name: "net".to_owned(),
        local_ts: vec!["10.1.0.0/16".parse().unwrap()],
        remote_ts: vec!["10.9.0.0/16".parse().unwrap()],
        proposals: vec!["aes256gcm16-x25519".parse().unwrap()],
        rekey_time: None,
        life_time: None,
        mode: vipsec_ike::Mode::Tunnel,
        pairs: vipsec_ike::Pairs::Any,
        lanes_max: 1,
    };
    let connection = ConnectionPolicy {
        name: "branch".to_owned(),
        vip: 0,
        local: VIP.parse().unwrap(),
        remote: vec![PEER.parse().unwrap()],
        local_id: "vip.example".parse().unwrap(),
        remote_id: "branch.example".parse().unwrap(),
        psk: Secret::new(SECRET.as_bytes().to_vec()),
        proposals: vec!["aes256gcm16-prfsha256-x25519".parse().unwrap()],
        dpd_delay: Some(Duration::from_secs(1)),
        rekey_time: None,
        over_time: None,
        reauth_time: None,
        unique: Default::default(),
        encapsulation: Default::default(),
        fragmentation: Default::default(),
        pools: Vec::new(),
        children: vec![Arc::new(child)],
    };
    let config = Config {
        appliance: ApplianceId::new(appliance).unwrap(),
        connections: vec![Arc::new(connection)],
        limits: Limits::default(),
        packet_bytes_max: vipsec_ike::PACKET_BYTES_MAX,
        retransmission: Retransmission::default(),
    };
    let mut endpoint = Endpoint::new(Arc::new(config), Box::new(StdRng::from_rng(&mut rand::rng())));
    endpoint.set_origin(0, Epoch(epoch)).unwrap();
    endpoint
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

/// Charon has this child SA, with these SPIs and keys.
fn assert_known(charon: &Charon, child: &ChildSaInfo) {
    let sas = charon.list_sas();
    assert!(sas.contains("ESTABLISHED") && sas.contains("INSTALLED"), "{sas}");
    assert!(sas.contains(&format!("{:08x}", child.spi_in)) && sas.contains(&format!("{:08x}", child.spi_out)), "{sas}");
    assert!(charon.has_key(child.key_in.expose()) && charon.has_key(child.key_out.expose()));
}

/// The IKE SA works: a message goes there and back.
fn assert_alive(host: &mut Host) {
    let now = Instant::now();
    let id = host.endpoint.sas(now).find(|sa| sa.phase == Phase::Established).unwrap().id;
    host.endpoint.check_liveness(id, now).unwrap();
    host.until("answer to a liveness check", |host| {
        let sa = host.endpoint.sas(Instant::now()).find(|sa| sa.id == id).unwrap();
        !sa.waiting && sa.silent < now.elapsed()
    });
}

/// Rekeys everything from both ends.
fn rekey(charon: &Charon, host: &mut Host, mut child: ChildSaInfo) -> ChildSaInfo {
    // By charon, the child SA.
    host.during(charon.swanctl(&["--rekey", "--child", "net"]));
    let new = host.event("the peer's new child SA", installed);
    assert_eq!(new.replaces, Some(child.spi_in));
    assert_eq!(host.event("the old child SA deleted", removed), child.spi_in);
    assert_known(charon, &new);
    child = new;
    // By charon, the IKE SA.
    host.during(charon.swanctl(&["--rekey", "--ike", "vip"]));
    assert_eq!(host.event("the old IKE SA deleted", gone), GoneReason::Rekeyed);
    assert_known(charon, &child);
    assert_alive(host);
    // By us, the child SA.
    host.endpoint.rekey_child(child.spi_in, Instant::now()).unwrap();
    let new = host.event("our new child SA", installed);
    assert_eq!(host.event("the old child SA deleted", removed), child.spi_in);
    assert_known(charon, &new);
    child = new;
    // By us, the IKE SA.
    let id = host.endpoint.sas(Instant::now()).next().unwrap().id;
    host.endpoint.rekey_ike(id, Instant::now()).unwrap();
    assert_eq!(host.event("the old IKE SA deleted", gone), GoneReason::Rekeyed);
    assert_known(charon, &child);
    assert_alive(host);
    child
}

#[test]
fn charon_calls() {
    let charon = Charon::start("in", &Options::default());
    let mut host = Host::new(&charon, endpoint(1, 1));
    host.during(charon.swanctl(&["--initiate", "--child", "net"]));
    let child = host.event("child SA", installed);
    assert_eq!(child.remote_selectors, ["10.9.0.0/16".parse().unwrap()]);
    // Its user-space ESP pretends a NAT.
    assert_eq!(child.tunnel.udp, Some((4500, 4500)));
    assert_known(&charon, &child);
    assert_alive(&mut host);
    let child = rekey(&charon, &mut host, child);

    // Charon checks our liveness too, and lives through several of its checks.
    let until = Instant::now() + Duration::from_secs(5);
    host.until("time passed", |_| Instant::now() > until);
    assert_known(&charon, &child);

    // A successor under another id and epoch goes on, and charon notices nothing.
    let now = Instant::now();
    let id = host.endpoint.sas(now).next().unwrap().id;
    let (record, children) = host.endpoint.export(id, now).unwrap();
    let children = children.iter().map(|child| ChildSaRecord::decode(&child.encode()).unwrap()).collect();
    host.endpoint = endpoint(2, 2);
    host.endpoint.import(IkeSaRecord::decode(&record.encode()).unwrap(), children, now).unwrap();
    assert_alive(&mut host);
    rekey(&charon, &mut host, child);

    host.during(charon.swanctl(&["--terminate", "--ike", "vip"]));
    assert_eq!(host.event("IKE SA deleted", gone), GoneReason::DeletedByPeer);
    assert_eq!(charon.list_sas(), "");
}

#[test]
fn we_call_charon() {
    let charon = Charon::start("out", &Options::default());
    let mut host = Host::new(&charon, endpoint(1, 1));
    let id = host.endpoint.initiate("branch", "net", Instant::now()).unwrap();
    let child = host.event("child SA", installed);
    assert_known(&charon, &child);
    let child = rekey(&charon, &mut host, child);

    host.endpoint.delete_child(child.spi_in, Instant::now()).unwrap();
    assert_eq!(host.event("child SA deleted", removed), child.spi_in);
    assert!(!charon.list_sas().contains("INSTALLED"));
    let now = Instant::now();
    let ike = host.endpoint.sas(now).next().unwrap().id;
    assert_ne!(ike, id);
    host.endpoint.create_child(ike, "net", now).unwrap();
    let child = host.event("another child SA", installed);
    assert_known(&charon, &child);

    host.endpoint.delete_ike(ike, Instant::now()).unwrap();
    assert_eq!(host.event("IKE SA deleted", gone), GoneReason::Deleted);
    assert_eq!(charon.list_sas(), "");
}
