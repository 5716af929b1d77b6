//! `[[connection]]`: remote peers and what is agreed with them, as IKE takes it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use vipsec_esp::sa::{DfPolicy, DscpPolicy, EcnPolicy, Lifetime, TunnelPolicy};
use vipsec_ike::{AddressMatch, ChildPolicy, ConnectionPolicy, InvalidProposal, Mode, Pairs, TrafficSelector};

use super::error::Reason;
use super::keys::window;
use super::model::{ChildOptions, Vip};
use super::names::{Names, Once};
use super::read::{Field, Section, every};
use super::secret::secret;
use super::value::{self, duration_of};

/// Most `[[connection]]` tables.
pub const CONNECTIONS_MAX: usize = 1024;
/// Most `[[connection.child]]` tables of a connection.
pub const CHILDREN_MAX: usize = 16;
/// Most traffic selectors of a side, and most remote addresses.
pub const SELECTORS_MAX: usize = 32;
/// Most proposals of a connection or child.
pub const PROPOSALS_MAX: usize = 16;

/// The greatest anti-replay window of a negotiated child SA, in packets.
const CHILD_WINDOW_MAX: u64 = 8192;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// What a kind of proposal looks like, and what is proposed and accepted where the configuration names nothing: strongest first.
struct ProposalKind {
    form: &'static str,
    default: &'static [&'static str],
}

const IKE: ProposalKind = ProposalKind {
    form: "aes256gcm16-prfsha256-x25519 or aes256-sha256-prfsha256-modp2048",
    default: &["aes256gcm16-prfsha384-x25519", "aes256gcm16-prfsha256-x25519", "aes128gcm16-prfsha256-x25519"],
};
const ESP: ProposalKind = ProposalKind {
    form: "aes128gcm16|aes256gcm16|chacha20poly1305[-x25519|ecp256|ecp384|modp2048|modp3072][-esn|noesn]",
    default: &["aes256gcm16-x25519", "aes128gcm16-x25519", "aes256gcm16", "aes128gcm16"],
};

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

/// What IKE takes of a connection, and what the data plane takes of its children, by their names.
pub(super) type Connection = (Arc<ConnectionPolicy>, BTreeMap<String, ChildOptions>);

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
    let local = vip.and_then(|vip| Some(vips.get(vip)?.as_ref()?.floating.address));
    let remote = section.optional("remote_addrs").map_or(Some(vec![AddressMatch::Any]), |field| {
        every(field.filled_list(SELECTORS_MAX).iter().map(|item| item.parse(value::remote_address)))
    });
    let local_id =
        section.optional("local_id").map_or(local.map(Into::into), |field| field.parse(value::local_identity));
    let remote_id = section.required("remote_id").and_then(|field| field.parse(value::remote_identity));
    let psk = section.required("secret_file").and_then(|field| secret(&field, folder, 1));
    let proposals = proposals(&section, "proposals", &IKE);
    let dpd_delay = duration_of(&section, "dpd_delay", Duration::from_secs(30), Duration::from_millis(100)..=DAY);
    let rekey_time = duration_of(&section, "rekey_time", Duration::from_secs(4 * 3600), SECOND..=7 * DAY);
    let reauth_time =
        section.optional("reauth_time").map(|_| duration_of(&section, "reauth_time", DAY, SECOND..=7 * DAY));
    let reauth_time = reauth_time.map_or(Some(None), |time| time.map(Some));
    let mut child_names = Names::new("child");
    let sections = section.tables("child", CHILDREN_MAX);
    if sections.is_empty() {
        section.report("child", Reason::Empty);
    }
    let sections = sections.into_iter().enumerate();
    let children = every(sections.map(|(index, section)| child(&mut child_names, index, section, local)));
    section.finish();
    let children = children?;
    let options = children.iter().map(|(child, options)| (child.name.clone(), *options)).collect();
    let policy = ConnectionPolicy {
        name: name?,
        vip: u16::try_from(vip?).ok()?,
        local: local?,
        remote: remote?,
        local_id: local_id?,
        remote_id: remote_id?,
        psk: psk?,
        proposals: proposals?,
        dpd_delay: Some(dpd_delay?),
        rekey_time: Some(rekey_time?),
        reauth_time: reauth_time?,
        pools: Vec::new(),
        children: children.into_iter().map(|(child, _)| Arc::new(child)).collect(),
    };
    Some((Arc::new(policy), options))
}

