//! `[peer]` and `[[peer]]`: the other appliances.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vipsec_store::RECORDS_MAX;
use vipsec_store::fabric::Provider;
use vipsec_store::pairing::SECRET_BYTES_MIN;
use vipsec_takeover::moves::MoveLimits;
use vipsec_takeover::timing::{Timing, TimingError};
use vipsec_wire::iv::ApplianceId;

use super::appliance::socket_path;
use super::error::Reason;
use super::model::{Appliance, Etcd, Peer, StoreLink, TakeoverPolicy};
use super::names::Once;
use super::network::VIPS_MAX;
use super::read::{Field, Section, every};
use super::secret::secret;
use super::value;

/// Most other appliances.
pub const PEERS_MAX: usize = 15;

const TAKEOVER_POLICIES: [(&str, TakeoverPolicy); 2] =
    [("resume", TakeoverPolicy::Resume), ("renegotiate", TakeoverPolicy::Renegotiate)];
const TAKEOVER_RATE_DEFAULT: u32 = 250;
const TAKEOVER_RATE_MAX: u64 = 100_000;
const MOVES_MAX: u64 = 1000;
/// Longer than a cable's or a switch's repair of the quick kind takes.
const SPLIT_PATIENCE_DEFAULT: Duration = Duration::from_secs(600);
const SPLIT_PATIENCE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(24 * 3600);
const MOVES_TIMES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
const STORE_RECORDS_DEFAULT: u32 = 4096;
const STORE_PINS_DEFAULT: u32 = 131_072;
/// As many connections as a worker's table may have.
const STORE_PINS_MAX: u64 = 16_777_215;
/// So that a region has room for both.
const STORE_RECORDS_MAX: u64 = 4_000_000;
const _: () = assert!(STORE_RECORDS_MAX + STORE_PINS_MAX / 100 < RECORDS_MAX as u64);
const MILLISECOND: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Reads `[peer]`, or the tables `[[peer]]`; they may be left out. `folder` is where a relative secret file is.
pub(super) fn peers(root: &Section, folder: &Path, appliance: Option<&Appliance>) -> Option<Vec<Peer>> {
    let Some(field) = root.optional("peer") else { return Some(Vec::new()) };
    let sections = match field.is_list() {
        true => root.tables("peer", PEERS_MAX),
        false => vec![field.table()?],
    };
    let mut ids = Once::default();
    let mut names = Once::default();
    let mut first: Option<Peer> = None;
    every(sections.into_iter().map(|section| {
        let peer = peer(&section, folder, appliance, &mut ids, &mut names);
        if let (Some(peer), Some(first)) = (&peer, &first)
            && let Some(key) = peer.differs_from(first)
        {
            section.report(key, Reason::PeersDiffer);
        }
        section.finish();
        if first.is_none() {
            first.clone_from(&peer);
        }
        peer
    }))
}

fn peer(
    section: &Section,
    folder: &Path,
    appliance: Option<&Appliance>,
    ids: &mut Once,
    names: &mut Once,
) -> Option<Peer> {
    let id = section.required("id").and_then(|field| {
        let id = peer_id(&field, appliance.map(|appliance| appliance.id))?;
        ids.claim(&field, &id);
        Some(id)
    });
    let name = section.optional("name").map(|field| {
        let name = field.parse(value::name)?;
        names.claim(&field, &name);
        Some(name)
    });
    let store = store_link(section);
    let secret = section.required("secret_file").and_then(|field| secret(&field, folder, SECRET_BYTES_MIN));
    let takeover = section.required("takeover").and_then(|field| field.choice(&TAKEOVER_POLICIES));
    let takeover_rate = section
        .optional("takeover_rate")
        .map_or(Some(TAKEOVER_RATE_DEFAULT), |field| field.number(1..=TAKEOVER_RATE_MAX));
    let moves = move_limits(section);
    let split_patience = value::duration_of(section, "split_patience", SPLIT_PATIENCE_DEFAULT, SPLIT_PATIENCE);
    let timing = timing(section);
    let store_records = section
        .optional("store_records")
        .map_or(Some(STORE_RECORDS_DEFAULT), |field| field.number(1..=STORE_RECORDS_MAX));
    let store_pins =
        section.optional("store_pins").map_or(Some(STORE_PINS_DEFAULT), |field| field.number(0..=STORE_PINS_MAX));
    Some(Peer {
        id: id?,
        name: name.map_or(Some(None), |name| name.map(Some))?,
        store: store?,
        secret: secret?,
        takeover: takeover?,
        takeover_rate: takeover_rate?,
        moves: moves?,
        split_patience: split_patience?,
        timing: timing?,
        store_records: store_records?,
        store_pins: store_pins?,
    })
}

