//! Who may send from where, and what is learned of it: sources, moves, flap damping.

use std::net::IpAddr;
use std::time::Duration;

use super::binding::{Binding, BindingKey, Place, Source, State};
use super::config::AntiSpoof;
use super::control::place_of;
use super::flood::Share;
use super::message;
use super::tables::{Active, Evicted, Flap, IpBound, StationIndex};
use super::verdict::{Destination, DropReason};
use super::{Event, Switch};
use crate::frame::{Eth, ethertype, l3::L3};
use crate::ids::Generation;
use crate::time::Time;
use crate::vnet::VnetHdr;

impl Switch {
    /// Refuses or learns a frame's source. `None`: the frame may pass but nothing may be learned from it.
    pub(super) fn admit(
        &mut self,
        frame: &[u8],
        eth: &Eth,
        from: Place,
        now: Time,
    ) -> Result<Option<StationIndex>, DropReason> {
        let key = BindingKey { tags: eth.tags, mac: eth.src };
        let strict_local = self.policy.anti_spoof == AntiSpoof::Strict && from == Place::Local;
        let Some(i) = self.tables.find(&key) else {
            if strict_local {
                return Err(self.spoof(key, None, from, now));
            }
            return Ok(self.learn_station(key, from, now));
        };
        if let Some(active) = self.tables.station(i).active
            && active.at == from
            && (active.source == Source::Controller || !strict_local)
        {
            self.tables.touch(i, now);
        } else if !self.admit_elsewhere(i, frame, eth, from, now)? {
            return Ok(None);
        }
        if strict_local {
            self.check_source_ip(i, frame, eth, now)?;
        }
        Ok(Some(i))
    }

    /// Learns that a station has an IP; `true` if the peers must hear of it: it was another's, or is new on this
    /// bridge, and a peer may still have it elsewhere. Refused where the controller gave the IP to another.
    pub(super) fn learn_ip(
        &mut self,
        i: StationIndex,
        ip: IpAddr,
        router: Option<bool>,
        from: Place,
        now: Time,
    ) -> Result<bool, DropReason> {
        if !bindable(&ip) {
            return Ok(false);
        }
        let key = self.tables.station(i).key;
        if let Some(e) = self.tables.find_ip(key.tags, ip, now) {
            let entry = self.tables.ip(e);
            if entry.station != i && entry.source == Source::Controller {
                return Err(self.spoof(key, Some(ip), from, now));
            }
        }
        match router {
            Some(true) => self.gateways.add(key.tags, ip, None),
            Some(false) => self.gateways.remove(key.tags, ip),
            None => {}
        }
        let mut news = false;
        let bound = self.tables.bind_ip(i, ip, Source::Learned, router, now);
        self.count_evicted(now);
        self.note_router(i, ip, router == Some(true));
        match bound {
            Ok(IpBound::Known) => return Ok(false),
            Ok(IpBound::New) => {
                news = from == Place::Local;
                let at = place_of(self.tables.station(i));
                self.event(Event::BindingLearned { key, ip: Some(ip), at }, now);
            }
            Ok(IpBound::From(before)) => {
                news = true;
                self.counters.ip_moves += 1;
                self.event(Event::IpMoved { ip, from: before, to: key }, now);
            }
            Err(_) => {
                self.counters.ip_table_full += 1;
                self.event(Event::TableFull, now);
            }
        }
        self.release(key.tags, ip, now);
        Ok(news)
    }

