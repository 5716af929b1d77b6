//! The command line. Options that testpmd has are called as there, and mean the same.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use vipsec_trafficgen::size::Sizes;
use vipsec_wire::buffer::BURST_MAX;
use vipsec_wire::ethernet::MacAddr;

/// Make, send, receive and check numbered packets on DPDK's virtual devices, in clear or in ESP.
///
/// The options of dpdk-testpmd keep their names where they mean the same, those of the EAL included; the "--" between the two
/// may be left out. Without --count or --duration it runs until SIGINT. Exit codes: 0 done; 1 failed; 2 wrong command line.
#[derive(Debug, Parser)]
#[command(name = "vipsec-trafficgen", version, max_term_width = 120)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) eal: EalArguments,
    #[command(flatten)]
    pub(crate) port: PortArguments,
    #[command(flatten)]
    pub(crate) packet: PacketArguments,
    #[command(flatten)]
    pub(crate) load: LoadArguments,
    #[command(flatten)]
    pub(crate) appliance: ApplianceArguments,
    #[command(flatten)]
    pub(crate) capture: CaptureArguments,
    #[command(flatten)]
    pub(crate) search: SearchArguments,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

/// EAL options
#[derive(Debug, Args)]
#[command(next_help_heading = "EAL options")]
pub(crate) struct EalArguments {
    /// A virtual device: net_af_packet0,iface=IF, net_memif0,…, net_pcap0,rx_pcap=FILE,tx_pcap=FILE, net_ring0, net_null0.
    /// The first is port 0, a second one port 1
    #[arg(long, value_name = "DEVICE", required = true, num_args = 1)]
    pub(crate) vdev: Vec<String>,
    /// Memory to allocate, in MiB
    #[arg(short = 'm', value_name = "MB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=1 << 20))]
    pub(crate) memory_mib: u32,
    /// Use ordinary pages even where there are hugepages
    #[arg(long)]
    pub(crate) no_huge: bool,
    /// Tells DPDK processes of one machine apart [default: trafficgen-<pid>]
    #[arg(long, value_name = "PREFIX")]
    pub(crate) file_prefix: Option<String>,
}

/// Ports
#[derive(Debug, Args)]
#[command(next_help_heading = "Ports")]
pub(crate) struct PortArguments {
    /// Set the MAC address that port X sends to; without it, the next hop's address is asked for (ARP, neighbour discovery)
    #[arg(long, value_name = "X,M:M:M:M:M:M", value_parser = numbered::<MacAddr>)]
    pub(crate) eth_peer: Vec<(usize, MacAddr)>,
    /// Answer ARP and neighbour discovery for this address on port X
    #[arg(long, value_name = "X,ADDRESS", value_parser = numbered::<IpAddr>)]
    pub(crate) port_ip: Vec<(usize, IpAddr)>,
    /// How long the next hops may take to answer
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub(crate) arp_timeout: Duration,
    /// Maximum size of a packet in bytes, FCS included
    #[arg(long, value_name = "LEN", default_value_t = 1518, value_parser = clap::value_parser!(u16).range(1298..=9618))]
    pub(crate) max_pkt_len: u16,
    /// Number of mbufs
    #[arg(long, value_name = "N", default_value_t = 8191, value_parser = clap::value_parser!(u32).range(1023..=1 << 20))]
    pub(crate) total_num_mbufs: u32,
}

/// What a port does with packets; the names are testpmd's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ForwardMode {
    /// Send flows and look for them on the other port, or on the same if there is one: loss, order, latency
    Flowgen,
    /// Send, and don't look for what was sent
    Txonly,
    /// Receive and check what other senders send
    Rxonly,
    /// Send everything back: MAC addresses, IP addresses and ports swapped
    #[value(name = "5tswap")]
    FiveTupleSwap,
}

