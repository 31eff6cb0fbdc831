//! The routes that work, and which of them are worth telling.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use crate::route::{CandidateKind, CandidatePair, RelayId, Route};

/// Routes that were found and not withdrawn.
#[derive(Default)]
pub(super) struct Found {
    ways: BTreeMap<Route, Way>,
}

#[derive(Clone, Copy)]
struct Way {
    pair: CandidatePair,
    alive: bool,
    /// The peer no longer names its candidate: it goes then, unless it is the only one.
    withdrawn: Option<Instant>,
}

/// How many relays a pair passes.
pub(super) fn hops(local: CandidateKind, remote: CandidateKind) -> usize {
    usize::from(local == CandidateKind::Relayed) + usize::from(remote == CandidateKind::Relayed)
}

/// The addresses of the relays that a route passes.
fn relays(route: Route, pair: &CandidatePair) -> impl Iterator<Item = IpAddr> {
    let own = pair.local_address.filter(|_| pair.local == CandidateKind::Relayed);
    let peers = (pair.remote == CandidateKind::Relayed).then(|| route.remote());
    own.into_iter().chain(peers).map(|address| address.ip())
}

impl Found {
    /// A check by this route was answered. Says whether that is news: not for a route that is known to work, and not
    /// for one that adds nothing.
    pub(super) fn succeeded(&mut self, route: Route, pair: CandidatePair, nominated: bool) -> bool {
        if let Some(way) = self.ways.get_mut(&route) {
            let was_alive = std::mem::replace(&mut way.alive, true);
            way.pair = pair;
            return !was_alive;
        }
        if self.ways.len() >= MAX_WAYS || !(nominated || self.adds(route, &pair)) {
            return false;
        }
        self.ways.insert(route, Way { pair, alive: true, withdrawn: None });
        true
    }

    /// A direct route of another kind or family, up to two; a relayed one with fewer hops than those known, or a second
    /// one by other relays, which one relay's end leaves alive. Withdrawn ones do not count.
    fn adds(&self, route: Route, pair: &CandidatePair) -> bool {
        let hops_of = |way: &Way| hops(way.pair.local, way.pair.remote);
        let staying = self.alive().filter(|(_, way)| way.withdrawn.is_none());
        let mut alike = staying.filter(|(_, way)| (hops_of(way) == 0) == (pair_hops(pair) == 0)).peekable();
        if alike.peek().is_none() {
            return true;
        }
        match pair_hops(pair) {
            0 => {
                let known: Vec<_> = alike.collect();
                known.len() < 2
                    && known.iter().all(|(other, way)| {
                        other.remote().is_ipv6() != route.remote().is_ipv6() || pair.remote < way.pair.remote
                    })
            }
            own => {
                let known: Vec<_> = alike.collect();
                let fewer = known.iter().all(|(_, way)| own < hops_of(way));
                let apart = |(other, way): &(&Route, &Way)| {
                    own <= hops_of(way)
                        && !relays(**other, &way.pair).any(|ip| relays(route, pair).any(|own| own == ip))
                };
                fewer || known.len() == 1 && known.iter().all(apart)
            }
        }
    }

    /// Where all places are taken, a dead route gives up its own.
    pub(super) fn make_room(&mut self) -> Option<Route> {
        let dead = self.ways.iter().find(|(_, way)| !way.alive).filter(|_| self.ways.len() >= MAX_WAYS);
        let route = *dead?.0;
        self.ways.remove(&route);
        Some(route)
    }

    fn alive(&self) -> impl Iterator<Item = (&Route, &Way)> {
        self.ways.iter().filter(|(_, way)| way.alive)
    }

    pub(super) fn is_alive(&self, route: Route) -> bool {
        self.ways.get(&route).is_some_and(|way| way.alive)
    }

    /// The fewest relays that any living route passes.
    pub(super) fn fewest_hops(&self) -> Option<usize> {
        self.alive().map(|(_, way)| hops(way.pair.local, way.pair.remote)).min()
    }

