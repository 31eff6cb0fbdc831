//! Stations and their IPs: two slabs with an index each, so that a lookup is one hash and a sweep can stop and
//! go on anywhere.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use ahash::RandomState;

use super::binding::{BindingKey, Place, Source};
use super::config::Limits;
use crate::frame::Tags;
use crate::ids::{Generation, Mac};
use crate::time::Time;

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
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Active {
    pub(super) at: Place,
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
    by_ip: HashMap<(u128, u32), IpIndex, RandomState>,
    limits: Limits,
    full_sweep: Option<Time>,
    station_cursor: usize,
    ip_cursor: usize,
    sample_cursor: usize,
    evicted: Evicted,
}

/// Learned entries that made room for newer ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Evicted {
    pub(super) macs: u64,
    pub(super) ips: u64,
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
        }
    }

    /// The station, which may have expired.
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
        station.seen = Some(now);
        station.until = station.until.max(now + age);
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
                if source == Source::Controller {
                    entry.source = source;
                }
                let s = self.station_mut(station);
                s.until = s.until.max(until);
                return Ok(if stale { IpBound::New } else { IpBound::Known });
            }
            if source == Source::Learned && self.station(station).ips.len() >= self.limits.max_ips_per_mac {
                return Err(Full);
            }
            let from = self.ip(i).station;
            let from_key = self.station(from).key;
            self.station_mut(from).ips.retain(|x| *x != i);
            let entry = self.ip_mut(i);
            (entry.station, entry.seen, entry.source) = (station, now, source);
            entry.router = router.unwrap_or(false);
            (entry.polled, entry.missed) = (None, None);
            let s = self.station_mut(station);
            s.ips.push(i);
            s.until = s.until.max(until);
            return Ok(if stale { IpBound::New } else { IpBound::From(from_key) });
        }
        if source == Source::Learned && self.station(station).ips.len() >= self.limits.max_ips_per_mac {
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
            router: router.unwrap_or(false),
            polled: None,
            missed: None,
        }));
        self.by_ip.insert(pack_ip(tags, ip), i);
        self.station_mut(station).ips.push(i);
        Ok(IpBound::New)
    }

    pub(super) fn remove_ip(&mut self, i: IpIndex) {
        if let Some(entry) = self.ips.remove(i.0) {
            self.by_ip.remove(&pack_ip(entry.tags, entry.ip));
            self.station_mut(entry.station).ips.retain(|x| *x != i);
        }
    }

    pub(super) fn remove(&mut self, i: StationIndex) {
        if let Some(station) = self.stations.remove(i.0) {
            self.by_mac.remove(&pack_mac(&station.key));
            for ip in station.ips {
                if let Some(entry) = self.ips.remove(ip.0) {
                    self.by_ip.remove(&pack_ip(entry.tags, entry.ip));
                }
            }
        }
    }

    /// Forgets expired entries in a part of the tables; the whole of them in about 32 calls. Returns how many
    /// IPs went, and puts the stations that went into `gone`.
    pub(super) fn sweep(&mut self, now: Time, gone: &mut Vec<BindingKey>) -> usize {
        let ips = self.sweep_ips(self.ips.slots() / 32 + 64, now);
        let mut left = self.stations.slots() / 32 + 64;
        while left > 0 && self.stations.slots() > 0 {
            left -= 1;
            self.station_cursor = (self.station_cursor + 1) % self.stations.slots();
            let i = self.station_cursor as u32;
            if let Some(station) = self.stations.get(i)
                && station.expired(now)
            {
                gone.push(station.key);
                self.remove(StationIndex(i));
            }
            if self.station_cursor == 0 {
                break;
            }
        }
        ips
    }

    /// Takes a learned entry's place for a controller's binding.
    pub(super) fn evict_learned(&mut self) -> bool {
        self.evict_station(self.stations.slots())
    }

    /// What was evicted since the last call.
    pub(super) fn take_evicted(&mut self) -> Evicted {
        std::mem::take(&mut self.evicted)
    }

    /// Forgets the least recently seen learned station of a sample: rather one without IPs, whose loss costs a
    /// flood, or one that hoards them.
    fn evict_station(&mut self, most: usize) -> bool {
        let worst = self
            .sample(most, self.stations.slots())
            .map(StationIndex)
            .filter_map(|i| Some((i, self.stations.get(i.0)?)))
            .filter(|(_, s)| s.is_learned())
            .min_by_key(|(_, s)| (!s.ips.is_empty(), !s.hoards(), s.seen))
            .map(|(i, _)| i);
        self.sample_cursor = self.sample_cursor.wrapping_add(SAMPLE);
        if let Some(i) = worst {
            self.remove(i);
            self.evicted.macs += 1;
        }
        worst.is_some()
    }

    /// The same for an IP, by the station that has it.
    fn evict_ip(&mut self, most: usize) -> bool {
        let worst = self
            .sample(most, self.ips.slots())
            .map(IpIndex)
            .filter_map(|i| Some((i, self.ips.get(i.0)?)))
            .filter(|(_, e)| e.source == Source::Learned)
            .min_by_key(|(_, e)| {
                let station = self.station(e.station);
                (!station.hoards(), station.seen.max(Some(e.seen)))
            })
            .map(|(i, _)| i);
        self.sample_cursor = self.sample_cursor.wrapping_add(SAMPLE);
        if let Some(i) = worst {
            self.remove_ip(i);
            self.evicted.ips += 1;
        }
        worst.is_some()
    }

    /// Some slots out of so many, others at each eviction.
    fn sample(&self, most: usize, slots: usize) -> impl Iterator<Item = u32> + use<> {
        let first = self.sample_cursor;
        (0..most.min(slots)).map(move |n| (first.wrapping_add(n) % slots) as u32)
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

    /// Sweeps all, at most once a second: a full table must not make every frame cost a scan.
    fn make_room(&mut self, now: Time, roomy: impl Fn(&Tables) -> bool) -> bool {
        if self.full_sweep.is_some_and(|last| now.since(last) < FULL_SWEEP_EVERY) {
            return false;
        }
        self.full_sweep = Some(now);
        self.sweep_ips(self.ips.slots(), now);
        for i in 0..self.stations.slots() as u32 {
            if self.stations.get(i).is_some_and(|s| s.expired(now)) {
                self.remove(StationIndex(i));
            }
        }
        roomy(self)
    }

    fn sweep_ips(&mut self, most: usize, now: Time) -> usize {
        let mut gone = 0;
        for _ in 0..most.min(self.ips.slots()) {
            self.ip_cursor = (self.ip_cursor + 1) % self.ips.slots();
            let i = IpIndex(self.ip_cursor as u32);
            if self.ips.get(i.0).is_some_and(|e| e.expired(self.limits.ip_age, now)) {
                self.remove_ip(i);
                gone += 1;
            }
        }
        gone
    }
}

