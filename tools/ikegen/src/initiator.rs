//! One initiator: an endpoint of its own, with its own address and identity, and what became of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand_core::CryptoRng;
use thiserror::Error;
use vipsec_esp::engine::EngineKind;
use vipsec_ike::{
    AddressMatch, ChildPolicy, Config, ConnectionPolicy, Encapsulation, Endpoint, EspProposal, Event, Fragmentation,
    GoneReason, Identity, IdentityMatch, IkeProposal, Limits, Mode, PACKET_BYTES_MAX, Pairs, Retransmission, Secret,
    TrafficSelector, Unique,
};
use vipsec_wire::iv::{ApplianceId, Epoch};

use crate::tunnel::Tunnels;

const CONNECTION: &str = "gateway";
const CHILD: &str = "net";
const VIP: u16 = 0;

/// What all initiators have in common.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Initiator n has the address that is n above this one.
    pub base_address: Ipv4Addr,
    /// The number of the first initiator.
    pub first_number: u32,
    /// How many there are.
    pub count: u32,
    /// Initiator n is called `n.DOMAIN`.
    pub domain: String,
    /// The gateway.
    pub gateway: Ipv4Addr,
    /// Who the gateway is.
    pub gateway_id: Identity,
    /// What is behind the gateway.
    pub gateway_ts: Vec<TrafficSelector>,
    /// Behind initiator n is the address that is n above this one; `None`: its own.
    pub base_inner: Option<Ipv4Addr>,
    /// The pre-shared key of them all.
    pub secret: Secret,
    /// For the IKE SA.
    pub proposals: Vec<IkeProposal>,
    /// For the child SA.
    pub esp_proposals: Vec<EspProposal>,
    /// Silence after which an initiator asks whether the gateway lives.
    pub dpd_delay: Option<Duration>,
    /// Age at which the initiators rekey the IKE SA.
    pub rekey_time: Option<Duration>,
    /// Age at which the initiators rekey the child SA.
    pub child_rekey_time: Option<Duration>,
    /// When a request without an answer is sent again.
    pub retransmission: Retransmission,
    /// What seals and opens packets, if the tunnels are to carry any; ESP then travels in UDP (RFC 3948).
    pub engine: Option<EngineKind>,
}

/// There are fewer addresses than initiators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no address is {above} above {base}")]
pub struct AddressesExhausted {
    above: u64,
    base: Ipv4Addr,
}

/// Where an initiator stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Waiting,
    Calling {
        since: Instant,
    },
    /// It has an IKE SA with a child SA.
    Up,
    /// Nothing came of it.
    Failed,
    /// It had both, and has not any more.
    Lost,
}

/// What happened to its SAs once they stood.
#[derive(Debug, Clone, Default)]
pub(crate) struct Journal {
    pub(crate) ike_rekeys: u64,
    pub(crate) child_rekeys: u64,
    /// What ended an attempt or an SA that nothing replaced.
    pub(crate) ends: BTreeMap<String, u64>,
}

pub(crate) struct Initiator {
    id: ApplianceId,
    /// The address behind it.
    pub(crate) inner: Ipv4Addr,
    /// What seals and opens, if its tunnels carry anything.
    pub(crate) engine: Option<EngineKind>,
    pub(crate) tunnels: Tunnels,
    pub(crate) endpoint: Endpoint,
    pub(crate) stage: Stage,
    pub(crate) journal: Journal,
    ike_sas: u32,
    child_sas: u32,
    /// What stands in the fleet's queue of timers.
    pub(crate) timer: Option<Instant>,
}

/// How a handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Up(Duration),
    Failed,
}

impl Plan {
    /// The address of the initiator at that place.
    pub(crate) fn address(&self, at: u32) -> Result<Ipv4Addr, AddressesExhausted> {
        self.above(self.base_address, at)
    }

    fn above(&self, base: Ipv4Addr, at: u32) -> Result<Ipv4Addr, AddressesExhausted> {
        let above = u64::from(self.first_number) + u64::from(at);
        let address = u32::try_from(u64::from(u32::from(base)) + above);
        address.map(Ipv4Addr::from).map_err(|_| AddressesExhausted { above, base })
    }

