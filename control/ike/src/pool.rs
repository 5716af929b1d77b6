//! Pools of inside addresses for remote peers that ask for one (RFC 7296 §2.19).
//!
//! Who has which address stands in the records of the IKE SAs, so a successor knows it. An identity's first choice is drawn from
//! the identity itself: it mostly gets the same address again, from a successor too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::identity::Identity;
use crate::sa::IkeSaId;

/// Addresses to be assigned. A pool belongs to one VIP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressPool {
    /// Its name, unique in the configuration and the same on all appliances: records refer to it.
    pub name: String,
    /// First address.
    pub first: IpAddr,
    /// Last address, of the same family.
    pub last: IpAddr,
    /// Name servers that come with an address.
    pub dns: Vec<IpAddr>,
}

/// An address that an IKE SA has out of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Assigned {
    pub(crate) pool: String,
    pub(crate) address: IpAddr,
}

/// Who has which address.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    held: BTreeMap<IpAddr, Lease>,
}

#[derive(Debug)]
struct Lease {
    identity: Identity,
    /// More than one while a peer authenticates anew before it lets go of the old IKE SA (RFC 7296 §2.8.3).
    holders: BTreeSet<IkeSaId>,
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

impl AddressPool {
    /// Is the address one of its own?
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && (self.first..=self.last).contains(&address)
    }

    fn size(&self) -> u128 {
        number(self.last).saturating_sub(number(self.first)).saturating_add(1)
    }

    fn at(&self, offset: u128) -> IpAddr {
        let number = number(self.first).saturating_add(offset);
        match self.first {
            IpAddr::V4(_) => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()),
            IpAddr::V6(_) => IpAddr::V6(number.into()),
        }
    }

    /// Where the search for a free address begins.
    fn preference(&self, identity: &Identity) -> u128 {
        let mut encoded = Vec::new();
        identity.encode(&mut encoded);
        let hash = digest(&SHA256, &encoded);
        let prefix = hash.as_ref().first_chunk().copied().unwrap_or_default();
        u128::from_be_bytes(prefix).checked_rem(self.size()).unwrap_or(0)
    }
}

impl Leases {
    /// An address for `identity`: the one it asks for if that is free or its own, else its preference, else the next free one.
    /// `None`: the pool is used up.
    pub(crate) fn assign(
        &mut self,
        pool: &AddressPool,
        wanted: Option<IpAddr>,
        identity: &Identity,
        holder: IkeSaId,
    ) -> Option<IpAddr> {
        let wanted = wanted.filter(|address| pool.contains(*address));
        let address = wanted.filter(|address| self.is_for(*address, identity)).or_else(|| {
            let (start, size) = (pool.preference(identity), pool.size());
            // Among one more than there are leases, one is free.
            let tries = size.min(self.held.len() as u128 + 1);
            (0..tries).map(|n| pool.at((start + n) % size)).find(|address| !self.held.contains_key(address))
        })?;
        self.hold(address, identity, holder);
        Some(address)
    }

    /// Is it free, or that identity's already?
    fn is_for(&self, address: IpAddr, identity: &Identity) -> bool {
        self.held.get(&address).is_none_or(|lease| lease.identity == *identity)
    }

    /// An IKE SA has an address: assigned, inherited, or taken over with its record.
    pub(crate) fn hold(&mut self, address: IpAddr, identity: &Identity, holder: IkeSaId) {
        let lease =
            self.held.entry(address).or_insert_with(|| Lease { identity: identity.clone(), holders: BTreeSet::new() });
        lease.holders.insert(holder);
    }

    /// An IKE SA has it no longer.
    pub(crate) fn release(&mut self, address: IpAddr, holder: IkeSaId) {
        if let Some(lease) = self.held.get_mut(&address) {
            lease.holders.remove(&holder);
            if lease.holders.is_empty() {
                self.held.remove(&address);
            }
        }
    }

    /// Addresses in use.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(first: &str, last: &str) -> AddressPool {
        AddressPool {
            name: "p".to_owned(),
            first: first.parse().unwrap(),
            last: last.parse().unwrap(),
            dns: Vec::new(),
        }
    }

    fn id(n: u64) -> IkeSaId {
        IkeSaId(n)
    }

    #[test]
    fn every_address_once_then_none() {
        for pool in [pool("10.0.0.250", "10.0.1.3"), pool("2001:db8::fffe", "2001:db8::1:7")] {
            let mut leases = Leases::default();
            let mut seen = BTreeSet::new();
            for n in 0..10 {
                let address = leases.assign(&pool, None, &Identity::fqdn(&format!("peer{n}")), id(n)).unwrap();
                assert!(pool.contains(address) && seen.insert(address));
            }
            assert_eq!(leases.assign(&pool, None, &Identity::fqdn("late"), id(99)), None);
            leases.release(*seen.first().unwrap(), id(0));
            // Released by one that doesn't hold it: nothing happens.
            let before = leases.len();
            leases.release(*seen.last().unwrap(), id(77));
            assert_eq!(leases.len(), before);
        }
    }

    #[test]
    fn the_same_identity_gets_the_same_address_again() {
        let pool = pool("10.0.0.0", "10.0.255.255");
        let peer = Identity::fqdn("branch.example");
        let first = Leases::default().assign(&pool, None, &peer, id(1)).unwrap();
        // A successor that knows nothing of it finds the same.
        let mut leases = Leases::default();
        assert_eq!(leases.assign(&pool, None, &peer, id(2)), Some(first));
        // While it holds that one, it gets another, unless it asks for it: then it authenticates anew.
        assert_ne!(leases.assign(&pool, None, &peer, id(3)), Some(first));
        assert_eq!(leases.assign(&pool, Some(first), &peer, id(4)), Some(first));
        leases.release(first, id(2));
        let other = Identity::fqdn("other.example");
        assert_ne!(leases.assign(&pool, Some(first), &other, id(5)), Some(first));
        leases.release(first, id(4));
        assert_eq!(leases.assign(&pool, Some(first), &other, id(6)), Some(first));
        // Not one outside of the pool.
        assert!(pool.contains(leases.assign(&pool, Some("192.0.2.1".parse().unwrap()), &other, id(7)).unwrap()));
    }
}
