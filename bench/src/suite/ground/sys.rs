//! The ioctls of /dev/net/tun (include/uapi/linux/if_tun.h).

#![allow(unsafe_code, reason = "the system calls of the forwarder's TAPs")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;

mod raw {
    use nix::libc;

    nix::ioctl_write_ptr_bad!(tun_set_iff, libc::TUNSETIFF, libc::ifreq);
    nix::ioctl_write_ptr_bad!(tun_set_vnet_hdr_sz, libc::TUNSETVNETHDRSZ, libc::c_int);
    nix::ioctl_write_int_bad!(tun_set_offload, libc::TUNSETOFFLOAD);
}

/// Creates a TAP in the calling thread's network namespace, with a virtio-net header of [`VNET_HEADER`] bytes.
/// Non-blocking, without offloads.
pub(super) fn open_tap(name: &str) -> io::Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: ifreq is plain data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags = FLAGS;
    // SAFETY: `request` is a whole ifreq with a terminated name, and lives through the call.
    unsafe { raw::tun_set_iff(file.as_raw_fd(), &request) }?;
    // SAFETY: the kernel reads one int, which lives through the call.
    unsafe { raw::tun_set_vnet_hdr_sz(file.as_raw_fd(), &VNET_HEADER) }?;
    Ok(file)
}

/// Lets super-packets of the kinds of `offloads` pass whole; an error, and nothing changed, where the kernel does not
/// know all of them.
pub(super) fn set_offloads(tap: &File, offloads: libc::c_int) -> io::Result<()> {
    // SAFETY: the argument is a number, no memory is involved.
    unsafe { raw::tun_set_offload(tap.as_raw_fd(), offloads) }?;
    Ok(())
}

/// Length of `struct virtio_net_hdr_v1_hash_tunnel` (include/uapi/linux/virtio_net.h), which describes packets of
/// tunnels too. Older kernels leave its end alone.
pub(super) const VNET_HEADER: libc::c_int = 24;
/// TUN_F_CSUM, TSO4, TSO6, TSO_ECN.
pub(super) const TCP: libc::c_int = 0x01 | 0x02 | 0x04 | 0x08;
/// TUN_F_USO4, USO6 (Linux 6.2).
pub(super) const UDP: libc::c_int = 0x20 | 0x40;
/// TUN_F_UDP_TUNNEL_GSO, UDP_TUNNEL_GSO_CSUM (Linux 6.17).
pub(super) const TUNNELS: libc::c_int = 0x080 | 0x100;
const FLAGS: libc::c_short = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