    /// A living route with the fewest relays.
    pub(super) fn best(&self) -> Option<Route> {
        self.alive().min_by_key(|(_, way)| hops(way.pair.local, way.pair.remote)).map(|(route, _)| *route)
    }

    pub(super) fn dead(&mut self, route: Route) {
        if let Some(way) = self.ways.get_mut(&route) {
            way.alive = false;
        }
    }

    pub(super) fn all_dead(&mut self) {
        self.ways.values_mut().for_each(|way| way.alive = false);
    }

    /// The number of relays that this route passes, if it is one of these.
    pub(super) fn hops_of(&self, route: Route) -> Option<usize> {
        self.ways.get(&route).map(|way| hops(way.pair.local, way.pair.remote))
    }

    pub(super) fn relay_lost(&mut self, relay: RelayId) -> Vec<Route> {
        self.take(|route, _| matches!(route, Route::Relayed(id, _) if *id == relay))
    }

    /// The peer's candidates are now those of which `names` is true. What went with an address or a relay of the
    /// peer's is gone; what a NAT had mapped may work on, until `patience` is over and others are found.
    pub(super) fn withdraw(&mut self, names: impl Fn(&Route) -> bool, patience: Instant) -> Vec<Route> {
        for (route, way) in &mut self.ways {
            match names(route) {
                true => way.withdrawn = None,
                false => _ = way.withdrawn.get_or_insert(patience),
            }
        }
        let firm = [CandidateKind::Host, CandidateKind::Relayed];
        self.take(|_, way| way.withdrawn.is_some() && firm.contains(&way.pair.remote))
    }

    /// Takes out withdrawn routes whose time is over, if there are others that are as good.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Route> {
        let staying = self.alive().filter(|(_, way)| way.withdrawn.is_none());
        let Some(staying) = staying.map(|(_, way)| pair_hops(&way.pair)).min() else { return Vec::new() };
        self.take(|_, way| way.withdrawn.is_some_and(|at| at <= now) && pair_hops(&way.pair) >= staying)
    }

    pub(super) fn next_expiry(&self, now: Instant) -> Option<Instant> {
        self.ways.values().filter_map(|way| way.withdrawn).filter(|at| *at > now).min()
    }

    /// Once a direct path is in use, one standby by way of relays is enough.
    pub(super) fn prune(&mut self) -> Vec<Route> {
        let one_hop = self.alive().any(|(_, way)| pair_hops(&way.pair) == 1);
        self.take(|_, way| one_hop && pair_hops(&way.pair) == 2)
    }

    pub(super) fn clear(&mut self) -> Vec<Route> {
        self.take(|_, _| true)
    }

    fn take(&mut self, gone: impl Fn(&Route, &Way) -> bool) -> Vec<Route> {
        self.ways.extract_if(.., |route, way| gone(route, way)).map(|(route, _)| route).collect()
    }
}

fn pair_hops(pair: &CandidatePair) -> usize {
    hops(pair.local, pair.remote)
}

