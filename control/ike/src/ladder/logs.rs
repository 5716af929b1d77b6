//! What an operator finds in the log: who refused what, and why; and nothing that is secret.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing_subscriber::filter::LevelFilter;

use super::bench::lose_all;
use super::{ALICE, BOB, Bench, Setup};
use crate::message::Direction;
use crate::{Event, Secret, Unique};

const SECOND: Duration = Duration::from_secs(1);

/// A log that stays in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines that are logged meanwhile, from that level on.
fn logged(level: LevelFilter, f: impl FnOnce()) -> String {
    let log = Log::default();
    let writer = log.clone();
    let lines = tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_target(false);
    tracing::subscriber::with_default(lines.with_writer(move || writer.clone()).finish(), f);
    let bytes = log.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

/// The warnings of a call that comes to nothing, or not to everything.
fn warnings(setup: Setup) -> String {
    logged(LevelFilter::WARN, || {
        let mut bench = Bench::new(setup);
        bench.call();
        bench.pass(60 * SECOND);
    })
}

/// Each of `words` stands in one and the same line.
#[track_caller]
fn assert_says(log: &str, words: &[&str]) {
    let says = |line: &str| words.iter().all(|word| line.contains(word));
    assert!(log.lines().any(says), "no line with {words:?} in:\n{log}");
}

#[test]
fn which_ike_proposal_failed() {
    let ike = ["aes256gcm16-prfsha256-x25519", "aes256gcm16-prfsha256-ecp384"];
    let log = warnings(Setup { ike, ..Setup::default() });
    let why = "no common key exchange group; peer proposes aes256gcm16-prfsha256-x25519; we accept aes256gcm16-prfsha256-ecp384";
    assert_says(&log, &["no acceptable IKE proposal", "remote=192.0.2.1:500", "connections=[\"between\"]", why]);
    assert_says(&log, &["peer refuses IKE_SA_INIT", "NO_PROPOSAL_CHOSEN", "proposed=aes256gcm16-prfsha256-x25519"]);
    assert_says(&log, &["IKE SA could not be set up", "connection=between", "NO_PROPOSAL_CHOSEN"]);
}

#[test]
fn which_esp_proposal_failed() {
    let log = warnings(Setup { esp: ["aes256gcm16", "aes128gcm16"], ..Setup::default() });
    let why = "no common encryption algorithm; peer proposes aes256gcm16-noesn; we accept aes128gcm16-noesn";
    assert_says(&log, &["no acceptable ESP proposal", "connection=between", "peer=alice.example", why]);
    assert_says(&log, &["peer refused the child SA", "child=net", "NO_PROPOSAL_CHOSEN", "proposed=aes256gcm16"]);
}

#[test]
fn which_selectors_failed() {
    let log = warnings(Setup { bob_net: "10.7.0.0/16", ..Setup::default() });
    let theirs = ["peer=alice.example", "theirs=[10.1.0.0/16]", "ours=[10.9.0.0/16]", "children=[\"net\", \"spare\"]"];
    let allowed = ["no child policy allows any of these traffic selectors", "[10.7.0.0/16]"];
    assert_says(&log, &[&theirs[..], &allowed].concat());
    let proposed = ["TS_UNACCEPTABLE", "local=10.1.0.0/16", "remote_ts=10.9.0.0/16"];
    assert_says(&log, &[&["peer refused the child SA", "child=net"][..], &proposed].concat());
}

#[test]
fn which_identity_failed() {
    let log = warnings(Setup { bob_accepts_id: "carol.example", ..Setup::default() });
    assert_says(&log, &["no connection for these identities", "peer=alice.example", "remote=192.0.2.1"]);
    assert_says(&log, &["peer refused IKE_AUTH", "connection=between", "AuthenticationFailed"]);
}

/// Bob's secret is right for Alice's identity; but he isn't whom she called.
#[test]
fn who_answered_instead() {
    let log = logged(LevelFilter::WARN, || {
        let mut bench = Bench::new(Setup::default());
        bench.call();
        bench.deliver();
        bench.deliver();
        bench.deliver();
        bench.rewrite_next(|payloads| {
            let id = payloads.iter_mut().find(|payload| matches!(payload, crate::message::Payload::IdResponder(_)));
            *id.unwrap() = crate::message::Payload::IdResponder("mallory.example".parse().unwrap());
        });
        bench.pass(10 * SECOND);
    });
    assert_says(
        &log,
        &["peer isn't who it should be", "peer=mallory.example", "wanted=bob.example", "authentic=false"],
    );
}

#[test]
fn a_wrong_shared_key() {
    let log = warnings(Setup { psk: ["a secret of Alice", "a secret of Bob"], ..Setup::default() });
    assert_says(&log, &["peer doesn't know our shared key", "connection=between", "peer=alice.example"]);
}

#[test]
fn who_has_too_many_ike_sas() {
    let log = logged(LevelFilter::WARN, || {
        let mut bench = Bench::established(Setup { unique: [Unique::No, Unique::Keep], ..Setup::default() });
        bench.call();
        bench.run();
    });
    assert_says(&log, &["the peer has an IKE SA already, which is kept", "peer=alice.example"]);
}

#[test]
fn who_is_silent() {
    let log = logged(LevelFilter::INFO, || {
        let mut bench = Bench::established(Setup { dpd_delay: Some(10 * SECOND), ..Setup::default() });
        bench.loss = Some(Box::new(|_| true));
        bench.pass(120 * SECOND);
    });
    assert_says(&log, &["IKE SA gone", "connection=between", "peer=bob.example", "reason=PeerDead"]);
}

/// Somebody who sends nonsense can't fill the log.
#[test]
fn strangers_are_complained_about_a_few_times_a_second() {
    let log = logged(LevelFilter::WARN, || {
        let mut bench = Bench::new(Setup { psk: ["a secret of Alice", "a secret of Bob"], ..Setup::default() });
        for _ in 0..100 {
            bench.call();
            bench.run();
        }
    });
    let complaints = log.lines().filter(|line| line.contains("peer doesn't know our shared key")).count();
    assert!((1..=10).contains(&complaints), "{complaints}");
}

/// Everything that two ends keep secret, as far as they have told each other.
#[derive(Default)]
struct Secrets(Vec<Secret>);

impl Secrets {
    fn collect(&mut self, bench: &Bench) {
        self.0.push(Secret::new(bench.setup.psk[ALICE].as_bytes().to_vec()));
        for side in &bench.sides {
            for sa in side.sas(bench.now) {
                let keys = &side.endpoint.channel(sa.id).keys;
                let all = [&keys.sk_d, &keys.sk_ai, &keys.sk_ar, &keys.sk_ei, &keys.sk_er, &keys.sk_pi, &keys.sk_pr];
                self.0.extend(all.into_iter().cloned());
            }
            self.0.extend(side.installed.values().flat_map(|info| [info.key_in.clone(), info.key_out.clone()]));
        }
    }

    /// None of them stands in the text: as it is, in hexadecimal digits, or as `Debug` shows bytes.
    fn assert_not_in(&self, text: &str) {
        let bare: String = text.to_lowercase().chars().filter(|c| !" :-".contains(*c)).collect();
        let secrets = self.0.iter().map(Secret::expose).filter(|secret| !secret.is_empty());
        for secret in secrets {
            for piece in [&secret[..8], &secret[secret.len() - 8..]] {
                let numbers = piece.iter().map(u8::to_string).collect::<Vec<_>>().join(",");
                let plain = String::from_utf8_lossy(piece).to_lowercase().replace(' ', "");
                for shown in [hex::encode(piece), numbers, plain] {
                    assert!(!bare.contains(&shown), "{shown}");
                }
            }
        }
    }
}

/// With everything logged that there is to log, whatever happens.
#[test]
fn no_secret_is_ever_logged() {
    let mut secrets = Secrets::default();
    let mut shown = String::new();
    let mut log = String::new();
    for (ike, psk) in [
        ("aes256gcm16-prfsha256-x25519", ["correct horse battery staple"; 2]),
        ("aes256-sha512-prfsha512-modp2048", ["correct horse battery staple"; 2]),
        ("chacha20poly1305-prfsha256-ecp256", ["correct horse battery staple", "another secret phrase"]),
    ] {
        log += &logged(LevelFilter::TRACE, || {
            let mut bench = Bench::new(Setup {
                ike: [ike; 2],
                psk,
                packet_bytes_max: [300; 2],
                dpd_delay: Some(SECOND),
                ike_rekey_time: [Some(30 * SECOND), None],
                child_rekey_time: [None, Some(20 * SECOND)],
                ..Setup::default()
            });
            bench.sides.iter_mut().for_each(|side| side.endpoint.set_key_log(true));
            bench.call();
            bench.pass(2 * SECOND);
            for _ in 0..6 {
                secrets.collect(&bench);
                bench.pass(20 * SECOND);
            }
            secrets.collect(&bench);
            let Some(sa) = bench.sides[BOB].sas(bench.now).pop() else { return };
            // Records, a takeover in the middle of an exchange, and one of a stale copy.
            let records = bench.sides[BOB].endpoint.export(sa.id, bench.now).unwrap();
            shown += &format!("{records:?}{sa:?}{:?}", bench.sides[BOB].endpoint);
            let alice = bench.sides[ALICE].sas(bench.now).pop().unwrap();
            bench.sides[ALICE].endpoint.rekey_ike(alice.id, bench.now).unwrap();
            bench.take_over = Some(ALICE);
            bench.pass(SECOND);
            secrets.collect(&bench);
            bench.take_over = None;
            let sa = bench.sides[BOB].sas(bench.now).pop().unwrap();
            let stale = bench.sides[BOB].endpoint.export(sa.id, bench.now).unwrap();
            bench.replace_with(BOB, |successor, now| {
                let id = successor.import_stale(stale.0, stale.1, now).unwrap();
                successor.synchronise(id, now).unwrap();
            });
            bench.pass(SECOND);
            secrets.collect(&bench);
            bench.loss = Some(lose_all(BOB, Direction::Response));
            bench.pass(120 * SECOND);
            shown += &format!("{:?}", bench.sides.each_ref().map(|side| &side.events));
        });
    }
    assert!(secrets.0.len() > 100, "{}", secrets.0.len());
    let says =
        ["IKE SA established", "IKE SA rekeyed", "child SA installed", "message IDs synchronised", "IKE SA resumed"];
    says.iter().for_each(|words| assert!(log.contains(words), "{words}"));
    assert!(shown.contains("KeyLog") && shown.contains("sk_d"));
    secrets.assert_not_in(&log);
    secrets.assert_not_in(&shown);
    // They would be found.
    let secret = secrets.0.iter().rfind(|secret| !secret.is_empty()).unwrap().expose();
    let found = |text: String| std::panic::catch_unwind(|| secrets.assert_not_in(&text)).is_err();
    assert!(found(hex::encode_upper(secret)) && found(format!("{secret:?}")));
    assert!(found("key=correct horse battery staple".to_owned()));
}

/// The key log is an event of its own, and holds them.
#[test]
fn keys_come_as_events_when_asked_for() {
    let log = logged(LevelFilter::TRACE, || {
        let mut bench = Bench::new(Setup::default());
        bench.sides[ALICE].endpoint.set_key_log(true);
        bench.call();
        bench.run();
        let logs =
            |side: usize| bench.sides[side].events.iter().filter(|event| matches!(event, Event::KeyLog(_))).count();
        assert_eq!((logs(ALICE), logs(BOB)), (3, 0));
    });
    assert!(!log.is_empty());
}
