//! The layer-2 switch of one network on one node: bindings, the paper's four ARP cases, ND, flooding.
//!
//! | Call | What it is |
//! |---|---|
//! | [`Switch::handle_local`], [`Switch::handle_remote`] | a frame goes in, a [`Verdict`] comes out |
//! | [`Switch::handle_link`], [`Switch::set_policy`], [`Switch::set_binding`], [`Switch::remove_binding`] | what the link and control planes say |
//! | [`Switch::handle_timeout`], [`Switch::poll_timeout`] | time |
//! | [`Switch::poll_transmit`], [`Switch::poll_event`] | what came of the call before: drain both |
//!
//! On the overlay frames carry instances' real MACs. In [`Mode::Rewrite`] the endpoint's MAC takes a remote
//! source's place when a frame is delivered to the bridge, and the owner's MAC takes the endpoint's as
//! destination when a local frame leaves. Routers keep theirs.

mod admit;
mod announced;
mod asks;
mod binding;
mod config;
mod control;
mod counters;
mod events;
mod flood;
mod forward;
mod gateway;
mod hold;
mod message;
mod neighbour;
mod tables;
#[cfg(test)]
mod tests;
mod verdict;
mod views;

use std::collections::VecDeque;
use std::time::Duration;

use ahash::RandomState;

pub use binding::{
    Binding, BindingChange, BindingError, BindingKey, BindingView, LocalStation, MacView, Place, Source,
    State,
};
pub use config::{AntiSpoof, DhcpPolicy, Limits, Mode, Policy, SwitchConfig};
pub use counters::{Counters, NeighbourCounters};
pub use events::Event;
pub use verdict::{Destination, DropReason, Transmit, Verdict};

use crate::ids::{Mac, PeerId, Vni};
use crate::time::Time;
use crate::vnet::VnetHdr;
use asks::Asks;
use events::Events;
use flood::{Bucket, Links};
use gateway::Gateways;
use hold::Hold;
use tables::Tables;

/// The switch of one network.
#[derive(Debug)]
pub struct Switch {
    vni: Vni,
    mode: Mode,
    endpoint: Mac,
    policy: Policy,
    limits: Limits,
    tables: Tables,
    asks: Asks,
    hold: Hold,
    links: Links,
    gateways: Gateways,
    bucket: Bucket,
    transmits: VecDeque<Transmit>,
    events: Events,
    counters: Counters,
    next_sweep: Option<Time>,
    /// Peers whose links came up a moment ago, and when they are asked once more.
    anew: VecDeque<(Time, PeerId)>,
}

impl Switch {
    /// A switch that knows nobody and whose links are all down.
    pub fn new(config: SwitchConfig) -> Switch {
        let [a, b, c, d] = config.hash_seed;
        let hash = RandomState::with_seeds(a, b, c, d);
        Switch {
            vni: config.vni,
            mode: config.mode,
            endpoint: config.endpoint_mac,
            policy: config.policy,
            limits: config.limits,
            tables: Tables::new(config.limits, &hash),
            asks: Asks::new(config.limits, &hash),
            hold: Hold::new(config.limits, &hash),
            links: Links::default(),
            gateways: Gateways::new(config.gateways),
            bucket: Bucket::new(config.policy.broadcast_rate, config.policy.broadcast_burst),
            transmits: VecDeque::new(),
            events: Events::default(),
            counters: Counters::new(),
            next_sweep: None,
            anew: VecDeque::new(),
        }
    }

    /// The network.
    pub fn vni(&self) -> Vni {
        self.vni
    }

    /// Which MAC addresses guests see.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The rules in force.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Other rules, from the next frame on.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
        self.bucket.set(policy.broadcast_rate, policy.broadcast_burst);
    }

    /// Decides about a frame from the bridge. `frame` begins with its Ethernet header and may be a super-frame
    /// as `vnet` says; on a verdict other than `Drop`, `Answered` and `Held` it is ready to be sent.
    pub fn handle_local(&mut self, frame: &mut [u8], vnet: &VnetHdr, now: Time) -> Verdict {
        self.wind(now);
        self.counters.local_frames += 1;
        let verdict = self.local(frame, vnet, now).unwrap_or_else(Verdict::Drop);
        self.counters.count(verdict);
        verdict
    }

    /// Decides about a frame from a peer. Of a super-frame that arrives as segments the first one is enough, as
    /// long as its headers are whole.
    pub fn handle_remote(&mut self, frame: &mut [u8], vnet: &VnetHdr, from: PeerId, now: Time) -> Verdict {
        self.wind(now);
        self.counters.remote_frames += 1;
        let verdict = self.remote(frame, vnet, from, now).unwrap_or_else(Verdict::Drop);
        self.counters.count(verdict);
        verdict
    }

    /// Ages the tables and asks again for what is held. Costs a bounded part of a table scan.
    pub fn handle_timeout(&mut self, now: Time) {
        self.ask_anew(now);
        if self.next_sweep.is_some_and(|at| at <= now) {
            self.next_sweep = None;
            self.sweep(now);
        }
    }

    /// When to call [`Switch::handle_timeout`]; `None` while there is nothing to age
    /// and nobody to ask.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.anew.front().map(|(at, _)| *at).into_iter().chain(self.next_sweep).min()
    }

    /// The next frame that the calls before made or released.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next event. At most 1024 wait; what comes on top is lost and counted. As many
    /// [`Event::LocalChanged`] wait beside them, see [`Switch::take_local_overflow`].
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop().or_else(|| self.tables.pop_change().map(|key| Event::LocalChanged { key }))
    }

    /// Whether an [`Event::LocalChanged`] was lost since the last call: then what the shell knows must be compared
    /// with [`Switch::local_stations`].
    pub fn take_local_overflow(&mut self) -> bool {
        self.tables.take_overflow()
    }

    /// Says that a peer is a member of the network and its link is up, or that one of the two has ended. A peer
    /// that was not up before is asked for what instances here wait for, and gets what was held for it.
    pub fn handle_link(&mut self, peer: PeerId, up: bool, now: Time) {
        if self.links.set(peer, up) && up {
            self.came_up(peer, now);
        }
    }

    /// The peers whose links are up: where [`Verdict::Flood`] goes.
    pub fn flood_peers(&self) -> &[PeerId] {
        self.links.all_up()
    }

    /// What was counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Frames held for unresolved destinations, and their bytes.
    pub fn held(&self) -> (usize, usize) {
        self.hold.load()
    }

    /// Bounds and ages.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    fn event(&mut self, event: Event, now: Time) {
        if !self.events.push(event, now) {
            self.counters.events_lost += 1;
        }
    }

    fn transmit(&mut self, to: Destination, vnet: VnetHdr, frame: Vec<u8>) {
        self.transmits.push_back(Transmit { to, vnet, frame });
    }

    fn wind(&mut self, now: Time) {
        if self.next_sweep.is_none() {
            self.next_sweep = Some(now + SWEEP_EVERY);
        }
    }

    fn sweep(&mut self, now: Time) {
        let mut gone = Vec::new();
        let ips = self.tables.sweep(now, &mut gone);
        self.counters.expired += (ips + gone.len()) as u64;
        for key in gone {
            self.event(Event::BindingExpired { key }, now);
        }
        self.asks.sweep(now);
        self.ask_again(now);
        let idle = self.tables.macs_len() == 0 && self.asks.is_empty() && self.hold.load().0 == 0;
        if !idle {
            self.next_sweep = Some(now + SWEEP_EVERY);
        }
    }
}

const SWEEP_EVERY: Duration = Duration::from_secs(1);
