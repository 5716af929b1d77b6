//! From the configuration to what IKE may agree to.

use std::sync::Arc;

use vipsec_esp::sa::{Algorithm, Selector};
use vipsec_ike::{
    AddressMatch, ChildPolicy, ConnectionPolicy, IdentityMatch, InvalidProposal, Limits, Retransmission, Secret,
    TrafficSelector,
};

use crate::config::{self, Config, EspProposal, IkeProposal, KeyExchange, Prf, RemoteAddr};

/// IKE's view of the configuration.
///
/// # Errors
/// A proposal that IKE doesn't implement; nothing that the configuration's checks let through.
pub(super) fn ike_config(config: &Config) -> Result<vipsec_ike::Config, InvalidProposal> {
    let connections = config.connections.iter().filter_map(|connection| {
        let local = config.vips.get(usize::from(connection.vip))?.floating.address;
        Some(connection_policy(connection, local).map(Arc::new))
    });
    Ok(vipsec_ike::Config {
        appliance: config.appliance.id,
        connections: connections.collect::<Result<_, _>>()?,
        limits: Limits::default(),
        retransmission: Retransmission::default(),
    })
}

fn connection_policy(
    connection: &config::Connection,
    local: std::net::IpAddr,
) -> Result<ConnectionPolicy, InvalidProposal> {
    Ok(ConnectionPolicy {
        name: connection.name.clone(),
        vip: connection.vip,
        local,
        remote: connection.remote_addrs.iter().map(address).collect(),
        local_id: identity(&connection.local_id),
        remote_id: match &connection.remote_id {
            config::Identity::Any => IdentityMatch::Any,
            other => IdentityMatch::Exact(identity(other)),
        },
        psk: Secret::new(connection.secret.expose().to_vec()),
        proposals: connection.proposals.iter().map(ike_proposal).collect::<Result<_, _>>()?,
        dpd_delay: Some(connection.dpd_delay),
        rekey_time: Some(connection.rekey_time),
        children: connection.children.iter().map(|child| child_policy(child).map(Arc::new)).collect::<Result<_, _>>()?,
    })
}

fn child_policy(child: &config::Child) -> Result<ChildPolicy, InvalidProposal> {
    Ok(ChildPolicy {
        name: child.name.clone(),
        local_ts: child.local_ts.iter().map(traffic_selector).collect(),
        remote_ts: child.remote_ts.iter().map(traffic_selector).collect(),
        proposals: child.esp_proposals.iter().map(esp_proposal).collect::<Result<_, _>>()?,
        rekey_time: Some(child.rekey_time),
    })
}

fn address(address: &RemoteAddr) -> AddressMatch {
    match address {
        RemoteAddr::Any => AddressMatch::Any,
        RemoteAddr::In(prefix) if prefix.address() == prefix.last() => AddressMatch::Exact(prefix.address()),
        RemoteAddr::In(prefix) => TrafficSelector::prefix(prefix.address(), prefix.bits())
            .map_or(AddressMatch::Exact(prefix.address()), AddressMatch::Within),
    }
}

fn identity(identity: &config::Identity) -> vipsec_ike::Identity {
    match identity {
        config::Identity::Address(address) => (*address).into(),
        // `%any` is no identity of ours: the configuration refuses it.
        config::Identity::Any => vipsec_ike::Identity::fqdn("%any"),
        config::Identity::Mail(name) | config::Identity::Fqdn(name) => {
            name.parse().unwrap_or_else(|_| vipsec_ike::Identity::fqdn(name))
        }
    }
}

fn encryption(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Aes128Gcm => "aes128gcm16",
        Algorithm::Aes256Gcm => "aes256gcm16",
    }
}

fn ike_proposal(proposal: &IkeProposal) -> Result<vipsec_ike::IkeProposal, InvalidProposal> {
    let prf = match proposal.prf {
        Prf::HmacSha256 => "prfsha256",
        Prf::HmacSha384 => "prfsha384",
        Prf::HmacSha512 => "prfsha512",
    };
    let KeyExchange::X25519 = proposal.key_exchange;
    format!("{}-{prf}-x25519", encryption(proposal.encryption)).parse()
}

fn esp_proposal(proposal: &EspProposal) -> Result<vipsec_ike::EspProposal, InvalidProposal> {
    let group = proposal.key_exchange.map_or("", |KeyExchange::X25519| "-x25519");
    format!("{}{group}", encryption(proposal.encryption)).parse()
}

fn traffic_selector(selector: &Selector) -> TrafficSelector {
    TrafficSelector {
        protocol: selector.protocol.unwrap_or(0),
        ports: (*selector.ports.start(), *selector.ports.end()),
        first: *selector.addresses.start(),
        last: *selector.addresses.end(),
    }
}
