//! A digest of what two appliances of a group have to agree on before one may take over from the other.

use std::fmt;
use std::net::IpAddr;

use aws_lc_rs::digest::{Context, SHA256, digest};
use vipsec_esp::sa::{Algorithm, Selector};
use vipsec_wire::ip::Prefix;

use super::identity::Identity;
use super::model::{Child, Config, Connection, Floating, RemoteAddr, Service, ServiceProtocol};
use super::proposal::{KeyExchange, Prf};

/// SHA-256 over VIPs, targets, services and connections.
///
/// Left out is what may differ between appliances: id, name, ports and their addresses, routes, memory, logging. Secrets go in as
/// hashes of their own; still, a weak one could be guessed from the digest, so show it to nobody but the peer appliance.
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
    /// The digest of what a peer appliance has to agree with. The order of tables and of a service's targets has no
    /// meaning and doesn't matter; the order of proposals and selectors does.
    pub fn digest(&self) -> ConfigDigest {
        let mut canonical = Canonical(Context::new(&SHA256));
        canonical.bytes(b"vipsec configuration 1");

        let mut vips: Vec<_> = self.vips.iter().collect();
        vips.sort_by(|a, b| a.name.cmp(&b.name));
        canonical.list(&vips, |canonical, vip| {
            canonical.bytes(vip.name.as_bytes());
            canonical.floating(&vip.floating);
            canonical.list(&vip.gateways, Canonical::floating);
        });

        let mut services: Vec<_> = self.services.iter().map(|service| (self.vip_name(service.vip), service)).collect();
        services.sort_by_key(|(vip, service)| (*vip, service.protocol, service.port));
        canonical.list(&services, |canonical, (vip, service)| self.service(canonical, vip, service));

        let mut connections: Vec<_> = self.connections.iter().collect();
        connections.sort_by(|a, b| a.name.cmp(&b.name));
        canonical.list(&connections, |canonical, connection| {
            canonical.bytes(self.vip_name(connection.vip).as_bytes());
            canonical.connection(connection);
        });

        let mut bytes = [0; 32];
        bytes.copy_from_slice(canonical.0.finish().as_ref());
        ConfigDigest(bytes)
    }

    fn vip_name(&self, vip: u16) -> &str {
        self.vips.get(usize::from(vip)).map_or("", |vip| &vip.name)
    }

    fn service(&self, canonical: &mut Canonical, vip: &str, service: &Service) {
        canonical.bytes(vip.as_bytes());
        canonical.number(match service.protocol {
            ServiceProtocol::Tcp => 6,
            ServiceProtocol::Udp => 17,
            ServiceProtocol::Any => 256,
        });
        canonical.number(service.port.unwrap_or(0).into());
        let targets = service.targets.iter().filter_map(|index| self.targets.get(*index));
        let mut addresses: Vec<_> = targets.map(|target| target.address).collect();
        addresses.sort();
        canonical.list(&addresses, |canonical, address| canonical.address(*address));
    }
}

/// Writes values so that no two sequences look the same: everything of variable length has its length in front.
struct Canonical(Context);

impl Canonical {
    fn number(&mut self, number: u64) {
        self.0.update(&number.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
    }

    fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.number(items.len() as u64);
        items.iter().for_each(|item| write(self, item));
    }

    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.bytes(&v4.octets()),
            IpAddr::V6(v6) => self.bytes(&v6.octets()),
        }
    }

    fn prefix(&mut self, prefix: &Prefix) {
        self.address(prefix.address());
        self.number(prefix.bits().into());
    }

    fn floating(&mut self, floating: &Floating) {
        self.address(floating.address);
        self.bytes(&floating.mac.0);
    }

    fn algorithm(&mut self, algorithm: Algorithm) {
        self.number(match algorithm {
            Algorithm::Aes128Gcm => 128,
            Algorithm::Aes256Gcm => 256,
        });
    }

    fn key_exchange(&mut self, method: Option<KeyExchange>) {
        // The numbers of IANA's registry for IKEv2 transform type 4; 0 is NONE.
        self.number(match method {
            None => 0,
            Some(KeyExchange::X25519) => 31,
        });
    }

    fn identity(&mut self, identity: &Identity) {
        let (kind, text): (u64, _) = match identity {
            Identity::Any => (0, String::new()),
            Identity::Address(address) => (1, address.to_string()),
            Identity::Fqdn(name) => (2, name.clone()),
            Identity::Mail(mail) => (3, mail.clone()),
        };
        self.number(kind);
        self.bytes(text.as_bytes());
    }

    fn selector(&mut self, selector: &Selector) {
        self.address(*selector.addresses.start());
        self.address(*selector.addresses.end());
        self.number(selector.protocol.map_or(256, u64::from));
        self.number(u64::from(*selector.ports.start()));
        self.number(u64::from(*selector.ports.end()));
    }

    fn connection(&mut self, connection: &Connection) {
        self.bytes(connection.name.as_bytes());
        self.list(&connection.remote_addrs, |canonical, remote| match remote {
            RemoteAddr::Any => canonical.bytes(b"%any"),
            RemoteAddr::In(prefix) => canonical.prefix(prefix),
        });
        self.identity(&connection.local_id);
        self.identity(&connection.remote_id);
        self.bytes(digest(&SHA256, connection.secret.expose()).as_ref());
        self.list(&connection.proposals, |canonical, proposal| {
            canonical.algorithm(proposal.encryption);
            // IANA's numbers for IKEv2 transform type 2.
            canonical.number(match proposal.prf {
                Prf::HmacSha256 => 5,
                Prf::HmacSha384 => 6,
                Prf::HmacSha512 => 7,
            });
            canonical.key_exchange(Some(proposal.key_exchange));
        });
        self.number(connection.dpd_delay.as_millis() as u64);
        self.number(connection.rekey_time.as_millis() as u64);
        let mut children: Vec<_> = connection.children.iter().collect();
        children.sort_by(|a, b| a.name.cmp(&b.name));
        self.list(&children, |canonical, child| canonical.child(child));
    }

    fn child(&mut self, child: &Child) {
        self.bytes(child.name.as_bytes());
        self.list(&child.local_ts, Self::selector);
        self.list(&child.remote_ts, Self::selector);
        self.list(&child.esp_proposals, |canonical, proposal| {
            canonical.algorithm(proposal.encryption);
            canonical.key_exchange(proposal.key_exchange);
        });
        self.number(child.rekey_time.as_millis() as u64);
    }
}
