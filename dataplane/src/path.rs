//! How packets of a VIP get to a neighbour or a target: made once and kept until tables or neighbours change.

use vipsec_wire::encapsulation::Tunnel;
use vipsec_wire::ethernet::HEADER_LEN;
use vipsec_wire::ip::Version;

use crate::own_hash::KeyedMap;
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

/// Which packets take a path: those of a VIP, of one version, to the target at this place of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TargetKey {
    pub(crate) vip: u16,
    pub(crate) target: u16,
    pub(crate) version: Version,
}

/// Paths that are kept. Only resolved ones are; their number is bounded by those of VIPs, targets and neighbours.
#[derive(Debug)]
pub(crate) struct Paths {
    targets: KeyedMap<TargetKey, TargetPath>,
    neighbours: KeyedMap<(u16, NextHop, Version), Path>,
    generation: Generation,
}

impl Paths {
    pub(crate) fn new() -> Self {
        Self { targets: KeyedMap::default(), neighbours: KeyedMap::default(), generation: Generation::default() }
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
}
