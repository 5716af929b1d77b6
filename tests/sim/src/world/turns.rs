//! Turns of the appliances' threads: what they take, and what comes of it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use rand::RngExt;
use vipsec_control::api::{Request, Response};
use vipsec_control::config::TakeoverPolicy;
use vipsec_control::core::Output;
use vipsec_dataplane::api::{Command, IkeDatagram};
use vipsec_takeover::decider::{Copy, Role, Status};
use vipsec_takeover::message::Message;
use vipsec_takeover::registry::Process as Of;

use super::{Only, World};
use crate::agenda::Step;
use crate::appliance::{Appliance, Input, Process, ProcessId};
use crate::checks::Violation;
use crate::checks::deliveries::{Deliverer, Standing};
use crate::checks::heirs::Takeover;
use crate::checks::owners::{acts_for, advertises};
use crate::checks::publications::CopyAt;
use crate::far;
use crate::link::{LinkId, short_incarnation};
use crate::network::{Cable, Net};
use crate::planted::Planted;
use crate::scene::{self, Deciders};
use crate::writer;

impl World {
    pub(super) fn core_turn(&mut self, id: ProcessId) {
        let now = self.agenda.now();
        let carriers_up = self.networks.iter().all(|network| network.cables[id.appliance] != Cable::NoCarrier);
        let Some(process) = self.process(id) else { return };
        if process.core_thread.wake != Some(now) {
            return; // another turn was found to be due earlier
        }
        process.core_thread.wake = None;
        if process.core_thread.stopped > 0 {
            return;
        }
        let _log = tracing::info_span!("appliance", id = id.appliance + 1).entered();
        let clock = process.clock.at(now);
        let before = process.statuses(clock);
        match process.inbox.pop_front() {
            Some(Input::Worker(worker, event)) => process.core.handle_events(clock, [(worker, event)]),
            Some(Input::LinkMessage { link, connection, bytes }) => {
                self.handle_link_message(id, link, connection, &bytes);
            }
            Some(Input::LinkClosed { link, connection }) => self.handle_link_closed(id, link, connection),
            Some(Input::Registry { group, reply }) => process.core.handle_registry(clock, group, reply),
            Some(Input::FloorOnDisk { vip, value }) => process.core.handle_floor_saved(clock, vip, value),
            Some(Input::Forged { link, message }) => {
                let peer = scene::appliance_id(link.peer);
                process.core.handle_link_message(clock, link.group, peer, &message.encode());
            }
            Some(Input::Order { token, request }) => process.core.handle_request(clock, token, request),
            Some(Input::End) => process.core.handle_shutdown(clock),
            // Everything that arrived before comes first: silence is judged only then.
            None => {
                let fitness = process.fitness(carriers_up);
                process.core.handle_health(fitness);
                process.core.handle_timeout(clock);
            }
        }
        for (group, before) in before.iter().enumerate() {
            self.note_change(id, group, before);
        }
        self.after_core_turn(id);
    }

    /// Does what a control core says, and gives it its next turn.
    pub(super) fn after_core_turn(&mut self, id: ProcessId) {
        while let Some(output) = self.process(id).and_then(|process| process.core.poll_output()) {
            self.carry_out(id, output);
        }
        self.note_deafness();
        self.check_list();
        self.check_fences(id);
        let (now, delay, deciders) = (self.agenda.now(), self.micros(2, 25), self.variant.deciders);
        let Some(process) = self.process(id) else { return };
        process.core.end_step(process.clock.at(now));
        let statuses = process.statuses(process.clock.at(now));
        let next = if process.inbox.is_empty() {
            process.clock.when(process.core.poll_timeout()).max(now + delay)
        } else {
            now + delay
        };
        for (owners, status) in self.owners.iter_mut().zip(&statuses) {
            owners.observe(now, id.appliance, Some(status));
            if deciders == Deciders::Registry && matches!(status.role, Role::Taking { .. }) {
                owners.note_claim(now, id.appliance);
            }
        }
        self.wake_core_at(id, next);
        self.wake_workers(id);
        self.launch_writes(id);
    }

