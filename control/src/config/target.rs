//! `[[target]]` and `[[target.check]]`: the hosts that run the application, and how their health is found out.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use vipsec_dataplane::api::Side;
use vipsec_distribute::service::Forwarding;
use vipsec_store::pairing::SECRET_BYTES_MIN;
use vipsec_wire::iv::ApplianceId;

use super::error::Reason;
use super::model::{Check, HttpProbe, Probe, Target, TargetAgents};
use super::names::{Names, Once};
use super::network::Reader;
use super::peer::Appliances;
use super::read::{Section, every};
use super::secret::secret;
use super::value::{self, duration_of};

/// Most `[[target]]` tables.
pub const TARGETS_MAX: usize = 1024;
/// Most `[[target.check]]` tables of a target.
pub const CHECKS_MAX: usize = 4;

/// Where agents listen for notices.
const NOTICE_PORT: u16 = 9778;
/// The greatest weight.
const WEIGHT_MAX: u64 = 255;
const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
const IN_A_ROW: RangeInclusive<u64> = 1..=100;
/// Most bytes of a path, and of a host name (RFC 1035 §2.3.4).
const PATH_BYTES_MAX: usize = 1024;
const HOST_BYTES_MAX: usize = 253;

/// Reads all `[[target]]` tables.
pub(super) fn targets(root: &Section, network: &mut Reader, appliances: &Appliances) -> (Vec<Option<Target>>, Names) {
    let mut names = Names::new("target");
    // Of appliances, whose addresses are their ports' as well.
    let mut hosts = Once::default();
    let mut targets = Vec::new();
    for (index, section) in root.tables("target", TARGETS_MAX).into_iter().enumerate() {
        let name = names.declare(index, &section);
        let forwarding = forwarding(&section);
        let is_local = forwarding == Some(Forwarding::Local);
        let host = if is_local { local_host(&section, network, appliances) } else { None };
        let address = section.required("address").and_then(|field| {
            let address = field.parse(value::host)?;
            if is_local {
                hosts.claim(&field, &address);
                let is_ours = host.is_some_and(|host| appliances.is_me(host));
                if is_ours && !network.has_address(address) {
                    field.report(Reason::NotOwnAddress(address.to_string()));
                }
                return Some(address);
            }
            network.addresses.claim(&field, &address);
            let on_link = forwarding == Some(Forwarding::Mac);
            // With a broken port among them it is unclear whether one of them would have reached the target.
            if on_link && network.inside_port(address).is_none() && network.ports.iter().all(Option::is_some) {
                field.report(Reason::TargetNotOnLink(address.to_string()));
            }
            Some(address)
        });
        let weight = section.optional("weight").map_or(Some(1), |field| field.number(1..=WEIGHT_MAX));
        let checks = every(section.tables("check", CHECKS_MAX).into_iter().map(|section| check(section, address)));
        section.finish();
        targets.push((|| {
            let (address, forwarding) = (address?, forwarding?);
            let host = if is_local { Some(host?) } else { None };
            Some(Target { name: name?, address, forwarding, host, weight: weight?, checks: checks? })
        })());
    }
    (targets, names)
}

/// Reads `[target_agents]`, which may be left out.
pub(super) fn agents(root: &Section, folder: &Path) -> Option<Option<TargetAgents>> {
    let Some(field) = root.optional("target_agents") else { return Some(None) };
    let section = field.table()?;
    let secret = section.required("secret_file").and_then(|field| secret(&field, folder, SECRET_BYTES_MIN));
    let port = section.optional("port").map_or(Some(NOTICE_PORT), |field| field.number(1..=65_535));
    section.finish();
    Some(Some(TargetAgents { secret: secret?, port: port? }))
}

/// On whose host a local target is.
fn local_host(section: &Section, network: &Reader, appliances: &Appliances) -> Option<ApplianceId> {
    let host = appliances.host(section)?;
    let has_port = network.ports.iter().any(|port| port.as_ref().is_none_or(|port| port.side == Side::Local));
    if appliances.is_me(host) && !has_port {
        section.report("forwarding", Reason::NoLocalPort);
    }
    Some(host)
}

/// GUE's own port (IANA).
const GUE_PORT: u16 = 6080;

const FORWARDINGS: [(&str, Forwarding); 4] = [
    ("mac", Forwarding::Mac),
    ("ipip", Forwarding::IpInIp),
    ("gue", Forwarding::Gue { port: GUE_PORT }),
    ("local", Forwarding::Local),
];

fn forwarding(section: &Section) -> Option<Forwarding> {
    let chosen = section.optional("forwarding").map_or(Some(Forwarding::Mac), |field| field.choice(&FORWARDINGS))?;
    match chosen {
        Forwarding::Gue { .. } => {
            let port = section.optional("gue_port").map_or(Some(GUE_PORT), |field| field.number(1..=65_535))?;
            Some(Forwarding::Gue { port })
        }
        other => Some(other),
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Tcp,
    Http,
    Agent,
}

const KINDS: [(&str, Kind); 3] = [("tcp", Kind::Tcp), ("http", Kind::Http), ("agent", Kind::Agent)];

fn check(section: Section, target: Option<IpAddr>) -> Option<Check> {
    let kind = section.required("kind").and_then(|field| field.choice(&KINDS));
    let probe = match kind {
        Some(Kind::Tcp) => Some(Probe::Tcp),
        Some(Kind::Http) => http_probe(&section).map(Probe::Http),
        Some(Kind::Agent) => Some(Probe::Agent),
        None => None,
    };
    let port = section.required("port").and_then(|field| field.number(1..=65_535));
    let address = section.optional("address").map_or(target, |field| field.parse(value::reachable));
    let interval = duration_of(&section, "interval", Duration::from_secs(2), INTERVAL);
    let timeout = duration_of(&section, "timeout", Duration::from_secs(1), TIMEOUT);
    let rise = section.optional("rise").map_or(Some(2), |field| field.number(IN_A_ROW));
    let fall = section.optional("fall").map_or(Some(3), |field| field.number(IN_A_ROW));
    if kind.is_some() {
        section.finish();
    }
    Some(Check {
        probe: probe?,
        address: SocketAddr::new(address?, port?),
        interval: interval?,
        timeout: timeout?,
        rise: rise?,
        fall: fall?,
    })
}

fn http_probe(section: &Section) -> Option<HttpProbe> {
    let path = section.optional("path").map_or(Some("/".to_owned()), |field| field.parse(http_path));
    let host = section.optional("host").map(|field| field.parse(host_name));
    let status = section.optional("status").map_or(Some(200..=399), |field| {
        let status = field.number(100..=599)?;
        Some(status..=status)
    });
    Some(HttpProbe { path: path?, host: host.map_or(Some(None), |host| host.map(Some))?, status: status? })
}

fn http_path(text: &str) -> Result<String, Reason> {
    // RFC 9112 §3.2.1: the origin form, without a fragment.
    let sound = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if !sound || text.len() > PATH_BYTES_MAX {
        return Err(Reason::Malformed { value: text.to_owned(), expected: "a path like \"/health\"" });
    }
    Ok(text.to_owned())
}

fn host_name(text: &str) -> Result<String, Reason> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '[' | ']' | '_');
    if text.is_empty() || text.len() > HOST_BYTES_MAX || !text.chars().all(allowed) {
        return Err(Reason::Malformed { value: text.to_owned(), expected: "a host like \"www.example\"" });
    }
    Ok(text.to_owned())
}
