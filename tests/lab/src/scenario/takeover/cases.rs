//! The stories.

use std::thread::Scope;
use std::time::Duration;

use super::observe::{self, End};
use crate::appliance::{SECOND_VIP_NAME, Standing, TakeoverPolicy};
use crate::capture::{Capture, Direction, Exchange, Frame, Kind};
use crate::client::{PingPong, PingPongReport, Traffic};
use crate::clock::Stamp;
use crate::error::Result;
use crate::lab::{Lab, Roles};
use crate::report::takeover::Takeover;
use crate::scenario::{Progress, Story, expect};
use crate::topology::{Network, TunnelPlan, virtual_macs};

/// Connections in [`Teller::local_targets`]: so many that each target has some.
const CONNECTIONS: usize = 40;
/// Between an answer and the next request on one of them.
const THINKING: Duration = Duration::from_millis(50);

/// Longer than an appliance's lease.
const ETCD_SILENCE: Duration = Duration::from_secs(6);
/// Traffic on both sides of what shall not be noticed.
pub(super) const MARGIN: Duration = Duration::from_secs(1);
/// For how long a starting or waking appliance may be noticed.
const PARDONABLE: Duration = Duration::from_millis(200);
/// For all tunnels to pass traffic again after a takeover.
const TUNNEL_LIMIT: Duration = Duration::from_secs(2);

/// Starts connections, and waits until each has been answered for a while.
fn start_many(lab: &Lab) -> Result<Vec<PingPong>> {
    let running = (0..CONNECTIONS).map(|_| lab.start_pingpong(THINKING)).collect();
    std::thread::sleep(MARGIN);
    running
}

/// Ends them: each has lived until now, always with its target.
fn end_kept(lab: &Lab, running: Vec<PingPong>) -> Result<Vec<PingPongReport>> {
    let ended: Vec<_> = running.into_iter().map(PingPong::stop).collect();
    all_kept(lab, &ended)?;
    Ok(ended)
}

fn all_kept<'a>(lab: &Lab, ended: impl IntoIterator<Item = &'a PingPongReport>) -> Result<()> {
    let broken: Vec<_> = ended.into_iter().filter(|report| !report.is_kept()).collect();
    expect(broken.is_empty(), "connections that live on", || format!("{broken:?}; {:?}", lab.drops()))
}

/// New connections reach every target.
fn all_targets_serve(lab: &Lab) -> Result<String> {
    let found = lab.connections(100, 4)?;
    expect(found.errors == 0, "no failed connection", || found.first_errors.join("; "))?;
    expect(found.per_target.len() == lab.targets().len(), "connections at all targets", || {
        format!("{:?}", found.per_target)
    })?;
    Ok(format!("connections by target: {:?}", found.per_target))
}

/// Kills the owner; its successor has served for a while when this returns.
fn kill_owner(lab: &mut Lab, roles: &Roles) -> Result<()> {
    lab.kill_appliance(roles.owner)?;
    lab.await_standing(roles.backup, &Standing::Owner)?;
    std::thread::sleep(MARGIN);
    Ok(())
}

/// What the owner of the VIP says now of connections that can't be computed.
fn has_pins(lab: &Lab, owner: usize) -> Result<String> {
    Ok(format!("{} has the VIP and {} pins", lab.appliance_name(owner), lab.appliance(owner)?.pins()?))
}

/// Packets that an appliance's host took and sent as a target of the other one.
fn as_target(lab: &Lab, appliance: usize) -> Result<u64> {
    Ok(lab.appliance(appliance)?.counters()?.counters.get("as_target").copied().unwrap_or(0))
}

/// Tells stories, and keeps what the takeovers in them looked like.
pub(super) struct Teller<'a, 'b> {
    pub(super) story: &'a mut Story<'b>,
    pub(super) policy: TakeoverPolicy,
    pub(super) progress: &'a Progress,
    pub(super) takeovers: &'a mut Vec<Takeover>,
}

impl Teller<'_, '_> {
    pub(super) fn kill(&mut self, runs: u32) {
        for run in 1..=runs {
            self.the_owner_ends(&format!("the owner is killed, {run} of {runs}"), End::Killed);
            if run < runs {
                self.the_dead_comes_back();
            }
        }
    }

