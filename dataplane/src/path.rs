//! How packets of a VIP get to a neighbour or a target: made once and kept until tables or neighbours change.

use std::hash::BuildHasher;

use vipsec_wire::encapsulation::Tunnel;
use vipsec_wire::ethernet::HEADER_LEN;
use vipsec_wire::ip::{Address, Version};

use crate::own_hash::{KeyedMap, Seed};
use crate::route::NextHop;

/// Tables and neighbours as they were at some time. What was made under another one is made anew. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Generation(pub(crate) u32);

/// From a VIP to a neighbour.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Path {
    pub(crate) next_hop: NextHop,
    /// The whole header. While the neighbour is not resolved, the destination in it is blank.
    pub(crate) ethernet: [u8; HEADER_LEN],
    /// Largest IP packet, in bytes.
    pub(crate) mtu: u16,
    pub(crate) is_resolved: bool,
}

/// From a VIP to a target.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TargetPath {
    pub(crate) path: Path,
    /// Largest packet of the VIP, in bytes: what wraps it taken off.
    pub(crate) mtu: u16,
    /// What wraps it.
    pub(crate) tunnel: Option<Tunnel>,
}

/// Which packets take a path: those of a VIP, of one version, to the target at this place of the table. One word, so that it is hashed in
/// one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TargetKey(u64);

impl TargetKey {
    #[inline]
    pub(crate) fn new(vip: u16, version: Version, target: u16) -> Self {
        Self(u64::from(vip) << 32 | u64::from(target) << 16 | u64::from(version == Version::V6))
    }
}

/// So many ways to remote hosts in the clear are kept, a power of two: those of hosts with packets on their way just now.
const REMOTES: usize = 4096;

/// The way of a VIP's packets to a remote host, or to another one with a place here before it.
#[derive(Debug, Clone, Copy)]
struct ToRemote {
    host: Address,
    vip: u16,
    generation: Generation,
    path: Path,
}

/// Paths that are kept. Only resolved ones are; their number is bounded by those of VIPs, targets and neighbours.
#[derive(Debug)]
pub(crate) struct Paths {
    targets: KeyedMap<TargetKey, TargetPath>,
    neighbours: KeyedMap<(u16, NextHop, Version), Path>,
    /// Route and neighbour of a host in one look: each host has one place.
    remotes: Box<[Option<ToRemote>]>,
    generation: Generation,
}

impl Paths {
    pub(crate) fn new() -> Self {
        Self {
            targets: KeyedMap::default(),
            neighbours: KeyedMap::default(),
            remotes: vec![None; REMOTES].into_boxed_slice(),
            generation: Generation::default(),
        }
    }

    /// Forgets what is of another generation.
    #[inline]
    pub(crate) fn enter(&mut self, generation: Generation) {
        if self.generation != generation {
            self.generation = generation;
            self.targets.clear();
            self.neighbours.clear();
        }
    }

    #[inline]
    pub(crate) fn to_target(&self, key: TargetKey) -> Option<&TargetPath> {
        self.targets.get(&key)
    }

    pub(crate) fn keep_to_target(&mut self, key: TargetKey, path: TargetPath) {
        if path.path.is_resolved {
            self.targets.insert(key, path);
        }
    }

    #[inline]
    pub(crate) fn to_neighbour(&self, vip: u16, next_hop: NextHop, version: Version) -> Option<Path> {
        self.neighbours.get(&(vip, next_hop, version)).copied()
    }

    pub(crate) fn keep_to_neighbour(&mut self, vip: u16, version: Version, path: Path) {
        if path.is_resolved {
            self.neighbours.insert((vip, path.next_hop, version), path);
        }
    }

    #[inline]
    pub(crate) fn to_remote(&self, vip: u16, host: Address) -> Option<Path> {
        let kept = self.remotes.get(place_of(host))?.as_ref()?;
        (kept.host == host && kept.vip == vip && kept.generation == self.generation).then_some(kept.path)
    }

    /// In place of that of another host, if there is one.
    pub(crate) fn keep_to_remote(&mut self, vip: u16, host: Address, path: Path) {
        if path.is_resolved
            && let Some(place) = self.remotes.get_mut(place_of(host))
        {
            *place = Some(ToRemote { host, vip, generation: self.generation, path });
        }
    }
}

#[inline]
fn place_of(host: Address) -> usize {
    Seed::default().hash_one(host) as usize & (REMOTES - 1)
}
