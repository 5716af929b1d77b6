//! What goes wrong in a schedule, and when: drawn from the seed.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use crate::network::{Cable, Net, Weather};
use crate::remote::Operation;
use crate::scene::{APPLIANCES_MAX, TARGETS, VIPS_MAX};

/// Most faults of a schedule.
const FAULTS_MAX: usize = 7;
/// From the first fault to the last.
const SPAN: Duration = Duration::from_millis(1200);

/// Who is struck: known when it happens. Owner and backup are those of the fault's VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// The appliance that owns the VIP.
    Owner,
    /// The other one.
    Backup,
    /// The one that the fault before struck.
    Last,
    /// The one that it didn't.
    NotLast,
    /// That one, of as many as there are.
    Appliance(usize),
}

/// Something that goes wrong, or is ordered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// The process dies, and is started again later; its disk may be lost.
    Kill { who: Who, disk_lost: bool },
    /// The process is told to end (SIGTERM): it hands over first what it can. It is started again later.
    End(Who),
    /// The whole process doesn't run (SIGSTOP).
    Pause(Who),
    /// The same, of whoever takes the VIP next, in that very moment.
    PauseHeir,
    /// Only the control core's thread doesn't.
    StallCore(Who),
    /// Only the worker's thread doesn't.
    StallWorker(Who),
    /// The owner's store links break, and both ends notice.
    CutLink,
    /// Messages of the store link take that much longer.
    DelayLink(Duration),
    /// An appliance's cable.
    Unplug { who: Who, net: Net, cable: Cable },
    /// All of an appliance's links at once, without a carrier going down.
    Isolate(Who),
    /// A network misbehaves.
    Weather { net: Net, weather: Weather },
    /// The operator moves the VIP: at the owner, or at the backup.
    Move { at: Who },
    /// An operator rekeys or deletes.
    Operate { at_remote: bool, operation: Operation },
    /// Hosts behind the remote peer send much at once.
    Burst(u64),
    /// The registry answers nobody; what it is asked may be done all the same, or later.
    SilenceRegistry,
    /// An appliance doesn't reach the registry.
    CutOffRegistry(Who),
    /// The operator has a target drained, and then enabled again.
    Drain { target: usize },
}

/// A fault and its time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlannedFault {
    /// Which of the VIPs it is about, as far as it is about one, and as far as there are so many.
    pub(crate) vip: usize,
    /// After the plan's start.
    pub(crate) at: Duration,
    /// And then after so many steps: that is where things happen.
    pub(crate) steps: u32,
    pub(crate) fault: Fault,
    /// Until it is mended.
    pub(crate) lasts: Duration,
}

/// A schedule's faults.
#[derive(Debug)]
pub(crate) struct Plan {
    /// When it begins: most begin when everything stands.
    pub(crate) start: Duration,
    pub(crate) faults: Vec<PlannedFault>,
}

impl Plan {
    /// The same, where a registry decides: it has its share of the faults.
    pub(crate) fn draw_with_registry(rng: &mut StdRng) -> Self {
        let mut plan = Self::draw(rng);
        // The first claim takes a while.
        plan.start += Duration::from_millis(150);
        for _ in 0..rng.random_range(0..=3) {
            let at = millis(rng, 0, 1200);
            let fault = if rng.random_bool(0.5) { Fault::SilenceRegistry } else { Fault::CutOffRegistry(who(rng)) };
            let lasts = fault.draw_length(rng);
            plan.faults.push(PlannedFault { vip: rng.random_range(0..VIPS_MAX), at, steps: steps(rng), fault, lasts });
        }
        plan.faults.sort_by_key(|fault| fault.at);
        plan
    }

