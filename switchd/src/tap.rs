//! The TAP device of an endpoint: frames and super-frames, each behind a virtio-net header
//! ([`switch_core::vnet`]), by one system call each.

mod sys;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use switch_core::vnet::VNET_HDR_LEN;

/// Longest name of a network device, in bytes (`IFNAMSIZ` less its terminator, include/uapi/linux/if.h).
pub const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// Bytes that [`Tap::read`] can return at most: the virtio-net header, an Ethernet header with two VLAN tags
/// and the largest IP packet (`GSO_MAX_SIZE` less one).
pub const READ_MAX: usize = VNET_HDR_LEN + 22 + 65535;

/// One open TAP. The device lives as long as this value, unless someone deletes it earlier.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
    index: u32,
    offloads: Offloads,
}

impl Tap {
    /// Creates the device `name` in the network namespace of the calling thread and turns on as many offloads as
    /// the kernel knows, or none if not wanted. The device is down and belongs to no bridge yet; it is
    /// non-blocking and closed on exec.
    pub fn open(name: &str, want_offloads: bool) -> Result<Tap, TapError> {
        if !is_valid_name(name) {
            return Err(TapError::Name { name: name.to_owned() });
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(DEV_NET_TUN)
            .map_err(TapError::Open)?;
        sys::set_iff(file.as_fd(), name)
            .map_err(|source| TapError::Create { name: name.to_owned(), source })?;
        sys::set_vnet_hdr_len(file.as_fd(), VNET_HDR_LEN).map_err(TapError::VnetHdr)?;
        sys::set_vnet_le(file.as_fd()).map_err(TapError::VnetHdr)?;
        let index = nix::net::if_::if_nametoindex(name)
            .map_err(|e| TapError::Index { name: name.to_owned(), source: e.into() })?;
        let mut tap = Tap { file, name: name.to_owned(), index, offloads: Offloads::NONE };
        tap.probe_offloads(want_offloads)?;
        Ok(tap)
    }

    /// Reads one local frame or super-frame with its virtio-net header; returns the bytes read. Give it
    /// [`READ_MAX`] bytes: the kernel truncates what does not fit.
    ///
    /// Errors: `WouldBlock` when nothing waits; one for which [`is_gone`] holds when the device was deleted
    /// under us, after which only dropping the value is of use. `poll` reports the latter as `POLLERR`.
    pub fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buf)
    }

    /// Writes one remote frame or super-frame: the first [`VNET_HDR_LEN`] bytes of `slices` are the virtio-net
    /// header. All of it is taken, or nothing.
    ///
    /// Errors: `EIO` while the device is down ([`is_down`]); `EINVAL` for a header that the kernel refuses;
    /// one for which [`is_gone`] holds when the device was deleted under us.
    pub fn write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        (&self.file).write_vectored(slices)
    }

    /// The offloads that are on.
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Turns offloads on or off: local frames then come accordingly. What depends on something that is off goes
    /// off too. On an error the former ones stay.
    pub fn set_offloads(&mut self, offloads: Offloads) -> io::Result<()> {
        let offloads = offloads.normalised();
        sys::set_offload(self.file.as_fd(), offloads.flags())?;
        self.offloads = offloads;
        Ok(())
    }

    /// The name that the device was opened with; someone may have renamed it since.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface index, which a renaming does not change.
    pub fn index(&self) -> u32 {
        self.index
    }

    fn probe_offloads(&mut self, want: bool) -> Result<(), TapError> {
        let levels: &[Offloads] =
            if want { &[Offloads::ALL, Offloads::NO_USO, Offloads::CSUM_ONLY] } else { &[] };
        if levels.iter().any(|level| self.set_offloads(*level).is_ok()) {
            return Ok(());
        }
        self.set_offloads(Offloads::NONE).map_err(TapError::Offload)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Which work the kernel leaves to the reader of the TAP, and accepts undone from its writer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Offloads {
    /// Partial checksums.
    pub csum: bool,
    /// TCP super-frames over IPv4.
    pub tso4: bool,
    /// TCP super-frames over IPv6.
    pub tso6: bool,
    /// TCP super-frames with the CWR bit.
    pub ecn: bool,
    /// UDP super-frames, both families (Linux 6.2).
    pub uso: bool,
}

impl Offloads {
    /// Every one.
    pub const ALL: Offloads = Offloads { csum: true, tso4: true, tso6: true, ecn: true, uso: true };
    /// All but UDP super-frames.
    pub const NO_USO: Offloads = Offloads { uso: false, ..Offloads::ALL };
    /// Partial checksums only: no super-frames.
    pub const CSUM_ONLY: Offloads = Offloads { csum: true, ..Offloads::NONE };
    /// Whole frames only.
    pub const NONE: Offloads = Offloads { csum: false, tso4: false, tso6: false, ecn: false, uso: false };

    /// The kernel wants partial checksums with every kind of super-frame, and answers EINVAL to ECN without
    /// TSO (`set_offload`, drivers/net/tun.c).
    fn normalised(self) -> Offloads {
        let (tso4, tso6) = (self.csum && self.tso4, self.csum && self.tso6);
        Offloads { csum: self.csum, tso4, tso6, ecn: self.ecn && (tso4 || tso6), uso: self.csum && self.uso }
    }

    /// As an argument to TUNSETOFFLOAD.
    fn flags(self) -> libc::c_uint {
        [
            (self.csum, libc::TUN_F_CSUM),
            (self.tso4, libc::TUN_F_TSO4),
            (self.tso6, libc::TUN_F_TSO6),
            (self.ecn, libc::TUN_F_TSO_ECN),
            (self.uso, libc::TUN_F_USO4 | libc::TUN_F_USO6),
        ]
        .iter()
        .filter(|(on, _)| *on)
        .fold(0, |flags, (_, flag)| flags | flag)
    }
}

impl fmt::Display for Offloads {
    /// `csum tso4 tso6 ecn uso`, those that are on, or `none`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.csum, "csum"),
            (self.tso4, "tso4"),
            (self.tso6, "tso6"),
            (self.ecn, "ecn"),
            (self.uso, "uso"),
        ];
        let on: Vec<&str> = all.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        f.pad(if on.is_empty() { "none".to_owned() } else { on.join(" ") }.as_str())
    }
}

