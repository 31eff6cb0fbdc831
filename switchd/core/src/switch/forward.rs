//! The way of a frame through the switch.

use std::net::IpAddr;
use std::time::Duration;

use super::asks::Permit;
use super::binding::{BindingKey, Place};
use super::config::{DhcpPolicy, Mode};
use super::flood::Share;
use super::hold::Sender;
use super::message::{self, Message};
use super::tables::{StationIndex, key};
use super::verdict::{Destination, DropReason, Verdict};
use super::{Event, Switch};
use crate::frame::dhcp::{self, Dhcp};
use crate::frame::{Eth, Tags, ethertype, l3::L3, set_dst, set_src};
use crate::ids::{Mac, PeerId};
use crate::time::Time;
use crate::vnet::VnetHdr;

impl Switch {
    pub(super) fn local(
        &mut self,
        frame: &mut [u8],
        vnet: &VnetHdr,
        now: Time,
    ) -> Result<Verdict, DropReason> {
        let eth = read_eth(frame)?;
        if eth.src == self.endpoint {
            self.event(Event::Loop { key: key(eth.tags, eth.src) }, now);
            return Err(DropReason::Loop);
        }
        let message = message::parse(frame, &eth, vnet)?;
        let dhcp = self.guard(frame, &eth, message.as_ref())?;
        let station = self.admit(frame, &eth, Place::Local, now)?;
        if dhcp == Some(Dhcp::Server) {
            self.learn_gateways(frame, &eth, now);
        }
        match message {
            Some(message) => self.local_neighbour(frame, &eth, vnet, &message, station, now),
            None => self.forward_local(frame, &eth, vnet, dhcp.is_some(), now),
        }
    }

    pub(super) fn remote(
        &mut self,
        frame: &mut [u8],
        vnet: &VnetHdr,
        from: PeerId,
        now: Time,
    ) -> Result<Verdict, DropReason> {
        let eth = read_eth(frame)?;
        // Endpoints send only what they make for held frames, under the instances' own addresses.
        if eth.src == self.endpoint {
            self.event(Event::Loop { key: key(eth.tags, eth.src) }, now);
            return Err(DropReason::Loop);
        }
        if eth.dst == self.endpoint {
            return Err(DropReason::NotForEndpoint);
        }
        let message = message::parse(frame, &eth, vnet)?;
        let dhcp = self.guard(frame, &eth, message.as_ref())?;
        let station = self.admit(frame, &eth, Place::Peer(from), now)?;
        if dhcp == Some(Dhcp::Server) {
            self.learn_gateways(frame, &eth, now);
        }
        if let Some(message) = message {
            return self.remote_neighbour(frame, &eth, vnet, &message, station, from, now);
        }
        if eth.ethertype == ethertype::RARP {
            self.counters.rarp += 1;
        }
        Ok(self.deliver(frame, &eth, station))
    }

    /// Hands a remote frame to the bridge. What guests take an IP neighbour's address from shows the endpoint, or
    /// a router's own.
    pub(super) fn deliver(&mut self, frame: &mut [u8], eth: &Eth, from: Option<StationIndex>) -> Verdict {
        let ip = matches!(eth.ethertype, ethertype::IPV4 | ethertype::IPV6 | ethertype::ARP);
        if ip && self.hides(from) {
            set_src(frame, self.endpoint);
        }
        Verdict::Bridge
    }

    /// Whether the endpoint stands for this remote sender.
    pub(super) fn hides(&self, from: Option<StationIndex>) -> bool {
        self.mode == Mode::Rewrite && !from.is_some_and(|i| self.tables.station(i).router)
    }

    /// Any local frame but ARP and ND that the switch takes part in.
    pub(super) fn forward_local(
        &mut self,
        frame: &mut [u8],
        eth: &Eth,
        vnet: &VnetHdr,
        control: bool,
        now: Time,
    ) -> Result<Verdict, DropReason> {
        if eth.dst.is_group() {
            let rarp = eth.ethertype == ethertype::RARP;
            self.counters.rarp += u64::from(rarp);
            let share = if control || rarp { Share::Control } else { Share::Bulk };
            return self.flood(share, now);
        }
        if eth.dst == self.endpoint {
            return self.forward_by_ip(frame, eth, vnet, now);
        }
        self.forward_by_mac(eth, now)
    }

