//! Who is there, under which addresses, and how everybody is configured.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use vipsec_control::config::{
    Appliance, Config, Eal, Etcd, Floating, Hugepages, Ike, LogLevel, Peer, Polling, Port, Service, ServiceProtocol,
    StoreLink, TakeoverPolicy, Target, Vip, VipGroup,
};
use vipsec_control::core::Slices;
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

/// Most appliances of a schedule.
pub(crate) const APPLIANCES_MAX: usize = 5;

/// Most VIPs of a schedule. Each has a remote peer of its own, with the same number.
pub(crate) const VIPS_MAX: usize = 2;

/// The addresses of a VIP and of its remote peer.
pub(crate) struct Addresses {
    pub(crate) vip: Ipv4Addr,
    pub(crate) vip_mac: MacAddr,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) gateway_mac: MacAddr,
    /// The remote peer, on the outside network itself.
    pub(crate) remote: Ipv4Addr,
    pub(crate) remote_mac: MacAddr,
    /// A host behind the remote peer.
    pub(crate) client: Ipv4Addr,
}

/// By VIP.
pub(crate) const ADDRESSES: [Addresses; VIPS_MAX] = [addresses(0), addresses(1)];

const fn addresses(vip: u8) -> Addresses {
    Addresses {
        vip: Ipv4Addr::new(192, 0, 2, 1 + vip),
        vip_mac: MacAddr([0x02, 0x76, 192, 0, 2, 1 + vip]),
        gateway: Ipv4Addr::new(10, 1, 0, 1 + vip),
        gateway_mac: MacAddr([0x02, 0x76, 10, 1, 0, 1 + vip]),
        remote: Ipv4Addr::new(192, 0, 2, 99 - vip),
        remote_mac: MacAddr([2, 0, 0, 0, 0, 99 - vip]),
        client: Ipv4Addr::new(10, 9, vip, 7),
    }
}

/// The VIP that a frame's virtual source MAC address belongs to.
pub(crate) fn vip_of_mac(mac: MacAddr) -> Option<usize> {
    ADDRESSES.iter().position(|addresses| [addresses.vip_mac, addresses.gateway_mac].contains(&mac))
}

pub(crate) const TARGETS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 1, 0, 21), Ipv4Addr::new(10, 1, 0, 22)];
pub(crate) const TARGET_MACS: [MacAddr; 2] = [MacAddr([2, 0, 0, 0, 0, 21]), MacAddr([2, 0, 0, 0, 0, 22])];
pub(crate) const ADVERSARY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 66]);
/// What is served on each VIP.
pub(crate) const SERVICE_PORT: u16 = 53;

/// The first remote peer's id in IVs and SPIs, the next one's is one more: no appliance's.
pub(crate) const REMOTE_ID: u8 = 200;

pub(crate) const CONNECTION: &str = "branch";
pub(crate) const CHILD: &str = "net";
const IDENTITIES: [&str; 2] = ["vip.example", "branch.example"];
const PSK: &[u8] = b"the pre-shared key of this simulation";
const PAIRING_SECRET: [u8; 32] = [7; 32];

/// An appliance's id: its place, counted from 1.
pub(crate) fn appliance_id(appliance: usize) -> ApplianceId {
    ApplianceId::new(appliance as u8 + 1).expect("not 0")
}

/// The place of an appliance with that id.
pub(crate) fn place_of(id: ApplianceId) -> usize {
    usize::from(id.get()) - 1
}

