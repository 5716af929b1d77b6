//! The ladder: in which way each inherited IKE SA goes on, with its child SAs, and in which order their turns come.
//!
//! ```text
//!   keep ──► replay sync ──► rekey ──► message-id sync ──► renegotiate ──► lost
//! ```
//!
//! An IKE SA begins on the highest rung that what is known of it allows, and falls when that rung fails. A rung's work is done when its
//! turn comes: so many a second, those with traffic first. No I/O and no IKE here: [`succession`](super::succession) does what a
//! rung takes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use vipsec_ike::{Callee, IkeSaId};

/// A rung that leaves child SAs shut has failed when nothing came of it for so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// Refusals after which a rung that leaves child SAs shut has failed: the peer may have had reasons that pass (TEMPORARY_FAILURE).
const REFUSALS_MAX: u32 = 3;
/// How much of a time without turns is made up for, when the core comes late.
const ARREARS_MAX: Duration = Duration::from_millis(20);

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$each:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(in crate::core) enum $name {
            $($(#[$each])* $variant,)*
        }

        /// As in logs and answers.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $text,)*
                })
            }
        }
    };
}

named! {
    /// A way to go on, the gentlest first.
    Rung {
        /// As it is; its keys are replaced when its turn comes.
        Keep = "keep",
        /// The peer is asked to skip the numbers that count as seen (RFC 6311 §5.2).
        ReplaySync = "replay sync",
        /// The child SAs have to be replaced before all of their traffic passes.
        Rekey = "rekey",
        /// New message IDs are agreed on (RFC 6311 §5.1), then all is replaced.
        MessageIdSync = "message-id sync",
        /// The peer is called anew.
        Renegotiate = "renegotiate",
        /// The peer has to call.
        Lost = "lost",
    }
}

named! {
    /// Why it is that rung.
    Why {
        /// Everything is known that has to be.
        Trusted = "trusted copy",
        /// Numbers up to a horizon count as seen that the peer is still to use.
        NumbersAhead = "numbers ahead of the peer",
        /// The same, and the peer doesn't skip them, not knowing RFC 6311.
        NoReplaySync = "peer without replay counter sync",
        /// Where a child SA's numbers stand can't be read.
        NumbersLost = "numbers lost",
        /// This appliance may have used the keys in an epoch that it forgot.
        BornBeforeFloor = "born before the floor was lost",
        /// It comes from a copy that wasn't trusted, now or at an earlier takeover.
        NotTrusted = "copy not trusted",
        /// The same, and the peer doesn't know RFC 6311.
        NoMessageIdSync = "copy not trusted, peer without message-id sync",
        /// A record of its set is missing.
        RecordLost = "record lost",
        /// It was made in an epoch too long ago, or doesn't fit the configuration any more.
        NotResumable = "not resumable",
        /// The configuration wants it.
        Policy = "policy",
        /// The rung above was not answered.
        NoAnswer = "no answer",
        /// The rung above was refused.
        Refused = "refused",
        /// It was in hand when two owners in a row died.
        Poison = "in hand at two crashes in a row",
        /// Who has its inside address from us, or has no connection any more, isn't called.
        NotCallable = "not callable",
    }
}

impl Rung {
    const ALL: [Self; 6] =
        [Self::Keep, Self::ReplaySync, Self::Rekey, Self::MessageIdSync, Self::Renegotiate, Self::Lost];
}

/// An inherited IKE SA.
#[derive(Debug)]
pub(in crate::core) struct Climb {
    pub(in crate::core) group: usize,
    pub(in crate::core) rung: Rung,
    pub(in crate::core) why: Why,
    /// Whom to call if nothing else is left.
    pub(in crate::core) callee: Callee,
    /// Its child SAs, to be replaced.
    pub(in crate::core) children: Vec<u32>,
    /// Some of them stay shut until they are.
    pub(in crate::core) is_shut: bool,
    /// By how much the peer is to go on above its outbound numbers.
    pub(in crate::core) delta: Option<u64>,
    /// Another one has its place already, with fresh keys.
    pub(in crate::core) is_rekeyed: bool,
    /// It was known to IKE, and what its peer was asked for led to nothing.
    pub(in crate::core) is_kept: bool,
    turn: Turn,
    refusals: u32,
}

