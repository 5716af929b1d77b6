//! The world: everybody, the networks between them, and time.

mod faults;
mod finale;
mod links;
mod registry;
mod turns;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use vipsec_control::config::TakeoverPolicy;
use vipsec_control::core::Slices;
use vipsec_distribute::service::{Accepts, Method};
use vipsec_ike::Retransmission;

use crate::adversary::Adversary;
use crate::agenda::{Agenda, Step};
use crate::appliance::{Appliance, Process, ProcessId, Tampering};
use crate::checks::Violation;
use crate::checks::deliveries::Deliveries;
use crate::checks::heirs::Heirs;
use crate::checks::ivs::Ivs;
use crate::checks::owners::Owners;
use crate::checks::publications::Publications;
use crate::clock::Clock;
use crate::far::StoreManner;
use crate::frames::{self, Seen};
use crate::link::Wires;
use crate::network::{ADVERSARY_STATION, Cable, Net, Network, REMOTE_STATIONS, StationId, TARGET_STATION};
use crate::plan::Plan;
use crate::planted::Planted;
use crate::remote::{Reaction, Remote};
use crate::scene::{self, Deciders, Rekey, Variant};
use crate::target;
use faults::Struck;
use registry::Registry;

/// What a frame takes where none overtakes another.
const IN_ORDER: Duration = Duration::from_micros(15);
/// Steps after which a schedule counts as never ending.
const STEPS_MAX: u64 = 2_000_000;

/// What came of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Which schedule.
    pub seed: u64,
    /// The first promise that was broken, and at which step and simulated time.
    pub violation: Option<(u64, Duration, Violation)>,
    /// Steps taken.
    pub steps: u64,
    /// Simulated time.
    pub elapsed: Duration,
    /// Of all steps: two runs of one seed have the same.
    pub digest: u64,
    /// What happened, in numbers.
    pub tally: Tally,
}

/// What happened in a schedule, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets delivered to targets.
    pub delivered: u64,
    /// (key, IV) pairs seen.
    pub ivs: u64,
    /// Takeovers from a trusted copy.
    pub resumed: u64,
    /// Takeovers without one, the first claim apart.
    pub begun_anew: u64,
    /// IKE SAs that those kept, to agree on message IDs with the remote peer (RFC 6311).
    pub kept: u64,
    /// IKE SAs that the remote peer found dead.
    pub found_dead: u64,
    /// Packets that each of two owners in a full partition delivered.
    pub excused: u64,
    /// Packets that crossed from one worker to another.
    pub handed_over: u64,
}

impl Tally {
    /// Adds another schedule's numbers.
    pub fn add(&mut self, other: &Self) {
        self.delivered += other.delivered;
        self.ivs += other.ivs;
        self.resumed += other.resumed;
        self.begun_anew += other.begun_anew;
        self.kept += other.kept;
        self.found_dead += other.found_dead;
        self.excused += other.excused;
        self.handed_over += other.handed_over;
    }
}

/// Schedules in which nothing happens but one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Only {
    /// The backup is cut off.
    Split,
    /// Moves and ends as ordered.
    Planned,
}

/// Everything that there is.
pub(crate) struct World {
    agenda: Agenda,
    rng: StdRng,
    appliances: Vec<Appliance>,
    networks: [Network; 2],
    wires: Wires,
    registry: Registry,
    manner: StoreManner,
    variant: Variant,
    /// By VIP.
    remotes: Vec<Remote>,
    remote_wakes: Vec<Option<Instant>>,
    adversary: Adversary,
    plan: Plan,
    struck: Vec<Struck>,
    last_struck: usize,
    /// Faults whose time has come, and steps to let pass first.
    pending: Vec<(usize, u32)>,
    /// Faults that wait for somebody to take a VIP: which one, and which fault.
    ambushes: Vec<(usize, usize)>,
    planted: Option<Planted>,
    ivs: Ivs,
    publications: Publications,
    deliveries: Deliveries,
    /// By group.
    owners: Vec<Owners>,
    /// By VIP.
    heirs: Vec<Heirs>,
    /// Nothing else happens.
    only: Option<Only>,
    /// Who took a VIP while it was cut off, and the IKE SAs that it got with it.
    inherited: Vec<(ProcessId, BTreeSet<u64>)>,
    /// Those by the token of the question whether it still has them.
    asked_for: BTreeMap<u64, BTreeSet<u64>>,
    /// Moves where nothing goes wrong: of which VIP, and when.
    moves: Vec<(usize, Instant)>,
    /// A group, and its owner that has the traffic while its backup is cut off.
    rightful: Option<(usize, usize)>,
    next_token: u64,
    handed_over: u64,
    /// Which VIP a successor was asked about, by the question's token.
    asked: BTreeMap<u64, usize>,
    violation: Option<Violation>,
    steps: u64,
    digest: DefaultHasher,
}

