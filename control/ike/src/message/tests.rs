//! Round trips of arbitrary messages, arbitrary and mutated bytes, and the rules that a reader has to keep.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::*;

use super::sa::{Attribute, Proposal, Protocol, Transform};
use super::*;
use crate::identity::Identity;
use crate::selector::TrafficSelector;

fn header() -> impl Strategy<Value = Header> {
    (1..=u64::MAX, any::<u64>(), any::<u8>(), any::<(bool, bool)>(), any::<u32>()).prop_map(
        |(initiator_spi, responder_spi, exchange, (initiator, response), message_id)| Header {
            initiator_spi,
            responder_spi,
            exchange: exchange.into(),
            sender: if initiator { Role::Initiator } else { Role::Responder },
            direction: if response { Direction::Response } else { Direction::Request },
            message_id,
        },
    )
}

fn transform() -> impl Strategy<Value = Transform> {
    let attribute = prop_oneof![
        any::<u16>().prop_map(Attribute::KeyLength),
        (15u16..0x8000, any::<u16>()).prop_map(|(kind, value)| Attribute::Short(kind, value)),
        (0u16..0x8000, vec(any::<u8>(), 0..20)).prop_map(|(kind, value)| Attribute::Long(kind, value)),
    ];
    (any::<u8>(), any::<u16>(), vec(attribute, 0..4)).prop_map(|(kind, id, attributes)| Transform {
        kind,
        id,
        attributes,
    })
}

fn protocol() -> impl Strategy<Value = Protocol> {
    any::<u8>().prop_map(Protocol::from)
}

fn proposal() -> impl Strategy<Value = Proposal> {
    (any::<u8>(), protocol(), vec(any::<u8>(), 0..9), vec(transform(), 0..6))
        .prop_map(|(number, protocol, spi, transforms)| Proposal { number, protocol, spi, transforms })
}

fn selector() -> impl Strategy<Value = TrafficSelector> {
    let v4 = any::<(u32, u32)>().prop_map(|(a, b)| [a, b].map(|a| IpAddr::from(Ipv4Addr::from(a))));
    let v6 = any::<(u128, u128)>().prop_map(|(a, b)| [a, b].map(|a| IpAddr::from(Ipv6Addr::from(a))));
    (any::<u8>(), any::<(u16, u16)>(), prop_oneof![v4, v6])
        .prop_map(|(protocol, ports, [first, last])| TrafficSelector { protocol, ports, first, last })
}

fn identity() -> impl Strategy<Value = Identity> {
    (any::<u8>(), vec(any::<u8>(), 0..40)).prop_map(|(kind, data)| Identity::from_wire(kind, data))
}

fn config() -> impl Strategy<Value = ConfigPayload> {
    use ConfigAttribute::{Ip4Address, Ip4Dns, Ip6Address, Ip6Dns, Other};
    let v4 = || proptest::option::of(any::<u32>().prop_map(Ipv4Addr::from));
    let v6 = || proptest::option::of(any::<u128>().prop_map(Ipv6Addr::from));
    let attribute = prop_oneof![
        v4().prop_map(Ip4Address),
        v4().prop_map(Ip4Dns),
        (v6(), any::<u8>()).prop_map(|(address, len)| Ip6Address(address.map(|address| (address, len)))),
        v6().prop_map(Ip6Dns),
        (11u16..0x8000, vec(any::<u8>(), 0..20)).prop_map(|(kind, value)| Other(kind, value)),
    ];
    let kind = prop_oneof![Just(ConfigKind::Request), Just(ConfigKind::Reply), (3u8..).prop_map(ConfigKind::Other)];
    (kind, vec(attribute, 0..6)).prop_map(|(kind, attributes)| ConfigPayload { kind, attributes })
}

