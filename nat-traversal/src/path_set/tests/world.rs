//! Two ends and the wires between them, in invented time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::super::*;
use crate::route::RelayId;

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) const CONFIG: PathConfig =
    PathConfig { keepalive: Duration::from_secs(3), dead_after: Duration::from_secs(10), underlay_mtu: 1500 };

pub(super) fn direct() -> CandidatePair {
    CandidatePair { local: CandidateKind::Host, local_address: None, remote: CandidateKind::Host }
}

pub(super) fn relayed() -> CandidatePair {
    CandidatePair { remote: CandidateKind::Relayed, ..direct() }
}

/// One way between the ends; index 0 is towards end 0.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    /// Where each end is seen by the other.
    pub(super) seen: [SocketAddr; 2],
    pub(super) delay: Duration,
    /// Percent.
    pub(super) loss: [u64; 2],
    pub(super) cut: [bool; 2],
    /// UDP payload.
    pub(super) mtu: usize,
}

#[derive(Clone, Copy, Debug)]
enum Load {
    Probe(PathProbe, usize),
    Frame(u64),
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    at: Instant,
    to: usize,
    /// As the receiver sees it.
    route: Route,
    counter: u64,
    load: Load,
}

pub(super) struct World {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) ends: [PathSet; 2],
    pub(super) wires: Vec<Wire>,
    /// Ends that send a frame every 10 ms.
    pub(super) talks: [bool; 2],
    pub(super) events: [Vec<(Duration, PathEvent)>; 2],
    /// When each frame came, by receiver: (number, time).
    pub(super) frames: [Vec<(u64, Instant)>; 2],
    /// IP bytes of all probes.
    pub(super) bytes: usize,
    pub(super) probes: usize,
    flights: Vec<Flight>,
    counters: [u64; 2],
    newest: [Option<u64>; 2],
    random: u64,
}

impl World {
    pub(super) fn new(delays: &[u64]) -> World {
        let start = Instant::now();
        let seen = |end: u8, wire: usize| SocketAddr::new([192, 0, end, wire as u8].into(), 4840);
        let wire = |(i, delay): (usize, &u64)| Wire {
            seen: [seen(0, i), seen(1, i)],
            delay: ms(*delay),
            loss: [0; 2],
            cut: [false; 2],
            mtu: 1472,
        };
        World {
            start,
            now: start,
            ends: [PathSet::new(CONFIG, [1, 2]), PathSet::new(CONFIG, [3, 4])],
            wires: delays.iter().enumerate().map(wire).collect(),
            talks: [true; 2],
            events: [Vec::new(), Vec::new()],
            frames: [Vec::new(), Vec::new()],
            bytes: 0,
            probes: 0,
            flights: Vec::new(),
            counters: [0; 2],
            newest: [None; 2],
            random: 7,
        }
    }

    /// Both ends have a session that was made by the first wire.
    pub(super) fn up(mut self) -> World {
        for end in 0..2 {
            self.ends[end].set_usable(true, self.now);
            self.offer(end, 0, direct(), true);
        }
        self
    }

    pub(super) fn offer(&mut self, end: usize, wire: usize, pair: CandidatePair, proven: bool) {
        let offer = Offer { id: PathId(wire as u32), route: self.route(end, wire), pair, proven };
        self.ends[end].offer(offer, self.now);
    }

    pub(super) fn offer_both(&mut self, wire: usize, pair: CandidatePair) {
        (0..2).for_each(|end| self.offer(end, wire, pair, false));
    }

    /// The way from `end` by a wire.
    pub(super) fn route(&self, end: usize, wire: usize) -> Route {
        Route::Direct(self.wires[wire].seen[1 - end])
    }

