//! Routers of the network. A guest whose router is remote sends everything off-link to the endpoint's MAC, and
//! only the packet's final destination is left to tell where to: so the switch must know the routers itself.
//! It hears of them in router advertisements and in DHCPv4 offers and acknowledgements (RFC 2132, option 3).

use std::net::{IpAddr, Ipv4Addr};

use super::Switch;
use super::binding::{BindingKey, Place};
use crate::frame::{Eth, Tags, dhcp, l3::L3};
use crate::time::Time;

/// The routers, the one heard of last at the end. Bounded.
#[derive(Debug, Default)]
pub(super) struct Gateways {
    list: Vec<Gateway>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Gateway {
    tags: Tags,
    ip: IpAddr,
    /// IPv4 subnet mask as the DHCP server gave it.
    mask: Option<Ipv4Addr>,
}

impl Gateways {
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
    pub(super) fn learn_gateways(&mut self, frame: &[u8], eth: &Eth) {
        let Some(offer) = dhcp::offer(frame, eth) else { return };
        for ip in offer.routers().map(IpAddr::V4).filter(super::admit::bindable) {
            self.gateways.add(eth.tags, ip, offer.mask);
        }
    }

    /// Whom the switch must find for a local packet to the endpoint: its destination, or the router in front
    /// of it.
    pub(super) fn next_hop(&self, sender: BindingKey, ip: L3, now: Time) -> IpAddr {
        let fitting = || self.gateways.list.iter().rev().filter(|g| g.fits(sender.tags, ip.dst));
        if fitting().next().is_none()
            || self.tables.owner(sender.tags, ip.dst, now).is_some()
            || self.shares_prefix(sender, ip.dst)
        {
            return ip.dst;
        }
        let reachable = fitting().find(|g| {
            let owner = self.tables.owner(sender.tags, g.ip, now);
            owner.is_some_and(|(_, _, a)| match a.at {
                Place::Peer(peer) => self.links.is_up(peer),
                Place::Local => true,
            })
        });
        reachable.or(fitting().next()).map_or(ip.dst, |g| g.ip)
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
