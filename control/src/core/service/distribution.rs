//! Answers about services and targets.

use std::collections::BTreeMap;
use std::net::IpAddr;

use vipsec_distribute::service::{Method, TargetState};

use super::targets::TargetOrder;
use crate::api::{ApiError, ErrorKind, HealthCheck, Response, Service, ServiceTarget, Target};
use crate::config::{self, Probe, ServiceProtocol};
use crate::core::Core;
use crate::health::CheckStatus;

impl Core {
    pub(in crate::core) fn answer_targets(&self, connections: &BTreeMap<IpAddr, u32>) -> Response {
        let targets = self.config.targets.iter().enumerate().map(|(number, target)| {
            let standing = self.targets.standing(number);
            let checks = self.targets.monitor().statuses().filter(|status| status.target == number);
            Target {
                name: target.name.clone(),
                address: target.address,
                state: state(standing.state).to_owned(),
                drained: self.targets.order(number) == TargetOrder::Drained,
                weight: target.weight,
                share_percent: standing.share_percent,
                connections: connections.get(&target.address).copied().unwrap_or(0),
                checks: checks.map(|status| health_check(&status)).collect(),
            }
        });
        Response::Targets { entries: targets.collect() }
    }

    pub(in crate::core) fn answer_services(&self, connections: &BTreeMap<IpAddr, u32>) -> Response {
        Response::Services {
            entries: self.config.services.iter().filter_map(|service| self.service(service, connections)).collect(),
        }
    }

    fn service(&self, service: &config::Service, connections: &BTreeMap<IpAddr, u32>) -> Option<Service> {
        let vip = self.config.vips.get(usize::from(service.vip))?;
        let targets = || {
            service.targets.iter().filter_map(|number| {
                let (target, standing) = (self.config.targets.get(*number)?, self.targets.standing(*number));
                let weight = u64::from(target.weight) * u64::from(standing.share_percent);
                Some((target, standing.state, if standing.state == TargetState::Up { weight } else { 0 }))
            })
        };
        // The first that is up takes all.
        let first_alone = service.method == Method::HotStandby;
        let mut free = true;
        let targets: Vec<_> = targets()
            .map(|(target, state, weight)| {
                let takes = weight > 0 && (free || !first_alone);
                free &= !takes;
                (target, state, if takes { weight } else { 0 })
            })
            .collect();
        let sum: u64 = targets.iter().map(|(_, _, weight)| weight).sum();
        let parts = targets.into_iter().map(|(target, target_state, weight)| ServiceTarget {
            name: target.name.clone(),
            state: state(target_state).to_owned(),
            weight: target.weight,
            connections: connections.get(&target.address).copied().unwrap_or(0),
            part_percent: (weight * 100 + sum / 2).checked_div(sum).and_then(|part| part.try_into().ok()).unwrap_or(0),
        });
        Some(Service {
            vip: vip.name.clone(),
            address: vip.floating.address,
            protocol: match service.protocol {
                ServiceProtocol::Tcp => "tcp",
                ServiceProtocol::Udp => "udp",
                ServiceProtocol::Any => "any",
            }
            .to_owned(),
            port: service.port,
            method: config::method_name(service.method).to_owned(),
            affinity_s: service.affinity.map(|affinity| affinity.as_secs()),
            targets: parts.collect(),
        })
    }

    pub(in crate::core) fn answer_order(&mut self, name: &str, order: TargetOrder) -> Result<Response, ApiError> {
        let ordered = self.order_target(name, order);
        ordered
            .map(|()| Response::DONE)
            .ok_or_else(|| ApiError::new(ErrorKind::NotFound, format!("no target {name:?}")))
    }
}

fn state(state: TargetState) -> &'static str {
    match state {
        TargetState::Up => "up",
        TargetState::Drain => "drain",
        TargetState::Down => "down",
    }
}

fn health_check(status: &CheckStatus) -> HealthCheck {
    HealthCheck {
        kind: match status.check.probe {
            Probe::Tcp => "tcp",
            Probe::Http(_) => "http",
            Probe::Agent => "agent",
        }
        .to_owned(),
        address: status.check.address,
        passed: status.is_up,
        failure: status.failure.map(ToString::to_string),
        runs: status.results,
    }
}