    /// The backup is cut off for long, and nothing else happens but what operators may want meanwhile.
    pub(crate) fn draw_split(rng: &mut StdRng) -> Self {
        let estrangement = estrangement(rng, Duration::ZERO);
        let healed = estrangement.lasts + millis(rng, 10, 100);
        let burst = Fault::Burst(10);
        let mut faults =
            vec![estrangement, PlannedFault { vip: 0, at: healed, steps: 0, fault: burst, lasts: Duration::ZERO }];
        for _ in 0..rng.random_range(0..3) {
            let operation = if rng.random_bool(0.5) { Operation::RekeyChild } else { Operation::RekeyIke };
            let fault = Fault::Operate { at_remote: true, operation };
            let at = millis(rng, 0, 700);
            faults.push(PlannedFault { vip: 0, at, steps: steps(rng), fault, lasts: Duration::ZERO });
        }
        faults.sort_by_key(|fault| fault.at);
        Self { start: millis(rng, 350, 450), faults }
    }

    /// The operator moves VIPs and has processes end, one after the other, and nothing goes wrong.
    pub(crate) fn draw_planned(rng: &mut StdRng) -> Self {
        let mut at = Duration::ZERO;
        let planned = (0..rng.random_range(1..=5)).map(|_| {
            let who = if rng.random_bool(0.6) { Who::Owner } else { Who::Backup };
            let fault = if rng.random_bool(0.5) { Fault::Move { at: who } } else { Fault::End(who) };
            let vip = rng.random_range(0..VIPS_MAX);
            let fault = PlannedFault { vip, at, steps: steps(rng), fault, lasts: Duration::ZERO };
            // Who has begun anew has a copy by then.
            at += millis(rng, 500, 800);
            fault
        });
        Self { faults: planned.collect(), start: millis(rng, 350, 450) }
    }

    pub(crate) fn draw(rng: &mut StdRng) -> Self {
        let start = if rng.random_bool(0.85) { millis(rng, 260, 400) } else { millis(rng, 50, 260) };
        let mut at = Duration::ZERO;
        let mut faults = Vec::new();
        while faults.is_empty() || faults.len() < rng.random_range(1..=FAULTS_MAX) {
            // Misfortunes come close together, or far apart.
            at += if rng.random_bool(0.6) { millis(rng, 0, 90) } else { millis(rng, 90, 500) };
            if at > SPAN {
                break;
            }
            let known = faults.len();
            match rng.random_range(0..18) {
                0 => faults.extend(death_in_an_exchange(rng, at)),
                1 => faults.extend(death_of_one_cut_off(rng, at)),
                2 => faults.extend(death_after_a_lost_link(rng, at)),
                3 => faults.extend(doubt(rng, at)),
                4 if rng.random_bool(0.5) => faults.extend(death_while_targets_change(rng, at)),
                4 => faults.extend(death_as_connections_begin(rng, at)),
                5 => faults.extend(death_in_a_move(rng, at)),
                6 => faults.extend(deaths_in_a_row(rng, at)),
                7 => faults.push(estrangement(rng, at)),
                8 => faults.extend(misfortune_in_a_move(rng, at)),
                9 => faults.extend(misfortune_at_an_end(rng, at)),
                10 => faults.extend(owner_unheard(rng, at)),
                11 => faults.extend(heir_asleep(rng, at)),
                _ => {
                    let fault = draw_fault(rng);
                    let lasts = fault.draw_length(rng);
                    faults.push(PlannedFault { vip: 0, at, steps: steps(rng), fault, lasts });
                }
            }
            let vip = rng.random_range(0..VIPS_MAX);
            faults.iter_mut().skip(known).for_each(|fault| fault.vip = vip);
        }
        faults.sort_by_key(|fault| fault.at);
        Self { start, faults }
    }
}

// Misfortunes of more than one fault, that are rare by chance.

