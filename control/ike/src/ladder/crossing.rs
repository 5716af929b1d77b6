//! Messages that cross (RFC 7296 §2.8.1, §2.8.2, §2.25), told as ladders: after every message, what both ends have.
//!
//! A ladder's line is a message, and behind it Alice's and Bob's IKE SAs with their child SAs. `old` is what there was, `A` and `B` what
//! Alice and Bob asked for; `~` is behind one that the other end has replaced, `-` behind one that the end itself deletes.
//! `docs/collisions.md` lists them.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use super::bench::Flying;
use super::{ALICE, BOB, Bench, Setup};
use crate::message::{Delete, Direction, ExchangeType, Payload};
use crate::{ChildPhase, OperateError, Phase, Role};

/// What happens next.
#[derive(Debug, Clone, Copy)]
enum Step {
    RekeyChild(usize),
    DeleteChild(usize),
    RekeyIke(usize),
    DeleteIke(usize),
    /// The oldest message to that end arrives.
    To(usize),
    /// The oldest message to that end is on a slow way.
    Hold(usize),
    /// What is on a slow way to that end arrives.
    Late(usize),
    /// The oldest message to that end is lost.
    Lose(usize),
    /// Everything else arrives in order.
    Rest,
}

use Step::{DeleteChild, DeleteIke, Hold, Late, Lose, RekeyChild, RekeyIke, Rest, To};

/// Both ends, and what there was before.
struct Scene {
    bench: Bench,
    /// Each end's SPI of the child SA that there was.
    child: [u32; 2],
    /// Likewise of the IKE SA.
    ike: [u64; 2],
    held: Vec<Flying>,
    /// Of the messages that arrived: whose SA they are for, which of its two messages it was, the nonce.
    nonces: Vec<(usize, Direction, Vec<u8>)>,
    ladder: String,
}

impl Scene {
    fn new(setup: Setup) -> Self {
        let bench = Bench::established(setup);
        let child = [ALICE, BOB].map(|side| bench.child(side).spi_in);
        let ike = [ALICE, BOB].map(|side| bench.sa(side).id.get());
        Self { bench, child, ike, held: Vec::new(), nonces: Vec::new(), ladder: String::new() }
    }

    fn step(&mut self, step: Step) {
        let now = self.bench.now;
        match step {
            RekeyChild(side) => self.bench.sides[side].endpoint.rekey_child(self.child[side], now).unwrap(),
            DeleteChild(side) => self.bench.sides[side].endpoint.delete_child(self.child[side], now).unwrap(),
            RekeyIke(side) => {
                let id = self.bench.sa(side).id;
                self.bench.sides[side].endpoint.rekey_ike(id, now).unwrap();
            }
            DeleteIke(side) => {
                let id = self.bench.sa(side).id;
                self.bench.sides[side].endpoint.delete_ike(id, now).unwrap();
            }
            To(side) => {
                let flying = self.take(side);
                self.arrives(&flying, "");
            }
            Hold(side) => {
                let flying = self.take(side);
                // Its sender may have forgotten the keys when it arrives.
                self.note_nonce(&flying);
                self.held.push(flying);
            }
            Late(side) => {
                let at = self.held.iter().position(|flying| flying.to == side).expect("nothing is late");
                let flying = self.held.remove(at);
                self.arrives(&flying, "late ");
            }
            Lose(side) => drop(self.take(side)),
            Rest => {
                self.bench.collect();
                while let Some(flying) = self.bench.wire.pop_front() {
                    self.arrives(&flying, "");
                }
            }
        }
    }

    /// The oldest message to that end.
    fn take(&mut self, side: usize) -> Flying {
        self.bench.collect();
        let at = self.bench.wire.iter().position(|flying| flying.to == side);
        let at = at.unwrap_or_else(|| panic!("nothing is on the way to {side}:\n{}", self.ladder));
        self.bench.wire.remove(at).expect("it is there")
    }

    fn arrives(&mut self, flying: &Flying, when: &str) {
        let what = self.text(flying);
        self.note_nonce(flying);
        self.bench.hand_over(flying);
        let arrow = if flying.to == BOB { "-->" } else { "<--" };
        let (alice, bob) = (self.state(ALICE), self.state(BOB));
        let _ = writeln!(self.ladder, "{arrow} {when}{what}: {alice} | {bob}");
    }

    fn note_nonce(&mut self, flying: &Flying) {
        if !self.is_readable(flying) {
            return;
        }
        let response = flying.transmit.payload[19] & 0x20 != 0;
        let (owner, direction) =
            if response { (flying.to, Direction::Response) } else { (1 - flying.to, Direction::Request) };
        let nonces = self.bench.read(flying).into_iter().filter_map(|payload| match payload {
            Payload::Nonce(nonce) => Some((owner, direction, nonce)),
            _ => None,
        });
        self.nonces.extend(nonces);
    }

