//! The owner is killed in the middle of an IKE exchange: whatever was going on is finished by its successor or begun anew, and neither
//! end is left with an SA that the other one doesn't know.

use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use super::cases::Teller;
use super::observe::{self, End};
use crate::appliance::Standing;
use crate::capture::{Exchange, Frame, Kind};
use crate::clock::Stamp;
use crate::error::Result;
use crate::gateway::CHILD;
use crate::lab::{Lab, Roles};
use crate::scenario::{exercise, expect};
use crate::wait;

/// From the first message of an exchange to its answer, or to strongSwan's giving up.
const CALL_LIMIT: Duration = Duration::from_secs(15);
/// For both ends to agree on what they have. An owner that dies when its IKE SA's deletion was answered leaves the successor asking, until
/// it gives up after some 15 s.
pub(super) const SETTLE_LIMIT: Duration = Duration::from_secs(30);
/// Until a message of an exchange shows, on a machine that has much else to do.
const MESSAGE_LIMIT: Duration = Duration::from_secs(15);
/// How often an order may be refused.
const REFUSALS_MAX: u32 = 3;
/// A message waits for nothing but this: it is what a kill waits for.
const LOOK: Duration = Duration::from_micros(100);

/// A message, and how long after it the owner is killed.
#[derive(Debug, Clone, Copy)]
struct Moment {
    exchange: Exchange,
    response: bool,
    after: Duration,
}

impl Moment {
    const fn request(exchange: Exchange, after_ms: u64) -> Self {
        Self { exchange, response: false, after: Duration::from_millis(after_ms) }
    }

    const fn response(exchange: Exchange) -> Self {
        Self { exchange, response: true, after: Duration::ZERO }
    }

    fn text(self) -> String {
        let exchange = match self.exchange {
            Exchange::SaInit => "IKE_SA_INIT",
            Exchange::Auth => "IKE_AUTH",
            Exchange::CreateChildSa => "CREATE_CHILD_SA",
            Exchange::Informational => "INFORMATIONAL",
            Exchange::Other(_) => "another",
        };
        let part = if self.response { "response" } else { "request" };
        let Self { after, .. } = self;
        let later = if after.is_zero() { "at".to_owned() } else { format!("{} ms after", after.as_millis()) };
        format!("{later} the {exchange} {part}")
    }

    /// Waits until it has come at the owner's port, whoever sent the message; `begun` says what keeps it from coming.
    fn wait(self, lab: &Lab, owner: usize, since: Stamp, begun: &mut impl FnMut() -> Result<()>) -> Result<()> {
        let is_it = |frame: &Frame| {
            frame.port == owner
                && matches!(frame.kind, Kind::Ike { exchange, response, .. }
                    if exchange == self.exchange && response == self.response)
        };
        while lab.outside.frames(since, is_it).is_empty() {
            begun()?;
            let waited = Stamp::now().since(since);
            expect(waited < MESSAGE_LIMIT, "the message to be killed at", || format!("none for {waited:?}"))?;
            std::thread::sleep(LOOK);
        }
        std::thread::sleep(self.after);
        Ok(())
    }
}

/// While a tunnel comes up, from the remote peer's first message to our last.
const CALLS: [Moment; 6] = [
    Moment::request(Exchange::SaInit, 0),
    Moment::response(Exchange::SaInit),
    Moment::request(Exchange::Auth, 0),
    Moment::request(Exchange::Auth, 1),
    Moment::request(Exchange::Auth, 3),
    Moment::response(Exchange::Auth),
];

/// While one is rekeyed.
const REKEYS: [Moment; 3] = [
    Moment::request(Exchange::CreateChildSa, 0),
    Moment::request(Exchange::CreateChildSa, 1),
    Moment::response(Exchange::CreateChildSa),
];

/// Who begins a rekeying, and of what.
#[derive(Debug, Clone, Copy)]
enum Rekey {
    ChildByPeer,
    ChildByOwner,
    IkeByPeer,
    IkeByOwner,
}

impl Rekey {
    const ALL: [Self; 4] = [Self::ChildByPeer, Self::ChildByOwner, Self::IkeByPeer, Self::IkeByOwner];

