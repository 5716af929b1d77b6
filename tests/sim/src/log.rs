//! The log of one schedule, in simulated time.

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

thread_local! {
    static TIME: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// The time that log lines of this thread carry.
pub(crate) fn set_time(elapsed: Duration) {
    TIME.set(elapsed);
}

struct SimulatedTime;

impl FormatTime for SimulatedTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{:>12.6}", TIME.get().as_secs_f64() * 1000.0)
    }
}

/// Shows what everybody logs, with simulated milliseconds.
pub fn show(filter: &str) {
    let filter = tracing_subscriber::EnvFilter::new(filter);
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_timer(SimulatedTime);
    lines.with_ansi(false).with_target(false).with_writer(std::io::stderr).init();
}
