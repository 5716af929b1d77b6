//! Configurations as users write them: good ones load, bad ones are refused with every mistake named.

use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use vipsec_agent::secret::SecretError;
use vipsec_control::config::{
    Check, Config, ConfigErrors, CryptoDevice, HttpProbe, Ike, Lanes, Probe, Reason, StartAction, StoreLink,
    TakeoverPolicy, TestConfiguration, load,
};
use vipsec_dataplane::api::{Side, VipState};
use vipsec_distribute::connection::Limits;
use vipsec_distribute::service::{Accepts, Forwarding, Method, TargetState};
use vipsec_esp::sa::{Algorithm, Processing};
use vipsec_ike::{Encapsulation, Fragmentation, Identity, IdentityMatch, Pairs, TrafficSelector, Unique};
use vipsec_takeover::moves::MoveLimits;
use vipsec_takeover::timing::Timing;
use vipsec_wire::ethernet::MacAddr;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn example() -> String {
    fs::read_to_string(root().join("examples/vipsec.toml")).unwrap()
}

/// The example with what it says about pairs no longer commented out.
fn paired_example() -> String {
    let mut in_peer = false;
    let lines = example();
    let lines = lines.lines().map(|line| {
        in_peer = (in_peer && !line.is_empty()) || line == "# [peer]";
        if in_peer || line == "# owner = 1" { line.strip_prefix("# ").unwrap_or(line) } else { line }
    });
    lines.map(|line| format!("{line}\n")).collect()
}

fn write(folder: &Path, name: &str, mode: u32, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path
}

/// A folder with secrets in every state, and `vipsec.toml` with the given text.
fn folder_with(text: &str) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    write(folder.path(), "branch.psk", 0o600, "correct horse battery staple\n");
    write(folder.path(), "pair.psk", 0o600, "0123456789abcdef0123456789abcdef\n");
    write(folder.path(), "exposed.psk", 0o640, "secret\n");
    write(folder.path(), "blank.psk", 0o600, "\n");
    write(folder.path(), "hex.psk", 0o600, "0x0102x3\n");
    write(folder.path(), "digits.psk", 0o600, "0x00ffA9\n");
    write(folder.path(), "large.psk", 0o600, [b'x'; 1025]);
    fs::create_dir(folder.path().join("folder.psk")).unwrap();
    let config = write(folder.path(), "vipsec.toml", 0o644, text);
    (folder, config)
}

fn load_text(text: &str) -> Result<Config, ConfigErrors> {
    let (_folder, config) = folder_with(text);
    load(&config, TestConfiguration::Refused)
}

/// RFC 7296 §2.15; and with the words of swanctl.conf.
#[test]
fn a_secret_may_be_written_in_hexadecimal_digits() {
    let config = load_text(&example().replace("\"branch.psk\"", "\"digits.psk\"")).unwrap();
    assert_eq!(config.connections[0].psk.expose(), [0x00, 0xff, 0xa9]);
}

#[test]
fn example_loads_as_documented() {
    let config = load_text(&example()).unwrap();
    assert_eq!(config.appliance.id.get(), 1);
    assert_eq!(config.ports.len(), 3);
    let web = &config.vips[0];
    assert_eq!(web.floating.address, "192.0.2.1".parse::<IpAddr>().unwrap());
    assert_eq!(web.floating.mac, MacAddr([0x02, 0x76, 0x70, 0, 0, 1]));
    assert_eq!(web.gateways[0].mac, MacAddr([0x02, 0x76, 10, 1, 0, 1]), "derived from 10.1.0.1");
    let branch = &config.connections[0];
    assert_eq!(branch.psk.expose(), b"correct horse battery staple", "without the newline");
    assert_eq!((branch.vip, branch.local), (0, web.floating.address));
    assert_eq!(branch.remote_id, IdentityMatch::Exact(Identity::fqdn("branch.example")));
    let (dpd_delay, rekey_time) = (Duration::from_secs(2), Duration::from_secs(14_400));
    assert_eq!((branch.dpd_delay, branch.rekey_time), (Some(dpd_delay), Some(rekey_time)));
    let esp: Vec<String> = branch.children[0].proposals.iter().map(ToString::to_string).collect();
    assert_eq!(esp, ["aes256gcm16-x25519", "aes128gcm16"]);
    assert_eq!(config.child_options("branch", "net").replay_window, 1024);
    assert_eq!(config.ike, Ike::default(), "the defaults as shown");
    assert_eq!(
        (branch.over_time, branch.children[0].life_time),
        (rekey_time.checked_div(10), Some(rekey_time * 11 / 40))
    );
    assert_eq!((branch.unique, branch.pools.len()), (Unique::No, 0));
    assert_eq!(config.child_options("branch", "net").processing, Processing::Cpu);
    let device = CryptoDevice { device: "crypto_aesni_mb0".to_owned(), jobs_max: 1024, sas_max: 2048 };
    assert_eq!(config.crypto_device, Some(device));
    assert!(config.peers.is_empty());
    assert_eq!(config.groups[usize::from(web.group)].owner, None);
    let [page, agent] = &config.targets[0].checks[..] else { panic!("two checks") };
    let (interval, timeout) = (Duration::from_secs(2), Duration::from_secs(1));
    let http = HttpProbe { path: "/health".into(), host: Some("www.example".into()), status: 200..=200 };
    let address = "10.1.0.21:80".parse().unwrap();
    assert_eq!(page, &Check { probe: Probe::Http(http), address, interval, timeout, rise: 2, fall: 3 });
    let address = "10.1.0.21:9777".parse().unwrap();
    assert_eq!(agent, &Check { probe: Probe::Agent, address, interval, timeout, rise: 2, fall: 3 }, "defaults");
    assert_eq!((config.targets[1].weight, config.targets[1].checks.len()), (1, 0));
    let here = &config.targets[2];
    assert_eq!((here.forwarding, here.host.map(|host| host.get())), (Forwarding::Local, Some(1)));
    let service = &config.services[0];
    assert_eq!((service.method, service.affinity), (Method::Maglev, Some(Duration::from_secs(1800))));
    assert_eq!(format!("{:?}", config.connection_table), format!("{:?}", Limits::default()), "the defaults as shown");
}

