//! What a takeover looked like to those who had to live with it.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::appliance::TakeoverPolicy;
use crate::charon::EspRejects;
use crate::clock::Stamp;

/// Longest that a takeover may block one way before it counts as failed, in milliseconds. Generous: this says that it happened, not
/// how fast it can be.
const BLOCKED_MS_MAX: f64 = 2_000.0;

/// A takeover, as clients, targets and the captures at the switch saw it.
#[derive(Debug, Clone, Serialize)]
pub struct TakeoverReport {
    /// What the successor did with the SAs.
    pub policy: TakeoverPolicy,
    /// Who owned the VIP.
    pub owner: String,
    /// Who took it over.
    pub successor: String,
    /// Lost datagrams, divided by their rate.
    pub blocked_ms: BothWays<f64>,
    /// Numbered datagrams.
    pub probes: BothWays<Probes>,
    /// Long-lived connections.
    pub tcp: Tcp,
    /// From the old owner's last frame on the bridge to the successor's first advertisement.
    pub detection_ms: f64,
    /// From the old owner's last frame to the first packet that the successor passed on.
    pub takeover_ms: f64,
    /// SAs.
    pub sas: Sas,
    /// In which ways the successor went on with IKE SAs, by its own word, and with how many.
    pub ways: BTreeMap<String, u64>,
    /// ESP packets of before that were sent to the successor again.
    pub replayed: usize,
    /// Datagrams among them that reached a target once more.
    pub replayed_delivered: u64,
    /// Datagrams that arrived at the client once more.
    pub doubled_at_client: u64,
    /// What the successor dropped and why, by its own count.
    pub successor_drops: BTreeMap<String, u64>,
    /// ESP packets that the remote peer refused.
    pub peer_refused: EspRejects,
    /// ESP packets that the remote peer lost because it fetched them too slowly.
    pub peer_lost: u64,
    /// In the order of time.
    pub timeline: Vec<Moment>,
}

/// Something for each way.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct BothWays<T> {
    /// From the client to the VIP's service.
    pub up: T,
    /// From a target, through the inside gateway, to the client.
    pub down: T,
}

/// Numbered datagrams one way.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Probes {
    /// Sent.
    pub sent: u64,
    /// Never arrived.
    pub lost: u64,
    /// Targets that had the flow: one, unless it was moved.
    pub targets: usize,
}

/// Long-lived connections.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Tcp {
    /// They lived on with the same target.
    pub kept: usize,
    /// They broke.
    pub reset: usize,
    /// They were answered by another target.
    pub moved: usize,
    /// The longest that a request waited for its answer.
    pub stall_ms: f64,
}

/// SAs of the remote peer.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sas {
    /// IKE and child SAs, at the remote peer, before.
    pub before: usize,
    /// The same afterwards.
    pub after: usize,
    /// SAs of before under which the successor was seen to send: IKE messages or ESP.
    pub resumed: usize,
    /// Child SAs under which it sent and which are new.
    pub fresh: usize,
    /// IKE_SA_INIT requests since the takeover began, by either end.
    pub calls: usize,
}

/// A point of the timeline.
#[derive(Debug, Clone, Serialize)]
pub struct Moment {
    /// Since the old owner's end.
    pub at_ms: f64,
    /// What happened.
    pub what: String,
}

/// What a picture needs, in milliseconds since the old owner's end.
#[derive(Debug, Clone, Default)]
pub struct Arrivals {
    /// When datagrams arrived at targets.
    pub up: Vec<f64>,
    /// When datagrams arrived at the client.
    pub down: Vec<f64>,
    /// The successor's first advertisement.
    pub announced: f64,
    /// How often datagrams were sent, per second.
    pub rate: f64,
}

/// Report and picture.
#[derive(Debug, Clone)]
pub struct Takeover {
    /// The report.
    pub report: TakeoverReport,
    /// For the picture.
    pub arrivals: Arrivals,
}

impl Arrivals {
    /// Moments relative to `origin`.
    pub fn relative(stamps: &[Stamp], origin: Stamp) -> Vec<f64> {
        stamps.iter().map(|stamp| stamp.millis_from(origin)).collect()
    }
}

