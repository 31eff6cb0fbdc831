//! Flows that go on while something happens to the network, and say how long they were cut.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::fill;
use super::tcp::{accept, connect};
use crate::ns::Namespace;
use crate::wait_for;

/// A TCP connection that carries 1000 checked bytes every 2 ms, until dropped.
#[derive(Debug)]
pub struct TcpFlow {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    stop: AtomicBool,
    bytes: AtomicU64,
    /// Microseconds since `start`.
    last_arrival: AtomicU64,
    worst_gap: AtomicU64,
    broken: AtomicBool,
}

impl TcpFlow {
    /// Connects from `client` to `ip` in `server` and begins.
    pub fn start(client: &Namespace, server: &Namespace, ip: IpAddr) -> Result<TcpFlow> {
        let limit = Duration::from_secs(5);
        let listener = server.enter(|| TcpListener::bind((ip, 0)).context("cannot listen"))?;
        let addr = listener.local_addr()?;
        let from = client.enter(|| connect(addr, limit))?;
        let to = accept(&listener, limit)?;
        from.set_nodelay(true)?;
        from.set_write_timeout(Some(Duration::from_millis(100)))?;
        to.set_read_timeout(Some(Duration::from_millis(100)))?;
        let shared = Arc::new(Shared {
            start: Instant::now(),
            stop: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            last_arrival: AtomicU64::new(0),
            worst_gap: AtomicU64::new(0),
            broken: AtomicBool::new(false),
        });
        let (writing, reading) = (shared.clone(), shared.clone());
        let writer = std::thread::spawn(move || write(from, &writing));
        let reader = std::thread::spawn(move || read(to, &reading));
        Ok(TcpFlow { shared, threads: vec![writer, reader] })
    }

    /// Bytes that arrived, all of them right.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// The longest time without an arrival since the last [`TcpFlow::reset_gap`], the present one included.
    pub fn worst_gap(&self) -> Duration {
        let s = &self.shared;
        let open = s.now().saturating_sub(s.last_arrival.load(Ordering::Relaxed));
        Duration::from_micros(s.worst_gap.load(Ordering::Relaxed).max(open))
    }

    /// Begins to look for gaps anew.
    pub fn reset_gap(&self) {
        self.shared.worst_gap.store(0, Ordering::Relaxed);
    }

    /// Waits until this much more arrives; an error if content was wrong, the connection broke, or `limit` passed.
    pub fn advance(&self, bytes: u64, limit: Duration) -> Result<()> {
        let goal = self.bytes() + bytes;
        let broken = || self.shared.broken.load(Ordering::Relaxed);
        wait_for("the TCP flow to go on", limit, || self.bytes() >= goal || broken())?;
        if broken() { bail!("the TCP flow broke or carried wrong bytes") } else { Ok(()) }
    }
}

impl Drop for TcpFlow {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn now(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.broken.load(Ordering::Relaxed)
    }
}

fn write(mut to: impl Write, shared: &Shared) {
    let mut buf = [0; 1000];
    let mut offset = 0;
    while !shared.stopped() {
        fill(&mut buf, offset);
        let mut rest = &buf[..];
        while !rest.is_empty() && !shared.stopped() {
            match to.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) if would_block(&e) => {}
                Err(_) => shared.broken.store(true, Ordering::Relaxed),
            }
        }
        offset += 1000;
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn read(mut from: impl Read, shared: &Shared) {
    let mut buf = [0; 1000];
    let mut want = [0; 1000];
    let (mut have, mut offset) = (0, 0);
    while !shared.stopped() {
        match from.read(&mut buf[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if would_block(&e) => continue,
            Err(_) => {
                shared.broken.store(true, Ordering::Relaxed);
                break;
            }
        }
        let now = shared.now();
        let last = shared.last_arrival.swap(now, Ordering::Relaxed);
        shared.worst_gap.fetch_max(now.saturating_sub(last), Ordering::Relaxed);
        if have == buf.len() {
            fill(&mut want, offset);
            if buf != want {
                shared.broken.store(true, Ordering::Relaxed);
            }
            offset += 1000;
            have = 0;
            shared.bytes.fetch_add(1000, Ordering::Relaxed);
        }
    }
}

fn would_block(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}

/// What became of a sequence of numbered datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that arrived, each counted once.
    pub received: u64,
    /// Arrivals of a number seen before.
    pub duplicates: u64,
    /// Arrivals with a lower number than an earlier arrival.
    pub reordered: u64,
}

impl Sequence {
    /// Sends `count` numbered UDP datagrams of `size` bytes from `from` to `ip` in `to`, one every `every`.
    pub fn run(
        from: &Namespace,
        to: &Namespace,
        ip: IpAddr,
        count: u64,
        size: usize,
        every: Duration,
    ) -> Result<Sequence> {
        let receiver = to.enter(|| UdpSocket::bind((ip, 0)).context("cannot bind the receiver"))?;
        receiver.set_read_timeout(Some(Duration::from_millis(500)))?;
        let addr = receiver.local_addr()?;
        let any: IpAddr = if ip.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
        let sender = from.enter(|| UdpSocket::bind((any, 0)).context("cannot bind the sender"))?;
        std::thread::scope(|scope| {
            let counted = scope.spawn(move || receive(&receiver, count));
            let mut payload = vec![0; size.max(8)];
            let start = Instant::now();
            for n in 0..count {
                payload[..8].copy_from_slice(&n.to_le_bytes());
                sender.send_to(&payload, addr).context("cannot send")?;
                // Paced by the clock, so that a late wake-up is caught up with.
                let due = start + every * (n as u32 + 1);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            let mut result = counted.join().map_err(|_| anyhow!("the receiver panicked"))?;
            result.sent = count;
            Ok(result)
        })
    }
}

fn receive(socket: &UdpSocket, count: u64) -> Sequence {
    let mut result = Sequence::default();
    let mut seen = vec![false; count as usize];
    let (mut buf, mut highest) = (vec![0; 65_536], 0);
    let mut silent = 0;
    // Two read timeouts in a row after the first datagram, or ten before it, are the end.
    while result.received < count && silent < if result.received == 0 { 10 } else { 2 } {
        let Ok(len) = socket.recv(&mut buf) else {
            silent += 1;
            continue;
        };
        silent = 0;
        let Some(n) = buf[..len].first_chunk().map(|b| u64::from_le_bytes(*b)).filter(|n| *n < count) else {
            continue;
        };
        if std::mem::replace(&mut seen[n as usize], true) {
            result.duplicates += 1;
            continue;
        }
        result.received += 1;
        result.reordered += u64::from(n < highest);
        highest = highest.max(n);
    }
    result
}
