//! What happens in the life of a tunnel: rekeying by either end, liveness checks, deletion and coming back.

use std::path::Path;
use std::time::Duration;

use super::{CaseResult, Progress, Story, expect};
use crate::capture::{Direction, Exchange};
use crate::charon::Retransmit;
use crate::clock::Stamp;
use crate::error::Result;
use crate::gateway::{CHILD, GatewayKind};
use crate::lab::{Lab, LabConfig};
use crate::report;
use crate::wait;

/// For what takes some round trips.
pub const SHORT: Duration = Duration::from_secs(2);
/// For what may take a retransmission or two.
pub const LONG: Duration = Duration::from_secs(30);
/// Until one end gives a silent peer up.
const GIVING_UP: Duration = Duration::from_secs(120);
/// The gateway's patience with a silent peer.
const GATEWAY_DPD: Duration = Duration::from_secs(2);
/// The peer's is shorter, so that it is always the peer that asks, unless it is told not to.
const PEER_DPD: Duration = Duration::from_secs(1);

/// Plays the whole exercise; report, captures and logs go to `out`.
pub fn play(gateway: GatewayKind, out: &Path, progress: &Progress) -> Result<Vec<CaseResult>> {
    let mut config = LabConfig::new(gateway);
    config.gateway_dpd_delay = GATEWAY_DPD;
    config.peer_dpd_delay = Some(PEER_DPD);
    config.retransmit = Retransmit::IMPATIENT;
    config.out = Some(out.to_owned());
    let mut lab = Lab::start(config, &|step| progress.step(step))?;
    let mut story = Story::begin(&mut lab, progress);

    story.case("the remote peer calls", |lab| Ok(format!("IKE SA {}", initiator_spi(lab)?)));
    story.case("the remote peer rekeys the child SA", |lab| rekey_child(lab, |lab| lab.peer()?.rekey_child(CHILD)));
    story.case("the gateway rekeys the child SA", |lab| rekey_child(lab, |lab| lab.gateway()?.rekey_child()));
    story.case("the remote peer rekeys the IKE SA", |lab| {
        rekey_ike(lab, |lab| lab.peer()?.rekey_ike(lab.connection()?))
    });
    story
        .case("the gateway rekeys the IKE SA", |lab| rekey_ike(lab, |lab| lab.gateway()?.rekey_ike(lab.connection()?)));
    story.case("the remote peer asks whether the gateway lives", the_peer_asks);
    story.case("the remote peer deletes the child SA and makes another", delete_child);
    story.case("the remote peer deletes the IKE SA and calls again", delete_ike);
    story.case("the gateway asks whether the remote peer lives", the_gateway_asks);
    story.case("the gateway gives up a silent remote peer, which comes back", silent_peer);
    story.case("the remote peer gives up a silent gateway, and calls again", silent_gateway);
    story.case("the remote peer dies without a word and calls anew", crashed_peer);

    let results = story.end();
    report::write_json(&out.join("exercise.json"), &results)?;
    lab.save_logs()?;
    Ok(results)
}

/// A child SA is rekeyed under traffic: another takes its place, and nobody who uses it notices.
fn rekey_child(lab: &mut Lab, order: impl FnOnce(&Lab) -> Result<()>) -> Result<String> {
    let spi = |lab: &Lab| Ok(lab.child_sa()?.map(|child| child.spi_in));
    under_traffic(lab, |lab| {
        let before = wait::until("a child SA", SHORT, || spi(lab))?;
        order(lab)?;
        let after =
            wait::until("another child SA in its place", LONG, || Ok(spi(lab)?.filter(|after| *after != before)))?;
        Ok(format!("SPI {before} -> {after}"))
    })
}