/// Somebody rekeys, and the owner dies over it.
fn death_in_an_exchange(rng: &mut StdRng, at: Duration) -> [PlannedFault; 2] {
    let operation = if rng.random_bool(0.5) { Operation::RekeyChild } else { Operation::RekeyIke };
    let rekey = Fault::Operate { at_remote: rng.random_bool(0.5), operation };
    let kill = Fault::Kill { who: Who::Owner, disk_lost: false };
    [
        PlannedFault { vip: 0, at, steps: 0, fault: rekey, lasts: Duration::ZERO },
        PlannedFault { vip: 0, at, steps: rng.random_range(0..120), fault: kill, lasts: kill.draw_length(rng) },
    ]
}

/// A backup that is cut off takes over for itself, dies, comes back; then its owner dies.
fn death_of_one_cut_off(rng: &mut StdRng, at: Duration) -> [PlannedFault; 3] {
    let kill = |who, disk_lost| Fault::Kill { who, disk_lost };
    let dies = at + millis(rng, 60, 150);
    let disk_lost = rng.random_bool(0.3);
    [
        PlannedFault { vip: 0, at, steps: 0, fault: Fault::Isolate(Who::Backup), lasts: millis(rng, 100, 250) },
        PlannedFault {
            vip: 0,
            at: dies,
            steps: steps(rng),
            fault: kill(Who::Last, disk_lost),
            lasts: millis(rng, 5, 100),
        },
        PlannedFault {
            vip: 0,
            at: dies + millis(rng, 200, 500),
            steps: steps(rng),
            fault: kill(Who::NotLast, false),
            lasts: millis(rng, 5, 300),
        },
    ]
}

/// The store link is lost for long, and then the owner.
fn death_after_a_lost_link(rng: &mut StdRng, at: Duration) -> [PlannedFault; 2] {
    let kill = Fault::Kill { who: Who::Owner, disk_lost: false };
    let dies = at + millis(rng, 20, 400);
    [
        PlannedFault { vip: 0, at, steps: steps(rng), fault: Fault::CutLink, lasts: millis(rng, 300, 700) },
        PlannedFault { vip: 0, at: dies, steps: steps(rng), fault: kill, lasts: kill.draw_length(rng) },
    ]
}

/// The store link is slow, and the owner sleeps just so long that its backup acts, whose worker gets stuck over it: when the owner
/// wakes, it has not been told yet.
fn doubt(rng: &mut StdRng, at: Duration) -> [PlannedFault; 3] {
    let delay = millis(rng, 40, 60);
    let sleeps = at + millis(rng, 5, 15);
    // The last heartbeat is still under way for that long, and then comes the silence.
    let acts = delay + Duration::from_millis(50);
    let slow = Fault::DelayLink(delay);
    let stuck = Fault::StallWorker(Who::NotLast);
    [
        PlannedFault { vip: 0, at, steps: 0, fault: slow, lasts: millis(rng, 300, 500) },
        PlannedFault {
            vip: 0,
            at: sleeps,
            steps: steps(rng),
            fault: Fault::Pause(Who::Owner),
            lasts: acts + millis(rng, 0, 25),
        },
        PlannedFault {
            vip: 0,
            at: sleeps + acts - millis(rng, 1, 12),
            steps: 0,
            fault: stuck,
            lasts: millis(rng, 20, 70),
        },
    ]
}

/// The operator moves a VIP, and one of the two dies over it.
fn death_in_a_move(rng: &mut StdRng, at: Duration) -> [PlannedFault; 2] {
    let order = Fault::Move { at: if rng.random_bool(0.5) { Who::Owner } else { Who::Backup } };
    let who = if rng.random_bool(0.5) { Who::Last } else { Who::NotLast };
    let kill = Fault::Kill { who, disk_lost: rng.random_bool(0.1) };
    [
        PlannedFault { vip: 0, at, steps: 0, fault: order, lasts: Duration::ZERO },
        PlannedFault { vip: 0, at, steps: rng.random_range(0..400), fault: kill, lasts: kill.draw_length(rng) },
    ]
}

/// The operator moves a VIP, and anything goes wrong over it.
fn misfortune_in_a_move(rng: &mut StdRng, at: Duration) -> [PlannedFault; 2] {
    let order = Fault::Move { at: if rng.random_bool(0.5) { Who::Owner } else { Who::Backup } };
    misfortune_during(rng, at, order, Duration::ZERO)
}