    /// What follows a move: the caches of the bridge's instances are corrected, and the peers hear of an
    /// instance that came here.
    ///
    /// Not every IP may be announced: an instance that just started may have its own IPv6 addresses still under
    /// duplicate address detection, and our announcement would make it give them up (RFC 4862, 5.4.4). So IPv6
    /// is announced for an instance that comes here only where `frame` shows that the address is in use; other
    /// caches are corrected when they send to the endpoint.
    pub(super) fn moved(
        &mut self,
        i: StationIndex,
        from: Place,
        to: Active,
        frame: Option<(&[u8], &Eth)>,
        now: Time,
    ) {
        self.counters.moves += 1;
        let station = self.tables.station(i);
        let key = station.key;
        let in_use = frame.and_then(|(frame, eth)| L3::parse(frame, eth).ok().flatten()).map(|ip| ip.src);
        let resumed = frame.is_some_and(|(_, eth)| eth.ethertype == ethertype::RARP);
        let ips: Vec<_> = station
            .ips
            .iter()
            .map(|ip| self.tables.ip(*ip))
            .filter(|e| !e.expired(self.limits.ip_age, now))
            .filter(|e| e.ip.is_ipv4() || to.at != Place::Local || resumed || in_use == Some(e.ip))
            .take(MAX_CORRECTIONS)
            .map(|e| (e.ip, e.router))
            .collect();
        self.event(Event::BindingMoved { key, from, to: to.at, generation: to.generation }, now);
        // From one peer to another nothing changes for the bridge.
        if from != Place::Local && to.at != Place::Local {
            return;
        }
        for (ip, router) in ips {
            self.announce(key, ip, router, to.at);
        }
        // The frame that showed the move may concern one peer only, or none.
        let untold = to.at == Place::Local && frame.is_some() && !resumed;
        if untold && self.flood(Share::Control, now).is_ok() {
            let rarp = message::rarp(key);
            self.transmit(Destination::Flood, VnetHdr::default(), rarp);
        }
    }

    /// Counts the learned and announced entries that had to make room.
    pub(super) fn count_evicted(&mut self, now: Time) {
        let evicted = self.tables.take_evicted();
        if evicted != Evicted::default() {
            self.counters.mac_table_full += evicted.macs;
            self.counters.ip_table_full += evicted.ips;
            self.event(Event::TableFull, now);
        }
    }

    fn learn_station(&mut self, key: BindingKey, at: Place, now: Time) -> Option<StationIndex> {
        let inserted = self.tables.insert(key, now);
        self.count_evicted(now);
        let Ok(i) = inserted else {
            self.counters.mac_table_full += 1;
            self.event(Event::TableFull, now);
            return None;
        };
        let active = Active { at, generation: Generation(0), source: Source::Learned };
        self.tables.set_active(i, Some(active), now);
        self.tables.touch(i, now);
        self.counters.learned += 1;
        self.event(Event::BindingLearned { key, ip: None, at }, now);
        Some(i)
    }

    /// A frame from a station that is not known to be active at `from`, or that the controller did not put
    /// there. `false`: the frame may pass but moves nothing.
    fn admit_elsewhere(
        &mut self,
        i: StationIndex,
        frame: &[u8],
        eth: &Eth,
        from: Place,
        now: Time,
    ) -> Result<bool, DropReason> {
        let strict = self.policy.anti_spoof == AntiSpoof::Strict;
        let station = self.tables.station_mut(i);
        let key = station.key;
        if let Some(prepared) = station.prepared.take_if(|p| p.at == from) {
            // Its first frame from there: it runs.
            let binding = Binding {
                tags: key.tags,
                mac: key.mac,
                ips: prepared.ips,
                at: from,
                generation: prepared.generation,
                source: Source::Controller,
                state: State::Active,
            };
            self.tables.touch(i, now);
            if self.activate(i, false, &binding, now).is_err() {
                self.event(Event::TableFull, now);
            }
            return Ok(true);
        }
        let expired = station.expired(now);
        let held = station.flap.held_until.is_some_and(|until| now < until);
        let Some(active) = station.active else {
            if strict {
                return Err(self.spoof(key, None, from, now));
            }
            let learned = Active { at: from, generation: Generation(0), source: Source::Learned };
            self.tables.set_active(i, Some(learned), now);
            self.tables.touch(i, now);
            return Ok(true);
        };
        if active.source == Source::Controller {
            if strict {
                return Err(self.spoof(key, None, from, now));
            }
            if from == Place::Local || active.at == Place::Local {
                self.event(Event::BoundElsewhere { key, from, bound: active.at }, now);
                return Err(DropReason::BoundElsewhere);
            }
            // Between two peers this node may simply not have heard of the move yet.
            return Ok(false);
        }
        if strict && from == Place::Local {
            return Err(self.spoof(key, None, from, now));
        }
        if held && !expired {
            return if from == Place::Local { Err(DropReason::Flapping) } else { Ok(false) };
        }
        if !expired && from == Place::Local && self.flaps(i, active.at, now) {
            return Err(DropReason::Flapping);
        }
        // With the generation that it moved away from: a claim is made against that. Back where it was announced,
        // all is as it was.
        let named = self.tables.station(i).named == Some(from);
        let source = if named { Source::Announced } else { Source::Learned };
        let next = Active { at: from, source, ..active };
        self.tables.set_active(i, Some(next), now);
        self.tables.touch(i, now);
        if expired {
            self.event(Event::BindingLearned { key, ip: None, at: from }, now);
        } else {
            self.moved(i, active.at, next, Some((frame, eth)), now);
        }
        Ok(true)
    }