/// Packets
#[derive(Debug, Args)]
#[command(next_help_heading = "Packets")]
pub(crate) struct PacketArguments {
    /// What to do
    #[arg(long, value_name = "MODE", value_enum, default_value_t = ForwardMode::Flowgen)]
    pub(crate) forward_mode: ForwardMode,
    /// Length of the frames in bytes without FCS, as they are in clear; ESP adds to them
    #[arg(long, value_name = "LEN", default_value_t = 64, value_parser = clap::value_parser!(u16).range(60..=9600))]
    pub(crate) txpkts: u16,
    /// A mixture of lengths and weights [default mixture: 64:7,590:4,1514:1]
    #[arg(long, value_name = "LEN:WEIGHT,…", num_args = 0..=1, require_equals = true, default_missing_value = "64:7,590:4,1514:1", conflicts_with = "txpkts")]
    pub(crate) imix: Option<Sizes>,
    /// First source address, and destination address [default: 198.18.0.1,198.18.0.2]
    #[arg(long, value_name = "SRC,DST", value_parser = pair::<IpAddr>)]
    pub(crate) tx_ip: Option<(IpAddr, IpAddr)>,
    /// UDP: first source port, and destination port [default: 9,9]
    #[arg(long, value_name = "SRC[,DST]", value_parser = ports, conflicts_with = "tx_tcp")]
    pub(crate) tx_udp: Option<(u16, Option<u16>)>,
    /// TCP segments with ACK instead: first source port, and destination port
    #[arg(long, value_name = "SRC[,DST]", value_parser = ports)]
    pub(crate) tx_tcp: Option<(u16, Option<u16>)>,
    /// Send 64 flows in txonly mode, instead of one. Their source ports differ, where testpmd's source addresses may
    #[arg(long, conflicts_with = "flowgen_flows")]
    pub(crate) txonly_multi_flow: bool,
    /// Number of flows: 1024 by default, 1 in txonly mode. The source port varies first, then the source address
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub(crate) flowgen_flows: Option<u32>,
    /// What arrives at the far port (with --appliance: at the targets) goes back as with 5tswap, and is looked for where it left, too
    #[arg(long)]
    pub(crate) reflect: bool,
}

/// Load
#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
pub(crate) struct LoadArguments {
    /// Packets per second of each sending port, evenly spaced [default: as fast as the port takes them]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) pps: Option<u64>,
    /// Packets per burst at most
    #[arg(long, value_name = "N", default_value_t = BURST_MAX as u16, value_parser = clap::value_parser!(u16).range(1..=BURST_MAX as i64))]
    pub(crate) burst: u16,
    /// How late packets may leave when the generator was held up; what was due before is not sent at all, lest it became a burst
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = duration)]
    pub(crate) catch_up: Duration,
    /// Packets of each sending port
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// How long to send (or receive, or swap): 10, 10s, 500ms, 2m
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// How long to wait for stragglers afterwards [default: 500ms, 2s in a search]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) drain: Option<Duration>,
    /// Sleep between packets, or spin: busy is for latencies below 100 µs, and takes a core
    #[arg(long, value_enum, default_value_t = Polling::Adaptive)]
    pub(crate) polling: Polling,
}

/// How to wait for packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Polling {
    /// Sleep while there is nothing to do
    Adaptive,
    /// Never sleep
    Busy,
}

/// Whom a port plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// The remote peers, outside: seal towards the VIP, open what comes back
    Peers,
    /// The targets, inside
    Targets,
}

/// Which way packets are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Direction {
    /// From remote peers to targets
    Up,
    /// From targets to remote peers
    Down,
    /// Both ways at once
    Both,
}

