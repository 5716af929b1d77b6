//! A VIP's remote peer: IKE as initiator, ESP, and hosts behind it that send numbered packets and count what comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use vipsec_esp::engine::EngineKind;
use vipsec_esp::error::EspError;
use vipsec_esp::inbound::{Admission, InboundSa};
use vipsec_esp::outbound::OutboundSa;
use vipsec_esp::sa::{Algorithm, InboundParams, KeyMaterial, OutboundParams, Spi};
use vipsec_ike::{ChildSaInfo, Endpoint, Event, GoneReason, IkeSaId, Phase, Role, Secret};
use vipsec_wire::arp;
use vipsec_wire::buffer::{PacketBuf, VecBuf};
use vipsec_wire::ip::protocol;
use vipsec_wire::iv::{Epoch, IvPrefix};
use zeroize::Zeroizing;

use crate::frames::{self, IKE_PORT, PayloadId, Seen};
use crate::scene::{self, ADDRESSES, Addresses, SERVICE_PORT};

/// Connections of the hosts behind it at a time, told apart by their ports from here on.
const FLOWS: u64 = 4;
/// See [`FLOWS`].
const FLOW_PORT: u16 = 40_000;
/// Packets of these connections together; then others take their place.
const PACKETS_OF_FLOWS: u64 = 64;

/// The port of the connection that a packet belongs to.
fn flow_port(payload: PayloadId) -> u16 {
    let number = payload.0 & u64::from(u32::MAX);
    FLOW_PORT + (number / PACKETS_OF_FLOWS * FLOWS + number % FLOWS) as u16
}

/// R4 is no promise: what an owner sends before the store has heard of it, a burst at most, its successor sends again.
const REFUSED_MAX: u32 = 150;
/// Between two calls.
const REDIAL: Duration = Duration::from_millis(50);
/// An IKE SA without child SAs for so long gets one.
const CHILDLESS_MAX: Duration = Duration::from_millis(500);

/// What the remote peer believes to be established, by the names that the appliances gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Belief {
    /// The appliances' IKE SPIs.
    pub(crate) ike_sas: BTreeSet<u64>,
    /// The appliances' inbound SPIs.
    pub(crate) children: BTreeSet<u32>,
}

/// What a remote peer may use from now on, by the name that an appliance gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    IkeSa(u64),
    Child(u32),
}

struct RemoteSa {
    outbound: OutboundSa,
    inbound: InboundSa,
    /// RFC 7296 §2.8: the responder of a rekeying goes on sending on the old one until that is deleted.
    waits_for: Option<u32>,
    /// In the order of installation.
    number: u64,
    /// What the newest owner's IVs begin with: its epoch, and its id.
    newest: (u16, u8),
    /// Packets of the newest owner that had not come before and were refused.
    refused: u32,
    /// Of every packet that was opened: to tell a copy of it from another one with its number.
    seen: BTreeSet<[u8; 8]>,
}

/// The remote peer of a VIP.
pub(crate) struct Remote {
    vip: usize,
    at: &'static Addresses,
    endpoint: Endpoint,
    sas: BTreeMap<u32, RemoteSa>,
    live: BTreeSet<IkeSaId>,
    installed: u64,
    next_payload: u64,
    next_call: Instant,
    childless_since: Instant,
    /// IKE SAs that ended because nobody answered.
    pub(crate) found_dead: u64,
    /// When the newest packet left that was answered.
    pub(crate) answered: Option<Instant>,
    sent_at: BTreeMap<PayloadId, Instant>,
    echoes: BTreeSet<PayloadId>,
}

/// What came of an ESP packet.
#[derive(Default)]
struct Opened {
    echoed_twice: Option<PayloadId>,
    refused: Option<String>,
}

