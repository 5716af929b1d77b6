//! Proposals and what is chosen out of them (RFC 7296 §2.7, §3.3).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::cipher::Cipher;
use super::transform::{Algorithm, Cbc, Encryption, Group, Integrity, NONE, Prf, SequenceNumbers, kind};
use crate::message::sa::{Proposal, Protocol, Transform};

/// Text that is no proposal.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidProposal {
    /// A part is unknown, or has no place in this kind of proposal.
    #[error("{part:?} in the proposal {text:?} is no algorithm that fits there")]
    Unknown {
        /// The whole proposal.
        text: String,
        /// The part.
        part: String,
    },
    /// No encryption algorithm, or for IKE no PRF, no group, or no integrity algorithm for a cipher that needs one.
    #[error("the proposal {0:?} is incomplete")]
    Incomplete(String),
    /// Ciphers with and without integrity protection of their own (RFC 7296 §3.3: they go in separate proposals).
    #[error("the proposal {0:?} mixes ciphers that need an integrity algorithm with others, or with one too many")]
    Mixed(String),
}

/// One proposal for IKE SAs, like `aes256gcm16-prfsha256-x25519` or `aes256-sha256-prfsha256-modp2048`. Several algorithms of a kind
/// are alternatives, the preferred first. Without a PRF, those of the integrity algorithms are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IkeProposal {
    ciphers: Ciphers,
    prf: Vec<Prf>,
    groups: Vec<Group>,
}

/// RFC 7296 §3.3: combined-mode ciphers and others can't stand in one proposal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Ciphers {
    Combined(Vec<Encryption>),
    Separate { encryption: Vec<Cbc>, integrity: Vec<Integrity> },
}

/// The algorithms of an IKE SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IkeSuite {
    /// Encryption and integrity.
    pub cipher: Cipher,
    /// Key derivation and authentication.
    pub prf: Prf,
    /// Key exchange.
    pub group: Group,
}

/// One proposal for child SAs, like `aes256gcm16-x25519`. Without a group, no key exchange of its own; without `esn`, 32-bit numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EspProposal {
    encryption: Vec<Encryption>,
    groups: Vec<Group>,
    numbers: Vec<SequenceNumbers>,
}

/// The algorithms of a child SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EspSuite {
    /// Encryption and integrity.
    pub encryption: Encryption,
    /// Key exchange of its own; `None` in the IKE_AUTH exchange.
    pub group: Option<Group>,
    /// Extended sequence numbers.
    pub esn: bool,
}

impl FromStr for IkeProposal {
    type Err = InvalidProposal;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (mut combined, mut cbc) = (Vec::new(), Vec::new());
        let mut integrity: Vec<Integrity> = Vec::new();
        let (mut prf, mut groups) = (Vec::new(), Vec::new());
        for part in text.split('-') {
            let known = add(part, &mut combined)
                || add(part, &mut cbc)
                || add(part, &mut integrity)
                || add(part, &mut prf)
                || add(part, &mut groups);
            if !known {
                return Err(InvalidProposal::Unknown { text: text.to_owned(), part: part.to_owned() });
            }
        }
        if prf.is_empty() {
            prf = integrity.iter().map(|integrity| integrity.prf()).collect();
        }
        let ciphers = match (combined.is_empty(), cbc.is_empty(), integrity.is_empty()) {
            (false, true, true) => Ciphers::Combined(combined),
            (true, false, false) => Ciphers::Separate { encryption: cbc, integrity },
            (true, true, _) | (true, false, true) => return Err(InvalidProposal::Incomplete(text.to_owned())),
            (false, ..) => return Err(InvalidProposal::Mixed(text.to_owned())),
        };
        if prf.is_empty() || groups.is_empty() {
            return Err(InvalidProposal::Incomplete(text.to_owned()));
        }
        Ok(Self { ciphers, prf, groups })
    }
}

impl FromStr for EspProposal {
    type Err = InvalidProposal;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut proposal = Self { encryption: Vec::new(), groups: Vec::new(), numbers: Vec::new() };
        for part in text.split('-') {
            let known = add(part, &mut proposal.encryption)
                || add(part, &mut proposal.groups)
                || add(part, &mut proposal.numbers);
            if !known {
                return Err(InvalidProposal::Unknown { text: text.to_owned(), part: part.to_owned() });
            }
        }
        if proposal.encryption.is_empty() {
            return Err(InvalidProposal::Incomplete(text.to_owned()));
        }
        if proposal.numbers.is_empty() {
            proposal.numbers.push(SequenceNumbers::Short);
        }
        Ok(proposal)
    }
}

