//! What charon is told, with types, and the files that say it.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

/// A charon's settings.
#[derive(Debug, Clone)]
pub struct CharonConfig {
    /// Its IKE connections.
    pub connections: Vec<Connection>,
    /// How often and how long it asks before it gives a peer up.
    pub retransmit: Retransmit,
    /// How many SAs it is set up for.
    pub scale: Scale,
}

/// How many SAs a charon is set up for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scale {
    /// A handful, each step in the log.
    #[default]
    Few,
    /// Thousands, as its documentation advises: hash tables of their size, no protection against callers, no routes, a quiet log.
    Thousands,
}

impl Scale {
    const fn settings(self) -> &'static str {
        match self {
            Self::Few => "",
            Self::Thousands => {
                "ikesa_table_size = 4096
  ikesa_table_segments = 16
  dos_protection = no
  install_routes = no
  threads = 32
"
            }
        }
    }

    const fn log_level(self) -> i32 {
        match self {
            Self::Few => 1,
            Self::Thousands => -1,
        }
    }
}

/// strongSwan's retransmission timers: the nth waits `timeout * base^n`.
#[derive(Debug, Clone, Copy)]
pub struct Retransmit {
    /// The first wait.
    pub timeout: Duration,
    /// What each wait is longer than the one before, in tenths.
    pub base_tenths: u32,
    /// How many times a message is sent again before the peer counts as dead.
    pub tries: u32,
}

impl Default for Retransmit {
    /// strongSwan's own: 165 s.
    fn default() -> Self {
        Self { timeout: Duration::from_secs(4), base_tenths: 18, tries: 5 }
    }
}

impl Retransmit {
    /// Gives a peer up after 2.5 s: 0.5 s, four times.
    pub const IMPATIENT: Self = Self { timeout: Duration::from_millis(500), base_tenths: 10, tries: 4 };

    /// From the first message to giving up.
    pub fn gives_up_after(&self) -> Duration {
        let factor = |nth: u32| (f64::from(self.base_tenths) / 10.0).powi(i32::try_from(nth).unwrap_or(i32::MAX));
        (0..=self.tries).map(|nth| self.timeout.mul_f64(factor(nth))).sum()
    }
}

/// The other end's address.
#[derive(Debug, Clone, Copy)]
pub enum RemoteAddress {
    /// Whoever calls.
    Any,
    /// This one.
    Address(IpAddr),
}

/// What happens with a child SA whose peer is found dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DpdAction {
    /// It goes.
    Clear,
    /// It is negotiated again.
    Restart,
}

/// An IKE connection.
#[derive(Clone)]
pub struct Connection {
    /// Its name.
    pub name: String,
    /// The own address.
    pub local_address: IpAddr,
    /// The other end's.
    pub remote_address: RemoteAddress,
    /// The own identity.
    pub local_id: String,
    /// The other end's.
    pub remote_id: String,
    /// The pre-shared key.
    pub secret: String,
    /// IKE proposals.
    pub proposals: Vec<String>,
    /// How long silence lasts before the peer is asked whether it lives.
    pub dpd_delay: Option<Duration>,
    /// Age at which the IKE SA is rekeyed.
    pub rekey_time: Option<Duration>,
    /// Its child SAs.
    pub children: Vec<Child>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("name", &self.name).field("local_id", &self.local_id).finish_non_exhaustive()
    }
}

/// A child SA to negotiate.
#[derive(Debug, Clone)]
pub struct Child {
    /// Its name.
    pub name: String,
    /// Traffic selectors of this end.
    pub local_ts: Vec<String>,
    /// Traffic selectors of the other end.
    pub remote_ts: Vec<String>,
    /// ESP proposals.
    pub esp_proposals: Vec<String>,
    /// Age at which it is rekeyed.
    pub rekey_time: Option<Duration>,
    /// What happens when the peer is found dead.
    pub dpd_action: DpdAction,
}

