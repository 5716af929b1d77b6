//! What it was measured on.

use std::fs;

use nix::sys::utsname::uname;
use serde::{Deserialize, Serialize};
use vipsec_hw::{Eal, MemoryBacking};

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
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name| field(&cpuinfo, name).unwrap_or("?");
        let has = |flag: &&&str| field("flags").split(' ').any(|has| has == **flag);
        Self {
            cpu: field("model name").to_owned(),
            cpu_kind: format!("family {}, model {}", field("cpu family"), field("model")),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            cpu_flags: ["aes", "vaes", "vpclmulqdq", "avx2", "avx512f"]
                .iter()
                .filter(has)
                .map(ToString::to_string)
                .collect(),
            tsc_mhz: tsc_mhz(&cpuinfo).unwrap_or(0),
            kernel: uname().map_or_else(|_| "?".to_owned(), |uname| uname.release().to_string_lossy().into_owned()),
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

fn field<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
    Some(line.split_once(':')?.1.trim())
}

/// On x86 the kernel computes BogoMIPS from the time stamp counter: twice its frequency.
fn tsc_mhz(cpuinfo: &str) -> Option<u32> {
    let bogomips: f64 = field(cpuinfo, "bogomips")?.parse().ok()?;
    Some((bogomips / 2.0).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_says() {
        let cpuinfo =
            "processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC: 9575F\nbogomips\t: 5200.42\n";
        assert_eq!(field(cpuinfo, "model"), Some("2"));
        assert_eq!(field(cpuinfo, "model name"), Some("AMD EPYC: 9575F"));
        assert_eq!(tsc_mhz(cpuinfo), Some(2600));
        assert_eq!(tsc_mhz("processor : 0\n"), None);
    }
}
