//! Requests to etcd's JSON gateway, one at a time, over a connection that is kept.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
use vipsec_ike::Secret;
use vipsec_takeover::registry::{Process, Reply, Request};

use super::standing;
use super::words::{
    Bytes, Compare, Credentials, Lease, LeaseKept, LeaseWanted, Number, Operation, Put, Range, Streamed, Token,
    Transaction, TransactionDone,
};
use crate::config::{self, Tls};

/// Most bytes of an answer: a record and the living are a few kilobytes.
const ANSWER_BYTES_MAX: u64 = 256 << 10;
/// RFC 9110 §15.5.2: 401 Unauthorized.
const UNAUTHORIZED: u16 = 401;

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum EtcdError {
    /// Nobody there, or too slow.
    #[error("{endpoint}: {cause}")]
    Unreachable {
        /// Who was asked.
        endpoint: String,
        /// What the client says.
        cause: ureq::Error,
    },
    /// It doesn't do what it is asked.
    #[error("{endpoint}: status {status}")]
    Status {
        /// Who was asked.
        endpoint: String,
        /// Of HTTP.
        status: u16,
    },
    /// Not in etcd's words.
    #[error("{endpoint}: not an answer of etcd's")]
    Malformed {
        /// Who was asked.
        endpoint: String,
    },
    /// Under a group's key stands something else than vipsec writes there.
    #[error("a group's record can't be read: somebody else has written it")]
    Record,
}

/// No certificates but those that are configured. That all of it is in order, the configuration has checked.
fn tls_config(tls: &Tls) -> TlsConfig {
    let certificates = |pem: &[u8]| -> Vec<Certificate<'static>> {
        let items = parse_pem(pem).flatten();
        let certificate = |item| if let PemItem::Certificate(certificate) = item { Some(certificate) } else { None };
        items.filter_map(certificate).collect()
    };
    let identity = tls.identity.as_ref().and_then(|(certificate, key)| {
        let key = PrivateKey::from_pem(key.expose()).ok()?;
        Some(ClientCert::new_with_certs(&certificates(certificate), key))
    });
    TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&certificates(&tls.ca)))
        .client_cert(identity)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .build()
}

/// A client.
pub(super) struct Client {
    agent: ureq::Agent,
    endpoints: Vec<String>,
    /// Which is asked: the next one, after an error.
    at: usize,
    prefix: String,
    credentials: Option<(String, Secret)>,
    token: Option<String>,
}

