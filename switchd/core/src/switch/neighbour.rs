//! The paper's four ARP cases (section IV-B), and the same for ND.
//!
//! | | from the bridge | from a peer |
//! |---|---|---|
//! | request | case 1: answered from a remote binding, else asked of the peers once per interval | case 3: answered from a local binding, else put on the bridge |
//! | reply | case 2: learned, returned to its asker only | case 4: learned, put on the bridge |
//!
//! Only broadcast and multicast requests are answered; a unicast poll goes to the owner, who alone can say
//! that it still lives. A learned or announced owner that let a poll go unanswered is not answered for until it
//! speaks: its move may not have reached this node.

use std::net::IpAddr;
use std::time::Duration;

use super::asks::{Asker, Permit};
use super::binding::{BindingKey, Place, Source};
use super::config::{AntiSpoof, Mode};
use super::counters::NeighbourCounters;
use super::flood::Share;
use super::hold::Sender;
use super::message::{self, Audience, Format, Kind, Message};
use super::tables::{StationIndex, key};
use super::verdict::{Destination, DropReason, Verdict};
use super::{Event, Switch};
use crate::frame::{Eth, nd, set_dst};
use crate::ids::{Mac, PeerId};
use crate::time::Time;
use crate::vnet::VnetHdr;

impl Switch {
    pub(super) fn local_neighbour(
        &mut self,
        frame: &mut [u8],
        eth: &Eth,
        vnet: &VnetHdr,
        message: &Message,
        station: Option<StationIndex>,
        now: Time,
    ) -> Result<Verdict, DropReason> {
        let counters = self.neighbour_counters(message.target);
        match message.kind {
            Kind::Request | Kind::Probe | Kind::Poll => counters.local_requests += 1,
            Kind::Reply | Kind::Gratuitous => counters.local_replies += 1,
            Kind::Router => {}
        }
        if message.sender == self.endpoint {
            self.event(Event::Loop { key: key(eth.tags, eth.src) }, now);
            return Err(DropReason::Loop);
        }
        let news = self.learn_claim(eth, message, station, Place::Local, now)?;
        let verdict = match message.kind {
            Kind::Request | Kind::Probe => self.local_request(frame, eth, message, now),
            Kind::Poll => self.local_poll(frame, eth, message, now),
            Kind::Reply => self.local_reply(frame, eth, message, now),
            Kind::Gratuitous => {
                self.neighbour_counters(message.target).gratuitous += 1;
                if eth.dst == self.endpoint {
                    // To one that stands for all.
                    set_dst(frame, Mac::BROADCAST);
                }
                self.flood(Share::Control, now)
            }
            Kind::Router => self.forward_local(frame, eth, vnet, true, now),
        };
        if let (true, Some(ip)) = (news, message.claim)
            && verdict != Ok(Verdict::Flood)
            && self.flood(Share::Control, now).is_ok()
        {
            // The peers may bind the IP to a former owner, and this message does not reach them all.
            let owner = key(eth.tags, eth.src);
            let router = message.router.unwrap_or(false);
            let (mac, to) = (owner.mac, Audience::Everybody);
            let frame = message::announcement(owner.tags, ip, router, mac, mac, to);
            self.transmit(Destination::Flood, VnetHdr::default(), frame);
        }
        verdict
    }

    #[expect(clippy::too_many_arguments, reason = "the frame, what was read of it, and who and when")]
    pub(super) fn remote_neighbour(
        &mut self,
        frame: &mut [u8],
        eth: &Eth,
        vnet: &VnetHdr,
        message: &Message,
        station: Option<StationIndex>,
        from: PeerId,
        now: Time,
    ) -> Result<Verdict, DropReason> {
        let counters = self.neighbour_counters(message.target);
        match message.kind {
            Kind::Request | Kind::Probe | Kind::Poll => counters.remote_requests += 1,
            Kind::Reply | Kind::Gratuitous => counters.remote_replies += 1,
            Kind::Router => {}
        }
        if message.sender == self.endpoint {
            return Err(DropReason::Loop);
        }
        self.learn_claim(eth, message, station, Place::Peer(from), now)?;
        let counters = self.neighbour_counters(message.target);
        match message.kind {
            Kind::Request | Kind::Probe => {
                counters.probes += u64::from(message.kind == Kind::Probe);
                if self.answer_remote(frame, eth, message, from, now) {
                    return Ok(Verdict::Answered);
                }
                self.neighbour_counters(message.target).bridged += 1;
                self.remember(eth, message, from, now);
            }
            Kind::Poll => {
                counters.polls += 1;
                self.note_poll(eth, message.target, now);
                self.remember(eth, message, from, now);
            }
            Kind::Gratuitous => counters.gratuitous += 1,
            Kind::Reply | Kind::Router => {}
        }
        if self.hides(station) {
            message.show_endpoint(frame, eth, vnet, self.endpoint);
        }
        Ok(self.deliver(frame, eth, station))
    }

