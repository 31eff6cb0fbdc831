//! The AF_PACKET calls that no crate of ours covers (packet(7)).
#![allow(unsafe_code, reason = "raw socket calls; each block says why it is sound")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// One received frame, as the kernel describes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    /// Bytes written to the buffer.
    pub(crate) len: usize,
    /// True for a frame that this host sends through the device (PACKET_OUTGOING).
    pub(crate) sent: bool,
    /// The outermost VLAN tag (TPID, TCI): the kernel takes it out of the frame before packet sockets see it.
    pub(crate) vlan: Option<(u16, u16)>,
}

/// Binds a packet socket to all EtherTypes of one interface and asks for VLAN tags beside the frames.
pub(crate) fn bind(fd: BorrowedFd<'_>, ifindex: u32) -> io::Result<()> {
    // SAFETY: sockaddr_ll is plain data for which all-zero bytes are a value.
    let mut addr: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    addr.sll_family = libc::AF_PACKET as u16;
    addr.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    addr.sll_ifindex = ifindex as i32;
    let on: libc::c_int = 1;
    // SAFETY: both pointers are to live locals of the lengths given.
    let results = unsafe {
        [
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_AUXDATA,
                (&raw const on).cast(),
                size_of_val(&on) as u32,
            ),
            libc::bind(fd.as_raw_fd(), (&raw const addr).cast(), size_of_val(&addr) as u32),
        ]
    };
    if results == [0, 0] { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Receives one frame into `buf`.
pub(crate) fn recv(fd: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<Received> {
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    let mut control = [0u64; 16];
    // SAFETY: sockaddr_ll and msghdr are plain data for which all-zero bytes are a value.
    let (mut addr, mut msg): (libc::sockaddr_ll, libc::msghdr) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    msg.msg_name = (&raw mut addr).cast();
    msg.msg_namelen = size_of_val(&addr) as u32;
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.as_mut_ptr().cast();
    msg.msg_controllen = size_of_val(&control);
    // SAFETY: every pointer in `msg` is to a live local of the length given beside it.
    let len = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut msg, 0) };
    if len < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Received { len: len as usize, sent: addr.sll_pkttype == libc::PACKET_OUTGOING, vlan: vlan_of(&msg) })
}

fn vlan_of(msg: &libc::msghdr) -> Option<(u16, u16)> {
    // SAFETY: `msg` was filled by recvmsg and its control buffer still lives; the CMSG macros stay within it.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(msg);
        while let Some(cmsg) = header.as_ref() {
            if cmsg.cmsg_level == libc::SOL_PACKET && cmsg.cmsg_type == libc::PACKET_AUXDATA {
                let aux: libc::tpacket_auxdata =
                    libc::CMSG_DATA(cmsg).cast::<libc::tpacket_auxdata>().read_unaligned();
                if aux.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                    return Some((aux.tp_vlan_tpid, aux.tp_vlan_tci));
                }
            }
            header = libc::CMSG_NXTHDR(msg, cmsg);
        }
    }
    None
}
