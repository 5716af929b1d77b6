//! IKE SAs out of a copy that isn't trusted.
//!
//! Nobody knows where the numbers of their child SAs stand, so those stay shut, both ways, for ever (I6). But a remote peer that
//! synchronises message IDs (RFC 6311) keeps its IKE SA, and gets fresh child SAs under it. The others are called anew.
//!
//! A stale copy may lack child SAs that the remote peer has. Its liveness checks succeed now, so it would send into nothing until it
//! rekeys them; hence we have it delete them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use vipsec_ike::{IkeSaId, ImportError};

use super::inheritance::Inherited;
use super::ladder::{Climb, Rung, Why};
use crate::core::Core;

/// How often a remote peer is told that we lack one of its child SAs: who asks for it may be anybody, for ESP that we can't open
/// proves nothing.
const DISOWN_INTERVAL: Duration = Duration::from_secs(1);

/// IKE SAs that were kept from a copy that may have been stale, and what replaced them.
#[derive(Debug, Default)]
pub(in crate::core) struct StaleSas {
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
    pub(in crate::core) fn insert(&mut self, id: IkeSaId, remote: IpAddr, now: Instant) {
        self.peers.insert((remote, id));
        self.sas.insert(id, Stale { remote, quiet_until: now });
    }

    /// It is gone.
    pub(in crate::core) fn forget(&mut self, id: IkeSaId) {
        self.take(id);
    }

    /// The heir inherits what its peer has and we don't.
    pub(in crate::core) fn follow(&mut self, old: IkeSaId, new: IkeSaId) {
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
    pub(in crate::core) fn inherit_stale(&mut self, now: Instant, group: usize, set: Inherited) {
        let Inherited { ike, children, birth, .. } = set;
        let (id, remote) = (ike.id(), ike.remote().ip());
        // Nobody misses it.
        if ike.is_leaving() {
            return;
        }
        let spis: Vec<u32> = children.iter().map(|child| child.record.spi_in()).collect();
        let records: Vec<_> = children.into_iter().map(|child| *child.record).collect();
        let callee = ike.callee(&records);
        match self.ike.import_stale(*ike, records, now) {
            Ok(_) => {
                self.publications.adopt(id, birth);
                self.succession.stale.insert(id, remote, now);
                let mut climb = Climb::new(group, Rung::MessageIdSync, Why::NotTrusted, callee);
                climb.children = spis;
                climb.is_shut = true;
                self.succession.ladder.place(id, climb);
            }
            Err(ImportError::NotSynchronisable) => {
                let climb = Climb::new(group, Rung::Renegotiate, Why::NoMessageIdSync, callee);
                self.succession.ladder.place(id, climb);
            }
            Err(error) => self.call_instead(group, id, callee, error),
        }
    }

    /// ESP came for an SPI that no worker knows. RFC 7296 §1.5: an INVALID_SPI outside an IKE SA is only a hint, and a successor that
    /// isn't loaded yet must stay silent; the remote peer's own liveness check finds out. One whose IKE SA we kept without having all
    /// its child SAs finds nothing out: it is asked to delete this one.
    pub(in crate::core) fn handle_unknown_spi(&mut self, now: Instant, spi: u32, remote: IpAddr) {
        let [maker, ..] = spi.to_be_bytes();
        let mut appliances = self.config.peers.iter().map(|peer| peer.id).chain([self.config.appliance.id]);
        let is_of_ours = appliances.any(|id| id.get() == maker);
        if !is_of_ours {
            return;
        }
        if let Some(id) = self.ike.owner_of_child(spi) {
            // One that is shut: its turn should come soon.
            return self.succession.ladder.note_traffic(id);
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
