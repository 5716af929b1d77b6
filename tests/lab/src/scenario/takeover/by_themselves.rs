//! VIPs that move by themselves: given back to the appliance that is their first choice, or held because they moved too often.

use std::time::Duration;

use super::cases::{Loss, MARGIN, Teller, move_by_order, under_traffic};
use super::observe::{self, End};
use crate::appliance::Standing;
use crate::client::{PingPong, PingPongReport};
use crate::clock::Stamp;
use crate::error::Result;
use crate::lab::{Lab, Roles};
use crate::scenario::expect;
use crate::wait;

/// When the VIP goes back.
pub(super) struct GiveBack {
    /// As the configuration says it.
    pub(super) text: &'static str,
    after: Duration,
}

/// Of [`super::Tale::BackByItself`]: a lab takes a second of it to begin with its traffic.
pub(super) const WATCHED: GiveBack = GiveBack { text: "5s", after: Duration::from_secs(5) };
/// Of [`super::Tale::Flapping`].
pub(super) const SOON: GiveBack = GiveBack { text: "2s", after: Duration::from_secs(2) };
/// Moves of [`super::Tale::Flapping`] that are too many: away, back, and away again.
pub(super) const MOVES_MAX: u32 = 3;

/// The VIP's first choice, by its place, and the other one.
const FIRST: usize = 0;
const SECOND: usize = 1;
/// Until a VIP that goes back has gone.
const BACK_LIMIT: Duration = Duration::from_secs(20);
/// Long-lived connections through all of it, and what lies between an answer and the next request.
const CONNECTIONS: usize = 4;
const PAUSE: Duration = Duration::from_millis(20);

impl Teller<'_, '_> {
    /// Without an order, and not against one.
    pub(super) fn back_by_itself(&mut self) {
        self.the_owner_ends("the owner is killed", End::Killed);
        self.story.case("it comes back, and is given the VIP back without an order: nothing is lost", |lab| {
            let begun = Stamp::now();
            lab.restart_appliance(FIRST)?;
            lab.await_standing(FIRST, &Standing::Backup)?;
            under_traffic(lab, Loss::None, |lab| {
                let after = goes_back(lab, begun, WATCHED)?;
                Ok(format!("{} has it again {after:.1} s after its process began", lab.appliance_name(FIRST)))
            })
        });
        self.story.case("what the operator moves away stays away", |lab| {
            under_traffic(lab, Loss::None, |lab| {
                move_by_order(lab)?;
                stays(lab, SECOND, WATCHED)
            })
        });
        self.story.case("until its first choice begins anew", |lab| {
            lab.kill_appliance(FIRST)?;
            let begun = Stamp::now();
            lab.restart_appliance(FIRST)?;
            let after = goes_back(lab, begun, WATCHED)?;
            Ok(format!("{} has it again after {after:.1} s", lab.appliance_name(FIRST)))
        });
    }

