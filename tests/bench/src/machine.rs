//! What it was measured on.

use serde::{Deserialize, Serialize};
use vipsec_hw::{Eal, MemoryBacking};
use vipsec_report::CpuInfo;

/// A machine, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    /// "family 26, model 2": tells processors apart that call themselves the same.
    pub(crate) cpu_kind: String,
    pub(crate) cpus: usize,
    /// The extensions that ciphers use, of those that it has.
    pub(crate) cpu_flags: Vec<String>,
    /// The time stamp counter's, in MHz: cycles are its cycles.
    pub(crate) tsc_mhz: u32,
    pub(crate) kernel: String,
    pub(crate) dpdk: String,
    /// Where packets lie.
    pub(crate) packet_memory: String,
}

impl Machine {
    /// This one.
    pub(crate) fn this(eal: &Eal) -> Self {
        let cpuinfo = CpuInfo::read();
        let field = |name| cpuinfo.field(name).unwrap_or("?");
        let has = |flag: &&&str| field("flags").split(' ').any(|has| has == **flag);
        Self {
            cpu: cpuinfo.model().to_owned(),
            cpu_kind: format!("family {}, model {}", field("cpu family"), field("model")),
            cpus: cpuinfo.cpus(),
            cpu_flags: ["aes", "vaes", "vpclmulqdq", "avx2", "avx512f"]
                .iter()
                .filter(has)
                .map(ToString::to_string)
                .collect(),
            tsc_mhz: cpuinfo.tsc_mhz().unwrap_or(0),
            kernel: vipsec_report::kernel(),
            dpdk: vipsec_hw::dpdk_version(),
            packet_memory: match eal.memory_backing() {
                MemoryBacking::Hugepages => "hugepages",
                MemoryBacking::OrdinaryPages => "ordinary pages",
            }
            .to_owned(),
        }
    }

    /// Time stamp cycles of so many nanoseconds.
    pub(crate) fn cycles(&self, ns: f64) -> f64 {
        ns * f64::from(self.tsc_mhz) / 1000.0
    }
}
