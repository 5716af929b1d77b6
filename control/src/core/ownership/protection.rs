//! How far an owner's copies are, for its log: every change, and again and again that there is none.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use vipsec_takeover::decider::{Copy, PeerStatus, Role, Status};
use vipsec_wire::iv::ApplianceId;

use crate::core::Core;

/// How often an owner says that it has no copy.
const REPEAT: Duration = Duration::from_secs(60);
/// Backups of a new owner have so long to join before it says so for the first time.
const JOIN_MAX: Duration = Duration::from_secs(1);
/// An attempt to pair that failed says for so long why there is no link.
const MISMATCH: Duration = Duration::from_secs(15);

/// Why an appliance has no copy, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) enum Lack {
    LinkDown,
    NoCommonVersion,
    Differs,
    BeingFilled,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LinkDown => "link down",
            Self::NoCommonVersion => "no common version",
            Self::Differs => "configurations differ",
            Self::BeingFilled => "being filled",
        })
    }
}

/// What there is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Notice {
    Counted(ApplianceId),
    Leaving(ApplianceId),
    Gone(ApplianceId),
    Unprotected,
}

/// What was said of a group's copies.
#[derive(Debug, Default)]
pub(in crate::core) struct Protection {
    owns: bool,
    /// Those that count or may still be resumed from: does the owner leave them?
    copies: BTreeMap<ApplianceId, Standing>,
    /// There is none: when that is to be said next.
    say_at: Option<Instant>,
    /// Appliances that speak no version of the link that we do, and when that was found out.
    mismatched: BTreeMap<ApplianceId, Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Counted,
    Leaving,
}

impl Protection {
    /// Looks at how the copies are now.
    fn look(&mut self, now: Instant, status: &Status) -> Vec<Notice> {
        let mut notices = Vec::new();
        if !matches!(status.role, Role::Owner { .. } | Role::HandingOver { .. }) {
            (self.owns, self.say_at) = (false, None);
            self.copies.clear();
            return notices;
        }
        let patience = if std::mem::replace(&mut self.owns, true) { Duration::ZERO } else { JOIN_MAX };
        for peer in &status.peers {
            let at = peer.appliance;
            let standing = match peer.copy {
                Copy::Counted => Some(Standing::Counted),
                Copy::Leaving { .. } => Some(Standing::Leaving),
                Copy::None | Copy::Joining => None,
            };
            let before = self.copies.get(&at).copied();
            if before == standing {
                continue;
            }
            match standing {
                Some(standing) => self.copies.insert(at, standing),
                None => self.copies.remove(&at),
            };
            notices.push(match standing {
                Some(Standing::Counted) => Notice::Counted(at),
                Some(Standing::Leaving) => Notice::Leaving(at),
                None => Notice::Gone(at),
            });
        }
        if !self.copies.is_empty() {
            self.say_at = None;
        } else if now >= *self.say_at.get_or_insert(now + patience) {
            self.say_at = Some(now + REPEAT);
            notices.push(Notice::Unprotected);
        }
        notices
    }

    /// Why has an appliance no copy that counts?
    pub(in crate::core) fn lack(&self, now: Instant, peer: &PeerStatus) -> Option<Lack> {
        let mismatched = || self.mismatched.get(&peer.appliance).is_some_and(|at| now < *at + MISMATCH);
        match peer.copy {
            Copy::Counted | Copy::Leaving { .. } => None,
            Copy::Joining => Some(Lack::BeingFilled),
            Copy::None if !peer.linked && mismatched() => Some(Lack::NoCommonVersion),
            Copy::None if !peer.linked => Some(Lack::LinkDown),
            Copy::None if !peer.agreed => Some(Lack::Differs),
            Copy::None => None,
        }
    }

    /// Why have none of these appliances one? One word if it is the same for all.
    pub(in crate::core) fn lacks(&self, now: Instant, peers: &[PeerStatus]) -> Option<String> {
        let lacks: Vec<_> = peers.iter().map(|peer| (peer.appliance, self.lack(now, peer))).collect();
        let (_, first) = lacks.first()?;
        if lacks.iter().all(|(_, lack)| lack == first) {
            return first.map(|lack| lack.to_string());
        }
        let each = lacks.iter().filter_map(|(at, lack)| Some(format!("{at} {}", (*lack)?)));
        Some(each.collect::<Vec<_>>().join(", ")).filter(|all| !all.is_empty())
    }
}

impl Core {
    /// An appliance wants to pair, and speaks no version of the store link that we do.
    pub fn handle_no_common_version(&mut self, now: Instant, group: usize, peer: ApplianceId) {
        if let Some(entry) = self.groups.get_mut(group) {
            entry.protection.mismatched.insert(peer, now);
        }
    }

