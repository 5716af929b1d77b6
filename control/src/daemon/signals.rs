//! SIGTERM, SIGINT and SIGHUP as messages.

use std::io;
use std::thread;

use crossbeam_channel::{Receiver, bounded};
use nix::sys::signal::{SigSet, Signal};

/// Blocks them for the calling thread and all it starts from now on, and waits for them on a thread of its own.
pub(super) fn catch() -> io::Result<Receiver<Signal>> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGHUP);
    signals.thread_block()?;
    let (caught, inbox) = bounded(1);
    thread::Builder::new().name("signals".into()).spawn(move || {
        while let Ok(signal) = signals.wait() {
            if caught.send(signal).is_err() {
                return;
            }
        }
    })?;
    Ok(inbox)
}
