//! Names, and finding things by id or name.

use crate::{
    ids::{InstanceId, NodeId, TypeId, Vni},
    records::{Instance, InstanceType, Network, Node, NodeState},
    refusal::Refusal,
    registry::Registry,
};

/// The kernel's limit of 15 for the bridge `br-<name>`.
const NETWORK_NAME_MAX: usize = 12;
const NAME_MAX: usize = 63;

/// A name that may be given. `prefix` is that of the kind's ids: what looks like an id would hide one.
pub(crate) fn check_name(field: &'static str, name: &str, max: usize, prefix: &str) -> Result<(), Refusal> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.is_empty() || name.len() > max || !name.bytes().all(allowed) {
        return Err(Refusal::invalid(
            field,
            format!("`{}` is not a name; use 1 to {max} of the characters a-z, 0-9 and -", shown(name)),
        ));
    }
    if name.starts_with('-') || name.ends_with('-') {
        return Err(Refusal::invalid(field, format!("`{name}` begins or ends with -; leave that off")));
    }
    let number = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-'));
    if number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) {
        return Err(Refusal::invalid(
            field,
            format!("`{name}` looks like an id, which the controller gives; choose another name"),
        ));
    }
    Ok(())
}

/// Text of a caller, short enough for a sentence.
pub(crate) fn shown(text: &str) -> String {
    let mut short: String =
        text.chars().take(NAME_MAX + 1).map(|c| if c.is_control() { '?' } else { c }).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short
}

impl Registry {
    pub(crate) fn check_network_name(&self, name: &str) -> Result<(), Refusal> {
        check_name("name", name, NETWORK_NAME_MAX, "network")?;
        if name.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Refusal::invalid("name", format!("`{name}` looks like a VNI; add a letter")));
        }
        match self.networks.values().find(|n| n.name == name) {
            Some(other) => Err(Refusal::conflict(format!(
                "network {} is named `{name}` already; choose another name",
                other.vni
            ))),
            None => Ok(()),
        }
    }

    pub(crate) fn check_type_name(&self, name: &str) -> Result<(), Refusal> {
        check_name("name", name, NAME_MAX, TypeId::PREFIX)?;
        match self.types.values().find(|t| t.name == name) {
            Some(other) => Err(Refusal::conflict(format!(
                "{} is named `{name}` already; choose another name, or delete that type first",
                other.id
            ))),
            None => Ok(()),
        }
    }

    pub(crate) fn check_node_name(&self, name: &str) -> Result<(), Refusal> {
        check_name("name", name, NAME_MAX, NodeId::PREFIX)?;
        match self.nodes.values().find(|n| n.name == name && n.state != NodeState::Removed) {
            Some(other) => {
                Err(Refusal::conflict(format!("{} is named `{name}` already; choose another name", other.id)))
            }
            None => Ok(()),
        }
    }

    pub(crate) fn check_instance_name(&self, name: &str) -> Result<(), Refusal> {
        check_name("name", name, NAME_MAX, InstanceId::PREFIX)?;
        match self.instances.values().find(|i| i.name == name) {
            Some(other) => {
                Err(Refusal::conflict(format!("{} is named `{name}` already; choose another name", other.id)))
            }
            None => Ok(()),
        }
    }

    /// A node by id or name; a removed one only by id.
    pub fn find_node(&self, reference: &str) -> Result<&Node, Refusal> {
        let by_id = reference.parse().ok().and_then(|id: NodeId| self.nodes.get(&id));
        by_id
            .or_else(|| self.nodes.values().find(|n| n.name == reference && n.state != NodeState::Removed))
            .ok_or_else(|| Refusal::not_found("node", &shown(reference)))
    }

    /// A node that is not removed.
    pub(crate) fn live_node(&self, reference: &str) -> Result<&Node, Refusal> {
        let node = self.find_node(reference)?;
        if node.state == NodeState::Removed {
            return Err(Refusal::conflict(format!("{} has been removed: {}", node.id, node.removed_why)));
        }
        Ok(node)
    }

    /// A network by VNI or name.
    pub fn find_network(&self, reference: &str) -> Result<&Network, Refusal> {
        let by_id = reference.parse().ok().and_then(|vni| self.networks.get(&Vni(vni)));
        by_id
            .or_else(|| self.networks.values().find(|n| n.name == reference))
            .ok_or_else(|| Refusal::not_found("network", &shown(reference)))
    }

    /// A type by id or name.
    pub fn find_type(&self, reference: &str) -> Result<&InstanceType, Refusal> {
        let by_id = reference.parse().ok().and_then(|id: TypeId| self.types.get(&id));
        by_id
            .or_else(|| self.types.values().find(|t| t.name == reference))
            .ok_or_else(|| Refusal::not_found("type", &shown(reference)))
    }

    /// An instance by id or name.
    pub fn find_instance(&self, reference: &str) -> Result<&Instance, Refusal> {
        let by_id = reference.parse().ok().and_then(|id: InstanceId| self.instances.get(&id));
        by_id
            .or_else(|| self.instances.values().find(|i| i.name == reference))
            .ok_or_else(|| Refusal::not_found("instance", &shown(reference)))
    }
}
