//! Resources of the machine and of the process: free disk, memory, open files, and their limits.

use std::path::{Path, PathBuf};

/// Current values; `None` where the system does not provide one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Size of the file system of the data directory, and the space available to unprivileged processes.
    pub disk_bytes: Option<u64>,
    pub disk_free_bytes: Option<u64>,
    /// Resident memory without file pages.
    pub memory_bytes: Option<u64>,
    /// Resident pages of mapped files, which the system can reclaim at any time.
    pub memory_mapped_bytes: Option<u64>,
    /// The smallest limit of the control groups of the process, or the memory of the machine.
    pub memory_limit_bytes: Option<u64>,
    pub open_files: Option<u64>,
    /// The soft limit, which the system enforces.
    pub open_files_limit: Option<u64>,
}

impl Machine {
    /// Reads the values for a process with its data directory at `root`.
    pub fn look(root: &Path) -> Self {
        let disk = rustix::fs::statvfs(root).ok().map(|disk| (disk.f_blocks, disk.f_bavail, disk.f_frsize));
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let anonymous = kibibytes(&status, "RssAnon:");
        // Shared memory cannot be reclaimed either.
        let shared = kibibytes(&status, "RssShmem:").unwrap_or(0);
        Self {
            disk_bytes: disk.map(|(blocks, _, size)| blocks.saturating_mul(size)),
            disk_free_bytes: disk.map(|(_, free, size)| free.saturating_mul(size)),
            memory_bytes: anonymous.map(|bytes| bytes + shared),
            memory_mapped_bytes: kibibytes(&status, "RssFile:"),
            memory_limit_bytes: memory_limit(),
            // The open directory handle is one of them.
            open_files: std::fs::read_dir("/proc/self/fd").ok().map(|files| (files.count() as u64).saturating_sub(1)),
            open_files_limit: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        }
    }
}

/// A field of `/proc/self/status` or `/proc/meminfo`, such as `RssAnon:  1024 kB`, in bytes.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn memory_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = limit_files(&groups).into_iter().filter_map(|file| limit(&std::fs::read_to_string(file).ok()?));
    let machine = kibibytes(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal:");
    limits.chain(machine).min()
}

/// Files that can limit the memory of a process, from its `/proc/self/cgroup`: those of its control group and of all
/// its ancestors, for cgroups v2 and v1.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (base, file) = match parts.next() {
            Some("") => ("/sys/fs/cgroup", "memory.max"),
            Some(controllers) if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let Some(group) = parts.next() else { continue };
        for ancestor in Path::new(group.trim_start_matches('/')).ancestors() {
            files.push(Path::new(base).join(ancestor).join(file));
        }
    }
    files
}

/// Parses the limit in such a file: `max` is none.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_present_and_plausible() {
        let here = Machine::look(Path::new("."));
        let (disk, free) = (here.disk_bytes.unwrap(), here.disk_free_bytes.unwrap());
        assert!(free <= disk && disk > 0, "{here:?}");
        assert!(here.memory_bytes.unwrap() < here.memory_limit_bytes.unwrap(), "{here:?}");
        assert!(here.memory_mapped_bytes.unwrap() > 0, "{here:?}");
        let before = here.open_files.unwrap();
        assert!(before >= 3 && before <= here.open_files_limit.unwrap(), "{here:?}");
    }

    #[test]
    fn limits_of_both_cgroup_versions_are_found() {
        let found = limit_files("12:cpuset:/\n4:memory,other:/docker/abc\n0::/system.slice/fastk.service\n");
        let found: Vec<_> = found.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(
            found,
            [
                "/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/docker/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "/sys/fs/cgroup/system.slice/fastk.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max",
            ]
        );
        assert_eq!((limit("max\n"), limit("1073741824\n")), (None, Some(1 << 30)));
    }

    #[test]
    fn fields_of_the_system_are_read_in_bytes() {
        let text = "VmRSS:\t    9000 kB\nRssAnon:\t    2048 kB\nThreads:\t3\n";
        assert_eq!(kibibytes(text, "RssAnon:"), Some(2 << 20));
        assert_eq!((kibibytes(text, "RssFile:"), kibibytes(text, "Threads:")), (None, None));
    }
}