fn payload() -> impl Strategy<Value = Payload> {
    let bytes = || vec(any::<u8>(), 0..60);
    prop_oneof![
        vec(proposal(), 1..4).prop_map(Payload::Sa),
        (any::<u16>(), bytes()).prop_map(|(group, data)| Payload::KeyExchange(group, data)),
        identity().prop_map(Payload::IdInitiator),
        identity().prop_map(Payload::IdResponder),
        (any::<u8>(), bytes()).prop_map(|(method, data)| Payload::Auth(method, data)),
        vec(any::<u8>(), 16..=256).prop_map(Payload::Nonce),
        (protocol(), vec(any::<u8>(), 0..9), any::<u16>(), bytes()).prop_map(|(protocol, spi, kind, data)| {
            Payload::Notify(Notify { protocol, spi, kind: NotifyType(kind), data })
        }),
        Just(Payload::Delete(Delete::Ike)),
        vec(any::<u32>(), 0..10).prop_map(|spis| Payload::Delete(Delete::Esp(spis))),
        Just(Payload::Delete(Delete::Other(2))),
        bytes().prop_map(Payload::Vendor),
        vec(selector(), 0..5).prop_map(Payload::TsInitiator),
        vec(selector(), 0..5).prop_map(Payload::TsResponder),
        config().prop_map(Payload::Config),
        (prop_oneof![Just(37u8), Just(38), Just(48)], bytes()).prop_map(|(k, b)| Payload::Unused(k, b)),
        (prop_oneof![49u8..=52, 54u8..=255], bytes()).prop_map(|(kind, body)| Payload::Unknown(kind, body)),
    ]
}

fn parse(datagram: &[u8]) -> Result<Received<'_>, ParseError> {
    Received::parse(datagram, ParseLimits::default())
}

fn part() -> impl Strategy<Value = Part> {
    let fragment = (1..=u16::MAX, any::<u16>())
        .prop_map(|(number, more)| Part::Fragment { number, total: number.saturating_add(more) });
    prop_oneof![Just(Part::Whole), fragment]
}

proptest! {
    #[test]
    fn clear_round_trip(header in header(), payloads in vec(payload(), 0..12)) {
        let bytes = encode_clear(&header, &payloads);
        let received = parse(&bytes).unwrap();
        prop_assert_eq!(received.header, header);
        prop_assert_eq!(received.clear().unwrap(), payloads);
        prop_assert_eq!(received.sealed().unwrap_err(), ParseError::Misplaced);
    }

    #[test]
    fn protected_round_trip(
        header in header(),
        payloads in vec(payload(), 0..12),
        part in part(),
        block_len in prop_oneof![Just(1usize), Just(16)],
    ) {
        let envelope = Envelope { iv_len: 8, block_len, icv_len: 16 };
        let content = Content::new(&payloads);
        let unsealed = encode_unsealed(&header, part, content.first, &content.bytes, envelope);
        prop_assert!(unsealed.plaintext.len().is_multiple_of(block_len));
        let mut bytes = unsealed.associated_data.clone();
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&unsealed.plaintext);
        bytes.extend_from_slice(&[0; 16]);
        if part == Part::Whole {
            prop_assert_eq!(bytes.len(), envelope.message_len(content.bytes.len()));
        } else {
            // It is the largest piece that fits, and no byte more would.
            let room = envelope.room(bytes.len());
            prop_assert!((content.bytes.len()..content.bytes.len() + block_len).contains(&room));
        }
        let received = parse(&bytes).unwrap();
        let sealed = received.sealed().unwrap();
        prop_assert_eq!(sealed.part, part);
        prop_assert_eq!(sealed.associated_data, &unsealed.associated_data);
        prop_assert_eq!(sealed.payloads(&unsealed.plaintext).unwrap(), payloads);
        let piece = sealed.piece(&unsealed.plaintext).unwrap();
        prop_assert_eq!((piece.first, piece.bytes), (content.first, content.bytes));
        prop_assert_eq!(received.clear().unwrap_err(), ParseError::Misplaced);
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..300)) {
        read_all(&bytes);
    }

    /// A valid message with some bytes changed reaches much deeper than noise.
    #[test]
    fn mutated_messages_do_no_harm(
        header in header(),
        payloads in vec(payload(), 1..6),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = encode_clear(&header, &payloads);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        read_all(&bytes);
        bytes.truncate(cut.index(bytes.len() + 1));
        // So that the cut isn't found out by the length in the header alone.
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        if let Some(field) = bytes.get_mut(24..28) {
            field.copy_from_slice(&length);
        }
        read_all(&bytes);
    }
}

