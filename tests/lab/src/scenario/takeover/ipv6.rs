//! An IPv6 VIP: IPv6 in a tunnel over IPv6, to services of IPv6. An IPv4 VIP moves with it.

use std::time::Duration;

use super::cases::{Loss, MARGIN, Teller, all_pass, under_traffic};
use super::observe::{self, End};
use crate::appliance::Standing;
use crate::clock::Stamp;
use crate::lab::{Lab, Roles};
use crate::scenario::expect;
use crate::topology::{INSIDE_GATEWAY6, VIP6};

/// Traffic on the second tunnel's connection.
const PAUSE: Duration = Duration::from_millis(20);

impl Teller<'_, '_> {
    /// Crash and order.
    pub(super) fn ipv6(&mut self) {
        self.story.case("a tunnel over IPv6, another one over IPv4", |lab| {
            all_pass(lab, lab.tunnels()?)?;
            Ok("both pass traffic".to_owned())
        });
        let mut before = Stamp::now();
        let roles = self.the_owner_ends_when("the owner is killed", End::Killed, |_, _, _| {
            before = Stamp::now();
            Ok(())
        });
        self.story.case(
            "its successor has announced the VIP and the inside gateway, unasked; both tunnels live",
            |lab| {
                let Some(Roles { backup: successor, .. }) = roles else { return Ok("nobody died".to_owned()) };
                let announced = announced(lab, successor, before);
                expect(announced.iter().all(|count| *count > 0), "both announced", || format!("{announced:?} times"))?;
                all_pass(lab, lab.tunnels()?)?;
                Ok(format!("{announced:?} neighbour advertisements"))
            },
        );
        self.the_dead_comes_back();
        self.story.case("both VIPs move by order: neither tunnel loses anything", |lab| {
            let Roles { owner, backup } = lab.await_roles()?;
            let tunnels = lab.tunnels()?.to_vec();
            under_traffic(lab, Loss::None, |lab| {
                let second = lab.start_pingpong_through(&tunnels[1], PAUSE)?;
                std::thread::sleep(MARGIN);
                lab.appliance(owner)?.move_vip(lab.appliance_name(backup))?;
                lab.await_standing(backup, &Standing::Owner)?;
                lab.await_standing(owner, &Standing::Backup)?;
                std::thread::sleep(MARGIN);
                let second = second.stop();
                expect(second.is_kept(), "a connection through the second tunnel that lives on", || {
                    format!("{second:?}")
                })?;
                all_pass(lab, &tunnels)?;
                Ok(format!("{} has both", lab.appliance_name(backup)))
            })
        });
    }
}

/// How often an appliance has announced the VIP outside and the gateway inside, without being asked.
fn announced(lab: &Lab, place: usize, since: Stamp) -> [usize; 2] {
    [(&lab.outside, VIP6), (&lab.inside, INSIDE_GATEWAY6)].map(|(capture, address)| {
        let by_it = capture.frames(since, |frame| {
            observe::is_from(frame, place) && observe::is_announcement(&frame.kind, address.into())
        });
        by_it.len()
    })
}
