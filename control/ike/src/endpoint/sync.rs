//! Message IDs and replay counters after a failover (RFC 6311), as the one that failed over and as its peer.
//!
//! A successor with a trusted copy has exact message IDs and needs none of this. One whose copy may be stale agrees on new message
//! IDs before it takes any request.

use std::time::Instant;

use super::receive::{Ends, Freshness, Whole};
use super::{Endpoint, OperateError};
use crate::child::ChildPhase;
use crate::counters::Drop;
use crate::event::{Event, GoneReason};
use crate::message::{Direction, ExchangeType, Notify, NotifyType, Payload};
use crate::sa::{Exchange, IkeSa, IkeSaId, Pending, PendingSync, Retry, Task};

/// What M1 is above the last ID that a stale copy knows; four times that with each of the first tries. IDs are plenty, and the heir of the
/// IKE SA starts at 0 again; but one who may be served elsewhere is asked for hours.
const SKIP: u32 = 1 << 8;
/// Tries after which it grows no more.
const SKIP_GROWS_MAX: u32 = 5;

/// How far an outbound sequence number may be moved at the peer's request: a receiver takes a jump of half the number space for
/// an old number.
const DELTA_MAX: u64 = (1 << 31) - 1;

/// ```text
///                      1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |             Nonce Data                                        |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |             EXPECTED_SEND_REQ_MESSAGE_ID                      |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |             EXPECTED_RECV_REQ_MESSAGE_ID                      |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MessageIdSync {
    nonce: [u8; 4],
    /// ID of the sender's next request.
    send: u32,
    /// ID of the request that the sender expects next.
    receive: u32,
}

impl MessageIdSync {
    fn parse(data: &[u8]) -> Option<Self> {
        let (nonce, rest) = data.split_first_chunk()?;
        let (send, receive) = rest.split_first_chunk()?;
        let receive = <[u8; 4]>::try_from(receive).ok()?;
        Some(Self { nonce: *nonce, send: u32::from_be_bytes(*send), receive: u32::from_be_bytes(receive) })
    }

    fn payload(self) -> Payload {
        let data = [self.nonce, self.send.to_be_bytes(), self.receive.to_be_bytes()].concat();
        Payload::notify(NotifyType::IKEV2_MESSAGE_ID_SYNC, data)
    }
}

/// The notifications of a message with ID zero that synchronises; `None`: it is an ordinary one.
fn sync_notifies(payloads: &[Payload]) -> Option<(&Notify, &[Payload])> {
    let (first, rest) = payloads.split_first()?;
    match first {
        Payload::Notify(notify) if notify.kind == NotifyType::IKEV2_MESSAGE_ID_SYNC => Some((notify, rest)),
        _ => None,
    }
}

impl Endpoint {
    /// What we announce of RFC 6311 in IKE_AUTH. §5: the responder MUST NOT assert what the initiator didn't.
    pub(super) fn announce_sync(asserted: impl Fn(NotifyType) -> bool) -> impl Iterator<Item = Payload> {
        let ours = [NotifyType::IKEV2_MESSAGE_ID_SYNC_SUPPORTED, NotifyType::IPSEC_REPLAY_COUNTER_SYNC_SUPPORTED];
        ours.into_iter().filter(move |kind| asserted(*kind)).map(Payload::from)
    }

    /// Is this protected message, whose ID is zero, about synchronisation? Then it was dealt with. The ID says nothing: an ordinary
    /// first request has it too.
    pub(super) fn on_message_zero(
        &mut self,
        now: Instant,
        ends: Ends,
        sa: &mut IkeSa,
        direction: Direction,
        whole: &Whole,
    ) -> bool {
        let Ok(payloads) = &whole.payloads else { return false };
        let Some((notify, rest)) = sync_notifies(payloads) else { return false };
        let done = match (MessageIdSync::parse(&notify.data), direction) {
            (Some(theirs), Direction::Request) => self.on_sync_request(now, ends, sa, theirs, rest),
            (Some(theirs), Direction::Response) => self.on_sync_response(now, ends, sa, theirs, rest),
            (None, _) => Err(Drop::Malformed),
        };
        if let Err(reason) = done {
            self.drop_unauthenticated(reason, ends.local, ends.remote);
        }
        true
    }