impl Peer {
    /// The first key that has to be the same for all peers, and isn't.
    fn differs_from(&self, first: &Self) -> Option<&'static str> {
        let keys = [
            ("secret_file", self.secret != first.secret),
            ("takeover", self.takeover != first.takeover),
            ("takeover_rate", self.takeover_rate != first.takeover_rate),
            ("moves_max", self.moves.moves_max != first.moves.moves_max),
            ("moves_window", self.moves.window != first.moves.window),
            ("moves_hold", self.moves.hold != first.moves.hold),
            ("split_patience", self.split_patience != first.split_patience),
            ("heartbeat", self.timing.interval != first.timing.interval),
            ("deadline", self.timing.deadline != first.timing.deadline),
            ("detection", self.timing.detection != first.timing.detection),
            ("trust", self.timing.trust != first.timing.trust),
            ("store_records", self.store_records != first.store_records),
            ("store_pins", self.store_pins != first.store_pins),
        ];
        keys.into_iter().find(|(_, differs)| *differs).map(|(key, _)| key)
    }
}

/// Several appliances take a registry; what listens for one of them doesn't listen for another; there are ports for all groups.
pub(super) fn check(root: &Section, peers: &[Peer], etcd: Option<&Etcd>, groups: usize) {
    match (peers.len(), etcd) {
        (0, Some(_)) => root.report("etcd", Reason::NoPeers),
        (2.., None) => root.report("peer", Reason::NeedsRegistry),
        _ => {}
    }
    if let Some(short) = peers.iter().find_map(|peer| peer.store.lacks_ports_for(groups)) {
        root.report("peer", Reason::NoPortsForGroups { port: short, groups });
    }
    for (number, peer) in peers.iter().enumerate() {
        if peers.iter().take(number).any(|other| other.store.collides_with(&peer.store, groups)) {
            root.report("peer", Reason::StoreLinksCollide(peer.id.get()));
        }
    }
}

/// The ids that appliances have here, in order; none while a mistake leaves that open.
pub(super) struct Appliances {
    me: Option<ApplianceId>,
    ids: Vec<ApplianceId>,
    has_registry: bool,
}

impl Appliances {
    /// `peers`: as [`peers`] returns them.
    pub(super) fn of(appliance: Option<&Appliance>, peers: Option<&Vec<Peer>>, has_registry: bool) -> Self {
        let me = appliance.map(|appliance| appliance.id);
        let known = me.zip(peers).map(|(me, peers)| peers.iter().map(|peer| peer.id).chain([me]));
        let mut ids: Vec<_> = known.into_iter().flatten().collect();
        ids.sort();
        Self { me, ids, has_registry }
    }

    /// Is it ours?
    pub(super) fn is_me(&self, id: ApplianceId) -> bool {
        self.me == Some(id)
    }

    /// Reads the `owner` of a VIP; by default the lowest.
    pub(super) fn owner(&self, vip: &Section) -> Option<Option<ApplianceId>> {
        let Some(field) = vip.optional("owner") else {
            return Some(self.ids.first().copied().filter(|_| self.ids.len() > 1));
        };
        self.appliance(&field).map(Some)
    }

    /// Reads the `backups` of a VIP, best first; by default all but the owner, in the order of their ids.
    pub(super) fn backups(&self, vip: &Section, owner: Option<ApplianceId>) -> Option<Vec<ApplianceId>> {
        let Some(field) = vip.optional("backups") else {
            return Some(self.ids.iter().copied().filter(|id| owner.is_some_and(|owner| owner != *id)).collect());
        };
        if !self.has_registry {
            field.report(Reason::BackupsNeedRegistry);
            return None;
        }
        let mut known = Once::default();
        every(field.list(PEERS_MAX).iter().map(|field| {
            let id = self.appliance(field)?;
            if Some(id) == owner {
                field.report(Reason::OwnerIsNoBackup(id.get()));
                return None;
            }
            known.claim(field, &id);
            Some(id)
        }))
    }

    /// Reads on whose host a local target is; one without a peer has only its own.
    pub(super) fn host(&self, target: &Section) -> Option<ApplianceId> {
        match target.optional("appliance") {
            Some(field) => self.appliance(&field),
            None if self.ids.len() > 1 => {
                target.report("appliance", Reason::Missing);
                None
            }
            None => self.me,
        }
    }

    fn appliance(&self, field: &Field) -> Option<ApplianceId> {
        let id = ApplianceId::new(field.number(1..=255)?).ok()?;
        if !self.ids.is_empty() && !self.ids.contains(&id) {
            let known = self.ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            field.report(Reason::NotAnAppliance { id: id.get(), known });
        }
        Some(id)
    }
}

fn peer_id(field: &Field, me: Option<ApplianceId>) -> Option<ApplianceId> {
    let id = ApplianceId::new(field.number(1..=255)?).ok()?;
    if Some(id) == me {
        field.report(Reason::OwnId(id.get()));
        return None;
    }
    Some(id)
}

