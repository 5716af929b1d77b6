//! A takeover under traffic, watched from outside: by client and targets, and by the captures at the switch.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::journal;
use crate::appliance::TakeoverPolicy;
use crate::capture::{Capture, Direction, Exchange, Frame, Kind};
use crate::charon::IkeSa;
use crate::client::{PROBE_INTERVAL, PingPongReport, Traffic, TrafficSeen, Way, blocked_ms};
use crate::clock::Stamp;
use crate::error::Result;
use crate::lab::{self, Lab, Roles};
use crate::report::takeover::{Arrivals, BothWays, Moment, Probes, Sas, Takeover, TakeoverReport, Tcp};
use crate::scenario::{Progress, expect};
use crate::topology::{Network, VIP};
use crate::wait;

/// Traffic before the owner's end: the SAs are in use, and the replay has what to replay.
const BEFORE: Duration = Duration::from_secs(2);
/// Traffic after fresh keys came into use.
const AFTER: Duration = Duration::from_secs(1);
/// Until the successor speaks.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(10);
/// Until fresh keys are in use.
const FRESH_KEYS_LIMIT: Duration = Duration::from_secs(15);
/// How closely the replay waits for its moment.
const LOOK: Duration = Duration::from_millis(1);

/// How the owner ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// SIGKILL.
    Killed,
    /// SIGSTOP.
    Paused,
    /// It lives, but its link to a network is cut.
    Cut(Network),
}

impl End {
    /// What happened to the owner, in a sentence.
    const fn text(self) -> &'static str {
        match self {
            Self::Killed => "is killed",
            Self::Paused => "is paused",
            Self::Cut(Network::Outside) => "loses its outside link",
            Self::Cut(Network::Inside) => "loses its inside link",
            Self::Cut(Network::Store) => "loses the store's network",
        }
    }
}

/// Lets the owner end under traffic, at once when `moment` has come, and the backup take over; replays to that one what was recorded,
/// and tells what it looked like.
pub(super) fn take_over(
    lab: &Lab,
    roles: Roles,
    policy: TakeoverPolicy,
    end: End,
    moment: impl FnOnce() -> Result<()>,
    progress: &Progress,
) -> Result<Takeover> {
    let names = Names::of(lab, roles);
    let before = lab.peer()?.sas()?;
    let traffic = Traffic::start(lab)?;
    let attacker = lab.attacker()?;
    lab.outside.record();
    std::thread::sleep(BEFORE);

    // What follows never reaches a target through the owner, so to deliver it once would be right.
    let mut recorded = lab.outside.recorded();
    moment()?;
    let ended = Stamp::now();
    match end {
        End::Killed => lab.kill_appliance(roles.owner)?,
        End::Paused => lab.appliance(roles.owner)?.freeze()?,
        End::Cut(network) => lab.set_link(roles.owner, network, false)?,
    }
    let announced = await_announcement(lab, roles, ended)?;
    // An attacker's best chance: at once, and the newest first.
    recorded.reverse();
    lab::replay(&attacker, &recorded)?;
    progress.step(&format!(
        "{} has announced itself after {:.0} ms; {} packets of before were replayed to it",
        names.successor,
        announced.millis_from(ended),
        recorded.len()
    ));

    let watch = Watch { lab, roles, ended };
    let old = Keys::of(&watch, Stamp::at(Duration::ZERO), roles.owner);
    wait::until_true("fresh keys in use", FRESH_KEYS_LIMIT, || Ok(!watch.fresh_esp(&old).is_empty()))?;
    std::thread::sleep(AFTER);
    progress.step("fresh keys are in use; the same packets are replayed again");
    lab::replay(&attacker, &recorded)?;
    let after = settled_sas(lab, &before)?;
    let seen = traffic.end(lab)?;
    report(&watch, policy, end, &old, &seen, [&before, &after], recorded.len() * 2)
}

/// For progress lines and reports.
struct Names {
    owner: String,
    successor: String,
}

impl Names {
    fn of(lab: &Lab, roles: Roles) -> Self {
        let name = |place| lab.appliance_name(place).to_owned();
        Self { owner: name(roles.owner), successor: name(roles.backup) }
    }
}