    fn carry_out(&mut self, id: ProcessId, output: Output) {
        match output {
            Output::Worker(worker, command) => {
                if self.planted == Some(Planted::LateAdvertisement) && is_advertisement(&command) {
                    // It leaves with the next one.
                    if self.rng.random_bool(0.5) {
                        return;
                    }
                }
                let command = self.tamper(command);
                if let Command::SendIke(datagram) = &command {
                    self.note_ike(id, datagram);
                }
                if let Some(thread) = self.process(id).and_then(|process| process.workers.get_mut(worker)) {
                    thread.commands.push_back(command);
                }
            }
            Output::SaveFloor { vip, value } => {
                let delay = self.micros(100, 3000);
                self.agenda.after(delay, Step::FloorOnDisk { process: id, vip, value });
            }
            Output::LinkSend { group, peer, message } => {
                let message = self.tamper_message(message);
                self.link_send(id, LinkId { group, peer: scene::place_of(peer) }, &message);
            }
            Output::LinkClose { group, peer } => self.close_link(id, LinkId { group, peer: scene::place_of(peer) }),
            Output::Registry { group, request } => self.ask_registry(id, group, request),
            Output::Reply(token, Ok(Response::Sas(sas))) => {
                if let Some(inherited) = self.asked_for.remove(&token) {
                    let here: BTreeSet<u64> = sas.ike_sas.iter().map(|sa| sa.spi.0).collect();
                    if let Some(spi) = inherited.difference(&here).next() {
                        self.broken(Violation::GivenUpInSplit { owner: id.appliance, ike_sa: *spi });
                    }
                    return;
                }
                let Some(vip) = self.asked.remove(&token) else { return };
                let belief = self.remotes[vip].belief(self.agenda.now());
                let judged = self.heirs[vip].judge(id, &sas, belief);
                self.check(judged);
            }
            // The simulated targets have no health checks.
            Output::Reply(..) | Output::Reload(_) | Output::Check { .. } | Output::Tell(_) | Output::KeyLog(_) => {}
            Output::Shutdown => self.end(id),
        }
    }

    /// An IKE message gets on its way.
    fn note_ike(&mut self, id: ProcessId, datagram: &IkeDatagram) {
        let vip = scene::ADDRESSES.iter().position(|addresses| IpAddr::from(addresses.vip) == datagram.local.ip());
        let Some(vip) = vip else { return };
        let copies = self.resumable_copies(id, self.variant.group_of(vip));
        let left = self.publications.leave(id.appliance, vip, &datagram.payload, copies);
        self.check(left);
    }

    /// Copies of a process's group that a successor may resume from, as the process sees it.
    fn resumable_copies(&mut self, id: ProcessId, group: usize) -> Vec<CopyAt> {
        let now = self.agenda.now();
        let Some(process) = self.process(id) else { return Vec::new() };
        let status = process.core.ownership_status(process.clock.at(now), group);
        let Some(status) = status.filter(|status| is_owner(&status.role)) else { return Vec::new() };
        let may_be_resumed = |copy| matches!(copy, Copy::Counted | Copy::Leaving { .. });
        let backups = status.peers.iter().filter(|peer| may_be_resumed(peer.copy));
        let copies = backups.filter_map(|peer| {
            let backup = scene::place_of(peer.appliance);
            let flight = process.flights.get(&LinkId { group, peer: backup })?;
            Some(CopyAt { backup, known: far::with(flight, |flight| flight.known.clone()) })
        });
        copies.collect()
    }