    pub(crate) fn initiator(
        &self,
        at: u32,
        id: ApplianceId,
        rng: Box<dyn CryptoRng + Send>,
    ) -> Result<Initiator, AddressesExhausted> {
        let address = self.address(at)?;
        let inner = self.base_inner.map_or(Ok(address), |base| self.above(base, at))?;
        let child = ChildPolicy {
            name: CHILD.to_owned(),
            local_ts: TrafficSelector::prefix(IpAddr::V4(inner), 32).into_iter().collect(),
            remote_ts: self.gateway_ts.clone(),
            proposals: self.esp_proposals.clone(),
            rekey_time: self.child_rekey_time,
            life_time: None,
            mode: Mode::Tunnel,
            pairs: Pairs::Any,
            lanes_max: 1,
        };
        let connection = ConnectionPolicy {
            name: CONNECTION.to_owned(),
            vip: VIP,
            local: address.into(),
            remote: vec![AddressMatch::Exact(self.gateway.into())],
            local_id: Identity::fqdn(&format!("{}.{}", self.first_number.saturating_add(at), self.domain)),
            remote_id: IdentityMatch::Exact(self.gateway_id.clone()),
            psk: self.secret.clone(),
            proposals: self.proposals.clone(),
            dpd_delay: self.dpd_delay,
            rekey_time: self.rekey_time,
            over_time: None,
            reauth_time: None,
            unique: Unique::default(),
            encapsulation: if self.engine.is_some() { Encapsulation::Always } else { Encapsulation::default() },
            fragmentation: Fragmentation::default(),
            pools: Vec::new(),
            children: vec![Arc::new(child)],
        };
        let config = Config {
            appliance: id,
            connections: vec![Arc::new(connection)],
            limits: Limits::default(),
            packet_bytes_max: PACKET_BYTES_MAX,
            retransmission: self.retransmission,
        };
        let mut endpoint = Endpoint::new(Arc::new(config), rng);
        // A new endpoint has no epoch that this one could be below.
        let _ = endpoint.set_origin(VIP, Epoch(1));
        Ok(Initiator {
            id,
            inner,
            engine: self.engine,
            tunnels: Tunnels::default(),
            endpoint,
            stage: Stage::Waiting,
            journal: Journal::default(),
            ike_sas: 0,
            child_sas: 0,
            timer: None,
        })
    }
}

impl Initiator {
    /// Sends the first message.
    pub(crate) fn call(&mut self, now: Instant) {
        self.stage = Stage::Calling { since: now };
        if let Err(error) = self.endpoint.initiate(CONNECTION, CHILD, now) {
            self.note_end(error.to_string());
            self.stage = Stage::Failed;
        }
    }

    /// Takes what its endpoint has to say.
    pub(crate) fn take_events(&mut self, now: Instant) -> Option<Ended> {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::IkeEstablished { .. } => self.ike_sas += 1,
                Event::IkeRekeyed { .. } => {
                    self.journal.ike_rekeys += 1;
                    self.ike_sas += 1;
                }
                Event::IkeGone { reason, .. } => {
                    self.ike_sas = self.ike_sas.saturating_sub(1);
                    if reason != GoneReason::Rekeyed {
                        self.note_end(text(reason));
                    }
                }
                Event::InstallChild(info) => {
                    self.child_sas += 1;
                    self.journal.child_rekeys += u64::from(info.replaces.is_some());
                    if let Some(engine) = self.engine
                        && let Err(error) = self.tunnels.install(&info, self.id, engine)
                    {
                        self.note_end(format!("child SA without use: {error}"));
                    }
                }
                Event::RemoveChild { spi_in, .. } => {
                    self.child_sas = self.child_sas.saturating_sub(1);
                    self.tunnels.remove(spi_in);
                }
                Event::ChildFailed { reason, .. } => self.note_end(format!("child SA refused: {reason}")),
                Event::PeerMoved { .. }
                | Event::Synchronised(_)
                | Event::SkipNumbers { .. }
                | Event::KeyLog(_)
                | Event::Changed(_) => {}
            }
        }
        let complete = self.ike_sas > 0 && self.child_sas > 0;
        match self.stage {
            Stage::Calling { since } if complete => {
                self.stage = Stage::Up;
                return Some(Ended::Up(now.saturating_duration_since(since)));
            }
            Stage::Calling { .. } if !self.journal.ends.is_empty() => {
                self.stage = Stage::Failed;
                return Some(Ended::Failed);
            }
            Stage::Up if !complete => self.stage = Stage::Lost,
            // The gateway has called, or a child SA was replaced by making another.
            Stage::Lost if complete => self.stage = Stage::Up,
            _ => {}
        }
        None
    }

    fn note_end(&mut self, why: String) {
        *self.journal.ends.entry(why).or_default() += 1;
    }
}

fn text(reason: GoneReason) -> String {
    match reason {
        GoneReason::DeletedByPeer => "deleted by the gateway".to_owned(),
        GoneReason::Deleted => "deleted".to_owned(),
        GoneReason::Rekeyed => "rekeyed".to_owned(),
        GoneReason::PeerDead => "no answer".to_owned(),
        GoneReason::AuthenticationFailed => "authentication failed".to_owned(),
        GoneReason::InitialContact => "the gateway has started anew".to_owned(),
        GoneReason::Refused(notify) => format!("refused: {notify}"),
        GoneReason::ProtocolError => "the gateway broke the protocol".to_owned(),
        GoneReason::Expired => "expired".to_owned(),
        GoneReason::NumbersExhausted => "numbers used up".to_owned(),
        GoneReason::Forgotten => "forgotten".to_owned(),
    }
}
