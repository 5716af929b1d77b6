//! DPDK's environment, packet memory, the configured ports with a queue pair per worker where the device has so many, and the crypto
//! device.

use thiserror::Error;

use vipsec_hw::crypto::{CryptoDevice, CryptoError, CryptoOptions, CryptoQueue};
use vipsec_hw::{
    Eal, EalError, EalOptions, FewerQueues, Hugepages, MemoryBacking, Mempool, MempoolError, MempoolOptions, Port,
    PortError, PortOptions, QueuePair,
};
use vipsec_wire::crypto::Algorithm;
use vipsec_wire::ethernet::MacAddr;

use crate::api;
use crate::config::{self, Config, side_name};
use vipsec_dataplane::api::{PortId, Side, WorkerId};

/// Datagrams that can be in the works at once, and the largest, in bytes: an IKE message with certificates, a jumbo frame.
const LARGE_BUFFERS: u32 = 511;
const LARGE_BYTES: u16 = 12_288;

/// The data plane's hardware can't be had.
#[derive(Debug, Error)]
pub enum PortsError {
    /// DPDK's environment.
    #[error(transparent)]
    Eal(#[from] EalError),
    /// Packet memory.
    #[error(transparent)]
    Mempool(#[from] MempoolError),
    /// One port.
    #[error("port {name}: {source}")]
    Port {
        /// As configured.
        name: String,
        /// Why not.
        source: PortError,
    },
    /// The crypto device.
    #[error("crypto device: {0}")]
    Crypto(#[from] CryptoError),
    /// A child SA may ask the crypto device for what it doesn't do.
    #[error(
        "crypto device {device}: doesn't do {algorithm:?}, which {who} may use (processing = \"lookaside\"); leave the algorithm out of \
         its esp_proposals, or let the CPU process it"
    )]
    Algorithm {
        /// As configured.
        device: String,
        /// What it lacks.
        algorithm: Algorithm,
        /// Whose.
        who: String,
    },
}

/// Everything of DPDK that the process holds. Dropped by the thread that made it, last.
pub(super) struct Hardware {
    /// Order matters: devices go first, then memory, then the environment.
    pub(super) ports: Vec<Port>,
    pub(super) crypto: Option<CryptoDevice>,
    pub(super) pool: Mempool,
    /// For datagrams that arrive in fragments, put together.
    pub(super) large_pool: Mempool,
    pub(super) eal: Eal,
}

/// What a worker has of the devices.
#[derive(Default)]
pub(super) struct Share {
    /// Its own queue pairs.
    pub(super) queues: Vec<(PortId, QueuePair)>,
    /// Ports of which it has none, and the worker by whose its frames leave.
    pub(super) elsewhere: Vec<(PortId, WorkerId)>,
    /// Its queue pair of the crypto device, if there is one.
    pub(super) crypto: Option<CryptoQueue>,
}

impl Hardware {
    /// Starts the environment, every port and the crypto device. Returns each worker's share.
    pub(super) fn start(config: &Config, workers: usize) -> Result<(Self, Vec<Share>), PortsError> {
        let mut options = EalOptions::new(config.eal.file_prefix.clone());
        options.memory_mib = config.eal.memory_mib;
        options.hugepages = match config.eal.hugepages {
            config::Hugepages::Auto => Hugepages::Auto,
            config::Hugepages::Never => Hugepages::Never,
            config::Hugepages::Always => Hugepages::Always,
        };
        let eal = Eal::init(&options)?;
        let mut pool_options = MempoolOptions::new("packets");
        pool_options.buffers = config.packet_memory().buffers;
        let pool = Mempool::new(&eal, &pool_options)?;
        let mut large_options = MempoolOptions::new("datagrams");
        (large_options.buffers, large_options.room) = (LARGE_BUFFERS, LARGE_BYTES);
        let large_pool = Mempool::new(&eal, &large_options)?;
        let mut ports = Vec::new();
        let mut shares: Vec<Share> = (0..workers).map(|_| Share::default()).collect();
        for (number, port) in (0..).map(PortId).zip(&config.ports) {
            let options = PortOptions {
                queues: u16::try_from(workers).unwrap_or(u16::MAX),
                fewer_queues: FewerQueues::Accepted,
                mtu: port.mtu,
                mac: port.mac.map(MacAddr::octets),
                rx_descriptors: config::DESCRIPTORS,
                tx_descriptors: config::DESCRIPTORS,
            };
            let started = Port::start(&eal, &port.device, &pool, &options);
            let (started, queues) = started.map_err(|source| PortsError::Port { name: port.name.clone(), source })?;
            hint_at_queues(&port.name, &started, options.queues);
            ports.push(started);
            deal(number, queues, &mut shares);
        }
        let crypto = match &config.crypto_device {
            Some(configured) => {
                let (device, queues) = start_crypto(&eal, config, configured, workers)?;
                for (share, queue) in shares.iter_mut().zip(queues) {
                    share.crypto = Some(queue);
                }
                Some(device)
            }
            None => None,
        };
        Ok((Self { ports, crypto, pool, large_pool, eal }, shares))
    }