    /// A backup begins to take a group from a copy that it trusts: it has fenced and read it.
    fn note_fence(&mut self, successor: ProcessId, group: usize) {
        // One that sleeps may still take itself for the owner, long after it: what it writes is nothing to this successor.
        let owner = self.owners[group].last_before(successor.appliance).and_then(|owner| self.running(owner));
        if let Some(owner) = owner {
            let counts = self.resumable_copies(owner, group).iter().any(|copy| copy.backup == successor.appliance);
            let link = LinkId { group, peer: successor.appliance };
            let flight = self.process(owner).and_then(|process| process.flights.get(&link));
            if let (true, Some(flight)) = (counts, flight) {
                far::with(flight, |flight| {
                    let newest = flight.acknowledged();
                    writer::with(&flight.known, |known| known.fence(newest));
                });
            }
        }
    }

    /// I3: nothing is acknowledged behind the fence.
    fn check_fences(&mut self, id: ProcessId) {
        let Some(process) = self.process(id) else { return };
        let leaks = |flight| far::with(flight, |flight| writer::with(&flight.known, |known| known.leaks()));
        let leak = process.flights.iter().find(|(_, flight)| leaks(flight)).map(|(link, _)| link.peer);
        if let Some(successor) = leak {
            self.broken(Violation::AcknowledgedBehindFence { owner: id.appliance, successor });
        }
    }

    fn tamper(&self, command: Command) -> Command {
        match command {
            Command::WakeChildren { iv_prefix, mut wakes } if self.planted == Some(Planted::NoLeaseJump) => {
                wakes.iter_mut().for_each(|wake| wake.sent = 0);
                Command::WakeChildren { iv_prefix, wakes }
            }
            Command::Grant { spi, lease, .. } if self.planted == Some(Planted::NoHorizon) => {
                Command::Grant { spi, lease, horizon: u64::MAX }
            }
            Command::InstallChild(mut child) if self.planted == Some(Planted::NoHorizon) => {
                child.inbound.horizon = u64::MAX;
                Command::InstallChild(child)
            }
            command => command,
        }
    }

    /// Did the group become this process's in its last turn, or cease to be?
    fn note_change(&mut self, id: ProcessId, group: usize, before: &Status) {
        let (now, deciders) = (self.agenda.now(), self.variant.deciders);
        let Some(process) = self.process(id) else { return };
        let after = process.core.ownership_status(process.clock.at(now), group);
        let has_read = |role: &Role| match deciders {
            // With its epoch it reads at once.
            Deciders::Pair => !matches!(role, Role::Standby | Role::Taking { epoch: None }),
            // The registry has to agree first.
            Deciders::Registry => is_owner(role),
        };
        if before.trusted && !has_read(&before.role) && after.as_ref().is_some_and(|after| has_read(&after.role)) {
            self.note_fence(id, group);
        }
        let (owned, owns) = (is_owner(&before.role), after.is_some_and(|after| is_owner(&after.role)));
        if owns && !owned {
            let owners = &mut self.owners[group];
            match owners.last_before(id.appliance).filter(|_| before.trusted) {
                Some(from) => owners.lines.fork(id.appliance, from),
                None => owners.lines.begin(id.appliance),
            }
        }
        for vip in self.variant.groups[group].clone() {
            if owned && !owns {
                self.note_loss(id, group, vip.into());
            } else if owns && !owned {
                self.note_takeover(id, vip.into(), before.trusted);
                self.spring_ambushes(id, vip.into());
            }
        }
    }

    fn note_loss(&mut self, id: ProcessId, group: usize, vip: usize) {
        let now = self.agenda.now();
        if self.owners[group].split {
            // The other one has served its own connections meanwhile.
            self.deliveries.forget_targets(vip);
        }
        let heirs = &mut self.heirs[vip];
        let gives_up = heirs.takeover.as_ref().is_some_and(|takeover| takeover.successor == id);
        if gives_up || self.owners[group].were_deaf(now) {
            // It can't be sure, or two had owned it: what only this one knew is gone with it.
            heirs.lose(&self.remotes[vip].belief(now));
            heirs.disturb();
        }
    }