/// Runs the schedule of a seed, of a pair.
pub fn run(seed: u64, planted: Option<Planted>) -> Outcome {
    run_with(seed, planted, Deciders::Pair)
}

/// Runs the schedule of a seed.
pub fn run_with(seed: u64, planted: Option<Planted>, deciders: Deciders) -> Outcome {
    World::new(seed, planted, deciders).run(seed)
}

/// Runs the schedule of a seed in which the backup is cut off for long, and nothing else goes wrong: the owner has the traffic, and
/// is to have it when the split heals.
pub fn run_split(seed: u64, planted: Option<Planted>) -> Outcome {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut variant = draw_variant(&mut rng, planted);
    // Shorter than the split: the one that is cut off would take every remote peer for dead.
    variant.retransmission =
        Retransmission { first: Duration::from_millis(20), interval_max: Duration::from_millis(40), tries_max: 3 };
    // Of age they end all the same.
    variant.rekey.ike = None;
    if planted == Some(Planted::Impatience) {
        variant.split_patience = Duration::ZERO;
    }
    let plan = Plan::draw_split(&mut rng);
    let mut world = World::with_plan(rng, planted, variant, plan);
    world.only = Some(Only::Split);
    world.run(seed)
}

/// Runs the schedule of a seed in which VIPs are moved and processes end as they are told to, and nothing goes wrong: no IKE SA and no
/// packet is lost.
pub fn run_planned(seed: u64) -> Outcome {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut variant = draw_variant(&mut rng, None);
    variant.takeover = TakeoverPolicy::Resume;
    // A packet may be lost that isn't about moves: another one overtakes it, and then nobody knows that it is still to come.
    variant.workers = [1; scene::APPLIANCES_MAX];
    let plan = Plan::draw_planned(&mut rng);
    let mut world = World::with_plan(rng, None, variant, plan);
    world.only = Some(Only::Planned);
    world.run(seed)
}

