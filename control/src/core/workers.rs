//! All workers as one data plane: one command in, as many out as it takes; one event on, once every worker has said the same.
//!
//! - [`WorkerSet::handle_command`], [`WorkerSet::install_child`]: what the core wants of the data plane.
//! - [`WorkerSet::poll_command`]: what that means for which worker.
//! - [`WorkerSet::handle_event`]: what a worker says; returns what the data plane as a whole says.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque, btree_map, hash_map};
use std::net::IpAddr;
use std::sync::Arc;

use vipsec_dataplane::api::{
    Command, Event, IkeDatagram, PortId, Report, ReportKind, Steering, Tables, VipState, WOKEN_MAX, Wake, WorkerId,
};
use vipsec_esp::sa::{ChildSa, Selector, Spi};
use vipsec_wire::ethernet::MacAddr;
use vipsec_wire::iv::IvPrefix;

/// The worker that sends what belongs to no SA: IKE messages, announcements. One, so that they leave in order.
const FIRST: usize = 0;

/// The workers of an appliance, at least one.
#[derive(Debug)]
pub(super) struct WorkerSet {
    /// By worker: the version of the tables that it has confirmed.
    tables_in_force: Vec<u64>,
    /// The version that all of them have confirmed.
    tables_confirmed: u64,
    /// By worker: the announced services for which it is ready.
    services_pinned: Vec<u64>,
    /// Tables that the first worker has not confirmed yet; the others get them then.
    tables_held: VecDeque<(u64, Arc<Tables>)>,
    /// The newest that we were given.
    tables_given: Option<Arc<Tables>>,
    placed: HashMap<Spi, Placed>,
    /// By worker: how many child SAs it has.
    loads: Vec<usize>,
    traffic: HashMap<Traffic, Carriers>,
    /// Counts up with every child SA that is installed.
    installations: u64,
    /// Installations that some worker has not confirmed.
    unconfirmed: BTreeSet<u64>,
    /// IKE messages, each with the last installation before it: the remote peer may use a child SA once it has them.
    ike_held: VecDeque<(u64, IkeDatagram)>,
    questions: HashMap<u64, Question>,
    commands: VecDeque<(usize, Command)>,
}

/// Where a child SA is. It lives on one worker at a time: there its numbers are.
#[derive(Debug)]
struct Placed {
    worker: usize,
    traffic: Traffic,
    installation: u64,
    /// Its worker has it.
    is_installed: bool,
    /// Other workers that don't know yet where it is.
    unsteered: usize,
}

/// What a child SA carries: the traffic of a VIP with what is behind a remote peer.
type Traffic = (u16, Arc<[Selector]>);

/// Which workers carry some traffic.
#[derive(Debug, Default)]
struct Carriers {
    /// How many child SAs each has for it, none left out.
    workers: BTreeMap<usize, usize>,
    /// The worker that lane 0 is for, or would be.
    first_lane_at: usize,
    /// Where the last one was that is gone: connections are still there, and a tunnel that comes back carries them on.
    last_at: usize,
}

/// Kinds of traffic that are remembered without a child SA.
const TRAFFIC_MAX: usize = 65_536;

/// A question that all workers were asked.
#[derive(Debug)]
struct Question {
    what: ReportKind,
    unanswered: usize,
    reports: Vec<Report>,
}

impl WorkerSet {
    /// `workers` of them, without child SAs; none counts as one.
    pub(super) fn new(workers: usize) -> Self {
        Self {
            tables_in_force: vec![0; workers.max(1)],
            tables_confirmed: 0,
            services_pinned: vec![0; workers.max(1)],
            tables_held: VecDeque::new(),
            tables_given: None,
            placed: HashMap::new(),
            loads: vec![0; workers.max(1)],
            traffic: HashMap::new(),
            installations: 0,
            unconfirmed: BTreeSet::new(),
            ike_held: VecDeque::new(),
            questions: HashMap::new(),
            commands: VecDeque::new(),
        }
    }

    /// How many child SAs a worker has.
    pub(super) fn children_of(&self, worker: usize) -> usize {
        self.loads.get(worker).copied().unwrap_or_default()
    }

    /// The version of the tables that every worker has confirmed.
    pub(super) fn tables_in_force(&self) -> u64 {
        self.tables_confirmed
    }

    /// What to tell which worker next.
    pub(super) fn poll_command(&mut self) -> Option<(usize, Command)> {
        self.commands.pop_front()
    }

