//! The kernel's accounts of a thread and of the CPUs, and its binding.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::rule::{Look, Place};

/// A thread, and where it runs.
#[derive(Debug)]
pub(super) struct Host {
    thread: Pid,
    schedstat: File,
    stat: File,
    tick: Duration,
    /// What the thread may run on by the administrator's word.
    allowed: CpuSet,
    /// What we last left it with.
    set: CpuSet,
    seen: Seen,
    text: Vec<u8>,
}

#[derive(Debug)]
struct Seen {
    at: Instant,
    times: Times,
    /// Of each CPU that the thread may run on; empty while the thread has little to do.
    idle: Vec<(usize, Duration)>,
}

/// What a thread did since its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Times {
    /// On a CPU.
    pub(super) ran: Duration,
    /// Runnable, waiting for one.
    pub(super) waited: Duration,
}

impl Host {
    /// Of a thread of this process; none if it may run on one CPU only.
    pub(super) fn open(thread: Pid) -> io::Result<Option<Host>> {
        let allowed = sched_getaffinity(thread)?;
        if cpus(&allowed).nth(1).is_none() {
            return Ok(None);
        }
        let ticks = sysconf(SysconfVar::CLK_TCK)?.and_then(|ticks| u32::try_from(ticks).ok());
        let mut host = Host {
            thread,
            schedstat: schedstat(thread)?,
            stat: File::open("/proc/stat")?,
            tick: Duration::from_secs(1) / ticks.filter(|ticks| *ticks > 0).unwrap_or(100),
            allowed,
            set: allowed,
            seen: Seen { at: Instant::now(), times: Times::default(), idle: Vec::new() },
            text: vec![0; TEXT],
        };
        host.look()?;
        Ok(Some(host))
    }

    /// What happened since the last look.
    pub(super) fn look(&mut self) -> io::Result<Look> {
        let times = read_times(&self.schedstat)?;
        let before = std::mem::replace(&mut self.seen, Seen { at: Instant::now(), times, idle: Vec::new() });
        let span = self.seen.at - before.at;
        let ran = times.ran.saturating_sub(before.times.ran);
        if ran * LITTLE > span {
            let len = self.stat.read_at(&mut self.text, 0)?;
            let idle = idle(&self.text[..len], self.tick);
            self.seen.idle = idle.filter(|(cpu, _)| self.allowed.is_set(*cpu).unwrap_or(false)).collect();
        }
        let since = |(cpu, idle): &(usize, Duration)| {
            let (_, before) = before.idle.iter().find(|(known, _)| known == cpu)?;
            Some((*cpu, idle.saturating_sub(*before)))
        };
        Ok(Look {
            span,
            ran,
            waited: times.waited.saturating_sub(before.times.waited),
            idle: self.seen.idle.iter().filter_map(since).collect(),
        })
    }

    /// Puts the thread there, unless somebody else has placed it meanwhile.
    pub(super) fn put(&mut self, place: Place) -> io::Result<()> {
        if sched_getaffinity(self.thread)? != self.set {
            return Err(io::Error::other("somebody else has set the worker's CPUs"));
        }
        let mut set = self.allowed;
        if let Place::Cpu(cpu) = place {
            set = CpuSet::new();
            set.set(cpu)?;
        }
        sched_setaffinity(self.thread, &set)?;
        self.set = set;
        Ok(())
    }
}

/// What a thread of this process did.
pub(super) fn times_of(thread: Pid) -> io::Result<Times> {
    read_times(&schedstat(thread)?)
}

fn schedstat(thread: Pid) -> io::Result<File> {
    File::open(format!("/proc/self/task/{thread}/schedstat"))
}

fn read_times(schedstat: &File) -> io::Result<Times> {
    let mut text = [0; 64];
    let len = schedstat.read_at(&mut text, 0)?;
    times(&text[..len])
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "cannot make sense of schedstat"))
}

fn cpus(set: &CpuSet) -> impl Iterator<Item = usize> {
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false))
}

/// `/proc/PID/schedstat`: nanoseconds on a CPU and on a run queue, and slices (sched-stats.rst).
fn times(text: &[u8]) -> Option<Times> {
    let mut numbers = std::str::from_utf8(text).ok()?.split_ascii_whitespace().map(str::parse);
    let mut next = || Some(Duration::from_nanos(numbers.next()?.ok()?));
    Some(Times { ran: next()?, waited: next()? })
}

/// The lines of `/proc/stat` for one CPU each: user, nice, system, idle, iowait and more, in ticks (proc_stat(5)).
fn idle(text: &[u8], tick: Duration) -> impl Iterator<Item = (usize, Duration)> {
    let lines = text.split(|byte| *byte == b'\n').take_while(|line| line.starts_with(b"cpu"));
    lines.filter_map(move |line| {
        let mut fields = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
        let cpu = fields.next()?.strip_prefix("cpu")?.parse().ok()?;
        let mut idle = fields.skip(3).map(str::parse::<u32>);
        let ticks = idle.next()?.ok()?.saturating_add(idle.next()?.ok()?);
        Some((cpu, tick * ticks))
    })
}

/// Room for the lines of the CPUs.
const TEXT: usize = 64 << 10;
/// A thread that ran less than one part in so many has little to do.
const LITTLE: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_idle_times_are_read() {
        let ns = Duration::from_nanos;
        assert_eq!(times(b"1700 25 9\n"), Some(Times { ran: ns(1700), waited: ns(25) }));
        assert_eq!([&b""[..], b"7", b"a b c", b"\xff 1 2"].map(times), [None; 4]);
        let text = b"cpu  9 9 9 99 9 9\ncpu0 1 2 3 40 5 6\ncpu3 1 2 3 7 0 0\nintr 5 cpu9 1 1 1 1 1\ncpu4 1 1 1 1 1\n";
        let seen: Vec<_> = idle(text, Duration::from_millis(10)).collect();
        assert_eq!(seen, [(0, Duration::from_millis(450)), (3, Duration::from_millis(70))]);
        for cut in 0..text.len() {
            assert!(idle(&text[..cut], Duration::from_millis(10)).count() <= 2, "cut short after {cut}");
        }
    }
}
