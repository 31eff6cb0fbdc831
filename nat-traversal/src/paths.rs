//! By which route a peer is reached, hidden from QUIC behind an address that never changes.
//!
//! A QUIC client drops packets whose source address changed, so QUIC is given one virtual address per peer, and
//! the socket maps it to the route of the moment. Packets by any other route are handshakes of peers that moved, or
//! strangers': they keep their address, or get a virtual one of their own where they came by a relay.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::route::Route;

/// A peer's number, as the daemon counts peers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// Every peer's routes, and whose a source is.
#[derive(Debug, Default)]
pub struct PathTable {
    peers: HashMap<Slot, Peer>,
    by_route: HashMap<Route, Slot>,
    strangers: Strangers,
}

#[derive(Debug, Default)]
struct Peer {
    selected: Option<Route>,
    /// It has proved to be at the selected one, and a link goes by that.
    linked: bool,
    /// All that are known to be its, oldest first.
    routes: VecDeque<Route>,
}

/// Sources beyond a relay that are no peer's yet.
#[derive(Debug, Default)]
struct Strangers {
    by_route: HashMap<Route, u32>,
    by_number: HashMap<u32, Route>,
    order: VecDeque<u32>,
    next: u32,
}

impl PathTable {
    /// The address that QUIC knows the peer by: in the discard prefix of RFC 6666, never on a wire.
    pub fn virtual_address(peer: Slot) -> SocketAddr {
        virtual_address(PEERS, peer.0)
    }

    /// Whether QUIC's address is that of a peer; all others are strangers'.
    pub fn is_peer(address: SocketAddr) -> bool {
        number(PEERS, address).is_some()
    }

    /// Sends to the peer by `route` from now on: a link goes by it, and the peer has proved to be there.
    pub fn select(&mut self, peer: Slot, route: Route) {
        let route = canonical_route(route);
        self.know(peer, route);
        self.by_route.insert(route, peer);
        let known = self.peers.entry(peer).or_default();
        (known.selected, known.linked) = (Some(route), true);
    }

    /// Sends to the peer by `route`, and no other route is the peer's: there is no link, so what comes by another way
    /// is to be answered there.
    pub fn select_only(&mut self, peer: Slot, route: Route) {
        let route = canonical_route(route);
        self.forget(peer);
        self.know(peer, route);
        self.peers.entry(peer).or_default().selected = Some(route);
    }

    /// What comes by `route` is the peer's, until another peer proves to be there. Nothing changes for a peer whose
    /// link goes by it: checks that were answered there do not show who answered.
    pub fn know(&mut self, peer: Slot, route: Route) {
        let route = canonical_route(route);
        let known = self.peers.entry(peer).or_default();
        known.routes.retain(|other| *other != route);
        known.routes.push_back(route);
        let selected = known.selected;
        let spare = known.routes.iter().position(|route| Some(*route) != selected);
        let dropped =
            spare.filter(|_| known.routes.len() > MAX_ROUTES).and_then(|at| known.routes.remove(at));
        if let Some(dropped) = dropped {
            self.release(peer, dropped);
        }
        let held = self.by_route.get(&route).and_then(|other| self.peers.get(other));
        if held.is_none_or(|other| !other.linked || other.selected != Some(route)) {
            self.by_route.insert(route, peer);
        }
    }

    /// Forgets one of the peer's routes.
    pub fn forget_route(&mut self, peer: Slot, route: Route) {
        let route = canonical_route(route);
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.routes.retain(|other| *other != route);
        if known.selected == Some(route) {
            known.selected = None;
        }
        self.release(peer, route);
    }

    /// Forgets a peer that is no longer one.
    pub fn forget(&mut self, peer: Slot) {
        for route in self.peers.remove(&peer).unwrap_or_default().routes {
            self.release(peer, route);
        }
    }

    fn release(&mut self, peer: Slot, route: Route) {
        if self.by_route.get(&route) == Some(&peer) {
            self.by_route.remove(&route);
        }
    }

    /// The peer's route.
    pub fn route(&self, peer: Slot) -> Option<Route> {
        self.peers.get(&peer)?.selected
    }

