//! Routers of the network. Of a guest that has the endpoint's MAC for its remote router, only a packet's final
//! destination is left to tell where it must go. So the switch must know the routers: guests are shown their own
//! MACs, and what comes to the endpoint all the same, from guests that asked before the router was known, goes to
//! the likeliest one. It hears of routers from the configuration, in router advertisements and in DHCPv4 offers
//! and acknowledgements (RFC 2132, option 3).

use std::net::{IpAddr, Ipv4Addr};

use super::Switch;
use super::binding::{BindingKey, Place};
use super::config::Mode;
use super::tables::{Station, StationIndex};
use crate::frame::{Eth, Tags, dhcp};
use crate::ids::Mac;
use crate::time::Time;

/// The routers, the one heard of last at the end. Bounded.
#[derive(Debug)]
pub(super) struct Gateways {
    list: Vec<Gateway>,
    /// Those of the configuration, in any VLAN.
    given: Vec<IpAddr>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Gateway {
    tags: Tags,
    ip: IpAddr,
    /// IPv4 subnet mask as the DHCP server gave it.
    mask: Option<Ipv4Addr>,
}

impl Gateways {
    pub(super) fn new(given: Vec<IpAddr>) -> Gateways {
        Gateways { list: Vec::new(), given }
    }

    fn is_empty(&self) -> bool {
        self.given.is_empty() && self.list.is_empty()
    }

    pub(super) fn knows(&self, tags: Tags, ip: IpAddr) -> bool {
        self.given.contains(&ip) || self.list.iter().any(|g| (g.tags, g.ip) == (tags, ip))
    }

    /// Those that may be the way to `dst`, the likeliest first.
    fn fitting(&self, tags: Tags, dst: IpAddr) -> impl Iterator<Item = IpAddr> {
        let given = self
            .given
            .iter()
            .filter(move |ip| !self.list.iter().any(|g| (g.tags, g.ip) == (tags, **ip)))
            .map(move |ip| Gateway { tags, ip: *ip, mask: Some(USUAL_MASK) });
        self.list.iter().rev().copied().chain(given).filter(move |g| g.fits(tags, dst)).map(|g| g.ip)
    }

    pub(super) fn add(&mut self, tags: Tags, ip: IpAddr, mask: Option<Ipv4Addr>) {
        self.list.retain(|g| (g.tags, g.ip) != (tags, ip));
        if self.list.len() >= MAX_GATEWAYS {
            self.list.remove(0);
        }
        self.list.push(Gateway { tags, ip, mask });
    }

    pub(super) fn remove(&mut self, tags: Tags, ip: IpAddr) {
        self.list.retain(|g| (g.tags, g.ip) != (tags, ip));
    }
}

impl Switch {
    /// Notes the routers that a DHCPv4 server tells its client of.
    pub(super) fn learn_gateways(&mut self, frame: &[u8], eth: &Eth, now: Time) {
        let Some(offer) = dhcp::offer(frame, eth) else { return };
        for ip in offer.routers().map(IpAddr::V4).filter(super::admit::bindable) {
            self.gateways.add(eth.tags, ip, offer.mask);
            if let Some(e) = self.tables.find_ip(eth.tags, ip, now) {
                let station = self.tables.ip(e).station;
                self.tables.station_mut(station).router = true;
            }
        }
    }

    /// Marks the station as a router if this IP is one's.
    pub(super) fn note_router(&mut self, i: StationIndex, ip: IpAddr, says_so: bool) {
        let tags = self.tables.station(i).key.tags;
        if says_so || self.gateways.knows(tags, ip) {
            self.tables.station_mut(i).router = true;
        }
    }

    /// The MAC that guests are shown for a remote station.
    pub(super) fn shown(&self, station: &Station) -> Mac {
        match self.mode {
            Mode::Rewrite if !station.router => self.endpoint,
            Mode::Rewrite | Mode::Preserve => station.key.mac,
        }
    }

    /// Whom the switch must find for a local packet to the endpoint: its destination, or the router in front
    /// of it.
    pub(super) fn next_hop(&self, sender: BindingKey, dst: IpAddr, now: Time) -> IpAddr {
        if self.gateways.is_empty() {
            return dst;
        }
        let fitting = || self.gateways.fitting(sender.tags, dst);
        if fitting().next().is_none()
            || self.tables.owner(sender.tags, dst, now).is_some()
            || self.shares_prefix(sender, dst)
        {
            return dst;
        }
        let reachable = fitting().find(|g| {
            let owner = self.tables.owner(sender.tags, *g, now);
            owner.is_some_and(|(_, _, a)| match a.at {
                Place::Peer(peer) => self.links.is_up(peer),
                Place::Local => true,
            })
        });
        reachable.or(fitting().next()).unwrap_or(dst)
    }

    /// Whether an IPv6 destination is on-link for the sender, going by the usual /64.
    fn shares_prefix(&self, sender: BindingKey, dst: IpAddr) -> bool {
        let IpAddr::V6(dst) = dst else { return false };
        let Some(i) = self.tables.find(&sender) else { return false };
        self.tables.station(i).ips.iter().any(|e| match self.tables.ip(*e).ip {
            IpAddr::V6(own) => own.segments()[..4] == dst.segments()[..4],
            IpAddr::V4(_) => false,
        })
    }
}

impl Gateway {
    /// Whether this router may be the way to `dst`, which is of its VLAN and family and not on its own link.
    fn fits(&self, tags: Tags, dst: IpAddr) -> bool {
        self.tags == tags
            && match (self.ip, dst) {
                (IpAddr::V4(own), IpAddr::V4(dst)) => self.mask.is_none_or(|m| own & m != dst & m),
                (IpAddr::V6(_), IpAddr::V6(dst)) => !dst.is_unicast_link_local(),
                _ => false,
            }
    }
}

const MAX_GATEWAYS: usize = 16;
/// Assumed where only a router's IPv4 address is known: on-link traffic that this takes for the router's reaches
/// its destination by the router.
const USUAL_MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
