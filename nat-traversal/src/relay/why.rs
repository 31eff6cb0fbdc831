//! Why a relay does not serve, in words for people.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Why an allocation is gone, or was never made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LostReason {
    /// No answer to a request and its repetitions.
    Silent,
    /// 437 to anything but Allocate: the relay was started anew, or sees this node at another address.
    Forgotten,
    /// 437 to Allocate: an allocation of before was in the way, and the relay removes it.
    Leftover,
    /// 437 to Allocate, and the allocation of before could not be removed: it ends by itself.
    Occupied,
    /// The allocation's lifetime passed without a refresh.
    Expired,
    /// 401 to a signed request, or 441.
    Credentials,
    /// 403.
    Forbidden,
    /// 440 or 442: not this address family, or not UDP.
    Unsupported,
    /// 486.
    Quota,
    /// 508.
    Full,
    /// Another error answer, with its code (0: none was given).
    Refused(u16),
    /// The connection to the relay broke, or carried what cannot be read.
    Stream,
}

impl LostReason {
    /// Whether a new client needs new credentials to do better.
    pub fn needs_credentials(self) -> bool {
        self == LostReason::Credentials
    }

    /// Whether the relay answered, and will say the same to the next client for some time.
    pub fn is_refusal(self) -> bool {
        matches!(
            self,
            LostReason::Occupied
                | LostReason::Credentials
                | LostReason::Forbidden
                | LostReason::Unsupported
                | LostReason::Quota
                | LostReason::Full
                | LostReason::Refused(_)
        )
    }

    /// How long to wait before the next client, at least: an earlier one would be refused for the same reason.
    pub fn retry_after(self) -> Duration {
        match self {
            // coturn removes within a second or so, and begins again if it is asked again.
            LostReason::Leftover => Duration::from_secs(2),
            LostReason::Occupied | LostReason::Forbidden | LostReason::Unsupported => Duration::from_secs(30),
            _ => Duration::ZERO,
        }
    }

    /// What an error answer to Allocate or Refresh means.
    pub(crate) fn of_code(code: u16) -> LostReason {
        match code {
            401 | 441 => LostReason::Credentials,
            403 => LostReason::Forbidden,
            437 => LostReason::Forgotten,
            440 | 442 => LostReason::Unsupported,
            486 => LostReason::Quota,
            508 => LostReason::Full,
            other => LostReason::Refused(other),
        }
    }
}

impl fmt::Display for LostReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self {
            LostReason::Silent => "the relay does not answer",
            LostReason::Forgotten => {
                "the relay does not know this node's allocation (437): it was started anew, or sees the node at \
                 another address"
            }
            LostReason::Leftover => "an allocation of before was in the way (437) and has been removed",
            LostReason::Occupied => {
                "an allocation of before, with other credentials, is in the way (437) until it expires"
            }
            LostReason::Expired => "the allocation expired",
            LostReason::Credentials => {
                "the relay refuses the credentials (401 or 441): they are wrong, or have expired"
            }
            LostReason::Forbidden => "the relay forbids an allocation (403): see its access rules",
            LostReason::Unsupported => {
                "the relay does not offer this address family or transport (440 or 442)"
            }
            LostReason::Quota => "the user has as many allocations as the relay allows (486)",
            LostReason::Full => "the relay has no address or port left (508)",
            LostReason::Refused(0) => "the relay refused without a reason",
            LostReason::Refused(code) => return write!(f, "the relay refused with error {code}"),
            LostReason::Stream => "the connection to the relay broke",
        };
        f.write_str(words)
    }
}

/// Why a relay does not forward to and from a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PeerRefusal {
    /// 403.
    #[error("the relay forbids traffic with this peer (403): see its access rules")]
    Forbidden,
    /// 486 or 508.
    #[error("the relay has no room for another peer (486 or 508)")]
    Full,
    /// 443.
    #[error("the relay's allocation is of the other address family (443)")]
    Family,
    /// Another error answer (0: none was given).
    #[error("the relay refused with error {0}")]
    Refused(u16),
    /// No answer, or not kept fresh.
    #[error("the relay did not answer")]
    Silent,
    /// The peer's former channel number may not be used again yet (RFC 8656, 12).
    #[error("the peer's channel expired, and cannot be bound again for five minutes")]
    Cooling,
    /// See [`RelayError::NotAllowed`].
    #[error("the peer's address is not a global one, and the relay's is")]
    NotAllowed,
}

impl PeerRefusal {
    pub(crate) fn of_code(code: u16) -> PeerRefusal {
        match code {
            403 => PeerRefusal::Forbidden,
            486 | 508 => PeerRefusal::Full,
            443 => PeerRefusal::Family,
            other => PeerRefusal::Refused(other),
        }
    }
}

/// Why a relay is not asked to forward to and from a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RelayError {
    /// A global relay is not asked for private, loopback and link-local addresses: it cannot reach them, and
    /// some relays close the whole allocation when they try.
    #[error("{0} is not a global address, and the relay's is")]
    NotAllowed(IpAddr),
    /// An allocation reaches addresses of its own family only.
    #[error("{0} is not of the allocation's address family")]
    Family(IpAddr),
    /// Nothing can be sent to port 0.
    #[error("{0} is no address to send to")]
    NoPort(SocketAddr),
    /// As many peers as one allocation serves.
    #[error("the allocation already serves {0} peers, which is the limit")]
    Full(usize),
    /// The allocation is lost: build a new client.
    #[error("the allocation is lost")]
    Lost,
}