impl World {
    fn new(seed: u64, planted: Option<Planted>, deciders: Deciders) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut variant = draw_variant(&mut rng, planted);
        let plan = match deciders {
            Deciders::Pair => Plan::draw(&mut rng),
            Deciders::Registry => {
                variant.deciders = deciders;
                variant.appliances = [2, 2, 3, 3, 3, 4, 4, scene::APPLIANCES_MAX][rng.random_range(0..8)];
                Plan::draw_with_registry(&mut rng)
            }
        };
        Self::with_plan(rng, planted, variant, plan)
    }

    fn with_plan(mut rng: StdRng, planted: Option<Planted>, variant: Variant, plan: Plan) -> Self {
        let now = Instant::now();
        let lies = Planted::lies_of_the_store(planted);
        let near = rng.random_bool(0.5) && !Planted::needs_a_far_store(planted);
        let slowest = [15, 60, 250, 1500][rng.random_range(0..4)];
        // The two agree, as far as they know: a planted fault is in nobody's digest.
        let honest = Variant { timing: [scene::timing(); scene::APPLIANCES_MAX], ..variant.clone() };
        let digest = |n| *scene::appliance_config(n, &honest).digest().as_bytes();
        let disk = vec![Some(0); variant.vips()];
        let clock = |n: usize| Clock::new(now, variant.drift[n]);
        let config = |n| scene::appliance_config(n, &variant);
        let appliance = |n| Appliance::new(config(n), digest(n), disk.clone(), variant.slices, clock(n));
        let remotes: Vec<_> = (0..variant.vips()).map(|vip| Remote::new(vip, &variant, rng.next_u64(), now)).collect();
        let mut world = Self {
            agenda: Agenda::new(now),
            appliances: (0..variant.appliances).map(appliance).collect(),
            networks: Default::default(),
            registry: Registry::default(),
            wires: Wires::default(),
            manner: StoreManner { near, slowest, fence_leaks: planted == Some(Planted::LeakyFence), lies },
            remote_wakes: vec![None; remotes.len()],
            remotes,
            adversary: Adversary::default(),
            struck: vec![Struck::default(); plan.faults.len()],
            last_struck: 0,
            plan,
            pending: Vec::new(),
            ambushes: Vec::new(),
            planted,
            ivs: Ivs::default(),
            publications: Publications::default(),
            deliveries: Deliveries::default(),
            owners: variant.groups.iter().map(|_| Owners::default()).collect(),
            heirs: (0..variant.vips()).map(|_| Heirs::default()).collect(),
            only: None,
            inherited: Vec::new(),
            asked_for: BTreeMap::new(),
            moves: Vec::new(),
            rightful: None,
            next_token: 0,
            handed_over: 0,
            asked: BTreeMap::new(),
            variant,
            violation: None,
            steps: 0,
            digest: DefaultHasher::new(),
            rng,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for appliance in 0..self.appliances.len() {
            self.start(appliance);
        }
        for absent in self.appliances.len()..scene::APPLIANCES_MAX {
            self.set_cables(absent, Cable::NoCarrier);
        }
        self.agenda.after(Duration::ZERO, Step::Meet);
        for vip in 0..self.remotes.len() {
            self.agenda.after(Duration::from_millis(150), Step::RemoteTraffic(vip));
        }
        self.agenda.after(Duration::from_millis(200), Step::Inject);
        for (index, fault) in self.plan.faults.iter().enumerate() {
            self.agenda.after(self.plan.start + fault.at, Step::Fault(index));
        }
    }

    fn run(mut self, seed: u64) -> Outcome {
        let over = self.plan.faults.iter().map(|fault| fault.at).max().unwrap_or_default();
        let over = self.plan.start + over + self.rng_span(50, 300);
        self.run_until(over);
        self.finale();
        let tally = Tally {
            delivered: self.deliveries.len() as u64,
            ivs: self.ivs.len() as u64,
            resumed: self.heirs.iter().map(|heirs| heirs.resumed).sum(),
            begun_anew: self.heirs.iter().map(|heirs| heirs.begun_anew).sum(),
            kept: self.heirs.iter().map(|heirs| heirs.kept).sum(),
            found_dead: self.remotes.iter().map(|remote| remote.found_dead).sum(),
            excused: self.deliveries.excused() as u64,
            handed_over: self.handed_over,
        };
        let (steps, elapsed) = (self.steps, self.agenda.elapsed());
        Outcome {
            seed,
            violation: self.violation.map(|violation| (steps, elapsed, violation)),
            steps,
            elapsed,
            digest: self.digest.finish(),
            tally,
        }
    }

    /// Goes on until that time, or until something breaks.
    fn run_until(&mut self, elapsed: Duration) {
        while self.violation.is_none() && self.agenda.elapsed() < elapsed {
            let Some(step) = self.agenda.next() else { return };
            self.take(step);
        }
    }

    /// Takes one step.
    fn take(&mut self, step: Step) {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return self.broken(Violation::Stuck("steps without end".to_owned()));
        }
        crate::log::set_time(self.agenda.elapsed());
        std::mem::discriminant(&step).hash(&mut self.digest);
        self.agenda.elapsed().hash(&mut self.digest);
        match step {
            Step::Core(id) => self.core_turn(id),
            Step::Worker(id, worker) => self.worker_turn(id, worker),
            Step::Arrive { net, station, frame } => self.arrive(net, station, frame),
            Step::LinkMessage { to, link, connection, bytes } => self.link_message(to, link, connection, bytes),
            Step::LinkClosed { to, link, connection } => self.link_closed(to, link, connection),
            Step::RegistryTakes { from, group, request, answered } => {
                self.registry_takes(from, group, request, answered);
            }
            Step::RegistryAnswers { to, group, reply } => self.registry_answers(to, group, reply),
            Step::RegistryHears(process) => self.registry_hears(process),
            Step::Meet => self.meet(),
            Step::StoreLands { writer, flight } => self.store_lands(writer, flight),
            Step::EarlyMark { to, link, connection } => self.early_mark(to, link, connection),
            Step::Ask { successor, vip, takeover } => self.ask(successor, vip, takeover),
            Step::FloorOnDisk { process, vip, value } => self.floor_on_disk(process, vip, value),
            Step::RemoteTimer(vip) => self.remote_timer(vip),
            Step::RemoteTraffic(vip) => self.remote_traffic(vip),
            Step::Inject => self.inject(),
            Step::Start(appliance) => self.revive(appliance, false),
            Step::Fault(index) => self.pending.push((index, self.plan.faults[index].steps)),
            Step::Mend(index) => self.mend(index),
        }
        self.strike_pending();
    }

    fn broken(&mut self, violation: Violation) {
        tracing::error!(%violation, "broken");
        self.violation.get_or_insert(violation);
    }

    fn check(&mut self, result: Result<(), Violation>) {
        if let Err(violation) = result {
            self.broken(violation);
        }
    }

    fn process(&mut self, id: ProcessId) -> Option<&mut Process> {
        self.appliances[id.appliance].process.as_mut().filter(|process| process.id == id)
    }

    fn start(&mut self, appliance: usize) {
        let tampering = Tampering {
            no_deadline: self.planted == Some(Planted::NoDeadline),
            hasty_pins: self.planted == Some(Planted::HastyPins),
        };
        if self.planted == Some(Planted::OldFloor) && self.appliances[appliance].lives > 0 {
            self.appliances[appliance].disk.fill(Some(0));
        }
        let (seed, now) = (self.rng.next_u64(), self.agenda.now());
        let id = self.appliances[appliance].start(appliance, seed, tampering, now);
        if self.variant.deciders == Deciders::Registry {
            self.registry_hears(id);
        }
        self.after_core_turn(id);
    }

    // Random spans of time.

    fn rng_span(&mut self, from_ms: u64, to_ms: u64) -> Duration {
        Duration::from_micros(self.rng.random_range(from_ms * 1000..to_ms * 1000))
    }

    fn micros(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_nanos(self.rng.random_range(from * 1000..to * 1000))
    }

    // Networks.

    /// Somebody puts a frame on a network.
    fn send(&mut self, net: Net, from: StationId, frame: &[u8]) {
        if net == Net::Outside && self.networks[net.index()].hears(from) {
            self.adversary.observe(frame);
        }
        let weather = self.networks[net.index()].weather;
        for station in self.networks[net.index()].switch(from, frame) {
            let copies =
                1 + u32::from(net == Net::Outside && self.rng.random_range(0..1000) < weather.duplicates_permille);
            for _ in 0..copies {
                if self.rng.random_range(0..1000) < weather.loss_permille {
                    continue;
                }
                let extra = weather.delay_max.as_nanos() as u64;
                let extra = if extra > 0 { self.rng.random_range(0..extra) } else { 0 };
                let delay = if self.only == Some(Only::Planned) { IN_ORDER } else { self.micros(5, 30) };
                let delay = delay + Duration::from_nanos(extra);
                self.agenda.after(delay, Step::Arrive { net, station, frame: frame.to_vec() });
            }
        }
    }

    fn arrive(&mut self, net: Net, station: StationId, frame: Vec<u8>) {
        if station < scene::APPLIANCES_MAX {
            let Some(appliance) = self.appliances.get_mut(station) else { return };
            let port = [scene::OUTSIDE, scene::INSIDE][net.index()];
            if let Some(process) = &mut appliance.process {
                let worker = process.receive(port, frame);
                let id = process.id;
                self.wake_worker(id, worker);
            }
            return;
        }
        match net {
            Net::Outside => {
                let vip = REMOTE_STATIONS.iter().position(|known| *known == station);
                if let Some((vip, remote)) = vip.and_then(|vip| Some((vip, self.remotes.get_mut(vip)?))) {
                    let reaction = remote.receive(self.agenda.now(), &frame);
                    if let Some((_, Seen::Udp(_, _, message))) = frames::read(&frame) {
                        let enabled = reaction.uses.iter().map(|used| self.publications.enable(vip, message, *used));
                        let enabled = enabled.collect();
                        self.check(enabled);
                    }
                    self.remote_reacts(vip, reaction);
                }
            }
            Net::Inside => {
                let target = station - TARGET_STATION;
                if target < scene::TARGETS.len()
                    && let Some(reply) = target::receive(target, &frame)
                {
                    self.send(net, station, &reply);
                }
            }
        }
    }

    // The remote peers and the adversary.

    fn remote_reacts(&mut self, vip: usize, reaction: Reaction) {
        if let Some(payload) = reaction.echoed_twice {
            let echoed = self.deliveries.check_echo(payload);
            self.check(echoed);
        }
        if let Some(what) = reaction.refused
            && !self.owners[self.variant.group_of(vip)].split
            && self.networks[Net::Outside.index()].weather.is_fine()
        {
            self.broken(Violation::NumberRefused { what });
        }
        for frame in reaction.frames {
            let observed = self.ivs.observe("a remote peer", &frame);
            self.check(observed);
            self.send(Net::Outside, REMOTE_STATIONS[vip], &frame);
        }
        if let Some(due) = self.remotes[vip].poll_timeout()
            && self.remote_wakes[vip].is_none_or(|wake| due < wake)
        {
            self.remote_wakes[vip] = Some(due);
            self.agenda.at(due, Step::RemoteTimer(vip));
        }
    }

    fn remote_timer(&mut self, vip: usize) {
        self.remote_wakes[vip] = None;
        let reaction = self.remotes[vip].handle_timeout(self.agenda.now());
        self.remote_reacts(vip, reaction);
    }

    fn remote_traffic(&mut self, vip: usize) {
        let packets = self.rng.random_range(1..=2);
        let reaction = self.remotes[vip].send(self.agenda.now(), packets);
        self.remote_reacts(vip, reaction);
        let next = self.rng_span(1, 5);
        self.agenda.after(next, Step::RemoteTraffic(vip));
    }

    fn inject(&mut self) {
        for _ in 0..self.rng.random_range(1..4) {
            if let Some(frame) = self.adversary.replay(&mut self.rng) {
                self.send(Net::Outside, ADVERSARY_STATION, &frame);
            }
        }
        let next = self.rng_span(2, 12);
        self.agenda.after(next, Step::Inject);
    }
}