    /// Tells the bridge where an instance that moved is now.
    pub(super) fn announce(&mut self, owner: BindingKey, ip: IpAddr, router: bool, at: Place) {
        let hidden = self.hides(self.tables.find(&owner));
        let (shown, source) = match (self.mode, at) {
            (Mode::Rewrite, Place::Peer(_)) if !hidden => (owner.mac, owner.mac),
            (Mode::Rewrite, Place::Local) => (owner.mac, self.endpoint),
            (Mode::Rewrite, Place::Peer(_)) => (self.endpoint, self.endpoint),
            // Guests have the right MAC; the bridge must learn that it is behind the endpoint now.
            (Mode::Preserve, Place::Peer(_)) => (owner.mac, owner.mac),
            (Mode::Preserve, Place::Local) => return,
        };
        let frame = message::announcement(owner.tags, ip, router, shown, source, Audience::Everybody);
        self.neighbour_counters(ip).corrections += 1;
        self.transmit(Destination::Bridge, VnetHdr::default(), frame);
    }

    /// Tells one instance, which still sends to the endpoint, that `ip` is on its own bridge.
    pub(super) fn correct(
        &mut self,
        eth: &Eth,
        owner: BindingKey,
        ip: IpAddr,
        router: bool,
        sender_ip: IpAddr,
        now: Time,
    ) {
        if !super::admit::bindable(&sender_ip) || !self.asks.permit_correction(eth.tags, eth.src, ip, now) {
            return;
        }
        let to = Audience::One(eth.src, sender_ip);
        let frame = message::announcement(owner.tags, ip, router, owner.mac, self.endpoint, to);
        self.neighbour_counters(ip).corrections += 1;
        self.transmit(Destination::Bridge, VnetHdr::default(), frame);
    }

    pub(super) fn neighbour_counters(&mut self, ip: IpAddr) -> &mut NeighbourCounters {
        if ip.is_ipv4() { &mut self.counters.arp } else { &mut self.counters.nd }
    }

    /// Learns who has which IP; `true` as [`Switch::learn_ip`]. A message whose link-layer address is not its
    /// sender's teaches nothing, and one that contradicts a controller's binding is dropped: it would poison the
    /// guests' caches.
    fn learn_claim(
        &mut self,
        eth: &Eth,
        message: &Message,
        station: Option<StationIndex>,
        from: Place,
        now: Time,
    ) -> Result<bool, DropReason> {
        let Some(ip) = message.claim else { return Ok(false) };
        let strict_local = self.policy.anti_spoof == AntiSpoof::Strict && from == Place::Local;
        let sender = key(eth.tags, eth.src);
        match station {
            Some(i) if message.sender == eth.src => {
                if strict_local {
                    self.check_claim(i, ip, now)?;
                }
                self.learn_ip(i, ip, message.router, from, now)
            }
            _ if strict_local => Err(self.spoof(sender, Some(ip), from, now)),
            _ => {
                let contradicts = self.tables.find_ip(eth.tags, ip, now).is_some_and(|e| {
                    let entry = self.tables.ip(e);
                    entry.source == Source::Controller
                        && self.tables.station(entry.station).key.mac != message.sender
                });
                if contradicts { Err(self.spoof(sender, Some(ip), from, now)) } else { Ok(false) }
            }
        }
    }