/// Around an appliance
#[derive(Debug, Args)]
#[command(next_help_heading = "Around an appliance")]
pub(crate) struct ApplianceArguments {
    /// Play the world around the vipsecd that has this configuration: VIP, services, targets, gateways, and the child SAs of its
    /// [test] keys_file (as vipsecd takes it with --test-configuration)
    #[arg(long, value_name = "FILE")]
    pub(crate) appliance: Option<PathBuf>,
    /// Whom the ports play, in their order [default: peers, or peers,targets with two ports]
    #[arg(long, value_name = "ROLE[,ROLE]", value_enum, value_delimiter = ',', num_args = 1, requires = "appliance")]
    pub(crate) play: Vec<Role>,
    /// Which way to send [default: whatever way the ports that are played can; with --reflect up]
    #[arg(long, value_enum, requires = "appliance")]
    pub(crate) direction: Option<Direction>,
    /// Use only the first N child SAs of the file; flows are spread over them in turn
    #[arg(long, value_name = "N", requires = "appliance")]
    pub(crate) sas: Option<usize>,
    /// Send in clear instead of ESP, from the addresses that --tx-ip begins with
    #[arg(long, requires = "appliance", requires = "tx_ip")]
    pub(crate) clear: bool,
    /// The running vipsecd, to go on behind the numbers that its SAs have seen and to report its counters [default: the
    /// configuration's control_socket, if somebody listens there]
    #[arg(long, value_name = "PATH", requires = "appliance")]
    pub(crate) control_socket: Option<PathBuf>,
}

/// Captures
#[derive(Debug, Args)]
#[command(next_help_heading = "Captures")]
pub(crate) struct CaptureArguments {
    /// Send the packets of this capture by port 0 instead of making some
    #[arg(long, value_name = "FILE", conflicts_with_all = ["appliance", "tx_ip", "tx_udp", "tx_tcp", "imix", "flowgen_flows", "search", "reflect"])]
    pub(crate) replay: Option<PathBuf>,
    /// Begin again at its end
    #[arg(long, requires = "replay")]
    pub(crate) replay_loop: bool,
    /// Set the source MAC address to the port's and the destination to --eth-peer's
    #[arg(long, requires = "replay", requires = "eth_peer")]
    pub(crate) rewrite_macs: bool,
    /// Write every frame received to this capture
    #[arg(long, value_name = "FILE")]
    pub(crate) record_rx: Option<PathBuf>,
    /// Write every frame sent to this capture
    #[arg(long, value_name = "FILE")]
    pub(crate) record_tx: Option<PathBuf>,
}

/// What to search for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Goal {
    /// The non-drop rate: no packet lost (RFC 2544 §26.1)
    Ndr,
    /// The partial drop rate: no more than --loss-tolerance lost
    Pdr,
}

/// Search for the highest rate
#[derive(Debug, Args)]
#[command(next_help_heading = "Search for the highest rate")]
pub(crate) struct SearchArguments {
    /// Bisect the rate: each trial lasts --duration (default 5s), and a rate passes if most of its trials do
    #[arg(long, value_name = "GOAL", value_enum, conflicts_with_all = ["pps", "count"])]
    pub(crate) search: Option<Goal>,
    /// Loss that passes, in percent of the packets sent
    #[arg(long, value_name = "PERCENT", default_value = "0.1", value_parser = percent_ppm)]
    pub(crate) loss_tolerance: u32,
    /// The lowest rate of interest, in packets per second
    #[arg(long, value_name = "PPS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) rate_min: u64,
    /// The highest
    #[arg(long, value_name = "PPS", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) rate_max: u64,
    /// How near the rate that passes and the one that doesn't have to be, in percent
    #[arg(long, value_name = "PERCENT", default_value = "2", value_parser = percent_permille)]
    pub(crate) resolution: u32,
    /// Trials of each rate
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(crate) repeats: u32,
    /// Trials in all
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) trials_max: u32,
}

/// Output
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArguments {
    /// Show statistics every PERIOD seconds; 0: only at the end
    #[arg(long, value_name = "PERIOD", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub(crate) stats_period: u64,
    /// Write everything to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Width of the time line's buckets
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = duration)]
    pub(crate) timeline_interval: Duration,
}

impl Arguments {
    /// The process's own, without the "--" that ends the EAL's options.
    pub(crate) fn of_process() -> Self {
        let mut arguments: Vec<_> = std::env::args_os().collect();
        if let Some(separator) = arguments.iter().position(|argument| argument == "--") {
            arguments.remove(separator);
        }
        Self::parse_from(arguments)
    }
}

