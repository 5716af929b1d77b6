//! Faults strike, and are mended.

use rand::RngExt;
use vipsec_control::api::Request;

use super::{Only, World};
use crate::agenda::Step;
use crate::appliance::{Input, ProcessId};
use crate::checks::heirs::Heirs;
use crate::network::{Cable, Net, Weather};
use crate::plan::{Fault, Who};
use crate::planted::Planted;
use crate::remote::Operation;
use crate::scene;

/// Whom a fault hit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Struck {
    appliance: usize,
    process: Option<ProcessId>,
}

impl World {
    /// Strikes with the faults that have let enough steps pass.
    pub(super) fn strike_pending(&mut self) {
        let mut at = 0;
        while let Some((index, steps)) = self.pending.get_mut(at) {
            if *steps > 0 {
                *steps -= 1;
                at += 1;
                continue;
            }
            let index = *index;
            self.pending.remove(at);
            self.strike(index);
        }
    }

    fn resolve(&mut self, who: Who, vip: usize) -> usize {
        let owner = self.owners[self.variant.group_of(vip)].owner().unwrap_or(0);
        match who {
            Who::Owner => owner,
            Who::Backup => self.another(owner),
            Who::Last => self.last_struck,
            Who::NotLast => self.another(self.last_struck),
            Who::Appliance(appliance) => appliance % self.appliances.len(),
        }
    }

    /// Some appliance but that one.
    fn another(&mut self, than: usize) -> usize {
        match self.appliances.len() {
            2 => 1 - than,
            many => (than + self.rng.random_range(1..many)) % many,
        }
    }

    pub(super) fn running(&self, appliance: usize) -> Option<ProcessId> {
        self.appliances[appliance].process.as_ref().map(|process| process.id)
    }

    fn strike(&mut self, index: usize) {
        let Some(planned) = self.plan.faults.get(index).copied() else { return };
        let fault = planned.fault;
        let vip = planned.vip.min(self.variant.vips() - 1);
        let who = match fault {
            Fault::Kill { who, .. } | Fault::Pause(who) | Fault::StallCore(who) | Fault::StallWorker(who) => Some(who),
            Fault::Unplug { who, .. } | Fault::Isolate(who) | Fault::Move { at: who } => Some(who),
            Fault::CutOffRegistry(who) | Fault::End(who) => Some(who),
            Fault::DelayLink(_) | Fault::Weather { .. } | Fault::Burst(_) | Fault::SilenceRegistry => None,
            Fault::Drain { .. } | Fault::PauseHeir => None,
            Fault::Operate { .. } | Fault::CutLink => Some(Who::Owner),
        };
        let appliance = who.map_or(0, |who| self.resolve(who, vip));
        if who.is_some() {
            self.last_struck = appliance;
        }
        let process = self.running(appliance);
        tracing::warn!(?fault, vip, appliance = appliance + 1, lasts = ?planned.lasts, "FAULT");
        self.struck[index] = Struck { appliance, process };
        if fault.may_cost_sas() {
            self.heirs.iter_mut().for_each(Heirs::disturb);
        }
        match fault {
            Fault::Kill { .. } => self.kill(appliance),
            Fault::End(_) => {
                if let Some(process) = process.and_then(|id| self.process(id)) {
                    process.inbox.push_back(Input::End);
                }
                process.into_iter().for_each(|id| self.wake_core(id));
                return; // it begins anew some time after it has ended
            }
            Fault::PauseHeir => return self.ambushes.push((vip, index)),
            Fault::Pause(_) => self.with_struck(process, |process| process.set_paused(true)),
            Fault::StallCore(_) => self.with_struck(process, |process| process.core_thread.stop(true)),
            Fault::StallWorker(_) => self.with_struck(process, |process| process.set_stalled(index, true)),
            Fault::CutLink => self.break_links(appliance),
            Fault::SilenceRegistry => self.registry.silent += 1,
            Fault::CutOffRegistry(_) => self.registry.cut_off[appliance] += 1,
            Fault::DelayLink(delay) => self.wires.delay = delay,
            Fault::Unplug { net, cable, .. } => self.networks[net.index()].cables[appliance] = cable,
            Fault::Isolate(_) => {
                let group = self.variant.group_of(vip);
                if self.only == Some(Only::Split) {
                    self.rightful = self.owners[group].owner().map(|owner| (group, owner));
                }
                self.break_links(appliance);
                self.set_cables(appliance, Cable::Silent);
            }
            Fault::Weather { net, weather } => self.networks[net.index()].weather = weather,
            Fault::Move { .. } => {
                let owner = self.resolve(Who::Owner, vip);
                // Ordered at a backup, it fetches the VIP.
                let to = if appliance == owner { self.another(owner) } else { appliance };
                let to = scene::appliance_id(to).to_string();
                if let Some(id) = process {
                    self.order(id, Request::MoveVip { vip: scene::vip_name(vip), to });
                }
            }
            Fault::Operate { at_remote: true, operation } => {
                let reaction = self.remotes[vip].operate(self.agenda.now(), operation);
                self.remote_reacts(vip, reaction);
            }
            Fault::Operate { at_remote: false, operation } => self.operate(process, vip, operation),
            Fault::Drain { target } => {
                self.order_everywhere(&Request::DrainTarget { target: scene::target_name(target) });
            }
            Fault::Burst(packets) => {
                let reaction = self.remotes[vip].send(self.agenda.now(), packets);
                self.remote_reacts(vip, reaction);
            }
        }
        self.agenda.after(planned.lasts, Step::Mend(index));
    }

