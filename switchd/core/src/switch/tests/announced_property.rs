//! Random histories of one switch: frames, announcements, the controller's bindings, withdrawals and time. What the
//! generations order stays ordered, and the shell's picture of this bridge is always right.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;

use super::fixture::*;
use crate::frame::Tags;
use crate::ids::{Generation, Mac, PeerId};
use crate::switch::*;

#[derive(Clone, Copy, Debug)]
enum Act {
    /// For a place, 0 is here.
    Announce(u8, u32, u64, IpList),
    Place(u8, u32, u64, State),
    Remove(u8, u64),
    /// From a place, with an IP that it claims.
    Frame(u8, u32, Option<u8>),
    Pass(u64),
}

#[derive(Clone, Copy, Debug)]
enum IpList {
    Own,
    V4Only,
    /// Of the next station.
    Anothers,
}

fn acts() -> impl Strategy<Value = Act> {
    let lists = prop::sample::select(vec![IpList::Own, IpList::Own, IpList::V4Only, IpList::Anothers]);
    let states = prop::sample::select(vec![State::Active, State::Prepared]);
    let (n, at, g) = (1..4u8, 0..3u32, 1..9u64);
    prop_oneof![
        6 => (n.clone(), at.clone(), g.clone(), lists).prop_map(|(n, p, g, l)| Act::Announce(n, p, g, l)),
        1 => (n.clone(), at.clone(), g.clone(), states).prop_map(|(n, p, g, s)| Act::Place(n, p, g, s)),
        3 => (n.clone(), g).prop_map(|(n, g)| Act::Remove(n, g)),
        6 => (n, at, prop::option::of(1..5u8)).prop_map(|(n, p, ip)| Act::Frame(n, p, ip)),
        2 => prop::sample::select(vec![1_000, 5_000, 301_000, 1_202_000]).prop_map(Act::Pass),
    ]
}

fn place(p: u32) -> Place {
    if p == 0 { Place::Local } else { Place::Peer(PeerId(p)) }
}

/// What the switch believes of a station, also of one without IPs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Word {
    at: Place,
    source: Source,
    generation: Generation,
}

struct World {
    sw: Switch,
    now: u64,
    /// What the shell knows, by the events alone.
    shell: BTreeMap<BindingKey, Vec<IpAddr>>,
}

impl World {
    fn active(&self, n: u8) -> Option<Word> {
        let s = self.sw.tables.station(self.sw.tables.find(&station(n))?);
        let active = s.active.filter(|_| !s.expired(at(self.now)))?;
        Some(Word { at: active.at, source: active.source, generation: active.generation })
    }

    fn view(&self, n: u8, state: State) -> Option<BindingView> {
        self.sw.bindings(at(self.now)).find(|b| b.key == station(n) && b.state == state)
    }

    fn frame(&mut self, n: u8, p: u32, claims: Option<u8>) {
        let f = match claims {
            None => other(Mac::BROADCAST, mac(n), 0x88b5),
            Some(ip) => {
                let mut f = gratuitous(Family::V4, n);
                f[28..32].copy_from_slice(&v4(ip).octets());
                f[38..42].copy_from_slice(&v4(ip).octets());
                f
            }
        };
        match place(p) {
            Place::Local => local(&mut self.sw, &f, at(self.now)),
            Place::Peer(p) => remote(&mut self.sw, &f, p, at(self.now)),
        };
    }

    /// One act, and what must hold of the station that it names.
    fn step(&mut self, act: Act) -> Result<(), TestCaseError> {
        let now = at(self.now);
        match act {
            Act::Announce(n, p, g, list) => {
                let ips = match list {
                    IpList::Own => vec![v4(n).into(), v6(n).into()],
                    IpList::V4Only => vec![v4(n).into()],
                    IpList::Anothers => vec![v4(n + 1).into()],
                };
                let offered = Binding { ips, ..announced(n, place(p), g) };
                let (before, prepared) = (self.active(n), self.view(n, State::Prepared));
                let result = self.sw.set_binding(offered, now);
                self.announced(
                    n,
                    Word { at: place(p), source: Source::Announced, generation: Generation(g) },
                    before,
                    prepared.map(|p| p.generation),
                    result,
                )?;
            }
            Act::Place(n, p, g, state) => {
                let _ = self.sw.set_binding(Binding { state, ..binding(n, place(p), g) }, now);
            }
            Act::Remove(n, g) => {
                let before = self.active(n);
                let result = self.sw.remove_binding(station(n), Generation(g), now);
                let after = self.active(n);
                match before {
                    Some(b) if b.generation > Generation(g) => {
                        prop_assert_eq!(after, before, "a late withdrawal removes nothing newer");
                    }
                    Some(b) if b.at != Place::Local && b.source == Source::Announced => {
                        prop_assert_eq!((result, after), (Ok(true), None));
                    }
                    Some(b) if b.source != Source::Controller => {
                        prop_assert_eq!(after.map(|a| a.at), Some(b.at), "frames showed it there");
                        prop_assert!(after.is_some_and(|a| a.generation == Generation(0)) || result.is_err());
                    }
                    _ => {}
                }
            }
            Act::Frame(n, p, claims) => {
                let before = self.active(n);
                self.frame(n, p, claims);
                let after = self.active(n);
                if let (Some(b), Some(a)) = (before, after) {
                    prop_assert!(a.generation >= b.generation || a.source == Source::Controller);
                }
            }
            Act::Pass(ms) => {
                self.now += ms;
                self.sw.handle_timeout(at(self.now));
            }
        }
        self.follow()?;
        // In a crowded table the asker would displace whom it asks for.
        if self.sw.limits().max_macs > 4 { self.ask_for_all() } else { Ok(()) }
    }

