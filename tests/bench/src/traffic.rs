//! Packets through a worker: ESP with every packet under another SA, and the whole path both ways.

use vipsec_esp::engine::EngineKind;
use vipsec_hw::{Eal, Mempool};

use crate::error::BenchError;
use crate::result::{Case, Row, Samples, Way};
use crate::scene::Protection;
use crate::station::{Direction, Order, Plan, Station};

/// A worker with its SAs and connections, and what is to be measured on it.
pub(crate) struct Traffic {
    case: Case,
    plan: Plan,
    station: Station,
    points: Vec<Point>,
}

/// One size and direction.
struct Point {
    direction: Direction,
    size: usize,
    protected: Samples,
    aead: Samples,
    clear: Samples,
}

impl Traffic {
    /// ESP in either direction; one connection per SA.
    pub(crate) fn esp(
        eal: &Eal,
        pool: &Mempool,
        engine: EngineKind,
        sas: usize,
        sizes: &[usize],
        packets_max: usize,
    ) -> Result<Self, BenchError> {
        let plan = Plan { engine, sas, connections: sas, packets_max };
        Self::new(eal, pool, Case::Esp, plan, &[Direction::Out, Direction::In], sizes)
    }

    /// Both directions at once.
    pub(crate) fn path(
        eal: &Eal,
        pool: &Mempool,
        engine: EngineKind,
        (sas, connections): (usize, usize),
        sizes: &[usize],
        packets_max: usize,
    ) -> Result<Self, BenchError> {
        let plan = Plan { engine, sas, connections, packets_max };
        Self::new(eal, pool, Case::Path, plan, &[Direction::Both], sizes)
    }

    fn new(
        eal: &Eal,
        pool: &Mempool,
        case: Case,
        plan: Plan,
        directions: &[Direction],
        sizes: &[usize],
    ) -> Result<Self, BenchError> {
        let point = |direction, size| Point {
            direction,
            size,
            protected: Samples::default(),
            aead: Samples::default(),
            clear: Samples::default(),
        };
        let points = directions.iter().flat_map(|&direction| sizes.iter().map(move |&size| point(direction, size)));
        let points = points.collect();
        let station = Station::start(eal, pool, plan)?;
        let mut traffic = Self { case, plan, station, points };
        traffic.warm_up()?;
        Ok(traffic)
    }

    /// Every SA and connection is met once in each direction, remote hosts first.
    fn warm_up(&mut self) -> Result<(), BenchError> {
        let rounds = self.plan.connections.div_ceil(self.plan.packets_max);
        let size = self.points.iter().map(|point| point.size).min().unwrap_or(64);
        for protection in [Protection::Esp, Protection::Clear] {
            for direction in [Direction::In, Direction::Out] {
                for _ in 0..rounds {
                    let order = Order { protection, direction, size, packets: self.plan.packets_max };
                    self.station.measure(order)?;
                }
            }
        }
        Ok(())
    }

    /// `windows` of each point, with the cipher beside them, and as many in the clear. Before them some that don't count, until
    /// every SA has been used, so that caches hold what they would hold in a stream of such packets.
    pub(crate) fn measure(&mut self, windows: usize) -> Result<(), BenchError> {
        let warm_up = self.plan.sas.div_ceil(self.plan.packets_max);
        for point in &mut self.points {
            let Point { direction, size, .. } = *point;
            let order = Order { protection: Protection::Esp, direction, size, packets: self.plan.packets_max };
            for window in 0..warm_up + windows {
                let outcome = self.station.measure(order)?;
                if window >= warm_up {
                    point.protected.add(outcome.worker_ns);
                    outcome.aead_ns.into_iter().for_each(|ns| point.aead.add(ns));
                }
            }
            let order = Order { protection: Protection::Clear, ..order };
            for window in 0..1 + windows {
                let outcome = self.station.measure(order)?;
                if window >= 1 {
                    point.clear.add(outcome.worker_ns);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        self.points.iter().filter_map(|point| {
            Some(Row {
                case: self.case,
                engine: Some(self.plan.engine.to_string()),
                direction: match point.direction {
                    Direction::In => Way::In,
                    Direction::Out => Way::Out,
                    Direction::Both => Way::Both,
                },
                size_bytes: Some(point.size),
                sas: Some(self.plan.sas),
                connections: self.plan.connections,
                ns_per_packet: point.protected.best()?,
                ns_per_packet_median: point.protected.median()?,
                aead_ns: point.aead.best(),
                forward_ns: point.clear.best(),
            })
        })
    }
}
