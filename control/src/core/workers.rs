//! All workers as one data plane: one command in, as many out as it takes; one event on, once every worker has said the same.
//!
//! - [`WorkerSet::handle_command`], [`WorkerSet::install_child`]: what the core wants of the data plane.
//! - [`WorkerSet::poll_command`]: what that means for which worker.
//! - [`WorkerSet::handle_event`]: what a worker says; returns what the data plane as a whole says.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use vipsec_dataplane::api::{Command, Event, PortId, Report, ReportKind, Tables};
use vipsec_esp::sa::{ChildSa, Selector, Spi};
use vipsec_wire::ethernet::MacAddr;

/// The worker that sends what belongs to no SA: IKE messages, announcements. One, so that they leave in order.
const FIRST: usize = 0;

/// The workers of an appliance, at least one.
#[derive(Debug)]
pub(super) struct WorkerSet {
    /// By worker: the version of the tables that it has confirmed.
    tables_in_force: Vec<u64>,
    /// The version that all of them have confirmed.
    tables_confirmed: u64,
    /// Tables that the first worker has not confirmed yet; the others get them then.
    tables_held: VecDeque<(u64, Arc<Tables>)>,
    placed: BTreeMap<Spi, Placed>,
    questions: HashMap<u64, Question>,
    commands: VecDeque<(usize, Command)>,
}

/// Where a child SA is. It lives on one worker at a time: there its numbers are.
#[derive(Debug)]
struct Placed {
    worker: usize,
    vip: u16,
    remote_selectors: Vec<Selector>,
}

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
            tables_held: VecDeque::new(),
            placed: BTreeMap::new(),
            questions: HashMap::new(),
            commands: VecDeque::new(),
        }
    }

    /// How many child SAs a worker has.
    pub(super) fn children_of(&self, worker: usize) -> usize {
        self.placed.values().filter(|placed| placed.worker == worker).count()
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
                if self.tables_in_force.len() > 1 {
                    self.tables_held.push_back((version, tables.clone()));
                }
                self.tell(FIRST, Command::Tables { version, tables });
            }
            Command::InstallChild(child) => self.install_child(child, None),
            Command::RemoveChild(spi) => {
                if let Some(placed) = self.placed.remove(&spi) {
                    self.tell(placed.worker, Command::RemoveChild(spi));
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
            Command::SendIke(_) | Command::SendFrame { .. } => self.tell(FIRST, command),
            Command::Report { token, what } => {
                let unanswered = self.tables_in_force.len();
                self.questions.insert(token, Question { what, unanswered, reports: Vec::new() });
                for worker in 0..unanswered {
                    self.tell(worker, Command::Report { token, what });
                }
            }
        }
    }

    /// A child SA is to be installed; `replaces` is the one whose traffic it is going to carry.
    pub(super) fn install_child(&mut self, child: Box<ChildSa>, replaces: Option<Spi>) {
        let spi = child.inbound.spi;
        let worker = self.worker_for(&child, replaces);
        // The same SPI may come back, after its VIP was elsewhere.
        if self.placed.get(&spi).is_some_and(|placed| placed.worker != worker) {
            self.handle_command(Command::RemoveChild(spi));
        }
        let remote_selectors = child.remote_selectors.clone();
        self.placed.insert(spi, Placed { worker, vip: child.vip, remote_selectors });
        self.tell(worker, Command::InstallChild(child));
    }

    /// Where the connections of a child SA are, if it has a predecessor; else where the fewest SAs are.
    fn worker_for(&self, child: &ChildSa, replaces: Option<Spi>) -> usize {
        let known = |spi: Option<Spi>| self.placed.get(&spi?).map(|placed| placed.worker);
        // A tunnel that was negotiated anew carries the connections of the old one too.
        let same_peer = |placed: &&Placed| placed.vip == child.vip && placed.remote_selectors == child.remote_selectors;
        known(replaces)
            .or_else(|| known(child.succeeds))
            .or_else(|| self.placed.values().find(same_peer).map(|placed| placed.worker))
            .unwrap_or_else(|| self.least_loaded())
    }

    fn least_loaded(&self) -> usize {
        let mut loads = vec![0usize; self.tables_in_force.len()];
        for placed in self.placed.values() {
            if let Some(load) = loads.get_mut(placed.worker) {
                *load += 1;
            }
        }
        (0..).zip(loads).min_by_key(|(_, load)| *load).map_or(FIRST, |(worker, _)| worker)
    }

    /// A worker says something. Returns what the data plane as a whole has to say, if anything.
    pub(super) fn handle_event(&mut self, worker: usize, event: Event) -> Option<Event> {
        match event {
            Event::TablesInForce(version) => self.handle_tables_in_force(worker, version),
            Event::Report { token, report } => self.handle_report(token, report),
            Event::ChildRefused(spi, _) => {
                self.owner_only(worker, spi)?;
                self.placed.remove(&spi);
                Some(event)
            }
            Event::ChildInstalled(spi)
            | Event::PeerMoved { spi, .. }
            | Event::Lifetime { spi, .. }
            | Event::Alive(spi) => self.owner_only(worker, spi).map(|()| event),
            Event::Numbers(numbers) => self.owner_only(worker, numbers.spi).map(|()| event),
            Event::Ike(_) | Event::UnknownSpi { .. } | Event::Advertisement { .. } => Some(event),
        }
    }

    /// What another worker than the SA's has to say about it comes from before it was there.
    fn owner_only(&self, worker: usize, spi: Spi) -> Option<()> {
        (self.placed.get(&spi)?.worker == worker).then_some(())
    }

    fn handle_tables_in_force(&mut self, worker: usize, version: u64) -> Option<Event> {
        *self.tables_in_force.get_mut(worker)? = version;
        if worker == FIRST {
            while let Some((version, tables)) = self.tables_held.pop_front_if(|(held, _)| *held <= version) {
                for other in FIRST + 1..self.tables_in_force.len() {
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
    use vipsec_dataplane::api::ChildRefusal;
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
        assert_eq!(commands(&mut set), [(1, "RemoveChild".to_owned())]);
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
        assert_eq!(install(&mut set, child(13, 79), Some(spi(99))), 0, "its predecessor is gone: the least loaded");
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

    #[test]
    fn a_late_word_of_a_former_worker_is_left_out() {
        let mut set = WorkerSet::new(2);
        assert_eq!(install(&mut set, child(0, 0), None), 0);
        assert_eq!(install(&mut set, child(1, 1), None), 1);
        // Its VIP went away and came back, and others were first this time.
        set.handle_command(Command::RemoveChild(spi(1)));
        set.handle_command(Command::RemoveChild(spi(0)));
        assert_eq!(install(&mut set, child(1, 1), None), 0);
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
