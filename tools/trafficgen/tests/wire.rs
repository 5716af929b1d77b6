//! Generators on wires that lose, repeat, delay and damage packets in ways that are known: every count has to be exact.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use vipsec_trafficgen::generator::{Generator, Phase, PortPlan, Reaction, Stations};
use vipsec_trafficgen::header::Run;
use vipsec_trafficgen::link::{LinkPlan, NextHop};
use vipsec_trafficgen::packet::{Transport, Tuple};
use vipsec_trafficgen::report::RunReport;
use vipsec_trafficgen::search::{Limit, LossTolerance, Search, SearchPlan};
use vipsec_trafficgen::size::Sizes;
use vipsec_trafficgen::stream::{FlowPlan, Load, PlanError, Source, StreamPlan};
use vipsec_trafficgen::time::Stamp;
use vipsec_trafficgen::tunnel::Tunnels;
use vipsec_wire::buffer::{Burst, PacketBuf, VecBuf, VecPool};
use vipsec_wire::ethernet::MacAddr;

const MACS: [MacAddr; 2] = [MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])];
const ADDRESSES: [&str; 2] = ["198.18.0.1", "198.18.0.2"];
const STEP: Duration = Duration::from_micros(100);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn tuple(source_port: u16) -> Tuple {
    Tuple { transport: Transport::Udp, source: (ip(ADDRESSES[0]), source_port), destination: (ip(ADDRESSES[1]), 9) }
}

fn port(number: usize, reaction: Reaction) -> PortPlan {
    let next_hops = if number == 0 { vec![NextHop::Address(ip(ADDRESSES[1]))] } else { Vec::new() };
    PortPlan {
        mac: MACS[number],
        mtu: 1500,
        link: LinkPlan { addresses: vec![ip(ADDRESSES[number])], next_hops },
        stations: Stations::Own,
        reaction,
    }
}

fn stream(flows: u16, sizes: Sizes, rx_port: Option<usize>) -> StreamPlan {
    let flow = |number| FlowPlan { tuple: tuple(1024 + number), tunnel: None, next_hop: 0 };
    let source = Source::Flows { flows: (0..flows).map(flow).collect(), sizes };
    StreamPlan { name: "tx".to_owned(), tx_port: 0, rx_port, source }
}

fn load() -> Load {
    Load {
        burst: 32,
        catch_up: Duration::from_millis(1),
        drain: Duration::from_millis(20),
        bucket: Duration::from_millis(10),
        ..Load::default()
    }
}

/// A generator with port 0 wired to port 1, and what the wires do. Time moves in steps.
struct Wire<F> {
    generator: Generator<VecPool>,
    now: Stamp,
    /// Says what arrives at a port when a frame is sent towards it.
    medium: F,
    /// Frames that a port has room for per step.
    port_takes: usize,
}

impl<F: FnMut(Stamp, usize, VecBuf) -> Vec<VecBuf>> Wire<F> {
    fn new(ports: [PortPlan; 2], stream: StreamPlan, medium: F) -> Self {
        let now = Stamp::from_nanos(5_000_000_000);
        let pool = VecPool::new(10_000);
        let generator = Generator::new(pool, &ports, vec![stream], Tunnels::default(), Run(7), now).unwrap();
        let mut wire = Self { generator, now, medium, port_takes: usize::MAX };
        while !wire.generator.is_ready() {
            wire.step();
        }
        wire
    }

    fn step(&mut self) {
        for from in 0..2 {
            let to = 1 - from;
            let Some(leaving) = self.generator.poll_transmit(self.now, from) else { continue };
            let taken = leaving.len().min(self.port_takes);
            let frames: Vec<VecBuf> = leaving.drain(..taken).collect();
            self.generator.handle_transmitted(self.now, from, taken);
            for frame in frames {
                let mut arriving: Burst<VecBuf> = (self.medium)(self.now, to, frame).into_iter().collect();
                self.generator.handle_burst(self.now.after(Duration::from_micros(30)), to, &mut arriving);
            }
        }
        self.now = self.now.after(STEP);
        self.generator.handle_timeout(self.now);
    }

    fn run(&mut self, load: Load) -> RunReport {
        self.generator.begin(self.now, load);
        while self.generator.phase() != Phase::Over {
            self.step();
        }
        self.generator.report()
    }
}

fn is_arp(frame: &VecBuf) -> bool {
    frame.data()[12..14] == [0x08, 0x06]
}

fn plain(flows: u16) -> ([PortPlan; 2], StreamPlan) {
    ([port(0, Reaction::Count), port(1, Reaction::Count)], stream(flows, Sizes::fixed(64), Some(1)))
}

