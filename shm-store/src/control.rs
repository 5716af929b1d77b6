//! Sealed messages between paired processes, over whatever carries them.

use std::os::fd::{AsFd, BorrowedFd};

use crate::channel::Channel;
use crate::error::LinkError;
use crate::local::Connection;
use crate::stream::Stream;

#[derive(Debug)]
enum Carrier {
    Local(Connection),
    Stream(Stream),
}

/// Sealed messages over a socket.
#[derive(Debug)]
pub struct Control {
    carrier: Carrier,
    channel: Channel,
}

impl Control {
    pub(crate) fn local(connection: Connection, channel: Channel) -> Self {
        Self { carrier: Carrier::Local(connection), channel }
    }

    pub(crate) fn stream(stream: Stream, channel: Channel) -> Self {
        Self { carrier: Carrier::Stream(stream), channel }
    }

    /// Seals and sends a message; never waits. After [`LinkError::QueueFull`] the message is lost, the link goes on.
    pub fn send(&mut self, message: &[u8]) -> Result<(), LinkError> {
        let sealed = self.channel.seal_message(message)?;
        match &mut self.carrier {
            Carrier::Local(connection) => connection.send(&sealed, None),
            Carrier::Stream(stream) => stream.send(&sealed),
        }
    }

    /// The next message, if one came; never waits. [`LinkError::Disconnected`] when the peer is gone.
    pub fn recv(&mut self) -> Result<Option<Vec<u8>>, LinkError> {
        let received = match &mut self.carrier {
            Carrier::Local(connection) => connection.recv()?.map(|received| received.message),
            Carrier::Stream(stream) => stream.recv()?,
        };
        Ok(match received {
            Some(sealed) => Some(self.channel.open_message(&sealed)?),
            None => None,
        })
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.carrier {
            Carrier::Local(connection) => connection.as_fd(),
            Carrier::Stream(stream) => stream.as_fd(),
        }
    }
}
