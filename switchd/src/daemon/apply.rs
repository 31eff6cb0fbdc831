//! Becoming what the controller says, while frames go on.

use switch_core::switch::Place;
use tokio::sync::oneshot;

use super::registry::{Effect, PeerRow};
use super::{Daemon, convert, seed};
use crate::config::Network;
use crate::dataplane::{BITE, BindingChange, Bite, Command, Refused};
use crate::desired::{Applied, Update};
use crate::key::PrivateKey;
use crate::view::Origin;

impl Daemon {
    /// Takes an update of the session's. [`Self::step`] carries it out, [`Self::applied`] tells of its end.
    pub(super) fn update(&mut self, update: Update) {
        self.updating = Some(update.revision);
        self.registry.begin(update);
    }

    /// Carries a part of an update out: networks and peers are at once as they shall be, but for what the kernel and
    /// the peers have to do; bindings follow in bites.
    pub(super) fn step(&mut self) {
        let effects = self.registry.step(BITE);
        self.carry_out(effects);
        if !self.registry.is_busy()
            && let Some(revision) = self.updating.take()
        {
            let (to, done) = oneshot::channel();
            self.bites.push_back(Bite::Done(to));
            self.applying = Some((revision, done));
        }
    }

    /// The worker has all of the last update.
    pub(super) fn applied(&mut self, refused: &Refused) {
        let Some((revision, _)) = self.applying.take() else { return };
        let mut problems = self.registry.problems();
        problems.extend(refused.problem());
        for problem in &problems {
            if !self.session.applied.borrow().problems.contains(problem) {
                tracing::warn!("of the controller's state: {problem}");
            }
        }
        self.session.applied.send_replace(Applied { revision, problems });
    }

    /// Another key for this node.
    pub(super) fn set_key(&mut self, key: &PrivateKey) {
        if let Err(e) = self.links.set_key(key) {
            return tracing::error!(error = %e, "the node keeps its key");
        }
        self.node.set_public_key(key.public());
        let effects = self.registry.set_own_key(key.public());
        self.carry_out(effects);
        tracing::info!(key = %key.public(), "the node has a new key");
    }

    pub(super) fn start_network(&mut self, network: Network, from: Origin) {
        let config = convert::network_config(&self.node.config(), &network, seed());
        self.worker.send(Command::AddNetwork(Box::new(config)));
        self.endpoints.start(network, from);
    }

    pub(super) fn carry_out(&mut self, effects: Vec<Effect>) {
        let (mut networks_changed, mut peers_changed) = (false, false);
        let mut bindings = Vec::new();
        for effect in effects {
            match effect {
                Effect::StartNetwork(network) => {
                    tracing::info!(network = network.name, vni = network.vni.get(), "network begins");
                    self.start_network(*network, Origin::Controller);
                    networks_changed = true;
                }
                Effect::StopNetwork(vni) => {
                    tracing::info!(vni = vni.get(), "network ends");
                    self.endpoints.stop(vni);
                    self.worker.send(Command::RemoveNetwork(vni));
                    networks_changed = true;
                }
                Effect::SetPolicy(vni, policy, clamp) => {
                    self.worker.send(Command::SetPolicy(vni, policy, clamp));
                }
                Effect::SetPeer(peer, vnis) => {
                    self.worker.send(Command::AddPeer(peer.id, peer.name.clone(), vnis));
                    self.links.set_peer(peer);
                    peers_changed = true;
                }
                Effect::RemovePeer(id) => {
                    self.links.remove_peer(id);
                    peers_changed = true;
                }
                Effect::Bind(change) => {
                    if let BindingChange::Set(_, binding) = &change
                        && let Place::Peer(peer) = binding.at
                    {
                        self.links.want(peer);
                    }
                    self.bind(change, &mut bindings);
                }
            }
        }
        if !bindings.is_empty() {
            self.bites.push_back(Bite::Bindings(bindings));
        }
        if networks_changed {
            self.links.set_networks(&self.registry.vnis());
            self.node.set_networks(self.endpoints.rows());
        }
        if peers_changed {
            let peers: Vec<PeerRow> = self.registry.peer_rows();
            self.node.set_peers(peers);
        }
    }

    fn bind(&mut self, change: BindingChange, bite: &mut Vec<BindingChange>) {
        bite.push(change);
        if bite.len() >= BITE {
            self.bites.push_back(Bite::Bindings(std::mem::take(bite)));
        }
    }
}
