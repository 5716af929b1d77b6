//! What a packet costs: ESP, distribution and the whole path, beside plain forwarding and the bare cipher; and what the store does.
//!
//! Everything is measured in one run, in short windows that take turns: what disturbs the machine disturbs all alike. A figure is
//! the least of its windows, what the code costs when nothing disturbs it; the median stands beside it.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use serde::de::DeserializeOwned;
use vipsec_esp::engine::EngineKind;
use vipsec_hw::{Eal, EalOptions, Hugepages, Mempool, MempoolOptions};

use crate::distribution::Distribution;
use crate::error::BenchError;
use crate::machine::Machine;
use crate::report::{IkeRow, PeerRow};
use crate::result::Row;
use crate::store::StoreRow;
use crate::traffic::Traffic;

mod aead;
mod cpu;
mod distribution;
mod error;
mod hugepages;
mod machine;
mod packets;
mod report;
mod result;
mod ring;
mod scene;
mod station;
mod store;
mod traffic;

/// Measures what a packet costs and writes the figures down.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    /// Turns of each measurement.
    #[arg(long, default_value_t = 30)]
    rounds: usize,
    /// Windows in a turn.
    #[arg(long, default_value_t = 10)]
    windows: usize,
    /// Packets of a window: at most what a ring holds, 1023.
    #[arg(long, default_value_t = 960)]
    packets: usize,
    /// Crypto engine, as in the configuration; the fastest if none is named. Several are measured one after the other.
    #[arg(long = "engine")]
    engines: Vec<EngineKind>,
    /// Only these numbers of SAs.
    #[arg(long, value_delimiter = ',', default_value = "1,32,1024,10000")]
    sas: Vec<usize>,
    /// Few windows of few cases: does it still work?
    #[arg(long)]
    smoke: bool,
    /// Only this part.
    #[arg(long)]
    only: Option<Part>,
    /// Where the figures go.
    #[arg(long, default_value = "target/bench")]
    output: PathBuf,
    /// Measures nothing: reads the figures that are there.
    #[arg(long)]
    read: bool,
    /// Writes the project's page about them anew, into this folder.
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, default_missing_value = "docs")]
    write_docs: Option<PathBuf>,
}

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// What a packet costs.
    Packets,
    /// What the store does.
    Store,
}

/// The files of figures; the last two are what `make bench-peers` and `vipsec-lab ike` leave.
const ROWS: &str = "dataplane.json";
const MACHINE: &str = "machine.json";
const STORE: &str = "store.json";
const PEERS: &str = "peers.json";
const IKE: &str = "ike.json";

const SIZES: [usize; 4] = [64, 256, 512, 1420];
const PATH_SIZES: [usize; 3] = [64, 512, 1420];
/// SAs and connections of the whole path.
const PATHS: [(usize, usize); 2] = [(1, 1), (1024, 65_536)];
const FLOWS: [u32; 3] = [1_000, 65_536, 1_000_000];

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vipsec-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), BenchError> {
    let (rows, machine, store) =
        (arguments.output.join(ROWS), arguments.output.join(MACHINE), arguments.output.join(STORE));
    if !arguments.read && arguments.only != Some(Part::Packets) {
        // Its threads move into network namespaces: not this one.
        let plan = if arguments.smoke { store::Plan::SMOKE } else { store::Plan::FULL };
        let figures = std::thread::spawn(move || store::measure(plan)).join();
        let figures = figures.map_err(|_| BenchError::setup("the store's measurement panicked"))??;
        write(&store, &serde_json::to_string_pretty(&figures).map_err(BenchError::setup)?)?;
        print!("{}", report::store_table(&figures));
    }
    if !arguments.read && arguments.only != Some(Part::Store) {
        let figures = take_figures(arguments)?;
        write(&rows, &serde_json::to_string_pretty(&figures.0).map_err(BenchError::setup)?)?;
        write(&machine, &serde_json::to_string_pretty(&figures.1).map_err(BenchError::setup)?)?;
    }
    if arguments.only == Some(Part::Store) && arguments.write_docs.is_none() {
        return Ok(());
    }
    let (rows, machine): (Vec<Row>, Machine) = (read(&rows)?, read(&machine)?);
    print!("{}", report::tables(&machine, &rows));
    if let Some(folder) = &arguments.write_docs {
        let peers: Vec<PeerRow> = read_if_there(&arguments.output.join(PEERS))?;
        let store: Vec<StoreRow> = read_if_there(&store)?;
        let ike: Vec<IkeRow> = read_if_there(&arguments.output.join(IKE))?;
        write(&folder.join("benchmarks.md"), &report::page(&machine, &rows, &peers, &store, &ike))?;
        write(&folder.join("benchmarks.svg"), &report::picture(&machine, &rows))?;
    }
    Ok(())
}

