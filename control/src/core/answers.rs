//! Answers for the operator. What only the data plane knows is asked of it, and the answer waits for its report.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Instant;

use vipsec_dataplane::api::{Command, PortId, Report, ReportKind, SaReport};
use vipsec_dataplane::drops::{DropReason, Tally};
use vipsec_distribute::connection::{ConnectionReport, ConnectionState};
use vipsec_esp::sa::Processing;
use vipsec_ike::{ChildPhase, IkeSaId, IkeSaStatus, OperateError, Phase};
use vipsec_takeover::decider::{Copy, PeerStatus, Role, Status as Standing};
use vipsec_wire::ethernet::MacAddr;
use vipsec_wire::iv::ApplianceId;

use super::ownership::Ownership;
use super::ownership::groups::Group;
use super::ownership::pairing::Side;
use super::service::notices::{Notices, Tally as AgentTally};
use super::service::targets::TargetOrder;
use super::store::records::WarmCopy;
use super::{Core, Output};
use crate::api::{
    self, ApiError, CONNECTIONS_MAX, ConnectionEntry, Connections, ErrorKind, EspSpi, IkeSa, Neighbour, Request,
    Response, Sas, Status,
};

/// Most questions that wait for the data plane.
const QUESTIONS_MAX: usize = 64;

/// What IKE messages of quarantined peers are counted as. The workers don't know of them.
const QUARANTINE_LABEL: &str = "ike_quarantined";

/// Questions that wait for the data plane.
#[derive(Debug, Default)]
pub(super) struct Questions {
    next: u64,
    open: HashMap<u64, Asker>,
}

/// Who wants to know.
#[derive(Debug, Clone, Copy)]
enum Asker {
    /// An operator, under the daemon's token.
    Operator(u64),
    /// The same, about services, when the report is about targets.
    Services(u64),
    /// A move of that group.
    Move(usize),
}

impl Core {
    pub(super) fn answer(&mut self, now: Instant, token: u64, request: Request) {
        let answer = match request {
            Request::Status => Ok(Response::Status(Box::new(self.status(now)))),
            Request::Store => Ok(Response::Store(self.store(now))),
            Request::Counters => Ok(Response::Counters(self.counter_sums())),
            Request::Sas => return self.ask_for_operator(Asker::Operator(token), ReportKind::Sas),
            Request::Connections { max } => {
                let max = max.min(CONNECTIONS_MAX);
                return self.ask_for_operator(Asker::Operator(token), ReportKind::Connections { max });
            }
            Request::Neighbours => return self.ask_for_operator(Asker::Operator(token), ReportKind::Neighbours),
            Request::Services => return self.ask_for_operator(Asker::Services(token), ReportKind::Targets),
            Request::Targets => return self.ask_for_operator(Asker::Operator(token), ReportKind::Targets),
            Request::DrainTarget { target } => self.answer_order(&target, TargetOrder::Drained),
            Request::EnableTarget { target } => self.answer_order(&target, TargetOrder::Enabled),
            Request::Initiate { connection, child } => {
                let child = child.or_else(|| self.first_child(&connection)).unwrap_or_default();
                done(self.ike.initiate(&connection, &child, now).map(drop))
            }
            Request::RekeyChild { spi } => done(self.ike.rekey_child(spi.0, now)),
            Request::RekeyIke { spi } => done(self.ike.rekey_ike(IkeSaId::from(spi.0), now)),
            Request::Delete { spi } => done(self.ike.delete_ike(IkeSaId::from(spi.0), now)),
            Request::ReleasePeer { remote } if self.release_peer(now, remote) => Ok(Response::DONE),
            Request::ReleasePeer { remote } => {
                Err(ApiError::new(ErrorKind::NotFound, format!("{remote} isn't quarantined")))
            }
            Request::MoveVip { vip, to } => return self.order_vip(now, token, &vip, &to),
            Request::Reload => return self.outputs.push_back(Output::Reload(token)),
            Request::Shutdown => {
                self.outputs.push_back(Output::Reply(token, Ok(Response::DONE)));
                return self.handle_shutdown(now);
            }
        };
        self.outputs.push_back(Output::Reply(token, answer));
    }

