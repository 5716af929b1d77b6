//! The agent as a process.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use vipsec_agent::AgentReport;
use vipsec_agent::notice::{Answer, Notice, NoticeKey};

/// An agent that runs, killed when dropped.
struct Agent {
    process: Child,
    said: BufReader<ChildStdout>,
    address: String,
    /// Where it takes notices.
    notices: Option<String>,
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
        let mut said = BufReader::new(process.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").expect(&line).to_owned();
        Self { process, said, address, notices: None }
    }

    /// Its answer, if it gives one.
    fn tell(&mut self, key: &NoticeKey, notice: Notice) -> Option<Answer> {
        let address = self.notices.get_or_insert_with(|| {
            let mut line = String::new();
            self.said.read_line(&mut line).unwrap();
            line.trim().strip_prefix("notices on ").expect(&line).to_owned()
        });
        let mut stream = TcpStream::connect(address.as_str()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(key.notice(&notice).as_bytes()).unwrap();
        let mut line = String::new();
        stream.read_to_string(&mut line).unwrap();
        key.read_answer(&line).ok()
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
    speaks.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut line = String::new();
    speaks.read_to_string(&mut line).unwrap();
    assert_eq!(line, "ready up\n");
}

#[test]
fn an_agent_hears_of_a_new_owner_refuses_an_older_one_and_remembers() {
    let folder = tempfile::tempdir().unwrap();
    let (secret, owners) = (folder.path().join("agents.psk"), folder.path().join("owners"));
    fs::write(&secret, "what appliances and agents share\n").unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    let key = NoticeKey::new(b"what appliances and agents share");
    let arguments =
        ["--notices", "127.0.0.1:0", "--secret", secret.to_str().unwrap(), "--owners", owners.to_str().unwrap()];
    let notice = |epoch, owner| Notice { vip: [192, 0, 2, 1].into(), epoch, owner };

    let mut agent = Agent::start(&arguments);
    assert_eq!(agent.tell(&key, notice(7, 2)), Some(Answer::Known(notice(7, 2))));
    assert_eq!(fs::read_to_string(&owners).unwrap(), "192.0.2.1 7 2\n");
    assert_eq!(agent.tell(&key, notice(6, 1)), Some(Answer::Newer(notice(7, 2))));
    assert_eq!(agent.tell(&NoticeKey::new(b"something else"), notice(9, 1)), None);
    assert!(agent.line().starts_with("ready up"), "it answers for the target all the same");
    drop(agent);

    let mut agent = Agent::start(&arguments);
    assert_eq!(
        agent.tell(&key, notice(6, 1)),
        Some(Answer::Newer(notice(7, 2))),
        "what was sent long ago counts for nothing"
    );
    assert_eq!(agent.tell(&key, notice(8, 1)), Some(Answer::Known(notice(8, 1))));
    assert_eq!(fs::read_to_string(&owners).unwrap(), "192.0.2.1 8 1\n");
}

#[test]
fn a_secret_that_others_can_read_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("agents.psk");
    fs::write(&secret, "what appliances and agents share").unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o644)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_vipsec-target-agent"))
        .args(["--listen", "127.0.0.1:0", "--secret", secret.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("can be accessed by group or others"));
}
