//! The control core: joins configuration, IKE, ownership, the store and the workers into one state machine without I/O.
//!
//! What comes in (`handle_*`) is a worker's event, a message of another appliance, an operator's request, or the time; what goes out
//! ([`Core::poll_output`]) is a command to a worker or something for the daemon to do. The simulation drives the same core
//! with another daemon around it.

mod answers;
mod calls;
mod cookies;
mod keying;
mod lingering;
mod ownership;
mod reload;
mod service;
mod slices;
mod store;
mod takeover;
mod workers;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vipsec_dataplane::api::{Command, Event, Tables, VipState};
use vipsec_dataplane::counters::Counters;
use vipsec_dataplane::deadline::Deadline;
use vipsec_esp::lifetime::LifetimeDue;
use vipsec_esp::sa::Spi;
use vipsec_ike::{IkeSaId, KeyLog};
use vipsec_takeover::floor::Floor;
use vipsec_takeover::registry::{self, Process};
use vipsec_wire::iv::{ApplianceId, Epoch};

use crate::api::{self, ApiError, Request, Response};
use crate::config::{Check, Config};
use crate::health::Run;
use answers::Questions;
use calls::Calls;
use cookies::cookies;
use lingering::{GoneChild, Lingering};
use ownership::deadlines::Deadlines;
use ownership::groups::Group;
use ownership::orders::Orders;
pub use ownership::pairing::Paired;
use ownership::shutdown::End;
pub use reload::ReloadError;
use service::notices::Notices;
pub use service::notices::{TELLING_MAX, Telling};
use service::services::Distribution;
use service::targets::Targets;
pub use slices::Slices;
use slices::Slicing;
pub use store::pins::{PIN_RECORD_BYTES, pin_blocks};
use store::publishing::Publications;
pub use store::publishing::{KIND_CHILD, KIND_IKE};
use takeover::succession::Succession;
use workers::WorkerSet;

/// How often an owner repeats its gratuitous ARP.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(1);

/// What the daemon has to do.
#[derive(Debug)]
pub enum Output {
    /// Tell that worker.
    Worker(usize, Command),
    /// Put the floor on disk, then call [`Core::handle_floor_saved`].
    SaveFloor {
        /// The VIP's place in the configuration.
        vip: u16,
        /// The number.
        value: u32,
    },
    /// Read the configuration anew and give it to [`Core::reload`]; then answer the request.
    Reload(u64),
    /// Answer a request.
    Reply(u64, Result<Response, ApiError>),
    /// Send over a group's store link to another appliance.
    LinkSend {
        /// The group's place in the configuration.
        group: usize,
        /// To whom.
        peer: ApplianceId,
        /// What.
        message: Vec<u8>,
    },
    /// Close a group's store link to another appliance; pair anew.
    LinkClose {
        /// The group's place in the configuration.
        group: usize,
        /// With whom.
        peer: ApplianceId,
    },
    /// Ask the registry about a group, then call [`Core::handle_registry`], also when no answer comes.
    Registry {
        /// The group's place in the configuration.
        group: usize,
        /// What.
        request: registry::Request,
    },
    /// Run a health check, then call [`Core::handle_check_result`].
    Check {
        /// Comes back with the result.
        run: Run,
        /// What to try.
        check: Box<Check>,
    },
    /// Tell a target's agent, then call [`Core::handle_told`], also when no answer comes.
    Tell(Telling),
    /// Add keys to the key log that the configuration asked for.
    KeyLog(KeyLog),
    /// End the process.
    Shutdown,
}

/// What waits for an acknowledgement of a group's store.
#[derive(Debug)]
enum Effect {
    /// Tell the data plane.
    Command(Command),
    /// No successor knows that child SA any more: it goes.
    Gone(GoneChild),
    /// As far as this group is concerned, give the workers the distribution table of that version.
    Tables(u64),
    /// That appliance's join: its last record was written before.
    Joined(ApplianceId),
    /// The exact numbers of the group, that stopped, were written before.
    Stopped,
    /// The old numbers of the group, whose move was not taken, were written before.
    Reopen,
}

