//! What an input changed, and what the shell has to do about it.

use std::collections::BTreeSet;

use crate::{
    ids::{NodeId, OperationId, PublicKey, Timestamp},
    records::{Record, RecordKey},
};

/// Everything that inputs changed since the last time it was taken. The shell persists `writes` in one transaction
/// first, then publishes events, acts on effects and lets the sessions of nodes look for what is new.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Changes {
    /// Each key once.
    pub writes: Vec<Write>,
    /// In the order in which they came about.
    pub events: Vec<Event>,
    /// In the order in which they are to be done.
    pub effects: Vec<Effect>,
    /// What nodes see has changed: each session asks [`Registry::changes_since`](crate::Registry::changes_since).
    pub revision_changed: bool,
    /// The agents whose [`Registry::desired_instances`](crate::Registry::desired_instances) may have changed.
    pub agents: BTreeSet<NodeId>,
}

impl Changes {
    /// Nothing to persist, publish or do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Changes::default()
    }
}

/// One change of the store.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Put it under its key.
    Put(Box<Record>),
    /// Remove what is under the key.
    Remove(RecordKey),
}

/// What happened, for people who watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// Of which sort.
    pub kind: EventKind,
    /// The id, or the name, of what it is about.
    pub subject: String,
    /// A sentence.
    pub message: String,
}

/// Sorts of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is what its name says")]
pub enum EventKind {
    ClusterCreated,
    NodeAdded,
    NodeEnrolled,
    NodeOnline,
    NodeOffline,
    AgentOnline,
    AgentOffline,
    NodeCloned,
    NodeUpdated,
    NodeRemoved,
    KeyRotated,
    NetworkCreated,
    NetworkUpdated,
    NetworkDeleted,
    TypeAdded,
    TypeDeleted,
    InstanceCreated,
    InstanceChanged,
    InstanceMoved,
    InstanceLost,
    InstanceDeleted,
    BindingSet,
    BindingRemoved,
    OperationStarted,
    OperationProgress,
    OperationFinished,
    AccessChanged,
    Warning,
}

impl EventKind {
    /// As it is written in the API: `node-online`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::ClusterCreated => "cluster-created",
            EventKind::NodeAdded => "node-added",
            EventKind::NodeEnrolled => "node-enrolled",
            EventKind::NodeOnline => "node-online",
            EventKind::NodeOffline => "node-offline",
            EventKind::AgentOnline => "agent-online",
            EventKind::AgentOffline => "agent-offline",
            EventKind::NodeCloned => "node-cloned",
            EventKind::NodeUpdated => "node-updated",
            EventKind::NodeRemoved => "node-removed",
            EventKind::KeyRotated => "key-rotated",
            EventKind::NetworkCreated => "network-created",
            EventKind::NetworkUpdated => "network-updated",
            EventKind::NetworkDeleted => "network-deleted",
            EventKind::TypeAdded => "type-added",
            EventKind::TypeDeleted => "type-deleted",
            EventKind::InstanceCreated => "instance-created",
            EventKind::InstanceChanged => "instance-changed",
            EventKind::InstanceMoved => "instance-moved",
            EventKind::InstanceLost => "instance-lost",
            EventKind::InstanceDeleted => "instance-deleted",
            EventKind::BindingSet => "binding-set",
            EventKind::BindingRemoved => "binding-removed",
            EventKind::OperationStarted => "operation-started",
            EventKind::OperationProgress => "operation-progress",
            EventKind::OperationFinished => "operation-finished",
            EventKind::AccessChanged => "access-changed",
            EventKind::Warning => "warning",
        }
    }
}

/// A thing for the shell to do. After a crash [`Registry::resume`](crate::Registry::resume) asks again for those
/// that have an answer to wait for, so providers must bear being asked twice for one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Ask a provider to make a node; the answer is a [`ProviderResult`](crate::ProviderResult). The shell that did
    /// not make the join token itself, after a crash, makes a new one with
    /// [`Command::RenewToken`](crate::Command::RenewToken).
    CreateNode {
        /// The operation that waits for it.
        operation: OperationId,
        /// The node.
        node: NodeId,
        /// The provider.
        provider: String,
        /// The node's name.
        name: String,
        /// The type that was asked for.
        node_type: Option<String>,
    },
    /// Ask a provider to destroy a node, after any work on it that still runs.
    DestroyNode {
        /// The node.
        node: NodeId,
        /// The provider.
        provider: String,
        /// The node's name.
        name: String,
        /// What the provider called it; empty if it never said.
        reference: String,
    },
    /// Close the node's session with this number.
    CloseSession {
        /// The node.
        node: NodeId,
        /// The session.
        session: u64,
        /// Why.
        reason: CloseReason,
    },
    /// Refuse these keys from now on, in sessions that stand as well.
    RevokeKeys {
        /// The node.
        node: NodeId,
        /// Its keys.
        keys: Vec<PublicKey>,
    },
    /// Nobody may send or take this transfer's volume any more.
    EndTransfer {
        /// The transfer.
        transfer: String,
    },
}

/// Why a session is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The node is no longer one.
    Removed,
    /// A newer session took over.
    Superseded,
}
