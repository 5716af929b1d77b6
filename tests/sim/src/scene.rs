//! Who is there, under which addresses, and how everybody is configured.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use vipsec_control::config::{
    Appliance, Config, Eal, Floating, Hugepages, LogLevel, Peer, Polling, Port, Service, ServiceProtocol, StoreLink,
    TakeoverPolicy, Target, Vip,
};
use vipsec_dataplane::api::{PortId, Side};
use vipsec_distribute::service::{Accepts, Forwarding, Method};
use vipsec_esp::engine::EngineKind;
use vipsec_esp::sa::Processing;
use vipsec_ike::{AddressMatch, ChildPolicy, ConnectionPolicy, Limits, Retransmission, Secret};
use vipsec_store::{SizeClass, Sizes};
use vipsec_takeover::timing::Timing;
use vipsec_wire::ethernet::MacAddr;
use vipsec_wire::ip::parse_interface;
use vipsec_wire::iv::ApplianceId;

/// The appliances' ports, by number.
pub(crate) const OUTSIDE: PortId = PortId(0);
/// See [`OUTSIDE`].
pub(crate) const INSIDE: PortId = PortId(1);

pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const VIP_MAC: MacAddr = MacAddr([0x02, 0x76, 192, 0, 2, 1]);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
pub(crate) const GATEWAY_MAC: MacAddr = MacAddr([0x02, 0x76, 10, 1, 0, 1]);
pub(crate) const TARGETS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 1, 0, 21), Ipv4Addr::new(10, 1, 0, 22)];
pub(crate) const TARGET_MACS: [MacAddr; 2] = [MacAddr([2, 0, 0, 0, 0, 21]), MacAddr([2, 0, 0, 0, 0, 22])];
/// The remote peer, on the outside network itself.
pub(crate) const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);
pub(crate) const REMOTE_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 99]);
pub(crate) const ADVERSARY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 66]);
/// A host behind the remote peer.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 7);
/// What is served on the VIP.
pub(crate) const SERVICE_PORT: u16 = 53;

/// The remote peer's id in IVs and SPIs: no appliance's.
pub(crate) const REMOTE_ID: u8 = 200;

pub(crate) const CONNECTION: &str = "branch";
pub(crate) const CHILD: &str = "net";
const VIP_NAME: &str = "web";
const IDENTITIES: [&str; 2] = ["vip.example", "branch.example"];
const PSK: &[u8] = b"the pre-shared key of this simulation";
const PAIRING_SECRET: [u8; 32] = [7; 32];

/// An appliance's id: 1 or 2.
pub(crate) fn appliance_id(appliance: usize) -> ApplianceId {
    ApplianceId::new(appliance as u8 + 1).expect("1 or 2")
}

/// What varies from schedule to schedule.
#[derive(Debug, Clone)]
pub(crate) struct Variant {
    /// What a successor does.
    pub(crate) takeover: TakeoverPolicy,
    /// How many workers each appliance has.
    pub(crate) workers: [usize; 2],
    /// What the service takes: what takes clear packets, too, has its connections elsewhere than its SA.
    pub(crate) accepts: Accepts,
    /// Ages at which the appliances rekey.
    pub(crate) rekey: Rekey,
    /// Ages at which the remote peer does.
    pub(crate) remote_rekey: Rekey,
    /// The protocol's times, by appliance.
    pub(crate) timing: [Timing; 2],
}

/// Ages at which SAs are rekeyed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rekey {
    pub(crate) ike: Option<Duration>,
    pub(crate) child: Option<Duration>,
}

/// The pair's times: those of production, but for how long a fresh appliance listens.
pub(crate) fn timing() -> Timing {
    Timing { claim_preferred: Duration::from_millis(100), claim_other: Duration::from_millis(600), ..Timing::default() }
}

