//! What carrying costs: CPU time and memory.

use std::time::Duration;

use anyhow::{Context, Result};
use netns_tests::measure::{cpu_time, resident};
use nix::unistd::{SysconfVar, sysconf};

use super::{Arena, Figure};

/// CPU time from its making on.
pub(super) struct Meter {
    /// Of each of the contender's processes.
    daemons: Vec<(u32, Duration)>,
    /// Of all processes and of the kernel.
    machine: Duration,
}

impl Meter {
    pub(super) fn start(arena: &Arena<'_>) -> Result<Meter> {
        let daemons = arena.daemons.iter().map(|pid| Ok((*pid, cpu_time(*pid)?))).collect::<Result<_>>()?;
        Ok(Meter { daemons, machine: machine()? })
    }

    /// CPU seconds for each gigabyte (10^9 bytes) of the `bytes` that were carried since: of the contender's processes
    /// together, if it has any, and of the whole machine, generator and receiver included.
    pub(super) fn per_gigabyte(&self, bytes: f64) -> Result<Vec<Figure>> {
        let gigabytes = bytes / 1e9;
        let mut figures = Vec::new();
        if !self.daemons.is_empty() {
            let used = self.daemons.iter().map(|(pid, before)| Ok(cpu_time(*pid)?.saturating_sub(*before)));
            let used: Duration = used.sum::<Result<_>>()?;
            let value = used.as_secs_f64() / gigabytes;
            figures.push(Figure { name: "cpu-daemons", value, unit: "s/GB" });
        }
        let used = machine()?.saturating_sub(self.machine);
        figures.push(Figure { name: "cpu-machine", value: used.as_secs_f64() / gigabytes, unit: "s/GB" });
        Ok(figures)
    }
}

/// Resident size of the contender's largest process; nothing for what works in the kernel.
pub(super) fn memory(arena: &Arena<'_>) -> Result<Vec<Figure>> {
    let sizes = arena.daemons.iter().map(|pid| resident(*pid)).collect::<Result<Vec<u64>>>()?;
    let figure =
        |bytes: &u64| Figure { name: "memory", value: *bytes as f64 / f64::from(1 << 20), unit: "MiB" };
    Ok(sizes.iter().max().map(figure).into_iter().collect())
}

/// CPU time that all CPUs of the machine have spent at work.
fn machine() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let ticks = busy_ticks(&stat).context("/proc/stat has no cpu line")?;
    let hz = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100);
    Ok(Duration::from_secs_f64(ticks as f64 / hz as f64))
}

/// proc(5): user, nice, system, idle, iowait, irq, softirq, steal; what guests of this machine use is in user.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let &[user, nice, system, _idle, _iowait, irq, softirq, ..] = fields.as_slice() else { return None };
    Some(user + nice + system + irq + softirq)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_busy_with_all_but_waiting_and_other_machines() {
        let stat = "cpu  10 2 30 4000 500 6 7 80 10 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy_ticks(stat), Some(10 + 2 + 30 + 6 + 7));
        assert_eq!(busy_ticks("cpu  1 2 3\n"), None);
        assert!(machine().unwrap() > Duration::ZERO);
    }
}
