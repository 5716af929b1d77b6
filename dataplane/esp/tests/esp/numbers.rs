//! Who may use a number, and who may deliver it.

use std::collections::HashSet;

use proptest::prelude::*;
use vipsec_esp::engine::{ContextError, EngineKind};
use vipsec_esp::error::{EspError, SetupError};
use vipsec_esp::header::OVERHEAD_MAX;
use vipsec_esp::inbound::{Admission, InboundSa, Opened};
use vipsec_esp::lifetime::LifetimeDue;
use vipsec_esp::outbound::{LEASE_BLOCK, OutboundSa};
use vipsec_esp::sa::{Algorithm, DORMANT, InboundParams, Lifetime, OutboundParams};
use vipsec_wire::buffer::{PacketBuf, VecBuf};
use vipsec_wire::iv::NUMBER_MAX;

use crate::support::{IPV4, bytes, inbound, inbound_params, iv_prefix, outbound, outbound_params, pair, seal};

const ALGORITHM: Algorithm = Algorithm::Aes128Gcm;

/// Opens and admits.
fn receive(sa: &mut InboundSa, packet: &[u8]) -> Result<Admission, EspError> {
    let opened = sa.open(&mut VecBuf::from_bytes(packet))?;
    Ok(sa.admit(&opened))
}

/// What a parked packet with this number is asked about with.
fn opened(number: u64) -> Opened {
    Opened { number, text_len: 24, next_header: IPV4 }
}

/// Seals `count` packets.
fn packets(sa: &mut OutboundSa, count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|_| bytes(&seal(sa, &[0x45; 40]))).collect()
}

/// Reports and gets what was asked for.
fn grant_all(sa: &mut InboundSa) {
    let wanted = sa.horizon_wanted();
    sa.handle_request();
    sa.grant(wanted);
}

mod outbound_numbers {
    use super::*;

    #[test]
    fn the_first_number_is_one() {
        // RFC 4303 §3.3.3
        let (mut out, _) = pair(|_, _| ());
        let packet = bytes(&seal(&mut out, &[0x45; 20]));
        assert_eq!(packet[4..8], [0, 0, 0, 1]);
        assert_eq!(packet[8..16], [1, 0, 1, 0, 0, 0, 0, 1], "appliance id, epoch, number");
        assert_eq!(out.sent(), 1);
    }

    #[test]
    fn numbers_do_not_cycle() {
        let last = u64::from(u32::MAX);
        let (mut out, _) = pair(|out, _| out.sent = last - 1);
        assert_eq!(out.seal(&mut VecBuf::from_bytes(&[0x45; 20]), IPV4), Ok(last));
        for _ in 0..3 {
            assert_eq!(out.seal(&mut VecBuf::from_bytes(&[0x45; 20]), IPV4), Err(EspError::NumbersExhausted));
        }
        assert_eq!(out.sent(), last);
        assert!(!out.wants_more());
    }

    #[test]
    fn extended_numbers_end_with_the_iv() {
        let (mut out, _) = pair(|out, _| (out.esn, out.sent) = (true, u64::from(u32::MAX)));
        let packet = bytes(&seal(&mut out, &[0x45; 20]));
        assert_eq!(packet[4..8], [0, 0, 0, 0], "the low half of 2^32");
        assert_eq!(packet[11..16], [1, 0, 0, 0, 0]);

        let (mut out, _) = pair(|out, _| (out.esn, out.sent) = (true, NUMBER_MAX - 1));
        assert_eq!(out.seal(&mut VecBuf::from_bytes(&[0x45; 20]), IPV4), Ok(NUMBER_MAX));
        assert_eq!(out.seal(&mut VecBuf::from_bytes(&[0x45; 20]), IPV4), Err(EspError::NumbersExhausted));
    }

    #[test]
    fn rekey_is_due_at_half() {
        for (esn, half) in [(false, 1u64 << 31), (true, 1 << 39)] {
            let (mut out, _) = pair(|out, _| (out.esn, out.sent) = (esn, half - 3));
            seal(&mut out, &[0x45; 20]);
            assert!(!out.rekey_due());
            seal(&mut out, &[0x45; 20]);
            assert!(out.rekey_due());
        }
    }