fn add<A: Algorithm>(name: &str, list: &mut Vec<A>) -> bool {
    let Some(algorithm) = A::by_name(name) else { return false };
    if !list.contains(&algorithm) {
        list.push(algorithm);
    }
    true
}

fn transforms<A: Algorithm>(list: &[A]) -> impl Iterator<Item = Transform> {
    list.iter().map(|algorithm| algorithm.transform())
}

/// Our first choice that the other side lists. A transform counts as listed only with exactly our attributes:
/// RFC 7296 §3.3.6: one with an attribute that isn't understood is unacceptable.
fn first_listed<A: Algorithm>(ours: &[A], theirs: &Proposal) -> Option<A> {
    ours.iter().copied().find(|algorithm| theirs.transforms.contains(&algorithm.transform()))
}

fn mentions(proposal: &Proposal, kind: u8) -> bool {
    proposal.transforms.iter().any(|transform| transform.kind == kind)
}

fn lists_none(proposal: &Proposal, kind: u8) -> bool {
    proposal.transforms.iter().any(|transform| transform.kind == kind && transform.id == NONE)
}

/// RFC 7296 §3.3: a combined-mode cipher has no integrity algorithm, or NONE.
fn integrity_is_none(proposal: &Proposal) -> bool {
    !mentions(proposal, kind::INTEG) || lists_none(proposal, kind::INTEG)
}

/// RFC 7296 §3.3.6: a proposal with a transform type that isn't understood is unacceptable.
fn only_kinds(proposal: &Proposal, kinds: &[u8]) -> bool {
    proposal.transforms.iter().all(|transform| kinds.contains(&transform.kind))
}

fn pick_group(ours: &[Group], theirs: &Proposal, ke: Option<Group>) -> Option<Group> {
    // The group that already came with a public value saves a round trip.
    ke.filter(|group| ours.contains(group) && theirs.transforms.contains(&group.transform()))
        .or_else(|| first_listed(ours, theirs))
}

impl IkeProposal {
    /// The group to try first.
    pub fn first_group(&self) -> Option<Group> {
        self.groups.first().copied()
    }

    /// Is this group among those proposed?
    pub fn has_group(&self, group: Group) -> bool {
        self.groups.contains(&group)
    }

    fn select(&self, theirs: &Proposal, ke: Option<Group>) -> Option<IkeSuite> {
        if theirs.protocol != Protocol::Ike || !only_kinds(theirs, &[kind::ENCR, kind::PRF, kind::INTEG, kind::DH]) {
            return None;
        }
        Some(IkeSuite {
            cipher: self.ciphers.select(theirs)?,
            prf: first_listed(&self.prf, theirs)?,
            group: pick_group(&self.groups, theirs, ke)?,
        })
    }

    /// Could this suite come out of this proposal?
    pub fn allows(&self, suite: &IkeSuite) -> bool {
        self.ciphers.contains(suite.cipher) && self.prf.contains(&suite.prf) && self.groups.contains(&suite.group)
    }
}

impl EspProposal {
    /// Could this suite come out of this proposal? The first child SA of an IKE SA has no key exchange of its own, so whether there
    /// was one says nothing.
    pub(crate) fn allows(&self, suite: &EspSuite) -> bool {
        self.encryption.contains(&suite.encryption)
            && self.numbers.iter().any(|numbers| (*numbers == SequenceNumbers::Extended) == suite.esn)
    }
}

impl Ciphers {
    fn select(&self, theirs: &Proposal) -> Option<Cipher> {
        match self {
            Self::Combined(_) if !integrity_is_none(theirs) => None,
            Self::Combined(encryption) => first_listed(encryption, theirs).map(Cipher::Combined),
            Self::Separate { encryption, integrity } => {
                Some(Cipher::Separate(first_listed(encryption, theirs)?, first_listed(integrity, theirs)?))
            }
        }
    }

    fn contains(&self, cipher: Cipher) -> bool {
        match (self, cipher) {
            (Self::Combined(ours), Cipher::Combined(one)) => ours.contains(&one),
            (Self::Separate { encryption, integrity }, Cipher::Separate(one, with)) => {
                encryption.contains(&one) && integrity.contains(&with)
            }
            _ => false,
        }
    }

    fn transforms(&self) -> Vec<Transform> {
        match self {
            Self::Combined(encryption) => transforms(encryption).collect(),
            Self::Separate { encryption, integrity } => transforms(encryption).chain(transforms(integrity)).collect(),
        }
    }
}