    /// The route of a datagram that QUIC addressed to `destination`; `None` for a virtual address without one.
    /// Where a peer was met before it was known, QUIC has its address of that time: it moves with the peer too.
    pub fn to_wire(&self, destination: SocketAddr) -> Option<Route> {
        if let Some(peer) = number(PEERS, destination) {
            return self.route(Slot(peer));
        }
        let met = match number(STRANGERS, destination) {
            Some(stranger) => self.strangers.by_number.get(&stranger).copied()?,
            None => Route::Direct(destination),
        };
        let moved = self.by_route.get(&canonical_route(met)).and_then(|peer| self.route(*peer));
        Some(moved.unwrap_or(met))
    }

    /// The source that QUIC is shown for a datagram by `route`, if it has one already.
    pub fn known(&self, route: Route) -> Option<SocketAddr> {
        let route = canonical_route(route);
        if let Some(peer) = self.by_route.get(&route) {
            return Some(PathTable::virtual_address(*peer));
        }
        match route {
            Route::Direct(source) => Some(source),
            Route::Relayed(..) => {
                self.strangers.by_route.get(&route).map(|number| virtual_address(STRANGERS, *number))
            }
        }
    }

    /// The source that QUIC is shown for a datagram by `route`.
    pub fn from_wire(&mut self, route: Route) -> SocketAddr {
        match self.known(route) {
            Some(source) => source,
            None => virtual_address(STRANGERS, self.strangers.add(canonical_route(route))),
        }
    }
}

impl Strangers {
    fn add(&mut self, route: Route) -> u32 {
        if self.order.len() >= MAX_STRANGERS
            && let Some(oldest) = self.order.pop_front()
            && let Some(gone) = self.by_number.remove(&oldest)
        {
            self.by_route.remove(&gone);
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.by_route.insert(route, number);
        self.by_number.insert(number, route);
        self.order.push_back(number);
        number
    }
}

fn virtual_address(kind: u16, number: u32) -> SocketAddr {
    let [a, b] = [(number >> 16) as u16, number as u16];
    SocketAddr::new(Ipv6Addr::new(0x100, 0, 0, 0, kind, 0, a, b).into(), VIRTUAL_PORT)
}

fn number(kind: u16, address: SocketAddr) -> Option<u32> {
    match address.ip() {
        IpAddr::V6(ip) if address.port() == VIRTUAL_PORT => match ip.segments() {
            [0x100, 0, 0, 0, of, 0, a, b] if of == kind => Some(u32::from(a) << 16 | u32::from(b)),
            _ => None,
        },
        _ => None,
    }
}

/// The one form of an address: a dual-stack socket reports IPv4 sources as ::ffff:a.b.c.d. The scope of a link-local
/// IPv6 address stays.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into(),
        },
    }
}

fn canonical_route(route: Route) -> Route {
    match route {
        Route::Direct(remote) => Route::Direct(canonical(remote)),
        Route::Relayed(relay, remote) => Route::Relayed(relay, canonical(remote)),
    }
}

/// Whether a datagram can have come from this address: not from port 0, to which nothing can be sent back, and not
/// from an address that stands for a peer.
pub fn is_real_source(source: SocketAddr) -> bool {
    source.port() != 0 && number(PEERS, source).is_none() && number(STRANGERS, source).is_none()
}

