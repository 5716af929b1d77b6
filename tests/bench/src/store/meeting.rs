//! Owner and backup as two threads: in one memory, or each in a network namespace of its own, with a cable between.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};
use serde::{Deserialize, Serialize};
use vipsec_store::fabric::{self, DataListener, FabricSetup, Provider};
use vipsec_store::local::{self, Connection, Listener};
use vipsec_store::pairing::PairingSecret;
use vipsec_store::{Grant, Link, Setup, Sizes, Versions, wait_readable};
use vipsec_wire::iv::ApplianceId;
use zeroize::Zeroizing;

use crate::error::BenchError;

/// How the owner reaches the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Way {
    /// Shared memory.
    Local,
    /// libfabric's `tcp`, between two network namespaces.
    Tcp,
}

impl Way {
    pub(crate) const ALL: [Self; 2] = [Self::Local, Self::Tcp];
}

const OWNER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const BACKUP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
const MESSAGES: u16 = 7410;
const DATA: u16 = 7411;
const PAIRING_MAX: Duration = Duration::from_secs(60);

fn setup(id: u8, sizes: &Sizes) -> Result<Setup, BenchError> {
    let appliance = ApplianceId::new(id).map_err(BenchError::setup)?;
    let versions = Versions { oldest: 1, newest: 1 };
    Ok(Setup { appliance, incarnation: [id; 16], versions, config_digest: [0; 32], sizes: sizes.clone() })
}

fn secret() -> Result<PairingSecret, BenchError> {
    PairingSecret::new(Zeroizing::new(vec![1; 32])).map_err(BenchError::setup)
}

fn rng() -> Result<StdRng, BenchError> {
    StdRng::try_from_rng(&mut SysRng).map_err(BenchError::setup)
}

/// Pairs; `backup` is what the other side does, on its thread, once it has granted.
pub(super) fn pair(
    way: Way,
    sizes: Sizes,
    backup: impl FnOnce(Link) + Send + 'static,
) -> Result<(Link, Grant), BenchError> {
    match way {
        Way::Local => locally(sizes, backup),
        Way::Tcp => over_tcp(sizes, backup),
    }
}

fn granted(mut link: Link) -> Result<(Link, Grant), BenchError> {
    loop {
        if let Some(grant) = link.control.recv().map_err(BenchError::setup)? {
            let grant = grant.try_into().map_err(|_| BenchError::setup("no grant"))?;
            return Ok((link, Grant::from_bytes(grant)));
        }
        wait_readable(&link.control, Some(Instant::now() + PAIRING_MAX)).map_err(BenchError::setup)?;
    }
}

fn grant(mut link: Link, backup: impl FnOnce(Link)) -> Result<(), BenchError> {
    let grant = link.reader.join(&mut rng()?).map_err(BenchError::setup)?;
    link.control.send(&grant.to_bytes()).map_err(BenchError::setup)?;
    backup(link);
    Ok(())
}

fn locally(sizes: Sizes, backup: impl FnOnce(Link) + Send + 'static) -> Result<(Link, Grant), BenchError> {
    let path = std::env::temp_dir().join(format!("vipsec-bench-{}", gettid()));
    let mut listener = Listener::bind(&path).map_err(BenchError::setup)?;
    let caller = Connection::connect(&path).map_err(BenchError::setup)?;
    let host = listener.accept().map_err(BenchError::setup)?.ok_or_else(|| BenchError::setup("nobody calls"))?;
    let deadline = Instant::now() + PAIRING_MAX;
    let theirs = setup(2, &sizes)?;
    thread::spawn(move || {
        let link = local::pair(host, theirs, secret()?, deadline, &mut rng()?).map_err(BenchError::setup)?;
        grant(link, backup)
    });
    granted(local::pair(caller, setup(1, &sizes)?, secret()?, deadline, &mut rng()?).map_err(BenchError::setup)?)
}

fn over_tcp(sizes: Sizes, backup: impl FnOnce(Link) + Send + 'static) -> Result<(Link, Grant), BenchError> {
    let deadline = Instant::now() + PAIRING_MAX;
    let (tell_thread, thread_of_backup) = channel();
    let (plugged, cable) = channel::<()>();
    let (listens, listening) = channel();
    let theirs = setup(2, &sizes)?;
    thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(BenchError::setup)?;
        tell_thread.send(gettid()).map_err(BenchError::setup)?;
        cable.recv().map_err(BenchError::setup)?;
        up("bench-b", BACKUP)?;
        let messages = TcpListener::bind((BACKUP, MESSAGES)).map_err(BenchError::setup)?;
        let data = DataListener::bind(Provider::Tcp, SocketAddr::new(BACKUP, DATA)).map_err(BenchError::setup)?;
        listens.send(()).map_err(BenchError::setup)?;
        let (socket, _) = messages.accept().map_err(BenchError::setup)?;
        let peer_data = SocketAddr::new(OWNER, DATA);
        let fabric = FabricSetup { setup: theirs, provider: Provider::Tcp, listener: &data, peer_data };
        let link = fabric::pair(socket, fabric, secret()?, deadline, &mut rng()?).map_err(BenchError::setup)?;
        grant(link, backup)
    });
    // This thread's namespace goes with the next one; the bench has nothing else to do with networks.
    unshare(CloneFlags::CLONE_NEWNET).map_err(BenchError::setup)?;
    let backup = thread_of_backup.recv().map_err(BenchError::setup)?.to_string();
    ip(&["link", "add", "bench-o", "type", "veth", "peer", "name", "bench-b", "netns", &backup])?;
    up("bench-o", OWNER)?;
    plugged.send(()).map_err(BenchError::setup)?;
    listening.recv().map_err(BenchError::setup)?;
    let data = DataListener::bind(Provider::Tcp, SocketAddr::new(OWNER, DATA)).map_err(BenchError::setup)?;
    let socket = TcpStream::connect((BACKUP, MESSAGES)).map_err(BenchError::setup)?;
    let peer_data = SocketAddr::new(BACKUP, DATA);
    let fabric = FabricSetup { setup: setup(1, &sizes)?, provider: Provider::Tcp, listener: &data, peer_data };
    granted(fabric::pair(socket, fabric, secret()?, deadline, &mut rng()?).map_err(BenchError::setup)?)
}

fn up(link: &str, address: IpAddr) -> Result<(), BenchError> {
    ip(&["addr", "add", &format!("{address}/24"), "dev", link])?;
    ip(&["link", "set", link, "up"])
}

fn ip(args: &[&str]) -> Result<(), BenchError> {
    let status = Command::new("ip").args(args).status().map_err(BenchError::setup)?;
    if status.success() { Ok(()) } else { Err(BenchError::setup(format!("ip {}", args.join(" ")))) }
}
