//! `[[pool]]`: inside addresses for remote peers that ask for one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use vipsec_ike::AddressPool;
use vipsec_wire::ip::Prefix;

use super::error::Reason;
use super::names::Names;
use super::read::{Field, Section, every};
use super::value;

/// Most `[[pool]]` tables, and most pools of a connection.
pub const POOLS_MAX: usize = 256;
/// Most name servers of a pool.
const DNS_MAX: usize = 8;

/// All pools, for connections to refer to.
pub(super) struct Pools {
    names: Names,
    pools: Vec<Option<Arc<AddressPool>>>,
    /// Whose connections take addresses from a pool: VIPs move one by one, and the two owners wouldn't know of each other's
    /// assignments.
    vips: RefCell<BTreeMap<usize, usize>>,
}

impl Pools {
    /// Reads all `[[pool]]` tables.
    pub(super) fn read(root: &Section) -> Self {
        let mut names = Names::new("pool");
        let mut taken: Vec<(IpAddr, IpAddr, usize)> = Vec::new();
        let mut pools = Vec::new();
        for (index, section) in root.tables("pool", POOLS_MAX).into_iter().enumerate() {
            let name = names.declare(index, &section);
            let addresses = section.required("addrs").and_then(|field| {
                let (first, last) = field.parse(addresses)?;
                let shares = |other: &&(IpAddr, IpAddr, usize)| first <= other.1 && other.0 <= last;
                if let Some((.., first_line)) = taken.iter().find(shares) {
                    field.report(Reason::PoolsOverlap { first_line: *first_line });
                }
                taken.push((first, last, field.line()));
                Some((first, last))
            });
            let dns = section.optional("dns").map_or(Some(Vec::new()), |field| {
                every(field.list(DNS_MAX).iter().map(|item| item.parse(value::host)))
            });
            section.finish();
            pools.push((|| {
                let (first, last) = addresses?;
                Some(Arc::new(AddressPool { name: name?, first, last, dns: dns? }))
            })());
        }
        Self { names, pools, vips: RefCell::default() }
    }

    /// The pools that a connection of that VIP names.
    pub(super) fn resolve(&self, field: &Field, vip: Option<usize>) -> Option<Vec<Arc<AddressPool>>> {
        every(field.filled_list(POOLS_MAX).iter().map(|item| {
            let index = self.names.resolve(item)?;
            if let Some(vip) = vip
                && *self.vips.borrow_mut().entry(index).or_insert(vip) != vip
            {
                item.report(Reason::PoolOfTwoVips);
            }
            self.pools.get(index)?.clone()
        }))
    }
}

/// A prefix, without the addresses in it that no host can have; or a first and a last address.
fn addresses(text: &str) -> Result<(IpAddr, IpAddr), Reason> {
    let malformed = || Reason::Malformed {
        value: text.to_owned(),
        expected: "a prefix, or addresses like \"10.3.0.10-10.3.0.99\"",
    };
    let Some((first, last)) = text.split_once('-') else {
        return Ok(hosts(value::prefix(text)?));
    };
    let (first, last) = (value::host(first.trim())?, value::host(last.trim())?);
    if first.is_ipv4() != last.is_ipv4() {
        return Err(Reason::MixedFamilies(first.to_string(), last.to_string()));
    }
    if first <= last { Ok((first, last)) } else { Err(malformed()) }
}

fn hosts(prefix: Prefix) -> (IpAddr, IpAddr) {
    match (prefix.address(), prefix.last()) {
        // RFC 3021: a /31 has neither a network's address nor a broadcast address; nor has a /32.
        (IpAddr::V4(first), IpAddr::V4(last)) if prefix.bits() < 31 => {
            (IpAddr::V4((u32::from(first) + 1).into()), IpAddr::V4((u32::from(last) - 1).into()))
        }
        // RFC 4291 §2.6.1: the subnet-router anycast address. RFC 6164 §5: not used on a /127.
        (IpAddr::V6(first), last) if prefix.bits() < 127 => (IpAddr::V6((u128::from(first) + 1).into()), last),
        ends => ends,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_gives_what_hosts_can_have() {
        for (text, first, last) in [
            ("10.3.0.0/24", "10.3.0.1", "10.3.0.254"),
            ("10.3.0.4/31", "10.3.0.4", "10.3.0.5"),
            ("10.3.0.4", "10.3.0.4", "10.3.0.4"),
            ("10.3.0.10 - 10.3.1.9", "10.3.0.10", "10.3.1.9"),
            ("2001:db8:7::/120", "2001:db8:7::1", "2001:db8:7::ff"),
            ("2001:db8:7::8/128", "2001:db8:7::8", "2001:db8:7::8"),
        ] {
            assert_eq!(addresses(text), Ok((first.parse().unwrap(), last.parse().unwrap())), "{text}");
        }
        for bad in ["", "10.3.0.1/24", "10.3.0.9-10.3.0.1", "10.3.0.9-2001:db8::1", "10.3.0.9-", "0.0.0.0-10.3.0.1"] {
            assert!(addresses(bad).is_err(), "{bad:?}");
        }
    }
}
