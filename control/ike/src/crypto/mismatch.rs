//! Why no proposal was acceptable, for an operator.

use std::fmt;

use super::suite::Offer;
use super::transform::{Algorithm, Cbc, Encryption, Group, Integrity, NONE, Prf, SequenceNumbers, kind};
use crate::message::sa::{Attribute, Proposal, Transform};

/// Most of the peer's proposals, and transforms of each, that a log line shows.
const SHOWN_MAX: usize = 16;

/// Ours and theirs, and what the closest pair of them disagrees about.
pub(crate) struct Mismatch<'a> {
    ours: Vec<Proposal>,
    theirs: &'a [Proposal],
}

impl<'a> Mismatch<'a> {
    pub(crate) fn new<'b, P: Offer + 'b>(ours: impl Iterator<Item = &'b P>, theirs: &'a [Proposal]) -> Self {
        Self { ours: ours.map(|proposal| proposal.to_wire(0, &[])).collect(), theirs }
    }

    /// Kinds of algorithms without a common member, of the pair of proposals that has the fewest of them.
    fn closest(&self) -> Vec<u8> {
        let pairs = self.ours.iter().flat_map(|ours| self.theirs.iter().map(move |theirs| differences(ours, theirs)));
        pairs.min_by_key(Vec::len).unwrap_or_default()
    }
}

/// `no common key exchange group; peer proposes [...]; we accept [...]`
impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no common")?;
        for (i, kind) in self.closest().into_iter().enumerate() {
            write!(f, "{} {}", if i == 0 { "" } else { "," }, KindName(kind))?;
        }
        f.write_str("; peer proposes ")?;
        write_proposals(f, self.theirs)?;
        f.write_str("; we accept ")?;
        write_proposals(f, &self.ours)
    }
}

fn differences(ours: &Proposal, theirs: &Proposal) -> Vec<u8> {
    let all = |proposal: &Proposal| proposal.transforms.iter().map(|t| t.kind).collect::<Vec<_>>();
    let mut kinds = [all(ours), all(theirs)].concat();
    kinds.sort_unstable();
    kinds.dedup();
    let of = |proposal: &Proposal, kind| -> Vec<Transform> {
        proposal.transforms.iter().filter(|transform| transform.kind == kind).cloned().collect()
    };
    kinds.retain(|kind| {
        let (ours, theirs) = (of(ours, *kind), of(theirs, *kind));
        let agreed = if ours.is_empty() {
            theirs.iter().any(|transform| transform.id == NONE)
        } else {
            ours.iter().any(|transform| theirs.contains(transform))
        };
        !agreed
    });
    kinds
}

fn write_proposals(f: &mut fmt::Formatter<'_>, proposals: &[Proposal]) -> fmt::Result {
    for (i, proposal) in proposals.iter().take(SHOWN_MAX).enumerate() {
        f.write_str(if i == 0 { "" } else { ", " })?;
        for (i, transform) in proposal.transforms.iter().take(SHOWN_MAX).enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { "-" }, TransformName(transform))?;
        }
    }
    if proposals.len() > SHOWN_MAX { f.write_str(", ...") } else { Ok(()) }
}

/// What a transform type is about.
struct KindName(u8);

impl fmt::Display for KindName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            kind::ENCR => f.write_str("encryption algorithm"),
            kind::PRF => f.write_str("PRF"),
            kind::INTEG => f.write_str("integrity algorithm"),
            kind::DH => f.write_str("key exchange group"),
            kind::ESN => f.write_str("kind of sequence numbers"),
            other => write!(f, "transform of type {other}"),
        }
    }
}

/// The name that a configuration would use, or the registry's numbers.
struct TransformName<'a>(&'a Transform);

impl fmt::Display for TransformName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn known<A: Algorithm>(transform: &Transform) -> Option<&'static str> {
            A::NAMES.iter().find(|(_, algorithm)| algorithm.transform() == *transform).map(|(name, _)| *name)
        }
        let Transform { kind, id, attributes } = self.0;
        let name = match *kind {
            kind::ENCR => known::<Encryption>(self.0).or_else(|| known::<Cbc>(self.0)),
            kind::PRF => known::<Prf>(self.0),
            kind::INTEG => known::<Integrity>(self.0),
            kind::DH => known::<Group>(self.0),
            kind::ESN => known::<SequenceNumbers>(self.0),
            _ => None,
        };
        if let Some(name) = name {
            return f.write_str(name);
        }
        match *kind {
            kind::ENCR => write!(f, "encr{id}")?,
            kind::PRF => write!(f, "prf{id}")?,
            kind::INTEG => write!(f, "integ{id}")?,
            kind::DH => write!(f, "group{id}")?,
            other => write!(f, "type{other}:{id}")?,
        }
        attributes.iter().try_for_each(|attribute| match attribute {
            Attribute::KeyLength(bits) => write!(f, "/{bits}"),
            Attribute::Short(kind, _) | Attribute::Long(kind, _) => write!(f, "/attribute{kind}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{EspProposal, IkeProposal, offer};

    fn ike(text: &str) -> IkeProposal {
        text.parse().unwrap()
    }

    #[test]
    fn the_log_names_what_failed() {
        let theirs = offer(&[ike("aes128-sha256-prfsha256-modp3072"), ike("aes256gcm16-prfsha256-ecp256")], &[]);
        let ours = [ike("aes256gcm16-prfsha256-prfsha384-x25519")];
        assert_eq!(
            Mismatch::new(ours.iter(), &theirs).to_string(),
            "no common key exchange group; peer proposes aes128-sha256-prfsha256-modp3072, aes256gcm16-prfsha256-ecp256; \
             we accept aes256gcm16-prfsha256-prfsha384-x25519"
        );
    }

    #[test]
    fn what_we_do_not_know_is_shown_by_its_numbers() {
        let transform = |kind, id, attributes| Transform { kind, id, attributes };
        let mut theirs = offer(&["aes256gcm16".parse::<EspProposal>().unwrap()], &[]);
        theirs[0].transforms =
            vec![transform(1, 23, vec![Attribute::KeyLength(128)]), transform(3, 2, vec![]), transform(5, 0, vec![])];
        let ours = ["aes256gcm16".parse::<EspProposal>().unwrap()];
        assert_eq!(
            Mismatch::new(ours.iter(), &theirs).to_string(),
            "no common encryption algorithm, integrity algorithm; peer proposes encr23/128-integ2-noesn; we accept \
             aes256gcm16-noesn"
        );
    }
}
