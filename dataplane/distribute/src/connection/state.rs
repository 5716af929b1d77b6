//! How far a connection has come, and how long it may be silent there.

use std::time::Duration;

use vipsec_wire::ip::protocol;
use vipsec_wire::tcp::Flags;

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the remote host to the target.
    ToTarget,
    /// From the target to the remote host.
    ToRemote,
}

/// How far a connection has come, as far as its packets show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectionState {
    /// TCP: SYN seen, no answer yet.
    TcpOpening,
    /// TCP: open. Also one whose beginning was not seen here.
    TcpEstablished,
    /// TCP: one side or both have sent FIN.
    TcpClosing,
    /// TCP: reset.
    TcpReset,
    /// UDP: no answer yet.
    UdpOneWay,
    /// UDP: packets both ways.
    UdpTwoWay,
    /// ICMP queries.
    Icmp,
    /// Any other protocol.
    Other,
}

/// After how long a silence a connection is forgotten.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// See [`ConnectionState::TcpOpening`].
    pub tcp_opening: Duration,
    /// See [`ConnectionState::TcpEstablished`].
    pub tcp_established: Duration,
    /// See [`ConnectionState::TcpClosing`].
    pub tcp_closing: Duration,
    /// See [`ConnectionState::TcpReset`].
    pub tcp_reset: Duration,
    /// See [`ConnectionState::UdpOneWay`].
    pub udp_one_way: Duration,
    /// See [`ConnectionState::UdpTwoWay`].
    pub udp_two_way: Duration,
    /// See [`ConnectionState::Icmp`].
    pub icmp: Duration,
    /// See [`ConnectionState::Other`].
    pub other: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            // Forgetting early is harmless here: until the table of services changes, it gives the same target again.
            tcp_opening: Duration::from_secs(30),
            // RFC 5382 REQ-5: not less than 2 hours 4 minutes; not less than 4 minutes while a connection opens or closes.
            tcp_established: Duration::from_secs(2 * 3600 + 4 * 60),
            tcp_closing: Duration::from_secs(4 * 60),
            tcp_reset: Duration::from_secs(10),
            udp_one_way: Duration::from_secs(30),
            // RFC 4787 REQ-5: a default of five minutes is recommended.
            udp_two_way: Duration::from_secs(5 * 60),
            // RFC 5508 REQ-2: not less than 60 seconds.
            icmp: Duration::from_secs(60),
            other: Duration::from_secs(10 * 60),
        }
    }
}

impl Timeouts {
    /// The timeout of a state.
    pub const fn of(&self, state: ConnectionState) -> Duration {
        match state {
            ConnectionState::TcpOpening => self.tcp_opening,
            ConnectionState::TcpEstablished => self.tcp_established,
            ConnectionState::TcpClosing => self.tcp_closing,
            ConnectionState::TcpReset => self.tcp_reset,
            ConnectionState::UdpOneWay => self.udp_one_way,
            ConnectionState::UdpTwoWay => self.udp_two_way,
            ConnectionState::Icmp => self.icmp,
            ConnectionState::Other => self.other,
        }
    }
}

impl ConnectionState {
    /// After the first packet, which came from the remote side.
    pub(super) fn first(protocol: u8, tcp: Option<Flags>) -> Self {
        match (protocol, tcp) {
            (_, Some(flags)) if flags.opens() => Self::TcpOpening,
            (_, Some(flags)) if flags.contains(Flags::FIN) => Self::TcpClosing,
            (_, Some(_)) => Self::TcpEstablished,
            (protocol::UDP, None) => Self::UdpOneWay,
            (protocol::ICMP | protocol::ICMPV6, None) => Self::Icmp,
            _ => Self::Other,
        }
    }

    /// After another packet.
    pub(super) fn after(self, direction: Direction, tcp: Option<Flags>) -> Self {
        match (self, tcp) {
            (_, Some(flags)) if flags.contains(Flags::RST) => Self::TcpReset,
            (Self::TcpOpening | Self::TcpEstablished, Some(flags)) if flags.contains(Flags::FIN) => Self::TcpClosing,
            (Self::TcpOpening, Some(_)) if direction == Direction::ToRemote => Self::TcpEstablished,
            (Self::UdpOneWay, _) if direction == Direction::ToRemote => Self::UdpTwoWay,
            (state, _) => state,
        }
    }

    /// May a new connection with the same ports begin?
    pub(super) const fn is_over(self) -> bool {
        matches!(self, Self::TcpClosing | Self::TcpReset)
    }
}