/// Whose turn comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// It carries packets since the takeover, or would.
    Traffic,
    /// It can't carry all of them yet.
    Impaired,
    /// It is silent, and could.
    Silent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It waits, in that place.
    Waits(Urgency, u64),
    /// It has come; the rung has failed if nothing comes of it by then.
    Came(Option<Instant>),
}

impl Climb {
    /// On its first rung.
    pub(in crate::core) fn new(group: usize, rung: Rung, why: Why, callee: Callee) -> Self {
        Self {
            group,
            rung,
            why,
            callee,
            children: Vec::new(),
            is_shut: false,
            delta: None,
            is_rekeyed: false,
            is_kept: false,
            turn: Turn::Came(None),
            refusals: 0,
        }
    }
}

/// How many IKE SAs of a takeover are on which rung, and why.
pub(in crate::core) type Census = BTreeMap<(Rung, Why), u64>;

/// What became of the newest takeover of a group.
#[derive(Debug)]
pub(in crate::core) struct Takeover {
    /// When it was.
    pub(in crate::core) at: Instant,
    /// The copy was trusted.
    pub(in crate::core) trusted: bool,
    /// On which rungs the IKE SAs are, or were when they were done.
    pub(in crate::core) census: Census,
}

/// All inherited IKE SAs that are not through yet, and what became of those that are.
#[derive(Debug)]
pub(in crate::core) struct Ladder {
    interval: Duration,
    climbs: BTreeMap<IkeSaId, Climb>,
    /// Those who are to be called, by where they are.
    callees: BTreeSet<(SocketAddr, IkeSaId)>,
    waiting: BTreeSet<(Urgency, u64, IkeSaId)>,
    impatient: BTreeSet<(Instant, IkeSaId)>,
    placed: u64,
    /// No turn comes before.
    due: Instant,
    /// By group.
    takeovers: BTreeMap<usize, Takeover>,
    /// Rungs taken since the process began.
    taken: BTreeMap<Rung, u64>,
}

impl Ladder {
    /// `rate`: turns per second.
    pub(in crate::core) fn new(rate: u32, now: Instant) -> Self {
        Self {
            interval: Duration::from_secs(1) / rate.max(1),
            climbs: BTreeMap::new(),
            callees: BTreeSet::new(),
            waiting: BTreeSet::new(),
            impatient: BTreeSet::new(),
            placed: 0,
            due: now,
            takeovers: BTreeMap::new(),
            taken: Rung::ALL.map(|rung| (rung, 0)).into(),
        }
    }

    /// A takeover of a group; no turn comes before `begin`.
    pub(in crate::core) fn begin(&mut self, now: Instant, begin: Instant, group: usize, trusted: bool) {
        self.takeovers.insert(group, Takeover { at: now, trusted, census: Census::new() });
        self.due = self.due.max(begin);
    }

    /// An IKE SA takes a rung; its turn comes.
    pub(in crate::core) fn place(&mut self, id: IkeSaId, climb: Climb) {
        self.note_taken(&climb);
        if climb.rung == Rung::Lost {
            return;
        }
        self.await_turn(id, climb);
    }

    /// Behind those of its urgency.
    fn await_turn(&mut self, id: IkeSaId, mut climb: Climb) {
        self.placed += 1;
        let urgency = match climb.rung {
            Rung::Keep => Urgency::Silent,
            _ => Urgency::Impaired,
        };
        climb.turn = Turn::Waits(urgency, self.placed);
        self.put(id, climb);
    }

    fn put(&mut self, id: IkeSaId, climb: Climb) {
        if let Turn::Waits(urgency, place) = climb.turn {
            self.waiting.insert((urgency, place, id));
        }
        if climb.rung == Rung::Renegotiate {
            self.callees.insert((climb.callee.remote, id));
        }
        self.climbs.insert(id, climb);
    }