#[test]
fn a_perfect_wire_loses_nothing() {
    let (ports, stream) = plain(10);
    let mut wire = Wire::new(ports, stream, |_, _, frame| vec![frame]);
    let report = wire.run(Load { rate_pps: Some(10_000), duration: Some(Duration::from_millis(500)), ..load() });
    let stream = &report.streams[0];
    assert_eq!((stream.sent, stream.missed, stream.wanted), (5000, 0, Some(5000)));
    let arrivals = stream.arrivals.as_ref().unwrap();
    assert_eq!((arrivals.received, arrivals.lost, arrivals.duplicates, arrivals.reordered), (5000, 0, 0, 0));
    assert_eq!((arrivals.flows_seen, arrivals.bytes), (10, 5000 * 64));
    let latency = arrivals.latency.unwrap();
    assert!((29.9..30.1).contains(&latency.p50_us) && latency.max_us < 30.1, "{latency:?}");
    // 10 ms hold a hundred packets, and each flow has one in a millisecond.
    assert!(stream.timeline.packets.iter().all(|&packets| packets == 100), "{:?}", stream.timeline);
    assert_eq!(arrivals.timeline.packets.iter().sum::<u32>(), 5000);
    assert!((0.9..=1.1).contains(&arrivals.flow_blocked_ms_median.unwrap()));
    assert!(wire.generator.is_ready());
}

#[test]
fn what_the_wire_does_to_packets_is_counted_exactly() {
    let (ports, stream) = plain(7);
    let (mut number, mut held) = (0u64, VecDeque::new());
    let (mut lost, mut repeated, mut delayed, mut damaged) = (0, 0, 0, 0);
    let mut wire = Wire::new(ports, stream, |_, _, mut frame: VecBuf| {
        if is_arp(&frame) {
            return vec![frame];
        }
        number += 1;
        let mut arriving = Vec::new();
        match number % 100 {
            10 => lost += 1,
            20 => {
                repeated += 1;
                arriving.extend([frame.clone(), frame]);
            }
            // Comes behind the 49 that follow it: seven of its own flow.
            30 => {
                delayed += 1;
                held.push_back((number + 49, frame));
            }
            40 => {
                damaged += 1;
                let last = frame.data().len() - 1;
                frame.data_mut()[last] ^= 1;
                arriving.push(frame);
            }
            _ => arriving.push(frame),
        }
        while held.front().is_some_and(|(due, _)| *due <= number) {
            arriving.extend(held.pop_front().map(|(_, frame)| frame));
        }
        arriving
    });
    let report = wire.run(Load { count: Some(10_000), ..load() });
    drop(wire);
    assert_eq!((lost, repeated, delayed, damaged), (100, 100, 100, 100));
    let arrivals = report.streams[0].arrivals.as_ref().unwrap();
    assert_eq!((report.streams[0].sent, arrivals.received), (10_000, 9_800));
    assert_eq!((arrivals.lost, arrivals.duplicates, arrivals.reordered), (200, 100, 100));
    assert_eq!(arrivals.reorder_extent_max, 7);
    assert_eq!(report.ports[1].events["corrupted"], 100);
}

#[test]
fn an_outage_shows_as_the_longest_silence_and_in_the_time_line() {
    let (ports, stream) = plain(4);
    let begin = Stamp::from_nanos(5_000_000_000);
    let outage = |now: Stamp| (200..240).contains(&now.since(begin).as_millis());
    let mut wire = Wire::new(ports, stream, |now, _, frame| if outage(now) { Vec::new() } else { vec![frame] });
    let report = wire.run(Load { rate_pps: Some(4000), duration: Some(Duration::from_millis(500)), ..load() });
    let arrivals = report.streams[0].arrivals.as_ref().unwrap();
    assert_eq!(arrivals.lost, 160);
    let blocked = arrivals.blocked.unwrap();
    assert!((40.0..=40.6).contains(&blocked.duration_ms) && (198.0..=200.1).contains(&blocked.from_ms), "{blocked:?}");
    for flow in &arrivals.flows_blocked_longest {
        assert!((40.0..=41.1).contains(&flow.blocked.duration_ms), "{flow:?}");
    }
    let dark: Vec<usize> = (0..50).filter(|&bucket| arrivals.timeline.packets[bucket] == 0).collect();
    assert!((3..=4).contains(&dark.len()) && dark.iter().all(|bucket| (20..24).contains(bucket)), "{dark:?}");
    assert!(report.streams[0].timeline.packets.iter().take(50).all(|&packets| packets == 40));
}