    pub(super) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.tick();
        }
    }

    /// Runs until `done`, at most `limit`; how long it took.
    pub(super) fn until(
        &mut self,
        what: &str,
        limit: Duration,
        mut done: impl FnMut(&World) -> bool,
    ) -> Duration {
        let began = self.now;
        while !done(self) {
            assert!(self.now < began + limit, "{what}: not within {limit:?}; {:?}", self.events);
            self.tick();
        }
        self.now - began
    }

    pub(super) fn selected(&self, end: usize) -> Option<usize> {
        let route = self.ends[end].selected()?;
        (0..self.wires.len()).find(|wire| self.route(end, *wire) == route)
    }

    pub(super) fn selections(&self, end: usize) -> usize {
        self.events[end].iter().filter(|(_, event)| matches!(event, PathEvent::Selected { .. })).count()
    }

    pub(super) fn count(&self, end: usize, wanted: PathEvent) -> usize {
        self.events[end].iter().filter(|(_, event)| *event == wanted).count()
    }

    pub(super) fn view(&self, end: usize, wire: usize) -> PathView {
        let route = self.route(end, wire);
        self.ends[end].paths().find(|path| path.route == route).expect("a path of this wire")
    }

    /// The longest time without a frame at `end`, since `from`.
    pub(super) fn gap(&self, end: usize, from: Instant) -> Duration {
        let times = self.frames[end].iter().map(|(_, at)| *at).filter(|at| *at >= from);
        let times: Vec<Instant> = std::iter::once(from).chain(times).chain([self.now]).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    fn tick(&mut self) {
        self.now += ms(1);
        let now = self.now;
        let (due, later) = std::mem::take(&mut self.flights).into_iter().partition(|f: &Flight| f.at <= now);
        self.flights = later;
        let mut due: Vec<Flight> = due;
        due.sort_by_key(|flight| (flight.at, flight.counter));
        due.into_iter().for_each(|flight| self.arrive(flight));
        for end in 0..2 {
            let elapsed = (now - self.start).as_millis();
            if self.talks[end] && elapsed.is_multiple_of(10) {
                if let Some(route) = self.ends[end].selected() {
                    self.send(end, route, Load::Frame(self.counters[end]), 100);
                }
                self.ends[end].handle_frames(true, true, now);
            }
            self.drain(end);
        }
    }

    fn drain(&mut self, end: usize) {
        let set = &mut self.ends[end];
        if set.poll_timeout().is_some_and(|at| at <= self.now) {
            set.handle_timeout(self.now);
            assert!(set.poll_timeout().is_none_or(|at| at > self.now), "a timer that stays due: {set:?}");
        }
        assert!(set.paths.len() <= MAX_PATHS);
        while let Some(probe) = self.ends[end].poll_transmit() {
            let len = if probe.answer_wanted { usize::from(probe.len).max(44) } else { 44 };
            self.probes += 1;
            self.bytes += len + 28;
            self.send(end, probe.route, Load::Probe(probe, len), len);
        }
        let at = self.now - self.start;
        while let Some(event) = self.ends[end].poll_event() {
            self.events[end].push((at, event));
        }
    }

    fn send(&mut self, end: usize, route: Route, load: Load, len: usize) {
        let to = 1 - end;
        let counter = self.counters[end];
        self.counters[end] += 1;
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let wire = self.wires.iter().find(|wire| Route::Direct(wire.seen[to]) == route);
        let Some(wire) = wire.filter(|wire| !wire.cut[to] && len <= wire.mtu) else { return };
        if (self.random >> 33) % 100 < wire.loss[to] {
            return;
        }
        let route = Route::Direct(wire.seen[end]);
        self.flights.push(Flight { at: self.now + wire.delay, to, route, counter, load });
    }

    fn arrive(&mut self, flight: Flight) {
        let Flight { to, route, counter, load, .. } = flight;
        let newest = self.newest[to] < Some(counter);
        self.newest[to] = self.newest[to].max(Some(counter));
        self.ends[to].handle_datagram(route, newest, self.now);
        match load {
            Load::Probe(probe, len) => {
                self.ends[to].handle_probe(PathProbe { route, ..probe }, len, self.now);
            }
            Load::Frame(number) => {
                self.frames[to].push((number, self.now));
                self.ends[to].handle_frames(false, true, self.now);
            }
        }
    }
}

pub(super) fn by_relay(relay: u32, port: u16) -> Route {
    Route::Relayed(RelayId(relay), SocketAddr::new([203, 0, 113, 1].into(), port))
}