    /// The crypto device for the operator.
    pub(super) fn crypto_facts(&self, config: &Config) -> Option<api::CryptoDevice> {
        let (device, configured) = (self.crypto.as_ref()?, config.crypto_device.as_ref()?);
        let stats = device.stats();
        Some(api::CryptoDevice {
            device: configured.device.clone(),
            driver: device.driver().to_owned(),
            hardware: device.is_hardware(),
            jobs: stats.enqueued,
            jobs_done: stats.dequeued,
            errors: stats.enqueue_errors.saturating_add(stats.dequeue_errors),
        })
    }

    /// Does packet memory lie in hugepages?
    pub(super) fn in_hugepages(&self) -> bool {
        matches!(self.eal.memory_backing(), MemoryBacking::Hugepages)
    }

    /// How many queues read a capture that ends.
    pub(super) fn finite_inputs(&self) -> usize {
        self.ports.iter().filter(|port| port.input_is_finite()).map(|port| usize::from(port.queues())).sum()
    }

    /// Every link has a carrier. That to the own host counts not: other targets may serve when it is down.
    pub(super) fn links_up(&self, config: &Config) -> bool {
        let mut ports = self.ports.iter().zip(&config.ports);
        ports.all(|(port, configured)| configured.side == Side::Local || port.input_is_finite() || port.link().up)
    }

    /// The ports for the operator.
    pub(super) fn facts(&self, config: &Config) -> Vec<api::Port> {
        let facts = self.ports.iter().zip(&config.ports).map(|(port, configured)| {
            let stats = port.stats();
            api::Port {
                name: configured.name.clone(),
                side: side_name(configured.side).to_owned(),
                device: configured.device.clone(),
                mac: MacAddr(port.mac()).to_string(),
                link_up: port.link().up,
                rx_packets: stats.rx_packets,
                rx_bytes: stats.rx_bytes,
                rx_missed: stats.rx_missed + stats.rx_no_buffer,
                tx_packets: stats.tx_packets,
                tx_bytes: stats.tx_bytes,
                tx_errors: stats.tx_errors,
            }
        });
        facts.collect()
    }
}

fn start_crypto(
    eal: &Eal,
    config: &Config,
    configured: &config::CryptoDevice,
    workers: usize,
) -> Result<(CryptoDevice, Vec<CryptoQueue>), PortsError> {
    let options = CryptoOptions {
        queues: u16::try_from(workers).unwrap_or(u16::MAX),
        jobs_max: configured.jobs_max,
        // One to open with and one to seal with.
        sessions_max: configured.sas_max.saturating_mul(2),
    };
    let (device, queues) = CryptoDevice::start(eal, &configured.device, &options)?;
    match config.unsupported_by_device(&device.algorithms()) {
        Some((who, algorithm)) => Err(PortsError::Algorithm { device: configured.device.clone(), algorithm, who }),
        None => Ok((device, queues)),
    }
}

/// Gives the first workers a queue pair each; the others' frames leave by those in turn.
fn deal(port: PortId, queues: Vec<QueuePair>, shares: &mut [Share]) {
    let count = queues.len().max(1);
    let mut queues = queues.into_iter();
    for (number, share) in shares.iter_mut().enumerate() {
        match queues.next() {
            Some(queue) => share.queues.push((port, queue)),
            None => share.elsewhere.push((port, WorkerId((number % count) as u8))),
        }
    }
}

/// A device with fewer queue pairs than there are workers works, but the first workers take all its packets.
fn hint_at_queues(name: &str, port: &Port, wanted: u16) {
    let queues = port.queues();
    if queues < wanted {
        let write = port.argument_for_queues(wanted).map(|argument| format!(": write {argument} into its device"));
        tracing::warn!(port = name, queues, workers = wanted, "fewer queues than workers{}", write.unwrap_or_default());
    }
}
