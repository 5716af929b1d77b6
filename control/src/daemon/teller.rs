//! Threads that tell the targets' agents who owns a VIP.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use vipsec_agent::notice::{Answer, NoticeKey};
use vipsec_agent::server::{ExchangeError, read_line};

use super::hardening;
use crate::config::TargetAgents;
use crate::core::{TELLING_MAX, Telling};

/// For the connection, and for the answer.
const TIMEOUT: Duration = Duration::from_secs(1);
const THREADS: usize = 4;
/// As for a health check.
const STACK_BYTES: usize = 256 << 10;

/// Tells agents, and has their answers.
pub(super) struct Teller {
    orders: Sender<Telling>,
    results: Receiver<(Telling, Option<Answer>)>,
    /// Without a sender the results would be at their end, which is always ready to be received.
    _outbox: Sender<(Telling, Option<Answer>)>,
}

impl Teller {
    /// Starts its threads, if there are agents to be told.
    pub(super) fn start(agents: Option<&TargetAgents>) -> io::Result<Self> {
        let (orders, inbox) = bounded::<Telling>(TELLING_MAX);
        let (outbox, results) = bounded(TELLING_MAX);
        if let Some(agents) = agents {
            let key = Arc::new(NoticeKey::new(agents.secret.expose()));
            for number in 0..THREADS {
                let (key, inbox, outbox) = (key.clone(), inbox.clone(), outbox.clone());
                let thread = thread::Builder::new().name(format!("agents-{number}")).stack_size(STACK_BYTES);
                thread.spawn(move || {
                    hardening::be_ordinary();
                    for telling in inbox {
                        let answer = tell(&key, &telling);
                        if let Err(error) = &answer {
                            tracing::debug!(agent = %telling.agent, %error, "target agent not told");
                        }
                        if outbox.send((telling, answer.ok())).is_err() {
                            return;
                        }
                    }
                })?;
            }
        }
        Ok(Self { orders, results, _outbox: outbox })
    }

    /// Tells an agent, later. There are never more than fit.
    pub(super) fn tell(&self, telling: Telling) {
        if self.orders.try_send(telling).is_err() {
            tracing::error!("the threads that tell target agents are gone or stuck");
        }
    }

    /// What they answered.
    pub(super) fn results(&self) -> &Receiver<(Telling, Option<Answer>)> {
        &self.results
    }
}

fn tell(key: &NoticeKey, telling: &Telling) -> Result<Answer, ExchangeError> {
    let mut stream = TcpStream::connect_timeout(&telling.agent, TIMEOUT)?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(key.notice(&telling.notice).as_bytes())?;
    Ok(key.read_answer(&read_line(&mut stream, TIMEOUT)?)?)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use vipsec_agent::notice::Notice;
    use vipsec_agent::server::serve_notices;
    use vipsec_ike::Secret;

    use super::*;

    fn agents(secret: &[u8]) -> TargetAgents {
        TargetAgents { secret: Secret::new(secret.to_vec()), port: 0 }
    }

    #[test]
    fn an_agent_answers_who_shares_its_secret() {
        let secret = b"what appliances and agents share";
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let agent = listener.local_addr().unwrap();
        thread::spawn(move || serve_notices(&listener, &NoticeKey::new(secret), None));
        let notice = |epoch| Notice { vip: [192, 0, 2, 1].into(), epoch, owner: 2 };
        let ask = |secret: &[u8], epoch| {
            let teller = Teller::start(Some(&agents(secret))).unwrap();
            teller.tell(Telling { vip: 0, agent, notice: notice(epoch) });
            teller.results().recv().unwrap().1
        };
        assert_eq!(ask(secret, 7), Some(Answer::Known(notice(7))));
        assert_eq!(ask(secret, 6), Some(Answer::Newer(notice(7))));
        assert_eq!(ask(b"another secret", 9), None);
        assert_eq!(ask(secret, 8), Some(Answer::Known(notice(8))), "that one was not believed");
    }
}
