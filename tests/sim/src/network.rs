//! Two Ethernet networks: a switch each, that learns where a MAC address is from the frames that come from it.

use std::collections::BTreeMap;
use std::time::Duration;

use vipsec_wire::ethernet::{Header, MacAddr};

use crate::scene::{APPLIANCES_MAX, VIPS_MAX};

/// Which network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Net {
    /// Appliances, the remote peers, the adversary.
    Outside,
    /// Appliances and targets.
    Inside,
}

impl Net {
    pub(crate) const ALL: [Self; 2] = [Self::Outside, Self::Inside];

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

/// A place at a switch. The appliances have the first ones on both networks.
pub(crate) type StationId = usize;
/// On the outside network: the VIPs' remote peers.
pub(crate) const REMOTE_STATIONS: [StationId; VIPS_MAX] = [APPLIANCES_MAX, APPLIANCES_MAX + 2];
/// On the outside network.
pub(crate) const ADVERSARY_STATION: StationId = APPLIANCES_MAX + 1;
/// On the inside network: the targets, from here on.
pub(crate) const TARGET_STATION: StationId = APPLIANCES_MAX;
const STATIONS: usize = APPLIANCES_MAX + 3;

/// The cable between a station and its switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Cable {
    /// Frames pass.
    #[default]
    Up,
    /// None do, and nobody is told.
    Silent,
    /// None do, and the station sees that its carrier is gone.
    NoCarrier,
    /// None reach the station.
    Deaf,
    /// None leave it.
    Mute,
}

/// What frames meet on a network.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    /// Share of frames that get lost, in thousandths.
    pub(crate) loss_permille: u32,
    /// Share of frames that arrive twice, in thousandths.
    pub(crate) duplicates_permille: u32,
    /// Longest extra delay.
    pub(crate) delay_max: Duration,
}

impl Weather {
    /// Nothing is lost or late.
    pub(crate) fn is_fine(&self) -> bool {
        self.loss_permille == 0 && self.delay_max.is_zero()
    }
}

/// One network.
#[derive(Debug, Default)]
pub(crate) struct Network {
    places: BTreeMap<[u8; 6], StationId>,
    pub(crate) cables: [Cable; STATIONS],
    pub(crate) weather: Weather,
}

impl Network {
    /// Takes a frame from a station; returns the stations that it goes to.
    pub(crate) fn switch(&mut self, from: StationId, frame: &[u8]) -> Vec<StationId> {
        let Ok((header, _)) = Header::parse(frame) else { return Vec::new() };
        if !self.hears(from) {
            return Vec::new();
        }
        if !header.source.is_multicast() {
            self.places.insert(header.source.0, from);
        }
        let place = self.place(header.destination);
        let others = (0..STATIONS)
            .filter(|station| *station != from && matches!(self.cables[*station], Cable::Up | Cable::Mute));
        others.filter(|station| place.is_none_or(|place| place == *station)).collect()
    }

    /// Does what a station sends reach the switch?
    pub(crate) fn hears(&self, from: StationId) -> bool {
        matches!(self.cables[from], Cable::Up | Cable::Deaf)
    }

    /// Where the switch believes a MAC address to be; `None`: it floods.
    fn place(&self, mac: MacAddr) -> Option<StationId> {
        if mac.is_multicast() { None } else { self.places.get(&mac.0).copied() }
    }

    /// Do frames pass between two appliances?
    pub(crate) fn joins(&self, a: StationId, b: StationId) -> bool {
        self.cables[a] == Cable::Up && self.cables[b] == Cable::Up
    }
}