    fn note_taken(&mut self, climb: &Climb) {
        *self.taken.entry(climb.rung).or_default() += 1;
        if let Some(takeover) = self.takeovers.get_mut(&climb.group) {
            *takeover.census.entry((climb.rung, climb.why)).or_default() += 1;
        }
    }

    /// Takes it off the ladder, where it waits included.
    fn take(&mut self, id: IkeSaId) -> Option<Climb> {
        let climb = self.climbs.remove(&id)?;
        self.callees.remove(&(climb.callee.remote, id));
        match climb.turn {
            Turn::Waits(urgency, place) => drop(self.waiting.remove(&(urgency, place, id))),
            Turn::Came(Some(until)) => drop(self.impatient.remove(&(until, id))),
            Turn::Came(None) => {}
        }
        Some(climb)
    }

    /// Packets come on one of its child SAs, or would if it weren't shut.
    pub(in crate::core) fn note_traffic(&mut self, id: IkeSaId) {
        let Some(climb) = self.climbs.get_mut(&id) else { return };
        if let Turn::Waits(urgency, place) = climb.turn {
            self.waiting.remove(&(urgency, place, id));
            climb.turn = Turn::Waits(Urgency::Traffic, place);
            self.waiting.insert((Urgency::Traffic, place, id));
        }
    }

    /// When a turn comes, or patience ends.
    pub(in crate::core) fn poll_timeout(&self) -> Option<Instant> {
        let due = (!self.waiting.is_empty()).then_some(self.due);
        let impatient = self.impatient.first().map(|(until, _)| *until);
        due.into_iter().chain(impatient).min()
    }

    /// Whose turn it is.
    pub(in crate::core) fn poll_turn(&mut self, now: Instant) -> Option<IkeSaId> {
        if now < self.due {
            return None;
        }
        let (_, _, id) = self.waiting.pop_first()?;
        let arrears = now.checked_sub(ARREARS_MAX).unwrap_or(now);
        self.due = self.due.max(arrears) + self.interval;
        let climb = self.climbs.get_mut(&id)?;
        let until = climb.is_shut.then_some(now + PATIENCE);
        climb.turn = Turn::Came(until);
        self.impatient.extend(until.map(|until| (until, id)));
        Some(id)
    }

    /// Whose rung has led to nothing in time.
    pub(in crate::core) fn poll_impatient(&self, now: Instant) -> Option<IkeSaId> {
        self.impatient.first().filter(|(until, _)| *until <= now).map(|(_, id)| *id)
    }

    /// Something came of it: its time begins anew.
    pub(in crate::core) fn note_progress(&mut self, now: Instant, id: IkeSaId) {
        if let Some(climb) = self.climbs.get_mut(&id)
            && let Turn::Came(Some(until)) = &mut climb.turn
        {
            self.impatient.remove(&(*until, id));
            *until = now + PATIENCE;
            self.impatient.insert((*until, id));
        }
    }

    /// What its turn brought came to nothing, and it stays on its rung: it is impatient again in a while.
    pub(in crate::core) fn begin_patience(&mut self, now: Instant, id: IkeSaId) {
        let Some(mut climb) = self.take(id) else { return };
        let until = now + PATIENCE;
        climb.turn = Turn::Came(Some(until));
        self.impatient.insert((until, id));
        self.put(id, climb);
    }

    /// Its turn is to come once more, on the same rung.
    pub(in crate::core) fn wait_again(&mut self, id: IkeSaId) {
        if let Some(climb) = self.take(id) {
            self.await_turn(id, climb);
        }
    }

    /// The peer has refused something. True if the rung has failed.
    pub(in crate::core) fn note_refusal(&mut self, id: IkeSaId) -> bool {
        let Some(climb) = self.climbs.get_mut(&id).filter(|climb| climb.is_shut) else { return false };
        climb.refusals += 1;
        climb.refusals >= REFUSALS_MAX && climb.rung < Rung::Renegotiate
    }

    /// Another IKE SA has taken the place of this one.
    pub(in crate::core) fn follow(&mut self, old: IkeSaId, new: IkeSaId) {
        let Some(mut climb) = self.take(old) else { return };
        // Once its turn has come, the IKE SA's rekeying is the last thing that was asked for.
        if matches!(climb.turn, Turn::Waits(..)) {
            climb.is_rekeyed = true;
            self.put(new, climb);
        }
    }

