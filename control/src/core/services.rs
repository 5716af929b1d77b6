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

use super::standings::TargetRecord;
use super::{Core, Effect};

/// The distribution table's way into force.
#[derive(Debug, Default)]
pub(super) struct Distribution {
    /// Counts up with every announcement.
    version: u64,
    /// How the targets stand by the table in force.
    pub(super) in_force: Vec<TargetRecord>,
    next: Option<Next>,
    /// The targets have changed since the next one was made.
    is_outdated: bool,
}

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
    pub(super) fn is_publishing(&self, version: u64) -> bool {
        let publishes = |next: &Next| matches!(next.step, Step::Publishing { .. });
        version == self.version && self.next.as_ref().is_some_and(publishes)
    }

    /// How the targets stand, for a store: by what is in force, or about to be and known to others already.
    pub(super) fn published(&self) -> &[TargetRecord] {
        match &self.next {
            Some(Next { step: Step::Publishing { .. } | Step::Entering { .. }, standings, .. }) => standings,
            _ => &self.in_force,
        }
    }
}

impl Core {
    /// The targets changed: the table that follows is on its way.
    pub(super) fn change_services(&mut self) {
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
    pub(super) fn change_services_at_once(&mut self) {
        let Some(services) = self.services() else { return };
        self.tables.services = services;
        self.distribution = Distribution {
            // An announcement that is still to be confirmed counts for nothing any more.
            version: self.distribution.version + 1,
            in_force: self.standings(),
            ..Distribution::default()
        };
    }

    /// The distribution table that follows from how the targets stand.
    fn services(&self) -> Option<Arc<ServiceTable>> {
        match self.config.service_table(|target| self.targets.standing(target)) {
            Ok(services) => Some(Arc::new(services)),
            // The configuration made a table before, and states make none impossible.
            Err(error) => {
                tracing::error!(%error, "the distribution table stays as it was");
                None
            }
        }
    }

    /// What the table of that version would move is pinned: it takes effect once every group's successor would know.
    pub(super) fn handle_services_pinned(&mut self, version: u64) {
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
    pub(super) fn note_tables_known(&mut self, group: usize) {
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
    pub(super) fn check_services_in_force(&mut self, version: u64) {
        let entered = |next: &mut Next| matches!(next.step, Step::Entering { tables } if tables <= version);
        let Some(next) = self.distribution.next.take_if(entered) else { return };
        self.distribution.in_force = next.standings;
        if self.distribution.is_outdated {
            self.change_services();
        }
    }
}
