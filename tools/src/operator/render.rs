//! Answers for people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io::{self, Write};

use vipsec_control::api::{
    AgentsTold, Child, Connections, GroupStore, IkeSa, Moved, Neighbour, PeerStore, Pins, Response, Sas, Service,
    Status, Store, Target, Vip,
};

use super::table::Table;

/// Writes an answer.
pub(super) fn response(response: &Response, out: &mut impl Write) -> io::Result<()> {
    match response {
        Response::Status(answer) => status(answer, out),
        Response::Sas(answer) => sas(answer, out),
        Response::Connections(answer) => connections(answer, out),
        Response::Neighbours { entries } => neighbours(entries, out),
        Response::Store(answer) => store(answer, out),
        Response::Services { entries } => services(entries, out),
        Response::Targets { entries } => targets(entries, out),
        Response::Counters(answer) => {
            writeln!(out, "Counters")?;
            counts(&answer.counters, out)?;
            writeln!(out, "Dropped packets")?;
            counts(&answer.drops, out)
        }
        Response::Reloaded { changes } if changes.is_empty() => writeln!(out, "nothing has changed"),
        Response::Reloaded { changes } => changes.iter().try_for_each(|change| writeln!(out, "{change}")),
        Response::Done { moved: Some(Moved { vips, appliance, name, epoch }) } => {
            let verb = if vips.len() == 1 { "is" } else { "are" };
            writeln!(out, "{} {verb} at {}, epoch {epoch}", list(vips), named(*appliance, name.as_deref()))
        }
        Response::Done { moved: None } => writeln!(out, "done"),
    }
}