/// Waits for the successor's first advertisement.
pub(super) fn await_announcement(lab: &Lab, roles: Roles, ended: Stamp) -> Result<Stamp> {
    let deadline = Stamp::now();
    loop {
        let announced = lab.outside.frames(ended, |frame| is_advertisement(frame, roles.backup));
        if let Some(frame) = announced.first() {
            return Ok(frame.stamp);
        }
        let waited = Stamp::now().since(deadline);
        expect(waited < TAKEOVER_LIMIT, "a takeover", || format!("nobody announced the VIP for {waited:?}"))?;
        std::thread::sleep(LOOK);
    }
}

/// The remote peer's SAs, once there are as many as before.
fn settled_sas(lab: &Lab, before: &[IkeSa]) -> Result<Vec<IkeSa>> {
    const LIMIT: Duration = Duration::from_secs(10);
    const LOOK: Duration = Duration::from_millis(250);
    let begin = Stamp::now();
    loop {
        let after = lab.peer()?.sas()?;
        if count(&after) == count(before) || Stamp::now().since(begin) > LIMIT {
            return Ok(after);
        }
        std::thread::sleep(LOOK);
    }
}

/// IKE and child SAs.
fn count(sas: &[IkeSa]) -> usize {
    sas.iter().map(|sa| 1 + sa.children.len()).sum()
}

/// Did the host at that port send it?
pub(super) fn is_from(frame: &Frame, place: usize) -> bool {
    frame.direction == Direction::FromHost && frame.port == place
}

fn is_advertisement(frame: &Frame, place: usize) -> bool {
    is_from(frame, place) && matches!(frame.kind, Kind::Advertisement { .. })
}

/// Gratuitous ARP, or an unsolicited neighbour advertisement.
pub(super) fn is_announcement(kind: &Kind, address: IpAddr) -> bool {
    match kind {
        Kind::Arp { sender, target, .. } => sender == target && *sender == address,
        Kind::Neighbour { target, solicited } => !solicited && *target == address,
        _ => false,
    }
}

/// The captures' view of a takeover.
struct Watch<'a> {
    lab: &'a Lab,
    roles: Roles,
    ended: Stamp,
}

/// What an appliance sent under: ESP's SPIs, and the initiators' SPIs of IKE SAs.
#[derive(Default)]
struct Keys {
    esp: BTreeSet<u32>,
    ike: BTreeSet<u64>,
}

impl Keys {
    fn of(watch: &Watch<'_>, since: Stamp, place: usize) -> Self {
        let mut keys = Self::default();
        for frame in watch.lab.outside.frames(since, |frame| is_from(frame, place)) {
            match frame.kind {
                Kind::Esp { spi, .. } => {
                    keys.esp.insert(spi);
                }
                Kind::Ike { initiator_spi, .. } => {
                    keys.ike.insert(initiator_spi);
                }
                _ => {}
            }
        }
        keys
    }
}

impl Watch<'_> {
    /// SPIs that the successor has sent ESP under and the old owner has not.
    fn fresh_esp(&self, old: &Keys) -> Vec<u32> {
        Keys::of(self, self.ended, self.roles.backup).esp.difference(&old.esp).copied().collect()
    }

    /// The first frame since the owner's end that `fits`.
    fn first(&self, capture: &Capture, fits: impl Fn(&Frame) -> bool) -> Option<Stamp> {
        capture.frames(self.ended, fits).first().map(|frame| frame.stamp)
    }

    fn by_successor(&self, capture: &Capture, fits: impl Fn(&Kind) -> bool) -> Option<Stamp> {
        self.first(capture, |frame| is_from(frame, self.roles.backup) && fits(&frame.kind))
    }

    /// The old owner's last frame before the successor's first advertisement, on either side.
    fn last_of_owner(&self, announced: Stamp) -> Stamp {
        let margin = Duration::from_secs(1).as_nanos();
        let since = u64::try_from(u128::from(self.ended.nanos()).saturating_sub(margin)).unwrap_or(0);
        let since = Stamp::at(Duration::from_nanos(since));
        let last = |capture: &Capture| {
            let frames = capture.frames(since, |frame| is_from(frame, self.roles.owner) && frame.stamp < announced);
            frames.last().map(|frame| frame.stamp)
        };
        last(&self.lab.outside).max(last(&self.lab.inside)).unwrap_or(self.ended)
    }
}

