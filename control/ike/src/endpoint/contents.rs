//! A message's payloads, sorted by what they are.

use crate::identity::Identity;
use crate::message::sa::Proposal;
use crate::message::{ConfigPayload, Delete, Notify, NotifyType, Payload};
use crate::selector::TrafficSelector;

/// Payloads of one message. Of those that may occur once, the first counts.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) sa: Option<Vec<Proposal>>,
    pub(super) key_exchange: Option<(u16, Vec<u8>)>,
    pub(super) nonce: Option<Vec<u8>>,
    pub(super) id_i: Option<Identity>,
    pub(super) id_r: Option<Identity>,
    pub(super) auth: Option<(u8, Vec<u8>)>,
    pub(super) ts_i: Option<Vec<TrafficSelector>>,
    pub(super) ts_r: Option<Vec<TrafficSelector>>,
    pub(super) config: Option<ConfigPayload>,
    pub(super) deletes: Vec<Delete>,
    notifies: Vec<Notify>,
}

/// Most announced extensions that are remembered.
const ANNOUNCED_MAX: usize = 16;

impl Contents {
    pub(super) fn sort(payloads: Vec<Payload>) -> Self {
        let mut contents = Self::default();
        for payload in payloads {
            match payload {
                Payload::Sa(proposals) => put(&mut contents.sa, proposals),
                Payload::KeyExchange(group, data) => put(&mut contents.key_exchange, (group, data)),
                Payload::Nonce(nonce) => put(&mut contents.nonce, nonce),
                Payload::IdInitiator(identity) => put(&mut contents.id_i, identity),
                Payload::IdResponder(identity) => put(&mut contents.id_r, identity),
                Payload::Auth(method, data) => put(&mut contents.auth, (method, data)),
                Payload::TsInitiator(selectors) => put(&mut contents.ts_i, selectors),
                Payload::TsResponder(selectors) => put(&mut contents.ts_r, selectors),
                Payload::Config(config) => put(&mut contents.config, config),
                Payload::Delete(delete) => contents.deletes.push(delete),
                Payload::Notify(notify) => contents.notifies.push(notify),
                // RFC 7296 §2.5, §3.12: unknown payloads and vendor ids are ignored. CERT, CERTREQ and EAP ask for what we
                // don't offer.
                Payload::Vendor(_) | Payload::Unused(..) | Payload::Unknown(..) => {}
            }
        }
        contents
    }

    pub(super) fn notifies(&self, kind: NotifyType) -> impl Iterator<Item = &Notify> {
        self.notifies.iter().filter(move |notify| notify.kind == kind)
    }

    pub(super) fn has(&self, kind: NotifyType) -> bool {
        self.notifies(kind).next().is_some()
    }

    /// The first error notification, known or not: RFC 7296 §3.10.1: an unrecognized error in a response means that the request
    /// has failed entirely.
    pub(super) fn error(&self) -> Option<&Notify> {
        self.notifies.iter().find(|notify| notify.kind.is_error())
    }

    /// Extensions that the peer says it knows.
    pub(super) fn announced(&self) -> impl Iterator<Item = NotifyType> {
        const NOT_ABOUT_THE_PEER: [NotifyType; 4] = [
            NotifyType::NAT_DETECTION_SOURCE_IP,
            NotifyType::NAT_DETECTION_DESTINATION_IP,
            NotifyType::COOKIE,
            NotifyType::INITIAL_CONTACT,
        ];
        self.notifies
            .iter()
            .map(|notify| notify.kind)
            .filter(|kind| !kind.is_error() && !NOT_ABOUT_THE_PEER.contains(kind))
            .take(ANNOUNCED_MAX)
    }
}

fn put<T>(slot: &mut Option<T>, value: T) {
    slot.get_or_insert(value);
}
