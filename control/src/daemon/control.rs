//! The control core's thread: waits for whatever comes first, feeds the core, does what it says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, bounded};
use rand::rngs::{StdRng, SysRng};
use rand::{Rng, SeedableRng};

use vipsec_dataplane::deadline::Deadline;
use vipsec_dataplane::run::Polling;
use vipsec_dataplane::worker::WorkerConfig;
use vipsec_store::Versions;
use vipsec_takeover::registry::Process;
use vipsec_takeover::timing::Timing;
use vipsec_wire::ethernet::MacAddr;
use vipsec_wire::iv::ApplianceId;

use super::DaemonError;
use super::etcd::Registry;
use super::fitness::Fitness;
use super::floors::{FloorFiles, FloorSaver};
use super::keylog::KeyLogFiles;
use super::link::{self, Link, LinkEvent};
use super::ports::Hardware;
use super::prober::Prober;
use super::punctuality::Punctuality;
use super::reload::{ConfigSource, Reloader};
use super::teller::Teller;
use super::workers::Workers;
use super::{hardening, signals};
use crate::api::{ApiError, Call, ErrorKind, Limits, Request, Response, Server};
use crate::config::{self, Config, ConfigErrors};
use crate::core::{Core, Facts, Output, Slices, Surroundings};

/// Requests of operators that may wait.
const CALLS_LEN: usize = 64;
/// Workers' events that are handled in one step: what a burst of them leads to is done once, and nothing else waits long.
const EVENTS_TOGETHER: usize = 256;
/// How often a store across a network is asked for an acknowledgement that a message or packets wait for: a part of a round trip.
const ACKNOWLEDGEMENT_LOOK: Duration = Duration::from_micros(50);
/// How often a full channel or the end of a capture is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// Child SAs of a worker: a backstop. How many there may be is for [ike.limits] to say, which a reload may change.
const SAS_MAX: usize = 1 << 21;
/// After the captures' end, nothing may have happened for so long.
const QUIET: Duration = Duration::from_millis(200);

/// Everything that the thread waits for or acts on.
struct Daemon {
    config: Arc<Config>,
    core: Core,
    workers: Workers,
    floors: FloorSaver,
    prober: Prober,
    teller: Teller,
    calls: HashMap<u64, Call>,
    next_call: u64,
    /// One for each group and each other appliance with a rank in it.
    links: Vec<Link>,
    /// Decides over ownership, where the two of a pair don't do it themselves.
    registry: Option<Registry>,
    fitness: Fitness,
    punctuality: Punctuality,
    key_log: Option<KeyLogFiles>,
    reloader: Reloader,
    shutdown: bool,
    // Last, so that they go last.
    hardware: Hardware,
}

/// Runs an appliance until it is told to end.
pub(super) fn serve(
    source: ConfigSource,
    config: Arc<Config>,
    versions: Versions,
    exit_at_end: bool,
) -> Result<(), DaemonError> {
    let signals = signals::catch()?;
    let (calls, inbox) = bounded(CALLS_LEN);
    let server = Server::bind(&config.appliance.control_socket, calls, Limits::default())?;
    let mut daemon = Daemon::start(source, config, versions)?;
    hardening::protect_memory();
    let ends = exit_at_end.then(|| daemon.hardware.finite_inputs());
    if ends == Some(0) {
        return Err(DaemonError::NoEnd);
    }
    let precedence = hardening::Precedence::take();
    daemon.serve(&inbox, &signals, ends)?;
    drop(precedence);
    daemon.workers.stop();
    drop(server);
    if exit_at_end {
        let counters = daemon.core.counter_sums();
        println!("{}", serde_json::to_string(&counters).unwrap_or_default());
    }
    Ok(())
}

