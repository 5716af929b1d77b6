//! The small languages inside strings: names, durations, addresses, MAC addresses, traffic selectors.

use std::net::IpAddr;
use std::time::Duration;

use vipsec_esp::sa::Selector;
use vipsec_wire::ethernet::MacAddr;
use vipsec_wire::ip::{Prefix, PrefixError, parse_interface, protocol};

use super::error::Reason;

fn malformed(value: &str, expected: &'static str) -> Reason {
    Reason::Malformed { value: value.to_owned(), expected }
}

/// A name: it stands in logs, file names and DPDK's file prefix.
pub(super) fn name(text: &str) -> Result<String, Reason> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=32).contains(&text.len()) && text.chars().all(allowed) && !text.starts_with('.') {
        Ok(text.to_owned())
    } else {
        Err(malformed(text, "a name of 1 to 32 letters, digits, '-', '_' and '.'"))
    }
}

/// A duration with its unit, as in `500ms`, `2s`, `10m`, `4h`, `1d`.
pub(super) fn duration(text: &str) -> Result<Duration, Reason> {
    let error = || malformed(text, "a duration like \"500ms\", \"2s\", \"10m\", \"4h\" or \"1d\"");
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at_checked(digits).ok_or_else(error)?;
    let number: u64 = number.parse().map_err(|_| error())?;
    let seconds = match unit {
        "ms" => return Ok(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(error()),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(error)
}

/// An address that a host can have.
pub(super) fn host(text: &str) -> Result<IpAddr, Reason> {
    let address: IpAddr = text.parse().map_err(|_| malformed(text, "an IP address"))?;
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast {
        return Err(Reason::NotAHost(text.to_owned()));
    }
    Ok(address)
}

/// An IPv4 address that a host can have: where the data plane resolves neighbours, it does so by ARP.
pub(super) fn ipv4_host(text: &str) -> Result<IpAddr, Reason> {
    match host(text)? {
        address @ IpAddr::V4(_) => Ok(address),
        IpAddr::V6(_) => Err(Reason::NotIpv4(text.to_owned())),
    }
}

/// A port's own address with the prefix that is on-link there, as in `192.0.2.11/24`.
pub(super) fn interface(text: &str) -> Result<(IpAddr, Prefix), Reason> {
    let error = |_| malformed(text, "an address with its prefix length, like \"10.1.0.11/24\"");
    let (address, prefix) = parse_interface(text).map_err(error)?;
    let address = ipv4_host(&address.to_string())?;
    // RFC 3021: a /31 has neither a network's address nor a broadcast address; nor has a /32.
    if prefix.bits() < 31 && (address == prefix.address() || address == prefix.last()) {
        return Err(Reason::NotAHost(address.to_string()));
    }
    Ok((address, prefix))
}

/// A prefix without bits behind its length, or an address for a prefix of full length.
pub(super) fn prefix(text: &str) -> Result<Prefix, Reason> {
    if let Ok(address) = text.parse() {
        return Ok(Prefix::host(address));
    }
    text.parse().map_err(|error| match error {
        PrefixError::HostBits { address, len } => match Prefix::containing(address, len) {
            Ok(network) => Reason::HostBits { value: text.to_owned(), network: network.to_string() },
            Err(_) => malformed(text, PREFIX),
        },
        PrefixError::TooLong { .. } | PrefixError::Syntax(_) => malformed(text, PREFIX),
    })
}

const PREFIX: &str = "an address or a prefix like \"10.1.0.0/24\"";

/// A prefix that packets are routed to.
pub(super) fn ipv4_prefix(text: &str) -> Result<Prefix, Reason> {
    let prefix = prefix(text)?;
    if prefix.address().is_ipv4() { Ok(prefix) } else { Err(Reason::NotIpv4(text.to_owned())) }
}

/// Do two prefixes share addresses?
pub(super) fn overlap(a: Prefix, b: Prefix) -> bool {
    a.contains(b.address()) || b.contains(a.address())
}

/// A unicast MAC address, as in `02:00:00:00:01:0a`.
pub(super) fn mac(text: &str) -> Result<MacAddr, Reason> {
    let mac: MacAddr = text.parse().map_err(|_| malformed(text, "a MAC address like \"02:00:00:00:01:0a\""))?;
    if mac.is_multicast() || mac.is_unspecified() {
        return Err(Reason::NotUnicast(text.to_owned()));
    }
    Ok(mac)
}

/// A traffic selector in swanctl's notation: `prefix`, with `[protocol]` or `[protocol/port]` or `[protocol/first-last]` behind
/// it where it is narrower. The protocol is `tcp`, `udp`, `icmp`, `any` or a number.
pub(super) fn selector(text: &str) -> Result<Selector, Reason> {
    let error = || malformed(text, "a traffic selector like \"10.9.0.0/16\" or \"10.9.0.0/16[tcp/80]\"");
    let (net, narrowed) = match text.split_once('[') {
        Some((net, rest)) => (net, Some(rest.strip_suffix(']').ok_or_else(error)?)),
        None => (text, None),
    };
    let net = prefix(net)?;
    let (name, ports) = match narrowed {
        None => ("any", "any"),
        Some(narrowed) => narrowed.split_once('/').unwrap_or((narrowed, "any")),
    };
    let protocol = match name {
        "any" => None,
        "icmp" => Some(protocol::ICMP),
        "tcp" => Some(protocol::TCP),
        "udp" => Some(protocol::UDP),
        number => Some(number.parse().map_err(|_| error())?),
    };
    let ports = match ports {
        "any" => 0..=u16::MAX,
        range => {
            let (low, high) = range.split_once('-').unwrap_or((range, range));
            low.parse().map_err(|_| error())?..=high.parse().map_err(|_| error())?
        }
    };
    if ports.is_empty() || (protocol.is_none() && ports != (0..=u16::MAX)) {
        return Err(error());
    }
    Ok(Selector { addresses: net.address()..=net.last(), protocol, ports })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("4h"), Ok(Duration::from_secs(14_400)));
        assert_eq!(duration("1d"), Ok(Duration::from_secs(86_400)));
        for bad in ["", "5", "s", "-1s", "1.5s", "5 s", "99999999999999999999s", "18446744073709551615d", "５s"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn selectors_in_swanctl_notation() {
        let any = selector("10.9.0.0/16").unwrap();
        assert_eq!(any.addresses, "10.9.0.0".parse().unwrap()..="10.9.255.255".parse().unwrap());
        assert_eq!((any.protocol, any.ports), (None, 0..=65535));
        let web = selector("192.0.2.1[tcp/80]").unwrap();
        assert_eq!(web.addresses, "192.0.2.1".parse().unwrap()..="192.0.2.1".parse().unwrap());
        assert_eq!((web.protocol, web.ports), (Some(6), 80..=80));
        let range = selector("192.0.2.0/24[17/500-600]").unwrap();
        assert_eq!((range.protocol, range.ports), (Some(17), 500..=600));
        for bad in
            ["10.9.0.1/16", "10.9.0.0/33", "10.9.0.0/16[tcp/80", "10.9.0.0/16[any/80]", "0.0.0.0/0[tcp/9-1]", "x"]
        {
            assert!(selector(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn macs_are_unicast() {
        assert_eq!(mac("02:00:00:00:01:0a"), Ok(MacAddr([2, 0, 0, 0, 1, 10])));
        for bad in ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"] {
            assert_eq!(mac(bad), Err(Reason::NotUnicast(bad.to_owned())));
        }
    }
}