impl Cipher {
    fn transforms(self) -> Vec<Transform> {
        match self {
            Self::Combined(encryption) => vec![encryption.transform()],
            Self::Separate(cbc, integrity) => vec![cbc.transform(), integrity.transform()],
        }
    }
}

impl EspProposal {
    /// The group to try first, where the proposal has a key exchange of its own.
    pub fn first_group(&self) -> Option<Group> {
        self.groups.first().copied()
    }

    /// Is this group among those proposed?
    pub fn has_group(&self, group: Group) -> bool {
        self.groups.contains(&group)
    }

    /// The ciphers proposed.
    pub fn encryptions(&self) -> &[Encryption] {
        &self.encryption
    }

    /// The proposal as IKE_AUTH makes it.
    pub fn without_groups(&self) -> Self {
        Self { groups: Vec::new(), ..self.clone() }
    }

    /// Is there any algorithm with extended sequence numbers? (A data plane without them says no to the configuration.)
    pub fn wants_esn(&self) -> bool {
        self.numbers.contains(&SequenceNumbers::Extended)
    }

    fn select(&self, theirs: &Proposal, ke: KeyExchange) -> Option<EspSuite> {
        if theirs.protocol != Protocol::Esp
            || !only_kinds(theirs, &[kind::ENCR, kind::INTEG, kind::DH, kind::ESN])
            || !integrity_is_none(theirs)
        {
            return None;
        }
        let group = match ke {
            // RFC 7296 §1.2: no key exchange in IKE_AUTH; a peer that lists groups there all the same is not turned away.
            KeyExchange::None => None,
            KeyExchange::Allowed(_) if self.groups.is_empty() => {
                if mentions(theirs, kind::DH) && !lists_none(theirs, kind::DH) {
                    return None;
                }
                None
            }
            KeyExchange::Allowed(ke) => Some(pick_group(&self.groups, theirs, ke)?),
        };
        Some(EspSuite {
            encryption: first_listed(&self.encryption, theirs)?,
            group,
            esn: first_listed(&self.numbers, theirs)? == SequenceNumbers::Extended,
        })
    }
}

/// Whether a child SA may have a key exchange of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyExchange {
    /// In IKE_AUTH it can't.
    None,
    /// In CREATE_CHILD_SA it may; the group of the KE payload, where there was one.
    Allowed(Option<Group>),
}

/// Our proposals as they go on the wire.
pub(crate) trait Offer {
    fn to_wire(&self, number: u8, spi: &[u8]) -> Proposal;
}

impl Offer for IkeProposal {
    fn to_wire(&self, number: u8, spi: &[u8]) -> Proposal {
        let rest = transforms(&self.prf).chain(transforms(&self.groups));
        let transforms = self.ciphers.transforms().into_iter().chain(rest).collect();
        Proposal { number, protocol: Protocol::Ike, spi: spi.to_vec(), transforms }
    }
}

impl Offer for EspProposal {
    fn to_wire(&self, number: u8, spi: &[u8]) -> Proposal {
        let transforms =
            transforms(&self.encryption).chain(transforms(&self.groups)).chain(transforms(&self.numbers)).collect();
        Proposal { number, protocol: Protocol::Esp, spi: spi.to_vec(), transforms }
    }
}

/// An SA payload with all of `proposals`, numbered from 1 (RFC 7296 §3.3.1).
pub(crate) fn offer<P: Offer>(proposals: &[P], spi: &[u8]) -> Vec<Proposal> {
    (1..=u8::MAX).zip(proposals).map(|(number, proposal)| proposal.to_wire(number, spi)).collect()
}

/// The best of our proposals that one of theirs meets. Our order counts, then theirs.
pub(crate) fn pick_ike<'a>(
    ours: &[IkeProposal],
    theirs: &'a [Proposal],
    ke: Option<Group>,
) -> Option<(IkeSuite, &'a Proposal)> {
    ours.iter().find_map(|ours| theirs.iter().find_map(|one| Some((ours.select(one, ke)?, one))))
}

/// See [`pick_ike`].
pub(crate) fn pick_esp<'a>(
    ours: &[EspProposal],
    theirs: &'a [Proposal],
    ke: KeyExchange,
) -> Option<(EspSuite, &'a Proposal)> {
    ours.iter().find_map(|ours| theirs.iter().find_map(|one| Some((ours.select(one, ke)?, one))))
}

