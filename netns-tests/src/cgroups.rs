//! Control groups of instances that outlived the lab's agents.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait_for;

/// Kills what is in the groups, at the top of any hierarchy, whose names are as wanted, and removes them.
pub(crate) fn remove(wanted: impl Fn(&str) -> bool) {
    for group in mounts().iter().flat_map(|mount| children(mount)) {
        if group.file_name().is_some_and(|name| wanted(&name.to_string_lossy())) {
            // A killed process leaves its group a moment later.
            let _ = wait_for("the processes of a group to end", GONE_WITHIN, || remove_tree(&group));
        }
    }
}

fn remove_tree(group: &Path) -> bool {
    let empty = children(group).iter().all(|child| remove_tree(child));
    let pids = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for pid in pids.lines().filter_map(|line| line.parse().ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    empty && fs::remove_dir(group).is_ok()
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// proc(5): the mount point is the fifth field, the kind comes after the dash.
fn mounts() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_group = |line: &&str| line.contains(" - cgroup ") || line.contains(" - cgroup2 ");
    text.lines().filter(is_group).filter_map(|line| line.split(' ').nth(4).map(PathBuf::from)).collect()
}

const GONE_WITHIN: Duration = Duration::from_secs(2);
