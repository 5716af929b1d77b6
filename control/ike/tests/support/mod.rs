//! A stock strongSwan in a network namespace of its own, and our endpoint on real sockets in another.

use std::collections::VecDeque;
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use vipsec_ike::{Endpoint, Event, KeyLogTable, Transmit};

pub(crate) const VIP: &str = "192.0.2.1";
pub(crate) const PEER: &str = "192.0.2.7";
pub(crate) const SECRET: &str = "correct horse battery staple";

const CHARON: &str = "/usr/lib/ipsec/charon";

/// Two namespaces with a cable between them; gone when dropped.
struct Lab {
    ours: String,
    theirs: String,
}

impl Lab {
    fn new(name: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test makes network namespaces: run it as root");
        assert!(
            Path::new(CHARON).exists(),
            "this test needs strongSwan: apt-get install strongswan-charon strongswan-swanctl libcharon-extra-plugins libstrongswan-standard-plugins"
        );
        assert!(Path::new("/dev/net/tun").exists(), "strongSwan's user-space ESP needs /dev/net/tun");
        let prefix = format!("vipsec-ike-{name}-{}", std::process::id());
        let lab = Self { ours: format!("{prefix}-us"), theirs: format!("{prefix}-peer") };
        for ns in [&lab.ours, &lab.theirs] {
            run(&["ip", "netns", "add", ns]);
            run(&["ip", "-n", ns, "link", "set", "lo", "up"]);
        }
        let veth =
            ["link", "add", "out", "netns", &lab.ours, "type", "veth", "peer", "name", "out", "netns", &lab.theirs];
        run(&[&["ip"], &veth[..]].concat());
        for (ns, address) in [(&lab.ours, VIP), (&lab.theirs, PEER)] {
            run(&["ip", "-n", ns, "address", "add", &format!("{address}/24"), "dev", "out"]);
            run(&["ip", "-n", ns, "link", "set", "out", "up"]);
        }
        // What charon's traffic selectors name has to be there.
        for address in ["10.9.0.1/16", "10.9.1.1/24"] {
            run(&["ip", "-n", &lab.theirs, "address", "add", address, "dev", "lo"]);
        }
        lab
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for ns in [&self.ours, &self.theirs] {
            let _ = Command::new("ip").args(["netns", "delete", ns]).status();
        }
    }
}

fn run(command: &[&str]) {
    let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What charon proposes and accepts, in the words of swanctl.conf and strongswan.conf.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) ike: String,
    pub(crate) esp: String,
    /// Its end of the child SA.
    pub(crate) local_ts: &'static str,
    /// More settings of the connection.
    pub(crate) connection: &'static str,
    /// More settings of the daemon.
    pub(crate) daemon: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ike: "aes256gcm16-prfsha256-x25519".to_owned(),
            esp: "aes256gcm16-x25519".to_owned(),
            local_ts: "local_ts = 10.9.0.0/16",
            connection: "",
            daemon: "",
        }
    }
}

/// A running charon; killed when dropped.
pub(crate) struct Charon {
    process: Child,
    dir: tempfile::TempDir,
    // After the process: a namespace lives as long as somebody is in it.
    lab: Lab,
}

