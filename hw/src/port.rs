//! An Ethernet port: attached, configured and started at once, stopped and detached when the last handle goes.

use std::mem::MaybeUninit;
use std::sync::Arc;

use thiserror::Error;
use vipsec_dpdk_sys as sys;

use crate::capabilities::{Capabilities, RSS};
use crate::device::{Device, DeviceError, Ethernet};
use crate::eal::Eal;
use crate::errno::Errno;
use crate::mempool::Mempool;
use crate::netdev;
use crate::queue::QueuePair;
use crate::stats::{self, PortStats, QueueStats};

/// Ethernet header and one VLAN tag, in bytes.
const FRAME_OVERHEAD: u16 = 18;

/// How a port is set up.
#[derive(Debug, Clone)]
pub struct PortOptions {
    /// Receive and transmit queues: one pair per worker.
    pub queues: u16,
    /// What if the device has fewer?
    pub fewer_queues: FewerQueues,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// The MAC address that the device shall have; `None` leaves it as it is.
    pub mac: Option<[u8; 6]>,
    /// Descriptors of a receive queue, before the driver's own limits.
    pub rx_descriptors: u16,
    /// Descriptors of a transmit queue, before the driver's own limits.
    pub tx_descriptors: u16,
}

impl Default for PortOptions {
    fn default() -> Self {
        Self {
            queues: 1,
            fewer_queues: FewerQueues::Refused,
            mtu: 1500,
            mac: None,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
        }
    }
}

/// A device with fewer queue pairs than asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FewerQueues {
    /// Is an error.
    Refused,
    /// Starts with those that it has.
    Accepted,
}

/// The port doesn't start.
#[derive(Debug, Error)]
pub enum PortError {
    /// No device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The device has fewer queues.
    #[error("{device} has {available} queue pairs, {wanted} are wanted")]
    TooFewQueues {
        /// The device's name.
        device: String,
        /// Its own.
        available: u16,
        /// Asked for.
        wanted: u16,
    },
    /// The device would spread packets over queues that nobody reads.
    #[error("{device} receives on {available} queues and only {wanted} would be read: make its {argument}={wanted}")]
    UnreadQueues {
        /// The device's name.
        device: String,
        /// Its own.
        available: u16,
        /// Asked for.
        wanted: u16,
        /// What sets their number in the device string.
        argument: &'static str,
    },
    /// A full frame doesn't fit into a buffer.
    #[error("{device}: an MTU of {mtu} needs larger buffers than the pool's {room} bytes")]
    BuffersTooSmall {
        /// The device's name.
        device: String,
        /// Asked for, in bytes.
        mtu: u16,
        /// The pool's, in bytes.
        room: u16,
    },
    /// A step of the configuration failed.
    #[error("{device}: {step} failed: {errno}")]
    Setup {
        /// The device's name.
        device: String,
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        errno: Errno,
    },
}

/// A link's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Packets can leave.
    pub up: bool,
    /// In Mbit/s, as the driver says; 0 if it says nothing.
    pub speed_mbps: u32,
}

/// A started port, as the control core sees it. Its queues hold it, too: it stops when all of them and this are gone.
#[derive(Debug)]
pub struct Port {
    inner: Arc<PortInner>,
}

#[derive(Debug)]
pub(crate) struct PortInner {
    device: Device<Ethernet>,
    options: PortOptions,
    driver: String,
    /// The kernel's interface behind the device, 0 if there is none.
    if_index: u32,
    mac: [u8; 6],
    /// Receive queues allocate from it as long as they exist.
    pool: Mempool,
}

impl Port {
    /// Attaches the device of a DPDK device string (`net_af_packet0,iface=out0`), sets it up with `options.queues` queue pairs
    /// that receive into buffers of `pool`, and starts it. All frames are received, whatever their destination: virtual MACs and
    /// multicast groups need no further setup.
    pub fn start(
        eal: &Eal,
        device: &str,
        pool: &Mempool,
        options: &PortOptions,
    ) -> Result<(Self, Vec<QueuePair>), PortError> {
        let device = Device::attach(eal, device)?;
        let name = device.name.clone();
        let info = device_info(&device)?;
        // SAFETY: the driver's name is a static string of its plugin, which is never unloaded.
        let driver = unsafe { netdev::owned_text(info.driver_name) };

        let available = info.max_rx_queues.min(info.max_tx_queues);
        let wanted = match options.fewer_queues {
            FewerQueues::Refused => options.queues,
            FewerQueues::Accepted => options.queues.min(available).min(queues_without_asking(&driver)),
        };
        if wanted == 0 || wanted > available {
            return Err(PortError::TooFewQueues { device: name, available, wanted });
        }
        if let Some(argument) = queues_argument(&driver)
            && wanted < info.max_rx_queues
        {
            return Err(PortError::UnreadQueues { device: name, available: info.max_rx_queues, wanted, argument });
        }
        let room = pool.options().room;
        if options.mtu.saturating_add(FRAME_OVERHEAD) > room {
            return Err(PortError::BuffersTooSmall { device: name, mtu: options.mtu, room });
        }

        let options = PortOptions { queues: wanted, ..options.clone() };
        setup(&device, &info, pool, &options)?;
        // From here on, dropping `inner` stops the port.
        let mut inner = PortInner { device, options, driver, if_index: info.if_index, mac: [0; 6], pool: pool.clone() };
        inner.settle()?;
        let inner = Arc::new(inner);
        let queues = (0..wanted).map(|queue| QueuePair::new(inner.clone(), queue)).collect();
        tracing::info!(device = name, driver = inner.driver, mac = ?inner.mac, queues = wanted, "port started");
        Ok((Self { inner }, queues))
    }

