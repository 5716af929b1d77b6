//! Reading the configuration anew, beside the control core: files may take longer than a worker's deadline.

use std::path::PathBuf;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::hardening;
use crate::config::{self, Config, ConfigErrors, TestConfiguration};

/// Where the configuration comes from.
#[derive(Debug, Clone)]
pub(super) struct ConfigSource {
    pub(super) path: PathBuf,
    pub(super) test: TestConfiguration,
}

impl ConfigSource {
    /// Reads and checks it.
    pub(super) fn load(&self) -> Result<Config, ConfigErrors> {
        config::load(&self.path, self.test)
    }
}

/// What was read, and the token of the request that asked for it, if one did.
pub(super) type Loaded = (Option<u64>, Result<Config, ConfigErrors>);

/// One reload at a time.
pub(super) struct Reloader {
    source: ConfigSource,
    under_way: bool,
    outbox: Sender<Loaded>,
    loaded: Receiver<Loaded>,
}

impl Reloader {
    pub(super) fn new(source: ConfigSource) -> Self {
        let (outbox, loaded) = bounded(1);
        Self { source, under_way: false, outbox, loaded }
    }

    /// Begins to read. False: it is being read already.
    pub(super) fn begin(&mut self, token: Option<u64>) -> bool {
        if std::mem::replace(&mut self.under_way, true) {
            return false;
        }
        let (source, outbox) = (self.source.clone(), self.outbox.clone());
        let read = move || {
            hardening::be_ordinary();
            drop(outbox.send((token, source.load())));
        };
        let begun = thread::Builder::new().name("reload".into()).spawn(read).is_ok();
        self.under_way = begun;
        begun
    }

    /// What was read: for [`Reloader::end`].
    pub(super) fn loaded(&self) -> &Receiver<Loaded> {
        &self.loaded
    }

    /// It was taken, or refused.
    pub(super) fn end(&mut self) {
        self.under_way = false;
    }
}