fn take_figures(arguments: &Arguments) -> Result<(Vec<Row>, Machine), BenchError> {
    const MEMORY_MIB: u32 = 64;
    let _pages = (!arguments.smoke).then(|| hugepages::Borrowed::new(MEMORY_MIB));
    let options = EalOptions {
        memory_mib: MEMORY_MIB,
        hugepages: if arguments.smoke { Hugepages::Never } else { Hugepages::Auto },
        ..EalOptions::new(format!("vipsec-bench-{}", std::process::id()))
    };
    let eal = Eal::init(&options)?;
    if arguments.packets > ring::PACKETS_MAX {
        return Err(BenchError::setup("a window has more packets than a ring holds"));
    }
    let pool = Mempool::new(&eal, &MempoolOptions { buffers: 4095, ..MempoolOptions::new("packets") })?;
    cpu::pin();
    let rows = if arguments.smoke { smoke(&eal, &pool)? } else { measure(arguments, &eal, &pool)? };
    Ok((rows, Machine::this(&eal)))
}

fn measure(arguments: &Arguments, eal: &Eal, pool: &Mempool) -> Result<Vec<Row>, BenchError> {
    let engines = if arguments.engines.is_empty() { vec![EngineKind::auto()] } else { arguments.engines.clone() };
    let turns = (arguments.rounds, arguments.windows);
    let mut rows = Vec::new();
    for engine in engines {
        let esp = arguments.sas.iter().map(|&sas| Traffic::esp(eal, pool, engine, sas, &SIZES, arguments.packets));
        let mut all = esp.collect::<Result<Vec<_>, _>>()?;
        for plan in PATHS {
            all.push(Traffic::path(eal, pool, engine, plan, &PATH_SIZES, arguments.packets)?);
        }
        rows.extend(take_turns(turns, all, &[])?);
    }
    rows.extend(take_turns(turns, Vec::new(), &FLOWS)?);
    Ok(rows)
}

fn smoke(eal: &Eal, pool: &Mempool) -> Result<Vec<Row>, BenchError> {
    const PACKETS: usize = 64;
    let engine = EngineKind::auto();
    let traffic = vec![
        Traffic::esp(eal, pool, engine, 3, &[64, 1420], PACKETS)?,
        Traffic::path(eal, pool, engine, (2, 10), &[64], PACKETS)?,
    ];
    take_turns((2, 2), traffic, &[1_000])
}

fn take_turns(
    (rounds, windows): (usize, usize),
    mut traffic: Vec<Traffic>,
    flows: &[u32],
) -> Result<Vec<Row>, BenchError> {
    const BURSTS: usize = 32;
    let mut distributions = flows.iter().map(|&flows| Distribution::new(flows)).collect::<Result<Vec<_>, _>>()?;
    for _ in 0..rounds {
        traffic.iter_mut().try_for_each(|traffic| traffic.measure(windows))?;
        distributions.iter_mut().try_for_each(|distribution| distribution.measure(windows, BURSTS))?;
    }
    let rows = traffic.iter().flat_map(Traffic::rows);
    Ok(rows.chain(distributions.iter().filter_map(Distribution::row)).collect())
}

fn read_if_there<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, BenchError> {
    if path.exists() { read(path) } else { Ok(Vec::new()) }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, BenchError> {
    let bytes = fs::read(path).map_err(|error| BenchError::File { path: path.display().to_string(), error })?;
    serde_json::from_slice(&bytes).map_err(BenchError::setup)
}

fn write(path: &Path, content: &str) -> Result<(), BenchError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(path, content));
    written.map_err(|error| BenchError::File { path: path.display().to_string(), error })
}
