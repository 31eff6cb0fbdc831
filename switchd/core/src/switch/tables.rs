//! Stations and their IPs: two slabs with an index each, so that a lookup is one hash and a sweep can stop and
//! go on anywhere.

mod evict;
mod local;
mod slab;

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::time::Duration;

use ahash::RandomState;

use super::binding::{BindingKey, Place, Source};
use super::config::Limits;
use crate::frame::Tags;
use crate::ids::{Generation, Mac};
use crate::time::Time;
pub(super) use evict::Evicted;
use evict::SAMPLE;
use local::LocalChanges;
use slab::Slab;

/// A (VLAN tags, MAC) and what is known of it.
#[derive(Debug)]
pub(super) struct Station {
    pub(super) key: BindingKey,
    /// Where its frames go, if it runs anywhere.
    pub(super) active: Option<Active>,
    pub(super) prepared: Option<Box<Prepared>>,
    pub(super) seen: Option<Time>,
    /// When a learned station is forgotten: age after its last frame, or the last of its IPs.
    until: Time,
    pub(super) ips: Vec<IpIndex>,
    /// One of its IPs is, or was, a router's.
    pub(super) router: bool,
    pub(super) flap: Flap,
    /// The place that its generation is of, which frames may have shown to be another since. Of announced ones.
    pub(super) named: Option<Place>,
    /// It waits in [`LocalChanges`] already.
    noted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Active {
    pub(super) at: Place,
    /// The newest that the controller gave the station, 0 if none: not of this place where frames showed it.
    pub(super) generation: Generation,
    pub(super) source: Source,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Prepared {
    pub(super) at: Place,
    pub(super) generation: Generation,
    pub(super) ips: Vec<IpAddr>,
}

/// How often a station came back to this bridge from a peer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flap {
    pub(super) count: u8,
    pub(super) since: Time,
    pub(super) held_until: Option<Time>,
}

/// An IP of a station.
#[derive(Debug)]
pub(super) struct IpEntry {
    pub(super) tags: Tags,
    pub(super) ip: IpAddr,
    pub(super) station: StationIndex,
    pub(super) seen: Time,
    pub(super) source: Source,
    /// Its station was announced with it.
    pub(super) listed: bool,
    pub(super) router: bool,
    /// The first of the polls that went to the owner since it last named this IP.
    pub(super) polled: Option<Time>,
    /// Who last asked for it on the owner's own bridge, where an answer is not seen.
    pub(super) missed: Option<(Mac, Time)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct StationIndex(u32);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct IpIndex(u32);

#[derive(Debug)]
pub(super) struct Tables {
    stations: Slab<Station>,
    ips: Slab<IpEntry>,
    by_mac: HashMap<u128, StationIndex, RandomState>,
    by_ip: HashMap<IpKey, IpIndex, RandomState>,
    limits: Limits,
    full_sweep: Option<Time>,
    station_cursor: usize,
    ip_cursor: usize,
    sample_cursor: usize,
    evicted: Evicted,
    changes: LocalChanges,
}

/// No room, even without what has expired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Full;

impl Tables {
    pub(super) fn new(limits: Limits, hash: &RandomState) -> Tables {
        Tables {
            stations: Slab::default(),
            ips: Slab::default(),
            by_mac: HashMap::with_hasher(hash.clone()),
            by_ip: HashMap::with_hasher(hash.clone()),
            limits,
            full_sweep: None,
            station_cursor: 0,
            ip_cursor: 0,
            sample_cursor: 0,
            evicted: Evicted::default(),
            changes: LocalChanges::default(),
        }
    }

    /// The station, which may have expired.
    #[inline]
    pub(super) fn find(&self, key: &BindingKey) -> Option<StationIndex> {
        self.by_mac.get(&pack_mac(key)).copied()
    }

    pub(super) fn station(&self, i: StationIndex) -> &Station {
        self.stations.get(i.0).expect("an index outlives its station only within one call of Tables")
    }

    pub(super) fn station_mut(&mut self, i: StationIndex) -> &mut Station {
        self.stations.get_mut(i.0).expect("an index outlives its station only within one call of Tables")
    }

    pub(super) fn ip(&self, i: IpIndex) -> &IpEntry {
        self.ips.get(i.0).expect("a station's list names live entries only")
    }

    pub(super) fn ip_mut(&mut self, i: IpIndex) -> &mut IpEntry {
        self.ips.get_mut(i.0).expect("a station's list names live entries only")
    }

    /// Where frames for this MAC go.
    #[inline]
    pub(super) fn place(&self, key: &BindingKey, now: Time) -> Option<Place> {
        let station = self.station(self.find(key)?);
        station.active.filter(|_| !station.expired(now)).map(|a| a.at)
    }

    /// Who has this IP and runs.
    pub(super) fn owner(&self, tags: Tags, ip: IpAddr, now: Time) -> Option<(&IpEntry, &Station, Active)> {
        let entry = self.ip(*self.by_ip.get(&pack_ip(tags, ip))?);
        if entry.expired(self.limits.ip_age, now) {
            return None;
        }
        let station = self.station(entry.station);
        Some((entry, station, station.active?))
    }

