//! From IKE to the workers: child SAs, messages, numbers; published first while a copy counts.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use vipsec_dataplane::api::{ChildRefusal, Command, IkeDatagram, Numbers, VipTable};
use vipsec_esp::sa::{
    ChildSa, DORMANT, InboundParams, KeyMaterial, Mode, OutboundParams, ReservedSpi, Spi, TunnelEnds, WrongKeyLength,
};
use vipsec_ike::{ChildSaInfo, Event, IkeSaId, Removal, Role, Secret, Tunnel};
use vipsec_store::CounterEntry;
use vipsec_takeover::registry::Process;
use vipsec_wire::iv::IvPrefix;
use zeroize::Zeroizing;

use super::lingering::GoneChild;
use super::{Core, Effect, InstalledChild, Output};
use crate::config::{ChildOptions, algorithm, esp_selector};

/// Numbers that a new child SA may use before its first report: outbound a block; inbound none, its first packet asks for more.
pub(super) const FIRST_LEASE: u64 = 1 << 10;

/// IKE handed out something that no worker can install. It never should; the SA is then as good as lost, and that is said.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error(transparent)]
    Spi(#[from] ReservedSpi),
    #[error(transparent)]
    Key(#[from] WrongKeyLength),
}

/// Where an SA's numbers begin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    /// Everything up to here counts as seen, and nothing above is delivered before a grant.
    pub(super) horizon: u64,
    /// The number before the first that is sent.
    pub(super) sent: u64,
    /// The last number of the published block.
    pub(super) lease: u64,
}

impl Start {
    /// Of a child SA that nobody may use yet.
    pub(super) const NONE: Self = Self { horizon: DORMANT, sent: DORMANT, lease: DORMANT };
}

/// A child SA as a worker takes it.
pub(super) fn child_sa(
    info: &ChildSaInfo,
    options: ChildOptions,
    prefix: IvPrefix,
    start: Start,
) -> Result<ChildSa, Unusable> {
    let algorithm = algorithm(info.suite.encryption);
    let key = |secret: &Secret| KeyMaterial::new(algorithm, Zeroizing::new(secret.expose().to_vec()));
    Ok(ChildSa {
        vip: info.vip,
        inbound: InboundParams {
            spi: Spi::new(info.spi_in)?,
            algorithm,
            key: key(&info.key_in)?,
            window: options.replay_window,
            esn: info.suite.esn,
            edge: start.horizon,
            horizon: start.horizon,
        },
        outbound: OutboundParams {
            spi: Spi::new(info.spi_out)?,
            algorithm,
            key: key(&info.key_out)?,
            esn: info.suite.esn,
            sent: start.sent,
            lease: start.lease,
            iv_prefix: prefix,
        },
        succeeds: info.replaces.filter(|_| info.role == Role::Responder).and_then(|spi| Spi::new(spi).ok()),
        lane: info.lane,
        mode: match info.mode {
            vipsec_ike::Mode::Tunnel => Mode::Tunnel,
            vipsec_ike::Mode::Transport => Mode::Transport,
        },
        processing: options.processing,
        lifetime: options.lifetime,
        policy: options.outer,
        tunnel: tunnel_ends(info.tunnel),
        local_selectors: info.local_selectors.iter().map(esp_selector).collect(),
        remote_selectors: info.remote_selectors.iter().map(esp_selector).collect(),
    })
}

pub(super) fn tunnel_ends(tunnel: Tunnel) -> TunnelEnds {
    TunnelEnds { local: tunnel.local, remote: tunnel.remote, udp: tunnel.udp }
}

impl Core {
    /// Takes what IKE has to say. True if there was anything.
    pub(super) fn pump_ike(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Some(event) = self.ike.poll_event() {
            any = true;
            self.handle_ike_event(now, event);
        }
        // R1, R2: what changed is written before the first message that speaks of it is queued.
        any |= self.publish_changed(now);
        while let Some(transmit) = self.ike.poll_transmit() {
            any = true;
            let command = Command::SendIke(IkeDatagram {
                local: transmit.local,
                remote: transmit.remote,
                payload: transmit.payload,
            });
            // Retransmissions too: the first copy of these bytes may still be waiting, and an adversary may send the request again.
            let vip = self.vip_at(transmit.local.ip());
            match vip.and_then(|vip| self.replica_of(vip)).filter(|_| transmit.ike_sa.is_some()) {
                Some(replica) => replica.after(Effect::Command(command)),
                None => self.tell(command),
            }
        }
        any
    }

