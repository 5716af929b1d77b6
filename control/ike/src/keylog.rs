//! Keys in the formats of Wireshark's tables, for whoever has to read a capture. Only when asked for: see
//! [`Endpoint::set_key_log`](crate::Endpoint::set_key_log).

use std::fmt;

use zeroize::Zeroizing;

use crate::crypto::{Cbc, Cipher, Encryption, Integrity};
use crate::event::ChildSaInfo;
use crate::message::Role;
use crate::sa::Channel;

/// A line for one of Wireshark's tables. It holds keys, so it doesn't print itself in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyLog {
    /// For which table.
    pub table: KeyLogTable,
    /// The line, without its end.
    pub line: Zeroizing<String>,
}

/// Wireshark's tables, by the names of their files in a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyLogTable {
    /// `ikev2_decryption_table`.
    Ike,
    /// `esp_sa`.
    Esp,
}

impl fmt::Debug for KeyLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyLog").field("table", &self.table).finish_non_exhaustive()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SPIs, SK_ei, SK_er, the cipher, SK_ai, SK_ar, the integrity algorithm. `None`: Wireshark has no name for the cipher.
pub(crate) fn ike(channel: &Channel) -> Option<KeyLog> {
    let (encryption, integrity) = match channel.suite.cipher {
        Cipher::Combined(Encryption::Aes128Gcm) => ("AES-GCM-128 with 16 octet ICV [RFC5282]", "NONE [RFC4306]"),
        Cipher::Combined(Encryption::Aes256Gcm) => ("AES-GCM-256 with 16 octet ICV [RFC5282]", "NONE [RFC4306]"),
        Cipher::Combined(Encryption::ChaCha20Poly1305) => return None,
        Cipher::Separate(cbc, integrity) => (
            match cbc {
                Cbc::Aes128 => "AES-CBC-128 [RFC3602]",
                Cbc::Aes256 => "AES-CBC-256 [RFC3602]",
            },
            match integrity {
                Integrity::HmacSha256 => "HMAC_SHA2_256_128 [RFC4868]",
                Integrity::HmacSha384 => "HMAC_SHA2_384_192 [RFC4868]",
                Integrity::HmacSha512 => "HMAC_SHA2_512_256 [RFC4868]",
            },
        ),
    };
    let (spi_i, spi_r) = match channel.role {
        Role::Initiator => (channel.local_spi, channel.remote_spi),
        Role::Responder => (channel.remote_spi, channel.local_spi),
    };
    let (i, r) = (channel.keys.protection(Role::Initiator), channel.keys.protection(Role::Responder));
    let [e_i, e_r, a_i, a_r] =
        [i.encryption, r.encryption, i.integrity, r.integrity].map(|key| Zeroizing::new(hex(key.expose())));
    let line =
        format!("{spi_i:016x},{spi_r:016x},{},{},\"{encryption}\",{},{},\"{integrity}\"", *e_i, *e_r, *a_i, *a_r);
    Some(KeyLog { table: KeyLogTable::Ike, line: Zeroizing::new(line) })
}

/// One line per direction.
pub(crate) fn esp(info: &ChildSaInfo) -> [KeyLog; 2] {
    let cipher = match info.suite.encryption {
        Encryption::Aes128Gcm | Encryption::Aes256Gcm => "AES-GCM with 16 octet ICV [RFC4106]",
        Encryption::ChaCha20Poly1305 => "ChaCha20 with Poly1305 [RFC7634]",
    };
    let family = if info.tunnel.local.is_ipv4() { "IPv4" } else { "IPv6" };
    [(info.spi_in, &info.key_in), (info.spi_out, &info.key_out)].map(|(spi, key)| {
        let key = Zeroizing::new(hex(key.expose()));
        let line = format!("\"{family}\",\"*\",\"*\",\"0x{spi:08x}\",\"{cipher}\",\"0x{}\",\"NULL\",\"\"", *key);
        KeyLog { table: KeyLogTable::Esp, line: Zeroizing::new(line) }
    })
}