    /// The IP's entry, even of a station that does not run.
    pub(super) fn find_ip(&self, tags: Tags, ip: IpAddr, now: Time) -> Option<IpIndex> {
        let i = *self.by_ip.get(&pack_ip(tags, ip))?;
        (!self.ip(i).expired(self.limits.ip_age, now)).then_some(i)
    }

    pub(super) fn touch(&mut self, i: StationIndex, now: Time) {
        let age = self.limits.mac_age;
        let station = self.station_mut(i);
        let revived = station.until < now && station.expired(now);
        station.seen = Some(now);
        station.until = station.until.max(now + age);
        if revived {
            self.note_change(i);
        }
    }

    /// Puts a station somewhere, or nowhere. The IPs that it was announced with do not age while it is where it was
    /// announced.
    pub(super) fn set_active(&mut self, i: StationIndex, next: Option<Active>, now: Time) {
        let ip_until = now + self.limits.ip_age;
        let station = self.station_mut(i);
        let before = std::mem::replace(&mut station.active, next);
        match next {
            Some(Active { source: Source::Announced, at, .. }) => station.named = Some(at),
            Some(a) if a.source == Source::Learned && a.generation > Generation(0) => {}
            _ => station.named = None,
        }
        let stays = |a: Option<Active>| a.is_some_and(|a| a.source == Source::Announced && !a.is_ours());
        if stays(before) != stays(next) {
            let source = if stays(next) { Source::Announced } else { Source::Learned };
            station.until = station.until.max(ip_until);
            for n in 0..self.station(i).ips.len() {
                let entry = self.ip_mut(self.station(i).ips[n]);
                if entry.listed && entry.source != Source::Controller {
                    (entry.source, entry.seen) = (source, now);
                }
            }
        }
        let ours = |a: Option<Active>| a.is_some_and(Active::is_ours);
        if ours(before) != ours(next) {
            self.push_change(i);
        }
    }

    /// A new station that runs nowhere yet.
    pub(super) fn insert(&mut self, key: BindingKey, now: Time) -> Result<StationIndex, Full> {
        if self.by_mac.len() >= self.limits.max_macs
            && !self.make_room(now, |t| t.by_mac.len() < t.limits.max_macs)
            && !self.evict_station(SAMPLE)
        {
            return Err(Full);
        }
        let i = StationIndex(self.stations.insert(Station {
            key,
            active: None,
            prepared: None,
            seen: None,
            until: now + self.limits.mac_age,
            ips: Vec::new(),
            router: false,
            flap: Flap::default(),
            named: None,
            noted: false,
        }));
        self.by_mac.insert(pack_mac(&key), i);
        Ok(i)
    }

    /// Binds an IP to a station, taking it from another one.
    pub(super) fn bind_ip(
        &mut self,
        station: StationIndex,
        ip: IpAddr,
        source: Source,
        router: Option<bool>,
        now: Time,
    ) -> Result<IpBound, Full> {
        let tags = self.station(station).key.tags;
        let until = now + self.limits.ip_age;
        if let Some(&i) = self.by_ip.get(&pack_ip(tags, ip)) {
            let stale = self.ip(i).expired(self.limits.ip_age, now);
            let entry = self.ip_mut(i);
            if entry.station == station {
                entry.seen = now;
                (entry.polled, entry.missed) = (None, None);
                entry.router = router.unwrap_or(entry.router && !stale);
                entry.listed |= source == Source::Announced;
                if source == Source::Controller || entry.source == Source::Learned {
                    entry.source = source;
                }
                let s = self.station_mut(station);
                s.until = s.until.max(until);
                if stale {
                    self.note_change(station);
                }
                return Ok(if stale { IpBound::New } else { IpBound::Known });
            }
            if source != Source::Controller && self.station(station).ips.len() >= self.limits.max_ips_per_mac
            {
                return Err(Full);
            }
            let from = self.ip(i).station;
            let from_key = self.station(from).key;
            self.note_change(from);
            self.note_change(station);
            self.station_mut(from).ips.retain(|x| *x != i);
            let entry = self.ip_mut(i);
            (entry.station, entry.seen, entry.source) = (station, now, source);
            entry.router = router.unwrap_or(false);
            entry.listed = source == Source::Announced;
            (entry.polled, entry.missed) = (None, None);
            let s = self.station_mut(station);
            s.ips.push(i);
            s.until = s.until.max(until);
            return Ok(if stale { IpBound::New } else { IpBound::From(from_key) });
        }
        if source != Source::Controller && self.station(station).ips.len() >= self.limits.max_ips_per_mac {
            return Err(Full);
        }
        // The sweep must not take the station whose index the caller holds.
        let s = self.station_mut(station);
        s.until = s.until.max(until);
        if self.by_ip.len() >= self.limits.max_ips
            && !self.make_room(now, |t| t.by_ip.len() < t.limits.max_ips)
            && !self.evict_ip(if source == Source::Controller { self.ips.slots() } else { SAMPLE })
        {
            return Err(Full);
        }
        let i = IpIndex(self.ips.insert(IpEntry {
            tags,
            ip,
            station,
            seen: now,
            source,
            listed: source == Source::Announced,
            router: router.unwrap_or(false),
            polled: None,
            missed: None,
        }));
        self.by_ip.insert(pack_ip(tags, ip), i);
        self.station_mut(station).ips.push(i);
        self.note_change(station);
        Ok(IpBound::New)
    }

