//! Child SAs: agreeing to one, deriving its keys, installing and removing it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Endpoint;
use super::contents::Contents;
use super::narrowing::{Narrowed, Traffic, narrow_to};
use super::timers::Lifetime;
use crate::child::{ChildPhase, ChildSa};
use crate::config::{ChildPolicy, Mode};
use crate::crypto::derive::{ChildKeys, Nonces};
use crate::crypto::{EspProposal, EspSuite, KeyExchange, Mismatch, Secret, pick_esp};
use crate::event::{ChildSaInfo, Event, OriginalAddresses, Removal};
use crate::keylog;
use crate::message::sa::Proposal;
use crate::message::{NotifyType, Payload, Role};
use crate::sa::{Age, ChildOffer, ChildWish, IkeSa, Task};
use crate::selector::is_subset;

/// RFC 4303 §2.1: SPIs up to 255 are reserved.
const SPI_MIN: u32 = 256;

/// A child SA that both sides agree on, still without keys.
pub(super) struct Agreed {
    pub(super) policy: String,
    pub(super) suite: EspSuite,
    pub(super) spi_in: u32,
    pub(super) spi_out: u32,
    pub(super) traffic: Traffic,
    pub(super) mode: Mode,
    pub(super) original: Option<OriginalAddresses>,
    pub(super) lane: Option<u16>,
    pub(super) role: Role,
    pub(super) replaces: Option<u32>,
}

/// The answer to somebody's proposal: what we agree to, the SA payload that says so, and what else has to be said.
pub(super) struct Answer {
    pub(super) agreed: Agreed,
    pub(super) proposal: Proposal,
    pub(super) notifies: Vec<Payload>,
}

/// The SPI in a proposal for ESP.
fn esp_spi(proposal: &Proposal) -> Option<u32> {
    let spi = u32::from_be_bytes(<[u8; 4]>::try_from(proposal.spi.as_slice()).ok()?);
    (spi >= SPI_MIN).then_some(spi)
}

/// N(SA_RESOURCE_INFO), which names the worker for whoever debugs.
fn resource_info(lane: u16) -> Payload {
    Payload::notify(NotifyType::SA_RESOURCE_INFO, lane.to_be_bytes().to_vec())
}

/// RFC 9611 §4: the worker with the fewest child SAs for this traffic; one that offers no lanes makes an ordinary child SA.
fn free_lane(sa: &IkeSa, policy: &ChildPolicy) -> Result<Option<u16>, NotifyType> {
    if policy.lanes_max <= 1 {
        return Ok(None);
    }
    let lanes = || {
        let children = sa.children.values().filter(|child| child.phase == ChildPhase::Installed);
        children.filter(|child| child.info.child == policy.name).filter_map(|child| child.info.lane)
    };
    // RFC 9611 §6: at the very least double the number is recommended; MUST NOT return NO_ADDITIONAL_SAS, but TS_MAX_QUEUE.
    if lanes().count() >= 2 * usize::from(policy.lanes_max) {
        return Err(NotifyType::TS_MAX_QUEUE);
    }
    Ok((0..policy.lanes_max).min_by_key(|lane| lanes().filter(|used| used == lane).count()))
}

type Fitting<'a> = Vec<(&'a Arc<ChildPolicy>, Mode, Narrowed)>;

/// The policies that allow some of the proposed traffic, in the mode that they would carry it in. The error is why there is none.
fn fitting<'a>(
    sa: &IkeSa,
    policies: &'a [Arc<ChildPolicy>],
    proposed: &Traffic,
    transport: bool,
) -> Result<Fitting<'a>, NotifyType> {
    let mut why = NotifyType::TS_UNACCEPTABLE;
    let mut fitting = Vec::new();
    // RFC 7296 §2.23.1: transport mode first, where it is asked for; tunnel mode is the fallback.
    let modes = [transport.then_some(Mode::Transport), Some(Mode::Tunnel)];
    for mode in modes.into_iter().flatten() {
        for policy in policies.iter().filter(|policy| policy.mode == mode) {
            match narrow_to(sa, policy, mode, proposed) {
                Ok(narrowed) => fitting.push((policy, mode, narrowed)),
                Err(NotifyType::TS_UNACCEPTABLE) => {}
                Err(other) => why = other,
            }
        }
    }
    if fitting.is_empty() {
        let names: Vec<_> = policies.iter().map(|policy| &policy.name).collect();
        let allowed: Vec<_> = policies.iter().map(|policy| (&policy.local_ts, &policy.remote_ts)).collect();
        tracing::warn!(
            connection = %sa.state.connection, remote = %sa.state.remote, peer = %sa.peer(), ours = ?proposed.local,
            theirs = ?proposed.remote, children = ?names, ?allowed, transport, reason = %why,
            "no child policy allows any of these traffic selectors"
        );
        return Err(why);
    }
    Ok(fitting)
}

