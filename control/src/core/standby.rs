//! What a backup does beforehand: each child SA of the copy that it holds is installed in the workers as its record comes, dormant.
//! A takeover then has only to say where the numbers of each go on, which is little however many there are.
//!
//! Nothing can be done with a dormant child SA: it has neither numbers nor anybody's IVs, and its VIP is not served here.

use std::collections::BTreeSet;

use vipsec_dataplane::api::{ChildRefusal, Command, Wake};
use vipsec_esp::sa::{ChildSa, Spi, TunnelEnds};
use vipsec_ike::ChildSaInfo;
use vipsec_store::RecordKey;
use vipsec_wire::iv::{Epoch, IvPrefix};

use super::inheritance::{Inheritance, InheritedChild};
use super::keying::{Start, Unusable, child_sa, tunnel_ends};
use super::records::News;
use super::{Core, InstalledChild};
use crate::config::{Config, TakeoverPolicy};

/// Child SAs that are prepared at a time: about a millisecond's work, here and in a worker.
const PREPARED_PER_LOOK: usize = 256;

/// A child SA that the workers have, dormant.
#[derive(Debug)]
pub(super) struct Prepared {
    spi_out: u32,
    tunnel: TunnelEnds,
    /// They have said so.
    pub(super) is_installed: bool,
}

impl Prepared {
    /// Is it that one, and between the same ends?
    pub(super) fn is(&self, info: &ChildSaInfo) -> bool {
        self.spi_out == info.spi_out && self.tunnel == tunnel_ends(info.tunnel)
    }
}

/// A child SA that carries nothing before it is woken.
pub(super) fn dormant(config: &Config, info: &ChildSaInfo) -> Result<ChildSa, Unusable> {
    let options = config.child_options(&info.connection, &info.child);
    // Nobody's: what wakes it brings the owner's.
    let prefix = IvPrefix::new(config.appliance.id, Epoch(0));
    child_sa(info, options, prefix, Start::NONE)
}

impl Core {
    /// Does what the records that came ask for, or a part of it.
    pub(super) fn prepare(&mut self) {
        if self.takeover_policy() == TakeoverPolicy::Renegotiate {
            return;
        }
        for group in 0..self.groups.len() {
            for _ in 0..PREPARED_PER_LOOK {
                let Some(copy) = self.groups.get_mut(group).and_then(|entry| entry.side()?.held_copy()) else {
                    self.unprepare_all(group);
                    break;
                };
                match copy.poll_news() {
                    Some(News::Stored(key)) => self.prepare_child(group, &key),
                    Some(News::Removed(key)) => {
                        if let Some(spi) = spi_of(&key) {
                            self.unprepare(group, spi);
                        }
                    }
                    Some(News::Cleared) => self.unprepare_all(group),
                    None => break,
                }
            }
        }
    }

    fn prepare_child(&mut self, group: usize, key: &RecordKey) {
        let config = self.config.clone();
        let Some(entry) = self.groups.get_mut(group).filter(|entry| entry.vips.contains(&key.vip)) else { return };
        let Some(record) = entry.side().and_then(|side| side.held_copy()?.child(key)) else { return };
        let (child, prepared) = {
            let info = record.info();
            let prepared = Prepared { spi_out: info.spi_out, tunnel: tunnel_ends(info.tunnel), is_installed: false };
            (dormant(&config, info), prepared)
        };
        let child = match child {
            Ok(child) => child,
            Err(error) => return tracing::error!(%error, "child SA can't be prepared"),
        };
        let spi = child.inbound.spi;
        let known = entry.prepared.get(&spi);
        if known.is_some_and(|known| (known.spi_out, known.tunnel) == (prepared.spi_out, prepared.tunnel)) {
            return;
        }
        // Not to be confused with one that carries traffic here.
        if self.children.contains_key(&spi) {
            return tracing::error!(spi_in = %spi, "the other appliance uses an SPI that is in use here");
        }
        self.ike.reserve_spi(spi.get());
        if let Some(entry) = self.groups.get_mut(group) {
            entry.prepared.insert(spi, prepared);
        }
        self.place_child(child, None);
    }

