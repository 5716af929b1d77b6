//! Who is where in the lab, and the namespaces, bridges and links that make it so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vipsec_control::config::virtual_mac;

use crate::command::{self, HOUSEKEEPING_LIMIT};
use crate::error::Result;
use crate::etcd::ETCD;
use crate::fleet::FleetPlan;
use crate::netns::Namespace;
use crate::supervisor::Run;

/// The virtual IP: end of the tunnels and address of the services.
pub const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Where the targets send their replies; moves with the VIP.
pub const INSIDE_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
/// The same over IPv6, where the plan has it.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);
/// Moves with [`VIP6`].
pub const INSIDE_GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1);

/// The VIPs' and the inside gateways' MAC addresses, which vipsecd derives from the addresses.
pub fn virtual_macs() -> [[u8; 6]; 4] {
    let addresses: [IpAddr; 4] = [VIP.into(), INSIDE_GATEWAY.into(), VIP6.into(), INSIDE_GATEWAY6.into()];
    addresses.map(|address| virtual_mac(address).octets())
}

/// A second virtual IP, where the plan has one.
pub const SECOND_VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Moves with the second VIP.
pub const SECOND_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
/// The networks behind tunnels to the second VIP.
pub const SECOND_INNER_NETWORK: &str = "10.10.0.0/16";

/// The networks behind the remote peers.
pub const INNER_NETWORK: &str = "10.9.0.0/16";
/// Those of IPv6.
pub const INNER_NETWORK6: &str = "fd09::/16";

/// A remote peer: a namespace on the outside that runs charon and the clients.
#[derive(Debug, Clone)]
pub struct PeerPlan {
    /// Short name, as in `p0`.
    pub name: String,
    /// Its address outside.
    pub outside: Ipv4Addr,
    /// The other one, where the plan has IPv6.
    pub outside6: Ipv6Addr,
    /// Its tunnels; at least one.
    pub tunnels: Vec<TunnelPlan>,
}

/// A tunnel of a remote peer, which is a branch by itself as far as IKE can tell.
#[derive(Debug, Clone)]
pub struct TunnelPlan {
    /// The VIP that it ends on.
    pub vip: IpAddr,
    /// Its connection, by name.
    pub connection: String,
    /// Its IKE identity.
    pub identity: String,
    /// The address behind its end.
    pub inner: IpAddr,
    /// The network behind its end.
    pub inner_network: String,
}

/// A target: a namespace on the inside that has the VIP on its loopback.
#[derive(Debug, Clone)]
pub struct TargetPlan {
    /// Short name, as in `t1`.
    pub name: String,
    /// Its address inside.
    pub inside: Ipv4Addr,
    /// The other one, where the plan has IPv6.
    pub inside6: Ipv6Addr,
}

/// An appliance: a namespace on both sides, its interfaces without addresses of the kernel's.
#[derive(Debug, Clone)]
pub struct AppliancePlan {
    /// Short name, as in `a`.
    pub name: String,
    /// Its id in the group.
    pub id: u8,
    /// Its own address outside (in vipsecd's configuration only).
    pub outside: Ipv4Addr,
    /// Its own address inside (likewise).
    pub inside: Ipv4Addr,
    /// The same of IPv6, where the plan has it: outside, and inside.
    pub own6: [Ipv6Addr; 2],
    /// Its host's own inside, by which that reaches the targets' agents, where there are some.
    pub host: Ipv4Addr,
    /// Its host's address on the network that carries the store, if there is one.
    pub store: Ipv4Addr,
}

/// How many of each.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The remote peers.
    pub peers: Vec<PeerPlan>,
    /// The targets.
    pub targets: Vec<TargetPlan>,
    /// The appliances.
    pub appliances: Vec<AppliancePlan>,
    /// There is a second VIP, which the second appliance is to own first.
    pub second_vip: bool,
    /// There is an IPv6 VIP beside the first one, which moves with it.
    pub ipv6: bool,
    /// Each appliance's own host is a target, too, by the appliance's name and inside address.
    pub local_targets: bool,
    /// On each target runs an agent that is told who owns a VIP.
    pub target_agents: bool,
    /// Services choose their targets in turns, and not by a hash that every appliance computes alike.
    pub in_turns: bool,
    /// The appliances are two hosts: their store link crosses a network of its own. Otherwise it is memory of one host.
    pub store_network: bool,
    /// An etcd on that network decides over ownership.
    pub registry: bool,
    /// Thousands of initiators call as well.
    pub fleet: Option<FleetPlan>,
}