impl Daemon {
    fn start(source: ConfigSource, config: Arc<Config>, versions: Versions) -> Result<Self, DaemonError> {
        let files = FloorFiles::open(&config.appliance.state_dir)?;
        let floors = config.vips.iter().map(|vip| files.load(&vip.name)).collect::<Result<Vec<_>, _>>()?;
        let names = config.vips.iter().map(|vip| vip.name.clone()).collect();
        let floors_saver = files.saver(names)?;

        let key_log = config.ike.key_log.as_deref().map(KeyLogFiles::open).transpose()?;

        let prober = Prober::start(config.targets.iter().map(|target| target.checks.len()).sum())?;
        let teller = Teller::start(config.target_agents.as_ref())?;
        let count = config.appliance.workers;
        let (hardware, shares) = Hardware::start(&config, count)?;
        let macs: Vec<MacAddr> = hardware.ports.iter().map(|port| MacAddr(port.mac())).collect();
        let tables = config.tables(|port| macs.get(usize::from(port.0)).copied().unwrap_or_default())?;
        let now = Instant::now();
        let deadline = Deadline::never(now);
        deadline.expire();
        let mut rng = StdRng::try_from_rng(&mut SysRng).map_err(std::io::Error::other)?;
        let waiting = config.packet_memory().waiting_packets_max;
        let worker_config = WorkerConfig {
            engine: config.appliance.engine,
            hash_seed: rng.next_u64(),
            connections: config.connection_table,
            sas_max: SAS_MAX,
            pins: !config.peers.is_empty(),
            parked_packets_max: waiting,
            unpinned_packets_max: waiting,
            held_packets_max: waiting,
            // What waited leaves at once.
            transmit_packets_max: waiting,
            ..WorkerConfig::default()
        };
        let polling = match config.appliance.polling {
            config::Polling::Adaptive => Polling::ADAPTIVE,
            config::Polling::Busy => Polling::Busy,
        };
        let workers = Workers::start(&hardware, shares, &worker_config, &Arc::new(tables.clone()), &deadline, polling)?;
        let incarnation: [u8; 16] = std::array::from_fn(|_| rng.next_u32() as u8);
        let mut links = Vec::new();
        for (number, group) in config.groups.iter().enumerate() {
            let ranks = group.ranks();
            for peer in config.peers.iter().filter(|_| ranks.contains(&config.appliance.id)) {
                if ranks.contains(&peer.id) {
                    links.push(Link::start(&config, peer, number, incarnation, versions, StdRng::from_rng(&mut rng))?);
                }
            }
        }
        let registry = config.etcd.as_ref().map(|etcd| {
            let me = Process { appliance: config.appliance.id, incarnation: link::short_incarnation(incarnation) };
            Registry::start(etcd, me, config.groups.iter().map(|group| group.name.clone()).collect())
        });
        let registry = registry.transpose()?;
        let surroundings = Surroundings {
            counters: workers.counters(),
            tables,
            deadline,
            floors,
            incarnation: link::short_incarnation(incarnation),
            health_seed: rng.next_u64(),
            rng: Box::new(rng),
            facts: Facts::default(),
            slices: Slices::default(),
        };
        let timing = config.shared().map_or_else(Timing::default, |peer| peer.timing);
        let fitness = Fitness::new(count, timing.interval, timing.detection, now);
        let core = Core::new(config.clone(), surroundings, now);
        tracing::info!(
            appliance = config.appliance.name,
            id = %config.appliance.id,
            engine = %worker_config.engine,
            workers = count,
            hugepages = hardware.in_hugepages(),
            "started"
        );
        if let Some(caveat) = worker_config.engine.caveat(count) {
            tracing::warn!(engine = %worker_config.engine, "{caveat}");
        }
        Ok(Self {
            config,
            core,
            workers,
            floors: floors_saver,
            prober,
            teller,
            calls: HashMap::new(),
            next_call: 0,
            links,
            registry,
            fitness,
            punctuality: Punctuality::new(timing.interval, now),
            key_log,
            reloader: Reloader::new(source),
            shutdown: false,
            hardware,
        })
    }

    /// Serves until told to end; with `ends`, until that many captures have ended and nothing happens any more.
    fn serve(
        &mut self,
        calls: &Receiver<Call>,
        signals: &Receiver<nix::sys::signal::Signal>,
        ends: Option<usize>,
    ) -> Result<(), DaemonError> {
        let mut quiet_since = Instant::now();
        self.punctuality.begin(quiet_since);
        loop {
            self.do_outputs()?;
            self.core.end_step(Instant::now());
            if self.core.is_serving() {
                self.workers.open_captures();
            }
            if self.shutdown {
                return Ok(());
            }
            let now = Instant::now();
            let mut until = self.core.poll_timeout();
            if self.core.awaits_acknowledgements() {
                until = until.min(now + ACKNOWLEDGEMENT_LOOK);
            }
            if self.workers.have_backlog() || ends.is_some() {
                until = until.min(now + LOOK_AGAIN);
            }
            if let Some(ends) = ends
                && self.workers.ended() >= ends
                && now >= quiet_since + QUIET
            {
                return Ok(());
            }
            if self.wait(calls, signals, until)? {
                quiet_since = Instant::now();
            }
        }
    }