#[test]
fn example_of_a_pair_loads_as_documented() {
    let config = load_text(&paired_example()).unwrap();
    let peer = config.peers.into_iter().next().unwrap();
    assert_eq!((peer.id.get(), peer.name.as_deref()), (2, Some("b")));
    assert_eq!(peer.store, StoreLink::Local("/run/vipsec/pair.sock".into()));
    assert_eq!(peer.secret.expose(), b"0123456789abcdef0123456789abcdef");
    assert_eq!((peer.takeover, peer.timing), (TakeoverPolicy::Resume, Timing::default()));
    assert_eq!((peer.takeover_rate, peer.moves), (250, MoveLimits::default()));
    assert_eq!((peer.store_records, peer.store_pins), (4096, 131_072));
    assert_eq!(config.groups[0].owner.map(|owner| owner.get()), Some(1));
}

#[test]
fn a_vip_is_given_back_as_its_configuration_says() {
    let with = |give_back: &str| {
        let text = paired_example().replace("owner = 1\n", &format!("owner = 1\ngive_back = \"{give_back}\"\n"));
        load_text(&text).map(|config| config.groups[0].give_back)
    };
    assert_eq!(with("90s").unwrap(), Some(Duration::from_secs(90)));
    assert_eq!(with("held").unwrap(), None);
    assert_eq!(load_text(&paired_example()).unwrap().groups[0].give_back, None);
    for bad in ["soon", "0s", "3d"] {
        assert!(with(bad).unwrap_err().to_string().contains("vip.give_back"), "{bad}");
    }
}

#[test]
fn target_agents_are_told_where_they_listen() {
    let agents = |more: &str| {
        let text = format!("{}\n[target_agents]\nsecret_file = \"pair.psk\"\n{more}", example());
        load_text(&text).unwrap().target_agents.unwrap()
    };
    let told = agents("port = 99\n");
    assert_eq!((told.secret.expose(), told.port), (&b"0123456789abcdef0123456789abcdef"[..], 99));
    assert_eq!(agents("").port, 9778);
    assert!(load_text(&example()).unwrap().target_agents.is_none());
}

#[test]
fn defaults_of_a_pair_are_as_documented() {
    let times = ["heartbeat", "deadline", "detection", "trust", "takeover_rate", "moves_"];
    let optional = [&times[..], &["store_records", "store_pins", "owner", "name = \"b\""]].concat();
    let text: String = paired_example()
        .lines()
        .filter(|line| !optional.iter().any(|key| line.starts_with(key)))
        .map(|line| format!("{line}\n"))
        .collect();
    for (own, others) in [("id = 1\n", "id = 2\n"), ("id = 7\n", "id = 1\n")] {
        let text = text.replace("id = 2\n", "id = other\n").replace("id = 1\n", own).replace("id = other\n", others);
        let config = load_text(&text).unwrap();
        assert_eq!(config.groups[0].owner.map(|owner| owner.get()), Some(1), "the lower id");
        let peer = config.peers.into_iter().next().unwrap();
        assert_eq!((peer.name, peer.timing), (None, Timing::default()));
        assert_eq!((peer.takeover_rate, peer.moves), (250, MoveLimits::default()));
        assert_eq!((peer.store_records, peer.store_pins), (4096, 131_072));
    }
}

#[test]
fn vips_move_alone_or_with_their_group() {
    let vip = |name, last, more| {
        format!("[[vip]]\nname = \"{name}\"\naddress = \"192.0.2.{last}\"\nport = \"outside\"\n{more}")
    };
    let sip = vip("sip", 3, "group = \"phones\"\nowner = 2\n");
    let mail = vip("mail", 4, "");
    let rtp = vip("rtp", 5, "group = \"phones\"\n");
    let config = load_text(&format!("{}{sip}{mail}{rtp}", paired_example())).unwrap();
    let groups: Vec<_> = config
        .groups
        .iter()
        .map(|group| (group.name.as_str(), group.vips.as_slice(), group.owner.map(|owner| owner.get())))
        .collect();
    assert_eq!(groups, [("web", [0].as_slice(), Some(1)), ("phones", &[1, 3], Some(2)), ("mail", &[2], Some(1))]);
    assert_eq!(config.vips.iter().map(|vip| vip.group).collect::<Vec<_>>(), [0, 1, 2, 1]);
}

/// Who sets a slower detection gets claims that still wait longer than it.
#[test]
fn times_that_are_not_set_follow_those_that_are() {
    let text = paired_example()
        .replace("detection = \"50ms\"", "detection = \"2s\"")
        .replace("trust = \"250ms\"", "trust = \"10s\"");
    let timing = load_text(&text).unwrap().peers[0].timing;
    assert_eq!(timing.check(), Ok(()));
    assert_eq!((timing.detection, timing.trust_margin), (Duration::from_secs(2), Duration::from_secs(1)));
    assert_eq!((timing.claim_preferred, timing.claim_other), (Duration::from_secs(20), Duration::from_secs(120)));
}