#[test]
fn a_mixture_of_lengths_arrives_as_it_was_sent() {
    let ports = [port(0, Reaction::Count), port(1, Reaction::Count)];
    let mut lengths = std::collections::BTreeMap::<usize, u32>::new();
    let mut wire = Wire::new(ports, stream(12, Sizes::imix(), Some(1)), |_, _, frame: VecBuf| {
        if !is_arp(&frame) {
            *lengths.entry(frame.data().len()).or_default() += 1;
        }
        vec![frame]
    });
    let report = wire.run(Load { count: Some(1200), ..load() });
    drop(wire);
    assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [(64, 700), (590, 400), (1514, 100)]);
    assert_eq!(report.streams[0].arrivals.as_ref().unwrap().lost, 0);
    assert_eq!(report.streams[0].frame_bytes_mean.map(f64::round), Some(360.0));
}

#[test]
fn reflected_packets_come_back_and_count_on_both_sides() {
    let ports = [port(0, Reaction::Count), port(1, Reaction::Reflect)];
    let mut returned = 0;
    let mut wire = Wire::new(ports, stream(5, Sizes::fixed(64), Some(1)), |_, to, frame: VecBuf| {
        if to == 0 && !is_arp(&frame) {
            returned += 1;
            if returned % 10 == 0 {
                return Vec::new();
            }
        }
        vec![frame]
    });
    let report = wire.run(Load { rate_pps: Some(5000), count: Some(1000), ..load() });
    let stream = &report.streams[0];
    assert_eq!(stream.arrivals.as_ref().map(|there| (there.received, there.lost)), Some((1000, 0)));
    assert_eq!(stream.elsewhere.get(&0).map(|back| (back.received, back.lost)), Some((900, 100)));
    assert_eq!(report.ports[1].events["reflected"], 1000);
}

#[test]
fn a_port_that_takes_less_than_asked_slows_the_stream_and_loses_nothing() {
    let (ports, stream) = plain(3);
    let mut wire = Wire::new(ports, stream, |_, _, frame| vec![frame]);
    wire.port_takes = 1;
    // One packet in 100 µs are 10,000 a second.
    let report = wire.run(Load { rate_pps: Some(30_000), duration: Some(Duration::from_millis(200)), ..load() });
    let stream = &report.streams[0];
    assert!((1990..=2040).contains(&stream.sent), "{}", stream.sent);
    assert!((3900..=4100).contains(&stream.missed), "{}", stream.missed);
    assert_eq!(stream.arrivals.as_ref().unwrap().lost, 0);
}

#[test]
fn packets_of_an_earlier_run_do_not_count_in_the_next() {
    let (ports, stream) = plain(2);
    // The first ten don't arrive; one of them comes behind the eleventh, in the next run.
    let (mut seen, mut late) = (0, None);
    let mut wire = Wire::new(ports, stream, |_, _, frame: VecBuf| {
        if is_arp(&frame) {
            return vec![frame];
        }
        seen += 1;
        match seen {
            ..=10 => {
                late = Some(frame);
                Vec::new()
            }
            _ => std::iter::once(frame).chain(late.take()).collect(),
        }
    });
    let first = wire.run(Load { count: Some(10), ..load() });
    assert_eq!(first.streams[0].arrivals.as_ref().unwrap().lost, 10);
    let second = wire.run(Load { count: Some(100), ..load() });
    let arrivals = second.streams[0].arrivals.as_ref().unwrap();
    assert_eq!((arrivals.received, arrivals.lost, arrivals.duplicates), (100, 0, 0));
    assert_eq!(second.ports[1].events["stale"], 1);
    assert_eq!(second.run, first.run + 1);
}

#[test]
fn another_senders_packets_are_reported_apart() {
    let (ports, stream_of_ours) = plain(2);
    let other = |run| {
        let [p0, p1] = [port(0, Reaction::Count), port(1, Reaction::Count)];
        let now = Stamp::from_nanos(0);
        let pool = VecPool::new(100);
        let stream = StreamPlan { rx_port: None, ..stream(1, Sizes::fixed(64), None) };
        let given = PortPlan { link: LinkPlan { next_hops: vec![NextHop::Mac(MACS[1])], ..LinkPlan::default() }, ..p0 };
        let mut generator =
            Generator::new(pool, &[given, p1], vec![stream], Tunnels::default(), Run(run), now).unwrap();
        generator.begin(now, Load { count: Some(20), ..load() });
        generator.poll_transmit(now, 0).unwrap().drain(..).collect::<Vec<VecBuf>>()
    };
    let mut foreign = other(0x0999);
    foreign.remove(5);
    let mut wire = Wire::new(ports, stream_of_ours, |_, _, frame: VecBuf| {
        let guest = if is_arp(&frame) || foreign.is_empty() { None } else { Some(foreign.remove(0)) };
        std::iter::once(frame).chain(guest).collect()
    });
    let report = wire.run(Load { count: Some(100), ..load() });
    assert_eq!(report.streams[0].arrivals.as_ref().unwrap().received, 100);
    let [guest] = report.others.as_slice() else { panic!("{:?}", report.others) };
    assert_eq!((guest.run, guest.port), (0x0999, 1));
    assert_eq!((guest.arrivals.received, guest.arrivals.lost, guest.arrivals.flows_seen), (19, 1, 1));
}

