//! A planned move that something interrupts: the old owner dies in the middle of it, or the new one does.

use std::time::Duration;

use super::cases::{MARGIN, Teller};
use super::observe;
use crate::appliance::Standing;
use crate::client::Traffic;
use crate::clock::Stamp;
use crate::error::Result;
use crate::lab::{Lab, Roles};
use crate::scenario::{exercise, expect};
use crate::wait;

/// Until one of the two owns the VIP, and until its remote peer has found out about SAs that are gone.
const OWNER_LIMIT: Duration = Duration::from_secs(15);

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dies {
    TheOld,
    TheNew,
}

/// When, in a move that takes some ten milliseconds.
#[derive(Debug, Clone, Copy)]
enum When {
    /// So long after the order.
    Ordered(Duration),
    /// So long after the new owner's first advertisement.
    Announced(Duration),
}

const MOMENTS: [When; 6] = [
    When::Ordered(Duration::ZERO),
    When::Ordered(Duration::from_millis(2)),
    When::Ordered(Duration::from_millis(5)),
    When::Announced(Duration::ZERO),
    When::Announced(Duration::from_millis(5)),
    When::Announced(Duration::from_millis(50)),
];

impl When {
    fn text(self) -> String {
        match self {
            Self::Ordered(after) => format!("{} ms after the order", after.as_millis()),
            Self::Announced(after) => format!("{} ms after the new owner's first advertisement", after.as_millis()),
        }
    }

    fn wait(self, lab: &Lab, roles: Roles, ordered: Stamp) -> Result<()> {
        let after = match self {
            Self::Ordered(after) => after,
            Self::Announced(after) => {
                observe::await_announcement(lab, roles, ordered)?;
                after
            }
        };
        std::thread::sleep(after);
        Ok(())
    }
}

impl Teller<'_, '_> {
    /// Both, at several moments.
    pub(super) fn moves(&mut self, short: bool) {
        let all = [Dies::TheOld, Dies::TheNew].into_iter().flat_map(|dies| MOMENTS.map(|when| (dies, when)));
        let some = [
            (Dies::TheNew, MOMENTS[0]),
            (Dies::TheOld, MOMENTS[1]),
            (Dies::TheOld, MOMENTS[3]),
            (Dies::TheNew, MOMENTS[4]),
        ];
        let wanted: Vec<_> = if short { some.into() } else { all.collect() };
        for (dies, when) in wanted {
            let who = if dies == Dies::TheOld { "the old owner" } else { "the new owner" };
            self.story.case(&format!("the VIP moves by order, and {who} is killed {}", when.text()), |lab| {
                interrupted(lab, dies, when)
            });
            self.the_dead_comes_back();
        }
    }
}

fn interrupted(lab: &Lab, dies: Dies, when: When) -> Result<String> {
    let roles @ Roles { owner, backup } = lab.await_roles()?;
    let traffic = Traffic::start(lab)?;
    std::thread::sleep(MARGIN);
    let ordered = Stamp::now();
    lab.appliance(owner)?.move_vip(lab.appliance_name(backup))?;
    when.wait(lab, roles, ordered)?;
    let (dead, left) = if dies == Dies::TheOld { (owner, backup) } else { (backup, owner) };
    lab.kill_appliance(dead)?;
    lab.await_standing(left, &Standing::Owner)?;
    std::thread::sleep(MARGIN);
    let resumed = lab.echo(exercise::SHORT).is_ok() && observe::calls(lab, ordered) == 0;
    if !resumed {
        // What had arrived at the new owner died with it, and the old one can't exclude that: the remote peer has to find out.
        expect(dies == Dies::TheNew, "SAs that live on", || format!("they are gone; {:?}", lab.drops()))?;
        wait::until_true("the remote peer to find out", OWNER_LIMIT, || Ok(lab.peer()?.sas()?.is_empty()))?;
        lab.bring_up()?;
    }
    std::thread::sleep(MARGIN);
    let seen = traffic.end(lab)?;
    expect(seen.connections_kept(), "connections that live on", || observe::broken(&seen.long_lived))?;
    let doubled = (seen.up.doubled, seen.down.doubled);
    expect(doubled == (0, 0), "nothing delivered twice", || format!("{doubled:?}"))?;
    let name = lab.appliance_name(left);
    let sas =
        if resumed { "its SAs live on" } else { "the SAs died with the new owner, and the remote peer called again" };
    Ok(format!(
        "{name} has it; {sas}; blocked {:.0} ms up, {:.0} ms down",
        seen.up.blocked_ms(),
        seen.down.blocked_ms()
    ))
}
