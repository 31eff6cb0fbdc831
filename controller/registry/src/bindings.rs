//! Bindings that are learned or set by hand. Those of instances follow from their placement, in `instances`.

use std::{collections::BTreeSet, net::IpAddr};

use crate::{
    changes::EventKind,
    command::{BindingClaim, BindingWithdrawal, ClaimRefusal, ClaimRefusalReason, Outcome},
    ids::{Generation, NodeId},
    networks::bindable,
    records::{Binding, BindingKey, BindingSource, BindingState, Network},
    refusal::Refusal,
    registry::Registry,
};

const IPS_MAX: usize = 64;
const VLANS_MAX: usize = 2;

impl Registry {
    /// What a switch learned. Returns what was not accepted; the rest changed or is in force already.
    pub(crate) fn claim_bindings(
        &mut self,
        node: NodeId,
        full: bool,
        claims: Vec<BindingClaim>,
        withdrawals: &[BindingWithdrawal],
    ) -> Vec<ClaimRefusal> {
        let mut refusals = Vec::new();
        let claimed: BTreeSet<BindingKey> = claims.iter().map(|c| c.key.clone()).collect();
        for withdrawal in withdrawals {
            if let Err(reason) = self.withdraw(node, withdrawal) {
                refusals.push(self.claim_refusal(withdrawal.key.clone(), reason));
            }
        }
        if full {
            let held = self.index.bindings_at.get(&node).into_iter().flatten();
            let learned =
                |k: &&BindingKey| self.bindings.get(k).is_some_and(|b| b.source == BindingSource::Learned);
            let gone: Vec<BindingKey> =
                held.filter(|k| !claimed.contains(k)).filter(learned).cloned().collect();
            for key in gone {
                self.remove_binding(&key);
            }
        }
        for claim in claims {
            let key = claim.key.clone();
            if let Err(reason) = self.claim(node, claim) {
                refusals.push(self.claim_refusal(key, reason));
            }
        }
        refusals
    }

    fn claim_refusal(&self, key: BindingKey, reason: ClaimRefusalReason) -> ClaimRefusal {
        let current = self.bindings.get(&key).cloned();
        ClaimRefusal { key, reason, current }
    }

    fn claim(&mut self, node: NodeId, claim: BindingClaim) -> Result<(), ClaimRefusalReason> {
        let BindingClaim { key, mut ips, seen_generation } = claim;
        let Some(network) = self.networks.get(&key.vni).filter(|n| n.nodes.includes(node)) else {
            return Err(ClaimRefusalReason::Network);
        };
        let nodes_only = network.host;
        ips.sort_unstable();
        ips.dedup();
        let another = |ip: &IpAddr| key.vlans.is_empty() && self.is_placed_elsewhere(&key, *ip);
        if check_station(&key, &ips).is_err() || ips.iter().any(another) {
            return Err(ClaimRefusalReason::Address);
        }
        let current = self.bindings.get(&key);
        match current {
            Some(current) if current.source == BindingSource::Controller => {
                return if current.node == node { Ok(()) } else { Err(ClaimRefusalReason::BoundElsewhere) };
            }
            _ if nodes_only => return Err(ClaimRefusalReason::Address),
            Some(current) if current.node == node && current.ips == ips => return Ok(()),
            Some(current) if current.generation != seen_generation => return Err(ClaimRefusalReason::Stale),
            _ => {}
        }
        let held = self.index.learned_at.get(&node).copied().unwrap_or(0);
        if held >= self.settings.learned_per_node && current.is_none_or(|c| c.node != node) {
            return Err(ClaimRefusalReason::Full);
        }
        self.put_binding(Binding {
            key,
            ips,
            node,
            generation: Generation(0),
            source: BindingSource::Learned,
            state: BindingState::Active,
            instance: None,
        });
        Ok(())
    }

    /// An instance with another MAC has the address by its placement.
    fn is_placed_elsewhere(&self, key: &BindingKey, ip: IpAddr) -> bool {
        let holder = self.index.placed_ips.get(&(key.vni, ip)).and_then(|id| self.instances.get(id));
        holder.is_some_and(|i| !i.nics.iter().any(|n| n.vni == key.vni && n.mac == key.mac))
    }

