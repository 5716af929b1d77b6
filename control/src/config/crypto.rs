//! `[crypto_device]`, and which SAs ask for it.

use vipsec_esp::sa::Processing;

use super::error::Reason;
use super::model::CryptoDevice;
use super::network::device;
use super::read::Section;

/// Most packets in the device at a time, by worker.
const JOBS_MAX: u64 = 32_768;
/// Most child SAs whose keys the device has.
const SAS_MAX: u64 = 65_536;

const PROCESSING: [(&str, Processing); 2] = [("cpu", Processing::Cpu), ("lookaside", Processing::Lookaside)];

/// Reads `[crypto_device]`, which may be left out.
pub(super) fn crypto_device(root: &Section) -> Option<Option<CryptoDevice>> {
    let Some(field) = root.optional("crypto_device") else { return Some(None) };
    let section = field.table()?;
    let device = section.required("device").and_then(|field| field.parse(device));
    let jobs_max = section.optional("jobs_max").map_or(Some(1024), |field| field.number(32..=JOBS_MAX));
    let sas_max = section.optional("sas_max").map_or(Some(2048), |field| field.number(1..=SAS_MAX));
    section.finish();
    Some(Some(CryptoDevice { device: device?, jobs_max: jobs_max?, sas_max: sas_max? }))
}

/// How an SA may be processed here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiers {
    /// Where nothing is said.
    pub(super) default: Processing,
    /// Is there a crypto device?
    pub(super) has_device: bool,
}

impl Tiers {
    /// Reads `processing`.
    pub(super) fn choose(&self, section: &Section) -> Option<Processing> {
        let Some(field) = section.optional("processing") else { return Some(self.default) };
        let chosen = field.choice(&PROCESSING)?;
        if chosen == Processing::Lookaside && !self.has_device {
            field.report(Reason::NoCryptoDevice);
            return None;
        }
        Some(chosen)
    }
}
