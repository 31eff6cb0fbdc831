//! What the kernel says of the worker's thread.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::unistd::{Pid, gettid};

use crate::view::WorkerStats;

/// The worker's thread, once it runs.
#[derive(Clone, Debug, Default)]
pub struct WorkerThread(Arc<OnceLock<Pid>>);

impl WorkerThread {
    /// The calling thread is the one.
    pub(super) fn is_this(&self) {
        // Nothing sets it twice.
        let _ = self.0.set(gettid());
    }

    /// What it did since its start; none if the kernel does not say, or the thread is no more.
    pub fn stats(&self) -> Option<WorkerStats> {
        let id = self.0.get()?;
        parse(&std::fs::read_to_string(format!("/proc/self/task/{id}/schedstat")).ok()?)
    }
}

/// `/proc/PID/schedstat`: nanoseconds on a CPU and on a run queue, and slices (sched-stats.rst). A thread that was
/// asked for has had a slice: with none, the kernel does not count.
fn parse(text: &str) -> Option<WorkerStats> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    let mut next = || numbers.next()?.ok();
    let (ran, waited, slices) = (next()?, next()?, next()?);
    (slices > 0)
        .then_some(WorkerStats { ran: Duration::from_nanos(ran), waited: Duration::from_nanos(waited) })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn times_are_read_and_what_makes_no_sense_is_unknown() {
        let ns = Duration::from_nanos;
        assert_eq!(parse("1700 25 9\n"), Some(WorkerStats { ran: ns(1700), waited: ns(25) }));
        assert_eq!(["", "7", "1 2", "a b c", "1 -2 3", "0 0 0\n"].map(parse), [None; 6]);
    }

    #[test]
    fn a_thread_that_is_there_has_run_and_another_one_is_unknown() {
        let own = WorkerThread::default();
        assert_eq!(own.stats(), None, "not known yet");
        own.is_this();
        let end = Instant::now() + Duration::from_secs(20);
        // The kernel's account of a thread that runs is as of its last tick, or switch.
        while own.stats().is_some_and(|stats| stats.ran.is_zero()) {
            assert!(Instant::now() < end, "it never ran");
            std::thread::yield_now();
        }
        let absent = WorkerThread(Arc::new(Pid::from_raw(i32::MAX).into()));
        assert_eq!(absent.stats(), None);
    }
}
