//! The agent as a process.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use vipsec_agent::AgentReport;

/// An agent that runs, killed when dropped.
struct Agent {
    process: Child,
    address: String,
}

impl Agent {
    fn start(arguments: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_vipsec-target-agent"))
            .args(["--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").expect(&line).to_owned();
        Self { process, address }
    }

    fn line(&self) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut line = String::new();
        stream.read_to_string(&mut line).unwrap();
        line
    }

    /// Asks until the answer is this one.
    fn will_say(&self, expected: &str) {
        let start = Instant::now();
        loop {
            let line = self.line();
            if line == expected {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "still {line:?}, not {expected:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn tells_the_share_that_the_load_leaves() {
    let agent = Agent::start(&[]);
    let line = agent.line();
    let report = AgentReport::parse(&line).expect(&line);
    assert_eq!((report.works, report.welcomes), (Some(true), Some(true)), "{line}");
    assert!(report.share_percent.is_some_and(|percent| (1..=100).contains(&percent)), "{line}");
}

#[test]
fn an_operators_file_drains_the_target_until_it_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state");
    let agent = Agent::start(&["--full-load", "0", "--file", file.to_str().unwrap()]);
    agent.will_say("ready up\n");
    fs::write(&file, "drain 50%\nthe rest is a comment").unwrap();
    agent.will_say("drain up 50%\n");
    fs::remove_file(&file).unwrap();
    agent.will_say("ready up\n");
    fs::write(&file, "asleep").unwrap();
    agent.will_say("down #\"asleep\" is no word of an agent's\n");
}

#[test]
fn a_command_that_fails_or_hangs_takes_the_target_down() {
    let agent = Agent::start(&["--full-load", "0", "--command", "echo 30%"]);
    assert_eq!(agent.line(), "ready up 30%\n");
    let agent = Agent::start(&["--full-load", "0", "--command", "echo up; exit 7"]);
    assert_eq!(agent.line(), "down #the command failed: exit status: 7\n");
    let agent = Agent::start(&["--full-load", "0", "--command", "sleep 60; echo up"]);
    assert_eq!(agent.line(), "down #the command takes longer than 1s\n");
}

#[test]
fn a_client_that_says_nothing_or_something_gets_the_line_all_the_same() {
    let agent = Agent::start(&["--full-load", "0"]);
    let silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(&agent.address).unwrap()).collect();
    assert_eq!(agent.line(), "ready up\n");
    drop(silent);
    let mut speaks = TcpStream::connect(&agent.address).unwrap();
    std::io::Write::write_all(&mut speaks, b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut line = String::new();
    speaks.read_to_string(&mut line).unwrap();
    assert_eq!(line, "ready up\n");
}