    /// Whose turn comes with this one's, who is to be called: those whom the same call replaces, the one that is to be called first. An
    /// owner that died between a call and the end of what it replaces has left both.
    pub(in crate::core) fn join_turns(&mut self, id: IkeSaId) -> Vec<IkeSaId> {
        let Some(called) = self.climbs.get(&id) else { return Vec::new() };
        let at = called.callee.remote;
        let (first, last) = (IkeSaId::from(u64::MIN), IkeSaId::from(u64::MAX));
        let there =
            self.callees.range((at, first)..=(at, last)).filter_map(|(_, id)| Some((*id, self.climbs.get(id)?)));
        let free = there.filter(|(other, climb)| *other == id || matches!(climb.turn, Turn::Waits(..)));
        let free: Vec<_> = free.map(|(id, climb)| (id, &climb.callee)).collect();
        // The one with the most under it brings what all of them had.
        let covering = free.iter().filter(|(_, callee)| callee.covers(&called.callee));
        let Some((most, callee)) = covering.max_by_key(|(_, callee)| callee.children.len()) else { return vec![id] };
        let others = free.iter().filter(|(other, of)| other != most && callee.covers(of)).map(|(other, _)| *other);
        let joined: Vec<_> = std::iter::once(*most).chain(others).collect();
        for id in &joined {
            let Some(climb) = self.climbs.get_mut(id) else { continue };
            if let Turn::Waits(urgency, place) = climb.turn {
                self.waiting.remove(&(urgency, place, *id));
                climb.turn = Turn::Came(None);
            }
        }
        joined
    }

    /// It is through.
    pub(in crate::core) fn finish(&mut self, id: IkeSaId) {
        self.take(id);
    }

    /// A rung has failed: what is left is to call the peer; or, if that was it, nothing.
    pub(in crate::core) fn fall(&mut self, id: IkeSaId, why: Why) -> Option<Rung> {
        let mut climb = self.take(id)?;
        self.uncount(&climb);
        climb.is_kept = climb.rung < Rung::Renegotiate;
        climb.rung = if climb.rung < Rung::Renegotiate { Rung::Renegotiate } else { Rung::Lost };
        climb.why = why;
        climb.is_shut = false;
        let rung = climb.rung;
        self.place(id, climb);
        Some(rung)
    }

    fn uncount(&mut self, climb: &Climb) {
        let Some(takeover) = self.takeovers.get_mut(&climb.group) else { return };
        if let Some(count) = takeover.census.get_mut(&(climb.rung, climb.why)) {
            *count = count.saturating_sub(1);
        }
        takeover.census.retain(|_, count| *count > 0);
    }

    /// A group isn't ours any more.
    pub(in crate::core) fn forget(&mut self, group: usize) {
        let ids: Vec<_> = self.climbs.iter().filter(|(_, climb)| climb.group == group).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.finish(id));
    }

    /// On which rung an IKE SA is, and why, until it is through.
    pub(in crate::core) fn standing(&self, id: IkeSaId) -> Option<&Climb> {
        self.climbs.get(&id)
    }

    /// Has its turn come?
    pub(in crate::core) fn has_turn(&self, id: IkeSaId) -> bool {
        self.climbs.get(&id).is_some_and(|climb| matches!(climb.turn, Turn::Came(_)))
    }

    /// The newest takeover of a group, and how many of its IKE SAs still wait for their turn.
    pub(in crate::core) fn takeover(&self, group: usize) -> Option<(&Takeover, u64)> {
        let takeover = self.takeovers.get(&group)?;
        let waits = |climb: &&Climb| climb.group == group && matches!(climb.turn, Turn::Waits(..));
        Some((takeover, self.climbs.values().filter(waits).count() as u64))
    }

    /// How often each rung was taken since the process began.
    pub(in crate::core) fn taken(&self) -> impl Iterator<Item = (Rung, u64)> {
        self.taken.iter().map(|(rung, count)| (*rung, *count))
    }
}