    /// The peer has failed over, and tells where its message IDs stand.
    fn on_sync_request(
        &mut self,
        now: Instant,
        ends: Ends,
        sa: &mut IkeSa,
        theirs: MessageIdSync,
        rest: &[Payload],
    ) -> Result<(), Drop> {
        // RFC 6311 §5.1: no additional payloads, other than an optional IPSEC_REPLAY_COUNTER_SYNC.
        let delta = match rest {
            [] => None,
            [Payload::Notify(notify)] if notify.kind == NotifyType::IPSEC_REPLAY_COUNTER_SYNC => Some(&notify.data),
            _ => return Err(Drop::Malformed),
        };
        // RFC 6311 §5.1: silently dropped if M1 is lower than or equal to the highest value that we have seen; this includes
        // earlier synchronisations.
        let replayed = theirs.send < sa.state.next_expected || sa.state.sync_seen.is_some_and(|m1| theirs.send <= m1);
        if replayed {
            return Err(Drop::UnexpectedMessageId);
        }
        self.heard(sa, now, ends);
        sa.state.sync_seen = Some(theirs.send);
        // M2 and P2 (RFC 6311 §5.1): the higher of both sides' values. Neither waits for what was in progress (§9).
        // RFC 6311 §A.4: if we have failed over too, what we have told the peer counts.
        let used = sa.state.sync.as_ref().map_or(0, |sync| sync.send);
        sa.state.next_expected = sa.state.next_expected.max(theirs.send);
        sa.state.next_request = sa.state.next_request.max(theirs.receive).max(used);
        sa.assembling = Default::default();
        sa.changed = true;
        tracing::info!(
            ike_sa = %sa.id(), connection = %sa.state.connection, peer = %sa.peer(), send = sa.state.next_request,
            receive = sa.state.next_expected, "the peer has failed over: message IDs synchronised"
        );
        self.ask_again(now, sa);
        if let Some(delta) = delta {
            self.on_replay_counter_sync(sa, delta);
        }
        let ours = MessageIdSync { nonce: theirs.nonce, send: sa.state.next_request, receive: sa.state.next_expected };
        let answer = self.seal(sa, ExchangeType::Informational, Direction::Response, 0, &[ours.payload()]);
        if let Some(answer) = answer {
            self.transmit_message(Some(sa.id()), ends, &answer, Freshness::Fresh);
        }
        Ok(())
    }

    /// The peer may have lost count of what we sent: it asks us to go on above (RFC 6311 §5.2).
    pub(super) fn on_replay_counter_sync(&mut self, sa: &IkeSa, data: &[u8]) {
        let children = || sa.children.values().filter(|child| child.phase != ChildPhase::Deleting);
        // RFC 6311 §6.4: 8 octets with ESN, else 4; all child SAs or none have it.
        let delta = match data {
            [a, b, c, d] => Some((false, u64::from(u32::from_be_bytes([*a, *b, *c, *d])))),
            _ => <[u8; 8]>::try_from(data).ok().map(|bytes| (true, u64::from_be_bytes(bytes))),
        };
        match delta {
            Some((esn, delta)) if delta <= DELTA_MAX && children().all(|child| child.info.suite.esn == esn) => {
                let children = children().map(|child| child.info.spi_in).collect();
                self.events.push_back(Event::SkipNumbers { ike_sa: sa.id(), children, delta });
            }
            _ => tracing::warn!(
                ike_sa = %sa.id(), connection = %sa.state.connection, peer = %sa.peer(), ?data,
                "replay counter synchronisation doesn't fit the child SAs: ignored"
            ),
        }
    }

    /// Message IDs aren't known: nothing is asked or answered until the peer has agreed on new ones.
    pub(super) fn prepare_sync(&mut self, sa: &mut IkeSa) {
        sa.state.sync = Some(PendingSync { nonce: self.random(), send: sa.state.next_request, tries: 0 });
        sa.retry = None;
        sa.changed = true;
    }

    /// Has the peer of an IKE SA agree on new message IDs, if they aren't known: the next
    /// [`handle_timeout`](Self::handle_timeout) asks it. [`Event::Synchronised`](crate::Event::Synchronised) tells when that is done.
    pub fn synchronise(&mut self, id: IkeSaId, now: Instant) -> Result<(), OperateError> {
        let interval = self.config.retransmission.first / 2;
        let mut sa = self.take(id).ok_or(OperateError::UnknownIkeSa)?;
        let is_unknown = sa.state.sync.is_some();
        if is_unknown {
            sa.retry.get_or_insert(Retry { at: now, interval, tries: 0, unsent: true });
        }
        self.settle(sa, now);
        if is_unknown { Ok(()) } else { Err(OperateError::NotSynchronisable) }
    }

    /// Asks the peer to synchronise, for the first time or again: a request whose answer was lost was taken, and its M1 with it.
    pub(super) fn request_sync(&mut self, sa: &mut IkeSa) {
        let Some(PendingSync { send: known, tries, .. }) = sa.state.sync else { return };
        // RFC 6311 §5.1: M1 MUST be larger than any value known to have been used; P1 one more than the last that was received.
        let skip = SKIP << (2 * tries.min(SKIP_GROWS_MAX));
        let Some(send) = known.checked_add(skip) else {
            sa.gone = Some(GoneReason::NumbersExhausted);
            return;
        };
        let ours = MessageIdSync { nonce: self.random(), send, receive: sa.state.next_expected };
        let sealed = self.seal(sa, ExchangeType::Informational, Direction::Request, 0, &[ours.payload()]);
        let Some(request) = sealed else { return };
        let ends = Ends { local: sa.state.local, remote: sa.state.remote };
        self.transmit_message(Some(sa.id()), ends, &request, Freshness::Fresh);
        sa.state.sync = Some(PendingSync { nonce: ours.nonce, send, tries: tries.saturating_add(1) });
        sa.changed = true;
    }

