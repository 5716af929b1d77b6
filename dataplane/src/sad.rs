//! The security association database of one worker (RFC 4301 §4.4.2): inbound by SPI, outbound by selectors.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Instant;

use vipsec_distribute::connection::Traffic;
use vipsec_esp::engine::EngineKind;
use vipsec_esp::error::SetupError;
use vipsec_esp::inbound::InboundSa;
use vipsec_esp::outbound::OutboundSa;
use vipsec_esp::sa::{ChildSa, Selector, Spi, TunnelEnds};

use crate::api::{ChildRefusal, Numbers, SaReport};
use crate::flow::Flow;
use crate::own_hash::OwnMap;
use crate::selector::{End, any_matches};

/// A place in the database, valid until its SA is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SaIndex(u32);

/// A child SA pair at work.
#[derive(Debug)]
pub(crate) struct Sa {
    pub(crate) vip: u16,
    pub(crate) inbound: InboundSa,
    pub(crate) outbound: OutboundSa,
    pub(crate) tunnel: TunnelEnds,
    local_selectors: Vec<Selector>,
    remote_selectors: Vec<Selector>,
    pub(crate) delivered: Traffic,
    pub(crate) sealed: Traffic,
    /// Nothing leaves by it while the SA with this inbound SPI is there.
    defers_to: Option<Spi>,
    /// When we last said that it is alive.
    pub(crate) alive_said: Option<Instant>,
    /// Counts up with every installation.
    born: u64,
}

impl Sa {
    /// May a packet with these ends come out of the tunnel?
    pub(crate) fn admits_inbound(&self, flow: &Flow) -> bool {
        // RFC 4301 §5.2 step 4: the packet is matched against the inbound selectors identified by the SAD entry.
        any_matches(&self.remote_selectors, &source(flow)) && any_matches(&self.local_selectors, &destination(flow))
    }

    fn admits_outbound(&self, flow: &Flow) -> bool {
        any_matches(&self.local_selectors, &source(flow)) && any_matches(&self.remote_selectors, &destination(flow))
    }

    /// Does it want to report its numbers?
    pub(crate) fn wants_more(&self) -> bool {
        self.inbound.wants_more() || self.outbound.wants_more()
    }

    /// Its numbers, on their way from now on.
    pub(crate) fn report_numbers(&mut self) -> Numbers {
        self.inbound.handle_request();
        self.outbound.handle_request();
        Numbers {
            spi: self.inbound.spi(),
            edge: self.inbound.edge(),
            horizon_wanted: self.inbound.horizon_wanted(),
            sent: self.outbound.sent(),
            lease_wanted: self.outbound.lease_wanted(),
        }
    }

    /// An authentic packet came in.
    pub(crate) fn heard(&mut self) {
        self.defers_to = None;
    }

    /// The remote peer's end is there now. A port only counts where ESP travels in UDP.
    pub(crate) fn move_peer(&mut self, remote: SocketAddr) {
        self.tunnel.remote = remote.ip();
        if let Some((_, port)) = &mut self.tunnel.udp {
            *port = remote.port();
        }
    }

    pub(crate) fn report(&self) -> SaReport {
        SaReport {
            spi: self.inbound.spi(),
            edge: self.inbound.edge(),
            horizon: self.inbound.horizon(),
            sent: self.outbound.sent(),
            lease: self.outbound.lease(),
            packets_in: self.delivered.packets,
            bytes_in: self.delivered.bytes,
            packets_out: self.sealed.packets,
            bytes_out: self.sealed.bytes,
            awaits_grant: self.inbound.awaits_grant(),
            tunnel: self.tunnel,
        }
    }
}

fn source(flow: &Flow) -> End {
    End { address: flow.source.into(), protocol: flow.protocol, port: flow.ports.map(|(source, _)| source) }
}

fn destination(flow: &Flow) -> End {
    End { address: flow.destination.into(), protocol: flow.protocol, port: flow.ports.map(|(_, port)| port) }
}

/// Where to look for the SA of a packet to a remote host. Newest last.
#[derive(Debug, Default)]
struct ByRemote {
    /// Selectors of one address: most road warriors.
    hosts: HashMap<IpAddr, Vec<SaIndex>>,
    /// The others, searched in turn.
    ranges: Vec<(RangeInclusive<IpAddr>, SaIndex)>,
}

impl ByRemote {
    fn insert(&mut self, index: SaIndex, selectors: &[Selector]) {
        for Selector { addresses, .. } in selectors {
            if addresses.start() == addresses.end() {
                self.hosts.entry(*addresses.start()).or_default().push(index);
            } else {
                self.ranges.push((addresses.clone(), index));
            }
        }
    }

    fn remove(&mut self, index: SaIndex, selectors: &[Selector]) {
        for Selector { addresses, .. } in selectors {
            if let std::collections::hash_map::Entry::Occupied(mut entry) = self.hosts.entry(*addresses.start()) {
                entry.get_mut().retain(|other| *other != index);
                if entry.get().is_empty() {
                    entry.remove();
                }
            }
        }
        self.ranges.retain(|(_, other)| *other != index);
    }
}

