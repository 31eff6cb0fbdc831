//! The only ways to wait: for a condition, with a time limit.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Polls `cond` until it is true and returns how long that took; an error that names `what` after `limit`.
pub fn wait_for(what: &str, limit: Duration, mut cond: impl FnMut() -> bool) -> Result<Duration> {
    let start = Instant::now();
    loop {
        if cond() {
            return Ok(start.elapsed());
        }
        if start.elapsed() > limit {
            bail!("waited {limit:?} in vain for: {what}");
        }
        std::thread::sleep(POLL);
    }
}

/// Polls `attempt` until it gives `Ok`, and returns its value; after `limit` the last error, under `what`.
pub fn wait_ok<T>(what: &str, limit: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > limit => {
                return Err(error.context(format!("waited {limit:?} in vain for: {what}")));
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// An error with this text if `cond` is false: an assertion that leaves the lab's clean-up to the caller.
pub fn expect(cond: bool, what: impl FnOnce() -> String) -> Result<()> {
    if cond { Ok(()) } else { bail!(what()) }
}

const POLL: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_never_came() {
        let error = wait_for("the moon", Duration::from_millis(20), || false).unwrap_err();
        assert!(error.to_string().contains("the moon"), "{error}");
        let mut calls = 0;
        wait_for("third call", Duration::from_secs(1), || {
            calls += 1;
            calls == 3
        })
        .unwrap();
    }
}
