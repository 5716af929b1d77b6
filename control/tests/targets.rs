//! What becomes of health and the operator's orders: the core makes a new distribution table for the workers.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use vipsec_agent::AgentReport;
use vipsec_agent::server::{Sources, serve};
use vipsec_control::api::{ErrorKind, Request, Response};
use vipsec_control::config::{Check, TestConfiguration, load};
use vipsec_control::core::{Core, Facts, Output, Slices, Surroundings};
use vipsec_control::health::{Failure, Outcome, Run, Success, probe};
use vipsec_dataplane::api::{Command, Event, Report, ReportKind, Tables};
use vipsec_dataplane::counters::Counters;
use vipsec_dataplane::deadline::Deadline;
use vipsec_distribute::service::TargetState;
use vipsec_takeover::floor::Floor;
use vipsec_wire::ethernet::MacAddr;

const CONFIG: &str = r#"
    appliance = { id = 1, name = "a" }
    [[port]]
    name = "out"
    side = "outside"
    device = "net_ring0"
    addresses = ["192.0.2.11/24"]
    [[port]]
    name = "in"
    side = "inside"
    device = "net_ring1"
    addresses = ["10.1.0.11/24"]
    [[vip]]
    name = "web"
    address = "192.0.2.1"
    port = "out"
    [[target]]
    name = "t1"
    address = "10.1.0.21"
    weight = 10
    [[target.check]]
    kind = "agent"
    address = "127.0.0.1"
    port = 9777
    timeout = "10s"
    fall = 1
    rise = 1
    [[target]]
    name = "t2"
    address = "10.1.0.22"
    weight = 10
    [[service]]
    vip = "web"
    targets = ["t1", "t2"]
"#;

/// A core and what it has said.
struct Bench {
    core: Core,
    now: Instant,
    tables: Vec<Arc<Tables>>,
    checks: Vec<(Run, Box<Check>)>,
    answers: BTreeMap<u64, Result<Response, ErrorKind>>,
    asked: u64,
}

impl Bench {
    fn new() -> Self {
        Self::with(CONFIG)
    }

    fn with(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("vipsec.toml");
        fs::write(&file, config).unwrap();
        let config = Arc::new(load(&file, TestConfiguration::Refused).unwrap());
        let now = Instant::now();
        let surroundings = Surroundings {
            counters: vec![Arc::new(Counters::default())],
            tables: config.tables(|_| MacAddr::default()).unwrap(),
            deadline: Deadline::never(now),
            floors: vec![Floor::from_disk(None)],
            incarnation: 1,
            health_seed: 1,
            rng: Box::new(StdRng::seed_from_u64(1)),
            facts: Facts::default(),
            slices: Slices::default(),
        };
        let core = Core::new(config, surroundings, now);
        let mut bench = Self { core, now, tables: Vec::new(), checks: Vec::new(), answers: BTreeMap::new(), asked: 0 };
        bench.listen();
        bench.tables.clear();
        bench
    }

    fn listen(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Worker(0, Command::Tables { version, tables }) => {
                    self.tables.push(tables);
                    self.core.handle_events(self.now, [(0, Event::TablesInForce(version))]);
                }
                Output::Worker(0, Command::Announce { version, .. }) => {
                    self.core.handle_events(self.now, [(0, Event::ServicesPinned(version))]);
                }
                Output::Worker(0, Command::Report { token, what: ReportKind::Targets }) => {
                    let report = Report::Targets(vec![([10, 1, 0, 21].into(), 3)]);
                    self.core.handle_events(self.now, [(0, Event::Report { token, report })]);
                }
                Output::Check { run, check } => self.checks.push((run, check)),
                Output::Reply(token, answer) => {
                    self.answers.insert(token, answer.map_err(|error| error.kind));
                }
                _ => {}
            }
        }
    }

    /// Waits for the next check, and ends it so.
    fn check(&mut self, outcome: Outcome) {
        self.check_by(|_| outcome);
    }

    /// Waits for the next check, and runs it so.
    fn check_by(&mut self, run_check: impl FnOnce(&Check) -> Outcome) {
        while self.checks.is_empty() {
            self.now = self.core.poll_timeout().max(self.now);
            self.core.handle_timeout(self.now);
            self.listen();
        }
        let (run, check) = self.checks.remove(0);
        self.core.handle_check_result(self.now, run, run_check(&check));
        self.listen();
    }

    fn agent_says(&mut self, share_percent: u16) {
        let report = AgentReport { works: Some(true), welcomes: Some(true), share_percent: Some(share_percent) };
        self.check(Ok(Success { agent: Some(report) }));
    }

    fn ask(&mut self, request: Request) -> Result<Response, ErrorKind> {
        self.asked += 1;
        self.core.handle_request(self.now, self.asked, request);
        self.listen();
        self.answers.remove(&self.asked).unwrap()
    }

    /// State and weight of each target in the tables that came since the last call.
    fn new_tables(&mut self) -> Vec<[(TargetState, u16); 2]> {
        let targets = |tables: Arc<Tables>| {
            let targets = tables.services.targets();
            [0, 1].map(|number| (targets[number].state, targets[number].weight))
        };
        std::mem::take(&mut self.tables).into_iter().map(targets).collect()
    }
}