    fn first_child(&self, connection: &str) -> Option<String> {
        let connection = self.config.connections.iter().find(|candidate| candidate.name == connection)?;
        connection.children.first().map(|child| child.name.clone())
    }

    fn ask_for_operator(&mut self, asker: Asker, what: ReportKind) {
        if self.questions.open.len() >= QUESTIONS_MAX {
            let busy = ApiError::new(ErrorKind::Busy, "too many requests wait for the workers");
            if let Asker::Operator(token) | Asker::Services(token) = asker {
                self.outputs.push_back(Output::Reply(token, Err(busy)));
            }
            return;
        }
        self.ask_workers(asker, what);
    }

    fn ask_workers(&mut self, asker: Asker, what: ReportKind) {
        self.questions.next += 1;
        let number = self.questions.next;
        self.questions.open.insert(number, asker);
        self.tell(Command::Report { token: number, what });
    }

    /// Where do the SAs of a group stand that has stopped?
    pub(super) fn ask_exact_numbers(&mut self, group: usize) {
        self.ask_workers(Asker::Move(group), ReportKind::Sas);
    }

    pub(super) fn handle_report(&mut self, now: Instant, number: u64, report: Report) {
        let Some(asker) = self.questions.open.remove(&number) else { return };
        let (token, response) = match (asker, report) {
            (Asker::Move(group), Report::Sas(sas)) => return self.publish_exact_numbers(group, sas),
            (Asker::Services(token), Report::Targets(connections)) => {
                (token, self.answer_services(&connections.into_iter().collect()))
            }
            (Asker::Operator(token), Report::Targets(connections)) => {
                (token, self.answer_targets(&connections.into_iter().collect()))
            }
            (Asker::Move(_) | Asker::Services(_), _) => return,
            (Asker::Operator(token), Report::Sas(sas)) => (token, Response::Sas(self.sas(now, sas))),
            (Asker::Operator(token), Report::Connections { total, entries }) => {
                (token, Response::Connections(self.connections(total, &entries)))
            }
            (Asker::Operator(token), Report::Neighbours(entries)) => {
                (token, Response::Neighbours { entries: self.neighbours(entries) })
            }
        };
        self.outputs.push_back(Output::Reply(token, Ok(response)));
    }

    fn status(&self, now: Instant) -> Status {
        let appliance = &self.config.appliance;
        Status {
            appliance: api::Appliance {
                id: appliance.id.get(),
                name: appliance.name.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                uptime_s: now.saturating_duration_since(self.started).as_secs(),
            },
            vips: self.vip_statuses(now),
            ports: self.facts.ports.clone(),
            workers: self.worker_statuses(),
            hugepages: self.facts.hugepages,
            engine: self.facts.engine.clone(),
            crypto_device: self.facts.crypto_device.clone(),
            drops: self.drops(|count| count > 0),
            quarantine: self.quarantined(now),
        }
    }

    fn store(&self, now: Instant) -> api::Store {
        api::Store { groups: self.groups.iter().filter_map(|group| group_store(now, group)).collect() }
    }

