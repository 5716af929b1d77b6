//! Pairing, and the message channel that it leaves.

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use zeroize::Zeroizing;

use super::support::{pairings, secret, side, small_sizes};
use crate::Versions;
use crate::channel::{ChannelError, MESSAGE_BYTES_MAX};
use crate::geometry::layout_of;
use crate::pairing::{Agreement, Handshake, Pairing, PairingError, PairingSecret, Side};

fn rng() -> StdRng {
    StdRng::seed_from_u64(4)
}

fn start(side: Side, secret: PairingSecret) -> Handshake {
    // Each side has randomness of its own.
    let mut rng = StdRng::seed_from_u64(u64::from(side.appliance.get()));
    Handshake::new(side, secret, &mut rng).unwrap()
}

/// Runs both machines; each message passes through `tamper` with its number.
fn run(
    mut a: Handshake,
    mut b: Handshake,
    mut tamper: impl FnMut(usize, &mut Vec<u8>),
) -> (Result<Pairing, PairingError>, Result<Pairing, PairingError>) {
    let mut number = 0;
    for _ in 0..2 {
        let messages = [a.poll_transmit(), b.poll_transmit()];
        for (message, to) in messages.into_iter().zip([&mut b, &mut a]) {
            if let Some(mut message) = message {
                tamper(number, &mut message);
                let _ = to.handle_message(&message);
            }
            number += 1;
        }
    }
    (a.finish(), b.finish())
}

#[test]
fn both_sides_learn_who_the_other_is_and_talk() {
    let (mut a, mut b) = pairings(&small_sizes(), &mut rng());
    assert_eq!((a.peer.appliance.get(), b.peer.appliance.get()), (2, 1));
    assert_eq!((a.peer.incarnation, a.peer.region), ([2; 16], side(2, &small_sizes()).region));
    assert_eq!((a.agreement, b.agreement), (Agreement::Agreed, Agreement::Agreed));
    /* heartbeat --> */
    let sealed = a.channel.seal_message(b"heartbeat").unwrap();
    assert!(!sealed.windows(9).any(|window| window == b"heartbeat"));
    assert_eq!(b.channel.open_message(&sealed).unwrap(), b"heartbeat");
    /* <-- look */
    let sealed = b.channel.seal_message(b"").unwrap();
    assert_eq!(a.channel.open_message(&sealed).unwrap(), b"");
}

#[test]
fn a_wrong_secret_pairs_nobody() {
    let sizes = small_sizes();
    let (a, b) = run(start(side(1, &sizes), secret(1)), start(side(2, &sizes), secret(2)), |_, _| {});
    assert_eq!((a.unwrap_err(), b.unwrap_err()), (PairingError::WrongSecret, PairingError::WrongSecret));
    assert_eq!(PairingSecret::new(Zeroizing::new(vec![1; 31])).unwrap_err(), PairingError::SecretTooShort);
}

#[test]
fn the_same_id_is_refused_also_when_it_is_an_echo() {
    let sizes = small_sizes();
    let (a, b) = run(start(side(1, &sizes), secret(1)), start(side(1, &sizes), secret(1)), |_, _| {});
    assert_eq!((a.unwrap_err(), b.unwrap_err()), (PairingError::SameAppliance, PairingError::SameAppliance));
}

/// A side that speaks other versions.
fn speaking(id: u8, oldest: u16, newest: u16) -> Side {
    Side { versions: Versions { oldest, newest }, ..side(id, &small_sizes()) }
}

#[test]
fn the_highest_common_version_is_spoken() {
    let (a, b) = run(start(speaking(1, 1, 2), secret(1)), start(speaking(2, 2, 3), secret(1)), |_, _| {});
    assert_eq!((a.unwrap().peer.version, b.unwrap().peer.version), (2, 2));
}

#[test]
fn without_a_common_version_both_sides_say_so_and_nobody_pairs() {
    let (a, b) = run(start(speaking(1, 1, 2), secret(1)), start(speaking(2, 3, 4), secret(1)), |_, _| {});
    let [old, new] = [speaking(1, 1, 2).versions, speaking(2, 3, 4).versions];
    assert_eq!(a.unwrap_err(), PairingError::NoCommonVersion { theirs: new, ours: old });
    let error = b.unwrap_err();
    assert_eq!(error, PairingError::NoCommonVersion { theirs: old, ours: new });
    assert_eq!(
        error.to_string(),
        "the other appliance speaks version 1-2 of the store link, this one 3-4: none in common, upgrade the older one"
    );
}

