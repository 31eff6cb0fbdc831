//! Nodes and the tokens that they join with.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::ids::{NodeId, OperationId, PublicKey, SecretHash, Timestamp, TokenId};

/// A node. What it is at the moment (sessions, conditions) is not persisted: see
/// [`NodeRuntime`](crate::NodeRuntime).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its name, unique among those that are not removed.
    pub name: String,
    /// Who made it: `manual`, or the name of a provider.
    pub provider: String,
    /// The type that the provider was asked for.
    #[serde(rename = "type")]
    pub node_type: Option<String>,
    /// Where in its life it is.
    pub state: NodeState,
    /// Why it was removed.
    pub removed_why: String,
    /// The key that it proves in TLS. Kept after its removal, so that it stays refused.
    pub public_key: Option<PublicKey>,
    /// The key before the last rotation, which is revoked.
    pub previous_keys: Vec<PublicKey>,
    /// When it was added.
    pub created: Timestamp,
    /// When it enrolled.
    pub enrolled_at: Option<Timestamp>,
    /// When it was removed.
    pub removed_at: Option<Timestamp>,
    /// New instances may be placed here.
    pub schedulable: bool,
    /// The operator's own words about it.
    pub labels: BTreeMap<String, String>,
    /// Where peers may reach it, best first, as it said last.
    pub addresses: Vec<SocketAddr>,
    /// What its agent said last that it has.
    pub capacity: Capacity,
    /// What its agent can run.
    pub drivers: Vec<String>,
    /// What its provider made.
    pub provision: Provision,
    /// The operation that adds or removes it.
    pub operation: Option<OperationId>,
}

impl Node {
    /// It has a key and is not removed: it may have sessions and peers.
    #[must_use]
    pub fn is_member(&self) -> bool {
        matches!(self.state, NodeState::Enrolled | NodeState::Draining) && self.public_key.is_some()
    }
}

/// Where in its life a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It has a token and has not come yet.
    #[default]
    Invited,
    /// It has a key.
    Enrolled,
    /// Its instances are being moved away; it goes afterwards.
    Draining,
    /// It is gone and its keys are refused.
    Removed,
}

/// What an agent's machine has for instances.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Capacity {
    /// Cores.
    pub cores: u32,
    /// Memory.
    pub memory_bytes: u64,
    /// Disk.
    pub disk_bytes: u64,
    /// `kvm` or `tcg`; empty without QEMU.
    pub accelerator: String,
}

/// What a provider did for a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provision {
    /// It was not made by one.
    #[default]
    None,
    /// It is being asked to make it.
    Creating,
    /// It made it.
    Created {
        /// What the provider calls it.
        reference: String,
    },
    /// It is being asked to destroy it.
    Destroying {
        /// What the provider calls it; empty if that was never known.
        reference: String,
    },
    /// It destroyed it.
    Destroyed,
}

/// A join token. Its secret is known only to whoever asked for it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// The node that it makes.
    pub node: NodeId,
    /// The hash of its secret.
    pub secret_hash: SecretHash,
    /// From then on it is refused.
    pub expires: Timestamp,
    /// It was spent, or replaced, then.
    pub used_at: Option<Timestamp>,
}
