//! The file of static child SAs that a test configuration names: no IKE, no rekeying, and the same numbers again after a restart,
//! so that keys and IVs repeat. Good for tests and benchmarks, never for traffic that matters.
//!
//! ```toml
//! [[child]]
//! spi_in = 0x01000001            # ours; SPIs below 256 are reserved
//! spi_out = 0x02000001           # the remote peer's
//! algorithm = "aes256gcm16"      # or aes128gcm16, chacha20poly1305
//! key_in = "…"                   # hexadecimal: the key, then 4 bytes of salt
//! key_out = "…"
//! local = "192.0.2.1"            # a VIP
//! remote = "198.51.100.7"
//! udp = { local = 4500, remote = 4500 }  # only with UDP encapsulation
//! local_ts = ["192.0.2.1/32"]
//! remote_ts = ["10.9.0.0/16"]
//! esn = false                    # default
//! window = 1024                  # packets; a multiple of 64; default
//! processing = "cpu"             # or lookaside; default: the appliance's
//! ```

use std::net::IpAddr;
use std::path::Path;

use vipsec_esp::sa::{
    Algorithm, ChildSa, InboundParams, KeyMaterial, Lifetime, Mode, OutboundParams, SALT_LEN, Selector, Spi,
    TunnelEnds, TunnelPolicy,
};
use vipsec_ike::TrafficSelector;
use vipsec_wire::iv::{ApplianceId, Epoch, IvPrefix, NUMBER_MAX};
use zeroize::Zeroizing;

use super::connection::selectors;
use super::crypto::Tiers;
use super::error::{ConfigError, Reason};
use super::model::Vip;
use super::names::Once;
use super::read::{Field, Section, Source, every};
use super::secret::read_private;
use super::value;

/// Most static child SAs.
pub const STATIC_CHILDREN_MAX: usize = 16_384;
/// Most bytes of a file of static child SAs.
pub const KEYS_FILE_BYTES_MAX: usize = 16 << 20;

const ALGORITHMS: [(&str, Algorithm); 3] = [
    ("aes128gcm16", Algorithm::Aes128Gcm),
    ("aes256gcm16", Algorithm::Aes256Gcm),
    ("chacha20poly1305", Algorithm::ChaCha20Poly1305),
];
const WINDOW_DEFAULT: u32 = 1024;
const WINDOW_MAX: u64 = 65_536;

/// Reads the file that `field` names. Mistakes inside are returned with their own file and line.
pub(super) fn static_children(
    field: &Field,
    folder: &Path,
    appliance: ApplianceId,
    vips: &[Option<Vip>],
    tiers: Tiers,
) -> Result<Vec<ChildSa>, Vec<ConfigError>> {
    let mut path = folder.to_path_buf();
    let bytes = field.parse(|file| {
        path.push(file);
        Ok(read_private(&path, KEYS_FILE_BYTES_MAX)?)
    });
    let Some(bytes) = bytes else { return Err(Vec::new()) };
    let Ok(text) = str::from_utf8(&bytes) else {
        let reason = Reason::Syntax("is not UTF-8".to_owned());
        return Err(vec![ConfigError { file: path, line: None, key: String::new(), reason }]);
    };
    let source = Source::new(&path, text);
    let children = source.parse().and_then(|table| {
        let root = Section::root(&source, &table);
        let mut spis = Once::default();
        let read = |section| child(section, &mut spis, appliance, vips, tiers);
        let sections = root.tables("child", STATIC_CHILDREN_MAX);
        if sections.is_empty() {
            root.report("child", Reason::Empty);
        }
        let children = every(sections.into_iter().map(read));
        root.finish();
        children
    });
    let problems = source.into_problems();
    children.filter(|_| problems.is_empty()).ok_or(problems)
}

