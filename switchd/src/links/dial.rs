//! By which way to dial a peer, and for how long. Pure.
//!
//! A round takes the way by which the peer was last met, then those that checks have found, then the addresses that
//! it was named with, best first. A way that does not answer costs its share of time only; the last one of a round,
//! and all in later rounds, get more, as the path may be slow.

use std::net::SocketAddr;
use std::time::Duration;

use nat_traversal::{CandidateKind, CandidatePair, Route};

/// A peer's ways, and whose turn it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct DialOrder {
    named: Vec<SocketAddr>,
    /// Found by checks, with the pair of each.
    found: Vec<(Route, CandidatePair)>,
    /// By which the peer was last met.
    met: Option<Route>,
    turn: usize,
    round: u32,
}

/// One dial.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Attempt {
    pub(super) route: Route,
    pub(super) pair: CandidatePair,
    /// A check has passed it: it is more than a guess.
    pub(super) found: bool,
    /// Give up without any answer after this.
    pub(super) patience: Duration,
}

impl DialOrder {
    pub(super) fn new(named: Vec<SocketAddr>) -> DialOrder {
        DialOrder { named, ..DialOrder::default() }
    }

    /// Other addresses are named: a new round begins.
    pub(super) fn set_named(&mut self, named: Vec<SocketAddr>) {
        if self.named != named {
            (self.named, self.turn, self.round) = (named, 0, 0);
        }
    }

    /// The peer proved itself by this way: a new round begins there.
    pub(super) fn met(&mut self, route: Route) {
        (self.met, self.turn, self.round) = (Some(route), 0, 0);
    }

    /// A check has passed this way, for the first time or again: a new round begins.
    pub(super) fn found(&mut self, route: Route, pair: CandidatePair) {
        match self.found.iter_mut().find(|(known, _)| *known == route) {
            Some((_, known)) => *known = pair,
            None => self.found.push((route, pair)),
        }
        self.found.sort_by_key(|(_, pair)| pair.kind() == CandidateKind::Relayed);
        (self.turn, self.round) = (0, 0);
    }

    /// It leads nowhere any more.
    pub(super) fn gone(&mut self, route: Route) {
        self.found.retain(|(known, _)| *known != route);
        self.met.take_if(|met| *met == route);
        if self.turn >= self.round().count() {
            self.turn = 0;
        }
    }

    /// Forgets what checks have found: it is found again when it is wanted.
    pub(super) fn forget_found(&mut self) -> Vec<(Route, CandidatePair)> {
        (self.turn, self.round) = (0, 0);
        std::mem::take(&mut self.found)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.round().next().is_none()
    }

    /// Whether the peer was named with this address.
    fn names(&self, route: Route) -> bool {
        matches!(route, Route::Direct(address) if self.named.contains(&address))
    }

    /// Whether the peer was named with this address, and nothing else speaks for it.
    pub(super) fn is_guess(&self, route: Route) -> bool {
        self.names(route) && !self.found.iter().any(|(known, _)| *known == route)
    }

    /// The best of the named addresses.
    pub(super) fn best_named(&self) -> Option<SocketAddr> {
        self.named.first().copied()
    }

    /// What is known of the candidates at the ends of a way.
    pub(super) fn pair(&self, route: Route) -> CandidatePair {
        if let Some((_, pair)) = self.found.iter().find(|(known, _)| *known == route) {
            return *pair;
        }
        let local = match route {
            Route::Direct(_) => CandidateKind::Host,
            Route::Relayed(..) => CandidateKind::Relayed,
        };
        let remote = if self.names(route) { CandidateKind::Host } else { CandidateKind::PeerReflexive };
        CandidatePair { local, local_address: None, remote }
    }

    /// The dial whose turn it is.
    pub(super) fn attempt(&self) -> Option<Attempt> {
        let route = self.round().nth(self.turn)?;
        let found = self.found.iter().any(|(known, _)| *known == route);
        let last = self.round().nth(self.turn + 1).is_none();
        let first = if found { FIRST_FOUND } else { FIRST };
        let patience = if last { LAST } else { (first * 2u32.saturating_pow(self.round.min(8))).min(LAST) };
        Some(Attempt { route, pair: self.pair(route), found, patience })
    }

    /// The way that was dialled did not answer: the next one's turn. True if there is one in this round, or a new
    /// round has begun since.
    pub(super) fn failed(&mut self, dialled: Option<Route>) -> bool {
        let present = self.round().nth(self.turn);
        if present != dialled {
            return present.is_some();
        }
        self.turn += 1;
        let more = self.round().nth(self.turn).is_some();
        if !more {
            (self.turn, self.round) = (0, self.round.saturating_add(1));
        }
        more
    }

    fn round(&self) -> impl Iterator<Item = Route> {
        let found = self.found.iter().map(|(route, _)| *route).filter(|route| Some(*route) != self.met);
        let named =
            self.named.iter().map(|address| Route::Direct(*address)).filter(|route| {
                Some(*route) != self.met && !self.found.iter().any(|(known, _)| known == route)
            });
        self.met.into_iter().chain(found).chain(named)
    }
}