#[test]
fn defaults_are_as_documented() {
    let text = r#"
        appliance = { id = 7, name = "b" }
        [[port]]
        name = "out"
        side = "outside"
        device = "net_ring0"
        addresses = ["192.0.2.12/24"]
        [[vip]]
        name = "web"
        address = "192.0.2.1"
        port = "out"
        [[connection]]
        name = "branch"
        vip = "web"
        remote_id = "%any"
        secret_file = "branch.psk"
        [[connection.child]]
        name = "net"
        remote_ts = ["10.9.0.0/16"]
    "#;
    let config = load_text(text).unwrap();
    assert_eq!(config.appliance.control_socket, Path::new("/run/vipsec/b.sock"));
    assert_eq!(config.appliance.state_dir, Path::new("/var/lib/vipsec/b"));
    assert_eq!((config.eal.file_prefix.as_str(), config.eal.memory_mib), ("vipsec-b", 256));
    assert_eq!((config.ports[0].mac, config.ports[0].mtu), (None, 1500));
    assert_eq!(config.vips[0].floating.mac, MacAddr([0x02, 0x76, 192, 0, 2, 1]));
    let vip: IpAddr = "192.0.2.1".parse().unwrap();
    let branch = &config.connections[0];
    assert_eq!((&branch.local_id, &branch.remote_id), (&Identity::from(vip), &IdentityMatch::Any));
    assert!(branch.remote[0].accepts("203.0.113.77".parse().unwrap()));
    let proposals: Vec<String> = branch.proposals.iter().map(ToString::to_string).collect();
    assert_eq!(
        proposals,
        ["aes256gcm16-prfsha384-x25519", "aes256gcm16-prfsha256-x25519", "aes128gcm16-prfsha256-x25519"]
    );
    let (dpd_delay, rekey_time) = (Duration::from_secs(30), Duration::from_secs(14_400));
    assert_eq!((branch.dpd_delay, branch.rekey_time), (Some(dpd_delay), Some(rekey_time)));
    let net = &branch.children[0];
    assert_eq!(net.local_ts, ["192.0.2.1/32".parse::<TrafficSelector>().unwrap()]);
    let proposals: Vec<String> = net.proposals.iter().map(ToString::to_string).collect();
    assert_eq!(proposals, ["aes256gcm16-x25519", "aes128gcm16-x25519", "aes256gcm16", "aes128gcm16"]);
    assert_eq!(net.rekey_time, Some(Duration::from_secs(3600)));
}

/// Whatever an operator may set for IKE reaches it.
#[test]
fn ike_is_configured_in_full() {
    let limits = "[ike.limits]\nhalf_open_max = 9\ncookie_threshold = 3\n";
    let text = example()
        .replace("# pools = [\"roadwarriors\"]", "pools = [\"roadwarriors\"]")
        .replace("# key_log", "key_log")
        .replace("remote_addrs = [\"%any\"]", "remote_addrs = [\"198.51.100.7\"]")
        .replace("remote_ts = [\"10.9.0.0/16\"]", "")
        .replace("single_pair = false", "single_pair = true")
        .replace("start_action = \"none\"", "start_action = \"start\"")
        .replace("per_cpu_sas = false", "per_cpu_sas = true")
        .replace("unique = \"no\"", "unique = \"replace\"")
        .replace("encap = false", "encap = true")
        .replace("fragmentation = \"yes\"", "fragmentation = \"accept\"")
        .replace("fragment_size = 1280", "fragment_size = 1400");
    let (before, rest) = text.split_once("[ike.limits]").unwrap();
    let (_, after) = rest.split_once("[[port]]").unwrap();
    let config = load_text(&format!("{before}{limits}[[port]]{after}")).unwrap();
    let branch = &config.connections[0];
    assert_eq!((branch.unique, branch.encapsulation), (Unique::Replace, Encapsulation::Always));
    assert_eq!(branch.fragmentation, Fragmentation::Accept);
    let [pool] = &branch.pools[..] else { panic!("one pool") };
    let ends = ["10.8.0.1", "10.8.0.254"].map(|address| address.parse::<IpAddr>().unwrap());
    assert_eq!((pool.name.as_str(), [pool.first, pool.last], pool.dns.len()), ("roadwarriors", ends, 1));
    let child = &branch.children[0];
    assert_eq!(child.remote_ts, ["10.8.0.1-10.8.0.254".parse::<TrafficSelector>().unwrap()], "what the pool has");
    assert_eq!((child.pairs, child.lanes_max), (Pairs::Single, 1));
    let options = config.child_options("branch", "net");
    assert_eq!((options.start, options.lanes), (StartAction::Start, Lanes::PerWorker));
    assert_eq!(config.ike.key_log.as_deref(), Some(Path::new("/run/vipsec/keys")));
    let ike = config.ike_config(4);
    assert_eq!(ike.connections[0].children[0].lanes_max, 4, "a lane for each worker");
    assert_eq!((ike.limits.half_open_max, ike.limits.half_open_cookie_threshold), (9, 3));
    assert_eq!(ike.packet_bytes_max, 1400);
}

