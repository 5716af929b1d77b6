//! Authentic messages that make little sense, in every state: what a peer could send that knows the keys. Nothing panics, nothing grows
//! without bounds, and a message costs no more than a message. `VIPSEC_IKE_STORMS` says how many storms there are.
//!
//! And a flood of those that nobody has keys for.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{ALICE, BOB, Bench, Setup};
use crate::crypto::{EspProposal, IkeProposal, offer};
use crate::message::{ConfigAttribute, ConfigKind, ConfigPayload, Delete, ExchangeType, NotifyType, Payload};
use crate::{ChildSaRecord, Drop, IkeSaRecord, Limits, Phase, TrafficSelector};

const STORMS: u64 = 120;
const MESSAGES: usize = 40;

fn payload(bench: &Bench, rng: &mut StdRng) -> Payload {
    let ts = |rng: &mut StdRng| -> Vec<TrafficSelector> {
        let all = ["10.1.0.0/16", "10.9.0.0/16", "0.0.0.0/0", "192.0.2.1", "::/0", "10.9.0.1[tcp/80]"];
        (0..rng.random_range(0..4)).map(|_| all[rng.random_range(0..all.len())].parse().unwrap()).collect()
    };
    let spis: Vec<u32> = bench.sides.iter().flat_map(|side| side.installed.keys().copied()).collect();
    let spi = |rng: &mut StdRng| if spis.is_empty() { 0x0100_0000 } else { spis[rng.random_range(0..spis.len())] };
    match rng.random_range(0..16) {
        0 | 1 => {
            let esp: EspProposal = "aes256gcm16-x25519".parse().unwrap();
            Payload::Sa(offer(&[esp], &rng.random::<u32>().to_be_bytes()))
        }
        2 => {
            let ike: IkeProposal = "aes256gcm16-prfsha256-x25519".parse().unwrap();
            Payload::Sa(offer(&[ike], &rng.random::<u64>().to_be_bytes()))
        }
        3 | 4 => Payload::KeyExchange(31, vec![rng.random(); 32]),
        5 | 6 => Payload::Nonce(vec![rng.random(); rng.random_range(16..40)]),
        7 => Payload::TsInitiator(ts(rng)),
        8 => Payload::TsResponder(ts(rng)),
        9 => Payload::Delete(Delete::Esp((0..rng.random_range(0..4)).map(|_| spi(rng)).collect())),
        10 if rng.random_range(0..8) == 0 => Payload::Delete(Delete::Ike),
        11 => Payload::notify_esp(NotifyType::REKEY_SA, spi(rng)),
        12 => Payload::Config(ConfigPayload {
            kind: if rng.random() { ConfigKind::Request } else { ConfigKind::Reply },
            attributes: vec![ConfigAttribute::Ip4Address(None)],
        }),
        13 => {
            let data = vec![rng.random::<u8>(); rng.random_range(0..14)];
            Payload::notify(NotifyType::IKEV2_MESSAGE_ID_SYNC, data)
        }
        14 => Payload::notify(NotifyType(rng.random_range(16384..16450)), vec![0; rng.random_range(0..9)]),
        _ => Payload::Unknown(rng.random_range(60..=255), vec![1, 2, 3]),
    }
}

/// One of the ends dies, and somebody goes on with what it knew, or with what it knew some time ago.
fn fail_over(bench: &mut Bench, rng: &mut StdRng, stale: &mut Option<(usize, IkeSaRecord, Vec<ChildSaRecord>)>) {
    let side = if rng.random() { ALICE } else { BOB };
    match rng.random_range(0..12) {
        0 => bench.replace(side),
        1 => {
            let sas = bench.sides[side].sas(bench.now);
            let record = sas.first().and_then(|sa| bench.sides[side].endpoint.export(sa.id, bench.now));
            *stale = record.map(|(record, children)| (side, record, children));
        }
        2 => {
            let Some((side, record, children)) = stale.take() else { return };
            // What the successor doesn't know isn't installed there.
            bench.sides[side].installed = children.iter().map(|child| (child.spi_in(), child.info().clone())).collect();
            bench.replace_with(side, |successor, now| {
                if let Ok(id) = successor.import_stale(record, children, now) {
                    successor.synchronise(id, now).unwrap();
                }
            });
        }
        _ => {}
    }
}

