//! The ioctls of /dev/net/tun (include/uapi/linux/if_tun.h).

#![allow(unsafe_code, reason = "the system calls of the TAP")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

mod raw {
    nix::ioctl_write_ptr_bad!(tun_set_iff, libc::TUNSETIFF, libc::ifreq);
    nix::ioctl_write_ptr_bad!(tun_set_vnet_hdr_sz, libc::TUNSETVNETHDRSZ, libc::c_int);
    nix::ioctl_write_ptr_bad!(tun_set_vnet_le, libc::TUNSETVNETLE, libc::c_int);
    nix::ioctl_write_int_bad!(tun_set_offload, libc::TUNSETOFFLOAD);
}

/// TUNSETIFF: makes the descriptor a TAP named `name`, with a virtio-net header and no packet information.
/// `name` is shorter than `IFNAMSIZ`.
pub(super) fn set_iff(fd: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    // SAFETY: ifreq is plain data, for which all zeroes is a value.
    let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in req.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    req.ifr_ifru.ifru_flags = IFF_FLAGS;
    // SAFETY: the descriptor is open for the call, and `req` is a whole ifreq with a terminated name.
    unsafe { raw::tun_set_iff(fd.as_raw_fd(), &req) }?;
    Ok(())
}

/// TUNSETVNETHDRSZ, in bytes.
pub(super) fn set_vnet_hdr_len(fd: BorrowedFd<'_>, len: usize) -> io::Result<()> {
    let len = libc::c_int::try_from(len).map_err(io::Error::other)?;
    // SAFETY: the kernel reads one int, which lives through the call.
    unsafe { raw::tun_set_vnet_hdr_sz(fd.as_raw_fd(), &len) }?;
    Ok(())
}

/// TUNSETVNETLE: the header is little-endian whatever the machine is.
pub(super) fn set_vnet_le(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the kernel reads one int, which lives through the call.
    unsafe { raw::tun_set_vnet_le(fd.as_raw_fd(), &1) }?;
    Ok(())
}

/// TUNSETOFFLOAD: all of `flags` (TUN_F_*), or EINVAL and nothing changed.
pub(super) fn set_offload(fd: BorrowedFd<'_>, flags: libc::c_uint) -> io::Result<()> {
    let flags = libc::c_int::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: the argument is a number, no memory is involved.
    unsafe { raw::tun_set_offload(fd.as_raw_fd(), flags) }?;
    Ok(())
}

const IFF_FLAGS: libc::c_short = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
