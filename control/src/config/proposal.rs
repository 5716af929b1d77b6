//! Proposals in swanctl's notation, as far as they are implemented.

use vipsec_esp::sa::Algorithm;

use super::error::Reason;

/// A pseudorandom function of IKE (RFC 4868).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Prf {
    /// `prfsha256`
    HmacSha256,
    /// `prfsha384`
    HmacSha384,
    /// `prfsha512`
    HmacSha512,
}

/// A key exchange method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyExchange {
    /// `x25519`, `curve25519` (RFC 8031)
    X25519,
}

/// What protects an IKE SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IkeProposal {
    /// Encryption and integrity in one (RFC 5282).
    pub encryption: Algorithm,
    /// Pseudorandom function.
    pub prf: Prf,
    /// Key exchange.
    pub key_exchange: KeyExchange,
}

/// What protects a child SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EspProposal {
    /// Encryption and integrity in one (RFC 4106).
    pub encryption: Algorithm,
    /// A key exchange of its own when the child SA is rekeyed; without it the keys follow from the IKE SA's.
    pub key_exchange: Option<KeyExchange>,
}

const IKE_FORM: &str = "aes128gcm16|aes256gcm16-prfsha256|prfsha384|prfsha512-x25519";
const ESP_FORM: &str = "aes128gcm16|aes256gcm16[-x25519]";

/// The parts of a proposal, each of its kind at most once.
#[derive(Default)]
struct Parts {
    encryption: Option<Algorithm>,
    prf: Option<Prf>,
    key_exchange: Option<KeyExchange>,
}

fn parts(text: &str, form: &'static str) -> Result<Parts, Reason> {
    let mut parts = Parts::default();
    for part in text.split('-') {
        let twice = match part {
            "aes128gcm16" => parts.encryption.replace(Algorithm::Aes128Gcm).is_some(),
            "aes256gcm16" => parts.encryption.replace(Algorithm::Aes256Gcm).is_some(),
            "prfsha256" => parts.prf.replace(Prf::HmacSha256).is_some(),
            "prfsha384" => parts.prf.replace(Prf::HmacSha384).is_some(),
            "prfsha512" => parts.prf.replace(Prf::HmacSha512).is_some(),
            "x25519" | "curve25519" => parts.key_exchange.replace(KeyExchange::X25519).is_some(),
            _ => return Err(bad(text, form, format!("{part:?} is unknown or not supported"))),
        };
        if twice {
            return Err(bad(text, form, format!("{part:?} is the second of its kind")));
        }
    }
    Ok(parts)
}

fn bad(text: &str, form: &'static str, detail: String) -> Reason {
    Reason::BadProposal { value: text.to_owned(), form, detail }
}

/// Parses an IKE proposal.
pub(super) fn ike(text: &str) -> Result<IkeProposal, Reason> {
    let missing = |what: &str| bad(text, IKE_FORM, format!("it has no {what}"));
    let Parts { encryption, prf, key_exchange } = parts(text, IKE_FORM)?;
    Ok(IkeProposal {
        encryption: encryption.ok_or_else(|| missing("encryption"))?,
        prf: prf.ok_or_else(|| missing("prf"))?,
        key_exchange: key_exchange.ok_or_else(|| missing("key exchange"))?,
    })
}

/// Parses an ESP proposal.
pub(super) fn esp(text: &str) -> Result<EspProposal, Reason> {
    let Parts { encryption, prf, key_exchange } = parts(text, ESP_FORM)?;
    if prf.is_some() {
        return Err(bad(text, ESP_FORM, "ESP has no prf".to_owned()));
    }
    let encryption = encryption.ok_or_else(|| bad(text, ESP_FORM, "it has no encryption".to_owned()))?;
    Ok(EspProposal { encryption, key_exchange })
}

/// What is proposed and accepted where the configuration names nothing: strongest first.
pub(super) const IKE_DEFAULT: [IkeProposal; 3] = [
    IkeProposal { encryption: Algorithm::Aes256Gcm, prf: Prf::HmacSha384, key_exchange: KeyExchange::X25519 },
    IkeProposal { encryption: Algorithm::Aes256Gcm, prf: Prf::HmacSha256, key_exchange: KeyExchange::X25519 },
    IkeProposal { encryption: Algorithm::Aes128Gcm, prf: Prf::HmacSha256, key_exchange: KeyExchange::X25519 },
];

/// See [`IKE_DEFAULT`].
pub(super) const ESP_DEFAULT: [EspProposal; 4] = [
    EspProposal { encryption: Algorithm::Aes256Gcm, key_exchange: Some(KeyExchange::X25519) },
    EspProposal { encryption: Algorithm::Aes128Gcm, key_exchange: Some(KeyExchange::X25519) },
    EspProposal { encryption: Algorithm::Aes256Gcm, key_exchange: None },
    EspProposal { encryption: Algorithm::Aes128Gcm, key_exchange: None },
];
