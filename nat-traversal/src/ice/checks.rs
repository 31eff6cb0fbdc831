//! The checks that were sent: by which route an answer must come, and how each route fared.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use crate::route::Route;

/// A STUN transaction (RFC 8489, 5).
pub(crate) type TransactionId = [u8; 12];

/// What a STUN message is to the one that gets it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MessageClass {
    Request,
    /// A success or an error.
    Response,
}

/// The class of a Binding message; `None` for others and for what is not STUN.
pub(crate) fn message_class(datagram: &[u8]) -> Option<MessageClass> {
    match (datagram.first_chunk()?, datagram.get(4..8)?) {
        ([0x00, 0x01], MAGIC_COOKIE) => Some(MessageClass::Request),
        ([0x01, 0x01 | 0x11], MAGIC_COOKIE) => Some(MessageClass::Response),
        _ => None,
    }
}

/// The transaction of a STUN message.
pub(crate) fn transaction_id(datagram: &[u8]) -> Option<TransactionId> {
    message_class(datagram)?;
    datagram.get(8..20)?.try_into().ok()
}

/// How the checks of one route went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Check {
    pub(crate) route: Route,
    pub(crate) state: CheckState,
    pub(crate) sent: u32,
    pub(crate) nominated: bool,
}

/// How far a route's checks got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CheckState {
    /// Sent, not answered.
    Waiting,
    /// Answered.
    Succeeded,
}

#[derive(Default)]
pub(crate) struct Checks {
    routes: BTreeMap<Route, Check>,
    in_flight: VecDeque<(TransactionId, Route)>,
}

impl Checks {
    pub(crate) fn sent(&mut self, route: Route, id: TransactionId) {
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            self.in_flight.pop_front();
        }
        self.in_flight.push_back((id, route));
        let new = Check { route, state: CheckState::Waiting, sent: 0, nominated: false };
        self.routes.entry(route).or_insert(new).sent += 1;
    }

    /// By which route this transaction's request went, if its answer is still awaited.
    pub(crate) fn route_of(&self, id: TransactionId) -> Option<Route> {
        self.in_flight.iter().find(|(known, _)| *known == id).map(|(_, route)| *route)
    }

    /// The transaction is over, with `success` or an error.
    pub(crate) fn answered(&mut self, id: TransactionId, success: bool) {
        let Some(index) = self.in_flight.iter().position(|(known, _)| *known == id) else { return };
        if let Some((_, route)) = self.in_flight.remove(index)
            && success
            && let Some(check) = self.routes.get_mut(&route)
        {
            check.state = CheckState::Succeeded;
        }
    }

    pub(crate) fn nominated(&mut self, route: Route) {
        if let Some(check) = self.routes.get_mut(&route) {
            check.nominated = true;
        }
    }

    /// Begins anew; gives the addresses that had answered.
    pub(crate) fn restart(&mut self) -> Vec<SocketAddr> {
        self.in_flight.clear();
        let answered = self.routes.values().filter(|check| check.state == CheckState::Succeeded);
        let answered = answered.map(|check| check.route.remote()).collect();
        self.routes.clear();
        answered
    }

    pub(crate) fn list(&self) -> Vec<Check> {
        self.routes.values().copied().collect()
    }
}

const MAGIC_COOKIE: &[u8] = &[0x21, 0x12, 0xa4, 0x42];
const MAX_IN_FLIGHT: usize = 1024;
