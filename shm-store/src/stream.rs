//! Messages over TCP: two bytes of length, then the message.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use crate::channel::{MESSAGE_BYTES_MAX, OVERHEAD_BYTES};
use crate::error::{LinkError, system};

const FRAME_BYTES_MAX: usize = MESSAGE_BYTES_MAX + OVERHEAD_BYTES;
const LENGTH_BYTES: usize = 2;
/// What may wait to be sent: a peer that reads so little is no peer.
const WAITING_BYTES_MAX: usize = 16 * FRAME_BYTES_MAX;
/// The kernel gives a connection up when nothing that was sent is acknowledged for so long.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(2);

/// The connection is over. One that was given up because nothing was acknowledged says why the last attempt failed.
fn means_gone(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::BrokenPipe
            | ErrorKind::ConnectionReset
            | ErrorKind::TimedOut
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
    )
}

/// A connection that never blocks.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: TcpStream,
    /// Received, but not yet whole.
    received: Vec<u8>,
    /// To be sent.
    waiting: Vec<u8>,
}

fn io(call: &'static str) -> impl FnOnce(std::io::Error) -> LinkError {
    move |error| system(call)(Errno::from_raw(error.raw_os_error().unwrap_or(0)))
}

impl Stream {
    /// Takes a connected socket.
    pub(crate) fn new(socket: TcpStream) -> Result<Self, LinkError> {
        socket.set_nonblocking(true).map_err(io("O_NONBLOCK"))?;
        // Heartbeats are small, and in a hurry.
        socket.set_nodelay(true).map_err(io("TCP_NODELAY"))?;
        let limit = UNACKNOWLEDGED_MAX.as_millis() as u32;
        setsockopt(&socket, sockopt::TcpUserTimeout, &limit).map_err(system("TCP_USER_TIMEOUT"))?;
        Ok(Self { socket, received: Vec::new(), waiting: Vec::new() })
    }

    /// Sends a message, or refuses it; never waits. What the system doesn't take now leaves with the next call.
    pub(crate) fn send(&mut self, message: &[u8]) -> Result<(), LinkError> {
        let len = u16::try_from(message.len()).map_err(|_| LinkError::Malformed)?;
        if message.is_empty() || message.len() > FRAME_BYTES_MAX {
            return Err(LinkError::Malformed);
        }
        if self.waiting.len() + LENGTH_BYTES + message.len() > WAITING_BYTES_MAX {
            return Err(LinkError::QueueFull);
        }
        self.waiting.extend(len.to_be_bytes());
        self.waiting.extend(message);
        self.flush()
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        while !self.waiting.is_empty() {
            match self.socket.write(&self.waiting) {
                Ok(0) => return Err(LinkError::Disconnected),
                Ok(sent) => drop(self.waiting.drain(..sent)),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(()),
                    ErrorKind::Interrupted => {}
                    kind if means_gone(kind) => return Err(LinkError::Disconnected),
                    _ => return Err(io("write")(error)),
                },
            }
        }
        Ok(())
    }

    /// The next whole message, if it is there; never waits.
    pub(crate) fn recv(&mut self) -> Result<Option<Vec<u8>>, LinkError> {
        self.flush()?;
        let mut bytes = [0; 4096];
        loop {
            if let Some(message) = self.take_frame()? {
                return Ok(Some(message));
            }
            match self.socket.read(&mut bytes) {
                Ok(0) => return Err(LinkError::Disconnected),
                Ok(count) => self.received.extend(bytes.iter().take(count)),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(None),
                    ErrorKind::Interrupted => {}
                    kind if means_gone(kind) => return Err(LinkError::Disconnected),
                    _ => return Err(io("read")(error)),
                },
            }
        }
    }

    fn take_frame(&mut self) -> Result<Option<Vec<u8>>, LinkError> {
        let Some((length, rest)) = self.received.split_first_chunk() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*length));
        if length == 0 || length > FRAME_BYTES_MAX {
            return Err(LinkError::Malformed);
        }
        let Some(message) = rest.get(..length).map(<[u8]>::to_vec) else { return Ok(None) };
        self.received.drain(..LENGTH_BYTES + length);
        Ok(Some(message))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