const VIRTUAL_PORT: u16 = 1;
const PEERS: u16 = 0x7377;
const STRANGERS: u16 = 0x7378;
/// Routes of one peer.
const MAX_ROUTES: usize = 16;
/// Sources beyond relays that may be in a handshake at a time.
const MAX_STRANGERS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::RelayId;

    fn addr(s: &str) -> SocketAddr {
        s.parse().unwrap()
    }

    fn at(s: &str) -> Route {
        Route::Direct(addr(s))
    }

    fn by(relay: u32, s: &str) -> Route {
        Route::Relayed(RelayId(relay), addr(s))
    }

    #[test]
    fn a_peer_keeps_its_virtual_address_when_it_moves() {
        let mut table = PathTable::default();
        let peer = Slot(70_000);
        let seen = PathTable::virtual_address(peer);
        assert_eq!(table.to_wire(seen), None);
        table.select(peer, at("192.0.2.1:4840"));
        assert_eq!(table.from_wire(at("[::ffff:192.0.2.1]:4840")), seen);
        table.select(peer, at("[2001:db8::1]:7"));
        assert_eq!(table.to_wire(seen), Some(at("[2001:db8::1]:7")));
        assert_eq!(table.from_wire(at("[2001:db8::1]:7")), seen);
        table.select(peer, by(3, "192.0.2.9:7"));
        assert_eq!(table.to_wire(seen), Some(by(3, "192.0.2.9:7")));
        assert_eq!(table.from_wire(by(3, "192.0.2.9:7")), seen);
        table.forget(peer);
        assert_eq!((table.to_wire(seen), table.by_route.len()), (None, 0));
    }

    #[test]
    fn a_connection_that_began_at_a_bare_address_moves_with_the_peer() {
        let mut table = PathTable::default();
        let met = addr("192.0.2.1:1");
        assert_eq!(
            (table.from_wire(Route::Direct(met)), table.to_wire(met)),
            (met, Some(Route::Direct(met)))
        );
        table.select(Slot(1), Route::Direct(met));
        table.select(Slot(1), at("192.0.2.1:2"));
        assert_eq!(table.to_wire(met), Some(at("192.0.2.1:2")));
        assert_eq!(table.from_wire(Route::Direct(met)), PathTable::virtual_address(Slot(1)));
        table.select_only(Slot(1), at("192.0.2.1:2"));
        assert_eq!(
            (table.from_wire(Route::Direct(met)), table.to_wire(met)),
            (met, Some(Route::Direct(met)))
        );
    }

    #[test]
    fn strangers_beyond_relays_are_told_apart_and_bounded() {
        let mut table = PathTable::default();
        let (one, other) = (by(1, "192.0.2.1:1"), by(2, "192.0.2.1:1"));
        let seen = table.from_wire(one);
        assert_eq!((table.known(one), table.to_wire(seen)), (Some(seen), Some(one)));
        assert_ne!(table.from_wire(other), seen);
        assert!(!is_real_source(seen) && !PathTable::is_peer(seen));
        for port in 1..=2 * MAX_STRANGERS as u16 {
            table.from_wire(Route::Relayed(RelayId(9), SocketAddr::new([198, 51, 100, 1].into(), port)));
        }
        assert_eq!((table.known(one), table.to_wire(seen)), (None, None));
        assert_eq!(
            (table.strangers.by_route.len(), table.strangers.by_number.len()),
            (MAX_STRANGERS, MAX_STRANGERS)
        );
    }

    #[test]
    fn sources_that_cannot_be() {
        assert!(is_real_source(addr("192.0.2.1:1")));
        assert!(!is_real_source(addr("192.0.2.1:0")));
        assert!(!is_real_source(PathTable::virtual_address(Slot(3))));
        assert!(PathTable::is_peer(PathTable::virtual_address(Slot(3))));
        let link_local = addr("[fe80::1%3]:5");
        assert_eq!(canonical(link_local), link_local);
    }

    #[test]
    fn an_address_that_another_peer_took_over_is_that_peers() {
        let mut table = PathTable::default();
        table.select(Slot(1), at("192.0.2.1:1"));
        table.select(Slot(2), at("192.0.2.1:1"));
        table.forget(Slot(1));
        assert_eq!(table.from_wire(at("192.0.2.1:1")), PathTable::virtual_address(Slot(2)));
    }

    #[test]
    fn a_linked_peers_route_is_not_taken_over_by_one_that_only_says_to_be_there() {
        let mut table = PathTable::default();
        let (linked, other, route) = (Slot(1), Slot(2), at("192.0.2.1:1"));
        table.select(linked, route);
        table.know(other, route);
        table.select_only(other, route);
        assert_eq!(table.known(route), Some(PathTable::virtual_address(linked)));
        assert_eq!(table.route(other), Some(route), "it may be tried there all the same");
        table.select(other, route);
        assert_eq!(table.known(route), Some(PathTable::virtual_address(other)), "it has proved to be there");
        table.select_only(other, route);
        table.know(linked, route);
        assert_eq!(table.known(route), Some(PathTable::virtual_address(linked)), "no link goes by it");
    }

    #[test]
    fn a_peers_routes_are_bounded_and_the_selected_one_stays() {
        let mut table = PathTable::default();
        table.select(Slot(1), at("192.0.2.1:1"));
        for port in 2..100u16 {
            table.know(Slot(1), Route::Direct(SocketAddr::new([192, 0, 2, 1].into(), port)));
        }
        assert_eq!((table.by_route.len(), table.route(Slot(1))), (MAX_ROUTES, Some(at("192.0.2.1:1"))));
    }
}