/// What the core has to know of the process around it.
pub struct Surroundings {
    /// One per worker.
    pub counters: Vec<Arc<Counters>>,
    /// What the workers began with: no VIP is owned.
    pub tables: Tables,
    /// What the workers check before each burst.
    pub deadline: Deadline,
    /// Floors as they stand on disk, one per VIP.
    pub floors: Vec<Floor>,
    /// Random, new with every process.
    pub incarnation: u64,
    /// Random: spreads the health checks over time.
    pub health_seed: u64,
    /// For IKE.
    pub rng: Box<dyn rand_core::CryptoRng + Send>,
    /// For the operator.
    pub facts: Facts,
    /// How much is done before something else has its turn.
    pub slices: Slices,
}

/// Facts of the process that only its daemon knows, for the operator.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Does packet memory lie in hugepages?
    pub hugepages: bool,
    /// What seals and opens packets.
    pub engine: String,
    /// The crypto device, if there is one.
    pub crypto_device: Option<api::CryptoDevice>,
    /// In the order of the configuration.
    pub ports: Vec<crate::api::Port>,
    /// By worker: does its loop go round?
    pub workers_alive: Vec<bool>,
}

/// A child SA that the data plane has.
#[derive(Debug)]
struct InstalledChild {
    vip: u16,
    ike: Option<IkeSaId>,
    /// The processes of other appliances that were paired when it was made.
    born: Vec<Process>,
}

/// The control core.
pub struct Core {
    config: Arc<Config>,
    started: Instant,
    ike: vipsec_ike::Endpoint,
    groups: Vec<Group>,
    deadlines: Deadlines,
    /// Groups that became ours while the workers stood still: they are opened once these act again.
    opening: BTreeMap<usize, Epoch>,
    counters: Vec<Arc<Counters>>,
    tables: Tables,
    tables_version: u64,
    distribution: Distribution,
    /// Batches of pins that takeovers have restored.
    restorations: u64,
    workers: WorkerSet,
    /// In order: what follows from them is the same in every run.
    children: BTreeMap<Spi, InstalledChild>,
    publications: Publications,
    lingering: Lingering,
    succession: Succession,
    targets: Targets,
    calls: Calls,
    notices: Notices,
    slicing: Slicing,
    orders: Orders,
    questions: Questions,
    facts: Facts,
    slices: Slices,
    next_announcement: Instant,
    /// IKE messages of quarantined peers.
    quarantine_drops: u64,
    end: Option<End>,
    outputs: VecDeque<Output>,
}

impl Core {
    /// An appliance that owns nothing yet.
    pub fn new(config: Arc<Config>, surroundings: Surroundings, now: Instant) -> Self {
        let Surroundings { counters, tables, deadline, floors, incarnation, health_seed, mut rng, facts, slices } =
            surroundings;
        let cookies = cookies(config.shared().map(|peer| &peer.secret), &mut *rng);
        let mut ike = vipsec_ike::Endpoint::new(Arc::new(config.ike_config(counters.len())), rng);
        ike.set_key_log(config.ike.key_log.is_some());
        ike.set_cookies(cookies.clone());
        let mut core = Self {
            started: now,
            ike,
            groups: ownership::groups::groups(&config, &floors, incarnation, now),
            deadlines: Deadlines::new(deadline, config.groups.len()),
            opening: BTreeMap::new(),
            workers: WorkerSet::new(counters.len()),
            counters,
            tables,
            tables_version: 0,
            distribution: Distribution::default(),
            restorations: 0,
            children: BTreeMap::new(),
            publications: Publications::default(),
            lingering: Lingering::default(),
            succession: Succession::new(config.shared().map_or(1, |peer| peer.takeover_rate), now),
            targets: Targets::new(&config, health_seed, now),
            calls: Calls::default(),
            notices: Notices::default(),
            slicing: Slicing::new(now),
            orders: Orders::default(),
            questions: Questions::default(),
            facts,
            slices,
            next_announcement: now,
            quarantine_drops: 0,
            end: None,
            outputs: VecDeque::new(),
            config,
        };
        core.tables.ike_calls.cookies = Some(cookies);
        core.distribution.in_force = core.standings();
        core.note_first_services();
        core.publish_tables();
        core.install_static_children();
        core.settle(now);
        core
    }

