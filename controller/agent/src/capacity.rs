//! What this machine has to offer.

use std::path::Path;

use controller_api::node::Capacity;
use nix::sys::statvfs::statvfs;

use crate::config::Config;
use crate::spec::DriverKind;

/// Found out, where the configuration does not say it.
pub fn capacity(config: &Config) -> Capacity {
    let qemu = config.drivers.contains(&DriverKind::Qemu);
    Capacity {
        cores: config.capacity.cores.unwrap_or_else(cores),
        memory_bytes: config.capacity.memory_bytes.or_else(memory).unwrap_or(0),
        disk_bytes: config.capacity.disk_bytes.or_else(|| disk(&config.state_dir)).unwrap_or(0),
        accelerator: if qemu { config.accelerator.resolve().to_owned() } else { String::new() },
    }
}

fn cores() -> u32 {
    std::thread::available_parallelism().ok().and_then(|cores| u32::try_from(cores.get()).ok()).unwrap_or(1)
}

fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

fn disk(path: &Path) -> Option<u64> {
    let stat = statvfs(path).ok()?;
    Some(stat.blocks() * stat.fragment_size())
}
