//! Numbered datagrams at a steady pace: what is lost, reordered or late shows without TCP's patience on top.

use std::collections::HashSet;
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::ns::Namespace;

/// A datagram every 5 ms from one namespace to another, until dropped.
#[derive(Debug)]
pub struct Beat {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What was heard since the last [`Beat::reset`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The longest time without an arrival, the present one included.
    pub worst_gap: Duration,
    /// Numbers that did not arrive although later ones did.
    pub lost: u64,
    /// Arrivals with a lower number than an earlier arrival.
    pub reordered: u64,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Numbers below it are of before the last reset.
    base: u64,
    /// One above the highest number that arrived.
    next: u64,
    arrived: HashSet<u64>,
    reordered: u64,
    last: Instant,
    worst_gap: Duration,
}

impl Beat {
    /// Begins to send from `from` to `ip` in `to`.
    pub fn start(from: &Namespace, to: &Namespace, ip: IpAddr) -> Result<Beat> {
        let receiver = to.enter(|| UdpSocket::bind((ip, 0)).context("cannot bind the receiver"))?;
        receiver.set_read_timeout(Some(Duration::from_millis(100)))?;
        let addr = receiver.local_addr()?;
        let any: IpAddr = if ip.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
        let sender = from.enter(|| UdpSocket::bind((any, 0)).context("cannot bind the sender"))?;
        let state = State {
            base: 0,
            next: 0,
            arrived: HashSet::new(),
            reordered: 0,
            last: Instant::now(),
            worst_gap: Duration::ZERO,
        };
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), state: Mutex::new(state) });
        let (sending, receiving) = (shared.clone(), shared.clone());
        let send = std::thread::spawn(move || {
            for n in 0u64.. {
                if sending.stop.load(Ordering::Relaxed) {
                    break;
                }
                // A neighbour that is not found is a datagram lost.
                let _ = sender.send_to(&n.to_le_bytes(), addr);
                std::thread::sleep(EVERY);
            }
        });
        let receive = std::thread::spawn(move || {
            let mut buf = [0; 64];
            while !receiving.stop.load(Ordering::Relaxed) {
                let Ok(len) = receiver.recv(&mut buf) else { continue };
                if let Some(number) = buf[..len].first_chunk() {
                    receiving.state().arrive(u64::from_le_bytes(*number));
                }
            }
        });
        Ok(Beat { shared, threads: vec![send, receive] })
    }

    /// Begins to count anew.
    pub fn reset(&self) {
        let mut state = self.shared.state();
        state.base = state.next;
        state.arrived.clear();
        (state.reordered, state.worst_gap) = (0, Duration::ZERO);
    }

    /// What was heard.
    pub fn heard(&self) -> Heard {
        let state = self.shared.state();
        Heard {
            worst_gap: state.worst_gap.max(state.last.elapsed()),
            lost: (state.next - state.base).saturating_sub(state.arrived.len() as u64),
            reordered: state.reordered,
        }
    }
}

impl State {
    fn arrive(&mut self, number: u64) {
        self.worst_gap = self.worst_gap.max(self.last.elapsed());
        self.last = Instant::now();
        if number < self.base || !self.arrived.insert(number) {
            return;
        }
        self.reordered += u64::from(number < self.next);
        self.next = self.next.max(number + 1);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

const EVERY: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_lost_from_late() {
        let mut state = State {
            base: 2,
            next: 2,
            arrived: HashSet::new(),
            reordered: 0,
            last: Instant::now(),
            worst_gap: Duration::ZERO,
        };
        // 1 is of before, 3 comes late, 4 twice, 5 never.
        [2, 4, 1, 3, 4, 6].into_iter().for_each(|number| state.arrive(number));
        assert_eq!((state.next - state.base, state.arrived.len(), state.reordered), (5, 4, 1));
    }
}