/// A build that lays regions out in its own way.
fn laying_out(side: Side, layout_of: fn(u16) -> u32) -> Handshake {
    let mut rng = StdRng::seed_from_u64(u64::from(side.appliance.get()));
    Handshake::with_layouts(side, secret(1), &mut rng, layout_of).unwrap()
}

#[test]
fn two_that_mean_different_layouts_by_a_version_say_so_and_do_not_pair() {
    let (a, b) = run(laying_out(speaking(1, 1, 4), |_| 3), laying_out(speaking(2, 2, 4), |_| 4), |_, _| {});
    assert_eq!(a.unwrap_err(), PairingError::OtherLayout { version: 4, theirs: 4, ours: 3 });
    let error = b.unwrap_err();
    assert_eq!(error, PairingError::OtherLayout { version: 4, theirs: 3, ours: 4 });
    assert_eq!(
        error.to_string(),
        "by version 4 of the store link the other appliance lays its store out as layout 3, this one as layout 4: upgrade the older one"
    );
}

#[test]
fn a_build_that_has_a_new_layout_by_a_new_version_pairs_with_the_one_before_it() {
    let newer = |version| if version < 5 { 3 } else { 4 };
    let (a, b) = run(laying_out(speaking(1, 1, 4), |_| 3), laying_out(speaking(2, 3, 5), newer), |_, _| {});
    assert_eq!((a.unwrap().peer.version, b.unwrap().peer.version), (4, 4));
}

#[test]
fn a_release_whose_hello_says_nothing_of_layouts_has_the_one_of_its_time() {
    for (layout_of, pairs) in [((|_| 3) as fn(u16) -> u32, true), (|_| 4, false)] {
        let mut older = start(speaking(1, 1, 4), secret(1));
        older.say_no_layouts();
        let (a, b) = run(older, laying_out(speaking(2, 1, 4), layout_of), |_, _| {});
        assert_eq!((a.is_ok(), b.is_ok()), (pairs, pairs));
    }
}

/// Appliances of older releases are out there: who changes the layout raises the version of the link, too.
#[test]
fn what_a_version_of_the_link_has_meant_it_means_for_ever() {
    assert_eq!([1, 2, 3, 4].map(layout_of), [3; 4]);
}

#[test]
fn a_hello_that_is_laid_out_in_another_way_is_refused_for_its_version() {
    let mut a = start(speaking(1, 1, 2), secret(1));
    let mut hello = start(speaking(2, 3, 3), secret(1)).poll_transmit().unwrap();
    hello.truncate(5);
    let error = a.handle_message(&hello).unwrap_err();
    assert!(matches!(error, PairingError::NoCommonVersion { .. }), "{error}");
    assert_eq!(a.handle_message(&hello), Err(error), "an error is final");
}

#[test]
fn what_a_later_hello_adds_is_passed_over_but_not_open_to_change() {
    let pair = |change: bool| {
        let (mut a, mut b) = (start(speaking(1, 1, 2), secret(1)), start(speaking(2, 1, 3), secret(1)));
        // The later build's hello says more; it goes into the keys of both as it was sent.
        let longer = b.say_more(b"of a later version");
        let mut heard = longer.clone();
        if change {
            *heard.last_mut().unwrap() ^= 1;
        }
        let from_a = a.poll_transmit().unwrap();
        a.handle_message(&heard).unwrap();
        b.handle_message(&from_a).unwrap();
        let [of_a, of_b] = [&mut a, &mut b].map(|side| side.poll_transmit().unwrap());
        [a.handle_message(&of_b), b.handle_message(&of_a)]
    };
    assert_eq!(pair(false), [Ok(()); 2]);
    assert_eq!(pair(true), [Err(PairingError::WrongSecret); 2]);
}

