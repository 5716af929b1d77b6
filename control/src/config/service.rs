//! `[[service]]`: what of a VIP's traffic is distributed, and over which targets.

use std::ops::RangeInclusive;
use std::time::Duration;

use vipsec_distribute::connection::{Limits, Timeouts};
use vipsec_distribute::service::{Accepts, Method};

use super::model::{Service, ServiceProtocol};
use super::names::{Names, Once};
use super::read::{Section, every};
use super::value::duration_of;

/// Most `[[service]]` tables.
pub const SERVICES_MAX: usize = 1024;
/// Most targets of a service.
pub const SERVICE_TARGETS_MAX: usize = vipsec_distribute::maglev::TARGETS_MAX;

const PROTOCOLS: [(&str, ServiceProtocol); 3] =
    [("tcp", ServiceProtocol::Tcp), ("udp", ServiceProtocol::Udp), ("any", ServiceProtocol::Any)];

const METHODS: [(&str, Method); 5] = [
    ("maglev", Method::Maglev),
    ("round-robin", Method::WeightedRoundRobin),
    ("least-connections", Method::WeightedLeastConnections),
    ("hot-standby", Method::HotStandby),
    ("target-weights", Method::TargetControlled),
];
const ACCEPTS: [(&str, Accepts); 3] =
    [("decrypted", Accepts::Decrypted), ("clear", Accepts::Clear), ("both", Accepts::Both)];

/// What a service accepts, as in the configuration.
pub(crate) fn accepts_name(accepts: Accepts) -> &'static str {
    ACCEPTS.iter().find(|(_, known)| *known == accepts).map_or("?", |(word, _)| word)
}

/// The method's name in the configuration.
pub(crate) fn method_name(method: Method) -> &'static str {
    METHODS.iter().find(|(_, known)| *known == method).map_or("?", |(word, _)| word)
}

const AFFINITY: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
const TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);
const CONNECTIONS: RangeInclusive<u64> = 1024..=16_000_000;

/// Reads `[connection_table]`, which may be left out.
pub(super) fn connection_table(root: &Section) -> Option<Limits> {
    let default = Limits::default();
    let Some(field) = root.optional("connection_table") else { return Some(default) };
    let section = field.table()?;
    let connections_max =
        section.optional("connections_max").map_or(Some(default.connections_max), |field| field.number(CONNECTIONS));
    let affinities_max =
        section.optional("affinities_max").map_or(Some(default.affinities_max), |field| field.number(CONNECTIONS));
    let timeout = |key, default| duration_of(&section, key, default, TIMEOUT);
    let timeouts = [
        timeout("tcp_opening", default.timeouts.tcp_opening),
        timeout("tcp_established", default.timeouts.tcp_established),
        timeout("tcp_closing", default.timeouts.tcp_closing),
        timeout("tcp_reset", default.timeouts.tcp_reset),
        timeout("udp_one_way", default.timeouts.udp_one_way),
        timeout("udp_two_way", default.timeouts.udp_two_way),
        timeout("icmp", default.timeouts.icmp),
        timeout("other", default.timeouts.other),
    ];
    section.finish();
    let [tcp_opening, tcp_established, tcp_closing, tcp_reset, udp_one_way, udp_two_way, icmp, other] = timeouts;
    Some(Limits {
        connections_max: connections_max?,
        affinities_max: affinities_max?,
        timeouts: Timeouts {
            tcp_opening: tcp_opening?,
            tcp_established: tcp_established?,
            tcp_closing: tcp_closing?,
            tcp_reset: tcp_reset?,
            udp_one_way: udp_one_way?,
            udp_two_way: udp_two_way?,
            icmp: icmp?,
            other: other?,
        },
        ..default
    })
}

/// Reads all `[[service]]` tables.
pub(super) fn services(root: &Section, vip_names: &Names, target_names: &Names) -> Vec<Option<Service>> {
    let mut keys = Once::default();
    let read = |section: Section| {
        let vip_field = section.required("vip");
        let vip = vip_field.as_ref().and_then(|field| vip_names.resolve(field));
        let protocol =
            section.optional("protocol").map_or(Some(ServiceProtocol::Any), |field| field.choice(&PROTOCOLS));
        let port = section.optional("port").map(|field| field.number(1..=65_535));
        let targets = section.required("targets").map_or_else(Vec::new, |field| field.filled_list(SERVICE_TARGETS_MAX));
        let mut once = Once::default();
        let targets = every(targets.iter().map(|field| {
            let target = target_names.resolve(field)?;
            once.claim(field, &field.text()?);
            Some(target)
        }));
        let method = section.optional("method").map_or(Some(Method::Maglev), |field| field.choice(&METHODS));
        let affinity =
            section.optional("affinity").map(|_| duration_of(&section, "affinity", Duration::ZERO, AFFINITY));
        let accepts = section.optional("accepts").map_or(Some(Accepts::Decrypted), |field| field.choice(&ACCEPTS));
        section.finish();
        let port = port.map_or(Some(None), |port| port.map(Some))?;
        let service = Service {
            vip: u16::try_from(vip?).ok()?,
            protocol: protocol?,
            port,
            targets: targets?,
            method: method?,
            affinity: affinity.map_or(Some(None), |affinity| affinity.map(Some))?,
            accepts: accepts?,
        };
        let key = format!("{} {}", vip_field.as_ref()?.text()?, describe(service.protocol, service.port));
        keys.claim(&vip_field?, &key);
        Some(service)
    };
    root.tables("service", SERVICES_MAX).into_iter().map(read).collect()
}

fn describe(protocol: ServiceProtocol, port: Option<u16>) -> String {
    let protocol = PROTOCOLS.iter().find(|(_, known)| *known == protocol).map_or("?", |(word, _)| word);
    match port {
        Some(port) => format!("{protocol}/{port}"),
        None => protocol.to_owned(),
    }
}
