//! Frames of a VIP that is being handed over, until it is known where they belong.

use std::time::Instant;

use crate::api::PortId;
use crate::waiting::{Waiting, WaitingQueue};

/// A frame as it came in.
#[derive(Debug)]
pub(crate) struct Held<B> {
    pub(crate) frame: B,
    pub(crate) port: PortId,
    pub(crate) vip: u16,
    pub(crate) since: Instant,
}

impl<B> Waiting for Held<B> {
    fn since(&self) -> Instant {
        self.since
    }
}

/// Frames that are held.
pub(crate) type Holding<B> = WaitingQueue<Held<B>>;
