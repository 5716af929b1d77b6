//! What stands between the remote peers and the targets: vipsecd, or strongSwan to compare with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::appliance::{Appliance, IkeSettings};
use crate::charon::{Charon, CharonConfig, Child, Connection, DpdAction, RemoteAddress, Retransmit, Scale};
use crate::error::Result;
use crate::netns::Namespace;
use crate::topology::{INNER_NETWORK, INSIDE_GATEWAY, Plan, TunnelPlan, VIP};

/// Name of the child SA on both ends.
pub const CHILD: &str = "net";

/// Which gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum GatewayKind {
    /// vipsecd.
    Vipsec,
    /// A second charon that has the VIP as an address; the kernel's multipath routing stands in for the distribution.
    Strongswan,
}

/// A running gateway.
#[derive(Debug)]
pub enum Gateway {
    /// vipsecd.
    Vipsec(Appliance),
    /// A second charon.
    Strongswan(Charon),
}

impl Gateway {
    /// Waits until it is up.
    pub fn await_answer(&mut self) -> Result<()> {
        match self {
            Self::Vipsec(appliance) => appliance.await_answer(),
            Self::Strongswan(_) => Ok(()),
        }
    }

    /// Stops it in mid-air until [`Gateway::thaw`].
    pub fn freeze(&self) -> Result<()> {
        match self {
            Self::Vipsec(appliance) => appliance.freeze(),
            Self::Strongswan(charon) => charon.freeze(),
        }
    }

    /// Lets it go on.
    pub fn thaw(&self) -> Result<()> {
        match self {
            Self::Vipsec(appliance) => appliance.thaw(),
            Self::Strongswan(charon) => charon.thaw(),
        }
    }

    /// Kills it at once.
    pub fn kill(&mut self) -> Result<()> {
        match self {
            Self::Vipsec(appliance) => appliance.kill(),
            Self::Strongswan(charon) => charon.kill(),
        }
    }

    /// How many IKE SAs it has.
    pub fn ike_sa_count(&self) -> Result<usize> {
        match self {
            Self::Vipsec(appliance) => Ok(appliance.ike_sas()?.len()),
            Self::Strongswan(charon) => Ok(charon.sas()?.len()),
        }
    }

    /// Lets it rekey the child SA.
    pub fn rekey_child(&self) -> Result<()> {
        match self {
            Self::Vipsec(appliance) => appliance.rekey_child(),
            Self::Strongswan(charon) => charon.rekey_child(CHILD),
        }
    }

    /// Lets it rekey the IKE SA of the connection.
    pub fn rekey_ike(&self, connection: &str) -> Result<()> {
        match self {
            Self::Vipsec(appliance) => appliance.rekey_ike(),
            Self::Strongswan(charon) => charon.rekey_ike(connection),
        }
    }

    /// Packets that it dropped, by reason.
    pub fn drops(&self) -> Result<BTreeMap<String, u64>> {
        match self {
            Self::Vipsec(appliance) => appliance.drops(),
            Self::Strongswan(charon) => {
                let rejects = charon.esp_rejects();
                let counts = [
                    ("replayed", rejects.replayed),
                    ("not-authentic", rejects.not_authentic),
                    ("unknown-spi", rejects.unknown_spi),
                ];
                Ok(counts.into_iter().filter(|(_, n)| *n > 0).map(|(reason, n)| (reason.to_owned(), n)).collect())
            }
        }
    }

    /// What an operator would look at: command lines with their output.
    pub fn operator_views(&self) -> Result<Vec<(String, String)>> {
        match self {
            Self::Vipsec(appliance) => ["status", "sas", "connections"]
                .into_iter()
                .map(|view| Ok((format!("vipsec {view}"), appliance.operator(&[view])?)))
                .collect(),
            Self::Strongswan(charon) => Ok(vec![("swanctl --list-sas".to_owned(), charon.sas_text()?)]),
        }
    }

    /// Its log file.
    pub fn log(&self) -> PathBuf {
        match self {
            Self::Vipsec(appliance) => appliance.log(),
            Self::Strongswan(charon) => charon.log(),
        }
    }
}

/// The charon that plays the gateway.
pub fn strongswan_config(
    plan: &Plan,
    settings: &IkeSettings,
    dpd_delay: Duration,
    retransmit: Retransmit,
) -> CharonConfig {
    let connection = |tunnel: &TunnelPlan| Connection {
        name: tunnel.connection.clone(),
        local_address: VIP.into(),
        remote_address: RemoteAddress::Any,
        local_id: settings.gateway_id.clone(),
        remote_id: tunnel.identity.clone(),
        secret: settings.secret.clone(),
        proposals: settings.proposals.clone(),
        dpd_delay: Some(dpd_delay),
        rekey_time: None,
        children: vec![Child {
            name: CHILD.to_owned(),
            local_ts: vec![format!("{VIP}/32")],
            remote_ts: vec![INNER_NETWORK.to_owned()],
            esp_proposals: settings.esp_proposals.clone(),
            rekey_time: None,
            dpd_action: DpdAction::Clear,
        }],
    };
    CharonConfig { connections: plan.tunnels().map(connection).collect(), retransmit, scale: Scale::Few }
}

/// Makes the kernel of the appliance's namespace forward what strongSwan decrypts to the targets, although the VIP is its own
/// address: what comes out of the tunnel is routed before the table of local addresses is asked, and each flow to one target.
pub fn prepare_for_strongswan(namespace: &Namespace, plan: &Plan) -> Result<()> {
    for (setting, value) in [
        ("ip_forward", "1"),
        ("fib_multipath_hash_policy", "1"),
        // The targets' replies come from the VIP, which is an address of this host as well.
        ("conf/all/accept_local", "1"),
        ("conf/in0/accept_local", "1"),
    ] {
        namespace.sysctl(&format!("net/ipv4/{setting}"), value)?;
    }
    let hops: String = plan.targets.iter().map(|target| format!(" nexthop via {} dev in0", target.inside)).collect();
    namespace.ip(&[
        format!("address add {VIP}/24 dev out0"),
        format!("address add {INSIDE_GATEWAY}/24 dev in0"),
        format!("route add {VIP}/32 table 100{hops}"),
        "rule add pref 10 iif ipsec0 lookup 100".to_owned(),
        "rule add pref 20 lookup local".to_owned(),
        "rule delete pref 0".to_owned(),
    ])
}
