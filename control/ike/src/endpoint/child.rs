//! Child SAs: agreeing to one, deriving its keys, installing and removing it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Endpoint;
use super::contents::Contents;
use crate::child::{ChildPhase, ChildSa};
use crate::config::ChildPolicy;
use crate::crypto::derive::{ChildKeys, Nonces};
use crate::crypto::{EspProposal, EspSuite, KeyExchange, Mismatch, Secret, pick_esp};
use crate::event::{ChildSaInfo, Event};
use crate::message::sa::Proposal;
use crate::message::{NotifyType, Role};
use crate::sa::{Age, ChildOffer, IkeSa};
use crate::selector::{TrafficSelector, is_subset, narrow};

/// RFC 4303 §2.1: SPIs up to 255 are reserved.
const SPI_MIN: u32 = 256;

/// A child SA that both sides agree on, still without keys.
pub(super) struct Agreed {
    pub(super) policy: String,
    pub(super) suite: EspSuite,
    pub(super) spi_in: u32,
    pub(super) spi_out: u32,
    pub(super) local_ts: Vec<TrafficSelector>,
    pub(super) remote_ts: Vec<TrafficSelector>,
    pub(super) role: Role,
    pub(super) replaces: Option<u32>,
}

/// The answer to somebody's proposal: what we agree to, and the SA payload that says so.
pub(super) struct Answer {
    pub(super) agreed: Agreed,
    pub(super) proposal: Proposal,
}

/// The SPI in a proposal for ESP.
fn esp_spi(proposal: &Proposal) -> Option<u32> {
    let spi = u32::from_be_bytes(<[u8; 4]>::try_from(proposal.spi.as_slice()).ok()?);
    (spi >= SPI_MIN).then_some(spi)
}

impl Endpoint {
    /// Chooses a child policy, algorithms and selectors for a request (RFC 7296 §2.7, §2.9).
    pub(super) fn agree_child(
        &mut self,
        sa: &IkeSa,
        contents: &Contents,
        policies: &[Arc<ChildPolicy>],
        key_exchange: KeyExchange,
    ) -> Result<Answer, NotifyType> {
        let (Some(proposals), Some(ts_i), Some(ts_r)) = (&contents.sa, &contents.ts_i, &contents.ts_r) else {
            return Err(NotifyType::INVALID_SYNTAX);
        };
        // We didn't ask: TSi is the peer's end, TSr ours.
        let narrowed = |policy: &ChildPolicy| {
            let (remote, local) = (narrow(ts_i, &policy.remote_ts), narrow(ts_r, &policy.local_ts));
            (!remote.is_empty() && !local.is_empty()).then_some((local, remote))
        };
        let fitting: Vec<_> =
            policies.iter().filter_map(|policy| narrowed(policy).map(|selectors| (policy, selectors))).collect();
        if fitting.is_empty() {
            let names: Vec<_> = policies.iter().map(|policy| &policy.name).collect();
            tracing::warn!(
                connection = %sa.state.connection, remote = %sa.state.remote, peer = %sa.peer(), ?ts_i, ?ts_r, children = ?names,
                "no child policy allows any of these traffic selectors"
            );
            return Err(NotifyType::TS_UNACCEPTABLE);
        }
        let chosen = fitting.into_iter().find_map(|(policy, selectors)| {
            let (suite, theirs) = pick_esp(&policy.proposals, proposals, key_exchange)?;
            Some((policy, selectors, suite, theirs, esp_spi(theirs)?))
        });
        let Some((policy, (local_ts, remote_ts), suite, theirs, spi_out)) = chosen else {
            let fitting = policies.iter().filter(|policy| narrowed(policy).is_some());
            let why = Mismatch::new(fitting.flat_map(|policy| &policy.proposals), proposals);
            tracing::warn!(
                connection = %sa.state.connection, remote = %sa.state.remote, peer = %sa.peer(), %why,
                "no acceptable ESP proposal"
            );
            return Err(NotifyType::NO_PROPOSAL_CHOSEN);
        };
        let spi_in = self.new_esp_spi();
        let proposal = suite.answer(theirs, &spi_in.to_be_bytes());
        let policy = policy.name.clone();
        let agreed =
            Agreed { policy, suite, spi_in, spi_out, local_ts, remote_ts, role: Role::Responder, replaces: None };
        Ok(Answer { agreed, proposal })
    }

