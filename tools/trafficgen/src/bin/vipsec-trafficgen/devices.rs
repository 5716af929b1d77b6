//! DPDK: the environment, packet memory, the ports, and the captures that are read and written as ports.

use std::path::{Path, PathBuf};

use thiserror::Error;
use vipsec_hw::{
    Eal, EalError, EalOptions, Hugepages, Mbuf, Mempool, MempoolError, MempoolOptions, Port, PortError, PortOptions,
    QueuePair,
};
use vipsec_wire::buffer::{Burst, PacketBuf, PortIo};

use crate::args::Arguments;

/// Ethernet header and FCS, in bytes: what an MTU leaves out of a packet's size.
const FRAME_OVERHEAD: u16 = 18;
/// Room of a buffer behind the longest packet, in bytes: for ESP's trailer and VLAN tags.
const EXTRA_ROOM: u16 = 256;

/// No devices.
#[derive(Debug, Error)]
pub(crate) enum DevicesError {
    #[error(transparent)]
    Eal(#[from] EalError),
    #[error("{0}: try more memory (-m) or fewer mbufs (--total-num-mbufs)")]
    Mempool(#[from] MempoolError),
    #[error("port {0}: {1}")]
    Port(usize, PortError),
    #[error("capture {}: {error}", path.display())]
    Capture { path: PathBuf, error: PortError },
    #[error("capture {}: its name must not have a comma, which separates a device's arguments", .0.display())]
    Comma(PathBuf),
    #[error("there are one or two ports, not {0} (--vdev)")]
    HowMany(usize),
}

/// Everything of DPDK that the process holds. What was made last goes first.
pub(crate) struct Devices {
    pub(crate) queues: Vec<QueuePair>,
    pub(crate) replay: Option<QueuePair>,
    pub(crate) record_rx: Option<Recorder>,
    pub(crate) record_tx: Option<Recorder>,
    pub(crate) ports: Vec<Port>,
    pub(crate) pool: Mempool,
    pub(crate) mtu: usize,
}

impl Devices {
    pub(crate) fn start(arguments: &Arguments) -> Result<Self, DevicesError> {
        let devices = &arguments.eal.vdev;
        if !(1..=2).contains(&devices.len()) {
            return Err(DevicesError::HowMany(devices.len()));
        }
        let prefix = arguments.eal.file_prefix.clone();
        let prefix = prefix.unwrap_or_else(|| format!("trafficgen-{}", std::process::id()));
        let eal = Eal::init(&EalOptions {
            memory_mib: arguments.eal.memory_mib,
            hugepages: if arguments.eal.no_huge { Hugepages::Never } else { Hugepages::Auto },
            ..EalOptions::new(prefix)
        })?;
        let mtu = arguments.port.max_pkt_len - FRAME_OVERHEAD;
        let options = PortOptions { mtu, ..PortOptions::default() };
        let room = (arguments.port.max_pkt_len + EXTRA_ROOM).next_multiple_of(64).max(2048);
        let buffers = arguments.port.total_num_mbufs;
        let pool = Mempool::new(&eal, &MempoolOptions { buffers, room, ..MempoolOptions::new("packets") })?;
        let (mut ports, mut queues) = (Vec::new(), Vec::new());
        for (number, device) in devices.iter().enumerate() {
            let started = Port::start(&eal, device, &pool, &options);
            let (port, queue) = started.map_err(|error| DevicesError::Port(number, error))?;
            ports.push(port);
            queues.extend(queue);
        }
        let capture = |number: usize, path: &Path, key: &str, more: &str| {
            if path.to_string_lossy().contains(',') {
                return Err(DevicesError::Comma(path.to_owned()));
            }
            // Numbers that no sensible command line uses for its own ports.
            let device = format!("net_pcap9{number},{key}={}{more}", path.display());
            let started = Port::start(&eal, &device, &pool, &options);
            let (_, queues) = started.map_err(|error| DevicesError::Capture { path: path.to_owned(), error })?;
            Ok(queues.into_iter().next())
        };
        let recorder = |number, path: &Option<PathBuf>| match path {
            Some(path) => {
                Ok(capture(number, path, "tx_pcap", "")?.map(|queue| Recorder { queue, pool: pool.clone(), lost: 0 }))
            }
            None => Ok::<_, DevicesError>(None),
        };
        let again = if arguments.capture.replay_loop { ",infinite_rx=1" } else { "" };
        Ok(Self {
            replay: match &arguments.capture.replay {
                Some(path) => capture(0, path, "rx_pcap", again)?,
                None => None,
            },
            record_rx: recorder(1, &arguments.capture.record_rx)?,
            record_tx: recorder(2, &arguments.capture.record_tx)?,
            queues,
            ports,
            mtu: usize::from(mtu),
            pool,
        })
    }

    /// Has every port's input come to its end?
    pub(crate) fn inputs_ended(&self) -> bool {
        self.queues.iter().all(QueuePair::input_ended)
    }
}

/// Writes copies of frames to a capture.
pub(crate) struct Recorder {
    queue: QueuePair,
    pool: Mempool,
    /// Frames that found no buffer, or that the capture didn't take.
    pub(crate) lost: u64,
}

impl Recorder {
    /// Copies of these frames.
    pub(crate) fn copy(&mut self, frames: &Burst<Mbuf>) -> Burst<Mbuf> {
        let copy = |frame: &Mbuf| {
            let mut copy = self.pool.alloc()?;
            copy.append(frame.data().len()).ok()?;
            copy.data_mut().copy_from_slice(frame.data());
            Some(copy)
        };
        let copies: Burst<Mbuf> = frames.iter().filter_map(copy).collect();
        self.lost += (frames.len() - copies.len()) as u64;
        copies
    }

    /// Writes copies.
    pub(crate) fn write(&mut self, mut copies: Burst<Mbuf>) {
        self.queue.transmit(&mut copies);
        self.lost += copies.len() as u64;
    }
}
