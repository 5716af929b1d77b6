//! From the configuration to what the workers read.

use vipsec_dataplane::api::{self, FloatingAddress, IkeCalls, Policer, PortId, PortTable, Tables, VipState, VipTable};
use vipsec_distribute::service::{self, Forwarding, ServiceError, ServiceTable, TargetId, TargetState};
use vipsec_wire::ethernet::MacAddr;
use vipsec_wire::ip::protocol;

use super::keys::esp_selector;
use super::model::{Config, Floating, Policy, Service, ServiceProtocol};

/// IKE datagrams of IKE SAs that a worker lets through to the control core. Forged ones cost it a look-up, and a flood of them less than a
/// tenth of its time.
const IKE_POLICER: Policer = Policer { rate: 10_000, burst: 2000 };
/// Requests for an IKE SA, each of which costs the control core a key exchange: so many are let through without a cookie, and so many with
/// a good one. The two together are less than a quarter of its time.
const UNPROVEN_CALLS: Policer = Policer { rate: 500, burst: 500 };
const PROVEN_CALLS: Policer = Policer { rate: 2000, burst: 500 };

impl Config {
    /// The workers' tables: no VIP is owned yet, every target is up that can be reached.
    ///
    /// `device_mac` tells what a port's device says; a configured MAC address wins.
    ///
    /// # Errors
    /// What [`ServiceTable::new`] refuses; nothing that the checks let through.
    pub fn tables(&self, device_mac: impl Fn(PortId) -> MacAddr) -> Result<Tables, ServiceError> {
        let ports = self.ports.iter().zip(0..).map(|(port, id)| PortTable {
            side: port.side,
            mac: port.mac.unwrap_or_else(|| device_mac(PortId(id))),
            addresses: port.addresses.clone(),
            mtu: port.mtu,
        });
        let vips = self.vips.iter().map(|vip| VipTable {
            vip: floating(&vip.floating),
            more: Vec::new(),
            gateways: vip.gateways.iter().map(floating).collect(),
            state: VipState::Elsewhere,
        });
        let routes =
            self.routes.iter().map(|route| api::Route { prefix: route.prefix, via: route.via, port: route.port });
        Ok(Tables {
            ports: ports.collect(),
            vips: vips.collect(),
            routes: routes.collect(),
            policies: self.policies.iter().flat_map(policy_rules).collect(),
            services: self.service_table(|target| self.first_standing(target))?.into(),
            ike_policer: IKE_POLICER,
            // The core makes the secret.
            ike_calls: IkeCalls { unproven: UNPROVEN_CALLS, proven: PROVEN_CALLS, cookies: None },
        })
    }

    /// Services over targets that stand as `standing` says, by their place in [`Config::targets`].
    ///
    /// # Errors
    /// See [`Config::tables`].
    pub fn service_table(&self, standing: impl Fn(usize) -> Standing) -> Result<ServiceTable, ServiceError> {
        let targets = self.targets.iter().zip(0..).map(|(target, id)| {
            let Standing { state, share_percent } = standing(usize::from(id));
            // Weights are relative to each other, so that a hundred times as much for all of them changes nothing.
            let weight = target.weight.saturating_mul(share_percent).max(1);
            service::Target {
                weight,
                state,
                forwarding: if self.host_elsewhere(target).is_some() { Forwarding::Mac } else { target.forwarding },
                ..service::Target::new(TargetId(id), target.address)
            }
        });
        let services = self.services.iter().filter_map(|service| self.distributed_service(service));
        ServiceTable::new(targets.collect(), services.collect())
    }

    /// How a target stands before anything is known of it: up, unless it is on the host of another appliance.
    pub fn first_standing(&self, target: usize) -> Standing {
        let is_elsewhere = self.targets.get(target).is_some_and(|target| self.host_elsewhere(target).is_some());
        Standing { state: if is_elsewhere { TargetState::Down } else { TargetState::Up }, ..Standing::default() }
    }

    fn distributed_service(&self, service: &Service) -> Option<service::Service> {
        let vip = self.vips.get(usize::from(service.vip))?.floating.address;
        let targets = service.targets.iter().filter_map(|index| u16::try_from(*index).ok()).map(TargetId).collect();
        Some(service::Service {
            protocol: match service.protocol {
                ServiceProtocol::Tcp => Some(protocol::TCP),
                ServiceProtocol::Udp => Some(protocol::UDP),
                ServiceProtocol::Any => None,
            },
            port: service.port,
            method: service.method,
            affinity: service.affinity,
            accepts: service.accepts,
            ..service::Service::new(vip, targets)
        })
    }
}

/// One rule for each pair of ends.
fn policy_rules(policy: &Policy) -> impl Iterator<Item = api::Policy> + '_ {
    policy.local.iter().flat_map(move |local| {
        let (local, action) = (esp_selector(local), policy.action);
        policy.remote.iter().map(move |remote| api::Policy {
            local: local.clone(),
            remote: esp_selector(remote),
            action,
        })
    })
}

fn floating(floating: &Floating) -> FloatingAddress {
    FloatingAddress { address: floating.address, mac: floating.mac, port: floating.port }
}

/// What a target gets at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// New connections, established ones, or none.
    pub state: TargetState,
    /// The share of its weight, in percent; no less than 1 of the product counts.
    pub share_percent: u16,
}

impl Default for Standing {
    fn default() -> Self {
        Self { state: TargetState::Up, share_percent: 100 }
    }
}
