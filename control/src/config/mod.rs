//! The configuration: from TOML to types whose values have been checked.
//!
//! [`load`] reports every mistake it finds, each with file, line, key and reason, and has an answer only when there is none.
//! `examples/vipsec.toml` shows every key.

mod appliance;
mod changes;
mod connection;
mod crypto;
mod digest;
mod error;
mod etcd;
mod ike;
mod keys;
mod memory;
mod model;
mod names;
mod network;
mod peer;
mod policy;
mod pool;
mod read;
mod secret;
mod service;
mod tables;
mod target;
mod tls;
mod value;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use vipsec_esp::sa::Processing;

pub use connection::{CHILDREN_MAX, CONNECTIONS_MAX, PROPOSALS_MAX, SELECTORS_MAX};
pub use digest::ConfigDigest;
pub use error::{ConfigError, ConfigErrors, Reason};
pub use keys::{KEYS_FILE_BYTES_MAX, STATIC_CHILDREN_MAX, esp_selector};
pub use memory::{DESCRIPTORS, PacketMemory};
pub use model::{
    Appliance, Check, ChildOptions, Config, CryptoDevice, Eal, Etcd, Floating, HttpProbe, Hugepages, Ike, Lanes,
    LogLevel, Peer, Policy, Polling, Port, Probe, Route, Service, ServiceProtocol, StartAction, StoreLink,
    TakeoverPolicy, Target, TargetAgents, Tls, Vip, VipGroup, algorithm, virtual_mac,
};
pub use network::{GATEWAYS_MAX, PORT_ADDRESSES_MAX, PORTS_MAX, ROUTES_MAX, VIPS_MAX, side_name};
pub use peer::PEERS_MAX;
pub use policy::POLICIES_MAX;
pub use pool::POOLS_MAX;
pub use secret::SECRET_BYTES_MAX;
pub(crate) use service::method_name;
pub use service::{SERVICE_TARGETS_MAX, SERVICES_MAX};
pub use tables::Standing;
pub use target::{CHECKS_MAX, TARGETS_MAX};

use crypto::Tiers;
use network::Network;
use peer::Appliances;
use pool::Pools;
use read::{Section, Source};

/// Most bytes of a configuration.
pub const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// What is done with a `[test]` table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestConfiguration {
    /// It is a mistake.
    Refused,
    /// It is taken: `--test-configuration`.
    Accepted,
}

/// Reads and checks a configuration and the files that it names.
///
/// # Errors
/// Every mistake found; see [`Reason`].
pub fn load(path: &Path, test: TestConfiguration) -> Result<Config, ConfigErrors> {
    let text = read(path).map_err(|reason| {
        ConfigErrors(vec![ConfigError { file: path.to_path_buf(), line: None, key: String::new(), reason }])
    })?;
    let folder = path.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    let source = Source::new(path, &text);
    let config = source.parse().and_then(|table| {
        let root = Section::root(&source, &table);
        let config = check(&source, &root, &folder, test);
        root.finish();
        config
    });
    let problems = source.into_problems();
    config.filter(|_| problems.is_empty()).ok_or(ConfigErrors(problems))
}

fn read(path: &Path) -> Result<String, Reason> {
    let unreadable = |error: std::io::Error| Reason::Unreadable(error.to_string());
    let mut text = String::new();
    File::open(path).map_err(unreadable)?.take(CONFIG_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > CONFIG_BYTES_MAX {
        return Err(Reason::FileTooLarge { max: CONFIG_BYTES_MAX });
    }
    Ok(text)
}

/// Reads every table before giving up, so that each says what is wrong with it.
fn check(source: &Source, root: &Section, folder: &Path, test: TestConfiguration) -> Option<Config> {
    let crypto_device = crypto::crypto_device(root);
    // With a mistake in it, it is there all the same.
    let on_cpu = Tiers { default: Processing::Cpu, has_device: !matches!(crypto_device, Some(None)) };
    let appliance = appliance::appliance(root, on_cpu);
    let tiers = Tiers { default: appliance.as_ref().map_or(Processing::Cpu, |own| own.processing), ..on_cpu };
    let eal = appliance::eal(root, appliance.as_ref());
    let ike = ike::ike(root);
    let target_agents = target::agents(root, folder);
    let peers = peer::peers(root, folder, appliance.as_ref());
    let etcd = etcd::etcd(root, folder);
    let has_registry = !matches!(etcd, Some(None));
    let network = Network::read(root, &Appliances::of(appliance.as_ref(), peers.as_ref(), has_registry));
    if let (Some(peers), Some(etcd)) = (&peers, &etcd) {
        peer::check(root, peers, etcd.as_ref(), network.groups.len());
    }
    if let (Some(appliance), Some(eal)) = (&appliance, &eal) {
        memory::check(root, eal, appliance.workers, network.ports.len());
    }
    let policies = policy::policies(root);
    let connection_table = service::connection_table(root);
    let pools = Pools::read(root);
    let connections = connection::connections(root, folder, &network.vip_names, &network.vips, &pools, tiers);
    let static_children = match root.optional("test") {
        None => Some(Vec::new()),
        Some(field) if test == TestConfiguration::Refused => {
            field.report(Reason::TestConfigurationRefused);
            None
        }
        Some(field) => field.table().and_then(|section| {
            let keys_file = section.required("keys_file");
            section.finish();
            keys::static_children(&keys_file?, folder, appliance.as_ref()?.id, &network.vips, tiers)
                .map_err(|problems| source.adopt(problems))
                .ok()
        }),
    };
    let connections = all(connections)?;
    let child_options = connections.iter().map(|(policy, options)| (policy.name.clone(), options.clone())).collect();
    let connections = connections.into_iter().map(|(policy, _)| policy).collect();
    Some(Config {
        appliance: appliance?,
        eal: eal?,
        crypto_device: crypto_device?,
        ike: ike?,
        target_agents: target_agents?,
        ports: all(network.ports)?,
        routes: all(network.routes)?,
        vips: all(network.vips)?,
        groups: network.groups,
        targets: all(network.targets)?,
        services: all(network.services)?,
        policies: all(policies)?,
        connection_table: connection_table?,
        connections,
        child_options,
        peers: peers?,
        etcd: etcd?,
        static_children: static_children?,
    })
}

fn all<T>(items: Vec<Option<T>>) -> Option<Vec<T>> {
    items.into_iter().collect()
}
