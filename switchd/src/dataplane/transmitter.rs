//! Gathers sealed datagrams for one route and sends them in one system call (UDP GSO).
//!
//! Datagrams append to the newest batch only, so they leave in the order in which they came. A batch is of one class: the
//! kernels on its way treat it as one. What goes by a relay has the relay's header in front of each datagram, inside the
//! segment.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use nat_traversal::frame::{self, CHANNEL_HEADER, IndicationHead};
use nat_traversal::{RelayId, Route};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use switch_core::frame::ecn::Ecn;
use switch_core::wire::Lane;
use tokio::sync::mpsc;

use super::snapshot::Buckets;
use crate::underlay::{Carrier, Underlay, random_transaction};

/// The sending side of the data plane.
#[derive(Debug)]
pub(super) struct Transmitter {
    underlay: Arc<Underlay>,
    buf: Vec<u8>,
    len: usize,
    /// Length of every datagram of the batch but the last, with what the relay needs.
    stride: usize,
    count: usize,
    route: Option<Route>,
    class: Class,
    target: Target,
    wrap: Wrap,
    /// The last datagram was shorter: nothing may follow it.
    closed: bool,
    /// Datagrams in each send.
    pub(super) batches: Buckets<8>,
    /// Datagrams lost by errno.
    pub(super) errors: Vec<(i32, u64)>,
    /// The kernel said that a datagram of this length is longer than the path's MTU.
    pub(super) too_long: Option<(Route, usize)>,
}

/// What the datagrams of one batch have in common, besides their way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Class {
    /// The receiver's kernel sorts a batch as one.
    pub(super) lane: Lane,
    /// For the outer header. Relays are not known to hand marks on, so that what goes by one never has it.
    pub(super) ecn: Ecn,
}

impl Class {
    /// Of what no instance sent.
    pub(super) const OWN: Class = Class { lane: Lane::Prompt, ecn: Ecn::NotEct };
}

/// Where a batch goes.
#[derive(Debug)]
enum Target {
    Udp(SocketAddr),
    Stream(mpsc::Sender<Bytes>),
    /// The relay is gone.
    Nowhere,
}

/// What a relay needs around each datagram.
#[derive(Clone, Copy, Debug)]
enum Wrap {
    None,
    Channel(u16),
    Indication(SocketAddr),
}

impl Transmitter {
    pub(super) fn new(underlay: Arc<Underlay>) -> Transmitter {
        Transmitter {
            underlay,
            buf: vec![0; MAX_BATCH],
            len: 0,
            stride: 0,
            count: 0,
            route: None,
            class: Class { lane: Lane::Bulk, ecn: Ecn::NotEct },
            target: Target::Nowhere,
            wrap: Wrap::None,
            closed: false,
            batches: Buckets::new([1, 2, 4, 8, 16, 32, 64, 128]),
            errors: Vec::new(),
            too_long: None,
        }
    }

    /// Room for the next datagram, `len` bytes to be filled before anything else is asked of this.
    pub(super) fn reserve(&mut self, route: Route, class: Class, len: usize) -> &mut [u8] {
        let at = self.place(route, class, len);
        &mut self.buf[at]
    }

    /// Room for up to `count` datagrams of `len` bytes each, side by side: for one at least, and for as many as can
    /// leave together.
    pub(super) fn reserve_run(&mut self, route: Route, class: Class, len: usize, count: usize) -> &mut [u8] {
        let mut at = self.place(route, class, len);
        if matches!(self.wrap, Wrap::None) && !self.closed {
            let more = (self.underlay.max_segments().saturating_sub(self.count))
                .min((MAX_BATCH - self.len) / len.max(1))
                .min(count.saturating_sub(1));
            self.count += more;
            self.len += more * len;
            at.end = self.len;
        }
        &mut self.buf[at]
    }

