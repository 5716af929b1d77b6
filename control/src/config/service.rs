//! `[[service]]`: what of a VIP's traffic is distributed, and over which targets.

use super::model::{Service, ServiceProtocol};
use super::names::{Names, Once};
use super::read::{Section, every};

/// Most `[[service]]` tables.
pub const SERVICES_MAX: usize = 1024;
/// Most targets of a service.
pub const SERVICE_TARGETS_MAX: usize = vipsec_distribute::maglev::TARGETS_MAX;

const PROTOCOLS: [(&str, ServiceProtocol); 3] =
    [("tcp", ServiceProtocol::Tcp), ("udp", ServiceProtocol::Udp), ("any", ServiceProtocol::Any)];

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
        section.finish();
        let port = port.map_or(Some(None), |port| port.map(Some))?;
        let service = Service { vip: u16::try_from(vip?).ok()?, protocol: protocol?, port, targets: targets? };
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
