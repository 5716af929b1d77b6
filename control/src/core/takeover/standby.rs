//! What a backup does beforehand: each child SA of the copy that it holds is installed in the workers as its record comes, dormant.
//! A takeover then has only to say where the numbers of each go on, which is little however many there are.
//!
//! And each record is judged as it comes: whether an SA may be gone on with is known then, but for what only the takeover itself can say.
//!
//! Nothing can be done with a dormant child SA: it has neither numbers nor anybody's IVs, and its VIP is not served here.

use std::collections::HashMap;

use smallvec::SmallVec;
use vipsec_dataplane::api::{ChildRefusal, Command};
use vipsec_esp::sa::{Lifetime, Spi, TunnelEnds};
use vipsec_ike::{ChildSaInfo, Endpoint, Vintage};
use vipsec_store::RecordKey;
use vipsec_wire::iv::{Epoch, IvPrefix};

use crate::config::Config;
use crate::core::Core;
use crate::core::keying::{Start, child_sa, tunnel_ends};
use crate::core::ownership::Ownership;
use crate::core::ownership::groups::Group;
use crate::core::store::publishing::{KIND_CHILD, KIND_IKE};
use crate::core::store::records::{GoodIke, News, WarmCopy};

/// A child SA that the workers have, dormant.
#[derive(Debug)]
pub(in crate::core) struct Prepared {
    vip: u16,
    spi_out: u32,
    tunnel: TunnelEnds,
    lifetime: Lifetime,
    /// Of its record, if that is good as far as can be seen before it is taken over.
    good: Option<Vintage>,
    /// An IKE SA has named it at a takeover.
    is_claimed: bool,
    /// It was woken.
    is_awake: bool,
}

impl Prepared {
    /// An IKE SA names it. False if another one did before.
    pub(in crate::core) fn claim(&mut self) -> bool {
        !std::mem::replace(&mut self.is_claimed, true)
    }

    /// How much it carries, and of what vintage it is, if nothing is to be asked of its record any more.
    pub(in crate::core) fn good_at(&self, vip: u16) -> Option<(Lifetime, Vintage)> {
        self.good.filter(|_| self.vip == vip).map(|vintage| (self.lifetime, vintage))
    }

    /// It carries, and belongs to whoever took the group over.
    pub(in crate::core) fn set_awake(&mut self) {
        self.is_awake = true;
    }

    /// How much it carries, if it is that child SA, between the same ends.
    pub(in crate::core) fn lifetime_as(&self, info: &ChildSaInfo) -> Option<Lifetime> {
        (self.spi_out == info.spi_out && self.tunnel == tunnel_ends(info.tunnel)).then_some(self.lifetime)
    }
}

impl Core {
    /// Does what the records that came ask for, or a part of it.
    pub(in crate::core) fn prepare(&mut self) {
        for group in 0..self.groups.len() {
            let copy = self.groups.get_mut(group).and_then(|entry| entry.side()?.held_copy());
            if copy.is_some() {
                self.hear_news(group, self.slices.prepared);
            } else {
                self.unprepare_all(group);
            }
        }
    }

    /// Looks at so many records of a group's copy that came or went.
    pub(in crate::core) fn hear_news(&mut self, group: usize, most: usize) {
        for _ in 0..most {
            let news = self.groups.get_mut(group).and_then(|entry| entry.side()?.held_copy()?.poll_news());
            match news {
                Some(News::Stored(key)) if key.kind == KIND_IKE => self.judge_ike_sa(group, &key),
                Some(News::Stored(key)) => self.prepare_child(group, &key),
                Some(News::Removed(key)) => {
                    if let Some(spi) = spi_of(&key) {
                        self.unprepare(group, spi);
                    }
                }
                Some(News::Cleared) => self.unprepare_all(group),
                None => return,
            }
        }
    }

    /// The configuration, which SAs are judged by, is another one.
    pub(in crate::core) fn judge_anew(&mut self) {
        self.groups.iter_mut().filter_map(|entry| entry.side()?.held_copy()).for_each(WarmCopy::tell_news);
    }

    fn judge_ike_sa(&mut self, group: usize, key: &RecordKey) {
        let Some(side) = self.groups.get_mut(group).and_then(Group::side) else { return };
        let heir = side.heir();
        let Some(ike) = side.held_copy().and_then(|copy| copy.ike_sa(key)) else { return };
        let is_named = (ike.record.vip(), ike.record.id().get()) == (key.vip, key.id);
        let may_be_resumed = is_named && heir.may_resume(&ike.birth.witnesses);
        let vintage = self.ike.check_ike_sa(&ike.record).ok().filter(|_| may_be_resumed);
        ike.good = vintage.map(|vintage| GoodIke { vintage, children: SmallVec::from_slice(ike.record.children()) });
    }