    /// Who asked for the SA that has the lowest of all nonces, and which of its two it is.
    fn lowest_nonce(&self) -> (usize, Direction) {
        let (owner, direction, _) = self.nonces.iter().min_by_key(|(.., nonce)| nonce).expect("there are nonces");
        (*owner, *direction)
    }

    /// Has the sender still the keys?
    fn is_readable(&self, flying: &Flying) -> bool {
        let sas = self.bench.sides[1 - flying.to].sas(self.bench.now);
        flying.transmit.ike_sa.is_some_and(|id| sas.iter().any(|sa| sa.id == id))
    }

    /// A message by its exchange and payloads; of one whose sender has forgotten the IKE SA, what is seen from outside.
    fn text(&self, flying: &Flying) -> String {
        let payload = &flying.transmit.payload;
        let exchange = match ExchangeType::from(payload[18]) {
            ExchangeType::CreateChildSa => "CREATE_CHILD_SA",
            ExchangeType::Informational => "INFORMATIONAL",
            other => panic!("{other:?} has no place here"),
        };
        if !self.is_readable(flying) {
            return format!("{exchange} (its sender is done)");
        }
        let payloads: Vec<String> =
            self.bench.read(flying).iter().map(|payload| self.payload(1 - flying.to, payload)).collect();
        if payloads.is_empty() {
            format!("{exchange} {{}}")
        } else {
            format!("{exchange} {{ {} }}", payloads.join(", "))
        }
    }

    fn payload(&self, sender: usize, payload: &Payload) -> String {
        match payload {
            Payload::Notify(notify) => format!("N({})", notify.kind),
            Payload::Sa(_) => "SA".to_owned(),
            Payload::Nonce(_) => "N".to_owned(),
            Payload::KeyExchange(..) => "KE".to_owned(),
            Payload::TsInitiator(_) => "TSi".to_owned(),
            Payload::TsResponder(_) => "TSr".to_owned(),
            Payload::Delete(Delete::Ike) => "D(IKE)".to_owned(),
            Payload::Delete(Delete::Esp(spis)) => {
                let names: Vec<String> = spis.iter().map(|spi| self.name_of_child(sender, *spi)).collect();
                format!("D({})", names.join(" "))
            }
            other => panic!("{other:?} has no place here"),
        }
    }

    /// An end's IKE SAs with their child SAs.
    fn state(&self, side: usize) -> String {
        let sas = self.bench.sides[side].sas(self.bench.now);
        let mut texts: Vec<String> = sas
            .iter()
            .map(|sa| {
                let name = match (sa.id.get() == self.ike[side], (sa.role == Role::Initiator) == (side == ALICE)) {
                    (true, _) => "old",
                    (false, true) => "A",
                    (false, false) => "B",
                };
                let phase = match sa.phase {
                    Phase::Rekeyed { .. } if sa.waiting => "~-",
                    Phase::Rekeyed { .. } => "~",
                    Phase::Deleting => "-",
                    Phase::Established | Phase::Authenticating => "",
                };
                let mut children: Vec<String> = sa
                    .children
                    .iter()
                    .map(|child| {
                        let phase = match child.phase {
                            ChildPhase::Installed => "",
                            ChildPhase::Rekeyed => "~",
                            ChildPhase::Deleting => "-",
                        };
                        self.name_of_child(side, child.spi_in) + phase
                    })
                    .collect();
                // `old` before `A` before `B`.
                children.sort_by_key(|name| (!name.starts_with("old"), name.clone()));
                format!("{name}{phase}({})", children.join(" "))
            })
            .collect();
        texts.sort_by_key(|name| (!name.starts_with("old"), name.clone()));
        if texts.is_empty() { "nothing".to_owned() } else { texts.join(" ") }
    }

    /// Whose child SA it is that has this SPI at that end.
    fn name_of_child(&self, side: usize, spi: u32) -> String {
        if spi == self.child[side] {
            return "old".to_owned();
        }
        let installed = self.bench.sides[side].events.iter().find_map(|event| match event {
            crate::Event::InstallChild(info) if info.spi_in == spi => Some(info.role),
            _ => None,
        });
        let of_alice = installed.map(|role| (role == Role::Initiator) == (side == ALICE));
        match of_alice {
            Some(true) => "A",
            Some(false) => "B",
            None => "?",
        }
        .to_owned()
    }