/// Seconds as `3d 4h`, `4h 5m`, `5m 6s` or `6s`.
fn age(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// An appliance's name, if it has one, and its id.
fn named(id: u8, name: Option<&str>) -> String {
    name.map_or_else(|| id.to_string(), |name| format!("{name} ({id})"))
}

fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A number up to which something is granted.
fn limit(granted: Option<u64>) -> String {
    granted.map_or_else(|| "no limit".to_owned(), |number| number.to_string())
}

fn list(items: &[impl Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

fn counts(counts: &BTreeMap<String, u64>, out: &mut impl Write) -> io::Result<()> {
    if counts.is_empty() {
        return writeln!(out, "  none");
    }
    let mut table = Table::new(&["WHAT", ">COUNT"]);
    for (what, count) in counts {
        table.row([what.clone(), count.to_string()]);
    }
    table.write(2, out)
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn store(store: &Store, out: &mut impl Write) -> io::Result<()> {
    if store.groups.is_empty() {
        return writeln!(out, "no other appliance: nothing is stored");
    }
    store.groups.iter().try_for_each(|group| group_store(group, out))
}

fn group_store(store: &GroupStore, out: &mut impl Write) -> io::Result<()> {
    let group = &store.group;
    let (pins, pins_max, bytes) = (store.pins, store.pins_max, mib(store.pin_bytes));
    writeln!(out, "{pins} pinned connections of {group}, room for {pins_max}: {bytes} in each copy")?;
    if store.pins_left_out > 0 {
        writeln!(out, "{} pinned connections of {group} found no room: raise store_pins", store.pins_left_out)?;
    }
    store.peers.iter().try_for_each(|peer| peer_store(group, peer, out))
}

fn peer_store(group: &str, store: &PeerStore, out: &mut impl Write) -> io::Result<()> {
    let (peer, linked) = (store.appliance, yes_no(store.linked));
    let agreed = match store.differs.as_slice() {
        [] => yes_no(store.agreed).to_owned(),
        differs => format!("no: not in {}", list(differs)),
    };
    let version = store.version.map_or_else(String::new, |version| format!(" by version {version}"));
    writeln!(out, "Store of {group} with appliance {peer}: paired {linked}{version}, configurations agree {agreed}")?;
    match &store.written {
        None => writeln!(out, "We write nowhere")?,
        Some(region) => {
            let copy = &region.copy;
            writeln!(out, "We write: copy {copy}, {}, {} writes", mib(region.bytes), region.writes)?;
            writeln!(out, "  {} writes not acknowledged", region.unacknowledged)?;
            if region.pin_blocks_unwritten > 0 {
                writeln!(out, "  {} records of pinned connections not written", region.pin_blocks_unwritten)?;
            }
            let mut table = Table::new(&["ROOM FOR", ">USED", ">FREE"]);
            for records in &region.records {
                let what = format!("records up to {} bytes", records.bytes_max);
                table.row([what, records.used.to_string(), records.free.to_string()]);
            }
            let (used, free) = (region.counter_blocks_used, region.counter_blocks_free);
            table.row(["counter blocks".to_owned(), used.to_string(), free.to_string()]);
            table.write(2, out)?;
        }
    }
    match &store.kept {
        None => writeln!(out, "We keep nothing"),
        Some(region) => {
            let trusted = if region.trusted { "trusted" } else { "untrusted" };
            let (bytes, writes, pins) = (mib(region.bytes), region.writes, region.pins);
            writeln!(out, "We keep: copy {trusted}, {bytes}, {writes} writes, {pins} pinned connections")
        }
    }
}

fn status(status: &Status, out: &mut impl Write) -> io::Result<()> {
    let appliance = &status.appliance;
    writeln!(
        out,
        "Appliance {} ({}), vipsecd {}, pid {}, up {}",
        appliance.id,
        appliance.name,
        appliance.version,
        appliance.pid,
        age(appliance.uptime_s)
    )?;
    writeln!(out, "Engine {}, hugepages {}", status.engine, yes_no(status.hugepages))?;
    if let Some(device) = &status.crypto_device {
        let kind = if device.hardware { "hardware" } else { "software" };
        writeln!(
            out,
            "Crypto device {} ({kind} driver {}), {} jobs, {} done, {} failed",
            device.device, device.driver, device.jobs, device.jobs_done, device.errors
        )?;
    }

    writeln!(out, "VIPs")?;
    let mut vips =
        Table::new(&["NAME", "GROUP", "ADDRESS", "MAC", "STATE", "OWNER", ">EPOCH", "RANKS", "COPY", "GATEWAYS"]);
    for vip in &status.vips {
        let owner = or_dash(vip.owner.map(|owner| named(owner, vip.owner_name.as_deref())));
        let epoch = vip.epoch.to_string();
        let (name, group) = (vip.name.clone(), vip.group.clone());
        let (mac, state) = (vip.mac.clone(), vip.state.clone());
        let copy = match (&vip.copy, &vip.copy_reason) {
            (Some(copy), Some(reason)) => format!("{copy} ({reason})"),
            (copy, _) => or_dash(copy.as_deref()),
        };
        vips.row([
            name,
            group,
            vip.address.to_string(),
            mac,
            state,
            owner,
            epoch,
            list(&vip.ranks),
            copy,
            list(&vip.gateways),
        ]);
    }
    vips.write(2, out)?;
    for vip in &status.vips {
        if let Some(AgentsTold { agents, know, refuse }) = vip.agents {
            let newer = if refuse > 0 { format!(", {refuse} know of a newer one") } else { String::new() };
            writeln!(out, "{} of {agents} target agents know the owner of {}{newer}", know, vip.name)?;
        }
        if let Some(held) = vip.held_s {
            writeln!(out, "{} moved too often: it moves no more by itself for {}", vip.name, age(held))?;
        }
    }
    pins(&status.vips, out)?;
    takeovers(&status.vips, out)?;

    writeln!(out, "Ports")?;
    let columns =
        ["NAME", "SIDE", "LINK", "MAC", ">RX PACKETS", ">RX BYTES", ">MISSED", ">TX PACKETS", ">TX BYTES", ">ERRORS"];
    let mut ports = Table::new(&columns);
    for port in &status.ports {
        ports.row([
            port.name.clone(),
            port.side.clone(),
            if port.link_up { "up" } else { "down" }.to_owned(),
            port.mac.clone(),
            port.rx_packets.to_string(),
            port.rx_bytes.to_string(),
            port.rx_missed.to_string(),
            port.tx_packets.to_string(),
            port.tx_bytes.to_string(),
            port.tx_errors.to_string(),
        ]);
    }
    ports.write(2, out)?;

    writeln!(out, "Workers")?;
    let mut workers = Table::new(&[
        ">ID",
        ">CPU",
        "ALIVE",
        ">SAS",
        ">CONNECTIONS",
        ">ESP IN",
        ">ESP OUT",
        ">HANDED OVER",
        ">DROPPED",
    ]);
    for worker in &status.workers {
        let (sas, connections) = (worker.sas.to_string(), worker.connections.to_string());
        workers.row([
            worker.id.to_string(),
            or_dash(worker.cpu),
            yes_no(worker.alive).to_owned(),
            sas,
            connections,
            worker.esp_in_packets.to_string(),
            worker.esp_out_packets.to_string(),
            worker.handed_over_packets.to_string(),
            worker.dropped_packets.to_string(),
        ]);
    }
    workers.write(2, out)?;

    writeln!(out, "Dropped packets")?;
    counts(&status.drops, out)?;
    if !status.quarantine.is_empty() {
        writeln!(out, "Quarantined peers: owners died over them")?;
        let mut table = Table::new(&["REMOTE", "GROUP", ">FOR"]);
        for peer in &status.quarantine {
            table.row([peer.remote.to_string(), peer.group.clone(), age(peer.left_s)]);
        }
        table.write(2, out)?;
    }
    Ok(())
}

/// What became of the IKE SAs of each group that was taken over.
fn pins(vips: &[Vip], out: &mut impl Write) -> io::Result<()> {
    let mut groups = BTreeSet::new();
    for vip in vips.iter().filter(|vip| groups.insert(&vip.group)) {
        let Some(Pins { pins, pins_max, pins_left_out }) = vip.pins else { continue };
        let left_out = if pins_left_out > 0 { format!(", {pins_left_out} found none") } else { String::new() };
        writeln!(out, "{pins} pinned connections of {}, room for {pins_max}{left_out}", vip.group)?;
    }
    Ok(())
}

fn takeovers(vips: &[Vip], out: &mut impl Write) -> io::Result<()> {
    let mut groups = BTreeSet::new();
    for vip in vips.iter().filter(|vip| groups.insert(&vip.group)) {
        let Some(takeover) = &vip.takeover else { continue };
        let copy = if takeover.trusted { "trusted" } else { "untrusted" };
        let (ago, waiting) = (age(takeover.ago_s), takeover.waiting);
        writeln!(out, "{} taken over {ago} ago from a {copy} copy, {waiting} IKE SAs to be dealt with", vip.group)?;
        let mut table = Table::new(&["WAY", "REASON", ">IKE SAS"]);
        for way in &takeover.ways {
            table.row([way.way.clone(), way.reason.clone(), way.ike_sas.to_string()]);
        }
        table.write(2, out)?;
    }
    Ok(())
}

fn sas(sas: &Sas, out: &mut impl Write) -> io::Result<()> {
    if sas.ike_sas.is_empty() && sas.static_children.is_empty() {
        return writeln!(out, "no SAs");
    }
    for sa in &sas.ike_sas {
        ike_sa(sa, out)?;
    }
    if !sas.static_children.is_empty() {
        writeln!(out, "static child SAs")?;
        sas.static_children.iter().try_for_each(|sa| child(sa, out))?;
    }
    Ok(())
}

fn ike_sa(sa: &IkeSa, out: &mut impl Write) -> io::Result<()> {
    let role = if sa.initiator { "initiator" } else { "responder" };
    writeln!(out, "{}: {}, {role}, {}, age {}", sa.connection, sa.state, sa.proposal, age(sa.age_s))?;
    writeln!(out, "  spi {} (peer {})", sa.spi, sa.peer_spi)?;
    writeln!(out, "  {} ({}) <-> {} ({})", sa.local, sa.vip, sa.remote, sa.remote_id)?;
    if let Some(takeover) = &sa.takeover {
        writeln!(out, "  taken over: {takeover}")?;
    }
    sa.children.iter().try_for_each(|sa| child(sa, out))
}

fn child(sa: &Child, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "  {}: {}, {}, {}, age {}, peer {}",
        sa.name,
        sa.state,
        sa.proposal,
        or_dash((!sa.processing.is_empty()).then_some(&sa.processing)),
        age(sa.age_s),
        sa.remote
    )?;
    writeln!(out, "    {} === {}", list(&sa.local_ts), list(&sa.remote_ts))?;
    let mut table = Table::new(&["", "SPI", ">PACKETS", ">BYTES", ">NUMBER", ">GRANTED UP TO"]);
    let count = |number: u64| number.to_string();
    let (edge, horizon) = (count(sa.edge), limit(sa.horizon));
    table.row(["in".to_owned(), sa.spi_in.to_string(), count(sa.packets_in), count(sa.bytes_in), edge, horizon]);
    let (sent, lease) = (count(sa.sent), limit(sa.lease));
    table.row(["out".to_owned(), sa.spi_out.to_string(), count(sa.packets_out), count(sa.bytes_out), sent, lease]);
    table.write(4, out)
}

fn connections(answer: &Connections, out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new(&["PROTOCOL", "CLIENT", "SERVICE", "TARGET", "STATE", ">AGE"]);
    for entry in &answer.entries {
        let (client, service) = (entry.client.to_string(), entry.service.to_string());
        let (target, state) = (entry.target.clone(), entry.state.clone());
        table.row([entry.protocol.clone(), client, service, target, state, age(entry.age_s)]);
    }
    table.write(0, out)?;
    writeln!(out, "{} of {} connections", answer.entries.len(), answer.total)
}

fn services(entries: &[Service], out: &mut impl Write) -> io::Result<()> {
    if entries.is_empty() {
        return writeln!(out, "no services");
    }
    for service in entries {
        let port = service.port.map_or_else(|| "any port".to_owned(), |port| format!("port {port}"));
        let affinity = service.affinity_s.map_or_else(String::new, |seconds| format!(", affinity {}", age(seconds)));
        let (protocol, method) = (&service.protocol, &service.method);
        writeln!(out, "{} ({}), {protocol}, {port}: {method}{affinity}", service.vip, service.address)?;
        let mut table = Table::new(&["TARGET", "STATE", ">WEIGHT", ">PART", ">CONNECTIONS"]);
        for target in &service.targets {
            table.row([
                target.name.clone(),
                target.state.clone(),
                target.weight.to_string(),
                format!("{} %", target.part_percent),
                target.connections.to_string(),
            ]);
        }
        table.write(2, out)?;
    }
    Ok(())
}

fn targets(entries: &[Target], out: &mut impl Write) -> io::Result<()> {
    if entries.is_empty() {
        return writeln!(out, "no targets");
    }
    let mut table = Table::new(&["NAME", "ADDRESS", "STATE", ">WEIGHT", ">SHARE", ">CONNECTIONS", "CHECKS"]);
    for target in entries {
        let order = if target.drained { " (ordered)" } else { "" };
        let failing = target.checks.iter().filter(|check| !check.passed).count();
        let checks = match (target.checks.len(), failing) {
            (0, _) => "none".to_owned(),
            (all, 0) => format!("{all} passed"),
            (all, failing) => format!("{failing} of {all} failed"),
        };
        table.row([
            target.name.clone(),
            target.address.to_string(),
            format!("{}{order}", target.state),
            target.weight.to_string(),
            format!("{} %", target.share_percent),
            target.connections.to_string(),
            checks,
        ]);
    }
    table.write(0, out)?;
    let mut failures = Table::new(&["TARGET", "CHECK", "ADDRESS", "LAST FAILURE"]);
    for target in entries {
        for check in &target.checks {
            if let Some(failure) = &check.failure {
                let (name, kind) = (target.name.clone(), check.kind.clone());
                failures.row([name, kind, check.address.to_string(), failure.clone()]);
            }
        }
    }
    failures.write(0, out)
}

fn neighbours(entries: &[Neighbour], out: &mut impl Write) -> io::Result<()> {
    if entries.is_empty() {
        return writeln!(out, "no neighbours");
    }
    let mut table = Table::new(&["ADDRESS", "MAC", "PORT"]);
    for entry in entries {
        let mac = entry.mac.clone().unwrap_or_else(|| "(asking)".to_owned());
        table.row([entry.address.to_string(), mac, entry.port.clone()]);
    }
    table.write(0, out)
}