    /// The device's name: the device string up to its first comma.
    pub fn name(&self) -> &str {
        &self.inner.device.name
    }

    /// How many queue pairs it has.
    pub fn queues(&self) -> u16 {
        self.inner.options.queues
    }

    /// What to write into the device string for that many queue pairs, if it is the string that decides.
    pub fn argument_for_queues(&self, queues: u16) -> Option<String> {
        queues_argument(&self.inner.driver).map(|argument| format!("{argument}={queues}"))
    }

    /// The driver's name.
    pub fn driver(&self) -> &str {
        &self.inner.driver
    }

    /// The device's MAC address.
    pub fn mac(&self) -> [u8; 6] {
        self.inner.mac
    }

    /// Largest IP packet, in bytes.
    pub fn mtu(&self) -> u16 {
        self.inner.options.mtu
    }

    /// Does its input end? So it is for a capture file; [`QueuePair::input_ended`] says when.
    pub fn input_is_finite(&self) -> bool {
        self.inner.input_is_finite()
    }

    /// The link now. Drivers on top of a kernel interface report it as up whatever happens, so there the kernel is asked, in the
    /// network namespace of the calling thread.
    pub fn link(&self) -> Link {
        let mut link = MaybeUninit::<sys::rte_eth_link>::zeroed();
        // SAFETY: the port is attached and `link` is the struct that the call fills; zeroes are valid if it doesn't.
        let link = unsafe {
            sys::rte_eth_link_get_nowait(self.inner.id(), link.as_mut_ptr());
            link.assume_init()
        };
        let carrier = self.inner.if_index == 0 || netdev::is_running(self.inner.if_index).unwrap_or(false);
        const UNKNOWN_MBPS: u32 = u32::MAX;
        Link {
            up: carrier && u32::from(link.link_status()) == sys::RTE_ETH_LINK_UP,
            speed_mbps: if link.link_speed == UNKNOWN_MBPS { 0 } else { link.link_speed },
        }
    }

    /// The counters now.
    pub fn stats(&self) -> PortStats {
        PortStats::from(&self.inner.raw_stats())
    }

    /// The counters of each queue pair now, of the first 16.
    pub fn queue_stats(&self) -> Vec<QueueStats> {
        stats::by_queue(&self.inner.raw_stats(), self.inner.options.queues)
    }

    /// Every counter that the driver has, under the driver's own name for it.
    pub fn driver_stats(&self) -> Vec<(String, u64)> {
        // SAFETY: the port is attached.
        unsafe { stats::read_all(self.inner.id()) }
    }

    /// What the device can do.
    pub fn capabilities(&self) -> Result<Capabilities, PortError> {
        let info = device_info(&self.inner.device)?;
        // SAFETY: the port is started.
        Ok(unsafe { Capabilities::of(self.inner.id(), &info) })
    }
}

/// How many queue pairs a device may be given whose other end was not asked: the rings of a memif are two processes' own agreement.
fn queues_without_asking(driver: &str) -> u16 {
    if driver == "net_memif" { 1 } else { u16::MAX }
}

/// The argument by which a device has receive queues that get their share of the packets whether anybody reads them or not.
fn queues_argument(driver: &str) -> Option<&'static str> {
    match driver {
        "net_af_packet" => Some("qpairs"),
        "net_af_xdp" => Some("queue_count"),
        _ => None,
    }
}