/// RFC 7296 §2.7: the accepted suite MUST contain exactly one transform of each type included in the proposal.
fn answer(chosen: Vec<Transform>, theirs: &Proposal, spi: &[u8]) -> Proposal {
    let mut transforms = chosen;
    for kind in [kind::INTEG, kind::DH] {
        let answered = transforms.iter().any(|transform| transform.kind == kind);
        if !answered && lists_none(theirs, kind) {
            transforms.push(Transform { kind, id: NONE, attributes: Vec::new() });
        }
    }
    Proposal { number: theirs.number, protocol: theirs.protocol, spi: spi.to_vec(), transforms }
}

impl IkeSuite {
    /// The SA payload that accepts `theirs`.
    pub(crate) fn answer(&self, theirs: &Proposal, spi: &[u8]) -> Proposal {
        let mut chosen = self.cipher.transforms();
        chosen.extend([self.prf.transform(), self.group.transform()]);
        answer(chosen, theirs, spi)
    }
}

impl EspSuite {
    /// See [`IkeSuite::answer`].
    pub(crate) fn answer(&self, theirs: &Proposal, spi: &[u8]) -> Proposal {
        let mut chosen = vec![self.encryption.transform()];
        chosen.extend(self.group.map(Algorithm::transform));
        chosen.push(self.numbers().transform());
        answer(chosen, theirs, spi)
    }

    const fn numbers(&self) -> SequenceNumbers {
        if self.esn { SequenceNumbers::Extended } else { SequenceNumbers::Short }
    }
}

/// Alternatives of one kind.
fn names<A: Algorithm>(list: &[A]) -> impl Iterator<Item = &'static str> {
    list.iter().map(|algorithm| algorithm.name())
}

fn write_names(f: &mut fmt::Formatter<'_>, names: impl Iterator<Item = &'static str>) -> fmt::Result {
    names.enumerate().try_for_each(|(i, name)| write!(f, "{}{name}", if i == 0 { "" } else { "-" }))
}

/// As it is parsed from text.
impl fmt::Display for IkeProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest = names(&self.prf).chain(names(&self.groups));
        match &self.ciphers {
            Ciphers::Combined(encryption) => write_names(f, names(encryption).chain(rest)),
            Ciphers::Separate { encryption, integrity } => {
                write_names(f, names(encryption).chain(names(integrity)).chain(rest))
            }
        }
    }
}

/// As it is parsed from text.
impl fmt::Display for EspProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: &[SequenceNumbers] = if self.numbers == [SequenceNumbers::Short] { &[] } else { &self.numbers };
        write_names(f, names(&self.encryption).chain(names(&self.groups)).chain(names(numbers)))
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Combined(encryption) => f.write_str(encryption.name()),
            Self::Separate(cbc, integrity) => write!(f, "{}-{}", cbc.name(), integrity.name()),
        }
    }
}

impl fmt::Display for IkeSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.cipher, self.prf.name(), self.group.name())
    }
}

impl fmt::Display for EspSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.encryption.name())?;
        if let Some(group) = self.group {
            write!(f, "-{}", group.name())?;
        }
        if self.esn { f.write_str("-esn") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proposals_are_written_as_they_are_read() {
        for text in [
            "aes256gcm16-prfsha256-x25519",
            "aes256gcm16-aes128gcm16-prfsha384-prfsha256-x25519-ecp256",
            "chacha20poly1305-prfsha512-modp3072",
            "aes256-aes128-sha512-sha256-prfsha384-modp2048-ecp384",
        ] {
            assert_eq!(text.parse::<IkeProposal>().unwrap().to_string(), text);
        }
        for text in
            ["aes128gcm16", "aes256gcm16-aes128gcm16-x25519-esn", "aes256gcm16-esn-noesn", "chacha20poly1305-modp2048"]
        {
            assert_eq!(text.parse::<EspProposal>().unwrap().to_string(), text);
        }
        let other_names = "prfsha256-curve25519-aes128gcm128".parse::<IkeProposal>().unwrap();
        assert_eq!(other_names.to_string(), "aes128gcm16-prfsha256-x25519");
        // As in swanctl.conf, the integrity algorithms' PRFs are meant where none is named.
        let without_prf = "aes128-sha256-modp2048".parse::<IkeProposal>().unwrap();
        assert_eq!(without_prf.to_string(), "aes128-sha256-prfsha256-modp2048");
        assert_eq!("aes128gcm16-noesn".parse::<EspProposal>().unwrap().to_string(), "aes128gcm16");
    }
}
