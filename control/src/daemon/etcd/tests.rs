//! The client and the distribution's etcd, with certificates on both sides and users.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::IgnoredAny;
use tempfile::TempDir;
use vipsec_ike::Secret;
use vipsec_takeover::registry::{Process, Record, Reply, Request};
use vipsec_wire::iv::ApplianceId;

use super::client::{Client, EtcdError};
use super::words::Bytes;
use crate::config::{Etcd, Tls};

/// To start, and to answer while others have the processor.
const LIMIT: Duration = Duration::from_secs(30);

/// An etcd that is asked under TLS by who has a certificate; ends with this.
struct Server {
    process: Child,
    folder: TempDir,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn openssl(folder: &Path, args: &[&str]) {
    let made = Command::new("openssl").current_dir(folder).args(args).output().expect("openssl is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn make_ca(folder: &Path, name: &str) {
    let (key, certificate, subject) = (format!("{name}.key"), format!("{name}.pem"), format!("/CN={name}"));
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    let own = ["req", "-x509", "-keyout", &key, "-out", &certificate, "-subj", &subject];
    openssl(folder, &[&own[..], &curve].concat());
}

/// Signed by `ca`, for this host.
fn make_certificate(folder: &Path, ca: &str, name: &str) {
    let (key, request, certificate) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
    // RSA: its key is larger than any secret, as operators have them.
    let own = ["req", "-newkey", "rsa:2048", "-nodes", "-keyout", &key, "-out", &request, "-subj", "/O=vipsec"];
    openssl(folder, &own);
    fs::write(folder.join("extensions"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").unwrap();
    let (ca, ca_key) = (format!("{ca}.pem"), format!("{ca}.key"));
    let signed = ["x509", "-req", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial", "-days", "2"];
    openssl(folder, &[&signed[..], &["-extfile", "extensions", "-out", &certificate]].concat());
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

impl Server {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        make_ca(folder.path(), "ca");
        make_ca(folder.path(), "stranger");
        make_certificate(folder.path(), "ca", "server");
        make_certificate(folder.path(), "ca", "client");
        make_certificate(folder.path(), "stranger", "unknown");
        let port = free_port();
        let (clients, peers) = (format!("https://127.0.0.1:{port}"), format!("http://127.0.0.1:{}", free_port()));
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let process = Command::new("etcd")
            .current_dir(folder.path())
            .args(["--name", "one", "--data-dir", "data", "--initial-cluster", &format!("one={peers}")])
            .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--cert-file", "server.pem", "--key-file", "server.key"])
            .args(["--client-cert-auth", "--trusted-ca-file", "ca.pem"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("etcd is installed");
        let mut server = Self { process, folder, port };
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let ended = server.process.try_wait().unwrap();
            assert!(ended.is_none() && began.elapsed() < LIMIT, "{ended:?}\n{}", server.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.folder.path().join(name)).unwrap()
    }

    /// Who believes certificates of `ca` and has that one of its own.
    fn client(&self, ca: &str, own: Option<&str>, user: Option<(&str, &str)>) -> Client {
        let identity =
            own.map(|name| (self.read(&format!("{name}.pem")), Secret::new(self.read(&format!("{name}.key")))));
        Client::new(&Etcd {
            endpoints: vec![format!("https://127.0.0.1:{}", self.port)],
            prefix: "/vipsec".to_owned(),
            lease: Duration::from_secs(5),
            timeout: LIMIT,
            credentials: user.map(|(name, password)| (name.to_owned(), Secret::new(password.as_bytes().to_vec()))),
            tls: Some(Tls { ca: self.read(&format!("{ca}.pem")), identity }),
        })
    }
}

#[derive(Serialize)]
struct User<'a> {
    name: &'a str,
    password: &'a str,
}

#[derive(Serialize)]
struct Role<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct RoleOf<'a> {
    user: &'a str,
    role: &'a str,
}

#[derive(Serialize)]
struct Permission<'a> {
    name: &'a str,
    perm: Keys,
}

#[derive(Serialize)]
struct Keys {
    #[serde(rename = "permType")]
    kind: &'static str,
    key: Bytes,
    range_end: Bytes,
}

/// As docs/registry.md says: a user that may read and write below the prefix, and no more.
fn ask_for_users(client: &mut Client) {
    for name in ["root", "vipsec"] {
        let _: IgnoredAny = client.post("/v3/auth/role/add", &Role { name }).unwrap();
        let _: IgnoredAny = client.post("/v3/auth/user/add", &User { name, password: "correct horse" }).unwrap();
        let _: IgnoredAny = client.post("/v3/auth/user/grant", &RoleOf { user: name, role: name }).unwrap();
    }
    let [key, range_end] = ["/vipsec/", "/vipsec0"].map(|key| Bytes(key.as_bytes().to_vec()));
    let perm = Keys { kind: "READWRITE", key, range_end };
    let _: IgnoredAny = client.post("/v3/auth/role/grant", &Permission { name: "vipsec", perm }).unwrap();
    #[derive(Serialize)]
    struct Enable {}
    let _: IgnoredAny = client.post("/v3/auth/enable", &Enable {}).unwrap();
}

#[test]
fn etcd_is_asked_under_tls_by_whom_it_knows() {
    let server = Server::start();
    let refused = |answer: Result<Reply, EtcdError>| matches!(answer, Err(EtcdError::Unreachable { .. }));
    assert!(refused(server.client("stranger", Some("client"), None).ask("edge", &Request::Read)), "another's etcd");
    assert!(refused(server.client("ca", None, None).ask("edge", &Request::Read)), "we have no certificate");
    assert!(refused(server.client("ca", Some("unknown"), None).ask("edge", &Request::Read)), "a stranger's");

    let mut known = server.client("ca", Some("client"), None);
    let Ok(Reply::Standing(standing)) = known.ask("edge", &Request::Read) else { panic!("{}", server.log()) };
    assert_eq!((standing.revision, standing.record), (0, None));

    ask_for_users(&mut known);
    let status = |answer| matches!(answer, Err(EtcdError::Status { .. }));
    assert!(status(known.ask("edge", &Request::Read)), "now it asks who we are");
    assert!(status(server.client("ca", Some("client"), Some(("vipsec", "wrong"))).ask("edge", &Request::Read)));

    let mut user = server.client("ca", Some("client"), Some(("vipsec", "correct horse")));
    let me = Process { appliance: ApplianceId::new(1).unwrap(), incarnation: 7 };
    let record = Record { owner: me, epoch: 3, copies: Vec::new() };
    let write = Request::Write { revision: 0, record: record.clone() };
    assert!(matches!(user.ask("edge", &write), Ok(Reply::Written(_))));
    let lease = user.appear(me, Duration::from_secs(5)).unwrap();
    assert!(user.keep(lease).unwrap());
    let Ok(Reply::Standing(standing)) = user.ask("edge", &Request::Read) else { panic!("{}", server.log()) };
    assert_eq!((standing.record, standing.alive), (Some(record), vec![me]));
}
