//! The lab itself, with strongSwan at both ends: what it measures later must not be its own faults.

use std::time::Duration;

use vipsec_lab::capture::{Direction, Kind};
use vipsec_lab::clock::Stamp;
use vipsec_lab::gateway::GatewayKind;
use vipsec_lab::lab::{Lab, LabConfig};
use vipsec_lab::topology::VIP;
use vipsec_lab::{netns, wait};

/// A tunnel comes up, both targets serve, content crosses intact both ways, datagrams cross without loss, nothing readable is
/// seen outside while the same is readable inside, and the lab leaves nothing behind.
#[test]
fn the_lab_works_and_leaves_nothing_behind() {
    let lab = match Lab::start(LabConfig::new(GatewayKind::Strongswan), &|step| println!("{step}")) {
        Ok(lab) => lab,
        Err(error) => panic!("{error}"),
    };
    // Without a tunnel a datagram crosses the outside readable, and the capture says so: it would say so later, too.
    assert!(lab.echo(Duration::from_millis(300)).is_err());
    let readable = lab.outside.counts().clear_text;
    assert!(readable > 0);

    let handshake = lab.bring_up().expect("the tunnel comes up");
    assert!(handshake < Duration::from_secs(1), "the handshake took {handshake:?}");

    let long_lived = lab.start_pingpong(Duration::from_millis(2)).expect("a long-lived connection opens");
    let probe = lab.start_probe(Duration::from_millis(5)).expect("the probe starts");
    let connections = lab.connections(60, 8).expect("connections are tried");
    assert_eq!(connections.errors, 0, "{:?}", connections.first_errors);
    assert_eq!(connections.per_target.keys().collect::<Vec<_>>(), ["t1", "t2"]);
    assert_eq!(connections.per_target.values().sum::<u32>(), 60);

    // Probe and bulk transfer run apart: under bulk, charon loses packets by itself.
    let udp = probe.stop(lab.targets());
    for (way, flows) in [("up", &udp.up), ("down", &udp.down)] {
        assert_eq!(flows.len(), 1, "one target has the flow {way}");
        for flow in flows.values() {
            assert!(flow.sent > 0 && flow.lost == 0, "{way}: {flow:?}");
        }
    }
    let limit = Duration::from_secs(30);
    assert!(lab.download(2 << 20, limit).expect("the download ends").intact);
    assert!(lab.upload(2 << 20, limit).expect("the upload ends").intact);
    let seen = |count: fn(&vipsec_lab::target::TargetCounts) -> u64| -> u64 {
        lab.targets().iter().map(|target| count(&target.counts())).sum()
    };
    assert_eq!(seen(|counts| counts.bytes_received), 2 << 20);
    assert_eq!(seen(|counts| counts.bytes_sent), 2 << 20);

    let long_lived = long_lived.stop();
    assert_eq!((long_lived.broken, long_lived.wrong_target), (None, 0));
    assert!(long_lived.round_trips > 0);

    let (outside, inside) = (lab.outside.counts(), lab.inside.counts());
    assert_eq!((outside.clear_text, outside.marked, outside.missed), (readable, 0, 0));
    assert!(outside.esp_bytes_from_hosts > 2 << 20 && outside.esp_bytes_to_hosts > 2 << 20);
    assert!(inside.marked > 0, "what is encrypted outside can be read inside");

    // An ARP request for the VIP, made up and sent at the switch: the gateway answers it.
    let begin = Stamp::now();
    lab.inject_outside(0, &arp_request([192, 0, 2, 77], VIP.octets())).expect("a frame is sent");
    let answer = wait::until_true("an ARP reply", Duration::from_secs(2), || {
        let replies = lab.outside.frames(begin, |frame| {
            frame.direction == Direction::FromHost
                && matches!(frame.kind, Kind::Arp { operation: 2, sender, .. } if sender == VIP)
        });
        Ok(!replies.is_empty())
    });
    answer.expect("the gateway answers");

    let name = lab.name();
    let prefix = name.trim_end_matches('*').to_owned();
    drop(lab);
    let left = netns::names().into_iter().filter(|name| name.starts_with(&prefix)).count();
    assert_eq!(left, 0, "namespaces of {prefix}");
}

/// A broadcast ARP request (RFC 826) for `wanted`.
fn arp_request(sender: [u8; 4], wanted: [u8; 4]) -> Vec<u8> {
    let mac = [2, 0, 0, 0, 9, 9];
    let ethernet = [&[0xff; 6][..], &mac, &[0x08, 0x06]].concat();
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &mac, &sender, &[0; 6], &wanted].concat();
    [ethernet, arp].concat()
}