#[test]
fn nobody_in_between_can_lower_the_version() {
    let (a, b) = run(start(speaking(1, 1, 2), secret(1)), start(speaking(2, 1, 2), secret(1)), |number, message| {
        if number < 2 {
            message.splice(3..5, 1u16.to_be_bytes());
        }
    });
    assert_eq!((a.unwrap_err(), b.unwrap_err()), (PairingError::WrongSecret, PairingError::WrongSecret));
}

#[test]
fn another_configuration_pairs_but_does_not_count() {
    let sizes = small_sizes();
    let other = Side { config_digest: [8; 32], ..side(2, &sizes) };
    let (a, b) = run(start(side(1, &sizes), secret(1)), start(other, secret(1)), |_, _| {});
    assert_eq!(a.unwrap().agreement, Agreement::ConfigurationDiffers);
    assert_eq!(b.unwrap().agreement, Agreement::ConfigurationDiffers);
}

#[test]
fn nothing_but_what_is_due_is_taken() {
    let sizes = small_sizes();
    let mut a = start(side(1, &sizes), secret(1));
    assert!(a.poll_transmit().is_some() && a.poll_transmit().is_none() && !a.is_done());
    assert_eq!(a.handle_message(&[2; 33]), Err(PairingError::Unexpected));
    assert_eq!(a.finish().unwrap_err(), PairingError::Unexpected);

    let mut a = start(side(1, &sizes), secret(1));
    let hello = start(side(2, &sizes), secret(1)).poll_transmit().unwrap();
    a.handle_message(&hello).unwrap();
    assert_eq!(a.handle_message(&hello), Err(PairingError::Unexpected));
}

/// A second pairing of the same processes with the same secret has other keys.
#[test]
fn keys_are_fresh() {
    let mut rng = rng();
    let (mut first, _) = pairings(&small_sizes(), &mut rng);
    let (_, mut second) = pairings(&small_sizes(), &mut rng);
    let sealed = first.channel.seal_message(b"heartbeat").unwrap();
    assert_eq!(second.channel.open_message(&sealed), Err(ChannelError::NotAuthentic));
}

#[test]
fn messages_are_numbered_and_bound_to_their_direction() {
    let (mut a, mut b) = pairings(&small_sizes(), &mut rng());
    let sealed: Vec<_> = (0..3).map(|n| a.channel.seal_message(&[n]).unwrap()).collect();
    assert_eq!(b.channel.open_message(&sealed[1]).unwrap(), [1]);
    assert_eq!(b.channel.open_message(&sealed[1]), Err(ChannelError::Replayed));
    assert_eq!(b.channel.open_message(&sealed[0]), Err(ChannelError::Replayed));
    assert_eq!(a.channel.open_message(&sealed[2]), Err(ChannelError::NotAuthentic), "an echo");
    let mut forged = sealed[2].clone();
    forged[7] = 200;
    assert_eq!(b.channel.open_message(&forged), Err(ChannelError::NotAuthentic));
    assert_eq!(b.channel.open_message(&sealed[2]).unwrap(), [2], "a forged number moves nothing");
    assert_eq!(b.channel.open_message(&[]), Err(ChannelError::NotAuthentic));
    assert_eq!(a.channel.seal_message(&vec![0; MESSAGE_BYTES_MAX + 1]), Err(ChannelError::TooLarge));
    let largest = a.channel.seal_message(&vec![0; MESSAGE_BYTES_MAX]).unwrap();
    assert_eq!(b.channel.open_message(&largest).unwrap().len(), MESSAGE_BYTES_MAX);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever changes on the way, the two never finish: one may believe itself paired, but not both.
    #[test]
    fn no_changed_message_pairs(which in 0..4usize, at in any::<prop::sample::Index>(), bit in 0..8u32) {
        let sizes = small_sizes();
        let (a, b) = run(start(side(1, &sizes), secret(1)), start(side(2, &sizes), secret(1)), |number, message| {
            if number == which {
                let at = at.index(message.len());
                message[at] ^= 1 << bit;
            }
        });
        prop_assert!(a.is_err() || b.is_err());
    }

    #[test]
    fn garbage_messages_are_errors(messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..4)) {
        let mut a = start(side(1, &small_sizes()), secret(1));
        for message in messages {
            prop_assert!(a.handle_message(&message).is_err());
        }
    }
}
