//! Many short TCP connections.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::http::Http;
use crate::error::Result;
use crate::netns::Namespace;

/// Texts of errors kept; all are counted.
const ERRORS_KEPT_MAX: usize = 20;

/// What became of a number of connections.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ConnectionsReport {
    /// Connections tried.
    pub total: u32,
    /// How many each target answered.
    pub per_target: BTreeMap<String, u32>,
    /// How many failed.
    pub errors: u32,
    /// The first few errors.
    pub first_errors: Vec<String>,
    /// Median time from opening to the answer, in microseconds.
    pub micros_p50: u64,
    /// 99th percentile of it.
    pub micros_p99: u64,
    /// The slowest.
    pub micros_max: u64,
}

/// Makes `total` connections from `namespace`, `concurrency` at a time, each with one request; each must be done within `limit`.
pub fn connections(
    namespace: &Namespace,
    address: IpAddr,
    total: u32,
    concurrency: u32,
    limit: Duration,
) -> Result<ConnectionsReport> {
    let next = AtomicU32::new(0);
    let worker = || {
        let mut results = Vec::new();
        while next.fetch_add(1, Ordering::Relaxed) < total {
            let begin = Instant::now();
            let target = connection(address, limit);
            results.push((target, begin.elapsed()));
        }
        results
    };
    let results = namespace.run(|| {
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..concurrency.clamp(1, 256)).map(|_| scope.spawn(worker)).collect();
            let join = |worker: std::thread::ScopedJoinHandle<'_, Vec<_>>| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            Ok(workers.into_iter().flat_map(join).collect::<Vec<_>>())
        })
    })?;
    Ok(report(results))
}

fn connection(address: IpAddr, limit: Duration) -> Result<String> {
    let mut http = Http::open(address, limit)?;
    let target = http.id()?;
    http.close();
    Ok(target)
}

fn report(results: Vec<(Result<String>, Duration)>) -> ConnectionsReport {
    let mut report =
        ConnectionsReport { total: u32::try_from(results.len()).unwrap_or(u32::MAX), ..Default::default() };
    let mut times = Vec::with_capacity(results.len());
    for (target, elapsed) in results {
        match target {
            Ok(target) => {
                *report.per_target.entry(target).or_default() += 1;
                times.push(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX));
            }
            Err(error) => {
                report.errors += 1;
                if report.first_errors.len() < ERRORS_KEPT_MAX {
                    report.first_errors.push(error.to_string());
                }
            }
        }
    }
    times.sort_unstable();
    let percentile = |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1)));
    report.micros_p50 = percentile(50).copied().unwrap_or(0);
    report.micros_p99 = percentile(99).copied().unwrap_or(0);
    report.micros_max = times.last().copied().unwrap_or(0);
    report
}
