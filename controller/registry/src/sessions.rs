//! What a node is at the moment: its sessions and conditions. Not persisted.

use crate::{
    command::{AgentInput, Outcome, SwitchInput},
    ids::{NodeId, Timestamp},
    refusal::Refusal,
    registry::Registry,
};

/// What a node is at the moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeRuntime {
    /// The session of its switch.
    pub switch: Option<SwitchSession>,
    /// The session of its agent.
    pub agent: Option<AgentSession>,
    /// When a session of it was seen last.
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
        /// What that machine said of itself.
        machine: String,
    },
}
