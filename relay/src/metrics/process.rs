//! The kernel's figures about this process, for the metrics that every Prometheus exporter has by the same names.
//!
//! Invariant: a figure that the kernel does not give reads as zero.

use std::fs;

use crate::process::open_files;

/// One reading of `/proc/self`.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Process {
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub cpu_seconds: f64,
    pub open_descriptors: u64,
    /// The soft limit.
    pub max_descriptors: u64,
}

impl Process {
    pub(super) fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Self {
            resident_bytes: kilobytes(&status, "VmRSS:").unwrap_or(0) * 1024,
            virtual_bytes: kilobytes(&status, "VmSize:").unwrap_or(0) * 1024,
            cpu_seconds: used.tv_sec as f64 + used.tv_nsec as f64 / 1e9,
            open_descriptors: open_files().unwrap_or(0),
            max_descriptors: limit.unwrap_or(u64::MAX),
        }
    }
}

fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_this_process_are_read_from_the_kernel() {
        assert_eq!(kilobytes("Name:\tx\nVmRSS:\t   1234 kB\n", "VmRSS:"), Some(1234));
        let process = Process::read();
        assert!(process.cpu_seconds > 0.0 && Process::read().cpu_seconds >= process.cpu_seconds);
        assert!(process.resident_bytes > 1 << 20 && process.virtual_bytes >= process.resident_bytes, "{process:?}");
        assert!(process.open_descriptors > 2 && process.max_descriptors >= process.open_descriptors, "{process:?}");
    }
}
