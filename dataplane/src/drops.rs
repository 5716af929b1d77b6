//! The one table of drop reasons, and the other things that a worker counts.
//!
//! Every packet that is dropped has a reason from here. One entry makes the variant, its counter and its text.

/// Makes an enum whose variants number a table, with their names for metrics and their texts for people.
macro_rules! numbered_table {
    (
        $(#[$attribute:meta])*
        pub enum $name:ident {
            $($variant:ident = $label:literal: $text:literal,)+
        }
    ) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $(#[doc = $text] $variant,)+
        }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Its name in metrics.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                }
            }

            /// What it means.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.text())
            }
        }
    };
}

numbered_table! {
    /// Why a packet was dropped.
    pub enum DropReason {
        DeadlinePassed = "deadline_passed": "The worker may not act: its deadline has passed.",
        UnknownPort = "unknown_port": "The port is not in the tables.",
        MalformedFrame = "malformed_frame": "Shorter than an Ethernet header, or its source is no station's.",
        UnknownEtherType = "unknown_ethertype": "Neither IP nor ARP nor an advertisement.",
        OtherStation = "other_station": "The destination MAC address is not one that takes this packet here.",
        MalformedArp = "malformed_arp": "Not ARP for IPv4 over Ethernet.",
        MalformedNdp = "malformed_ndp": "A neighbour discovery message that RFC 4861 calls invalid.",
        NdpNotForUs = "ndp_not_for_us": "Neighbour discovery about an address that we don't answer for.",
        ArpNotForUs = "arp_not_for_us": "ARP about an address that we don't answer for.",
        AdvertisementPoliced = "advertisement_policed": "More advertisements than the policer lets through.",
        EventQueueFull = "event_queue_full": "The control core is behind: no room for another message to it.",
        MalformedIp = "malformed_ip": "The IP header, or that of what it carries, is malformed.",
        FragmentMalformed = "fragment_malformed": "An IP fragment whose place or length makes no sense.",
        FragmentOverlap = "fragment_overlap": "IP fragments overlap or disagree about the end of their datagram.",
        FragmentDuplicate = "fragment_duplicate": "The same IP fragment came before.",
        FragmentsTooMany = "fragments_too_many": "A datagram in more fragments, or larger, than is put together here.",
        FragmentAbandoned = "fragment_abandoned": "Of a datagram whose fragments made no sense.",
        FragmentsEvicted = "fragments_evicted": "Newer datagrams took the place of one whose fragments were incomplete.",
        FragmentsTimedOut = "fragments_timed_out": "The other fragments of the datagram did not come in time.",
        NoLocalTarget = "no_local_target": "From another appliance, for a service without a target on this host.",
        NotForUs = "not_for_us": "The destination is no address of ours.",
        VipNotOwned = "vip_not_owned": "For a VIP that this appliance doesn't own.",
        MalformedIcmp = "malformed_icmp": "An ICMP message that is truncated or has a wrong checksum.",
        UnansweredIcmp = "unanswered_icmp": "An ICMP message to our own address that is no echo request.",
        MalformedUdp = "malformed_udp": "UDP length or checksum is wrong.",
        ClearText = "clear_text": "For a VIP or a connection that takes only what comes through a tunnel, but outside one.",
        Discarded = "discarded": "A policy discards it.",
        UnservedProtocol = "unserved_protocol": "To an address of ours, for a protocol that we don't serve there.",
        MalformedIke = "malformed_ike": "Too short for an IKE message or an ESP packet in UDP.",
        IkePoliced = "ike_policed": "More IKE datagrams than the policer lets through.",
        IkeCallPoliced = "ike_call_policed": "More requests for an IKE SA than the policer lets through.",
        UnknownSpi = "unknown_spi": "ESP for an SPI that is not in the SAD.",
        WrongVip = "wrong_vip": "ESP for an SA of another VIP than the one addressed.",
        EspTruncated = "esp_truncated": "Too short for ESP.",
        EspMisaligned = "esp_misaligned": "The ESP ciphertext does not end on a 4-byte boundary.",
        EspReplayed = "esp_replayed": "The sequence number was seen before or is too old.",
        EspBadIcv = "esp_bad_icv": "The ESP integrity check failed.",
        EspBadPadding = "esp_bad_padding": "The ESP padding is malformed.",
        EspNumbersExhausted = "esp_numbers_exhausted": "The outbound SA's sequence numbers are used up.",
        EspLifetimeOver = "esp_lifetime_over": "The SA has carried all that its lifetime allows.",
        EspDormant = "esp_dormant": "A takeover has yet to say where the numbers of its SA go on.",
        EspSealFailed = "esp_seal_failed": "The crypto engine failed to seal.",
        CryptoQueueFull = "crypto_queue_full": "The crypto device has no room for another packet.",
        CryptoFailed = "crypto_failed": "The crypto device failed.",
        CryptoSaGone = "crypto_sa_gone": "Its SA was removed while the crypto device had it.",
        EspDummy = "esp_dummy": "An ESP dummy packet: authentic, and meant to be discarded.",
        ParkedQueueFull = "parked_queue_full": "Above the horizon, and the queue of parked packets is full.",
        ParkedTooLong = "parked_too_long": "Above the horizon, and no grant came in time.",
        ParkedSaGone = "parked_sa_gone": "Above the horizon, and its SA is gone.",
        PinQueueFull = "pin_queue_full": "Its connection's record isn't acknowledged, and the queue of packets that wait for that is full.",
        PinTooLong = "pin_too_long": "Its connection's record wasn't acknowledged in time.",
        HeldQueueFull = "held_queue_full": "For a VIP on its way to the peer, and the queue of held frames is full.",
        HeldTooLong = "held_too_long": "For a VIP on its way to the peer, and the move did not end in time.",
        UnexpectedNextHeader = "unexpected_next_header": "The tunnel's payload is not IP.",
        InnerMalformed = "inner_malformed": "The packet from the tunnel is malformed.",
        InboundSelectorMismatch = "inbound_selector_mismatch": "The packet from the tunnel is outside its SA's selectors.",
        InnerCongestion = "inner_congestion": "Congestion was experienced on the way and the inner transport is not ECN-capable.",
        TtlExpired = "ttl_expired": "The time to live has run out.",
        NotToVip = "not_to_vip": "The packet from the tunnel is for another address than the SA's VIP.",
        UnknownService = "unknown_service": "The VIP has no such service.",
        NoTargetUp = "no_target_up": "No target of the service is up.",
        NotInTunnel = "not_in_tunnel": "The service takes only what comes in the clear.",
        TargetNotOnLink = "target_not_on_link": "The target is on no inside network of ours.",
        NoLocalPort = "no_local_port": "The target is the appliance's own host, and no port leads there.",
        NoRoute = "no_route": "No route to the destination.",
        NeighbourUnresolved = "neighbour_unresolved": "The next hop didn't answer ARP or neighbour solicitations.",
        NeighbourQueueFull = "neighbour_queue_full": "Newer packets took its place while the next hop was being resolved.",
        NeighbourTableFull = "neighbour_table_full": "The neighbour cache is full.",
        SourceNotVip = "source_not_vip": "From inside, and the source is no VIP of the gateway addressed.",
        NoOutboundSa = "no_outbound_sa": "No child SA's selectors match the packet from inside.",
        TooBig = "too_big": "Too big for the way ahead, and not to be fragmented.",
        TransportExtension = "transport_extension": "Transport mode carries no packet with IPv6 extension headers.",
        OtherFamily = "other_family": "Needs an address of ours in a family in which there is none.",
        HandoffQueueFull = "handoff_queue_full": "On its way to the worker that it belongs to, and the ring there is full.",
        TransmitQueueFull = "transmit_queue_full": "The port's transmit queue is full.",
        BufferPoolEmpty = "buffer_pool_empty": "No free packet buffer.",
        NoRoom = "no_room": "The packet buffer has no room for the headers.",
    }
}