    /// The data plane is to do this. What is about a child SA that isn't there any more is left out.
    pub(super) fn handle_command(&mut self, command: Command) {
        match command {
            Command::Tables { version, tables } => {
                // The announcement of a VIP leaves before any packet of it: the first worker announces, in the order of its
                // commands, and so has to confirm before the others may serve the VIP.
                if self.len() > 1 {
                    self.prepare_others(&tables);
                    self.tables_held.push_back((version, tables.clone()));
                }
                self.tell(FIRST, Command::Tables { version, tables });
            }
            Command::InstallChild(child) => self.install_child(child, None),
            Command::RemoveChild(spi) => {
                if let Some(worker) = self.forget(spi) {
                    self.tell(worker, Command::RemoveChild(spi));
                }
            }
            Command::Grant { spi, .. }
            | Command::Bind(spi)
            | Command::MovePeer { spi, .. }
            | Command::SkipNumbers { spi, .. } => {
                if let Some(placed) = self.placed.get(&spi) {
                    self.tell(placed.worker, command);
                }
            }
            Command::Announce { version, services } => {
                for worker in 0..self.len() {
                    self.tell(worker, Command::Announce { version, services: services.clone() });
                }
            }
            Command::PinsKnown(batch) => self.tell(usize::from(batch.worker.0), Command::PinsKnown(batch)),
            Command::PinsAbandoned(batch) => self.tell(usize::from(batch.worker.0), Command::PinsAbandoned(batch)),
            Command::ForgetConnections(vip) => {
                for worker in 0..self.len() {
                    self.tell(worker, Command::ForgetConnections(vip));
                }
            }
            Command::Inherit { vip, services } => {
                for worker in 0..self.len() {
                    self.tell(worker, Command::Inherit { vip, services: services.clone() });
                }
            }
            Command::RestorePins { token, pins } => {
                for worker in 0..self.len() {
                    self.tell(worker, Command::RestorePins { token, pins: pins.clone() });
                }
            }
            Command::SendIke(message) if self.len() > 1 => {
                self.ike_held.push_back((self.installations, message));
                self.release_ike();
            }
            Command::SendIke(_) | Command::SendFrame { .. } => self.tell(FIRST, command),
            Command::WakeChildren { iv_prefix, wakes } => self.wake_children(iv_prefix, wakes),
            // Where child SAs are, is decided here.
            Command::Steer(_) | Command::Unsteer(_) => {}
            Command::Report { token, what } => {
                let unanswered = self.len();
                self.questions.insert(token, Question { what, unanswered, reports: Vec::new() });
                for worker in 0..unanswered {
                    self.tell(worker, Command::Report { token, what });
                }
            }
        }
    }

    /// Until the first worker has announced a VIP, the others hold what arrives for it: a peer that hands it over may have heard the
    /// announcement before they know.
    fn prepare_others(&mut self, next: &Arc<Tables>) {
        let before = self.tables_given.replace(next.clone());
        let was_owned = |vip: usize| {
            let before = before.as_ref().and_then(|before| before.vips.get(vip));
            before.is_some_and(|before| before.state == VipState::Owned)
        };
        let comes = |vip: usize, state: VipState| state == VipState::Owned && !was_owned(vip);
        // Tables that are still held would undo it.
        if !self.tables_held.is_empty() || !(0..).zip(&next.vips).any(|(vip, table)| comes(vip, table.state)) {
            return;
        }
        let mut tables = Tables::clone(next);
        for (vip, table) in (0..).zip(&mut tables.vips) {
            if comes(vip, table.state) {
                table.state = VipState::HandingOver;
            }
        }
        let tables = Arc::new(tables);
        for other in FIRST + 1..self.len() {
            let version = self.tables_in_force.get(other).copied().unwrap_or_default();
            self.tell(other, Command::Tables { version, tables: tables.clone() });
        }
    }

