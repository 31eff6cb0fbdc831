//! Processes that outlive the agent, known again by pid and start time: a pid alone may be another's by now.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::sys;

/// One process, for as long as the machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRef {
    /// Its pid in the host's namespace.
    pub pid: i32,
    /// When it started, in clock ticks since the boot: field 22 of `/proc/<pid>/stat`.
    pub started: u64,
}

impl ProcessRef {
    /// The process that has this pid now.
    pub fn of(pid: i32) -> io::Result<ProcessRef> {
        let (_, started) = stat(pid)?;
        Ok(ProcessRef { pid, started })
    }

    /// Whether it still runs; one that only waits to be reaped does not.
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_ok_and(|(state, started)| started == self.started && state != 'Z' && state != 'X')
    }

    /// Sends `signal`; that it has ended is no error.
    pub fn signal(self, signal: i32) -> io::Result<()> {
        let gone = |error: &io::Error| error.raw_os_error() == Some(libc::ESRCH);
        let pidfd = match sys::pidfd_open(self.pid) {
            Ok(pidfd) => pidfd,
            Err(error) if gone(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        // Now the descriptor holds one process: is it ours?
        if !self.is_alive() {
            return Ok(());
        }
        match sys::pidfd_signal(&pidfd, signal) {
            Err(error) if !gone(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits until it has ended; `false` if it has not within `limit`.
    pub async fn ended(self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(POLL).await;
        }
        true
    }
}

/// State letter and start time.
fn stat(pid: i32) -> io::Result<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold blanks and parentheses itself.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next().and_then(|field| field.chars().next());
    let started = fields.nth(18).and_then(|field| field.parse().ok());
    state.zip(started).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat makes no sense")))
}

const POLL: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_known_by_its_start_too() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = ProcessRef::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(process.is_alive());
        let other = ProcessRef { started: process.started + 1, ..process };
        assert!(!other.is_alive());
        other.signal(libc::SIGKILL).unwrap();
        assert!(process.is_alive(), "another's pid is not signalled");
        assert!(!process.ended(Duration::from_millis(20)).await);
        process.signal(libc::SIGTERM).unwrap();
        assert!(process.ended(Duration::from_secs(5)).await, "dead, if not reaped");
        child.wait().unwrap();
        process.signal(libc::SIGTERM).unwrap();
    }
}