    /// In the end, whatever timers still have to do: one IKE SA with one child SA, the same at both ends, and nothing under way.
    fn assert_one_of_each(&mut self) {
        self.bench.pass(Duration::from_secs(120));
        let (alice, bob) = (self.bench.sa(ALICE), self.bench.sa(BOB));
        assert_eq!((alice.phase, bob.phase), (Phase::Established, Phase::Established));
        assert_eq!((alice.id.get(), alice.remote_spi), (bob.remote_spi, bob.id.get()));
        assert!(!alice.waiting && !bob.waiting);
        assert_eq!((self.bench.sides[ALICE].installed.len(), alice.children.len()), (1, 1), "{}", self.ladder);
        self.bench.assert_children_match();
    }

    fn assert_no_child(&mut self) {
        self.bench.pass(Duration::from_secs(120));
        assert_eq!(self.bench.phases(), [vec![Phase::Established], vec![Phase::Established]], "{}", self.ladder);
        assert!(self.bench.sides.iter().all(|side| side.installed.is_empty()), "{}", self.ladder);
        self.bench.assert_children_match();
    }

    fn assert_nothing_left(&mut self) {
        self.bench.pass(Duration::from_secs(120));
        assert_eq!(self.bench.phases(), [vec![], vec![]], "{}", self.ladder);
        assert!(self.bench.sides.iter().all(|side| side.installed.is_empty()));
    }
}

fn play(setup: Setup, steps: &[Step]) -> Scene {
    let mut scene = Scene::new(setup);
    steps.iter().for_each(|step| scene.step(*step));
    scene
}

#[track_caller]
fn assert_ladder(scene: &Scene, expected: &str) {
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let found: Vec<&str> = scene.ladder.lines().collect();
    assert!(expected == found, "the ladder is\n{}", scene.ladder);
}

/// The same with Alice and Bob exchanged.
fn mirrored(text: &str) -> String {
    text.lines().map(mirrored_line).collect::<Vec<_>>().join("\n")
}

fn mirrored_line(line: &str) -> String {
    let line = line.trim();
    let Some((message, ends)) = line.rsplit_once(": ") else { return line.to_owned() };
    let (alice, bob) = ends.split_once(" | ").expect("both ends");
    let swap = |text: &str| {
        let swapped: String = text
            .chars()
            .map(|c| match c {
                'A' => 'B',
                'B' => 'A',
                other => other,
            })
            .collect();
        let mut parts: Vec<String> = swapped
            .split_inclusive(')')
            .map(|part| {
                let part = part.trim();
                let Some((name, children)) = part.strip_suffix(')').and_then(|part| part.split_once('(')) else {
                    return part.to_owned();
                };
                let mut children: Vec<&str> = children.split(' ').filter(|child| !child.is_empty()).collect();
                children.sort_by_key(|name| (!name.starts_with("old"), name.to_string()));
                format!("{name}({})", children.join(" "))
            })
            .collect();
        parts.sort_by_key(|name| (!name.starts_with("old"), name.clone()));
        parts.join(" ")
    };
    let message = match message.split_at(3) {
        ("-->", rest) => format!("<--{}", rest),
        (_, rest) => format!("-->{}", rest),
    };
    let message = message.replace("D(A)", "D(?)").replace("D(B)", "D(A)").replace("D(?)", "D(B)");
    format!("{message}: {} | {}", swap(bob), swap(alice))
}

/// The same for either end.
fn assert_either_way(setup: impl Fn() -> Setup, steps: &[Step], expected: &str, end: fn(&mut Scene)) {
    let expected = ladder(expected);
    let mut scene = play(setup(), steps);
    assert_ladder(&scene, &expected);
    end(&mut scene);
    let swap = |side: &usize| 1 - *side;
    let steps: Vec<Step> = steps
        .iter()
        .map(|step| match step {
            RekeyChild(side) => RekeyChild(swap(side)),
            DeleteChild(side) => DeleteChild(swap(side)),
            RekeyIke(side) => RekeyIke(swap(side)),
            DeleteIke(side) => DeleteIke(swap(side)),
            To(side) => To(swap(side)),
            Hold(side) => Hold(swap(side)),
            Late(side) => Late(swap(side)),
            Lose(side) => Lose(swap(side)),
            Rest => Rest,
        })
        .collect();
    let mut scene = play(setup(), &steps);
    assert_ladder(&scene, &mirrored(&expected));
    end(&mut scene);
}

const REKEY: &str = "CREATE_CHILD_SA { N(REKEY_SA), SA, N, KE, TSi, TSr }";
const REKEYED: &str = "CREATE_CHILD_SA { SA, N, KE, TSi, TSr }";
const IKE: &str = "CREATE_CHILD_SA { SA, N, KE }";
const DONE: &str = "INFORMATIONAL (its sender is done)";

