//! A digest of what two appliances have to agree on before one may take over from the other.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256, digest};
use vipsec_dataplane::api::PolicyAction;
use vipsec_distribute::service::{Forwarding, Method};
use vipsec_esp::sa::{DfPolicy, DscpPolicy, EcnPolicy, Lifetime};
use vipsec_ike::{
    AddressPool, ChildPolicy, ConnectionPolicy, Encapsulation, Fragmentation, Identity, IdentityMatch, Mode, Pairs,
    Unique,
};
use vipsec_takeover::timing::Timing;

use super::model::{
    ChildOptions, Config, Floating, Lanes, Peer, Policy, Service, ServiceProtocol, StartAction, TakeoverPolicy, Target,
};
use super::service::{accepts_name, method_name};

/// A part of the configuration: what an operator calls it, and what of it goes into a digest.
type Section = (&'static str, fn(&Config, &mut Canonical));

/// In the order in which they go into the digest of the whole.
const SECTIONS: [Section; 5] = [
    ("appliances and takeover", Config::write_appliances),
    ("VIPs", Config::write_vips),
    ("services and targets", Config::write_services),
    ("policies", Config::write_policies),
    ("connections", Config::write_connections),
];

/// SHA-256 over VIPs, targets, services, connections, and what the pair does on a takeover.
///
/// Left out is what may differ between appliances: which of the two ids is whose, name, ports and their addresses, routes, memory,
/// crypto devices, sockets, logging, health checks. Secrets go in as hashes of their own (the pair's own proves itself when the two meet); still, a weak one
/// could be guessed from the digest, so show it to nobody but the peer appliance.
///
/// Two releases that read the same file have to come to the same digest: what a later one can say goes in only where it is said.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConfigDigest([u8; 32]);

impl ConfigDigest {
    /// The digest's bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ConfigDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConfigDigest(..)")
    }
}

impl Config {
    /// The digest of what a peer appliance has to agree with. The order of services has no meaning and doesn't matter, that of a
    /// service's targets only with a hot standby. That of VIPs does: the appliances' messages name a VIP by its place. So does that of connections, children,
    /// proposals and selectors: the first that fits is taken.
    pub fn digest(&self) -> ConfigDigest {
        let mut canonical = Canonical(Context::new(&SHA256));
        canonical.bytes(b"vipsec configuration 4");
        SECTIONS.iter().for_each(|(_, write)| write(self, &mut canonical));
        ConfigDigest(canonical.finish())
    }

    /// Names of the configuration's parts, and a digest of each: by these the two find out in what they differ. As secret as the digest
    /// of the whole.
    pub fn sections(&self) -> Vec<(&'static str, u64)> {
        let digest = |(name, write): &Section| {
            let mut canonical = Canonical(Context::new(&SHA256));
            canonical.bytes(name.as_bytes());
            write(self, &mut canonical);
            let [a, b, c, d, e, f, g, h, ..] = canonical.finish();
            (*name, u64::from_be_bytes([a, b, c, d, e, f, g, h]))
        };
        SECTIONS.iter().map(digest).collect()
    }

    fn write_appliances(&self, canonical: &mut Canonical) {
        let mut ids: Vec<_> = self.peers.iter().map(|peer| peer.id).chain([self.appliance.id]).collect();
        ids.sort();
        canonical.list(&ids, Canonical::text);
        canonical.list(self.shared().as_slice(), |canonical, peer| canonical.takeover(peer));
        canonical.list(self.etcd.as_slice(), |canonical, etcd| canonical.text(&etcd.prefix));
    }

    fn write_vips(&self, canonical: &mut Canonical) {
        canonical.list(&self.vips, |canonical, vip| {
            canonical.text(&vip.name);
            canonical.floating(&vip.floating);
            canonical.list(&vip.gateways, Canonical::floating);
            canonical.number(vip.group.into());
        });
        canonical.list(&self.groups, |canonical, group| {
            canonical.text(&group.name);
            canonical.list(&group.ranks(), Canonical::text);
        });
    }

    fn write_services(&self, canonical: &mut Canonical) {
        let mut services: Vec<_> = self.services.iter().collect();
        services.sort_by_key(|service| (service.vip, service.protocol, service.port));
        canonical.list(&services, |canonical, service| self.service(canonical, service));
    }

    fn write_policies(&self, canonical: &mut Canonical) {
        canonical.list(&self.policies, Canonical::policy);
    }

    fn write_connections(&self, canonical: &mut Canonical) {
        canonical.list(&self.connections, |canonical, connection| canonical.connection(connection));
        for options in self.child_options.values().flat_map(BTreeMap::values) {
            canonical.child_options(options);
        }
    }

    fn service(&self, canonical: &mut Canonical, service: &Service) {
        canonical.number(service.vip.into());
        canonical.number(match service.protocol {
            ServiceProtocol::Tcp => 6,
            ServiceProtocol::Udp => 17,
            ServiceProtocol::Any => 256,
        });
        canonical.number(service.port.unwrap_or(0).into());
        let targets = service.targets.iter().filter_map(|index| self.targets.get(*index));
        let mut targets: Vec<_> = targets.map(|target| (target.address, target.weight, forwarding(target))).collect();
        // With a hot standby the first that is up takes all.
        if service.method != Method::HotStandby {
            targets.sort();
        }
        canonical.text(&method_name(service.method));
        canonical.optional_duration(service.affinity);
        canonical.text(&accepts_name(service.accepts));
        canonical.list(&targets, |canonical, (address, weight, (kind, port))| {
            canonical.number(*kind);
            canonical.number((*port).into());
            canonical.text(address);
            canonical.number((*weight).into());
        });
    }
}