/// Whether an error of [`Tap::read`] or [`Tap::write_vectored`] says that the device no longer exists: the kernel
/// detaches the descriptor from a deleted device and answers `EBADFD` from then on.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADFD | libc::ENODEV | libc::ENXIO))
}

/// Whether an error of [`Tap::write_vectored`] says that the device is down: the frame is lost, the next may pass.
pub fn is_down(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EIO)
}

/// What `dev_valid_name` (net/core/dev.c) takes, and nothing that the kernel would take as a pattern.
fn is_valid_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name != "."
        && name != ".."
        && !name.bytes().any(|b| matches!(b, b'/' | b':' | b'%' | 0) || b.is_ascii_whitespace())
}

/// Which step of opening the TAP failed.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The name cannot be a network device's.
    #[error(
        "'{name}' cannot name a network device: use 1 to {NAME_MAX} bytes without '/', ':', '%' and blanks"
    )]
    Name {
        /// What was asked for.
        name: String,
    },
    /// The clone device.
    #[error("cannot open {DEV_NET_TUN}: load the module (modprobe tun) and run with CAP_NET_ADMIN")]
    Open(#[source] io::Error),
    /// TUNSETIFF.
    #[error(
        "cannot create the TAP {name}: it takes CAP_NET_ADMIN, and a name that no other device has \
         (see: ip -d link show {name})"
    )]
    Create {
        /// The device.
        name: String,
        /// EPERM; EBUSY when another process holds a TAP of that name; EINVAL when it is another kind of device.
        #[source]
        source: io::Error,
    },
    /// TUNSETVNETHDRSZ or TUNSETVNETLE.
    #[error("the kernel refuses the virtio-net header on the TAP: Linux 4.0 or later is needed")]
    VnetHdr(#[source] io::Error),
    /// The device was renamed or deleted while it was being opened.
    #[error("the TAP {name} was gone right after it was created: something else on this node manages it")]
    Index {
        /// The device.
        name: String,
        /// ENODEV.
        #[source]
        source: io::Error,
    },
    /// TUNSETOFFLOAD, even for none.
    #[error("cannot set the offloads of the TAP")]
    Offload(#[source] io::Error),
}

const DEV_NET_TUN: &str = "/dev/net/tun";