    /// Workers have something to say. What follows from all of it is done together: the numbers of many SAs are one write to the store.
    pub fn handle_events(&mut self, now: Instant, events: impl IntoIterator<Item = (usize, Event)>) {
        for (worker, event) in events {
            match self.workers.handle_event(worker, event) {
                Some(Event::PinsRestored { token, taken }) => self.handle_pins_restored(now, worker, token, taken),
                Some(event) => {
                    if let Some(event) = self.wait_for_ike(event) {
                        self.handle_data_plane(now, event);
                    }
                }
                None => {}
            }
            self.pass_commands_on();
        }
        self.settle(now);
    }

    /// The data plane as a whole has something to say.
    fn handle_data_plane(&mut self, now: Instant, event: Event) {
        match event {
            Event::Ike(datagram) => self.handle_ike_datagram(now, &datagram),
            Event::Numbers(numbers) => self.handle_numbers(numbers),
            Event::PeerMoved { spi, remote } => self.ike.peer_moved(spi.get(), remote, now),
            Event::Alive(spi) => {
                self.ike.peer_alive(spi.get(), now);
                self.note_traffic(now, spi);
            }
            // IKE messages have waited for it in the workers' set.
            Event::ChildInstalled(_) => {}
            Event::ChildRefused(spi, refusal) => self.handle_child_refused(now, spi, refusal),
            Event::TablesInForce(version) => {
                self.deadlines.confirm(version);
                self.check_stopped();
                self.check_services_in_force(version);
            }
            Event::Pins(batch) => self.handle_pins(batch),
            Event::ServicesPinned(version) => self.handle_services_pinned(version),
            // The workers' set has made one of all of them, or knows which one it was.
            Event::Steered { .. } | Event::PinsRestored { .. } => {}
            Event::UnknownSpi { spi, remote } => self.handle_unknown_spi(now, spi, remote),
            // Of a child SA that IKE doesn't know any more, or is replacing already, nothing is left to do.
            Event::Lifetime { spi, due: LifetimeDue::Soft } => drop(self.ike.rekey_child(spi.get(), now)),
            Event::Lifetime { spi, due: LifetimeDue::Hard } => drop(self.ike.delete_child(spi.get(), now)),
            Event::Advertisement { port, frame } => self.handle_advertisement(now, port, &frame),
            Event::Report { token, report } => self.handle_report(now, token, report),
        }
    }

    /// An operator's request; answered by [`Output::Reply`] with the same token.
    pub fn handle_request(&mut self, now: Instant, token: u64, request: Request) {
        self.answer(now, token, request);
        self.settle(now);
    }

    /// The time has come that [`Core::poll_timeout`] named.
    pub fn handle_timeout(&mut self, now: Instant) {
        // What this step begins has its first slice in another: what was decided leaves before.
        let slice = self.slice_is_due(now);
        self.ownership_timeout(now);
        self.handle_ike_timers(now);
        self.handle_lingering_timeout(now);
        self.check_orders(now);
        self.handle_succession_timeout(now);
        self.handle_targets_timeout(now);
        self.handle_calls_timeout(now);
        self.handle_notices_timeout(now);
        if self.next_announcement <= now {
            self.next_announcement = now + ANNOUNCE_INTERVAL;
            for vip in 0..self.config.vips.len() {
                if self.tables.vips.get(vip).is_some_and(|entry| entry.state == VipState::Owned) {
                    self.announce(vip);
                }
            }
        }
        self.settle(now);
        if slice {
            self.do_slice(now);
        }
        self.check_end(now);
    }

