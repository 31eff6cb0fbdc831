//! A shipped daemon as a child process.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ns::Namespace;
use crate::wait::wait_for;

/// A running daemon; killed on drop.
#[derive(Debug)]
pub(crate) struct Daemon {
    name: String,
    child: Child,
    keep: bool,
}

impl Daemon {
    /// Runs `args` (program first) in `ns`, its output appended to `log`.
    pub(crate) fn start(ns: &Namespace, args: &[&str], log: &Path) -> Result<Daemon> {
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        Daemon::of(ns.spawn(args, &log)?, args)
    }

    /// The same with the host's mounts: `ip netns exec` hides the control groups.
    pub(crate) fn start_with_host_mounts(ns: &Namespace, args: &[&str], log: &Path) -> Result<Daemon> {
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        Daemon::of(ns.spawn_with_host_mounts(args, &log)?, args)
    }

    fn of(child: Child, args: &[&str]) -> Result<Daemon> {
        let name = Path::new(args[0]).file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Daemon { name, child, keep: false })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub(crate) fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn hangup(&self) -> Result<()> {
        self.signal(Signal::SIGHUP)
    }

    /// SIGTERM, then waits for a clean exit.
    pub(crate) fn terminate(mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        wait_for(&format!("{} to end after SIGTERM", self.name), STOP_WITHIN, || !self.runs())?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { bail!("{} ended with {status} after SIGTERM", self.name) }
    }

    pub(crate) fn leave_running(mut self) {
        self.keep = true;
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).context("a process id is an i32")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.keep {
            self.kill9();
        }
    }
}

/// The daemon under test: `$SWITCHD_BIN`, or the one beside the running test.
pub fn switchd_bin() -> Result<PathBuf> {
    shipped("SWITCHD_BIN", "switchd")
}

/// The command under test: `$SWITCHCTL_BIN`, or the one beside the running test.
pub fn switchctl_bin() -> Result<PathBuf> {
    shipped("SWITCHCTL_BIN", "switchctl")
}

/// Any other shipped program: the one beside the running test.
pub fn bin(name: &str) -> Result<PathBuf> {
    shipped(&format!("{}_BIN", name.to_uppercase().replace('-', "_")), name)
}

fn shipped(variable: &str, name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(PathBuf::from(path));
    }
    // target/<profile>/<bin>, or target/<profile>/deps/<test>.
    let exe = std::env::current_exe()?;
    exe.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|path| path.exists())
        .ok_or_else(|| anyhow!("no {name} beside {}: run `make build`, or set {variable}", exe.display()))
}

const STOP_WITHIN: Duration = Duration::from_secs(5);