    pub(super) fn twice_in_a_row(&mut self) {
        self.story.case("both backups have a copy, by their ranks", |lab| {
            let roles = lab.await_roles()?;
            lab.await_standing(2, &Standing::Backup)?;
            expect(roles == Roles { owner: 0, backup: 1 }, "a to own, b and c to back up", || format!("{roles:?}"))?;
            let store = lab.appliance(0)?.operator(&["store"])?;
            let counted = store.matches("copy counted").count();
            expect(counted == 2, "two counted copies", || store.clone())?;
            Ok("b and c would resume".to_owned())
        });
        self.story.case("etcd falls silent for longer than its lease: nothing happens", |lab| {
            let roles = lab.await_roles()?;
            under_traffic(lab, Loss::None, |lab| {
                lab.etcd()?.freeze()?;
                std::thread::sleep(ETCD_SILENCE);
                lab.etcd()?.thaw()?;
                std::thread::sleep(MARGIN);
                let now = lab.await_roles()?;
                expect(now == roles, "the owner to stay owner", || format!("they are {now:?}"))?;
                Ok(format!("{} still has it", lab.appliance_name(roles.owner)))
            })
        });
        let first = self.the_owner_ends("the owner is killed: the first rank takes over", End::Killed);
        let second = self.the_owner_ends("and is killed too: the second rank takes over", End::Killed);
        self.story.case("each by its rank", |_| {
            let expected = [Roles { owner: 0, backup: 1 }, Roles { owner: 1, backup: 2 }].map(Some);
            expect([first, second] == expected, "a, b, c in this order", || format!("{first:?}, {second:?}"))?;
            Ok("c has it".to_owned())
        });
    }

    pub(super) fn pause(&mut self) {
        let Some(Roles { owner: sleeper, .. }) = self.the_owner_ends("the owner is stopped in mid-air", End::Paused)
        else {
            return;
        };
        self.story.case("it wakes, and keeps still", |lab| {
            under_traffic(lab, Loss::Little, |lab| {
                let woken = Stamp::now();
                lab.appliance(sleeper)?.thaw()?;
                lab.await_standing(sleeper, &Standing::Backup)?;
                std::thread::sleep(MARGIN);
                keeps_still(lab, sleeper, woken)
            })
        });
    }

    pub(super) fn backup_dies(&mut self) {
        self.story.case("the backup is killed", |lab| {
            let roles = lab.await_roles()?;
            under_traffic(lab, Loss::None, |lab| {
                lab.kill_appliance(roles.backup)?;
                Ok(format!("{} is dead", lab.appliance_name(roles.backup)))
            })
        });
        self.the_dead_comes_back();
        self.the_owner_ends("the owner is killed: the backup that came back takes over", End::Killed);
    }

    pub(super) fn give_back(&mut self) {
        self.the_owner_ends("the owner is killed", End::Killed);
        self.the_dead_comes_back();
        self.story.case("the VIP is given back by order", |lab| under_traffic(lab, Loss::None, move_by_order));
        self.story.case("the owner is told to end, and hands over first", |lab| {
            under_traffic(lab, Loss::None, hand_over_at_the_end)
        });
    }

    pub(super) fn two_hosts(&mut self, runs: u32) {
        self.kill(runs);
        self.the_dead_comes_back();
        self.the_stores_network_fails();
        self.the_owner_ends("the owner is killed: the copy that was made anew is resumed", End::Killed);
    }

    /// And heals.
    pub(super) fn the_stores_network_fails(&mut self) {
        self.story.case("the store's network fails: the owner goes on alone, nobody takes over", |lab| {
            let roles = lab.await_roles()?;
            under_traffic(lab, Loss::None, |lab| {
                lab.set_link(roles.owner, Network::Store, false)?;
                lab.await_unprotected(roles.owner)?;
                std::thread::sleep(MARGIN);
                Ok(format!("{} is unprotected", lab.appliance_name(roles.owner)))
            })
        });
        self.story.case("it heals: the backup joins again", |lab| {
            under_traffic(lab, Loss::None, |lab| {
                let owner = lab.owner()?;
                lab.set_link(owner, Network::Store, true)?;
                let roles = lab.await_roles()?;
                Ok(format!("{} has a copy again", lab.appliance_name(roles.backup)))
            })
        });
    }