fn storm(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let limits = Limits { children_per_ike_sa_max: 8, ike_sas_max: 16, ..Limits::default() };
    let mut bench = Bench::established(Setup { seed, limits, ..Setup::default() });
    let mut stale = None;
    for _ in 0..MESSAGES {
        fail_over(&mut bench, &mut rng, &mut stale);
        for side in [ALICE, BOB] {
            if let Some(sa) = bench.sides[side].sas(bench.now).first() {
                let (id, now) = (sa.id, bench.now);
                let spi = sa.children.first().map_or(0, |child| child.spi_in);
                // Own requests, so that all kinds of answers are awaited.
                let _ = match rng.random_range(0..10) {
                    0 => bench.sides[side].endpoint.rekey_ike(id, now),
                    1 => bench.sides[side].endpoint.rekey_child(spi, now),
                    2 => bench.sides[side].endpoint.delete_child(spi, now),
                    // An operator's own wishes are not the peer's to bound.
                    3 if sa.children.len() < limits.children_per_ike_sa_max => {
                        bench.sides[side].endpoint.create_child(id, "spare", now)
                    }
                    _ => Ok(()),
                };
            }
        }
        let (from, to) = if rng.random() { (ALICE, BOB) } else { (BOB, ALICE) };
        let sas = bench.sides[from].sas(bench.now);
        let Some(sa) = sas.first() else { return };
        let exchange = match rng.random_range(0..8) {
            0 => ExchangeType::IkeAuth,
            1 => ExchangeType::Other(rng.random()),
            2..5 => ExchangeType::CreateChildSa,
            _ => ExchangeType::Informational,
        };
        let id = sa.id;
        let message_id = match rng.random_range(0..6) {
            0 => 0,
            1 => rng.random(),
            _ => sa.next_request,
        };
        let payloads: Vec<Payload> = (0..rng.random_range(0..8)).map(|_| payload(&bench, &mut rng)).collect();
        let size = if rng.random() { usize::MAX } else { 150 };
        let mut forged = bench.forge_on(from, id, exchange, message_id, &payloads, size);
        for flying in &mut forged {
            // As an answer, too.
            if rng.random_range(0..4) == 0 && rng.random() {
                flying.transmit.payload[19] ^= 0x20;
            }
            assert_eq!(flying.to, to);
            bench.hand_over(flying);
        }
        for _ in 0..rng.random_range(0..6) {
            bench.deliver();
        }
        for side in &bench.sides {
            let sas = side.sas(bench.now);
            assert!(sas.len() <= limits.ike_sas_max + 1);
            // Beyond what the peer may have: one that we ask for, one that waits to be asked for, one that replaces another.
            assert!(sas.iter().all(|sa| sa.children.len() <= limits.children_per_ike_sa_max + 3));
        }
        bench.now += Duration::from_millis(rng.random_range(0..400));
        let now = bench.now;
        bench.sides.iter_mut().for_each(|side| side.endpoint.handle_timeout(now));
    }
}

#[test]
fn plausible_messages_in_every_state() {
    let began = Instant::now();
    let storms = std::env::var("VIPSEC_IKE_STORMS").ok().and_then(|storms| storms.parse().ok()).unwrap_or(STORMS);
    for seed in 0..storms {
        let result = std::panic::catch_unwind(|| storm(seed));
        assert!(result.is_ok(), "seed {seed}");
    }
    // Thousands of messages: none of them may take the time of seconds.
    assert!(began.elapsed() < Duration::from_secs(3) * u32::try_from(storms).unwrap());
}

/// Whoever doesn't know an SPI can't make anything grow, or get an answer.
#[test]
fn a_flood_with_random_spis_leaves_nothing_behind() {
    const DATAGRAMS: u64 = 100_000;
    let mut bench = Bench::established(Setup::default());
    let mut rng = StdRng::seed_from_u64(4711);
    let (before, now) = (bench.sa(BOB), bench.now);
    let due = bench.sides[BOB].endpoint.poll_timeout();
    let local = before.local;
    for n in 0..DATAGRAMS {
        let mut datagram = [0u8; 100];
        rng.fill(&mut datagram[..]);
        // SPIs of ours as far as a stranger can guess: the first byte is an appliance's id.
        datagram[8] = 2;
        // SK or SKF, version 2.0, an exchange after IKE_SA_INIT, any flags that there are, any ID; the length.
        datagram[16] = if rng.random() { 46 } else { 53 };
        (datagram[17], datagram[18], datagram[19]) = (0x20, rng.random_range(35..=37), datagram[19] & 0x28);
        datagram[24..28].copy_from_slice(&100u32.to_be_bytes());
        datagram[29..32].copy_from_slice(&[0, 0, 72]);
        let remote = format!("203.0.113.{}:{}", n % 250, 1024 + n % 60_000).parse().unwrap();
        bench.sides[BOB].endpoint.handle_datagram(now, local, remote, &datagram);
    }
    let endpoint = &mut bench.sides[BOB].endpoint;
    assert!(endpoint.poll_transmit().is_none() && endpoint.poll_event().is_none());
    assert_eq!((endpoint.half_open(), endpoint.calling(), endpoint.poll_timeout()), (0, 0, due));
    assert_eq!(endpoint.counters().get(Drop::UnknownSpi), DATAGRAMS);
    bench.pass(Duration::from_secs(60));
    let after = bench.sa(BOB);
    assert_eq!((after.id, after.phase, after.next_expected), (before.id, Phase::Established, before.next_expected));
}
