//! Gathers sealed datagrams for one destination and sends them in one system call (UDP GSO).
//!
//! Datagrams append to the newest batch only, so they leave in the order in which they came.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

use super::snapshot::Buckets;
use crate::underlay::Underlay;

/// The sending side of the data plane.
#[derive(Debug)]
pub(super) struct Transmitter {
    underlay: Arc<Underlay>,
    buf: Vec<u8>,
    len: usize,
    /// Length of every datagram of the batch but the last.
    stride: usize,
    count: usize,
    destination: Option<SocketAddr>,
    /// The last datagram was shorter: nothing may follow it.
    closed: bool,
    /// Datagrams in each send.
    pub(super) batches: Buckets<8>,
    /// Datagrams lost by errno.
    pub(super) errors: Vec<(i32, u64)>,
    /// The kernel said that a datagram is longer than the path's MTU; whose it was.
    pub(super) too_long: Option<SocketAddr>,
}

impl Transmitter {
    pub(super) fn new(underlay: Arc<Underlay>) -> Transmitter {
        Transmitter {
            underlay,
            buf: vec![0; MAX_BATCH],
            len: 0,
            stride: 0,
            count: 0,
            destination: None,
            closed: false,
            batches: Buckets::new([1, 2, 4, 8, 16, 32, 64, 128]),
            errors: Vec::new(),
            too_long: None,
        }
    }

    /// Room for the next datagram, `len` bytes to be filled before anything else is asked of this.
    pub(super) fn reserve(&mut self, destination: SocketAddr, len: usize) -> &mut [u8] {
        let joins = self.destination == Some(destination)
            && !self.closed
            && len <= self.stride
            && self.count < self.underlay.max_segments()
            && self.len + len <= MAX_BATCH;
        if !joins {
            self.flush();
            self.destination = Some(destination);
            self.stride = len;
        }
        self.closed = len < self.stride;
        self.count += 1;
        let start = self.len;
        self.len += len;
        &mut self.buf[start..start + len]
    }

    /// Takes the last reservation back.
    pub(super) fn cancel(&mut self, len: usize) {
        self.len -= len;
        self.count -= 1;
        self.closed = false;
        if self.count == 0 {
            self.destination = None;
        }
    }

    /// Sends what is gathered.
    pub(super) fn flush(&mut self) {
        let Some(destination) = self.destination.take() else { return };
        let (len, count) = (std::mem::take(&mut self.len), std::mem::take(&mut self.count));
        self.closed = false;
        let segment = (count > 1).then_some(self.stride);
        self.batches.observe(count as u64);
        let mut result = self.underlay.send(destination, &self.buf[..len], segment);
        if result.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock) {
            // The underlay's queue is full: wait for room, as a NIC's driver would, but not for ever.
            let mut fds = [PollFd::new(self.underlay.socket().as_fd(), PollFlags::POLLOUT)];
            let _ = poll(&mut fds, PollTimeout::from(MAX_WAIT_MS));
            result = self.underlay.send(destination, &self.buf[..len], segment);
        }
        if let Err(e) = result {
            let errno = e.raw_os_error().unwrap_or(0);
            if errno == libc::EMSGSIZE {
                self.too_long = Some(destination);
            }
            match self.errors.iter_mut().find(|(known, _)| *known == errno) {
                Some((_, lost)) => *lost += count as u64,
                None => self.errors.push((errno, count as u64)),
            }
        }
    }
}

/// The largest UDP payload over IPv4, and so the largest GSO send.
const MAX_BATCH: usize = 65_507;
const MAX_WAIT_MS: u8 = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    fn pair() -> (Transmitter, UdpSocket, SocketAddr) {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let address = peer.local_addr().unwrap();
        let underlay = Underlay::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        (Transmitter::new(Arc::new(underlay)), peer, address)
    }

    fn put(transmitter: &mut Transmitter, to: SocketAddr, len: usize, mark: u8) {
        transmitter.reserve(to, len).fill(mark);
    }

    fn take(peer: &UdpSocket, datagrams: usize) -> Vec<(usize, u8)> {
        let mut buf = [0; 2048];
        let mut seen = Vec::new();
        for _ in 0..datagrams {
            let len = peer.recv(&mut buf).unwrap();
            assert!(buf[..len].iter().all(|b| *b == buf[0]), "a datagram of one kind of byte");
            seen.push((len, buf[0]));
        }
        seen
    }

    #[test]
    fn datagrams_of_mixed_sizes_arrive_whole_and_in_order() {
        let (mut transmitter, peer, address) = pair();
        let sizes = [700, 700, 700, 300, 300, 900, 900, 10, 1200];
        for (mark, len) in (0u8..).zip(sizes) {
            put(&mut transmitter, address, len, mark);
        }
        transmitter.flush();
        let expected: Vec<(usize, u8)> = sizes.into_iter().zip(0u8..).collect();
        assert_eq!(take(&peer, sizes.len()), expected);
        // Three of 700 and the shorter 300 in one send; 300; two of 900 and 10; 1200.
        assert_eq!(transmitter.batches.view().count(), 4);
    }

    #[test]
    fn a_full_batch_leaves_by_itself() {
        let (mut transmitter, peer, address) = pair();
        for mark in 0..100u8 {
            put(&mut transmitter, address, 1000, mark);
        }
        transmitter.flush();
        let expected: Vec<(usize, u8)> = (0..100).map(|mark| (1000, mark)).collect();
        assert_eq!(take(&peer, 100), expected);
    }

    #[test]
    fn a_cancelled_datagram_is_not_sent() {
        let (mut transmitter, peer, address) = pair();
        put(&mut transmitter, address, 100, 1);
        put(&mut transmitter, address, 50, 2);
        transmitter.cancel(50);
        put(&mut transmitter, address, 100, 3);
        transmitter.flush();
        put(&mut transmitter, address, 20, 4);
        transmitter.cancel(20);
        transmitter.flush();
        put(&mut transmitter, address, 30, 5);
        transmitter.flush();
        assert_eq!(take(&peer, 3), [(100, 1), (100, 3), (30, 5)]);
    }

    #[test]
    fn a_refused_datagram_is_counted_and_does_not_stop_the_rest() {
        let (mut transmitter, peer, address) = pair();
        put(&mut transmitter, "255.255.255.255:9".parse().unwrap(), 10, 1);
        put(&mut transmitter, address, 10, 2);
        transmitter.flush();
        assert_eq!(take(&peer, 1), [(10, 2)]);
        assert_eq!(transmitter.errors, [(libc::EACCES, 1)]);
    }
}