    fn local_request(
        &mut self,
        frame: &[u8],
        eth: &Eth,
        message: &Message,
        now: Time,
    ) -> Result<Verdict, DropReason> {
        let probe = message.kind == Kind::Probe;
        self.neighbour_counters(message.target).probes += u64::from(probe);
        let found = self
            .tables
            .owner(eth.tags, message.target, now)
            .map(|(e, s, a)| (s.key.mac, a.at, e.router, self.shown(s)));
        if probe
            && let Some((mac, Place::Peer(peer), ..)) = found
            && mac != eth.src
            && self.links.is_up(peer)
            && !self.is_controlled(eth, message.target, now)
        {
            return Ok(Verdict::Peer(peer));
        }
        match found {
            Some((mac, Place::Peer(peer), router, shown))
                if mac != eth.src && self.links.is_up(peer) && !self.is_silent(eth, message.target, now) =>
            {
                let reply = message.answer(frame, eth, shown, router);
                self.neighbour_counters(message.target).local_answered += 1;
                self.transmit(Destination::Bridge, VnetHdr::default(), reply);
                Ok(Verdict::Answered)
            }
            Some((mac, Place::Local, ..)) if mac != eth.src => {
                self.neighbour_counters(message.target).same_bridge += 1;
                // Nobody on the bridge answered the first time: it may have left.
                if self.note_missed(eth, message.target, now) {
                    return self.ask_peers(eth, message, now);
                }
                Err(DropReason::SameBridge)
            }
            // A probe for the prober's own IP: it came up anew, perhaps on another node, and the peers that
            // know it elsewhere must hear of it.
            Some((mac, ..)) if probe && mac == eth.src => self.flood(Share::Control, now),
            _ => self.ask_peers(eth, message, now),
        }
    }

    fn ask_peers(&mut self, eth: &Eth, message: &Message, now: Time) -> Result<Verdict, DropReason> {
        // Not a probe, which is one of several and answered by silence.
        if let Some(ip) = message.asker.filter(super::admit::bindable) {
            let sender = Sender { mac: eth.src, ip: Some(ip) };
            self.asks.want(eth.tags, message.target, sender, now);
        }
        if self.links.all_up().is_empty() {
            return Err(DropReason::NoPeers);
        }
        match self.asks.permit(eth.tags, message.target, now) {
            Permit::Limited => Err(DropReason::AskLimited),
            Permit::Full => Err(DropReason::AskTableFull),
            Permit::Ask => {
                let verdict = self.flood(Share::Control, now)?;
                self.neighbour_counters(message.target).asked += 1;
                Ok(verdict)
            }
        }
    }

    fn local_poll(
        &mut self,
        frame: &mut [u8],
        eth: &Eth,
        message: &Message,
        now: Time,
    ) -> Result<Verdict, DropReason> {
        self.neighbour_counters(message.target).polls += 1;
        self.note_poll(eth, message.target, now);
        if eth.dst != self.endpoint {
            return self.forward_by_mac(eth, now);
        }
        if self.mode == Mode::Preserve {
            return Err(DropReason::NotForEndpoint);
        }
        let found = self.tables.owner(eth.tags, message.target, now).map(|(e, s, a)| (s.key, a.at, e.router));
        match found {
            Some((owner, Place::Peer(peer), _)) => {
                set_dst(frame, owner.mac);
                message.set_target_mac(frame, eth, owner.mac);
                self.to_peer(peer)
            }
            Some((owner, Place::Local, router)) => {
                if let Some(ip) = message.asker {
                    self.correct(eth, owner, message.target, router, ip, now);
                }
                message.set_target_mac(frame, eth, owner.mac);
                Ok(self.hairpin(frame, owner.mac))
            }
            None => {
                // The binding has expired under the asker's entry: ask everybody in its place.
                let group = match message.format {
                    Format::Arp(_) => Mac::BROADCAST,
                    Format::Nd(nd) => nd::multicast_mac(nd::solicited_node(nd.dst)),
                };
                set_dst(frame, group);
                message.set_target_mac(frame, eth, Mac::ZERO);
                let verdict = self.ask_peers(eth, message, now)?;
                self.ask_bridge(eth.tags, message.target, message.asker);
                Ok(verdict)
            }
        }
    }