impl Endpoint {
    /// Chooses a child policy, algorithms and selectors for a request (RFC 7296 §2.7, §2.9). `old`: the child SA that it replaces.
    pub(super) fn agree_child(
        &mut self,
        sa: &IkeSa,
        contents: &Contents,
        policies: &[Arc<ChildPolicy>],
        key_exchange: KeyExchange,
        old: Option<u32>,
    ) -> Result<Answer, NotifyType> {
        let (Some(proposals), Some(ts_i), Some(ts_r)) = (&contents.sa, &contents.ts_i, &contents.ts_r) else {
            return Err(NotifyType::INVALID_SYNTAX);
        };
        // We didn't ask: TSi is the peer's end, TSr ours.
        let proposed = Traffic { local: ts_r.clone(), remote: ts_i.clone() };
        let fitting = fitting(sa, policies, &proposed, contents.has(NotifyType::USE_TRANSPORT_MODE))?;
        let chosen = fitting.iter().find_map(|(policy, mode, narrowed)| {
            let (suite, theirs) = pick_esp(&policy.proposals, proposals, key_exchange)?;
            Some((*policy, *mode, narrowed, suite, theirs, esp_spi(theirs)?))
        });
        let Some((policy, mode, narrowed, suite, theirs, spi_out)) = chosen else {
            let why = Mismatch::new(fitting.iter().flat_map(|(policy, ..)| &policy.proposals), proposals);
            tracing::warn!(
                connection = %sa.state.connection, remote = %sa.state.remote, peer = %sa.peer(), %why,
                "no acceptable ESP proposal"
            );
            return Err(NotifyType::NO_PROPOSAL_CHOSEN);
        };
        let mut notifies = Vec::new();
        // RFC 7296 §1.3.1: the responder that accepts transport mode says so too.
        if mode == Mode::Transport {
            notifies.push(NotifyType::USE_TRANSPORT_MODE.into());
        }
        let lane = match old.and_then(|spi| sa.children.get(&spi)) {
            // RFC 9611 §3: the rekeyed child SA is bound to the same resource.
            Some(old) => old.info.lane,
            None if contents.has(NotifyType::SA_RESOURCE_INFO) => free_lane(sa, policy)?,
            None => None,
        };
        if let Some(lane) = lane {
            notifies.push(resource_info(lane));
        }
        // RFC 7296 §2.9: other selectors would have been acceptable too, in another child SA.
        let others = fitting.iter().any(|(other, ..)| other.name != policy.name);
        if old.is_none() && (narrowed.more || others && !is_subset(ts_i, &narrowed.traffic.remote)) {
            notifies.push(NotifyType::ADDITIONAL_TS_POSSIBLE.into());
        }
        let spi_in = self.new_esp_spi();
        let proposal = suite.answer(theirs, &spi_in.to_be_bytes());
        let agreed = Agreed {
            policy: policy.name.clone(),
            suite,
            spi_in,
            spi_out,
            traffic: narrowed.traffic.clone(),
            mode,
            original: narrowed.original,
            lane,
            role: Role::Responder,
            replaces: old,
        };
        Ok(Answer { agreed, proposal, notifies })
    }

    /// What we propose.
    pub(super) fn offer_child(
        &mut self,
        sa: &IkeSa,
        policy: &ChildPolicy,
        wish: ChildWish,
        old: Option<&ChildSaInfo>,
    ) -> ChildOffer {
        // RFC 7296 §2.9.2: when rekeying, the selectors SHOULD be those of the old child SA.
        let mut traffic = match old {
            Some(old) => Traffic { local: old.local_selectors.clone(), remote: old.remote_selectors.clone() },
            None => Traffic::offered(sa, policy),
        };
        if let Some((local, remote)) = wish.packet {
            if wish.packet_only {
                traffic = Traffic { local: vec![local], remote: vec![remote] };
            } else {
                // RFC 7296 §2.9: the packet's own selectors come first.
                traffic.local.insert(0, local);
                traffic.remote.insert(0, remote);
            }
        }
        ChildOffer {
            mode: policy.mode,
            wish,
            spi: self.new_esp_spi(),
            proposals: policy.proposals.clone(),
            local_ts: traffic.local,
            remote_ts: traffic.remote,
        }
    }

