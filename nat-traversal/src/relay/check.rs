//! Whether the relay still holds the allocation: an own Refresh, early and often.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use stun_proto::auth::LongTermClientAuth;
use stun_types::message::{Message, MessageWriteVec};
use stun_types::prelude::{MessageWrite, MessageWriteExt};
use turn_client_proto::types::attribute::Lifetime;
use turn_client_proto::types::message::REFRESH;

use super::RelayTransport;
use crate::stun::exchange::{Exchange, Schedule};

/// The library asks the relay again only after minutes, and does not tell when a Refresh is refused.
#[derive(Debug)]
pub(crate) struct Check {
    server: SocketAddr,
    schedule: Schedule,
    state: State,
    /// How often one check was signed anew because its nonce was stale.
    stale: u32,
}

#[derive(Debug)]
enum State {
    Off,
    Resting(Instant),
    Asking { exchange: Exchange, lifetime: u32 },
}

impl Check {
    /// No checks yet: there is nothing to be lost.
    pub(crate) fn new(server: SocketAddr, transport: RelayTransport) -> Check {
        let schedule = match transport {
            RelayTransport::Udp => UDP_SCHEDULE,
            RelayTransport::Stream => STREAM_SCHEDULE,
        };
        Check { server, schedule, state: State::Off, stale: 0 }
    }

    /// Begins to check.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.state = State::Resting(now + INTERVAL);
    }

    /// Checks at once.
    pub(crate) fn hurry(&mut self, now: Instant) {
        match &mut self.state {
            State::Off => {}
            State::Resting(until) => *until = now.min(*until),
            State::Asking { exchange, .. } => exchange.hurry(now),
        }
    }

    /// Checks at once, and with these credentials.
    pub(crate) fn begin_with(&mut self, auth: &mut LongTermClientAuth, now: Instant) {
        self.stale = 0;
        self.ask(LIFETIME, auth, now);
    }

    /// Asks the relay to remove the allocation, and nothing else from then on; `false` if it cannot be asked.
    pub(crate) fn remove(&mut self, auth: &mut LongTermClientAuth, now: Instant) -> bool {
        self.ask(0, auth, now)
    }

    /// Whether this is the transaction of the check under way, and whether that asks for removal.
    pub(crate) fn is_mine(&self, id: &[u8; 12]) -> Option<bool> {
        match &self.state {
            State::Asking { exchange, lifetime } if exchange.id == *id => Some(*lifetime == 0),
            _ => None,
        }
    }

    /// The relay holds the allocation.
    pub(crate) fn passed(&mut self, now: Instant) {
        let spread = match &self.state {
            State::Asking { exchange, .. } => SPREAD * u32::from(exchange.id[0]) / 255,
            _ => Duration::ZERO,
        };
        self.stale = 0;
        self.state = State::Resting(now + INTERVAL - spread);
    }

    /// The nonce was stale: the same with the new one, unless that has happened too often.
    pub(crate) fn sign_anew(&mut self, auth: &mut LongTermClientAuth, now: Instant) -> bool {
        let State::Asking { lifetime, .. } = self.state else { return false };
        self.stale += 1;
        self.stale <= MAX_STALE && self.ask(lifetime, auth, now)
    }

    /// Whether the relay has not answered a check.
    pub(crate) fn failed(&self, now: Instant) -> bool {
        matches!(&self.state, State::Asking { exchange, .. } if exchange.given_up(now))
    }

    /// The request, if it is time to send it.
    pub(crate) fn poll_transmit(&mut self, auth: &mut LongTermClientAuth, now: Instant) -> Option<Vec<u8>> {
        if let State::Resting(until) = self.state
            && until <= now
        {
            self.ask(LIFETIME, auth, now);
        }
        match &mut self.state {
            State::Asking { exchange, .. } => exchange.poll_transmit(now).map(|(_, request)| request),
            State::Off | State::Resting(_) => None,
        }
    }

    /// When something is to be done next.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Off => None,
            State::Resting(until) => Some(*until),
            State::Asking { exchange, .. } => Some(exchange.poll_timeout()),
        }
    }

    fn ask(&mut self, lifetime: u32, auth: &mut LongTermClientAuth, now: Instant) -> bool {
        let mut message = Message::builder_request(REFRESH, MessageWriteVec::new());
        let id = crate::stun::exchange::id_of(message.transaction_id());
        let signed = message
            .add_attribute(&Lifetime::new(lifetime))
            .ok()
            .and_then(|()| auth.sign_outgoing_message(message).ok());
        let Some(signed) = signed else {
            self.state = State::Resting(now + INTERVAL);
            return false;
        };
        let exchange = Exchange::new(self.server, id, signed.finish(), self.schedule, now);
        self.state = State::Asking { exchange, lifetime };
        true
    }
}

/// Also keeps a NAT's mapping towards the relay.
const INTERVAL: Duration = Duration::from_secs(15);
const SPREAD: Duration = Duration::from_secs(3);
/// In seconds, as long as a server grants at least: so what a crashed node leaves behind is in nobody's way for
/// longer. The library's own refreshes ask for half an hour, until the next check.
const LIFETIME: u32 = 600;
const MAX_STALE: u32 = 3;

/// Given up after 4 s.
const UDP_SCHEDULE: Schedule = Schedule {
    first: Duration::from_millis(250),
    longest: Duration::from_secs(1),
    tries: 5,
    last_wait: Duration::from_millis(1250),
};

/// The stream repeats by itself; and what waits in it before the request is no sign of death.
const STREAM_SCHEDULE: Schedule = Schedule {
    first: Duration::from_secs(6),
    longest: Duration::from_secs(6),
    tries: 1,
    last_wait: Duration::from_secs(6),
};