    fn vip_statuses(&self, now: Instant) -> Vec<api::Vip> {
        let vips = self.config.vips.iter().map(|vip| {
            let number = usize::from(vip.group);
            let group = self.groups.get(number);
            let owned = group.and_then(|group| group.ownership.owned_epoch());
            let standing = self.ownership_status(now, number);
            let (state, owner, epoch) = match (&standing, owned) {
                (_, Some(epoch)) => ("owner", Some(self.config.appliance.id), epoch.0),
                (None, None) if self.config.peers.is_empty() => ("starting", None, 0),
                (None, None) => ("no rank", None, 0),
                (Some(status), None) => {
                    let state = match status.role {
                        Role::Taking { .. } => "taking over",
                        Role::HandingOver { .. } => "handing over",
                        _ if status.trusted => "backup",
                        _ => "backup, without a trusted copy",
                    };
                    (state, status.owner, status.seen.0)
                }
            };
            api::Vip {
                name: vip.name.clone(),
                address: vip.floating.address,
                mac: vip.floating.mac.to_string(),
                gateways: vip.gateways.iter().map(|gateway| gateway.address).collect(),
                group: group.map_or_else(String::new, |group| group.name.clone()),
                owner: owner.map(ApplianceId::get),
                owner_name: owner.and_then(|owner| self.config.name_of(owner)).map(ToOwned::to_owned),
                state: state.to_owned(),
                epoch,
                copy: standing.as_ref().map(|status| copies_state(status, owned.is_some())),
                copy_reason: standing.as_ref().zip(group).and_then(|(status, group)| copy_reason(now, status, group)),
                ranks: self
                    .config
                    .groups
                    .get(number)
                    .map_or_else(Vec::new, |group| group.ranks().into_iter().map(ApplianceId::get).collect()),
                agents: self.agents_told(&vip.name),
                held_s: group.and_then(|group| group.moves.held_for(now)).map(|held| held.as_secs()),
                pins: group.and_then(|group| group_pins(now, group)),
                takeover: owned.and_then(|_| self.takeover(now, number)),
            }
        });
        vips.collect()
    }

    fn agents_told(&self, name: &str) -> Option<api::AgentsTold> {
        let vip = self.config.vips.iter().position(|vip| vip.name == name)?;
        let AgentTally { agents, know, refuse } = self.notices.tally(u16::try_from(vip).ok()?);
        (agents > 0).then_some(api::AgentsTold { agents, know, refuse })
    }

    fn takeover(&self, now: Instant, group: usize) -> Option<api::Takeover> {
        let (takeover, waiting) = self.succession.ladder.takeover(group)?;
        let ways = takeover.census.iter().map(|((rung, why), ike_sas)| api::TakeoverWay {
            way: rung.to_string(),
            reason: why.to_string(),
            ike_sas: *ike_sas,
        });
        Some(api::Takeover {
            ago_s: now.saturating_duration_since(takeover.at).as_secs(),
            trusted: takeover.trusted,
            waiting,
            ways: ways.collect(),
        })
    }

    fn worker_statuses(&self) -> Vec<api::Worker> {
        let workers = (0u32..).zip(&self.counters).map(|(id, counters)| api::Worker {
            id,
            cpu: None,
            alive: self.facts.workers_alive.get(id as usize).copied().unwrap_or(true),
            sas: self.workers.children_of(id as usize) as u64,
            connections: counters
                .tally(Tally::ConnectionsNew)
                .saturating_sub(counters.tally(Tally::ConnectionsExpired)),
            esp_in_packets: counters.esp_in.packets(),
            esp_out_packets: counters.esp_out.packets(),
            handed_over_packets: counters.tally(Tally::HandedOver),
            dropped_packets: counters.drops().map(|(_, count)| count).sum(),
        });
        workers.collect()
    }

    fn quarantined(&self, now: Instant) -> Vec<api::Quarantined> {
        let of_group = |group: &Group| {
            let each = group.hands.quarantined(now);
            let name = |(remote, left): (IpAddr, std::time::Duration)| api::Quarantined {
                group: group.name.clone(),
                remote,
                left_s: left.as_secs(),
            };
            each.map(name).collect::<Vec<_>>()
        };
        self.groups.iter().flat_map(of_group).collect()
    }

    fn drops(&self, wanted: impl Fn(u64) -> bool) -> BTreeMap<String, u64> {
        let sums = DropReason::ALL.iter().map(|reason| {
            let sum = self.counters.iter().map(|counters| counters.dropped(*reason)).sum();
            (reason.label().to_owned(), sum)
        });
        let quarantined = (QUARANTINE_LABEL.to_owned(), self.quarantine_drops);
        sums.chain([quarantined]).filter(|(_, sum)| wanted(*sum)).collect()
    }

