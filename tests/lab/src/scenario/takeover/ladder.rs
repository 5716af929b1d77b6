//! A successor is killed while most of the IKE SAs that it inherited have yet to be rekeyed, or negotiated anew.

use std::time::Duration;

use super::cases::{MARGIN, Teller, all_pass};
use super::observe;
use crate::appliance::{Standing, TakeoverPolicy};
use crate::client::{PingPong, PingPongReport};
use crate::clock::Stamp;
use crate::error::Result;
use crate::lab::{Lab, Roles};
use crate::scenario::expect;
use crate::wait;

/// Of which one has its turn each second: many more than seconds until a dead appliance is back, with a copy.
pub(super) const TUNNELS: u8 = 25;

/// Until all have had their turn.
const LADDER_LIMIT: Duration = Duration::from_secs(90);
/// Long-lived connections through all of it, and what lies between an answer and the next request.
const CONNECTIONS: usize = 4;
const PAUSE: Duration = Duration::from_millis(20);

impl Teller<'_, '_> {
    /// Two takeovers, of which the second comes before the first one is through.
    pub(super) fn ladder(&mut self) {
        let policy = self.policy;
        let case =
            "the owner is killed and comes back, and its successor is killed before it is through with its tunnels";
        self.story.case(case, |lab| {
            let tunnels = lab.tunnels()?.to_vec();
            let Roles { owner: first, backup: second } = lab.await_roles()?;
            all_pass(lab, &tunnels)?;
            let running = (0..CONNECTIONS).map(|_| lab.start_pingpong(PAUSE)).collect::<Result<Vec<_>>>()?;
            std::thread::sleep(MARGIN);

            let begun = Stamp::now();
            lab.kill_appliance(first)?;
            lab.await_standing(second, &Standing::Owner)?;
            all_pass(lab, &tunnels)?;
            lab.restart_appliance(first)?;
            lab.await_roles()?;
            let waiting = waiting(lab, second)?;
            expect(waiting > 0, "IKE SAs whose turn hasn't come", || "none".to_owned())?;
            lab.kill_appliance(second)?;
            lab.await_standing(first, &Standing::Owner)?;
            all_pass(lab, &tunnels)?;

            wait::until_true("all turns to have come", LADDER_LIMIT, || Ok(self::waiting(lab, first)? == 0))?;
            let mut seen = String::new();
            let settled = wait::until_true("one IKE SA with one child SA for each tunnel, at both ends", LADDER_LIMIT, || {
                let (theirs, ours) = (lab.peer()?.sas()?, lab.appliance(first)?.ike_sas()?);
                let counts = [theirs.len(), theirs.iter().map(|sa| sa.children.len()).sum(), ours.len()];
                seen = format!("{counts:?}");
                Ok(counts == [tunnels.len(); 3])
            });
            expect(settled.is_ok(), "one IKE SA with one child SA for each tunnel, at both ends", || seen)?;
            all_pass(lab, &tunnels)?;

            let called = observe::calls_by_peers(lab, begun);
            expect(called == 0, "no remote peer to call", || format!("{called} IKE_SA_INIT requests"))?;
            let calls = observe::calls(lab, begun);
            if policy == TakeoverPolicy::Resume {
                expect(calls == 0, "nobody to call", || format!("{calls} calls"))?;
            }
            let ended: Vec<PingPongReport> = running.into_iter().map(PingPong::stop).collect();
            expect(ended.iter().all(PingPongReport::is_kept), "connections that live on", || observe::broken(&ended))?;
            Ok(format!(
                "{waiting} of {} IKE SAs waited for their turn at the second death; {} connections kept, {calls} calls by successors",
                tunnels.len(),
                ended.len()
            ))
        });
    }
}

/// Inherited IKE SAs whose turn hasn't come, by the owner's word.
fn waiting(lab: &Lab, owner: usize) -> Result<u64> {
    let status = lab.appliance(owner)?.status()?;
    Ok(status.vips.first().and_then(|vip| vip.takeover.as_ref()).map_or(0, |takeover| takeover.waiting))
}
