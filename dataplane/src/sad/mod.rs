//! The security association database of one worker (RFC 4301 §4.4.2): inbound by SPI, outbound by selectors.
//!
//! A pair's two halves lie apart, each where its packets look for everything they need: a packet from a remote peer touches the
//! inbound half alone, a packet to it the outbound one.

use std::net::SocketAddr;
use std::time::Duration;

use vipsec_distribute::connection::Traffic;
use vipsec_esp::engine::EngineKind;
use vipsec_esp::error::SetupError;
use vipsec_esp::inbound::InboundSa;
use vipsec_esp::lifetime::LifetimeDue;
use vipsec_esp::outbound::OutboundSa;
use vipsec_esp::prefetch;
use vipsec_esp::sa::{ChildSa, Lifetime, Mode, Processing, Spi, TunnelEnds, TunnelPolicy};
use vipsec_wire::buffer::PacketBuf;
use vipsec_wire::crypto::SessionId;
use vipsec_wire::ip::Address;
use vipsec_wire::ipv6;
use vipsec_wire::iv::IvPrefix;

use crate::api::{ChildRefusal, Numbers, SaReport, Steering, WorkerId};
use crate::drops::DropReason;
use crate::own_hash::KeyedMap;
use crate::path::Path;
use crate::selector::{Ends, SelectorIndex, Selectors};
use crate::template::{Fields, Template};

mod arena;
mod elsewhere;
mod spi_map;

use arena::Arena;
use elsewhere::{Elsewhere, Whereabouts};
use spi_map::SpiMap;

/// RFC 791 §3.2: "Every internet destination must be able to receive a datagram of 576 octets either in one piece or in fragments".
const IPV4_MTU_MIN: u16 = 576;

/// A place in the database, valid until its SA is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SaIndex(u32);

/// A pair's keys in the crypto device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sessions {
    /// To open with.
    pub(crate) inbound: SessionId,
    /// To seal with.
    pub(crate) outbound: SessionId,
}

/// The inbound half of a pair. Its first three cache lines are what every packet touches, then those of [`InboundSa`].
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Inbound {
    /// Where the remote peer is, if ESP travels in UDP: packets move it.
    pub(crate) udp_remote: Option<SocketAddr>,
    pub(crate) vip: u16,
    pub(crate) mode: Mode,
    /// Nothing has been heard on it yet.
    unheard: bool,
    pub(crate) processing: Processing,
    /// Other workers have one of their own for the same traffic: connections don't live where their SA is.
    pub(crate) has_lanes: bool,
    /// Nothing is said about its being alive before this time of the worker, in nanoseconds.
    pub(crate) alive_after: u64,
    pub(crate) selectors: Selectors,
    pub(crate) delivered: Traffic,
    pub(crate) esp: InboundSa,
}

/// The outbound half of a pair. Its first three cache lines are what every packet touches, then those of [`OutboundSa`].
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Outbound {
    pub(crate) template: Template,
    pub(crate) vip: u16,
    pub(crate) mode: Mode,
    pub(crate) policy: TunnelPolicy,
    pub(crate) processing: Processing,
    path_mtu: Option<PathMtu>,
    /// Nothing leaves by it while the SA with this inbound SPI is there.
    defers_to: Option<Spi>,
    pub(crate) sealed: Traffic,
    pub(crate) esp: OutboundSa,
}

const _: () = assert!(std::mem::offset_of!(Inbound, esp) <= 192);
const _: () = assert!(std::mem::offset_of!(Outbound, esp) <= 192);

/// Bytes of a cache line.
const LINE_LEN: usize = 64;

/// Asks for the cache lines at the beginning of a half, without waiting for them.
#[inline]
fn prefetch_front<T>(half: &T, bytes: usize) {
    let start: *const u8 = std::ptr::from_ref(half).cast();
    for offset in (0..bytes).step_by(LINE_LEN) {
        prefetch(start.wrapping_add(offset));
    }
}

impl Inbound {
    /// Asks for what every packet touches, but for the key: call it for a whole burst at once.
    #[inline]
    pub(crate) fn prefetch(&self) {
        prefetch_front(self, std::mem::offset_of!(Self, esp));
        self.esp.prefetch();
    }
}

/// What is known of the way to the remote peer beyond the first hop.
#[derive(Debug, Clone, Copy)]
struct PathMtu {
    bytes: u16,
    /// The worker's time at which it is forgotten, in nanoseconds.
    until: u64,
}

/// RFC 1191 §6.3: what was learned about a path MTU is forgotten after ten minutes, to find out whether it has grown.
const PATH_MTU_TIME: Duration = Duration::from_secs(600);