    fn place(&mut self, route: Route, mut class: Class, len: usize) -> Range<usize> {
        if let Route::Relayed(..) = route {
            class.ecn = Ecn::NotEct;
        }
        let known = self.route == Some(route) && self.class == class;
        if !known {
            self.flush();
            self.class = class;
            self.set_target(route);
        }
        let front = match self.wrap {
            Wrap::None => 0,
            Wrap::Channel(_) => CHANNEL_HEADER,
            Wrap::Indication(peer) => return self.place_indication(route, peer, len),
        };
        let whole = front + len;
        let joins = known
            && !self.closed
            && whole <= self.stride
            && self.count < self.underlay.max_segments()
            && self.len + whole <= MAX_BATCH;
        if !joins {
            self.flush();
            self.route = Some(route);
            self.stride = whole;
        }
        self.closed = whole < self.stride;
        self.count += 1;
        let start = self.len;
        self.len += whole;
        if let Wrap::Channel(channel) = self.wrap {
            self.buf[start..start + front].copy_from_slice(&frame::channel_header(channel, len as u16));
        }
        start + front..start + whole
    }

    /// Until a channel is bound, each datagram is a message of its own.
    fn place_indication(&mut self, route: Route, peer: SocketAddr, len: usize) -> Range<usize> {
        self.flush();
        let head = frame::send_indication(peer, len, random_transaction());
        let head = head.as_ref().map_or(&[][..], IndicationHead::as_slice);
        let front = head.len();
        let whole = front + len + frame::stream_padding(len);
        self.buf[..front].copy_from_slice(head);
        self.buf[front + len..whole].fill(0);
        (self.route, self.stride, self.len, self.count) = (Some(route), whole, whole, 1);
        front..front + len
    }

    fn set_target(&mut self, route: Route) {
        (self.target, self.wrap) = match route {
            Route::Direct(destination) => (Target::Udp(destination), Wrap::None),
            Route::Relayed(relay, peer) => self.relayed(relay, peer),
        };
    }

    fn relayed(&self, id: RelayId, peer: SocketAddr) -> (Target, Wrap) {
        let table = self.underlay.relays().load();
        let Some(relay) = table.get(id) else { return (Target::Nowhere, Wrap::None) };
        let target = match &relay.carrier {
            Carrier::Udp(server) => Target::Udp(*server),
            Carrier::Stream(to) => Target::Stream(to.clone()),
        };
        (target, relay.channel(peer).map_or(Wrap::Indication(peer), Wrap::Channel))
    }

    /// Takes the last reservation back.
    pub(super) fn cancel(&mut self, len: usize) {
        let whole = match self.wrap {
            Wrap::None => len,
            Wrap::Channel(_) => CHANNEL_HEADER + len,
            Wrap::Indication(_) => self.len,
        };
        self.len -= whole;
        self.count -= 1;
        self.closed = false;
        if self.count == 0 {
            self.route = None;
        }
    }

    /// Sends what is gathered.
    pub(super) fn flush(&mut self) {
        let Some(route) = self.route.take() else { return };
        let (len, count) = (std::mem::take(&mut self.len), std::mem::take(&mut self.count));
        self.closed = false;
        self.batches.observe(count as u64);
        match &self.target {
            Target::Udp(destination) => {
                if let Err(e) = self.send(*destination, len, count) {
                    self.failed(route, e.raw_os_error().unwrap_or(0), count as u64);
                }
            }
            Target::Stream(to) => {
                let full = self.buf[..len].chunks(self.stride).filter(|message| {
                    let mut framed = message.to_vec();
                    framed.resize(message.len().next_multiple_of(4), 0);
                    to.try_send(framed.into()).is_err()
                });
                match full.count() as u64 {
                    0 => {}
                    lost => self.failed(route, libc::ENOBUFS, lost),
                }
            }
            Target::Nowhere => self.failed(route, libc::ENETUNREACH, count as u64),
        }
    }