    fn withdraw(&mut self, node: NodeId, withdrawal: &BindingWithdrawal) -> Result<(), ClaimRefusalReason> {
        let Some(current) = self.bindings.get(&withdrawal.key) else { return Ok(()) };
        if current.source == BindingSource::Controller {
            return Err(ClaimRefusalReason::BoundElsewhere);
        }
        if current.node != node || current.generation != withdrawal.generation {
            return Err(ClaimRefusalReason::Stale);
        }
        self.remove_binding(&withdrawal.key);
        Ok(())
    }

    pub(crate) fn set_binding_by_hand(
        &mut self,
        key: BindingKey,
        mut ips: Vec<IpAddr>,
        node: &str,
        state: BindingState,
        expected: Option<Generation>,
    ) -> Result<Outcome, Refusal> {
        let node = self.live_node(node)?;
        if !node.is_member() {
            return Err(Refusal::not_ready(format!("{} has not enrolled yet", node.id)));
        }
        let node = node.id;
        let network = self.find_network(&key.vni.to_string())?;
        check_not_host(network)?;
        if !network.nodes.includes(node) {
            return Err(Refusal::conflict(format!(
                "{node} does not have network {}; add it to the network",
                network.name
            )));
        }
        ips.sort_unstable();
        ips.dedup();
        check_station(&key, &ips)?;
        if let Some(ip) = ips.iter().find(|ip| key.vlans.is_empty() && self.is_placed_elsewhere(&key, **ip)) {
            return Err(Refusal::conflict(format!("ips: {ip} is an instance's; choose another one")));
        }
        self.check_by_hand(&key, expected)?;
        let message = format!("{key} was bound to {node} by hand");
        let event_subject = key.to_string();
        let generation = self.put_binding(Binding {
            key,
            ips,
            node,
            generation: Generation(0),
            source: BindingSource::Controller,
            state,
            instance: None,
        });
        self.event(EventKind::BindingSet, event_subject, message);
        Ok(Outcome::Binding(generation))
    }

    pub(crate) fn remove_binding_by_hand(
        &mut self,
        key: &BindingKey,
        expected: Option<Generation>,
    ) -> Result<Outcome, Refusal> {
        if !self.bindings.contains_key(key) {
            return Err(Refusal::not_found("binding", &key.to_string()));
        }
        if let Some(network) = self.networks.get(&key.vni) {
            check_not_host(network)?;
        }
        self.check_by_hand(key, expected)?;
        self.remove_binding(key);
        self.event(EventKind::BindingRemoved, key, format!("the binding of {key} was removed by hand"));
        Ok(Outcome::Done)
    }

    fn check_by_hand(&self, key: &BindingKey, expected: Option<Generation>) -> Result<(), Refusal> {
        let current = self.bindings.get(key);
        if let Some(instance) = current.and_then(|b| b.instance) {
            return Err(Refusal::conflict(format!(
                "{key} is {instance}'s and follows its placement; move the instance instead"
            )));
        }
        let generation = current.map_or(Generation(0), |b| b.generation);
        match expected {
            Some(expected) if expected != generation => Err(Refusal::stale(format!(
                "the binding of {key} has generation {generation}, not {expected}; look at it again"
            ))),
            _ => Ok(()),
        }
    }
}

fn check_not_host(network: &Network) -> Result<(), Refusal> {
    if !network.host {
        return Ok(());
    }
    Err(Refusal::conflict(format!(
        "network {} is for the nodes themselves, and their bindings come and go with them; take another network",
        network.name
    )))
}

/// A station that can be bound.
fn check_station(key: &BindingKey, ips: &[IpAddr]) -> Result<(), Refusal> {
    if !key.mac.is_unicast() {
        return Err(Refusal::invalid("mac", format!("{} is not a station's; give a unicast MAC", key.mac)));
    }
    if key.vlans.len() > VLANS_MAX || key.vlans.iter().any(|v| *v == 0 || *v > 4094) {
        return Err(Refusal::invalid("vlans", "use at most two, each 1 to 4094"));
    }
    if ips.len() > IPS_MAX {
        return Err(Refusal::invalid("ips", "more than 64; leave some out"));
    }
    match ips.iter().find(|ip| !bindable(**ip)) {
        Some(ip) => Err(Refusal::invalid("ips", format!("{ip} is not a station's address"))),
        None => Ok(()),
    }
}