    pub(super) fn crosswise(&mut self) {
        let (first, second) = (0, 1);
        self.story.case("each appliance owns one VIP and is the backup of the other's", |lab| {
            let (web, mail) = (lab.await_roles_for(first)?, lab.await_roles_for(second)?);
            let crossed = web.owner == mail.backup && web.backup == mail.owner;
            expect(crossed, "an owner for each", || format!("{web:?} and {mail:?}"))?;
            all_pass(lab, lab.tunnels()?)?;
            Ok(format!("{} owns web, {} owns mail", lab.appliance_name(web.owner), lab.appliance_name(mail.owner)))
        });
        self.story.case("one is killed: the other owns both, and nobody calls", |lab| {
            let mail = lab.await_roles_for(second)?;
            let ended = Stamp::now();
            lab.kill_appliance(mail.owner)?;
            lab.await_standing_for(mail.backup, second, &Standing::Owner)?;
            lab.await_standing_for(mail.backup, first, &Standing::Owner)?;
            let after = all_pass(lab, lab.tunnels()?)?;
            std::thread::sleep(MARGIN);
            let calls =
                lab.outside.frames(ended, |frame| matches!(frame.kind, Kind::Ike { exchange: Exchange::SaInit, .. }));
            expect(calls.is_empty(), "no call", || format!("there were {} IKE_SA_INIT messages", calls.len()))?;
            Ok(format!("both tunnels had passed traffic {:.0} ms after the kill", after.millis_from(ended)))
        });
        self.story.case("it comes back as the backup of both", |lab| {
            let owner = lab.owner()?;
            lab.restart_appliance(1 - owner)?;
            let (web, mail) = (lab.await_roles_for(first)?, lab.await_roles_for(second)?);
            expect(web == mail && web.owner == owner, "the owner to stay owner", || format!("{web:?} and {mail:?}"))?;
            Ok(format!("{} has copies that it would resume from", lab.appliance_name(web.backup)))
        });
        self.story.case("it gets one VIP back by order, and the other one's traffic loses nothing", |lab| {
            let mail = lab.await_roles_for(second)?;
            under_traffic(lab, Loss::None, |lab| {
                let wanted = lab.appliance_name(mail.backup).to_owned();
                lab.appliance(mail.owner)?.operator(&["vip", "move", SECOND_VIP_NAME, "--to", &wanted])?;
                lab.await_standing_for(mail.backup, second, &Standing::Owner)?;
                lab.await_standing_for(mail.owner, second, &Standing::Backup)?;
                let web = lab.await_roles_for(first)?;
                expect(web.owner == mail.owner, "web to stay where it is", || format!("{web:?}"))?;
                all_pass(lab, lab.tunnels()?)?;
                Ok(format!("{wanted} owns mail, {} still owns web", lab.appliance_name(web.owner)))
            })
        });
    }

    pub(super) fn hundred(&mut self) {
        self.story.case("all tunnels pass traffic, the owner is killed, and all pass traffic", |lab| {
            let tunnels = lab.tunnels()?.to_vec();
            let roles = lab.await_roles()?;
            all_pass(lab, &tunnels)?;
            let ended = Stamp::now();
            lab.kill_appliance(roles.owner)?;
            lab.await_standing(roles.backup, &Standing::Owner)?;
            let after = all_pass(lab, &tunnels)?;
            std::thread::sleep(MARGIN);
            // With fresh keys, too.
            all_pass(lab, &tunnels)?;
            let calls =
                lab.outside.frames(ended, |frame| matches!(frame.kind, Kind::Ike { exchange: Exchange::SaInit, .. }));
            expect(calls.is_empty(), "no call", || format!("there were {} IKE_SA_INIT messages", calls.len()))?;
            let sas = lab.peer()?.sas()?.iter().filter(|sa| sa.state == "ESTABLISHED").count();
            expect(sas == tunnels.len(), "as many IKE SAs as tunnels", || format!("there are {sas}"))?;
            Ok(format!(
                "{} tunnels kept; all had passed traffic {:.0} ms after the kill",
                tunnels.len(),
                after.millis_from(ended)
            ))
        });
    }

