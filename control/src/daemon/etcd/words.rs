//! etcd's words: the JSON of its gateway (`/v3/...`), as far as it is used here. Bytes are base64, 64-bit numbers are strings.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A key or a value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(D::Error::custom)
    }
}

/// A 64-bit number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Number(pub(super) u64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(D::Error::custom)
    }
}

/// `/v3/kv/txn`
#[derive(Debug, Default, Serialize)]
pub(super) struct Transaction {
    pub(super) compare: Vec<Compare>,
    pub(super) success: Vec<Operation>,
    pub(super) failure: Vec<Operation>,
}

/// Is the key's newest change that revision? 0: there is no such key.
#[derive(Debug, Serialize)]
pub(super) struct Compare {
    key: Bytes,
    target: &'static str,
    result: &'static str,
    mod_revision: Number,
}

impl Compare {
    pub(super) fn revision(key: Bytes, revision: u64) -> Self {
        Self { key, target: "MOD", result: "EQUAL", mod_revision: Number(revision) }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Operation {
    RequestRange(Range),
    RequestPut(Put),
}

/// One key, or with `range_end` all from `key` up to it.
#[derive(Debug, Serialize)]
pub(super) struct Range {
    pub(super) key: Bytes,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) range_end: Option<Bytes>,
}

/// `/v3/kv/put`
#[derive(Debug, Serialize)]
pub(super) struct Put {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lease: Option<Number>,
}

/// Defaults are left out by the gateway.
#[derive(Debug, Deserialize)]
pub(super) struct TransactionDone {
    pub(super) header: Header,
    #[serde(default)]
    pub(super) succeeded: bool,
    #[serde(default)]
    pub(super) responses: Vec<OperationDone>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Header {
    #[serde(default)]
    pub(super) revision: Number,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct OperationDone {
    #[serde(default)]
    pub(super) response_range: Option<Found>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Found {
    #[serde(default)]
    pub(super) kvs: Vec<Pair>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Pair {
    #[serde(default)]
    pub(super) mod_revision: Number,
    #[serde(default)]
    pub(super) value: Bytes,
}

/// `/v3/lease/grant`
#[derive(Debug, Serialize)]
pub(super) struct LeaseWanted {
    #[serde(rename = "TTL")]
    pub(super) seconds: Number,
}

/// `/v3/lease/keepalive`
#[derive(Debug, Serialize)]
pub(super) struct LeaseKept {
    #[serde(rename = "ID")]
    pub(super) id: Number,
}

#[derive(Debug, Deserialize)]
pub(super) struct Lease {
    #[serde(rename = "ID", default)]
    pub(super) id: Number,
    /// 0: it has run out.
    #[serde(rename = "TTL", default)]
    pub(super) seconds: Number,
}

/// An item of a stream.
#[derive(Debug, Deserialize)]
pub(super) struct Streamed<T> {
    pub(super) result: T,
}

/// `/v3/auth/authenticate`
#[derive(Serialize)]
pub(super) struct Credentials<'a> {
    pub(super) name: &'a str,
    pub(super) password: &'a str,
}

#[derive(Deserialize)]
pub(super) struct Token {
    pub(super) token: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_etcd_is_understood() {
        // Of etcd 3.4.23: a transaction whose comparison failed.
        let text = r#"{"header":{"cluster_id":"14841639068965178418","member_id":"10276657743932975437","revision":"7","raft_term":"2"},
            "responses":[{"response_range":{"header":{"revision":"7"},"kvs":[{"key":"L3Y=","create_revision":"2","mod_revision":"5",
            "version":"3","value":"e30="}],"count":"1"}},{"response_range":{"header":{"revision":"7"}}}]}"#;
        let done: TransactionDone = serde_json::from_str(text).unwrap();
        assert_eq!((done.succeeded, done.header.revision), (false, Number(7)));
        let found = done.responses[0].response_range.as_ref().unwrap();
        assert_eq!((found.kvs[0].mod_revision, found.kvs[0].value.0.as_slice()), (Number(5), b"{}".as_slice()));
        assert!(done.responses[1].response_range.as_ref().unwrap().kvs.is_empty());
    }

    #[test]
    fn a_question_is_as_the_gateway_wants_it() {
        let compare = vec![Compare::revision(Bytes(b"/v".to_vec()), 5)];
        let success =
            vec![Operation::RequestPut(Put { key: Bytes(b"/v".to_vec()), value: Bytes(b"{}".to_vec()), lease: None })];
        let text = serde_json::to_string(&Transaction { compare, success, failure: Vec::new() }).unwrap();
        assert_eq!(
            text,
            r#"{"compare":[{"key":"L3Y=","target":"MOD","result":"EQUAL","mod_revision":"5"}],"success":[{"request_put":{"key":"L3Y=","value":"e30="}}],"failure":[]}"#
        );
    }
}