    fn handle_ike_event(&mut self, now: Instant, event: Event) {
        match event {
            // IKE logs what happens to its SAs.
            Event::IkeEstablished { id, .. } => self.handle_ike_established(now, id),
            Event::IkeRekeyed { old, new } => self.note_rekeyed(old, new),
            Event::IkeGone { id, reason, .. } => {
                self.withdraw_ike_sa(id);
                self.note_ike_gone(now, id, reason);
                self.calls.look_again(now);
            }
            Event::InstallChild(info) => self.handle_new_child(&info),
            Event::RemoveChild { spi_in, removal, .. } => {
                self.remove_child(spi_in, removal);
                self.calls.look_again(now);
            }
            Event::ChildFailed { ike_sa, child, reason } => {
                tracing::warn!(%ike_sa, child = child.as_deref().unwrap_or("?"), %reason, "child SA refused");
                self.note_child_refused(now, ike_sa);
                self.calls.look_again(now);
            }
            Event::PeerMoved { children, remote, .. } => {
                for spi in children {
                    self.move_peer(spi, remote);
                }
            }
            // What was to be asked over it has waited in its queue.
            Event::Synchronised(id) => self.note_synchronised(now, id),
            // Only if the configuration asked for them.
            Event::KeyLog(keys) => self.outputs.push_back(Output::KeyLog(keys)),
            Event::SkipNumbers { children, delta, .. } => {
                for spi in children.into_iter().filter_map(|spi| Spi::new(spi).ok()) {
                    self.tell(Command::SkipNumbers { spi, delta });
                }
            }
            Event::Changed(id) => {
                self.note_birth(id);
                self.publications.changed.insert(id);
            }
        }
    }

    fn handle_new_child(&mut self, info: &ChildSaInfo) {
        let Some(epoch) = self.epoch_of(info.vip) else { return };
        // What a successor assumes of a child SA that has not reported yet is what it starts with.
        let replicated = self.is_replicated(info.vip);
        let lease = if replicated { FIRST_LEASE } else { u64::MAX };
        let start = Start { horizon: 0, sent: 0, lease };
        let prefix = IvPrefix::new(self.config.appliance.id, epoch);
        match child_sa(info, self.config.child_options(&info.connection, &info.child), prefix, start) {
            Ok(mut child) => {
                if !replicated {
                    child.inbound.horizon = u64::MAX;
                }
                let replaces = info.replaces.and_then(|spi| Spi::new(spi).ok());
                let born = self.groups.get(self.group_of(info.vip)).map_or_else(Vec::new, |group| group.witnesses());
                self.install_child(child, replaces, Some(info.ike_sa), born);
            }
            Err(error) => tracing::error!(ike_sa = %info.ike_sa, %error, "child SA can't be installed"),
        }
    }

    /// Hands a child SA to the data plane. `replaces`: whose traffic it carries on, whoever did the replacing; `born`: which processes
    /// of other appliances were paired when it was made.
    pub(super) fn install_child(
        &mut self,
        child: ChildSa,
        replaces: Option<Spi>,
        ike: Option<IkeSaId>,
        born: Vec<Process>,
    ) {
        self.children.insert(child.inbound.spi, InstalledChild { vip: child.vip, ike, born });
        self.place_child(child, replaces);
    }

    /// Has a worker install it.
    pub(super) fn place_child(&mut self, child: ChildSa, replaces: Option<Spi>) {
        self.workers.install_child(Box::new(child), replaces);
        self.pass_commands_on();
    }