numbered_table! {
    /// What else a worker counts.
    pub enum Tally {
        Loops = "loops": "Rounds of the worker's loop: it is alive while this rises.",
        ArpReplies = "arp_replies": "ARP requests answered.",
        ArpRequests = "arp_requests": "ARP requests sent.",
        AddressConflicts = "address_conflicts": "ARP packets from another station that claims an address of ours.",
        EchoReplies = "echo_replies": "ICMP echo requests answered, in the clear and in tunnels.",
        IcmpErrors = "icmp_errors": "ICMP errors sent to targets and remote hosts.",
        NdpReplies = "ndp_replies": "Neighbour solicitations answered.",
        NdpRequests = "ndp_requests": "Neighbour solicitations sent.",
        Fragments = "fragments": "IP fragments received, in the clear and in tunnels.",
        Reassembled = "reassembled": "Datagrams put together from fragments.",
        Fragmented = "fragmented": "Packets sent in fragments.",
        MssClamped = "mss_clamped": "TCP connections whose segment size was lowered to what fits the tunnel.",
        PathMtuLowered = "path_mtu_lowered": "ICMP errors from the outside network that lowered a tunnel's MTU.",
        NatKeepalives = "nat_keepalives": "NAT-keepalives swallowed.",
        Advertisements = "advertisements": "Advertisements passed to the control core.",
        IkeIn = "ike_in": "IKE datagrams passed to the control core.",
        IkeOut = "ike_out": "IKE datagrams sent.",
        CookiesAsked = "cookies_asked": "Requests for an IKE SA above the limit, whose senders were asked for a cookie.",
        CryptoJobs = "crypto_jobs": "Packets handed to the crypto device.",
        Parked = "parked": "Packets parked above the horizon.",
        Released = "released": "Parked packets that a grant released.",
        PinWaits = "pin_waits": "Packets that waited for their connection's record to be acknowledged.",
        PinReleased = "pin_released": "Packets that went on when it was.",
        PinsNotRestored = "pins_not_restored": "Connections that a VIP's last owner had pinned and that found no place here.",
        Held = "held": "Frames held because their VIP is on its way to the peer.",
        PassedOn = "passed_on": "Held frames passed on to the VIP's new owner.",
        AsTarget = "as_target": "Packets taken from, or sent to, another appliance that owns the VIP, as a target of it.",
        HandedOver = "handed_over": "Packets handed to the worker that they belong to, or whose queue they leave by.",
        TakenFromOthers = "taken_from_others": "Packets that other workers handed over.",
        PeersMoved = "peers_moved": "Remote ends of tunnels that moved.",
        ConnectionsNew = "connections_new": "Connections entered into the table.",
        ConnectionsExpired = "connections_expired": "Connections forgotten after their timeout.",
        ConnectionsMoved = "connections_moved": "Connections sent to another target because theirs went down.",
        ConnectionsStateless = "connections_stateless": "Packets forwarded without a place in the connection table.",
        RepliesUnknown = "replies_unknown": "Packets from targets that belong to no known connection.",
        EventsLost = "events_lost": "Messages to the control core that found no room.",
        CommandsRefused = "commands_refused": "Commands about an SA, port or VIP that the worker doesn't know.",
    }
}