/// The same while a process ends as it was told to.
fn misfortune_at_an_end(rng: &mut StdRng, at: Duration) -> [PlannedFault; 2] {
    let end = Fault::End(if rng.random_bool(0.7) { Who::Owner } else { Who::Backup });
    let lasts = end.draw_length(rng);
    misfortune_during(rng, at, end, lasts)
}

fn misfortune_during(rng: &mut StdRng, at: Duration, planned: Fault, lasts: Duration) -> [PlannedFault; 2] {
    let fault = draw_fault(rng);
    let steps = rng.random_range(0..400);
    [
        PlannedFault { vip: 0, at, steps: 0, fault: planned, lasts },
        PlannedFault { vip: 0, at, steps, fault, lasts: fault.draw_length(rng) },
    ]
}

/// The backup hears nothing of an owner that goes on, and whose writes arrive.
fn owner_unheard(rng: &mut StdRng, at: Duration) -> [PlannedFault; 3] {
    let delay = millis(rng, 60, 120);
    let lasts = delay + millis(rng, 0, 100);
    let deaf = |net| Fault::Unplug { who: Who::Backup, net, cable: Cable::Deaf };
    [deaf(Net::Outside), deaf(Net::Inside), Fault::DelayLink(delay)].map(|fault| PlannedFault {
        vip: 0,
        at,
        steps: 0,
        fault,
        lasts,
    })
}

/// The owner dies, and its successor sleeps as soon as the VIP is its own.
fn heir_asleep(rng: &mut StdRng, at: Duration) -> [PlannedFault; 2] {
    let kill = Fault::Kill { who: Who::Owner, disk_lost: false };
    let sleep = Fault::PauseHeir;
    [
        PlannedFault { vip: 0, at, steps: 0, fault: sleep, lasts: millis(rng, 20, 80) },
        PlannedFault { vip: 0, at, steps: steps(rng), fault: kill, lasts: kill.draw_length(rng) },
    ]
}

/// The owner dies, and its successor as soon as the other one may be there again.
fn deaths_in_a_row(rng: &mut StdRng, at: Duration) -> [PlannedFault; 3] {
    let kill = Fault::Kill { who: Who::Owner, disk_lost: rng.random_bool(0.1) };
    let mut dies = at;
    [(); 3].map(|()| {
        let fault = PlannedFault { vip: 0, at: dies, steps: steps(rng), fault: kill, lasts: millis(rng, 2, 60) };
        dies += millis(rng, 60, 250);
        fault
    })
}

/// A backup is cut off for so long that its owner goes on without it, while it has taken over for itself.
fn estrangement(rng: &mut StdRng, at: Duration) -> PlannedFault {
    let lasts = millis(rng, 320, 700);
    PlannedFault { vip: 0, at, steps: steps(rng), fault: Fault::Isolate(Who::Backup), lasts }
}

/// Connections begin, and the owner dies over it.
fn death_as_connections_begin(rng: &mut StdRng, at: Duration) -> [PlannedFault; 2] {
    let kill = Fault::Kill { who: Who::Owner, disk_lost: false };
    let burst = Fault::Burst(rng.random_range(60..130));
    [
        PlannedFault { vip: 0, at, steps: 0, fault: burst, lasts: Duration::ZERO },
        PlannedFault { vip: 0, at, steps: rng.random_range(10..200), fault: kill, lasts: kill.draw_length(rng) },
    ]
}