impl Outbound {
    /// Asks for what every packet touches, but for the key: call it for a whole burst at once.
    #[inline]
    pub(crate) fn prefetch(&self) {
        prefetch_front(self, std::mem::offset_of!(Self, esp));
        self.esp.prefetch();
    }

    /// The path MTU to the remote peer, if a smaller one than the first hop's is known, in bytes.
    pub(crate) fn path_mtu(&self) -> Option<u16> {
        self.path_mtu.map(|known| known.bytes)
    }

    /// Puts the outer headers on a sealed packet that had so many bytes, and counts it. Returns its way.
    #[inline]
    pub(crate) fn dress<B: PacketBuf>(
        &mut self,
        packet: &mut B,
        fields: Fields,
        bytes: usize,
    ) -> Result<Path, DropReason> {
        self.template.put_on(packet, fields)?;
        count(&mut self.sealed, bytes);
        Ok(self.template.path)
    }
}

/// What packets seldom ask for.
#[derive(Debug)]
struct Pair {
    spi: Spi,
    tunnel: TunnelEnds,
    /// If a crypto device processes it.
    sessions: Option<Sessions>,
}

/// Which SA carries a packet to the remote side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    /// One of this worker's.
    Here(SaIndex),
    /// One of another worker's.
    There(WorkerId),
}

/// Where connections live whose packets an SA carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Living {
    /// With their SA, which is this worker's.
    Here,
    /// With their SA, on another worker.
    There(WorkerId),
    /// At their hash: the SA is one of several lanes.
    AtHash,
}

/// Removed or never there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoSuchSa;

#[derive(Debug)]
pub(crate) struct Sad {
    engine: EngineKind,
    pairs: Vec<Option<Pair>>,
    inbound: Arena<Inbound>,
    outbound: Arena<Outbound>,
    free: Vec<SaIndex>,
    by_spi: SpiMap,
    /// Those of other workers too.
    by_selectors: SelectorIndex,
    elsewhere: Elsewhere,
    /// By remote peer and its SPI, for ICMP errors.
    by_remote_spi: KeyedMap<(Address, u32), SaIndex>,
    sas_max: usize,
    /// Where the next beat goes on.
    beat_at: u32,
}

