//! What of a changed configuration can be applied while links stay up.

use super::{Config, Network, Peer};

/// The difference between the running configuration and a new one.
#[derive(Clone, PartialEq, Debug)]
pub struct Reload {
    /// What to run with from now on: the old configuration with every live key taken from the new one.
    pub config: Config,
    /// Names of peers to add.
    pub peers_added: Vec<String>,
    /// Names of peers to remove.
    pub peers_removed: Vec<String>,
    /// Names of peers whose public key or address changed: drop the link and dial again.
    pub peers_changed: Vec<String>,
    /// Names of networks whose policies, static bindings or peers changed.
    pub networks_changed: Vec<String>,
    /// Link timers (`keepalive`, `dead_after`, `rekey_after`, `rekey_datagrams`) changed.
    pub link_changed: bool,
    /// Changed keys that only a restart applies, such as `network "blue" mtu`.
    pub needs_restart: Vec<String>,
}

impl Reload {
    /// Nothing to do at all.
    pub fn is_empty(&self) -> bool {
        self.peers_added.is_empty()
            && self.peers_removed.is_empty()
            && self.peers_changed.is_empty()
            && self.networks_changed.is_empty()
            && !self.link_changed
            && self.needs_restart.is_empty()
    }
}

/// Compares the running configuration with a new one.
pub fn diff(old: &Config, new: &Config) -> Reload {
    let mut needs_restart = restart_keys(old, new);
    let mut networks = Vec::new();
    let mut networks_changed = Vec::new();
    for was in &old.networks {
        let Some(is) = new.networks.iter().find(|is| is.name == was.name) else {
            needs_restart.push(format!("network {:?} (removed)", was.name));
            networks.push(without_unknown_nodes(was.clone(), &old.node.name, new));
            continue;
        };
        needs_restart.extend(network_restart_keys(was, is));
        let live = with_live_keys(was, is);
        if live != *was {
            networks_changed.push(was.name.clone());
        }
        networks.push(live);
    }
    for is in &new.networks {
        if !old.networks.iter().any(|was| was.name == is.name) {
            needs_restart.push(format!("network {:?} (added)", is.name));
        }
    }
    let find = |peers: &[Peer], name: &str| peers.iter().find(|peer| peer.name == name).cloned();
    let names = |peers: &[Peer], keep: &dyn Fn(&Peer) -> bool| -> Vec<String> {
        peers.iter().filter(|peer| keep(peer)).map(|peer| peer.name.clone()).collect()
    };
    let mut link = new.link.clone();
    link.underlay_mtu = old.link.underlay_mtu;
    (link.on_demand, link.idle_after) = (old.link.on_demand, old.link.idle_after);
    link.carriage = old.link.carriage;
    Reload {
        peers_added: names(&new.peers, &|peer| find(&old.peers, &peer.name).is_none()),
        peers_removed: names(&old.peers, &|peer| find(&new.peers, &peer.name).is_none()),
        peers_changed: names(&new.peers, &|peer| {
            find(&old.peers, &peer.name).is_some_and(|was| was != *peer)
        }),
        networks_changed,
        link_changed: link != old.link,
        needs_restart,
        config: Config {
            node: old.node.clone(),
            admin: old.admin.clone(),
            metrics: old.metrics.clone(),
            link,
            nat: old.nat.clone(),
            controller: old.controller.clone(),
            networks,
            peers: new.peers.clone(),
        },
    }
}

fn restart_keys(old: &Config, new: &Config) -> Vec<String> {
    changed(&[
        ("node.name", new.node.named && old.node.name != new.node.name),
        ("node.private_key", old.node.private_key != new.node.private_key),
        ("node.listen", old.node.listen != new.node.listen),
        ("admin.socket", old.admin.socket != new.admin.socket),
        ("admin.group", old.admin.group != new.admin.group),
        ("metrics.listen", old.metrics.listen != new.metrics.listen),
        ("nat", old.nat != new.nat),
        ("controller.enabled", old.controller.enabled != new.controller.enabled),
        ("controller.state_dir", old.controller.state_dir != new.controller.state_dir),
        ("controller.addresses", old.controller.addresses != new.controller.addresses),
        ("link.underlay_mtu", old.link.underlay_mtu != new.link.underlay_mtu),
        ("link.on_demand", old.link.on_demand != new.link.on_demand),
        ("link.idle_after", old.link.idle_after != new.link.idle_after),
        ("link.carriage", old.link.carriage != new.link.carriage),
    ])
    .map(str::to_owned)
    .collect()
}

fn network_restart_keys(was: &Network, is: &Network) -> Vec<String> {
    changed(&[
        ("vni", was.vni != is.vni),
        ("bridge", was.bridge != is.bridge),
        ("create_bridge", was.create_bridge != is.create_bridge),
        ("endpoint", was.endpoint != is.endpoint),
        ("mode", was.mode != is.mode),
        ("endpoint_mac", was.endpoint_mac != is.endpoint_mac),
        ("mtu", was.mtu != is.mtu),
        ("offloads", was.offloads != is.offloads),
        ("carriage", was.carriage != is.carriage),
        ("max_macs", was.max_macs != is.max_macs),
        ("max_ips", was.max_ips != is.max_ips),
        ("mac_age", was.mac_age != is.mac_age),
        ("ip_age", was.ip_age != is.ip_age),
        ("gateways", was.gateways != is.gateways),
    ])
    .map(|key| format!("network {:?} {key}", was.name))
    .collect()
}

fn changed<'a>(keys: &'a [(&'static str, bool)]) -> impl Iterator<Item = &'static str> + 'a {
    keys.iter().filter(|(_, changed)| *changed).map(|(key, _)| *key)
}

fn with_live_keys(was: &Network, is: &Network) -> Network {
    Network {
        dhcp: is.dhcp,
        anti_spoof: is.anti_spoof,
        mss_clamp: is.mss_clamp,
        broadcast_rate: is.broadcast_rate,
        broadcast_burst: is.broadcast_burst,
        peers: is.peers.clone(),
        bindings: is.bindings.clone(),
        ..was.clone()
    }
}

/// A network that stays until the restart must not name peers that are gone.
fn without_unknown_nodes(mut network: Network, own_name: &str, new: &Config) -> Network {
    let known = |name: &str| name == own_name || new.peers.iter().any(|peer| peer.name == name);
    if let Some(names) = &mut network.peers {
        names.retain(|name| known(name));
    }
    network.bindings.retain(|binding| known(&binding.node));
    network
}
