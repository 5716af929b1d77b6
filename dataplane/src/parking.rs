//! Packets above the horizon, waiting for a grant (rule R3).

use std::time::Instant;

use vipsec_esp::inbound::Opened;
use vipsec_esp::sa::Spi;

use crate::outer::Outer;
use crate::waiting::{Waiting, WaitingQueue};

/// A packet that was authentic, decrypted, and is not yet delivered.
#[derive(Debug)]
pub(crate) struct Parked<B> {
    pub(crate) packet: B,
    pub(crate) spi: Spi,
    pub(crate) esp: Opened,
    pub(crate) outer: Outer,
    pub(crate) since: Instant,
}

impl<B> Waiting for Parked<B> {
    fn since(&self) -> Instant {
        self.since
    }
}

/// Packets that are parked.
pub(crate) type Parking<B> = WaitingQueue<Parked<B>>;
