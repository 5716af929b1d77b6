//! An initiator's ends of its child SAs: what they carry is sealed and opened here.

use std::net::SocketAddr;

use thiserror::Error;
use vipsec_esp::engine::EngineKind;
use vipsec_esp::error::SetupError;
use vipsec_esp::inbound::{Admission, InboundSa};
use vipsec_esp::outbound::OutboundSa;
use vipsec_esp::sa::{Algorithm, InboundParams, KeyMaterial, OutboundParams, ReservedSpi, Spi, WrongKeyLength};
use vipsec_ike::{ChildSaInfo, Encryption, Role, Secret};
use vipsec_wire::buffer::PacketBuf;
use vipsec_wire::ip::protocol;
use vipsec_wire::iv::{ApplianceId, Epoch, IvPrefix};

/// Numbers that an end remembers.
const WINDOW: u32 = 1024;

/// A child SA that carries nothing here.
#[derive(Debug, Error)]
pub(crate) enum Unusable {
    #[error(transparent)]
    Spi(#[from] ReservedSpi),
    #[error(transparent)]
    Key(#[from] WrongKeyLength),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error("it doesn't travel in UDP")]
    NotInUdp,
}

/// The child SAs of an initiator, the newest last.
#[derive(Default)]
pub(crate) struct Tunnels(Vec<Tunnel>);

struct Tunnel {
    spi_in: u32,
    local: SocketAddr,
    remote: SocketAddr,
    outbound: OutboundSa,
    inbound: InboundSa,
    /// The one that the gateway replaced by it.
    succeeds: Option<u32>,
}

impl Tunnels {
    pub(crate) fn install(&mut self, info: &ChildSaInfo, id: ApplianceId, engine: EngineKind) -> Result<(), Unusable> {
        let (own_port, gateway_port) = info.tunnel.udp.ok_or(Unusable::NotInUdp)?;
        let algorithm = match info.suite.encryption {
            Encryption::Aes128Gcm => Algorithm::Aes128Gcm,
            Encryption::Aes256Gcm => Algorithm::Aes256Gcm,
            Encryption::ChaCha20Poly1305 => Algorithm::ChaCha20Poly1305,
        };
        let key = |secret: &Secret| KeyMaterial::new(algorithm, secret.expose().to_vec().into());
        let outbound = OutboundParams {
            spi: Spi::new(info.spi_out)?,
            algorithm,
            key: key(&info.key_out)?,
            esn: info.suite.esn,
            sent: 0,
            lease: u64::MAX,
            // The key is this SA's alone, and so are its numbers.
            iv_prefix: IvPrefix::new(id, Epoch(1)),
        };
        let inbound = InboundParams {
            spi: Spi::new(info.spi_in)?,
            algorithm,
            key: key(&info.key_in)?,
            window: WINDOW,
            esn: info.suite.esn,
            edge: 0,
            horizon: u64::MAX,
        };
        self.0.push(Tunnel {
            spi_in: info.spi_in,
            local: SocketAddr::new(info.tunnel.local, own_port),
            remote: SocketAddr::new(info.tunnel.remote, gateway_port),
            outbound: OutboundSa::new(engine, &outbound)?,
            inbound: InboundSa::new(engine, &inbound)?,
            succeeds: info.replaces.filter(|_| info.role == Role::Responder),
        });
        Ok(())
    }

    pub(crate) fn remove(&mut self, spi_in: u32) {
        self.0.retain(|tunnel| tunnel.spi_in != spi_in);
    }

    /// Is there any?
    pub(crate) fn is_up(&self) -> bool {
        !self.0.is_empty()
    }

    /// Makes of an IPv4 packet an ESP packet, and says from where and to where it goes.
    pub(crate) fn seal(&mut self, packet: &mut impl PacketBuf) -> Option<(SocketAddr, SocketAddr)> {
        // RFC 7296 §2.8: who answered a rekeying can't know when the other end is ready for the new SA, before the old one goes.
        let is_held = |tunnel: &Tunnel| tunnel.succeeds.is_some_and(|old| self.0.iter().any(|it| it.spi_in == old));
        let at = self.0.iter().rposition(|tunnel| !is_held(tunnel))?;
        let tunnel = self.0.get_mut(at)?;
        tunnel.outbound.seal(packet, protocol::IPV4).ok()?;
        Some((tunnel.local, tunnel.remote))
    }

    /// Makes of an ESP packet the IPv4 packet that it holds; `false`: it is no good.
    pub(crate) fn open(&mut self, packet: &mut impl PacketBuf) -> bool {
        let spi = vipsec_esp::header::spi_of(packet.data());
        let Some(tunnel) = self.0.iter_mut().find(|tunnel| Some(tunnel.spi_in) == spi) else { return false };
        let Ok(opened) = tunnel.inbound.open(packet) else { return false };
        tunnel.inbound.admit(&opened) == Admission::Deliver && opened.next_header == protocol::IPV4
    }
}