    fn unprepare(&mut self, group: usize, spi: Spi) {
        if self.groups.get_mut(group).and_then(|entry| entry.prepared.remove(&spi)).is_some() {
            self.ike.release_spi(spi.get());
            self.tell(Command::RemoveChild(spi));
        }
    }

    fn unprepare_all(&mut self, group: usize) {
        let prepared = self.groups.get(group).map(|entry| entry.prepared.keys().copied().collect::<Vec<Spi>>());
        prepared.unwrap_or_default().into_iter().for_each(|spi| self.unprepare(group, spi));
    }

    /// Every child SA that was read and may be gone on with is, or comes, in the workers; others that were prepared go. Returns where each
    /// goes on, and which of them the workers have yet to confirm.
    pub(super) fn install_inheritance(
        &mut self,
        group: usize,
        inheritance: &mut Inheritance,
        epoch: Epoch,
    ) -> (Vec<Wake>, BTreeSet<Spi>) {
        let config = self.config.clone();
        let prepared = self.groups.get_mut(group).map(|entry| std::mem::take(&mut entry.prepared));
        let mut prepared = prepared.unwrap_or_default();
        prepared.keys().for_each(|spi| self.ike.release_spi(spi.get()));
        let (mut wakes, mut unconfirmed) = (Vec::new(), BTreeSet::new());
        for set in &mut inheritance.sets {
            let records = set.children.iter().map(|child| &*child.record);
            // It will say so itself.
            if self.ike.check_import(&set.ike, records, epoch).is_err() {
                continue;
            }
            let id = set.ike.id();
            for InheritedChild { record, start, born, .. } in &mut set.children {
                // Nobody knows where its numbers stand: it stays shut.
                let Ok(spi) = Spi::new(record.spi_in()) else { continue };
                if record.is_stale() || self.children.contains_key(&spi) {
                    continue;
                }
                let info = record.info();
                match prepared.remove(&spi) {
                    Some(known) if known.is(info) => {
                        if !known.is_installed {
                            unconfirmed.insert(spi);
                        }
                    }
                    // It takes the place of another one of that SPI.
                    _ => match dormant(&config, info) {
                        Ok(child) => {
                            self.place_child(child, None);
                            unconfirmed.insert(spi);
                        }
                        Err(error) => {
                            tracing::error!(ike_sa = %id, %error, "child SA can't be resumed");
                            continue;
                        }
                    },
                }
                let lifetime = config.child_options(&info.connection, &info.child).lifetime;
                wakes.push(Wake { spi, edge: start.horizon, sent: start.sent, lifetime });
                let born = std::mem::take(born);
                self.children.insert(spi, InstalledChild { vip: info.vip, ike: Some(id), born });
            }
        }
        for spi in prepared.into_keys() {
            self.tell(Command::RemoveChild(spi));
        }
        (wakes, unconfirmed)
    }

    /// A worker has a child SA. True if it is a prepared one.
    pub(super) fn note_prepared(&mut self, spi: Spi) -> bool {
        let known = self.groups.iter_mut().find_map(|entry| entry.prepared.get_mut(&spi));
        known.map(|prepared| prepared.is_installed = true).is_some()
    }

    /// A worker doesn't take a child SA. True if it was one to be prepared: at a takeover it is asked again.
    pub(super) fn note_unprepared(&mut self, spi: Spi, refusal: ChildRefusal) -> bool {
        let was_prepared = self.groups.iter_mut().any(|entry| entry.prepared.remove(&spi).is_some());
        if was_prepared {
            self.ike.release_spi(spi.get());
            tracing::warn!(spi_in = %spi, %refusal, "the worker has no room for a child SA of the other appliance");
        }
        was_prepared
    }
}

fn spi_of(key: &RecordKey) -> Option<Spi> {
    Spi::new(u32::try_from(key.id).ok()?).ok()
}