    pub(super) fn remove_ip(&mut self, i: IpIndex) {
        if let Some(entry) = self.ips.remove(i.0) {
            self.by_ip.remove(&pack_ip(entry.tags, entry.ip));
            self.station_mut(entry.station).ips.retain(|x| *x != i);
            self.note_change(entry.station);
        }
    }

    /// Forgets where a station is, and its IPs. What is prepared stays.
    pub(super) fn vacate(&mut self, i: StationIndex, now: Time) {
        self.clear_ips(i);
        self.set_active(i, None, now);
    }

    fn clear_ips(&mut self, i: StationIndex) {
        for ip in std::mem::take(&mut self.station_mut(i).ips) {
            if let Some(entry) = self.ips.remove(ip.0) {
                self.by_ip.remove(&pack_ip(entry.tags, entry.ip));
            }
        }
        self.note_change(i);
    }

    pub(super) fn remove(&mut self, i: StationIndex) {
        self.clear_ips(i);
        if let Some(station) = self.stations.remove(i.0) {
            self.by_mac.remove(&pack_mac(&station.key));
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Station> {
        self.stations.iter()
    }

    pub(super) fn macs_len(&self) -> usize {
        self.by_mac.len()
    }

    pub(super) fn ips_len(&self) -> usize {
        self.by_ip.len()
    }
}

impl Station {
    pub(super) fn expired(&self, now: Time) -> bool {
        self.prepared.is_none() && self.lapsed(now)
    }

    /// Whether what is known of its place is too old, if anything is. A prepared place does not age.
    fn lapsed(&self, now: Time) -> bool {
        self.until < now && self.active.is_none_or(Active::ages)
    }

    /// The newest generation that the controller gave it, 0 if none.
    pub(super) fn generation(&self) -> Generation {
        let active = self.active.map(|a| a.generation);
        active.max(self.prepared.as_ref().map(|p| p.generation)).unwrap_or_default()
    }

    /// More IPs than an instance usually has.
    fn hoards(&self) -> bool {
        self.ips.len() > 8
    }

    fn evictable(&self) -> bool {
        self.prepared.is_none() && self.active.is_none_or(|a| a.source != Source::Controller)
    }
}

impl Active {
    /// On this bridge, by its own frames: what the shell announces.
    pub(super) fn is_ours(self) -> bool {
        self.at == Place::Local && self.source != Source::Controller
    }

    /// Whether silence ends it. What is announced stays until it is withdrawn; but here the announcement only
    /// repeats what this switch said, and the frames decide.
    fn ages(self) -> bool {
        self.source == Source::Learned || self.is_ours()
    }
}

impl IpEntry {
    pub(super) fn expired(&self, age: Duration, now: Time) -> bool {
        self.source == Source::Learned && now.since(self.seen) > age
    }

    /// Whether it is in the last tenth of its age.
    pub(super) fn fades(&self, age: Duration, now: Time) -> bool {
        self.source == Source::Learned && now.since(self.seen) >= age - age / 10
    }
}

/// What [`Tables::bind_ip`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum IpBound {
    New,
    Known,
    From(BindingKey),
}

pub(super) fn key(tags: Tags, mac: Mac) -> BindingKey {
    BindingKey { tags, mac }
}

/// Keys are hashed for every frame: as one number they cost a third of what their fields do.
#[inline]
fn pack_mac(key: &BindingKey) -> u128 {
    let [a, b, c, d, e, f] = key.mac.0;
    u128::from(u64::from_be_bytes([0, 0, a, b, c, d, e, f])) | u128::from(key.tags.pack()) << 64
}

fn pack_ip(tags: Tags, ip: IpAddr) -> IpKey {
    match ip {
        IpAddr::V4(v4) => IpKey { ip: u128::from(tags.pack()) << 32 | u128::from(v4.to_bits()), tags: None },
        IpAddr::V6(v6) => IpKey { ip: v6.to_bits(), tags: Some(tags.pack()) },
    }
}

/// An address in its VLAN. IPv4's leaves room for the tags in one number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct IpKey {
    ip: u128,
    /// IPv6 only.
    tags: Option<u32>,
}

impl Hash for IpKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.ip);
        if let Some(tags) = self.tags {
            state.write_u32(tags);
        }
    }
}