    /// A child SA is to be installed; `replaces` is the one whose traffic it is going to carry.
    pub(super) fn install_child(&mut self, child: Box<ChildSa>, replaces: Option<Spi>) {
        let spi = child.inbound.spi;
        let traffic: Traffic = (child.vip, child.remote_selectors.as_slice().into());
        let worker = self.worker_for(&child, &traffic, replaces);
        // The same SPI may come back, after its VIP was elsewhere.
        self.handle_command(Command::RemoveChild(spi));
        self.installations += 1;
        let installation = self.installations;
        self.unconfirmed.insert(installation);
        if let Some(load) = self.loads.get_mut(worker) {
            *load += 1;
        }
        let carriers = self.traffic.entry(traffic.clone()).or_default();
        if carriers.workers.is_empty() {
            carriers.first_lane_at = place_of_first_lane(worker, child.lane, self.loads.len());
        }
        *carriers.workers.entry(worker).or_default() += 1;
        let unsteered = self.len() - 1;
        self.placed.insert(spi, Placed { worker, traffic, installation, is_installed: false, unsteered });
        for other in (0..self.len()).filter(|other| *other != worker) {
            self.tell(other, Command::Steer(Box::new(steering(&child, worker, installation))));
        }
        self.tell(worker, Command::InstallChild(child));
    }

    /// Child SAs get their numbers, however many: each worker has its own to wake.
    fn wake_children(&mut self, iv_prefix: IvPrefix, wakes: Vec<Wake>) {
        let mut by_worker: Vec<Vec<Wake>> = (0..self.len()).map(|_| Vec::new()).collect();
        for wake in wakes {
            let Some(worker) = self.placed.get(&wake.spi).map(|placed| placed.worker) else { continue };
            let Some(batch) = by_worker.get_mut(worker) else { continue };
            batch.push(wake);
            if batch.len() == WOKEN_MAX {
                let wakes = std::mem::take(batch);
                self.tell(worker, Command::WakeChildren { iv_prefix, wakes });
            }
        }
        for (worker, wakes) in by_worker.into_iter().enumerate().filter(|(_, wakes)| !wakes.is_empty()) {
            self.tell(worker, Command::WakeChildren { iv_prefix, wakes });
        }
    }

    /// Where the connections of a child SA are, if it has a predecessor; else where the fewest SAs are. Each lane is for another worker,
    /// as long as there are so many.
    fn worker_for(&self, child: &ChildSa, traffic: &Traffic, replaces: Option<Spi>) -> usize {
        let known = |spi: Option<Spi>| self.placed.get(&spi?).map(|placed| placed.worker);
        let carriers = self.traffic.get(traffic);
        let of_traffic = || match child.lane {
            Some(lane) => carriers.map(|carriers| (carriers.first_lane_at + usize::from(lane)) % self.len()),
            // A tunnel that was negotiated anew carries the connections of the old one too.
            None => carriers.map(|carriers| carriers.workers.keys().next().copied().unwrap_or(carriers.last_at)),
        };
        known(replaces).or_else(|| known(child.succeeds)).or_else(of_traffic).unwrap_or_else(|| self.least_loaded())
    }

    fn least_loaded(&self) -> usize {
        (0..).zip(&self.loads).min_by_key(|(_, load)| **load).map_or(FIRST, |(worker, _)| worker)
    }

    /// A child SA isn't anywhere any more. Returns where it was.
    fn forget(&mut self, spi: Spi) -> Option<usize> {
        let Placed { worker, traffic, installation, .. } = self.placed.remove(&spi)?;
        if let Some(load) = self.loads.get_mut(worker) {
            *load = load.saturating_sub(1);
        }
        if let hash_map::Entry::Occupied(mut carriers) = self.traffic.entry(traffic) {
            let workers = &mut carriers.get_mut().workers;
            if let btree_map::Entry::Occupied(mut count) = workers.entry(worker) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
            carriers.get_mut().last_at = worker;
        }
        if self.traffic.len() > TRAFFIC_MAX + self.placed.len() {
            self.traffic.retain(|_, carriers| !carriers.workers.is_empty());
        }
        for other in (0..self.len()).filter(|other| *other != worker) {
            self.tell(other, Command::Unsteer(spi));
        }
        self.unconfirmed.remove(&installation);
        self.release_ike();
        Some(worker)
    }

    /// How many workers there are.
    pub(super) fn len(&self) -> usize {
        self.tables_in_force.len()
    }

    /// Lets IKE messages go before which every child SA is in force on every worker.
    fn release_ike(&mut self) {
        let first = self.unconfirmed.first().copied();
        while let Some((_, message)) = self.ike_held.pop_front_if(|(last, _)| first.is_none_or(|first| *last < first)) {
            self.tell(FIRST, Command::SendIke(message));
        }
    }

