//! vipsecd's configuration for an appliance of the lab.

mod file;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use file::{
    ApplianceTable, Child, Connection, CryptoDevice, Eal, Etcd, File, Gateway, IKE_SAS_MAX, Ike, IkeLimits, Peer,
    Peers, Port, Route, Service, Target, TargetAgents, Vip,
};
use serde::Serialize;

use crate::error::{LabError, Result};
use crate::fleet::FleetPlan;
use crate::target::{ECHO_PORT, HTTP_PORT, SOURCE_PORT};
use crate::topology::{
    AppliancePlan, INNER_NETWORK, INNER_NETWORK6, INSIDE_GATEWAY, INSIDE_GATEWAY6, LOCAL_INTERFACE, Plan,
    SECOND_GATEWAY, SECOND_INNER_NETWORK, SECOND_VIP, TunnelPlan, VIP, VIP6,
};

/// What both ends of the tunnels agree on.
#[derive(Clone)]
pub struct IkeSettings {
    /// The gateway's identity.
    pub gateway_id: String,
    /// The pre-shared key.
    pub secret: String,
    /// IKE proposals.
    pub proposals: Vec<String>,
    /// ESP proposals.
    pub esp_proposals: Vec<String>,
}

impl Default for IkeSettings {
    fn default() -> Self {
        Self {
            gateway_id: "vip.example".to_owned(),
            secret: "a secret of the lab only".to_owned(),
            proposals: vec!["aes256gcm16-prfsha256-x25519".to_owned()],
            esp_proposals: vec!["aes256gcm16-x25519".to_owned()],
        }
    }
}

/// What a successor does with the SAs that it finds in the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TakeoverPolicy {
    /// Goes on with them.
    #[default]
    Resume,
    /// Negotiates new ones with the remote peers, and deletes them.
    Renegotiate,
}

/// How two appliances reach each other's memory, as the configuration says it.
#[derive(Clone, Serialize)]
#[serde(untagged)]
pub enum StoreWay {
    /// On one host.
    Socket {
        /// Where the two processes meet.
        store_socket: PathBuf,
    },
    /// On two.
    Network {
        /// Our end.
        store_listen: String,
        /// The other's.
        store_connect: String,
    },
}

/// The other appliance of a pair.
#[derive(Clone)]
pub struct PeerSettings {
    /// Its id.
    pub id: u8,
    /// Its name.
    pub name: String,
    /// How they reach each other's memory.
    pub store: StoreWay,
    /// The pairing secret.
    pub secret: String,
    /// The policy.
    pub takeover: TakeoverPolicy,
    /// How many SAs of each kind find room in the memory for the other one, if not as many as vipsecd thinks right.
    pub store_records: Option<u32>,
    /// How many inherited IKE SAs are dealt with in a second, likewise.
    pub takeover_rate: Option<u32>,
    /// How many moves of a VIP are too many, likewise.
    pub moves_max: Option<u32>,
}

/// A target, as the appliance is told.
#[derive(Clone)]
struct TargetSettings {
    name: String,
    address: IpAddr,
    /// The id of the appliance whose own host it is.
    appliance: Option<u8>,
}

/// A remote peer's connection, as the appliance is told.
#[derive(Clone)]
pub(super) struct ApplianceConnection {
    vip: IpAddr,
    pub(super) name: String,
    pub(super) remote_id: String,
    pub(super) local_ts: String,
    pub(super) remote_ts: String,
    pub(super) secret: String,
}

