//! What a node is at the moment: its sessions and conditions. Not persisted.

use std::net::SocketAddr;

use crate::{
    changelog::Entry,
    changes::{CloseReason, Effect, EventKind},
    command::{AgentInput, Outcome, SwitchInput},
    ids::{Generation, InstanceId, NodeId, PublicKey, Timestamp},
    refusal::Refusal,
    registry::Registry,
};

/// More addresses than a host has; the rest is not told to peers.
const ADDRESSES_MAX: usize = 32;

/// What a node is at the moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeRuntime {
    /// The session of its switch.
    pub switch: Option<SwitchSession>,
    /// The session of its agent.
    pub agent: Option<AgentSession>,
    /// When a session of it began or ended last.
    pub last_seen: Option<Timestamp>,
    /// Since when it has had no agent.
    pub agent_away_since: Option<Timestamp>,
    /// What is wrong with it.
    pub conditions: Vec<Condition>,
}

/// A switch's session.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in SwitchInput::Registered")]
pub struct SwitchSession {
    pub session: u64,
    pub boot: u64,
    pub version: String,
    pub machine: String,
    pub since: Timestamp,
}

/// An agent's session.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in AgentInput::Registered")]
pub struct AgentSession {
    pub session: u64,
    pub boot: u64,
    pub version: String,
    pub since: Timestamp,
}

/// What is wrong with a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// A second machine came with its key while it had a session.
    Cloned {
        /// When it came last.
        since: Timestamp,
        /// What that machine said of itself; empty if it said nothing.
        machine: String,
    },
    /// Its agent has an instance, or a newer copy of one, that this registry never made: another controller did, or
    /// this one before its store was put back from an older backup. Nobody touches it but the operator.
    Stray {
        /// The instance.
        instance: InstanceId,
        /// The copy's generation.
        generation: Generation,
        /// Whether the registry knows the instance, with an older generation.
        known: bool,
    },
}

impl NodeRuntime {
    /// Two machines have its key.
    #[must_use]
    pub fn is_cloned(&self) -> bool {
        self.conditions.iter().any(|c| matches!(c, Condition::Cloned { .. }))
    }
}

impl Registry {
    /// The session of a node's switch, to be probed before another one with another boot number registers.
    #[must_use]
    pub fn switch_session(&self, node: NodeId) -> Option<&SwitchSession> {
        self.runtime.get(&node)?.switch.as_ref()
    }

    /// The same of its agent.
    #[must_use]
    pub fn agent_session(&self, node: NodeId) -> Option<&AgentSession> {
        self.runtime.get(&node)?.agent.as_ref()
    }

    pub(crate) fn handle_switch(&mut self, node: NodeId, input: SwitchInput) -> Result<Outcome, Refusal> {
        match input {
            SwitchInput::Registered { session, boot, version, machine, addresses, old_alive } => {
                self.check_member(node)?;
                let old = self.switch_session(node).map(|s| (s.session, s.boot));
                self.check_clone(node, old, boot, &machine, old_alive)?;
                let new = SwitchSession { session, boot, version, machine, since: self.now };
                let now = self.now;
                let runtime = self.runtime.entry(node).or_default();
                runtime.switch = Some(new);
                runtime.last_seen = Some(now);
                self.set_addresses(node, addresses);
                if old.is_none() {
                    self.event(EventKind::NodeOnline, node, "its switch is connected");
                }
                self.advance_addition(node);
                Ok(Outcome::Node(node))
            }
            SwitchInput::Addresses { session, addresses } => {
                self.check_switch_session(node, session)?;
                self.set_addresses(node, addresses);
                Ok(Outcome::Done)
            }
            SwitchInput::Gone { session } => {
                self.check_switch_session(node, session)?;
                let now = self.now;
                let runtime = self.runtime.entry(node).or_default();
                runtime.switch = None;
                runtime.last_seen = Some(now);
                self.event(EventKind::NodeOffline, node, "its switch is not connected");
                Ok(Outcome::Done)
            }
            SwitchInput::RotateKey { session, public_key } => {
                self.check_switch_session(node, session)?;
                self.rotate_key(node, public_key)
            }
            SwitchInput::Bindings { session, full, claims, withdrawals } => {
                self.check_switch_session(node, session)?;
                Ok(Outcome::Claims(self.claim_bindings(node, full, claims, &withdrawals)))
            }
        }
    }