/// What varies from schedule to schedule.
#[derive(Debug, Clone)]
pub(crate) struct Variant {
    /// VIPs, by the groups in which they move. The first group is preferred by the first appliance, the second by the second.
    pub(crate) groups: Vec<Vec<u16>>,
    /// What a successor does.
    pub(crate) takeover: TakeoverPolicy,
    /// How much of what may take long the appliances do in one go.
    pub(crate) slices: Slices,
    /// How many workers each appliance has.
    pub(crate) workers: [usize; APPLIANCES_MAX],
    /// What the service takes: what takes clear packets, too, has its connections elsewhere than its SA.
    pub(crate) accepts: Accepts,
    /// How the services choose targets.
    pub(crate) method: Method,
    /// Ages at which the appliances rekey.
    pub(crate) rekey: Rekey,
    /// Ages at which the remote peer does.
    pub(crate) remote_rekey: Rekey,
    /// The protocol's times, by appliance.
    pub(crate) timing: [Timing; APPLIANCES_MAX],
    /// How much faster an appliance's clock runs, in thousandths.
    pub(crate) drift: [i16; APPLIANCES_MAX],
    /// How many appliances there are.
    pub(crate) appliances: usize,
    /// Who decides.
    pub(crate) deciders: Deciders,
    /// When the appliances take a remote peer for dead.
    pub(crate) retransmission: Retransmission,
    /// And how long not, while another one is missing.
    pub(crate) split_patience: Duration,
}

/// Who decides over ownership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deciders {
    /// Two appliances, between themselves.
    Pair,
    /// A registry, among several.
    Registry,
}

impl Variant {
    pub(crate) fn vips(&self) -> usize {
        self.groups.iter().map(Vec::len).sum()
    }

    /// The group that a VIP is in.
    pub(crate) fn group_of(&self, vip: usize) -> usize {
        self.groups.iter().position(|group| group.iter().any(|member| usize::from(*member) == vip)).unwrap_or(0)
    }
}

/// Ages at which SAs are rekeyed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rekey {
    pub(crate) ike: Option<Duration>,
    pub(crate) child: Option<Duration>,
}

/// All appliances but one, the next one first.
pub(crate) fn others(appliance: usize, appliances: usize) -> impl Iterator<Item = usize> {
    (1..appliances).map(move |step| (appliance + step) % appliances)
}

/// How much faster or slower a clock may run, in thousandths: between two of them lies as much as the margin allows for.
pub(crate) const DRIFT_MAX: i16 = 40;

/// How long a process counts as alive that the registry doesn't hear.
pub(crate) const LEASE: Duration = Duration::from_millis(700);

/// The protocol's times: those of production, but for how long a fresh appliance listens.
pub(crate) fn timing() -> Timing {
    Timing { claim_preferred: Duration::from_millis(100), claim_other: Duration::from_millis(600), ..Timing::default() }
}

/// An appliance's configuration.
pub(crate) fn appliance_config(appliance: usize, variant: &Variant) -> Config {
    let id = appliance_id(appliance);
    let name = format!("a{}", appliance + 1);
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
            via: ADDRESSES[0].remote.into(),
            port: OUTSIDE,
        }],
        vips: (0..variant.vips())
            .map(|n| {
                let Addresses { vip, vip_mac, gateway, gateway_mac, .. } = ADDRESSES[n];
                Vip {
                    name: vip_name(n),
                    floating: Floating { address: vip.into(), mac: vip_mac, port: OUTSIDE },
                    gateways: vec![Floating { address: gateway.into(), mac: gateway_mac, port: INSIDE }],
                    group: variant.group_of(n) as u16,
                }
            })
            .collect(),
        groups: (0..)
            .zip(&variant.groups)
            .map(|(n, vips)| VipGroup {
                name: format!("g{n}"),
                vips: vips.clone(),
                owner: Some(appliance_id(n)),
                backups: others(n, variant.appliances).map(appliance_id).collect(),
                give_back: None,
            })
            .collect(),
        targets: (0..2)
            .map(|n| Target {
                name: target_name(n),
                address: TARGETS[n].into(),
                forwarding: Forwarding::Mac,
                host: None,
                weight: 1,
                checks: Vec::new(),
            })
            .collect(),
        services: (0..variant.vips())
            .map(|n| Service {
                vip: n as u16,
                protocol: ServiceProtocol::Udp,
                port: Some(SERVICE_PORT),
                targets: vec![0, 1],
                method: variant.method,
                affinity: None,
                accepts: variant.accepts,
            })
            .collect(),
        policies: Vec::new(),
        connection_table: vipsec_distribute::connection::Limits::default(),
        child_options: Default::default(),
        connections: (0..variant.vips())
            .map(|n| connection(n, Speaker::Appliance, Some(Duration::from_secs(2)), variant.rekey))
            .collect(),
        etcd: (variant.deciders == Deciders::Registry).then(|| Etcd {
            endpoints: Vec::new(),
            prefix: String::new(),
            lease: LEASE,
            timeout: LEASE,
            credentials: None,
            tls: None,
        }),
        peers: others(appliance, variant.appliances)
            .map(|other| Peer {
                id: appliance_id(other),
                name: None,
                store: StoreLink::Local(PathBuf::new()),
                secret: Secret::new(PAIRING_SECRET.to_vec()),
                takeover: variant.takeover,
                takeover_rate: 250,
                moves: Default::default(),
                split_patience: variant.split_patience,
                timing: variant.timing[appliance],
                store_records: 32,
                store_pins: 2000,
            })
            .collect(),
        static_children: Vec::new(),
        target_agents: None,
        ike: Ike { retransmission: variant.retransmission, ..Ike::default() },
    }
}