/// Each `bad/*.toml` is refused with the lines in the `.txt` beside it: all of them, in this order, and no more.
#[test]
fn every_mistake_is_named_with_its_line() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/bad");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut cases = 0;
    for file in files.filter(|path| path.extension().is_some_and(|extension| extension == "toml")) {
        let (folder, config) = folder_with(&fs::read_to_string(&file).unwrap());
        let errors = load(&config, TestConfiguration::Refused).expect_err(&file.display().to_string());
        let found = errors.to_string().replace(&format!("{}/", folder.path().display()), "");
        let expected = fs::read_to_string(file.with_extension("txt")).unwrap_or_default();
        assert_eq!(found, expected.trim_end(), "{}", file.display());
        cases += 1;
    }
    assert!(cases >= 25, "{cases} cases found");
}

/// The example with other words for how the appliance's SAs are processed, and those of its child.
fn processed(appliance: &str, child: &str) -> String {
    let (before, after) = example().split_once("[[connection]]").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let key = "processing = \"cpu\"\n";
    assert!(before.contains(key) && after.contains(key));
    format!("{}[[connection]]{}", before.replace(key, appliance), after.replace(key, child))
}

const LOOKASIDE: &str = "processing = \"lookaside\"\n";

#[test]
fn child_sas_are_processed_as_the_appliance_unless_they_say_otherwise() {
    for (appliance, child, expected) in [
        ("", "", [Processing::Cpu; 2]),
        (LOOKASIDE, "", [Processing::Lookaside; 2]),
        ("", LOOKASIDE, [Processing::Lookaside, Processing::Cpu]),
        (LOOKASIDE, "processing = \"cpu\"\n", [Processing::Cpu, Processing::Lookaside]),
    ] {
        let config = load_text(&processed(appliance, child)).unwrap();
        // A child that is no longer configured may still come out of the store.
        let found = ["net", "gone"].map(|child| config.child_options("branch", child).processing);
        assert_eq!(found, expected, "{appliance}{child}");
    }
}

#[test]
fn what_the_crypto_device_lacks_is_named() {
    let config = load_text(&processed("", LOOKASIDE)).unwrap();
    assert_eq!(config.unsupported_by_device(&Algorithm::ALL), None);
    let lacking = Some(("child net of connection branch".to_owned(), Algorithm::Aes128Gcm));
    assert_eq!(config.unsupported_by_device(&[Algorithm::Aes256Gcm]), lacking);
    assert_eq!(load_text(&example()).unwrap().unsupported_by_device(&[]), None);
}

#[test]
fn a_local_target_is_each_appliances_own() {
    let of = |text: &str| load_text(text).unwrap();
    let pair = paired_example();
    let state = |config: &Config| config.first_standing(2).state;
    assert_eq!(state(&of(&pair)), TargetState::Up);
    let other = pair
        .replace("id = 2\n", "id = 9\n")
        .replace("id = 1\n", "id = 2\n")
        .replace("id = 9\n", "id = 1\n")
        .replace("192.0.2.11/24", "192.0.2.12/24")
        .replace("10.1.0.11/24", "10.1.0.12/24");
    assert_eq!(state(&of(&other)), TargetState::Down, "until that appliance is heard of");
    let forwarding = |text: &str| of(text).tables(|_| MacAddr::default()).unwrap().services.targets()[2].forwarding;
    assert_eq!((forwarding(&pair), forwarding(&other)), (Forwarding::Local, Forwarding::Mac), "as to any target");
    assert_eq!(of(&pair).digest(), of(&other).digest(), "both say the same of it");
    let in_service = |text: &str| text.replace("[\"t1\", \"t2\"]", "[\"t1\", \"here\"]");
    let theirs = |text: &str| {
        in_service(text).replace("appliance = 1", "appliance = 2").replace("\"10.1.0.11\"", "\"10.1.0.12\"")
    };
    assert_ne!(of(&in_service(&pair)).digest(), of(&theirs(&pair)).digest());
    // Alone an appliance has only its own.
    let alone = of(&example().replace("appliance = 1\n", ""));
    assert_eq!(alone.targets[2].host.map(|host| host.get()), Some(1));
}

#[test]
fn becomes_the_workers_tables() {
    let device_mac = MacAddr([2, 0, 0, 0, 9, 9]);
    let tables = load_text(&example()).unwrap().tables(|_| device_mac).unwrap();
    let [outside, inside, host] = &tables.ports[..] else { panic!("three ports") };
    assert_eq!((host.side, host.addresses.len(), host.mac), (Side::Local, 0, device_mac));
    assert_eq!(outside.mac, MacAddr([2, 0, 0, 0, 1, 10]), "the configuration wins over the device");
    assert_eq!(inside.mac, device_mac);
    assert_eq!(tables.vips[0].state, VipState::Elsewhere, "nobody owns a VIP before ownership says so");
    assert_eq!(tables.routes[0].prefix.bits(), 0);
    let service = &tables.services.services()[0];
    assert_eq!((service.vip, service.protocol, service.port), ("192.0.2.1".parse().unwrap(), Some(6), Some(80)));
    assert_eq!(tables.services.targets()[1].address, "10.1.0.22".parse::<IpAddr>().unwrap());
}