/// `text` with the messages above put in.
fn ladder(text: &str) -> String {
    text.replace("REKEYED", REKEYED)
        .replace("REKEY:", &format!("{REKEY}:"))
        .replace("IKE:", &format!("{IKE}:"))
        .replace("DONE", DONE)
}

/// Rekeyings that collide: whose survives depends on the nonces. Plays seeds until each of the four has been the lowest.
fn assert_by_nonces(setup: impl Fn(u64) -> Setup, steps: &[Step], if_alices_survives: &str, if_bobs_survives: &str) {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let mut scene = play(setup(seed), steps);
        let (loser, direction) = scene.lowest_nonce();
        assert_ladder(&scene, &ladder(if loser == BOB { if_alices_survives } else { if_bobs_survives }));
        scene.assert_one_of_each();
        seen.insert((loser, direction == Direction::Request));
        if seen.len() == 4 {
            return;
        }
    }
    panic!("of the four nonces only {seen:?} were the lowest");
}

fn seeded(seed: u64) -> Setup {
    Setup { seed, ..Setup::default() }
}

/// Both take a group of their own first, which the other doesn't.
fn wrong_groups(seed: u64) -> Setup {
    Setup { esp: ["aes256gcm16-ecp256-x25519", "aes256gcm16-ecp384-x25519"], ..seeded(seed) }
}

#[test]
fn one_rekeys_the_child() {
    assert_either_way(
        Setup::default,
        &[RekeyChild(ALICE), Rest],
        "--> REKEY: old(old) | old(old~ A)
         <-- REKEYED: old(old- A) | old(old~ A)
         --> INFORMATIONAL { D(old) }: old(old- A) | old(A)
         <-- INFORMATIONAL { D(old) }: old(A) | old(A)",
        Scene::assert_one_of_each,
    );
}

/// Nothing is sent: a second rekeying of the same SA would make one too many.
#[test]
fn the_answerer_does_not_rekey_what_was_replaced() {
    let mut scene = play(Setup::default(), &[RekeyChild(ALICE), To(BOB)]);
    let (spi, now) = (scene.child[BOB], scene.bench.now);
    assert_eq!(scene.bench.sides[BOB].endpoint.rekey_child(spi, now), Err(OperateError::UnknownChildSa));
    scene.step(Rest);
    let expected = "--> REKEY: old(old) | old(old~ A)
         <-- REKEYED: old(old- A) | old(old~ A)
         --> INFORMATIONAL { D(old) }: old(old- A) | old(A)
         <-- INFORMATIONAL { D(old) }: old(A) | old(A)";
    assert_ladder(&scene, &ladder(expected));
    scene.assert_one_of_each();
}

/// RFC 7296 §1.4.1: the deletions cross, and are answered without Delete payloads.
#[test]
fn the_answerer_deletes_what_was_replaced() {
    assert_either_way(
        Setup::default,
        &[RekeyChild(ALICE), To(BOB), To(ALICE), DeleteChild(BOB), To(BOB), To(ALICE), Rest],
        "--> REKEY: old(old) | old(old~ A)
         <-- REKEYED: old(old- A) | old(old~ A)
         --> INFORMATIONAL { D(old) }: old(old- A) | old(A)
         <-- INFORMATIONAL { D(old) }: old(A) | old(A)
         <-- INFORMATIONAL {}: old(A) | old(A)
         --> INFORMATIONAL {}: old(A) | old(A)",
        Scene::assert_one_of_each,
    );
}

/// RFC 7296 §2.8.1: the SA with the lowest of the four nonces goes, closed by who made it; the old one is closed by the other end.
#[test]
fn both_rekey_the_child() {
    assert_by_nonces(
        seeded,
        &[RekeyChild(ALICE), RekeyChild(BOB), To(BOB), To(ALICE), To(ALICE), To(BOB), Rest],
        "--> REKEY: old(old) | old(old A)
         <-- REKEY: old(old B) | old(old A)
         <-- REKEYED: old(old- A B) | old(old A)
         --> REKEYED: old(old- A B) | old(old~ A B-)
         --> INFORMATIONAL { D(old) }: old(old- A B) | old(A B-)
         <-- INFORMATIONAL { D(B) }: old(old- A) | old(A B-)
         <-- INFORMATIONAL { D(old) }: old(A) | old(A B-)
         --> INFORMATIONAL { D(B) }: old(A) | old(A)",
        "--> REKEY: old(old) | old(old A)
         <-- REKEY: old(old B) | old(old A)
         <-- REKEYED: old(old~ A- B) | old(old A)
         --> REKEYED: old(old~ A- B) | old(old- A B)
         --> INFORMATIONAL { D(A) }: old(old~ A- B) | old(old- B)
         <-- INFORMATIONAL { D(old) }: old(A- B) | old(old- B)
         <-- INFORMATIONAL { D(A) }: old(B) | old(old- B)
         --> INFORMATIONAL { D(old) }: old(B) | old(B)",
    );
}

