//! The node's one UDP address: IPv4 and IPv6, with GSO and GRO where the kernel has them; and the relays beside it.
//!
//! Two sockets share it. One sends, and receives all but the bulk lane's sealed datagrams, which the kernel puts into
//! the other: whatever waits there holds up nothing else.

mod relays;
mod sys;

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};

use bytes::Bytes;
use nat_traversal::{RelayId, Route, frame};
use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use switch_core::frame::ecn::Ecn;

pub(crate) use relays::Relay;
pub use relays::{Carrier, Relays};

/// The socket, shared by the worker (which alone receives) and by QUIC (which sends).
#[derive(Debug)]
pub struct Underlay {
    socket: UdpSocket,
    state: UdpSocketState,
    /// Gets the bulk lane, of the same address; without it all comes to the one socket.
    bulk: Option<(UdpSocket, UdpSocketState)>,
    /// QUIC's own: quinn-udp gives segmentation up for good after some errors, and strangers can make QUIC's sends
    /// fail.
    quic: UdpSocketState,
    dual_stack: bool,
    relays: Relays,
}

impl Underlay {
    /// Binds `listen`; the wildcard of IPv6 serves IPv4 too, and where the host has no IPv6 at all, the wildcard
    /// of IPv4 is bound in its place.
    pub fn bind(listen: SocketAddr) -> Result<Underlay, UnderlayError> {
        match Underlay::try_bind(listen) {
            Err(UnderlayError::Socket(e))
                if listen.ip().is_unspecified() && e.raw_os_error() == Some(libc::EAFNOSUPPORT) =>
            {
                tracing::warn!("no IPv6 on this host: the UDP socket serves IPv4 only");
                Underlay::try_bind(SocketAddr::new(
                    IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
                    listen.port(),
                ))
            }
            result => result,
        }
    }