const MAX_WAYS: usize = 16;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOST: CandidateKind = CandidateKind::Host;
    const REFLEXIVE: CandidateKind = CandidateKind::ServerReflexive;
    const RELAYED: CandidateKind = CandidateKind::Relayed;

    fn way(local: CandidateKind, remote: CandidateKind, n: u16, v6: bool) -> (Route, CandidatePair) {
        let address = std::net::SocketAddr::new(if v6 { [1; 16].into() } else { [192, 0, 2, 1].into() }, n);
        let route = match local {
            RELAYED => Route::Relayed(RelayId(1), address),
            _ => Route::Direct(address),
        };
        (route, CandidatePair { local, local_address: None, remote })
    }

    #[test]
    fn what_adds_something_is_told() {
        let relay_relay = way(RELAYED, RELAYED, 1, false);
        let to_relay = way(HOST, RELAYED, 2, false);
        let from_relay = way(RELAYED, HOST, 3, false);
        let reflexive = way(HOST, REFLEXIVE, 4, false);
        let host = way(HOST, HOST, 5, false);
        let v6 = way(HOST, HOST, 6, true);
        let other = way(HOST, REFLEXIVE, 7, false);
        let case = |ways: &[(Route, CandidatePair)]| {
            let mut found = Found::default();
            ways.iter().map(|(route, pair)| found.succeeded(*route, *pair, false)).collect::<Vec<_>>()
        };
        assert_eq!(case(&[relay_relay, to_relay, from_relay, host]), [true, true, false, true]);
        assert_eq!(case(&[host, relay_relay, from_relay]), [true, true, true]);
        assert_eq!(case(&[reflexive, host, v6]), [true, true, false]);
        assert_eq!(case(&[reflexive, other, v6]), [true, false, true]);
        assert_eq!(case(&[host, reflexive, host]), [true, false, false]);
        let by = |relay: u8, n| {
            let (_, pair) = way(RELAYED, HOST, n, false);
            let on_relay = Some(std::net::SocketAddr::new([203, 0, 113, relay].into(), n));
            let route = Route::Relayed(RelayId(u32::from(relay)), ([192, 0, 2, 1], n).into());
            (route, CandidatePair { local_address: on_relay, ..pair })
        };
        assert_eq!(case(&[by(1, 3), by(1, 4), by(2, 5), by(3, 6)]), [true, false, true, false]);
        assert_eq!(case(&[by(1, 3), relay_relay, host, by(2, 4)]), [true, false, true, true]);
        let mut found = Found::default();
        assert!(found.succeeded(host.0, host.1, false));
        assert!(found.succeeded(reflexive.0, reflexive.1, true), "the agents agreed on it");
    }

    #[test]
    fn what_died_is_told_again_and_what_is_gone_is_new() {
        let (now, host, relayed) = (Instant::now(), way(HOST, HOST, 1, false), way(RELAYED, HOST, 2, false));
        let mut found = Found::default();
        assert!(found.succeeded(host.0, host.1, false) && found.succeeded(relayed.0, relayed.1, false));
        assert_eq!((found.best(), found.fewest_hops()), (Some(host.0), Some(0)));
        found.dead(host.0);
        assert_eq!((found.best(), found.fewest_hops()), (Some(relayed.0), Some(1)));
        assert!(found.succeeded(host.0, host.1, false));
        assert_eq!(found.relay_lost(RelayId(2)), []);
        assert_eq!(found.relay_lost(RelayId(1)), [relayed.0]);
        assert!(found.succeeded(relayed.0, relayed.1, false));
        assert_eq!(found.withdraw(|route| *route != host.0, now), [host.0]);
        found.all_dead();
        assert_eq!(found.best(), None);
        assert_eq!(found.clear(), [relayed.0]);
    }

    #[test]
    fn routes_that_died_never_keep_new_ones_out() {
        let mut found = Found::default();
        for n in 0..5 * MAX_WAYS as u16 {
            let (route, pair) = way(HOST, CandidateKind::PeerReflexive, n, false);
            let gone = found.make_room();
            assert_eq!(gone.is_some(), usize::from(n) >= MAX_WAYS);
            assert!(found.succeeded(route, pair, false), "{n}");
            found.dead(route);
        }
    }

    #[test]
    fn a_withdrawn_mapping_goes_when_another_path_is_there() {
        let (now, soon) = (Instant::now(), Instant::now() + Duration::from_secs(3));
        let (old, new, relayed) =
            (way(HOST, REFLEXIVE, 1, false), way(HOST, REFLEXIVE, 2, false), way(HOST, RELAYED, 3, false));
        let mut found = Found::default();
        assert!(found.succeeded(old.0, old.1, false) && found.succeeded(relayed.0, relayed.1, false));
        assert_eq!(found.withdraw(|route| *route != old.0, soon), []);
        assert_eq!(found.next_expiry(now), Some(soon));
        assert_eq!(found.expire(soon), [], "a relayed path is no match for it");
        assert!(found.succeeded(new.0, new.1, false));
        assert_eq!(found.expire(now), []);
        assert_eq!(found.expire(soon), [old.0]);
        assert_eq!(found.next_expiry(now), None);
    }
}