    fn announced(
        &self,
        n: u8,
        offered: Word,
        before: Option<Word>,
        prepared: Option<Generation>,
        result: Result<BindingChange, BindingError>,
    ) -> Result<(), TestCaseError> {
        let after = self.active(n);
        let key = station(n);
        let known = before.map(|b| b.generation).max(prepared).unwrap_or_default();
        if before.is_some_and(|b| b.source == Source::Controller) {
            prop_assert_eq!(result, Err(BindingError::Controlled(key)));
            prop_assert_eq!(after, before);
            return Ok(());
        }
        if offered.generation < known {
            prop_assert!(matches!(result, Err(BindingError::Stale { .. })), "{:?}", result);
            prop_assert_eq!(after, before, "a lower generation never wins");
            return Ok(());
        }
        match result {
            Ok(BindingChange::Added | BindingChange::Moved { .. } | BindingChange::Updated) => {
                prop_assert_eq!(after, Some(offered));
                prop_assert!(offered.at != Place::Local || before.is_some_and(|b| b.at == Place::Local));
            }
            Ok(BindingChange::Unchanged | BindingChange::Overtaken) => prop_assert_eq!(after, before),
            Ok(BindingChange::NotHere) => {
                prop_assert_eq!(offered.at, Place::Local);
                prop_assert!(after.is_none_or(|a| a.at != Place::Local && a.source == Source::Learned));
            }
            other => prop_assert!(matches!(other, Err(BindingError::TableFull)), "{:?}", other),
        }
        if let Some(b) = before.filter(|b| b.at == Place::Local && offered.generation <= b.generation) {
            prop_assert_eq!(after.map(|a| a.at), Some(b.at), "seen here while its claim is under way");
        }
        Ok(())
    }

    /// The shell follows the events, and has the whole truth.
    fn follow(&mut self) -> Result<(), TestCaseError> {
        let sorted = |mut ips: Vec<IpAddr>| {
            ips.sort_unstable();
            ips
        };
        drain(&mut self.sw);
        for event in events(&mut self.sw) {
            let Event::LocalChanged { key } = event else { continue };
            match self.sw.local_station(key, at(self.now)) {
                Some(s) => self.shell.insert(key, sorted(s.ips)),
                None => self.shell.remove(&key),
            };
        }
        prop_assert!(!self.sw.take_local_overflow());
        let truth: BTreeMap<_, _> =
            self.sw.local_stations(at(self.now)).map(|s| (s.key, sorted(s.ips))).collect();
        prop_assert_eq!(&self.shell, &truth);
        Ok(())
    }

    /// An instance of this bridge asks for, and sends to, each station.
    fn ask_for_all(&mut self) -> Result<(), TestCaseError> {
        let now = at(self.now);
        for n in 1..5 {
            let owner = self.sw.tables.owner(Tags::NONE, v4(n).into(), now).map(|(e, _, a)| (a.at, e.source));
            let verdict = local(&mut self.sw, &request(Family::V4, 9, n), now).0;
            match owner {
                // The learned one may have been polled in its last tenth, in vain.
                Some((Place::Peer(_), Source::Learned)) => {}
                Some((Place::Peer(_), _)) => prop_assert_eq!(verdict, Verdict::Answered, "nothing crosses"),
                _ => prop_assert_ne!(verdict, Verdict::Answered, "nobody is there"),
            }
            let sent = local(&mut self.sw, &data(Family::V4, 9, n, ENDPOINT), now).0;
            match owner.map(|o| o.0) {
                Some(Place::Peer(p)) => prop_assert_eq!(sent, Verdict::Peer(p)),
                Some(Place::Local) => prop_assert_eq!(sent, Verdict::Bridge),
                None => prop_assert!(!matches!(sent, Verdict::Peer(_) | Verdict::Bridge), "{:?}", sent),
            }
            let by_mac = self.active(n).map(|w| w.at);
            let sent = local(&mut self.sw, &data(Family::V4, 9, n, mac(n)), now).0;
            prop_assert_eq!(
                matches!(sent, Verdict::Peer(_)).then_some(sent),
                match by_mac {
                    Some(Place::Peer(p)) => Some(Verdict::Peer(p)),
                    _ => None,
                }
            );
        }
        // The asker is of this bridge too.
        self.follow()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn generations_decide_and_the_shell_knows_its_bridge(
        steps in prop::collection::vec(acts(), 1..80),
        crowded: bool,
    ) {
        let mut c = config(Mode::Rewrite);
        c.policy.broadcast_rate = 1_000_000;
        c.policy.broadcast_burst = 1_000_000;
        if crowded {
            c.limits = Limits { max_macs: 3, max_ips: 4, ..Limits::default() };
        }
        let mut world = World { sw: with(c), now: 0, shell: BTreeMap::new() };
        for act in steps {
            // Not so fast that stations flap.
            world.now += 3_000;
            world.sw.handle_timeout(at(world.now));
            world.follow()?;
            world.step(act)?;
        }
    }
}