impl From<vipsec_esp::error::EspError> for DropReason {
    fn from(error: vipsec_esp::error::EspError) -> Self {
        use vipsec_esp::error::EspError;
        match error {
            EspError::Truncated => Self::EspTruncated,
            EspError::Misaligned => Self::EspMisaligned,
            EspError::Replayed => Self::EspReplayed,
            EspError::BadIcv => Self::EspBadIcv,
            EspError::BadPadding => Self::EspBadPadding,
            EspError::NumbersExhausted => Self::EspNumbersExhausted,
            EspError::LifetimeOver => Self::EspLifetimeOver,
            EspError::Dormant => Self::EspDormant,
            EspError::NoRoom => Self::NoRoom,
            EspError::SealFailed => Self::EspSealFailed,
        }
    }
}

impl From<vipsec_wire::buffer::NoRoom> for DropReason {
    fn from(_: vipsec_wire::buffer::NoRoom) -> Self {
        Self::NoRoom
    }
}

impl From<vipsec_wire::Truncated> for DropReason {
    /// Only emitting reports it where this is used: the buffer is too small for the header.
    fn from(_: vipsec_wire::Truncated) -> Self {
        Self::NoRoom
    }
}

impl From<crate::reassembly::Reason> for DropReason {
    fn from(reason: crate::reassembly::Reason) -> Self {
        use crate::reassembly::Reason;
        match reason {
            Reason::Malformed | Reason::NotAFragment | Reason::Length | Reason::TooLong => Self::FragmentMalformed,
            Reason::TooLarge | Reason::TooManyFragments => Self::FragmentsTooMany,
            Reason::Overlap | Reason::EndConflict => Self::FragmentOverlap,
            Reason::Duplicate => Self::FragmentDuplicate,
            Reason::Congestion => Self::InnerCongestion,
            Reason::Abandoned => Self::FragmentAbandoned,
            Reason::Evicted => Self::FragmentsEvicted,
            Reason::TimedOut => Self::FragmentsTimedOut,
            Reason::PoolEmpty => Self::BufferPoolEmpty,
        }
    }
}