fn read_all(bytes: &[u8]) {
    let Ok(received) = parse(bytes) else { return };
    if let Ok(payloads) = received.clear() {
        // What was understood can be said again.
        let again = encode_clear(&received.header, &payloads);
        assert_eq!(parse(&again).unwrap().clear().unwrap(), payloads);
    }
    if let Ok(sealed) = received.sealed() {
        let _ = sealed.payloads(sealed.body);
        let _ = sealed.piece(sealed.body);
    }
}

fn plain_header() -> Header {
    Header {
        initiator_spi: 1,
        responder_spi: 2,
        exchange: ExchangeType::Informational,
        sender: Role::Initiator,
        direction: Direction::Request,
        message_id: 7,
    }
}

#[test]
fn header_on_the_wire() {
    let bytes = encode_clear(&plain_header(), &[]);
    assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0x20, 37, 0x08, 0, 0, 0, 7, 0, 0, 0, 28]);
}

#[test]
fn versions() {
    let with_version = |version| {
        let mut bytes = encode_clear(&plain_header(), &[]);
        bytes[17] = version;
        bytes
    };
    // RFC 7296 §3.1: the minor version is ignored.
    assert!(parse(&with_version(0x2f)).is_ok());
    assert_eq!(parse(&with_version(0x10)).unwrap_err(), ParseError::OldVersion);
    assert_eq!(parse(&with_version(0x30)).unwrap_err(), ParseError::MajorVersion(plain_header()));
}

/// RFC 7296 §2.5.
#[test]
fn critical_bit() {
    let with_critical = |payload: Payload| {
        let mut bytes = encode_clear(&plain_header(), &[payload]);
        bytes[HEADER_LEN + 1] = 0x80;
        bytes
    };
    let unknown = with_critical(Payload::Unknown(200, vec![1, 2, 3]));
    assert_eq!(parse(&unknown).unwrap().clear(), Err(ParseError::Critical(200)));
    // The bit says nothing about types that RFC 7296 defines, even those we have no use for.
    for known in [Payload::Vendor(vec![1]), Payload::Unused(48, vec![1, 0, 0, 0])] {
        let bytes = with_critical(known.clone());
        assert_eq!(parse(&bytes).unwrap().clear(), Ok(vec![known]));
    }
}

#[test]
fn limits() {
    let ParseLimits { message_bytes_max, payloads_max } = ParseLimits::default();
    let many = vec![Payload::Vendor(Vec::new()); payloads_max + 1];
    assert!(parse(&encode_clear(&plain_header(), &many[1..])).unwrap().clear().is_ok());
    assert_eq!(parse(&encode_clear(&plain_header(), &many)).unwrap().clear(), Err(ParseError::TooMany));
    let long = encode_clear(&plain_header(), &[Payload::Vendor(vec![0; message_bytes_max])]);
    assert_eq!(parse(&long).unwrap_err(), ParseError::TooMany);
    // RFC 7296 §3.9: nonces of 16 to 256 octets.
    for (len, good) in [(15, false), (16, true), (256, true), (257, false)] {
        let bytes = encode_clear(&plain_header(), &[Payload::Nonce(vec![0; len])]);
        assert_eq!(parse(&bytes).unwrap().clear().is_ok(), good, "{len}");
    }
}

/// RFC 7383 §2.6: neither number is zero, and the first is not above the second.
#[test]
fn fragment_numbers() {
    let with = |number: u16, total: u16| {
        let envelope = Envelope { iv_len: 0, block_len: 1, icv_len: 0 };
        encode_unsealed(&plain_header(), Part::Fragment { number, total }, 0, b"x", envelope).associated_data
    };
    for (number, total, good) in [(1, 1, true), (2, 2, true), (0, 1, false), (0, 0, false), (3, 2, false)] {
        // Content and pad length.
        let bytes = [with(number, total), vec![b'x', 0]].concat();
        assert_eq!(parse(&bytes).unwrap().sealed().is_ok(), good, "{number} of {total}");
    }
}

/// RFC 7296 §2.9: a traffic selector of unknown type is ignored, not an error.
#[test]
fn unknown_selector_type() {
    let known: TrafficSelector = "10.0.0.0/8".parse().unwrap();
    let mut bytes = encode_clear(&plain_header(), &[Payload::TsInitiator(vec![known, known])]);
    bytes[HEADER_LEN + 8] = 9;
    assert_eq!(parse(&bytes).unwrap().clear(), Ok(vec![Payload::TsInitiator(vec![known])]));
}
