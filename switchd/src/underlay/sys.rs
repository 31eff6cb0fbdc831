//! Sharing a UDP address between two sockets (SO_ATTACH_REUSEPORT_CBPF, socket(7)).

#![allow(unsafe_code, reason = "a socket option that takes a program")]

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};

use socket2::{SockRef, Socket};

/// Binds `bulk` to the address of `first`, and has the kernel give it the sealed datagrams of the bulk lane. Both have
/// SO_REUSEPORT. On an error `bulk` is to be closed.
pub(super) fn bind_for_lane(bulk: &UdpSocket, first: &Socket) -> io::Result<()> {
    SockRef::from(bulk).bind(&first.local_addr()?)?;
    // Only now do the two form a group that takes a program. What the kernel gave away by its own choice until then
    // is read all the same.
    attach(first)
}

fn attach(first: &Socket) -> io::Result<()> {
    let mut program = PROGRAM;
    let filter = libc::sock_fprog { len: PROGRAM.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel reads one sock_fprog and the instructions that it points to; both live through the call.
    let result = unsafe {
        libc::setsockopt(
            first.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Classic BPF over the UDP payload; returns which socket of the address, in the order in which they were bound. A load
/// beyond the end returns 0. Bulk are sealed datagrams (first byte 128 to 191) whose counter field has its highest bit
/// clear, also those in channel data (64 to 79: four bytes in front). QUIC's short headers begin alike: its connection
/// ids see to it that nothing looks sealed behind them (`links::connection_id`).
const PROGRAM: [libc::sock_filter; 12] = [
    op(libc::BPF_LDX | libc::BPF_IMM, 0, 0, 0),
    op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 0),
    op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0xf0, 0, 0),
    op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0x40, 0, 1),
    op(libc::BPF_LDX | libc::BPF_IMM, 4, 0, 0),
    op(libc::BPF_LD | libc::BPF_B | libc::BPF_IND, 0, 0, 0),
    op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0xc0, 0, 0),
    op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0x80, 0, 2),
    op(libc::BPF_LD | libc::BPF_B | libc::BPF_IND, 8, 0, 0),
    op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0x80, 0, 1),
    op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    op(libc::BPF_RET | libc::BPF_K, 1, 0, 0),
];

const fn op(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use switch_core::ids::ReceiverIndex;
    use switch_core::wire::{Header, Lane};

    use super::super::Underlay;

    fn sealed(lane: Lane, mark: u8) -> Vec<u8> {
        let header = Header { epoch: 1, receiver: ReceiverIndex(7), lane, counter: 1 };
        [&header.encode()[..], &[mark; 32]].concat()
    }

    #[test]
    fn the_bulk_lane_has_a_socket_of_its_own_and_all_else_the_other() {
        for listen in ["127.0.0.1:0", "[::]:0"] {
            let underlay = Underlay::bind(listen.parse().unwrap()).unwrap();
            let port = underlay.socket().local_addr().unwrap().port();
            let sockets: Vec<_> = underlay.sockets().collect();
            assert_eq!(sockets.len(), 2);
            for socket in &sockets {
                socket.set_nonblocking(false).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            }
            let from = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let to = SocketAddr::from(([127, 0, 0, 1], port));
            let wrapped = [&[0x40, 1, 0, 48][..], &sealed(Lane::Bulk, 2)].concat();
            let wrapped_prompt = [&[0x40, 1, 0, 48][..], &sealed(Lane::Prompt, 2)].concat();
            let bulk = [sealed(Lane::Bulk, 1), wrapped];
            let others = [
                sealed(Lane::Prompt, 3),
                wrapped_prompt,
                vec![0, 1, 0, 0],
                vec![0xc0; 1200],
                vec![0x80; 5],
                vec![],
                vec![0x41],
            ];
            for datagram in bulk.iter().chain(&others) {
                from.send_to(datagram, to).unwrap();
            }
            let mut buf = [0; 2048];
            for (socket, expected) in sockets.into_iter().zip([&others[..], &bulk[..]]) {
                for datagram in expected {
                    let len = socket.recv(&mut buf).unwrap();
                    assert_eq!(buf[..len], datagram[..], "{listen}");
                }
            }
        }
    }

    #[test]
    fn a_port_that_another_has_is_refused() {
        let first = Underlay::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let taken = first.socket().local_addr().unwrap();
        assert!(Underlay::bind(taken).is_err());
    }
}
