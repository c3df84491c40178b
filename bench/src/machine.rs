//! On what class of machine a report was made: no names of hosts, no paths. And what this process
//! takes of it.

use serde::Serialize;
use std::fs;

/// The machine, as far as a reader needs it.
#[derive(Serialize, Clone, Debug)]
pub struct MachineClass {
    /// The processor's own name.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// Memory, in GiB, rounded.
    pub memory_gib: u64,
    /// The kernel's release.
    pub kernel: String,
    /// Whether it runs under a hypervisor.
    pub is_virtual: bool,
    /// What `/sys/kernel/mm/transparent_hugepage/shmem_enabled` says.
    pub shmem_huge: String,
    /// The load average of the last minute when the run began.
    pub load: f64,
}

impl MachineClass {
    /// This machine.
    pub fn here() -> MachineClass {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = info.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory =
            memory.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        let first_word = |path: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            text.split_whitespace().next().unwrap_or_default().to_owned()
        };
        let huge = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
        let huge = fs::read_to_string(huge).unwrap_or_default();
        let chosen = huge.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        MachineClass {
            cpu: field("model name").unwrap_or_else(|| "unknown".into()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: memory.map_or(0, |kib: u64| (kib + (1 << 19)) >> 20),
            kernel: first_word("/proc/sys/kernel/osrelease"),
            is_virtual: field("flags").is_some_and(|flags| flags.contains("hypervisor")),
            shmem_huge: chosen.map_or("unknown", |(word, _)| word).to_owned(),
            load: first_word("/proc/loadavg").parse().unwrap_or(0.0),
        }
    }
}

/// A number of kilobytes from this process's `/proc/self/status`, in bytes; 0 if it is not there.
pub fn status_bytes(field: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}