/// Configures the device and starts it.
fn setup(
    device: &Device<Ethernet>,
    info: &sys::rte_eth_dev_info,
    pool: &Mempool,
    options: &PortOptions,
) -> Result<(), PortError> {
    let port = device.id;
    let mut rx_descriptors = options.rx_descriptors;
    let mut tx_descriptors = options.tx_descriptors;
    // SAFETY: a plain struct for which zeroes mean DPDK's defaults.
    let mut configuration: sys::rte_eth_conf = unsafe { MaybeUninit::zeroed().assume_init() };
    configuration.rxmode.mtu = u32::from(options.mtu);
    let spread_by = RSS.iter().fold(0, |flags, (flag, _)| flags | flag) & info.flow_type_rss_offloads;
    if options.queues > 1 && spread_by != 0 {
        configuration.rxmode.mq_mode = sys::RTE_ETH_MQ_RX_RSS;
        configuration.rx_adv_conf.rss_conf.rss_hf = spread_by;
    }

    // SAFETY: for this and the following, the port is attached and not yet started, nobody else knows it, and the pointers are
    // to live structs that DPDK copies; the pool is held by `PortInner` as long as the port exists.
    let code = unsafe { sys::rte_eth_dev_configure(port, options.queues, options.queues, &configuration) };
    step(device, "configuring", code)?;
    // SAFETY: see above.
    let code = unsafe { sys::rte_eth_dev_adjust_nb_rx_tx_desc(port, &mut rx_descriptors, &mut tx_descriptors) };
    step(device, "choosing descriptors", code)?;
    const ANY_SOCKET: u32 = u32::MAX;
    for queue in 0..options.queues {
        // SAFETY: see above.
        let code = unsafe {
            sys::rte_eth_rx_queue_setup(port, queue, rx_descriptors, ANY_SOCKET, &info.default_rxconf, pool.as_ptr())
        };
        step(device, "setting up a receive queue", code)?;
        // SAFETY: see above.
        let code =
            unsafe { sys::rte_eth_tx_queue_setup(port, queue, tx_descriptors, ANY_SOCKET, &info.default_txconf) };
        step(device, "setting up a transmit queue", code)?;
    }
    // SAFETY: see above.
    step(device, "starting", unsafe { sys::rte_eth_dev_start(port) })
}

impl PortInner {
    /// Addresses and filters, which some drivers want only once they run. What a driver has no notion of (a ring has no MTU) it
    /// doesn't need either.
    fn settle(&mut self) -> Result<(), PortError> {
        let (port, device) = (self.device.id, &self.device);
        if let Some(bytes) = self.options.mac {
            let mut mac = sys::rte_ether_addr { addr_bytes: bytes };
            // SAFETY: the port is started; DPDK copies the address.
            let code = unsafe { sys::rte_eth_dev_default_mac_addr_set(port, &mut mac) };
            unless_unsupported(device, "setting the MAC address", code)?;
            self.mac = bytes;
        } else {
            let mut mac = sys::rte_ether_addr { addr_bytes: [0; 6] };
            // SAFETY: the port is started; the call fills `mac`.
            step(device, "reading the MAC address", unsafe { sys::rte_eth_macaddr_get(port, &mut mac) })?;
            self.mac = mac.addr_bytes;
        }
        // SAFETY: the port is started.
        unless_unsupported(device, "setting the MTU", unsafe { sys::rte_eth_dev_set_mtu(port, self.options.mtu) })?;
        // SAFETY: see above.
        unless_unsupported(device, "promiscuous mode", unsafe { sys::rte_eth_promiscuous_enable(port) })?;
        // SAFETY: see above.
        unless_unsupported(device, "receiving all multicasts", unsafe { sys::rte_eth_allmulticast_enable(port) })
    }

    pub(crate) fn id(&self) -> u16 {
        self.device.id
    }

    pub(crate) fn input_is_finite(&self) -> bool {
        self.device.input_is_finite
    }

    pub(crate) fn pool(&self) -> &Mempool {
        &self.pool
    }

    pub(crate) fn raw_stats(&self) -> sys::rte_eth_stats {
        // SAFETY: the port is attached.
        unsafe { stats::read(self.id()) }
    }
}

impl Drop for PortInner {
    fn drop(&mut self) {
        let port = self.id();
        // SAFETY: the queues hold this, too, so none of them is in use any more. The device goes with its field, afterwards.
        let result = unsafe {
            sys::rte_eth_promiscuous_disable(port);
            sys::rte_eth_allmulticast_disable(port);
            if self.driver == "net_ring" {
                // Its ring outlives it and would hand these buffers to the next device of the name.
                QueuePair::drain(port, self.options.queues);
            }
            sys::rte_eth_dev_stop(port)
        };
        if let Err(error) = Errno::check(result) {
            tracing::warn!(device = self.device.name, %error, "the port can't be stopped");
        }
    }
}

fn device_info(device: &Device<Ethernet>) -> Result<sys::rte_eth_dev_info, PortError> {
    let mut info = MaybeUninit::<sys::rte_eth_dev_info>::zeroed();
    // SAFETY: the port is attached and `info` is the struct that the call fills; zeroes are valid if it doesn't.
    let (code, info) = unsafe { (sys::rte_eth_dev_info_get(device.id, info.as_mut_ptr()), info.assume_init()) };
    step(device, "asking what the device can do", code)?;
    Ok(info)
}

fn step(device: &Device<Ethernet>, step: &'static str, code: i32) -> Result<(), PortError> {
    match Errno::check(code) {
        Ok(_) => Ok(()),
        Err(errno) => Err(PortError::Setup { device: device.name.clone(), step, errno }),
    }
}

fn unless_unsupported(device: &Device<Ethernet>, what: &'static str, code: i32) -> Result<(), PortError> {
    match Errno::check(code) {
        Err(Errno(libc::ENOTSUP)) => {
            tracing::debug!(device = device.name, what, "the driver knows nothing of it");
            Ok(())
        }
        _ => step(device, what, code),
    }
}