/// Everything that goes into an appliance's configuration.
#[derive(Clone)]
pub struct ApplianceConfig {
    plan: AppliancePlan,
    targets: Vec<TargetSettings>,
    /// Is there a port to the own host?
    has_local_port: bool,
    /// How services choose their targets.
    method: &'static str,
    pub(super) connections: Vec<ApplianceConnection>,
    settings: IkeSettings,
    dpd_delay: Duration,
    file_prefix: String,
    pub(super) peers: Vec<PeerSettings>,
    /// Where etcd answers, if it decides.
    etcd: Option<String>,
    /// Is there a second VIP?
    second_vip: bool,
    /// Is there an IPv6 VIP that moves with the first one?
    ipv6: bool,
    /// The id of the first VIP's preferred owner, in a pair.
    preferred: Option<u8>,
    /// After how long the first VIP goes back to that one by itself, if it does.
    give_back: Option<&'static str>,
    /// Are there agents on the targets that are told who owns a VIP?
    pub(super) has_agents: bool,
    workers: u8,
    crypto_device: Option<String>,
    routes: Vec<Route>,
    log: &'static str,
    /// The versions of the store link that it is told to speak, if not all.
    pub link_versions: Option<&'static str>,
    /// What is logged all the same, for `VIPSEC_LOG`.
    pub(super) log_filter: Option<&'static str>,
}

impl ApplianceConfig {
    /// The configuration of `appliance` in `plan`; `file_prefix` keeps DPDK's files apart from those of other runs.
    pub fn new(
        plan: &Plan,
        appliance: &AppliancePlan,
        settings: &IkeSettings,
        dpd_delay: Duration,
        file_prefix: String,
    ) -> Self {
        let connection = |tunnel: &TunnelPlan| ApplianceConnection {
            vip: tunnel.vip,
            name: tunnel.connection.clone(),
            remote_id: tunnel.identity.clone(),
            local_ts: tunnel.vip_prefix(),
            remote_ts: match tunnel.inner {
                IpAddr::V6(_) => INNER_NETWORK6,
                IpAddr::V4(_) if tunnel.vip == SECOND_VIP => SECOND_INNER_NETWORK,
                IpAddr::V4(_) => INNER_NETWORK,
            }
            .to_owned(),
            secret: settings.secret.clone(),
        };
        Self {
            plan: appliance.clone(),
            targets: targets(plan),
            has_local_port: plan.local_targets,
            method: if plan.in_turns { "round-robin" } else { "maglev" },
            connections: plan.tunnels().map(connection).collect(),
            settings: settings.clone(),
            dpd_delay,
            file_prefix,
            peers: Vec::new(),
            etcd: None,
            second_vip: plan.second_vip,
            ipv6: plan.ipv6,
            preferred: None,
            give_back: None,
            has_agents: plan.target_agents,
            workers: 1,
            crypto_device: None,
            routes: Vec::new(),
            log: "info",
            link_versions: None,
            log_filter: None,
        }
    }

    /// Has the first VIP go back by itself when its preferred owner has had a copy for so long.
    pub fn with_give_back(self, give_back: Option<&'static str>) -> Self {
        Self { give_back, ..self }
    }

    /// Has its SAs processed by a crypto device.
    pub fn with_crypto_device(self, crypto_device: Option<String>) -> Self {
        Self { crypto_device, ..self }
    }

    /// Lets a fleet of initiators in as well, from behind a remote peer's address. A line in the log for each would be most of the work;
    /// takeovers are told.
    pub fn with_fleet(mut self, fleet: &FleetPlan) -> Self {
        self.connections.push(ApplianceConnection {
            vip: VIP.into(),
            name: "fleet".to_owned(),
            remote_id: format!("*.{}", fleet.domain),
            local_ts: format!("{VIP}/32"),
            remote_ts: fleet.inner_network.clone(),
            secret: self.settings.secret.clone(),
        });
        self.routes.push(Route { prefix: fleet.network.clone(), via: fleet.host.to_string(), port: "outside" });
        self.log = "warn";
        self.log_filter = Some("warn,vipsec_control::core=info");
        self
    }

    /// Makes it one of a pair in which `preferred` is the id of the first VIP's first owner; the second VIP's is the other one.
    pub fn with_peer(self, peer: PeerSettings, preferred: u8) -> Self {
        self.with_peers(vec![peer], preferred)
    }

    /// Makes it one of several.
    pub fn with_peers(self, peers: Vec<PeerSettings>, preferred: u8) -> Self {
        Self { peers, preferred: Some(preferred), ..self }
    }

