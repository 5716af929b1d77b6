//! How the two appliances meet: at a socket of one host, or over the network that joins two.
//!
//! The appliance with the lower id is called, the other one calls.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rand::rngs::StdRng;
use vipsec_store::fabric::{self, DataListener, FabricSetup, Provider};
use vipsec_store::local::{self, Connection, Listener};
use vipsec_store::pairing::PairingSecret;
use vipsec_store::{Link, LinkError, Setup};

use crate::config::{self, StoreLink};

/// The longest time that a pairing may take.
pub(super) const PAIRING_MAX: Duration = Duration::from_secs(2);
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

impl Way {
    /// The way for a group, by its place in the configuration. Makes the socket's folder.
    pub(super) fn to(peer: &config::Peer, group: u16, own: vipsec_wire::iv::ApplianceId) -> std::io::Result<Self> {
        let calls = own > peer.id;
        match peer.store.clone() {
            StoreLink::Local(mut path) => {
                if group > 0 {
                    path.as_mut_os_string().push(format!(".{group}"));
                }
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                Ok(if calls { Self::Call { path } } else { Self::Listen { path, listener: None } })
            }
            StoreLink::Fabric { provider, listen, connect } => {
                // One port for messages, the one above for the region. The configuration has room for all groups.
                let [listen, connect] = [listen, connect]
                    .map(|first| SocketAddr::new(first.ip(), first.port().saturating_add(group.saturating_mul(2))));
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
    ) -> Result<Option<Link>, LinkError> {
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
        let deadline = Instant::now() + PAIRING_MAX;
        connection.map(|connection| local::pair(connection, setup.clone(), secret, deadline, rng)).transpose()
    }
}

/// The port above: where regions are written.
fn data_of(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port().saturating_add(1))
}

fn system(call: &'static str) -> impl Fn(std::io::Error) -> LinkError {
    move |error| LinkError::System { call, errno: Errno::from_raw(error.raw_os_error().unwrap_or(0)) }
}

impl Network {
    fn pair(&mut self, setup: &Setup, secret: PairingSecret, rng: &mut StdRng) -> Result<Option<Link>, LinkError> {
        let Some(socket) = self.meet()? else { return Ok(None) };
        let listener = match &mut self.data {
            Some(listener) => &*listener,
            none => none.insert(DataListener::bind(self.provider, data_of(self.listen))?),
        };
        let deadline = Instant::now() + PAIRING_MAX;
        let peer_data = data_of(self.connect);
        let fabric = FabricSetup { setup: setup.clone(), provider: self.provider, listener, peer_data };
        fabric::pair(socket, fabric, secret, deadline, rng).map(Some)
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