    /// Until it has moved too often.
    pub(super) fn flapping(&mut self) {
        let begun = Stamp::now();
        let mut running = Vec::new();
        let mut calls = 0;
        self.story.case("connections begin, and the VIP isn't held", |lab| {
            lab.await_roles()?;
            calls = observe::calls(lab, begun);
            running = (0..CONNECTIONS).map(|_| lab.start_pingpong(PAUSE)).collect::<Result<_>>()?;
            is_held(lab, [false, false])
        });
        self.story.case("the owner is killed, comes back, and is given the VIP back", |lab| {
            dies_and_comes_back(lab, FIRST)?;
            goes_back(lab, begun, SOON)?;
            lab.await_standing(SECOND, &Standing::Backup)?;
            is_held(lab, [false, false])
        });
        self.story.case("the same again is once too often: the VIP is held, and not given back", |lab| {
            dies_and_comes_back(lab, FIRST)?;
            is_held(lab, [true, true])?;
            stays(lab, SECOND, SOON)
        });
        self.story.case("who owns it now is killed, and succeeded all the same", |lab| {
            dies_and_comes_back(lab, SECOND)?;
            is_held(lab, [true, true])
        });
        self.story.case("and that one, too: no process has seen all of it, and the VIP is held", |lab| {
            dies_and_comes_back(lab, FIRST)?;
            is_held(lab, [true, true])?;
            stays(lab, SECOND, SOON)
        });
        self.story.case("an order moves it, and holds it no longer", |lab| {
            let detail = under_traffic(lab, Loss::None, move_by_order)?;
            is_held(lab, [false, false])?;
            Ok(detail)
        });
        self.story.case("no connection was lost, and nobody had to call", |lab| {
            let ended: Vec<PingPongReport> = running.into_iter().map(PingPong::stop).collect();
            expect(ended.iter().all(PingPongReport::is_kept), "connections that live on", || observe::broken(&ended))?;
            let more = observe::calls(lab, begun) - calls;
            expect(more == 0, "no call since the first", || format!("{more}"))?;
            Ok(format!("{} connections through five owners", ended.len()))
        });
    }
}

/// The owner dies; the other one takes over, and has a copy again at the first one's new process.
fn dies_and_comes_back(lab: &mut Lab, owner: usize) -> Result<()> {
    let roles = lab.await_roles()?;
    expect(roles.owner == owner, "the owner to be the one who is to die", || format!("{roles:?}"))?;
    lab.kill_appliance(owner)?;
    lab.await_standing(roles.backup, &Standing::Owner)?;
    std::thread::sleep(MARGIN);
    lab.restart_appliance(owner)?;
    let now = lab.await_roles()?;
    expect(now == Roles { owner: roles.backup, backup: owner }, "the other one to stay owner", || format!("{now:?}"))
}

/// Waits until the first choice has the VIP. Returns how many seconds after `begun`, which was before its process had a copy.
fn goes_back(lab: &Lab, begun: Stamp, give_back: GiveBack) -> Result<f64> {
    let back = || Ok(lab.appliance(FIRST)?.standing()? == Standing::Owner);
    wait::until_true("the VIP to go back", BACK_LIMIT, back)?;
    let after = Stamp::now().since(begun);
    expect(after >= give_back.after, "it to wait that long", || format!("it waited {after:?}"))?;
    Ok(after.as_secs_f64())
}

/// Waits for twice as long as a VIP that goes back would take: it is still at that appliance.
fn stays(lab: &Lab, owner: usize, give_back: GiveBack) -> Result<String> {
    let since = Stamp::now();
    std::thread::sleep(2 * give_back.after);
    let standing = lab.appliance(owner)?.standing()?;
    expect(standing == Standing::Owner, "it to stay where it is", || format!("it is at {standing:?}"))?;
    let sent = observe::advertisements(lab, 1 - owner, since);
    expect(sent == 0, "no advertisement of the other one", || format!("{sent}"))?;
    Ok(format!("{} still has it after {} s", lab.appliance_name(owner), 2 * give_back.after.as_secs()))
}

/// Does each appliance say that the VIP is held, in its answers and to the operator?
fn is_held(lab: &Lab, expected: [bool; 2]) -> Result<String> {
    let says = |place: usize| -> Result<bool> {
        let appliance = lab.appliance(place)?;
        let held = appliance.status()?.vips.first().is_some_and(|vip| vip.held_s.is_some());
        let shown = appliance.operator(&["status"])?.contains("web moved too often");
        expect(held == shown, "one word of it", || format!("held: {held}, shown: {shown}"))?;
        Ok(held)
    };
    let found = [says(FIRST)?, says(SECOND)?];
    expect(found == expected, "the VIP to be held or not", || format!("{found:?} instead of {expected:?}"))?;
    Ok(if expected[0] { "both say that it is held" } else { "neither says that it is held" }.to_owned())
}