impl Charon {
    /// Starts charon with a connection `vip` to us and children `net` and `spare`.
    pub(crate) fn start(name: &str, options: &Options) -> Self {
        let Options { ike, esp, local_ts, connection, daemon } = options;
        let lab = Lab::new(name);
        let dir = tempfile::Builder::new().prefix("vipsec-ike-").tempdir().unwrap();
        let at = |file: &str| dir.path().join(file);
        fs::create_dir(at("run")).unwrap();
        let log = at("charon.log");
        fs::write(
            at("strongswan.conf"),
            format!(
                "charon {{
  {daemon}
  load = random nonce openssl pem pkcs1 pkcs8 pubkey x509 constraints revocation kdf sha1 sha2 hmac aes gcm curve25519 kernel-libipsec kernel-netlink socket-default vici updown error-notify
  filelog {{
    charon {{
      path = {}
      default = 1
      chd = 4
      flush_line = yes
    }}
  }}
}}
",
                log.display()
            ),
        )
        .unwrap();
        fs::write(
            at("swanctl.conf"),
            format!(
                "connections {{
  vip {{
    version = 2
    local_addrs = {PEER}
    remote_addrs = {VIP}
    proposals = {ike}
    {connection}
    mobike = no
    dpd_delay = 2s
    local {{
      auth = psk
      id = branch.example
    }}
    remote {{
      auth = psk
      id = vip.example
    }}
    children {{
      net {{
        {local_ts}
        remote_ts = 10.1.0.0/16
        esp_proposals = {esp}
      }}
      spare {{
        {local_ts}
        remote_ts = 10.1.7.0/24
        esp_proposals = {esp}
      }}
    }}
  }}
}}
secrets {{
  ike-1 {{
    id-a = vip.example
    id-b = branch.example
    secret = \"{SECRET}\"
  }}
}}
"
            ),
        )
        .unwrap();
        // The pid directory is compiled in, so charon gets a private /run.
        let script = format!("mount --bind {} /run && exec {CHARON}", at("run").display());
        let out = fs::File::create(at("out")).unwrap();
        let process = Command::new("ip")
            .args(["netns", "exec", &lab.theirs, "sh", "-c", &script])
            .env("STRONGSWAN_CONF", at("strongswan.conf"))
            .stdin(Stdio::null())
            .stderr(out.try_clone().unwrap())
            .stdout(out)
            .spawn()
            .unwrap();
        let charon = Self { process, dir, lab };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !charon.socket().exists() {
            assert!(Instant::now() < deadline, "charon doesn't start:\n{}", charon.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        let file = charon.dir.path().join("swanctl.conf");
        let loaded = charon.swanctl(&["--load-all", "--file", file.to_str().unwrap()]).wait_with_output();
        assert!(loaded.unwrap().status.success(), "swanctl.conf was refused:\n{}", charon.log());
        charon
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("run/charon.vici")
    }

    /// Everything that charon has logged.
    pub(crate) fn log(&self) -> String {
        let read = |file| fs::read_to_string(self.dir.path().join(file)).unwrap_or_default();
        read("out") + &read("charon.log")
    }

    /// Starts a swanctl command.
    pub(crate) fn swanctl(&self, args: &[&str]) -> Child {
        Command::new("swanctl")
            .args(args)
            .args(["--uri", &format!("unix://{}", self.socket().display())])
            .env("SWANCTL_DIR", self.dir.path())
            .env("STRONGSWAN_CONF", self.dir.path().join("strongswan.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// What charon says about its SAs.
    pub(crate) fn list_sas(&self) -> String {
        let output = self.swanctl(&["--list-sas"]).wait_with_output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Has charon logged these key bytes? (Hex dumps of 16 bytes a line.)
    pub(crate) fn has_key(&self, key: &[u8]) -> bool {
        let line: Vec<String> = key[..16].iter().map(|byte| format!("{byte:02X}")).collect();
        self.log().contains(&line.join(" "))
    }
}

impl Drop for Charon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = &self.lab;
    }
}

/// Our endpoint on real sockets.
pub(crate) struct Host {
    pub(crate) endpoint: Endpoint,
    pub(crate) events: VecDeque<Event>,
    /// Lines of the key log for IKE.
    pub(crate) keys: Vec<String>,
    /// What went over the wire: from, to, UDP payload.
    pub(crate) seen: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
    sockets: [(SocketAddr, UdpSocket); 2],
}

impl Host {
    /// Moves the calling thread into our namespace and binds the IKE ports there.
    pub(crate) fn new(charon: &Charon, endpoint: Endpoint) -> Self {
        let ns = fs::File::open(Path::new("/run/netns").join(&charon.lab.ours)).unwrap();
        setns(ns, CloneFlags::CLONE_NEWNET).unwrap();
        let sockets = [500, 4500].map(|port| {
            let local = SocketAddr::new(VIP.parse().unwrap(), port);
            let socket = UdpSocket::bind(local).unwrap();
            socket.set_nonblocking(true).unwrap();
            (local, socket)
        });
        Self { endpoint, events: VecDeque::new(), keys: Vec::new(), seen: Vec::new(), sockets }
    }

    /// Puts a message of ours on the wire.
    pub(crate) fn send(&mut self, transmit: &Transmit) {
        let (_, socket) = self.sockets.iter().find(|(local, _)| *local == transmit.local).unwrap();
        // RFC 3948 §2.2: the non-ESP marker.
        let marker: &[u8] = if transmit.local.port() == 4500 { &[0; 4] } else { &[] };
        let datagram = [marker, &transmit.payload].concat();
        socket.send_to(&datagram, transmit.remote).unwrap();
        self.seen.push((transmit.local, transmit.remote, datagram));
    }

    fn receive(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let mut any = false;
        for (local, socket) in &self.sockets {
            match socket.recv_from(&mut buffer) {
                Ok((len, remote)) => {
                    any = true;
                    let datagram = &buffer[..len];
                    self.seen.push((remote, *local, datagram.to_vec()));
                    let message = if local.port() == 4500 { datagram.strip_prefix(&[0; 4]) } else { Some(datagram) };
                    if let Some(message) = message {
                        self.endpoint.handle_datagram(Instant::now(), *local, remote, message);
                    }
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        any
    }

    /// One round: what arrived, what is due, what there is to say.
    fn turn(&mut self) {
        if !self.receive() {
            std::thread::sleep(Duration::from_millis(2));
        }
        let now = Instant::now();
        if self.endpoint.poll_timeout().is_some_and(|at| at <= now) {
            self.endpoint.handle_timeout(now);
        }
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::KeyLog(log) if log.table == KeyLogTable::Ike => self.keys.push(log.line.to_string()),
                event => self.events.push_back(event),
            }
        }
        while let Some(transmit) = self.endpoint.poll_transmit() {
            self.send(&transmit);
        }
    }

    /// Runs until something is so.
    pub(crate) fn until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition(self) {
            assert!(Instant::now() < deadline, "not in time: {what}; events: {:#?}", self.events);
            self.turn();
        }
    }

    /// Runs until a command of the operator at the other end is through.
    pub(crate) fn during(&mut self, mut command: Child) -> Output {
        let deadline = Instant::now() + Duration::from_secs(8);
        while command.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                command.kill().unwrap();
            }
            self.turn();
        }
        let output = command.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        output
    }

    /// Runs until an event comes that `pick` likes; those before it are gone.
    pub(crate) fn event<T>(&mut self, what: &str, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
        let mut picked = None;
        self.until(what, |host| {
            picked = host.events.iter().position(|event| pick(event).is_some());
            picked.is_some()
        });
        let event = self.events.drain(..=picked.unwrap()).next_back().unwrap();
        pick(&event).unwrap()
    }
}