    /// Has etcd decide.
    pub fn with_etcd(self, endpoint: String) -> Self {
        Self { etcd: Some(endpoint), ..self }
    }

    /// Gives it that many workers, with a queue of each port for each.
    pub fn with_workers(self, workers: u8) -> Self {
        Self { workers, ..self }
    }

    pub(super) fn to_toml(&self, folder: &Path) -> Result<String> {
        let targets_of = |is_of: fn(&IpAddr) -> bool| {
            let targets = self.targets.iter().filter(|target| is_of(&target.address));
            targets.map(|target| target.name.as_str()).collect::<Vec<_>>()
        };
        let service = |vip, protocol, port| Service {
            vip,
            protocol,
            port,
            method: self.method,
            targets: targets_of(if vip == VIP6_NAME { IpAddr::is_ipv6 } else { IpAddr::is_ipv4 }),
        };
        let mut vips = vec![Vip {
            name: "web",
            address: VIP.to_string(),
            port: "outside",
            owner: self.preferred,
            give_back: self.give_back,
            group: self.ipv6.then_some(GROUP),
            gateways: vec![Gateway { address: INSIDE_GATEWAY.to_string(), port: "inside" }],
        }];
        let mut services = vec![
            service("web", "tcp", HTTP_PORT),
            service("web", "udp", ECHO_PORT),
            service("web", "udp", SOURCE_PORT),
        ];
        if self.second_vip {
            let ids = std::iter::once(self.plan.id).chain(self.peers.iter().map(|peer| peer.id));
            vips.push(Vip {
                name: SECOND_VIP_NAME,
                address: SECOND_VIP.to_string(),
                port: "outside",
                owner: self.preferred.and_then(|first| ids.clone().find(|id| *id != first)),
                give_back: None,
                group: None,
                gateways: vec![Gateway { address: SECOND_GATEWAY.to_string(), port: "inside" }],
            });
            services.push(service(SECOND_VIP_NAME, "udp", ECHO_PORT));
        }
        if self.ipv6 {
            vips.push(Vip {
                name: VIP6_NAME,
                address: VIP6.to_string(),
                port: "outside",
                owner: self.preferred,
                give_back: None,
                group: Some(GROUP),
                gateways: vec![Gateway { address: INSIDE_GATEWAY6.to_string(), port: "inside" }],
            });
            services.extend([
                service(VIP6_NAME, "tcp", HTTP_PORT),
                service(VIP6_NAME, "udp", ECHO_PORT),
                service(VIP6_NAME, "udp", SOURCE_PORT),
            ]);
        }
        let AppliancePlan { outside, inside, own6: [outside6, inside6], .. } = &self.plan;
        let addresses = |v4: &Ipv4Addr, v6: &Ipv6Addr| {
            std::iter::once(format!("{v4}/24")).chain(self.ipv6.then(|| format!("{v6}/64"))).collect()
        };
        let mut ports = vec![
            Port::of("outside", self.device("net_af_packet0,iface=out0"), addresses(outside, outside6)),
            Port::of("inside", self.device("net_af_packet1,iface=in0"), addresses(inside, inside6)),
        ];
        if self.has_local_port {
            ports.push(Port::local(format!("net_tap0,iface={LOCAL_INTERFACE}")));
        }
        let file = File {
            appliance: ApplianceTable {
                id: self.plan.id,
                name: &self.plan.name,
                control_socket: control_socket(folder),
                state_dir: folder.join("state"),
                workers: self.workers,
                polling: "adaptive",
                engine: "auto",
                processing: if self.crypto_device.is_some() { "lookaside" } else { "cpu" },
                log: self.log,
            },
            eal: Eal { file_prefix: &self.file_prefix, memory_mib: 256, hugepages: "auto" },
            crypto_device: self.crypto_device.as_deref().map(|device| CryptoDevice { device }),
            ike: Ike {
                retransmit_timeout: "500ms",
                retransmit_tries: 5,
                limits: IkeLimits { ike_sas_max: IKE_SAS_MAX },
            },
            port: ports,
            route: &self.routes,
            vip: vips,
            etcd: self.etcd.as_ref().map(|endpoint| Etcd { endpoints: [endpoint] }),
            peer: Peers::of(self.peers.iter().map(|peer| Peer {
                id: peer.id,
                name: &peer.name,
                store: &peer.store,
                secret_file: PAIR_SECRET_FILE,
                takeover: peer.takeover,
                store_records: peer.store_records,
                takeover_rate: peer.takeover_rate,
                moves_max: peer.moves_max,
            })),
            target_agents: self.has_agents.then_some(TargetAgents { secret_file: AGENT_SECRET_FILE }),
            target: self.targets.iter().map(|target| Target::of(target, self.has_agents)).collect(),
            service: services,
            connection: self.connections.iter().map(|connection| self.connection(connection)).collect(),
        };
        toml::to_string(&file).map_err(|error| LabError::Answer {
            what: "writing vipsecd's configuration".to_owned(),
            answer: error.to_string(),
        })
    }

