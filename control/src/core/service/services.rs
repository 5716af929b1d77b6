//! Another distribution table: when it takes effect (rule R6).
//!
//! 1. It is announced to the workers, which pin the connections that it would move. A later one may take its place.
//! 2. Each group's store is told how the targets stand by it. From here on a successor may go by either, and both tables send every
//!    connection where it is.
//! 3. It is in force. Only when every worker says so the next one is announced.

use std::collections::BTreeSet;
use std::sync::Arc;

use vipsec_dataplane::api::Command;
use vipsec_distribute::service::ServiceTable;

use crate::config::{Config, Standing};
use crate::core::store::standings::TargetRecord;
use crate::core::{Core, Effect};

/// The distribution table's way into force.
#[derive(Debug, Default)]
pub(in crate::core) struct Distribution {
    /// Counts up with every announcement.
    version: u64,
    /// How the targets stand by the table in force.
    pub(in crate::core) in_force: Vec<TargetRecord>,
    next: Option<Next>,
    /// The targets have changed since the next one was made.
    is_outdated: bool,
    made: Vec<Made>,
}

/// A table, and what it was made from. Making one takes long, and a takeover would wait for it: so the newest are kept, by which, as a
/// rule, both the last owner and its successor go.
#[derive(Debug)]
struct Made {
    config: Arc<Config>,
    /// By target.
    standings: Vec<Standing>,
    services: Arc<ServiceTable>,
}

/// Tables that are kept: the last owner's and our own.
const MADE_MAX: usize = 2;

/// The table that will be in force next.
#[derive(Debug)]
struct Next {
    services: Arc<ServiceTable>,
    standings: Vec<TargetRecord>,
    step: Step,
}

/// How far it has come.
#[derive(Debug)]
enum Step {
    /// Workers pin what it would move.
    Pinning,
    /// These groups' copies have not acknowledged it.
    Publishing { groups: BTreeSet<usize> },
    /// The workers get it with the tables of that version.
    Entering { tables: u64 },
}

impl Distribution {
    /// Does the store's acknowledgement of the table of that version matter?
    pub(in crate::core) fn is_publishing(&self, version: u64) -> bool {
        let publishes = |next: &Next| matches!(next.step, Step::Publishing { .. });
        version == self.version && self.next.as_ref().is_some_and(publishes)
    }

    /// How the targets stand, for a store: by what is in force, or about to be and known to others already.
    pub(in crate::core) fn published(&self) -> &[TargetRecord] {
        match &self.next {
            Some(Next { step: Step::Publishing { .. } | Step::Entering { .. }, standings, .. }) => standings,
            _ => &self.in_force,
        }
    }
}

impl Core {
    /// The targets changed: the table that follows is on its way.
    pub(in crate::core) fn change_services(&mut self) {
        if self.distribution.next.as_ref().is_some_and(|next| !matches!(next.step, Step::Pinning)) {
            self.distribution.is_outdated = true;
            return;
        }
        let Some(services) = self.services() else { return };
        let standings = self.standings();
        self.distribution.version += 1;
        self.distribution.is_outdated = false;
        self.distribution.next = Some(Next { services: services.clone(), standings, step: Step::Pinning });
        self.tell(Command::Announce { version: self.distribution.version, services });
    }

    /// As [`Self::change_services`], at once: there are no connections that it could move.
    pub(in crate::core) fn change_services_at_once(&mut self) {
        let Some(services) = self.services() else { return };
        self.tables.services = services;
        self.distribution = Distribution {
            // An announcement that is still to be confirmed counts for nothing any more.
            version: self.distribution.version + 1,
            in_force: self.standings(),
            made: std::mem::take(&mut self.distribution.made),
            ..Distribution::default()
        };
    }

    /// The distribution table that follows from how the targets stand.
    fn services(&mut self) -> Option<Arc<ServiceTable>> {
        let standings = (0..self.config.targets.len()).map(|target| self.targets.standing(target));
        self.services_by(standings.collect())
    }

    /// The distribution table that follows where the targets stand like that.
    pub(in crate::core) fn services_by(&mut self, standings: Vec<Standing>) -> Option<Arc<ServiceTable>> {
        let (config, made) = (&self.config, &mut self.distribution.made);
        let known = made.iter().position(|made| Arc::ptr_eq(&made.config, config) && made.standings == standings);
        if let Some(at) = known {
            made.get_mut(..=at)?.rotate_right(1);
            return made.first().map(|made| made.services.clone());
        }
        match config.service_table(|target| standings.get(target).copied().unwrap_or_default()) {
            Ok(services) => {
                let services = Arc::new(services);
                made.truncate(MADE_MAX - 1);
                made.insert(0, Made { config: config.clone(), standings, services: services.clone() });
                Some(services)
            }
            // The configuration made a table before, and states make none impossible.
            Err(error) => {
                tracing::error!(%error, "no distribution table follows from this: it stays as it was");
                None
            }
        }
    }

    /// What the workers began with was made while nothing was known of the targets yet.
    pub(in crate::core) fn note_first_services(&mut self) {
        let config = self.config.clone();
        let standings = (0..config.targets.len()).map(|target| config.first_standing(target)).collect();
        self.distribution.made = vec![Made { config, standings, services: self.tables.services.clone() }];
    }

    /// What the table of that version would move is pinned: it takes effect once every group's successor would know.
    pub(in crate::core) fn handle_services_pinned(&mut self, version: u64) {
        let groups = (0..self.groups.len()).collect();
        match &mut self.distribution.next {
            Some(Next { step: step @ Step::Pinning, .. }) if version == self.distribution.version => {
                *step = Step::Publishing { groups };
            }
            _ => return,
        }
        for group in 0..self.groups.len() {
            self.put_standings(group);
            if let Some(group) = self.groups.get_mut(group) {
                group.replica.after(Effect::Tables(version));
            }
        }
    }

    /// A successor of the group would distribute as we are about to: the table is in force when that holds for all.
    pub(in crate::core) fn note_tables_known(&mut self, group: usize) {
        let Some(Next { step: Step::Publishing { groups }, .. }) = &mut self.distribution.next else { return };
        groups.remove(&group);
        if !groups.is_empty() {
            return;
        }
        let tables = self.tables_version + 1;
        if let Some(next) = &mut self.distribution.next {
            next.step = Step::Entering { tables };
            self.tables.services = next.services.clone();
        }
        self.publish_tables();
    }

    /// Every worker has the tables of that version.
    pub(in crate::core) fn check_services_in_force(&mut self, version: u64) {
        let entered = |next: &mut Next| matches!(next.step, Step::Entering { tables } if tables <= version);
        let Some(next) = self.distribution.next.take_if(entered) else { return };
        self.distribution.in_force = next.standings;
        if self.distribution.is_outdated {
            self.change_services();
        }
    }
}