impl Plan {
    /// A plan with that many remote peers, targets and appliances: a peer's addresses end in 100+n, a target's in 21+n, an
    /// appliance's in 11+n.
    pub fn new(peers: u8, targets: u8, appliances: u8) -> Self {
        let peer = |n: u8| PeerPlan {
            name: format!("p{n}"),
            outside: Ipv4Addr::new(192, 0, 2, 100 + n),
            outside6: outside6(100 + n),
            tunnels: vec![TunnelPlan {
                vip: VIP.into(),
                connection: if n == 0 { "branch".to_owned() } else { format!("branch{n}") },
                identity: if n == 0 { "branch.example".to_owned() } else { format!("branch{n}.example") },
                inner: Ipv4Addr::new(10, 9, n, 1).into(),
                inner_network: format!("10.9.{n}.0/24"),
            }],
        };
        let target = |n: u8| TargetPlan {
            name: format!("t{}", n + 1),
            inside: Ipv4Addr::new(10, 1, 0, 21 + n),
            inside6: inside6(21 + n),
        };
        let appliance = |n: u8| AppliancePlan {
            name: char::from(b'a' + n).to_string(),
            id: n + 1,
            outside: Ipv4Addr::new(192, 0, 2, 11 + n),
            inside: Ipv4Addr::new(10, 1, 0, 11 + n),
            own6: [outside6(11 + n), inside6(11 + n)],
            host: Ipv4Addr::new(10, 1, 0, 111 + n),
            store: Ipv4Addr::new(10, 255, 0, 11 + n),
        };
        Self {
            peers: (0..peers.min(50)).map(peer).collect(),
            targets: (0..targets.min(50)).map(target).collect(),
            appliances: (0..appliances.min(8)).map(appliance).collect(),
            second_vip: false,
            ipv6: false,
            local_targets: false,
            target_agents: false,
            in_turns: false,
            store_network: false,
            registry: false,
            fleet: None,
        }
    }

    /// Two VIPs, and one remote peer with a tunnel to each.
    pub fn with_two_vips(appliances: u8) -> Self {
        let mut plan = Self { second_vip: true, ..Self::new(1, 2, appliances) };
        for peer in &mut plan.peers {
            peer.tunnels.push(TunnelPlan {
                vip: SECOND_VIP.into(),
                connection: "mail".to_owned(),
                identity: "mail.example".to_owned(),
                inner: Ipv4Addr::new(10, 10, 0, 1).into(),
                inner_network: "10.10.0.0/24".to_owned(),
            });
        }
        plan
    }

    /// One remote peer with that many tunnels, each with an identity and an inner address of its own; two targets.
    pub fn with_tunnels(tunnels: u8, appliances: u8) -> Self {
        let mut plan = Self::new(1, 2, appliances);
        let tunnel = |n: u8| {
            let inner = Ipv4Addr::new(10, 9, 0, n);
            TunnelPlan {
                vip: VIP.into(),
                connection: format!("branch{n}"),
                identity: format!("branch{n}.example"),
                inner: inner.into(),
                inner_network: format!("{inner}/32"),
            }
        };
        for peer in &mut plan.peers {
            peer.tunnels = (1..=tunnels.clamp(1, 250)).map(tunnel).collect();
        }
        plan
    }

    /// One remote peer with a tunnel over IPv6 to the IPv6 VIP, which comes first, and one over IPv4 to the other VIP.
    pub fn with_ipv6(appliances: u8) -> Self {
        let mut plan = Self { ipv6: true, ..Self::new(1, 2, appliances) };
        for peer in &mut plan.peers {
            peer.tunnels.insert(
                0,
                TunnelPlan {
                    vip: VIP6.into(),
                    connection: "branch6".to_owned(),
                    identity: "branch6.example".to_owned(),
                    inner: Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1).into(),
                    inner_network: "fd09::/64".to_owned(),
                },
            );
        }
        plan
    }

    /// The VIPs that targets have.
    pub fn vips(&self) -> Vec<IpAddr> {
        let of_ipv6 = self.ipv6.then_some(IpAddr::from(VIP6));
        [VIP.into(), SECOND_VIP.into()].into_iter().chain(of_ipv6).collect()
    }

    /// Three appliances on hosts of their own, among whom etcd decides; one remote peer with one tunnel, two targets.
    pub fn with_registry() -> Self {
        Self { store_network: true, registry: true, ..Self::new(1, 2, 3) }
    }

    /// All tunnels of all remote peers.
    pub fn tunnels(&self) -> impl Iterator<Item = &TunnelPlan> {
        self.peers.iter().flat_map(|peer| &peer.tunnels)
    }
}

/// A network of the switch that appliances have a link to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Where the remote peers are.
    Outside,
    /// Where the targets are.
    Inside,
    /// What carries the store, where appliances are on two hosts.
    Store,
}

impl Network {
    /// The switch's port to an appliance's interface on it.
    pub fn port(self, appliance: &AppliancePlan) -> String {
        let suffix = match self {
            Self::Outside => "out",
            Self::Inside => "in",
            Self::Store => "store",
        };
        format!("{}-{suffix}", appliance.name)
    }
}

