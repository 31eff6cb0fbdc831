//! The requests that were sent and not yet answered: what an answer is the answer to.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use stun_types::attribute::MessageIntegrity;
use stun_types::message::Message;
use stun_types::prelude::AttributeStaticType;
use turn_client_proto::types::attribute::XorPeerAddress;
use turn_client_proto::types::message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH};

use crate::stun::exchange::Id;

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asked {
    Allocate,
    Refresh,
    Permit(IpAddr),
    Bind(SocketAddr),
}

/// A request that was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) asked: Asked,
    /// Whether the request carried credentials.
    pub(crate) signed: bool,
    at: Instant,
}

/// The library does not say which answer it has taken for what, and reads answers of any transaction: so only
/// those that are listed here are handed to it, once each.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    sent: HashMap<Id, Entry>,
}

impl Ledger {
    /// Notes a request that goes out.
    pub(crate) fn note(&mut self, request: &[u8], now: Instant) {
        let Ok(message) = Message::from_bytes(request) else { return };
        let peer = || {
            let peer = message.attribute::<XorPeerAddress>().ok()?;
            Some(peer.addr(message.transaction_id()))
        };
        let asked = match message.method() {
            ALLOCATE => Some(Asked::Allocate),
            REFRESH => Some(Asked::Refresh),
            CREATE_PERMISSION => peer().map(|peer| Asked::Permit(peer.ip())),
            CHANNEL_BIND => peer().map(Asked::Bind),
            _ => None,
        };
        let (Some(asked), Some(id)) = (asked, crate::stun::binding::transaction(request)) else { return };
        let signed = message.has_attribute(MessageIntegrity::TYPE);
        if self.sent.len() >= SWEEP {
            self.sent.retain(|_, entry| now.saturating_duration_since(entry.at) < KEPT);
        }
        self.sent.insert(id, Entry { asked, signed, at: now });
    }

    /// What this is the answer to; a second answer is to nothing.
    pub(crate) fn take(&mut self, id: &Id) -> Option<Entry> {
        self.sent.remove(id)
    }
}

/// Longer than any request is repeated.
const KEPT: Duration = Duration::from_secs(60);
const SWEEP: usize = 64;
