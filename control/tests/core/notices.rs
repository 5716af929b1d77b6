//! The targets' agents and the owner of a VIP.

use std::collections::BTreeSet;
use std::time::Duration;

use vipsec_agent::notice::{Answer, Notice};
use vipsec_control::api::{AgentsTold, Request, Response};
use vipsec_control::core::Telling;

use super::pair::Pair;

const SECOND: Duration = Duration::from_secs(1);

/// Two targets with agents, and one without.
const AGENTS: &str = r#"
    [target_agents]
    secret_file = "agents.psk"
    [[target]]
    name = "t1"
    address = "10.1.0.21"
    check = [{ kind = "agent", port = 9777 }]
    [[target]]
    name = "t2"
    address = "10.1.0.22"
    check = [{ kind = "agent", port = 9777, address = "172.16.0.22" }]
    [[target]]
    name = "t3"
    address = "10.1.0.23"
    [[service]]
    vip = "web"
    targets = ["t1", "t2", "t3"]
"#;

fn tellings(pair: &mut Pair, side: usize) -> Vec<Telling> {
    std::mem::take(&mut pair.sides[side].tellings)
}

fn told(pair: &mut Pair, side: usize) -> Option<AgentsTold> {
    match pair.sides[side].ask(Request::Status) {
        Ok(Response::Status(status)) => status.vips[0].agents,
        other => panic!("{other:?}"),
    }
}

fn answer(pair: &mut Pair, side: usize, telling: Telling, answer: Option<Answer>) {
    let now = pair.now();
    pair.sides[side].core.handle_told(now, telling, answer);
    pair.sides[side].run();
}

#[test]
fn a_new_owner_tells_the_targets_agents_and_counts_who_knows() {
    let mut pair = Pair::new(AGENTS);
    let first = tellings(&mut pair, 0);
    let vip = first[0].notice.vip;
    assert_eq!(vip.to_string(), super::bench::VIP);
    assert!(tellings(&mut pair, 1).is_empty(), "a backup says nothing");
    pair.kill(0);
    pair.pass(SECOND);
    let second = tellings(&mut pair, 1);
    let agents: BTreeSet<String> = second.iter().map(|telling| telling.agent.to_string()).collect();
    assert_eq!(agents, BTreeSet::from(["10.1.0.21:9778".to_owned(), "172.16.0.22:9778".to_owned()]));
    for telling in &second {
        assert_eq!(telling.notice.owner, 2);
        assert!(telling.notice.epoch > first[0].notice.epoch, "agents order owners by that");
    }
    assert_eq!(told(&mut pair, 1), Some(AgentsTold { agents: 2, know: 0, refuse: 0 }));

    answer(&mut pair, 1, second[0], Some(Answer::Known(second[0].notice)));
    // One that isn't there is told again, until it answers.
    answer(&mut pair, 1, second[1], None);
    assert_eq!(told(&mut pair, 1), Some(AgentsTold { agents: 2, know: 1, refuse: 0 }));
    pair.pass(9 * SECOND);
    assert!(tellings(&mut pair, 1).is_empty());
    pair.pass(2 * SECOND);
    assert_eq!(tellings(&mut pair, 1), [second[1]]);
    let newer = Notice { epoch: second[1].notice.epoch + 1, owner: 1, ..second[1].notice };
    answer(&mut pair, 1, second[1], Some(Answer::Newer(newer)));
    assert_eq!(told(&mut pair, 1), Some(AgentsTold { agents: 2, know: 1, refuse: 1 }));
    let counters = pair.sides[1].core.counter_sums().counters;
    let counts = ["known", "refused", "silent"].map(|name| counters[&format!("target_agents_{name}")]);
    assert_eq!(counts, [1, 1, 1]);
    pair.pass(60 * SECOND);
    assert!(tellings(&mut pair, 1).is_empty(), "both have answered");
}

#[test]
fn an_answer_about_an_earlier_ownership_counts_for_nothing() {
    let mut pair = Pair::new(AGENTS);
    let early = tellings(&mut pair, 0);
    pair.ask(0, Request::MoveVip { vip: "web".to_owned(), to: "2".to_owned() });
    pair.pass(SECOND);
    assert_eq!(told(&mut pair, 0), None, "another one's business");
    answer(&mut pair, 0, early[0], Some(Answer::Known(early[0].notice)));
    pair.link();
    pair.pass(SECOND);
    pair.ask(1, Request::MoveVip { vip: "web".to_owned(), to: "1".to_owned() });
    pair.pass(SECOND);
    answer(&mut pair, 0, early[0], Some(Answer::Known(early[0].notice)));
    assert_eq!(told(&mut pair, 0), Some(AgentsTold { agents: 2, know: 0, refuse: 0 }));
}