/// An address with others behind it in the first round.
const FIRST: Duration = Duration::from_millis(400);
/// A way that a check has passed: an answer is due, by a slow relay perhaps.
const FIRST_FOUND: Duration = Duration::from_millis(1000);
/// The longest that any way gets.
pub(super) const LAST: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use nat_traversal::RelayId;

    fn at(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 4840))
    }

    fn direct(n: u8) -> Route {
        Route::Direct(at(n))
    }

    fn relayed(n: u8) -> Route {
        Route::Relayed(RelayId(1), at(n))
    }

    fn pair(local: CandidateKind, remote: CandidateKind) -> CandidatePair {
        CandidatePair { local, local_address: None, remote }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Dials until the end of a round: (last byte of the address, kind of the remote end, patience).
    fn round(order: &mut DialOrder) -> Vec<(u8, &'static str, Duration)> {
        let mut dials = Vec::new();
        loop {
            let Some(attempt) = order.attempt() else { return dials };
            let SocketAddr::V4(v4) = attempt.route.remote() else { unreachable!() };
            dials.push((v4.ip().octets()[3], attempt.pair.kind().name(), attempt.patience));
            if !order.failed(Some(attempt.route)) {
                return dials;
            }
        }
    }

    #[test]
    fn named_addresses_have_their_turns_best_first_with_ever_more_patience() {
        let mut order = DialOrder::new(vec![at(1), at(2), at(3)]);
        assert_eq!(round(&mut order), [(1, "host", ms(400)), (2, "host", ms(400)), (3, "host", ms(2000))]);
        assert_eq!(round(&mut order), [(1, "host", ms(800)), (2, "host", ms(800)), (3, "host", ms(2000))]);
        round(&mut order);
        assert_eq!(round(&mut order), [(1, "host", ms(2000)), (2, "host", ms(2000)), (3, "host", ms(2000))]);
    }

    #[test]
    fn where_the_peer_was_met_comes_first_and_once() {
        let mut order = DialOrder::new(vec![at(1), at(2)]);
        assert!(order.failed(Some(direct(1))));
        order.met(direct(9));
        let expected = [(9, "peer-reflexive", ms(400)), (1, "host", ms(400)), (2, "host", ms(2000))];
        assert_eq!(round(&mut order), expected);
        order.met(direct(2));
        assert_eq!(round(&mut order), [(2, "host", ms(400)), (1, "host", ms(2000))]);
        order.set_named(vec![at(3)]);
        assert_eq!(round(&mut order), [(2, "peer-reflexive", ms(400)), (3, "host", ms(2000))]);
    }

    #[test]
    fn the_same_names_again_do_not_disturb_a_round() {
        let mut order = DialOrder::new(vec![at(1), at(2)]);
        order.failed(Some(direct(1)));
        order.set_named(vec![at(1), at(2)]);
        assert_eq!(order.attempt().unwrap().route, direct(2));
        order.set_named(vec![at(2), at(1)]);
        let attempt = order.attempt().unwrap();
        assert_eq!((attempt.route, attempt.found, attempt.patience), (direct(2), false, ms(400)));
    }

    #[test]
    fn without_addresses_there_is_no_dial() {
        let mut order = DialOrder::default();
        assert!(order.is_empty() && order.attempt().is_none() && !order.failed(None));
        order.met(direct(4));
        assert_eq!(round(&mut order), [(4, "peer-reflexive", ms(2000))]);
    }

    #[test]
    fn ways_that_checks_found_come_before_names_and_direct_ones_before_relays() {
        let mut order = DialOrder::new(vec![at(1), at(2)]);
        order.failed(Some(direct(1)));
        order.found(relayed(7), pair(CandidateKind::Relayed, CandidateKind::Relayed));
        order.found(direct(2), pair(CandidateKind::ServerReflexive, CandidateKind::ServerReflexive));
        order.found(direct(2), pair(CandidateKind::Host, CandidateKind::ServerReflexive));
        let expected = [(2, "server-reflexive", ms(1000)), (7, "relayed", ms(1000)), (1, "host", ms(2000))];
        assert_eq!(round(&mut order), expected);
        order.gone(direct(2));
        order.gone(relayed(7));
        assert_eq!(order.attempt().unwrap().route, direct(1), "named addresses are left");
    }

    #[test]
    fn a_way_that_is_gone_takes_no_turn() {
        let mut order = DialOrder::default();
        order.found(direct(1), pair(CandidateKind::Host, CandidateKind::Host));
        order.found(direct(2), pair(CandidateKind::Host, CandidateKind::Host));
        order.failed(Some(direct(1)));
        order.gone(direct(2));
        assert_eq!(order.attempt().unwrap().route, direct(1));
        order.met(direct(1));
        order.gone(direct(1));
        assert!(order.is_empty());
    }

    #[test]
    fn what_is_found_during_a_dial_has_the_next_turn() {
        let mut order = DialOrder::new(vec![at(1)]);
        order.found(relayed(7), pair(CandidateKind::Relayed, CandidateKind::Relayed));
        let dialled = order.attempt().unwrap().route;
        order.found(direct(2), pair(CandidateKind::Host, CandidateKind::Host));
        assert!(order.failed(Some(dialled)));
        assert_eq!(order.attempt().unwrap().route, direct(2));
        order.failed(Some(direct(2)));
        assert_eq!(order.attempt().unwrap().route, relayed(7));
        order.found(direct(2), pair(CandidateKind::Host, CandidateKind::Host));
        assert_eq!(order.attempt().unwrap().route, direct(2), "it answers again");
    }
}