    /// What goes with an offer beside SA and selectors.
    pub(super) fn child_notifies(offer: &ChildOffer) -> Vec<Payload> {
        let transport = (offer.mode == Mode::Transport).then(|| NotifyType::USE_TRANSPORT_MODE.into());
        transport.into_iter().chain(offer.wish.lane.map(resource_info)).collect()
    }

    /// Checks an answer to an offer of ours (RFC 7296 §3.3.6, §2.9).
    pub(super) fn check_child_answer(
        sa: &IkeSa,
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
        // RFC 7296 §1.3.1: whoever can't do without the mode that it asked for MUST delete the SA.
        if contents.has(NotifyType::USE_TRANSPORT_MODE) != (offer.mode == Mode::Transport) {
            return Err("the mode isn't ours");
        }
        let mut traffic = Traffic { local: ts_i.clone(), remote: ts_r.clone() };
        let mut original = None;
        if offer.mode == Mode::Transport {
            (traffic, original) = traffic.substituted(sa).ok_or("transport mode has one address at each end")?;
        }
        if !is_subset(&traffic.local, &offer.local_ts) || !is_subset(&traffic.remote, &offer.remote_ts) {
            return Err("the traffic selectors are wider than ours");
        }
        if contents.has(NotifyType::ADDITIONAL_TS_POSSIBLE) {
            tracing::info!(
                ike_sa = %sa.id(), child = %offer.wish.policy, ?ts_i, ?ts_r, "the peer would allow more in another child SA"
            );
        }
        Ok(Agreed {
            policy: offer.wish.policy.clone(),
            suite,
            spi_in: offer.spi,
            spi_out,
            traffic,
            mode: offer.mode,
            original,
            // RFC 9611 §3: a responder that is willing answers with the notification.
            lane: offer.wish.lane.filter(|_| contents.has(NotifyType::SA_RESOURCE_INFO)),
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
            mode: agreed.mode,
            lane: agreed.lane,
            original: agreed.original,
            local_selectors: agreed.traffic.local,
            remote_selectors: agreed.traffic.remote,
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
        let lifetime = Lifetime::of_child(&sa.policy, &info.child);
        let (rekey_at, expires_at) = self.lifetime(now, Duration::ZERO, lifetime);
        if self.key_log {
            self.events.extend(keylog::esp(&info).map(Event::KeyLog));
        }
        self.events.push_back(Event::InstallChild(Box::new(info.clone())));
        self.child_owner.insert(info.spi_in, sa.id());
        let age = Age::of(Duration::ZERO, now);
        let child =
            ChildSa { info, phase: ChildPhase::Installed, stale: false, refused: false, age, rekey_at, expires_at };
        let spi_in = child.info.spi_in;
        sa.children.insert(spi_in, child);
        sa.changed = true;
        self.want_other_lanes(sa, spi_in);
    }

    /// RFC 9611 §3: the peer has agreed to a child SA for one of our workers: the others want theirs.
    fn want_other_lanes(&mut self, sa: &mut IkeSa, spi_in: u32) {
        let Some(info) = sa.children.get(&spi_in).map(|child| &child.info) else { return };
        let first = info.role == Role::Initiator && info.replaces.is_none() && info.lane == Some(0);
        let Some(policy) = sa.policy.child(&info.child).filter(|_| first).cloned() else { return };
        for lane in 1..policy.lanes_max {
            let has = |child: &ChildSa| child.info.child == policy.name && child.info.lane == Some(lane);
            if !sa.children.values().any(has) {
                let wish = ChildWish { lane: Some(lane), ..ChildWish::whole(&policy.name) };
                sa.enqueue(Task::CreateChild { wish, group: None });
            }
        }
    }

    /// Forgets a child SA.
    pub(super) fn remove_child(&mut self, sa: &mut IkeSa, spi_in: u32) {
        if sa.children.remove(&spi_in).is_some() {
            tracing::info!(ike_sa = %sa.id(), spi_in = format_args!("{spi_in:08x}"), "child SA removed");
            self.child_owner.remove(&spi_in);
            let is_replaced = sa.children.values().any(|child| child.info.replaces == Some(spi_in));
            let removal = if is_replaced { Removal::Replaced } else { Removal::Ended };
            self.events.push_back(Event::RemoveChild { ike_sa: sa.id(), spi_in, removal });
            sa.changed = true;
        }
    }
}
