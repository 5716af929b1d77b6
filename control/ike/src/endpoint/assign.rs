//! Inside addresses for remote peers (RFC 7296 §2.19, §3.15).

use std::net::IpAddr;

use super::Endpoint;
use super::contents::Contents;
use crate::message::{ConfigAttribute, ConfigKind, ConfigPayload, NotifyType};
use crate::pool::Assigned;
use crate::sa::IkeSa;

/// Most addresses that one IKE SA gets.
const ADDRESSES_MAX: usize = 4;

impl Endpoint {
    /// Assigns what the peer asks for. `None`: it may not, or needs not. The error is why its child SA fails.
    pub(super) fn assign_addresses(
        &mut self,
        sa: &mut IkeSa,
        contents: &Contents,
    ) -> Result<Option<ConfigPayload>, NotifyType> {
        let policy = sa.policy.clone();
        let (Some(identity), false) = (sa.state.remote_id.clone(), policy.pools.is_empty()) else { return Ok(None) };
        let request = contents.config.as_ref().filter(|config| config.kind == ConfigKind::Request);
        // RFC 7296 §2.19: where it is required, a request without it MUST fail; that is not fatal to the IKE SA.
        let Some(request) = request else { return Err(NotifyType::FAILED_CP_REQUIRED) };
        let wanted = request.attributes.iter().filter_map(|attribute| match attribute {
            ConfigAttribute::Ip4Address(address) => Some((true, address.map(IpAddr::V4))),
            ConfigAttribute::Ip6Address(address) => Some((false, address.map(|(address, _)| IpAddr::V6(address)))),
            _ => None,
        });
        let mut attributes = Vec::new();
        // RFC 7296 §3.15.1: up to the number of addresses requested; §3.15.4: a family that we don't have is ignored.
        for (ipv4, address) in wanted.take(ADDRESSES_MAX) {
            let pools = policy.pools.iter().filter(|pool| pool.first.is_ipv4() == ipv4);
            // 0.0.0.0 and :: suggest nothing.
            let address = address.filter(|address| !address.is_unspecified());
            let id = sa.id();
            let found =
                pools.into_iter().find_map(|pool| Some((pool, self.leases.assign(pool, address, &identity, id)?)));
            let Some((pool, address)) = found else { continue };
            attributes.push(match address {
                IpAddr::V4(address) => ConfigAttribute::Ip4Address(Some(address)),
                IpAddr::V6(address) => ConfigAttribute::Ip6Address(Some((address, 128))),
            });
            for dns in &pool.dns {
                let dns = match dns {
                    IpAddr::V4(dns) => ConfigAttribute::Ip4Dns(Some(*dns)),
                    IpAddr::V6(dns) => ConfigAttribute::Ip6Dns(Some(*dns)),
                };
                if !attributes.contains(&dns) {
                    attributes.push(dns);
                }
            }
            sa.state.assigned.push(Assigned { pool: pool.name.clone(), address });
            sa.changed = true;
        }
        if sa.state.assigned.is_empty() {
            tracing::warn!(
                ike_sa = %sa.id(), connection = %policy.name, peer = %identity,
                pools = ?policy.pools.iter().map(|pool| &pool.name).collect::<Vec<_>>(), ?request, "no inside address to assign"
            );
            // RFC 7296 §3.15.4: only if no addresses can be assigned.
            return Err(NotifyType::INTERNAL_ADDRESS_FAILURE);
        }
        tracing::info!(ike_sa = %sa.id(), connection = %policy.name, peer = %identity, assigned = ?sa.state.assigned, "inside addresses assigned");
        Ok(Some(ConfigPayload { kind: ConfigKind::Reply, attributes }))
    }

    /// Gives back what an IKE SA has that is gone.
    pub(super) fn release_addresses(&mut self, sa: &IkeSa) {
        for assigned in &sa.state.assigned {
            self.leases.release(assigned.address, sa.id());
        }
    }

    /// Takes note of what an IKE SA has that came with a record.
    pub(super) fn hold_addresses(&mut self, sa: &IkeSa) {
        let Some(identity) = &sa.state.remote_id else { return };
        for assigned in &sa.state.assigned {
            self.leases.hold(assigned.address, identity, sa.id());
        }
    }

    /// RFC 7296 §3.15.1: an address is valid as long as the IKE SA that requested it, or its rekeyed successors.
    pub(super) fn inherit_addresses(&mut self, old: &mut IkeSa, heir: &mut IkeSa) {
        self.release_addresses(old);
        heir.state.assigned = std::mem::take(&mut old.state.assigned);
        self.hold_addresses(heir);
    }

    /// Inside addresses in use, of all pools.
    pub fn addresses_assigned(&self) -> usize {
        self.leases.len()
    }
}
