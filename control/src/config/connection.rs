//! `[[connection]]`: remote peers and what is agreed with them, as IKE takes it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use vipsec_esp::sa::{DfPolicy, DscpPolicy, EcnPolicy, Lifetime, TunnelPolicy};
use vipsec_ike::{
    AddressMatch, AddressPool, ChildPolicy, ConnectionPolicy, Encapsulation, Fragmentation, InvalidProposal, Mode,
    Pairs, TrafficSelector, Unique,
};

use super::crypto::Tiers;
use super::error::Reason;
use super::keys::window;
use super::model::{ChildOptions, Lanes, StartAction, Vip};
use super::names::{Names, Once};
use super::pool::Pools;
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
    pools: &Pools,
    tiers: Tiers,
) -> Vec<Option<Connection>> {
    let mut names = Names::new("connection");
    let surroundings = Surroundings { folder, vip_names, vips, pools, tiers };
    let sections = root.tables("connection", CONNECTIONS_MAX).into_iter().enumerate();
    sections.map(|(index, section)| connection(&mut names, index, section, &surroundings)).collect()
}

/// What connections refer to.
struct Surroundings<'a> {
    folder: &'a Path,
    vip_names: &'a Names,
    vips: &'a [Option<Vip>],
    pools: &'a Pools,
    tiers: Tiers,
}

/// What of a connection its children have to know.
struct Around<'a> {
    vip: Option<IpAddr>,
    /// `None`: some are wrong.
    pools: Option<&'a [Arc<AddressPool>]>,
    /// The peer has an address to call it at.
    callable: bool,
    tiers: Tiers,
}

/// What IKE takes of a connection, and what of its children isn't negotiated, by their names.
pub(super) type Connection = (Arc<ConnectionPolicy>, BTreeMap<String, ChildOptions>);

fn connection(
    names: &mut Names,
    index: usize,
    section: Section,
    Surroundings { folder, vip_names, vips, pools, tiers }: &Surroundings,
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
    let reauth_time = optional_duration(&section, "reauth_time", SECOND..=7 * DAY);
    let over_time = optional_duration(&section, "over_time", SECOND..=7 * DAY);
    let unique = section.optional("unique").map_or(Some(Unique::No), |field| field.choice(&UNIQUE));
    let encapsulation = section.optional("encap").map_or(Some(Encapsulation::WhereNeeded), |field| {
        Some(if field.boolean()? { Encapsulation::Always } else { Encapsulation::WhereNeeded })
    });
    let fragmentation =
        section.optional("fragmentation").map_or(Some(Fragmentation::Yes), |field| field.choice(&FRAGMENTATION));
    let pools = section.optional("pools").map_or(Some(Vec::new()), |field| pools.resolve(&field, vip));
    section.refuse(&FOREIGN);
    let callable = remote.as_ref().is_none_or(|remote| remote.iter().any(|one| matches!(one, AddressMatch::Exact(_))));
    let around = Around { vip: local, pools: pools.as_deref(), callable, tiers: *tiers };
    let mut child_names = Names::new("child");
    let sections = section.tables("child", CHILDREN_MAX);
    if sections.is_empty() {
        section.report("child", Reason::Empty);
    }
    let sections = sections.into_iter().enumerate();
    let children = every(sections.map(|(index, section)| child(&mut child_names, index, section, &around)));
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
        over_time: over_time?,
        reauth_time: reauth_time?,
        unique: unique?,
        encapsulation: encapsulation?,
        fragmentation: fragmentation?,
        pools: pools?,
        children: children.into_iter().map(|(child, _)| Arc::new(child)).collect(),
    };
    Some((Arc::new(policy), options))
}