#[test]
fn ipv6_addresses_are_taken_everywhere() {
    let text = r#"
        appliance = { id = 7, name = "b" }
        [[port]]
        name = "out"
        side = "outside"
        device = "net_ring0"
        addresses = ["192.0.2.12/24", "2001:db8:1::12/64"]
        [[port]]
        name = "in"
        side = "inside"
        device = "net_ring1"
        addresses = ["2001:db8:2::12/64"]
        [[route]]
        prefix = "::/0"
        via = "2001:db8:1::fe"
        port = "out"
        [[vip]]
        name = "web"
        address = "2001:db8:1::1"
        port = "out"
        gateways = [{ address = "2001:db8:2::1", port = "in" }]
        [[target]]
        name = "t1"
        address = "2001:db8:2::21"
        [[target]]
        name = "far"
        address = "2001:db8:77::21"
        forwarding = "gue"
        gue_port = 6081
        [[service]]
        vip = "web"
        accepts = "both"
        targets = ["t1", "far"]
        [[policy]]
        action = "bypass"
        local_ts = ["2001:db8:1::1/128[tcp/443]", "2001:db8:1::1/128[udp/443]"]
        remote_ts = ["::/0"]
        [[connection]]
        name = "branch"
        vip = "web"
        remote_addrs = ["2001:db8:9::/48"]
        remote_id = "%any"
        secret_file = "branch.psk"
        [[connection.child]]
        name = "net"
        mode = "transport"
        remote_ts = ["2001:db8:9::/48"]
    "#;
    let config = load_text(text).unwrap();
    let mac = config.vips[0].floating.mac;
    assert_eq!((mac.octets()[0], mac.octets()[1]), (0x06, 0x76));
    assert_ne!(mac, config.vips[0].gateways[0].mac);
    assert_eq!(config.connections[0].local, "2001:db8:1::1".parse::<IpAddr>().unwrap());
    let tables = config.tables(|_| MacAddr::default()).unwrap();
    assert_eq!(tables.policies.len(), 2, "a rule for each pair of ends");
    assert_eq!(tables.services.services()[0].accepts, Accepts::Both);
    assert_eq!(tables.services.targets()[1].forwarding, Forwarding::Gue { port: 6081 });
    // RFC 4291 §2.6.1: the subnet-router anycast address is no host's.
    let errors = load_text(&text.replace("2001:db8:1::12/64", "2001:db8:1::/64")).unwrap_err();
    assert!(errors.to_string().contains("2001:db8:1:: is not a host's address"), "{errors}");
    let errors = load_text(&text.replace("prefix = \"::/0\"", "prefix = \"0.0.0.0/0\"")).unwrap_err();
    assert!(errors.to_string().contains("route.via: 0.0.0.0/0 and 2001:db8:1::fe"), "{errors}");
}

#[test]
fn a_child_sa_is_rekeyed_before_it_ends() {
    let text = example().replace("rekey_bytes = 500_000_000_000\n", "");
    let errors = load_text(&text).unwrap_err();
    assert!(errors.to_string().contains("connection.child.life_bytes: ends the child SA before"), "{errors}");
}

#[test]
fn there_is_a_limit_to_everything() {
    let ports = (0..17).map(|n| {
        format!(
            "[[port]]\nname = \"p{n}\"\nside = \"inside\"\ndevice = \"net_ring{n}\"\naddresses = [\"10.{n}.0.1/24\"]\n"
        )
    });
    let errors =
        load_text(&format!("appliance = {{ id = 1, name = \"a\" }}\n{}", ports.collect::<String>())).unwrap_err();
    assert_eq!(errors.0.len(), 1, "{errors}");
    assert_eq!(errors.0[0].reason, Reason::TooMany { count: 17, max: 16 });
    let errors = load_text(&"#\n".repeat(2 << 20 | 1)).unwrap_err();
    assert_eq!(errors.0[0].reason, Reason::FileTooLarge { max: 4 << 20 });
}

/// Whatever is missing or cut off, the answer is a configuration or a list of mistakes in lines of the file.
#[test]
fn a_damaged_file_is_survived() {
    let example = paired_example();
    let without = (0..example.lines().count()).map(|gone| {
        let rest = example.lines().enumerate().filter(|(number, _)| *number != gone).map(|(_, line)| line);
        rest.collect::<Vec<_>>().join("\n")
    });
    let cut = example.char_indices().step_by(7).map(|(end, _)| example[..end].to_owned());
    let (_folder, path) = folder_with("");
    for text in without.chain(cut) {
        fs::write(&path, &text).unwrap();
        if let Err(errors) = load(&path, TestConfiguration::Refused) {
            let lines = 1..=text.lines().count().max(1) + 1;
            assert!(!errors.0.is_empty());
            assert!(errors.0.iter().all(|error| error.line.is_some_and(|line| lines.contains(&line))), "{errors}");
        }
    }
}

#[test]
fn a_missing_file_is_named() {
    let errors = load(Path::new("/nonexistent/vipsec.toml"), TestConfiguration::Refused).unwrap_err();
    assert!(matches!(errors.0[0].reason, Reason::Unreadable(_)));
    assert!(errors.to_string().starts_with("/nonexistent/vipsec.toml: cannot be read: "), "{errors}");
}

#[test]
fn secrets_never_show() {
    let config = format!("{:?}", load_text(&paired_example()).unwrap());
    assert!(!config.contains("horse") && !config.contains("0123456789abcdef"), "{config}");
}

mod digest {
    use super::*;

    fn of(text: &str) -> [u8; 32] {
        *load_text(text).unwrap().digest().as_bytes()
    }