    /// Checks an answer to an offer of ours (RFC 7296 §3.3.6, §2.9).
    pub(super) fn check_child_answer(
        contents: &Contents,
        offer: &ChildOffer,
        key_exchange: KeyExchange,
    ) -> Result<Agreed, &'static str> {
        let (Some(proposals), Some(ts_i), Some(ts_r)) = (&contents.sa, &contents.ts_i, &contents.ts_r) else {
            return Err("SA, TSi or TSr is missing");
        };
        let [accepted] = proposals.as_slice() else { return Err("not one proposal was accepted") };
        let offered: Vec<EspProposal> = match key_exchange {
            KeyExchange::None => offer.proposals.iter().map(EspProposal::without_groups).collect(),
            KeyExchange::Allowed(_) => offer.proposals.clone(),
        };
        // RFC 7296 §3.3.6: the initiator MUST check that the accepted offer is consistent with one of its proposals.
        let numbered = usize::from(accepted.number).checked_sub(1).and_then(|at| offered.get(at..=at));
        let Some((suite, _)) = numbered.and_then(|one| pick_esp(one, proposals, key_exchange)) else {
            return Err("the accepted proposal is none of ours");
        };
        let Some(spi_out) = esp_spi(accepted) else { return Err("the SPI is reserved or of the wrong size") };
        if !is_subset(ts_i, &offer.local_ts) || !is_subset(ts_r, &offer.remote_ts) {
            return Err("the traffic selectors are wider than ours");
        }
        Ok(Agreed {
            policy: offer.policy.clone(),
            suite,
            spi_in: offer.spi,
            spi_out,
            local_ts: ts_i.clone(),
            remote_ts: ts_r.clone(),
            role: Role::Initiator,
            replaces: None,
        })
    }

    /// Derives the keys of a child SA and installs it.
    pub(super) fn install_child(
        &mut self,
        now: Instant,
        sa: &mut IkeSa,
        agreed: Agreed,
        shared: Option<&Secret>,
        nonces: Nonces<'_>,
    ) {
        let channel = &sa.state.channel;
        let keys = ChildKeys::derive(agreed.suite, channel.suite.prf, &channel.keys.sk_d, shared, nonces);
        let (key_out, key_in) = match agreed.role {
            Role::Initiator => (keys.initiator, keys.responder),
            Role::Responder => (keys.responder, keys.initiator),
        };
        let info = ChildSaInfo {
            ike_sa: sa.id(),
            connection: sa.state.connection.clone(),
            child: agreed.policy,
            vip: sa.state.vip,
            spi_in: agreed.spi_in,
            spi_out: agreed.spi_out,
            suite: agreed.suite,
            key_in,
            key_out,
            local_selectors: agreed.local_ts,
            remote_selectors: agreed.remote_ts,
            tunnel: sa.tunnel(),
            role: agreed.role,
            replaces: agreed.replaces,
            birth_epoch: self.epochs.get(&sa.state.vip).map_or(0, |epoch| epoch.0),
        };
        tracing::info!(
            ike_sa = %sa.id(), connection = %info.connection, child = %info.child, peer = %sa.peer(),
            spi_in = format_args!("{:08x}", info.spi_in), spi_out = format_args!("{:08x}", info.spi_out),
            suite = %info.suite, local = ?info.local_selectors, remote = ?info.remote_selectors, tunnel = ?info.tunnel,
            "child SA installed"
        );
        let rekey_time = sa.policy.child(&info.child).and_then(|policy| policy.rekey_time);
        let (rekey_at, expires_at) = self.lifetime(now, Duration::ZERO, rekey_time);
        self.events.push_back(Event::InstallChild(Box::new(info.clone())));
        self.child_owner.insert(info.spi_in, sa.id());
        let age = Age::of(Duration::ZERO, now);
        let child = ChildSa { info, phase: ChildPhase::Installed, age, rekey_at, expires_at };
        sa.children.insert(child.info.spi_in, child);
        sa.changed = true;
    }

    /// Forgets a child SA.
    pub(super) fn remove_child(&mut self, sa: &mut IkeSa, spi_in: u32) {
        if sa.children.remove(&spi_in).is_some() {
            tracing::info!(ike_sa = %sa.id(), spi_in = format_args!("{spi_in:08x}"), "child SA removed");
            self.child_owner.remove(&spi_in);
            self.events.push_back(Event::RemoveChild { ike_sa: sa.id(), spi_in });
            sa.changed = true;
        }
    }
}