    pub(super) fn forward_by_mac(&mut self, eth: &Eth, now: Time) -> Result<Verdict, DropReason> {
        match self.tables.place(&key(eth.tags, eth.dst), now) {
            Some(Place::Peer(peer)) => self.to_peer(peer),
            Some(Place::Local) => Err(DropReason::SameBridge),
            None => {
                let verdict = self.flood(Share::Bulk, now)?;
                self.counters.unknown_unicast += 1;
                Ok(verdict)
            }
        }
    }

    pub(super) fn to_peer(&self, peer: PeerId) -> Result<Verdict, DropReason> {
        if self.links.is_up(peer) { Ok(Verdict::Peer(peer)) } else { Err(DropReason::LinkDown) }
    }

    pub(super) fn flood(&mut self, share: Share, now: Time) -> Result<Verdict, DropReason> {
        if self.links.all_up().is_empty() {
            return Err(DropReason::NoPeers);
        }
        if self.bucket.take(share, now) { Ok(Verdict::Flood) } else { Err(DropReason::FloodLimited) }
    }

    /// A frame to the endpoint: its destination is who has the IP.
    fn forward_by_ip(
        &mut self,
        frame: &mut [u8],
        eth: &Eth,
        vnet: &VnetHdr,
        now: Time,
    ) -> Result<Verdict, DropReason> {
        if self.mode == Mode::Preserve {
            return Err(DropReason::NotForEndpoint);
        }
        let parsed = L3::parse(frame, eth);
        let ip = match &parsed {
            Ok(Some(ip)) => ip,
            Ok(None) => return Err(DropReason::NotForEndpoint),
            Err(_) => return Err(DropReason::BadIp),
        };
        if !super::admit::bindable(&ip.dst) {
            return Err(DropReason::NotForEndpoint);
        }
        let target = self.next_hop(key(eth.tags, eth.src), ip.dst, now);
        let age = self.limits.ip_age;
        let found = self.tables.owner(eth.tags, target, now);
        match found.map(|(e, s, a)| (s.key, a.at, e.router, e.fades(age, now))) {
            Some((owner, Place::Peer(peer), _, fades)) => {
                let verdict = self.to_peer(peer)?;
                if fades {
                    self.refresh(eth, *ip, target, owner.mac, peer, now);
                }
                set_dst(frame, owner.mac);
                Ok(verdict)
            }
            Some((owner, Place::Local, router, _)) => {
                let sender = key(eth.tags, eth.src);
                let sender_ip = self.own_ip(sender, *ip, now).unwrap_or(ip.src);
                self.correct(eth, owner, target, router, sender_ip, now);
                Ok(self.hairpin(frame, owner.mac))
            }
            None => self.hold(frame, eth, vnet, *ip, target, now),
        }
    }

    /// Sends a local frame back to the bridge, to an instance that lives there now. The source is the
    /// endpoint's: the sender's own would make the bridge believe that the sender is behind the endpoint.
    pub(super) fn hairpin(&mut self, frame: &mut [u8], owner: Mac) -> Verdict {
        self.counters.hairpinned += 1;
        set_dst(frame, owner);
        set_src(frame, self.endpoint);
        Verdict::Bridge
    }

    fn hold(
        &mut self,
        frame: &[u8],
        eth: &Eth,
        vnet: &VnetHdr,
        ip: L3,
        target: IpAddr,
        now: Time,
    ) -> Result<Verdict, DropReason> {
        let sender = Sender { mac: eth.src, ip: self.own_ip(key(eth.tags, eth.src), ip, now) };
        if !self.hold.has_room(eth.tags, target, eth.src, frame.len()) {
            if self.ask(eth.tags, target, sender, now) {
                self.ask_bridge(eth.tags, target, sender.ip);
            }
            return Err(DropReason::HoldFull);
        }
        if self.hold.push((eth.tags, target), sender, *vnet, frame, now) {
            self.ask_bridge(eth.tags, target, sender.ip);
            self.ask(eth.tags, target, sender, now);
        }
        Ok(Verdict::Held)
    }

