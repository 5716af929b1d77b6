//! What a device and its driver can do, for an operator to read and for who decides what to leave to the hardware.
//!
//! Reported is more than used. A port spreads packets over its queues ([`crate::PortOptions::queues`]); checksums, ESP and the
//! steering of single SAs stay with the workers. Whoever wants to steer an SA's packets to its worker's queue finds here whether
//! the device takes such a rule ([`Capabilities::steers_by_spi`]).

use std::fmt;
use std::ptr;

use vipsec_dpdk_sys as sys;

use crate::netdev;

/// What a port can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// The driver's name.
    pub driver: String,
    /// Most receive queues.
    pub rx_queues_max: u16,
    /// Most transmit queues.
    pub tx_queues_max: u16,
    /// Largest IP packet that the driver takes, in bytes.
    pub mtu_max: u16,
    /// What it can look at when it spreads packets over receive queues; empty: it decides by itself, or has one queue.
    pub rss: Vec<Rss>,
    /// What it can take over of received packets.
    pub rx_offloads: Vec<Offload>,
    /// What it can take over of packets to send.
    pub tx_offloads: Vec<Offload>,
    /// The parts of ESP that it can do on the way.
    pub esp: Vec<InlineEsp>,
    /// Can it bring the ESP packets of a single SPI to a queue of choice?
    pub steers_by_spi: bool,
}

/// Fields by which packets are spread over queues, so that those of one flow stay together (receive side scaling).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rss {
    /// Source and destination address.
    Ip,
    /// Addresses and UDP ports.
    Udp,
    /// Addresses and TCP ports.
    Tcp,
    /// The SPI of ESP.
    Esp,
}

/// Work on each packet that a device can take over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    /// The checksum of the IPv4 header.
    Ipv4Checksum,
    /// UDP's.
    UdpChecksum,
    /// TCP's.
    TcpChecksum,
    /// Packets in several buffers.
    Segments,
    /// ESP, in part or as a whole: see [`Capabilities::esp`].
    Esp,
}

/// One kind of SA that a device processes on the way between wire and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InlineEsp {
    /// How much of ESP.
    pub part: EspPart,
    /// Tunnel mode; otherwise transport mode.
    pub tunnel: bool,
    /// For packets that arrive; otherwise for those that leave.
    pub inbound: bool,
    /// Extended sequence numbers.
    pub esn: bool,
    /// ESP in UDP.
    pub udp_encapsulation: bool,
    /// Largest anti-replay window in packets; 0: none.
    pub replay_window_max: u32,
}

/// How much of ESP a device does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EspPart {
    /// Cipher and ICV.
    Crypto,
    /// Everything.
    Protocol,
}

impl Capabilities {
    /// Asks a port.
    ///
    /// # Safety
    /// The port is attached and configured, and `info` is what the device said of itself.
    pub(crate) unsafe fn of(port: u16, info: &sys::rte_eth_dev_info) -> Self {
        // SAFETY: the driver's name is a static string of its plugin, which is never unloaded.
        let driver = unsafe { netdev::owned_text(info.driver_name) };
        // SAFETY: the port is configured.
        let (esp, steers_by_spi) = unsafe { (inline_esp(port), steers_by_spi(port)) };
        Self {
            driver,
            rx_queues_max: info.max_rx_queues,
            tx_queues_max: info.max_tx_queues,
            mtu_max: info.max_mtu,
            rss: RSS.iter().filter(|(flag, _)| info.flow_type_rss_offloads & flag != 0).map(|&(_, rss)| rss).collect(),
            rx_offloads: offloads(info.rx_offload_capa, &RX_OFFLOADS),
            tx_offloads: offloads(info.tx_offload_capa, &TX_OFFLOADS),
            esp,
            steers_by_spi,
        }
    }
}

/// All that a port is told to spread packets by, as far as its device can. UDP's and TCP's fragments go by their addresses alone.
pub(crate) const RSS: [(u64, Rss); 4] = [
    (sys::SHIM_RTE_ETH_RSS_IP, Rss::Ip),
    (sys::SHIM_RTE_ETH_RSS_UDP, Rss::Udp),
    (sys::SHIM_RTE_ETH_RSS_TCP, Rss::Tcp),
    (sys::SHIM_RTE_ETH_RSS_ESP, Rss::Esp),
];

const RX_OFFLOADS: [(u64, Offload); 5] = [
    (sys::SHIM_RTE_ETH_RX_OFFLOAD_IPV4_CKSUM, Offload::Ipv4Checksum),
    (sys::SHIM_RTE_ETH_RX_OFFLOAD_UDP_CKSUM, Offload::UdpChecksum),
    (sys::SHIM_RTE_ETH_RX_OFFLOAD_TCP_CKSUM, Offload::TcpChecksum),
    (sys::SHIM_RTE_ETH_RX_OFFLOAD_SCATTER, Offload::Segments),
    (sys::SHIM_RTE_ETH_RX_OFFLOAD_SECURITY, Offload::Esp),
];

