//! The small languages inside strings: names, durations, addresses, MAC addresses, identities, traffic selectors.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use vipsec_ike::{AddressMatch, Identity, IdentityMatch, TrafficSelector};
use vipsec_wire::ethernet::MacAddr;
use vipsec_wire::ip::{Prefix, PrefixError, parse_interface};

use super::error::Reason;
use super::read::Section;

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

/// The duration at `key`, in `range`; `default` where the table has none.
pub(super) fn duration_of(
    section: &Section,
    key: &'static str,
    default: Duration,
    range: RangeInclusive<Duration>,
) -> Option<Duration> {
    let Some(field) = section.optional(key) else { return Some(default) };
    field.parse(|text| {
        let duration = duration(text)?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        Err(Reason::DurationOutOfRange { value: text.to_owned(), min: *range.start(), max: *range.end() })
    })
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

/// An address that the machine itself reaches: a host's, or its own.
pub(super) fn reachable(text: &str) -> Result<IpAddr, Reason> {
    match text.parse::<IpAddr>() {
        Ok(address) if address.is_loopback() => Ok(address),
        _ => host(text),
    }
}

/// A port's own address with the prefix that is on-link there, as in `192.0.2.11/24`.
pub(super) fn interface(text: &str) -> Result<(IpAddr, Prefix), Reason> {
    let error = |_| malformed(text, "an address with its prefix length, like \"10.1.0.11/24\"");
    let (address, prefix) = parse_interface(text).map_err(error)?;
    let address = host(&address.to_string())?;
    let taken = match address {
        // RFC 3021: a /31 has neither a network's address nor a broadcast address; nor has a /32.
        IpAddr::V4(_) => prefix.bits() < 31 && (address == prefix.address() || address == prefix.last()),
        // RFC 4291 §2.6.1: the subnet-router anycast address. RFC 6164 §5: not used on a /127.
        IpAddr::V6(_) => prefix.bits() < 127 && address == prefix.address(),
    };
    if taken {
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

/// Where a remote peer may be: `%any`, an address, or a prefix.
pub(super) fn remote_address(text: &str) -> Result<AddressMatch, Reason> {
    if text == "%any" {
        return Ok(AddressMatch::Any);
    }
    let prefix = prefix(text)?;
    if prefix.address() == prefix.last() {
        return Ok(AddressMatch::Exact(prefix.address()));
    }
    let within = TrafficSelector::prefix(prefix.address(), prefix.bits()).map(AddressMatch::Within);
    within.ok_or_else(|| malformed(text, PREFIX))
}

/// Most bytes of an identity.
const IDENTITY_BYTES_MAX: usize = 255;

/// Who a remote peer has to be.
pub(super) fn remote_identity(text: &str) -> Result<IdentityMatch, Reason> {
    let error = || malformed(text, "an identity: an address, a name, or a mail address");
    if text.len() > IDENTITY_BYTES_MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(error());
    }
    text.parse().map_err(|_| error())
}

/// Who we are.
pub(super) fn local_identity(text: &str) -> Result<Identity, Reason> {
    match remote_identity(text)? {
        IdentityMatch::Exact(identity) => Ok(identity),
        IdentityMatch::Any | IdentityMatch::Below(_) => Err(malformed(text, "an identity that we could send")),
    }
}

/// A traffic selector in swanctl's notation: addresses, with `[protocol]` or `[protocol/port]` or `[protocol/first-last]` behind
/// them where it is narrower. The protocol is `tcp`, `udp`, `icmp`, `any` or a number.
pub(super) fn selector(text: &str) -> Result<TrafficSelector, Reason> {
    let addresses = text.split('[').next().unwrap_or_default();
    if addresses.contains('/') {
        // Bits behind the prefix length are more likely a mistake than meant.
        prefix(addresses)?;
    }
    let selector: Option<TrafficSelector> = text.parse().ok();
    // RFC 7296 §3.13.1: without a protocol, ports mean nothing.
    let sound = selector.filter(|selector| selector.protocol != 0 || selector.ports == (0, u16::MAX));
    sound.ok_or_else(|| malformed(text, "a traffic selector like \"10.9.0.0/16\" or \"10.9.0.0/16[tcp/80]\""))
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
    fn selectors_have_no_bits_behind_their_prefix_and_no_ports_without_a_protocol() {
        for good in ["10.9.0.0/16", "192.0.2.1/32[6/80]", "192.0.2.0/24[17/500-600]", "10.0.0.1-10.0.0.9"] {
            assert_eq!(selector(good).unwrap().to_string(), good);
        }
        assert!(matches!(selector("10.9.0.1/16[tcp]"), Err(Reason::HostBits { .. })));
        for bad in ["10.9.0.0/33", "10.9.0.0/16[tcp/80", "10.9.0.0/16[any/80]", "0.0.0.0/0[tcp/9-1]", "x", ""] {
            assert!(selector(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_remote_address_of_full_length_is_one_that_can_be_called() {
        let address = AddressMatch::Exact("198.51.100.7".parse().unwrap());
        assert_eq!(remote_address("198.51.100.7"), Ok(address));
        assert_eq!(remote_address("198.51.100.7/32"), Ok(address));
        assert_eq!(remote_address("198.51.100.0/24").unwrap().to_string(), "198.51.100.0/24");
        assert!(matches!(remote_address("198.51.100.7/24"), Err(Reason::HostBits { .. })));
    }

    #[test]
    fn our_own_identity_is_one() {
        assert!(local_identity("vip.example").is_ok());
        for pattern in ["%any", "*.example"] {
            assert!(remote_identity(pattern).is_ok(), "{pattern}");
            assert!(local_identity(pattern).is_err(), "{pattern}");
        }
        for bad in ["", "@", "a b", "b\u{fc}ro.example", &"x".repeat(256)] {
            assert!(remote_identity(bad).is_err(), "{bad:?}");
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