    fn device(&self, of_one_queue: &str) -> String {
        if self.workers > 1 { format!("{of_one_queue},qpairs={}", self.workers) } else { of_one_queue.to_owned() }
    }

    fn connection<'a>(&'a self, connection: &'a ApplianceConnection) -> Connection<'a> {
        Connection {
            name: &connection.name,
            vip: match connection.vip {
                IpAddr::V6(_) => VIP6_NAME,
                IpAddr::V4(vip) if vip == SECOND_VIP => SECOND_VIP_NAME,
                IpAddr::V4(_) => "web",
            },
            remote_addrs: ["%any"],
            local_id: &self.settings.gateway_id,
            remote_id: &connection.remote_id,
            secret_file: secret_file(connection),
            proposals: &self.settings.proposals,
            dpd_delay: format!("{}s", self.dpd_delay.as_secs().max(1)),
            rekey_time: "4h",
            child: [Child {
                name: "net",
                local_ts: [&connection.local_ts],
                remote_ts: [&connection.remote_ts],
                esp_proposals: &self.settings.esp_proposals,
                rekey_time: "1h",
            }],
        }
    }
}

fn targets(plan: &Plan) -> Vec<TargetSettings> {
    let of = |name: &String, address: IpAddr, appliance| TargetSettings { name: name.clone(), address, appliance };
    let hosts = plan.targets.iter().map(|target| of(&target.name, target.inside.into(), None));
    let of_ipv6 = plan.targets.iter().filter(|_| plan.ipv6);
    let of_ipv6 = of_ipv6.map(|target| of(&format!("{}-6", target.name), target.inside6.into(), None));
    let appliances = plan.appliances.iter().filter(|_| plan.local_targets);
    let appliances = appliances.map(|appliance| of(&appliance.name, appliance.inside.into(), Some(appliance.id)));
    hosts.chain(of_ipv6).chain(appliances).collect()
}

/// What the second VIP is called.
pub const SECOND_VIP_NAME: &str = "mail";
/// What the IPv6 VIP is called.
const VIP6_NAME: &str = "web6";
/// What the first VIP and the IPv6 VIP are together.
const GROUP: &str = "both";

/// Where the pairing secret is.
pub(super) const PAIR_SECRET_FILE: &str = "pair.psk";
/// Where the secret is that the targets' agents know, too.
pub(super) const AGENT_SECRET_FILE: &str = "agents.psk";

pub(super) fn control_socket(folder: &Path) -> PathBuf {
    folder.join("control.sock")
}

