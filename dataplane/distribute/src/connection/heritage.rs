//! What a VIP's last owner went by.
//!
//! A connection that it computed has no record, and no entry here before its next packet comes. By then other services may be in force;
//! so it is computed by those that were in force there. A packet that may belong to such a connection goes by them: in TCP one that
//! doesn't begin a connection; in protocols that don't show it any, for as long as an answered flow may be silent.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::clock::{Tick, milliseconds};
use super::state::Timeouts;
use super::{ConnectionTable, PacketInfo};
use crate::service::{Candidate, ServiceTable};
use crate::tuple::FiveTuple;

/// Of all VIPs.
#[derive(Debug)]
pub(super) struct Heritages {
    heritages: Vec<Heritage>,
    /// How long a connection may be silent, in milliseconds: TCP's, any other.
    silence_max: [u32; 2],
}

#[derive(Debug)]
struct Heritage {
    vip: IpAddr,
    services: Arc<ServiceTable>,
    since: Tick,
}

impl Heritages {
    pub(super) fn new(timeouts: &Timeouts) -> Self {
        let Timeouts { tcp_established, udp_two_way, icmp, .. } = *timeouts;
        Self { heritages: Vec::new(), silence_max: [tcp_established, udp_two_way.max(icmp)].map(milliseconds) }
    }

    /// The target that the last owner would have computed, of a packet that may be in the midst of a connection.
    fn target(&self, now: Tick, tuple: &FiveTuple, packet: &PacketInfo) -> Option<IpAddr> {
        let silence_max = match packet.tcp {
            Some(flags) if flags.opens() => return None,
            Some(_) => self.silence_max[0],
            None => self.silence_max[1],
        };
        let heritage = self.heritages.iter().find(|heritage| heritage.vip == tuple.vip)?;
        if now.since(heritage.since) >= silence_max {
            return None;
        }
        let (_, plan) = heritage.services.plan(tuple).ok()?;
        plan.computed(tuple).filter(|_| plan.computes(tuple.protocol)).map(|candidate| candidate.address)
    }

    /// Forgets those that no connection can still need.
    pub(super) fn expire(&mut self, now: Tick) {
        let silence_max = self.silence_max.into_iter().max().unwrap_or_default();
        self.heritages.retain(|heritage| now.since(heritage.since) < silence_max);
    }

    pub(super) fn forget(&mut self, vip: IpAddr) {
        self.heritages.retain(|heritage| heritage.vip != vip);
    }
}

impl ConnectionTable {
    /// A VIP comes from another owner, that went by these services.
    pub fn inherit(&mut self, now: Instant, vip: IpAddr, services: Arc<ServiceTable>) {
        let since = self.clock.tick(now);
        self.heritages.forget(vip);
        self.heritages.heritages.push(Heritage { vip, services, since });
    }

    /// The target of a connection without an entry that the last owner may have computed, if it is another than today's.
    #[cold]
    pub(super) fn inherited(&self, tuple: &FiveTuple, packet: &PacketInfo) -> Option<Candidate> {
        let address = self.heritages.target(self.now.tick, tuple, packet)?;
        let slot = self.targets.get(self.targets.find(address)?)?;
        Some(Candidate { address, index: slot.value.index?, weight: 1 })
    }
}