    fn note_takeover(&mut self, id: ProcessId, vip: usize, trusted: bool) {
        let now = self.agenda.now();
        let resumes = self.variant.takeover == TakeoverPolicy::Resume;
        let is_first = self.heirs[vip].resumed + self.heirs[vip].begun_anew == 0;
        let is_cut_off = self.networks[Net::Outside.index()].cables[id.appliance] == Cable::Silent;
        if resumes && trusted && is_cut_off && self.only == Some(Only::Split) {
            self.inherited.push((id, self.remotes[vip].belief(now).ike_sas));
        }
        if self.only == Some(Only::Planned) && !is_first {
            self.moves.push((vip, now));
            if !trusted {
                return self.broken(Violation::NotHandedOver { successor: id.appliance });
            }
        }
        let Some(process) = self.process(id) else { return };
        let floor_known = process.floor_known;
        // Two owners in a row died over one of its messages. It is innocent, as the operator finds out.
        let remote = IpAddr::from(scene::ADDRESSES[vip].remote);
        let left_out = process.core.is_quarantined(process.clock.at(now), remote);
        if left_out {
            self.order(id, Request::ReleasePeer { remote });
        }
        let belief = self.remotes[vip].belief(now);
        let outside = &self.networks[Net::Outside.index()];
        let in_reach = outside.weather.is_fine() && outside.cables[id.appliance] == Cable::Up;
        let complete = trusted && floor_known && resumes && !left_out;
        tracing::info!(appliance = id.appliance + 1, vip, trusted, "TAKEOVER");
        if !trusted {
            self.deliveries.forget_targets(vip);
        }
        let heirs = &mut self.heirs[vip];
        if complete && !in_reach {
            return heirs.disturb(); // it may take long until exchanges in progress are finished
        }
        heirs.take_over(Takeover { successor: id, at: now, complete, trusted, belief });
        let delay = if complete { crate::checks::heirs::SETTLING } else { std::time::Duration::ZERO };
        self.agenda.after(delay, Step::Ask { successor: id, vip, takeover: now });
    }

    /// Asks a successor what it has, unless something has happened since that may have cost SAs.
    pub(super) fn ask(&mut self, id: ProcessId, vip: usize, takeover: Instant) {
        let owed = self.heirs[vip].takeover.as_ref();
        if owed.is_some_and(|owed| owed.successor == id && owed.at == takeover) {
            let token = self.order(id, Request::Sas);
            self.asked.insert(token, vip);
        }
    }

    /// An operator at an appliance.
    pub(super) fn order(&mut self, id: ProcessId, request: Request) -> u64 {
        self.next_token += 1;
        let token = self.next_token;
        if let Some(process) = self.process(id) {
            process.inbox.push_back(Input::Order { token, request });
        }
        self.wake_core(id);
        token
    }

    /// Whom the registry lets resume, and who would, the owner waits for.
    fn check_list(&mut self) {
        let now = self.agenda.now();
        let running = |process: Of| {
            let place = scene::place_of(process.appliance);
            let found = self.appliances[place].process.as_ref()?;
            (short_incarnation(found.incarnation) == process.incarnation).then_some(found)
        };
        for group in 0..self.variant.groups.len() {
            let Some(record) = self.registry.record(group) else { continue };
            let owner = running(record.owner).and_then(|owner| owner.core.ownership_status(owner.clock.at(now), group));
            let Some(owner) = owner.filter(|owner| is_owner(&owner.role)) else { continue };
            let forgotten = owner.peers.iter().find(|peer| {
                let listed = record.copies.iter().find(|copy| copy.appliance == peer.appliance);
                let Some(backup) = listed.and_then(|copy| running(*copy)) else { return false };
                let Some(status) = backup.core.ownership_status(backup.clock.at(now), group) else { return false };
                // Another one was faster: it doesn't know that yet, and resumes nothing.
                let too_late = matches!(status.role, Role::Taking { .. }) && !self.registry.may_take(backup.id, group);
                let resumes = status.trusted && status.owner == Some(record.owner.appliance) && !too_late;
                resumes && peer.copy == Copy::None
            });
            if let Some(peer) = forgotten {
                let (backup, owner) = (scene::place_of(peer.appliance), scene::place_of(record.owner.appliance));
                return self.broken(Violation::TrustedNotCounted { backup, owner });
            }
        }
    }