impl TakeoverReport {
    /// What should hold and doesn't.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut expect = |holds: bool, fault: String| {
            if !holds {
                faults.push(fault);
            }
        };
        for (way, blocked, probes) in
            [("up", self.blocked_ms.up, self.probes.up), ("down", self.blocked_ms.down, self.probes.down)]
        {
            expect(probes.sent > 0, format!("no datagrams {way} were sent"));
            expect(probes.lost < probes.sent, format!("no datagram {way} arrived"));
            expect(blocked < BLOCKED_MS_MAX, format!("datagrams {way} were blocked for {blocked:.0} ms"));
            expect(probes.targets == 1, format!("the flow {way} was with {} targets", probes.targets));
        }
        let Tcp { kept, reset, moved, .. } = self.tcp;
        expect(kept > 0 && reset == 0, format!("{reset} long-lived connections broke"));
        expect(moved == 0, format!("{moved} long-lived connections changed their target"));
        expect(self.replayed > 0, "nothing was replayed".to_owned());
        expect(self.replayed_delivered == 0, format!("{} replayed datagrams were delivered", self.replayed_delivered));
        let doubled = self.doubled_at_client;
        expect(doubled == 0, format!("{doubled} datagrams were delivered to the client twice"));
        let allowed: &[&str] = match self.policy {
            TakeoverPolicy::Resume => &["keep", "replay sync", "rekey"],
            TakeoverPolicy::Renegotiate => &["renegotiate"],
        };
        let as_wanted = self.ways.keys().all(|way| allowed.contains(&way.as_str()));
        expect(!self.ways.is_empty() && as_wanted, format!("IKE SAs went on in these ways: {:?}", self.ways));
        let Sas { before, after, resumed, fresh, calls } = self.sas;
        expect(before == after, format!("there were {before} SAs before and {after} afterwards"));
        expect(fresh > 0, "no fresh child SA came into use".to_owned());
        match self.policy {
            TakeoverPolicy::Resume => {
                // A child SA may be rekeyed before anything was sent under it: one trace of the old keys is enough.
                expect(resumed > 0, "nothing was sent under an SA of before".to_owned());
                expect(calls == 0, format!("{calls} remote peers had to call, or were called"));
            }
            TakeoverPolicy::Renegotiate => expect(calls > 0, "nobody was called".to_owned()),
        }
        faults
    }

    /// In one line.
    pub fn summary(&self) -> String {
        let Self { blocked_ms, tcp, .. } = self;
        format!(
            "blocked {:.0} ms up, {:.0} ms down; detected after {:.0} ms, passing packets after {:.0} ms; {} of {} connections kept, \
             longest stall {:.0} ms; {} packets replayed, {} delivered",
            blocked_ms.up,
            blocked_ms.down,
            self.detection_ms,
            self.takeover_ms,
            tcp.kept,
            tcp.kept + tcp.reset + tcp.moved,
            tcp.stall_ms,
            self.replayed,
            self.replayed_delivered
        )
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = format!("  {} dies, {} takes over\n", self.owner, self.successor);
        for Moment { at_ms, what } in &self.timeline {
            let _ = writeln!(text, "  {at_ms:>9.1} ms  {what}");
        }
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<22} {value}");
        };
        for (way, blocked, probes) in [
            ("datagrams up", self.blocked_ms.up, self.probes.up),
            ("datagrams down", self.blocked_ms.down, self.probes.down),
        ] {
            line(way, format!("{} of {} lost: blocked {blocked:.0} ms", probes.lost, probes.sent));
        }
        let Tcp { kept, reset, moved, stall_ms } = self.tcp;
        line("connections", format!("{kept} kept, {reset} broken, {moved} moved; longest stall {stall_ms:.0} ms"));
        let Sas { before, after, resumed, fresh, calls } = self.sas;
        line("SAs", format!("{before} before, {resumed} resumed, {fresh} fresh, {after} afterwards; {calls} calls"));
        let ways = self.ways.iter().map(|(way, count)| format!("{way}: {count}"));
        line("IKE SAs went on by", ways.collect::<Vec<_>>().join(", "));
        line("replayed packets", format!("{}, of which {} were delivered", self.replayed, self.replayed_delivered));
        let drops = self.successor_drops.iter().map(|(reason, count)| format!("{reason}: {count}"));
        line("successor's drops", drops.collect::<Vec<_>>().join(", "));
        let EspRejects { replayed, not_authentic, unknown_spi } = self.peer_refused;
        line(
            "remote peer's refusals",
            format!("{replayed} as replayed, {not_authentic} as not authentic, {unknown_spi} for an unknown SPI"),
        );
        text
    }
}

/// The middle of some takeovers.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Medians {
    /// How many there were.
    pub runs: usize,
    /// Of [`TakeoverReport::blocked_ms`].
    pub blocked_ms: BothWays<f64>,
    /// Of [`TakeoverReport::detection_ms`].
    pub detection_ms: f64,
    /// Of [`TakeoverReport::takeover_ms`].
    pub takeover_ms: f64,
    /// Of [`Tcp::stall_ms`].
    pub stall_ms: f64,
}

impl Medians {
    /// Of at least one takeover.
    pub fn of(reports: &[TakeoverReport]) -> Option<Self> {
        let median = |value: fn(&TakeoverReport) -> f64| {
            let mut values: Vec<f64> = reports.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            let middle = values.get(values.len() / 2).copied()?;
            let before = values.get((values.len() - 1) / 2).copied()?;
            Some((before + middle) / 2.0)
        };
        Some(Self {
            runs: reports.len(),
            blocked_ms: BothWays {
                up: median(|report| report.blocked_ms.up)?,
                down: median(|report| report.blocked_ms.down)?,
            },
            detection_ms: median(|report| report.detection_ms)?,
            takeover_ms: median(|report| report.takeover_ms)?,
            stall_ms: median(|report| report.tcp.stall_ms)?,
        })
    }

    /// In one line.
    pub fn summary(&self) -> String {
        let Self { runs, blocked_ms, detection_ms, takeover_ms, stall_ms } = self;
        format!(
            "median of {runs}: blocked {:.0} ms up, {:.0} ms down; detected after {detection_ms:.0} ms, passing packets after \
             {takeover_ms:.0} ms; longest stall {stall_ms:.0} ms",
            blocked_ms.up, blocked_ms.down
        )
    }
}
