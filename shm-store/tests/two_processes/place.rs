//! Where two processes meet: at a socket of one host, or between two network namespaces.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use vipsec_store::fabric::{self, DataListener, FabricSetup, Provider};
use vipsec_store::local::{self, Connection, Listener};
use vipsec_store::pairing::PairingSecret;
use vipsec_store::{Grant, Link, LinkError, Setup, StoreWriter, wait_readable};

use crate::script::{secret, setup};

/// For messages, if nothing else is said; regions are written at the port above.
pub(crate) const PORT: u16 = 7410;
pub(crate) const DATA_PORT: u16 = PORT + 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Local(PathBuf),
    Network { host: IpAddr, caller: IpAddr, port: u16 },
}

impl Place {
    pub(crate) fn to_arg(&self) -> String {
        match self {
            Self::Local(path) => format!("local,{}", path.display()),
            Self::Network { host, caller, port } => format!("network,{host},{caller},{port}"),
        }
    }

    pub(crate) fn from_arg(arg: &str) -> Option<Self> {
        match &arg.split(',').collect::<Vec<_>>()[..] {
            ["local", path] => Some(Self::Local(PathBuf::from(path))),
            ["network", host, caller, port] => {
                let (host, caller) = (host.parse().ok()?, caller.parse().ok()?);
                Some(Self::Network { host, caller, port: port.parse().ok()? })
            }
            _ => None,
        }
    }

    /// Places beside it, for owners who live at the same time.
    pub(crate) fn lanes(&self, count: u16) -> Vec<Self> {
        let lane = |nth: u16| match self {
            Self::Local(path) => Self::Local(path.with_extension(nth.to_string())),
            Self::Network { host, caller, port } => {
                Self::Network { host: *host, caller: *caller, port: port + 2 * nth }
            }
        };
        (0..count).map(lane).collect()
    }
}

/// A wait that never ends tells less than a test that fails.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Waits for something to happen. However busy the machine is, it does.
pub(crate) fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = soon();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Who is called.
pub(crate) enum Host {
    Local(Listener),
    Network { messages: TcpListener, data: DataListener, caller_data: SocketAddr },
}

impl Host {
    pub(crate) fn at(place: &Place) -> Self {
        match place {
            Place::Local(path) => Self::Local(Listener::bind(path).unwrap()),
            Place::Network { host, caller, port } => Self::Network {
                messages: TcpListener::bind((*host, *port)).unwrap(),
                data: DataListener::bind(Provider::Tcp, SocketAddr::new(*host, port + 1)).unwrap(),
                caller_data: SocketAddr::new(*caller, port + 1),
            },
        }
    }

    /// The caller's end of a pairing.
    pub(crate) fn answer(&mut self, setup: Setup) -> Result<Link, LinkError> {
        match self {
            Self::Local(listener) => {
                let connection = eventually("somebody calls", || listener.accept().unwrap());
                local::pair(connection, setup, secret(), soon(), &mut rand::rng())
            }
            Self::Network { messages, data, caller_data } => {
                let (socket, _) = messages.accept().unwrap();
                let fabric = FabricSetup { setup, provider: Provider::Tcp, listener: data, peer_data: *caller_data };
                fabric::pair(socket, fabric, secret(), soon(), &mut rand::rng())
            }
        }
    }
}

/// Calls.
pub(crate) fn call(place: &Place, setup: Setup, secret: PairingSecret) -> Result<Link, LinkError> {
    match place {
        Place::Local(path) => local::pair(Connection::connect(path)?, setup, secret, soon(), &mut rand::rng()),
        Place::Network { host, caller, port } => {
            let listener = DataListener::bind(Provider::Tcp, SocketAddr::new(*caller, port + 1))?;
            let socket = TcpStream::connect((*host, *port)).unwrap();
            let peer_data = SocketAddr::new(*host, port + 1);
            let fabric = FabricSetup { setup, provider: Provider::Tcp, listener: &listener, peer_data };
            fabric::pair(socket, fabric, secret, soon(), &mut rand::rng())
        }
    }
}

/// A link of which one side is the owner.
pub(crate) struct Owning {
    pub(crate) control: vipsec_store::Control,
    pub(crate) writer: Box<dyn StoreWriter + Send>,
    /// The region that is kept for the other side, which doesn't write.
    pub(crate) _reader: vipsec_store::Reader,
}

/// Waits for the backup's grant.
pub(crate) fn own(mut link: Link) -> Owning {
    wait_readable(&link.control, Some(soon())).expect("the other process says nothing");
    let grant = link.control.recv().unwrap().unwrap();
    let writer = link.owner.writer(Grant::from_bytes(grant.try_into().unwrap())).unwrap();
    Owning { control: link.control, writer, _reader: link.reader }
}

/// Grants the owner to write.
pub(crate) fn back_up(link: &mut Link) {
    let grant = link.reader.join(&mut rand::rng()).unwrap();
    link.control.send(&grant.to_bytes()).unwrap();
}

pub(crate) fn call_and_own(place: &Place, id: u8) -> Owning {
    own(call(place, setup(id), secret()).unwrap())
}