    fn prepare_child(&mut self, group: usize, key: &RecordKey) {
        let Some(entry) = self.groups.get_mut(group).filter(|entry| entry.vips.contains(&key.vip)) else { return };
        let Group { ownership: Ownership::Shared(side), prepared, .. } = entry else { return };
        let Some(spi) = spi_of(key) else { return };
        let heir = side.heir();
        // One that can't be read any more is none.
        let child = side.held_copy().and_then(|copy| copy.child(key));
        let Some((born, record)) = child else { return self.unprepare(group, spi) };
        let info = record.info();
        let may_be_used = !record.is_stale() && heir.may_resume(born) && info.vip == key.vip;
        let good = Endpoint::check_child_sa(record).ok().filter(|_| may_be_used);
        // Each of its records comes here, and most say nothing new: keys are copied for those that do.
        if let Some(known) = prepared.get_mut(&spi).filter(|known| known.lifetime_as(info).is_some()) {
            known.good = good;
            return;
        }
        let info = info.clone();
        self.forget_child(group, spi);
        // Not to be confused with one that carries traffic here.
        if self.children.contains_key(&spi) {
            return tracing::error!(spi_in = %spi, "the other appliance uses an SPI that is in use here");
        }
        let config = self.config.clone();
        let Some(lifetime) = self.place_dormant(&config, &info) else { return };
        self.ike.reserve_spi(spi.get());
        let (vip, spi_out, tunnel) = (info.vip, info.spi_out, tunnel_ends(info.tunnel));
        let prepared = Prepared { vip, spi_out, tunnel, lifetime, good, is_claimed: false, is_awake: false };
        if let Some(entry) = self.groups.get_mut(group) {
            entry.prepared.insert(spi, prepared);
        }
    }

    /// Has a worker install a child SA that carries nothing before it is woken. Returns how much it may carry then.
    pub(in crate::core) fn place_dormant(&mut self, config: &Config, info: &ChildSaInfo) -> Option<Lifetime> {
        let options = config.child_options(&info.connection, &info.child);
        // Nobody's: what wakes it brings the owner's.
        let prefix = IvPrefix::new(config.appliance.id, Epoch(0));
        match child_sa(info, options, prefix, Start::NONE) {
            Ok(child) => {
                self.place_child(child, None);
                Some(options.lifetime)
            }
            Err(error) => {
                tracing::error!(ike_sa = %info.ike_sa, %error, "child SA can't be gone on with");
                None
            }
        }
    }

    fn unprepare(&mut self, group: usize, spi: Spi) {
        if self.groups.get_mut(group).and_then(|entry| entry.prepared.remove(&spi)).is_some() {
            self.ike.release_spi(spi.get());
            self.tell(Command::RemoveChild(spi));
        }
    }

    fn unprepare_all(&mut self, group: usize) {
        let prepared = self.groups.get_mut(group).map(|entry| std::mem::take(&mut entry.prepared));
        self.forget_prepared(prepared.unwrap_or_default());
    }

    /// Child SAs that were prepared in vain.
    pub(in crate::core) fn forget_prepared(&mut self, prepared: HashMap<Spi, Prepared>) {
        // In order: what follows is the same in every run.
        let in_vain = prepared.into_iter().filter(|(_, prepared)| !prepared.is_awake);
        let mut spis: Vec<Spi> = in_vain.map(|(spi, _)| spi).collect();
        spis.sort_unstable();
        for spi in spis {
            self.ike.release_spi(spi.get());
            self.tell(Command::RemoveChild(spi));
        }
    }

    /// A worker doesn't take a child SA. True if it was one to be prepared: at a takeover it is asked again.
    pub(in crate::core) fn note_unprepared(&mut self, spi: Spi, refusal: ChildRefusal) -> bool {
        let was_prepared = self.groups.iter_mut().any(|entry| entry.prepared.remove(&spi).is_some());
        if was_prepared {
            self.ike.release_spi(spi.get());
            tracing::warn!(spi_in = %spi, %refusal, "the worker doesn't take a child SA of the other appliance");
        }
        was_prepared
    }
}

/// Of a child SA's record.
fn spi_of(key: &RecordKey) -> Option<Spi> {
    if key.kind != KIND_CHILD {
        return None;
    }
    Spi::new(u32::try_from(key.id).ok()?).ok()
}
