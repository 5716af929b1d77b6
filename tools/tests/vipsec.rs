//! The operator's command as a process, against a control API with canned answers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

use crossbeam_channel::bounded;
use tempfile::TempDir;
use vipsec_control::api::{
    AgentsTold, ApiError, Appliance, Child, ConnectionEntry, Connections, Counters, CryptoDevice, ErrorKind, EspSpi,
    GroupStore, HealthCheck, IkeSa, IkeSpi, KeptRegion, Limits, Moved, Neighbour, PeerStore, Pins, Port, Quarantined,
    Request, Response, Sas, Server, Service, ServiceTarget, Status, Store, StoreRecords, Takeover, TakeoverWay, Target,
    Vip, Worker, WrittenRegion,
};

fn vipsec(socket: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vipsec")).arg("--socket").arg(socket).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A daemon that answers everything, and what runs while it lives.
fn with_daemon(ask: impl FnOnce(&Path)) -> Vec<Request> {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("a.sock");
    let (calls, received) = bounded(4);
    let server = Server::bind(&socket, calls, Limits::default()).unwrap();
    let core = thread::spawn(move || {
        let mut seen = Vec::new();
        for call in received {
            seen.push(call.request.clone());
            let answer = answer(&call.request);
            call.answer(answer);
        }
        seen
    });
    ask(&socket);
    drop(server);
    core.join().unwrap()
}

fn answer(request: &Request) -> Result<Response, ApiError> {
    Ok(match request {
        Request::Status => Response::Status(Box::new(status())),
        Request::Sas => Response::Sas(Sas { ike_sas: vec![ike_sa()], static_children: Vec::new() }),
        Request::Connections { .. } => Response::Connections(Connections {
            total: 7,
            entries: vec![ConnectionEntry {
                protocol: "tcp".into(),
                client: "10.9.0.5:40001".parse().unwrap(),
                service: "192.0.2.1:80".parse().unwrap(),
                target: "t1".into(),
                state: "established".into(),
                age_s: 61,
            }],
        }),
        Request::Neighbours => Response::Neighbours {
            entries: vec![Neighbour { address: [10, 1, 0, 21].into(), mac: None, port: "inside".into() }],
        },
        Request::Counters => {
            let counters = BTreeMap::from([("opened".into(), 12), ("sealed".into(), 345)]);
            Response::Counters(Counters { counters, drops: BTreeMap::new() })
        }
        Request::Targets => Response::Targets { entries: vec![target("t1", true), target("t2", false)] },
        Request::Services => Response::Services {
            entries: vec![Service {
                vip: "web".into(),
                address: [192, 0, 2, 1].into(),
                protocol: "tcp".into(),
                port: Some(80),
                method: "maglev".into(),
                affinity_s: Some(1800),
                targets: vec![
                    ServiceTarget {
                        name: "t1".into(),
                        state: "up".into(),
                        weight: 10,
                        connections: 7,
                        part_percent: 100,
                    },
                    ServiceTarget {
                        name: "t2".into(),
                        state: "down".into(),
                        weight: 5,
                        connections: 0,
                        part_percent: 0,
                    },
                ],
            }],
        },
        Request::Store => Response::Store(Store {
            groups: vec![GroupStore {
                group: "web".into(),
                pins: 250_000,
                pins_max: 262_100,
                pins_left_out: 4,
                pin_bytes: 10_400_000,
                peers: vec![PeerStore {
                    appliance: 2,
                    linked: true,
                    version: Some(2),
                    agreed: false,
                    differs: vec!["VIPs".into(), "services and targets".into()],
                    written: Some(WrittenRegion {
                        copy: "counted".into(),
                        bytes: 3 << 19,
                        records: vec![
                            StoreRecords { bytes_max: 1024, used: 12, free: 988 },
                            StoreRecords { bytes_max: 4096, used: 1000, free: 0 },
                        ],
                        counter_blocks_used: 1,
                        counter_blocks_free: 31,
                        writes: 4711,
                        unacknowledged: 3,
                        pin_blocks_unwritten: 2,
                    }),
                    kept: Some(KeptRegion { trusted: false, bytes: 1 << 20, writes: 7, pins: 120 }),
                }],
            }],
        }),
        Request::MoveVip { to, .. } if to == "b" => {
            let vips = vec!["web".to_owned(), "mail".to_owned()];
            Response::Done { moved: Some(Moved { vips, appliance: 2, name: Some(to.clone()), epoch: 7 }) }
        }
        Request::MoveVip { .. } => return Err(ApiError::new(ErrorKind::Refused, "it is there already")),
        Request::RekeyIke { .. } => return Err(ApiError::new(ErrorKind::NotFound, "no such IKE SA")),
        _ => Response::DONE,
    })
}

fn target(name: &str, passed: bool) -> Target {
    let check = |kind: &str, port: u16, failure: Option<&str>| HealthCheck {
        kind: kind.into(),
        address: ([10, 1, 0, 21], port).into(),
        passed: failure.is_none(),
        failure: failure.map(Into::into),
        runs: 17,
    };
    Target {
        name: name.into(),
        address: [10, 1, 0, 21].into(),
        state: if passed { "up" } else { "down" }.into(),
        drained: !passed,
        weight: 10,
        share_percent: 75,
        connections: 7,
        checks: vec![check("agent", 9777, None), check("http", 80, (!passed).then_some("HTTP status 503"))],
    }
}

fn status() -> Status {
    Status {
        appliance: Appliance { id: 1, name: "a".into(), version: "0.1.0".into(), pid: 42, uptime_s: 93_784 },
        vips: vec![Vip {
            name: "web".into(),
            address: [192, 0, 2, 1].into(),
            mac: "02:76:c0:00:02:01".into(),
            gateways: vec![[10, 1, 0, 1].into()],
            group: "branches".into(),
            owner: Some(1),
            owner_name: Some("a".into()),
            state: "owner".into(),
            epoch: 3,
            copy: Some("unprotected".to_owned()),
            copy_reason: Some("link down".to_owned()),
            ranks: vec![1, 3],
            agents: Some(AgentsTold { agents: 3, know: 2, refuse: 1 }),
            held_s: Some(90),
            pins: Some(Pins { pins: 250_000, pins_max: 262_100, pins_left_out: 4 }),
            takeover: Some(Takeover {
                ago_s: 62,
                trusted: true,
                waiting: 7,
                ways: vec![TakeoverWay { way: "keep".into(), reason: "trusted copy".into(), ike_sas: 120 }],
            }),
        }],
        ports: vec![Port {
            name: "outside".into(),
            side: "outside".into(),
            device: "net_af_packet0,iface=out0".into(),
            mac: "02:00:00:00:01:0a".into(),
            link_up: true,
            rx_packets: 1000,
            rx_bytes: 64_000,
            rx_missed: 0,
            tx_packets: 9,
            tx_bytes: 900,
            tx_errors: 1,
        }],
        workers: vec![Worker {
            id: 0,
            cpu: None,
            alive: true,
            sas: 1,
            connections: 7,
            esp_in_packets: 10,
            esp_out_packets: 8,
            handed_over_packets: 3,
            dropped_packets: 2,
        }],
        hugepages: false,
        engine: "aws-lc-rs".into(),
        crypto_device: Some(CryptoDevice {
            device: "crypto_aesni_mb0".into(),
            driver: "crypto_aesni_mb".into(),
            hardware: false,
            jobs: 18,
            jobs_done: 17,
            errors: 0,
        }),
        drops: BTreeMap::from([("replayed".into(), 2)]),
        quarantine: vec![Quarantined { group: "branches".into(), remote: [198, 51, 100, 7].into(), left_s: 540 }],
    }
}

fn ike_sa() -> IkeSa {
    IkeSa {
        connection: "branch".into(),
        vip: "web".into(),
        state: "established".into(),
        spi: IkeSpi(0x0123),
        peer_spi: IkeSpi(u64::MAX),
        initiator: false,
        local: "192.0.2.1:4500".parse().unwrap(),
        remote: "198.51.100.7:4500".parse().unwrap(),
        remote_id: "branch.example".into(),
        proposal: "aes256gcm16-prfsha256-x25519".into(),
        age_s: 5,
        takeover: Some("keep (trusted copy)".into()),
        children: vec![Child {
            name: "net".into(),
            state: "installed".into(),
            spi_in: EspSpi(0x0100_00ab),
            spi_out: EspSpi(0xc000_0001),
            proposal: "aes256gcm16".into(),
            processing: "lookaside".into(),
            remote: "198.51.100.7:4500".into(),
            local_ts: vec!["192.0.2.1/32".into()],
            remote_ts: vec!["10.9.0.0/16".into()],
            age_s: 5,
            edge: 10,
            horizon: Some(64),
            sent: 8,
            lease: None,
            packets_in: 10,
            bytes_in: 1000,
            packets_out: 8,
            bytes_out: 80,
        }],
    }
}

#[test]
fn answers_are_aligned_tables() {
    with_daemon(|socket| {
        let expected = "\
Appliance 1 (a), vipsecd 0.1.0, pid 42, up 1d 2h
Engine aws-lc-rs, hugepages no
Crypto device crypto_aesni_mb0 (software driver crypto_aesni_mb), 18 jobs, 17 done, 0 failed
VIPs
  NAME  GROUP     ADDRESS    MAC                STATE  OWNER  EPOCH  RANKS  COPY                     GATEWAYS
  web   branches  192.0.2.1  02:76:c0:00:02:01  owner  a (1)      3  1, 3   unprotected (link down)  10.1.0.1
2 of 3 target agents know the owner of web, 1 know of a newer one
web moved too often: it moves no more by itself for 1m 30s
250000 pinned connections of branches, room for 262100, 4 found none
branches taken over 1m 2s ago from a trusted copy, 7 IKE SAs to be dealt with
  WAY   REASON        IKE SAS
  keep  trusted copy      120
Ports
  NAME     SIDE     LINK  MAC                RX PACKETS  RX BYTES  MISSED  TX PACKETS  TX BYTES  ERRORS
  outside  outside  up    02:00:00:00:01:0a        1000     64000       0           9       900       1
Workers
  ID  CPU  ALIVE  SAS  CONNECTIONS  ESP IN  ESP OUT  HANDED OVER  DROPPED
   0    -  yes      1            7      10        8            3        2
Dropped packets
  WHAT      COUNT
  replayed      2
Quarantined peers: owners died over them
  REMOTE        GROUP       FOR
  198.51.100.7  branches  9m 0s
";
        assert_eq!(stdout(&vipsec(socket, &["status"])), expected);

        let expected = "\
branch: established, responder, aes256gcm16-prfsha256-x25519, age 5s
  spi 0000000000000123 (peer ffffffffffffffff)
  192.0.2.1:4500 (web) <-> 198.51.100.7:4500 (branch.example)
  taken over: keep (trusted copy)
  net: installed, aes256gcm16, lookaside, age 5s, peer 198.51.100.7:4500
    192.0.2.1/32 === 10.9.0.0/16
         SPI       PACKETS  BYTES  NUMBER  GRANTED UP TO
    in   010000ab       10   1000      10             64
    out  c0000001        8     80       8       no limit
";
        assert_eq!(stdout(&vipsec(socket, &["sas"])), expected);

        let expected = "\
PROTOCOL  CLIENT          SERVICE       TARGET  STATE          AGE
tcp       10.9.0.5:40001  192.0.2.1:80  t1      established  1m 1s
1 of 7 connections
";
        assert_eq!(stdout(&vipsec(socket, &["connections"])), expected);
        assert_eq!(
            stdout(&vipsec(socket, &["neighbours"])),
            "ADDRESS    MAC       PORT\n10.1.0.21  (asking)  inside\n"
        );
        let expected = "\
web (192.0.2.1), tcp, port 80: maglev, affinity 30m 0s
  TARGET  STATE  WEIGHT   PART  CONNECTIONS
  t1      up         10  100 %            7
  t2      down        5    0 %            0
";
        assert_eq!(stdout(&vipsec(socket, &["services"])), expected);
        let expected = "\
NAME  ADDRESS    STATE           WEIGHT  SHARE  CONNECTIONS  CHECKS
t1    10.1.0.21  up                  10   75 %            7  2 passed
t2    10.1.0.21  down (ordered)      10   75 %            7  1 of 2 failed
TARGET  CHECK  ADDRESS       LAST FAILURE
t2      http   10.1.0.21:80  HTTP status 503
";
        assert_eq!(stdout(&vipsec(socket, &["targets"])), expected);
        let expected = "Counters\n  WHAT    COUNT\n  opened     12\n  sealed    345\nDropped packets\n  none\n";
        assert_eq!(stdout(&vipsec(socket, &["counters"])), expected);
    });
}

#[test]
fn the_store_shows_both_regions_and_how_far_the_copy_lags() {
    with_daemon(|socket| {
        let lines = [
            "250000 pinned connections of web, room for 262100: 9.9 MiB in each copy",
            "4 pinned connections of web found no room: raise store_pins",
            "Store of web with appliance 2: paired yes by version 2, configurations agree no: not in VIPs, services and targets",
            "We write: copy counted, 1.5 MiB, 4711 writes",
            "  3 writes not acknowledged",
            "  2 records of pinned connections not written",
            "  ROOM FOR                  USED  FREE",
            "  records up to 1024 bytes    12   988",
            "  records up to 4096 bytes  1000     0",
            "  counter blocks               1    31",
            "We keep: copy untrusted, 1.0 MiB, 7 writes, 120 pinned connections",
        ];
        assert_eq!(stdout(&vipsec(socket, &["store"])).lines().collect::<Vec<_>>(), lines);
    });
}

#[test]
fn json_is_the_apis_own_answer() {
    with_daemon(|socket| {
        let json = stdout(&vipsec(socket, &["--json", "sas"]));
        assert_eq!(serde_json::from_str::<Response>(&json).unwrap(), answer(&Request::Sas).unwrap());
    });
}

#[test]
fn orders_reach_the_daemon() {
    let seen = with_daemon(|socket| {
        assert_eq!(stdout(&vipsec(socket, &["ike", "initiate", "branch", "--child", "net"])), "done\n");
        assert_eq!(stdout(&vipsec(socket, &["ike", "rekey-child", "0x010000ab"])), "done\n");
        assert_eq!(stdout(&vipsec(socket, &["ike", "delete", "123"])), "done\n");
        assert_eq!(stdout(&vipsec(socket, &["target", "drain", "t1"])), "done\n");
        assert_eq!(stdout(&vipsec(socket, &["target", "enable", "t1"])), "done\n");
        assert_eq!(stdout(&vipsec(socket, &["shutdown"])), "done\n");
        let moved = vipsec(socket, &["vip", "move", "web", "--to", "b"]);
        assert_eq!(stdout(&moved), "web, mail are at b (2), epoch 7\n");
    });
    let expected = [
        Request::Initiate { connection: "branch".into(), child: Some("net".into()) },
        Request::RekeyChild { spi: EspSpi(0x0100_00ab) },
        Request::Delete { spi: IkeSpi(0x123) },
        Request::DrainTarget { target: "t1".into() },
        Request::EnableTarget { target: "t1".into() },
        Request::Shutdown,
        Request::MoveVip { vip: "web".into(), to: "b".into() },
    ];
    assert_eq!(seen, expected);
}

#[test]
fn exit_codes_tell_what_went_wrong() {
    with_daemon(|socket| {
        let refused = vipsec(socket, &["ike", "rekey-ike", "1"]);
        assert_eq!((refused.status.code(), stderr(&refused).as_str()), (Some(1), "vipsec: no such IKE SA\n"));
        assert_eq!(vipsec(socket, &["ike", "rekey-ike", "xyz"]).status.code(), Some(2));
    });
    let nobody = vipsec(Path::new("/nonexistent/a.sock"), &["status"]);
    let message = "vipsec: no vipsecd listens on /nonexistent/a.sock\n";
    assert_eq!((nobody.status.code(), stderr(&nobody).as_str()), (Some(3), message));
}

#[test]
fn configurations_are_checked_without_a_daemon() {
    let folder = TempDir::new().unwrap();
    let file: PathBuf = folder.path().join("vipsec.toml");
    let good = "appliance = { id = 1, name = \"a\" }\n\
        port = [{ name = \"out\", side = \"outside\", device = \"net_ring0\", addresses = [\"192.0.2.11/24\"] }]\n";
    let check = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_vipsec")).arg("check-config").arg(&file).args(arguments).output().unwrap()
    };
    fs::write(&file, good).unwrap();
    let expected = format!(
        "{}: good: appliance 1 (a) with 1 ports, 0 VIPs, 0 targets, 0 services, 0 connections\n",
        file.display()
    );
    assert_eq!(stdout(&check(&[])), expected);

    fs::write(&file, good.replace("id = 1", "id = 0").replace("outside", "upside")).unwrap();
    let bad = check(&[]);
    assert_eq!(bad.status.code(), Some(1));
    let expected = format!(
        "{0}:1: appliance.id: 0 is not in 1..=255\n{0}:2: port.side: \"upside\" is not one of outside, inside, local\n",
        file.display()
    );
    assert_eq!(stderr(&bad), expected);
    let answer: serde_json::Value = serde_json::from_slice(&check(&["--json"]).stdout).unwrap();
    assert_eq!(answer["valid"], false);
    assert_eq!(answer["errors"][0]["line"], 1);
    assert_eq!(answer["errors"][1]["key"], "port.side");
}
