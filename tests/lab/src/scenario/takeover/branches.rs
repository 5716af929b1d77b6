//! Ten remote peers, each a host and a charon of its own, with traffic through the owner's end.

use std::time::Duration;

use super::cases::{MARGIN, Teller};
use super::observe;
use crate::appliance::Standing;
use crate::client::{PingPong, UdpProbe};
use crate::clock::Stamp;
use crate::error::Result;
use crate::gateway::CHILD;
use crate::lab::{Branch, Lab, Roles};
use crate::scenario::expect;
use crate::topology::VIP;

/// Between two datagrams of one branch, one way.
const INTERVAL: Duration = Duration::from_millis(20);
/// Between an answer and the next request of a branch's connection.
const PAUSE: Duration = Duration::from_millis(20);
/// From the call to an established tunnel, while ten call.
const CALL_LIMIT: Duration = Duration::from_secs(20);
/// Fresh keys for everybody.
const AFTER: Duration = Duration::from_secs(3);
/// What a takeover may cost one of them, in datagrams one way: two seconds' worth.
const LOST_MAX: u64 = 100;

impl Teller<'_, '_> {
    /// The owner is killed under the traffic of all.
    pub(super) fn branches(&mut self) {
        self.story.case("ten remote peers call", |lab| {
            lab.branches().try_for_each(|branch| branch.call())?;
            let sas = lab.appliance(lab.owner()?)?.ike_sas()?.len();
            expect(sas == lab.branches().count(), "an IKE SA for each", || format!("{sas}"))?;
            Ok(format!("{sas} tunnels"))
        });
        self.story.case("the owner is killed: each keeps its tunnel and its connection", killed_under_all);
        self.the_dead_comes_back();
        self.story.case("the VIP moves by order: nobody loses a datagram", moved_under_all);
    }
}

impl Branch<'_> {
    /// Brings its tunnels up, as far as they aren't.
    fn call(&self) -> Result<()> {
        if !self.charon.sas()?.is_empty() {
            return Ok(());
        }
        self.tunnels.iter().try_for_each(|tunnel| self.charon.initiate(&tunnel.connection, CHILD, CALL_LIMIT))
    }
}

/// Traffic of one branch.
struct Busy {
    probe: UdpProbe,
    connection: PingPong,
}

fn start(lab: &Lab) -> Result<Vec<Busy>> {
    let busy = |branch: Branch<'_>| {
        Ok(Busy {
            probe: UdpProbe::start(branch.host, VIP.into(), INTERVAL)?,
            connection: PingPong::start(branch.host, VIP.into(), PAUSE)?,
        })
    };
    let all = lab.branches().map(busy).collect();
    std::thread::sleep(MARGIN);
    all
}

/// Ends it: every connection has lived, and nobody has lost more than so many datagrams one way.
fn end(lab: &Lab, busy: Vec<Busy>, lost_max: u64) -> Result<String> {
    let mut worst = 0;
    let mut faults = Vec::new();
    for (number, Busy { probe, connection }) in busy.into_iter().enumerate() {
        let connection = connection.stop();
        if !connection.is_kept() {
            faults.push(format!("branch {number}: {connection:?}"));
        }
        let report = probe.stop(lab.targets());
        for (way, flows) in [("up", report.up), ("down", report.down)] {
            let lost: u64 = flows.values().map(|flow| flow.lost).sum();
            let doubled: u64 = flows.values().map(|flow| flow.duplicated).sum();
            worst = worst.max(lost);
            if lost > lost_max || doubled > 0 {
                faults.push(format!("branch {number}, {way}: {lost} lost, {doubled} twice"));
            }
        }
    }
    expect(faults.is_empty(), "a takeover that no branch notices much", || faults.join("; "))?;
    Ok(format!("all connections kept, at most {worst} datagrams of a branch lost one way"))
}

fn killed_under_all(lab: &mut Lab) -> Result<String> {
    let Roles { owner, backup } = lab.await_roles()?;
    let busy = start(lab)?;
    let killed = Stamp::now();
    lab.kill_appliance(owner)?;
    lab.await_standing(backup, &Standing::Owner)?;
    std::thread::sleep(AFTER);
    let detail = end(lab, busy, LOST_MAX)?;
    let calls = observe::calls(lab, killed);
    expect(calls == 0, "no call", || format!("there were {calls}"))?;
    for branch in lab.branches() {
        let sas = branch.charon.sas()?;
        let up = sas.iter().filter(|sa| sa.state == "ESTABLISHED").count();
        expect(up == branch.tunnels.len(), "every tunnel up", || format!("{sas:?}"))?;
    }
    Ok(detail)
}

fn moved_under_all(lab: &mut Lab) -> Result<String> {
    let Roles { owner, backup } = lab.await_roles()?;
    let busy = start(lab)?;
    lab.appliance(owner)?.move_vip(lab.appliance_name(backup))?;
    lab.await_standing(backup, &Standing::Owner)?;
    lab.await_standing(owner, &Standing::Backup)?;
    std::thread::sleep(MARGIN);
    end(lab, busy, 0)
}
