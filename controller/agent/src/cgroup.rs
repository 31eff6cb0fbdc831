//! Control groups: an instance's limits, as the kernel reads them back, and what it uses. Both hierarchies, and
//! mixtures of them: each controller is used where it is mounted.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::process::ProcessRef;

/// Where the controllers are mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hierarchies {
    v2: Option<PathBuf>,
    v1: BTreeMap<&'static str, PathBuf>,
    parent: String,
}

impl Hierarchies {
    /// Reads the mounts of this process. `parent` is the group under which instances get theirs.
    pub fn detect(parent: &str) -> io::Result<Hierarchies> {
        Ok(Hierarchies::parse(&fs::read_to_string("/proc/self/mountinfo")?, parent))
    }

    fn parse(mountinfo: &str, parent: &str) -> Hierarchies {
        let mut found = Hierarchies { parent: parent.to_owned(), ..Hierarchies::default() };
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(mount) = left.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut right = right.split(' ');
            let (kind, options) = (right.next(), right.nth(1).unwrap_or(""));
            match kind {
                Some("cgroup2") => {
                    found.v2.get_or_insert(mount);
                }
                Some("cgroup") => {
                    let mounted = options.split(',').filter_map(|o| V1.iter().find(|name| **name == o));
                    for name in mounted {
                        found.v1.entry(name).or_insert_with(|| mount.clone());
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// The group of the instance `name`, which need not be there.
    pub fn group(&self, name: &str) -> Group {
        let dir = |mount: &PathBuf| mount.join(&self.parent).join(name);
        Group {
            v2: self.v2.as_ref().map(dir),
            v2_root: self.v2.clone(),
            v1: self.v1.iter().map(|(controller, mount)| (*controller, dir(mount))).collect(),
        }
    }
}

/// What is limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Thousandths of a core; 0: no limit.
    pub cores_milli: u32,
    /// Bytes; 0: no limit.
    pub memory_bytes: u64,
}

/// What is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// CPU time since the start.
    pub cpu_usec: u64,
    /// Memory now.
    pub memory_bytes: u64,
    /// Periods in which it wanted more than its cores.
    pub throttled: u64,
    /// Processes that were killed at the memory limit.
    pub oom_kills: u64,
}

/// The groups of one instance, one directory for each hierarchy.
#[derive(Clone, Debug)]
pub struct Group {
    v2: Option<PathBuf>,
    v2_root: Option<PathBuf>,
    v1: BTreeMap<&'static str, PathBuf>,
}

impl Group {
    /// Makes the groups and sets the limits. What cannot be limited is no error: it is told, a sentence each.
    pub fn make(&self, wanted: Limits) -> Vec<String> {
        let mut problems = Vec::new();
        if let (Some(dir), Some(root)) = (&self.v2, &self.v2_root) {
            enable(root, dir);
            if let Err(error) = fs::create_dir_all(dir) {
                problems.push(format!("no group at {}: {error}", dir.display()));
            }
        }
        for dir in self.v1.values() {
            if let Err(error) = fs::create_dir_all(dir) {
                problems.push(format!("no group at {}: {error}", dir.display()));
            }
        }
        if wanted.cores_milli > 0 {
            problems.extend(self.limit_cpu(wanted.cores_milli).err());
        }
        if wanted.memory_bytes > 0 {
            problems.extend(self.limit_memory(wanted.memory_bytes).err());
        }
        // A bound on fork bombs; that it cannot be set is not worth a word.
        if let Some(dir) = self.controller("pids", "pids.max") {
            fs::write(dir.join("pids.max"), MAX_PIDS).ok();
        }
        problems
    }

    /// The files to which a process's pid is written to bring it into the groups.
    pub fn procs_files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self.v2.iter().chain(self.v1.values()).cloned().collect();
        files.dedup();
        files.iter().map(|dir| dir.join("cgroup.procs")).filter(|file| file.exists()).collect()
    }

    /// The limits that the kernel says it enforces.
    pub fn limits(&self) -> Limits {
        let quota = if let Some(dir) = self.v1.get("cpu") {
            number(&dir.join("cpu.cfs_quota_us")).zip(number(&dir.join("cpu.cfs_period_us")))
        } else {
            let text = self.v2_file("cpu.max").and_then(|file| fs::read_to_string(file).ok());
            text.and_then(|text| {
                let (quota, period) = text.trim().split_once(' ')?;
                Some((quota.parse().ok()?, period.parse().ok()?))
            })
        };
        let milli = quota.filter(|(_, period)| *period > 0).map(|(quota, period)| quota * 1000 / period);
        let memory = match self.v1.get("memory") {
            Some(dir) => number(&dir.join("memory.limit_in_bytes")),
            None => self.v2_file("memory.max").and_then(|file| number(&file)),
        };
        Limits {
            cores_milli: milli.and_then(|milli| u32::try_from(milli).ok()).unwrap_or(0),
            memory_bytes: memory.filter(|bytes| *bytes < NO_LIMIT).unwrap_or(0),
        }
    }

    /// What it uses now.
    pub fn usage(&self) -> Usage {
        let v2_stat = self.v2_file("cpu.stat");
        let cpu_usec = match self.v1.get("cpuacct") {
            Some(dir) => number(&dir.join("cpuacct.usage")).map(|nanos| nanos / 1000),
            None => v2_stat.as_deref().and_then(|file| keyed(file, "usage_usec")),
        };
        let throttled = match self.v1.get("cpu") {
            Some(dir) => keyed(&dir.join("cpu.stat"), "nr_throttled"),
            None => v2_stat.as_deref().and_then(|file| keyed(file, "nr_throttled")),
        };
        let (memory, oom) = match self.v1.get("memory") {
            Some(dir) => (
                number(&dir.join("memory.usage_in_bytes")),
                keyed(&dir.join("memory.oom_control"), "oom_kill"),
            ),
            None => (
                self.v2_file("memory.current").and_then(|file| number(&file)),
                self.v2_file("memory.events").and_then(|file| keyed(&file, "oom_kill")),
            ),
        };
        Usage {
            cpu_usec: cpu_usec.unwrap_or(0),
            memory_bytes: memory.unwrap_or(0),
            throttled: throttled.unwrap_or(0),
            oom_kills: oom.unwrap_or(0),
        }
    }

    /// The processes in it.
    pub fn processes(&self) -> Vec<ProcessRef> {
        let dirs = self.v2.iter().chain(self.v1.values());
        let mut pids: Vec<i32> = dirs
            .filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok())
            .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>())
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids.into_iter().filter_map(|pid| ProcessRef::of(pid).ok()).collect()
    }

    /// Removes the groups, which must be empty; that they are not there is no error.
    pub fn remove(&self) -> io::Result<()> {
        for dir in self.v2.iter().chain(self.v1.values()) {
            match fs::remove_dir(dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn limit_cpu(&self, cores_milli: u32) -> Result<(), String> {
        let quota = u64::from(cores_milli) * PERIOD_USEC / 1000;
        let written = if let Some(dir) = self.controller("cpu", "cpu.cfs_quota_us") {
            fs::write(dir.join("cpu.cfs_period_us"), PERIOD_USEC.to_string())
                .and_then(|()| fs::write(dir.join("cpu.cfs_quota_us"), quota.to_string()))
        } else if let Some(file) = self.v2_file("cpu.max") {
            fs::write(file, format!("{quota} {PERIOD_USEC}"))
        } else {
            return Err("cores are not limited: this kernel offers no cpu controller".to_owned());
        };
        written.map_err(|error| format!("cores are not limited: {error}"))
    }

    fn limit_memory(&self, bytes: u64) -> Result<(), String> {
        let written = if let Some(dir) = self.controller("memory", "memory.limit_in_bytes") {
            let written = fs::write(dir.join("memory.limit_in_bytes"), bytes.to_string());
            // Memory and swap together; absent where swap is not accounted.
            fs::write(dir.join("memory.memsw.limit_in_bytes"), bytes.to_string()).ok();
            written
        } else if let Some(file) = self.v2_file("memory.max") {
            let written = fs::write(&file, bytes.to_string());
            fs::write(file.with_file_name("memory.swap.max"), "0").ok();
            written
        } else {
            return Err("memory is not limited: this kernel offers no memory controller".to_owned());
        };
        written.map_err(|error| format!("memory is not limited: {error}"))
    }

    /// The directory where this controller's file is.
    fn controller(&self, name: &str, file: &str) -> Option<&PathBuf> {
        self.v1.get(name).or(self.v2.as_ref()).filter(|dir| dir.join(file).exists())
    }

    fn v2_file(&self, name: &str) -> Option<PathBuf> {
        self.v2.as_ref().map(|dir| dir.join(name)).filter(|file| file.exists())
    }
}

/// Hands the controllers down from the root of the v2 tree to the parent's children. What is not there, or is v1's, is
/// refused: the limits that are read back tell.
fn enable(root: &Path, group: &Path) {
    let Some(parent) = group.parent() else { return };
    fs::create_dir_all(parent).ok();
    for dir in [root, parent] {
        for controller in ["+cpu", "+memory", "+pids"] {
            fs::write(dir.join("cgroup.subtree_control"), controller).ok();
        }
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn keyed(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}

const V1: [&str; 4] = ["cpu", "cpuacct", "memory", "pids"];
const PERIOD_USEC: u64 = 100_000;
const MAX_PIDS: &str = "4096";
/// v1 says "no limit" as the largest number of whole pages.
const NO_LIMIT: u64 = 1 << 62;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_controller_is_found_where_it_is_mounted() {
        let v1 = "\
30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        let hybrid = Hierarchies::parse(v1, "agent").group("i1");
        assert_eq!(hybrid.v1["cpuacct"], Path::new("/sys/fs/cgroup/cpu,cpuacct/agent/i1"));
        assert_eq!(hybrid.v1["memory"], Path::new("/sys/fs/cgroup/memory/agent/i1"));
        assert_eq!(hybrid.v2.unwrap(), Path::new("/sys/fs/cgroup/unified/agent/i1"));
        let v2 = "31 30 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
        let unified = Hierarchies::parse(v2, "agent").group("i1");
        assert!(unified.v1.is_empty());
        assert_eq!(unified.v2.unwrap(), Path::new("/sys/fs/cgroup/agent/i1"));
        assert_eq!(Hierarchies::parse("", "agent").group("i1").limits(), Limits::default());
    }

    #[test]
    fn limits_are_what_the_files_say() {
        let dir = tempfile::tempdir().unwrap();
        let group = Hierarchies { v2: Some(dir.path().to_owned()), parent: "p".into(), ..Default::default() };
        let group = group.group("i");
        let home = dir.path().join("p/i");
        fs::create_dir_all(&home).unwrap();
        fs::write(home.join("cpu.max"), "150000 100000\n").unwrap();
        fs::write(home.join("memory.max"), "max\n").unwrap();
        fs::write(home.join("cpu.stat"), "usage_usec 77\nnr_periods 3\nnr_throttled 2\n").unwrap();
        assert_eq!(group.limits(), Limits { cores_milli: 1500, memory_bytes: 0 });
        assert_eq!(group.usage(), Usage { cpu_usec: 77, throttled: 2, ..Usage::default() });
    }
}