/// An IKE SA is rekeyed under traffic: another takes its place, with the child SA.
fn rekey_ike(lab: &mut Lab, order: impl FnOnce(&Lab) -> Result<()>) -> Result<String> {
    under_traffic(lab, |lab| {
        let before = initiator_spi(lab)?;
        let child = wait::until("a child SA", SHORT, || lab.child_sa())?;
        order(lab)?;
        let after = wait::until("another IKE SA in its place", LONG, || {
            let sa = lab.ike_sa()?.filter(|sa| sa.initiator_spi != before);
            Ok(sa.filter(|sa| sa.children.iter().any(|heir| heir.spi_in == child.spi_in)))
        })?;
        Ok(format!("IKE SA {before} -> {}, which has inherited child SA {}", after.initiator_spi, child.spi_in))
    })
}

/// In silence the remote peer sends INFORMATIONAL requests (RFC 7296 §2.4), and the gateway answers them.
fn the_peer_asks(lab: &mut Lab) -> Result<String> {
    let begin = Stamp::now();
    std::thread::sleep(PEER_DPD * 4);
    let asked = lab.outside.ike(begin, Exchange::Informational, Direction::ToHost, false).len();
    let answered = lab.outside.ike(begin, Exchange::Informational, Direction::FromHost, true).len();
    expect(asked >= 2, "at least two questions of the remote peer", || format!("there were {asked}"))?;
    expect(asked == answered, "an answer to each question", || format!("{asked} questions had {answered} answers"))?;
    Ok(format!("{asked} questions, {answered} answers"))
}

/// A remote peer that doesn't ask by itself is asked by the gateway.
fn the_gateway_asks(lab: &mut Lab) -> Result<String> {
    lab.restart_peer(None)?;
    lab.bring_up()?;
    // The peer's restart counts as a second call: let deletions of the first one pass. What is counted begins and ends between two
    // questions, so that none is parted from its answer.
    std::thread::sleep(GATEWAY_DPD * 3 / 2);
    let begin = Stamp::now();
    std::thread::sleep(GATEWAY_DPD * 4);
    let asked = lab.outside.ike(begin, Exchange::Informational, Direction::FromHost, false).len();
    let answered = lab.outside.ike(begin, Exchange::Informational, Direction::ToHost, true).len();
    lab.restart_peer(Some(PEER_DPD))?;
    lab.bring_up()?;
    expect(asked >= 2, "at least two questions of the gateway", || format!("there were {asked}"))?;
    expect(asked == answered, "an answer to each question", || format!("{asked} questions had {answered} answers"))?;
    Ok(format!("{asked} questions, {answered} answers"))
}

/// The child SA goes, the IKE SA stays; a new child SA is made under it (RFC 7296 §1.3.1).
fn delete_child(lab: &mut Lab) -> Result<String> {
    let before = initiator_spi(lab)?;
    lab.peer()?.terminate_child(CHILD)?;
    expect(lab.echo(SHORT).is_err(), "no traffic without a child SA", || "an echo came back".to_owned())?;
    let begin = Stamp::now();
    lab.peer()?.initiate(lab.connection()?, CHILD, LONG)?;
    let after = initiator_spi(lab)?;
    expect(before == after, "the same IKE SA", || format!("it is {after} now"))?;
    let exchanges = lab.outside.ike(begin, Exchange::CreateChildSa, Direction::ToHost, false).len();
    expect(exchanges == 1, "one CREATE_CHILD_SA request", || format!("there were {exchanges}"))?;
    Ok(format!("under IKE SA {after}"))
}

/// The IKE SA goes, at both ends at once.
fn delete_ike(lab: &mut Lab) -> Result<String> {
    lab.peer()?.terminate(lab.connection()?)?;
    wait::until_true("the gateway to have no IKE SA", LONG, || Ok(lab.gateway()?.ike_sa_count()? == 0))?;
    expect(lab.echo(SHORT).is_err(), "no traffic without a tunnel", || "an echo came back".to_owned())?;
    let handshake = lab.bring_up()?;
    Ok(format!("the new handshake took {:.1} ms", handshake.as_secs_f64() * 1e3))
}