    pub(crate) fn handle_agent(&mut self, node: NodeId, input: AgentInput) -> Result<Outcome, Refusal> {
        match input {
            AgentInput::Registered { session, boot, version, capacity, drivers, instances, old_alive } => {
                self.check_member(node)?;
                let old = self.agent_session(node).map(|s| (s.session, s.boot));
                self.check_clone(node, old, boot, "", old_alive)?;
                let new = AgentSession { session, boot, version, since: self.now };
                let now = self.now;
                let runtime = self.runtime.entry(node).or_default();
                runtime.agent = Some(new);
                runtime.agent_away_since = None;
                runtime.last_seen = Some(now);
                if let Some(mut record) = self.nodes.get(&node).cloned() {
                    record.capacity = capacity;
                    record.drivers = drivers;
                    self.put_node(record);
                }
                if old.is_none() {
                    self.event(EventKind::AgentOnline, node, "its agent is connected");
                }
                self.changes.agents.insert(node);
                self.take_report(node, true, &instances);
                self.take_absences(node, &instances);
                self.renew_transfers(node);
                Ok(Outcome::Node(node))
            }
            AgentInput::Gone { session } => {
                self.check_agent_session(node, session)?;
                let now = self.now;
                let runtime = self.runtime.entry(node).or_default();
                runtime.agent = None;
                runtime.agent_away_since = Some(now);
                runtime.last_seen = Some(now);
                self.event(EventKind::AgentOffline, node, "its agent is not connected");
                Ok(Outcome::Done)
            }
            AgentInput::Report { session, full, instances } => {
                self.check_agent_session(node, session)?;
                self.take_report(node, full, &instances);
                Ok(Outcome::Done)
            }
        }
    }

    fn check_member(&self, node: NodeId) -> Result<(), Refusal> {
        match self.nodes.get(&node) {
            None => Err(Refusal::not_found("node", &node.to_string())),
            Some(record) if record.is_member() => Ok(()),
            Some(record) => Err(Refusal::forbidden(
                "node-removed",
                format!(
                    "{node} is not a node (any more): {}; join again with a new token",
                    record.removed_why
                ),
            )),
        }
    }

    /// A newcomer with another boot number while the old session answers is a second machine with the key.
    fn check_clone(
        &mut self,
        node: NodeId,
        old: Option<(u64, u64)>,
        boot: u64,
        machine: &str,
        old_alive: bool,
    ) -> Result<(), Refusal> {
        let Some((session, old_boot)) = old else { return Ok(()) };
        let now = self.now;
        if old_boot != boot && old_alive {
            let condition = Condition::Cloned { since: now, machine: machine.to_owned() };
            let conditions = &mut self.runtime.entry(node).or_default().conditions;
            conditions.retain(|c| !matches!(c, Condition::Cloned { .. }));
            conditions.push(condition);
            let message =
                "a second machine has its key: remove the copy's key and let it join with a token of its own";
            self.event(EventKind::NodeCloned, node, message);
            return Err(Refusal::forbidden(
                "cloned",
                format!(
                    "{node} has a session from another machine with this key; join with a token of your own"
                ),
            ));
        }
        let conditions = &mut self.runtime.entry(node).or_default().conditions;
        conditions.retain(|c| !matches!(c, Condition::Cloned { .. }));
        self.changes.effects.push(Effect::CloseSession { node, session, reason: CloseReason::Superseded });
        Ok(())
    }

    fn check_switch_session(&self, node: NodeId, session: u64) -> Result<(), Refusal> {
        match self.switch_session(node) {
            Some(current) if current.session == session => Ok(()),
            _ => Err(late_session(node)),
        }
    }

    fn check_agent_session(&self, node: NodeId, session: u64) -> Result<(), Refusal> {
        match self.agent_session(node) {
            Some(current) if current.session == session => Ok(()),
            _ => Err(late_session(node)),
        }
    }

    fn set_addresses(&mut self, node: NodeId, mut addresses: Vec<SocketAddr>) {
        // A session may come through the nodes' own network, which the links carry.
        addresses.retain(|address| !self.is_host_address(address.ip()));
        addresses.truncate(ADDRESSES_MAX);
        let Some(mut record) = self.nodes.get(&node).cloned() else { return };
        if record.addresses != addresses {
            record.addresses = addresses;
            self.put_node(record);
            self.log_change(Entry::Peer(node));
        }
    }

    fn rotate_key(&mut self, node: NodeId, public_key: PublicKey) -> Result<Outcome, Refusal> {
        let Some(mut record) = self.nodes.get(&node).cloned() else {
            return Err(Refusal::not_found("node", &node.to_string()));
        };
        if record.public_key == Some(public_key) {
            return Ok(Outcome::Node(node));
        }
        self.check_free_key(&public_key)?;
        let old = record.public_key.replace(public_key);
        record.previous_keys.extend(old);
        self.put_node(record);
        // Sessions that were made with it, the agent's say, come anew: their calls would be refused.
        self.changes.effects.push(Effect::RevokeKeys { node, keys: old.into_iter().collect() });
        self.log_change(Entry::Peer(node));
        self.event(EventKind::KeyRotated, node, "it has a new key; the old one is refused from now on");
        Ok(Outcome::Node(node))
    }
}

fn late_session(node: NodeId) -> Refusal {
    Refusal::stale(format!("this is not {node}'s session any more"))
}
