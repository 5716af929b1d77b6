//! `[ike]` and `[ike.limits]`: what holds for IKE with all remote peers.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use vipsec_ike::{Limits, PACKET_BYTES_MAX, Retransmission};

use super::appliance::absolute;
use super::model::Ike;
use super::read::Section;
use super::value::duration_of;

/// Shortest and longest time to the first retransmission, and most retransmissions.
const RETRANSMIT_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(60);
const RETRANSMIT_TRIES_MAX: u64 = 30;
/// How long something unfinished may wait for its rest.
const UNFINISHED: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);
/// Room for the headers and something in every fragment, to the largest packet that a port carries.
const FRAGMENT_SIZE: RangeInclusive<u64> = 576..=9000;

/// Reads `[ike]`, which may be left out.
pub(super) fn ike(root: &Section) -> Option<Ike> {
    let Some(field) = root.optional("ike") else { return Some(Ike::default()) };
    let section = field.table()?;
    let default = Retransmission::default();
    let first = duration_of(&section, "retransmit_timeout", default.first, RETRANSMIT_TIMEOUT);
    let tries = number(&section, "retransmit_tries", default.tries_max, 1..=RETRANSMIT_TRIES_MAX);
    let packet_bytes_max = number(&section, "fragment_size", PACKET_BYTES_MAX, FRAGMENT_SIZE);
    let key_log: Option<Option<PathBuf>> =
        section.optional("key_log").map_or(Some(None), |field| field.parse(absolute).map(Some));
    let limits = limits(&section);
    section.finish();
    Some(Ike {
        retransmission: Retransmission { first: first?, tries_max: tries?, ..default },
        packet_bytes_max: packet_bytes_max?,
        limits: limits?,
        key_log: key_log?,
    })
}

/// Reads `[ike.limits]`, which may be left out.
fn limits(ike: &Section) -> Option<Limits> {
    let default = Limits::default();
    let Some(field) = ike.optional("limits") else { return Some(default) };
    let section = field.table()?;
    let ike_sas_max = number(&section, "ike_sas_max", default.ike_sas_max, 1..=1_000_000);
    let children = number(&section, "children_per_ike_sa_max", default.children_per_ike_sa_max, 1..=4096);
    let per_peer = number(&section, "ike_sas_per_peer_max", default.ike_sas_per_peer_max, 1..=1_000_000);
    let half_open_max = number(&section, "half_open_max", default.half_open_max, 1..=1_000_000);
    let threshold = number(&section, "cookie_threshold", default.half_open_cookie_threshold, 0..=1_000_000);
    let half_open_timeout = duration_of(&section, "half_open_timeout", default.half_open_timeout, UNFINISHED);
    let closed_max = number(&section, "closed_max", default.closed_max, 0..=1_000_000);
    let closed_linger = duration_of(&section, "closed_linger", default.closed_linger, UNFINISHED);
    let answers =
        number(&section, "unprotected_answers_per_second", default.unprotected_answers_per_second, 1..=1_000_000);
    // RFC 7296 §2: implementations MUST take 1280 octets and SHOULD take 3000.
    let message_bytes_max = number(&section, "message_bytes_max", default.message_bytes_max, 3000..=65_535);
    let payloads_max = number(&section, "payloads_max", default.payloads_max, 16..=1024);
    let fragments_max = number(&section, "fragments_max", default.fragments_max, 1..=1024);
    let assembly_timeout = duration_of(&section, "assembly_timeout", default.assembly_timeout, UNFINISHED);
    section.finish();
    Some(Limits {
        ike_sas_max: ike_sas_max?,
        children_per_ike_sa_max: children?,
        ike_sas_per_peer_max: per_peer?,
        half_open_max: half_open_max?,
        half_open_cookie_threshold: threshold?,
        half_open_timeout: half_open_timeout?,
        closed_linger: closed_linger?,
        closed_max: closed_max?,
        unprotected_answers_per_second: answers?,
        message_bytes_max: message_bytes_max?,
        payloads_max: payloads_max?,
        fragments_max: fragments_max?,
        assembly_timeout: assembly_timeout?,
    })
}

fn number<T: TryFrom<u64>>(section: &Section, key: &'static str, default: T, range: RangeInclusive<u64>) -> Option<T> {
    section.optional(key).map_or(Some(default), |field| field.number(range))
}
