//! A peer's daemon as a child process.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Result, bail};
use netns_tests::{Namespace, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A running daemon of a contender; ended on drop.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Runs `args` (program first) in `ns`, in the foreground, its output to `log`.
    pub(super) fn start(ns: &Namespace, args: &[&str], log: &Path) -> Result<Process> {
        let file = OpenOptions::new().create(true).append(true).open(log)?;
        let name = Path::new(args[0]).file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Process { name, child: ns.spawn(args, &file)?, log: log.to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `done`; an error with the end of its log if that does not come, or if it ends before.
    pub(super) fn wait_until(&mut self, what: &str, done: impl Fn(&str) -> bool) -> Result<()> {
        let mut ended = None;
        let waited = wait_for(what, READY_WITHIN, || {
            ended = self.child.try_wait().ok().flatten();
            ended.is_some() || done(&self.read_log())
        });
        let log = self.read_log();
        let tail: Vec<&str> = log.lines().rev().take(LOG_TAIL).collect();
        let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
        match (ended, waited) {
            (Some(status), _) => bail!("{} ended with {status} before {what}:\n{tail}", self.name),
            (None, Err(error)) => Err(error.context(format!("{} said:\n{tail}", self.name))),
            (None, Ok(_)) => Ok(()),
        }
    }

    /// Waits until it has made the device `name` in `ns`.
    pub(super) fn wait_device(&mut self, ns: &Namespace, name: &str) -> Result<()> {
        self.wait_until(&format!("the device {name}"), |_| ns.ip(&format!("link show {name}")).is_ok())
    }

    fn read_log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let ended = wait_for("its end", STOP_WITHIN, || !matches!(self.child.try_wait(), Ok(None)));
        // n2n's edge, for one, ignores SIGTERM.
        if ended.is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

const READY_WITHIN: Duration = Duration::from_secs(15);
const STOP_WITHIN: Duration = Duration::from_millis(500);
const LOG_TAIL: usize = 12;