    /// The operator's order, at every appliance that runs.
    fn order_everywhere(&mut self, request: &Request) {
        for id in (0..self.appliances.len()).filter_map(|appliance| self.running(appliance)).collect::<Vec<_>>() {
            self.order(id, request.clone());
        }
    }

    /// A fault is over.
    pub(super) fn mend(&mut self, index: usize) {
        let Some(planned) = self.plan.faults.get(index).copied() else { return };
        let Struck { appliance, process } = self.struck[index];
        match planned.fault {
            Fault::Kill { disk_lost, .. } => self.revive(appliance, disk_lost),
            Fault::Pause(_) | Fault::PauseHeir => {
                let stood = (self.planted == Some(Planted::StoppedClock)).then_some(planned.lasts);
                self.with_struck(process, |process| {
                    process.clock.set_back(stood.unwrap_or_default());
                    process.set_paused(false);
                });
            }
            Fault::StallCore(_) => self.with_struck(process, |process| process.core_thread.stop(false)),
            Fault::StallWorker(_) => self.with_struck(process, |process| process.set_stalled(index, false)),
            Fault::CutLink => self.mend_links(appliance),
            Fault::SilenceRegistry => self.registry.silent = self.registry.silent.saturating_sub(1),
            Fault::CutOffRegistry(_) => {
                let faults = &mut self.registry.cut_off[appliance];
                *faults = faults.saturating_sub(1);
            }
            Fault::DelayLink(_) => self.wires.delay = Default::default(),
            Fault::Unplug { net, .. } => self.networks[net.index()].cables[appliance] = Cable::Up,
            Fault::Isolate(_) => {
                self.ask_for_inherited();
                self.mend_links(appliance);
                self.set_cables(appliance, Cable::Up);
            }
            Fault::Weather { net, .. } => self.networks[net.index()].weather = Weather::default(),
            Fault::Drain { target } => {
                self.order_everywhere(&Request::EnableTarget { target: scene::target_name(target) });
            }
            Fault::End(_) | Fault::Move { .. } | Fault::Operate { .. } | Fault::Burst(_) => return,
        }
        tracing::warn!(fault = ?planned.fault, appliance = appliance + 1, "MENDED");
        for id in (0..self.appliances.len()).filter_map(|appliance| self.running(appliance)).collect::<Vec<_>>() {
            self.wake_core(id);
            self.wake_workers(id);
        }
    }