    /// A worker says something. Returns what the data plane as a whole has to say, if anything.
    pub(super) fn handle_event(&mut self, worker: usize, event: Event) -> Option<Event> {
        match event {
            Event::TablesInForce(version) => self.handle_tables_in_force(worker, version),
            Event::Report { token, report } => self.handle_report(token, report),
            Event::ChildRefused(spi, _) => {
                self.owner_only(worker, spi)?;
                self.forget(spi);
                Some(event)
            }
            Event::ChildInstalled(spi) => {
                self.owner_only(worker, spi)?;
                self.placed.get_mut(&spi)?.is_installed = true;
                self.check_installed(spi)
            }
            Event::Steered { spi, token } => {
                let placed = self.placed.get_mut(&spi).filter(|placed| placed.installation == token)?;
                placed.unsteered = placed.unsteered.saturating_sub(1);
                self.check_installed(spi)
            }
            Event::PeerMoved { spi, .. } | Event::Lifetime { spi, .. } | Event::Alive(spi) => {
                self.owner_only(worker, spi).map(|()| event)
            }
            Event::Numbers(numbers) => self.owner_only(worker, numbers.spi).map(|()| event),
            Event::ServicesPinned(version) => self.handle_services_pinned(worker, version),
            Event::Ike(_)
            | Event::UnknownSpi { .. }
            | Event::Advertisement { .. }
            | Event::Pins(_)
            | Event::PinsRestored { .. } => Some(event),
        }
    }

    /// A child SA is installed once its packets are taken wherever they arrive.
    fn check_installed(&mut self, spi: Spi) -> Option<Event> {
        let placed = self.placed.get(&spi).filter(|placed| placed.is_installed && placed.unsteered == 0)?;
        let is_news = self.unconfirmed.remove(&placed.installation);
        self.release_ike();
        is_news.then_some(Event::ChildInstalled(spi))
    }

    /// What another worker than the SA's has to say about it comes from before it was there.
    fn owner_only(&self, worker: usize, spi: Spi) -> Option<()> {
        (self.placed.get(&spi)?.worker == worker).then_some(())
    }

    fn handle_tables_in_force(&mut self, worker: usize, version: u64) -> Option<Event> {
        *self.tables_in_force.get_mut(worker)? = version;
        if worker == FIRST {
            while let Some((version, tables)) = self.tables_held.pop_front_if(|(held, _)| *held <= version) {
                for other in FIRST + 1..self.len() {
                    self.tell(other, Command::Tables { version, tables: tables.clone() });
                }
            }
        }
        let confirmed = self.tables_in_force.iter().copied().min()?;
        (confirmed > self.tables_confirmed).then(|| {
            self.tables_confirmed = confirmed;
            Event::TablesInForce(confirmed)
        })
    }

    fn handle_services_pinned(&mut self, worker: usize, version: u64) -> Option<Event> {
        *self.services_pinned.get_mut(worker)? = version;
        let all = self.services_pinned.iter().all(|pinned| *pinned == version);
        all.then_some(Event::ServicesPinned(version))
    }

    fn handle_report(&mut self, token: u64, report: Report) -> Option<Event> {
        let question = self.questions.get_mut(&token)?;
        question.reports.push(report);
        question.unanswered = question.unanswered.saturating_sub(1);
        if question.unanswered > 0 {
            return None;
        }
        let Question { what, reports, .. } = self.questions.remove(&token)?;
        Some(Event::Report { token, report: merge(what, reports) })
    }

    fn tell(&mut self, worker: usize, command: Command) {
        self.commands.push_back((worker, command));
    }
}

/// What the other workers have to know of a child SA.
fn steering(child: &ChildSa, worker: usize, token: u64) -> Steering {
    Steering {
        spi: child.inbound.spi,
        worker: WorkerId(worker as u8),
        token,
        vip: child.vip,
        lane: child.lane,
        local_selectors: child.local_selectors.clone(),
        remote_selectors: child.remote_selectors.clone(),
    }
}

/// Where lane 0 is when that lane is on that worker of so many.
fn place_of_first_lane(worker: usize, lane: Option<u16>, workers: usize) -> usize {
    (worker + workers - usize::from(lane.unwrap_or_default()) % workers) % workers
}

