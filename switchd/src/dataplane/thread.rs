//! What the kernel says of the worker's thread.

use std::time::Duration;

use nix::unistd::Pid;

use crate::view::WorkerStats;

/// The worker's thread.
#[derive(Clone, Copy, Debug)]
pub struct WorkerThread(Pid);

impl WorkerThread {
    pub(super) fn new(id: Pid) -> WorkerThread {
        WorkerThread(id)
    }

    /// What it did since its start; none if the kernel does not say, or the thread is no more.
    pub fn stats(self) -> Option<WorkerStats> {
        parse(&std::fs::read_to_string(format!("/proc/self/task/{}/schedstat", self.0)).ok()?)
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
    use nix::unistd::gettid;

    use super::*;

    #[test]
    fn times_are_read_and_what_makes_no_sense_is_unknown() {
        let ns = Duration::from_nanos;
        assert_eq!(parse("1700 25 9\n"), Some(WorkerStats { ran: ns(1700), waited: ns(25) }));
        assert_eq!(["", "7", "1 2", "a b c", "1 -2 3", "0 0 0\n"].map(parse), [None; 6]);
    }

    #[test]
    fn a_thread_that_is_there_has_run_and_another_one_is_unknown() {
        let stats = WorkerThread::new(gettid()).stats();
        assert!(stats.is_none_or(|stats| !stats.ran.is_zero()), "{stats:?}");
        assert_eq!(WorkerThread::new(Pid::from_raw(i32::MAX)).stats(), None);
    }
}
