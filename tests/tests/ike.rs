//! vipsecd with remote peers that have SAs: it reads its configuration anew, by SIGHUP and over the socket; and its log has no key. The remote peers are a fleet of
//! `vipsec-ikegen`, one half of a connection of its own each. Takes root: it makes a network namespace.
#![forbid(unsafe_code)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use common::{LIMIT, Process, ROOMY, Wires, appliance, is_root, program, until};
use vipsec_control::api::{Client, ClientError, IkeSa, Request, Response};

/// Remote peers of each connection: as many as a prefix of 30 bits has.
const PEERS: usize = 4;
/// The number of the first.
const FIRST: u8 = 8;

/// The remote peers' host, a vipsecd beside it, and what it is told.
struct Scene {
    wires: Wires,
    config: PathBuf,
    socket: PathBuf,
    vipsecd: Process,
    _fleet: Process,
}

/// A connection with the remote peers from that number on; `more` are keys of its child.
fn connection(name: &str, first: u8, more: &str) -> String {
    format!(
        r#"
        [[connection]]
        name = "{name}"
        vip = "web"
        remote_addrs = ["10.64.0.{first}/30"]
        local_id = "vip.example"
        remote_id = "*.peers.example"
        secret_file = "{name}.psk"
        [[connection.child]]
        name = "net"
        remote_ts = ["10.128.0.0/24"]
        {more}
        "#
    )
}

impl Scene {
    fn new() -> Self {
        let wires = Wires::new(&[("out0", "out1")]);
        for arguments in [
            &["link", "set", "lo", "up"][..],
            &["address", "add", "192.0.2.100/24", "dev", "out1"],
            &["route", "add", "local", "10.64.0.0/16", "dev", "lo"],
        ] {
            wires.ip(arguments);
        }
        // What the kernel sends has its checksums, and no packet of several.
        let mut ethtool = wires.command("ethtool");
        ethtool.args(["-K", "out1", "rx", "off", "tx", "off", "tso", "off", "gso", "off", "gro", "off"]);
        assert!(ethtool.output().expect("ethtool is installed").status.success());
        let folder = wires.folder().to_owned();
        for name in ["one", "two"] {
            let secret = folder.join(format!("{name}.psk"));
            fs::write(&secret, "correct horse battery staple").expect("writing a secret");
            fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("its mode");
        }
        let config = folder.join("vipsecd.toml");
        let write = configuration(&wires, &[connection("one", FIRST, ""), connection("two", FIRST + 4, "")].concat());
        fs::write(&config, write).expect("writing the configuration");
        let mut command = wires.command(program("vipsec-control", "vipsecd"));
        command.arg("--config").arg(&config).env("VIPSEC_LOG", "trace");
        let mut vipsecd = Process::start(command, &folder, "vipsecd");
        vipsecd.await_words("own the VIP");
        let mut command = wires.command(program("vipsec-ikegen", "vipsec-ikegen"));
        command
            .args(["--gateway=192.0.2.1", "--base=10.64.0.0", "--inner=10.128.0.0", "--hold=600"])
            .args([format!("--first={FIRST}"), format!("--count={}", 2 * PEERS)])
            .arg("--esp-proposals=aes256gcm16-x25519,aes256gcm16,aes128gcm16")
            .arg("--secret-file")
            .arg(folder.join("one.psk"));
        let fleet = Process::start(command, &folder, "fleet");
        let scene = Self { socket: folder.join("control.sock"), wires, config, vipsecd, _fleet: fleet };
        until("SAs of all remote peers", || scene.up() == [("one", PEERS), ("two", PEERS)]);
        scene
    }

    fn ask(&self, request: &Request) -> Result<Response, ClientError> {
        Client::connect(&self.socket, LIMIT).expect("vipsecd listens").call(request)
    }

    fn sas(&self) -> Vec<IkeSa> {
        match self.ask(&Request::Sas) {
            Ok(Response::Sas(sas)) => sas.ike_sas,
            other => panic!("{other:?}"),
        }
    }

