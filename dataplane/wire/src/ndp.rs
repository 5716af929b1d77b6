//! Neighbour discovery (RFC 4861): solicitations and advertisements, read and made whole.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  135 or 136   |     Code      |          Checksum             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |R|S|O|  (advertisement)       Reserved                         |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                   Target Address, 16 bytes                    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Options: type, length / 8, link-layer address ...
//! ```

use std::net::Ipv6Addr;

use arrayvec::ArrayVec;
use thiserror::Error;

use crate::ethernet::{self, EtherType, MacAddr};
use crate::icmpv6::{self, kind};
use crate::ip::{Address, Header, protocol};
use crate::ipv6;

/// Length of a message without options, in bytes.
pub const MESSAGE_LEN: usize = 24;

/// Length of a link-layer address option for Ethernet in bytes (RFC 2464 §6).
pub const OPTION_LEN: usize = 8;

/// Most bytes of a frame that carries a message of ours.
pub const FRAME_LEN_MAX: usize = ethernet::HEADER_LEN + ipv6::HEADER_LEN + MESSAGE_LEN + OPTION_LEN;

/// All nodes of a link (RFC 4291 §2.7.1).
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// RFC 4861 §7.1: a message of another hop limit may have come through a router.
const HOP_LIMIT: u8 = 255;

const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;

const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// A frame with a message in it.
pub type Frame = ArrayVec<u8, FRAME_LEN_MAX>;

/// The multicast address that a host listens on for solicitations of an address of its own (RFC 4291 §2.7.1).
pub const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    const PREFIX: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;
    Ipv6Addr::from_bits(PREFIX | address.to_bits() & 0xff_ffff)
}

/// The group MAC address that frames to an IPv6 multicast address go to (RFC 2464 §7).
pub const fn multicast_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// Why a packet is not a valid solicitation or advertisement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NdpError {
    /// It is not ICMPv6, or another message.
    #[error("no neighbour solicitation or advertisement")]
    OtherMessage,
    /// Too short, or an option is.
    #[error("the neighbour discovery message is truncated")]
    Truncated,
    /// The ICMPv6 checksum is wrong.
    #[error("the ICMPv6 checksum is wrong")]
    Checksum,
    /// It may come from another network.
    #[error("a neighbour discovery message with hop limit {0}")]
    HopLimit(u8),
    /// It has extension headers.
    #[error("a neighbour discovery message behind extension headers")]
    ExtensionHeaders,
    /// The code is not 0.
    #[error("a neighbour discovery message of code {0}")]
    Code(u8),
    /// The target is an address that no host has.
    #[error("the target is no host's address")]
    Target,
    /// The source is no host's, or unspecified where it must not be.
    #[error("the source address is not a host's")]
    Source,
    /// A solicitation without source that is not to a solicited-node address, or an advertisement to many that claims to be solicited.
    #[error("the destination address is wrong")]
    Destination,
    /// An option of length zero, or a source link-layer address without a source.
    #[error("a neighbour discovery option is wrong")]
    Option,
}

/// A valid message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Who has this address?
    Solicitation(Solicitation),
    /// I have this address.
    Advertisement(Advertisement),
}

/// A neighbour solicitation (RFC 4861 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Solicitation {
    /// Who asks. `None`: somebody who wants the address for itself and asks whether it is taken (RFC 4862 §5.4).
    pub source: Option<Ipv6Addr>,
    /// The target's solicited-node address, or the target itself.
    pub destination: Ipv6Addr,
    /// The address asked for.
    pub target: Ipv6Addr,
    /// The sender's MAC address, if it says it.
    pub link_layer: Option<MacAddr>,
}

/// A neighbour advertisement (RFC 4861 §4.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advertisement {
    /// Who answers.
    pub source: Ipv6Addr,
    /// Who asked, or all nodes.
    pub destination: Ipv6Addr,
    /// Is the sender a router?
    pub is_router: bool,
    /// Does it answer a solicitation?
    pub is_solicited: bool,
    /// Does it replace a MAC address that the receiver knows?
    pub overrides: bool,
    /// The address that is advertised.
    pub target: Ipv6Addr,
    /// The target's MAC address, if it says it.
    pub link_layer: Option<MacAddr>,
}

