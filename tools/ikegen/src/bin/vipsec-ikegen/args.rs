//! The command line.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use vipsec_esp::engine::EngineKind;
use vipsec_ike::{EspProposal, Identity, IkeProposal, Retransmission, Secret, TrafficSelector};
use vipsec_ikegen::{EchoPlan, Pace, Plan};

/// Thousands of IKEv2 initiators, each with an address and an identity of its own, that set up an IKE SA and a child SA with one gateway.
///
/// Initiator n has the address --base plus n and the name n.DOMAIN. All addresses have to be local, as with `ip route add local
/// 10.64.0.0/16 dev lo`, and the gateway needs a way back to them.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Arguments {
    /// The gateway's address.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) gateway: Ipv4Addr,
    /// The address that initiators' addresses are counted from.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) base: Ipv4Addr,
    /// How many initiators.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) count: u32,
    /// The number of the first.
    #[arg(long, default_value_t = 1)]
    pub(crate) first: u32,
    /// What initiators' names end with.
    #[arg(long, value_name = "DOMAIN", default_value = "peers.example")]
    pub(crate) domain: String,
    /// Who the gateway is.
    #[arg(long, value_name = "IDENTITY", default_value = "vip.example")]
    pub(crate) gateway_id: Identity,
    /// A file with the pre-shared key of all initiators.
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: PathBuf,
    /// What is behind the gateway. [default: the gateway itself]
    #[arg(long, value_name = "SELECTOR", value_delimiter = ',')]
    pub(crate) remote_ts: Vec<TrafficSelector>,
    /// Behind initiator n is this address plus n. [default: its own address]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) inner: Option<Ipv4Addr>,
    /// IKE proposals.
    #[arg(long, value_delimiter = ',', default_value = "aes256gcm16-prfsha256-x25519")]
    pub(crate) proposals: Vec<IkeProposal>,
    /// ESP proposals.
    #[arg(long, value_delimiter = ',', default_value = "aes256gcm16-x25519")]
    pub(crate) esp_proposals: Vec<EspProposal>,
    /// Handshakes under way at a time. As many begin as end, unless --rate is slower.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) parallel: u32,
    /// Handshakes begun per second at most.
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Seconds after which handshakes that have not ended yet are left.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) limit: u64,
    /// Seconds for which the SAs are kept once all handshakes have ended: the gateway's requests are answered, and what is lost is
    /// noticed. SIGINT and SIGTERM end it.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub(crate) hold: u64,
    /// While SAs are kept: datagrams per second through the tunnels, one after the other in turn, to the echo service at the gateway's
    /// address.
    #[arg(long, value_name = "RATE")]
    pub(crate) echo_rate: Option<f64>,
    /// The echo service's UDP port.
    #[arg(long, value_name = "PORT", default_value_t = 7)]
    pub(crate) echo_port: u16,
    /// Stands in front of each of these datagrams; their number follows, eight bytes each.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(crate) echo_session: u64,
    /// Writes a line for each of these datagrams: initiator, when it was sent, when it was back (nanoseconds since 1970; 0: never).
    #[arg(long, value_name = "FILE")]
    pub(crate) echo_log: Option<PathBuf>,
    /// While SAs are kept: seconds of silence after which an initiator asks whether the gateway lives. [default: never]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) dpd_delay: Option<u64>,
    /// Age in seconds at which the initiators rekey their IKE SAs. [default: never]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) rekey_time: Option<u64>,
    /// Age in seconds at which the initiators rekey their child SAs. [default: never]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) child_rekey_time: Option<u64>,
    /// Milliseconds to the first retransmission; the next ones take twice as long each.
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    pub(crate) retransmit_timeout: u64,
    /// Retransmissions before the gateway counts as dead.
    #[arg(long, default_value_t = 5)]
    pub(crate) retransmit_tries: u32,
    /// Delete the SAs in the end. Otherwise they stay at the gateway.
    #[arg(long)]
    pub(crate) delete: bool,
    /// Says every so many seconds how it stands.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) stats_period: Option<u64>,
    /// Writes what came of it, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl Arguments {
    pub(crate) fn plan(&self, secret: &[u8]) -> Plan {
        let own = TrafficSelector::prefix(self.gateway.into(), 32);
        Plan {
            base_address: self.base,
            first_number: self.first,
            count: self.count,
            domain: self.domain.clone(),
            gateway: self.gateway,
            gateway_id: self.gateway_id.clone(),
            gateway_ts: if self.remote_ts.is_empty() { own.into_iter().collect() } else { self.remote_ts.clone() },
            base_inner: self.inner,
            secret: Secret::new(secret.to_vec()),
            proposals: self.proposals.clone(),
            esp_proposals: self.esp_proposals.clone(),
            dpd_delay: self.dpd_delay.map(Duration::from_secs),
            rekey_time: self.rekey_time.map(Duration::from_secs),
            child_rekey_time: self.child_rekey_time.map(Duration::from_secs),
            retransmission: Retransmission {
                first: Duration::from_millis(self.retransmit_timeout),
                tries_max: self.retransmit_tries,
                ..Retransmission::default()
            },
            engine: self.echo_rate.map(|_| EngineKind::auto()),
        }
    }

    pub(crate) fn echoes(&self) -> Option<EchoPlan> {
        let (port, session) = (self.echo_port, self.echo_session);
        self.echo_rate.map(|per_second| EchoPlan { per_second, port, session })
    }

    pub(crate) fn pace(&self) -> Pace {
        Pace { parallel_max: usize::try_from(self.parallel).unwrap_or(usize::MAX), per_second: self.rate }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn without_selectors_the_gateway_is_what_is_behind_it() {
        let words = ["ikegen", "--gateway=192.0.2.1", "--base=10.64.0.0", "--secret-file=psk"];
        let plan = Arguments::try_parse_from(words).unwrap().plan(b"secret");
        assert_eq!(plan.gateway_ts, ["192.0.2.1/32".parse().unwrap()]);
    }
}