    #[test]
    fn owners_share_no_iv() {
        // The same SA in three hands: two appliances, and a later load by the first.
        let mut ivs = HashSet::new();
        for (appliance, epoch) in [(1, 1), (2, 1), (1, 2)] {
            let (mut out, _) = pair(|out, _| out.iv_prefix = iv_prefix(appliance, epoch));
            for packet in packets(&mut out, 100) {
                assert!(ivs.insert(packet[8..16].to_vec()));
            }
        }
    }

    #[test]
    fn sealing_goes_on_past_the_lease() {
        let (mut out, _) = pair(|out, _| out.lease = 2);
        assert!(out.wants_more());
        assert_eq!(packets(&mut out, 5).len(), 5);
        assert_eq!(out.lease_wanted(), 5 + LEASE_BLOCK);
        out.handle_request();
        assert!(!out.wants_more(), "one report in flight");
        out.grant(5 + LEASE_BLOCK);
        assert!(!out.wants_more());
        out.grant(7);
        assert_eq!(out.lease(), 5 + LEASE_BLOCK, "a lease never moves back");
    }

    #[test]
    fn a_lease_is_renewed_at_half() {
        let (mut out, _) = pair(|out, _| (out.sent, out.lease) = (LEASE_BLOCK / 2 - 1, LEASE_BLOCK));
        seal(&mut out, &[0x45; 20]);
        assert!(!out.wants_more());
        seal(&mut out, &[0x45; 20]);
        assert!(out.wants_more());
    }

    #[test]
    fn binding_gives_a_lease_to_an_sa_without() {
        let (mut out, _) = pair(|_, _| ());
        packets(&mut out, 3);
        assert!(!out.wants_more());
        out.bind();
        assert_eq!(out.lease(), 3 + LEASE_BLOCK);
        assert_eq!(out.lease_wanted(), out.lease());
        seal(&mut out, &[0x45; 20]);
        out.bind();
        assert_eq!(out.lease(), 3 + LEASE_BLOCK, "already bound");
        out.grant(u64::MAX);
        assert_eq!((out.lease(), out.wants_more()), (u64::MAX, false));
    }

    proptest! {
        /// I1: whatever fails, no two packets of an SA carry the same number or IV.
        #[test]
        fn no_number_is_used_twice(rooms in prop::collection::vec((0..40usize, 0..40usize), 1..60)) {
            let (mut out, _) = pair(|_, _| ());
            let (mut numbers, mut ivs) = (HashSet::new(), HashSet::new());
            for (headroom, tailroom) in rooms {
                let mut packet = VecBuf::with_room(headroom, tailroom);
                match out.seal(&mut packet, IPV4) {
                    Ok(number) => {
                        prop_assert!(numbers.insert(number));
                        prop_assert!(ivs.insert(packet.data()[8..16].to_vec()));
                    }
                    Err(error) => {
                        prop_assert_eq!(error, EspError::NoRoom);
                        prop_assert!(headroom < 16 || tailroom < OVERHEAD_MAX - 16);
                    }
                }
            }
        }
    }
}

mod inbound_numbers {
    use super::*;

    #[test]
    fn opening_leaves_the_window_alone() {
        let (mut out, mut into) = pair(|_, _| ());
        let packet = bytes(&seal(&mut out, &[0x45; 20]));
        for _ in 0..3 {
            assert_eq!(into.open(&mut VecBuf::from_bytes(&packet)).map(|opened| opened.number), Ok(1));
        }
        assert_eq!((into.admit(&opened(1)), into.edge()), (Admission::Deliver, 1));
        assert_eq!(into.admit(&opened(1)), Admission::Replayed);
        assert_eq!(receive(&mut into, &packet), Err(EspError::Replayed));
    }

