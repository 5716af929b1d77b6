//! The lab's one clock.

use std::io::IoSliceMut;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrLike, recvmsg};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

/// A moment: nanoseconds since the lab's process first looked at its clock. All threads, clients, targets and captures alike,
/// share this scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Stamp(u64);

impl Stamp {
    /// Now.
    pub fn now() -> Self {
        let elapsed = Instant::now().saturating_duration_since(origin());
        Self(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
    }

    /// The moment `after` the start of the scale.
    pub fn at(after: Duration) -> Self {
        Self(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Milliseconds from `origin` to here; negative if `origin` is later.
    pub fn millis_from(self, origin: Stamp) -> f64 {
        (self.0 as f64 - origin.0 as f64) / 1e6
    }

    /// Nanoseconds since the start of the scale.
    pub fn nanos(self) -> u64 {
        self.0
    }

    /// Time from `earlier` to here; zero if `earlier` is later.
    pub fn since(self, earlier: Stamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The moment at which the kernel stamped a packet, in CLOCK_REALTIME.
    fn of_kernel(kernel: TimeSpec) -> Self {
        Self::of_real(i128::from(kernel.tv_sec()) * 1_000_000_000 + i128::from(kernel.tv_nsec()))
    }

    /// The moment of a CLOCK_REALTIME, in nanoseconds since 1970. Converted by its age, so neither a step nor a slew of that clock
    /// between two packets shows.
    pub fn of_real(nanos: i128) -> Self {
        let now = Self::now();
        let Ok(real) = clock_gettime(ClockId::CLOCK_REALTIME) else { return now };
        let real = i128::from(real.tv_sec()) * 1_000_000_000 + i128::from(real.tv_nsec());
        let age = u64::try_from(real - nanos).unwrap_or(0);
        Self(now.0.saturating_sub(age))
    }
}

/// A datagram or frame as it was received.
pub struct Received<A> {
    /// Its length in bytes; the buffer holds as much of it as fits.
    pub length: usize,
    /// Who sent it, or on which device.
    pub address: Option<A>,
    /// When the kernel received it.
    pub stamp: Stamp,
    /// How many the socket has dropped so far for want of room, if the kernel said.
    pub overflow: Option<u32>,
}

/// Receives one datagram or frame without waiting, with the kernel's time stamp (the socket must have `ReceiveTimestampns` set).
///
/// # Errors
/// `EAGAIN` when there is none.
pub fn receive_stamped<A: SockaddrLike>(socket: &impl AsRawFd, buffer: &mut [u8]) -> nix::Result<Received<A>> {
    let mut control = nix::cmsg_space!(TimeSpec, u32);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
    let message = recvmsg::<A>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
    let (mut stamp, mut overflow) = (Stamp::now(), None);
    for item in message.cmsgs()? {
        match item {
            ControlMessageOwned::ScmTimestampns(kernel) => stamp = Stamp::of_kernel(kernel),
            ControlMessageOwned::RxqOvfl(dropped) => overflow = Some(dropped),
            _ => {}
        }
    }
    Ok(Received { length: message.bytes, address: message.address, stamp, overflow })
}
