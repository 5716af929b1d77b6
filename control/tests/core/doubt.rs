//! Doubt about one group stops the workers of all (R5, R7).

use std::time::{Duration, Instant};

use vipsec_dataplane::api::{Event, PortId, VipState};
use vipsec_takeover::advertisement::{Advertisement, AdvertisementKey};
use vipsec_takeover::decider::Role;
use vipsec_wire::ethernet::{EtherType, Header, MacAddr};
use vipsec_wire::iv::{ApplianceId, Epoch};

use super::bench::{Bench, config_text, read_config};

const STEP: Duration = Duration::from_millis(5);
const OTHER: u8 = 2;
/// The VIPs' places in the configuration.
const WEB: u16 = 0;
const MAIL: u16 = 1;

/// An appliance with two VIPs, each a group of its own, and what it hears of the other appliance: advertisements alone.
struct Scene {
    bench: Bench,
    key: AdvertisementKey,
    number: u64,
}

impl Scene {
    fn new() -> Self {
        let more = format!(
            r#"
            [[vip]]
            name = "mail"
            address = "192.0.2.2"
            port = "out"
            [peer]
            id = {OTHER}
            store_socket = "/tmp/none.sock"
            secret_file = "pair.psk"
            takeover = "resume"
            "#
        );
        let key = AdvertisementKey::new(b"0123456789abcdef0123456789abcdef");
        Self { bench: Bench::unowned(read_config(&config_text(&more)), Instant::now(), 1), key, number: 0 }
    }

    /// The other appliance advertises those VIPs for so long.
    fn hear_for(&mut self, time: Duration, advertised: &[(u16, Epoch)]) {
        let end = self.bench.now + time;
        while self.bench.now < end {
            for (vip, epoch) in advertised {
                self.number += 1;
                let payload = self.key.encode(&Advertisement {
                    owner: ApplianceId::new(OTHER).unwrap(),
                    vip: *vip,
                    epoch: *epoch,
                    protected: false,
                    incarnation: 7,
                    number: self.number,
                });
                let header = Header {
                    destination: MacAddr([3, 0, 0, 0, 0, 1]),
                    source: MacAddr([6, 0, 0, 0, 0, 1]),
                    ethertype: EtherType::ADVERTISEMENT,
                };
                let frame = [header.to_bytes().as_slice(), &payload].concat();
                self.bench.hear(0, Event::Advertisement { port: PortId(0), frame });
            }
            self.bench.pass(STEP);
        }
    }

    fn owns(&self, vip: u16) -> bool {
        self.bench.tables.vips[usize::from(vip)].state == VipState::Owned
    }

    fn workers_stopped(&self) -> bool {
        self.bench.deadline.has_passed(self.bench.now)
    }
}

#[test]
fn a_vip_taken_while_doubt_about_another_stops_the_workers_is_advertised_before_its_first_packet() {
    let mut scene = Scene::new();
    let theirs = (MAIL, Epoch(1));
    scene.hear_for(Duration::from_secs(4), &[theirs]);
    assert!(scene.owns(WEB) && !scene.owns(MAIL) && !scene.workers_stopped());
    // Nothing is heard any more of the other VIP. Before it becomes ours, which without a copy takes a while, the other one owns this
    // one, too, and further than we: until that is settled, the workers stand still.
    scene.hear_for(Duration::from_millis(400), &[]);
    let contended = (WEB, Epoch(1000));
    scene.hear_for(Duration::from_millis(20), &[contended]);
    assert!(!scene.owns(MAIL) && scene.workers_stopped());
    scene.hear_for(Duration::from_millis(200), &[contended]);
    assert!(scene.workers_stopped());
    let status = scene.bench.core.ownership_status(scene.bench.now, usize::from(MAIL)).unwrap();
    assert!(matches!(status.role, Role::Owner { .. }), "{status:?}");
    scene.hear_for(Duration::from_secs(1), &[]);
    assert!(scene.owns(MAIL) && !scene.workers_stopped());
    assert_eq!(scene.bench.served_unadvertised, [].into());
}