pub(super) fn secret_file(connection: &ApplianceConnection) -> String {
    format!("{}.psk", connection.name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use vipsec_control::config::{Config, TestConfiguration, load};

    use super::*;
    use crate::agent::AGENT_SECRET;

    /// vipsecd's own reader is the judge.
    fn loaded(name: &str, settings: ApplianceConfig) -> Config {
        let folder = std::env::temp_dir().join(format!("vl-config-test-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let secrets = settings.connections.iter().map(|connection| (secret_file(connection), &connection.secret));
        let pairing = settings.peers.iter().map(|peer| (PAIR_SECRET_FILE.to_owned(), &peer.secret));
        let agents = AGENT_SECRET.to_owned();
        let agents = std::iter::once((AGENT_SECRET_FILE.to_owned(), &agents));
        for (file, secret) in secrets.chain(pairing).chain(agents) {
            let file = folder.join(file);
            std::fs::write(&file, secret).expect("a secret");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("its mode");
        }
        let file = folder.join("vipsec.toml");
        std::fs::write(&file, settings.to_toml(&folder).expect("a text")).expect("a file");
        let loaded = load(&file, TestConfiguration::Refused);
        std::fs::remove_dir_all(&folder).expect("the folder goes");
        loaded.unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn settings(plan: &Plan) -> ApplianceConfig {
        let (appliance, dpd_delay) = (&plan.appliances[1], Duration::from_secs(2));
        ApplianceConfig::new(plan, appliance, &IkeSettings::default(), dpd_delay, "vl1-0-b".to_owned())
    }

    #[test]
    fn vipsecd_takes_the_configuration() {
        let config = loaded("single", settings(&Plan::new(2, 3, 2)));
        assert_eq!((config.targets.len(), config.connections.len(), config.services.len()), (3, 2, 3));
        assert!(config.peers.is_empty());
    }

    #[test]
    fn vipsecd_takes_the_configuration_with_local_targets() {
        let peer = PeerSettings {
            id: 1,
            name: "a".to_owned(),
            store: StoreWay::Socket { store_socket: "/tmp/vl1-0/pair.sock".into() },
            secret: "a pairing secret of this test only".to_owned(),
            takeover: TakeoverPolicy::Resume,
            store_records: None,
            takeover_rate: None,
            moves_max: None,
        };
        let plan = Plan { local_targets: true, ..Plan::new(1, 2, 2) };
        let config = loaded("local", settings(&plan).with_peer(peer, 1));
        assert_eq!((config.targets.len(), config.ports.len()), (4, 3));
    }

    #[test]
    fn vipsecd_takes_the_configuration_with_ipv6() {
        let config = loaded("ipv6", settings(&Plan::with_ipv6(2)));
        assert_eq!((config.targets.len(), config.connections.len(), config.services.len()), (4, 2, 6));
        assert_eq!(config.groups.len(), 1, "both VIPs move together");
    }

    #[test]
    fn vipsecd_takes_the_configuration_with_target_agents() {
        let plan = Plan { target_agents: true, ..Plan::new(1, 2, 2) };
        let config = loaded("agents", settings(&plan));
        assert!(config.target_agents.is_some());
        assert!(config.targets.iter().all(|target| target.checks.iter().any(|check| check.asks_agent())));
    }

    #[test]
    fn vipsecd_takes_the_configuration_with_a_fleet() {
        let config = loaded("fleet", settings(&Plan::new(1, 1, 2)).with_fleet(&FleetPlan::default()));
        assert_eq!(config.connections.len(), 2);
    }

    #[test]
    fn vipsecd_takes_the_configuration_of_a_pair_with_a_hundred_tunnels() {
        let peer = PeerSettings {
            id: 1,
            name: "a".to_owned(),
            store: StoreWay::Socket { store_socket: "/tmp/vl1-0/pair.sock".into() },
            secret: "a pairing secret of this test only".to_owned(),
            takeover: TakeoverPolicy::Renegotiate,
            store_records: None,
            takeover_rate: Some(1),
            moves_max: Some(3),
        };
        let settings = settings(&Plan::with_tunnels(100, 2)).with_peer(peer, 1).with_give_back(Some("5s"));
        let config = loaded("pair", settings);
        assert_eq!(config.connections.len(), 100);
        assert_eq!(config.peers.first().map(|peer| peer.id.get()), Some(1));
    }
}
