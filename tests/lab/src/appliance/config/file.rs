//! vipsecd's configuration file, table by table.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::Serialize;

use super::{StoreWay, TakeoverPolicy, TargetSettings};

#[derive(Serialize)]
pub(super) struct File<'a> {
    pub(super) appliance: ApplianceTable<'a>,
    pub(super) eal: Eal<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) crypto_device: Option<CryptoDevice<'a>>,
    pub(super) ike: Ike,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) peer: Option<Peers<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) etcd: Option<Etcd<'a>>,
    pub(super) port: Vec<Port>,
    pub(super) route: &'a [Route],
    pub(super) vip: Vec<Vip>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) target_agents: Option<TargetAgents>,
    pub(super) target: Vec<Target<'a>>,
    pub(super) service: Vec<Service<'a>>,
    pub(super) connection: Vec<Connection<'a>>,
}

#[derive(Serialize)]
pub(super) struct ApplianceTable<'a> {
    pub(super) id: u8,
    pub(super) name: &'a str,
    pub(super) control_socket: PathBuf,
    pub(super) state_dir: PathBuf,
    pub(super) workers: u8,
    pub(super) polling: &'static str,
    pub(super) engine: &'static str,
    pub(super) processing: &'static str,
    pub(super) log: &'static str,
}

#[derive(Serialize)]
pub(super) struct CryptoDevice<'a> {
    pub(super) device: &'a str,
}

#[derive(Serialize)]
pub(super) struct Peer<'a> {
    pub(super) id: u8,
    pub(super) name: &'a str,
    #[serde(flatten)]
    pub(super) store: &'a StoreWay,
    pub(super) secret_file: &'static str,
    pub(super) takeover: TakeoverPolicy,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) store_records: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) takeover_rate: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) moves_max: Option<u32>,
}

/// One is a table, several are tables.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Peers<'a> {
    One(Peer<'a>),
    Several(Vec<Peer<'a>>),
}

impl<'a> Peers<'a> {
    pub(super) fn of(peers: impl Iterator<Item = Peer<'a>>) -> Option<Self> {
        let mut peers: Vec<_> = peers.collect();
        match peers.len() {
            0 | 1 => peers.pop().map(Self::One),
            _ => Some(Self::Several(peers)),
        }
    }
}

#[derive(Serialize)]
pub(super) struct Etcd<'a> {
    pub(super) endpoints: [&'a str; 1],
}

/// A silent remote peer is given up after half a minute: nobody waits longer here.
#[derive(Serialize)]
pub(super) struct Ike {
    pub(super) retransmit_timeout: &'static str,
    pub(super) retransmit_tries: u32,
    pub(super) limits: IkeLimits,
}

/// More than any measurement sets up.
pub(super) const IKE_SAS_MAX: u32 = 120_000;

#[derive(Serialize)]
pub(super) struct IkeLimits {
    pub(super) ike_sas_max: u32,
}

#[derive(Serialize)]
pub(super) struct Eal<'a> {
    pub(super) file_prefix: &'a str,
    pub(super) memory_mib: u32,
    pub(super) hugepages: &'static str,
}

#[derive(Serialize)]
pub(super) struct Port {
    pub(super) name: &'static str,
    pub(super) side: &'static str,
    pub(super) device: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) addresses: Vec<String>,
    pub(super) mtu: u16,
}

impl Port {
    pub(super) fn of(side: &'static str, device: String, addresses: Vec<String>) -> Self {
        Self { name: side, side, device, addresses, mtu: 1500 }
    }

    pub(super) fn local(device: String) -> Self {
        Self { name: "host", side: "local", device, addresses: Vec::new(), mtu: 1500 }
    }
}

#[derive(Clone, Serialize)]
pub(super) struct Route {
    pub(super) prefix: String,
    pub(super) via: String,
    pub(super) port: &'static str,
}

#[derive(Serialize)]
pub(super) struct Vip {
    pub(super) name: &'static str,
    pub(super) address: String,
    pub(super) port: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) owner: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) give_back: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) group: Option<&'static str>,
    pub(super) gateways: Vec<Gateway>,
}

#[derive(Serialize)]
pub(super) struct Gateway {
    pub(super) address: String,
    pub(super) port: &'static str,
}

#[derive(Serialize)]
pub(super) struct Target<'a> {
    pub(super) name: &'a str,
    pub(super) address: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) forwarding: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) appliance: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) check: Option<[Check; 1]>,
}

impl<'a> Target<'a> {
    pub(super) fn of(settings: &'a TargetSettings, has_agent: bool) -> Self {
        let TargetSettings { name, address, appliance } = settings;
        Self {
            name,
            address: *address,
            forwarding: appliance.map(|_| "local"),
            appliance: *appliance,
            check: has_agent.then_some([Check { kind: "agent", port: AGENT_PORT, fall: AGENT_FALL }]),
        }
    }
}

/// Where an agent listens.
const AGENT_PORT: u16 = 9777;
/// A target whose agent is silent for a moment isn't down: an agent is killed and started again here.
const AGENT_FALL: u32 = 10;

#[derive(Serialize)]
pub(super) struct Check {
    pub(super) kind: &'static str,
    pub(super) port: u16,
    pub(super) fall: u32,
}

#[derive(Serialize)]
pub(super) struct TargetAgents {
    pub(super) secret_file: &'static str,
}

#[derive(Serialize)]
pub(super) struct Service<'a> {
    pub(super) vip: &'static str,
    pub(super) protocol: &'static str,
    pub(super) port: u16,
    pub(super) method: &'static str,
    pub(super) targets: Vec<&'a str>,
}

#[derive(Serialize)]
pub(super) struct Connection<'a> {
    pub(super) name: &'a str,
    pub(super) vip: &'static str,
    pub(super) remote_addrs: [&'static str; 1],
    pub(super) local_id: &'a str,
    pub(super) remote_id: &'a str,
    pub(super) secret_file: String,
    pub(super) proposals: &'a [String],
    pub(super) dpd_delay: String,
    pub(super) rekey_time: &'static str,
    pub(super) child: [Child<'a>; 1],
}

#[derive(Serialize)]
pub(super) struct Child<'a> {
    pub(super) name: &'static str,
    pub(super) local_ts: [&'a str; 1],
    pub(super) remote_ts: [&'a str; 1],
    pub(super) esp_proposals: &'a [String],
    pub(super) rekey_time: &'static str,
}