#[cfg(test)]
mod tests {
    use vipsec_ike::Identity;

    use super::*;

    const GROUP: usize = 0;

    fn callee() -> Callee {
        let end: SocketAddr = "192.0.2.1:500".parse().unwrap();
        let connection = "branch".to_owned();
        Callee { vip: 0, connection, local: end, remote: end, remote_id: None, children: Vec::new(), is_client: false }
    }

    fn climb(rung: Rung, why: Why) -> Climb {
        Climb { is_shut: rung == Rung::MessageIdSync, ..Climb::new(GROUP, rung, why, callee()) }
    }

    fn ladder(rate: u32) -> (Ladder, Instant) {
        let now = Instant::now();
        let mut ladder = Ladder::new(rate, now);
        ladder.begin(now, now, GROUP, true);
        (ladder, now)
    }

    /// Every turn that comes until nothing waits, with when.
    fn turns(ladder: &mut Ladder, mut now: Instant) -> Vec<(Instant, IkeSaId)> {
        let mut turns = Vec::new();
        while !ladder.waiting.is_empty() {
            now = now.max(ladder.poll_timeout().unwrap());
            turns.extend(std::iter::from_fn(|| ladder.poll_turn(now)).map(|id| (now, id)));
        }
        turns
    }

    /// Its owner died between the call and the end of what that replaces; of one of them the second child SA wasn't there yet.
    #[test]
    fn whom_one_call_replaces_is_called_once() {
        let (mut ladder, now) = ladder(1000);
        let under =
            |children: &[&str]| Callee { children: children.iter().map(ToString::to_string).collect(), ..callee() };
        let elsewhere = Callee { remote: "192.0.2.9:500".parse().unwrap(), ..under(&["net"]) };
        let somebody = Callee { remote_id: Some(Identity::fqdn("somebody.example")), ..under(&["net"]) };
        let both = under(&["net", "voice"]);
        let callees = [under(&["net"]), both.clone(), elsewhere, under(&["video"]), both, somebody];
        for (id, callee) in (1..).zip(callees) {
            ladder.place(IkeSaId::from(id), Climb::new(GROUP, Rung::Renegotiate, Why::Policy, callee));
        }
        ladder.place(IkeSaId::from(7), Climb::new(GROUP, Rung::Keep, Why::Trusted, under(&["net"])));
        let mut called = Vec::new();
        let mut later = now;
        while let Some(due) = ladder.poll_timeout() {
            later = later.max(due);
            let Some(id) = ladder.poll_turn(later) else { continue };
            if ladder.standing(id).unwrap().rung == Rung::Renegotiate {
                called.push(ladder.join_turns(id).into_iter().map(IkeSaId::get).collect::<Vec<_>>());
            }
        }
        called.iter_mut().for_each(|together| together[1..].sort());
        assert_eq!(called, [vec![5, 1, 2], vec![3], vec![4], vec![6]]);
    }

    #[test]
    fn ten_thousand_take_their_turns_at_the_rate_and_those_with_traffic_first() {
        const COUNT: u64 = 10_000;
        let (mut ladder, now) = ladder(500);
        for id in 0..COUNT {
            let (rung, why) = if id % 10 == 3 { (Rung::Rekey, Why::NoReplaySync) } else { (Rung::Keep, Why::Trusted) };
            ladder.place(IkeSaId::from(id), climb(rung, why));
        }
        let has_traffic = |id: u64| id % 100 == 7;
        (0..COUNT).filter(|id| has_traffic(*id)).for_each(|id| ladder.note_traffic(IkeSaId::from(id)));
        let (takeover, waiting) = ladder.takeover(GROUP).unwrap();
        let census: Vec<_> = takeover.census.iter().map(|((rung, _), count)| (*rung, *count)).collect();
        assert_eq!((census, waiting), (vec![(Rung::Keep, 9000), (Rung::Rekey, 1000)], COUNT));

        let turns = turns(&mut ladder, now);
        let ids: Vec<u64> = turns.iter().map(|(_, id)| id.get()).collect();
        assert_eq!(ids.len() as u64, COUNT, "each has one turn");
        assert!(ids[..100].iter().all(|id| has_traffic(*id)));
        assert!(ids[100..1100].iter().all(|id| id % 10 == 3), "then what can't carry all of its packets yet");
        assert!(ids[1100..].is_sorted(), "then in order");
        for (number, (at, _)) in (0u32..).zip(&turns) {
            assert_eq!(*at, now + number * Duration::from_millis(2));
        }
        assert_eq!(ladder.takeover(GROUP).unwrap().1, 0);
    }

