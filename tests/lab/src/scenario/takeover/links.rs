//! Links are cut, one after the other, while everybody lives.

use std::time::Duration;

use super::cases::{Loss, MARGIN, Teller, keeps_still, under_traffic};
use super::exchanges::{SETTLE_LIMIT, same_sas};
use super::observe::{self, End};
use crate::appliance::Standing;
use crate::client::Traffic;
use crate::clock::Stamp;
use crate::error::Result;
use crate::lab::{Lab, Roles};
use crate::scenario::{exercise, expect};
use crate::topology::Network;
use crate::wait;

const DATA: [Network; 2] = [Network::Outside, Network::Inside];
/// Much longer than an owner's silence is borne.
const LONG_SILENCE: Duration = Duration::from_secs(2);
/// Until an appliance that was cut off has found its place again.
const RETURN_LIMIT: Duration = Duration::from_secs(15);

impl Teller<'_, '_> {
    /// Each link in turn; in short: the owner's outside link.
    pub(super) fn links(&mut self, short: bool) {
        let data = if short { &DATA[..1] } else { &DATA[..] };
        for &network in data {
            let case = format!("the owner's {network:?} link is cut: the backup takes over").to_lowercase();
            let roles = self.the_owner_ends(&case, End::Cut(network));
            self.story.case("it is mended: the old owner is a backup, in sync", |lab| {
                let Some(Roles { owner: old, backup: new }) = roles else { return Ok("nothing was cut".to_owned()) };
                under_traffic(lab, Loss::Little, |lab| {
                    let mended = Stamp::now();
                    lab.set_link(old, network, true)?;
                    let expected = Roles { owner: new, backup: old };
                    wait::until_true("both in their places", RETURN_LIMIT, || Ok(lab.await_roles()? == expected))?;
                    keeps_still(lab, old, mended)
                })
            });
        }
        if short {
            return;
        }
        self.the_stores_network_fails();
        self.story.case("both of the backup's data links are cut: nothing happens", |lab| {
            let Roles { owner, backup } = lab.await_roles()?;
            under_traffic(lab, Loss::None, |lab| {
                DATA.iter().try_for_each(|network| lab.set_link(backup, *network, false))?;
                std::thread::sleep(LONG_SILENCE);
                lab.await_standing(owner, &Standing::Owner)?;
                Ok(format!("{} still has it", lab.appliance_name(owner)))
            })
        });
        self.story
            .case("then the owner dies: nobody takes over before the links are mended", no_takeover_without_links);
        self.the_dead_comes_back();
        self.story.case("the appliances can't reach each other, but everybody else: two owners", partition);
        self.story.case("and when that heals one owner, with a backup in sync", |lab| {
            expect(lab.peer()?.sas()?.len() == 1, "one IKE SA", || "another number".to_owned())?;
            let roles = lab.await_roles()?;
            Ok(format!("{} has it", lab.appliance_name(roles.owner)))
        });
        self.the_owner_ends("the owner is killed: the copy that was made anew is resumed", End::Killed);
    }
}

fn no_takeover_without_links(lab: &mut Lab) -> Result<String> {
    let owner = lab.owner()?;
    let backup = 1 - owner;
    let died = Stamp::now();
    lab.kill_appliance(owner)?;
    std::thread::sleep(LONG_SILENCE);
    let standing = lab.appliance(backup)?.standing()?;
    expect(standing != Standing::Owner, "nobody to take over", || format!("{standing:?}"))?;
    let sent = observe::advertisements(lab, backup, died);
    expect(sent == 0, "no advertisement of one that reaches nobody", || format!("{sent}"))?;
    DATA.iter().try_for_each(|network| lab.set_link(backup, *network, true))?;
    lab.await_standing(backup, &Standing::Owner)?;
    // Its copy was trusted for a quarter of a second, so nothing of it may carry. It asks for new message ids. Where charon drops its IKE SA
    // over that question (it takes the message id for the IV, and has no third one for an id), it is called after ten seconds, though the old
    // owner may be alive, for all that the new one knows.
    wait::until_true("traffic", SETTLE_LIMIT, || Ok(lab.echo(exercise::SHORT).is_ok()))?;
    let sas = same_sas(lab, backup)?;
    let calls = observe::calls(lab, died);
    Ok(format!("{} has it since it reaches both networks again; {sas}; {calls} calls", lab.appliance_name(backup)))
}

fn partition(lab: &mut Lab) -> Result<String> {
    let Roles { owner, backup } = lab.await_roles()?;
    let traffic = Traffic::start(lab)?;
    std::thread::sleep(MARGIN);
    DATA.iter().try_for_each(|network| lab.set_earshot(*network, false))?;
    lab.set_link(owner, Network::Store, false)?;
    lab.await_standing(backup, &Standing::Owner)?;
    std::thread::sleep(MARGIN);
    let both = lab.appliance(owner)?.standing()?;
    expect(both == Standing::Owner, "two owners", || format!("the old one is {both:?}"))?;
    lab.set_link(owner, Network::Store, true)?;
    DATA.iter().try_for_each(|network| lab.set_earshot(*network, true))?;
    let roles = lab.await_roles()?;
    std::thread::sleep(MARGIN);
    let seen = traffic.end(lab)?;
    // I2: in a partition each of two owners may deliver a packet once, and more than two don't exist.
    let most = seen.up.most.max(seen.down.most);
    expect(most <= 2, "each owner to deliver a packet once", || format!("one arrived {most} times"))?;
    let lost = (seen.up.blocked_ms(), seen.down.blocked_ms());
    let kept = seen.long_lived.iter().filter(|connection| connection.is_kept()).count();
    Ok(format!(
        "both owned it until they heard each other again, now {} does; blocked {:.0} ms up and {:.0} ms down; {} of {} connections kept; {} datagrams delivered twice",
        lab.appliance_name(roles.owner),
        lost.0,
        lost.1,
        kept,
        seen.long_lived.len(),
        seen.up.doubled,
    ))
}
