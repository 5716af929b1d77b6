//! Child SAs that are ours to set up: at the beginning, and again whenever they are gone.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use vipsec_ike::{OperateError, Standing};

use super::Core;
use crate::config::StartAction;

/// After a loss, or an attempt that led to nothing.
const AGAIN: Duration = Duration::from_secs(5);
/// How many are begun at once, and when the next ones are: 200 a second, so that many don't storm.
const PER_STEP: usize = 20;
const STEP: Duration = Duration::from_millis(100);

/// When it has to be looked whether all of them stand.
#[derive(Debug, Default)]
pub(super) struct Calls {
    due: Option<Instant>,
}

impl Calls {
    /// Something may be missing that we can set up now.
    pub(super) fn look(&mut self, now: Instant) {
        self.due = Some(self.due.map_or(now, |due| due.min(now)));
    }

    /// Something is gone, or didn't come about.
    pub(super) fn look_again(&mut self, now: Instant) {
        self.due.get_or_insert(now + AGAIN);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }
}

impl Core {
    /// Sets up what is missing.
    pub(super) fn handle_calls_timeout(&mut self, now: Instant) {
        if self.calls.due.take_if(|due| *due <= now).is_none() {
            return;
        }
        // What seems to be missing may have been taken over.
        if self.is_inheriting() {
            return self.calls.look(now + STEP);
        }
        let wanted = self.wanted_children();
        let connections: BTreeSet<&str> = wanted.iter().map(|(connection, _)| connection.as_str()).collect();
        if connections.is_empty() {
            return;
        }
        let standings = self.ike.standings(|connection| connections.contains(connection));
        let mut begun = 0;
        let mut called = BTreeSet::new();
        for (connection, child) in &wanted {
            let mine: Vec<&Standing> = standings.iter().filter(|standing| standing.connection == *connection).collect();
            if mine.iter().any(|standing| standing.children.contains(child)) {
                continue;
            }
            self.calls.look_again(now);
            // What is under way may bring it; and one call at a time, whose IKE SA has the other children.
            if mine.iter().any(|standing| standing.busy) || called.contains(connection.as_str()) {
                continue;
            }
            if begun == PER_STEP {
                return self.calls.look(now + STEP);
            }
            begun += 1;
            called.insert(connection.as_str());
            let result = match mine.iter().find_map(|standing| standing.ike_sa) {
                Some(ike_sa) => self.ike.create_child(ike_sa, child, now),
                None => self.ike.initiate(connection, child, now).map(drop),
            };
            match result {
                Ok(()) => tracing::info!(connection, child, "set up by us"),
                Err(OperateError::NotOwned) => {}
                Err(error) => tracing::warn!(connection, child, %error, "can't be set up by us"),
            }
        }
    }

    /// Connection and child of what is ours to set up, of the VIPs that are ours.
    fn wanted_children(&self) -> Vec<(String, String)> {
        let ours = self.config.connections.iter().filter(|connection| self.epoch_of(connection.vip).is_some());
        let wanted = ours.flat_map(|connection| {
            let children = connection.children.iter().map(|child| child.name.as_str());
            let starts = |child: &&str| self.config.child_options(&connection.name, child).start == StartAction::Start;
            children.filter(starts).map(|child| (connection.name.clone(), child.to_owned()))
        });
        wanted.collect()
    }
}