    fn remove_child(&mut self, spi_in: u32, removal: Removal) {
        let Ok(spi) = Spi::new(spi_in) else { return };
        if let Some(child) = self.children.remove(&spi) {
            // Its workers have it until no copy does.
            self.ike.reserve_spi(spi_in);
            self.publications.gone.push(GoneChild { vip: child.vip, spi, removal });
            self.withdraw_child(child.vip, spi);
        } else {
            // One that IKE alone had: of an untrusted copy, or to be renegotiated.
            for vip in (0..).take(self.config.vips.len()) {
                self.withdraw_child(vip, spi);
            }
        }
    }

    /// No copy knows a child SA any more that IKE has deleted. So nobody will take its packets after us: what waits above its horizon is
    /// delivered (R3), and so is what comes while it lingers.
    pub(super) fn let_go_of_child(&mut self, now: Instant, gone: GoneChild) {
        self.tell(Command::Grant { spi: gone.spi, horizon: u64::MAX, lease: u64::MAX });
        if gone.removal == Removal::Ended {
            self.forget_lingering(gone.vip);
        }
        if !self.lingering.take(now, gone) {
            self.forget_gone(gone.spi);
        }
    }

    /// One that IKE has deleted goes, with what waits above its horizon.
    pub(super) fn forget_gone(&mut self, spi: Spi) {
        self.tell(Command::RemoveChild(spi));
        self.ike.release_spi(spi.get());
    }

    /// The heir has its elder's children.
    fn note_rekeyed(&mut self, old: IkeSaId, new: IkeSaId) {
        self.follow(old, new);
        for spi in self.ike.children_of(new).filter_map(|spi| Spi::new(spi).ok()) {
            if let Some(child) = self.children.get_mut(&spi) {
                child.ike = Some(new);
            }
        }
    }

    fn move_peer(&mut self, spi_in: u32, remote: SocketAddr) {
        let Ok(spi) = Spi::new(spi_in) else { return };
        self.tell(Command::MovePeer { spi, remote });
    }

    /// A worker can't take a child SA: it is deleted at both ends, rather than kept where nothing comes through.
    pub(super) fn handle_child_refused(&mut self, now: Instant, spi: Spi, refusal: ChildRefusal) {
        if self.note_unprepared(spi, refusal) {
            return;
        }
        tracing::error!(spi_in = %spi, %refusal, "the worker refused a child SA: it is deleted");
        if let Some(child) = self.children.remove(&spi) {
            self.withdraw_child(child.vip, spi);
            if let Err(error) = self.ike.delete_child(spi.get(), now) {
                tracing::info!(spi_in = %spi, %error, "not deleted at the remote peer");
            }
        }
    }

    /// A worker wants numbers: they are published, then granted (R3, R4).
    pub(super) fn handle_numbers(&mut self, numbers: Numbers) {
        let Numbers { spi, edge, horizon_wanted, lease_wanted, .. } = numbers;
        let Some(vip) = self.children.get(&spi).map(|child| child.vip) else { return };
        let group = self.group_of(vip);
        let Some(group) = self.groups.get_mut(group) else { return };
        // Does a join wait for it?
        group.binding.remove(&spi);
        if group.replica.is_on() {
            let entry = CounterEntry { spi: spi.get(), lease: lease_wanted, edge, horizon: horizon_wanted };
            let grant = Command::Grant { spi, horizon: horizon_wanted, lease: lease_wanted };
            group.replica.publish_numbers(entry, Some(Effect::Command(grant)));
        } else {
            let grant = Command::Grant { spi, horizon: u64::MAX, lease: u64::MAX };
            self.tell(grant);
        }
    }

    /// The VIP that has the address, or one that moves with it.
    pub(super) fn vip_at(&self, address: IpAddr) -> Option<u16> {
        let has = |vip: &VipTable| vip.vip.address == address || vip.more.iter().any(|more| more.address == address);
        self.tables.vips.iter().position(has).and_then(|vip| u16::try_from(vip).ok())
    }

    pub(super) fn install_static_children(&mut self) {
        for child in self.config.static_children.clone() {
            self.install_child(child, None, None, Vec::new());
        }
    }
}