    #[test]
    fn forgeries_move_neither_edge_nor_horizon() {
        let (mut out, mut into) = pair(|out, into| (out.sent, into.horizon) = (1_000_000, 0));
        let mut packet = bytes(&seal(&mut out, &[0x45; 20]));
        *packet.last_mut().unwrap() ^= 1;
        assert_eq!(receive(&mut into, &packet), Err(EspError::BadIcv));
        assert_eq!((into.edge(), into.horizon_wanted(), into.wants_more()), (0, 0, false));
    }

    #[test]
    fn late_packets_within_the_window_pass() {
        let (mut out, mut into) = pair(|_, _| ());
        let sent = packets(&mut out, 70);
        assert_eq!(receive(&mut into, &sent[69]), Ok(Admission::Deliver));
        for (index, packet) in sent[..69].iter().enumerate().rev() {
            let expected = if index + 64 > 69 { Ok(Admission::Deliver) } else { Err(EspError::Replayed) };
            assert_eq!(receive(&mut into, packet), expected, "number {}", index + 1);
        }
    }

    #[test]
    fn extended_numbers_cross_subspaces_out_of_order() {
        let start = (1u64 << 32) - 4;
        let (mut out, mut into) = pair(|out, into| {
            (out.esn, out.sent) = (true, start);
            (into.esn, into.edge) = (true, start);
        });
        let sent = packets(&mut out, 10);
        for index in [2, 1, 6, 0, 5, 3, 4, 9, 8, 7] {
            assert_eq!(receive(&mut into, &sent[index]), Ok(Admission::Deliver), "packet {index}");
            assert_eq!(receive(&mut into, &sent[index]), Err(EspError::Replayed), "packet {index} again");
        }
        assert_eq!(into.edge(), start + 10);
    }

    #[test]
    fn windows_that_do_not_fit_are_refused() {
        let mut params = inbound_params(ALGORITHM);
        params.window = 100;
        assert_eq!(InboundSa::new(EngineKind::auto(), &params).err(), Some(SetupError::Window(100)));
        // Keying material for another algorithm.
        params = inbound_params(ALGORITHM);
        params.algorithm = Algorithm::Aes256Gcm;
        assert_eq!(
            InboundSa::new(EngineKind::auto(), &params).err(),
            Some(SetupError::Context(ContextError::KeyLength))
        );
    }
}

/// Rule R3 of the takeover protocol.
mod horizon {
    use super::*;

    #[test]
    fn nothing_above_is_delivered() {
        let (mut out, mut into) = pair(|_, into| into.horizon = 2);
        let sent = packets(&mut out, 5);
        let admitted: Vec<_> = sent.iter().map(|packet| receive(&mut into, packet).unwrap()).collect();
        use Admission::{AboveHorizon, Deliver};
        assert_eq!(admitted, [Deliver, Deliver, AboveHorizon, AboveHorizon, AboveHorizon]);
        assert_eq!((into.edge(), into.horizon_wanted(), into.wants_more()), (2, 5, true));

        into.handle_request();
        assert!(!into.wants_more(), "one report in flight");
        into.grant(4);
        assert_eq!([3, 4, 5].map(|number| into.admit(&opened(number))), [Deliver, Deliver, AboveHorizon]);
        assert!(into.wants_more(), "one is still parked");
        into.grant(5);
        assert_eq!(into.admit(&opened(5)), Deliver);
        into.grant(3);
        assert_eq!(into.horizon(), 5, "a horizon never moves back");
    }

    #[test]
    fn a_parked_packet_is_checked_again() {
        let (mut out, mut into) = pair(|_, into| into.horizon = 0);
        let sent = packets(&mut out, 100);
        // The same packet twice, both parked.
        assert_eq!(receive(&mut into, &sent[0]), Ok(Admission::AboveHorizon));
        assert_eq!(receive(&mut into, &sent[0]), Ok(Admission::AboveHorizon));
        assert_eq!(receive(&mut into, &sent[1]), Ok(Admission::AboveHorizon));
        into.grant(100);
        assert_eq!(into.admit(&opened(1)), Admission::Deliver);
        assert_eq!(into.admit(&opened(1)), Admission::Replayed);
        // Meanwhile the window went past the other.
        assert_eq!(receive(&mut into, &sent[99]), Ok(Admission::Deliver));
        assert_eq!(into.admit(&opened(2)), Admission::Replayed);
    }