impl Message {
    /// Reads and validates an IPv6 packet by the rules of RFC 4861 §7.1, given the header that was read from it.
    pub fn parse(header: &Header, packet: &[u8]) -> Result<Self, NdpError> {
        if header.protocol != protocol::ICMPV6 {
            return Err(NdpError::OtherMessage);
        }
        let bytes = header.payload(packet);
        let kind = *bytes.first().ok_or(NdpError::Truncated)?;
        if !matches!(kind, kind::NEIGHBOUR_SOLICITATION | kind::NEIGHBOUR_ADVERTISEMENT) {
            return Err(NdpError::OtherMessage);
        }
        if header.ttl != HOP_LIMIT {
            return Err(NdpError::HopLimit(header.ttl));
        }
        // RFC 6980 §5: messages with a fragment header are ignored. No other extension header has business here.
        if header.header_len != ipv6::HEADER_LEN {
            return Err(NdpError::ExtensionHeaders);
        }
        let message =
            icmpv6::Message::parse(header.source, header.destination, bytes).map_err(|error| match error {
                crate::icmp::IcmpError::Truncated => NdpError::Truncated,
                crate::icmp::IcmpError::Checksum => NdpError::Checksum,
            })?;
        if message.code() != 0 {
            return Err(NdpError::Code(message.code()));
        }
        let (target, options) = message.payload().split_first_chunk::<16>().ok_or(NdpError::Truncated)?;
        let target = Ipv6Addr::from(*target);
        // Not a multicast address, says RFC 4861 §7.1. Neither is any other that no neighbour can have; an IPv4-mapped one would pass for
        // that of an IPv4 neighbour.
        let address = Address::v6(target);
        if !address.is_host() || address.is_v4() {
            return Err(NdpError::Target);
        }
        let source = header.source.to_v6().filter(|source| !source.is_multicast()).ok_or(NdpError::Source)?;
        let destination = header.destination.to_v6().ok_or(NdpError::Destination)?;
        if kind == kind::NEIGHBOUR_SOLICITATION {
            Solicitation::validate(source, destination, target, options).map(Self::Solicitation)
        } else {
            let [flags, ..] = message.rest();
            Advertisement::validate(source, destination, target, flags, options).map(Self::Advertisement)
        }
    }
}

impl Solicitation {
    fn validate(source: Ipv6Addr, destination: Ipv6Addr, target: Ipv6Addr, options: &[u8]) -> Result<Self, NdpError> {
        let link_layer = link_layer_address(options, SOURCE_LINK_LAYER)?;
        // RFC 4861 §7.1.1: "If the IP source address is the unspecified address, the IP destination address is a solicited-node
        // multicast address [and] there is no source link-layer address option in the message."
        let source = Some(source).filter(|source| !source.is_unspecified());
        if source.is_none() && destination != solicited_node(destination) {
            return Err(NdpError::Destination);
        }
        if source.is_none() && link_layer.is_some() {
            return Err(NdpError::Option);
        }
        Ok(Self { source, destination, target, link_layer })
    }

    /// Asks everybody who may have `target`.
    pub const fn new(source: Ipv6Addr, mac: MacAddr, target: Ipv6Addr) -> Self {
        Self { source: Some(source), destination: solicited_node(target), target, link_layer: Some(mac) }
    }

    /// Asks the neighbour itself whether it is still there (RFC 4861 §7.3.3); the frame goes to its MAC address.
    pub const fn probe(source: Ipv6Addr, mac: MacAddr, target: Ipv6Addr) -> Self {
        Self { destination: target, ..Self::new(source, mac, target) }
    }

    /// The answer (RFC 4861 §7.2.4): `mac` has the address asked for.
    pub const fn answer(&self, mac: MacAddr, is_router: bool) -> Advertisement {
        // "If the source of the solicitation is the unspecified address, the node MUST set the Solicited flag to zero and multicast the
        // advertisement to the all-nodes address."
        let (destination, is_solicited) = match self.source {
            Some(source) => (source, true),
            None => (ALL_NODES, false),
        };
        Advertisement {
            source: self.target,
            destination,
            is_router,
            is_solicited,
            overrides: true,
            target: self.target,
            link_layer: Some(mac),
        }
    }

    /// The whole frame. It goes to `neighbour` unless the destination is a multicast address, which has a MAC address of its own.
    pub fn to_frame(&self, mac: MacAddr, neighbour: MacAddr) -> Frame {
        let source = self.source.unwrap_or(Ipv6Addr::UNSPECIFIED);
        let option = self.link_layer.map(|mac| (SOURCE_LINK_LAYER, mac));
        let message = Body { kind: kind::NEIGHBOUR_SOLICITATION, flags: 0, target: self.target, option };
        message.to_frame((mac, source), (neighbour, self.destination))
    }
}