/// The remote peer falls silent: the gateway asks, gives it up, and takes it back when it calls.
fn silent_peer(lab: &mut Lab) -> Result<String> {
    let begin = Stamp::now();
    lab.peer()?.freeze()?;
    let given_up = wait::until_true("the gateway to give the silent remote peer up", GIVING_UP, || {
        Ok(lab.gateway()?.ike_sa_count()? == 0)
    });
    let after = Stamp::now().since(begin);
    lab.peer()?.thaw()?;
    given_up?;
    let asked = lab.outside.ike(begin, Exchange::Informational, Direction::FromHost, false).len();
    expect(asked >= 1, "at least one question of the gateway", || format!("there were {asked}"))?;
    wait::until_true("the remote peer to notice that it was given up", GIVING_UP, || {
        Ok(lab.peer()?.sas()?.is_empty())
    })?;
    lab.bring_up()?;
    Ok(format!("given up after {:.1} s and {asked} requests", after.as_secs_f64()))
}

/// The gateway falls silent: the remote peer gives it up and calls again; what the gateway remembers is replaced.
fn silent_gateway(lab: &mut Lab) -> Result<String> {
    let begin = Stamp::now();
    lab.gateway()?.freeze()?;
    let given_up = wait::until_true("the remote peer to give the silent gateway up", GIVING_UP, || {
        Ok(lab.peer()?.sas()?.is_empty())
    });
    let after = Stamp::now().since(begin);
    lab.gateway()?.thaw()?;
    given_up?;
    lab.bring_up()?;
    one_ike_sa(lab)?;
    Ok(format!("given up after {:.1} s", after.as_secs_f64()))
}

/// The remote peer loses its memory. Its new call replaces what the gateway has of it: it says INITIAL_CONTACT (RFC 7296 §2.4).
fn crashed_peer(lab: &mut Lab) -> Result<String> {
    lab.restart_peer(Some(PEER_DPD))?;
    let handshake = lab.bring_up()?;
    one_ike_sa(lab)?;
    Ok(format!("back after a handshake of {:.1} ms", handshake.as_secs_f64() * 1e3))
}

fn one_ike_sa(lab: &Lab) -> Result<()> {
    wait::until_true("the gateway to have one IKE SA", LONG, || Ok(lab.gateway()?.ike_sa_count()? == 1))
}

fn initiator_spi(lab: &Lab) -> Result<String> {
    wait::until("one established IKE SA", LONG, || Ok(lab.ike_sa()?.map(|sa| sa.initiator_spi)))
}

/// Plays `action` while a long-lived connection and numbered datagrams are under way, which must not notice.
fn under_traffic(lab: &mut Lab, action: impl FnOnce(&Lab) -> Result<String>) -> Result<String> {
    const INTERVAL: Duration = Duration::from_millis(10);
    const MARGIN: Duration = Duration::from_millis(500);
    let overflows = lab.peer_overflows()?;
    let long_lived = lab.start_pingpong(Duration::from_millis(2))?;
    let probe = lab.start_probe(INTERVAL)?;
    std::thread::sleep(MARGIN);
    let detail = action(lab)?;
    std::thread::sleep(MARGIN);
    let udp = probe.stop(lab.targets());
    let long_lived = long_lived.stop();
    if let Some(why) = long_lived.broken {
        expect(false, "a long-lived connection that lives on", || format!("it broke: {why}"))?;
    }
    expect(!udp.down.is_empty(), "datagrams from a target", || "no target heard that they are wanted".to_owned())?;
    let flows = || udp.up.values().chain(udp.down.values());
    let lost: u64 = flows().map(|flow| flow.lost).sum();
    let sent: u64 = flows().map(|flow| flow.sent).sum();
    let overflows = lab.peer_overflows()? - overflows;
    expect(lost == 0, "no lost datagram", || {
        format!("{lost} of {sent} were lost (and {overflows} packets by the remote peer's own slowness)")
    })?;
    Ok(format!("{detail}; none of {sent} datagrams lost, longest stall {:.1} ms", long_lived.longest_stall_ms))
}