    #[test]
    fn a_successor_repeats_nothing_and_goes_on() {
        // The owner delivers up to its horizon and parks the rest; the successor starts there.
        let (mut out, mut owner) = pair(|_, into| into.horizon = 30);
        let sent = packets(&mut out, 50);
        let mut params = inbound_params(ALGORITHM);
        (params.edge, params.horizon) = (30, u64::MAX);
        let mut successor = inbound(&params);
        for (index, packet) in sent.iter().enumerate() {
            let by_owner = receive(&mut owner, packet) == Ok(Admission::Deliver);
            let by_successor = receive(&mut successor, packet) == Ok(Admission::Deliver);
            assert!(by_owner != by_successor, "number {}", index + 1);
        }
    }

    #[test]
    fn a_slow_sa_is_granted_just_what_arrived() {
        // One packet per round trip: each is parked once, and a takeover at any moment costs none of the next ones.
        let (mut out, mut into) = pair(|_, into| into.horizon = 0);
        for number in 1..=1000 {
            assert_eq!(receive(&mut into, &bytes(&seal(&mut out, &[0x45; 20]))), Ok(Admission::AboveHorizon));
            assert!(into.wants_more());
            grant_all(&mut into);
            assert_eq!(into.horizon(), number);
            assert_eq!(into.admit(&opened(number)), Admission::Deliver);
            assert!(!into.wants_more());
        }
    }

    #[test]
    fn a_fast_sa_stops_parking() {
        let (mut out, mut into) = pair(|_, into| into.horizon = 0);
        let mut parked = Vec::new();
        let mut request = None;
        let mut last_parked = 0;
        for number in 1..=5000u64 {
            if receive(&mut into, &bytes(&seal(&mut out, &[0x45; 20]))) == Ok(Admission::AboveHorizon) {
                parked.push(number);
                last_parked = number;
            }
            // The answer takes as long as 50 packets.
            if let Some((sent_at, wanted)) = request
                && number >= sent_at + 50
            {
                into.grant(wanted);
                parked.retain(|number| into.admit(&opened(*number)) != Admission::Deliver);
                request = None;
            }
            if request.is_none() && into.wants_more() {
                request = Some((number, into.horizon_wanted()));
                into.handle_request();
            }
        }
        assert!(last_parked < 500, "parked number {last_parked}");
        assert!(parked.is_empty());
        assert!(into.horizon() - 5000 <= 8 * 50, "a takeover would cost {} packets", into.horizon() - 5000);
    }

    #[test]
    fn binding_limits_an_sa_without() {
        let (mut out, mut into) = pair(|_, _| ());
        let sent = packets(&mut out, 4);
        for packet in &sent[..2] {
            assert_eq!(receive(&mut into, packet), Ok(Admission::Deliver));
        }
        assert_eq!((into.wants_more(), into.horizon_wanted()), (false, u64::MAX));
        into.bind();
        assert_eq!((into.horizon(), into.horizon_wanted()), (2, 2), "a slow SA has no room");
        assert_eq!(receive(&mut into, &sent[2]), Ok(Admission::AboveHorizon));
        into.bind();
        assert_eq!(into.horizon(), 2, "already bound");
        // The last copy went away.
        into.grant(u64::MAX);
        assert_eq!(into.admit(&opened(3)), Admission::Deliver);
    }

    #[test]
    fn binding_leaves_a_fast_sa_room() {
        let (mut out, mut into) = pair(|_, _| ());
        for packet in packets(&mut out, 2000) {
            assert_eq!(receive(&mut into, &packet), Ok(Admission::Deliver));
        }
        into.handle_beat();
        into.bind();
        assert_eq!(into.horizon(), 2000 + 40, "two hundredths of a second's traffic");
        // Silent for a second: no more room is asked for.
        into.handle_beat();
        assert_eq!(into.horizon_wanted(), 2040);
        assert!(!into.wants_more());
    }
}

/// RFC 4301 §4.4.2.1.
mod lifetime {
    use super::*;

