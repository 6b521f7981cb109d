//! The system's swap: it may write to a disk what the relay holds in memory.
//!
//! | `/proc/swaps` | `memory.swap.max` of the control group, or of one above | it may |
//! | --- | --- | --- |
//! | names nothing, or cannot be read | whatever it is | no |
//! | names compressed memory alone (zram) | whatever it is | no |
//! | names another device or a file | 0 | no |
//! | likewise | more, none, or it cannot be read | yes |
//!
//! Invariant: nothing is changed, and nothing is opened but these files of the kernel.

use std::fs;
use std::path::{Path, PathBuf};

/// Whether this process may be swapped out.
pub(super) fn may_be_written() -> bool {
    let Ok(swaps) = fs::read_to_string("/proc/swaps") else { return false };
    let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    is_any(&swaps) && !is_forbidden(Path::new("/sys/fs/cgroup"), &group)
}

/// Whether a list of swaps names one that is no compressed memory.
fn is_any(swaps: &str) -> bool {
    let names = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    names.into_iter().any(|name| !name.starts_with("/dev/zram"))
}

/// Whether a control group (of version 2, as `/proc/self/cgroup` names it), or one above it, lets nothing be swapped.
fn is_forbidden(root: &Path, groups: &str) -> bool {
    let Some(own) = groups.lines().find_map(|line| line.strip_prefix("0::/")) else { return false };
    let group: PathBuf = root.join(own);
    let limits = group.ancestors().take_while(|folder| folder.starts_with(root));
    let mut limits = limits.filter_map(|folder| fs::read_to_string(folder.join("memory.swap.max")).ok());
    limits.any(|limit| limit.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";

    #[test]
    fn a_disk_is_told_from_compressed_memory_and_from_none() {
        for (rows, is_one) in [
            ("", false),
            ("/dev/zram0                              partition\t8388604\t0\t100\n", false),
            ("/swapfile                               file\t\t2097148\t0\t-2\n", true),
            ("/dev/zram0 partition 1 0 100\n/dev/dm-1 partition 1 0 -2\n", true),
        ] {
            assert_eq!(is_any(&format!("{HEAD}{rows}")), is_one, "{rows}");
        }
        assert!(!is_any(""));
    }

    #[test]
    fn a_group_that_may_not_swap_keeps_what_is_in_it_from_that() {
        let root = std::env::temp_dir().join(format!("sipwake-swap-{}", std::process::id()));
        let inner = root.join("system.slice/sipwake.service");
        fs::create_dir_all(&inner).unwrap();
        let groups = "4:memory:/elsewhere\n0::/system.slice/sipwake.service\n";
        assert!(!is_forbidden(&root, groups), "nothing limits it");
        fs::write(inner.join("memory.swap.max"), "max\n").unwrap();
        assert!(!is_forbidden(&root, groups));
        fs::write(root.join("system.slice/memory.swap.max"), "0\n").unwrap();
        assert!(is_forbidden(&root, groups) && !is_forbidden(&root, "4:memory:/system.slice\n"));
        fs::remove_dir_all(&root).unwrap();
    }
}