impl Advertisement {
    fn validate(
        source: Ipv6Addr,
        destination: Ipv6Addr,
        target: Ipv6Addr,
        flags: u8,
        options: &[u8],
    ) -> Result<Self, NdpError> {
        let link_layer = link_layer_address(options, TARGET_LINK_LAYER)?;
        let is_solicited = flags & SOLICITED != 0;
        // RFC 4861 §7.1.2: "If the IP Destination Address is a multicast address the Solicited flag is zero."
        if destination.is_multicast() && is_solicited {
            return Err(NdpError::Destination);
        }
        if source.is_unspecified() {
            return Err(NdpError::Source);
        }
        Ok(Self {
            source,
            destination,
            is_router: flags & ROUTER != 0,
            is_solicited,
            overrides: flags & OVERRIDE != 0,
            target,
            link_layer,
        })
    }

    /// Tells everybody unasked that `mac` has `address` now (RFC 4861 §7.2.6): the counterpart of a gratuitous ARP.
    pub const fn unsolicited(address: Ipv6Addr, mac: MacAddr, is_router: bool) -> Self {
        Self {
            source: address,
            destination: ALL_NODES,
            is_router,
            is_solicited: false,
            overrides: true,
            target: address,
            link_layer: Some(mac),
        }
    }

    /// The whole frame. It goes to `neighbour` unless the destination is a multicast address, which has a MAC address of its own.
    pub fn to_frame(&self, mac: MacAddr, neighbour: MacAddr) -> Frame {
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let flags = flag(self.is_router, ROUTER) | flag(self.is_solicited, SOLICITED) | flag(self.overrides, OVERRIDE);
        let option = self.link_layer.map(|mac| (TARGET_LINK_LAYER, mac));
        let message = Body { kind: kind::NEIGHBOUR_ADVERTISEMENT, flags, target: self.target, option };
        message.to_frame((mac, self.source), (neighbour, self.destination))
    }
}

/// The link-layer address among the options. Options that we don't know, and those that the message isn't meant to have, are ignored.
fn link_layer_address(mut options: &[u8], wanted: u8) -> Result<Option<MacAddr>, NdpError> {
    let mut found = None;
    while let [kind, units, ..] = options {
        // RFC 4861 §7.1: "All included options have a length that is greater than zero."
        if *units == 0 {
            return Err(NdpError::Option);
        }
        let (option, behind) = options.split_at_checked(usize::from(*units) * 8).ok_or(NdpError::Truncated)?;
        if let ([_, 1, a, b, c, d, e, f], true, None) = (option, *kind == wanted, found) {
            found = Some(MacAddr([*a, *b, *c, *d, *e, *f]));
        }
        options = behind;
    }
    if options.is_empty() { Ok(found) } else { Err(NdpError::Truncated) }
}

/// What both messages are made of.
struct Body {
    kind: u8,
    flags: u8,
    target: Ipv6Addr,
    option: Option<(u8, MacAddr)>,
}

impl Body {
    fn to_frame(&self, (mac, source): (MacAddr, Ipv6Addr), (neighbour, destination): (MacAddr, Ipv6Addr)) -> Frame {
        let mut bytes = [0; FRAME_LEN_MAX];
        let (front, message) = bytes.split_at_mut(ethernet::HEADER_LEN + ipv6::HEADER_LEN);
        let (ethernet, ip) = front.split_at_mut(ethernet::HEADER_LEN);
        let message_len = MESSAGE_LEN + if self.option.is_some() { OPTION_LEN } else { 0 };
        let message = message.get_mut(..message_len).unwrap_or_default();

        let receiver = if destination.is_multicast() { multicast_mac(destination) } else { neighbour };
        let header = ethernet::Header { destination: receiver, source: mac, ethertype: EtherType::IPV6 };
        ethernet.copy_from_slice(&header.to_bytes());
        let mut header = ipv6::Repr::new(source, destination, protocol::ICMPV6, message_len as u16);
        header.hop_limit = HOP_LIMIT;
        // The buffers were made to measure.
        let _ = header.emit(ip);
        if let Some((fixed, options)) = message.split_first_chunk_mut::<MESSAGE_LEN>() {
            (fixed[0], fixed[4]) = (self.kind, self.flags);
            fixed[8..].copy_from_slice(&self.target.octets());
            if let (Some((kind, mac)), Some(option)) = (self.option, options.first_chunk_mut::<OPTION_LEN>()) {
                (option[0], option[1]) = (kind, 1);
                option[2..].copy_from_slice(&mac.0);
            }
        }
        let _ = icmpv6::fill_checksum(Address::v6(source), Address::v6(destination), message);

        let mut frame = Frame::from(bytes);
        frame.truncate(ethernet::HEADER_LEN + ipv6::HEADER_LEN + message_len);
        frame
    }
}
