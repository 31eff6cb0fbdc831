//! Where an instance may live.

use std::collections::BTreeMap;

use crate::{
    ids::{NodeId, Vni},
    records::{Instance, Limits, Node, NodeState},
    refusal::Refusal,
    registry::Registry,
};

/// What an instance needs of a node.
pub(crate) struct Need<'a> {
    pub(crate) limits: &'a Limits,
    pub(crate) driver: &'a str,
    pub(crate) vnis: Vec<Vni>,
}

/// Memory and disk that instances have, or have been promised, on each node.
pub(crate) type Used = BTreeMap<NodeId, (u64, u64)>;

impl Registry {
    pub(crate) fn used(&self) -> Used {
        let mut used = Used::new();
        for instance in self.instances.values() {
            add_use(&mut used, instance.node, &instance.limits);
            // Until the commit it takes room at both; from then on the destination is `node`, and the source keeps
            // the copy that it may have to run again.
            for node in instance.migration.iter().flat_map(|m| [m.from, m.to]).filter(|n| *n != instance.node)
            {
                add_use(&mut used, node, &instance.limits);
            }
        }
        used
    }

    /// The node with the most free memory that may take it.
    pub(crate) fn best_node(&self, need: &Need<'_>, used: &Used) -> Option<NodeId> {
        let fits = |n: &&Node| n.schedulable && self.check_fit(n, need, used).is_ok();
        let free = |n: &Node| n.capacity.memory_bytes.saturating_sub(used.get(&n.id).map_or(0, |u| u.0));
        // Of equals the oldest node: `max_by_key` takes the last one.
        self.nodes.values().rev().filter(fits).max_by_key(|n| free(n)).map(|n| n.id)
    }

    /// Whether a node may take it, and if not, why.
    pub(crate) fn check_fit(&self, node: &Node, need: &Need<'_>, used: &Used) -> Result<(), Refusal> {
        let id = node.id;
        match node.state {
            NodeState::Enrolled if node.operation.is_some() => {
                return Err(Refusal::not_ready(format!(
                    "{id} is still being added; wait for it or take another"
                )));
            }
            NodeState::Enrolled => {}
            NodeState::Invited => {
                return Err(Refusal::not_ready(format!(
                    "{id} has not enrolled yet; wait for it or take another"
                )));
            }
            NodeState::Draining | NodeState::Removed => {
                return Err(Refusal::conflict(format!("{id} is being removed; take another node")));
            }
        }
        if self.agent_session(id).is_none() {
            return Err(Refusal::not_ready(format!(
                "the agent of {id} is not connected; start node-agent there or take another node"
            )));
        }
        if !node.drivers.iter().any(|d| d == need.driver) {
            return Err(Refusal::conflict(format!(
                "{id} cannot run {} instances; take a node that can, or another type",
                need.driver
            )));
        }
        let missing = need.vnis.iter().find(|v| self.networks.get(v).is_none_or(|n| !n.nodes.includes(id)));
        if let Some(vni) = missing {
            return Err(Refusal::conflict(format!(
                "{id} does not have network {vni}; add it to the network"
            )));
        }
        let (memory, disk) = used.get(&id).copied().unwrap_or_default();
        let free = node.capacity.memory_bytes.saturating_sub(memory);
        if free < need.limits.memory_bytes {
            return Err(Refusal::exhausted(format!(
                "{id} has {} MiB of memory free and the instance needs {} MiB; take another node or a smaller type",
                free >> 20,
                need.limits.memory_bytes >> 20
            )));
        }
        let free = node.capacity.disk_bytes.saturating_sub(disk);
        if free < need.limits.disk_bytes && node.capacity.disk_bytes > 0 {
            return Err(Refusal::exhausted(format!(
                "{id} has {} MiB of disk free and the instance needs {} MiB; take another node or a smaller type",
                free >> 20,
                need.limits.disk_bytes >> 20
            )));
        }
        Ok(())
    }
}

pub(crate) fn add_use(used: &mut Used, node: NodeId, limits: &Limits) {
    let (memory, disk) = used.entry(node).or_default();
    *memory = memory.saturating_add(limits.memory_bytes);
    *disk = disk.saturating_add(limits.disk_bytes);
}

/// What an instance that is there needs of another node.
pub(crate) fn need_of(instance: &Instance) -> Need<'_> {
    let vnis = instance.nics.iter().map(|n| n.vni).collect();
    Need { limits: &instance.limits, driver: &instance.driver, vnis }
}