    /// Everything that is counted, over all workers.
    pub fn counter_sums(&self) -> api::Counters {
        let mut sums = BTreeMap::<String, u64>::new();
        let mut add = |name: &str, value: u64| *sums.entry(name.to_owned()).or_default() += value;
        for counters in &self.counters {
            for (tally, count) in counters.tallies() {
                add(tally.label(), count);
            }
            for (name, traffic) in [
                ("esp_in", &counters.esp_in),
                ("esp_out", &counters.esp_out),
                ("to_targets", &counters.to_targets),
                ("to_remotes", &counters.to_remotes),
            ] {
                add(&format!("{name}_packets"), traffic.packets());
                add(&format!("{name}_bytes"), traffic.bytes());
            }
        }
        for (rung, count) in self.succession.ladder.taken() {
            add(&format!("takeover_{}", rung.to_string().replace([' ', '-'], "_")), count);
        }
        let Notices { known, refused, silent, .. } = &self.notices;
        for (name, count) in [("known", known), ("refused", refused), ("silent", silent)] {
            add(&format!("target_agents_{name}"), *count);
        }
        api::Counters { counters: sums, drops: self.drops(|_| true) }
    }

    fn sas(&self, now: Instant, reports: Vec<SaReport>) -> Sas {
        let mut numbers: HashMap<u32, SaReport> = reports.into_iter().map(|sa| (sa.spi.get(), sa)).collect();
        let ike_sas = self.ike.sas(now).map(|sa| self.ike_sa(sa, &mut numbers)).collect();
        // What no IKE SA has claimed is static.
        let mut static_children: Vec<api::Child> = numbers.into_values().map(|report| static_child(&report)).collect();
        static_children.sort_by_key(|child| child.spi_in);
        Sas { ike_sas, static_children }
    }

    fn ike_sa(&self, sa: IkeSaStatus, numbers: &mut HashMap<u32, SaReport>) -> IkeSa {
        let children = sa.children.into_iter().map(|child| {
            let known =
                numbers.remove(&child.spi_in).map_or_else(|| empty_child(child.spi_in), |report| static_child(&report));
            api::Child {
                name: child.child,
                state: match child.phase {
                    _ if child.stale => "stale",
                    ChildPhase::Installed => "installed",
                    ChildPhase::Rekeyed => "rekeyed",
                    ChildPhase::Deleting => "deleting",
                }
                .to_owned(),
                spi_out: EspSpi(child.spi_out),
                proposal: child.suite,
                local_ts: child.local_selectors,
                remote_ts: child.remote_selectors,
                age_s: child.age.as_secs(),
                ..known
            }
        });
        IkeSa {
            vip: self.config.vips.get(usize::from(sa.vip)).map_or_else(String::new, |vip| vip.name.clone()),
            children: children.collect(),
            connection: sa.connection,
            state: match sa.phase {
                Phase::Authenticating => "authenticating",
                Phase::Established => "established",
                Phase::Rekeyed { .. } => "rekeyed",
                Phase::Deleting => "deleting",
            }
            .to_owned(),
            spi: api::IkeSpi(sa.id.get()),
            peer_spi: api::IkeSpi(sa.remote_spi),
            initiator: sa.role == vipsec_ike::Role::Initiator,
            local: sa.local,
            remote: sa.remote,
            remote_id: sa.remote_id.unwrap_or_default(),
            proposal: sa.suite,
            age_s: sa.age.as_secs(),
            takeover: self.succession.ladder.standing(sa.id).map(|climb| format!("{} ({})", climb.rung, climb.why)),
        }
    }

    fn connections(&self, total: usize, entries: &[ConnectionReport]) -> Connections {
        let entries = entries.iter().map(|entry| self.connection_entry(entry)).collect();
        Connections { total: total as u64, entries }
    }

