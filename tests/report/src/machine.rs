//! What the kernel says of the machine.

use std::fs;

use nix::sys::utsname::uname;

/// What stands for a thing that the kernel doesn't tell.
const UNKNOWN: &str = "?";

/// Its processors.
#[derive(Debug, Clone)]
pub struct CpuInfo(String);

impl CpuInfo {
    /// Of this machine; of an unknown one, where the kernel says nothing.
    pub fn read() -> Self {
        Self(fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
    }

    /// What it says under that name of the first processor.
    pub fn field(&self, name: &str) -> Option<&str> {
        let line = self.0.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
        Some(line.split_once(':')?.1.trim())
    }

    /// What they call themselves.
    pub fn model(&self) -> &str {
        self.field("model name").unwrap_or(UNKNOWN)
    }

    /// How many there are.
    pub fn cpus(&self) -> usize {
        self.0.lines().filter(|line| line.starts_with("processor")).count()
    }

    /// The frequency of the time stamp counter, in MHz. On x86 the kernel computes BogoMIPS from it: twice its frequency.
    pub fn tsc_mhz(&self) -> Option<u32> {
        let bogomips: f64 = self.field("bogomips")?.parse().ok()?;
        Some((bogomips / 2.0).round() as u32)
    }
}

/// The kernel's release.
pub fn kernel() -> String {
    uname().map_or_else(|_| UNKNOWN.to_owned(), |uname| uname.release().to_string_lossy().into_owned())
}

/// How many tasks wanted a processor, on average over the last minute.
pub fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_says() {
        let cpuinfo =
            "processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC: 9575F\nbogomips\t: 5200.42\n";
        let cpuinfo = CpuInfo(cpuinfo.to_owned());
        assert_eq!(cpuinfo.field("model"), Some("2"));
        assert_eq!((cpuinfo.model(), cpuinfo.cpus()), ("AMD EPYC: 9575F", 1));
        assert_eq!(cpuinfo.tsc_mhz(), Some(2600));
        assert_eq!(CpuInfo("processor : 0\n".to_owned()).tsc_mhz(), None);
        assert!(load().is_some_and(|load| load >= 0.0));
    }
}
