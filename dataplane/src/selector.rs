//! Does a packet lie within a child SA's traffic selectors (RFC 4301 §5.2, RFC 7296 §3.13.1)?

use std::net::IpAddr;

use vipsec_esp::sa::Selector;

/// One end of a packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    pub(crate) address: IpAddr,
    pub(crate) protocol: u8,
    /// `None`: it has none, or they can't be read (RFC 4301 §4.4.1.1, OPAQUE).
    pub(crate) port: Option<u16>,
}

/// Does one of the selectors match?
pub(crate) fn any_matches(selectors: &[Selector], end: &End) -> bool {
    selectors.iter().any(|selector| {
        selector.addresses.contains(&end.address)
            && selector.protocol.is_none_or(|protocol| protocol == end.protocol)
            && match end.port {
                Some(port) => selector.ports.contains(&port),
                // RFC 4301 §7.1: what has no ports travels on an SA with a port selector of ANY.
                None => *selector.ports.start() == 0 && *selector.ports.end() == u16::MAX,
            }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_protocol_and_port() {
        let ip = |last| IpAddr::from([10, 9, 0, last]);
        let selectors = [
            Selector { addresses: ip(1)..=ip(9), protocol: Some(6), ports: 80..=81 },
            Selector { addresses: ip(20)..=ip(20), protocol: None, ports: 0..=65535 },
        ];
        let matches = |last, protocol, port| any_matches(&selectors, &End { address: ip(last), protocol, port });
        assert!(matches(1, 6, Some(80)) && matches(9, 6, Some(81)));
        assert!(!matches(0, 6, Some(80)) && !matches(10, 6, Some(80)));
        assert!(!matches(1, 17, Some(80)) && !matches(1, 6, Some(82)) && !matches(1, 6, None));
        assert!(matches(20, 17, Some(5)) && matches(20, 50, None));
    }
}
