//! One UDP socket, with GSO and GRO where the kernel has them.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;

/// A socket in the relay's runtime.
pub(super) struct UdpPort {
    socket: tokio::net::UdpSocket,
    state: UdpSocketState,
    dual_stack: bool,
}

/// Binds; the wildcard of IPv6 serves IPv4 too.
pub(in super::super) fn bind(address: SocketAddr, buffer: usize) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // As much as the limits of this host give.
    let _ = socket.set_recv_buffer_size(buffer);
    let _ = socket.set_send_buffer_size(buffer);
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

impl UdpPort {
    pub(super) fn new(socket: UdpSocket) -> io::Result<UdpPort> {
        let state = UdpSocketState::new((&socket).into())?;
        let local = socket.local_addr()?;
        let dual_stack = local.is_ipv6() && local.ip().is_unspecified();
        Ok(UdpPort { socket: tokio::net::UdpSocket::from_std(socket)?, state, dual_stack })
    }

    pub(super) fn local_port(&self) -> io::Result<u16> {
        self.socket.local_addr().map(|address| address.port())
    }

    pub(super) async fn readable(&self) {
        // Fails only while the runtime ends; then nothing is polled any more.
        let _ = self.socket.readable().await;
    }

    pub(super) fn try_recv(&self, bufs: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> io::Result<usize> {
        self.socket.try_io(Interest::READABLE, || self.state.recv((&self.socket).into(), bufs, metas))
    }

    /// Sends datagrams of `segment` bytes, the last of which may be shorter. What the kernel has no room for is lost.
    pub(super) fn send(
        &self,
        destination: SocketAddr,
        source: Option<IpAddr>,
        contents: &[u8],
        segment: usize,
    ) -> io::Result<()> {
        let destination = match destination.ip() {
            IpAddr::V4(ip) if self.dual_stack => {
                SocketAddr::new(ip.to_ipv6_mapped().into(), destination.port())
            }
            _ => destination,
        };
        let one = |contents: &[u8], segment_size| {
            let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip: source };
            self.state.try_send((&self.socket).into(), &transmit)
        };
        if segment >= contents.len() {
            return one(contents, None);
        }
        let one_by_one = |batch: &[u8]| batch.chunks(segment).try_for_each(|datagram| one(datagram, None));
        let per_send = self.state.max_gso_segments();
        if per_send == 1 {
            return one_by_one(contents);
        }
        contents.chunks(segment * per_send).try_for_each(|batch| match one(batch, Some(segment)) {
            // Where the device cannot segment.
            Err(error) if matches!(error.raw_os_error(), Some(EIO | EINVAL)) => one_by_one(batch),
            result => result,
        })
    }
}

const EIO: i32 = nix::errno::Errno::EIO as i32;
const EINVAL: i32 = nix::errno::Errno::EINVAL as i32;
