//! What an IKE SA with a child SA costs the gateway: vipsecd and strongSwan in turns, the same initiators calling both.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::{Progress, expect};
use crate::appliance::{Appliance, ApplianceConfig, IkeSettings};
use crate::charon::{Charon, CharonConfig, Child, Connection, DpdAction, RemoteAddress, Retransmit, Scale};
use crate::error::Result;
use crate::fleet::{Calls, FleetPlan};
use crate::gateway::{CHILD, Gateway, GatewayKind};
use crate::netns::Namespace;
use crate::process;
use crate::report;
use crate::supervisor::Run;
use crate::topology::{Plan, Topology, VIP};

/// Nobody asks whether anybody lives while this lasts.
const DPD_DELAY: Duration = Duration::from_secs(3600);
/// For how long it is seen what a gateway uses without callers.
const IDLE: Duration = Duration::from_secs(2);
/// Handshakes before the first that count: caches and memory are then what they are in a daemon that has run for a while.
const WARM_UP: u32 = 100;
/// For one batch of handshakes.
const LIMIT: Duration = Duration::from_secs(120);

/// What to measure.
#[derive(Debug, Clone)]
pub struct IkeConfig {
    /// How often each gateway starts afresh.
    pub turns: u32,
    /// Initiators in a batch.
    pub initiators: u32,
    /// Batches in a turn, one after the other: the SAs of those before stay.
    pub batches: u32,
    /// In a last turn of vipsecd alone: until it has so many IKE SAs. 0: no such turn.
    pub many: u32,
    /// Handshakes under way at a time.
    pub parallel: u32,
    /// Where the figures go.
    pub out: PathBuf,
}

/// A batch of handshakes.
#[derive(Debug, Clone, Serialize)]
pub struct IkeRow {
    /// Who was called.
    pub gateway: GatewayKind,
    /// In which turn.
    pub turn: u32,
    /// IKE SAs that the gateway had before.
    pub before: u32,
    /// Handshakes with a good end: an IKE SA and a child SA each.
    pub established: u64,
    /// How many in each second.
    pub per_second: f64,
    /// CPU time of the gateway's process meanwhile (user and system), per handshake.
    pub cpu_us: f64,
    /// The same without what it uses when nobody calls.
    pub net_cpu_us: f64,
    /// What it uses when nobody calls, of one processor.
    pub idle_percent: f64,
    /// Half of the handshakes took less.
    pub p50_ms: Option<f64>,
    /// All but one in a hundred took less.
    pub p99_ms: Option<f64>,
    /// Memory of the gateway's process in RAM in the end.
    pub resident_kib: i64,
}

/// Measures both gateways in turns.
pub fn play(config: &IkeConfig, progress: &Progress) -> Result<Vec<IkeRow>> {
    let mut rows = Vec::new();
    for turn in 0..config.turns {
        for gateway in [GatewayKind::Vipsec, GatewayKind::Strongswan] {
            rows.extend(take_turn(config, gateway, turn, config.batches, progress)?);
        }
    }
    if config.many > 0 {
        let batches = config.many.div_ceil(config.initiators.max(1));
        rows.extend(take_turn(config, GatewayKind::Vipsec, config.turns, batches, progress)?);
    }
    report::write_json(&config.out, &rows)?;
    Ok(rows)
}