/// An appliance's configuration.
pub(crate) fn appliance_config(appliance: usize, variant: &Variant) -> Config {
    let id = appliance_id(appliance);
    let name = ["a", "b"][appliance].to_owned();
    let host = 11 + appliance as u8;
    let port = |name: &str, side, octets: [u8; 4], mac| Port {
        name: name.to_owned(),
        side,
        device: String::new(),
        mac: Some(MacAddr(mac)),
        addresses: vec![parse_interface(&format!("{}/24", Ipv4Addr::from(octets))).expect("an address")],
        mtu: 1500,
    };
    Config {
        appliance: Appliance {
            id,
            name,
            control_socket: PathBuf::new(),
            state_dir: PathBuf::new(),
            workers: variant.workers[appliance],
            polling: Polling::Adaptive,
            engine: EngineKind::auto(),
            processing: Processing::Cpu,
            log: LogLevel::Info,
        },
        crypto_device: None,
        eal: Eal { file_prefix: String::new(), memory_mib: 64, hugepages: Hugepages::Never },
        ports: vec![
            port("outside", Side::Outside, [192, 0, 2, host], [2, 0, 0, 0, 1, host]),
            port("inside", Side::Inside, [10, 1, 0, host], [2, 0, 0, 0, 2, host]),
        ],
        routes: vec![vipsec_control::config::Route {
            prefix: "0.0.0.0/0".parse().expect("a prefix"),
            via: REMOTE.into(),
            port: OUTSIDE,
        }],
        vips: vec![Vip {
            name: VIP_NAME.to_owned(),
            floating: Floating { address: VIP.into(), mac: VIP_MAC, port: OUTSIDE },
            gateways: vec![Floating { address: GATEWAY.into(), mac: GATEWAY_MAC, port: INSIDE }],
            owner: Some(appliance_id(0)),
        }],
        targets: (0..2)
            .map(|n| Target {
                name: format!("t{n}"),
                address: TARGETS[n].into(),
                forwarding: Forwarding::Mac,
                weight: 1,
                checks: Vec::new(),
            })
            .collect(),
        services: vec![Service {
            vip: 0,
            protocol: ServiceProtocol::Udp,
            port: Some(SERVICE_PORT),
            targets: vec![0, 1],
            method: Method::Maglev,
            affinity: None,
            accepts: variant.accepts,
        }],
        policies: Vec::new(),
        connection_table: vipsec_distribute::connection::Limits::default(),
        child_options: Default::default(),
        connections: vec![connection([0, 1], VIP, REMOTE, Some(Duration::from_secs(2)), variant.rekey)],
        peer: Some(Peer {
            id: appliance_id(1 - appliance),
            name: None,
            store: StoreLink::Local(PathBuf::new()),
            secret: Secret::new(PAIRING_SECRET.to_vec()),
            takeover: variant.takeover,
            timing: variant.timing[appliance],
            store_records: 32,
        }),
        static_children: Vec::new(),
        ike: Default::default(),
    }
}

/// The remote peer's configuration.
pub(crate) fn remote_config(variant: &Variant) -> vipsec_ike::Config {
    let dpd_delay = Some(Duration::from_millis(400));
    vipsec_ike::Config {
        appliance: ApplianceId::new(REMOTE_ID).expect("not 0"),
        connections: vec![connection([1, 0], REMOTE, VIP, dpd_delay, variant.remote_rekey)],
        limits: Limits::default(),
        packet_bytes_max: vipsec_ike::PACKET_BYTES_MAX,
        // An impatient peer: after a second without an answer it calls anew.
        retransmission: Retransmission {
            first: Duration::from_millis(100),
            interval_max: Duration::from_millis(200),
            tries_max: 5,
        },
    }
}

/// One side's policy; `sides`: ours and the other one's place among the identities.
fn connection(
    sides: [usize; 2],
    local: Ipv4Addr,
    remote: Ipv4Addr,
    dpd_delay: Option<Duration>,
    rekey: Rekey,
) -> Arc<ConnectionPolicy> {
    let nets = ["192.0.2.1/32", "10.9.0.0/16"];
    let [ours, theirs] = sides;
    Arc::new(ConnectionPolicy {
        name: CONNECTION.to_owned(),
        vip: 0,
        local: local.into(),
        remote: vec![AddressMatch::Exact(remote.into())],
        local_id: IDENTITIES[ours].parse().expect("an identity"),
        remote_id: IDENTITIES[theirs].parse().expect("an identity"),
        psk: Secret::new(PSK.to_vec()),
        proposals: vec!["aes128gcm16-prfsha256-x25519".parse().expect("a proposal")],
        dpd_delay,
        rekey_time: rekey.ike,
        over_time: None,
        reauth_time: None,
        unique: Default::default(),
        encapsulation: Default::default(),
        fragmentation: Default::default(),
        pools: Vec::new(),
        children: vec![Arc::new(ChildPolicy {
            name: CHILD.to_owned(),
            local_ts: vec![nets[ours].parse().expect("a selector")],
            remote_ts: vec![nets[theirs].parse().expect("a selector")],
            proposals: vec!["aes128gcm16".parse().expect("a proposal")],
            rekey_time: rekey.child,
            life_time: None,
            mode: vipsec_ike::Mode::Tunnel,
            pairs: vipsec_ike::Pairs::Any,
            lanes_max: 1,
        })],
    })
}

/// What the appliances share.
pub(crate) fn pairing_secret() -> zeroize::Zeroizing<Vec<u8>> {
    zeroize::Zeroizing::new(PAIRING_SECRET.to_vec())
}

/// A region that is small enough to be made anew a few thousand times.
pub(crate) fn region_sizes() -> Sizes {
    Sizes {
        classes: vec![SizeClass { records: 32, bytes: 1024 }, SizeClass { records: 32, bytes: 4096 }],
        counter_blocks: 2,
        journal_entries: 256,
    }
}

/// The VIP's name, for orders.
pub(crate) fn vip_name() -> String {
    VIP_NAME.to_owned()
}
