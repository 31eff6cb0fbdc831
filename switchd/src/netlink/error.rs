//! What can fail, with its mend.

use std::io;

/// Which step failed, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket, or no membership in its multicast groups.
    #[error(
        "cannot open a netlink socket: AF_NETLINK must be allowed (RestrictAddressFamilies= in the unit)"
    )]
    Open(#[source] io::Error),
    /// The kernel said no.
    #[error("cannot {step}: {mend}")]
    Refused {
        /// What was asked for.
        step: String,
        /// What helps.
        mend: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The connection ended, or the answer made no sense.
    #[error("cannot {step}: the netlink connection failed; restart switchd if it stays so")]
    Connection {
        /// What was asked for.
        step: String,
    },
    /// Nothing came back.
    #[error("cannot {step}: the kernel did not answer; it is tried again")]
    NoAnswer {
        /// What was asked for.
        step: String,
    },
    /// A link of another kind has the bridge's name.
    #[error("{name} is not a Linux bridge: give the network another 'bridge', or delete that device")]
    NotABridge {
        /// The link.
        name: String,
    },
    /// Created and deleted by someone else at once.
    #[error("the bridge {name} was gone right after it was created: something else on this node manages it")]
    Vanished {
        /// The bridge.
        name: String,
    },
}

impl NetlinkError {
    /// The kernel's error number, where it was the kernel that refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            NetlinkError::Open(source) | NetlinkError::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// The device that the step was about no longer exists.
    pub fn is_gone(&self) -> bool {
        self.errno() == Some(libc::ENODEV)
    }

    pub(super) fn from_step(step: &str, error: &rtnetlink::Error) -> NetlinkError {
        let step = step.to_owned();
        match error {
            rtnetlink::Error::NetlinkError(message) => {
                let source = message.to_io();
                NetlinkError::Refused { step, mend: mend(source.raw_os_error()), source }
            }
            _ => NetlinkError::Connection { step },
        }
    }
}

fn mend(errno: Option<i32>) -> &'static str {
    match errno {
        Some(libc::EPERM | libc::EACCES) => "run with CAP_NET_ADMIN",
        Some(libc::ENODEV) => "the device is gone; it is tried again when it is back",
        Some(libc::EEXIST) => "something else made it at the same time; it is tried again",
        Some(libc::EBUSY) => "the device belongs to another bridge or bond; release it from there",
        Some(libc::EOPNOTSUPP) => "the kernel lacks it; for a bridge: modprobe bridge",
        Some(libc::EINVAL | libc::ERANGE) => "the kernel does not take this value; check the configuration",
        Some(libc::ENOMEM | libc::ENOBUFS) => "the kernel is out of memory; it is tried again",
        _ => "see the kernel's log (dmesg)",
    }
}
