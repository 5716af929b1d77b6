//! What a takeover reads out of the copy: sets of an IKE SA and its child SAs, and where their numbers stand.

use std::collections::HashMap;

use vipsec_esp::sa::ChildSa;
use vipsec_ike::{ChildSaRecord, IkeSaRecord};
use vipsec_takeover::registry::Process;
use vipsec_wire::iv::{Epoch, IvPrefix};

use super::keying::{FIRST_LEASE, Start, child_sa};
use super::pin_table::PinTable;
use super::publishing::Birth;
use super::records::{Holding, Opened, Records};
use super::standings::TargetRecord;
use crate::config::Config;

/// An IKE SA as it was read, with its children.
pub(super) struct Inherited {
    /// In their boxes, as they were opened: with ten thousand of them a takeover would mostly move memory.
    pub(super) ike: Box<IkeSaRecord>,
    pub(super) children: Vec<InheritedChild>,
    /// Among the IKE SAs, and whose processes saw it made.
    pub(super) birth: Birth,
}

/// A child SA as it was read.
pub(super) struct InheritedChild {
    pub(super) record: Box<ChildSaRecord>,
    /// Where its numbers go on.
    pub(super) start: Start,
    /// Whose processes saw it made.
    pub(super) born: Vec<Process>,
}

/// Everything that a copy holds of a group.
#[derive(Default)]
pub(super) struct Inheritance {
    pub(super) sets: Vec<Inherited>,
    /// How the targets stood.
    pub(super) standings: Vec<TargetRecord>,
    /// Connections that can't be computed.
    pub(super) pins: PinTable,
    /// Records that did not authenticate or could not be read; SAs that may not be resumed.
    pub(super) left_out: usize,
    /// The copy's records were open before it was fenced.
    pub(super) warm: bool,
}

/// What this appliance may resume.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heir {
    /// The epochs that it once used are known.
    pub(super) floor_known: bool,
    /// This process.
    pub(super) process: Process,
}

impl Heir {
    /// May keys be used that were made when this process of ours was paired? Not if this appliance may have used them already
    /// under an epoch that it forgot.
    fn may_resume(&self, born: &[Process]) -> bool {
        self.floor_known || born.contains(&self.process)
    }
}

impl Inheritance {
    /// Puts together what a copy holds of these VIPs.
    pub(super) fn new(holding: Holding, vips: &[u16], heir: Heir) -> Self {
        let Holding { records: Records { opened, pins }, counters, rejected, warm } = holding;
        let mut inheritance = Self { left_out: rejected, warm, pins, ..Self::default() };
        let mut ikes = Vec::new();
        let mut children = HashMap::new();
        for (key, opened) in opened.into_iter().filter(|(key, _)| vips.contains(&key.vip)) {
            match opened {
                Opened::Ike(birth, record) => ikes.push((birth, record)),
                Opened::Child(born, record) => drop(children.insert(key.id, (born, record))),
                Opened::Standings(read) => inheritance.standings = read,
                Opened::Unreadable => inheritance.left_out += 1,
            }
        }
        let mut starts = HashMap::new();
        let mut whole = true;
        for block in counters {
            match block {
                Ok(block) => {
                    starts.extend(block.entries.iter().map(|entry| {
                        (entry.spi, Start { horizon: entry.horizon, sent: entry.lease, lease: entry.lease })
                    }))
                }
                Err(rejected) => {
                    tracing::warn!(?rejected, "counter block left out: its SAs can't be resumed");
                    whole = false;
                }
            }
        }
        // An SA without an entry has reported nothing yet, and used nothing beyond what it began with. With a block lost that can't
        // be told from an SA whose numbers are lost.
        let unreported = whole.then_some(Start { horizon: 0, sent: FIRST_LEASE, lease: FIRST_LEASE });
        let start = |spi: u32| starts.get(&spi).copied().or(unreported);
        // Two name the same child SA where an owner died while it wrote a rekeying. The remote peer has not heard of it, or will
        // answer the elder's request once more: so the elder has it, and the heir isn't there yet.
        ikes.sort_by_key(|(birth, _): &(Birth, Box<IkeSaRecord>)| birth.order);
        for (birth, ike) in ikes {
            inheritance.adopt(birth, ike, &mut children, &start, heir);
        }
        inheritance
    }

    /// Puts a set together: a child that no IKE record names doesn't exist.
    fn adopt(
        &mut self,
        birth: Birth,
        ike: Box<IkeSaRecord>,
        children: &mut HashMap<u64, (Vec<Process>, Box<ChildSaRecord>)>,
        start: &impl Fn(u32) -> Option<Start>,
        heir: Heir,
    ) {
        if !heir.may_resume(&birth.witnesses) {
            self.left_out += 1;
            tracing::warn!(ike_sa = %ike.id(), "IKE SA left out: made before this appliance knows which epochs it used");
            return;
        }
        // The set stands or falls as a whole: so it was written.
        let mut own = Vec::new();
        for spi in ike.children() {
            let child = children.remove(&u64::from(*spi));
            let child = child.filter(|(born, _)| heir.may_resume(born));
            let (Some((born, record)), Some(start)) = (child, start(*spi)) else {
                self.left_out += 1;
                let spi = format_args!("{spi:08x}");
                tracing::warn!(ike_sa = %ike.id(), spi_in = %spi, "IKE SA left out: this child SA of it can't be resumed");
                return;
            };
            own.push(InheritedChild { record, start, born });
        }
        self.sets.push(Inherited { ike, children: own, birth });
    }

    /// The child SAs as workers take them, each with its birth. A stale one stays shut: nobody knows where its numbers stand.
    pub(super) fn children(&self, config: &Config, epoch: Epoch) -> Vec<(ChildSa, Vec<Process>)> {
        let prefix = IvPrefix::new(config.appliance.id, epoch);
        let mut all = Vec::new();
        for InheritedChild { record, start, born } in self.sets.iter().flat_map(|set| &set.children) {
            if record.is_stale() {
                continue;
            }
            let info = record.info();
            match child_sa(info, config.child_options(&info.connection, &info.child), prefix, *start) {
                Ok(child) => all.push((child, born.clone())),
                Err(error) => tracing::error!(%error, "child SA can't be resumed"),
            }
        }
        all
    }
}