    /// 40 bytes, padding and trailer.
    const TEXT_LEN: u64 = 44;

    #[test]
    fn sealing_tells_the_soft_limit_once_and_ends_at_the_hard_one() {
        let lifetime = Lifetime { soft_packets: 3, hard_packets: 5, ..Lifetime::NONE };
        let mut out = outbound(&outbound_params(ALGORITHM)).with_lifetime(&lifetime);
        packets(&mut out, 2);
        assert_eq!(out.lifetime_due(), None);
        packets(&mut out, 1);
        assert_eq!((out.lifetime_due(), out.lifetime_due()), (Some(LifetimeDue::Soft), None));
        packets(&mut out, 2);
        assert_eq!((out.lifetime_due(), out.lifetime_due()), (Some(LifetimeDue::Hard), None));
        assert_eq!(out.seal(&mut VecBuf::from_bytes(&[0x45; 40]), IPV4), Err(EspError::LifetimeOver));
        assert_eq!((out.sent(), out.lifetime_due()), (5, None), "a refused packet uses no number");
    }

    #[test]
    fn bytes_are_those_that_the_cipher_is_applied_to() {
        // "the number of bytes to which the IPsec cryptographic algorithm is applied … This includes pad bytes, etc."
        let lifetime = Lifetime { hard_bytes: 2 * TEXT_LEN, ..Lifetime::NONE };
        let mut out = outbound(&outbound_params(ALGORITHM)).with_lifetime(&lifetime);
        let sent = packets(&mut out, 2);
        assert_eq!(out.seal(&mut VecBuf::from_bytes(&[0x45; 40]), IPV4), Err(EspError::LifetimeOver));

        let mut into = inbound(&inbound_params(ALGORITHM)).with_lifetime(&lifetime);
        for packet in &sent {
            assert_eq!(receive(&mut into, packet), Ok(Admission::Deliver));
        }
        assert_eq!(into.lifetime_due(), Some(LifetimeDue::Hard));
        let third = packets(&mut outbound(&OutboundParams { sent: 2, ..outbound_params(ALGORITHM) }), 1).remove(0);
        assert_eq!(receive(&mut into, &third), Err(EspError::LifetimeOver));
    }

    #[test]
    fn only_what_is_delivered_counts_inbound() {
        let lifetime = Lifetime { soft_packets: 2, ..Lifetime::NONE };
        let (mut out, _) = pair(|_, _| ());
        let mut into = inbound(&InboundParams { horizon: 1, ..inbound_params(ALGORITHM) }).with_lifetime(&lifetime);
        let sent = packets(&mut out, 2);
        let mut forged = sent[0].clone();
        *forged.last_mut().unwrap() ^= 1;
        for _ in 0..5 {
            assert_eq!(receive(&mut into, &forged), Err(EspError::BadIcv));
            assert_eq!(receive(&mut into, &sent[1]), Ok(Admission::AboveHorizon));
        }
        assert_eq!(receive(&mut into, &sent[0]), Ok(Admission::Deliver));
        assert_eq!(receive(&mut into, &sent[0]), Err(EspError::Replayed));
        assert_eq!(into.lifetime_due(), None);
        into.grant(2);
        assert_eq!(into.admit(&opened(2)), Admission::Deliver);
        assert_eq!(into.lifetime_due(), Some(LifetimeDue::Soft));
    }

    #[test]
    fn a_successor_counts_from_lease_and_horizon() {
        let lifetime = Lifetime { soft_packets: 1000, ..Lifetime::NONE };
        let mut out = outbound(&OutboundParams { sent: 1000, ..outbound_params(ALGORITHM) }).with_lifetime(&lifetime);
        let mut into = inbound(&InboundParams { edge: 999, ..inbound_params(ALGORITHM) }).with_lifetime(&lifetime);
        assert_eq!((out.lifetime_due(), into.lifetime_due()), (Some(LifetimeDue::Soft), None));
        assert_eq!(receive(&mut into, &packets(&mut out, 1)[0]), Ok(Admission::Deliver));
        assert_eq!(into.lifetime_due(), Some(LifetimeDue::Soft));
    }
}

