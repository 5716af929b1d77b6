//! One long-lived TCP connection with a request always under way: does it survive, and for how long does it stall?

use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;

use super::http::Http;
use crate::clock::Stamp;
use crate::error::Result;
use crate::netns::Namespace;

/// An answer that takes longer ends the connection.
const PATIENCE: Duration = Duration::from_secs(60);
/// A running connection.
#[derive(Debug)]
pub struct PingPong {
    stop: Arc<AtomicBool>,
    breaker: TcpStream,
    thread: Option<JoinHandle<PingPongReport>>,
}

/// How a connection went.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PingPongReport {
    /// Requests answered.
    pub round_trips: u64,
    /// The target that answered the first request.
    pub target: String,
    /// Answers from another target than that.
    pub wrong_target: u64,
    /// The longest that a request waited for its answer, in milliseconds.
    pub longest_stall_ms: f64,
    /// When that request was sent.
    pub longest_stall_at: Option<Stamp>,
    /// What ended the connection before it was told to stop, such as a reset.
    pub broken: Option<String>,
}

impl PingPongReport {
    /// It lived until it was told to stop, and always with the same target.
    pub fn is_kept(&self) -> bool {
        self.broken.is_none() && self.wrong_target == 0 && self.round_trips > 0
    }
}

impl PingPong {
    /// Opens the connection from `namespace` and keeps it busy until [`PingPong::stop`]. `pause` is between an answer and the next
    /// request.
    pub fn start(namespace: &Namespace, address: IpAddr, pause: Duration) -> Result<Self> {
        let http = namespace.run(|| Http::open(address, PATIENCE))?;
        let breaker = http.breaker()?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || play(http, pause, &told));
        Ok(Self { stop, breaker, thread: Some(thread) })
    }

    /// Ends the connection and tells how it went.
    pub fn stop(mut self) -> PingPongReport {
        self.end().unwrap_or_default()
    }

    fn end(&mut self) -> Option<PingPongReport> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take()?;
        // A request under way gets a moment; one that is stalled is broken off.
        for _ in 0..50 {
            if thread.is_finished() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.breaker.shutdown(Shutdown::Both);
        thread.join().ok()
    }
}

impl Drop for PingPong {
    fn drop(&mut self) {
        self.end();
    }
}

fn play(mut http: Http, pause: Duration, stop: &AtomicBool) -> PingPongReport {
    let mut report = PingPongReport::default();
    while !stop.load(Ordering::Relaxed) {
        http.extend(PATIENCE);
        let sent = Stamp::now();
        let answer = http.id();
        let stall_ms = Stamp::now().since(sent).as_secs_f64() * 1e3;
        if stall_ms > report.longest_stall_ms {
            (report.longest_stall_ms, report.longest_stall_at) = (stall_ms, Some(sent));
        }
        match answer {
            Ok(target) => {
                if report.round_trips == 0 {
                    report.target.clone_from(&target);
                }
                report.round_trips += 1;
                report.wrong_target += u64::from(target != report.target);
            }
            Err(error) => {
                if !stop.load(Ordering::Relaxed) {
                    report.broken = Some(error.to_string());
                }
                break;
            }
        }
        std::thread::sleep(pause);
    }
    report
}