impl Client {
    pub(super) fn new(config: &config::Etcd) -> Self {
        let mut agent = ureq::Agent::config_builder();
        if let Some(tls) = &config.tls {
            agent = agent.tls_config(tls_config(tls));
        }
        let agent = agent
            .timeout_global(Some(config.timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            // Not what the environment says: it is etcd that is to be reached.
            .proxy(None)
            .user_agent(concat!("vipsecd/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Self {
            agent,
            endpoints: config.endpoints.clone(),
            at: 0,
            prefix: config.prefix.clone(),
            credentials: config.credentials.clone(),
            token: None,
        }
    }

    /// Asks for a group.
    pub(super) fn ask(&mut self, group: &str, request: &Request) -> Result<Reply, EtcdError> {
        let key = || Bytes(format!("{}/groups/{group}", self.prefix).into_bytes());
        let read = || vec![Operation::RequestRange(Range { key: key(), range_end: None }), self.living()];
        let transaction = match request {
            // Not serializable: as new as any write that was answered before.
            Request::Read => Transaction { success: read(), ..Transaction::default() },
            Request::Write { revision, record } => Transaction {
                compare: vec![Compare::revision(key(), *revision)],
                success: vec![Operation::RequestPut(Put {
                    key: key(),
                    // Plain data has no way to fail; an empty value would be refused by every reader.
                    value: Bytes(serde_json::to_vec(record).unwrap_or_default()),
                    lease: None,
                })],
                failure: read(),
            },
        };
        reply(request, self.post("/v3/kv/txn", &transaction)?)
    }

    /// Everybody who is alive.
    fn living(&self) -> Operation {
        let [key, end] = ["/", "0"].map(|after| Bytes(format!("{}/appliances{after}", self.prefix).into_bytes()));
        Operation::RequestRange(Range { key, range_end: Some(end) })
    }

    /// Says that a process is alive, for that long. Returns the lease.
    pub(super) fn appear(&mut self, me: Process, time: Duration) -> Result<u64, EtcdError> {
        let wanted = LeaseWanted { seconds: Number(time.as_secs().max(1)) };
        let lease: Lease = self.post("/v3/lease/grant", &wanted)?;
        let put = Put {
            key: Bytes(format!("{}/appliances/{}", self.prefix, me.appliance).into_bytes()),
            value: Bytes(serde_json::to_vec(&me).unwrap_or_default()),
            lease: Some(lease.id),
        };
        let _: serde::de::IgnoredAny = self.post("/v3/kv/put", &put)?;
        Ok(lease.id.0)
    }

    /// Still. False: the lease has run out.
    pub(super) fn keep(&mut self, lease: u64) -> Result<bool, EtcdError> {
        let kept: Streamed<Lease> = self.post("/v3/lease/keepalive", &LeaseKept { id: Number(lease) })?;
        Ok(kept.result.seconds.0 > 0)
    }

    /// A request and its answer. Whoever gave none isn't asked next.
    pub(super) fn post<A: DeserializeOwned>(&mut self, path: &str, question: &impl Serialize) -> Result<A, EtcdError> {
        let answer = self.authenticate().and_then(|()| self.exchange(path, question));
        if let Err(error) = &answer {
            if let EtcdError::Status { status: UNAUTHORIZED, .. } = error {
                self.token = None;
            }
            self.at = (self.at + 1) % self.endpoints.len().max(1);
        }
        answer
    }

    fn authenticate(&mut self) -> Result<(), EtcdError> {
        if self.token.is_some() {
            return Ok(());
        }
        if let Some((name, password)) = &self.credentials {
            let password = String::from_utf8_lossy(password.expose());
            let credentials = Credentials { name, password: &password };
            let token: Token = self.exchange("/v3/auth/authenticate", &credentials)?;
            self.token = Some(token.token);
        }
        Ok(())
    }

    fn exchange<A: DeserializeOwned>(&self, path: &str, question: &impl Serialize) -> Result<A, EtcdError> {
        let endpoint = || self.endpoints.get(self.at).cloned().unwrap_or_default();
        let unreachable = |cause| EtcdError::Unreachable { endpoint: endpoint(), cause };
        let mut request = self.agent.post(format!("{}{path}", endpoint())).content_type("application/json");
        if let Some(token) = &self.token {
            request = request.header("Authorization", token);
        }
        let question = serde_json::to_vec(question).unwrap_or_default();
        let mut response = request.send(&question[..]).map_err(unreachable)?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(EtcdError::Status { endpoint: endpoint(), status });
        }
        let answer = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec().map_err(unreachable)?;
        first_item(&answer).ok_or_else(|| EtcdError::Malformed { endpoint: endpoint() })
    }
}

/// What a body says. A stream's items stand one behind the other.
pub(super) fn first_item<A: DeserializeOwned>(body: &[u8]) -> Option<A> {
    serde_json::Deserializer::from_slice(body).into_iter().next().and_then(Result::ok)
}

/// What came of a question.
pub(super) fn reply(request: &Request, done: TransactionDone) -> Result<Reply, EtcdError> {
    if let Request::Write { .. } = request
        && done.succeeded
    {
        return Ok(Reply::Written(done.header.revision.0));
    }
    let mut found = done.responses.into_iter().map(|response| response.response_range.unwrap_or_default().kvs);
    let record = found.next().unwrap_or_default().into_iter().next();
    let alive = found.next().unwrap_or_default().into_iter().map(|pair| pair.value.0).collect();
    let revision = record.as_ref().map_or(0, |pair| pair.mod_revision.0);
    let standing = standing(revision, record.map(|pair| pair.value.0), alive)?;
    Ok(if *request == Request::Read { Reply::Standing(standing) } else { Reply::Refused(standing) })
}