    fn try_bind(listen: SocketAddr) -> Result<Underlay, UnderlayError> {
        let domain = Domain::for_address(listen);
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).map_err(UnderlayError::Socket)?;
        let dual_stack = listen.is_ipv6() && listen.ip().is_unspecified();
        if listen.is_ipv6() {
            socket.set_only_v6(!dual_stack).map_err(UnderlayError::Socket)?;
        }
        grow_buffers(&socket);
        socket.bind(&listen.into()).map_err(|source| UnderlayError::Bind { listen, source })?;
        let bulk = bulk_socket(&socket, listen, dual_stack).inspect_err(|e| {
            tracing::warn!(error = %e, "no socket for the bulk lane: small frames wait behind large ones");
        });
        let bulk = bulk.ok();
        let socket = UdpSocket::from(socket);
        let quic = socket_state(&socket).map_err(UnderlayError::Options)?;
        let state = socket_state(&socket).map_err(UnderlayError::Options)?;
        Ok(Underlay { socket, state, bulk, quic, dual_stack, relays: Relays::default() })
    }

    /// Sends one datagram, or with `segment` several of that size (the last may be shorter) in one system call, with
    /// this ECN in their IP headers.
    /// Where the kernel or the path's device refuses segmentation, they are sent one by one.
    pub fn send(
        &self,
        destination: SocketAddr,
        contents: &[u8],
        segment: Option<usize>,
        ecn: Ecn,
    ) -> io::Result<()> {
        let destination = self.wire_form(destination)?;
        let ecn = EcnCodepoint::from_bits(ecn as u8);
        let one = |contents, segment_size| {
            let transmit = Transmit { destination, ecn, contents, segment_size, src_ip: None };
            self.state.try_send((&self.socket).into(), &transmit)
        };
        let Some(size) = segment.filter(|size| *size < contents.len()) else {
            return one(contents, None);
        };
        let per_send = self.state.max_gso_segments();
        if per_send == 1 {
            return contents.chunks(size).try_for_each(|datagram| one(datagram, None));
        }
        contents.chunks(size * per_send).try_for_each(|batch| match one(batch, Some(size)) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EIO | libc::EINVAL)) => {
                batch.chunks(size).try_for_each(|datagram| one(datagram, None))
            }
            result => result,
        })
    }

    /// Sends one datagram by a route; for what is not frames. A relayed one is lost if its relay is gone, or is busy.
    pub fn send_by(&self, route: Route, contents: &[u8]) -> io::Result<()> {
        let (id, peer) = match route {
            Route::Direct(destination) => return self.send_one(destination, contents),
            Route::Relayed(id, peer) => (id, peer),
        };
        let table = self.relays.load();
        let relay = table.get(id).ok_or(io::ErrorKind::NotConnected)?;
        let too_long = |_| io::Error::from_raw_os_error(libc::EMSGSIZE);
        let len = u16::try_from(contents.len()).map_err(too_long)?;
        let mut message = match relay.channel(peer) {
            Some(channel) => [&frame::channel_header(channel, len), contents].concat(),
            None => {
                let head = frame::send_indication(peer, contents.len(), random_transaction());
                let head = head.ok_or_else(|| io::Error::from_raw_os_error(libc::EMSGSIZE))?;
                let mut message = [head.as_slice(), contents].concat();
                message.resize(message.len() + frame::stream_padding(contents.len()), 0);
                message
            }
        };
        match &relay.carrier {
            Carrier::Udp(server) => self.send_one(*server, &message),
            Carrier::Stream(to) => {
                message.resize(message.len().next_multiple_of(4), 0);
                to.try_send(message.into()).map_err(|_| io::ErrorKind::WouldBlock.into())
            }
        }
    }

    /// Sends a run of datagrams of one size, the last of which may be shorter, by a route that a link with a peer has.
    pub fn send_all_by(&self, route: Route, contents: &[u8], size: usize) -> io::Result<()> {
        match route {
            Route::Direct(destination) => {
                let whole = (MAX_SEND / size.max(1)).max(1) * size.max(1);
                contents
                    .chunks(whole)
                    .try_for_each(|run| self.send(destination, run, Some(size), Ecn::NotEct))
            }
            Route::Relayed(..) => {
                contents.chunks(size.max(1)).try_for_each(|datagram| self.send_by(route, datagram))
            }
        }
    }

    fn send_one(&self, destination: SocketAddr, contents: &[u8]) -> io::Result<()> {
        let destination = self.wire_form(destination)?;
        let transmit = Transmit { destination, ecn: None, contents, segment_size: None, src_ip: None };
        self.quic.try_send((&self.socket).into(), &transmit)
    }

    /// The relays that carry this node's datagrams.
    pub fn relays(&self) -> &Relays {
        &self.relays
    }

    /// Receives up to `bufs.len()` buffers of datagrams, but for sealed ones of the bulk lane; see
    /// [`RecvMeta::stride`] for several in one buffer.
    pub fn recv(&self, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> io::Result<usize> {
        self.state.recv((&self.socket).into(), bufs, meta)
    }

    /// The same for the bulk lane. Where it has no socket of its own, nothing comes here.
    pub fn recv_bulk(&self, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> io::Result<usize> {
        match &self.bulk {
            Some((socket, state)) => state.recv(socket.into(), bufs, meta),
            None => Ok(0),
        }
    }

    /// The socket that sends.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// All sockets that receive.
    pub fn sockets(&self) -> impl Iterator<Item = &UdpSocket> {
        std::iter::once(&self.socket).chain(self.bulk.as_ref().map(|(socket, _)| socket))
    }

    /// Whether the kernel could not be told to leave datagrams in one piece.
    pub fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    /// Datagrams in one send at most.
    pub fn max_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Port 0 is refused here: the kernel's EINVAL would look like a device that cannot segment.
    fn wire_form(&self, destination: SocketAddr) -> io::Result<SocketAddr> {
        match destination.ip() {
            _ if destination.port() == 0 => Err(io::ErrorKind::InvalidInput.into()),
            IpAddr::V4(ip) if self.dual_stack => {
                Ok(SocketAddr::new(ip.to_ipv6_mapped().into(), destination.port()))
            }
            _ => Ok(destination),
        }
    }
}

/// What the IP headers of what was received said.
pub(crate) fn ecn_of(meta: &RecvMeta) -> Ecn {
    meta.ecn.map_or(Ecn::NotEct, |codepoint| Ecn::from_octet(codepoint as u8))
}

/// QUIC packets that the worker read: one datagram, or a run of them.
#[derive(Debug)]
pub struct QuicDatagram {
    /// The way they came.
    pub route: Route,
    /// Their bytes, at most [`QuicDatagram::RUN`] where there are several.
    pub payload: Bytes,
    /// Length of every datagram but the last.
    pub stride: usize,
}

impl QuicDatagram {
    /// Bytes of a run at most.
    pub const RUN: usize = 16 << 10;
}

/// A STUN message that the worker read: a server's or relay's word, or a peer's check.
#[derive(Debug)]
pub struct StunDatagram {
    /// The way it came.
    pub route: Route,
    /// The address of this host that it was sent to; unknown beyond a relay, and where the kernel does not say.
    pub local: Option<IpAddr>,
    /// Its bytes.
    pub payload: Bytes,
}

/// What a relay sent by a stream: one message of channel data or one Data indication.
#[derive(Debug)]
pub struct StreamMessage {
    /// The relay.
    pub relay: RelayId,
    /// Its bytes.
    pub message: Bytes,
}

/// Of a STUN message that needs no answer, so that nobody has to guess it.
pub(crate) fn random_transaction() -> [u8; 12] {
    let mut bytes = [0; 12];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system has randomness");
    bytes
}

/// A second socket of the address that `first` has, to which the kernel gives sealed datagrams of the bulk lane.
/// `first` was bound alone, so that a port that is in use is noticed.
fn bulk_socket(
    first: &Socket,
    listen: SocketAddr,
    dual_stack: bool,
) -> io::Result<(UdpSocket, UdpSocketState)> {
    first.set_reuse_port(true)?;
    let second = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    if listen.is_ipv6() {
        second.set_only_v6(!dual_stack)?;
    }
    second.set_reuse_port(true)?;
    grow_buffers(&second);
    let second = UdpSocket::from(second);
    let state = socket_state(&second)?;
    sys::bind_for_lane(&second, first)?;
    Ok((second, state))
}

/// Has the socket do what its reader asks for, without the time of arrival: beside that, quinn-udp's buffer has no room
/// for the ECN of datagrams that the kernel put into one buffer.
fn socket_state(socket: &UdpSocket) -> io::Result<UdpSocketState> {
    let state = UdpSocketState::new(socket.into())?;
    nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::ReceiveTimestampns, &false)?;
    Ok(state)
}

/// Asks for [`SOCKET_BUFFER`] bytes each way, beyond the sysctl limits where privileges allow.
fn grow_buffers(socket: &Socket) {
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    let fd = socket;
    let _ = nix::sys::socket::setsockopt(fd, nix::sys::socket::sockopt::RcvBufForce, &SOCKET_BUFFER);
    let _ = nix::sys::socket::setsockopt(fd, nix::sys::socket::sockopt::SndBufForce, &SOCKET_BUFFER);
}

/// Which step of opening the socket failed.
#[derive(Debug, thiserror::Error)]
pub enum UnderlayError {
    /// socket(2).
    #[error("cannot make a UDP socket")]
    Socket(#[source] io::Error),
    /// bind(2).
    #[error("cannot bind UDP {listen}: set node.listen to a free port and an address of this host")]
    Bind {
        /// From the configuration.
        listen: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// setsockopt(2).
    #[error("cannot set up the UDP socket")]
    Options(#[source] io::Error),
}

/// The largest UDP payload over IPv4, and so what one system call sends at most, bytes.
const MAX_SEND: usize = 65_507;
/// Several GSO sends of 64 KiB may wait in each direction.
const SOCKET_BUFFER: usize = 4 << 20;
