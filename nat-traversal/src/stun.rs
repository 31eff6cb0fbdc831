//! The STUN client (RFC 8489): what address a server sees this node at.

pub(crate) mod binding;
pub(crate) mod exchange;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::paths::canonical;
use binding::AnswerFrom;
use exchange::{Exchange, Schedule, new_id};

/// Asks one server again and again at which address it sees the socket that the requests leave from. This also
/// keeps a NAT's mapping alive.
///
/// In: [`handle`](Self::handle), [`refresh_now`](Self::refresh_now). Out: [`poll_transmit`](Self::poll_transmit)
/// until it gives nothing (also whenever [`poll_timeout`](Self::poll_timeout) has passed), then
/// [`poll_event`](Self::poll_event).
#[derive(Debug)]
pub struct StunClient {
    server: SocketAddr,
    refresh: Duration,
    state: State,
    mapped: Option<SocketAddr>,
    other: Option<SocketAddr>,
    rtt: Option<Duration>,
    /// Since when it has not answered.
    silent: Option<Instant>,
    events: VecDeque<StunEvent>,
}

/// What a [`StunClient`] found out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StunEvent {
    /// The server sees this node at this address: the first time, when it changed, and at the first answer after
    /// silence.
    Mapped(SocketAddr),
    /// The server has not answered a request and its repetitions, for about 20 s. Said once, and again after some
    /// minutes, when the address that it saw counts no more; it is asked further on.
    Silent,
}

#[derive(Debug)]
enum State {
    Resting(Instant),
    Asking(Exchange),
}

impl StunClient {
    /// A client that asks at once, and then every `refresh` less up to a fifth: 10 to 15 s keeps most mappings.
    pub fn new(server: SocketAddr, refresh: Duration, now: Instant) -> StunClient {
        StunClient {
            server: canonical(server),
            refresh,
            state: State::Resting(now),
            mapped: None,
            other: None,
            rtt: None,
            silent: None,
            events: VecDeque::new(),
        }
    }

    /// The server that is asked.
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// The address that the server saw last, also when it has been silent since, for some minutes.
    pub fn mapped(&self) -> Option<SocketAddr> {
        self.mapped
    }

    /// Whether the server has answered, and has not been found silent since.
    pub fn answers(&self) -> bool {
        self.mapped.is_some() && self.silent.is_none()
    }

    /// The last round trip that was measured.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// The server's other address, if it is one for behaviour discovery (RFC 5780).
    pub fn other(&self) -> Option<SocketAddr> {
        self.other
    }

    /// Takes in a datagram; `false` if it is not the answer to this client's request. Only an answer of the very
    /// transaction and from the server itself counts, so that nobody off the path can move a mapping.
    pub fn handle(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) -> bool {
        let State::Asking(exchange) = &self.state else { return false };
        if canonical(from) != self.server {
            return false;
        }
        let Some(answer) = binding::answer(datagram, &exchange.id) else { return false };
        // An error, or an answer without an address, is as good as silence: the request goes on.
        let Some(mapped) = answer.mapped else { return true };
        self.rtt = exchange.round_trip(now).or(self.rtt);
        self.other = answer.other;
        let rest = self.refresh - self.refresh / 5 * u32::from(exchange.id[0]) / 255;
        self.state = State::Resting(now + rest);
        if self.mapped != Some(mapped) || self.silent.is_some() {
            self.events.push_back(StunEvent::Mapped(mapped));
        }
        self.mapped = Some(mapped);
        self.silent = None;
        true
    }

    /// Asks at once: a path died, or this node's addresses changed.
    pub fn refresh_now(&mut self, now: Instant) {
        match &mut self.state {
            State::Resting(until) => *until = now.min(*until),
            State::Asking(exchange) => exchange.hurry(now),
        }
    }

    /// What is to be sent now.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(SocketAddr, Vec<u8>)> {
        if let State::Asking(exchange) = &self.state
            && exchange.given_up(now)
        {
            self.state = State::Resting(now);
            let since = *self.silent.get_or_insert(now);
            let forgets = self.mapped.is_some() && now >= since + FORGOTTEN;
            if since == now || forgets {
                self.mapped = self.mapped.filter(|_| !forgets);
                self.events.push_back(StunEvent::Silent);
            }
        }
        if let State::Resting(until) = self.state
            && until <= now
        {
            let id = new_id();
            let request = binding::request(&id, AnswerFrom::Same);
            self.state = State::Asking(Exchange::new(self.server, id, request, SCHEDULE, now));
        }
        match &mut self.state {
            State::Asking(exchange) => exchange.poll_transmit(now),
            State::Resting(_) => None,
        }
    }

    /// What was found out since the last call.
    pub fn poll_event(&mut self) -> Option<StunEvent> {
        self.events.pop_front()
    }

    /// When [`poll_transmit`](Self::poll_transmit) is to be called at the latest. Always some time: a client
    /// never ends.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Resting(until) => Some(*until),
            State::Asking(exchange) => Some(exchange.poll_timeout()),
        }
    }
}

/// What a silent server saw holds for so long: a mapping outlives the server, as long as it is used.
const FORGOTTEN: Duration = Duration::from_secs(300);
/// A quarter of a second, doubled: 0, 0.25, 0.75, 1.75, 3.75, 7.75 and 15.75 s.
const SCHEDULE: Schedule = Schedule {
    first: Duration::from_millis(250),
    longest: Duration::from_secs(8),
    tries: 7,
    last_wait: Duration::from_secs(4),
};

#[cfg(test)]
mod tests;