/// All workers' answers as one.
fn merge(what: ReportKind, reports: Vec<Report>) -> Report {
    let (mut all_sas, mut all_entries, mut sum) = (Vec::new(), Vec::new(), 0usize);
    let mut all_targets: BTreeMap<IpAddr, u32> = BTreeMap::new();
    let mut all_neighbours: BTreeMap<(IpAddr, PortId), Option<MacAddr>> = BTreeMap::new();
    for report in reports {
        match report {
            Report::Sas(sas) => all_sas.extend(sas),
            Report::Connections { total, entries } => {
                sum = sum.saturating_add(total);
                all_entries.extend(entries);
            }
            Report::Targets(targets) => {
                for (address, connections) in targets {
                    let sum = all_targets.entry(address).or_default();
                    *sum = sum.saturating_add(connections);
                }
            }
            Report::Neighbours(neighbours) => {
                for (address, mac, port) in neighbours {
                    // Each worker asks for itself; one answer is enough to know.
                    let known = all_neighbours.entry((address, port)).or_default();
                    *known = known.or(mac);
                }
            }
        }
    }
    match what {
        ReportKind::Sas => Report::Sas(all_sas),
        ReportKind::Connections { max } => {
            all_entries.truncate(max);
            Report::Connections { total: sum, entries: all_entries }
        }
        ReportKind::Targets => Report::Targets(all_targets.into_iter().collect()),
        ReportKind::Neighbours => {
            let flat = all_neighbours.into_iter().map(|((address, port), mac)| (address, mac, port));
            Report::Neighbours(flat.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use vipsec_dataplane::api::{ChildRefusal, FloatingAddress, VipTable};
    use vipsec_esp::sa::{
        Algorithm, InboundParams, KeyMaterial, Lifetime, Mode, OutboundParams, Processing, SALT_LEN, TunnelEnds,
        TunnelPolicy,
    };
    use vipsec_wire::iv::{ApplianceId, Epoch, IvPrefix};
    use zeroize::Zeroizing;

    use super::*;

    fn spi(number: u32) -> Spi {
        Spi::new(0x0100_0000 + number).unwrap()
    }

    /// A child SA with `10.9.net.0/24` behind the remote peer.
    fn child(number: u32, net: u8) -> Box<ChildSa> {
        let algorithm = Algorithm::Aes128Gcm;
        let key = || KeyMaterial::new(algorithm, Zeroizing::new(vec![0; algorithm.key_len() + SALT_LEN])).unwrap();
        let selector = |first: [u8; 4], last: [u8; 4]| Selector {
            addresses: IpAddr::from(first)..=IpAddr::from(last),
            protocol: None,
            ports: 0..=u16::MAX,
        };
        Box::new(ChildSa {
            vip: 0,
            inbound: InboundParams {
                spi: spi(number),
                algorithm,
                key: key(),
                window: 64,
                esn: false,
                edge: 0,
                horizon: u64::MAX,
            },
            outbound: OutboundParams {
                spi: spi(number),
                algorithm,
                key: key(),
                esn: false,
                sent: 0,
                lease: u64::MAX,
                iv_prefix: IvPrefix::new(ApplianceId::new(1).unwrap(), Epoch(1)),
            },
            succeeds: None,
            lane: None,
            mode: Mode::default(),
            processing: Processing::default(),
            lifetime: Lifetime::default(),
            policy: TunnelPolicy::default(),
            tunnel: TunnelEnds { local: [192, 0, 2, 1].into(), remote: [198, 51, 100, 7].into(), udp: None },
            local_selectors: vec![selector([192, 0, 2, 1], [192, 0, 2, 1])],
            remote_selectors: vec![selector([10, 9, net, 0], [10, 9, net, 255])],
        })
    }

    fn commands(set: &mut WorkerSet) -> Vec<(usize, String)> {
        let name = |command: &Command| format!("{command:?}").split(['(', ' ']).next().unwrap_or_default().to_owned();
        std::iter::from_fn(|| set.poll_command()).map(|(worker, command)| (worker, name(&command))).collect()
    }

    fn install(set: &mut WorkerSet, child: Box<ChildSa>, replaces: Option<Spi>) -> usize {
        set.install_child(child, replaces);
        let told = commands(set);
        let (worker, _) = told.iter().find(|(_, command)| command == "InstallChild").expect("nobody got the child SA");
        *worker
    }

    fn tables() -> Arc<Tables> {
        Arc::new(Tables {
            ports: Vec::new(),
            vips: Vec::new(),
            routes: Vec::new(),
            policies: Vec::new(),
            services: Default::default(),
            ike_policer: vipsec_dataplane::api::Policer { rate: 1, burst: 1 },
            ike_calls: vipsec_dataplane::api::IkeCalls {
                unproven: vipsec_dataplane::api::Policer { rate: 1, burst: 1 },
                proven: vipsec_dataplane::api::Policer { rate: 1, burst: 1 },
                cookies: None,
            },
        })
    }

    #[test]
    fn child_sas_are_spread_evenly() {
        let mut set = WorkerSet::new(3);
        for number in 0..9 {
            install(&mut set, child(number, number as u8), None);
        }
        assert_eq!([0, 1, 2].map(|worker| set.children_of(worker)), [3, 3, 3]);
        set.handle_command(Command::RemoveChild(spi(1)));
        assert_eq!(
            commands(&mut set),
            [(0, "Unsteer"), (2, "Unsteer"), (1, "RemoveChild")].map(|(worker, name)| (worker, name.to_owned()))
        );
        assert_eq!(install(&mut set, child(10, 10), None), 1, "the place that became free");
    }

    /// Its connections are on that worker; on another one they would be unknown.
    #[test]
    fn a_child_sa_goes_where_its_predecessors_connections_are() {
        let mut set = WorkerSet::new(4);
        for number in 0..4 {
            install(&mut set, child(number, number as u8), None);
        }
        assert_eq!(install(&mut set, child(10, 77), Some(spi(2))), 2, "rekeyed by us");
        let rekeyed_by_peer = ChildSa { succeeds: Some(spi(3)), ..*child(11, 78) };
        assert_eq!(install(&mut set, Box::new(rekeyed_by_peer), None), 3, "rekeyed by the remote peer");
        assert_eq!(install(&mut set, child(12, 1), None), 1, "negotiated anew");
        for number in [1, 12] {
            set.handle_command(Command::RemoveChild(spi(number)));
        }
        commands(&mut set);
        assert_eq!(install(&mut set, child(14, 80), None), 1, "the least loaded");
        assert_eq!(install(&mut set, child(15, 1), None), 1, "it comes back after it was gone");
        assert_eq!(install(&mut set, child(13, 79), Some(spi(99))), 0, "its predecessor is gone: the least loaded");
    }

    /// RFC 9611: each lane is for a worker of its own, also after a takeover, when they come in any order.
    #[test]
    fn each_lane_is_on_another_worker() {
        for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
            let mut set = WorkerSet::new(3);
            install(&mut set, child(0, 0), None);
            let mut workers = order.map(|lane: u32| {
                let lane_of = |lane: u32| ChildSa { lane: Some(lane as u16), ..*child(10 + lane, 9) };
                install(&mut set, Box::new(lane_of(lane)), None)
            });
            workers.sort_unstable();
            assert_eq!(workers, [0, 1, 2], "in the order {order:?}");
        }
        let mut set = WorkerSet::new(2);
        let workers = [0u32, 1, 2, 3].map(|lane| {
            let lane = ChildSa { lane: Some(lane as u16), ..*child(lane, 9) };
            install(&mut set, Box::new(lane), None)
        });
        assert_eq!(workers, [0, 1, 0, 1], "more lanes than workers");
        let heir = ChildSa { lane: Some(1), ..*child(9, 9) };
        assert_eq!(install(&mut set, Box::new(heir), Some(spi(3))), 1, "a rekeyed lane stays");
    }

    #[test]
    fn a_child_sa_is_installed_when_every_worker_knows_the_way() {
        let mut set = WorkerSet::new(3);
        set.install_child(child(1, 1), None);
        let told = commands(&mut set);
        assert_eq!(
            told,
            [(1, "Steer"), (2, "Steer"), (0, "InstallChild")].map(|(worker, name)| (worker, name.to_owned()))
        );
        let message = |n: u8| {
            let (local, remote) = ("192.0.2.1:500".parse().unwrap(), "198.51.100.7:500".parse().unwrap());
            Command::SendIke(IkeDatagram { local, remote, payload: vec![n] })
        };
        set.handle_command(message(1));
        assert_eq!(commands(&mut set), [], "the remote peer may use it once it has the message");
        set.install_child(child(2, 2), None);
        set.handle_command(message(2));
        assert_eq!(commands(&mut set).len(), 3);
        let steered = |number, token| Event::Steered { spi: spi(number), token };
        assert!(set.handle_event(2, steered(1, 1)).is_none());
        assert!(set.handle_event(0, Event::ChildInstalled(spi(1))).is_none());
        let done = set.handle_event(1, steered(1, 1));
        assert!(matches!(done, Some(Event::ChildInstalled(installed)) if installed == spi(1)));
        assert_eq!(commands(&mut set), [(0, "SendIke".to_owned())], "the second message waits for its own");
        assert!(set.handle_event(0, steered(2, 2)).is_none());
        assert!(set.handle_event(2, steered(2, 2)).is_none());
        /* refused, it holds nobody up */
        assert!(set.handle_event(1, Event::ChildRefused(spi(2), ChildRefusal::TooMany)).is_some());
        let told = commands(&mut set);
        assert_eq!(
            told,
            [(0, "Unsteer"), (2, "Unsteer"), (0, "SendIke")].map(|(worker, name)| (worker, name.to_owned()))
        );
    }

    #[test]
    fn a_late_confirmation_is_not_of_a_later_installation() {
        let mut set = WorkerSet::new(2);
        set.install_child(child(1, 1), None);
        set.handle_command(Command::RemoveChild(spi(1)));
        set.install_child(child(1, 1), None);
        assert!(set.handle_event(0, Event::ChildInstalled(spi(1))).is_none());
        assert!(set.handle_event(1, Event::Steered { spi: spi(1), token: 1 }).is_none());
        assert!(set.handle_event(1, Event::Steered { spi: spi(1), token: 2 }).is_some());
    }

    #[test]
    fn an_only_worker_is_told_no_way() {
        let mut set = WorkerSet::new(1);
        set.install_child(child(1, 1), None);
        set.handle_command(Command::RemoveChild(spi(1)));
        assert_eq!(commands(&mut set), ["InstallChild", "RemoveChild"].map(|name| (0, name.to_owned())));
    }

    #[test]
    fn what_is_about_a_child_sa_goes_to_its_worker_alone() {
        let mut set = WorkerSet::new(2);
        install(&mut set, child(0, 0), None);
        assert_eq!(install(&mut set, child(1, 1), None), 1);
        set.handle_command(Command::Grant { spi: spi(1), horizon: 9, lease: 9 });
        set.handle_command(Command::Bind(spi(1)));
        set.handle_command(Command::MovePeer { spi: spi(1), remote: "198.51.100.8:4500".parse().unwrap() });
        set.handle_command(Command::Bind(spi(7)));
        assert_eq!(commands(&mut set), ["Grant", "Bind", "MovePeer"].map(|name| (1, name.to_owned())));
    }

    #[test]
    fn tables_are_in_force_when_the_last_worker_says_so() {
        let mut set = WorkerSet::new(3);
        set.handle_command(Command::Tables { version: 1, tables: tables() });
        set.handle_command(Command::Tables { version: 2, tables: tables() });
        assert_eq!(commands(&mut set).len(), 2, "the first worker announces before another one serves");
        assert!(set.handle_event(0, Event::TablesInForce(1)).is_none());
        assert_eq!(commands(&mut set), [(1, "Tables".to_owned()), (2, "Tables".to_owned())]);
        assert!(set.handle_event(0, Event::TablesInForce(2)).is_none());
        assert_eq!(commands(&mut set).len(), 2);
        for version in [1, 2] {
            assert!(set.handle_event(1, Event::TablesInForce(version)).is_none());
            let Some(Event::TablesInForce(confirmed)) = set.handle_event(2, Event::TablesInForce(version)) else {
                panic!("not confirmed");
            };
            assert_eq!((confirmed, set.tables_in_force()), (version, version));
        }
    }

    /// A peer that hands a VIP over passes frames on once it has heard the announcement: no worker may drop them then.
    #[test]
    fn until_a_vip_is_announced_the_other_workers_hold_its_frames() {
        let with = |state| {
            let floating =
                FloatingAddress { address: [192, 0, 2, 1].into(), mac: MacAddr([2, 0, 0, 0, 0, 1]), port: PortId(0) };
            let vip = VipTable { vip: floating, more: Vec::new(), gateways: Vec::new(), state };
            Arc::new(Tables { vips: vec![vip], ..Tables::clone(&tables()) })
        };
        let told = |set: &mut WorkerSet| -> Vec<_> {
            let told = std::iter::from_fn(|| set.poll_command()).map(|(worker, command)| match command {
                Command::Tables { version, tables } => (worker, version, tables.vips[0].state),
                other => panic!("{other:?}"),
            });
            told.collect()
        };
        let mut set = WorkerSet::new(2);
        set.handle_command(Command::Tables { version: 1, tables: with(VipState::Elsewhere) });
        assert_eq!(told(&mut set), [(0, 1, VipState::Elsewhere)]);
        set.handle_event(0, Event::TablesInForce(1));
        assert_eq!(told(&mut set), [(1, 1, VipState::Elsewhere)]);
        set.handle_event(1, Event::TablesInForce(1));
        set.handle_command(Command::Tables { version: 2, tables: with(VipState::Owned) });
        assert_eq!(told(&mut set), [(1, 1, VipState::HandingOver), (0, 2, VipState::Owned)]);
        assert!(set.handle_event(1, Event::TablesInForce(1)).is_none(), "that is no news");
        assert!(set.handle_event(0, Event::TablesInForce(2)).is_none());
        assert_eq!(told(&mut set), [(1, 2, VipState::Owned)]);
        assert!(matches!(set.handle_event(1, Event::TablesInForce(2)), Some(Event::TablesInForce(2))));
        /* what is ours already is not held again */
        set.handle_command(Command::Tables { version: 3, tables: with(VipState::Owned) });
        assert_eq!(told(&mut set), [(0, 3, VipState::Owned)]);
    }

    #[test]
    fn a_late_word_of_a_former_worker_is_left_out() {
        let mut set = WorkerSet::new(2);
        assert_eq!(install(&mut set, child(0, 0), None), 0);
        assert_eq!(install(&mut set, child(1, 1), None), 1);
        // Its VIP went away, and the same SPI came back for other traffic.
        set.handle_command(Command::RemoveChild(spi(1)));
        set.handle_command(Command::RemoveChild(spi(0)));
        assert_eq!(install(&mut set, child(1, 2), None), 0);
        assert!(set.handle_event(1, Event::Alive(spi(1))).is_none());
        assert!(set.handle_event(1, Event::ChildRefused(spi(1), ChildRefusal::TooMany)).is_none());
        assert!(set.handle_event(0, Event::Alive(spi(1))).is_some());
        assert!(set.handle_event(0, Event::ChildRefused(spi(1), ChildRefusal::TooMany)).is_some());
        assert_eq!(set.children_of(0), 0, "a refused child SA takes no place");
    }

    #[test]
    fn an_answer_is_the_sum_of_all_workers_answers() {
        let mut set = WorkerSet::new(2);
        let (known, unknown, port) = (MacAddr([2, 0, 0, 0, 0, 1]), IpAddr::from([10, 1, 0, 22]), PortId(1));
        let address = IpAddr::from([10, 1, 0, 21]);
        set.handle_command(Command::Report { token: 5, what: ReportKind::Neighbours });
        assert_eq!(commands(&mut set).len(), 2);
        let first = Report::Neighbours(vec![(unknown, None, port), (address, None, port)]);
        assert!(set.handle_event(1, Event::Report { token: 5, report: first }).is_none());
        let second = Report::Neighbours(vec![(address, Some(known), port)]);
        let Some(Event::Report { token: 5, report: Report::Neighbours(all) }) =
            set.handle_event(0, Event::Report { token: 5, report: second })
        else {
            panic!("no answer");
        };
        assert_eq!(all, [(address, Some(known), port), (unknown, None, port)]);

        set.handle_command(Command::Report { token: 6, what: ReportKind::Connections { max: 10 } });
        let answer = || Event::Report { token: 6, report: Report::Connections { total: 40, entries: Vec::new() } };
        assert!(set.handle_event(0, answer()).is_none());
        let Some(Event::Report { report: Report::Connections { total, .. }, .. }) = set.handle_event(1, answer())
        else {
            panic!("no answer");
        };
        assert_eq!(total, 80);

        set.handle_command(Command::Report { token: 7, what: ReportKind::Targets });
        let answer = |count| Event::Report { token: 7, report: Report::Targets(vec![(address, count)]) };
        assert!(set.handle_event(0, answer(3)).is_none());
        let Some(Event::Report { report: Report::Targets(all), .. }) = set.handle_event(1, answer(4)) else {
            panic!("no answer");
        };
        assert_eq!(all, [(address, 7)]);
    }
}