fn child(
    section: Section,
    spis: &mut Once,
    appliance: ApplianceId,
    vips: &[Option<Vip>],
    tiers: Tiers,
) -> Option<ChildSa> {
    let spi_in = section.required("spi_in").and_then(|field| {
        let spi = spi(&field)?;
        spis.claim(&field, &spi);
        Some(spi)
    });
    let spi_out = section.required("spi_out").and_then(|field| spi(&field));
    let algorithm = section.required("algorithm").and_then(|field| field.choice(&ALGORITHMS));
    let key_in = section.required("key_in").and_then(|field| key(&field, algorithm?));
    let key_out = section.required("key_out").and_then(|field| key(&field, algorithm?));
    let vip = section.required("local").and_then(|field| vip(&field, vips));
    let remote = section.required("remote").and_then(|field| {
        let remote = field.parse(value::host)?;
        let (_, local) = vip?;
        if remote.is_ipv4() != local.is_ipv4() {
            field.report(Reason::MixedFamilies(local.to_string(), remote.to_string()));
        }
        Some(remote)
    });
    let udp = section.optional("udp").map(|field| udp_ports(&field));
    let local_selectors = section.required("local_ts").and_then(|field| selectors(&field));
    let remote_selectors = section.required("remote_ts").and_then(|field| selectors(&field));
    let esn = section.optional("esn").map_or(Some(false), |field| field.boolean());
    let window = section.optional("window").map_or(Some(WINDOW_DEFAULT), |field| window(&field, WINDOW_MAX));
    let processing = tiers.choose(&section);
    section.finish();

    let (vip, local) = vip?;
    let (algorithm, esn) = (algorithm?, esn?);
    Some(ChildSa {
        vip,
        inbound: InboundParams {
            spi: spi_in?,
            algorithm,
            key: key_in?,
            window: window?,
            esn,
            edge: 0,
            horizon: u64::MAX,
        },
        outbound: OutboundParams {
            spi: spi_out?,
            algorithm,
            key: key_out?,
            esn,
            sent: 0,
            lease: if esn { NUMBER_MAX } else { u32::MAX.into() },
            iv_prefix: IvPrefix::new(appliance, Epoch(0)),
        },
        succeeds: None,
        lane: None,
        mode: Mode::default(),
        processing: processing?,
        lifetime: Lifetime::default(),
        policy: TunnelPolicy::default(),
        tunnel: TunnelEnds { local, remote: remote?, udp: udp.map_or(Some(None), |udp| udp.map(Some))? },
        local_selectors: local_selectors?.iter().map(esp_selector).collect(),
        remote_selectors: remote_selectors?.iter().map(esp_selector).collect(),
    })
}

/// A traffic selector of IKE's as a worker takes it.
pub fn esp_selector(selector: &TrafficSelector) -> Selector {
    Selector {
        addresses: selector.first..=selector.last,
        protocol: (selector.protocol != 0).then_some(selector.protocol),
        ports: selector.ports.0..=selector.ports.1,
    }
}

fn spi(field: &Field) -> Option<Spi> {
    // RFC 4303 §2.1: 1..=255 are reserved, 0 is for local use.
    field.number(256..=u32::MAX.into()).and_then(|spi| Spi::new(spi).ok())
}

fn vip(field: &Field, vips: &[Option<Vip>]) -> Option<(u16, IpAddr)> {
    let address = field.parse(value::host)?;
    let index = vips.iter().position(|vip| vip.as_ref().is_some_and(|vip| vip.floating.address == address));
    if index.is_none() {
        field.report(Reason::NotAVip(address.to_string()));
    }
    Some((u16::try_from(index?).ok()?, address))
}

fn udp_ports(field: &Field) -> Option<(u16, u16)> {
    let section = field.table()?;
    let local = section.required("local").and_then(|field| field.number(1..=65_535));
    let remote = section.required("remote").and_then(|field| field.number(1..=65_535));
    section.finish();
    Some((local?, remote?))
}

/// An anti-replay window of 64 to `max` packets.
pub(super) fn window(field: &Field, max: u64) -> Option<u32> {
    let window: u32 = field.number(64..=max)?;
    if !window.is_multiple_of(64) {
        field.report(Reason::Malformed { value: window.to_string(), expected: "a multiple of 64" });
        return None;
    }
    Some(window)
}

fn key(field: &Field, algorithm: Algorithm) -> Option<KeyMaterial> {
    let expected_len = algorithm.key_len() + SALT_LEN;
    field.parse(|text| {
        let bad = Reason::BadKey { expected_len };
        let bytes = unhex(text).ok_or(bad.clone())?;
        KeyMaterial::new(algorithm, bytes).map_err(|_| bad)
    })
}

fn unhex(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() / 2));
    for pair in text.as_bytes().chunks(2) {
        let &[high, low] = pair else { return None };
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        bytes.push(digit(high)? << 4 | digit(low)?);
    }
    Some(bytes)
}