impl From<vipsec_wire::encapsulation::EncapsulationError> for DropReason {
    fn from(error: vipsec_wire::encapsulation::EncapsulationError) -> Self {
        use vipsec_wire::encapsulation::EncapsulationError;
        match error {
            EncapsulationError::NotIp => Self::MalformedIp,
            EncapsulationError::TooLong => Self::TooBig,
            EncapsulationError::NoRoom(_) => Self::NoRoom,
        }
    }
}

impl From<vipsec_wire::icmp_error::WriteError> for DropReason {
    fn from(error: vipsec_wire::icmp_error::WriteError) -> Self {
        use vipsec_wire::icmp_error::WriteError;
        match error {
            WriteError::Malformed(_) => Self::MalformedIp,
            WriteError::MixedFamilies(_) | WriteError::OtherFamily => Self::OtherFamily,
            WriteError::NoRoom(_) => Self::NoRoom,
        }
    }
}

impl From<vipsec_wire::fragment::FragmentError> for DropReason {
    fn from(error: vipsec_wire::fragment::FragmentError) -> Self {
        use vipsec_wire::fragment::FragmentError;
        match error {
            FragmentError::Malformed(_) => Self::MalformedIp,
            FragmentError::Forbidden | FragmentError::Fits | FragmentError::MtuTooSmall => Self::TooBig,
        }
    }
}

impl From<vipsec_wire::fragment::PieceError> for DropReason {
    fn from(error: vipsec_wire::fragment::PieceError) -> Self {
        use vipsec_wire::fragment::PieceError;
        match error {
            PieceError::PoolEmpty => Self::BufferPoolEmpty,
            PieceError::NoRoom(_) => Self::NoRoom,
        }
    }
}

impl From<vipsec_distribute::service::Refusal> for DropReason {
    fn from(refusal: vipsec_distribute::service::Refusal) -> Self {
        use vipsec_distribute::service::Refusal;
        match refusal {
            Refusal::UnknownService => Self::UnknownService,
            Refusal::NoTargetUp => Self::NoTargetUp,
            Refusal::NotInClear => Self::ClearText,
            Refusal::OnlyInClear => Self::NotInTunnel,
        }
    }
}