/// The other end is done with its own before the answer is here.
#[test]
fn both_rekey_the_child_and_one_answer_is_late() {
    assert_by_nonces(
        seeded,
        &[
            RekeyChild(ALICE),
            RekeyChild(BOB),
            To(BOB),
            To(ALICE),
            Hold(ALICE),
            To(BOB),
            To(ALICE),
            To(BOB),
            Late(ALICE),
            Rest,
        ],
        "--> REKEY: old(old) | old(old A)
         <-- REKEY: old(old B) | old(old A)
         --> REKEYED: old(old B) | old(old~ A B-)
         <-- INFORMATIONAL { D(B) }: old(old) | old(old~ A B-)
         --> INFORMATIONAL { D(B) }: old(old) | old(old~ A)
         <-- late REKEYED: old(old- A) | old(old~ A)
         --> INFORMATIONAL { D(old) }: old(old- A) | old(A)
         <-- INFORMATIONAL { D(old) }: old(A) | old(A)",
        "--> REKEY: old(old) | old(old A)
         <-- REKEY: old(old B) | old(old A)
         --> REKEYED: old(old B) | old(old- A B)
         <-- INFORMATIONAL { D(old) }: old(B) | old(old- A B)
         --> INFORMATIONAL { D(old) }: old(B) | old(A B)
         <-- late REKEYED: old(A- B) | old(A B)
         --> INFORMATIONAL { D(A) }: old(A- B) | old(B)
         <-- INFORMATIONAL { D(A) }: old(B) | old(B)",
    );
}

/// RFC 7296 §2.25.1: TEMPORARY_FAILURE for what is being closed; the asker finds that its peer was faster.
#[test]
fn both_rekey_the_child_and_one_request_is_late() {
    assert_either_way(
        Setup::default,
        &[RekeyChild(ALICE), RekeyChild(BOB), Hold(BOB), To(ALICE), To(BOB), Late(BOB), To(ALICE), Rest],
        "<-- REKEY: old(old B) | old(old)
         --> REKEYED: old(old B) | old(old- B)
         --> late REKEY: old(old B) | old(old- B)
         <-- INFORMATIONAL { D(old) }: old(B) | old(old- B)
         <-- CREATE_CHILD_SA { N(TEMPORARY_FAILURE) }: old(B) | old(old- B)
         --> INFORMATIONAL { D(old) }: old(B) | old(B)",
        Scene::assert_one_of_each,
    );
}

/// RFC 7296 §2.25: CHILD_SA_NOT_FOUND for what is gone; here it isn't made anew, because the peer has replaced it.
#[test]
fn both_rekey_the_child_and_one_request_is_too_late() {
    assert_either_way(
        Setup::default,
        &[RekeyChild(ALICE), RekeyChild(BOB), Hold(BOB), To(ALICE), To(BOB), To(ALICE), To(BOB), Late(BOB), Rest],
        "<-- REKEY: old(old B) | old(old)
         --> REKEYED: old(old B) | old(old- B)
         <-- INFORMATIONAL { D(old) }: old(B) | old(old- B)
         --> INFORMATIONAL { D(old) }: old(B) | old(B)
         --> late REKEY: old(B) | old(B)
         <-- CREATE_CHILD_SA { N(CHILD_SA_NOT_FOUND) }: old(B) | old(B)",
        Scene::assert_one_of_each,
    );
}