/// Removed or never there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoSuchSa;

#[derive(Debug)]
pub(crate) struct Sad {
    engine: EngineKind,
    sas: Vec<Option<Box<Sa>>>,
    free: Vec<SaIndex>,
    by_spi: OwnMap<u32, SaIndex>,
    by_remote: ByRemote,
    sas_max: usize,
    installed: u64,
    /// Where the next beat goes on.
    beat_at: usize,
}

impl Sad {
    pub(crate) fn new(engine: EngineKind, sas_max: usize) -> Self {
        Self {
            engine,
            sas: Vec::new(),
            free: Vec::new(),
            by_spi: OwnMap::default(),
            by_remote: ByRemote::default(),
            sas_max,
            installed: 0,
            beat_at: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_spi.len()
    }

    pub(crate) fn get(&self, index: SaIndex) -> Option<&Sa> {
        self.sas.get(index.0 as usize)?.as_deref()
    }

    pub(crate) fn get_mut(&mut self, index: SaIndex) -> Option<&mut Sa> {
        self.sas.get_mut(index.0 as usize)?.as_deref_mut()
    }

    /// RFC 4301 §4.1: for unicast traffic the SPI alone says which SA it is.
    pub(crate) fn inbound(&self, spi: u32) -> Option<SaIndex> {
        self.by_spi.get(&spi).copied()
    }

    /// The SA that carries a packet of a target to the remote side: the newest whose selectors match.
    pub(crate) fn outbound(&self, vip: u16, flow: &Flow) -> Option<SaIndex> {
        let destination = IpAddr::from(flow.destination);
        let matching = |index: &SaIndex| {
            let sa = self.get(*index)?;
            // RFC 7296 §2.8: the responder of a rekeying can be assured that the initiator is prepared to receive "if either (1) it
            // has received a cryptographically valid message on the other half of the SA pair, or (2) the new SA rekeys an
            // existing SA and it receives an IKE request to close the replaced SA".
            let ready = sa.defers_to.is_none_or(|old| self.inbound(old.get()).is_none());
            (ready && sa.vip == vip && sa.admits_outbound(flow)).then_some((sa.born, *index))
        };
        let host = self.by_remote.hosts.get(&destination).and_then(|sas| sas.iter().rev().find_map(matching));
        let ranges = self.by_remote.ranges.iter().rev().filter(|(addresses, _)| addresses.contains(&destination));
        let range = ranges.map(|(_, index)| index).find_map(matching);
        host.into_iter().chain(range).max_by_key(|(born, _)| *born).map(|(_, index)| index)
    }

    /// Installs a pair, in place of one with the same inbound SPI.
    pub(crate) fn install(&mut self, child: ChildSa) -> Result<SaIndex, ChildRefusal> {
        let spi = child.inbound.spi;
        let refused = |_: SetupError| ChildRefusal::Setup;
        let inbound = InboundSa::new(self.engine, &child.inbound).map_err(refused)?;
        let outbound = OutboundSa::new(self.engine, &child.outbound).map_err(refused)?;
        let _ = self.remove(spi);
        if self.len() >= self.sas_max {
            return Err(ChildRefusal::TooMany);
        }
        self.installed += 1;
        let sa = Box::new(Sa {
            vip: child.vip,
            inbound,
            outbound,
            tunnel: child.tunnel,
            local_selectors: child.local_selectors,
            remote_selectors: child.remote_selectors,
            delivered: Traffic::default(),
            sealed: Traffic::default(),
            defers_to: child.succeeds,
            alive_said: None,
            born: self.installed,
        });
        let index = self.free.pop().unwrap_or(SaIndex(self.sas.len() as u32));
        self.by_remote.insert(index, &sa.remote_selectors);
        self.by_spi.insert(spi.get(), index);
        match self.sas.get_mut(index.0 as usize) {
            Some(place) => *place = Some(sa),
            None => self.sas.push(Some(sa)),
        }
        Ok(index)
    }

    /// Forgets a pair and its keys.
    pub(crate) fn remove(&mut self, spi: Spi) -> Result<(), NoSuchSa> {
        let index = self.by_spi.remove(&spi.get()).ok_or(NoSuchSa)?;
        let sa = self.sas.get_mut(index.0 as usize).and_then(Option::take).ok_or(NoSuchSa)?;
        self.by_remote.remove(index, &sa.remote_selectors);
        self.free.push(index);
        Ok(())
    }

    /// Tells the next `count` places that about a second went by since their last beat.
    pub(crate) fn beat(&mut self, count: usize) {
        for _ in 0..count.min(self.sas.len()) {
            let at = self.beat_at;
            self.beat_at = if at + 1 < self.sas.len() { at + 1 } else { 0 };
            if let Some(sa) = self.sas.get_mut(at).and_then(Option::as_mut) {
                sa.inbound.handle_beat();
            }
        }
    }

    /// Places, in use or free.
    pub(crate) fn places(&self) -> usize {
        self.sas.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Sa> {
        self.sas.iter().filter_map(Option::as_deref)
    }
}