    fn send(&self, destination: SocketAddr, len: usize, count: usize) -> io::Result<()> {
        let segment = (count > 1).then_some(self.stride);
        let ecn = self.class.ecn;
        let result = self.underlay.send(destination, &self.buf[..len], segment, ecn);
        if result.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock) {
            // The underlay's queue is full: wait for room, as a NIC's driver would, but not for ever.
            let mut fds = [PollFd::new(self.underlay.socket().as_fd(), PollFlags::POLLOUT)];
            let _ = poll(&mut fds, PollTimeout::from(MAX_WAIT_MS));
            return self.underlay.send(destination, &self.buf[..len], segment, ecn);
        }
        result
    }

    fn failed(&mut self, route: Route, errno: i32, datagrams: u64) {
        if errno == libc::EMSGSIZE {
            let front = match self.wrap {
                Wrap::None => 0,
                Wrap::Channel(_) | Wrap::Indication(_) => CHANNEL_HEADER,
            };
            self.too_long = Some((route, self.stride - front));
        }
        match self.errors.iter_mut().find(|(known, _)| *known == errno) {
            Some((_, lost)) => *lost += datagrams,
            None => self.errors.push((errno, datagrams)),
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

    const BULK: Class = Class { lane: Lane::Bulk, ecn: Ecn::NotEct };

    fn pair() -> (Transmitter, UdpSocket, SocketAddr) {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let address = peer.local_addr().unwrap();
        let underlay = Underlay::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        (Transmitter::new(Arc::new(underlay)), peer, address)
    }

    fn put(transmitter: &mut Transmitter, to: SocketAddr, len: usize, mark: u8) {
        transmitter.reserve(Route::Direct(to), BULK, len).fill(mark);
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
    fn a_run_has_room_for_what_leaves_together_and_no_more() {
        let (mut transmitter, peer, address) = pair();
        let (most, route) = (transmitter.underlay.max_segments(), Route::Direct(address));
        put(&mut transmitter, address, 100, 1);
        let run = transmitter.reserve_run(route, BULK, 100, 500);
        run.fill(2);
        assert_eq!(run.len() / 100, most - 1);
        let full = transmitter.reserve_run(route, BULK, 1000, 500);
        full.fill(3);
        assert_eq!(full.len() / 1000, most.min(MAX_BATCH / 1000));
        let (second, shorter) = (full.len() / 1000, transmitter.reserve_run(route, BULK, 99, 7));
        shorter.fill(4);
        assert_eq!(shorter.len(), 99 * if second < most { 1 } else { 7 });
        let last = shorter.len() / 99;
        transmitter.flush();
        let expected =
            [vec![(100, 1)], vec![(100, 2); most - 1], vec![(1000, 3); second], vec![(99, 4); last]];
        assert_eq!(take(&peer, most + second + last), expected.concat());
    }

    #[test]
    fn a_batch_is_of_one_class() {
        let (mut transmitter, peer, address) = pair();
        let (prompt, marked) = (Class::OWN, Class { ecn: Ecn::Ect0, ..BULK });
        for (mark, class) in [(1, BULK), (2, BULK), (3, prompt), (4, BULK), (5, marked), (6, marked)] {
            transmitter.reserve(Route::Direct(address), class, 100).fill(mark);
        }
        transmitter.flush();
        assert_eq!(take(&peer, 6), [(100, 1), (100, 2), (100, 3), (100, 4), (100, 5), (100, 6)]);
        assert_eq!(transmitter.batches.view().count(), 4);
    }

    #[test]
    fn the_outer_header_has_the_class_s_ecn_but_not_to_a_relay() {
        let (mut transmitter, _, _) = pair();
        let peer = Underlay::bind("[::]:0".parse().unwrap()).unwrap();
        let port = peer.socket().local_addr().unwrap().port();
        let (address, beyond) = (([127, 0, 0, 1], port).into(), "198.51.100.9:9".parse().unwrap());
        transmitter.underlay.relays().set_relay(RelayId(7), Some(Carrier::Udp(address)));
        transmitter.underlay.relays().set_channel(RelayId(7), beyond, Some(0x4002));
        let (direct, relayed) = (Route::Direct(address), Route::Relayed(RelayId(7), beyond));
        for ecn in [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce] {
            for (route, expected) in [(direct, ecn), (relayed, Ecn::NotEct)] {
                let run = transmitter.reserve_run(route, Class { ecn, ..Class::OWN }, 100, 2);
                run.fill(1);
                transmitter.flush();
                let mut buf = vec![0; 65_536];
                let mut meta = [quinn_udp::RecvMeta::default()];
                let mut fds = [PollFd::new(peer.socket().as_fd(), PollFlags::POLLIN)];
                poll(&mut fds, PollTimeout::from(2000u16)).unwrap();
                peer.recv(&mut [std::io::IoSliceMut::new(&mut buf)], &mut meta).unwrap();
                assert_eq!(crate::underlay::ecn_of(&meta[0]), expected, "{route:?}");
                while peer.recv(&mut [std::io::IoSliceMut::new(&mut buf)], &mut meta).is_ok() {}
            }
        }
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

    fn relayed(carrier: Carrier) -> (Transmitter, Route, SocketAddr) {
        let (transmitter, ..) = pair();
        let (id, beyond) = (RelayId(7), "198.51.100.9:9".parse().unwrap());
        transmitter.underlay.relays().set_relay(id, Some(carrier));
        (transmitter, Route::Relayed(id, beyond), beyond)
    }

    fn messages(transmitter: &mut Transmitter, route: Route, lens: &[usize]) {
        for (mark, len) in (1u8..).zip(lens) {
            transmitter.reserve(route, BULK, *len).fill(mark);
        }
        transmitter.flush();
    }

    #[test]
    fn each_datagram_to_a_relay_has_its_header_also_in_one_send() {
        let (_, relay, address) = pair();
        let (mut transmitter, route, beyond) = relayed(Carrier::Udp(address));
        transmitter.underlay.relays().set_channel(RelayId(7), beyond, Some(0x4002));
        messages(&mut transmitter, route, &[500, 500, 333]);
        assert_eq!(transmitter.batches.view().count(), 1);
        let mut buf = [0; 2048];
        for (mark, len) in [(1, 500), (2, 500), (3, 333)] {
            let got = relay.recv(&mut buf).unwrap();
            let (channel, payload) = frame::parse_channel(&buf[..got]).unwrap();
            assert_eq!((channel, payload.len(), got), (0x4002, len, len + CHANNEL_HEADER));
            assert!(payload.iter().all(|b| *b == mark));
        }
    }

    #[test]
    fn without_a_channel_a_datagram_goes_in_an_indication() {
        let (_, relay, address) = pair();
        let (mut transmitter, route, beyond) = relayed(Carrier::Udp(address));
        messages(&mut transmitter, route, &[50, 51]);
        let mut buf = [0; 2048];
        for (mark, len) in [(1, 50), (2, 51)] {
            let got = relay.recv(&mut buf).unwrap();
            buf[1] = 0x17; // a Send indication has the same form as a Data indication
            let (peer, payload) = frame::parse_data_indication(&buf[..got]).unwrap();
            assert_eq!((peer, payload.len(), got % 4), (beyond, len, 0));
            assert!(buf[payload].iter().all(|b| *b == mark));
        }
    }

    #[test]
    fn a_stream_gets_padded_messages_and_a_full_one_costs_only_datagrams() {
        let (to, mut written) = mpsc::channel(2);
        let (mut transmitter, route, beyond) = relayed(Carrier::Stream(to));
        transmitter.underlay.relays().set_channel(RelayId(7), beyond, Some(0x4002));
        messages(&mut transmitter, route, &[9, 9, 9]);
        for mark in [1, 2] {
            let message = written.try_recv().unwrap();
            assert_eq!((message.len(), message[3], message[4]), (16, 9, mark));
        }
        assert_eq!(transmitter.errors, [(libc::ENOBUFS, 1)]);
        transmitter.underlay.relays().set_relay(RelayId(7), None);
        messages(&mut transmitter, route, &[9]);
        assert_eq!(transmitter.errors, [(libc::ENOBUFS, 1), (libc::ENETUNREACH, 1)]);
    }

    /// Over loopback's MTU of 65,536 IPv6 carries 65,488 bytes of UDP.
    #[test]
    fn what_the_kernel_finds_too_long_is_told_without_the_relays_header() {
        let underlay = Underlay::bind("[::]:0".parse().unwrap()).unwrap();
        let mut transmitter = Transmitter::new(Arc::new(underlay));
        let peer = UdpSocket::bind("[::1]:0").unwrap();
        let (address, beyond) = (peer.local_addr().unwrap(), "198.51.100.9:9".parse().unwrap());
        transmitter.underlay.relays().set_relay(RelayId(7), Some(Carrier::Udp(address)));
        transmitter.underlay.relays().set_channel(RelayId(7), beyond, Some(0x4002));
        for route in [Route::Direct(address), Route::Relayed(RelayId(7), beyond)] {
            messages(&mut transmitter, route, &[65_500]);
            assert_eq!(transmitter.too_long.take(), Some((route, 65_500)));
            messages(&mut transmitter, route, &[65_400]);
            assert_eq!(transmitter.too_long.take(), None);
        }
        assert_eq!(transmitter.errors, [(libc::EMSGSIZE, 2)]);
    }
}