    /// Says what has become of a group's copies.
    pub(in crate::core) fn watch_copies(&mut self, now: Instant, group: usize, status: &Status) {
        let Some(entry) = self.groups.get_mut(group) else { return };
        let name = &entry.name;
        for notice in entry.protection.look(now, status) {
            match notice {
                Notice::Counted(at) => {
                    tracing::info!(group = name, appliance = %at, "protected: that appliance's copy counts")
                }
                Notice::Leaving(at) => {
                    tracing::warn!(group = name, appliance = %at, "that appliance's copy is left behind once its trust has run out");
                }
                Notice::Gone(at) => {
                    tracing::warn!(group = name, appliance = %at, "that appliance has no copy any more")
                }
                Notice::Unprotected => {
                    let reason = entry.protection.lacks(now, &status.peers).unwrap_or_else(|| "not known".to_owned());
                    tracing::warn!(
                        group = name,
                        reason,
                        "unprotected: nobody has a copy, and the SAs end with this process"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use vipsec_wire::iv::Epoch;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn other() -> ApplianceId {
        ApplianceId::new(2).unwrap()
    }

    fn peer(copy: Copy) -> PeerStatus {
        PeerStatus { appliance: other(), linked: true, agreed: true, healthy: true, copy }
    }

    fn owner(copy: Copy) -> Status {
        let role = Role::Owner { epoch: Epoch(3) };
        Status { role, owner: None, seen: Epoch(3), trusted: false, silent_looks: 0, peers: vec![peer(copy)] }
    }

    #[test]
    fn every_change_of_a_copy_is_said_once() {
        let (now, mut protection) = (Instant::now(), Protection::default());
        let leaving = owner(Copy::Leaving { until: now });
        assert_eq!(protection.look(now, &owner(Copy::Joining)), []);
        assert_eq!(protection.look(now, &owner(Copy::Counted)), [Notice::Counted(other())]);
        assert_eq!(protection.look(now + SECOND, &owner(Copy::Counted)), []);
        assert_eq!(protection.look(now + 2 * SECOND, &leaving), [Notice::Leaving(other())]);
        let gone = protection.look(now + 3 * SECOND, &owner(Copy::None));
        assert_eq!(gone, [Notice::Gone(other()), Notice::Unprotected]);
        assert_eq!(protection.look(now + 4 * SECOND, &owner(Copy::Counted)), [Notice::Counted(other())]);
    }

    #[test]
    fn that_nobody_has_a_copy_is_said_again_and_again() {
        let (now, mut protection) = (Instant::now(), Protection::default());
        let said = (0..200).filter(|second| !protection.look(now + *second * SECOND, &owner(Copy::None)).is_empty());
        assert_eq!(said.collect::<Vec<_>>(), [1, 61, 121, 181], "a backup has a moment to join");
    }

    #[test]
    fn a_backup_has_nothing_to_say() {
        let (now, mut protection) = (Instant::now(), Protection::default());
        let backup = Status { role: Role::Standby, ..owner(Copy::None) };
        protection.look(now, &owner(Copy::Counted));
        assert_eq!(protection.look(now, &backup), []);
        assert_eq!(protection.look(now + 100 * SECOND, &backup), []);
    }

    #[test]
    fn what_is_known_of_a_missing_copy() {
        let (now, mut protection) = (Instant::now(), Protection::default());
        let unlinked = PeerStatus { linked: false, agreed: false, ..peer(Copy::None) };
        let differs = PeerStatus { agreed: false, ..peer(Copy::None) };
        assert_eq!(protection.lack(now, &unlinked), Some(Lack::LinkDown));
        assert_eq!(protection.lack(now, &differs), Some(Lack::Differs));
        assert_eq!(protection.lack(now, &peer(Copy::Joining)), Some(Lack::BeingFilled));
        assert_eq!(protection.lack(now, &peer(Copy::Counted)), None);
        protection.mismatched.insert(other(), now);
        assert_eq!(protection.lack(now + SECOND, &unlinked), Some(Lack::NoCommonVersion));
        assert_eq!(protection.lack(now + 20 * SECOND, &unlinked), Some(Lack::LinkDown), "it is gone since");
        let third = PeerStatus { appliance: ApplianceId::new(3).unwrap(), ..differs.clone() };
        let two = [unlinked, third];
        assert_eq!(protection.lacks(now + 20 * SECOND, &two).as_deref(), Some("2 link down, 3 configurations differ"));
        assert_eq!(protection.lacks(now, &[differs.clone(), differs]).as_deref(), Some("configurations differ"));
    }
}
