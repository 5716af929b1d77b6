//! `[[connection]]`: remote peers and what is agreed with them.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use vipsec_esp::sa::Selector;

use super::error::Reason;
use super::identity::Identity;
use super::model::{Child, Connection, RemoteAddr, Vip};
use super::names::{Names, Once};
use super::proposal;
use super::read::{Field, Section, every};
use super::secret::Secret;
use super::value;

/// Most `[[connection]]` tables.
pub const CONNECTIONS_MAX: usize = 1024;
/// Most `[[connection.child]]` tables of a connection.
pub const CHILDREN_MAX: usize = 16;
/// Most traffic selectors of a side, and most remote addresses.
pub const SELECTORS_MAX: usize = 32;
/// Most proposals of a connection or child.
pub const PROPOSALS_MAX: usize = 16;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// Reads all `[[connection]]` tables. `folder` is where relative secret files are.
pub(super) fn connections(
    root: &Section,
    folder: &Path,
    vip_names: &Names,
    vips: &[Option<Vip>],
) -> Vec<Option<Connection>> {
    let mut names = Names::new("connection");
    let sections = root.tables("connection", CONNECTIONS_MAX).into_iter().enumerate();
    sections.map(|(index, section)| connection(&mut names, index, section, folder, vip_names, vips)).collect()
}

fn connection(
    names: &mut Names,
    index: usize,
    section: Section,
    folder: &Path,
    vip_names: &Names,
    vips: &[Option<Vip>],
) -> Option<Connection> {
    let name = names.declare(index, &section);
    let vip = section.required("vip").and_then(|field| vip_names.resolve(&field));
    let vip_address = vip.and_then(|vip| Some(vips.get(vip)?.as_ref()?.floating.address));
    let remote_addrs = section.optional("remote_addrs").map_or(Some(vec![RemoteAddr::Any]), remote_addrs);
    let local_id = section.optional("local_id").map_or(vip_address.map(Identity::Address), |field| {
        let id = field.parse(Identity::parse)?;
        if id == Identity::Any {
            field.report(Reason::Malformed { value: id.to_string(), expected: "an identity that we could send" });
        }
        Some(id)
    });
    let remote_id = section.required("remote_id").and_then(|field| field.parse(Identity::parse));
    let secret = section.required("secret_file").and_then(|field| {
        field.parse(|file| if file.is_empty() { Err(Reason::Missing) } else { Secret::read(&folder.join(file)) })
    });
    let proposals = section
        .optional("proposals")
        .map_or(Some(proposal::IKE_DEFAULT.to_vec()), |field| proposals(&field, proposal::ike));
    let dpd_delay = duration(&section, "dpd_delay", Duration::from_secs(30), Duration::from_millis(100)..=DAY);
    let rekey_time = duration(&section, "rekey_time", Duration::from_secs(4 * 3600), SECOND..=7 * DAY);
    let mut child_names = Names::new("child");
    let sections = section.tables("child", CHILDREN_MAX);
    if sections.is_empty() {
        section.report("child", Reason::Empty);
    }
    let sections = sections.into_iter().enumerate();
    let children = every(sections.map(|(index, section)| child(&mut child_names, index, section, vip_address)));
    section.finish();
    Some(Connection {
        name: name?,
        vip: u16::try_from(vip?).ok()?,
        remote_addrs: remote_addrs?,
        local_id: local_id?,
        remote_id: remote_id?,
        secret: secret?,
        proposals: proposals?,
        dpd_delay: dpd_delay?,
        rekey_time: rekey_time?,
        children: children?,
    })
}

fn child(names: &mut Names, index: usize, section: Section, vip: Option<IpAddr>) -> Option<Child> {
    let name = names.declare(index, &section);
    let local_ts =
        section.optional("local_ts").map_or_else(|| vip.map(|vip| vec![whole(vip)]), |field| selectors(&field));
    let remote_ts = section.required("remote_ts").and_then(|field| selectors(&field));
    let esp_proposals = section
        .optional("esp_proposals")
        .map_or(Some(proposal::ESP_DEFAULT.to_vec()), |field| proposals(&field, proposal::esp));
    let rekey_time = duration(&section, "rekey_time", Duration::from_secs(3600), SECOND..=7 * DAY);
    section.finish();
    Some(Child {
        name: name?,
        local_ts: local_ts?,
        remote_ts: remote_ts?,
        esp_proposals: esp_proposals?,
        rekey_time: rekey_time?,
    })
}

/// Everything from and to one address.
fn whole(address: IpAddr) -> Selector {
    Selector { addresses: address..=address, protocol: None, ports: 0..=u16::MAX }
}

fn remote_addrs(field: Field) -> Option<Vec<RemoteAddr>> {
    let parse = |text: &str| match text {
        "%any" => Ok(RemoteAddr::Any),
        text => value::prefix(text).map(RemoteAddr::In),
    };
    every(field.filled_list(SELECTORS_MAX).iter().map(|item| item.parse(parse)))
}

/// A list of traffic selectors of one address family.
pub(super) fn selectors(field: &Field) -> Option<Vec<Selector>> {
    let items = field.filled_list(SELECTORS_MAX);
    let selectors: Vec<Selector> = every(items.iter().map(|item| item.parse(value::selector)))?;
    let first = selectors.first()?.addresses.start();
    if let Some(other) = selectors.iter().find(|other| other.addresses.start().is_ipv4() != first.is_ipv4()) {
        field.report(Reason::MixedFamilies(first.to_string(), other.addresses.start().to_string()));
        return None;
    }
    Some(selectors)
}

fn proposals<T>(field: &Field, parse: fn(&str) -> Result<T, Reason>) -> Option<Vec<T>> {
    let mut once = Once::default();
    let items = field.filled_list(PROPOSALS_MAX);
    every(items.iter().map(|item| {
        let proposal = item.parse(parse)?;
        once.claim(item, &item.text()?);
        Some(proposal)
    }))
}

fn duration(
    section: &Section,
    key: &'static str,
    default: Duration,
    range: RangeInclusive<Duration>,
) -> Option<Duration> {
    let Some(field) = section.optional(key) else { return Some(default) };
    field.parse(|text| {
        let duration = value::duration(text)?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        Err(Reason::DurationOutOfRange { value: text.to_owned(), min: *range.start(), max: *range.end() })
    })
}
