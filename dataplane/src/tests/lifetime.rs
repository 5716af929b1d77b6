//! An SA's volume: told at the soft limit, over at the hard one.

use vipsec_esp::lifetime::LifetimeDue;
use vipsec_esp::sa::{ChildSa, Lifetime, Spi};

use super::peer::{Peer, child};
use super::scene::*;
use crate::api::Event;
use crate::drops::DropReason;

fn told(scene: &mut Scene) -> Vec<(Spi, LifetimeDue)> {
    scene.advance(SECOND + SECOND / 10);
    let due = |event| if let Event::Lifetime { spi, due } = event { Some((spi, due)) } else { None };
    scene.events().into_iter().filter_map(due).collect()
}

#[test]
fn a_limit_is_told_within_a_second_and_the_hard_one_ends_the_sa() {
    let lifetime = Lifetime { soft_packets: 2, hard_packets: 4, ..Lifetime::NONE };
    for inbound in [true, false] {
        let mut scene = Scene::new();
        let mut peer = Peer::new(ChildSa { lifetime, ..child(1) });
        scene.command(peer.install());
        let mut send = |scene: &mut Scene| {
            if inbound {
                let frame = peer.seal(&udp((REMOTE, 40000), (VIP, 53), b"query"));
                scene.receive(OUTSIDE, &frame);
            } else {
                scene.receive(INSIDE, &to_gateway(&udp((VIP, 53), (REMOTE, 40000), b"answer")));
            }
            scene.sent_with_arp(INSIDE).len() + scene.sent_with_arp(OUTSIDE).len()
        };
        assert_eq!(send(&mut scene), 1);
        assert_eq!(told(&mut scene), []);
        assert_eq!(send(&mut scene), 1);
        let spi = child(1).inbound.spi;
        assert_eq!(told(&mut scene), [(spi, LifetimeDue::Soft)]);
        assert_eq!((send(&mut scene), send(&mut scene)), (1, 1));
        assert_eq!(told(&mut scene), [(spi, LifetimeDue::Hard)]);
        assert_eq!(send(&mut scene), 0);
        assert_eq!(scene.dropped(), [(DropReason::EspLifetimeOver, 1)]);
        assert_eq!(told(&mut scene), [], "once");
    }
}