/// How often anybody has called since then: each time with an SPI of its own.
pub(super) fn calls(lab: &Lab, since: Stamp) -> usize {
    let calls = lab
        .outside
        .frames(since, |frame| matches!(frame.kind, Kind::Ike { exchange: Exchange::SaInit, response: false, .. }));
    let spis: BTreeSet<u64> = calls.iter().filter_map(|frame| initiator_spi(&frame.kind)).collect();
    spis.len()
}

/// How many IKE_SA_INIT requests of remote peers have arrived since then: they had to find out by themselves.
pub(super) fn calls_by_peers(lab: &Lab, since: Stamp) -> usize {
    lab.outside.ike(since, Exchange::SaInit, Direction::ToHost, false).len()
}

/// How often an appliance has advertised the VIP since then.
pub(super) fn advertisements(lab: &Lab, place: usize, since: Stamp) -> usize {
    lab.outside.frames(since, |frame| is_advertisement(frame, place)).len()
}

fn initiator_spi(kind: &Kind) -> Option<u64> {
    match kind {
        Kind::Ike { initiator_spi, .. } => Some(*initiator_spi),
        _ => None,
    }
}

fn report(
    watch: &Watch<'_>,
    policy: TakeoverPolicy,
    end: End,
    old: &Keys,
    seen: &TrafficSeen,
    [before, after]: [&[IkeSa]; 2],
    replayed: usize,
) -> Result<Takeover> {
    let Watch { lab, roles, ended } = *watch;
    let names = Names::of(lab, roles);
    let announced = watch.by_successor(&lab.outside, |kind| matches!(kind, Kind::Advertisement { .. }));
    let announced = announced.unwrap_or_else(Stamp::now);
    let last_of_owner = watch.last_of_owner(announced);
    let to_client = watch.by_successor(&lab.outside, |kind| matches!(kind, Kind::Esp { .. }));
    let to_target = watch.by_successor(&lab.inside, |kind| *kind == Kind::ClearText);
    let passing = [to_client, to_target].into_iter().flatten().min().unwrap_or_else(Stamp::now);
    let new = Keys::of(watch, ended, roles.backup);
    let resumed = new.esp.intersection(&old.esp).count() + new.ike.intersection(&old.ike).count();
    let kept = seen.long_lived.iter().filter(|connection| connection.is_kept()).count();
    let reset = seen.long_lived.iter().filter(|connection| connection.broken.is_some()).count();
    let probes = |way: &Way| {
        let lost = way.lost + way.revived(ended, announced);
        Probes { sent: way.sent, lost, targets: way.targets }
    };
    let probes = BothWays { up: probes(&seen.up), down: probes(&seen.down) };
    let report = TakeoverReport {
        policy,
        owner: names.owner,
        successor: names.successor,
        blocked_ms: BothWays { up: blocked_ms(probes.up.lost), down: blocked_ms(probes.down.lost) },
        probes,
        tcp: Tcp { kept, reset, moved: seen.long_lived.len() - kept - reset, stall_ms: seen.stall_ms() },
        detection_ms: announced.millis_from(last_of_owner),
        takeover_ms: passing.millis_from(last_of_owner),
        sas: Sas {
            before: count(before),
            after: count(after),
            resumed,
            fresh: new.esp.difference(&old.esp).count(),
            calls: calls(watch.lab, watch.ended),
        },
        ways: ways(lab, roles.backup)?,
        replayed,
        replayed_delivered: seen.up.doubled,
        successor_drops: lab.appliance(roles.backup)?.drops()?,
        doubled_at_client: seen.down.doubled,
        peer_refused: seen.peer_rejects,
        peer_lost: seen.peer_overflows,
        timeline: timeline(watch, end, old, seen, last_of_owner, announced),
    };
    let arrivals = Arrivals {
        up: Arrivals::relative(&seen.up.arrivals, ended),
        down: Arrivals::relative(&seen.down.arrivals, ended),
        announced: announced.millis_from(ended),
        rate: 1.0 / PROBE_INTERVAL.as_secs_f64(),
    };
    Ok(Takeover { report, arrivals })
}