    /// Two can't hear each other while neither a group's link nor a network carries anything in time.
    fn note_deafness(&mut self) {
        let listens = |appliance: &Appliance| {
            appliance.process.as_ref().is_none_or(|process| {
                process.workers.iter().all(|worker| worker.thread.stopped == process.core_thread.stopped)
            })
        };
        let listening = self.appliances.iter().all(listens);
        let now = self.agenda.now();
        for a in 0..self.appliances.len() {
            for b in a + 1..self.appliances.len() {
                let network_works = Net::ALL.iter().any(|net| {
                    let network = &self.networks[net.index()];
                    network.joins(a, b) && network.weather.is_fine()
                });
                if network_works && listening {
                    continue;
                }
                for (group, owners) in self.owners.iter_mut().enumerate() {
                    let is_linked = |here: usize, peer: usize| {
                        let process = self.appliances[here].process.as_ref();
                        process.is_none_or(|process| process.is_linked(LinkId { group, peer }))
                    };
                    let linked = is_linked(a, b) && is_linked(b, a);
                    if !linked || !self.wires.delay.is_zero() {
                        owners.note_deafness(now, a, b);
                    }
                }
            }
        }
    }

    pub(super) fn worker_turn(&mut self, id: ProcessId, worker: usize) {
        let now = self.agenda.now();
        let Some(process) = self.process(id) else { return };
        let thread = &mut process.workers[worker].thread;
        if thread.wake != Some(now) {
            return;
        }
        thread.wake = None;
        if thread.stopped > 0 {
            return;
        }
        let frames = process.worker_turn(worker, process.clock.at(now));
        let has_news = !process.inbox.is_empty();
        let handed_over = std::mem::take(&mut process.handed_over);
        self.handed_over += handed_over;
        for (port, frame) in frames {
            let net = if port == scene::OUTSIDE { Net::Outside } else { Net::Inside };
            self.observe(id, net, &frame);
            self.send(net, id.appliance, &frame);
        }
        if has_news {
            self.wake_core(id);
        }
        // It may have handed something to others.
        self.wake_workers(id);
    }

    /// An appliance puts a frame on a wire.
    fn observe(&mut self, id: ProcessId, net: Net, frame: &[u8]) {
        let now = self.agenda.now();
        if let Some(vip) = acts_for(frame).filter(|vip| *vip < self.variant.vips()) {
            let owners = &self.owners[self.variant.group_of(vip)];
            let acted = owners.check(now, id.appliance);
            self.check(acted.and(owners.check_advertised(now, id.appliance)));
        } else if let Some(vip) = advertises(frame).filter(|vip| *vip < self.variant.vips()) {
            self.owners[self.variant.group_of(vip)].note_advertisement(id.appliance);
        }
        match net {
            Net::Outside => {
                let sender = format!("appliance {}", id.appliance + 1);
                let observed = self.ivs.observe(&sender, frame);
                self.check(observed);
            }
            Net::Inside => {
                let owner = |vip| {
                    let owners = &self.owners[self.variant.group_of(vip)];
                    // Where a registry decides there is no exception.
                    let pair = self.variant.deciders == Deciders::Pair;
                    // Nor for one that would have to wait for a copy.
                    let alone = !pair || owners.count() < 2 || !owners.is_unprotected(id.appliance);
                    let standing = match alone {
                        true => Standing::Alone,
                        false if owners.were_deaf(now) => Standing::Partitioned,
                        false if owners.is_superseded(id.appliance) => Standing::Superseded,
                        false => Standing::Alone,
                    };
                    Deliverer { appliance: id.appliance, lines: owners.lines.known(id.appliance), standing }
                };
                let delivered = self.deliveries.observe(frame, owner);
                self.check(delivered);
            }
        }
    }

