//! Nodes: added by hand or by a provider, changed, gone.

use std::collections::BTreeMap;

use crate::{
    changelog::Entry,
    changes::{CloseReason, Effect, EventKind},
    command::{NewNode, Outcome, ProviderResult},
    ids::{NodeId, OperationId},
    names::{check_name, shown},
    records::{Membership, Node, NodeState, OperationKind, OperationState, Provision, Subject},
    refusal::Refusal,
    registry::Registry,
    reports::short,
};

const MANUAL: &str = "manual";
const LABELS_MAX: usize = 64;

impl Registry {
    pub(crate) fn add_compute_node(&mut self, new: NewNode) -> Result<Outcome, Refusal> {
        check_name("provider", &new.provider, 63, "provider")?;
        let node_type = new.node_type.map(|t| self.find_type(&t).map(|t| t.name.clone())).transpose()?;
        if let Some(name) = &new.name {
            self.check_node_name(name)?;
        }
        check_labels(&new.labels)?;
        self.check_ttl(new.ttl_ms)?;
        self.check_secret(&new.secret_hash)?;
        let id = NodeId(self.next_number(|c| &mut c.node));
        let token = self.new_token(id, new.secret_hash, new.ttl_ms);
        let operation = self.begin(OperationKind::AddComputeNode, vec![Subject::Node(id)], "create", None);
        let made = new.provider != MANUAL;
        let node = Node {
            id,
            name: new.name.unwrap_or_else(|| id.to_string()),
            provider: new.provider,
            node_type,
            created: self.now,
            schedulable: true,
            labels: new.labels,
            provision: if made { Provision::Creating } else { Provision::None },
            operation: made.then_some(operation),
            ..Node::default()
        };
        self.event(EventKind::NodeAdded, id, format!("node {} was invited", node.name));
        self.put_node(node);
        if made {
            self.changes.effects.extend(self.provider_effect(id));
        } else {
            self.succeed(operation, "invited");
        }
        Ok(Outcome::NodeAdded { node: id, token, operation })
    }

    pub(crate) fn update_node(
        &mut self,
        reference: &str,
        schedulable: Option<bool>,
        labels: Option<BTreeMap<String, String>>,
    ) -> Result<Outcome, Refusal> {
        let mut node = self.live_node(reference)?.clone();
        node.schedulable = schedulable.unwrap_or(node.schedulable);
        if let Some(labels) = labels {
            check_labels(&labels)?;
            node.labels = labels;
        }
        let id = node.id;
        self.put_node(node);
        self.event(EventKind::NodeUpdated, id, "it was changed");
        Ok(Outcome::Node(id))
    }

    /// An addition by a provider has ended once the node was made, enrolled and connected, in whatever order.
    pub(crate) fn advance_addition(&mut self, id: NodeId) {
        let Some(mut node) = self.nodes.get(&id).cloned() else { return };
        let Some(operation) = node.operation.filter(|_| node.state != NodeState::Removed) else { return };
        if self.operations.get(&operation).is_none_or(|o| o.kind != OperationKind::AddComputeNode) {
            return;
        }
        if node.state == NodeState::Invited {
            if node.provision != Provision::Creating {
                self.progress(operation, "enrol", 50, "the node was made and has not enrolled yet");
            }
        } else if self.switch_session(id).is_none() {
            self.progress(operation, "connect", 75, "the node enrolled and its switch has not connected yet");
        } else if node.provision == Provision::Creating {
            self.progress(operation, "create", 90, "the node is connected; its provider has not finished");
        } else {
            node.operation = None;
            self.put_node(node);
            self.succeed(operation, "online");
        }
    }

    /// The provider's work is the first half of an addition, unless the node has come on before it ended. What a
    /// finished operation is told comes too late and changes nothing.
    pub(crate) fn provider_progress(
        &mut self,
        operation: OperationId,
        percent: u8,
        detail: &str,
    ) -> Result<Outcome, Refusal> {
        let late = || Refusal::stale(format!("{operation} does not wait for its provider"));
        let known = self.operations.get(&operation).filter(|o| !o.is_finished()).ok_or_else(late)?;
        let creates = self.nodes.values().any(|n| {
            n.operation == Some(operation)
                && n.state != NodeState::Removed
                && n.provision == Provision::Creating
        });
        if known.kind != OperationKind::AddComputeNode || !creates {
            return Err(late());
        }
        let (step, so_far) = (known.step.clone(), known.percent);
        let share = percent.min(100) / 2;
        let detail = short(&detail.replace(char::is_control, " "));
        self.progress(operation, &step, share.max(so_far), &detail);
        Ok(Outcome::Done)
    }

