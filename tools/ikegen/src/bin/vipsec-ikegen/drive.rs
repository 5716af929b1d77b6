//! Joins the fleet with sockets, the clock and the end.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};
use vipsec_ikegen::{Echo, Fleet, Report};
use vipsec_stop::Stop;
use vipsec_wire::iv::ApplianceId;

use crate::Failure;
use crate::args::Arguments;
use crate::sockets::{Content, Sockets};

/// For how long deletions may take.
const DELETE_LIMIT: Duration = Duration::from_secs(10);
/// Until it is looked whether somebody wants the end.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// Datagrams taken from a socket before what they led to is sent.
const BURST: usize = 64;

/// Initiators' SPIs begin with it; a gateway doesn't care.
const ID: u8 = 1;

struct Run<'a> {
    arguments: &'a Arguments,
    sockets: Sockets,
    fleet: Fleet,
    next_stats: Option<Instant>,
}

/// Runs everything to its end.
pub(crate) fn drive(arguments: &Arguments, secret: &[u8]) -> Result<Report, Failure> {
    let stop = Stop::on_signals()?;
    let sockets = Sockets::open()?;
    let mut seeds = StdRng::try_from_rng(&mut SysRng).map_err(std::io::Error::other)?;
    let rng = || Box::new(StdRng::from_rng(&mut seeds)) as Box<dyn rand_core::CryptoRng + Send>;
    let id = ApplianceId::new(ID).map_err(std::io::Error::other)?;
    let now = Instant::now();
    let mut fleet = Fleet::new(&arguments.plan(secret), arguments.pace(), id, rng, now)?;
    if let Some(plan) = arguments.echoes() {
        fleet.begin_echoes(now, plan);
    }
    let next_stats = arguments.stats_period.map(|_| Instant::now());
    let mut run = Run { arguments, sockets, fleet, next_stats };
    run.until(Instant::now() + Duration::from_secs(arguments.limit), Fleet::is_settled)?;
    run.until(Instant::now() + Duration::from_secs(arguments.hold), |_| stop.is_asked_for())?;
    let report = run.fleet.report();
    if let Some(path) = &arguments.echo_log {
        let failed = |error| Failure::File { path: path.clone(), error };
        write_log(path, run.fleet.echoes()).map_err(failed)?;
    }
    if arguments.delete {
        run.fleet.delete_all(Instant::now());
        run.until(Instant::now() + DELETE_LIMIT, |fleet| fleet.is_deserted(Instant::now()))?;
    }
    Ok(report)
}

/// A line for each: initiator, when it was sent, when it was back.
fn write_log(path: &Path, echoes: &[Echo]) -> std::io::Result<()> {
    let (now, real) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    let nanos = |at: Instant| real.saturating_sub(now.saturating_duration_since(at)).as_nanos();
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for echo in echoes {
        writeln!(file, "{} {} {}", echo.initiator, nanos(echo.sent), echo.back.map_or(0, nanos))?;
    }
    file.flush()
}

impl Run<'_> {
    /// Carries messages until `done`, or until that moment.
    fn until(&mut self, end: Instant, done: impl Fn(&Fleet) -> bool) -> Result<(), Failure> {
        loop {
            let now = Instant::now();
            if self.fleet.poll_timeout().is_some_and(|due| due <= now) {
                self.fleet.handle_timeout(now);
            }
            self.send()?;
            self.tell(now);
            if now >= end || done(&self.fleet) {
                return Ok(());
            }
            let due = self.fleet.poll_timeout().map_or(end, |due| due.min(end));
            let due = self.next_stats.map_or(due, |at| due.min(at));
            self.wait(due)?;
        }
    }

    fn wait(&mut self, due: Instant) -> Result<(), Failure> {
        let timeout = due.saturating_duration_since(Instant::now()).min(WAIT_MAX);
        let ready = {
            let mut fds = self.sockets.fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match ppoll(&mut fds, Some(TimeSpec::from_duration(timeout)), None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(std::io::Error::from(error).into()),
            }
            fds.map(|fd| fd.any().unwrap_or(false))
        };
        for (which, _) in ready.into_iter().enumerate().filter(|(_, ready)| *ready) {
            for _ in 0..BURST {
                let Some(datagram) = self.sockets.receive(which)? else { break };
                let now = Instant::now();
                match datagram.content {
                    Content::Ike => {
                        self.fleet.handle_datagram(now, datagram.local, datagram.remote, datagram.payload);
                    }
                    Content::Esp => self.fleet.handle_esp(now, datagram.local, datagram.payload),
                }
            }
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), Failure> {
        while let Some(message) = self.fleet.poll_transmit() {
            self.sockets.send(Content::Ike, message.local, message.remote, &message.payload)?;
        }
        while let Some(packet) = self.fleet.poll_packet() {
            self.sockets.send(Content::Esp, packet.local, packet.remote, &packet.payload)?;
        }
        Ok(())
    }

    fn tell(&mut self, now: Instant) {
        if let (Some(at), Some(period)) = (self.next_stats, self.arguments.stats_period)
            && at <= now
        {
            self.next_stats = Some(now + Duration::from_secs(period.max(1)));
            print!("{}", self.fleet.report());
        }
    }
}