/// A way of forwarding, and its port or host if it has one.
fn forwarding(target: &Target) -> (u64, u16) {
    match target.forwarding {
        Forwarding::Mac => (0, 0),
        Forwarding::IpInIp => (1, 0),
        Forwarding::Gue { port } => (2, port),
        Forwarding::Local => (3, target.host.map_or(0, |host| host.get().into())),
    }
}

/// Writes values so that no two sequences look the same: everything of variable length has its length in front, and the text of
/// a value tells it from every other one of its type.
struct Canonical(Context);

impl Canonical {
    fn finish(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.finish().as_ref());
        bytes
    }

    fn number(&mut self, number: u64) {
        self.0.update(&number.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn text(&mut self, value: &impl Display) {
        self.bytes(value.to_string().as_bytes());
    }

    fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.number(items.len() as u64);
        items.iter().for_each(|item| write(self, item));
    }

    fn duration(&mut self, duration: Duration) {
        self.number(duration.as_secs());
        self.number(duration.subsec_nanos().into());
    }

    fn optional_duration(&mut self, duration: Option<Duration>) {
        self.list(duration.as_slice(), |canonical, duration| canonical.duration(*duration));
    }

    fn floating(&mut self, floating: &Floating) {
        self.text(&floating.address);
        self.bytes(&floating.mac.0);
    }

    fn takeover(&mut self, peer: &Peer) {
        self.number(match peer.takeover {
            TakeoverPolicy::Resume => 0,
            TakeoverPolicy::Renegotiate => 1,
        });
        let Timing { interval, deadline, detection, trust, trust_margin, claim_preferred, claim_other } = peer.timing;
        for time in [interval, deadline, detection, trust, trust_margin, claim_preferred, claim_other] {
            self.duration(time);
        }
    }

    /// As it goes over the wire: the text of two identities of different types may be the same.
    fn identity(&mut self, identity: &Identity) {
        let mut encoded = Vec::new();
        identity.encode(&mut encoded);
        self.bytes(&encoded);
    }

    fn connection(&mut self, connection: &ConnectionPolicy) {
        let ConnectionPolicy {
            name,
            vip,
            local,
            remote,
            local_id,
            remote_id,
            psk,
            proposals,
            dpd_delay,
            rekey_time,
            over_time,
            reauth_time,
            unique,
            encapsulation,
            fragmentation,
            pools,
            children,
        } = connection;
        self.text(name);
        self.number((*vip).into());
        self.text(local);
        self.list(remote, Self::text);
        self.identity(local_id);
        match remote_id {
            IdentityMatch::Any => self.number(0),
            IdentityMatch::Below(suffix) => {
                self.number(1);
                self.text(suffix);
            }
            IdentityMatch::Exact(identity) => {
                self.number(2);
                self.identity(identity);
            }
        }
        self.bytes(digest(&SHA256, psk.expose()).as_ref());
        self.list(proposals, Self::text);
        self.optional_duration(*dpd_delay);
        self.optional_duration(*rekey_time);
        self.optional_duration(*over_time);
        self.optional_duration(*reauth_time);
        self.number(match unique {
            Unique::No => 0,
            Unique::Replace => 1,
            Unique::Keep => 2,
        });
        self.number(match encapsulation {
            Encapsulation::WhereNeeded => 0,
            Encapsulation::Always => 1,
        });
        self.number(match fragmentation {
            Fragmentation::Yes => 0,
            Fragmentation::Accept => 1,
            Fragmentation::No => 2,
        });
        self.list(pools, |canonical, pool| {
            let AddressPool { name, first, last, dns } = &**pool;
            canonical.text(name);
            canonical.text(first);
            canonical.text(last);
            canonical.list(dns, Self::text);
        });
        self.list(children, |canonical, child| canonical.child(child));
    }

    fn child_options(&mut self, options: &ChildOptions) {
        // Each appliance has crypto devices of its own, or none.
        let ChildOptions { start, lanes, replay_window, lifetime, outer, processing: _ } = options;
        self.number(match start {
            StartAction::None => 0,
            StartAction::Start => 1,
        });
        self.number(match lanes {
            Lanes::One => 0,
            Lanes::PerWorker => 1,
        });
        self.number((*replay_window).into());
        let Lifetime { soft_bytes, hard_bytes, soft_packets, hard_packets } = *lifetime;
        for limit in [soft_bytes, hard_bytes, soft_packets, hard_packets] {
            self.number(limit);
        }
        self.number(match outer.dscp {
            DscpPolicy::Copy => 256,
            DscpPolicy::Set(dscp) => dscp.into(),
        });
        self.number(match outer.df {
            DfPolicy::Clear => 0,
            DfPolicy::Copy => 1,
            DfPolicy::Set => 2,
        });
        self.number(match outer.ecn {
            EcnPolicy::Normal => 0,
            EcnPolicy::Compatibility => 1,
        });
    }

    fn policy(&mut self, policy: &Policy) {
        let Policy { local, remote, action } = policy;
        self.list(local, Self::text);
        self.list(remote, Self::text);
        self.number(match action {
            PolicyAction::Bypass => 0,
            PolicyAction::Discard => 1,
            PolicyAction::Protect => 2,
        });
    }

    fn child(&mut self, child: &ChildPolicy) {
        let ChildPolicy { name, local_ts, remote_ts, proposals, rekey_time, life_time, mode, pairs, lanes_max } = child;
        self.text(name);
        self.list(local_ts, Self::text);
        self.list(remote_ts, Self::text);
        self.list(proposals, Self::text);
        self.optional_duration(*rekey_time);
        self.optional_duration(*life_time);
        self.number(match mode {
            Mode::Tunnel => 0,
            Mode::Transport => 1,
        });
        self.number(match pairs {
            Pairs::Any => 0,
            Pairs::Single => 1,
        });
        self.number((*lanes_max).into());
    }
}