    /// How many IKE SAs of each connection have a child SA.
    fn up(&self) -> Vec<(&'static str, usize)> {
        let sas = self.sas();
        let of = |name| sas.iter().filter(|sa| sa.connection == name && !sa.children.is_empty()).count();
        ["one", "two"].map(|name| (name, of(name))).into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// The SPIs of a connection's SAs, with those of their child SAs.
    fn spis(&self, name: &str) -> BTreeMap<u64, Vec<u32>> {
        let of_name = self.sas().into_iter().filter(|sa| sa.connection == name);
        of_name.map(|sa| (sa.spi.0, sa.children.iter().map(|child| child.spi_in.0).collect())).collect()
    }

    fn write(&self, more: &str) {
        fs::write(&self.config, configuration(&self.wires, more)).expect("writing the configuration");
    }

    fn reload(&self) -> Result<Vec<String>, String> {
        match self.ask(&Request::Reload) {
            Ok(Response::Reloaded { changes }) => Ok(changes),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn configuration(wires: &Wires, more: &str) -> String {
    let (appliance, folder) = (appliance(wires, 1), wires.folder().display());
    format!(
        r#"
        {appliance}
        [ike]
        key_log = "{folder}"
        [[port]]
        name = "outside"
        side = "outside"
        device = "net_af_packet0,iface=out0,qpairs=1,{ROOMY}"
        addresses = ["192.0.2.11/24"]
        [[route]]
        prefix = "0.0.0.0/0"
        via = "192.0.2.100"
        port = "outside"
        [[vip]]
        name = "web"
        address = "192.0.2.1"
        port = "outside"
        {more}
        "#
    )
}

#[test]
fn what_changed_changes_and_other_sas_stay() {
    if !is_root() {
        return;
    }
    let mut scene = Scene::new();
    let (one, two) = (scene.spis("one"), scene.spis("two"));

    // Nothing of a configuration with a mistake is taken, whatever is right in it.
    scene.write(&format!("{}colour = \"blue\"", connection("one", FIRST, "")));
    let error = scene.reload().expect_err("a mistake");
    assert!(error.contains("vipsecd.toml:") && error.contains("colour"), "{error}");
    scene.vipsecd.signal("HUP");
    scene.vipsecd.await_words("configuration not reloaded; nothing has changed");
    let secret = scene.wires.folder().join("two.psk");
    scene.write(&[connection("one", FIRST, ""), connection("two", FIRST + 4, "")].concat());
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).expect("its mode");
    let error = scene.reload().expect_err("a secret that others can read");
    assert!(error.contains("two.psk"), "{error}");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("its mode");
    assert_eq!((scene.spis("one"), scene.spis("two")), (one.clone(), two.clone()));
    assert_eq!(scene.reload().expect("what it has"), [""; 0]);

    // Over the socket: other algorithms for one connection. Its child SAs are replaced; the other connection's stay.
    scene.write(
        &[connection("one", FIRST, "esp_proposals = [\"aes128gcm16\"]"), connection("two", FIRST + 4, "")].concat(),
    );
    assert_eq!(scene.reload().expect("right"), ["connection one: changed"]);
    let children = |spis: &BTreeMap<u64, Vec<u32>>| spis.values().flatten().copied().collect::<Vec<_>>();
    until("new child SAs", || {
        let now = children(&scene.spis("one"));
        now.len() == PEERS && now.iter().all(|spi| !children(&one).contains(spi))
    });
    let proposals = |scene: &Scene| {
        let all = scene.sas().into_iter().filter(|sa| sa.connection == "one").flat_map(|sa| sa.children);
        all.map(|child| child.proposal).collect::<Vec<_>>()
    };
    assert_eq!(proposals(&scene), ["aes128gcm16"; PEERS]);
    assert_eq!(scene.spis("one").keys().collect::<Vec<_>>(), one.keys().collect::<Vec<_>>(), "the same IKE SAs");

    // By SIGHUP: one connection is gone, and with it its SAs at both ends.
    scene.write(&connection("two", FIRST + 4, ""));
    scene.vipsecd.signal("HUP");
    scene.vipsecd.await_words("connection one: removed");
    until("the end of its SAs", || scene.spis("one").is_empty());
    assert_eq!(scene.spis("two"), two);
}

/// Everything is logged that there is to log. The key log, a file of its own, knows what must not be found.
#[test]
fn no_key_reaches_the_log() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let spi = scene.spis("one").values().flatten().next().copied().expect("a child SA");
    scene.write(
        &[connection("one", FIRST, "esp_proposals = [\"aes128gcm16\"]"), connection("two", FIRST + 4, "")].concat(),
    );
    assert_eq!(scene.reload().expect("right"), ["connection one: changed"]);
    until("a new child SA", || !scene.spis("one").values().flatten().any(|now| *now == spi));
    let read = |name| fs::read_to_string(scene.wires.folder().join(name)).expect("a key log");
    let tables = read("ikev2_decryption_table") + &read("esp_sa");
    let keys: Vec<&str> = tables.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() >= 32).collect();
    assert!(keys.len() > 4 * PEERS, "{tables}");
    let said = scene.vipsecd.said();
    assert!(said.contains("TRACE") || said.contains("DEBUG"), "everything is logged");
    let bare: String = said.to_lowercase().chars().filter(|c| !" :-".contains(*c)).collect();
    for key in keys {
        assert!(!bare.contains(&key[..16]) && !bare.contains(&key[key.len() - 16..]), "{key}");
    }
    assert!(!bare.contains("correcthorse"));
}