const UP: (TargetState, u16) = (TargetState::Up, 1000);

#[test]
fn a_target_that_fails_its_check_gets_nothing_until_it_passes() {
    let mut bench = Bench::new();
    bench.check(Err(Failure::Timeout));
    assert_eq!(bench.new_tables(), [[(TargetState::Down, 1000), UP]]);
    bench.check(Err(Failure::Timeout));
    assert!(bench.new_tables().is_empty(), "nothing new");
    let Ok(Response::Targets { entries }) = bench.ask(Request::Targets) else { panic!("no targets") };
    assert_eq!((entries[0].state.as_str(), entries[1].state.as_str()), ("down", "up"));
    assert_eq!((entries[0].connections, entries[1].connections), (3, 0));
    assert_eq!(entries[0].checks[0].failure.as_deref(), Some("no answer in time"));
    let Ok(Response::Services { entries }) = bench.ask(Request::Services) else { panic!("no services") };
    let parts: Vec<_> = entries[0].targets.iter().map(|target| target.part_percent).collect();
    assert_eq!(parts, [0, 100]);
    bench.agent_says(100);
    assert_eq!(bench.new_tables(), [[UP, UP]]);
}

#[test]
fn an_agents_share_counts_when_it_moves_by_a_step() {
    let mut bench = Bench::new();
    for (share, tables) in [
        (95, vec![]),
        (91, vec![]),
        (90, vec![[(TargetState::Up, 900), UP]]),
        (99, vec![]),
        (80, vec![[(TargetState::Up, 800), UP]]),
        (85, vec![]),
        (0, vec![[(TargetState::Drain, 800), UP]]),
        (100, vec![[UP, UP]]),
    ] {
        bench.agent_says(share);
        assert_eq!(bench.new_tables(), tables, "{share} %");
    }
}

/// The agent's program and the check that asks it, over a socket.
#[test]
fn an_agent_on_the_target_moves_its_weight() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state");
    fs::write(&file, "40%").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let sources =
        Sources { load_full: None, file: Some(file.clone()), command: None, command_max: Duration::from_secs(1) };
    thread::spawn(move || serve(&listener, sources, Duration::from_millis(10)));

    let mut bench = Bench::with(&CONFIG.replace("port = 9777", &format!("port = {port}")));
    bench.check_by(probe::run);
    assert_eq!(bench.new_tables(), [[(TargetState::Up, 400), UP]]);
    for (line, expected) in [("drain", TargetState::Drain), ("down #no disk", TargetState::Down), ("", TargetState::Up)]
    {
        fs::write(&file, line).unwrap();
        let start = Instant::now();
        while bench.new_tables().last().is_none_or(|[(state, _), _]| *state != expected) {
            assert!(start.elapsed() < Duration::from_secs(30), "never {expected:?}");
            bench.check_by(probe::run);
        }
    }
}

#[test]
fn the_operator_drains_a_target_and_enables_it_again() {
    let mut bench = Bench::new();
    let drain = |target: &str| Request::DrainTarget { target: target.to_owned() };
    assert_eq!(bench.ask(drain("t2")), Ok(Response::DONE));
    assert_eq!(bench.new_tables(), [[UP, (TargetState::Drain, 1000)]]);
    assert_eq!(bench.ask(drain("t2")), Ok(Response::DONE));
    assert!(bench.new_tables().is_empty(), "it is drained already");
    let Ok(Response::Targets { entries }) = bench.ask(Request::Targets) else { panic!("no targets") };
    assert_eq!((entries[0].drained, entries[1].drained), (false, true));
    assert_eq!(bench.ask(drain("t9")), Err(ErrorKind::NotFound));
    assert_eq!(bench.ask(Request::EnableTarget { target: "t2".to_owned() }), Ok(Response::DONE));
    assert_eq!(bench.new_tables(), [[UP, UP]]);
}

#[test]
fn a_drained_target_that_fails_gets_nothing_at_all() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask(Request::DrainTarget { target: "t1".to_owned() }), Ok(Response::DONE));
    bench.check(Err(Failure::Connect("refused".to_owned())));
    bench.agent_says(100);
    let states: Vec<_> = bench.new_tables().into_iter().map(|[(state, _), _]| state).collect();
    assert_eq!(states, [TargetState::Drain, TargetState::Down, TargetState::Drain]);
}
