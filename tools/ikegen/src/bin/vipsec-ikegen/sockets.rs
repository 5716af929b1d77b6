//! Two sockets for all initiators: ports 500 and 4500 of whatever address is local; ESP in UDP comes and goes at the latter.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{Ipv4PacketInfo, RcvBuf, RcvBufForce};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt};

use crate::Failure;

const PORTS: [u16; 2] = [500, NAT_TRAVERSAL];
const NAT_TRAVERSAL: u16 = 4500;
/// RFC 3948 §2.2: on port 4500 it tells IKE from ESP.
const MARKER: [u8; 4] = [0; 4];
const RECEIVE_BUFFER_BYTES: usize = 16 << 20;
const DATAGRAM_BYTES_MAX: usize = 1 << 16;

pub(crate) struct Sockets {
    sockets: [UdpSocket; 2],
    buffer: Vec<u8>,
}

/// What a datagram holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// An IKE message.
    Ike,
    /// An ESP packet.
    Esp,
}

/// A datagram without the non-ESP marker, with both its ends.
pub(crate) struct Datagram<'a> {
    pub(crate) content: Content,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) payload: &'a [u8],
}

impl Sockets {
    pub(crate) fn open() -> Result<Self, Failure> {
        let [ike, nat] = PORTS.map(|port| open(port).map_err(|error| Failure::Bind { port, error }));
        Ok(Self { sockets: [ike?, nat?], buffer: vec![0; DATAGRAM_BYTES_MAX] })
    }

    pub(crate) fn fds(&self) -> [BorrowedFd<'_>; 2] {
        let [ike, nat] = &self.sockets;
        [ike.as_fd(), nat.as_fd()]
    }

    /// The next IKE message or ESP packet at that socket. A NAT keepalive is skipped.
    pub(crate) fn receive(&mut self, which: usize) -> io::Result<Option<Datagram<'_>>> {
        let (Some(socket), Some(port)) = (self.sockets.get(which), PORTS.get(which).copied()) else { return Ok(None) };
        let Some((content, local, remote, range)) = receive(socket, port, &mut self.buffer)? else { return Ok(None) };
        let payload = self.buffer.get(range).unwrap_or_default();
        Ok(Some(Datagram { content, local: SocketAddr::new(local.into(), port), remote, payload }))
    }

    /// Sends from the initiator's own address. A full queue loses it, as a network would.
    pub(crate) fn send(
        &self,
        content: Content,
        local: SocketAddr,
        remote: SocketAddr,
        payload: &[u8],
    ) -> Result<(), Failure> {
        let [ike, nat] = &self.sockets;
        let socket = if local.port() == NAT_TRAVERSAL { nat } else { ike };
        let has_marker = local.port() == NAT_TRAVERSAL && content == Content::Ike;
        let marker: &[u8] = if has_marker { &MARKER } else { &[] };
        let (IpAddr::V4(source), SocketAddr::V4(remote)) = (local.ip(), remote) else { return Ok(()) };
        let info = libc_packet_info(source);
        let control = [ControlMessage::Ipv4PacketInfo(&info)];
        let parts = [IoSlice::new(marker), IoSlice::new(payload)];
        match sendmsg(socket.as_raw_fd(), &parts, &control, MsgFlags::MSG_DONTWAIT, Some(&SockaddrIn::from(remote))) {
            Ok(_) | Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ECONNREFUSED) => Ok(()),
            Err(Errno::EINVAL | Errno::EADDRNOTAVAIL) => Err(Failure::NotLocal(source.into())),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }
}

fn open(port: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))?;
    socket.set_nonblocking(true)?;
    setsockopt(&socket, Ipv4PacketInfo, &true)?;
    // More than the system's limit is for root.
    setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER_BYTES)
        .or_else(|_| setsockopt(&socket, RcvBuf, &RECEIVE_BUFFER_BYTES))?;
    Ok(socket)
}

type Received = (Content, Ipv4Addr, SocketAddr, std::ops::Range<usize>);

fn receive(socket: &UdpSocket, port: u16, buffer: &mut [u8]) -> io::Result<Option<Received>> {
    loop {
        let mut space = nix::cmsg_space!(nix::libc::in_pktinfo);
        let mut parts = [IoSliceMut::new(buffer)];
        let message =
            match recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_DONTWAIT) {
                Ok(message) => message,
                Err(Errno::EAGAIN) => return Ok(None),
                // An ICMP error about something sent earlier.
                Err(Errno::ECONNREFUSED | Errno::EHOSTUNREACH | Errno::ENETUNREACH) => continue,
                Err(error) => return Err(error.into()),
            };
        let local = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr))),
            _ => None,
        });
        let (Some(local), Some(remote), len) = (local, message.address, message.bytes) else { continue };
        let has_marker = port == NAT_TRAVERSAL && buffer.starts_with(&MARKER);
        let (content, from) = match port {
            NAT_TRAVERSAL if has_marker => (Content::Ike, MARKER.len()),
            NAT_TRAVERSAL => (Content::Esp, 0),
            _ => (Content::Ike, 0),
        };
        // RFC 3948 §2.3: a NAT keepalive is one byte.
        if len > from.max(1) {
            return Ok(Some((content, local, SocketAddr::from(SocketAddrV4::from(remote)), from..len)));
        }
    }
}

/// Names the source address; the interface is the routing table's choice.
fn libc_packet_info(source: Ipv4Addr) -> nix::libc::in_pktinfo {
    let address = |bits: u32| nix::libc::in_addr { s_addr: bits };
    nix::libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address(u32::from(source).to_be()), ipi_addr: address(0) }
}
