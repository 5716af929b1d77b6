//! Asking scapy.

use serde_json::{Value, json};

#[path = "../../../testing/scapy_process.rs"]
mod scapy_process;

/// Asks scapy all questions at once.
pub(crate) fn ask(questions: &[Value]) -> Vec<Value> {
    scapy_process::ask(include_str!("oracle.py"), "scapy", questions)
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
