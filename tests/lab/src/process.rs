//! What a process takes: of the processors and of memory.

use std::time::Duration;

use crate::error::{Context, LabError, Result};

/// Units of the times in /proc/PID/stat, which Linux fixes towards programs.
const TICKS_PER_SECOND: u32 = 100;

/// CPU time of a process with all its threads so far, its own and the kernel's on its behalf (`utime` and `stime`).
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let file = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&file).context(|| format!("reading {file}"))?;
    ticks(&text)
        .map(|ticks| Duration::from_secs(ticks) / TICKS_PER_SECOND)
        .ok_or_else(|| LabError::Answer { what: format!("reading {file}"), answer: text })
}

/// Memory of a process that is in RAM; 0 of one that is gone.
pub fn resident_kib(pid: u32) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// `utime` plus `stime`: fields 14 and 15, counted behind the name in parentheses, which may contain anything.
fn ticks(stat: &str) -> Option<u64> {
    const UTIME: usize = 11;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(UTIME);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_are_found_behind_whatever_name() {
        let stat = "17 (a ) b) S 1 17 17 0 -1 4194560 100 0 0 0 230 41 0 0 20 0 1 0 1000 0 0";
        assert_eq!(ticks(stat), Some(271));
        assert_eq!(ticks("17 (a"), None);
    }

    #[test]
    fn work_is_seen() {
        let before = cpu_time(std::process::id()).expect("our own");
        let mut sum = 0_u64;
        while cpu_time(std::process::id()).expect("our own") <= before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }
}