    /// Counts that a station came back from a peer, and says whether it did so too often. Only these moves
    /// count: of two nodes that reflect an instance's frames to each other, the one with the loop sees them
    /// first and stops it, and the instance's own node never holds it elsewhere.
    fn flaps(&mut self, i: StationIndex, at: Place, now: Time) -> bool {
        let station = self.tables.station_mut(i);
        let flap = &mut station.flap;
        if now.since(flap.since) > FLAP_WINDOW {
            *flap = Flap { count: 0, since: now, held_until: None };
        }
        flap.count = flap.count.saturating_add(1);
        if flap.count <= FLAP_MOVES {
            return false;
        }
        *flap = Flap { count: 0, since: now, held_until: Some(now + FLAP_HOLD) };
        let key = station.key;
        self.counters.flaps += 1;
        self.event(Event::Flapping { key, at }, now);
        true
    }

    /// In strict mode a local source IP must be one that the controller gave, where it gave any. Unspecified
    /// addresses (DHCP, probes) and link-local ones that nobody else has pass.
    fn check_source_ip(
        &mut self,
        i: StationIndex,
        frame: &[u8],
        eth: &Eth,
        now: Time,
    ) -> Result<(), DropReason> {
        let ip = match L3::parse(frame, eth) {
            Ok(Some(ip)) => ip.src,
            Ok(None) => return Ok(()),
            Err(_) => return Err(DropReason::BadIp),
        };
        self.check_claim(i, ip, now)
    }

    /// Whether a strict network lets a local station use an IP.
    pub(super) fn check_claim(&mut self, i: StationIndex, ip: IpAddr, now: Time) -> Result<(), DropReason> {
        let station = self.tables.station(i);
        let key = station.key;
        let mut given = station
            .ips
            .iter()
            .map(|e| self.tables.ip(*e))
            .filter(|e| e.source == Source::Controller)
            .peekable();
        if ip.is_unspecified() || given.peek().is_none() || given.any(|e| e.ip == ip) {
            return Ok(());
        }
        let link_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let anothers = self.tables.find_ip(key.tags, ip, now).is_some_and(|e| {
            self.tables.ip(e).station != i && self.tables.ip(e).source == Source::Controller
        });
        if link_local && !anothers {
            return Ok(());
        }
        Err(self.spoof(key, Some(ip), Place::Local, now))
    }

    pub(super) fn spoof(
        &mut self,
        key: BindingKey,
        ip: Option<IpAddr>,
        from: Place,
        now: Time,
    ) -> DropReason {
        self.event(Event::Spoof { key, ip, from }, now);
        DropReason::Spoof
    }
}

/// An address that an instance may have: not unspecified, multicast, broadcast or loopback.
pub(super) fn bindable(ip: &IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast() || v4.octets()[0] == 0);
    !(ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || broadcast)
}

/// IPs of one station that are announced after a move.
const MAX_CORRECTIONS: usize = 64;
/// More returns from a peer than this, within the window, are a loop or two instances with one MAC.
const FLAP_MOVES: u8 = 5;
const FLAP_WINDOW: Duration = Duration::from_secs(10);
const FLAP_HOLD: Duration = Duration::from_secs(30);
