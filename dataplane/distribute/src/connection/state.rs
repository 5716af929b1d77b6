//! How far a connection has come, and how long it may be silent there.

use std::time::Duration;

use vipsec_wire::ip::protocol;
use vipsec_wire::tcp::Flags;

use super::clock::{Tick, milliseconds};
use super::entry::{self, Entry};

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the remote host to the target.
    ToTarget = 0,
    /// From the target to the remote host.
    ToRemote = 1,
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
        Self::const_default()
    }
}

impl Timeouts {
    pub(super) const fn const_default() -> Self {
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
    pub(super) const ALL: [Self; 8] = [
        Self::TcpOpening,
        Self::TcpEstablished,
        Self::TcpClosing,
        Self::TcpReset,
        Self::UdpOneWay,
        Self::UdpTwoWay,
        Self::Icmp,
        Self::Other,
    ];

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
    #[inline]
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
    #[inline]
    pub(super) const fn is_over(self) -> bool {
        matches!(self, Self::TcpClosing | Self::TcpReset)
    }

    /// Does it count as a connection of its target?
    #[inline]
    pub(super) const fn is_active(self) -> bool {
        !self.is_over()
    }

    /// In the midst of a connection of which nothing but its existence is known.
    pub(super) const fn midway(ip_protocol: u8) -> Self {
        match ip_protocol {
            protocol::TCP => Self::TcpEstablished,
            protocol::UDP => Self::UdpTwoWay,
            protocol::ICMP | protocol::ICMPV6 => Self::Icmp,
            _ => Self::Other,
        }
    }
}

/// The timeouts in the table's own time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Silence {
    /// One for each state, in milliseconds.
    max: [u32; ConnectionState::ALL.len()],
}

impl Silence {
    pub(super) fn new(timeouts: &Timeouts) -> Self {
        Self { max: ConnectionState::ALL.map(|state| milliseconds(timeouts.of(state))) }
    }

    /// Has the connection been silent for as long as its state allows?
    #[inline]
    pub(super) fn is_over(&self, entry: &Entry, now: Tick) -> bool {
        now.since(entry.last_packet) >= self.max[entry.state as usize]
    }

    /// May another connection have the place when every place is taken? One that no target has answered, one that is reset, and
    /// datagrams that could be forgotten if they went one way only. An open TCP connection never gives way.
    pub(super) fn gives_way(&self, entry: &Entry, now: Tick) -> bool {
        let silence = now.since(entry.last_packet);
        match entry.state {
            ConnectionState::TcpReset => true,
            _ if !entry.flags.has(entry::Flags::ANSWERED) => true,
            ConnectionState::UdpTwoWay | ConnectionState::Icmp => {
                silence >= self.max[ConnectionState::UdpOneWay as usize]
            }
            _ => false,
        }
    }
}