    #[test]
    fn is_the_same_for_what_is_an_appliances_own() {
        let reference = of(&paired_example());
        for (from, to) in [
            ("store_socket = \"/run/vipsec/pair.sock\"", "store_socket = \"/run/other.sock\""),
            ("store_records = 4096", "store_records = 8192"),
            ("store_pins = 131072", "store_pins = 65536"),
            ("name = \"b\"", "name = \"z\""),
            ("name = \"a\"", "name = \"b\""),
            ("192.0.2.11/24", "192.0.2.12/24"),
            ("02:00:00:00:01:0a", "02:00:00:00:01:0b"),
            ("iface=out0", "iface=eth1"),
            ("memory_mib = 256", "memory_mib = 512"),
            ("[\"t1\", \"t2\"]", "[\"t2\", \"t1\"]"),
            ("log = \"info\"", "log = \"debug\""),
            ("processing = \"cpu\"", "processing = \"lookaside\""),
            ("jobs_max = 1024", "jobs_max = 2048"),
            ("tcp_established = \"124m\"", "tcp_established = \"3h\""),
            ("path = \"/health\"", "path = \"/other\""),
            ("via = \"192.0.2.254\"", "via = \"192.0.2.253\""),
        ] {
            assert!(paired_example().contains(from), "{from}");
            assert_eq!(of(&paired_example().replace(from, to)), reference, "{from} -> {to}");
        }
    }

    #[test]
    fn differs_with_what_a_successor_relies_on() {
        let reference = of(&paired_example());
        for (from, to) in [
            ("address = \"192.0.2.1\"", "address = \"192.0.2.2\""),
            ("02:76:70:00:00:01", "02:76:70:00:00:02"),
            ("address = \"10.1.0.1\"", "address = \"10.1.0.2\""),
            ("address = \"10.1.0.22\"", "address = \"10.1.0.23\""),
            ("[\"t1\", \"t2\"]", "[\"t1\"]"),
            ("protocol = \"tcp\"", "protocol = \"udp\""),
            ("weight = 1", "weight = 2"),
            ("method = \"maglev\"", "method = \"round-robin\""),
            ("affinity = \"30m\"", "affinity = \"31m\""),
            ("remote_addrs = [\"%any\"]", "remote_addrs = [\"198.51.100.0/24\"]"),
            ("remote_id = \"branch.example\"", "remote_id = \"x.example\""),
            ("proposals = [\"aes256gcm16-prfsha256-x25519\"]", "proposals = [\"aes256gcm16-prfsha384-x25519\"]"),
            ("\"aes128gcm16\"]", "\"aes256gcm16\"]"),
            ("remote_ts = [\"10.9.0.0/16\"]", "remote_ts = [\"10.9.0.0/17\"]"),
            ("rekey_time = \"1h\"", "rekey_time = \"50m\""),
            ("life_time = \"66m\"", "life_time = \"67m\""),
            ("over_time = \"24m\"", "over_time = \"25m\""),
            ("unique = \"no\"", "unique = \"keep\""),
            ("encap = false", "encap = true"),
            ("fragmentation = \"yes\"", "fragmentation = \"no\""),
            ("# pools = [", "pools = ["),
            ("single_pair = false", "single_pair = true"),
            ("per_cpu_sas = false", "per_cpu_sas = true"),
            ("replay_window = 1024", "replay_window = 2048"),
            ("life_bytes = 600_000_000_000", "life_bytes = 600_000_000_001"),
            ("copy_df = false", "copy_df = true"),
            ("copy_dscp = \"out\"", "copy_dscp = \"no\""),
            ("mode = \"tunnel\"", "mode = \"transport\""),
            ("accepts = \"decrypted\"", "accepts = \"both\""),
            ("forwarding = \"mac\"", "forwarding = \"ipip\""),
            ("action = \"discard\"", "action = \"bypass\""),
            ("takeover = \"resume\"", "takeover = \"renegotiate\""),
            ("heartbeat = \"10ms\"", "heartbeat = \"9ms\""),
            ("deadline = \"30ms\"", "deadline = \"29ms\""),
            ("detection = \"50ms\"", "detection = \"51ms\""),
            ("trust = \"250ms\"", "trust = \"251ms\""),
            ("owner = 1", "owner = 2"),
            ("id = 2\n", "id = 3\n"),
        ] {
            assert!(paired_example().contains(from), "{from}");
            assert_ne!(of(&paired_example().replace(from, to)), reference, "{from} -> {to}");
        }
    }

    #[test]
    fn minds_the_order_of_targets_with_a_hot_standby() {
        let text = paired_example().replace("method = \"maglev\"", "method = \"hot-standby\"");
        assert_ne!(of(&text), of(&text.replace("[\"t1\", \"t2\"]", "[\"t2\", \"t1\"]")));
    }

    #[test]
    fn is_the_same_on_both_of_a_pair() {
        let other = paired_example().replace("id = 1\n", "id = 0\n").replace("id = 2\n", "id = 1\n");
        assert_eq!(of(&other.replace("id = 0\n", "id = 2\n")), of(&paired_example()));
        assert_ne!(of(&paired_example()), of(&example()));
    }

    /// The appliances' messages name a VIP by its place.
    #[test]
    fn differs_with_the_order_of_vips() {
        let vip =
            |name, last| format!("[[vip]]\nname = \"{name}\"\naddress = \"192.0.2.{last}\"\nport = \"outside\"\n");
        let (c, d) = (vip("c", 3), vip("d", 4));
        assert_ne!(of(&format!("{}{c}{d}", example())), of(&format!("{}{d}{c}", example())));
    }