    /// Waits for one thing and handles it. False if only time has passed.
    fn wait(
        &mut self,
        calls: &Receiver<Call>,
        signals: &Receiver<nix::sys::signal::Signal>,
        until: Instant,
    ) -> Result<bool, DaemonError> {
        let saved = self.floors.done().clone();
        let checked = self.prober.results().clone();
        let told = self.teller.results().clone();
        let loaded = self.reloader.loaded().clone();
        let events: Vec<_> = self.workers.events().cloned().collect();
        let mut select = Select::new();
        for events in &events {
            select.recv(events);
        }
        let at_calls = select.recv(calls);
        let at_signals = select.recv(signals);
        let at_saved = select.recv(&saved);
        let at_checked = select.recv(&checked);
        let at_told = select.recv(&told);
        let at_loaded = select.recv(&loaded);
        let replies = self.registry.as_ref().map(|registry| registry.replies().clone());
        let at_replies = replies.as_ref().map(|replies| select.recv(replies));
        let notices: Vec<_> = self.links.iter().map(|link| link.notices().clone()).collect();
        let at_links: Vec<usize> = notices.iter().map(|notices| select.recv(notices)).collect();
        self.punctuality.sleep(Instant::now(), until);
        let ready = select.select_deadline(until);
        let now = Instant::now();
        self.punctuality.wake(now);
        let Ok(ready) = ready else {
            if self.core.poll_timeout() <= now {
                self.pass_time(now);
            } else if self.core.awaits_acknowledgements() {
                self.core.handle_acknowledgements(now);
            }
            if !self.workers.send_backlogs() {
                return Err(DaemonError::WorkerGone(0));
            }
            return Ok(false);
        };
        let index = ready.index();
        if let Some(at) = at_links.iter().position(|at| *at == index)
            && let (Some(notices), Some(link)) = (notices.get(at), self.links.get_mut(at))
        {
            if let Ok(notice) = ready.recv(notices) {
                link.take(notice);
            }
            self.poll_link(at);
        } else if Some(index) == at_replies
            && let Some(replies) = &replies
        {
            if let Ok((group, reply)) = ready.recv(replies) {
                self.core.handle_registry(Instant::now(), group, reply);
            }
        } else if index == at_calls {
            if let Ok(call) = ready.recv(calls) {
                self.take_call(call);
            }
        } else if index == at_signals {
            if let Ok(signal) = ready.recv(signals) {
                if signal == nix::sys::signal::Signal::SIGHUP {
                    self.reloader.begin(None);
                    return Ok(true);
                }
                tracing::info!(%signal, "told to end");
                self.core.handle_shutdown(Instant::now());
            }
        } else if index == at_saved {
            if let Ok((vip, value)) = ready.recv(&saved) {
                self.core.handle_floor_saved(Instant::now(), vip, value);
            }
        } else if index == at_checked {
            if let Ok((run, outcome)) = ready.recv(&checked) {
                self.core.handle_check_result(Instant::now(), run, outcome);
            }
        } else if index == at_told {
            if let Ok((telling, answer)) = ready.recv(&told) {
                self.core.handle_told(Instant::now(), telling, answer);
            }
        } else if index == at_loaded {
            if let Ok((token, loaded)) = ready.recv(&loaded) {
                self.take_configuration(token, loaded);
            }
        } else if let Some(events) = events.get(index) {
            match ready.recv(events) {
                Ok(event) => {
                    let more = self.workers.waiting_events().take(EVENTS_TOGETHER);
                    self.core.handle_events(Instant::now(), std::iter::once((index, event)).chain(more));
                }
                Err(_) => return Err(DaemonError::WorkerGone(index)),
            }
        }
        // Timers don't wait for a flood of events to end.
        let now = Instant::now();
        if self.core.poll_timeout() <= now {
            self.pass_time(now);
        }
        Ok(true)
    }

    /// A timer is due. Everything that arrived before comes first: silence is judged only then.
    fn pass_time(&mut self, now: Instant) {
        for at in 0..self.links.len() {
            self.poll_link(at);
        }
        while let Some((group, reply)) = self.registry.as_ref().and_then(|registry| registry.replies().try_recv().ok())
        {
            self.core.handle_registry(now, group, reply);
        }
        // What a worker has heard before it was seen to go on is here now.
        self.fitness.look(now, || self.workers.advanced());
        self.core.handle_events(now, self.workers.waiting_events());
        if !self.links.is_empty() {
            self.core.handle_health(self.fitness.judge(self.hardware.links_up(&self.config)));
        }
        self.core.handle_timeout(now);
    }