    /// Somebody takes a VIP: were faults waiting for that?
    pub(super) fn spring_ambushes(&mut self, id: ProcessId, vip: usize) {
        let (sprung, waiting): (Vec<_>, _) =
            std::mem::take(&mut self.ambushes).into_iter().partition(|(of, _)| *of == vip);
        self.ambushes = waiting;
        for (_, index) in sprung {
            let Some(planned) = self.plan.faults.get(index).copied() else { return };
            tracing::warn!(appliance = id.appliance + 1, lasts = ?planned.lasts, "the heir sleeps");
            self.struck[index] = Struck { appliance: id.appliance, process: Some(id) };
            self.with_struck(Some(id), |process| process.set_paused(true));
            self.heirs.iter_mut().for_each(Heirs::disturb);
            self.agenda.after(planned.lasts, Step::Mend(index));
        }
    }

    /// The split is about to heal: what has the one that was cut off of what it inherited?
    fn ask_for_inherited(&mut self) {
        for (id, ike_sas) in std::mem::take(&mut self.inherited) {
            let token = self.order(id, Request::Sas);
            self.asked_for.insert(token, ike_sas);
        }
    }

    /// A process has ended as it was told to.
    pub(super) fn end(&mut self, id: ProcessId) {
        for (vip, heirs) in self.heirs.iter_mut().enumerate() {
            // Nobody was there to take it.
            if self.owners[self.variant.group_of(vip)].owns(id.appliance) {
                heirs.disturb();
            }
        }
        self.kill(id.appliance);
        let downtime = self.rng_span(1, 300);
        self.agenda.after(downtime, Step::Start(id.appliance));
    }

    fn with_struck(&mut self, process: Option<ProcessId>, f: impl FnOnce(&mut crate::appliance::Process)) {
        if let Some(process) = process.and_then(|id| self.process(id)) {
            f(process);
        }
    }

    pub(super) fn set_cables(&mut self, appliance: usize, cable: Cable) {
        for net in Net::ALL {
            self.networks[net.index()].cables[appliance] = cable;
        }
    }

    fn kill(&mut self, appliance: usize) {
        let Some(id) = self.running(appliance) else { return };
        let now = self.agenda.now();
        for (vip, remote) in self.remotes.iter().enumerate() {
            let owners = &self.owners[self.variant.group_of(vip)];
            if owners.owns(appliance) && owners.split {
                self.deliveries.forget_targets(vip);
            }
            if owners.owns(appliance) && owners.were_deaf(now) {
                // Another may own the VIP by now, or will, without having heard of what this one did.
                self.heirs[vip].lose(&remote.belief(now));
            }
        }
        for link in self.links_of(appliance) {
            self.close_link(id, link);
            self.cut_flight(id, link);
        }
        self.appliances[appliance].process = None;
        self.owners.iter_mut().for_each(|owners| owners.observe(now, appliance, None));
    }

    pub(super) fn revive(&mut self, appliance: usize, disk_lost: bool) {
        if self.running(appliance).is_none() {
            if disk_lost {
                self.appliances[appliance].disk.fill(None);
            }
            self.start(appliance);
        }
    }

    fn operate(&mut self, process: Option<ProcessId>, vip: usize, operation: Operation) {
        let belief = self.remotes[vip].belief(self.agenda.now());
        let ike_sa = belief.ike_sas.last().copied();
        let child = belief.children.last().copied();
        let request = match operation {
            Operation::RekeyIke => ike_sa.map(|spi| Request::RekeyIke { spi: vipsec_control::api::IkeSpi(spi) }),
            Operation::DeleteIke => ike_sa.map(|spi| Request::Delete { spi: vipsec_control::api::IkeSpi(spi) }),
            Operation::RekeyChild => child.map(|spi| Request::RekeyChild { spi: vipsec_control::api::EspSpi(spi) }),
        };
        if let (Some(id), Some(request)) = (process, request) {
            self.order(id, request);
        }
    }

    /// Whatever is still broken is mended.
    pub(super) fn mend_all(&mut self) {
        self.pending.clear();
        self.ambushes.clear();
        for index in 0..self.plan.faults.len() {
            self.mend(index);
        }
        self.wires.mend();
        self.mend_registry();
        for appliance in 0..self.appliances.len() {
            self.revive(appliance, false);
            if let Some(process) = &mut self.appliances[appliance].process {
                process.core_thread.stopped = 0;
                process.workers.iter_mut().for_each(|worker| worker.thread.stopped = 0);
            }
        }
        self.plan.faults.clear();
    }
}