#[test]
fn the_search_finds_the_limit_of_a_device_through_real_runs() {
    let (ports, stream) = plain(4);
    // Forwards 2 packets in each 100 µs: 20,000 a second, with no queue worth the name.
    let (mut slot, mut in_slot) = (Stamp::default(), 0);
    let mut wire = Wire::new(ports, stream, |now, _, frame: VecBuf| {
        if now != slot {
            (slot, in_slot) = (now, 0);
        }
        in_slot += 1;
        if in_slot <= 2 || is_arp(&frame) { vec![frame] } else { Vec::new() }
    });
    let mut search = Search::new(SearchPlan {
        tolerance: LossTolerance::NONE,
        rate_min_pps: 1000,
        rate_max_pps: 80_000,
        resolution_permille: 10,
        repeats: 1,
        trials_max: 50,
    });
    while let Some(rate) = search.poll_trial() {
        wire.run(Load { rate_pps: Some(rate), duration: Some(Duration::from_millis(50)), ..load() });
        search.handle_trial(wire.generator.sums());
    }
    let report = search.report().unwrap();
    assert_eq!(report.limit, Limit::Loss);
    assert!((19_600..=20_000).contains(&report.rate_pps.unwrap()), "{report:?}");
}

#[test]
fn a_capture_leaves_as_it_is_but_for_its_mac_addresses() {
    let mut hop = port(0, Reaction::Count);
    hop.link = LinkPlan { addresses: Vec::new(), next_hops: vec![NextHop::Mac(MACS[1])] };
    let now = Stamp::from_nanos(0);
    for next_hop in [None, Some(0)] {
        let source = Source::Capture { next_hop };
        let stream = StreamPlan { name: "replay".to_owned(), tx_port: 0, rx_port: None, source };
        let ports = std::slice::from_ref(&hop);
        let mut generator =
            Generator::new(VecPool::new(10), ports, vec![stream], Tunnels::default(), Run(0), now).unwrap();
        let mut frame = vec![0xaa; 12];
        frame.extend([0x08, 0x00, 1, 2, 3]);
        generator.begin(now, Load { drain: Duration::ZERO, ..load() });
        generator
            .handle_capture(0, &mut [VecBuf::from_bytes(&frame), VecBuf::from_bytes(&frame)].into_iter().collect());
        let leaving: Vec<VecBuf> = generator.poll_transmit(now, 0).unwrap().drain(..).collect();
        generator.handle_transmitted(now, 0, leaving.len());
        if next_hop.is_some() {
            frame[..6].copy_from_slice(&MACS[1].octets());
            frame[6..12].copy_from_slice(&MACS[0].octets());
        }
        assert_eq!(leaving.iter().map(VecBuf::data).collect::<Vec<_>>(), [frame.as_slice(); 2]);
        generator.handle_timeout(now);
        assert_eq!(generator.phase(), Phase::Sending, "the capture may go on");
        generator.handle_capture_end(0);
        generator.handle_timeout(now);
        assert_eq!(generator.phase(), Phase::Over);
        assert_eq!(generator.report().streams[0].sent, 2);
    }
}

#[test]
fn plans_that_cannot_work_are_refused_with_the_numbers() {
    let refused = |stream| {
        let ports = [port(0, Reaction::Count), port(1, Reaction::Count)];
        let now = Stamp::default();
        Generator::new(VecPool::new(1), &ports, vec![stream], Tunnels::default(), Run(0), now).unwrap_err()
    };
    assert_eq!(refused(stream(0, Sizes::fixed(64), Some(1))), PlanError::Flows(0));
    assert_eq!(refused(stream(1, Sizes::fixed(63), Some(1))), PlanError::TooShort { found: 63, needed: 64 });
    let error = refused(stream(1, Sizes::fixed(1515), Some(1)));
    assert_eq!(error, PlanError::TooLong { port: 0, found: 1515, packet: 1501, mtu: 1500, fits: 1514 });
    assert_eq!(refused(stream(1, Sizes::fixed(64), Some(2))), PlanError::NoPort(2));
}
