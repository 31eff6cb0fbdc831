//! Which of a peer's addresses to dial, and for how long. Pure.
//!
//! A round takes the address where the peer was last met, then those that were named, best first. An address that
//! does not answer costs its share of time only; the last one of a round, and all in later rounds, get more, as the
//! path may be slow.

use std::net::SocketAddr;
use std::time::Duration;

/// A peer's addresses, and whose turn it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct DialOrder {
    named: Vec<SocketAddr>,
    /// Where the peer was last met.
    met: Option<SocketAddr>,
    turn: usize,
    round: u32,
}

/// One dial.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Attempt {
    pub(super) address: SocketAddr,
    /// The peer was named with this address; else it was met there.
    pub(super) named: bool,
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

    /// The peer proved itself at this address: a new round begins there.
    pub(super) fn met(&mut self, address: SocketAddr) {
        (self.met, self.turn, self.round) = (Some(address), 0, 0);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.met.is_none() && self.named.is_empty()
    }

    /// Whether the peer was named with this address.
    pub(super) fn names(&self, address: SocketAddr) -> bool {
        self.named.contains(&address)
    }

    /// The best of the named addresses.
    pub(super) fn best_named(&self) -> Option<SocketAddr> {
        self.named.first().copied()
    }

    /// The dial whose turn it is.
    pub(super) fn attempt(&self) -> Option<Attempt> {
        let address = self.round().nth(self.turn)?;
        let last = self.round().nth(self.turn + 1).is_none();
        let patience = if last { LAST } else { (FIRST * 2u32.saturating_pow(self.round.min(8))).min(LAST) };
        Some(Attempt { address, named: self.names(address), patience })
    }

    /// The address whose turn it is did not answer: the next one's turn. True if there is one in this round.
    pub(super) fn failed(&mut self) -> bool {
        self.turn += 1;
        let more = self.round().nth(self.turn).is_some();
        if !more {
            (self.turn, self.round) = (0, self.round.saturating_add(1));
        }
        more
    }

    fn round(&self) -> impl Iterator<Item = SocketAddr> {
        let others = self.named.iter().copied().filter(|address| Some(*address) != self.met);
        self.met.into_iter().chain(others)
    }
}

/// An address with others behind it in the first round.
const FIRST: Duration = Duration::from_millis(400);
/// The longest that any address gets.
pub(super) const LAST: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 4840))
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Dials until the end of a round: (address, named, patience).
    fn round(order: &mut DialOrder) -> Vec<(u8, bool, Duration)> {
        let mut dials = Vec::new();
        loop {
            let Some(attempt) = order.attempt() else { return dials };
            let SocketAddr::V4(v4) = attempt.address else { unreachable!() };
            dials.push((v4.ip().octets()[3], attempt.named, attempt.patience));
            if !order.failed() {
                return dials;
            }
        }
    }

    #[test]
    fn named_addresses_have_their_turns_best_first_with_ever_more_patience() {
        let mut order = DialOrder::new(vec![at(1), at(2), at(3)]);
        assert_eq!(round(&mut order), [(1, true, ms(400)), (2, true, ms(400)), (3, true, ms(2000))]);
        assert_eq!(round(&mut order), [(1, true, ms(800)), (2, true, ms(800)), (3, true, ms(2000))]);
        round(&mut order);
        assert_eq!(round(&mut order), [(1, true, ms(2000)), (2, true, ms(2000)), (3, true, ms(2000))]);
    }

    #[test]
    fn where_the_peer_was_met_comes_first_and_once() {
        let mut order = DialOrder::new(vec![at(1), at(2)]);
        assert!(order.failed());
        order.met(at(9));
        assert_eq!(round(&mut order), [(9, false, ms(400)), (1, true, ms(400)), (2, true, ms(2000))]);
        order.met(at(2));
        assert_eq!(round(&mut order), [(2, true, ms(400)), (1, true, ms(2000))]);
        order.set_named(vec![at(3)]);
        assert_eq!(round(&mut order), [(2, false, ms(400)), (3, true, ms(2000))]);
    }

    #[test]
    fn the_same_names_again_do_not_disturb_a_round() {
        let mut order = DialOrder::new(vec![at(1), at(2)]);
        order.failed();
        order.set_named(vec![at(1), at(2)]);
        assert_eq!(order.attempt().unwrap().address, at(2));
        order.set_named(vec![at(2), at(1)]);
        assert_eq!(order.attempt().unwrap(), Attempt { address: at(2), named: true, patience: ms(400) });
    }

    #[test]
    fn without_addresses_there_is_no_dial() {
        let mut order = DialOrder::default();
        assert!(order.is_empty() && order.attempt().is_none() && !order.failed());
        order.met(at(4));
        assert_eq!(round(&mut order), [(4, false, ms(2000))]);
    }
}