    /// When [`Core::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Instant {
        [
            self.ike.poll_timeout(),
            self.groups.iter().filter_map(|group| group.ownership.poll_timeout()).min(),
            self.lingering.poll_timeout(),
            self.slices_timeout(),
            self.succession_timeout(),
            self.targets.poll_timeout(),
            self.calls.poll_timeout(),
            self.notices.poll_timeout(),
            self.end.as_ref().map(|end| end.at),
        ]
        .into_iter()
        .flatten()
        .fold(self.next_announcement, Instant::min)
    }

    /// Does something wait for an acknowledgement that is under way? Nobody says when one comes: [`Core::handle_acknowledgements`] looks.
    pub fn awaits_acknowledgements(&self) -> bool {
        self.groups.iter().any(|group| group.replica.awaits_acknowledgement())
    }

    /// Acknowledgements may have come.
    pub fn handle_acknowledgements(&mut self, now: Instant) {
        self.settle(now);
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Every VIP is ours, and every worker knows: packets are taken.
    pub fn is_serving(&self) -> bool {
        self.tables.vips.iter().all(|vip| vip.state == VipState::Owned)
            && self.workers.tables_in_force() == self.tables_version
    }

    /// Facts that changed.
    pub fn set_facts(&mut self, facts: Facts) {
        self.facts = facts;
    }

    /// Lets every part react to what the others did, until there is nothing left to do.
    fn settle(&mut self, now: Instant) {
        self.note_living_appliances(now);
        loop {
            let mut busy = self.pump_ownership(now);
            busy |= self.pump_ike(now);
            // What was in hand is dealt with; that goes into one batch with what came of it.
            self.lay_down(now);
            busy |= self.pump_replica(now);
            if !busy {
                return;
            }
        }
    }

    /// Does what is acknowledged, and notices when nothing ever will be.
    fn pump_replica(&mut self, now: Instant) -> bool {
        let mut busy = false;
        for group in 0..self.groups.len() {
            self.finish_join(group);
            busy |= self.pump_replica_of(now, group);
        }
        busy
    }

    fn pump_replica_of(&mut self, now: Instant, group: usize) -> bool {
        let Some(entry) = self.groups.get_mut(group) else { return false };
        let pins_under = entry.vips.first().copied().zip(entry.ownership.epoch_of_sas());
        let replica = &mut entry.replica;
        replica.flush_numbers();
        if let Some((vip, epoch)) = pins_under {
            replica.flush_pins(vip, epoch);
        }
        let effects: Vec<_> = std::iter::from_fn(|| replica.poll()).collect();
        let failed: Vec<_> = std::iter::from_fn(|| replica.poll_failed()).collect();
        let any = !effects.is_empty() || !failed.is_empty();
        for effect in effects {
            match effect {
                Effect::Command(command) => self.tell(command),
                Effect::Gone(gone) => self.let_go_of_child(now, gone),
                // A newer one waits for its own acknowledgement.
                Effect::Tables(version) if !self.distribution.is_publishing(version) => {}
                Effect::Tables(_) => self.note_tables_known(group),
                Effect::Joined(peer) => self.handle_join_published(now, group, peer),
                Effect::Stopped => self.handle_stopped(now, group),
                Effect::Reopen => self.reopen(now, group),
            }
        }
        for error in failed {
            self.handle_store_error(now, group, error);
        }
        any
    }

    /// Tells the data plane: which worker, is not the core's business.
    fn tell(&mut self, command: Command) {
        self.workers.handle_command(command);
        self.pass_commands_on();
    }

    fn pass_commands_on(&mut self) {
        while let Some((worker, command)) = self.workers.poll_command() {
            self.outputs.push_back(Output::Worker(worker, command));
        }
    }

    fn publish_tables(&mut self) {
        self.tables_version += 1;
        let (version, tables) = (self.tables_version, Arc::new(self.tables.clone()));
        self.tell(Command::Tables { version, tables });
        self.slicing.note_tables();
    }

    /// Gratuitous ARP for a VIP that is ours.
    fn announce(&mut self, vip: usize) {
        let config = self.config.clone();
        let Some(vip) = config.vips.get(vip) else { return };
        for (port, frame) in ownership::announce::announcements(vip) {
            self.tell(Command::SendFrame { port, frame });
        }
    }
}