impl Station {
    pub(super) fn expired(&self, now: Time) -> bool {
        self.is_learned() && self.until < now
    }

    /// More IPs than an instance usually has.
    fn hoards(&self) -> bool {
        self.ips.len() > 8
    }

    fn is_learned(&self) -> bool {
        self.prepared.is_none() && self.active.is_none_or(|a| a.source == Source::Learned)
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
fn pack_mac(key: &BindingKey) -> u128 {
    let [a, b, c, d, e, f] = key.mac.0;
    u128::from(u64::from_be_bytes([0, 0, a, b, c, d, e, f])) | u128::from(key.tags.pack()) << 64
}

fn pack_ip(tags: Tags, ip: IpAddr) -> (u128, u32) {
    match ip {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), tags.pack()),
        IpAddr::V6(v6) => (v6.to_bits(), tags.pack() | 1 << 31),
    }
}

/// Values at stable small indices.
#[derive(Debug)]
struct Slab<T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    fn insert(&mut self, value: T) -> u32 {
        if let Some(i) = self.free.pop() {
            self.slots[i as usize] = Some(value);
            return i;
        }
        self.slots.push(Some(value));
        (self.slots.len() - 1) as u32
    }

    fn remove(&mut self, i: u32) -> Option<T> {
        let value = self.slots.get_mut(i as usize)?.take();
        if value.is_some() {
            self.free.push(i);
        }
        value
    }

    fn get(&self, i: u32) -> Option<&T> {
        self.slots.get(i as usize)?.as_ref()
    }

    fn get_mut(&mut self, i: u32) -> Option<&mut T> {
        self.slots.get_mut(i as usize)?.as_mut()
    }

    fn slots(&self) -> usize {
        self.slots.len()
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten()
    }
}

/// Slots that are looked at to find an entry to evict.
const SAMPLE: usize = 16;
const FULL_SWEEP_EVERY: Duration = Duration::from_secs(1);
