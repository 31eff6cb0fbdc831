//! Long calls and how far they are.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{InstanceId, NodeId, OperationId, Timestamp};

/// A long call.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// What it does.
    pub kind: OperationKind,
    /// The instances and nodes that it is about.
    pub subjects: Vec<Subject>,
    /// Whether it runs.
    pub state: OperationState,
    /// The step that it is in, a word such as `transfer`.
    pub step: String,
    /// 0 to 100.
    pub percent: u8,
    /// What it waits for, a sentence.
    pub detail: String,
    /// The operation that it is a part of.
    pub parent: Option<OperationId>,
    /// What was asked for by force.
    pub force: bool,
    /// When it was asked for.
    pub created: Timestamp,
    /// When its first step began.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// Who asked.
    pub requested_by: String,
    /// Why it failed or was cancelled.
    pub error: Option<String>,
}

impl Operation {
    /// It has ended, well or not.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        !matches!(self.state, OperationState::Pending | OperationState::Running)
    }
}

/// What an operation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A node.
    Node(NodeId),
    /// An instance.
    Instance(InstanceId),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Node(id) => id.fmt(f),
            Subject::Instance(id) => id.fmt(f),
        }
    }
}

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is the command of its name")]
pub enum OperationKind {
    #[default]
    AddComputeNode,
    RemoveComputeNode,
    Allocate,
    Migrate,
    StartInstance,
    StopInstance,
    DeleteInstance,
}

impl OperationKind {
    /// As it is written in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            OperationKind::AddComputeNode => "add_compute_node",
            OperationKind::RemoveComputeNode => "remove_compute_node",
            OperationKind::Allocate => "allocate",
            OperationKind::Migrate => "migrate",
            OperationKind::StartInstance => "start_instance",
            OperationKind::StopInstance => "stop_instance",
            OperationKind::DeleteInstance => "delete_instance",
        }
    }
}

/// Whether an operation runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// It has not begun.
    #[default]
    Pending,
    /// It runs.
    Running,
    /// It did what it should.
    Succeeded,
    /// It did not.
    Failed,
    /// It was told to stop.
    Cancelled,
}
