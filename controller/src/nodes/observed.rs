//! What switches say of their links and networks: shown by the API, needed for nothing, kept in memory only.

use std::collections::{BTreeMap, HashMap};
use std::sync::{PoisonError, RwLock};

use controller_api::node as proto;
use controller_registry::{NodeId, Timestamp, Vni};

use super::convert::{self, MAX_SENTENCE, Wrong};

/// The last reports of all nodes.
#[derive(Debug, Default)]
pub struct Observed {
    nodes: RwLock<HashMap<NodeId, NodeReports>>,
}

/// The last reports of a node's switch.
#[derive(Clone, Debug, Default)]
pub struct NodeReports {
    /// Its links, by the peer.
    pub links: BTreeMap<NodeId, proto::LinkStatus>,
    /// When the last report of them came.
    pub links_at: Timestamp,
    /// Its networks.
    pub networks: BTreeMap<Vni, proto::NetworkStatus>,
    /// When the last report of them came.
    pub networks_at: Timestamp,
    /// Epoch and revision that it runs with.
    pub applied: Option<(u64, u64)>,
    /// What of that it could not apply.
    pub problems: Vec<String>,
}

impl Observed {
    /// A node's reports.
    pub fn node(&self, node: NodeId) -> Option<NodeReports> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }

    /// Everybody's links: reporter, peer and how it is.
    pub fn links(&self) -> Vec<(NodeId, NodeId, proto::LinkStatus)> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        let links = nodes.iter().flat_map(|(node, reports)| {
            reports.links.iter().map(move |(peer, link)| (*node, *peer, link.clone()))
        });
        let mut links: Vec<_> = links.collect();
        links.sort_by_key(|(node, peer, _)| (*node, *peer));
        links
    }

    /// How many links there are by state and path, in words that are known.
    pub fn link_counts(&self) -> BTreeMap<(&'static str, &'static str), i64> {
        let known = |word: &str, words: &[&'static str]| words.iter().find(|known| **known == word).copied();
        let mut counts = BTreeMap::new();
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        for link in nodes.values().flat_map(|reports| reports.links.values()) {
            let state = known(&link.state, &STATES).unwrap_or("down");
            *counts.entry((state, known(&link.path, &PATHS).unwrap_or("none"))).or_default() += 1;
        }
        counts
    }

    pub(super) fn take_links(
        &self,
        node: NodeId,
        report: proto::LinkReport,
        at: Timestamp,
    ) -> Result<(), Wrong> {
        if report.links.len() > MAX_LINKS {
            return Err(format!("links: {}, at most {MAX_LINKS} are kept", report.links.len()));
        }
        let mut taken = Vec::new();
        for mut link in report.links {
            let peer = convert::node_id(&link.peer_id).map_err(|wrong| format!("links: {wrong}"))?;
            link.state = convert::text(link.state, 32);
            link.address = convert::text(link.address, 64);
            link.path = convert::text(link.path, 32);
            link.last_error = convert::text(link.last_error, MAX_SENTENCE);
            link.local_candidate = convert::text(link.local_candidate, MAX_CANDIDATE);
            link.remote_candidate = convert::text(link.remote_candidate, MAX_CANDIDATE);
            link.loss_ppm = link.loss_ppm.min(1_000_000);
            link.why_relayed = convert::text(link.why_relayed, MAX_SENTENCE);
            taken.push((peer, link));
        }
        self.change(node, |reports| {
            if report.full {
                reports.links.clear();
            }
            reports.links_at = at;
            for (peer, link) in taken {
                if reports.links.len() < MAX_LINKS || reports.links.contains_key(&peer) {
                    reports.links.insert(peer, link);
                }
            }
        });
        Ok(())
    }

    pub(super) fn take_networks(
        &self,
        node: NodeId,
        report: proto::NetworkReport,
        at: Timestamp,
    ) -> Result<(), Wrong> {
        if report.networks.len() > MAX_NETWORKS {
            return Err(format!("networks: {}, at most {MAX_NETWORKS} are kept", report.networks.len()));
        }
        let mut networks = BTreeMap::new();
        for mut network in report.networks {
            network.bridge = convert::text(network.bridge, 16);
            network.detail = convert::text(network.detail, MAX_SENTENCE);
            networks.insert(Vni(network.vni), network);
        }
        self.change(node, |reports| {
            reports.networks = networks;
            reports.networks_at = at;
        });
        Ok(())
    }

    pub(super) fn take_applied(&self, node: NodeId, applied: proto::Applied) {
        let problems = applied.problems.into_iter().take(MAX_PROBLEMS);
        let problems = problems.map(|problem| convert::text(problem, MAX_SENTENCE)).collect();
        self.change(node, |reports| {
            reports.applied = Some((applied.epoch, applied.revision));
            reports.problems = problems;
        });
    }

    /// The node has no session any more: nothing is known of its links.
    pub(super) fn forget(&self, node: NodeId) {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner).remove(&node);
    }

    fn change<T>(&self, node: NodeId, change: impl FnOnce(&mut NodeReports) -> T) -> T {
        change(self.nodes.write().unwrap_or_else(PoisonError::into_inner).entry(node).or_default())
    }
}

const STATES: [&str; 3] = ["up", "connecting", "down"];
const PATHS: [&str; 4] = ["host", "server-reflexive", "peer-reflexive", "relayed"];
const MAX_LINKS: usize = 4096;
const MAX_NETWORKS: usize = 4096;
/// A kind and an address.
const MAX_CANDIDATE: usize = 96;
const MAX_PROBLEMS: usize = 32;
