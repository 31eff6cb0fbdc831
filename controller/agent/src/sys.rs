//! System calls that no safe wrapper has: fork, mounts, capabilities, pidfds, TAP devices.

#![allow(unsafe_code, reason = "the system calls of the drivers")]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

mod raw {
    nix::ioctl_write_ptr_bad!(tun_set_iff, libc::TUNSETIFF, libc::ifreq);
    nix::ioctl_write_int_bad!(tun_set_persist, libc::TUNSETPERSIST);
}

/// Which side of a fork this is.
pub(crate) enum Fork {
    /// The parent, with the child's pid in the parent's pid namespace.
    Parent(i32),
    /// The child.
    Child,
}

/// Forks. Refused in a process with several threads, whose other threads' locks the child would inherit.
pub(crate) fn fork() -> io::Result<Fork> {
    if std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() != 1) {
        return Err(io::Error::other("fork in a process with several threads"));
    }
    // SAFETY: there is one thread, so the child's copy of the process is whole.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

/// Ends this process at once, without running destructors or exit handlers of the parent's copy.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: takes a number, does not return.
    unsafe { libc::_exit(status) }
}

/// PR_SET_PDEATHSIG: this process gets `signal` when its parent's thread ends.
pub(crate) fn die_with_parent() -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::c_ulong::try_from(libc::SIGKILL).map_err(io::Error::other)?)
}

/// PR_SET_NO_NEW_PRIVS: no program that is executed from here on gains privileges by its file.
pub(crate) fn no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

fn prctl(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: these options take numbers only.
    check(unsafe { libc::prctl(option, value, zero, zero, zero) })
}

/// Keeps the capabilities in `kept` (bits by number) and drops all others, for good: from the bounding, the
/// permitted, the effective, the inheritable and the ambient set.
pub(crate) fn keep_capabilities(kept: u64) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    const AMBIENT_CLEAR_ALL: libc::c_ulong = 4;

    let last: u32 = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(40);
    prctl(libc::PR_CAP_AMBIENT, AMBIENT_CLEAR_ALL)?;
    for capability in (0..=last).filter(|bit| kept & (1 << bit) == 0) {
        prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability))?;
    }
    let half = |shift: u32| {
        let bits = u32::try_from((kept >> shift) & 0xffff_ffff).unwrap_or(0);
        Data { effective: bits, permitted: bits, inheritable: 0 }
    };
    let header = Header { version: VERSION_3, pid: 0 };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads a header and two data structures, which live through the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// mount_setattr(2), recursive (Linux 5.12): everything under `path` read-only, without devices and set-uid.
pub(crate) fn read_only_tree(path: &CStr) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: the path is terminated, and the kernel reads a whole mount_attr of the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_RECURSIVE,
            &attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A descriptor of the process (Linux 5.3), which never means another one.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers; a result that is not -1 is a new descriptor that nobody else owns.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if fd == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(libc::c_int::try_from(fd).map_err(io::Error::other)?))
    }
}

/// Sends a signal to the descriptor's process.
pub(crate) fn pidfd_signal(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
    let none: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: the descriptor is open, and a null siginfo is allowed.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes a TAP device that stays when its descriptors are closed, as `ip tuntap add` does. With the virtio-net header
/// that QEMU asks for too.
pub(crate) fn make_tap(name: &str) -> io::Result<()> {
    let tun = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: ifreq is plain data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the descriptor is open for the calls, and `request` is a whole ifreq with a terminated name.
    unsafe {
        raw::tun_set_iff(tun.as_raw_fd(), &request)?;
        raw::tun_set_persist(tun.as_raw_fd(), 1)?;
    }
    Ok(())
}

/// Replaces standard output and standard error by `fd`.
pub(crate) fn redirect_output(fd: &OwnedFd) -> io::Result<()> {
    for to in [1, 2] {
        // SAFETY: both are descriptors; 1 and 2 are owned by nobody else in a shim.
        check(unsafe { libc::dup2(fd.as_raw_fd(), to) })?;
    }
    Ok(())
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
