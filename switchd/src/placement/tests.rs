use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::gettid;

use super::*;

/// A thread that is always busy, until dropped.
struct Busy {
    id: Pid,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Busy {
    fn start() -> Busy {
        let (to, id) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            to.send(gettid()).unwrap();
            while !stopped.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        Busy { id: id.recv().unwrap(), stop, thread: Some(thread) }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn only(cpu: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(cpu).unwrap();
    set
}

/// The first CPU of those that this thread may run on, if there are two.
fn cpu_of_several() -> Option<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let cpus: Vec<usize> = (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap()).collect();
    cpus.get(1).and(cpus.first().copied())
}

#[test]
fn a_look_tells_what_a_thread_and_the_cpus_did() {
    let worker = Busy::start();
    let Some(cpu) = cpu_of_several() else {
        assert!(Host::open(worker.id).unwrap().is_none(), "one CPU leaves no choice");
        return;
    };
    let mut host = Host::open(worker.id).unwrap().unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    let look = loop {
        let look = host.look().unwrap();
        if look.ran > Duration::from_millis(1) && !look.idle.is_empty() {
            break look;
        }
        assert!(Instant::now() < end, "{look:?}");
        std::thread::yield_now();
    };
    assert!(look.idle.iter().any(|(known, _)| *known == cpu), "{look:?}");
    let stats = Thread::new(worker.id).stats().unwrap();
    assert!(stats.ran >= look.ran, "{stats:?} and {look:?}");
}

#[test]
fn a_thread_is_bound_and_let_go_but_not_where_somebody_else_has_put_it() {
    let worker = Busy::start();
    let Some(cpu) = cpu_of_several() else { return };
    let before = sched_getaffinity(worker.id).unwrap();
    let mut host = Host::open(worker.id).unwrap().unwrap();
    host.put(Place::Cpu(cpu)).unwrap();
    assert_eq!(sched_getaffinity(worker.id).unwrap(), only(cpu));
    host.put(Place::Any).unwrap();
    assert_eq!(sched_getaffinity(worker.id).unwrap(), before);
    sched_setaffinity(worker.id, &only(cpu)).unwrap();
    let refused = host.put(Place::Any).unwrap_err();
    assert_eq!(refused.to_string(), "somebody else has set the worker's CPUs");
    assert_eq!(sched_getaffinity(worker.id).unwrap(), only(cpu));
}

#[test]
fn a_worker_that_is_bound_to_a_cpu_where_others_run_does_not_stay_there() {
    let Some(cpu) = cpu_of_several() else { return };
    let (worker, others) = (Busy::start(), [Busy::start(), Busy::start()]);
    for other in &others {
        sched_setaffinity(other.id, &only(cpu)).unwrap();
    }
    let mut host = Host::open(worker.id).unwrap().unwrap();
    host.put(Place::Cpu(cpu)).unwrap();
    let thread = Thread::new(worker.id);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let moved = async {
            while sched_getaffinity(worker.id).unwrap() == only(cpu) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            e = thread.mind(host, Rule::bound(cpu)) => panic!("no longer placed: {e}"),
            moved = tokio::time::timeout(Duration::from_secs(20), moved) => moved.expect("it stays"),
        }
    });
}

#[test]
fn a_thread_that_is_no_more_is_an_error() {
    let gone = {
        let worker = Busy::start();
        worker.id
    };
    assert!(Host::open(gone).is_err());
    assert_eq!(Thread::new(gone).stats(), None);
}