    /// An IP of the sender that it may ask with: the frame's, unless the sender forwards for others.
    fn own_ip(&self, sender: BindingKey, ip: L3, now: Time) -> Option<IpAddr> {
        let station = self.tables.station(self.tables.find(&sender)?);
        let mut own = station
            .ips
            .iter()
            .map(|e| self.tables.ip(*e))
            .filter(|e| !e.expired(self.limits.ip_age, now) && e.ip.is_ipv4() == ip.dst.is_ipv4())
            .map(|e| e.ip);
        let Some(first) = own.next() else {
            // IPv6 needs some address to ask with: one of the target's own prefix is hardly forwarded.
            let near = matches!((ip.src, ip.dst), (IpAddr::V6(s), IpAddr::V6(d)) if s.segments()[..4] == d.segments()[..4]);
            let anothers = self.tables.find_ip(sender.tags, ip.src, now).is_some();
            return (near && !anothers && super::admit::bindable(&ip.src)).then_some(ip.src);
        };
        Some(if first == ip.src || own.any(|o| o == ip.src) { ip.src } else { first })
    }

    /// Asks the peers for a target in the name of an instance; `false` if it is too early, or in IPv6 if no
    /// address of the instance is known: without one it would be duplicate address detection, for which an owner
    /// that is just detecting duplicates itself gives its address up (RFC 4862, 5.4.3).
    fn ask(&mut self, tags: Tags, target: IpAddr, sender: Sender, now: Time) -> bool {
        if target.is_ipv6() && sender.ip.is_none() {
            return false;
        }
        if self.asks.permit(tags, target, now) != Permit::Ask {
            return false;
        }
        self.neighbour_counters(target).own_requests += 1;
        if self.flood(Share::Control, now).is_ok() {
            let request = message::request(tags, target, sender.mac, sender.ip);
            self.transmit(Destination::Flood, VnetHdr::default(), request);
        }
        true
    }

    /// Polls the owner of an IP that is about to be forgotten while a local instance still sends to it: a long
    /// connection shall not wait once in every ip_age.
    fn refresh(&mut self, eth: &Eth, ip: L3, target: IpAddr, owner: Mac, peer: PeerId, now: Time) {
        let Some(e) = self.tables.find_ip(eth.tags, target, now) else { return };
        let Some(own_ip) = self.own_ip(key(eth.tags, eth.src), ip, now) else { return };
        if self.asks.permit(eth.tags, target, now) == Permit::Ask {
            self.neighbour_counters(target).own_requests += 1;
            self.tables.ip_mut(e).polled.get_or_insert(now);
            let mut poll = message::request(eth.tags, target, eth.src, Some(own_ip));
            set_dst(&mut poll, owner);
            self.transmit(Destination::Peer(peer), VnetHdr::default(), poll);
        }
    }

    /// Asks for an IP on the bridge: its owner may have moved here before anybody on this node spoke to it.
    ///
    /// In IPv4 as a probe, since a request would make every neighbour take the endpoint for the asker. In IPv6
    /// a probe could hit the owner's own duplicate address detection, and only the owner reads a solicitation.
    pub(super) fn ask_bridge(&mut self, tags: Tags, target: IpAddr, asker: Option<IpAddr>) {
        let asker = asker.filter(IpAddr::is_ipv6);
        if target.is_ipv4() || asker.is_some() {
            let request = message::request(tags, target, self.endpoint, asker);
            self.transmit(Destination::Bridge, VnetHdr::default(), request);
        }
    }

    /// Drops what was held too long and asks again for the rest.
    pub(super) fn ask_again(&mut self, now: Time) {
        self.drop_departed(now);
        let (expired, waiting) = self.hold.expire(now);
        for _ in 0..expired {
            self.counters.count_drop(DropReason::HoldExpired);
        }
        for (tags, target, sender) in waiting {
            self.ask_bridge(tags, target, sender.ip);
            self.ask(tags, target, sender, now);
        }
    }

    /// Tells a peer whose link came up what instances here wait for, since nobody has asked it yet. Once more soon:
    /// the peer's answer may go by a session that this node has left.
    pub(super) fn came_up(&mut self, peer: PeerId, now: Time) {
        self.ask_peer(peer, now);
        self.anew.retain(|(_, other)| *other != peer);
        self.anew.push_back((now + ASK_ANEW, peer));
    }

    /// The second asking of peers whose links came up.
    pub(super) fn ask_anew(&mut self, now: Time) {
        while let Some((_, peer)) = self.anew.pop_front_if(|(at, _)| *at <= now) {
            if self.links.is_up(peer) {
                self.ask_peer(peer, now);
            }
        }
    }