#[test]
fn secrets_are_not_printed() {
    let (out, into) = pair(|_, _| ());
    let printed = format!("{out:?} {into:?} {:?} {:?}", outbound_params(ALGORITHM), inbound_params(ALGORITHM));
    let key = crate::support::keymat(ALGORITHM);
    for format in [hex::encode(&key[..4]), format!("{}, {}, {}", key[0], key[1], key[2])] {
        assert!(!printed.contains(&format), "{printed}");
    }
}

/// What a backup keeps for a takeover.
mod dormant {
    use super::*;

    const DELIVER: Result<Admission, EspError> = Ok(Admission::Deliver);

    fn dormant_pair(esn: bool) -> (OutboundSa, InboundSa) {
        pair(|out, inb| {
            (out.esn, out.sent, out.lease) = (esn, DORMANT, DORMANT);
            (inb.esn, inb.edge, inb.horizon) = (esn, DORMANT, DORMANT);
        })
    }

    #[test]
    fn nothing_leaves_or_is_taken_before_it_is_woken() {
        for esn in [false, true] {
            let (mut out, mut inb) = dormant_pair(esn);
            assert!(inb.is_dormant() && !out.wants_more() && !inb.wants_more());
            assert_eq!(out.seal(&mut VecBuf::from_bytes(&[0x45; 20]), IPV4), Err(EspError::Dormant));
            for sent in [0, 1 << 20, u64::from(u32::MAX) - 1, NUMBER_MAX - 1] {
                let (mut peer, _) = pair(|out, _| (out.esn, out.sent) = (esn, sent));
                if sent < u64::from(u32::MAX) || esn {
                    let packet = bytes(&seal(&mut peer, &[0x45; 20]));
                    assert_eq!(receive(&mut inb, &packet), Err(EspError::Dormant), "number {}", sent + 1);
                }
            }
            inb.handle_beat();
            assert_eq!((inb.lifetime_due(), out.lifetime_due()), (None, None));
        }
    }

    #[test]
    fn it_is_woken_once_and_goes_on_where_it_is_told() {
        let (mut out, mut inb) = dormant_pair(false);
        assert!(out.wake(iv_prefix(2, 9), 1000, &Lifetime::NONE) && inb.wake(500, &Lifetime::NONE));
        let packet = bytes(&seal(&mut out, &[0x45; 20]));
        assert_eq!(packet[4..16], [0, 0, 3, 0xe9, 2, 0, 9, 0, 0, 0, 3, 0xe9]);
        let (mut peer, _) = pair(|out, _| out.sent = 499);
        let sent = packets(&mut peer, 3);
        assert_eq!(receive(&mut inb, &sent[0]), Err(EspError::Replayed), "number 500 counts as seen");
        assert_eq!([&sent[2], &sent[1]].map(|packet| receive(&mut inb, packet)), [DELIVER; 2]);
        // Its numbers never go back.
        assert!(!out.wake(iv_prefix(2, 9), 0, &Lifetime::NONE) && !inb.wake(0, &Lifetime::NONE));
        assert_eq!((out.sent(), inb.edge()), (1001, 502));
        assert_eq!(receive(&mut inb, &sent[1]), Err(EspError::Replayed));
    }

    #[test]
    fn what_it_carried_elsewhere_counts() {
        let lifetime = Lifetime { soft_packets: 10, hard_packets: 12, ..Lifetime::NONE };
        let (out, inb) = dormant_pair(false);
        let (mut out, mut inb) = (out.with_lifetime(&lifetime), inb.with_lifetime(&lifetime));
        assert_eq!((inb.lifetime_due(), out.lifetime_due()), (None, None));
        assert!(out.wake(iv_prefix(2, 9), 9, &lifetime) && inb.wake(12, &lifetime));
        assert_eq!(inb.lifetime_due(), Some(LifetimeDue::Hard));
        seal(&mut out, &[0x45; 20]);
        assert_eq!(out.lifetime_due(), Some(LifetimeDue::Soft));
    }
}