impl PeerPlan {
    /// Where it calls that VIP from.
    pub const fn address_for(&self, vip: IpAddr) -> IpAddr {
        match vip {
            IpAddr::V4(_) => IpAddr::V4(self.outside),
            IpAddr::V6(_) => IpAddr::V6(self.outside6),
        }
    }
}

impl TunnelPlan {
    /// The VIP as a prefix.
    pub fn vip_prefix(&self) -> String {
        prefix_of(self.vip)
    }
}

/// An address as a prefix of its own.
fn prefix_of(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

const fn outside6(n: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, n as u16)
}

const fn inside6(n: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, n as u16)
}

/// The namespaces, wired up.
#[derive(Debug)]
pub struct Topology {
    /// The namespace with the two bridges.
    pub switch: Namespace,
    /// One per remote peer.
    pub peers: Vec<Namespace>,
    /// One per target.
    pub targets: Vec<Namespace>,
    /// One per appliance.
    pub appliances: Vec<Namespace>,
    /// For etcd, where it decides.
    pub registry: Option<Namespace>,
    /// For the initiators, if there are any.
    pub fleet: Option<Namespace>,
}

/// A link from the switch to a host.
struct Link<'a> {
    bridge: &'a str,
    /// Its end at the switch.
    port: String,
    host: &'a Namespace,
    /// Its end at the host.
    interface: &'a str,
    /// The host's MAC address.
    mac: String,
}

impl Topology {
    /// Builds what `plan` says.
    pub fn build(run: &Run, plan: &Plan) -> Result<Self> {
        let host = |name: &str| quiet_host(&run.name_of(name));
        let topology = Self {
            switch: host("sw")?,
            peers: plan.peers.iter().map(|peer| host(&peer.name)).collect::<Result<_>>()?,
            targets: plan.targets.iter().map(|target| host(&target.name)).collect::<Result<_>>()?,
            appliances: plan.appliances.iter().map(|appliance| host(&appliance.name)).collect::<Result<_>>()?,
            registry: plan.registry.then(|| host("etcd")).transpose()?,
            fleet: plan.fleet.as_ref().map(|_| host("fleet")).transpose()?,
        };
        topology.switch.ip(&[
            "link add outside type bridge stp_state 0",
            "link add inside type bridge stp_state 0",
            "link add store type bridge stp_state 0",
            "link set outside up",
            "link set inside up",
            "link set store up",
        ])?;
        topology.wire(plan)?;
        topology.address(plan)?;
        Ok(topology)
    }

    fn wire(&self, plan: &Plan) -> Result<()> {
        for (n, (peer, host)) in plan.peers.iter().zip(&self.peers).enumerate() {
            let mac = format!("02:00:00:00:02:{n:02x}");
            self.connect(&Link {
                bridge: "outside",
                port: format!("{}-out", peer.name),
                host,
                interface: "out0",
                mac,
            })?;
        }
        for (n, (target, host)) in plan.targets.iter().zip(&self.targets).enumerate() {
            let mac = format!("02:00:00:00:03:{n:02x}");
            self.connect(&Link { bridge: "inside", port: format!("{}-in", target.name), host, interface: "in0", mac })?;
        }
        if let Some(host) = &self.fleet {
            let (port, mac) = ("fleet-out".to_owned(), "02:00:00:00:05:00".to_owned());
            self.connect(&Link { bridge: "outside", port, host, interface: "out0", mac })?;
        }
        if let Some(host) = &self.registry {
            let (port, mac) = ("etcd-store".to_owned(), "02:00:00:00:04:00".to_owned());
            self.connect(&Link { bridge: "store", port, host, interface: "store0", mac })?;
            host.ip(&[format!("address add {ETCD}/24 dev store0")])?;
        }
        for (appliance, host) in plan.appliances.iter().zip(&self.appliances) {
            let port = Network::Outside.port(appliance);
            let mac = format!("02:00:00:01:{:02x}:00", appliance.id);
            self.connect(&Link { bridge: "outside", port, host, interface: "out0", mac })?;
            let port = Network::Inside.port(appliance);
            let mac = format!("02:00:00:01:{:02x}:01", appliance.id);
            self.connect(&Link { bridge: "inside", port, host, interface: "in0", mac })?;
            if plan.store_network {
                let mac = format!("02:00:00:01:{:02x}:02", appliance.id);
                let port = Network::Store.port(appliance);
                self.connect(&Link { bridge: "store", port, host, interface: "store0", mac })?;
                host.ip(&[format!("address add {}/24 dev store0", appliance.store)])?;
            }
        }
        Ok(())
    }

