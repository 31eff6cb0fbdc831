//! One flow of numbered datagrams.

use std::io::{IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::sys::socket::{
    MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, setsockopt, sockopt::RcvBufForce,
};

use super::Arena;

/// What came of one flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flood {
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Received after one that was sent later.
    pub(super) reordered: u64,
    /// From the first to the last sent.
    pub(super) sending: Duration,
    /// From the first to the last received.
    pub(super) receiving: Duration,
}

impl Flood {
    /// Datagrams sent in a second.
    pub(super) fn offered(&self) -> f64 {
        per_second(self.sent, self.sending)
    }

    /// Datagrams received in a second: of the time it took to send them, or to receive them where that is longer, since
    /// queues go on to empty when the sender has ended.
    pub(super) fn received_rate(&self) -> f64 {
        per_second(self.received, self.sending.max(self.receiving))
    }

    /// The share that never came, from 0 to 1.
    pub(super) fn loss(&self) -> f64 {
        1.0 - self.received as f64 / (self.sent as f64).max(1.0)
    }
}

/// Sends datagrams of `size` bytes from client to server for `time`: `rate` a second, or as many as can be sent.
pub(super) fn flood(arena: &Arena<'_>, size: u16, rate: Option<f64>, time: Duration) -> Result<Flood> {
    let receiver = arena.server.enter(|| UdpSocket::bind((arena.address, 0)).context("cannot bind"))?;
    // What is lost shall be lost by the contender.
    setsockopt(&receiver, RcvBufForce, &RECEIVE_BUFFER).context("cannot enlarge the receive buffer")?;
    receiver.set_nonblocking(true)?;
    let sender = arena.client.enter(|| UdpSocket::bind((arena.client_address, 0)).context("cannot bind"))?;
    sender.connect(receiver.local_addr()?)?;
    let total = AtomicU64::new(UNKNOWN);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(&receiver, size, start, &total));
        let sent = send(&sender, size, rate, start, time);
        // In any case, so that the receiver ends.
        total.store(sent.as_ref().map_or(0, |(sent, _)| *sent), Ordering::Release);
        let arrived = receiving.join().map_err(|_| anyhow!("the receiver panicked"))??;
        let (sent, sending) = sent?;
        let Arrived { received, reordered, receiving } = arrived;
        Ok(Flood { sent, received, reordered, sending, receiving })
    })
}

/// How many were sent, and how long that took.
fn send(
    socket: &UdpSocket,
    size: u16,
    rate: Option<f64>,
    start: Instant,
    time: Duration,
) -> Result<(u64, Duration)> {
    let mut packets = vec![vec![0u8; usize::from(size)]; BATCH];
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let mut sent = 0u64;
    loop {
        let elapsed = start.elapsed();
        if elapsed >= time {
            return Ok((sent, elapsed));
        }
        let due =
            rate.map_or(u64::MAX, |rate| (rate * elapsed.as_secs_f64()) as u64 + 1).saturating_sub(sent);
        let batch = due.min(BATCH as u64) as usize;
        if batch == 0 {
            std::thread::sleep(TICK);
            continue;
        }
        for (number, packet) in (sent..).zip(&mut packets[..batch]) {
            packet[..WORD].copy_from_slice(&number.to_le_bytes());
            packet[WORD..2 * WORD].copy_from_slice(&(elapsed.as_nanos() as u64).to_le_bytes());
        }
        let slices: Vec<_> = packets[..batch].iter().map(|packet| [IoSlice::new(packet)]).collect();
        let none = [None; BATCH];
        match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, none, [], MsgFlags::empty()) {
            Ok(results) => sent += results.count() as u64,
            // The interface's queue is full; a port that an earlier flow used has gone.
            Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => {}
            Err(error) => return Err(error).context("cannot send datagrams"),
        }
    }
}

struct Arrived {
    received: u64,
    reordered: u64,
    receiving: Duration,
}

