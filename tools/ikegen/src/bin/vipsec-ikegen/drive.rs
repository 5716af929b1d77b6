//! Joins the fleet with sockets, the clock and the end.

use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};
use vipsec_ikegen::{Fleet, Report};
use vipsec_wire::iv::ApplianceId;

use crate::Failure;
use crate::args::Arguments;
use crate::sockets::Sockets;

/// For how long deletions may take.
const DELETE_LIMIT: Duration = Duration::from_secs(10);
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
    let sockets = Sockets::open()?;
    let mut seeds = StdRng::try_from_rng(&mut SysRng).map_err(std::io::Error::other)?;
    let rng = || Box::new(StdRng::from_rng(&mut seeds)) as Box<dyn rand_core::CryptoRng + Send>;
    let id = ApplianceId::new(ID).map_err(std::io::Error::other)?;
    let now = Instant::now();
    let fleet = Fleet::new(&arguments.plan(secret), arguments.pace(), id, rng, now)?;
    let next_stats = arguments.stats_period.map(|_| Instant::now());
    let mut run = Run { arguments, sockets, fleet, next_stats };
    run.until(Instant::now() + Duration::from_secs(arguments.limit), Fleet::is_settled)?;
    run.until(Instant::now() + Duration::from_secs(arguments.hold), |_| false)?;
    let report = run.fleet.report();
    if arguments.delete {
        run.fleet.delete_all(Instant::now());
        run.until(Instant::now() + DELETE_LIMIT, |fleet| fleet.is_deserted(Instant::now()))?;
    }
    Ok(report)
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
        // Rounded up: a timer that is early goes round once more.
        let millis = due.saturating_duration_since(Instant::now()).as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(millis.min(1000)).unwrap_or(PollTimeout::ZERO);
        let ready = {
            let mut fds = self.sockets.fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut fds, timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(std::io::Error::from(error).into()),
            }
            fds.map(|fd| fd.any().unwrap_or(false))
        };
        for (which, _) in ready.into_iter().enumerate().filter(|(_, ready)| *ready) {
            for _ in 0..BURST {
                let Some(datagram) = self.sockets.receive(which)? else { break };
                self.fleet.handle_datagram(Instant::now(), datagram.local, datagram.remote, datagram.payload);
            }
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), Failure> {
        while let Some(message) = self.fleet.poll_transmit() {
            self.sockets.send(message.local, message.remote, &message.payload)?;
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
