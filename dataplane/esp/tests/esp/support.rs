//! SAs and packets for the tests.

use vipsec_esp::engine::EngineKind;
use vipsec_esp::inbound::InboundSa;
use vipsec_esp::outbound::OutboundSa;
use vipsec_esp::sa::{Algorithm, InboundParams, KeyMaterial, OutboundParams, Spi};
use vipsec_wire::buffer::{PacketBuf, VecBuf};
use vipsec_wire::iv::{ApplianceId, Epoch, IvPrefix};

/// Next Header of an IPv4 packet in tunnel mode.
pub(crate) const IPV4: u8 = 4;

/// Keying material that differs from byte to byte.
pub(crate) fn keymat(algorithm: Algorithm) -> Vec<u8> {
    (0..algorithm.key_len() as u8 + 4).map(|byte| byte.wrapping_mul(7).wrapping_add(0x31)).collect()
}

pub(crate) fn key(algorithm: Algorithm, keymat: Vec<u8>) -> KeyMaterial {
    KeyMaterial::new(algorithm, keymat.into()).expect("key and salt")
}

pub(crate) fn spi() -> Spi {
    Spi::new(0xa1b2_c3d4).expect("not reserved")
}

pub(crate) fn iv_prefix(appliance: u8, epoch: u32) -> IvPrefix {
    IvPrefix::new(ApplianceId::new(appliance).expect("not zero"), Epoch(epoch))
}

/// A new SA without limits.
pub(crate) fn inbound_params(algorithm: Algorithm) -> InboundParams {
    InboundParams {
        spi: spi(),
        algorithm,
        key: key(algorithm, keymat(algorithm)),
        window: 64,
        esn: false,
        edge: 0,
        horizon: u64::MAX,
    }
}

/// The other end of [`inbound_params`].
pub(crate) fn outbound_params(algorithm: Algorithm) -> OutboundParams {
    OutboundParams {
        spi: spi(),
        algorithm,
        key: key(algorithm, keymat(algorithm)),
        esn: false,
        sent: 0,
        lease: u64::MAX,
        iv_prefix: iv_prefix(1, 1),
    }
}

pub(crate) fn inbound(params: &InboundParams) -> InboundSa {
    InboundSa::new(EngineKind::auto(), params).expect("sound parameters")
}

pub(crate) fn outbound(params: &OutboundParams) -> OutboundSa {
    OutboundSa::new(EngineKind::auto(), params).expect("sound parameters")
}

/// A pair of ends with AES-128, and whatever the test changes about them.
pub(crate) fn pair(change: impl FnOnce(&mut OutboundParams, &mut InboundParams)) -> (OutboundSa, InboundSa) {
    let mut out = outbound_params(Algorithm::Aes128Gcm);
    let mut into = inbound_params(Algorithm::Aes128Gcm);
    change(&mut out, &mut into);
    (outbound(&out), inbound(&into))
}

/// Seals `inner` as IPv4.
pub(crate) fn seal(sa: &mut OutboundSa, inner: &[u8]) -> VecBuf {
    let mut packet = VecBuf::from_bytes(inner);
    sa.seal(&mut packet, IPV4).expect("sealed");
    packet
}

/// The bytes of a packet.
pub(crate) fn bytes(packet: &VecBuf) -> Vec<u8> {
    packet.data().to_vec()
}