    /// Sends on what is held for instances behind a peer, and asks it for those that nobody is known to have.
    fn ask_peer(&mut self, peer: PeerId, now: Time) {
        self.drop_departed(now);
        let mut targets: Vec<_> = self.hold.waiting().collect();
        let held = targets.len();
        targets.extend(self.asks.wanted(now));
        for (n, (tags, target, sender)) in targets.into_iter().enumerate() {
            if n < held {
                self.release(tags, target, now);
            }
            let known = self.tables.owner(tags, target, now).is_some();
            let left = matches!(self.tables.place(&key(tags, sender.mac), now), Some(Place::Peer(_)));
            let nameless = target.is_ipv6() && sender.ip.is_none();
            if known || left || nameless {
                continue;
            }
            if !self.bucket.take(Share::Control, now) {
                return;
            }
            self.neighbour_counters(target).own_requests += 1;
            let request = message::request(tags, target, sender.mac, sender.ip);
            self.transmit(Destination::Peer(peer), VnetHdr::default(), request);
        }
    }

    /// Sends on what was held for an IP that is known now.
    pub(super) fn release(&mut self, tags: Tags, ip: IpAddr, now: Time) {
        let Some((owner, at)) = self.tables.owner(tags, ip, now).map(|(_, s, a)| (s.key, a.at)) else {
            return;
        };
        if matches!(at, Place::Peer(p) if !self.links.is_up(p)) {
            return;
        }
        self.drop_departed(now);
        for mut held in self.hold.take(tags, ip) {
            self.counters.released += 1;
            let to = match at {
                Place::Peer(peer) => {
                    set_dst(&mut held.frame, owner.mac);
                    Destination::Peer(peer)
                }
                Place::Local => {
                    self.hairpin(&mut held.frame, owner.mac);
                    Destination::Bridge
                }
            };
            self.transmit(to, held.vnet, held.frame);
        }
    }

    /// Drops the held frames of instances that are known to be elsewhere now: this node must not speak in their
    /// names any more, or the peers would take them for moved back.
    fn drop_departed(&mut self, now: Time) {
        let tables = &self.tables;
        let dropped = self
            .hold
            .drop_departed(|tags, mac| matches!(tables.place(&key(tags, mac), now), Some(Place::Peer(_))));
        for _ in 0..dropped {
            self.counters.count_drop(DropReason::HoldExpired);
        }
    }

    pub(super) fn release_station(&mut self, i: StationIndex, now: Time) {
        let station = self.tables.station(i);
        let tags = station.key.tags;
        let ips: Vec<_> = station.ips.iter().map(|e| self.tables.ip(*e).ip).collect();
        for ip in ips {
            self.release(tags, ip, now);
        }
    }

    /// Applies the dhcp policy, and says whether the frame is a DHCP message or router discovery.
    fn guard(&self, frame: &[u8], eth: &Eth, message: Option<&Message>) -> Result<Option<Dhcp>, DropReason> {
        let role = match message {
            Some(m) => m.dhcp_role(),
            None => dhcp::classify(frame, eth),
        };
        let passes = match (self.policy.dhcp, role) {
            (DhcpPolicy::Forward, _) | (_, None) => true,
            (DhcpPolicy::LocalOnly, Some(_)) => false,
            (DhcpPolicy::Trusted(mac), Some(Dhcp::Server)) => eth.src == mac,
            (DhcpPolicy::Trusted(_), Some(Dhcp::Client)) => true,
        };
        if passes { Ok(role) } else { Err(DropReason::DhcpPolicy) }
    }
}

fn read_eth(frame: &[u8]) -> Result<Eth, DropReason> {
    let eth = Eth::parse(frame).map_err(|_| DropReason::BadFrame)?;
    if !eth.src.is_unicast() {
        return Err(DropReason::BadSource);
    }
    if eth.dst == Mac::ZERO {
        return Err(DropReason::BadDestination);
    }
    let [a, b, c, d, e, f] = eth.dst.0;
    if [a, b, c, d, e] == [0x01, 0x80, 0xc2, 0, 0] && f < 0x10 {
        return Err(DropReason::LinkLocalGroup);
    }
    Ok(eth)
}

/// From a link's coming up to the second asking.
const ASK_ANEW: Duration = Duration::from_millis(100);
