//! One UDP socket, with GSO and GRO where the kernel has them.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;

/// A socket in the relay's runtime.
pub(super) struct UdpPort {
    socket: tokio::net::UdpSocket,
    state: UdpSocketState,
    /// For batches alone: quinn-udp gives segmentation up for good after some errors.
    batches: RefCell<UdpSocketState>,
    renewed: Cell<Instant>,
    segments: usize,
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
        let batches = UdpSocketState::new((&socket).into())?;
        Ok(UdpPort {
            socket: tokio::net::UdpSocket::from_std(socket)?,
            state,
            segments: batches.max_gso_segments(),
            batches: RefCell::new(batches),
            renewed: Cell::new(Instant::now()),
            dual_stack,
        })
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
        // The kernel's EINVAL would look like a device that cannot segment, and anybody can invent such a source.
        if destination.port() == 0 || is_link_local(destination.ip()) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let one = |contents: &[u8]| {
            let transmit = Transmit { destination, ecn: None, contents, segment_size: None, src_ip: source };
            self.state.try_send((&self.socket).into(), &transmit)
        };
        if segment >= contents.len() {
            return one(contents);
        }
        // One that does not leave keeps none of the others.
        let one_by_one = |batch: &[u8]| batch.chunks(segment).map(one).fold(Ok(()), Result::and);
        self.renew();
        let batches = self.batches.borrow();
        let per_send = batches.max_gso_segments();
        if per_send == 1 {
            return one_by_one(contents);
        }
        let together = |batch: &[u8]| {
            let segment_size = Some(segment);
            let transmit = Transmit { destination, ecn: None, contents: batch, segment_size, src_ip: source };
            match batches.try_send((&self.socket).into(), &transmit) {
                // Where the device cannot segment, or the path takes less (newer kernels: EMSGSIZE): a datagram that is
                // too long does not take a shorter one behind it along.
                Err(error) if matches!(error.raw_os_error(), Some(EIO | EINVAL | EMSGSIZE)) => {
                    one_by_one(batch)
                }
                result => result,
            }
        };
        contents.chunks(segment * per_send).map(together).fold(Ok(()), Result::and)
    }

    /// What failed for one path need not fail for the others.
    fn renew(&self) {
        let gave_up = self.batches.borrow().max_gso_segments() < self.segments;
        if !gave_up || self.renewed.get().elapsed() < RENEW_AFTER {
            return;
        }
        self.renewed.set(Instant::now());
        if let Ok(state) = UdpSocketState::new((&self.socket).into()) {
            self.batches.replace(state);
        }
    }
}

/// Without the link it leads nowhere, and a relay is not on one's own link.
fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local() || ip.is_unspecified())
}

const RENEW_AFTER: Duration = Duration::from_secs(10);
const EIO: i32 = nix::errno::Errno::EIO as i32;
const EINVAL: i32 = nix::errno::Errno::EINVAL as i32;
const EMSGSIZE: i32 = nix::errno::Errno::EMSGSIZE as i32;
