//! How the two appliances meet: at a socket of one host, or over the network that joins two.
//!
//! The appliance with the lower id is called, the other one calls.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rand::rngs::StdRng;
use vipsec_store::fabric::{self, DataListener, FabricOwner, FabricSetup, Provider};
use vipsec_store::local::{Connecting, Connection, Listener, Owner, Progress, Protection};
use vipsec_store::pairing::{Agreement, PairingSecret, Peer};
use vipsec_store::{Control, Grant, LinkError, Reader, Setup, StoreError, StoreWriter};

use crate::config::{self, StoreLink};

/// The longest time that a pairing may take.
const PAIRING_MAX: Duration = Duration::from_secs(2);
/// The longest time that a call may take.
const CALL_MAX: Duration = Duration::from_millis(500);

/// A way to the other appliance.
pub(super) enum Way {
    /// It calls at a socket.
    Listen { path: PathBuf, listener: Option<Listener> },
    /// We call there.
    Call { path: PathBuf },
    /// Over the network.
    Fabric(Network),
}

/// The network between two hosts.
pub(super) struct Network {
    provider: Provider,
    listen: SocketAddr,
    connect: SocketAddr,
    calls: bool,
    /// Made when first needed, and kept.
    messages: Option<TcpListener>,
    data: Option<DataListener>,
}

/// A link that stands. Grants are still to be exchanged, until `deadline`.
pub(super) struct Met {
    pub(super) deadline: Instant,
    pub(super) peer: Peer,
    pub(super) agreement: Agreement,
    pub(super) protection: Protection,
    pub(super) control: Control,
    pub(super) reader: Reader,
    pub(super) owner: Ownership,
}

/// We as an owner, until we are granted to write.
pub(super) enum Ownership {
    Local(Owner),
    Fabric(Box<FabricOwner>),
}

impl Ownership {
    /// Starts to write.
    pub(super) fn writer(self, grant: Grant) -> Result<Box<dyn StoreWriter + Send>, StoreError> {
        Ok(match self {
            Self::Local(mut owner) => Box::new(owner.writer(grant)?),
            Self::Fabric(owner) => Box::new(owner.writer(grant)?),
        })
    }
}

impl Way {
    /// From the configuration. Makes the socket's folder.
    pub(super) fn to(peer: &config::Peer, own: vipsec_wire::iv::ApplianceId) -> std::io::Result<Self> {
        let calls = own > peer.id;
        match peer.store.clone() {
            StoreLink::Local(path) => {
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                Ok(if calls { Self::Call { path } } else { Self::Listen { path, listener: None } })
            }
            StoreLink::Fabric { provider, listen, connect } => {
                Ok(Self::Fabric(Network { provider, listen, connect, calls, messages: None, data: None }))
            }
        }
    }

    /// One attempt. `None`: nobody there.
    pub(super) fn pair(
        &mut self,
        setup: &Setup,
        secret: PairingSecret,
        rng: &mut StdRng,
    ) -> Result<Option<Met>, LinkError> {
        let connection = match self {
            Self::Fabric(network) => return network.pair(setup, secret, rng),
            Self::Call { path } => match Connection::connect(path) {
                Err(LinkError::Disconnected) => None,
                Err(LinkError::System { errno: Errno::ECONNREFUSED | Errno::ENOENT, .. }) => None,
                result => Some(result?),
            },
            Self::Listen { path, listener } => match listener {
                Some(listener) => listener,
                none => none.insert(Listener::bind(path)?),
            }
            .accept()?,
        };
        connection.map(|connection| pair_locally(connection, setup, secret, rng)).transpose()
    }
}

fn pair_locally(
    connection: Connection,
    setup: &Setup,
    secret: PairingSecret,
    rng: &mut StdRng,
) -> Result<Met, LinkError> {
    let deadline = Instant::now() + PAIRING_MAX;
    let mut connecting = Connecting::new(connection, setup.clone(), secret, rng)?;
    let link = loop {
        match connecting.poll()? {
            Progress::Paired(link) => break *link,
            Progress::Waiting(waiting) => {
                connecting = *waiting;
                wait_before(deadline, connecting.as_fd())?;
            }
        }
    };
    let (peer, agreement, protection) = (link.peer, link.agreement, link.protection);
    let owner = Ownership::Local(link.owner);
    Ok(Met { deadline, peer, agreement, protection, control: link.control, reader: link.reader, owner })
}

/// The port above: where regions are written.
fn data_of(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port().saturating_add(1))
}

fn system(call: &'static str) -> impl Fn(std::io::Error) -> LinkError {
    move |error| LinkError::System { call, errno: Errno::from_raw(error.raw_os_error().unwrap_or(0)) }
}

impl Network {
    fn pair(&mut self, setup: &Setup, secret: PairingSecret, rng: &mut StdRng) -> Result<Option<Met>, LinkError> {
        let Some(socket) = self.meet()? else { return Ok(None) };
        let listener = match &mut self.data {
            Some(listener) => &*listener,
            none => none.insert(DataListener::bind(self.provider, data_of(self.listen))?),
        };
        let deadline = Instant::now() + PAIRING_MAX;
        let peer_data = data_of(self.connect);
        let fabric = FabricSetup { setup: setup.clone(), provider: self.provider, listener, peer_data };
        let link = fabric::pair(socket, fabric, secret, deadline, rng)?;
        let (peer, agreement, protection) = (link.peer, link.agreement, link.protection);
        let owner = Ownership::Fabric(Box::new(link.owner));
        Ok(Some(Met { deadline, peer, agreement, protection, control: link.control, reader: link.reader, owner }))
    }

    fn meet(&mut self) -> Result<Option<TcpStream>, LinkError> {
        if self.calls {
            return match TcpStream::connect_timeout(&self.connect, CALL_MAX) {
                Ok(socket) => Ok(Some(socket)),
                Err(error) => match error.kind() {
                    ErrorKind::ConnectionRefused
                    | ErrorKind::TimedOut
                    | ErrorKind::HostUnreachable
                    | ErrorKind::NetworkUnreachable => Ok(None),
                    _ => Err(system("connect")(error)),
                },
            };
        }
        let listener = match &mut self.messages {
            Some(listener) => listener,
            none => {
                let listener = TcpListener::bind(self.listen).map_err(system("bind"))?;
                listener.set_nonblocking(true).map_err(system("O_NONBLOCK"))?;
                none.insert(listener)
            }
        };
        match listener.accept() {
            Ok((socket, from)) if from.ip() == self.connect.ip() => Ok(Some(socket)),
            // Not the other appliance.
            Ok(_) => Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted) => Ok(None),
            Err(error) => Err(system("accept")(error)),
        }
    }
}

/// Waits for something to read, at most until `deadline`.
pub(super) fn wait_before(deadline: Instant, socket: BorrowedFd<'_>) -> Result<(), LinkError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(LinkError::Disconnected);
    }
    wait_until_readable(socket, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
    Ok(())
}

/// Readable, closed, or the time is up: the next read tells.
pub(super) fn wait_until_readable(socket: BorrowedFd<'_>, limit: PollTimeout) {
    let _ = poll(&mut [PollFd::new(socket, PollFlags::POLLIN)], limit);
}