fn draw_variant(rng: &mut StdRng, planted: Option<Planted>) -> Variant {
    let mut rekey = || {
        let mut age = || rng.random_bool(0.3).then(|| Duration::from_millis(rng.random_range(300..2000)));
        Rekey { ike: age(), child: age() }
    };
    let (ours, theirs) = (rekey(), rekey());
    // Most appliances have one worker; the appliances need not have as many.
    let [a, b] = [0, 1].map(|_| if rng.random_bool(0.6) { 1 } else { rng.random_range(2..=3) });
    let accepts = if rng.random_bool(0.3) { Accepts::Both } else { Accepts::Decrypted };
    let takeover = if rng.random_bool(0.1) { TakeoverPolicy::Renegotiate } else { TakeoverPolicy::Resume };
    let method = match rng.random_range(0..10) {
        0..4 => Method::Maglev,
        4..8 => Method::WeightedRoundRobin,
        _ => Method::WeightedLeastConnections,
    };
    // One VIP; two, each preferred by another appliance; two that move together.
    let groups = match rng.random_range(0..10) {
        0..5 => vec![vec![0]],
        5..8 => vec![vec![0], vec![1]],
        _ => vec![vec![0, 1]],
    };
    let drift = if rng.random_bool(0.4) {
        std::array::from_fn(|_| rng.random_range(-scene::DRIFT_MAX..=scene::DRIFT_MAX))
    } else {
        Default::default()
    };
    Variant {
        groups,
        takeover,
        slices: draw_slices(rng),
        workers: std::array::from_fn(|appliance| [a, b][appliance % 2]),
        accepts,
        method,
        rekey: ours,
        remote_rekey: theirs,
        timing: Planted::timing(planted, scene::timing()),
        drift: Planted::drift(planted, drift),
        appliances: 2,
        deciders: Deciders::Pair,
        retransmission: Retransmission::default(),
        split_patience: Duration::from_secs(60),
    }
}

/// There are a few SAs in a schedule, hundreds in a slice of the product's: in most schedules slices are so small that it takes several.
fn draw_slices(rng: &mut StdRng) -> Slices {
    if rng.random_bool(0.25) {
        return Slices::default();
    }
    let mut size = || rng.random_range(1..=3);
    let [woken, read, given, copied, freed, prepared, forgotten] = std::array::from_fn(|_| size());
    Slices { woken, read, given, copied, freed, prepared, forgotten }
}