#[test]
fn both_rekey_the_child_in_a_wrong_group() {
    let opening = "--> REKEY: old(old) | old(old)
         <-- REKEY: old(old) | old(old)
         <-- CREATE_CHILD_SA { N(INVALID_KE_PAYLOAD) }: old(old) | old(old)
         --> CREATE_CHILD_SA { N(INVALID_KE_PAYLOAD) }: old(old) | old(old)
         --> REKEY: old(old) | old(old A)
         <-- REKEY: old(old B) | old(old A)
";
    let mut survivors = BTreeSet::new();
    for seed in 0..200 {
        let steps =
            [RekeyChild(ALICE), RekeyChild(BOB), To(BOB), To(ALICE), To(ALICE), To(BOB), To(BOB), To(ALICE), Rest];
        let mut scene = play(wrong_groups(seed), &steps);
        scene.assert_one_of_each();
        let bobs = scene.bench.child(ALICE).role == Role::Responder;
        let end = if bobs {
            "<-- REKEYED: old(old~ A- B) | old(old A)
             --> REKEYED: old(old~ A- B) | old(old- A B)
             --> INFORMATIONAL { D(A) }: old(old~ A- B) | old(old- B)
             <-- INFORMATIONAL { D(old) }: old(A- B) | old(old- B)
             <-- INFORMATIONAL { D(A) }: old(B) | old(old- B)
             --> INFORMATIONAL { D(old) }: old(B) | old(B)"
        } else {
            "<-- REKEYED: old(old- A B) | old(old A)
             --> REKEYED: old(old- A B) | old(old~ A B-)
             --> INFORMATIONAL { D(old) }: old(old- A B) | old(A B-)
             <-- INFORMATIONAL { D(B) }: old(old- A) | old(A B-)
             <-- INFORMATIONAL { D(old) }: old(A) | old(A B-)
             --> INFORMATIONAL { D(B) }: old(A) | old(A)"
        };
        assert_ladder(&scene, &ladder(&format!("{opening}{end}")));
        survivors.insert(bobs);
        if survivors.len() == 2 {
            return;
        }
    }
    panic!("always the same end's survives");
}

#[test]
fn both_rekey_the_child_in_a_wrong_group_and_one_is_late() {
    let steps = [
        RekeyChild(ALICE),
        RekeyChild(BOB),
        To(BOB),
        To(ALICE),
        To(ALICE),
        To(BOB),
        Hold(BOB),
        To(ALICE),
        To(BOB),
        To(ALICE),
        To(BOB),
        Late(BOB),
        Rest,
    ];
    assert_either_way(
        || wrong_groups(1),
        &steps,
        "--> REKEY: old(old) | old(old)
         <-- REKEY: old(old) | old(old)
         <-- CREATE_CHILD_SA { N(INVALID_KE_PAYLOAD) }: old(old) | old(old)
         --> CREATE_CHILD_SA { N(INVALID_KE_PAYLOAD) }: old(old) | old(old)
         <-- REKEY: old(old B) | old(old)
         --> REKEYED: old(old B) | old(old- B)
         <-- INFORMATIONAL { D(old) }: old(B) | old(old- B)
         --> INFORMATIONAL { D(old) }: old(B) | old(B)
         --> late REKEY: old(B) | old(B)
         <-- CREATE_CHILD_SA { N(CHILD_SA_NOT_FOUND) }: old(B) | old(B)",
        Scene::assert_one_of_each,
    );
}

/// RFC 7296 §2.25.1: a deletion is answered as usual, whatever else is under way for the SA.
#[test]
fn one_rekeys_the_child_that_the_other_deletes() {
    assert_either_way(
        Setup::default,
        &[RekeyChild(ALICE), DeleteChild(BOB), To(BOB), To(ALICE), Rest],
        "--> REKEY: old(old) | old(old-)
         <-- INFORMATIONAL { D(old) }: old() | old(old-)
         <-- CREATE_CHILD_SA { N(TEMPORARY_FAILURE) }: old() | old(old-)
         --> INFORMATIONAL { D(old) }: old() | old()",
        Scene::assert_no_child,
    );
}

#[test]
fn the_deletion_of_a_child_that_is_rekeyed_is_late() {
    assert_either_way(
        Setup::default,
        &[RekeyChild(ALICE), DeleteChild(BOB), Hold(ALICE), To(BOB), To(ALICE), Late(ALICE), Rest],
        "--> REKEY: old(old) | old(old-)
         <-- CREATE_CHILD_SA { N(TEMPORARY_FAILURE) }: old(old) | old(old-)
         <-- late INFORMATIONAL { D(old) }: old() | old(old-)
         --> INFORMATIONAL { D(old) }: old() | old()",
        Scene::assert_no_child,
    );
}

#[test]
fn the_rekeying_of_a_child_that_is_deleted_is_late() {
    assert_either_way(
        Setup::default,
        &[RekeyChild(ALICE), DeleteChild(BOB), Hold(BOB), To(ALICE), To(BOB), Late(BOB), Rest],
        "<-- INFORMATIONAL { D(old) }: old() | old(old-)
         --> INFORMATIONAL { D(old) }: old() | old()
         --> late REKEY: old() | old()
         <-- CREATE_CHILD_SA { N(CHILD_SA_NOT_FOUND) }: old() | old()",
        Scene::assert_no_child,
    );
}