fn take_turn(
    config: &IkeConfig,
    kind: GatewayKind,
    turn: u32,
    batches: u32,
    progress: &Progress,
) -> Result<Vec<IkeRow>> {
    let scene = Scene::start(kind)?;
    let calls = |first, count| Calls { first, count, parallel: config.parallel, rate: None, limit: LIMIT, keep: None };
    let warm_up = scene.call(calls(0, WARM_UP))?;
    expect(warm_up.established == u64::from(WARM_UP), "SAs for all initiators", || format!("{warm_up:?}"))?;
    let before = scene.cpu()?;
    std::thread::sleep(IDLE);
    let idle = scene.cpu()?.saturating_sub(before).as_secs_f64() / IDLE.as_secs_f64();
    let mut rows = Vec::new();
    for batch in 0..batches {
        let first = WARM_UP + batch * config.initiators;
        let began = std::time::Instant::now();
        let before = scene.cpu()?;
        let fleet = scene.call(calls(first, config.initiators))?;
        let spent = scene.cpu()?.saturating_sub(before).as_secs_f64();
        let net = (spent - idle * began.elapsed().as_secs_f64()).max(0.0);
        expect(fleet.established > 0, "SAs", || format!("{fleet:?}"))?;
        let each = |seconds: f64| seconds * 1e6 / fleet.established as f64;
        let row = IkeRow {
            gateway: kind,
            turn,
            before: first,
            established: fleet.established,
            per_second: fleet.per_second,
            cpu_us: each(spent),
            net_cpu_us: each(net),
            idle_percent: idle * 100.0,
            p50_ms: fleet.handshake.map(|times| times.p50_ms),
            p99_ms: fleet.handshake.map(|times| times.p99_ms),
            resident_kib: process::resident_kib(scene.pid()),
        };
        progress.step(&format!(
            "{kind:?}, {first} SAs before: {} of {} handshakes, {:.0} us of CPU each ({:.0} without {:.1} % idle), {:.0} per second, {} MiB; {:?}",
            row.established, config.initiators, row.cpu_us, row.net_cpu_us, row.idle_percent, row.per_second, row.resident_kib / 1024, fleet.ends
        ));
        rows.push(row);
    }
    Ok(rows)
}

/// A gateway and the host that the initiators live on. What is dropped first comes first.
struct Scene {
    gateway: Gateway,
    topology: Topology,
    fleet: FleetPlan,
    settings: IkeSettings,
    run: Run,
}

impl Scene {
    fn start(kind: GatewayKind) -> Result<Self> {
        let (run, plan) = (Run::begin()?, Plan::new(1, 1, 1));
        let (fleet, settings) = (FleetPlan::default(), IkeSettings::default());
        let topology = Topology::build(&run, &plan)?;
        let hosts = (topology.peers.first(), topology.appliances.first(), plan.appliances.first());
        let (Some(peer), Some(host), Some(appliance)) = hosts else { unreachable!("the plan has one of each") };
        fleet.settle(peer)?;
        let folder = run.folder().join("gateway");
        let mut gateway = match kind {
            GatewayKind::Vipsec => {
                let prefix = run.name_of(&appliance.name);
                let config = ApplianceConfig::new(&plan, appliance, &settings, DPD_DELAY, prefix).with_fleet(&fleet);
                Gateway::Vipsec(Appliance::launch(host, &folder, &config)?)
            }
            GatewayKind::Strongswan => Gateway::Strongswan(start_charon(host, &folder, &fleet, &settings)?),
        };
        gateway.await_answer()?;
        Ok(Self { gateway, topology, fleet, settings, run })
    }

    fn call(&self, calls: Calls) -> Result<crate::fleet::FleetReport> {
        let Some(peer) = self.topology.peers.first() else { unreachable!("the plan has one") };
        self.fleet.call(peer, self.run.folder(), &self.settings, calls)
    }

    fn cpu(&self) -> Result<Duration> {
        process::cpu_time(self.pid())
    }

    fn pid(&self) -> u32 {
        match &self.gateway {
            Gateway::Vipsec(appliance) => appliance.pid(),
            Gateway::Strongswan(charon) => charon.pid(),
        }
    }
}

/// strongSwan as it does best: the VIP is its address, and nothing is forwarded.
fn start_charon(
    host: &Namespace,
    folder: &std::path::Path,
    fleet: &FleetPlan,
    settings: &IkeSettings,
) -> Result<Charon> {
    host.ip(&[format!("address add {VIP}/24 dev out0"), format!("route add {} via {}", fleet.network, fleet.host)])?;
    let connection = Connection {
        name: "fleet".to_owned(),
        local_address: VIP.into(),
        remote_address: RemoteAddress::Any,
        local_id: settings.gateway_id.clone(),
        remote_id: "%any".to_owned(),
        secret: settings.secret.clone(),
        proposals: settings.proposals.clone(),
        dpd_delay: None,
        rekey_time: None,
        children: vec![Child {
            name: CHILD.to_owned(),
            local_ts: vec![format!("{VIP}/32")],
            remote_ts: vec![fleet.inner_network.clone()],
            esp_proposals: settings.esp_proposals.clone(),
            rekey_time: None,
            dpd_action: DpdAction::Clear,
        }],
    };
    let config =
        CharonConfig { connections: vec![connection], retransmit: Retransmit::default(), scale: Scale::Thousands };
    std::fs::create_dir_all(folder).ok();
    Charon::start(host, folder, &config)
}
