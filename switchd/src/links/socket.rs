//! QUIC's view of the node's one UDP socket: sends go straight out, receives come from the worker, which reads
//! the socket and keeps the sealed datagrams to itself.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll, ready};

use nat_traversal::{PathTable, Route};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::mpsc;

use super::MAX_UDP_PAYLOAD;
use crate::underlay::{QuicDatagram, Underlay};

/// Paths by peer, shared between the socket and the links.
pub(super) type SharedPaths = Arc<RwLock<PathTable>>;

/// The guest of the shared socket.
pub(super) struct QuicSocket {
    underlay: Arc<Underlay>,
    paths: SharedPaths,
    received: Mutex<mpsc::Receiver<QuicDatagram>>,
}

impl QuicSocket {
    pub(super) fn new(
        underlay: Arc<Underlay>,
        paths: SharedPaths,
        received: mpsc::Receiver<QuicDatagram>,
    ) -> QuicSocket {
        QuicSocket { underlay, paths, received: Mutex::new(received) }
    }
}

impl QuicSocket {
    /// The address that QUIC is shown for what came by `route`.
    fn source(&self, route: Route) -> SocketAddr {
        let known = self.paths.read().unwrap_or_else(PoisonError::into_inner).known(route);
        known.unwrap_or_else(|| self.paths.write().unwrap_or_else(PoisonError::into_inner).from_wire(route))
    }
}

impl AsyncUdpSocket for QuicSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let paths = self.paths.read().unwrap_or_else(PoisonError::into_inner);
        let Some(route) = paths.to_wire(transmit.destination) else {
            return Ok(()); // no path now: lost, as on any network
        };
        drop(paths);
        // A full socket buffer or an unreachable network is loss to QUIC, which repairs it.
        let _ = match transmit.segment_size {
            Some(size) => self.underlay.send_all_by(route, transmit.contents, size),
            None => self.underlay.send_by(route, transmit.contents),
        };
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        let mut filled = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let next = if filled == 0 {
                ready!(received.poll_recv(cx))
            } else {
                match received.poll_recv(cx) {
                    Poll::Ready(next) => next,
                    Poll::Pending => break,
                }
            };
            let Some(datagram) = next else {
                if filled > 0 {
                    break;
                }
                return Poll::Pending; // the worker has stopped, and the daemon with it
            };
            let len = datagram.payload.len().min(buf.len());
            buf[..len].copy_from_slice(&datagram.payload[..len]);
            let addr = self.source(datagram.route);
            *meta = RecvMeta { addr, len, stride: datagram.stride.min(len), ecn: None, dst_ip: None };
            filled += 1;
        }
        Poll::Ready(Ok(filled))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        // Virtual addresses are IPv6, and quinn dials no IPv6 address from a socket that says it is IPv4.
        let port = self.underlay.socket().local_addr()?.port();
        Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))
    }

    /// So that a run fits the buffers, each of which is made for so many packets of [`MAX_UDP_PAYLOAD`].
    fn max_receive_segments(&self) -> usize {
        QuicDatagram::RUN.div_ceil(usize::from(MAX_UDP_PAYLOAD))
    }

    fn max_transmit_segments(&self) -> usize {
        self.underlay.max_segments()
    }

    fn may_fragment(&self) -> bool {
        self.underlay.may_fragment()
    }
}

impl fmt::Debug for QuicSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicSocket").field("socket", self.underlay.socket() as &UdpSocket).finish()
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
