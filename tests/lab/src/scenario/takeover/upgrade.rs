//! A pair is upgraded, one appliance after the other, while traffic flows: docs/upgrade.md, step by step. The older release is this
//! one, told to speak the older version of the store link only.

use vipsec_takeover::message::VERSION_NEWEST;

use super::cases::{Loss, MARGIN, Teller, under_traffic};
use super::observe;
use crate::appliance::Standing;
use crate::clock::Stamp;
use crate::error::Result;
use crate::lab::{Lab, Roles};
use crate::scenario::{exercise, expect};

/// What the releases speak, as `vipsecd` is told it.
const OLDER: Option<&str> = Some("1");
const NEWER_ALONE: Option<&str> = Some("2");

impl Teller<'_, '_> {
    /// Both appliances are of the older release when this begins.
    pub(super) fn upgrade(&mut self) {
        let begun = Stamp::now();
        let mut calls = 0;
        self.story.case("two of the older release: their common version is spoken", |lab| {
            calls = observe::calls(lab, begun);
            speaks(lab, 1)
        });
        self.replaced("the backup", None, 1);
        self.moved("the VIP moves by order from the older release to the newer one");
        self.replaced("the other one", None, VERSION_NEWEST);
        self.moved("the VIP moves by order back to where it was");
        self.story.case("nobody had to call", |lab| {
            let since = observe::calls(lab, begun);
            expect(since == calls, "no call since the first", || format!("{} more", since - calls))?;
            Ok("the tunnel of before".to_owned())
        });
        self.replaced("the backup, by the older release again,", OLDER, 1);
        self.too_old();
    }

    /// The backup is told to end and started as of another release: it joins, and they speak `version`.
    fn replaced(&mut self, who: &str, release: Option<&'static str>, version: u16) {
        self.story.case(&format!("{who} is told to end: the owner serves on"), |lab| {
            let Roles { backup, .. } = lab.await_roles()?;
            // An owner that oversleeps has nobody to ask now, and stands still until the copy's trust has run out (R7).
            under_traffic(lab, Loss::Little, |lab| {
                lab.terminate_appliance(backup)?;
                std::thread::sleep(MARGIN);
                Ok(format!("{} has ended", lab.appliance_name(backup)))
            })
        });
        self.story.case(&format!("{who} is replaced: it joins, and version {version} is spoken"), |lab| {
            let owner = lab.owner()?;
            let other = 1 - owner;
            lab.set_release(other, release);
            under_traffic(lab, Loss::Little, |lab| {
                lab.restart_appliance(other)?;
                let roles = lab.await_roles()?;
                expect(roles.owner == owner, "the owner to stay owner", || format!("they are {roles:?}"))?;
                speaks(lab, version)
            })
        });
    }

    fn moved(&mut self, case: &str) {
        self.story.case(case, |lab| {
            let Roles { owner, backup } = lab.await_roles()?;
            under_traffic(lab, Loss::None, |lab| {
                lab.appliance(owner)?.move_vip(lab.appliance_name(backup))?;
                lab.await_standing(backup, &Standing::Owner)?;
                lab.await_standing(owner, &Standing::Backup)?;
                Ok(format!("{} has it", lab.appliance_name(backup)))
            })
        });
    }

    /// Two releases are skipped: no version in common.
    fn too_old(&mut self) {
        self.story.case(
            "a release without a version in common: both say so, nobody has a copy, the owner serves on",
            |lab| {
                let owner = lab.owner()?;
                // The older one owns it now, or will: the newer is replaced by one that has forgotten the older version.
                let Roles { owner, backup } = if is_older(lab, owner) { lab.await_roles()? } else { exchange(lab)? };
                under_traffic(lab, Loss::Little, |lab| {
                    lab.terminate_appliance(backup)?;
                    lab.set_release(backup, NEWER_ALONE);
                    lab.restart_appliance(backup)?;
                    lab.await_unprotected(owner)?;
                    std::thread::sleep(MARGIN);
                    let standing = lab.appliance(backup)?.standing()?;
                    let neither = standing != Standing::Owner && standing != Standing::Backup;
                    expect(neither, "neither owner nor backup", || format!("{standing:?}"))?;
                    for place in [owner, backup] {
                        let log = std::fs::read(lab.appliance(place)?.log()).unwrap_or_default();
                        let said = String::from_utf8_lossy(&log).contains("none in common, upgrade the older one");
                        expect(said, "a word about it in the log", || lab.appliance_name(place).to_owned())?;
                    }
                    lab.echo(exercise::SHORT)?;
                    Ok(format!("{} serves without a copy", lab.appliance_name(owner)))
                })
            },
        );
    }
}

/// Both ends' word for the version of the link.
fn speaks(lab: &Lab, version: u16) -> Result<String> {
    let Roles { owner, backup } = lab.await_roles()?;
    for place in [owner, backup] {
        let store = lab.appliance(place)?.operator(&["store"])?;
        let said = format!("paired yes by version {version},");
        expect(store.contains(&said), &said, || store.clone())?;
    }
    Ok(format!("version {version}; {} owns the VIP", lab.appliance_name(owner)))
}

fn is_older(lab: &Lab, place: usize) -> bool {
    lab.release(place) == OLDER
}

/// The VIP moves to the other one.
fn exchange(lab: &Lab) -> Result<Roles> {
    let Roles { owner, backup } = lab.await_roles()?;
    lab.appliance(owner)?.move_vip(lab.appliance_name(backup))?;
    lab.await_standing(backup, &Standing::Owner)?;
    lab.await_standing(owner, &Standing::Backup)?;
    lab.await_roles()
}