/// A target drains, and the owner dies over it.
fn death_while_targets_change(rng: &mut StdRng, at: Duration) -> [PlannedFault; 2] {
    let kill = Fault::Kill { who: Who::Owner, disk_lost: false };
    let drain = Fault::Drain { target: rng.random_range(0..TARGETS.len()) };
    let lasts = millis(rng, 1, 60);
    let dies = at + if rng.random_bool(0.5) { Duration::ZERO } else { lasts };
    [
        PlannedFault { vip: 0, at, steps: 0, fault: drain, lasts },
        PlannedFault { vip: 0, at: dies, steps: rng.random_range(0..150), fault: kill, lasts: kill.draw_length(rng) },
    ]
}

fn steps(rng: &mut StdRng) -> u32 {
    if rng.random_bool(0.7) { rng.random_range(0..60) } else { 0 }
}

fn millis(rng: &mut StdRng, from: u64, to: u64) -> Duration {
    Duration::from_micros(rng.random_range(from * 1000..to * 1000))
}

fn who(rng: &mut StdRng) -> Who {
    match rng.random_range(0..10) {
        0..5 => Who::Owner,
        5..7 => Who::Backup,
        7 => Who::Last,
        8 => Who::NotLast,
        _ => Who::Appliance(rng.random_range(0..APPLIANCES_MAX)),
    }
}

fn draw_fault(rng: &mut StdRng) -> Fault {
    let net = Net::ALL[rng.random_range(0..2)];
    match rng.random_range(0..100) {
        0..18 => Fault::Kill { who: who(rng), disk_lost: rng.random_bool(0.1) },
        18..22 => Fault::End(who(rng)),
        22..34 => Fault::Pause(who(rng)),
        34..38 => Fault::StallCore(who(rng)),
        38..42 => Fault::StallWorker(who(rng)),
        42..50 => Fault::CutLink,
        50..54 => Fault::DelayLink(millis(rng, 1, 120)),
        54..60 => {
            let cable = [Cable::Silent, Cable::NoCarrier, Cable::Deaf, Cable::Mute][rng.random_range(0..4)];
            Fault::Unplug { who: who(rng), net, cable }
        }
        60..68 => Fault::Isolate(who(rng)),
        68..74 => {
            let weather = Weather {
                loss_permille: rng.random_range(0..400),
                duplicates_permille: rng.random_range(0..100),
                delay_max: millis(rng, 0, 20),
            };
            Fault::Weather { net, weather }
        }
        74..82 => Fault::Move { at: if rng.random_bool(0.7) { Who::Owner } else { Who::Backup } },
        82..95 => {
            let operation = match rng.random_range(0..10) {
                0..5 => Operation::RekeyChild,
                5..9 => Operation::RekeyIke,
                _ => Operation::DeleteIke,
            };
            Fault::Operate { at_remote: rng.random_bool(0.5), operation }
        }
        95..98 => Fault::Burst(rng.random_range(10..120)),
        _ => Fault::Drain { target: rng.random_range(0..TARGETS.len()) },
    }
}

impl Fault {
    /// Can't it be told afterwards what a successor owes?
    pub(crate) fn may_cost_sas(&self) -> bool {
        match self {
            Self::Move { .. } | Self::Operate { .. } | Self::Burst(_) | Self::Drain { .. } => false,
            // That is seen when it happens: who ends has handed over, and who is to sleep is awake.
            Self::End(_) | Self::PauseHeir => false,
            Self::CutLink | Self::DelayLink(_) => false,
            Self::SilenceRegistry | Self::CutOffRegistry(_) => true,
            Self::Kill { .. } | Self::Pause(_) | Self::StallCore(_) | Self::StallWorker(_) => true,
            Self::Unplug { .. } | Self::Isolate(_) | Self::Weather { .. } => true,
        }
    }

    fn draw_length(&self, rng: &mut StdRng) -> Duration {
        match (self, rng.random_range(0..3)) {
            // Around the times that the protocol's rules turn on.
            (Self::Pause(_) | Self::PauseHeir | Self::StallCore(_), 0) => millis(rng, 25, 75),
            (_, 0) => millis(rng, 1, 40),
            (_, 1) => millis(rng, 40, 200),
            _ => millis(rng, 200, 700),
        }
    }
}