    fn connect(&self, link: &Link) -> Result<()> {
        let Link { bridge, port, host, interface, mac } = link;
        let namespace = host.name();
        self.switch.ip(&[
            format!("link add {port} type veth peer name {interface} address {mac} netns {namespace}"),
            format!("link set {port} master {bridge} up"),
        ])?;
        host.ip(&[format!("link set {interface} up")])?;
        // Frames of a user-space data plane must carry their checksums, and be no longer than the wire's MTU.
        let mut ethtool = command::command("ethtool")?;
        ethtool.args(["-K", interface, "rx", "off", "tx", "off", "tso", "off", "gso", "off", "gro", "off"]);
        host.run(|| command::run(ethtool, HOUSEKEEPING_LIMIT))?;
        Ok(())
    }

    fn address(&self, plan: &Plan) -> Result<()> {
        if plan.ipv6 {
            self.address_ipv6(plan)?;
        }
        for (peer, host) in plan.peers.iter().zip(&self.peers) {
            let inner = peer.tunnels.iter().map(|tunnel| format!("address add {} dev lo", prefix_of(tunnel.inner)));
            let lines: Vec<_> =
                std::iter::once(format!("address add {}/24 dev out0", peer.outside)).chain(inner).collect();
            host.ip(&lines)?;
        }
        if let (Some(fleet), Some(host)) = (&plan.fleet, &self.fleet) {
            host.ip(&[format!("address add {}/24 dev out0", fleet.host)])?;
            fleet.settle(host)?;
        }
        if plan.target_agents {
            for (appliance, host) in plan.appliances.iter().zip(&self.appliances) {
                host.ip(&[format!("address add {}/24 dev in0", appliance.host)])?;
            }
        }
        for (target, host) in plan.targets.iter().zip(&self.targets) {
            // The VIP is an address of the appliance's: a target takes packets for it and answers no ARP for it.
            host.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
            host.sysctl("net/ipv4/conf/all/arp_announce", "2")?;
            host.ip(&[
                format!("address add {}/24 dev in0", target.inside),
                format!("address add {VIP}/32 dev lo"),
                format!("address add {SECOND_VIP}/32 dev lo"),
                format!("route add {INNER_NETWORK} via {INSIDE_GATEWAY}"),
                format!("route add {SECOND_INNER_NETWORK} via {SECOND_GATEWAY}"),
            ])?;
            if let Some(fleet) = &plan.fleet {
                host.ip(&[format!("route add {} via {INSIDE_GATEWAY}", fleet.inner_network)])?;
            }
        }
        Ok(())
    }
}

impl Topology {
    /// Before addresses of a tunnel are: those of IPv6 are refused until it is there.
    fn address_ipv6(&self, plan: &Plan) -> Result<()> {
        for host in self.peers.iter().chain(&self.targets) {
            for setting in ["all/disable_ipv6", "default/disable_ipv6", "all/accept_dad", "default/accept_dad"] {
                host.sysctl(&format!("net/ipv6/conf/{setting}"), "0")?;
            }
        }
        for (peer, host) in plan.peers.iter().zip(&self.peers) {
            host.ip(&[format!("address add {}/64 dev out0 nodad", peer.outside6)])?;
        }
        for (target, host) in plan.targets.iter().zip(&self.targets) {
            host.ip(&[
                format!("address add {}/64 dev in0 nodad", target.inside6),
                format!("address add {VIP6}/128 dev lo nodad"),
                format!("route add {INNER_NETWORK6} via {INSIDE_GATEWAY6}"),
            ])?;
        }
        Ok(())
    }
}

/// The interface behind an appliance's port to its own host.
pub const LOCAL_INTERFACE: &str = "vip0";

/// Makes an appliance's own host a target, as docs/targets.md says: after each start of vipsecd, which makes the interface.
pub fn prepare_local_target(host: &Namespace) -> Result<()> {
    host.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
    let link = format!("link set {LOCAL_INTERFACE}");
    host.ip(&[
        format!("{link} arp off addrgenmode none"),
        format!("{link} up"),
        format!("address add {VIP}/32 dev {LOCAL_INTERFACE}"),
        format!("address add {SECOND_VIP}/32 dev {LOCAL_INTERFACE}"),
        format!("route add {INNER_NETWORK} dev {LOCAL_INTERFACE} src {VIP}"),
    ])
}

/// A namespace whose interfaces take packets whatever their source.
fn quiet_host(name: &str) -> Result<Namespace> {
    let host = Namespace::create(name)?;
    for scope in ["all", "default"] {
        host.sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0")?;
        host.sysctl(&format!("net/ipv4/conf/{scope}/accept_redirects"), "0")?;
        host.sysctl(&format!("net/ipv4/conf/{scope}/send_redirects"), "0")?;
    }
    Ok(host)
}