impl Sad {
    pub(crate) fn new(engine: EngineKind, sas_max: usize, hash_seed: u64) -> Self {
        Self {
            engine,
            pairs: Vec::new(),
            inbound: Arena::new(),
            outbound: Arena::new(),
            free: Vec::new(),
            by_spi: SpiMap::new(),
            by_selectors: SelectorIndex::new(hash_seed),
            elsewhere: Elsewhere::new(),
            by_remote_spi: KeyedMap::with_hasher(hash_seed.into()),
            sas_max,
            beat_at: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_spi.len()
    }

    /// RFC 4301 §4.1: for unicast traffic the SPI alone says which SA it is.
    #[inline]
    pub(crate) fn find_inbound(&self, spi: u32) -> Option<SaIndex> {
        self.by_spi.get(spi).map(SaIndex)
    }

    /// The SA of this worker that carries a packet of a VIP to the remote side: the newest whose selectors match.
    pub(crate) fn find_outbound(&self, vip: u16, ends: &Ends) -> Option<SaIndex> {
        let is_ready = |sa: u32| !Elsewhere::is_number(sa) && self.is_ready(sa);
        self.by_selectors.newest(vip, ends, is_ready).map(SaIndex)
    }

    /// The SA that carries a packet of a VIP to the remote side: of all workers' the newest whose selectors match, but of lanes this
    /// worker's own.
    #[inline]
    pub(crate) fn find_carrier(&self, vip: u16, ends: &Ends) -> Option<Carrier> {
        let newest = self.newest(vip, ends)?;
        if !Elsewhere::is_number(newest) {
            return Some(Carrier::Here(SaIndex(newest)));
        }
        let Whereabouts { worker, has_lanes } = self.elsewhere.whereabouts(newest)?;
        let own = has_lanes.then(|| self.find_outbound(vip, ends)).flatten();
        Some(own.map_or(Carrier::There(worker), Carrier::Here))
    }

    /// Asks for what finding the SA of a packet to a remote host touches: call it for a whole burst first.
    #[inline]
    pub(crate) fn prefetch_carrier(&self, remote: Address) {
        self.by_selectors.prefetch(remote);
    }

    /// Where the connection of such a packet lives.
    pub(crate) fn find_living(&self, vip: u16, ends: &Ends) -> Option<Living> {
        let newest = self.newest(vip, ends)?;
        if !Elsewhere::is_number(newest) {
            return Some(if self.inbound.get(newest)?.has_lanes { Living::AtHash } else { Living::Here });
        }
        let Whereabouts { worker, has_lanes } = self.elsewhere.whereabouts(newest)?;
        Some(if has_lanes { Living::AtHash } else { Living::There(worker) })
    }

    #[inline]
    fn newest(&self, vip: u16, ends: &Ends) -> Option<u32> {
        self.by_selectors.newest(vip, ends, |sa| Elsewhere::is_number(sa) || self.is_ready(sa))
    }

    /// May packets leave by it?
    #[inline]
    fn is_ready(&self, sa: u32) -> bool {
        // RFC 7296 §2.8: the responder of a rekeying can be assured that the initiator is prepared to receive "if either (1) it
        // has received a cryptographically valid message on the other half of the SA pair, or (2) the new SA rekeys an
        // existing SA and it receives an IKE request to close the replaced SA".
        let defers_to = self.outbound.get(sa).and_then(|sa| sa.defers_to);
        defers_to.is_none_or(|old| self.by_spi.get(old.get()).is_none())
    }

    /// The other worker that has an SA.
    pub(crate) fn worker_of(&self, spi: u32) -> Option<WorkerId> {
        self.elsewhere.worker_of(spi)
    }

    /// Do other workers have SAs?
    pub(crate) fn knows_others(&self) -> bool {
        !self.elsewhere.is_empty()
    }

    /// Another worker has an SA.
    pub(crate) fn steer(&mut self, steering: &Steering) {
        self.elsewhere.insert(steering, &mut self.by_selectors);
    }

    /// No other worker has it any more.
    pub(crate) fn unsteer(&mut self, spi: Spi) -> Result<(), NoSuchSa> {
        if self.elsewhere.remove(spi, &mut self.by_selectors) { Ok(()) } else { Err(NoSuchSa) }
    }

    #[inline]
    pub(crate) fn inbound(&self, index: SaIndex) -> Option<&Inbound> {
        self.inbound.get(index.0)
    }

    #[inline]
    pub(crate) fn inbound_mut(&mut self, index: SaIndex) -> Option<&mut Inbound> {
        self.inbound.get_mut(index.0)
    }

    #[inline]
    pub(crate) fn outbound(&self, index: SaIndex) -> Option<&Outbound> {
        self.outbound.get(index.0)
    }

    #[inline]
    pub(crate) fn outbound_mut(&mut self, index: SaIndex) -> Option<&mut Outbound> {
        self.outbound.get_mut(index.0)
    }

    /// The outer addresses of a pair.
    pub(crate) fn tunnel(&self, index: SaIndex) -> Option<TunnelEnds> {
        self.pair(index).map(|pair| pair.tunnel)
    }

    /// The sessions of a pair that a crypto device processes.
    pub(crate) fn sessions(&self, index: SaIndex) -> Option<Sessions> {
        self.pair(index)?.sessions
    }

    fn pair(&self, index: SaIndex) -> Option<&Pair> {
        self.pairs.get(index.0 as usize)?.as_ref()
    }

    /// Installs a pair, in place of one with the same inbound SPI; with its sessions if a crypto device processes it. Returns those
    /// of the one that was there, too: they are to be closed.
    pub(crate) fn install(
        &mut self,
        child: &ChildSa,
        sessions: Option<Sessions>,
    ) -> Result<(SaIndex, Option<Sessions>), ChildRefusal> {
        let spi = child.inbound.spi;
        let refused = |_: SetupError| ChildRefusal::Setup;
        let inbound_sa = InboundSa::new(self.engine, &child.inbound).map_err(refused)?.with_lifetime(&child.lifetime);
        let outbound_sa =
            OutboundSa::new(self.engine, &child.outbound).map_err(refused)?.with_lifetime(&child.lifetime);
        let replaced = self.remove(spi).ok().flatten();
        let _ = self.unsteer(spi);
        if self.len() >= self.sas_max {
            return Err(ChildRefusal::TooMany);
        }
        let index = self.free.pop().unwrap_or(SaIndex(self.pairs.len() as u32));
        let selectors = Selectors::new(&child.local_selectors, &child.remote_selectors);
        self.by_selectors.insert(index.0, child.vip, &selectors);
        self.by_spi.insert(spi.get(), index.0);
        self.by_remote_spi.insert((child.tunnel.remote.into(), child.outbound.spi.get()), index);
        let inbound = Inbound {
            udp_remote: udp_remote(&child.tunnel),
            vip: child.vip,
            mode: child.mode,
            unheard: true,
            processing: child.processing,
            has_lanes: child.lane.is_some(),
            alive_after: 0,
            selectors,
            delivered: Traffic::default(),
            esp: inbound_sa,
        };
        self.inbound.put(index.0, inbound);
        let outbound = Outbound {
            template: Template::none(),
            vip: child.vip,
            mode: child.mode,
            policy: child.policy,
            processing: child.processing,
            path_mtu: None,
            defers_to: child.succeeds,
            sealed: Traffic::default(),
            esp: outbound_sa,
        };
        self.outbound.put(index.0, outbound);
        let pair = Some(Pair { spi, tunnel: child.tunnel, sessions });
        match self.pairs.get_mut(index.0 as usize) {
            Some(place) => *place = pair,
            None => self.pairs.push(pair),
        }
        Ok((index, replaced))
    }

    /// Asks for what waking a pair touches, without waiting for it.
    #[inline]
    pub(crate) fn prefetch(&self, index: SaIndex) {
        if let Some(inbound) = self.inbound.get(index.0) {
            inbound.esp.prefetch();
        }
        if let Some(outbound) = self.outbound.get(index.0) {
            outbound.esp.prefetch();
        }
    }

    /// Gives a dormant pair its numbers. False if it has some already, and keeps them.
    pub(crate) fn wake(
        &mut self,
        index: SaIndex,
        iv_prefix: IvPrefix,
        edge: u64,
        sent: u64,
        lifetime: &Lifetime,
    ) -> bool {
        let (Some(inbound), Some(outbound)) = (self.inbound.get_mut(index.0), self.outbound.get_mut(index.0)) else {
            return false;
        };
        inbound.esp.wake(edge, lifetime) && outbound.esp.wake(iv_prefix, sent, lifetime)
    }

    /// Forgets a pair and its keys. Returns its sessions, which are to be closed.
    pub(crate) fn remove(&mut self, spi: Spi) -> Result<Option<Sessions>, NoSuchSa> {
        let at = self.by_spi.remove(spi.get()).ok_or(NoSuchSa)?;
        self.forget_remote_spi(SaIndex(at));
        if let Some(inbound) = self.inbound.get(at) {
            self.by_selectors.remove(at, &inbound.selectors);
        }
        self.inbound.clear(at);
        self.outbound.clear(at);
        let pair = self.pairs.get_mut(at as usize).and_then(Option::take).ok_or(NoSuchSa)?;
        self.free.push(SaIndex(at));
        Ok(pair.sessions)
    }

    /// An authentic packet came in by the pair.
    #[inline]
    pub(crate) fn heard(&mut self, index: SaIndex) {
        if let Some(inbound) = self.inbound.get_mut(index.0)
            && inbound.unheard
        {
            inbound.unheard = false;
            if let Some(outbound) = self.outbound.get_mut(index.0) {
                outbound.defers_to = None;
            }
        }
    }

    /// The remote peer's end is there now. A port only counts where ESP travels in UDP.
    pub(crate) fn move_peer(&mut self, index: SaIndex, remote: SocketAddr) {
        let at = index.0;
        self.forget_remote_spi(index);
        let Some(Some(pair)) = self.pairs.get_mut(at as usize) else { return };
        pair.tunnel.remote = remote.ip();
        if let Some((_, port)) = &mut pair.tunnel.udp {
            *port = remote.port();
        }
        if let Some(inbound) = self.inbound.get_mut(at) {
            inbound.udp_remote = udp_remote(&pair.tunnel);
        }
        if let Some(outbound) = self.outbound.get_mut(at) {
            // It is another path now.
            outbound.path_mtu = None;
            outbound.template.forget();
            self.by_remote_spi.insert((remote.ip().into(), outbound.esp.spi().get()), index);
        }
    }

    /// The pair that sends to a remote peer under that SPI of the peer's.
    pub(crate) fn find_by_remote_spi(&self, remote: Address, spi: u32) -> Option<SaIndex> {
        self.by_remote_spi.get(&(remote, spi)).copied()
    }

    fn forget_remote_spi(&mut self, index: SaIndex) {
        let remote = self.tunnel(index).map(|tunnel| Address::from(tunnel.remote));
        let spi = self.outbound(index).map(|sa| sa.esp.spi().get());
        if let Some(key) = remote.zip(spi)
            && self.by_remote_spi.get(&key) == Some(&index)
        {
            self.by_remote_spi.remove(&key);
        }
    }

    /// The path to a pair's remote peer carries only packets of `mtu` bytes, somebody says at this time of the worker. Returns whether
    /// that changed anything.
    pub(crate) fn lower_path_mtu(&mut self, nanos: u64, index: SaIndex, mtu: u32) -> bool {
        let Some(tunnel) = self.tunnel(index) else { return false };
        let Some(outbound) = self.outbound_mut(index) else { return false };
        // RFC 791 §3.2 and RFC 8200 §5: every link carries packets of that size, so nobody can talk us below it.
        let min = if tunnel.remote.is_ipv4() { IPV4_MTU_MIN } else { ipv6::MTU_MIN as u16 };
        let bytes = u16::try_from(mtu).unwrap_or(u16::MAX).max(min);
        let known = outbound.path_mtu.map_or(outbound.template.path.mtu, |known| known.bytes);
        if bytes >= known {
            return false;
        }
        outbound.path_mtu = Some(PathMtu { bytes, until: nanos.saturating_add(PATH_MTU_TIME.as_nanos() as u64) });
        outbound.template.forget();
        true
    }

    /// Does a pair want to report its numbers?
    pub(crate) fn wants_more(&self, index: SaIndex) -> bool {
        self.inbound(index).is_some_and(|sa| sa.esp.wants_more())
            || self.outbound(index).is_some_and(|sa| sa.esp.wants_more())
    }

    /// A pair's numbers, on their way from now on.
    pub(crate) fn report_numbers(&mut self, index: SaIndex) -> Option<Numbers> {
        let (inbound, outbound) = (self.inbound.get_mut(index.0)?, self.outbound.get_mut(index.0)?);
        inbound.esp.handle_request();
        outbound.esp.handle_request();
        Some(Numbers {
            spi: inbound.esp.spi(),
            edge: inbound.esp.edge(),
            horizon_wanted: inbound.esp.horizon_wanted(),
            sent: outbound.esp.sent(),
            lease_wanted: outbound.esp.lease_wanted(),
        })
    }

    /// Tells the next `count` places that about a second went by since their last beat. Says which lifetimes came to a limit.
    pub(crate) fn beat(&mut self, nanos: u64, count: usize, mut lifetime: impl FnMut(Spi, LifetimeDue)) {
        for _ in 0..count.min(self.pairs.len()) {
            let at = self.beat_at;
            self.beat_at = if (at as usize) + 1 < self.pairs.len() { at + 1 } else { 0 };
            let (Some(inbound), Some(outbound)) = (self.inbound.get_mut(at), self.outbound.get_mut(at)) else {
                continue;
            };
            inbound.esp.handle_beat();
            let dues = [inbound.esp.lifetime_due(), outbound.esp.lifetime_due()];
            dues.into_iter().flatten().for_each(|due| lifetime(inbound.esp.spi(), due));
            if outbound.path_mtu.is_some_and(|known| known.until <= nanos) {
                outbound.path_mtu = None;
                outbound.template.forget();
            }
        }
    }

    /// Places, in use or free.
    pub(crate) fn places(&self) -> usize {
        self.pairs.len()
    }

    /// All pairs' numbers and counters, but for dormant ones, which have none.
    pub(crate) fn reports(&self) -> impl Iterator<Item = SaReport> + '_ {
        (0u32..).zip(&self.pairs).filter_map(|(at, pair)| {
            let pair = pair.as_ref()?;
            let (inbound, outbound) = (self.inbound.get(at)?, self.outbound.get(at)?);
            if inbound.esp.is_dormant() {
                return None;
            }
            Some(SaReport {
                spi: pair.spi,
                edge: inbound.esp.edge(),
                horizon: inbound.esp.horizon(),
                sent: outbound.esp.sent(),
                lease: outbound.esp.lease(),
                packets_in: inbound.delivered.packets,
                bytes_in: inbound.delivered.bytes,
                packets_out: outbound.sealed.packets,
                bytes_out: outbound.sealed.bytes,
                awaits_grant: inbound.esp.awaits_grant(),
                processing: inbound.processing,
                tunnel: pair.tunnel,
            })
        })
    }
}

fn udp_remote(tunnel: &TunnelEnds) -> Option<SocketAddr> {
    tunnel.udp.map(|(_, port)| SocketAddr::new(tunnel.remote, port))
}

/// Counts a packet of that many bytes.
#[inline]
pub(crate) fn count(traffic: &mut Traffic, bytes: usize) {
    traffic.packets = traffic.packets.wrapping_add(1);
    traffic.bytes = traffic.bytes.wrapping_add(bytes as u64);
}