    fn connection_entry(&self, entry: &ConnectionReport) -> ConnectionEntry {
        let target = self.config.targets.iter().find(|target| target.address == entry.target);
        ConnectionEntry {
            protocol: match entry.tuple.protocol {
                vipsec_wire::ip::protocol::TCP => "tcp".to_owned(),
                vipsec_wire::ip::protocol::UDP => "udp".to_owned(),
                other => other.to_string(),
            },
            client: (entry.tuple.remote, entry.tuple.remote_port).into(),
            service: (entry.tuple.vip, entry.tuple.vip_port).into(),
            target: target.map_or_else(|| entry.target.to_string(), |target| target.name.clone()),
            state: connection_state(entry.state).to_owned(),
            age_s: entry.age.as_secs(),
        }
    }

    fn neighbours(&self, reports: Vec<(IpAddr, Option<MacAddr>, PortId)>) -> Vec<Neighbour> {
        let entries = reports.into_iter().map(|(address, mac, port)| Neighbour {
            address,
            mac: mac.map(|mac| mac.to_string()),
            port: self.config.ports.get(usize::from(port.0)).map_or_else(String::new, |port| port.name.clone()),
        });
        entries.collect()
    }
}

fn done(result: Result<(), OperateError>) -> Result<Response, ApiError> {
    result.map(|()| Response::DONE).map_err(|error| {
        let kind = match error {
            OperateError::NotOwned | OperateError::LimitReached | OperateError::Crypto => ErrorKind::Refused,
            _ => ErrorKind::NotFound,
        };
        ApiError::new(kind, error.to_string())
    })
}

/// The regions on both sides of each link; sizes and numbers only, nothing of what is in them.
fn group_store(now: Instant, group: &Group) -> Option<api::GroupStore> {
    let Ownership::Shared(side) = &group.ownership else { return None };
    let status = side.decider.status(now);
    let peers = status.peers.iter().map(|peer| peer_store(group, side, &status, peer)).collect();
    let pins = group.replica.pins();
    Some(api::GroupStore {
        group: group.name.clone(),
        pins: pins.len() as u64,
        pins_max: pins.pins_max() as u64,
        pins_left_out: pins.left_out(),
        pin_bytes: pins.bytes_in_copy() as u64,
        peers,
    })
}

/// An owner's own, or what a backup's copies hold.
fn group_pins(now: Instant, group: &Group) -> Option<api::Pins> {
    let Ownership::Shared(side) = &group.ownership else { return None };
    let own = group.replica.pins();
    let pins = if group.ownership.epoch_of_sas().is_some() {
        own.len()
    } else {
        let peers = side.decider.status(now).peers;
        peers.iter().filter_map(|peer| side.kept(peer.appliance)).map(WarmCopy::pins).max().unwrap_or_default()
    };
    Some(api::Pins { pins: pins as u64, pins_max: own.pins_max() as u64, pins_left_out: own.left_out() })
}

fn peer_store(group: &Group, side: &Side, status: &Standing, peer: &PeerStatus) -> api::PeerStore {
    let written = group.replica.usage(peer.appliance).map(|usage| api::WrittenRegion {
        copy: copy_state(peer.copy).to_owned(),
        bytes: usage.bytes as u64,
        records: usage
            .classes
            .iter()
            .map(|class| api::StoreRecords {
                bytes_max: class.bytes,
                used: class.records,
                free: class.records_max.saturating_sub(class.records),
            })
            .collect(),
        counter_blocks_used: usage.counter_blocks,
        counter_blocks_free: usage.counter_blocks_max.saturating_sub(usage.counter_blocks),
        writes: usage.written.0,
        unacknowledged: usage.written.0.saturating_sub(usage.acknowledged.0),
        pin_blocks_unwritten: group.replica.unwritten_pin_blocks(peer.appliance) as u64,
    });
    let kept = side.kept(peer.appliance).map(|copy| api::KeptRegion {
        trusted: status.trusted && side.holds(peer.appliance),
        bytes: copy.reader().region().geometry().bytes() as u64,
        writes: copy.reader().written().0,
        pins: copy.pins() as u64,
    });
    api::PeerStore {
        appliance: peer.appliance.get(),
        linked: peer.linked,
        version: side.version(peer.appliance),
        agreed: peer.agreed,
        differs: side.differs(peer.appliance).to_vec(),
        written,
        kept,
    }
}

