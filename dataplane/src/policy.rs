//! The security policy database (RFC 4301 §4.4.1): what may pass in the clear, what has to be protected, what is discarded.

use crate::api::{Policy, PolicyAction};
use crate::selector::{Ends, Range};

/// Ordered: the first that matches decides.
#[derive(Debug, Default)]
pub(crate) struct Spd {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    local: Range,
    remote: Range,
    action: PolicyAction,
}

impl Spd {
    pub(crate) fn new(policies: &[Policy]) -> Self {
        let rules = policies.iter().map(|policy| Rule {
            local: Range::new(&policy.local),
            remote: Range::new(&policy.remote),
            action: policy.action,
        });
        Self { rules: rules.collect() }
    }

    /// What the policies say about a packet; `None`: nothing.
    #[inline]
    pub(crate) fn decide(&self, ends: &Ends) -> Option<PolicyAction> {
        if self.rules.is_empty() {
            return None;
        }
        self.search(ends)
    }

    fn search(&self, ends: &Ends) -> Option<PolicyAction> {
        let (local_port, remote_port) = ends.ports.unzip();
        let matches = |rule: &&Rule| {
            rule.local.matches(ends.local, ends.protocol, local_port)
                && rule.remote.matches(ends.remote, ends.protocol, remote_port)
        };
        self.rules.iter().find(matches).map(|rule| rule.action)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use vipsec_esp::sa::Selector;

    #[test]
    fn the_first_that_matches_decides() {
        let selector = |first: [u8; 4], last: [u8; 4], protocol, ports| Selector {
            addresses: IpAddr::from(first)..=IpAddr::from(last),
            protocol,
            ports,
        };
        let any = selector([0; 4], [255; 4], None, 0..=u16::MAX);
        let policy = |local: &Selector, remote: Selector, action| Policy { local: local.clone(), remote, action };
        let dns = selector([192, 0, 2, 1], [192, 0, 2, 1], Some(17), 53..=53);
        let spd = Spd::new(&[
            policy(&any, selector([10, 9, 0, 0], [10, 9, 255, 255], None, 0..=u16::MAX), PolicyAction::Protect),
            policy(&dns, any.clone(), PolicyAction::Bypass),
            policy(&any, selector([203, 0, 113, 0], [203, 0, 113, 255], None, 0..=u16::MAX), PolicyAction::Discard),
        ]);
        let decide = |remote: [u8; 4], port| {
            let (local, remote) = (IpAddr::from([192, 0, 2, 1]).into(), IpAddr::from(remote).into());
            spd.decide(&Ends { local, remote, protocol: 17, ports: Some((port, 40000)) })
        };
        assert_eq!(decide([10, 9, 1, 1], 53), Some(PolicyAction::Protect));
        assert_eq!(decide([203, 0, 113, 1], 53), Some(PolicyAction::Bypass));
        assert_eq!(decide([203, 0, 113, 1], 54), Some(PolicyAction::Discard));
        assert_eq!(decide([198, 51, 100, 1], 54), None);
    }
}