    fn poll_link(&mut self, at: usize) {
        let Some(link) = self.links.get_mut(at) else { return };
        let (group, peer, now) = (link.group(), link.peer(), Instant::now());
        while let Some(event) = link.poll() {
            match event {
                LinkEvent::Up(paired) => self.core.handle_link_up(now, group, peer, *paired),
                LinkEvent::Message(message) => self.core.handle_link_message(now, group, peer, &message),
                LinkEvent::NoCommonVersion => self.core.handle_no_common_version(now, group, peer),
                LinkEvent::Down => self.core.handle_link_down(now, group, peer),
            }
        }
    }

    fn link(&mut self, group: usize, peer: ApplianceId) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| (link.group(), link.peer()) == (group, peer))
    }

    fn take_call(&mut self, call: Call) {
        let now = Instant::now();
        if call.request == Request::Status {
            let facts = self.facts();
            self.core.set_facts(facts);
        }
        self.next_call += 1;
        let token = self.next_call;
        let request = call.request.clone();
        self.calls.insert(token, call);
        self.core.handle_request(now, token, request);
    }

    fn reply(&mut self, token: u64, answer: Result<Response, ApiError>) {
        if let Some(call) = self.calls.remove(&token) {
            call.answer(answer);
        }
    }

    /// The configuration was read anew: it is taken as a whole, or nothing changes.
    fn take_configuration(&mut self, token: Option<u64>, loaded: Result<Config, ConfigErrors>) {
        self.reloader.end();
        let taken = loaded.map_err(|errors| errors.to_string()).and_then(|config| self.reload(config));
        let answer = match taken {
            Ok(changes) => {
                tracing::info!(?changes, "configuration reloaded");
                Ok(Response::Reloaded { changes })
            }
            Err(error) => {
                tracing::error!(%error, "configuration not reloaded; nothing has changed");
                Err(ApiError::new(ErrorKind::Refused, error))
            }
        };
        if let Some(token) = token {
            self.reply(token, answer);
        }
    }

    fn reload(&mut self, config: Config) -> Result<Vec<String>, String> {
        let config = Arc::new(config);
        let key_log = config.ike.key_log.as_deref().filter(|_| config.ike.key_log != self.config.ike.key_log);
        let key_log = key_log.map(KeyLogFiles::open).transpose().map_err(|error| error.to_string())?;
        let checks = config.targets.iter().map(|target| target.checks.len()).sum();
        self.prober.grow(checks).map_err(|error| error.to_string())?;
        let changes = self.core.reload(Instant::now(), config.clone()).map_err(|error| error.to_string())?;
        if config.ike.key_log != self.config.ike.key_log {
            self.key_log = key_log;
        }
        for link in &mut self.links {
            link.set_digest(config.digest());
        }
        self.config = config;
        Ok(changes)
    }

    fn facts(&mut self) -> Facts {
        Facts {
            hugepages: self.hardware.in_hugepages(),
            engine: self.config.appliance.engine.to_string(),
            ports: self.hardware.facts(&self.config),
            crypto_device: self.hardware.crypto_facts(&self.config),
            workers_alive: self.fitness.advancing(),
        }
    }

    fn do_outputs(&mut self) -> Result<(), DaemonError> {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Worker(worker, command) => {
                    if !self.workers.command(worker, command) {
                        return Err(DaemonError::WorkerGone(worker));
                    }
                }
                Output::SaveFloor { vip, value } => self.floors.save(vip, value),
                Output::Reload(token) => {
                    if !self.reloader.begin(Some(token)) {
                        self.reply(
                            token,
                            Err(ApiError::new(ErrorKind::Busy, "the configuration is being read already")),
                        );
                    }
                }
                Output::Reply(token, answer) => self.reply(token, answer),
                Output::LinkSend { group, peer, message } => {
                    if let Some(link) = self.link(group, peer) {
                        link.send(&message);
                    }
                }
                Output::Registry { group, request } => {
                    if let Some(registry) = &self.registry {
                        registry.ask(group, request);
                    }
                }
                Output::LinkClose { group, peer } => {
                    if let Some(link) = self.link(group, peer) {
                        link.close();
                    }
                }
                Output::Check { run, check } => self.prober.run(run, check),
                Output::Tell(telling) => self.teller.tell(telling),
                Output::KeyLog(keys) => {
                    if let Some(key_log) = &mut self.key_log {
                        key_log.write(&keys);
                    }
                }
                Output::Shutdown => self.shutdown = true,
            }
        }
        Ok(())
    }
}