fn child(
    names: &mut Names,
    index: usize,
    section: Section,
    vip: Option<IpAddr>,
) -> Option<(ChildPolicy, ChildOptions)> {
    let name = names.declare(index, &section);
    let local_ts =
        section.optional("local_ts").map_or_else(|| vip.map(|vip| vec![whole(vip)]), |field| selectors(&field));
    let remote_ts = section.required("remote_ts").and_then(|field| selectors(&field));
    let proposals = proposals(&section, "esp_proposals", &ESP);
    let rekey_time = duration_of(&section, "rekey_time", Duration::from_secs(3600), SECOND..=7 * DAY);
    let replay_window = section
        .optional("replay_window")
        .map_or(Some(ChildOptions::DEFAULT.replay_window), |field| window(&field, CHILD_WINDOW_MAX));
    let mode = section.optional("mode").map_or(Some(Mode::Tunnel), |field| field.choice(&MODES));
    let (lifetime, outer) = (lifetime(&section), outer(&section));
    section.finish();
    let options = ChildOptions { replay_window: replay_window?, lifetime: lifetime?, outer: outer? };
    let policy = ChildPolicy {
        name: name?,
        local_ts: local_ts?,
        remote_ts: remote_ts?,
        proposals: proposals?,
        rekey_time: Some(rekey_time?),
        mode: mode?,
        pairs: Pairs::Any,
        lanes_max: 1,
    };
    Some((policy, options))
}

const MODES: [(&str, Mode); 2] = [("tunnel", Mode::Tunnel), ("transport", Mode::Transport)];

/// How much a child SA carries in each direction until it is rekeyed, and until it ends.
fn lifetime(section: &Section) -> Option<Lifetime> {
    let limit = |key, min| section.optional(key).map_or(Some(u64::MAX), |field| field.number(min..=i64::MAX as u64));
    let (soft_bytes, hard_bytes) = (limit("rekey_bytes", 1 << 20), limit("life_bytes", 1 << 20));
    let (soft_packets, hard_packets) = (limit("rekey_packets", 1000), limit("life_packets", 1000));
    let lifetime = Lifetime {
        soft_bytes: soft_bytes?,
        hard_bytes: hard_bytes?,
        soft_packets: soft_packets?,
        hard_packets: hard_packets?,
    };
    let ends_first = [
        ("life_bytes", lifetime.hard_bytes, lifetime.soft_bytes),
        ("life_packets", lifetime.hard_packets, lifetime.soft_packets),
    ];
    for (key, hard, soft) in ends_first {
        if hard != u64::MAX && hard <= soft {
            // Without time to replace it the child SA's end would be felt.
            section.report(key, Reason::EndsBeforeRekeying);
            return None;
        }
    }
    Some(lifetime)
}

const DSCP: [(&str, DscpPolicy); 2] = [("out", DscpPolicy::Copy), ("no", DscpPolicy::Set(0))];

/// How the outer headers of a tunnel are made.
fn outer(section: &Section) -> Option<TunnelPolicy> {
    let default = ChildOptions::DEFAULT.outer;
    let dscp = section.optional("copy_dscp").map_or(Some(default.dscp), |field| field.choice(&DSCP));
    let df = section
        .optional("copy_df")
        .map_or(Some(default.df), |field| Some(if field.boolean()? { DfPolicy::Copy } else { DfPolicy::Clear }));
    let ecn = section.optional("copy_ecn").map_or(Some(default.ecn), |field| {
        Some(if field.boolean()? { EcnPolicy::Normal } else { EcnPolicy::Compatibility })
    });
    Some(TunnelPolicy { dscp: dscp?, df: df?, ecn: ecn? })
}

/// Everything from and to one address.
fn whole(address: IpAddr) -> TrafficSelector {
    TrafficSelector { protocol: 0, ports: (0, u16::MAX), first: address, last: address }
}

/// A list of traffic selectors of one address family.
pub(super) fn selectors(field: &Field) -> Option<Vec<TrafficSelector>> {
    let items = field.filled_list(SELECTORS_MAX);
    let selectors: Vec<TrafficSelector> = every(items.iter().map(|item| item.parse(value::selector)))?;
    let first = selectors.first()?.first;
    if let Some(other) = selectors.iter().find(|other| other.first.is_ipv4() != first.is_ipv4()) {
        field.report(Reason::MixedFamilies(first.to_string(), other.first.to_string()));
        return None;
    }
    Some(selectors)
}

fn proposals<P>(section: &Section, key: &'static str, kind: &ProposalKind) -> Option<Vec<P>>
where
    P: FromStr<Err = InvalidProposal> + Display,
{
    let Some(field) = section.optional(key) else {
        return kind.default.iter().map(|text| text.parse().ok()).collect();
    };
    let mut once = Once::default();
    let items = field.filled_list(PROPOSALS_MAX);
    every(items.iter().map(|item| {
        let proposal = item.parse(|text| {
            text.parse::<P>().map_err(|error| Reason::BadProposal {
                value: text.to_owned(),
                form: kind.form,
                detail: match error {
                    InvalidProposal::Unknown { part, .. } => format!("{part:?} is unknown or has no place in it"),
                    InvalidProposal::Incomplete(_) => "a part is missing".to_owned(),
                    InvalidProposal::Mixed(_) => {
                        "ciphers that need an integrity algorithm go in a proposal of their own".to_owned()
                    }
                },
            })
        })?;
        once.claim(item, &proposal);
        Some(proposal)
    }))
}
