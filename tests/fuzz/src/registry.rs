//! What etcd answers, or whoever answers in its place, and what others have written there.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use vipsec_control::daemon::read_reply;
use vipsec_takeover::registry::{Process, Record, Reply, Request, Standing};
use vipsec_wire::iv::ApplianceId;

/// An answer to a question. The first byte says to which (bit 0), and what the rest is: the body as it comes, the record of a group
/// (bit 1), or what stands for somebody alive (bit 2).
pub(crate) fn answer(bytes: &[u8]) {
    let Some((how, rest)) = bytes.split_first() else { return };
    let request = if how & 1 == 0 { Request::Read } else { Request::Write { revision: 3, record: record() } };
    let body = match how >> 1 & 3 {
        0 => rest.to_vec(),
        1 => body(&[(7, rest)], &[(2, &json(&process()))]),
        _ => body(&[(7, &json(&record()))], &[(2, &json(&process())), (3, rest)]),
    };
    let Some(reply) = read_reply(&request, &body) else { return };
    match (&request, &reply) {
        (Request::Write { .. }, Reply::Written(_)) => {}
        (Request::Read, Reply::Standing(standing)) | (Request::Write { .. }, Reply::Refused(standing)) => {
            check(standing, how >> 1 & 3 != 0);
        }
        other => panic!("an answer to another question: {other:?}"),
    }
}

/// What was read is what would be written; a record has a revision where etcd's own words are whole.
fn check(standing: &Standing, is_whole: bool) {
    if let Some(record) = &standing.record {
        let again: Record = serde_json::from_slice(&json(record)).expect("our own words");
        assert_eq!(again, *record);
        assert!(!is_whole || standing.revision == 7);
    }
    for process in &standing.alive {
        let again: Process = serde_json::from_slice(&json(process)).expect("our own words");
        assert_eq!(again, *process);
    }
    assert!(!is_whole || standing.alive.contains(&process()), "what somebody else wrote hides nobody");
}

fn process() -> Process {
    Process { appliance: ApplianceId::new(1).expect("an id"), incarnation: u64::MAX }
}

fn record() -> Record {
    Record { owner: process(), epoch: 9, copies: vec![process()] }
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data")
}

/// As etcd 3.4 answers a transaction that wrote nothing.
fn body(record: &[(u64, &[u8])], alive: &[(u64, &[u8])]) -> Vec<u8> {
    let range = |pairs: &[(u64, &[u8])]| {
        let pair = |(revision, value): &(u64, &[u8])| {
            format!(
                r#"{{"key":"L3Y=","mod_revision":"{revision}","version":"1","value":"{}"}}"#,
                STANDARD.encode(value)
            )
        };
        let pairs: Vec<_> = pairs.iter().map(pair).collect();
        format!(r#"{{"response_range":{{"header":{{"revision":"9"}},"kvs":[{}]}}}}"#, pairs.join(","))
    };
    format!(r#"{{"header":{{"revision":"9"}},"responses":[{},{}]}}"#, range(record), range(alive)).into_bytes()
}
