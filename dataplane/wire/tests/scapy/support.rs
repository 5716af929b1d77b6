//! Asking scapy.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};

/// The Python that has scapy: the one on the path or the system's own.
fn python() -> &'static str {
    static FOUND: OnceLock<&str> = OnceLock::new();
    FOUND.get_or_init(|| {
        let has_scapy = |python: &&str| {
            let probe = Command::new(python).args(["-c", "import scapy"]).stderr(Stdio::null()).status();
            probe.is_ok_and(|status| status.success())
        };
        let found = ["python3", "/usr/bin/python3"].into_iter().find(has_scapy);
        found.expect("this test needs scapy as an independent implementation: install python3-scapy")
    })
}

/// Asks scapy all questions at once.
pub(crate) fn ask(questions: &[Value]) -> Vec<Value> {
    let mut scapy = Command::new(python())
        .args(["-c", include_str!("oracle.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python starts");
    let question = serde_json::to_vec(questions).expect("JSON");
    scapy.stdin.take().expect("piped").write_all(&question).expect("scapy reads its questions");
    let output = scapy.wait_with_output().expect("Python ends");
    assert!(output.status.success(), "scapy failed; its error is above");
    let answers: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answers.len(), questions.len());
    answers
}

/// A packet of scapy's.
pub(crate) struct Built {
    pub(crate) expression: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) read: Read,
}

/// A packet as scapy reads it.
pub(crate) struct Read {
    layers: Vec<(String, Value)>,
    /// Where the upper layer begins.
    pub(crate) upper: Option<usize>,
    /// The packet with all lengths and checksums made anew.
    pub(crate) again: Vec<u8>,
}

impl Read {
    fn of(answer: &Value) -> Self {
        let layers = answer["layers"].as_array().expect("a list").iter();
        Self {
            layers: layers.map(|layer| (layer[0].as_str().expect("a name").to_owned(), layer[1].clone())).collect(),
            upper: answer["upper"].as_u64().map(|at| at as usize),
            again: bytes(&answer["again"]),
        }
    }

    /// The names of the layers, from the outermost.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.layers.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// A field of the first layer of that name.
    pub(crate) fn field(&self, layer: &str, field: &str) -> &Value {
        let found = self.layers.iter().find(|(name, _)| name == layer);
        &found.unwrap_or_else(|| panic!("no layer {layer} in {:?}", self.names())).1[field]
    }

    pub(crate) fn number(&self, layer: &str, field: &str) -> u64 {
        self.field(layer, field).as_u64().unwrap_or_else(|| panic!("{layer}.{field} is no number"))
    }

    pub(crate) fn text(&self, layer: &str, field: &str) -> &str {
        self.field(layer, field).as_str().unwrap_or_else(|| panic!("{layer}.{field} is no text"))
    }
}

pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().expect("a text")).expect("hex")
}

pub(crate) fn many_bytes(value: &Value) -> Vec<Vec<u8>> {
    value.as_array().expect("a list").iter().map(bytes).collect()
}

/// Has scapy build packets from Python expressions.
pub(crate) fn build(expressions: &[&str]) -> Vec<Built> {
    let questions: Vec<Value> = expressions.iter().map(|text| json!({"op": "build", "expression": text})).collect();
    let answers = ask(&questions);
    let built = |(expression, answer): (&&str, &Value)| Built {
        expression: (*expression).to_owned(),
        bytes: bytes(&answer["bytes"]),
        read: Read::of(answer),
    };
    expressions.iter().zip(&answers).map(built).collect()
}

/// Has scapy read packets of ours, each with the name of its outermost layer.
pub(crate) fn read(packets: &[(&str, &[u8])]) -> Vec<Read> {
    let question =
        |(layer, packet): &(&str, &[u8])| json!({"op": "read", "layer": layer, "bytes": hex::encode(packet)});
    ask(&packets.iter().map(question).collect::<Vec<_>>()).iter().map(Read::of).collect()
}
