//! `[appliance]` and `[eal]`.

use std::path::{Path, PathBuf};

use vipsec_dataplane::api::WORKERS_MAX;
use vipsec_esp::engine::EngineKind;
use vipsec_wire::iv::ApplianceId;

use super::crypto::Tiers;
use super::error::Reason;
use super::model::{Appliance, Eal, Hugepages, LogLevel, Polling};
use super::read::Section;
use super::value;

/// Longest path of a Unix socket, in bytes: `sun_path` without its closing zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

const POLLING: [(&str, Polling); 2] = [("adaptive", Polling::Adaptive), ("busy", Polling::Busy)];
const LOG_LEVELS: [(&str, LogLevel); 5] = [
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];
const HUGEPAGES: [(&str, Hugepages); 3] =
    [("auto", Hugepages::Auto), ("never", Hugepages::Never), ("always", Hugepages::Always)];

pub(super) fn absolute(text: &str) -> Result<PathBuf, Reason> {
    let path = Path::new(text);
    if path.is_absolute() { Ok(path.to_path_buf()) } else { Err(Reason::NotAbsolute(text.to_owned())) }
}

/// A path that a Unix socket can be bound to.
pub(super) fn socket_path(text: &str) -> Result<PathBuf, Reason> {
    if text.len() > SOCKET_PATH_BYTES_MAX {
        return Err(Reason::SocketPathTooLong { max: SOCKET_PATH_BYTES_MAX });
    }
    absolute(text)
}

/// Reads `[appliance]`. Its SAs are processed on the CPU unless it says otherwise.
pub(super) fn appliance(root: &Section, tiers: Tiers) -> Option<Appliance> {
    let section = root.required("appliance")?.table()?;
    let id = section.required("id").and_then(|field| field.number(1..=255));
    let name = section.required("name").and_then(|field| field.parse(value::name));
    let control_socket = section.optional("control_socket").map(|field| field.parse(socket_path));
    let state_dir = section.optional("state_dir").map(|field| field.parse(absolute));
    let workers = section.optional("workers").map_or(Some(1), |field| field.number(1..=WORKERS_MAX as u64));
    let polling = section.optional("polling").map_or(Some(Polling::Adaptive), |field| field.choice(&POLLING));
    let engine = section
        .optional("engine")
        .map_or_else(|| Some(EngineKind::auto()), |field| field.parse(|name| name.parse().map_err(Reason::Engine)));
    let processing = tiers.choose(&section);
    let log = section.optional("log").map_or(Some(LogLevel::Info), |field| field.choice(&LOG_LEVELS));
    section.finish();
    let name = name?;
    Some(Appliance {
        id: ApplianceId::new(id?).ok()?,
        control_socket: control_socket.unwrap_or_else(|| Some(format!("/run/vipsec/{name}.sock").into()))?,
        state_dir: state_dir.unwrap_or_else(|| Some(format!("/var/lib/vipsec/{name}").into()))?,
        name,
        workers: workers?,
        polling: polling?,
        engine: engine?,
        processing: processing?,
        log: log?,
    })
}

/// Reads `[eal]`, which may be left out.
pub(super) fn eal(root: &Section, appliance: Option<&Appliance>) -> Option<Eal> {
    let default_prefix = || Some(format!("vipsec-{}", appliance?.name));
    let Some(field) = root.optional("eal") else {
        return Some(Eal { file_prefix: default_prefix()?, memory_mib: 256, hugepages: Hugepages::Auto });
    };
    let section = field.table()?;
    let file_prefix = section.optional("file_prefix").map(|field| field.parse(value::name));
    let memory_mib = section.optional("memory_mib").map_or(Some(256), |field| field.number(64..=65_536));
    let hugepages = section.optional("hugepages").map_or(Some(Hugepages::Auto), |field| field.choice(&HUGEPAGES));
    section.finish();
    Some(Eal {
        file_prefix: file_prefix.unwrap_or_else(default_prefix)?,
        memory_mib: memory_mib?,
        hugepages: hugepages?,
    })
}
