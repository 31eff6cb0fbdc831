//! Which processes are a machine's, and their end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// A process that a later run of this program recognises, though pids are used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// When it started, in ticks since boot (field 22 of /proc/PID/stat).
    pub(crate) started: u64,
}

impl Process {
    pub(crate) fn of(pid: i32) -> Option<Process> {
        let (_, started) = stat(pid)?;
        Some(Process { pid, started })
    }

    pub(crate) fn runs(self) -> bool {
        Process::of(self.pid) == Some(self)
    }

    fn signal(self, signal: Signal) {
        if self.runs() {
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// Ends the processes and all of their descendants, and everything that carries the mark in its environment (what
/// was detached from its parent). First politely, from the given ones on.
pub(crate) fn end(roots: &[Process], others: &[i32], mark: (&str, &str)) {
    let doomed = |also: &[i32]| -> BTreeSet<Process> {
        let marked = marked(mark);
        let start = roots.iter().filter(|process| process.runs()).map(|process| process.pid);
        let pids = with_descendants(start.chain(also.iter().copied()).chain(marked));
        pids.into_iter().filter_map(Process::of).collect()
    };
    let first = doomed(others);
    roots.iter().for_each(|process| process.signal(Signal::SIGTERM));
    wait(roots, GRACE);
    let all: BTreeSet<Process> = first.union(&doomed(&[])).copied().collect();
    all.iter().for_each(|process| process.signal(Signal::SIGKILL));
    wait(&all, GRACE);
}

fn wait<'a>(processes: impl IntoIterator<Item = &'a Process> + Copy, limit: Duration) {
    let start = Instant::now();
    while processes.into_iter().any(|process| process.runs()) && start.elapsed() < limit {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn marked((name, value): (&str, &str)) -> Vec<i32> {
    let wanted = format!("{name}={value}");
    let has = |pid: &i32| {
        let environment =
            std::fs::read(Path::new("/proc").join(pid.to_string()).join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes())
    };
    all_pids().into_iter().filter(has).collect()
}

fn with_descendants(roots: impl Iterator<Item = i32>) -> BTreeSet<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for pid in all_pids() {
        if let Some((parent, _)) = stat(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut found, mut open) = (BTreeSet::new(), roots.collect::<Vec<_>>());
    while let Some(pid) = open.pop() {
        if found.insert(pid) {
            open.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found.remove(&std::process::id().cast_signed());
    found
}

fn all_pids() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Parent and start time; nothing of a zombie, which has ended.
fn stat(pid: i32) -> Option<(i32, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let (state, parent, started) = (fields.first()?, fields.get(1)?, fields.get(19)?);
    if *state == "Z" { None } else { Some((parent.parse().ok()?, started.parse().ok()?)) }
}

const GRACE: Duration = Duration::from_secs(5);
