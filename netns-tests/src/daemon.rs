//! The shipped daemon as a child process.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ns::Namespace;
use crate::wait::wait_for;

/// A running `switchd`; killed on drop.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    keep: bool,
}

impl Daemon {
    /// Runs `switchd run --config <config>` in `ns`, its output appended to `log`.
    pub(crate) fn start(ns: &Namespace, config: &Path, log: &Path) -> Result<Daemon> {
        let bin = switchd_bin()?.display().to_string();
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let child = ns.spawn(&[&bin, "run", "--config", &config.display().to_string()], &log)?;
        Ok(Daemon { child, keep: false })
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
        wait_for("switchd to end after SIGTERM", STOP_WITHIN, || !self.runs())?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { bail!("switchd ended with {status} after SIGTERM") }
    }

    pub(crate) fn leave_running(mut self) {
        self.keep = true;
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).context("a process id is an i32")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot send {signal} to switchd"))
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
