//! What this switch tells the controller of the stations on its own bridges: which claims and withdrawals are due,
//! and which are not made again. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use controller_api::node as wire;
use switch_core::ids::{Generation, Vni};
use switch_core::switch::{BindingKey, Source, State};

use super::convert;
use super::mirror::Mirror;
use crate::desired::{Change, DesiredBinding, StationReport, Update};

type Key = (Vni, BindingKey);

/// Stations, and what the controller has yet to hear of them.
#[derive(Debug, Default)]
pub(super) struct Claims {
    stations: BTreeMap<Key, Station>,
    to_claim: BTreeSet<Key>,
    to_withdraw: BTreeSet<Key>,
    /// Claims that were refused, with the generation of the binding that refused them.
    refused: HashMap<Key, Option<Generation>>,
    refusals: u64,
}

#[derive(Clone, PartialEq, Debug)]
struct Station {
    ips: Vec<IpAddr>,
    seen: Generation,
    /// Known from the stored state only: not seen yet since the start.
    restored: bool,
}

impl Claims {
    /// Takes the stations of the stored state for present until [`expire`](Self::expire): a guest that is silent
    /// since the restart of the switch is still there.
    pub(super) fn restore(&mut self, mirror: &Mirror) {
        for (at, binding) in &mirror.state().bindings {
            if is_own_learned(binding) {
                let station = Station { ips: binding.ips.clone(), seen: binding.generation, restored: true };
                self.stations.insert(*at, station);
            }
        }
    }

    /// Lets go of the restored stations that were not seen: they are withdrawn.
    pub(super) fn expire(&mut self) {
        let silent: Vec<Key> = self.stations.iter().filter(|(_, s)| s.restored).map(|(at, _)| *at).collect();
        silent.into_iter().for_each(|at| self.gone(at));
    }

    /// Takes what the data plane saw.
    pub(super) fn stations(&mut self, report: StationReport) {
        let vni = report.vni;
        if report.full {
            let present: BTreeSet<BindingKey> = report.present.iter().map(|station| station.key).collect();
            let missing = |(at, station): &(&Key, &Station)| {
                at.0 == vni && !station.restored && !present.contains(&at.1)
            };
            let missing: Vec<Key> = self.stations.iter().filter(missing).map(|(at, _)| *at).collect();
            missing.into_iter().for_each(|at| self.gone(at));
        }
        for mut seen in report.present {
            // They come in no order.
            seen.ips.sort_unstable();
            let at = (vni, seen.key);
            let station = Station { ips: seen.ips, seen: seen.seen_generation, restored: false };
            if self.stations.get(&at) != Some(&station) {
                self.stations.insert(at, station);
                self.refused.remove(&at);
                self.to_withdraw.remove(&at);
                self.to_claim.insert(at);
            }
        }
        for key in report.gone {
            let at = (vni, key);
            // A switch that has just started has not seen it yet: no word of its having gone.
            if self.stations.get(&at).is_none_or(|station| !station.restored) {
                self.gone(at);
            }
        }
    }

    /// Takes a step of the state, after the mirror: what was refused may be claimed again once the binding that
    /// refused it is gone, and what is bound here without a station is withdrawn.
    pub(super) fn update(&mut self, update: &Update) {
        if update.reset {
            self.refused.clear();
            self.to_claim.extend(self.stations.keys());
        }
        for change in &update.changes {
            match change {
                Change::Binding(vni, key, binding) => {
                    let at = (*vni, *key);
                    match self.stations.get(&at) {
                        None if is_own_learned(binding) => drop(self.to_withdraw.insert(at)),
                        // The station changed while its claim was under way.
                        Some(station)
                            if is_own_learned(binding) && !station.restored && !says(binding, station) =>
                        {
                            self.to_claim.insert(at);
                        }
                        // Silent since the start, and seen by another node meanwhile.
                        Some(station) if station.restored && binding.node.is_some() => {
                            self.stations.remove(&at);
                            self.to_claim.remove(&at);
                        }
                        _ => {}
                    }
                }
                Change::RemoveBinding(vni, key) => {
                    let at = (*vni, *key);
                    self.to_withdraw.remove(&at);
                    match self.stations.get(&at) {
                        // Nothing but the binding spoke for it.
                        Some(station) if station.restored => drop(self.stations.remove(&at)),
                        Some(_) => {
                            self.refused.remove(&at);
                            self.to_claim.insert(at);
                        }
                        None => {}
                    }
                }
                // Only now may its stations be claimed.
                Change::Network(network) => {
                    let stations = self.stations.keys().filter(|at| at.0 == network.vni);
                    self.to_claim.extend(stations);
                }
                Change::RemoveNetwork(vni) => self.drop_network(*vni),
                _ => {}
            }
        }
    }

