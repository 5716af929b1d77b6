//! What there is, for the operator.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Endpoint;
use crate::child::ChildPhase;
use crate::event::Tunnel;
use crate::message::Role;
use crate::sa::{IkeSa, IkeSaId, Phase};

/// An IKE SA. Names of algorithms, identities and selectors as they stand in a configuration.
#[derive(Debug, Clone, Serialize)]
pub struct IkeSaStatus {
    /// Our SPI.
    pub id: IkeSaId,
    /// The peer's SPI.
    pub remote_spi: u64,
    /// Our role.
    pub role: Role,
    /// Where it stands.
    pub phase: Phase,
    /// Its connection.
    pub connection: String,
    /// Index of its VIP.
    pub vip: u16,
    /// Our end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    /// Is there a NAT in between?
    pub nat: bool,
    /// Who we are.
    pub local_id: String,
    /// Who the peer is, once it has proved it.
    pub remote_id: Option<String>,
    /// Algorithms.
    pub suite: String,
    /// How old it is.
    pub age: Duration,
    /// Time until we rekey it.
    pub rekey_in: Option<Duration>,
    /// Since when nothing authentic came.
    pub silent: Duration,
    /// Message ID of our next request.
    pub next_request: u32,
    /// Message ID of the peer's next request.
    pub next_expected: u32,
    /// Is a request of ours unanswered?
    pub waiting: bool,
    /// Its child SAs.
    pub children: Vec<ChildSaStatus>,
}

/// An IKE SA, or an attempt at one: what it has of its connection's children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its connection.
    pub connection: String,
    /// Which, if something can be asked over it.
    pub ike_sa: Option<IkeSaId>,
    /// An exchange of ours is under way, after which there may be more.
    pub busy: bool,
    /// The names of its child SAs' policies.
    pub children: BTreeSet<String>,
}

/// A child SA.
#[derive(Debug, Clone, Serialize)]
pub struct ChildSaStatus {
    /// Its policy.
    pub child: String,
    /// Where it stands.
    pub phase: ChildPhase,
    /// It came from a copy that may be stale: it must not be used, and waits to be replaced.
    pub stale: bool,
    /// The worker that it is for, where each has one of its own (RFC 9611).
    pub lane: Option<u16>,
    /// Our inbound SPI.
    pub spi_in: u32,
    /// The peer's.
    pub spi_out: u32,
    /// Algorithms.
    pub suite: String,
    /// Our end.
    pub local_selectors: Vec<String>,
    /// The remote end.
    pub remote_selectors: Vec<String>,
    /// Outer addresses.
    pub tunnel: Tunnel,
    /// How old it is.
    pub age: Duration,
    /// Time until we rekey it.
    pub rekey_in: Option<Duration>,
}

impl Endpoint {
    /// All IKE SAs whose keys are known.
    pub fn sas(&self, now: Instant) -> impl Iterator<Item = IkeSaStatus> + '_ {
        self.sas.values().map(move |sa| status(sa, now))
    }

    /// Each of them, with its VIP.
    pub fn ids(&self) -> impl Iterator<Item = (IkeSaId, u16)> + '_ {
        self.sas.iter().map(|(id, sa)| (*id, sa.state.vip))
    }

    /// The remote peers, each with its VIP, of established IKE SAs on which something came after `since`, and first here by `until`.
    pub fn remotes_heard(&self, since: Instant, until: Instant) -> impl Iterator<Item = (u16, SocketAddr)> + '_ {
        let established = self.sas.values().filter(|sa| sa.state.phase == Phase::Established);
        let heard =
            established.filter(move |sa| sa.heard > since && sa.heard_first.is_some_and(|first| first <= until));
        heard.map(|sa| (sa.state.vip, sa.state.remote))
    }

    /// One of them.
    pub fn sa(&self, id: IkeSaId, now: Instant) -> Option<IkeSaStatus> {
        self.sas.get(&id).map(|sa| status(sa, now))
    }

    /// What stands of the connections that `wanted` picks by name, for whoever sets up what is missing.
    pub fn standings(&self, wanted: impl Fn(&str) -> bool) -> Vec<Standing> {
        let sas = self.sas.values().filter(|sa| wanted(&sa.state.connection)).map(|sa| Standing {
            connection: sa.state.connection.clone(),
            ike_sa: (sa.state.phase == Phase::Established).then(|| sa.id()),
            busy: sa.state.phase == Phase::Authenticating || sa.state.pending.is_some() || sa.state.sync.is_some(),
            children: sa.children.values().map(|child| child.info.child.clone()).collect(),
        });
        let calls = self.initiations.values().filter(|call| wanted(&call.policy.name)).map(|call| Standing {
            connection: call.policy.name.clone(),
            ike_sa: None,
            busy: true,
            children: BTreeSet::new(),
        });
        sas.chain(calls).collect()
    }

    /// The VIP that an IKE SA ends on, if its keys are known.
    pub fn vip_of(&self, id: IkeSaId) -> Option<u16> {
        self.sas.get(&id).map(|sa| sa.state.vip)
    }

    /// The VIP that an IKE SA ends on, or a call of ours comes from, and where its peer is.
    pub fn ends_of(&self, id: IkeSaId) -> Option<(u16, SocketAddr)> {
        let call = || self.initiations.get(&id).map(|call| (call.policy.vip, call.remote));
        self.sas.get(&id).map(|sa| (sa.state.vip, sa.state.remote)).or_else(call)
    }

    /// Inbound SPIs of an IKE SA's child SAs.
    pub fn children_of(&self, id: IkeSaId) -> impl Iterator<Item = u32> + '_ {
        self.sas.get(&id).into_iter().flat_map(|sa| sa.children.keys().copied())
    }

    /// Half-open IKE SAs, as responder.
    pub fn half_open(&self) -> usize {
        self.half_open.len()
    }

    /// Calls of ours that have no answer yet.
    pub fn calling(&self) -> usize {
        self.initiations.len()
    }
}

fn status(sa: &IkeSa, now: Instant) -> IkeSaStatus {
    let until = move |at: Option<Instant>| at.map(|at| at.saturating_duration_since(now));
    let children = sa.children.values().map(move |child| ChildSaStatus {
        child: child.info.child.clone(),
        phase: child.phase,
        stale: child.stale,
        lane: child.info.lane,
        spi_in: child.info.spi_in,
        spi_out: child.info.spi_out,
        suite: child.info.suite.to_string(),
        local_selectors: child.info.local_selectors.iter().map(ToString::to_string).collect(),
        remote_selectors: child.info.remote_selectors.iter().map(ToString::to_string).collect(),
        tunnel: child.info.tunnel,
        age: child.age.at(now),
        rekey_in: until(child.rekey_at),
    });
    IkeSaStatus {
        id: sa.id(),
        remote_spi: sa.state.channel.remote_spi,
        role: sa.state.channel.role,
        phase: sa.state.phase,
        connection: sa.state.connection.clone(),
        vip: sa.state.vip,
        local: sa.state.local,
        remote: sa.state.remote,
        nat: sa.state.nat.found(),
        local_id: sa.state.local_id.to_string(),
        remote_id: sa.state.remote_id.as_ref().map(ToString::to_string),
        suite: sa.state.channel.suite.to_string(),
        age: sa.age.at(now),
        rekey_in: until(sa.rekey_at),
        silent: now.saturating_duration_since(sa.heard),
        next_request: sa.state.next_request,
        next_expected: sa.state.next_expected,
        waiting: sa.state.pending.is_some(),
        children: children.collect(),
    }
}
