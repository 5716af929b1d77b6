//! Groups: VIPs that move together, and what is a group's own: who decides over it, and its copies at the backups.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use vipsec_esp::sa::Spi;
use vipsec_store::CounterEntry;
use vipsec_takeover::floor::Floor;
use vipsec_takeover::moves::{MoveLimits, Moves};
use vipsec_takeover::registry::Process;
use vipsec_wire::iv::{ApplianceId, Epoch};

use super::Ownership;
use super::give_back::GiveBack;
use super::pairing::Side;
use super::protection::Protection;
use crate::config::Config;
use crate::core::Core;
use crate::core::store::in_hand::Hands;
use crate::core::store::publishing::ToCopy;
use crate::core::store::replica::Replica;
use crate::core::takeover::inheriting::Inheriting;
use crate::core::takeover::standby::Prepared;

/// A group.
pub(in crate::core) struct Group {
    /// For logs.
    pub(in crate::core) name: String,
    /// Places of its VIPs in the configuration.
    pub(in crate::core) vips: Vec<u16>,
    pub(in crate::core) ownership: Ownership,
    pub(in crate::core) replica: Replica,
    /// The processes that are paired now.
    pub(in crate::core) paired: BTreeMap<ApplianceId, u64>,
    /// Joins wait for these SAs to be bound.
    pub(in crate::core) binding: BTreeSet<Spi>,
    /// Joins wait for these, which are dealt with slice by slice.
    pub(in crate::core) to_copy: ToCopy,
    /// Whose joins are under way.
    pub(in crate::core) joining: BTreeSet<ApplianceId>,
    /// Workers whose tables are older may speak of connections that it had when it was ours before.
    pub(in crate::core) pins_since: u64,
    /// How often it moved lately.
    pub(in crate::core) moves: Moves,
    /// It moves no more by itself, and the decider knows.
    pub(in crate::core) is_held: bool,
    pub(in crate::core) give_back: GiveBack,
    /// Until then a remote peer that doesn't answer isn't taken for dead.
    pub(in crate::core) patient_until: Option<Instant>,
    pub(in crate::core) protection: Protection,
    /// Whom we deal with, and whom we don't.
    pub(in crate::core) hands: Hands,
    /// Child SAs of another owner's that the workers have already, dormant.
    pub(in crate::core) prepared: HashMap<Spi, Prepared>,
    /// What is being taken over.
    pub(in crate::core) inheriting: Option<Box<Inheriting>>,
    /// It isn't ours any more, and not all of its SAs are forgotten.
    pub(in crate::core) forgetting: bool,
    /// It stopped for a move: what was published of its SAs before.
    pub(in crate::core) stopped: Vec<CounterEntry>,
    /// By VIP: what is on disk of the floor.
    floors_saved: Vec<u32>,
}

/// All groups, by their place in the configuration. `floors`: one per VIP.
pub(in crate::core) fn groups(config: &Config, floors: &[Floor], incarnation: u64, now: Instant) -> Vec<Group> {
    let group = |(number, group): (usize, &crate::config::VipGroup)| {
        let floors = group.vips.iter().filter_map(|vip| floors.get(usize::from(*vip)));
        // No epoch of any of them is ever used again, whoever they once moved with.
        let floor = floors.copied().reduce(Floor::and).unwrap_or_else(|| Floor::from_disk(None));
        Group {
            name: group.name.clone(),
            vips: group.vips.clone(),
            ownership: Ownership::new(config, number, floor, incarnation, now),
            replica: Replica::new(config.peers.first().map_or(0, |peer| peer.store_pins)),
            pins_since: 0,
            paired: BTreeMap::new(),
            binding: BTreeSet::new(),
            to_copy: ToCopy::default(),
            joining: BTreeSet::new(),
            moves: Moves::new(config.shared().map_or_else(MoveLimits::default, |peer| peer.moves)),
            is_held: false,
            give_back: GiveBack::new(config.appliance.id, group.owner, group.give_back),
            patient_until: None,
            protection: Protection::default(),
            hands: Hands::default(),
            prepared: HashMap::new(),
            inheriting: None,
            forgetting: false,
            stopped: Vec::new(),
            floors_saved: vec![0; group.vips.len()],
        }
    };
    config.groups.iter().enumerate().map(group).collect()
}

impl Group {
    /// A floor of one of its VIPs is on disk. Returns what is on disk for all of them.
    pub(in crate::core) fn handle_floor_saved(&mut self, vip: u16, value: u32) -> u32 {
        if let Some(at) = self.vips.iter().position(|known| *known == vip)
            && let Some(saved) = self.floors_saved.get_mut(at)
        {
            *saved = value.max(*saved);
        }
        self.floors_saved.iter().copied().min().unwrap_or(0)
    }

    /// The processes of other appliances that see what is made now.
    pub(in crate::core) fn witnesses(&self) -> Vec<Process> {
        let paired = self.paired.iter();
        paired.map(|(appliance, incarnation)| Process { appliance: *appliance, incarnation: *incarnation }).collect()
    }

    /// Is there a join to go on with?
    pub(in crate::core) fn is_copying(&self) -> bool {
        !self.to_copy.is_empty() || self.replica.has_pins_to_copy()
    }

    /// Our part in the decision over it, if others have one too.
    pub(in crate::core) fn side(&mut self) -> Option<&mut Side> {
        match &mut self.ownership {
            Ownership::Shared(side) => Some(side),
            Ownership::Solo(_) | Ownership::Elsewhere => None,
        }
    }
}

/// Our part in the decision over a group, where only the groups are borrowed.
pub(in crate::core) fn side(groups: &mut [Group], group: usize) -> Option<&mut Side> {
    groups.get_mut(group)?.side()
}

impl Core {
    /// The group that a VIP moves with.
    pub(in crate::core) fn group_of(&self, vip: u16) -> usize {
        self.config.vips.get(usize::from(vip)).map_or(usize::MAX, |vip| usize::from(vip.group))
    }

    /// A group's VIPs, by their places in the configuration.
    pub(in crate::core) fn vips_of(&self, group: usize) -> Vec<u16> {
        self.groups.get(group).map_or_else(Vec::new, |group| group.vips.clone())
    }

    /// What a group is called.
    pub(in crate::core) fn group_name(&self, group: usize) -> &str {
        self.groups.get(group).map_or("?", |group| group.name.as_str())
    }

    /// The replica that a VIP's SAs are published in.
    pub(in crate::core) fn replica_of(&mut self, vip: u16) -> Option<&mut Replica> {
        let group = self.group_of(vip);
        self.groups.get_mut(group).map(|group| &mut group.replica)
    }

    /// Does a copy of the VIP's SAs count?
    pub(in crate::core) fn is_replicated(&self, vip: u16) -> bool {
        self.groups.get(self.group_of(vip)).is_some_and(|group| group.replica.is_on())
    }

    /// Under which epoch the VIP's SAs are ours: also while it is being handed over, because that may be taken back.
    pub(in crate::core) fn epoch_of(&self, vip: u16) -> Option<Epoch> {
        self.groups.get(self.group_of(vip))?.ownership.epoch_of_sas()
    }
}