/// In which ways an appliance went on with the IKE SAs of its newest takeover, by its own word, and with how many.
fn ways(lab: &Lab, place: usize) -> Result<BTreeMap<String, u64>> {
    let mut ways = BTreeMap::new();
    for taken in lab.appliance(place)?.status()?.vips.into_iter().filter_map(|vip| vip.takeover) {
        taken.ways.into_iter().for_each(|way| *ways.entry(way.way).or_default() += way.ike_sas);
    }
    Ok(ways)
}

fn timeline(
    watch: &Watch<'_>,
    end: End,
    old: &Keys,
    seen: &TrafficSeen,
    last_of_owner: Stamp,
    announced: Stamp,
) -> Vec<Moment> {
    let Watch { lab, roles, ended } = *watch;
    let Names { owner, successor } = Names::of(lab, roles);
    let vip = lab.tunnel().map_or(VIP.into(), |tunnel| tunnel.vip);
    let is_ike = |wanted: Exchange| move |kind: &Kind| matches!(kind, Kind::Ike { exchange, response: false, .. } if *exchange == wanted);
    let announcement = |kind: &Kind| is_announcement(kind, vip);
    let fresh = |kind: &Kind| matches!(kind, Kind::Esp { spi, .. } if !old.esp.contains(spi));
    let silences = [&seen.up, &seen.down].map(|way| way.silence_around(announced));
    let [up, down] = silences;
    let mut moments: Vec<(Option<Stamp>, String)> = vec![
        (up.map(|(before, _)| before), "last datagram before arrives at a target".to_owned()),
        (down.map(|(before, _)| before), "last datagram before arrives at the client".to_owned()),
        (Some(ended), format!("{owner} {}", end.text())),
        (Some(last_of_owner), format!("{owner}'s last frame on the bridge")),
        (Some(announced), format!("{successor} advertises the VIP")),
        (watch.by_successor(&lab.outside, announcement), format!("{successor} announces the VIP to its neighbours")),
        (
            watch.by_successor(&lab.inside, |kind| *kind == Kind::ClearText),
            format!("{successor} passes a packet to a target"),
        ),
        (
            watch.by_successor(&lab.outside, |kind| matches!(kind, Kind::Esp { .. })),
            format!("{successor} sends ESP to the client"),
        ),
        (up.map(|(_, after)| after), "first datagram after arrives at a target".to_owned()),
        (down.map(|(_, after)| after), "first datagram after arrives at the client".to_owned()),
        (watch.by_successor(&lab.outside, is_ike(Exchange::SaInit)), format!("{successor} calls the remote peer")),
        (watch.by_successor(&lab.outside, is_ike(Exchange::CreateChildSa)), format!("{successor} asks for a rekeying")),
        (watch.by_successor(&lab.outside, fresh), format!("{successor} sends ESP with fresh keys")),
    ];
    if let Ok(appliance) = lab.appliance(roles.backup) {
        let lines = journal::lines(&appliance.log(), ended).into_iter();
        moments.extend(lines.map(|(stamp, text)| (Some(stamp), format!("{successor}'s log: {text}"))));
    }
    let mut moments: Vec<_> = moments.into_iter().filter_map(|(stamp, what)| Some((stamp?, what))).collect();
    moments.sort_by_key(|(stamp, _)| *stamp);
    moments.into_iter().map(|(stamp, what)| Moment { at_ms: stamp.millis_from(ended), what }).collect()
}

/// What a long-lived connection went through, for a message.
pub(super) fn broken(connections: &[PingPongReport]) -> String {
    let why = |report: &PingPongReport| report.broken.clone().unwrap_or_else(|| "it changed its target".to_owned());
    connections.iter().filter(|report| !report.is_kept()).map(why).collect::<Vec<_>>().join("; ")
}