    fn on_sync_response(
        &mut self,
        now: Instant,
        ends: Ends,
        sa: &mut IkeSa,
        theirs: MessageIdSync,
        rest: &[Payload],
    ) -> Result<(), Drop> {
        // RFC 6311 §5.1, §11: a response is silently dropped if the nonce isn't that of the present request; so is another one.
        let Some(sync) = sa.state.sync.as_ref().filter(|sync| sync.nonce == theirs.nonce) else {
            return Err(Drop::UnexpectedMessageId);
        };
        // M2 is at least M1, P2 at least P1.
        if !rest.is_empty() || theirs.receive < sync.send || theirs.send < sa.state.next_expected {
            return Err(Drop::Malformed);
        }
        self.heard(sa, now, ends);
        sa.state.sync = None;
        sa.state.next_request = sa.state.next_request.max(theirs.receive);
        sa.state.next_expected = theirs.send;
        sa.retry = None;
        sa.changed = true;
        tracing::info!(
            ike_sa = %sa.id(), connection = %sa.state.connection, peer = %sa.peer(), send = sa.state.next_request,
            receive = sa.state.next_expected, "message IDs synchronised"
        );
        self.events.push_back(Event::Synchronised(sa.id()));
        Ok(())
    }

    /// Tells the peer that packets of the next `delta` numbers of its child SAs may have been lost with a predecessor of ours: it goes
    /// on above them (RFC 6311 §5.2).
    pub fn sync_replay_counters(&mut self, id: IkeSaId, delta: u64, now: Instant) -> Result<(), OperateError> {
        self.on_established(id, now, |sa| {
            let esn: Vec<bool> = sa.children.values().map(|child| child.info.suite.esn).collect();
            // RFC 6311 §6.4: with ESN for all child SAs, or for none.
            let mixed = esn.windows(2).any(|pair| matches!(pair, [a, b] if a != b));
            let knows = sa.peer_knows(NotifyType::IPSEC_REPLAY_COUNTER_SYNC_SUPPORTED);
            if !knows || mixed || delta > DELTA_MAX {
                return Err(OperateError::NotSynchronisable);
            }
            sa.enqueue(Task::SyncReplayCounters { delta });
            Ok(())
        })
    }

    /// N(IPSEC_REPLAY_COUNTER_SYNC)
    pub(super) fn replay_counter_sync(sa: &IkeSa, delta: u64) -> Payload {
        let esn = sa.children.values().any(|child| child.info.suite.esn);
        let short = u32::try_from(delta).unwrap_or(u32::MAX).to_be_bytes();
        let data = if esn { delta.to_be_bytes().to_vec() } else { short.to_vec() };
        Payload::notify(NotifyType::IPSEC_REPLAY_COUNTER_SYNC, data)
    }

    /// An exchange of ours was cut off by a synchronisation: nobody knows whether the peer has taken part in it, so it is begun
    /// anew.
    pub(super) fn ask_again(&mut self, now: Instant, sa: &mut IkeSa) {
        let Some(Pending { exchange, .. }) = sa.state.pending.take() else { return };
        sa.retry = None;
        let task = match exchange {
            Exchange::CreateChild(exchange) => match exchange.rekeys {
                // The peer has replaced it meanwhile.
                Some(spi) if exchange.collision.is_some() => {
                    self.mark_rekeyed(sa, spi);
                    None
                }
                Some(spi) => Some(Task::RekeyChild { spi, group: None }),
                None => Some(Task::CreateChild { wish: exchange.offer.wish, group: None }),
            },
            Exchange::RekeyIke(exchange) => {
                let heir = exchange.collision.and_then(|(heir, _)| self.take(heir));
                if let Some(mut heir) = heir {
                    self.inherit(now, sa, &mut heir);
                    self.settle(heir, now);
                    None
                } else {
                    Some(Task::RekeyIke { group: None })
                }
            }
            Exchange::DeleteChildren(spis) => Some(Task::DeleteChildren(spis)),
            Exchange::DeleteIke => Some(Task::DeleteIke),
            Exchange::AuthenticationFailed => Some(Task::AuthenticationFailed),
            Exchange::SyncReplayCounters { delta } => Some(Task::SyncReplayCounters { delta }),
            // It was to find out what the synchronisation has found out; and without IKE_AUTH there is nothing to go on with.
            Exchange::Liveness | Exchange::Auth(_) => None,
        };
        if let Some(task) = task {
            sa.state.queue.push_front(task);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notification_on_the_wire() {
        let sync = MessageIdSync { nonce: [1, 2, 3, 4], send: 5, receive: 6 };
        let Payload::Notify(notify) = sync.payload() else { unreachable!() };
        assert_eq!(notify.data, [1, 2, 3, 4, 0, 0, 0, 5, 0, 0, 0, 6]);
        assert_eq!(MessageIdSync::parse(&notify.data), Some(sync));
        assert_eq!(MessageIdSync::parse(&notify.data[..11]), None);
        assert_eq!(MessageIdSync::parse(&[0; 13]), None);
    }
}