    pub(super) fn local_targets(&mut self) {
        self.story.case("the appliances' own hosts are targets, whoever owns the VIP", |lab| {
            lab.await_roles()?;
            all_targets_serve(lab)
        });
        // There and back, so that each appliance is the old owner once.
        for _ in 0..2 {
            self.story.case("the VIP moves by order: connections to either appliance's host live on", |lab| {
                let Roles { owner, backup } = lab.await_roles()?;
                let running = start_many(lab)?;
                let before = as_target(lab, owner)?;
                let wanted = lab.appliance_name(backup).to_owned();
                lab.appliance(owner)?.operator(&["vip", "move", "web", "--to", &wanted])?;
                lab.await_standing(backup, &Standing::Owner)?;
                lab.await_standing(owner, &Standing::Backup)?;
                std::thread::sleep(MARGIN);
                let distributed = as_target(lab, owner)? - before;
                let ended = end_kept(lab, running)?;
                let count = |place| ended.iter().filter(|it| it.target == lab.appliance_name(place)).count();
                let (old, new) = (count(owner), count(backup));
                expect(old > 0 && new > 0, "connections to both hosts", || format!("{old} and {new}"))?;
                expect(distributed > 0, "the old owner to be a target", || format!("{distributed} packets"))?;
                Ok(format!(
                    "{} connections kept: {old} to {}'s host, now distributed to it, {new} to {wanted}'s, now local there",
                    ended.len(),
                    lab.appliance_name(owner)
                ))
            });
        }
        self.story.case("the owner is killed: connections to all but its own host live on", |lab| {
            let roles = lab.await_roles()?;
            let running = start_many(lab)?;
            kill_owner(lab, &roles)?;
            let ended: Vec<_> = running.into_iter().map(PingPong::stop).collect();
            let (died, others): (Vec<_>, Vec<_>) =
                ended.iter().partition(|report| report.target == lab.appliance_name(roles.owner));
            all_kept(lab, others.iter().copied())?;
            Ok(format!("{} connections kept, {} to the dead appliance's host", others.len(), died.len()))
        });
        self.story.case("it comes back, and its host is a target again", |lab| {
            let owner = lab.owner()?;
            lab.restart_appliance(1 - owner)?;
            lab.await_roles()?;
            all_targets_serve(lab)
        });
    }

    pub(super) fn pins(&mut self) {
        let mut running = Vec::new();
        self.story.case("connections begin in turns, and the store knows of those that can't be computed", |lab| {
            let Roles { owner, .. } = lab.await_roles()?;
            running = start_many(lab)?;
            let pins = lab.appliance(owner)?.pins()?;
            expect(pins > 0, "pinned connections", || format!("{pins}"))?;
            Ok(format!("{CONNECTIONS} connections, {pins} pins"))
        });
        self.story.case("a target drains, and the owner is killed at once", |lab| {
            let roles = lab.await_roles()?;
            let drained = lab.targets()[0].name().to_owned();
            lab.appliance(roles.owner)?.operator(&["target", "drain", &drained])?;
            kill_owner(lab, &roles)?;
            has_pins(lab, roles.backup)
        });
        self.the_dead_comes_back();
        self.story.case("the successor is killed as well", |lab| {
            let roles = lab.await_roles()?;
            kill_owner(lab, &roles)?;
            has_pins(lab, roles.backup)
        });
        self.story.case("no connection has changed its target", |lab| {
            let ended = end_kept(lab, running)?;
            let found = lab.connections(20, 4)?;
            expect(found.errors == 0, "no failed connection", || found.first_errors.join("; "))?;
            Ok(format!("{} connections kept", ended.len()))
        });
    }

    /// The owner ends under traffic. Returns who was what before.
    pub(super) fn the_owner_ends(&mut self, case: &str, end: End) -> Option<Roles> {
        self.the_owner_ends_when(case, end, |_, _, _| Ok(()))
    }

    /// The owner ends under traffic, as soon as `moment` has come; what that begins may go on in threads of its scope.
    pub(super) fn the_owner_ends_when(
        &mut self,
        case: &str,
        end: End,
        moment: impl for<'scope, 'env> FnOnce(&'scope Scope<'scope, 'env>, &'env Lab, Roles) -> Result<()>,
    ) -> Option<Roles> {
        let Self { story, policy, progress, takeovers } = self;
        let mut found = None;
        story.case(case, |lab| {
            let roles = *found.insert(lab.await_roles()?);
            let lab: &Lab = lab;
            let takeover = std::thread::scope(|scope| {
                observe::take_over(lab, roles, *policy, end, || moment(scope, lab, roles), progress)
            })?;
            let (faults, summary) = (takeover.report.faults(), takeover.report.summary());
            takeovers.push(takeover);
            expect(faults.is_empty(), "a takeover that nobody notices much", || faults.join("; "))?;
            Ok(summary)
        });
        found
    }

    /// The appliance that was killed is started again.
    pub(super) fn the_dead_comes_back(&mut self) {
        self.story.case("it comes back as the backup, in sync", |lab| {
            let owner = lab.owner()?;
            let dead = 1 - owner;
            under_traffic(lab, Loss::Little, |lab| {
                lab.restart_appliance(dead)?;
                let roles = lab.await_roles()?;
                let expected = Roles { owner, backup: dead };
                expect(roles == expected, "the owner to stay owner", || format!("they are {roles:?}"))?;
                Ok(format!("{} has a copy that it would resume from", lab.appliance_name(dead)))
            })
        });
    }
}