/// RFC 7296 §2.25.1, §2.25.2: both are refused for now, and come about later.
#[test]
fn one_rekeys_the_child_and_the_other_the_ike_sa() {
    assert_either_way(
        Setup::default,
        &[RekeyChild(ALICE), RekeyIke(BOB), To(BOB), To(ALICE), Rest],
        "--> REKEY: old(old) | old(old)
         <-- IKE: old(old) | old(old)
         <-- CREATE_CHILD_SA { N(TEMPORARY_FAILURE) }: old(old) | old(old)
         --> CREATE_CHILD_SA { N(TEMPORARY_FAILURE) }: old(old) | old(old)",
        |scene| {
            let (child, ike) = (scene.child, scene.ike);
            scene.assert_one_of_each();
            assert_ne!(scene.bench.child(ALICE).spi_in, child[ALICE]);
            assert_ne!(scene.bench.sa(ALICE).id.get(), ike[ALICE]);
        },
    );
}

#[test]
fn one_rekeys_the_child_and_the_other_deletes_the_ike_sa() {
    assert_either_way(
        Setup::default,
        &[RekeyChild(ALICE), DeleteIke(BOB), To(BOB), To(ALICE), Rest],
        "--> REKEY: old(old) | old-(old)
         <-- INFORMATIONAL { D(IKE) }: nothing | old-(old)
         <-- CREATE_CHILD_SA { N(TEMPORARY_FAILURE) }: nothing | old-(old)
         --> DONE: nothing | nothing",
        Scene::assert_nothing_left,
    );
}

/// RFC 7296 §1.4.1: without Delete payloads in the answers.
#[test]
fn both_delete_the_child() {
    let mut scene =
        play(Setup::default(), &[DeleteChild(ALICE), DeleteChild(BOB), To(BOB), To(ALICE), To(ALICE), To(BOB)]);
    let expected = "--> INFORMATIONAL { D(old) }: old(old-) | old()
         <-- INFORMATIONAL { D(old) }: old() | old()
         <-- INFORMATIONAL {}: old() | old()
         --> INFORMATIONAL {}: old() | old()";
    assert_ladder(&scene, expected);
    scene.assert_no_child();
}

#[test]
fn one_rekeys_the_ike_sa() {
    assert_either_way(
        Setup::default,
        &[RekeyIke(ALICE), Rest],
        "--> IKE: old(old) | old~() A(old)
         <-- IKE: old~-() A(old) | old~() A(old)
         --> INFORMATIONAL { D(IKE) }: old~-() A(old) | A(old)
         <-- DONE: A(old) | A(old)",
        Scene::assert_one_of_each,
    );
}

/// RFC 7296 §2.8.2: the child SAs go to the IKE SA that survives, when both ends know which.
#[test]
fn both_rekey_the_ike_sa() {
    assert_by_nonces(
        seeded,
        &[RekeyIke(ALICE), RekeyIke(BOB), To(BOB), To(ALICE), To(ALICE), To(BOB), Rest],
        "--> IKE: old(old) | old(old) A()
         <-- IKE: old(old) B() | old(old) A()
         <-- IKE: old~-() A(old) B~() | old(old) A()
         --> IKE: old~-() A(old) B~() | old~() A(old) B-()
         --> INFORMATIONAL { D(IKE) }: old~-() A(old) B~() | A(old) B-()
         <-- INFORMATIONAL { D(IKE) }: old~-() A(old) | A(old) B-()
         <-- DONE: A(old) | A(old) B-()
         --> DONE: A(old) | A(old)",
        "--> IKE: old(old) | old(old) A()
         <-- IKE: old(old) B() | old(old) A()
         <-- IKE: old~() A-() B(old) | old(old) A()
         --> IKE: old~() A-() B(old) | old~-() A~() B(old)
         --> INFORMATIONAL { D(IKE) }: old~() A-() B(old) | old~-() B(old)
         <-- INFORMATIONAL { D(IKE) }: A-() B(old) | old~-() B(old)
         <-- DONE: B(old) | old~-() B(old)
         --> DONE: B(old) | B(old)",
    );
}

/// The other end is done with its own before the answer is here; or with everything, if its own survives.
#[test]
fn both_rekey_the_ike_sa_and_one_answer_is_late() {
    assert_by_nonces(
        seeded,
        &[
            RekeyIke(ALICE),
            RekeyIke(BOB),
            To(BOB),
            To(ALICE),
            Hold(ALICE),
            To(BOB),
            To(ALICE),
            To(BOB),
            Late(ALICE),
            Rest,
        ],
        "--> IKE: old(old) | old(old) A()
         <-- IKE: old(old) B() | old(old) A()
         --> IKE: old(old) B() | old~() A(old) B-()
         <-- INFORMATIONAL { D(IKE) }: old(old) | old~() A(old) B-()
         --> DONE: old(old) | old~() A(old)
         <-- late IKE: old~-() A(old) | old~() A(old)
         --> INFORMATIONAL { D(IKE) }: old~-() A(old) | A(old)
         <-- DONE: A(old) | A(old)",
        "--> IKE: old(old) | old(old) A()
         <-- IKE: old(old) B() | old(old) A()
         --> IKE: old(old) B() | old~-() A~() B(old)
         <-- INFORMATIONAL { D(IKE) }: B(old) | old~-() A~() B(old)
         --> DONE: B(old) | A~() B(old)
         <-- late CREATE_CHILD_SA (its sender is done): B(old) | A~() B(old)",
    );
}