/// Of an owner: how far its copies are, one word if all are equally far. Of a backup: may its copy be resumed from?
fn copies_state(status: &Standing, owned: bool) -> String {
    if !owned {
        return if status.trusted { "trusted" } else { "untrusted" }.to_owned();
    }
    let states: Vec<_> = status.peers.iter().map(|peer| (peer.appliance, copy_state(peer.copy))).collect();
    match states.split_first() {
        None => copy_state(Copy::None).to_owned(),
        Some(((_, first), rest)) if rest.iter().all(|(_, state)| state == first) => (*first).to_owned(),
        Some(_) => states.iter().map(|(id, state)| format!("{id} {state}")).collect::<Vec<_>>().join(", "),
    }
}

/// Why nobody has a copy of ours, or we have none that may be resumed from.
fn copy_reason(now: Instant, status: &Standing, group: &Group) -> Option<String> {
    match status.role {
        Role::Owner { .. } | Role::HandingOver { .. } => group.protection.lacks(now, &status.peers),
        Role::Taking { .. } => None,
        Role::Standby if status.trusted => None,
        Role::Standby => {
            let owner = status.peers.iter().find(|peer| Some(peer.appliance) == status.owner)?;
            group.protection.lack(now, owner).map(|lack| lack.to_string())
        }
    }
}

fn copy_state(copy: Copy) -> &'static str {
    match copy {
        Copy::Counted => "counted",
        Copy::Joining => "joining",
        Copy::Leaving { .. } => "leaving",
        Copy::None => "unprotected",
    }
}

/// A granted number; `None` is no limit.
fn limit(number: u64) -> Option<u64> {
    (number != u64::MAX).then_some(number)
}

fn connection_state(state: ConnectionState) -> &'static str {
    match state {
        ConnectionState::TcpOpening => "opening",
        ConnectionState::TcpEstablished => "established",
        ConnectionState::TcpClosing => "closing",
        ConnectionState::TcpReset => "reset",
        ConnectionState::UdpOneWay => "one-way",
        ConnectionState::UdpTwoWay => "two-way",
        ConnectionState::Icmp => "icmp",
        ConnectionState::Other => "open",
    }
}

fn empty_child(spi: u32) -> api::Child {
    api::Child {
        name: String::new(),
        state: String::new(),
        spi_in: EspSpi(spi),
        spi_out: EspSpi(0),
        proposal: String::new(),
        processing: String::new(),
        remote: String::new(),
        local_ts: Vec::new(),
        remote_ts: Vec::new(),
        age_s: 0,
        edge: 0,
        horizon: None,
        sent: 0,
        lease: None,
        packets_in: 0,
        bytes_in: 0,
        packets_out: 0,
        bytes_out: 0,
    }
}

const fn processing_name(processing: Processing) -> &'static str {
    match processing {
        Processing::Cpu => "cpu",
        Processing::Lookaside => "lookaside",
        Processing::InlineCrypto => "inline crypto",
        Processing::InlineProtocol => "inline protocol",
    }
}

/// What a worker knows of a child SA.
fn static_child(report: &SaReport) -> api::Child {
    api::Child {
        state: "installed".to_owned(),
        processing: processing_name(report.processing).to_owned(),
        remote: match report.tunnel.udp {
            Some((_, port)) => std::net::SocketAddr::new(report.tunnel.remote, port).to_string(),
            None => report.tunnel.remote.to_string(),
        },
        edge: report.edge,
        horizon: limit(report.horizon),
        sent: report.sent,
        lease: limit(report.lease),
        packets_in: report.packets_in,
        bytes_in: report.bytes_in,
        packets_out: report.packets_out,
        bytes_out: report.bytes_out,
        ..empty_child(report.spi.get())
    }
}