const TX_OFFLOADS: [(u64, Offload); 5] = [
    (sys::SHIM_RTE_ETH_TX_OFFLOAD_IPV4_CKSUM, Offload::Ipv4Checksum),
    (sys::SHIM_RTE_ETH_TX_OFFLOAD_UDP_CKSUM, Offload::UdpChecksum),
    (sys::SHIM_RTE_ETH_TX_OFFLOAD_TCP_CKSUM, Offload::TcpChecksum),
    (sys::SHIM_RTE_ETH_TX_OFFLOAD_MULTI_SEGS, Offload::Segments),
    (sys::SHIM_RTE_ETH_TX_OFFLOAD_SECURITY, Offload::Esp),
];

fn offloads(has: u64, known: &[(u64, Offload)]) -> Vec<Offload> {
    known.iter().filter(|(flag, _)| has & flag != 0).map(|&(_, offload)| offload).collect()
}

/// # Safety
/// The port is attached.
unsafe fn inline_esp(port: u16) -> Vec<InlineEsp> {
    // SAFETY: the port is attached. A port without a security context answers null to the first question, and the second takes it.
    let capabilities = unsafe {
        let context = sys::rte_eth_dev_get_sec_ctx(port);
        if context.is_null() {
            return Vec::new();
        }
        sys::rte_security_capabilities_get(context.cast())
    };
    if capabilities.is_null() {
        return Vec::new();
    }
    // SAFETY: a static array of the driver's, that ends with an entry without an action.
    unsafe { inline_esp_in(capabilities) }
}

/// # Safety
/// `capability` is the first of an array that ends with an entry without an action.
unsafe fn inline_esp_in(mut capability: *const sys::rte_security_capability) -> Vec<InlineEsp> {
    let mut esp = Vec::new();
    loop {
        // SAFETY: not beyond the last entry.
        let entry = unsafe { &*capability };
        let part = match entry.action {
            sys::RTE_SECURITY_ACTION_TYPE_NONE => return esp,
            sys::RTE_SECURITY_ACTION_TYPE_INLINE_CRYPTO => Some(EspPart::Crypto),
            sys::RTE_SECURITY_ACTION_TYPE_INLINE_PROTOCOL => Some(EspPart::Protocol),
            _ => None,
        };
        if let Some(part) = part
            && entry.protocol == sys::RTE_SECURITY_PROTOCOL_IPSEC
        {
            // SAFETY: the member that belongs to this protocol.
            let ipsec = unsafe { &entry.__bindgen_anon_1.ipsec };
            if ipsec.proto == sys::RTE_SECURITY_IPSEC_SA_PROTO_ESP {
                esp.push(InlineEsp {
                    part,
                    tunnel: ipsec.mode == sys::RTE_SECURITY_IPSEC_SA_MODE_TUNNEL,
                    inbound: ipsec.direction == sys::RTE_SECURITY_IPSEC_SA_DIR_INGRESS,
                    esn: ipsec.options.esn() != 0,
                    udp_encapsulation: ipsec.options.udp_encap() != 0,
                    replay_window_max: ipsec.replay_win_sz_max,
                });
            }
        }
        // SAFETY: this wasn't the last entry.
        capability = unsafe { capability.add(1) };
    }
}

/// Would the device take a rule that brings an SPI's packets to a queue?
///
/// # Safety
/// The port is attached and configured.
unsafe fn steers_by_spi(port: u16) -> bool {
    // struct rte_flow_item_esp: SPI and sequence number as they stand in the packet (RFC 4303 §2).
    const SPI: [u8; 8] = [0, 0, 1, 0, 0, 0, 0, 0];
    const ALL_OF_THE_SPI: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    let item = |type_, spec: *const [u8; 8], mask: *const [u8; 8]| sys::rte_flow_item {
        type_,
        spec: spec.cast(),
        last: ptr::null(),
        mask: mask.cast(),
    };
    let any = |type_| item(type_, ptr::null(), ptr::null());
    let pattern = [
        any(sys::RTE_FLOW_ITEM_TYPE_ETH),
        any(sys::RTE_FLOW_ITEM_TYPE_IPV4),
        item(sys::RTE_FLOW_ITEM_TYPE_ESP, &SPI, &ALL_OF_THE_SPI),
        any(sys::RTE_FLOW_ITEM_TYPE_END),
    ];
    // struct rte_flow_action_queue: the queue's number.
    let first_queue = 0u16;
    let actions = [
        sys::rte_flow_action { type_: sys::RTE_FLOW_ACTION_TYPE_QUEUE, conf: (&raw const first_queue).cast() },
        sys::rte_flow_action { type_: sys::RTE_FLOW_ACTION_TYPE_END, conf: ptr::null() },
    ];
    // SAFETY: plain structs for which zeroes are valid.
    let (mut attributes, mut error): (sys::rte_flow_attr, sys::rte_flow_error) = unsafe { std::mem::zeroed() };
    attributes.set_ingress(1);
    // SAFETY: the port is configured; the rule is only looked at, and each list ends as DPDK wants it.
    unsafe { sys::rte_flow_validate(port, &attributes, pattern.as_ptr(), actions.as_ptr(), &mut error) == 0 }
}