/// The configuration of a VIP's remote peer.
pub(crate) fn remote_config(vip: usize, variant: &Variant) -> vipsec_ike::Config {
    let dpd_delay = Some(Duration::from_millis(400));
    vipsec_ike::Config {
        appliance: remote_id(vip),
        connections: vec![connection(vip, Speaker::Remote, dpd_delay, variant.remote_rekey)],
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

/// A remote peer's id in IVs and SPIs.
pub(crate) fn remote_id(vip: usize) -> ApplianceId {
    ApplianceId::new(REMOTE_ID + vip as u8).expect("not 0")
}

/// Whose policy it is.
#[derive(Debug, Clone, Copy)]
enum Speaker {
    Appliance,
    Remote,
}

/// One side's policy for the tunnel between a VIP and its remote peer.
fn connection(vip: usize, speaker: Speaker, dpd_delay: Option<Duration>, rekey: Rekey) -> Arc<ConnectionPolicy> {
    let addresses = &ADDRESSES[vip];
    let nets = [format!("{}/32", addresses.vip), format!("10.9.{vip}.0/24")];
    let ends = [addresses.vip, addresses.remote];
    let (ours, theirs) = match speaker {
        Speaker::Appliance => (0, 1),
        Speaker::Remote => (1, 0),
    };
    Arc::new(ConnectionPolicy {
        name: connection_name(vip, speaker),
        // A remote peer has but one address of its own.
        vip: if ours == 0 { vip as u16 } else { 0 },
        local: ends[ours].into(),
        remote: vec![AddressMatch::Exact(ends[theirs].into())],
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

fn connection_name(vip: usize, speaker: Speaker) -> String {
    match speaker {
        Speaker::Appliance => format!("{CONNECTION}{vip}"),
        Speaker::Remote => CONNECTION.to_owned(),
    }
}

/// What the appliances share.
pub(crate) fn pairing_secret() -> zeroize::Zeroizing<Vec<u8>> {
    zeroize::Zeroizing::new(PAIRING_SECRET.to_vec())
}

/// A region that is small enough to be made anew a few thousand times.
pub(crate) fn region_sizes() -> Sizes {
    Sizes {
        classes: vec![SizeClass { records: 32, bytes: 1024 }, SizeClass { records: 64, bytes: 4096 }],
        counter_blocks: 2,
        journal_entries: 256,
    }
}

/// A target's name, for orders.
pub(crate) fn target_name(target: usize) -> String {
    format!("t{target}")
}

/// A VIP's name, for orders.
pub(crate) fn vip_name(vip: usize) -> String {
    ["web", "mail"][vip].to_owned()
}
