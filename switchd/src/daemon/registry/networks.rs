//! The controller's networks.

use switch_core::ids::Vni;

use super::{Effect, Registry};
use crate::config::Network;
use crate::daemon::convert;
use crate::dataplane::MssClamp;

impl Registry {
    pub(super) fn set_network(&mut self, network: Network, effects: &mut Vec<Effect>) {
        let vni = network.vni;
        let network = Network { peers: None, bindings: Vec::new(), ..network };
        self.desired.networks.insert(vni, network);
        self.settle_network(vni, effects);
    }

    pub(super) fn remove_network(&mut self, vni: Vni, effects: &mut Vec<Effect>) {
        self.desired.networks.remove(&vni);
        self.refused_networks.remove(&vni);
        self.stop_network(vni, effects);
    }

    /// Makes a network what is desired, or refuses it.
    pub(super) fn settle_network(&mut self, vni: Vni, effects: &mut Vec<Effect>) {
        let Some(network) = self.desired.networks.get(&vni).cloned() else { return };
        if let Some(problem) = self.network_problem(&network) {
            self.stop_network(vni, effects);
            self.refused_networks.insert(vni, problem);
            return;
        }
        self.refused_networks.remove(&vni);
        match self.running.get(&vni) {
            Some(running) if *running == network => return,
            Some(running) if running.differs_live_only(&network) => {
                effects.push(set_policy(&network));
                self.running.insert(vni, network);
                return;
            }
            Some(_) => effects.push(Effect::StopNetwork(vni)),
            None => {}
        }
        effects.push(Effect::StartNetwork(Box::new(network.clone())));
        self.running.insert(vni, network);
        self.bind_network(vni, effects);
    }

    fn stop_network(&mut self, vni: Vni, effects: &mut Vec<Effect>) {
        if self.running.remove(&vni).is_some() {
            effects.push(Effect::StopNetwork(vni));
        }
    }

    fn network_problem(&self, network: &Network) -> Option<String> {
        let Network { name, vni, bridge, endpoint, .. } = network;
        let this = format!("network {name:?} (VNI {vni})");
        if let Err(e) = network.check() {
            return Some(format!("{this}: {e}"));
        }
        let in_file = self.config.networks.iter().map(|other| (other, "the configuration file"));
        let running = self.running.values().filter(|other| other.vni != *vni);
        for (other, owner) in in_file.chain(running.map(|other| (other, "the controller"))) {
            let clash = if other.vni == *vni {
                format!("VNI {vni}")
            } else if other.name == *name {
                format!("the name {name:?}")
            } else if [&other.bridge, &other.endpoint].contains(&bridge) {
                format!("the interface {bridge}")
            } else if [&other.bridge, &other.endpoint].contains(&endpoint) {
                format!("the interface {endpoint}")
            } else {
                continue;
            };
            return Some(format!(
                "{this}: {clash} is that of network {:?} of {owner}: change or remove one of the two",
                other.name
            ));
        }
        None
    }
}

/// The rules of a network that change while it runs.
pub(super) fn set_policy(network: &Network) -> Effect {
    Effect::SetPolicy(network.vni, convert::policy(network), MssClamp(network.mss_clamp))
}