    /// Takes refusals. A refused claim changes nothing here: the binding in force comes as state.
    pub(super) fn refused(&mut self, answer: &wire::BindingAnswer) {
        for refusal in &answer.refusals {
            let Ok(at) = convert::binding_key(refusal.key.as_ref()) else { continue };
            let current = refusal.current.as_ref();
            tracing::debug!(
                vni = %at.0, mac = %at.1.mac, reason = refusal.reason().as_str_name(),
                generation = current.map(|binding| binding.generation),
                node = current.map(|binding| binding.node_id.as_str()),
                "the controller refused a claim"
            );
            self.refusals += 1;
            // For want of room it is claimed again with its next change; of a station that is gone nothing is kept.
            if refusal.reason() != wire::BindingRefusalReason::Full && self.stations.contains_key(&at) {
                self.refused.insert(at, current.map(|binding| Generation(binding.generation)));
            }
        }
    }

    /// Claims that were refused since the start.
    pub(super) fn refusals(&self) -> u64 {
        self.refusals
    }

    /// Everything, for after a registration.
    pub(super) fn full(&mut self, mirror: &Mirror) -> wire::BindingReport {
        self.to_claim.clear();
        self.to_withdraw.clear();
        self.refused.clear();
        let claimable = |(at, _): &(&Key, &Station)| mirror.state().networks.contains_key(&at.0);
        let stations = self.stations.iter().filter(claimable);
        let claims = stations.map(|(at, station)| claim(*at, station, mirror)).collect();
        wire::BindingReport { full: true, claims, withdrawals: Vec::new() }
    }

    /// Whether [`changes`](Self::changes) may have something to say.
    pub(super) fn is_due(&self) -> bool {
        !self.to_claim.is_empty() || !self.to_withdraw.is_empty()
    }

    /// What changed since it was last asked.
    pub(super) fn changes(&mut self, mirror: &Mirror) -> Option<wire::BindingReport> {
        let mut claims = Vec::new();
        for at in std::mem::take(&mut self.to_claim) {
            let Some(station) = self.stations.get(&at) else { continue };
            let known = mirror.binding(at.0, at.1).is_some_and(|binding| says(binding, station));
            let claimable = mirror.state().networks.contains_key(&at.0);
            if !claimable || known {
                continue;
            }
            let claim = claim(at, station, mirror);
            // What was refused is refused again, unless the binding that refused it has come since.
            if self.refused.get(&at).is_none_or(|by| *by == Some(Generation(claim.seen_generation))) {
                claims.push(claim);
            }
        }
        let mut withdrawals = Vec::new();
        for at in std::mem::take(&mut self.to_withdraw) {
            // Without a binding there is nothing to withdraw; if the claim is still under way, it comes back here
            // with the binding.
            if let Some(binding) = mirror.binding(at.0, at.1).filter(|binding| is_own_learned(binding)) {
                let key = Some(convert::key_to_wire(at.0, at.1));
                withdrawals.push(wire::BindingWithdrawal { key, generation: binding.generation.0 });
            }
        }
        let nothing = claims.is_empty() && withdrawals.is_empty();
        (!nothing).then_some(wire::BindingReport { full: false, claims, withdrawals })
    }

    fn gone(&mut self, at: Key) {
        if self.stations.remove(&at).is_some() {
            self.to_claim.remove(&at);
            self.refused.remove(&at);
            self.to_withdraw.insert(at);
        }
    }

    fn drop_network(&mut self, vni: Vni) {
        self.stations.retain(|at, _| at.0 != vni);
        self.to_claim.retain(|at| at.0 != vni);
        self.to_withdraw.retain(|at| at.0 != vni);
        self.refused.retain(|at, _| at.0 != vni);
    }
}

fn claim((vni, key): Key, station: &Station, mirror: &Mirror) -> wire::BindingClaim {
    // The binding that an earlier claim of this switch made is known to it, even if the station was seen before.
    let own = mirror.binding(vni, key).filter(|binding| binding.node.is_none());
    let seen = own.map_or(station.seen, |binding| binding.generation.max(station.seen));
    wire::BindingClaim {
        key: Some(convert::key_to_wire(vni, key)),
        ips: convert::texts(&station.ips),
        seen_generation: seen.0,
    }
}

/// Whether the binding already says what a claim would.
fn says(binding: &DesiredBinding, station: &Station) -> bool {
    let has_all = station.ips.iter().all(|ip| binding.ips.contains(ip));
    let exact = binding.source == Source::Controller || binding.ips.len() == station.ips.len();
    binding.node.is_none() && binding.state == State::Active && has_all && exact
}

fn is_own_learned(binding: &DesiredBinding) -> bool {
    binding.node.is_none() && binding.source == Source::Announced
}

#[cfg(test)]
mod tests;