/// What comes of handing something to the remote peer.
#[derive(Default)]
pub(crate) struct Reaction {
    /// To the outside network.
    pub(crate) frames: Vec<Vec<u8>>,
    /// A payload came back that had come back before.
    pub(crate) echoed_twice: Option<PayloadId>,
    /// Once more a packet that had not come before was refused, though the newest owner had sent it.
    pub(crate) refused: Option<String>,
    /// SAs that an answer has brought.
    pub(crate) uses: Vec<Use>,
}

impl Remote {
    pub(crate) fn new(vip: usize, variant: &scene::Variant, seed: u64, now: Instant) -> Self {
        let rng = Box::new(StdRng::seed_from_u64(seed));
        let mut endpoint = Endpoint::new(Arc::new(scene::remote_config(vip, variant)), rng);
        endpoint.set_origin(0, Epoch(1)).expect("the first epoch");
        Self {
            vip,
            at: &ADDRESSES[vip],
            endpoint,
            sas: BTreeMap::new(),
            live: BTreeSet::new(),
            installed: 0,
            // A payload comes once, whoever sends it.
            next_payload: ((vip as u64) << 32) + 1,
            next_call: now,
            childless_since: now,
            found_dead: 0,
            answered: None,
            sent_at: BTreeMap::new(),
            echoes: BTreeSet::new(),
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.endpoint.poll_timeout()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Reaction {
        if self.endpoint.poll_timeout().is_some_and(|due| due <= now) {
            self.endpoint.handle_timeout(now);
        }
        self.react(now)
    }

    /// Its hosts send that many packets; calls if there is no tunnel.
    pub(crate) fn send(&mut self, now: Instant, packets: u64) -> Reaction {
        self.keep_calling(now);
        let mut reaction = self.react(now);
        for _ in 0..packets {
            reaction.frames.extend(self.send_one(now));
        }
        reaction
    }

    fn keep_calling(&mut self, now: Instant) {
        if self.live.is_empty() && now >= self.next_call {
            self.next_call = now + REDIAL;
            let call = self.endpoint.initiate(scene::CONNECTION, scene::CHILD, now);
            self.live.extend(call.ok());
        }
        if !self.sas.is_empty() {
            self.childless_since = now;
        } else if now >= self.childless_since + CHILDLESS_MAX {
            self.childless_since = now;
            let ids: Vec<IkeSaId> = self.live.iter().copied().collect();
            for id in ids {
                // One that isn't established yet says so, and is left to its own timers.
                let _ = self.endpoint.create_child(id, scene::CHILD, now);
            }
        }
    }

    fn send_one(&mut self, now: Instant) -> Option<Vec<u8>> {
        let payload = PayloadId(self.next_payload);
        let spis: Vec<u32> = self.sas.keys().copied().collect();
        let usable = self.sas.values_mut().filter(|sa| sa.waits_for.is_none_or(|old| !spis.contains(&old)));
        let sa = usable.max_by_key(|sa| sa.number)?;
        self.next_payload += 1;
        let port = flow_port(payload);
        let Addresses { vip, vip_mac, remote, remote_mac, client, .. } = *self.at;
        let inner = frames::udp((client, port), (vip, SERVICE_PORT), &payload.to_bytes());
        let mut packet = VecBuf::from_bytes(&inner);
        sa.outbound.seal(&mut packet, protocol::IPV4).ok()?;
        self.sent_at.insert(payload, now);
        Some(frames::frame(vip_mac, remote_mac, &frames::ipv4(remote, vip, protocol::ESP, packet.data())))
    }

    /// A frame arrives.
    pub(crate) fn receive(&mut self, now: Instant, frame: &[u8]) -> Reaction {
        let Some((header, seen)) = frames::read(frame) else { return Reaction::default() };
        let mut esp = Opened::default();
        let Addresses { remote: address, remote_mac, .. } = *self.at;
        match seen {
            Seen::Arp(request) if request.operation == arp::Operation::Request && request.target_ip == address => {
                let reply = request.reply_from(remote_mac).to_frame(request.sender_mac);
                return Reaction { frames: vec![reply.to_vec()], ..Reaction::default() };
            }
            _ if header.destination != remote_mac => {}
            Seen::Udp(source, destination, message) if destination == (address, IKE_PORT) => {
                let (local, remote): (SocketAddr, SocketAddr) = (destination.into(), source.into());
                self.endpoint.handle_datagram(now, local, remote, message);
            }
            Seen::Esp(_, packet) => esp = self.receive_esp(now, packet),
            _ => {}
        }
        Reaction { echoed_twice: esp.echoed_twice, refused: esp.refused, ..self.react(now) }
    }

    fn receive_esp(&mut self, now: Instant, esp: &[u8]) -> Opened {
        self.open_esp(now, esp).unwrap_or_default()
    }

    fn open_esp(&mut self, now: Instant, esp: &[u8]) -> Option<Opened> {
        let spi = vipsec_esp::header::spi_of(esp)?;
        let sa = self.sas.get_mut(&spi)?;
        let iv: [u8; 8] = *esp.get(8..)?.first_chunk()?;
        let mut packet = VecBuf::from_bytes(esp);
        // What is old is refused before it is opened, or after.
        let admitted = sa.inbound.open(&mut packet).map(|opened| sa.inbound.admit(&opened));
        let sender = (u16::from_be_bytes([iv[1], iv[2]]), iv[0]);
        match admitted {
            Ok(Admission::Deliver) => {
                sa.newest = sa.newest.max(sender);
                sa.seen.insert(iv);
            }
            Ok(_) | Err(EspError::Replayed) => {
                sa.refused += u32::from(sender >= sa.newest && !sa.seen.contains(&iv));
                let refused = sa.refused > REFUSED_MAX;
                let iv = iv.map(|byte| format!("{byte:02x}")).concat();
                let refused = refused.then(|| format!("IV {iv} of child SA {spi:08x}"));
                return Some(Opened { refused, echoed_twice: None });
            }
            Err(_) => return None,
        }
        self.endpoint.peer_alive(spi, now);
        let Seen::Udp(_, _, payload) = frames::read_ipv4(packet.data()) else { return None };
        let payload = PayloadId::from_bytes(payload)?;
        self.answered = self.answered.max(self.sent_at.get(&payload).copied());
        let echoed_twice = (!self.echoes.insert(payload)).then_some(payload);
        Some(Opened { echoed_twice, refused: None })
    }

    /// Packets that left in that time.
    pub(crate) fn sent(&self, from: Instant, until: Instant) -> impl Iterator<Item = PayloadId> {
        let sent = self.sent_at.iter().filter(move |(_, at)| (from..until).contains(*at));
        sent.map(|(payload, _)| *payload)
    }

    /// Takes what IKE has to say.
    fn react(&mut self, now: Instant) -> Reaction {
        let _log = tracing::info_span!("remote", vip = self.vip).entered();
        let mut uses = Vec::new();
        while let Some(event) = self.endpoint.poll_event() {
            tracing::debug!(?event, "remote peer");
            match event {
                Event::IkeEstablished { id, .. } => {
                    self.live.insert(id);
                    uses.extend(self.use_of_answer(now, id));
                }
                // The old one may outlive whoever should have deleted it.
                Event::IkeRekeyed { old, new } => {
                    self.live.remove(&old);
                    self.live.insert(new);
                    uses.extend(self.use_of_answer(now, new));
                }
                Event::IkeGone { id, reason, .. } => {
                    self.live.remove(&id);
                    self.found_dead += u64::from(reason == GoneReason::PeerDead);
                }
                Event::InstallChild(info) => {
                    uses.extend((info.role == Role::Initiator).then_some(Use::Child(info.spi_out)));
                    self.install(&info);
                }
                Event::RemoveChild { spi_in, .. } => {
                    self.sas.remove(&spi_in);
                }
                Event::ChildFailed { .. }
                | Event::PeerMoved { .. }
                | Event::Synchronised(_)
                | Event::SkipNumbers { .. }
                | Event::KeyLog(_)
                | Event::Changed(_) => {}
            }
        }
        if !self.sas.is_empty() {
            self.childless_since = now;
        }
        let mut frames = Vec::new();
        while let Some(transmit) = self.endpoint.poll_transmit() {
            let Addresses { vip, vip_mac, remote, remote_mac, .. } = *self.at;
            let packet = frames::udp((remote, transmit.local.port()), (vip, transmit.remote.port()), &transmit.payload);
            frames.push(frames::frame(vip_mac, remote_mac, &packet));
        }
        Reaction { frames, uses, ..Reaction::default() }
    }

    /// What is behind an IKE SA that came with an answer. One that the appliance asked for is in the record of its request.
    fn use_of_answer(&self, now: Instant, id: IkeSaId) -> Option<Use> {
        let sa = self.endpoint.sas(now).find(|sa| sa.id == id)?;
        (sa.role == Role::Initiator).then_some(Use::IkeSa(sa.remote_spi))
    }

    fn install(&mut self, info: &ChildSaInfo) {
        let key = |secret: &Secret| {
            KeyMaterial::new(Algorithm::Aes128Gcm, Zeroizing::new(secret.expose().to_vec())).expect("as negotiated")
        };
        let esn = info.suite.esn;
        let inbound = InboundParams {
            spi: Spi::new(info.spi_in).expect("as negotiated"),
            algorithm: Algorithm::Aes128Gcm,
            key: key(&info.key_in),
            window: 1024,
            esn,
            edge: 0,
            horizon: u64::MAX,
        };
        let outbound = OutboundParams {
            spi: Spi::new(info.spi_out).expect("as negotiated"),
            algorithm: Algorithm::Aes128Gcm,
            key: key(&info.key_out),
            esn,
            sent: 0,
            lease: u64::MAX,
            iv_prefix: IvPrefix::new(scene::remote_id(self.vip), Epoch(1)),
        };
        self.installed += 1;
        let sa = RemoteSa {
            outbound: OutboundSa::new(EngineKind::auto(), &outbound).expect("a key of the right length"),
            inbound: InboundSa::new(EngineKind::auto(), &inbound).expect("a key of the right length"),
            waits_for: info.replaces.filter(|_| info.role == Role::Responder),
            number: self.installed,
            newest: (0, 0),
            refused: 0,
            seen: BTreeSet::new(),
        };
        self.sas.insert(info.spi_in, sa);
    }

    /// What it believes to be established.
    pub(crate) fn belief(&self, now: Instant) -> Belief {
        let mut belief = Belief::default();
        for sa in self.endpoint.sas(now).filter(|sa| sa.phase == Phase::Established) {
            belief.ike_sas.insert(sa.remote_spi);
            let installed = sa.children.iter().filter(|child| child.phase == vipsec_ike::ChildPhase::Installed);
            belief.children.extend(installed.map(|child| child.spi_out));
        }
        belief
    }

    /// Its operator rekeys or deletes something.
    pub(crate) fn operate(&mut self, now: Instant, operation: Operation) -> Reaction {
        let Some(id) = self.live.last().copied() else { return Reaction::default() };
        // What is not there, or not established, is refused; nothing else can be meant.
        let _ = match operation {
            Operation::RekeyIke => self.endpoint.rekey_ike(id, now),
            Operation::DeleteIke => self.endpoint.delete_ike(id, now),
            Operation::RekeyChild => {
                let newest = self.sas.iter().max_by_key(|(_, sa)| sa.number).map(|(spi, _)| *spi);
                newest.map_or(Ok(()), |spi| self.endpoint.rekey_child(spi, now))
            }
        };
        self.react(now)
    }
}

/// What an operator may want of SAs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    RekeyChild,
    RekeyIke,
    DeleteIke,
}