    fn local_reply(
        &mut self,
        frame: &mut [u8],
        eth: &Eth,
        message: &Message,
        now: Time,
    ) -> Result<Verdict, DropReason> {
        let asker = message.asker.unwrap_or(message.target);
        if eth.dst == self.endpoint && asker.is_unspecified() {
            // To a probe of the switch's own; learned by now.
            return Ok(Verdict::Answered);
        }
        let to = if eth.dst == self.endpoint {
            let waiting = self.asks.take(eth.tags, message.target, asker, now);
            match waiting {
                Some(asker) => Some((asker.mac, Place::Peer(asker.peer))),
                None => self.tables.owner(eth.tags, asker, now).map(|(_, s, a)| (s.key.mac, a.at)),
            }
        } else {
            self.tables.place(&key(eth.tags, eth.dst), now).map(|at| (eth.dst, at))
        };
        match to {
            Some((mac, Place::Peer(peer))) => {
                set_dst(frame, mac);
                message.set_target_mac(frame, eth, mac);
                let verdict = self.to_peer(peer)?;
                self.neighbour_counters(message.target).returned += 1;
                Ok(verdict)
            }
            Some((mac, Place::Local)) if eth.dst == self.endpoint => {
                message.set_target_mac(frame, eth, mac);
                Ok(self.hairpin(frame, mac))
            }
            Some((_, Place::Local)) => Err(DropReason::SameBridge),
            None => Err(DropReason::NoAsker),
        }
    }

    /// Case 3: answers with the instance's own MAC, which is what travels on the overlay. Not for the prober's
    /// own binding: the instance has moved, and would take the answer for a conflict.
    fn answer_remote(&mut self, frame: &[u8], eth: &Eth, message: &Message, from: PeerId, now: Time) -> bool {
        let Some((entry, owner, active)) = self.tables.owner(eth.tags, message.target, now) else {
            return false;
        };
        if active.at != Place::Local || owner.key.mac == eth.src || self.is_silent(eth, message.target, now) {
            return false;
        }
        if message.kind == Kind::Probe && !self.is_controlled(eth, message.target, now) {
            return false;
        }
        let reply = message.answer(frame, eth, owner.key.mac, entry.router);
        self.neighbour_counters(message.target).remote_answered += 1;
        self.transmit(Destination::Peer(from), VnetHdr::default(), reply);
        true
    }

    /// Whether the switch may answer a probe in the owner's name: an answer makes the prober give the address
    /// up, so an owner that was only learned, here or elsewhere, and may be gone, is left to defend itself.
    fn is_controlled(&self, eth: &Eth, target: IpAddr, now: Time) -> bool {
        self.tables.owner(eth.tags, target, now).is_some_and(|(entry, ..)| entry.source == Source::Controller)
    }

    /// Notes that the owner is asked itself whether it still lives.
    fn note_poll(&mut self, eth: &Eth, target: IpAddr, now: Time) {
        if let Some(e) = self.tables.find_ip(eth.tags, target, now) {
            self.tables.ip_mut(e).polled.get_or_insert(now);
        }
    }

    /// Whether an owner that the controller did not place owes the answer to a poll.
    fn is_silent(&self, eth: &Eth, target: IpAddr, now: Time) -> bool {
        self.tables.owner(eth.tags, target, now).is_some_and(|(entry, _, active)| {
            active.source != Source::Controller && entry.polled.is_some_and(|t| now.since(t) >= POLL_ANSWER)
        })
    }

    /// Notes a request for an owner that is bound to the asker's own bridge; `true` if the asker repeats itself.
    fn note_missed(&mut self, eth: &Eth, target: IpAddr, now: Time) -> bool {
        let learned =
            self.tables.owner(eth.tags, target, now).is_some_and(|(_, _, a)| a.source != Source::Controller);
        let Some(e) = self.tables.find_ip(eth.tags, target, now).filter(|_| learned) else { return false };
        let before = self.tables.ip_mut(e).missed.replace((eth.src, now));
        before.is_some_and(|(asker, at)| asker == eth.src && now.since(at) <= REPEATS)
    }

    fn remember(&mut self, eth: &Eth, message: &Message, peer: PeerId, now: Time) {
        let asker = Asker { peer, mac: eth.src, ip: message.asker };
        self.asks.remember(eth.tags, message.target, asker, now);
    }
}

/// An owner answers a poll within this.
const POLL_ANSWER: Duration = Duration::from_secs(1);
/// A request that its asker repeats within this was not answered.
const REPEATS: Duration = Duration::from_secs(3);
