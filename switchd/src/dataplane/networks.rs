//! The networks that the worker serves. They come and go while it runs, between frames of a batch too.

use std::net::IpAddr;

use switch_core::ids::Vni;
use switch_core::offload::Coalescer;

use super::NetworkConfig;
use super::network::{BATCH_FRAMES, Network};

/// All of them, in the order in which they came.
#[derive(Default)]
pub(super) struct Networks {
    /// Apart from the networks, so that a search for one reads a few cache lines.
    vnis: Vec<Vni>,
    networks: Vec<Network>,
    /// By network: joins a batch's frames into runs.
    coalescers: Vec<Coalescer>,
    /// The host's own addresses inside the networks.
    inside: Vec<IpAddr>,
}

impl Networks {
    /// Takes the place of one with the same VNI.
    pub(super) fn add(&mut self, config: NetworkConfig) {
        self.remove(config.switch.vni);
        self.vnis.push(config.switch.vni);
        self.networks.push(Network::new(config));
        self.coalescers.push(Coalescer::new(BATCH_FRAMES, true));
        self.note_inside();
    }

    /// Closes its TAP. Frames of the batch under way that are for it are forgotten.
    pub(super) fn remove(&mut self, vni: Vni) {
        if let Some(i) = self.position(vni) {
            self.vnis.remove(i);
            self.networks.remove(i);
            self.coalescers.remove(i);
            self.note_inside();
        }
    }

    /// Whether the host has this address inside a network. What comes to it has come by a link, and no link can go by
    /// that.
    #[inline]
    pub(super) fn is_inside(&self, ip: IpAddr) -> bool {
        self.inside.contains(&ip)
    }

    fn note_inside(&mut self) {
        self.inside = self.networks.iter().flat_map(|network| network.host.iter().copied()).collect();
    }

    pub(super) fn get_mut(&mut self, vni: Vni) -> Option<&mut Network> {
        let i = self.position(vni)?;
        self.networks.get_mut(i)
    }

    pub(super) fn with_coalescer(&mut self, vni: Vni) -> Option<(&mut Network, &mut Coalescer)> {
        let i = self.position(vni)?;
        self.networks.get_mut(i).zip(self.coalescers.get_mut(i))
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Network> {
        self.networks.iter()
    }

    pub(super) fn iter_mut(&mut self) -> std::slice::IterMut<'_, Network> {
        self.networks.iter_mut()
    }

    pub(super) fn with_coalescers(&mut self) -> impl Iterator<Item = (&mut Network, &mut Coalescer)> {
        self.networks.iter_mut().zip(&mut self.coalescers)
    }

    fn position(&self, vni: Vni) -> Option<usize> {
        self.vnis.iter().position(|other| *other == vni)
    }
}