    #[test]
    fn differs_with_what_moves_together() {
        let vip = |group| {
            format!("{}[[vip]]\nname = \"c\"\naddress = \"192.0.2.3\"\nport = \"outside\"\n{group}", paired_example())
        };
        let together = vip("group = \"g\"\n").replace("name = \"web\"\n", "name = \"web\"\ngroup = \"g\"\n");
        let all = [of(&vip("")), of(&vip("group = \"g\"\n")), of(&vip("owner = 2\n")), of(&together)];
        for (at, digest) in all.iter().enumerate() {
            assert!(!all[..at].contains(digest), "{at}");
        }
    }

    #[test]
    fn tells_identities_of_the_same_text_apart() {
        let with = |id| of(&example().replace("remote_id = \"branch.example\"", &format!("remote_id = {id:?}")));
        for (one, other) in [("%any", "@%any"), ("*.example", "@*.example"), ("192.0.2.9", "@192.0.2.9")] {
            assert_ne!(with(one), with(other), "{one} {other}");
        }
    }

    #[test]
    fn differs_with_the_secret() {
        let (folder, config) = folder_with(&paired_example());
        let before = load(&config, TestConfiguration::Refused).unwrap().digest();
        write(folder.path(), "branch.psk", 0o600, "another");
        assert_ne!(load(&config, TestConfiguration::Refused).unwrap().digest(), before);
    }
}

mod static_children {
    use super::*;

    const GOOD: &str = r#"
[[child]]
spi_in = 0x01000001
spi_out = 0x02000001
algorithm = "aes128gcm16"
key_in = "000102030405060708090a0b0c0d0e0fa0a1a2a3"
key_out = "101112131415161718191a1b1c1d1e1fb0b1b2b3"
local = "192.0.2.1"
remote = "198.51.100.7"
udp = { local = 4500, remote = 40001 }
local_ts = ["192.0.2.1/32"]
remote_ts = ["10.9.0.0/16"]
esn = true
window = 256
"#;

    fn load_with(keys: &str, mode: u32, test: TestConfiguration) -> Result<Config, String> {
        let (folder, config) = folder_with(&format!("{}\n[test]\nkeys_file = \"keys.toml\"\n", example()));
        write(folder.path(), "keys.toml", mode, keys);
        load(&config, test).map_err(|errors| errors.to_string().replace(&format!("{}/", folder.path().display()), ""))
    }

    #[test]
    fn load_in_a_test_configuration() {
        let config = load_with(GOOD, 0o600, TestConfiguration::Accepted).unwrap();
        let child = &config.static_children[0];
        assert_eq!((child.vip, child.inbound.spi.get(), child.outbound.spi.get()), (0, 0x0100_0001, 0x0200_0001));
        assert_eq!(child.inbound.key.key(), (0..16).collect::<Vec<u8>>());
        assert_eq!(child.inbound.key.salt(), [0xa0, 0xa1, 0xa2, 0xa3]);
        assert_eq!(child.outbound.key.salt(), [0xb0, 0xb1, 0xb2, 0xb3]);
        assert_eq!(child.tunnel.udp, Some((4500, 40001)));
        assert_eq!((child.inbound.esn, child.outbound.esn, child.inbound.window), (true, true, 256));
    }

    #[test]
    fn are_refused_elsewhere() {
        let errors = load_with(GOOD, 0o600, TestConfiguration::Refused).unwrap_err();
        assert!(errors.contains("test: static child SAs are for tests only"), "{errors}");
    }

    #[test]
    fn keep_their_file_private() {
        let errors = load_with(GOOD, 0o644, TestConfiguration::Accepted).unwrap_err();
        assert!(errors.contains("test.keys_file: keys.toml can be accessed by group or others"), "{errors}");
    }

    #[test]
    fn name_every_mistake_but_no_key() {
        let bad = GOOD
            .replace("spi_in = 0x01000001", "spi_in = 255")
            .replace("a0a1a2a3", "a0a1a2")
            .replace("b0b1b2b3", "b0b1b2bx")
            .replace("local = \"192.0.2.1\"", "local = \"192.0.2.9\"")
            .replace("window = 256", "window = 65\ncolour = \"red\"");
        let errors = load_with(&bad, 0o600, TestConfiguration::Accepted).unwrap_err();
        let expected = "\
keys.toml:3: child.spi_in: 255 is not in 256..=4294967295
keys.toml:6: child.key_in: expected 20 bytes in hexadecimal: the key, then 4 bytes of salt
keys.toml:7: child.key_out: expected 20 bytes in hexadecimal: the key, then 4 bytes of salt
keys.toml:8: child.local: 192.0.2.9 is not the address of a VIP
keys.toml:14: child.window: \"65\" is not a multiple of 64
keys.toml:15: child.colour: is not a key of this table (known: spi_in, spi_out, algorithm, key_in, key_out, local, remote, udp, local_ts, remote_ts, esn, window, processing)";
        assert_eq!(errors, expected);
    }
}

/// The example behind that line.
fn example_from(line: &str) -> String {
    let example = example();
    example.split_once(line).unwrap().1.to_owned()
}