/// Receives until all that were sent have come, or none for a while after the last was sent.
fn receive(socket: &UdpSocket, size: u16, start: Instant, total: &AtomicU64) -> Result<Arrived> {
    let mut packets = vec![vec![0u8; usize::from(size)]; BATCH];
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let mut order = Order::default();
    let (mut first, mut last) = (None, start);
    // On its way, the longest of all.
    let mut transit = Duration::ZERO;
    loop {
        let mut slices: Vec<_> = packets.iter_mut().map(|packet| [IoSliceMut::new(packet)]).collect();
        let none = MsgFlags::empty();
        let came = match recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), none, None) {
            Ok(results) => results.count(),
            Err(Errno::EAGAIN | Errno::EINTR) => 0,
            Err(error) => return Err(error).context("cannot receive datagrams"),
        };
        let total = total.load(Ordering::Acquire);
        if came > 0 {
            last = Instant::now();
            first.get_or_insert(last);
            for packet in &packets[..came] {
                let [number, sent] = words(packet);
                order.take(number);
                transit = transit.max((last - start).saturating_sub(Duration::from_nanos(sent)));
            }
        }
        let silent = came == 0 && last.elapsed() > SILENCE + transit * 2;
        if order.received >= total || total != UNKNOWN && silent {
            let receiving = first.map_or(Duration::ZERO, |first| last - first);
            return Ok(Arrived { received: order.received, reordered: order.reordered, receiving });
        }
        if came == 0 {
            std::thread::sleep(REST);
        }
    }
}

/// The two words at the start of a datagram: its number, and when it was sent, in nanoseconds from the start.
fn words(packet: &[u8]) -> [u64; 2] {
    let word = |at: usize| packet.get(at..at + WORD).and_then(|bytes| bytes.try_into().ok());
    [0, WORD].map(|at| word(at).map_or(0, u64::from_le_bytes))
}

/// Counts numbers that come.
#[derive(Default)]
struct Order {
    received: u64,
    reordered: u64,
    /// One more than the highest number so far.
    next: u64,
}

impl Order {
    fn take(&mut self, number: u64) {
        self.received += 1;
        self.reordered += u64::from(number < self.next);
        self.next = self.next.max(number + 1);
    }
}

fn per_second(count: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

/// Datagrams of one system call.
const BATCH: usize = 64;

/// Bytes of a number.
const WORD: usize = 8;

/// Between bursts of a flow with a rate: a sender that spins would take a core from the contender.
const TICK: Duration = Duration::from_micros(500);

/// Of a receiver that finds nothing. One that is woken by each datagram costs the sender's core more than the datagram
/// itself does; the buffer holds what comes meanwhile.
const REST: Duration = Duration::from_micros(200);

/// Without a datagram, after twice the time that the slowest took, no more will come: a queue that went on to empty
/// would have brought one.
const SILENCE: Duration = Duration::from_millis(80);

/// Bytes, before the kernel doubles it.
const RECEIVE_BUFFER: usize = 32 << 20;

const UNKNOWN: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_no_reordering_and_what_comes_late_is() {
        let mut order = Order::default();
        for number in [0, 1, 5, 2, 3, 6, 6] {
            order.take(number);
        }
        assert_eq!((order.received, order.reordered), (7, 3));
    }

    #[test]
    fn a_datagram_begins_with_its_number_and_its_time() {
        let packet = [[7, 0, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0], [9; 8]].concat();
        assert_eq!(words(&packet), [7, 257]);
        assert_eq!(words(&packet[..9]), [7, 0]);
    }

    #[test]
    fn the_rate_is_that_of_the_longer_end() {
        let second = Duration::from_secs(1);
        let flood = Flood { sent: 100, received: 50, reordered: 0, sending: second, receiving: second / 2 };
        assert!((flood.received_rate() - 50.0).abs() < 1e-9 && (flood.loss() - 0.5).abs() < 1e-9);
        let queued = Flood { receiving: second * 2, ..flood };
        assert!((queued.received_rate() - 25.0).abs() < 1e-9 && (queued.offered() - 100.0).abs() < 1e-9);
    }
}