    pub(super) fn floor_on_disk(&mut self, id: ProcessId, vip: u16, value: u32) {
        if self.process(id).is_some() {
            let disk = &mut self.appliances[id.appliance].disk[usize::from(vip)];
            *disk = Some(disk.unwrap_or(0).max(value));
        }
        if let Some(process) = self.process(id) {
            process.inbox.push_back(Input::FloorOnDisk { vip, value });
        }
        self.wake_core(id);
    }

    /// Something waits for the control core.
    pub(super) fn wake_core(&mut self, id: ProcessId) {
        let when = self.agenda.now() + self.micros(2, 25);
        self.wake_core_at(id, when);
    }

    fn wake_core_at(&mut self, id: ProcessId, when: Instant) {
        let Some(process) = self.process(id) else { return };
        if process.core_thread.is_due_earlier(when) {
            self.agenda.at(when, Step::Core(id));
        }
    }

    /// Something may wait for the workers.
    pub(super) fn wake_workers(&mut self, id: ProcessId) {
        let count = self.process(id).map_or(0, |process| process.workers.len());
        for worker in 0..count {
            self.wake_worker(id, worker);
        }
    }

    /// Something may wait for a worker.
    pub(super) fn wake_worker(&mut self, id: ProcessId, worker: usize) {
        let (now, delay) = (self.agenda.now(), self.micros(1, 12));
        let Some(process) = self.process(id) else { return };
        let clock = process.clock;
        let thread = &mut process.workers[worker];
        let due = if thread.is_busy() { Some(now) } else { thread.worker.poll_timeout().map(|due| clock.when(due)) };
        let Some(when) = due.map(|due| due.max(now) + delay) else { return };
        if thread.thread.is_due_earlier(when) {
            self.agenda.at(when, Step::Worker(id, worker));
        }
    }

    /// Planted: whom an owner has served while it was alone doesn't count.
    fn tamper_message(&self, message: Vec<u8>) -> Vec<u8> {
        match Message::decode(&message) {
            Ok(Message::Served { millis_ago, .. }) if self.planted == Some(Planted::UncountedService) => {
                Message::Served { remote_peers: 0, millis_ago }.encode()
            }
            _ => message,
        }
    }

    /// Planted: the question never reaches the backup, and its answer is the one that the owner hopes for.
    pub(super) fn forge_answer(&mut self, id: ProcessId, link: LinkId, message: &[u8]) -> bool {
        if self.planted != Some(Planted::NoDoubt) {
            return false;
        }
        let Ok(Message::Question { nonce }) = Message::decode(message) else { return false };
        if let Some(process) = self.process(id) {
            process.inbox.push_back(Input::Forged { link, message: Message::Answer { nonce, begun: false } });
        }
        true
    }
}

fn is_advertisement(command: &Command) -> bool {
    matches!(command, Command::SendFrame { frame, .. } if advertises(frame).is_some())
}

fn is_owner(role: &Role) -> bool {
    matches!(role, Role::Owner { .. } | Role::HandingOver { .. })
}

impl Process {
    /// Where each group stands.
    fn statuses(&self, now: Instant) -> Vec<Status> {
        (0..self.groups).filter_map(|group| self.core.ownership_status(now, group)).collect()
    }

    /// All threads stop, or go on.
    pub(super) fn set_paused(&mut self, paused: bool) {
        let workers = self.workers.iter_mut().map(|worker| &mut worker.thread);
        workers.chain([&mut self.core_thread]).for_each(|thread| thread.stop(paused));
    }

    /// One of the workers stops, or goes on.
    pub(super) fn set_stalled(&mut self, worker: usize, stalled: bool) {
        let count = self.workers.len();
        self.workers[worker % count].thread.stop(stalled);
    }
}