    pub(crate) fn handle_provider(&mut self, id: NodeId, result: ProviderResult) -> Result<Outcome, Refusal> {
        let mut node = self.find_node(&id.to_string())?.clone();
        let operation = node.operation;
        match (result, &node.provision) {
            (ProviderResult::Created { reference }, Provision::Creating) => {
                node.provision = Provision::Created { reference };
                let enrolled = node.state != NodeState::Invited;
                self.put_node(node);
                if enrolled {
                    self.spend_tokens(id);
                }
                self.advance_addition(id);
            }
            // It was given up while it was made.
            (ProviderResult::Created { reference }, Provision::Destroying { .. } | Provision::Destroyed) => {
                node.provision = Provision::Destroying { reference };
                self.put_node(node);
                self.changes.effects.extend(self.provider_effect(id));
            }
            (ProviderResult::CreateFailed { error }, Provision::Creating) => {
                let why = format!("the provider did not make the node: {}", shown(&error));
                self.abandon_node(id, OperationState::Failed, &why);
            }
            (ProviderResult::Destroyed, Provision::Destroying { .. }) => {
                node.provision = Provision::Destroyed;
                node.operation = None;
                self.put_node(node);
                if let Some(operation) = operation {
                    self.succeed(operation, "removed");
                }
            }
            (ProviderResult::DestroyFailed { error }, Provision::Destroying { .. }) => {
                let why =
                    format!("the node was removed, but its provider did not destroy it: {}", shown(&error));
                self.event(EventKind::Warning, id, &why);
                node.operation = None;
                self.put_node(node);
                if let Some(operation) = operation {
                    self.end(operation, OperationState::Failed, Some(why));
                }
            }
            _ => return Err(Refusal::stale(format!("{id} does not wait for this answer of its provider"))),
        }
        Ok(Outcome::Node(id))
    }

    /// Ends an addition that did not come to its end.
    pub(crate) fn abandon_node(&mut self, id: NodeId, state: OperationState, why: &str) {
        let Some(mut node) = self.nodes.get(&id).cloned() else { return };
        if let Some(operation) = node.operation.take() {
            self.put_node(node);
            self.end(operation, state, Some(why.to_owned()));
        }
        self.retire_node(id, why);
    }

    /// Takes a node out: its key is refused, its peers lose it, its bindings go. Instances must have gone before.
    pub(crate) fn retire_node(&mut self, id: NodeId, why: &str) {
        let Some(mut node) = self.nodes.get(&id).filter(|n| n.state != NodeState::Removed).cloned() else {
            return;
        };
        let was_member = node.is_member();
        node.state = NodeState::Removed;
        why.clone_into(&mut node.removed_why);
        node.removed_at = Some(self.now);
        node.schedulable = false;
        node.addresses.clear();
        match &node.provision {
            Provision::Creating => node.provision = Provision::Destroying { reference: String::new() },
            Provision::Created { reference } => {
                node.provision = Provision::Destroying { reference: reference.clone() };
            }
            _ => {}
        }
        let keys: Vec<_> = node.public_key.iter().chain(&node.previous_keys).copied().collect();
        self.put_node(node);
        self.spend_tokens(id);
        self.leave_networks(id);
        let bindings = self.index.bindings_at.get(&id).cloned().unwrap_or_default();
        for key in bindings {
            self.remove_binding(&key);
        }
        self.place_hosts_again();
        if was_member {
            self.log_change(Entry::Peer(id));
        }
        if !keys.is_empty() {
            self.changes.effects.push(Effect::RevokeKeys { node: id, keys });
        }
        self.forget_sightings(id);
        let runtime = self.runtime.remove(&id).unwrap_or_default();
        let sessions = runtime.switch.map(|s| s.session).into_iter().chain(runtime.agent.map(|a| a.session));
        for session in sessions {
            let reason = CloseReason::Removed;
            self.changes.effects.push(Effect::CloseSession { node: id, session, reason });
        }
        self.changes.effects.extend(self.provider_effect(id));
        self.event(EventKind::NodeRemoved, id, format!("it is no node any more: {why}"));
    }

    fn leave_networks(&mut self, id: NodeId) {
        let listed =
            self.networks.values().filter(|n| matches!(&n.nodes, Membership::Nodes(l) if l.contains(&id)));
        let listed: Vec<_> = listed.cloned().collect();
        for mut network in listed {
            if let Membership::Nodes(nodes) = &mut network.nodes {
                nodes.remove(&id);
            }
            self.put_network(network);
        }
    }
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let good = |text: &str, max| text.len() <= max && !text.chars().any(char::is_control);
    if labels.len() > LABELS_MAX {
        return Err(Refusal::invalid("labels", "more than 64; leave some out"));
    }
    match labels.iter().find(|(key, value)| key.is_empty() || !good(key, 63) || !good(value, 255)) {
        Some((key, _)) => Err(Refusal::invalid(
            "labels",
            format!("`{}` is too long or has control characters; use up to 63 and 255 bytes", shown(key)),
        )),
        None => Ok(()),
    }
}
