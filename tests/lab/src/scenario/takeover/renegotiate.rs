//! The policy `renegotiate` where nobody is killed.

use std::time::Duration;

use super::cases::{Loss, Teller, hand_over_at_the_end, move_by_order, under_traffic};
use super::observe;
use crate::charon::IkeSa;
use crate::clock::Stamp;
use crate::error::Result;
use crate::lab::Lab;
use crate::scenario::expect;
use crate::wait;

/// Until the new SAs carry and the old ones are deleted.
const ANEW_LIMIT: Duration = Duration::from_secs(20);

impl Teller<'_, '_> {
    /// Stopped and woken; by order; at the owner's end.
    pub(super) fn renegotiate_alive(&mut self) {
        self.pause();
        self.story
            .case("the VIP moves by order: all is negotiated anew, and nothing lost but the first by new SAs", |lab| {
                under_traffic(lab, Loss::FirstOfNew, |lab| anew(lab, move_by_order))
            });
        self.story.case("the owner is told to end, and hands over first: the same", |lab| {
            under_traffic(lab, Loss::FirstOfNew, |lab| anew(lab, hand_over_at_the_end))
        });
    }
}

/// Plays `action`, after which the remote peer has other SAs than before, as many, and didn't have to call for them.
fn anew(lab: &mut Lab, action: impl FnOnce(&mut Lab) -> Result<String>) -> Result<String> {
    let before = lab.peer()?.sas()?;
    let begun = Stamp::now();
    let detail = action(lab)?;
    let mut after = Vec::new();
    let settled = wait::until_true("new SAs, and nothing of the old ones", ANEW_LIMIT, || {
        after = lab.peer()?.sas()?;
        let counts = |sas: &[IkeSa]| (sas.len(), sas.iter().map(|sa| sa.children.len()).sum::<usize>());
        let is_old = |sa: &IkeSa| before.iter().any(|old| old.unique_id == sa.unique_id);
        Ok(counts(&after) == counts(&before) && !after.iter().any(is_old))
    });
    expect(settled.is_ok(), "new SAs, and nothing of the old ones", || format!("{before:?} and then {after:?}"))?;
    let [theirs, all] = [observe::calls_by_peers(lab, begun), observe::calls(lab, begun)];
    expect(theirs == 0 && all > 0, "the successor to call", || format!("{theirs} of {all} calls by remote peers"))?;
    Ok(format!("{detail}; {all} calls by the successor"))
}
