//! Two processes share memory (memif): frames there and back, the link follows the other side.

mod support;

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io, thread};

use support::{eal, frame, receive, send, start};
use vipsec_hw::{Mempool, MempoolOptions, Port, PortOptions};
use vipsec_wire::buffer::{Burst, PortIo};

const BUFFERS: u32 = 4095;
/// Set in the process that sends back what it receives: the socket of the pair.
const ECHO: &str = "VIPSEC_HW_TEST_ECHO";

#[test]
fn frames_to_another_process_and_back() {
    if let Some(socket) = env::var_os(ECHO) {
        return echo(&PathBuf::from(socket));
    }
    let folder = env::temp_dir().join(support::prefix("memif"));
    fs::create_dir_all(&folder).unwrap();
    let socket = folder.join("memif.sock");

    let eal = eal("memif");
    let pool = Mempool::new(&eal, &MempoolOptions { buffers: BUFFERS, ..MempoolOptions::new("memif") }).unwrap();
    let device = device("server", &socket);
    let (port, mut queue) = start(&eal, &device, &pool, &PortOptions::default());
    assert!(!port.link().up, "nobody is there yet");

    let mut other = Command::new(env::current_exe().unwrap())
        .args(["--exact", "frames_to_another_process_and_back", "--nocapture"])
        .env(ECHO, &socket)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for(&port, true);
    // Fewer than the rings hold, and up to a full frame.
    let frames: Vec<_> = (0..200usize).map(|i| frame(i as u8, 60 + i * 7)).collect();
    send(&mut queue, &pool, &frames);
    assert_eq!(receive(&mut queue, frames.len()), frames);
    assert_eq!(port.stats().rx_packets, frames.len() as u64);

    drop(other.stdin.take());
    assert!(other.wait().unwrap().success());
    wait_for(&port, false);
    drop((queue, port));
    assert_eq!(pool.available(), BUFFERS, "what the other process had is back");
    fs::remove_dir_all(&folder).unwrap();
}

fn device(role: &str, socket: &std::path::Path) -> String {
    format!("net_memif0,role={role},socket-abstract=no,socket={}", socket.display())
}

/// Sends back what it receives until its input ends.
fn echo(socket: &std::path::Path) {
    let eal = eal("memif-echo");
    let pool = Mempool::new(&eal, &MempoolOptions { buffers: BUFFERS, ..MempoolOptions::new("memif") }).unwrap();
    let (port, mut queue) = start(&eal, &device("client", socket), &pool, &PortOptions::default());
    let input = thread::spawn(|| io::stdin().read_to_end(&mut Vec::new()));
    while !input.is_finished() {
        let mut burst = Burst::new();
        if queue.receive(&mut burst) == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        while !burst.is_empty() && port.link().up {
            queue.transmit(&mut burst);
        }
    }
}

fn wait_for(port: &Port, up: bool) {
    let start = Instant::now();
    while port.link().up != up {
        assert!(start.elapsed() < Duration::from_secs(30), "the link doesn't go {}", if up { "up" } else { "down" });
        thread::sleep(Duration::from_millis(5));
    }
}