fn child(names: &mut Names, index: usize, section: Section, around: &Around) -> Option<(ChildPolicy, ChildOptions)> {
    let name = names.declare(index, &section);
    let local_ts =
        section.optional("local_ts").map_or_else(|| around.vip.map(|vip| vec![whole(vip)]), |field| selectors(&field));
    let remote_ts = match (section.optional("remote_ts"), around.pools) {
        (Some(field), _) => selectors(&field),
        (None, Some([])) => {
            section.report("remote_ts", Reason::Missing);
            None
        }
        // The peer's end is what it gets from there.
        (None, pools) => pools.map(|pools| pools.iter().map(|pool| between(pool.first, pool.last)).collect()),
    };
    let proposals = proposals(&section, "esp_proposals", &ESP);
    let rekey_time = duration_of(&section, "rekey_time", Duration::from_secs(3600), SECOND..=7 * DAY);
    let replay_window = section
        .optional("replay_window")
        .map_or(Some(ChildOptions::DEFAULT.replay_window), |field| window(&field, CHILD_WINDOW_MAX));
    let life_time = optional_duration(&section, "life_time", SECOND..=8 * DAY);
    if let (Some(Some(life_time)), Some(rekey_time)) = (life_time, rekey_time)
        && life_time <= rekey_time
    {
        section.report("life_time", Reason::EndsBeforeRekeying);
    }
    let mode = section.optional("mode").map_or(Some(Mode::Tunnel), |field| field.choice(&MODES));
    let pairs = section
        .optional("single_pair")
        .map_or(Some(Pairs::Any), |field| Some(if field.boolean()? { Pairs::Single } else { Pairs::Any }));
    let start = section.optional("start_action").map_or(Some(StartAction::None), |field| {
        let start = field.choice(&START_ACTIONS)?;
        if start == StartAction::Start && !around.callable {
            field.report(Reason::NobodyToCall);
        }
        Some(start)
    });
    let lanes = section
        .optional("per_cpu_sas")
        .map_or(Some(Lanes::One), |field| Some(if field.boolean()? { Lanes::PerWorker } else { Lanes::One }));
    let (lifetime, outer, processing) = (lifetime(&section), outer(&section), around.tiers.choose(&section));
    section.refuse(&FOREIGN_OF_CHILD);
    section.finish();
    let options = ChildOptions {
        start: start?,
        lanes: lanes?,
        replay_window: replay_window?,
        lifetime: lifetime?,
        outer: outer?,
        processing: processing?,
    };
    let policy = ChildPolicy {
        name: name?,
        local_ts: local_ts?,
        remote_ts: remote_ts?,
        proposals: proposals?,
        rekey_time: Some(rekey_time?),
        life_time: life_time?,
        mode: mode?,
        pairs: pairs?,
        // Where there is one for each worker, how many those are is known later.
        lanes_max: 1,
    };
    Some((policy, options))
}

const MODES: [(&str, Mode); 2] = [("tunnel", Mode::Tunnel), ("transport", Mode::Transport)];
const START_ACTIONS: [(&str, StartAction); 2] = [("none", StartAction::None), ("start", StartAction::Start)];
const UNIQUE: [(&str, Unique); 3] = [("no", Unique::No), ("replace", Unique::Replace), ("keep", Unique::Keep)];
const FRAGMENTATION: [(&str, Fragmentation); 3] =
    [("yes", Fragmentation::Yes), ("accept", Fragmentation::Accept), ("no", Fragmentation::No)];

/// Keys that a reader of swanctl.conf might try, and why they aren't here.
const FOREIGN: [(&str, &str); 14] = [
    ("version", "IKE is version 2"),
    ("local_addrs", "it is the address of the connection's vip"),
    ("local_port", "IKE is on ports 500 and 4500"),
    ("remote_port", "IKE is on ports 500 and 4500"),
    ("dpd_timeout", "with IKEv2 a peer is dead after retransmit_tries of [ike], as in strongSwan"),
    ("keyingtries", "what start_action = \"start\" sets up is tried for ever"),
    ("mobike", "MOBIKE is not implemented"),
    ("aggressive", "IKEv2 has no aggressive mode"),
    ("send_cert", "peers authenticate by shared keys"),
    ("send_certreq", "peers authenticate by shared keys"),
    ("vips", "nothing asks for inside addresses"),
    ("rand_time", "rekeying comes up to a tenth of rekey_time early, at random"),
    ("local", "its id is local_id, its secret secret_file"),
    ("remote", "its id is remote_id, its secret secret_file"),
];
const FOREIGN_OF_CHILD: [(&str, &str); 8] = [
    ("ah_proposals", "AH is not implemented"),
    ("rand_time", "rekeying comes up to a tenth of rekey_time early, at random"),
    ("dpd_action", "child SAs of a dead peer go; start_action = \"start\" sets them up again"),
    ("close_action", "start_action = \"start\" sets up again what was closed"),
    ("ipcomp", "IPComp is not implemented"),
    ("policies", "what passes in the clear is a [[policy]]"),
    ("updown", "there are no scripts"),
    ("mark_in", "there are no marks"),
];

/// A duration that may be left out, without a default.
fn optional_duration(
    section: &Section,
    key: &'static str,
    range: RangeInclusive<Duration>,
) -> Option<Option<Duration>> {
    match section.optional(key) {
        None => Some(None),
        Some(_) => duration_of(section, key, Duration::ZERO, range).map(Some),
    }
}

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
    between(address, address)
}

fn between(first: IpAddr, last: IpAddr) -> TrafficSelector {
    TrafficSelector { protocol: 0, ports: (0, u16::MAX), first, last }
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