/// The example of docs/registry.md, behind what every configuration has.
#[test]
fn three_appliances_have_ranks() {
    let text = fs::read_to_string(root().join("docs/registry.md")).unwrap();
    let (_, block) = text.split_once("```toml\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let block = block.replace("appliances.psk", "pair.psk");
    let port = "[appliance]\nid = 1\nname = \"a\"\n[[port]]\nname = \"outside\"\nside = \"outside\"\n\
                device = \"net_ring0\"\naddresses = [\"192.0.2.11/24\"]\n";
    let config = load_text(&format!("{port}{block}")).unwrap();
    let ids = |ids: &[vipsec_wire::iv::ApplianceId]| ids.iter().map(|id| id.get()).collect::<Vec<_>>();
    assert_eq!(ids(&config.groups[0].ranks()), [1, 2, 3]);
    assert_eq!(config.peers.len(), 2);
    let etcd = config.etcd.unwrap();
    assert_eq!((etcd.endpoints.len(), etcd.prefix.as_str(), etcd.lease), (3, "/vipsec", Duration::from_secs(5)));

    let of_the_second = format!("{port}{block}")
        .replacen("id = 1", "id = 9", 1)
        .replace("id = 2", "id = 1")
        .replace("id = 9", "id = 2");
    assert_eq!(load_text(&of_the_second).unwrap().digest(), load_text(&format!("{port}{block}")).unwrap().digest());
    // And with [etcd] as in the example.
    let example = example_from("# [etcd]\n");
    let lines = example.lines().take_while(|line| !line.is_empty()).map(|line| line.strip_prefix("# ").unwrap_or(line));
    let etcd: String = lines.map(|line| format!("{line}\n")).collect();
    let (before, _) = block.split_once("[etcd]").unwrap();
    let etcd =
        load_text(&format!("{port}{before}[etcd]\n{}", etcd.replace("etcd.password", "branch.psk"))).unwrap().etcd;
    assert!(etcd.is_some_and(|etcd| etcd.credentials.is_some() && etcd.timeout == Duration::from_millis(500)));
    let other_ranks = format!("{port}{block}").replace("[2, 3]", "[3, 2]");
    assert_ne!(load_text(&other_ranks).unwrap().digest(), load_text(&format!("{port}{block}")).unwrap().digest());
    let by_default = format!("{port}{block}").replace("backups = [2, 3]\n", "");
    assert_eq!(ids(&load_text(&by_default).unwrap().groups[0].ranks()), [1, 2, 3]);
}

/// Keys of RSA, which are larger than other secrets.
fn certificate(folder: &Path, name: &str, mode: u32) {
    let (key, certificate) = (folder.join(format!("{name}.key")), folder.join(format!("{name}.pem")));
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/O=vipsec"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::set_permissions(key, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn etcd_is_reached_by_tls_with_all_that_it_takes_or_not_at_all() {
    let text = fs::read_to_string(root().join("docs/registry.md")).unwrap();
    let (_, block) = text.split_once("```toml\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let port = "[appliance]\nid = 1\nname = \"a\"\n[[port]]\nname = \"outside\"\nside = \"outside\"\n\
                device = \"net_ring0\"\naddresses = [\"192.0.2.11/24\"]\n";
    let plain = format!("{port}{}", block.replace("appliances.psk", "pair.psk"));
    let secured = plain.replace("http://", "https://");
    let (folder, config) = folder_with(&plain);
    certificate(folder.path(), "one", 0o600);
    certificate(folder.path(), "exposed", 0o640);
    let load_with = |text: &str, keys: &str| {
        fs::write(&config, format!("{text}{keys}")).unwrap();
        load(&config, TestConfiguration::Refused)
    };
    let ca = "ca_file = \"one.pem\"\n";
    let own = "certificate_file = \"one.pem\"\nkey_file = \"one.key\"\n";
    let tls = |keys: &str| load_with(&secured, keys).unwrap().etcd.unwrap().tls.unwrap();
    assert!(tls(ca).identity.is_none());
    assert!(tls(&format!("{ca}{own}")).identity.is_some());

    let mistake = |text: &str, keys: &str| {
        let ConfigErrors(errors) = load_with(text, keys).unwrap_err();
        let [error] = &errors[..] else { panic!("{errors:?}") };
        (error.key.clone(), error.reason.clone())
    };
    let missing = |key: &str| (format!("etcd.{key}"), Reason::Missing);
    assert_eq!(mistake(&secured, ""), missing("ca_file"));
    assert_eq!(mistake(&secured, own), missing("ca_file"));
    assert_eq!(mistake(&secured, &format!("{ca}certificate_file = \"one.pem\"\n")), missing("key_file"));
    assert_eq!(mistake(&secured, &format!("{ca}key_file = \"one.key\"\n")), missing("certificate_file"));
    let (key, reason) = mistake(&plain, ca);
    assert!(key == "etcd.endpoints" && matches!(reason, Reason::Malformed { .. }), "{reason}");
    let (key, reason) = mistake(&secured, &format!("{ca}{}", own.replace("one.key", "exposed.key")));
    assert!(
        key == "etcd.key_file" && matches!(reason, Reason::Secret(SecretError::Exposed { mode: 0o640, .. })),
        "{reason}"
    );
    for (keys, blamed) in [
        (ca.replace("one.pem", "one.key"), "ca_file"),
        (ca.replace("one.pem", "nobody.pem"), "ca_file"),
        (format!("{ca}{}", own.replace("one.key", "pair.psk")), "key_file"),
        (format!("{ca}{}", own.replace("one.pem", "exposed.pem")), "key_file"),
    ] {
        let (key, reason) = mistake(&secured, &keys);
        let is_unusable = matches!(reason, Reason::CertificateUnusable { .. });
        assert!(key == format!("etcd.{blamed}") && is_unusable, "{keys}: {key}: {reason}");
    }
}
