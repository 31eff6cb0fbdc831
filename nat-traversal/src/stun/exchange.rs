//! One request with its retransmissions (RFC 8489, 6.2.1), until it is answered or given up.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use stun_types::message::TransactionId;

/// What identifies a transaction: 96 random bits.
pub(crate) type Id = [u8; 12];

/// A new transaction's id, from the system's random source: who cannot see the request cannot answer it.
pub(crate) fn new_id() -> Id {
    id_of(TransactionId::generate())
}

/// The id of the library's form.
pub(crate) fn id_of(transaction: TransactionId) -> Id {
    u128::from(transaction).to_be_bytes()[4..].try_into().expect("twelve of sixteen bytes")
}

/// When a request is sent again, and when it is given up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// From the first to the second sending; doubles after each.
    pub(crate) first: Duration,
    /// The longest time between two sendings.
    pub(crate) longest: Duration,
    /// How often the request is sent.
    pub(crate) tries: u32,
    /// From the last sending to giving up.
    pub(crate) last_wait: Duration,
}

impl Schedule {
    fn wait_after(&self, sent: u32) -> Duration {
        if sent >= self.tries {
            return self.last_wait;
        }
        (self.first * (1 << (sent - 1).min(16))).min(self.longest)
    }

    /// From the first sending to giving up.
    fn whole(&self) -> Duration {
        (1..=self.tries).map(|sent| self.wait_after(sent)).sum()
    }
}

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// The transaction.
    pub(crate) id: Id,
    to: SocketAddr,
    request: Vec<u8>,
    schedule: Schedule,
    sent: u32,
    repeated: bool,
    began: Option<Instant>,
    next: Instant,
}

impl Exchange {
    /// A request that is due now.
    pub(crate) fn new(
        to: SocketAddr,
        id: Id,
        request: Vec<u8>,
        schedule: Schedule,
        now: Instant,
    ) -> Exchange {
        Exchange { id, to, request, schedule, sent: 0, repeated: false, began: None, next: now }
    }

    /// The request, if it is time to send it.
    pub(crate) fn poll_transmit(&mut self, now: Instant) -> Option<(SocketAddr, Vec<u8>)> {
        if now < self.next || self.sent >= self.schedule.tries || self.given_up(now) {
            return None;
        }
        self.sent += 1;
        self.repeated = self.began.is_some();
        self.began.get_or_insert(now);
        self.next = now + self.schedule.wait_after(self.sent);
        Some((self.to, self.request.clone()))
    }

    /// Begins the schedule again, without putting off the time at which the request is given up. The server's
    /// answer to a copy tells of the mapping that the copy came by.
    pub(crate) fn hurry(&mut self, now: Instant) {
        if self.sent > 0 && self.next > now + self.schedule.first {
            self.sent = 0;
            self.next = now;
        }
    }

    /// Whether the last answer that could come has not come.
    pub(crate) fn given_up(&self, now: Instant) -> bool {
        now >= self.deadline() || (self.sent >= self.schedule.tries && now >= self.next)
    }

    /// When something is to be done next.
    pub(crate) fn poll_timeout(&self) -> Instant {
        self.next.min(self.deadline())
    }

    /// The round trip, if this is the answer: unknown when the request was sent more than once, since it may be
    /// the answer to any of them (Karn).
    pub(crate) fn round_trip(&self, now: Instant) -> Option<Duration> {
        self.began.filter(|_| !self.repeated).map(|began| now.saturating_duration_since(began))
    }

    fn deadline(&self) -> Instant {
        self.began.unwrap_or(self.next) + self.schedule.whole()
    }
}
