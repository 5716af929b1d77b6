//! etcd as the registry that decides over ownership (`docs/registry.md`): two threads that ask it, one what the deciders want to
//! know, one to say that this process is alive.

mod client;
mod words;

#[cfg(test)]
mod tests;

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use vipsec_takeover::registry::{Process, Reply, Request, Standing};

use crate::config::{self, VIPS_MAX};
use client::{Client, EtcdError, first_item};

/// After an error, the thread that says that we live tries again so soon.
const AGAIN: Duration = Duration::from_millis(200);
/// All memory of the process is locked.
const STACK_BYTES: usize = 512 << 10;
/// The same error is logged again after so long.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The registry, as the control core's thread has it.
pub(super) struct Registry {
    orders: Sender<(usize, Request)>,
    replies: Receiver<(usize, Reply)>,
}

impl Registry {
    /// Starts to ask for groups of these names.
    pub(super) fn start(config: &config::Etcd, me: Process, groups: Vec<String>) -> io::Result<Self> {
        // A group has one request under way.
        let (orders, inbox) = bounded::<(usize, Request)>(VIPS_MAX);
        let (outbox, replies) = bounded(VIPS_MAX);
        let mut client = Client::new(config);
        thread::Builder::new().name("etcd".to_owned()).stack_size(STACK_BYTES).spawn(move || {
            let mut complaints = Complaints::default();
            for (group, request) in inbox {
                let name = groups.get(group).map_or("", String::as_str);
                let reply = client.ask(name, &request).unwrap_or_else(|error| {
                    complaints.note(&error);
                    Reply::Silence
                });
                if outbox.send((group, reply)).is_err() {
                    return;
                }
            }
        })?;
        let (mut client, lease) = (Client::new(config), config.lease);
        let thread = thread::Builder::new().name("etcd-lease".to_owned()).stack_size(STACK_BYTES);
        thread.spawn(move || keep_alive(&mut client, me, lease))?;
        Ok(Self { orders, replies })
    }

    /// Asks, later.
    pub(super) fn ask(&self, group: usize, request: Request) {
        if self.orders.try_send((group, request)).is_err() {
            tracing::error!("the thread that asks etcd is gone or stuck");
        }
    }

    /// What came of it, by group.
    pub(super) fn replies(&self) -> &Receiver<(usize, Reply)> {
        &self.replies
    }
}

/// Says that this process is alive, for as long as it is.
fn keep_alive(client: &mut Client, me: Process, time: Duration) {
    let mut complaints = Complaints::default();
    let mut lease = None;
    loop {
        let kept = match lease {
            Some(id) => client.keep(id).map(|kept| kept.then_some(id)),
            None => client.appear(me, time).map(Some),
        };
        match kept {
            Ok(Some(id)) => {
                lease = Some(id);
                thread::sleep(time / 3);
            }
            // It ran out: another one at once.
            Ok(None) => lease = None,
            Err(error) => {
                complaints.note(&error);
                thread::sleep(AGAIN);
            }
        }
    }
}

/// Says once in a while what goes wrong.
#[derive(Default)]
struct Complaints(Option<(String, Instant)>);

impl Complaints {
    fn note(&mut self, error: &EtcdError) {
        let (text, now) = (error.to_string(), Instant::now());
        if self.0.as_ref().is_none_or(|(said, at)| *said != text || now >= *at + LOG_INTERVAL) {
            tracing::warn!(%error, "etcd");
            self.0 = Some((text, now));
        }
    }
}

/// What the body of etcd's answer to a question about a group says; `None`: it isn't in etcd's words, or the record isn't one of ours.
pub fn read_reply(request: &Request, body: &[u8]) -> Option<Reply> {
    client::reply(request, first_item(body)?).ok()
}

/// What a record and the list of the living say, as they were read.
fn standing(revision: u64, record: Option<Vec<u8>>, alive: Vec<Vec<u8>>) -> Result<Standing, EtcdError> {
    let record = record.map(|bytes| serde_json::from_slice(&bytes)).transpose();
    Ok(Standing {
        revision,
        record: record.map_err(|_| EtcdError::Record)?,
        // What isn't one of ours is nobody.
        alive: alive.iter().filter_map(|bytes| serde_json::from_slice(bytes).ok()).collect(),
    })
}