    const fn text(self) -> &'static str {
        match self {
            Self::ChildByPeer => "the remote peer rekeys the child SA",
            Self::ChildByOwner => "the owner rekeys the child SA",
            Self::IkeByPeer => "the remote peer rekeys the IKE SA",
            Self::IkeByOwner => "the owner rekeys the IKE SA",
        }
    }

    fn order(self, lab: &Lab, owner: usize) -> Result<()> {
        match self {
            Self::ChildByPeer => lab.peer()?.rekey_child(CHILD),
            Self::ChildByOwner => lab.appliance(owner)?.rekey_child(),
            Self::IkeByPeer => lab.peer()?.rekey_ike(lab.connection()?),
            Self::IkeByOwner => lab.appliance(owner)?.rekey_ike(),
        }
    }

    /// Orders it, and waits for the moment. The order itself may come back after the kill, or never; one that is refused, because what it
    /// names is being replaced by itself, is given once more.
    fn until<'scope, 'env>(
        self,
        moment: Moment,
        scope: &'scope Scope<'scope, 'env>,
        lab: &'env Lab,
        owner: usize,
    ) -> Result<()> {
        let mut refusals = 0;
        loop {
            let since = Stamp::now();
            let mut order = Some(scope.spawn(move || self.order(lab, owner)));
            let mut is_refused = false;
            let mut obeyed = || match order.take_if(|order| order.is_finished()).map(ScopedJoinHandle::join) {
                Some(Err(panic)) => std::panic::resume_unwind(panic),
                Some(Ok(result)) => {
                    is_refused = result.is_err();
                    result
                }
                None => Ok(()),
            };
            match moment.wait(lab, owner, since, &mut obeyed) {
                Err(_) if is_refused && refusals < REFUSALS_MAX => {
                    refusals += 1;
                    same_sas(lab, owner)?;
                }
                waited => return waited,
            }
        }
    }
}

impl Teller<'_, '_> {
    /// The owner is killed while a remote peer calls.
    pub(super) fn calls(&mut self) {
        for moment in CALLS {
            let case = format!("a remote peer calls, and the owner is killed {}", moment.text());
            self.story.case(&case, |lab| killed_while_called(lab, moment));
            self.the_dead_comes_back();
        }
    }

    /// The owner is killed while SAs are rekeyed, by either end.
    pub(super) fn rekeys(&mut self, short: bool) {
        let all = Rekey::ALL.into_iter().flat_map(|rekey| REKEYS.map(|moment| (rekey, moment)));
        let [request, soon_after, response] = REKEYS;
        let some = [(Rekey::ChildByPeer, request), (Rekey::IkeByPeer, soon_after), (Rekey::IkeByOwner, response)];
        let wanted: Vec<_> = if short { some.into() } else { all.collect() };
        for (rekey, moment) in wanted {
            let case = format!("{}, and the owner is killed {}", rekey.text(), moment.text());
            self.the_owner_ends_when(&case, End::Killed, |scope, lab, Roles { owner, .. }| {
                rekey.until(moment, scope, lab, owner)
            });
            self.story.case("both ends have the same SAs", |lab| same_sas(lab, lab.owner()?));
            self.the_dead_comes_back();
        }
    }
}

fn killed_while_called(lab: &Lab, moment: Moment) -> Result<String> {
    let Roles { owner, backup } = lab.await_roles()?;
    lab.peer()?.terminate(lab.connection()?)?;
    wait::until_true("no SA", CALL_LIMIT, || Ok(lab.appliance(owner)?.ike_sas()?.is_empty()))?;
    let since = Stamp::now();
    let called = std::thread::scope(|scope| {
        let call = scope.spawn(|| lab.peer()?.initiate(lab.connection()?, CHILD, CALL_LIMIT));
        let killed = moment.wait(lab, owner, since, &mut || Ok(())).and_then(|()| lab.kill_appliance(owner));
        let called = call.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        killed.map(|()| called.is_ok())
    })?;
    lab.await_standing(backup, &Standing::Owner)?;
    // Whoever believes in an SA has one (I4): no second call.
    let calls = observe::calls(lab, since);
    expect(calls == 1, "one call", || format!("{calls}"))?;
    if called {
        lab.echo(exercise::SHORT)?;
    } else {
        expect(lab.peer()?.sas()?.is_empty(), "no SA of a call that failed", || format!("{:?}", lab.peer()))?;
        lab.bring_up()?;
    }
    same_sas(lab, backup)?;
    Ok(if called { "the successor finished the call" } else { "the call was lost, the next one succeeded" }.to_owned())
}

/// Both ends have one IKE SA with one child SA, the same.
pub(super) fn same_sas(lab: &Lab, owner: usize) -> Result<String> {
    let mut seen = String::new();
    let agreed = wait::until("both ends to have the same SAs", SETTLE_LIMIT, || {
        let (theirs, ours) = (lab.peer()?.sas()?, lab.appliance(owner)?.ike_sas()?);
        seen = format!("{theirs:?} and {ours:?}");
        let their_children = theirs.iter().flat_map(|sa| &sa.children).map(|child| child.spi_out.clone());
        let our_children = ours.iter().flat_map(|sa| &sa.children).map(|child| format!("{:08x}", child.spi_in.0));
        let (theirs_out, ours_in): (Vec<_>, Vec<_>) = (their_children.collect(), our_children.collect());
        let same = (theirs.len(), ours.len(), ours_in.len()) == (1, 1, 1) && theirs_out == ours_in;
        Ok(same.then(|| format!("one IKE SA, and one child SA to {}", ours_in.concat())))
    });
    expect(agreed.is_ok(), "the same SAs at both ends", || seen)?;
    agreed
}
