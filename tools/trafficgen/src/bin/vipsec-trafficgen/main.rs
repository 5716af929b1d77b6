//! `vipsec-trafficgen`: makes, sends, receives and checks numbered packets, in clear or in ESP.
#![forbid(unsafe_code)]

mod appliance;
mod args;
mod clock;
mod devices;
mod drive;
mod plan;
mod table;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::{fs, io};

use serde::Serialize;
use thiserror::Error;
use tracing_subscriber::EnvFilter;
use vipsec_control::api::ClientError;
use vipsec_hw::Mempool;
use vipsec_trafficgen::generator::Generator;
use vipsec_trafficgen::report::RunReport;
use vipsec_trafficgen::search::{Search, SearchPlan, SearchReport};
use vipsec_trafficgen::stream::Load;
use vipsec_wire::ethernet::MacAddr;

use appliance::ApplianceReport;
use args::{Arguments, ForwardMode};
use devices::{Devices, DevicesError};
use drive::Driver;
use plan::Impossible;
use table::Watch;
use vipsec_stop::Stop;

/// Why there is no result.
#[derive(Debug, Error)]
enum Failure {
    #[error(transparent)]
    Impossible(#[from] Impossible),
    #[error(transparent)]
    Devices(#[from] DevicesError),
    #[error("nobody answers for {address} on port {port}: is the link up? --eth-peer={port},MAC sends without asking")]
    Unresolved { port: usize, address: IpAddr },
    #[error("stopped before it began")]
    Stopped,
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{}: {error}", path.display())]
    Json { path: PathBuf, error: io::Error },
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Everything, for programs.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    command: Vec<String>,
    /// When the last run began: nanoseconds since 1970.
    began_unix_ns: u64,
    devices: Vec<DeviceReport>,
    /// The run, or the trials of a search in their order.
    runs: Vec<RunReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    search: Option<SearchReport>,
    /// What the vipsecd under test counted meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    appliance: Option<ApplianceReport>,
}

#[derive(Debug, Serialize)]
struct DeviceReport {
    device: String,
    driver: String,
    mac: String,
    /// Packets that the device dropped because nobody fetched them, or for want of memory.
    rx_missed: u64,
    tx_errors: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::of_process();
    let filter = EnvFilter::try_from_env("VIPSEC_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false).init();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("vipsec-trafficgen: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let stop = Stop::on_signals()?;
    let config = plan::config(arguments)?;
    let appliance = plan::appliance(arguments, config.as_ref())?;
    let devices = Devices::start(arguments)?;
    let mut generator = plan::generator(arguments, config.as_ref(), appliance.as_ref(), &devices)?;
    let ends_with_input = matches!(arguments.packet.forward_mode, ForwardMode::Rxonly | ForwardMode::FiveTupleSwap);
    let mut driver = Driver::new(devices, stop, arguments.load.polling, ends_with_input);
    if !driver.resolve(&mut generator, arguments.port.arp_timeout) {
        let unresolved = generator.unresolved().next();
        return Err(unresolved.map_or(Failure::Stopped, |(port, address)| Failure::Unresolved { port, address }));
    }
    let load = plan::load(arguments);
    let (runs, search) = match plan::search(arguments) {
        Some(plan) => search(&mut driver, &mut generator, plan, load),
        None => {
            let mut watch = Watch::new(arguments, &driver.devices);
            generator.begin(clock::now(), load);
            driver.run(&mut generator, |now, generator| watch.look(now, generator));
            (vec![generator.report()], None)
        }
    };
    let appliance = appliance.map(appliance::Appliance::report).transpose()?;
    if let Some(last) = runs.last() {
        table::run(last);
    }
    if let Some(search) = &search {
        table::search(search);
    }
    if let Some(appliance) = &appliance {
        table::appliance(appliance);
    }
    for (what, recorder) in [("received", &driver.devices.record_rx), ("sent", &driver.devices.record_tx)] {
        if let Some(recorder) = recorder.as_ref().filter(|recorder| recorder.lost > 0) {
            eprintln!("vipsec-trafficgen: {} {what} frames are missing from their capture", recorder.lost);
        }
    }
    let Some(path) = &arguments.output.json else { return Ok(()) };
    let last_began = runs.last().map_or(0, |run| run.began_monotonic_ns);
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        command: std::env::args().collect(),
        began_unix_ns: clock::unix_nanos().saturating_sub(clock::now().nanos().saturating_sub(last_began)),
        devices: device_reports(arguments, &driver.devices),
        runs,
        search,
        appliance,
    };
    let json = |error| Failure::Json { path: path.clone(), error };
    let text = serde_json::to_string_pretty(&report).map_err(|error| json(error.into()))?;
    fs::write(path, text + "\n").map_err(json)
}

/// Tries rate after rate.
fn search(
    driver: &mut Driver,
    generator: &mut Generator<Mempool>,
    plan: SearchPlan,
    load: Load,
) -> (Vec<RunReport>, Option<SearchReport>) {
    let mut search = Search::new(plan);
    let mut runs = Vec::new();
    while let Some(rate) = search.poll_trial() {
        generator.begin(clock::now(), Load { rate_pps: Some(rate), ..load });
        driver.run(generator, |_, _| ());
        runs.push(generator.report());
        if driver.stop.is_asked_for() {
            break;
        }
        let counts = generator.sums();
        let verdict = search.handle_trial(counts);
        table::trial(runs.len(), rate, counts, verdict);
    }
    (runs, search.report())
}

fn device_reports(arguments: &Arguments, devices: &Devices) -> Vec<DeviceReport> {
    let report = |(device, port): (&String, &vipsec_hw::Port)| {
        let stats = port.stats();
        DeviceReport {
            device: device.clone(),
            driver: port.driver().to_owned(),
            mac: MacAddr(port.mac()).to_string(),
            rx_missed: stats.rx_missed + stats.rx_no_buffer,
            tx_errors: stats.tx_errors,
        }
    };
    arguments.eal.vdev.iter().zip(&devices.ports).map(report).collect()
}
