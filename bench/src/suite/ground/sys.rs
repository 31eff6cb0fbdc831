//! The ioctls of /dev/net/tun that the switch itself has no use for (include/uapi/linux/if_tun.h).

#![allow(unsafe_code, reason = "the system calls of the forwarder's TAPs")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;

mod raw {
    use nix::libc;

    nix::ioctl_write_ptr_bad!(tun_set_vnet_hdr_sz, libc::TUNSETVNETHDRSZ, libc::c_int);
    nix::ioctl_write_int_bad!(tun_set_offload, libc::TUNSETOFFLOAD);
}

/// Lets super-packets inside UDP tunnels such as VXLAN pass whole, beside all others (Linux 6.17). An error, and
/// nothing changed, where the kernel cannot.
pub(super) fn take_tunnels(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the kernel reads one int, which lives through the call.
    unsafe { raw::tun_set_vnet_hdr_sz(fd.as_raw_fd(), &TUNNEL_HEADER) }?;
    // SAFETY: the argument is a number, no memory is involved.
    if let Err(error) = unsafe { raw::tun_set_offload(fd.as_raw_fd(), ALL) } {
        // SAFETY: as above.
        unsafe { raw::tun_set_vnet_hdr_sz(fd.as_raw_fd(), &PLAIN_HEADER) }?;
        return Err(error.into());
    }
    Ok(())
}

/// Length of `struct virtio_net_hdr_v1_hash_tunnel` (include/uapi/linux/virtio_net.h).
pub(super) const TUNNEL_HEADER: libc::c_int = 24;
/// What [`switchd::tap::Tap`] sets.
const PLAIN_HEADER: libc::c_int = switch_core::vnet::VNET_HDR_LEN as libc::c_int;
/// TUN_F_CSUM, TSO4, TSO6, TSO_ECN, USO4, USO6, UDP_TUNNEL_GSO, UDP_TUNNEL_GSO_CSUM.
const ALL: libc::c_int = 0x01 | 0x02 | 0x04 | 0x08 | 0x20 | 0x40 | 0x080 | 0x100;