#[test]
fn both_rekey_the_ike_sa_and_one_request_is_lost() {
    assert_either_way(
        Setup::default,
        &[RekeyIke(ALICE), Lose(BOB), RekeyIke(BOB), To(ALICE), To(BOB), To(ALICE), Rest],
        "<-- IKE: old(old) B() | old(old)
         --> IKE: old(old) B() | old~-() B(old)
         <-- INFORMATIONAL { D(IKE) }: B(old) | old~-() B(old)
         --> DONE: B(old) | B(old)",
        Scene::assert_one_of_each,
    );
}

/// RFC 7296 §2.25.2.
#[test]
fn both_rekey_the_ike_sa_and_one_request_is_late() {
    assert_either_way(
        Setup::default,
        &[RekeyIke(ALICE), RekeyIke(BOB), Hold(BOB), To(ALICE), To(BOB), Late(BOB), To(ALICE), Rest],
        "<-- IKE: old(old) B() | old(old)
         --> IKE: old(old) B() | old~-() B(old)
         --> late IKE: old(old) B() | old~-() B(old)
         <-- INFORMATIONAL { D(IKE) }: B(old) | old~-() B(old)
         <-- CREATE_CHILD_SA { N(TEMPORARY_FAILURE) }: B(old) | old~-() B(old)
         --> DONE: B(old) | B(old)",
        Scene::assert_one_of_each,
    );
}

#[test]
fn both_rekey_the_ike_sa_and_a_request_and_a_deletion_are_late() {
    let steps = [
        RekeyIke(ALICE),
        RekeyIke(BOB),
        Hold(BOB),
        To(ALICE),
        To(BOB),
        Hold(ALICE),
        Late(BOB),
        To(ALICE),
        Late(ALICE),
        Rest,
    ];
    assert_either_way(
        Setup::default,
        &steps,
        "<-- IKE: old(old) B() | old(old)
         --> IKE: old(old) B() | old~-() B(old)
         --> late IKE: old(old) B() | old~-() B(old)
         <-- CREATE_CHILD_SA { N(TEMPORARY_FAILURE) }: old~() B(old) | old~-() B(old)
         <-- late INFORMATIONAL { D(IKE) }: B(old) | old~-() B(old)
         --> DONE: B(old) | B(old)",
        Scene::assert_one_of_each,
    );
}

#[test]
fn one_rekeys_the_ike_sa_that_the_other_deletes() {
    assert_either_way(
        Setup::default,
        &[RekeyIke(ALICE), DeleteIke(BOB), To(BOB), To(ALICE), Rest],
        "--> IKE: old(old) | old-(old)
         <-- INFORMATIONAL { D(IKE) }: nothing | old-(old)
         <-- CREATE_CHILD_SA { N(TEMPORARY_FAILURE) }: nothing | old-(old)
         --> DONE: nothing | nothing",
        Scene::assert_nothing_left,
    );
}

#[test]
fn the_deletion_of_an_ike_sa_that_is_rekeyed_is_late() {
    assert_either_way(
        Setup::default,
        &[RekeyIke(ALICE), DeleteIke(BOB), Hold(ALICE), To(BOB), To(ALICE), Late(ALICE), Rest],
        "--> IKE: old(old) | old-(old)
         <-- CREATE_CHILD_SA { N(TEMPORARY_FAILURE) }: old(old) | old-(old)
         <-- late INFORMATIONAL { D(IKE) }: nothing | old-(old)
         --> DONE: nothing | nothing",
        Scene::assert_nothing_left,
    );
}

#[test]
fn both_delete_the_ike_sa() {
    let mut scene = play(Setup::default(), &[DeleteIke(ALICE), DeleteIke(BOB), To(BOB), To(ALICE), Rest]);
    let expected = "--> INFORMATIONAL { D(IKE) }: old-(old) | nothing
         <-- INFORMATIONAL (its sender is done): nothing | nothing
         <-- INFORMATIONAL (its sender is done): nothing | nothing
         --> INFORMATIONAL (its sender is done): nothing | nothing";
    assert_ladder(&scene, expected);
    scene.assert_nothing_left();
}