/// The text of strongswan.conf. `kernel-libipsec` (its ESP) stands before `kernel-netlink` (its routes): both are needed.
pub(super) fn strongswan_conf(config: &CharonConfig, log: &Path) -> String {
    let Retransmit { timeout, base_tenths, tries } = config.retransmit;
    // The VIP is the tunnel's end and lies inside the traffic selectors as well: the daemon's own packets, IKE and ESP, carry a
    // mark that keeps them off the routes into the tunnel, and the plugin must be told that this is meant.
    format!(
        "charon {{
  load = random nonce openssl pem pkcs1 pkcs8 pubkey x509 constraints revocation kdf sha1 sha2 hmac aes gcm curve25519 \
kernel-libipsec kernel-netlink socket-default vici updown error-notify
  {scale}
  retransmit_timeout = {timeout}
  retransmit_base = {base}.{tenth}
  retransmit_tries = {tries}
  plugins {{
    kernel-libipsec {{
      allow_peer_ts = yes
    }}
    socket-default {{
      fwmark = 0x42
    }}
    kernel-netlink {{
      fwmark = !0x42
    }}
  }}
  filelog {{
    charon {{
      path = {log}
      time_format = %H:%M:%S
      time_add_ms = yes
      default = {level}
      flush_line = yes
    }}
  }}
}}
",
        timeout = timeout.as_secs_f64(),
        base = base_tenths / 10,
        tenth = base_tenths % 10,
        log = log.display(),
        scale = config.scale.settings(),
        level = config.scale.log_level(),
    )
}

/// The text of swanctl.conf.
pub(super) fn swanctl_conf(config: &CharonConfig) -> String {
    let mut text = String::from("connections {\n");
    for connection in &config.connections {
        write_connection(&mut text, connection);
    }
    text.push_str("}\nsecrets {\n");
    for (n, Connection { local_id, remote_id, secret, .. }) in config.connections.iter().enumerate() {
        let _ = write!(
            text,
            "  ike-{n} {{\n    id-a = {local_id}\n    id-b = {remote_id}\n    secret = \"{secret}\"\n  }}\n"
        );
    }
    text.push_str("}\n");
    text
}

fn write_connection(text: &mut String, connection: &Connection) {
    let remote = match connection.remote_address {
        RemoteAddress::Any => "%any".to_owned(),
        RemoteAddress::Address(address) => address.to_string(),
    };
    let Connection { name, local_address, local_id, remote_id, .. } = connection;
    let _ = write!(
        text,
        "  {name} {{
    version = 2
    local_addrs = {local_address}
    remote_addrs = {remote}
    proposals = {proposals}
    mobike = no
    {dpd_delay}
    {rekey_time}
    local {{
      auth = psk
      id = {local_id}
    }}
    remote {{
      auth = psk
      id = {remote_id}
    }}
    children {{
",
        proposals = connection.proposals.join(","),
        dpd_delay = setting("dpd_delay", connection.dpd_delay),
        rekey_time = setting("rekey_time", connection.rekey_time),
    );
    for child in &connection.children {
        let action = match child.dpd_action {
            DpdAction::Clear => "clear",
            DpdAction::Restart => "restart",
        };
        let _ = write!(
            text,
            "      {name} {{
        local_ts = {local}
        remote_ts = {remote}
        esp_proposals = {proposals}
        dpd_action = {action}
        {rekey_time}
      }}
",
            name = child.name,
            local = child.local_ts.join(","),
            remote = child.remote_ts.join(","),
            proposals = child.esp_proposals.join(","),
            rekey_time = setting("rekey_time", child.rekey_time),
        );
    }
    text.push_str("    }\n  }\n");
}

/// A setting in whole seconds, which is all that swanctl takes; nothing where it is left to strongSwan.
fn setting(name: &str, value: Option<Duration>) -> String {
    value.map_or_else(String::new, |value| format!("{name} = {}s", value.as_secs().max(1)))
}