/// `X,VALUE`
fn numbered<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<(usize, T), String> {
    let (port, value) = text.split_once(',').ok_or("not PORT,VALUE")?;
    let port = port.parse().map_err(|_| format!("{port:?} is no port number"))?;
    value.parse().map(|value| (port, value)).map_err(|error: T::Err| error.to_string())
}

/// `A,B` of one address family
fn pair<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<(IpAddr, IpAddr), String>
where
    IpAddr: From<T>,
{
    let (source, destination) = text.split_once(',').ok_or("not SRC,DST")?;
    let address = |text: &str| text.parse().map(IpAddr::from).map_err(|error: T::Err| format!("{text:?}: {error}"));
    let (source, destination) = (address(source)?, address(destination)?);
    if source.is_ipv4() != destination.is_ipv4() {
        return Err(format!("{source} and {destination} are of different address families"));
    }
    Ok((source, destination))
}

/// `SRC[,DST]`
fn ports(text: &str) -> Result<(u16, Option<u16>), String> {
    let port = |text: &str| text.parse().map_err(|_| format!("{text:?} is no port: 0..=65535"));
    match text.split_once(',') {
        Some((source, destination)) => Ok((port(source)?, Some(port(destination)?))),
        None => Ok((port(text)?, None)),
    }
}

/// `10`, `10s`, `500ms`, `2m`, `1h`
fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    let unit = units.iter().find_map(|(unit, millis)| Some((text.strip_suffix(unit)?, *millis)));
    let (number, millis) = unit.unwrap_or((text, 1000));
    let number: Option<u64> = number.parse().ok();
    let millis =
        number.and_then(|number| number.checked_mul(millis)).filter(|millis| (1..=30 * 86_400_000).contains(millis));
    millis.map(Duration::from_millis).ok_or_else(|| "not a time from 1ms to 720h, such as 10s or 500ms".to_owned())
}

fn percent(text: &str) -> Result<f64, String> {
    let percent = text.parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
    percent.ok_or_else(|| "not in 0..=100".to_owned())
}

fn percent_ppm(text: &str) -> Result<u32, String> {
    Ok((percent(text)? * 1e4).round() as u32)
}

fn percent_permille(text: &str) -> Result<u32, String> {
    Ok((percent(text)? * 10.0).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_commands_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn testpmds_options_are_understood() {
        let arguments = parse(
            "t --vdev net_af_packet0,iface=x -m 64 --no-huge --file-prefix a --forward-mode=txonly --txonly-multi-flow \
             --tx-ip=198.18.0.1,192.0.2.1 --tx-udp=1024,7 --txpkts=128 --burst=16 --stats-period 1 --eth-peer=0,02:76:c0:00:02:01",
        );
        let arguments = arguments.unwrap();
        assert_eq!(arguments.packet.forward_mode, ForwardMode::Txonly);
        assert_eq!(arguments.packet.tx_udp, Some((1024, Some(7))));
        assert_eq!(arguments.port.eth_peer, [(0, "02:76:c0:00:02:01".parse().unwrap())]);
        assert_eq!((arguments.load.burst, arguments.packet.txpkts), (16, 128));
    }

    #[test]
    fn mistakes_are_named() {
        let error = |line: &str| parse(&format!("t --vdev net_null0 {line}")).unwrap_err().to_string();
        assert!(error("--burst=33").contains("33 is not in 1..=32"));
        assert!(error("--eth-peer=0,02:76").contains("\"02:76\" is not a MAC address"));
        assert!(error("--tx-ip=192.0.2.1,2001:db8::1").contains("different address families"));
        assert!(error("--duration=0").contains("not a time"));
        assert!(error("--imix=64:0").contains("a weight lies in 1..=1000"));
        assert!(error("--clear").contains("--appliance"));
        assert_eq!(parse("t").unwrap_err().kind(), ErrorKind::MissingRequiredArgument);
    }

    #[test]
    fn times() {
        for (text, millis) in [("10", 10_000), ("10s", 10_000), ("500ms", 500), ("2m", 120_000), ("1h", 3_600_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "0", "-1", "1.5s", "800h", "99999999999999999999"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
