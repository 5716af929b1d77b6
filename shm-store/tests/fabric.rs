//! Two appliances over libfabric's tcp provider, on loopback.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use vipsec_store::fabric::{DataListener, FabricSetup, Provider, pair};
use vipsec_store::pairing::{Agreement, PairingSecret};
use vipsec_store::{Grant, Link, RecordKey, Setup, SizeClass, Sizes, StoreError, StoreWriter};
use vipsec_wire::iv::{ApplianceId, Epoch};
use zeroize::Zeroizing;

fn setup(id: u8) -> Setup {
    Setup {
        appliance: ApplianceId::new(id).unwrap(),
        incarnation: [id; 16],
        config_digest: [7; 32],
        sizes: Sizes {
            classes: vec![SizeClass { records: 256, bytes: 512 }],
            counter_blocks: 4,
            journal_entries: 1024,
        },
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Both ends of a pairing.
fn paired() -> (Link, Link) {
    let control = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = control.local_addr().unwrap();
    let data: [SocketAddr; 2] = [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let end = move |socket: TcpStream, id: u8, own: SocketAddr, peer: SocketAddr| {
        let listener = DataListener::bind(Provider::Tcp, own).unwrap();
        let fabric = FabricSetup { setup: setup(id), provider: Provider::Tcp, listener: &listener, peer_data: peer };
        let secret = PairingSecret::new(Zeroizing::new(vec![9; 32])).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        pair(socket, fabric, secret, deadline, &mut StdRng::seed_from_u64(u64::from(id))).unwrap()
    };
    let other = thread::spawn(move || end(control.accept().unwrap().0, 1, data[0], data[1]));
    let this = end(TcpStream::connect(address).unwrap(), 2, data[1], data[0]);
    (other.join().unwrap(), this)
}

fn wait_acknowledged(writer: &mut dyn StoreWriter, id: vipsec_store::WriteId) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while writer.poll_acknowledged().unwrap() < id {
        assert!(Instant::now() < deadline, "no acknowledgement");
    }
}

#[test]
fn what_was_acknowledged_is_in_the_region_when_its_writer_is_shut_out() {
    let (mut backup, owner) = paired();
    assert_eq!((backup.agreement, owner.agreement), (Agreement::Agreed, Agreement::Agreed));
    let grant = backup.reader.join(&mut StdRng::seed_from_u64(5)).unwrap();
    let mut writer = owner.owner.writer(Grant::from_bytes(grant.to_bytes())).unwrap();

    let key = |id| RecordKey { kind: 1, vip: 0, id };
    // One at a time, then with many under way: completions of writes overtake the answer to an earlier question.
    let mut newest = None;
    for round in 0..6u8 {
        for id in 0..200 {
            let put = loop {
                match writer.put(key(id), Epoch(1), &[round; 300]) {
                    Err(StoreError::Behind) => drop(writer.poll_acknowledged().unwrap()),
                    put => break put.unwrap(),
                }
            };
            if round == 0 {
                wait_acknowledged(&mut *writer, put);
            } else if id % 5 == 0 {
                writer.poll_acknowledged().unwrap();
            }
            newest = Some(put);
        }
    }
    wait_acknowledged(&mut *writer, newest.unwrap());
    let started = Instant::now();
    backup.reader.fence();
    println!("fenced in {:?}", started.elapsed());
    let snapshot = backup.reader.copy().unwrap();
    let records: Vec<_> = snapshot.records().map(Result::unwrap).collect();
    assert_eq!(records.len(), 200);
    assert!(records.iter().all(|record| *record.bytes == vec![5; 300]));

    // Who was shut out learns it, and changes nothing any more.
    let cut = snapshot.cut();
    let deadline = Instant::now() + Duration::from_secs(20);
    let error = loop {
        let result = writer.put(key(1), Epoch(1), &[9; 300]).and_then(|_| writer.poll_acknowledged());
        match result {
            Err(error) => break error,
            Ok(acknowledged) => assert!(acknowledged <= cut),
        }
        assert!(Instant::now() < deadline, "the writer never learns");
    };
    assert!(matches!(error, StoreError::LinkLost | StoreError::Refused | StoreError::Behind), "{error}");
    assert_eq!(backup.reader.copy().unwrap().cut(), cut);
}