    #[test]
    fn a_core_that_comes_late_makes_up_for_a_few_turns_only() {
        let (mut ladder, now) = ladder(100);
        (0..100).for_each(|id| ladder.place(IkeSaId::from(id), climb(Rung::Keep, Why::Trusted)));
        let late = now + Duration::from_secs(1);
        assert_eq!(std::iter::from_fn(|| ladder.poll_turn(late)).count(), 3, "those of the last 20 ms");
        assert_eq!(ladder.poll_timeout(), Some(late + Duration::from_millis(10)));
    }

    #[test]
    fn what_fails_falls_and_its_turn_comes_again_by_the_pace() {
        let (mut ladder, now) = ladder(10);
        let [first, second] = [1, 2].map(IkeSaId::from);
        ladder.place(first, climb(Rung::MessageIdSync, Why::NotTrusted));
        ladder.place(second, climb(Rung::Keep, Why::Trusted));
        assert_eq!(ladder.poll_turn(now), Some(first));
        assert_eq!(ladder.poll_turn(now), None);
        // Whatever comes of it counts as a sign of life.
        ladder.note_progress(now + Duration::from_secs(5), first);
        assert_eq!(ladder.poll_impatient(now + Duration::from_secs(14)), None);
        let late = now + Duration::from_secs(15);
        assert_eq!(ladder.poll_impatient(late), Some(first));
        assert_eq!(ladder.fall(first, Why::NoAnswer), Some(Rung::Renegotiate));
        assert_eq!(ladder.poll_impatient(late), None);
        assert_eq!(ladder.poll_turn(late), Some(first), "it can't carry packets: before the one that can");
        assert_eq!(ladder.fall(first, Why::NoAnswer), Some(Rung::Lost));
        let census: Vec<_> = ladder.takeover(GROUP).unwrap().0.census.clone().into_iter().collect();
        assert_eq!(census, [((Rung::Keep, Why::Trusted), 1), ((Rung::Lost, Why::NoAnswer), 1)]);
        let taken: Vec<u64> = ladder.taken().map(|(_, count)| count).collect();
        assert_eq!(taken, [1, 0, 0, 1, 1, 1]);
        assert!(ladder.standing(first).is_none());
    }

    #[test]
    fn refusals_fail_only_what_is_shut_and_not_the_first() {
        let (mut ladder, _) = ladder(10);
        let [shut, open] = [1, 2].map(IkeSaId::from);
        ladder.place(shut, climb(Rung::MessageIdSync, Why::NotTrusted));
        ladder.place(open, climb(Rung::Keep, Why::Trusted));
        let refuse = |ladder: &mut Ladder, id| (0..3).map(|_| ladder.note_refusal(id)).collect::<Vec<_>>();
        assert_eq!(refuse(&mut ladder, shut), [false, false, true]);
        assert_eq!(refuse(&mut ladder, open), [false; 3], "it carries its packets");
    }

    #[test]
    fn an_heir_waits_in_its_elders_place_and_ends_the_wait_once_asked_for() {
        let (mut ladder, now) = ladder(10);
        let [old, new, newest] = [1, 2, 3].map(IkeSaId::from);
        ladder.place(old, climb(Rung::Keep, Why::Trusted));
        ladder.follow(old, new);
        assert_eq!(ladder.poll_turn(now), Some(new));
        assert!(ladder.standing(new).unwrap().is_rekeyed);
        ladder.follow(new, newest);
        assert!(ladder.standing(newest).is_none() && ladder.poll_timeout().is_none());
    }
}