/// The operator moves the VIP to the backup.
pub(super) fn move_by_order(lab: &mut Lab) -> Result<String> {
    let roles = lab.await_roles()?;
    let wanted = lab.appliance_name(roles.backup).to_owned();
    lab.appliance(roles.owner)?.operator(&["vip", "move", "web", "--to", &wanted])?;
    lab.await_standing(roles.backup, &Standing::Owner)?;
    lab.await_standing(roles.owner, &Standing::Backup)?;
    Ok(format!("{wanted} has it, {} is its backup", lab.appliance_name(roles.owner)))
}

/// The owner is told to end.
pub(super) fn hand_over_at_the_end(lab: &mut Lab) -> Result<String> {
    let roles = lab.await_roles()?;
    lab.terminate_appliance(roles.owner)?;
    lab.await_standing(roles.backup, &Standing::Owner)?;
    Ok(format!("{} has it", lab.appliance_name(roles.backup)))
}

/// One datagram there and back through each tunnel.
pub(super) fn all_pass(lab: &Lab, tunnels: &[TunnelPlan]) -> Result<Stamp> {
    for tunnel in tunnels {
        lab.echo_through(tunnel, TUNNEL_LIMIT)?;
    }
    Ok(Stamp::now())
}

/// Since `since` an appliance sent nothing in the name of the VIP or its gateway, and nothing in its own but ARP.
pub(super) fn keeps_still(lab: &Lab, place: usize, since: Stamp) -> Result<String> {
    let virtual_macs = virtual_macs();
    let sent = |capture: &Capture, fits: &dyn Fn(&Frame) -> bool| {
        let from_it = |frame: &Frame| frame.direction == Direction::FromHost && frame.port == place;
        capture.frames(since, |frame| from_it(frame) && fits(frame)).len()
    };
    let both = |fits: &dyn Fn(&Frame) -> bool| sent(&lab.outside, fits) + sent(&lab.inside, fits);
    let virtual_frames = both(&|frame| virtual_macs.contains(&frame.source));
    let strays = both(&|frame| !matches!(frame.kind, Kind::Arp { .. } | Kind::Neighbour { .. }));
    expect(virtual_frames == 0, "no frame from a virtual MAC address", || format!("it sent {virtual_frames}"))?;
    expect(strays == 0, "nothing but ARP", || format!("it sent {strays} other frames"))?;
    Ok("it sent nothing in the VIP's name and is a backup now".to_owned())
}

/// What traffic may lose while something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// Not one datagram.
    None,
    /// What a remote peer sends by a new child SA while the answer that brings its keys is still being read: it may use it at once (RFC
    /// 7296 §1.2), and we, who called, can't know it before. A datagram, or one more, up.
    FirstOfNew,
    /// As many as are sent in [`PARDONABLE`]: all share two cores with an appliance that starts or wakes.
    Little,
}

/// Plays `action` under traffic, which may lose so much and must go on.
pub(super) fn under_traffic(
    lab: &mut Lab,
    allowed: Loss,
    action: impl FnOnce(&mut Lab) -> Result<String>,
) -> Result<String> {
    let traffic = Traffic::start(lab)?;
    std::thread::sleep(MARGIN);
    let detail = action(lab)?;
    std::thread::sleep(MARGIN);
    let seen = traffic.end(lab)?;
    let (up, down) = (&seen.up, &seen.down);
    expect(seen.connections_kept(), "long-lived connections that live on", || observe::broken(&seen.long_lived))?;
    expect(up.sent > 0 && down.sent > 0, "datagrams each way", || "there were none one way".to_owned())?;
    // I2: whatever happens here, it is no partition.
    let doubled = (up.doubled, down.doubled);
    expect(doubled == (0, 0), "nothing delivered twice", || format!("{doubled:?}"))?;
    let losses = format!("{} of {} datagrams up and {} of {} down lost", up.lost, up.sent, down.lost, down.sent);
    let (holds, what) = match allowed {
        Loss::None => (up.lost + down.lost == 0, "no lost datagram"),
        Loss::FirstOfNew => (up.lost <= 2 && down.lost == 0, "no datagram lost but the first by new SAs"),
        Loss::Little => (up.blocked_ms().max(down.blocked_ms()) < PARDONABLE.as_secs_f64() * 1e3, "few lost datagrams"),
    };
    expect(holds, what, || {
        let overflows = seen.peer_overflows;
        format!(
            "{losses} ({overflows} packets by the remote peer's own slowness; appliances dropped {:?})",
            lab.drops()
        )
    })?;
    Ok(format!("{detail}; {losses}, longest stall {:.0} ms", seen.stall_ms()))
}
