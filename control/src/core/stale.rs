//! IKE SAs out of a copy that isn't trusted.
//!
//! Nobody knows where the numbers of their child SAs stand, so those stay shut, both ways, for ever (I6). But a remote peer that
//! synchronises message IDs (RFC 6311) keeps its IKE SA, and gets fresh child SAs under it. The others have to call again: their own
//! liveness checks tell them.
//!
//! A stale copy may lack child SAs that the remote peer has. Its liveness checks succeed now, so it would send into nothing until it
//! rekeys them; hence we have it delete them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use vipsec_ike::{IkeSaId, ImportError};

use super::Core;
use super::inheritance::{Inheritance, Inherited};
use super::succession::{FIRST_STEP, PER_STEP, STEP};
use crate::config::TakeoverPolicy;

/// How often a remote peer is told that we lack one of its child SAs: who asks for it may be anybody, for ESP that we can't open
/// proves nothing.
const DISOWN_INTERVAL: Duration = Duration::from_secs(1);

/// IKE SAs that were kept from a copy that may have been stale, and what replaced them.
#[derive(Debug, Default)]
pub(super) struct StaleSas {
    sas: BTreeMap<IkeSaId, Stale>,
    /// By the peer's address.
    peers: BTreeSet<(IpAddr, IkeSaId)>,
}

#[derive(Debug)]
struct Stale {
    remote: IpAddr,
    /// It isn't told of another child SA before that.
    quiet_until: Instant,
}

impl StaleSas {
    /// One more, of a peer at that address.
    pub(super) fn insert(&mut self, id: IkeSaId, remote: IpAddr, now: Instant) {
        self.peers.insert((remote, id));
        self.sas.insert(id, Stale { remote, quiet_until: now });
    }

    /// It is gone.
    pub(super) fn forget(&mut self, id: IkeSaId) {
        self.take(id);
    }

    /// The heir inherits what its peer has and we don't.
    pub(super) fn follow(&mut self, old: IkeSaId, new: IkeSaId) {
        if let Some(Stale { remote, quiet_until }) = self.take(old) {
            self.insert(new, remote, quiet_until);
        }
    }

    fn take(&mut self, id: IkeSaId) -> Option<Stale> {
        let stale = self.sas.remove(&id)?;
        self.peers.remove(&(stale.remote, id));
        Some(stale)
    }

    /// Those of a peer that may be told now, and then not for a while.
    fn tell(&mut self, now: Instant, remote: IpAddr) -> Vec<IkeSaId> {
        let ids = self.peers.range((remote, IkeSaId::from(0))..=(remote, IkeSaId::from(u64::MAX)));
        let mut told = Vec::new();
        for (_, id) in ids {
            if let Some(stale) = self.sas.get_mut(id).filter(|stale| stale.quiet_until <= now) {
                stale.quiet_until = now + DISOWN_INTERVAL;
                told.push(*id);
            }
        }
        told
    }
}

impl Core {
    /// The group is ours, and what was read of it isn't to be resumed from.
    pub(super) fn inherit_stale(&mut self, now: Instant, group: usize, inheritance: Inheritance) {
        let (count, mut kept) = (inheritance.sets.len(), 0);
        for set in inheritance.sets {
            // RFC 6311 has no pace; that of what follows does.
            if self.keep(now, now + FIRST_STEP + STEP * (kept / PER_STEP), set) {
                kept += 1;
            }
        }
        if count > 0 {
            self.succession.begin(now + FIRST_STEP);
            tracing::warn!(
                group = self.group_name(group),
                ike_sas = count,
                kept,
                "the copy is not trusted: its child SAs are shut; remote peers that synchronise message IDs get new ones under \
                 the IKE SAs that are kept, the others have to call again"
            );
        }
    }

    /// True if the remote peer is going to be asked to synchronise message IDs: at `begin`.
    fn keep(&mut self, now: Instant, begin: Instant, set: Inherited) -> bool {
        let Inherited { ike, children, birth } = set;
        let remote = ike.remote().ip();
        let spis: Vec<u32> = children.iter().map(|child| child.record.spi_in()).collect();
        let records = children.into_iter().map(|child| *child.record).collect();
        match self.ike.import_stale(*ike, records, begin, now) {
            Ok(id) => {
                self.publications.adopt(id, birth);
                self.succession.stale.insert(id, remote, now);
                // The IKE SA asks for nothing before message IDs are agreed on, so these wait there.
                match self.takeover_policy() {
                    TakeoverPolicy::Resume => self.succession.rekey(spis, id),
                    TakeoverPolicy::Renegotiate => self.succession.renegotiate(id),
                }
                true
            }
            Err(ImportError::NotSynchronisable) => false,
            Err(error) => {
                tracing::warn!(%error, "IKE SA of the copy can't be kept");
                false
            }
        }
    }

    /// ESP came for an SPI that no worker knows. RFC 7296 §1.5: an INVALID_SPI outside an IKE SA is only a hint, and a successor that
    /// isn't loaded yet must stay silent; the remote peer's own liveness check finds out. One whose IKE SA we kept without having all
    /// its child SAs finds nothing out: it is asked to delete this one.
    pub(super) fn handle_unknown_spi(&mut self, now: Instant, spi: u32, remote: IpAddr) {
        let [maker, ..] = spi.to_be_bytes();
        let mut appliances = self.config.peers.iter().map(|peer| peer.id).chain([self.config.appliance.id]);
        let is_of_ours = appliances.any(|id| id.get() == maker);
        if !is_of_ours || self.ike.has_child(spi) {
            return;
        }
        for id in self.succession.stale.tell(now, remote) {
            if self.ike.disown_child(id, spi, now).is_ok() {
                tracing::info!(
                    ike_sa = %id, %remote, spi_in = format_args!("{spi:08x}"),
                    "the remote peer uses a child SA that the copy didn't know: it is asked to delete it"
                );
            }
        }
    }
}