/// `store_socket` on one host; `store_listen` and `store_connect` on two.
fn store_link(section: &Section) -> Option<StoreLink> {
    let socket = section.optional("store_socket");
    let listen = section.optional("store_listen");
    let connect = section.optional("store_connect");
    let provider = section.optional("store_provider");
    if listen.is_none() && connect.is_none() && provider.is_none() {
        let Some(socket) = socket else {
            section.report("store_socket", Reason::Missing);
            return None;
        };
        return socket.parse(store_socket).map(StoreLink::Local);
    }
    if let Some(socket) = socket {
        socket.report(Reason::Exclusive("store_listen"));
        return None;
    }
    let [listen, connect] = [("store_listen", listen), ("store_connect", connect)].map(|(key, field)| match field {
        Some(field) => field.parse(store_address),
        None => {
            section.report(key, Reason::Missing);
            None
        }
    });
    let provider = provider.map_or(Some(Provider::Tcp), |field| {
        field.choice(&[(Provider::Tcp.name(), Provider::Tcp), (Provider::Verbs.name(), Provider::Verbs)])
    });
    Some(StoreLink::Fabric { provider: provider?, listen: listen?, connect: connect? })
}

/// Address and port of a host; the port above it is used, too.
fn store_address(text: &str) -> Result<SocketAddr, Reason> {
    let malformed =
        || Reason::Malformed { value: text.to_owned(), expected: "an address and a port, as in 10.255.0.1:7475" };
    let address: SocketAddr = text.parse().map_err(|_| malformed())?;
    let usable =
        !address.ip().is_unspecified() && !address.ip().is_multicast() && (1..u16::MAX).contains(&address.port());
    usable.then_some(address).ok_or_else(malformed)
}

/// A socket's path in a folder that exists or can be made. There is room for a group's number behind it.
fn store_socket(text: &str) -> Result<PathBuf, Reason> {
    let path = socket_path(text)?;
    socket_path(&format!("{text}.{}", VIPS_MAX - 1))?;
    let existing = path.ancestors().skip(1).find(|ancestor| ancestor.exists());
    match existing {
        Some(folder) if folder.is_dir() => Ok(path),
        _ => Err(Reason::NoFolder(text.to_owned())),
    }
}

impl StoreLink {
    /// Would the two listen at the same place, for that many groups?
    fn collides_with(&self, other: &Self, groups: usize) -> bool {
        match (self, other) {
            (Self::Local(path), Self::Local(other)) => path == other,
            (Self::Fabric { listen, .. }, Self::Fabric { listen: other, .. }) => {
                listen.ip() == other.ip() && usize::from(listen.port().abs_diff(other.port())) < 2 * groups.max(1)
            }
            _ => false,
        }
    }

    /// The first port, if that many groups need more ports from it on than there are.
    pub(super) fn lacks_ports_for(&self, groups: usize) -> Option<u16> {
        let Self::Fabric { listen, connect, .. } = self else { return None };
        let port = listen.port().max(connect.port());
        (usize::from(port) + 2 * groups > usize::from(u16::MAX) + 1).then_some(port)
    }
}

/// How often a group may move.
fn move_limits(section: &Section) -> Option<MoveLimits> {
    let MoveLimits { moves_max, window, hold } = MoveLimits::default();
    let moves_max = section.optional("moves_max").map_or(Some(moves_max), |field| field.number(0..=MOVES_MAX));
    let read = |key, default| value::duration_of(section, key, default, MOVES_TIMES);
    let (window, hold) = (read("moves_window", window), read("moves_hold", hold));
    Some(MoveLimits { moves_max: moves_max?, window: window?, hold: hold? })
}

/// The times that the table names, the others in proportion to them.
fn timing(section: &Section) -> Option<Timing> {
    let default = Timing::default();
    let read = |key, default| value::duration_of(section, key, default, MILLISECOND..=MINUTE);
    let (interval, deadline) = (read("heartbeat", default.interval), read("deadline", default.deadline));
    let (detection, trust) = (read("detection", default.detection), read("trust", default.trust));
    let (interval, deadline, detection, trust) = (interval?, deadline?, detection?, trust?);
    let timing = Timing {
        interval,
        deadline,
        detection,
        trust,
        trust_margin: trust / 10,
        claim_preferred: 10 * detection,
        claim_other: 60 * detection,
    };
    match timing.check() {
        Ok(()) => Some(timing),
        Err(error) => {
            let key = match error {
                TimingError::NoInterval => "heartbeat",
                TimingError::DeadlineTooShort => "deadline",
                TimingError::DetectionTooShort | TimingError::ClaimsTooClose => "detection",
                TimingError::TrustTooShort => "trust",
            };
            section.report(key, Reason::BadTiming(error));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_key_sets_is_in_proportion_to_what_one_does() {
        let default = Timing::default();
        assert_eq!(default.trust / 10, default.trust_margin);
        assert_eq!(10 * default.detection, default.claim_preferred);
        assert_eq!(60 * default.detection, default.claim_other);
    }
}
