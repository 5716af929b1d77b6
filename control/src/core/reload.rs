//! Another configuration while the process lives: all of it, or nothing.

use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;
use vipsec_distribute::service::ServiceError;

use super::Core;
use crate::config::Config;

/// Why a configuration isn't taken. Nothing has changed then.
#[derive(Debug, Error)]
pub enum ReloadError {
    /// It differs where a running process can't.
    #[error("what has changed in these tables takes a restart of vipsecd: {}", .0.join(", "))]
    NeedsRestart(Vec<&'static str>),
    /// Its services contradict each other.
    #[error("services: {0}")]
    Services(#[from] ServiceError),
}

impl Core {
    /// Goes on under another configuration; says what changed. SAs of connections that didn't change aren't touched.
    ///
    /// # Errors
    /// See [`ReloadError`].
    pub fn reload(&mut self, now: Instant, config: Arc<Config>) -> Result<Vec<String>, ReloadError> {
        let fixed = config.needs_restart(&self.config);
        if !fixed.is_empty() {
            return Err(ReloadError::NeedsRestart(fixed));
        }
        let mac = |port: usize| self.tables.ports.get(port).map(|table| table.mac).unwrap_or_default();
        let tables = config.tables(|port| mac(usize::from(port.0)))?;
        let changes = config.changes(&self.config);
        if changes.is_empty() {
            return Ok(changes);
        }
        self.targets.follow(&self.config, &config, now);
        self.config = config;
        self.tables.routes = tables.routes;
        self.tables.policies = tables.policies;
        self.ike.set_key_log(self.config.ike.key_log.is_some());
        self.ike.reconfigure(Arc::new(self.config.ike_config(self.counters.len())), now);
        self.judge_anew();
        self.calls.look(now);
        self.publish_tables();
        // The services are in force once what they would move is pinned, and a successor knows of them.
        self.change_services();
        self.settle(now);
        Ok(changes)
    }
}
