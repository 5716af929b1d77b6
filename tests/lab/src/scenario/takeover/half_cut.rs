//! Half of what carries a pair is cut: one of the backup's two data links, one direction of the store's network. The owner goes on, and
//! nobody else does anything.

use std::time::Duration;

use super::cases::{Loss, MARGIN, Teller, move_by_order, under_traffic};
use super::observe::{self, End};
use crate::appliance::Standing;
use crate::clock::Stamp;
use crate::error::{LabError, Result};
use crate::lab::{Lab, Roles};
use crate::scenario::expect;
use crate::topology::Network;
use crate::wait;

/// Much longer than an owner's silence is borne.
const LONG_SILENCE: Duration = Duration::from_secs(2);
/// Until the owner has heard that its backup can't serve, or can again.
const NEWS_LIMIT: Duration = Duration::from_secs(5);

impl Teller<'_, '_> {
    /// One after the other.
    pub(super) fn half_cut(&mut self) {
        for network in [Network::Outside, Network::Inside] {
            let case =
                format!("the backup's {network:?} link is cut: nothing happens, and no order moves the VIP to it");
            self.story.case(&case.to_lowercase().replace("vip", "VIP"), |lab| {
                let roles = lab.await_roles()?;
                let detail = under_traffic(lab, Loss::None, |lab| {
                    lab.set_link(roles.backup, network, false)?;
                    let refused = is_refused(lab, roles)?;
                    stays(lab, roles, LONG_SILENCE)?;
                    Ok(refused)
                });
                lab.set_link(roles.backup, network, true)?;
                detail
            });
            self.story.case("it is mended: an order moves the VIP there", |lab| {
                under_traffic(lab, Loss::None, |lab| {
                    // What the backup says of itself is on its way.
                    let mut last = None;
                    wait::until("the order to be obeyed", NEWS_LIMIT, || {
                        let moved = move_by_order(lab);
                        Ok(moved.map_err(|error| last = Some(error)).ok())
                    })
                    .map_err(|error| last.unwrap_or(error))
                })
            });
        }
        for (deaf, which) in [("the owner", true), ("the backup", false)] {
            let case =
                format!("nothing reaches {deaf} on the store's network, and what it sends is heard: nobody takes over");
            self.story.case(&case, |lab| {
                let roles = lab.await_roles()?;
                let place = if which { roles.owner } else { roles.backup };
                let detail = under_traffic(lab, Loss::None, |lab| {
                    lab.set_hearing(place, Network::Store, false)?;
                    lab.await_unprotected(roles.owner)?;
                    stays(lab, roles, LONG_SILENCE)?;
                    Ok(format!("{} goes on alone", lab.appliance_name(roles.owner)))
                });
                lab.set_hearing(place, Network::Store, true)?;
                detail
            });
            self.story.case("both hear each other again: the backup joins", |lab| {
                let owner = lab.owner()?;
                under_traffic(lab, Loss::None, |lab| {
                    let roles = lab.await_roles()?;
                    expect(roles.owner == owner, "the owner to stay owner", || format!("they are {roles:?}"))?;
                    Ok(format!("{} has a copy again", lab.appliance_name(roles.backup)))
                })
            });
        }
        self.the_owner_ends("the owner is killed: the copy that was made anew is resumed", End::Killed);
    }
}

/// An order to move the VIP to the backup is refused, once the owner knows that the backup can't serve.
fn is_refused(lab: &Lab, Roles { owner, backup }: Roles) -> Result<String> {
    std::thread::sleep(MARGIN);
    let wanted = lab.appliance_name(backup).to_owned();
    let mut said = Vec::new();
    // At the owner, and at the one that is to have it.
    for place in [owner, backup] {
        let answer = match lab.appliance(place)?.operator(&["vip", "move", "web", "--to", &wanted]) {
            Err(LabError::Command { stderr, .. }) => stderr,
            other => format!("{other:?}"),
        };
        expect(answer.contains("can't serve"), "an order that is refused, and why", || answer.clone())?;
        said.push(answer);
    }
    said.dedup();
    Ok(said.join("; "))
}

/// For so long the owner is owner, and the backup says nothing in the VIP's name.
fn stays(lab: &Lab, Roles { owner, backup }: Roles, time: Duration) -> Result<()> {
    let since = Stamp::now();
    std::thread::sleep(time);
    lab.await_standing(owner, &Standing::Owner)?;
    let sent = observe::advertisements(lab, backup, since);
    expect(sent == 0, "no advertisement of the backup", || format!("{sent}"))
}
