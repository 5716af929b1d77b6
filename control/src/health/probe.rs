//! One run of a health check, on ordinary sockets of the machine: the part of health checking that does I/O.

use std::io::{self, Read};
use std::net::TcpStream;
use std::time::Instant;

use vipsec_agent::{AgentError, AgentReport, LINE_BYTES_MAX};

use super::{Failure, Outcome, Success};
use crate::config::{Check, HttpProbe, Probe};

/// Most bytes of an HTTP answer's header.
const HEADER_BYTES_MAX: usize = 16 << 10;

/// Runs a check. Blocks for up to its timeout to connect, and as long again for the answer.
pub fn run(check: &Check) -> Outcome {
    match &check.probe {
        Probe::Tcp => connect(check).map(|_| Success::default()),
        Probe::Http(probe) => http(check, probe),
        Probe::Agent => agent(check),
    }
}

fn connect(check: &Check) -> Result<TcpStream, Failure> {
    TcpStream::connect_timeout(&check.address, check.timeout).map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Failure::Timeout,
        _ => Failure::Connect(error.to_string()),
    })
}

fn http(check: &Check, probe: &HttpProbe) -> Outcome {
    let config = ureq::Agent::config_builder()
        .timeout_connect(Some(check.timeout))
        .timeout_recv_response(Some(check.timeout))
        .max_response_header_size(HEADER_BYTES_MAX)
        .http_status_as_error(false)
        // A redirect is an answer of the target; where it leads to is not.
        .max_redirects(0)
        .max_idle_connections(0)
        // Not what the environment says: it is the target that is to be reached.
        .proxy(None)
        .user_agent(concat!("vipsecd/", env!("CARGO_PKG_VERSION")))
        .build();
    let mut request = config.new_agent().get(format!("http://{}{}", check.address, probe.path));
    if let Some(host) = &probe.host {
        request = request.header("Host", host);
    }
    let status = request.call().map_err(http_failure)?.status().as_u16();
    if probe.status.contains(&status) { Ok(Success::default()) } else { Err(Failure::Status(status)) }
}

fn http_failure(error: ureq::Error) -> Failure {
    match error {
        ureq::Error::Timeout(_) => Failure::Timeout,
        ureq::Error::ConnectionFailed => Failure::Connect("refused or unreachable".to_owned()),
        ureq::Error::Io(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                Failure::Connect(error.to_string())
            }
            _ => Failure::Answer(error.to_string()),
        },
        error => Failure::Answer(error.to_string()),
    }
}

fn agent(check: &Check) -> Outcome {
    let mut stream = connect(check)?;
    let deadline = Instant::now() + check.timeout;
    let mut line = Vec::new();
    let mut buffer = [0; LINE_BYTES_MAX];
    // HAProxy's format: the line ends with a newline, or with the connection.
    while !line.contains(&b'\n') && line.len() < LINE_BYTES_MAX {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::Timeout);
        }
        stream.set_read_timeout(Some(left)).map_err(|error| Failure::Answer(error.to_string()))?;
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => line.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Err(Failure::Timeout),
                _ => return Err(Failure::Answer(error.to_string())),
            },
        }
    }
    let text = String::from_utf8_lossy(&line);
    let first = text.lines().next().ok_or(AgentError::Empty)?;
    Ok(Success { agent: Some(AgentReport::parse(first)?) })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{SocketAddr, TcpListener};
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn check(address: SocketAddr, probe: Probe) -> Check {
        let (interval, timeout) = (Duration::from_secs(1), Duration::from_millis(300));
        Check { probe, address, interval, timeout, rise: 1, fall: 1 }
    }

    fn page(path: &str, status: u16) -> Probe {
        Probe::Http(HttpProbe { path: path.to_owned(), host: Some("www.example".to_owned()), status: status..=status })
    }

    /// Takes one connection, reads until `until`, answers, and returns what it read.
    fn server(until: &'static str, answer: &'static str) -> (SocketAddr, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut read = String::new();
            let mut byte = [0];
            while !read.ends_with(until) && stream.read(&mut byte).unwrap_or(0) == 1 {
                read.push(char::from(byte[0]));
            }
            stream.write_all(answer.as_bytes()).unwrap();
            read
        });
        (address, thread)
    }

    fn closed_port() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    #[test]
    fn a_connection_is_enough_for_tcp() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(run(&check(listener.local_addr().unwrap(), Probe::Tcp)), Ok(Success::default()));
        for probe in [Probe::Tcp, Probe::Agent, page("/", 200)] {
            let outcome = run(&check(closed_port(), probe));
            assert!(matches!(outcome, Err(Failure::Connect(_))), "{outcome:?}");
        }
    }

    #[test]
    fn http_asks_for_the_page_and_looks_at_the_status() {
        let (address, server_thread) = server("\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(run(&check(address, page("/health?deep=1", 200))), Ok(Success::default()));
        let request = server_thread.join().unwrap();
        assert!(request.starts_with("GET /health?deep=1 HTTP/1.1\r\n"), "{request}");
        assert!(request.to_lowercase().contains("\r\nhost: www.example\r\n"), "{request}");

        let (address, _server) = server("\r\n\r\n", "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(run(&check(address, page("/", 200))), Err(Failure::Status(503)));
        let (address, _server) = server("\r\n\r\n", "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n");
        assert_eq!(run(&check(address, page("/", 200))), Err(Failure::Status(302)), "redirects are not followed");
    }

    #[test]
    fn what_isnt_http_is_no_answer() {
        let (address, _server) = server("\r\n\r\n", "SSH-2.0-OpenSSH_9.2\r\n\r\n");
        let outcome = run(&check(address, page("/", 200)));
        assert!(matches!(outcome, Err(Failure::Answer(_))), "{outcome:?}");
    }

    #[test]
    fn silence_ends_with_the_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for probe in [Probe::Agent, page("/", 200)] {
            assert_eq!(run(&check(listener.local_addr().unwrap(), probe)), Err(Failure::Timeout));
        }
    }

    #[test]
    fn an_agents_line_may_end_with_the_connection() {
        for line in ["up 75%\n", "up 75%"] {
            let (address, _server) = server("", line);
            let report = AgentReport { works: Some(true), welcomes: Some(true), share_percent: Some(75) };
            assert_eq!(run(&check(address, Probe::Agent)), Ok(Success { agent: Some(report) }));
        }
        let (address, _server) = server("", "");
        assert_eq!(run(&check(address, Probe::Agent)), Err(Failure::Agent(AgentError::Empty)));
        let (address, _server) = server("", "220 mail.example ESMTP\r\n");
        assert!(matches!(run(&check(address, Probe::Agent)), Err(Failure::Agent(AgentError::Unknown(_)))));
    }
}