impl fmt::Display for Rss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "IP addresses",
            Self::Udp => "UDP ports",
            Self::Tcp => "TCP ports",
            Self::Esp => "ESP SPI",
        })
    }
}

impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4Checksum => "IPv4 checksum",
            Self::UdpChecksum => "UDP checksum",
            Self::TcpChecksum => "TCP checksum",
            Self::Segments => "segments",
            Self::Esp => "ESP",
        })
    }
}

impl fmt::Display for InlineEsp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = match self.part {
            EspPart::Crypto => "crypto",
            EspPart::Protocol => "protocol",
        };
        let mode = if self.tunnel { "tunnel" } else { "transport" };
        let direction = if self.inbound { "in" } else { "out" };
        write!(f, "inline {part} {mode} {direction}")?;
        if self.esn {
            f.write_str(" ESN")?;
        }
        if self.udp_encapsulation {
            f.write_str(" UDP")?;
        }
        match self.replay_window_max {
            0 => Ok(()),
            window => write!(f, " window {window}"),
        }
    }
}

impl fmt::Display for Capabilities {
    /// A line per kind.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "driver              {}", self.driver)?;
        writeln!(f, "queues              {} receive, {} transmit", self.rx_queues_max, self.tx_queues_max)?;
        writeln!(f, "MTU                 up to {}", self.mtu_max)?;
        writeln!(f, "spreads packets by  {}", list(&self.rss))?;
        writeln!(f, "receive offloads    {}", list(&self.rx_offloads))?;
        writeln!(f, "transmit offloads   {}", list(&self.tx_offloads))?;
        writeln!(f, "ESP                 {}", list(&self.esp))?;
        write!(f, "steers by SPI       {}", if self.steers_by_spi { "yes" } else { "no" })
    }
}

fn list(items: &[impl fmt::Display]) -> String {
    if items.is_empty() {
        return "none".to_owned();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a driver describes itself: an entry per kind of SA, the last without an action.
    #[test]
    fn a_drivers_list_of_what_it_does_for_ipsec() {
        let entry = |action, protocol, direction| {
            // SAFETY: a plain struct for which zeroes are valid.
            let mut entry: sys::rte_security_capability = unsafe { std::mem::zeroed() };
            entry.action = action;
            entry.protocol = protocol;
            // SAFETY: all members of the union are plain numbers.
            let ipsec = unsafe { &mut entry.__bindgen_anon_1.ipsec };
            ipsec.proto = sys::RTE_SECURITY_IPSEC_SA_PROTO_ESP;
            ipsec.mode = sys::RTE_SECURITY_IPSEC_SA_MODE_TUNNEL;
            ipsec.direction = direction;
            ipsec.options.set_esn(1);
            ipsec.replay_win_sz_max = 1024;
            entry
        };
        let ipsec = sys::RTE_SECURITY_PROTOCOL_IPSEC;
        let inbound = sys::RTE_SECURITY_IPSEC_SA_DIR_INGRESS;
        let list = [
            entry(sys::RTE_SECURITY_ACTION_TYPE_LOOKASIDE_PROTOCOL, ipsec, inbound),
            entry(sys::RTE_SECURITY_ACTION_TYPE_INLINE_CRYPTO, sys::RTE_SECURITY_PROTOCOL_MACSEC, inbound),
            entry(sys::RTE_SECURITY_ACTION_TYPE_INLINE_CRYPTO, ipsec, sys::RTE_SECURITY_IPSEC_SA_DIR_EGRESS),
            entry(sys::RTE_SECURITY_ACTION_TYPE_INLINE_PROTOCOL, ipsec, inbound),
            entry(sys::RTE_SECURITY_ACTION_TYPE_NONE, ipsec, inbound),
            entry(sys::RTE_SECURITY_ACTION_TYPE_INLINE_PROTOCOL, ipsec, inbound),
        ];
        // SAFETY: the fifth ends the list.
        let esp = unsafe { inline_esp_in(list.as_ptr()) };
        let shown: Vec<_> = esp.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            ["inline crypto tunnel out ESN window 1024", "inline protocol tunnel in ESN window 1024"],
            "lookaside is no port's, MACsec no IPsec, and nothing counts after the end"
        );
    }
}
