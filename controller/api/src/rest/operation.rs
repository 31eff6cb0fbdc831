//! Operations: calls that take long.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Timestamp;

/// A call that goes on after its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// Never reused.
    #[schema(example = "op-33")]
    pub id: String,
    /// What it does.
    pub kind: OperationKind,
    /// Whether it has ended, and how.
    pub state: OperationState,
    /// What it is at, in a word or two.
    #[schema(example = "moving the volume")]
    pub step: String,
    /// How far, from 0 to 100.
    #[schema(maximum = 100, example = 40)]
    pub percent: u8,
    /// More on the step: a sentence, or empty.
    #[schema(example = "")]
    pub detail: String,
    /// The ids of the instances and nodes that it is about.
    #[schema(example = json!(["inst-12", "node-8"]))]
    pub subjects: Vec<String>,
    /// The id of the operation that it is a part of; absent if it stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "op-32")]
    pub parent: Option<String>,
    /// Whether it can be cancelled now.
    #[schema(example = true)]
    pub cancellable: bool,
    /// The name of the token that asked for it.
    #[schema(example = "admin")]
    pub requested_by: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it began; absent before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended; absent before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Why it failed or was cancelled; absent if neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "node-8 was removed; move it to another node")]
    pub error: Option<String>,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// A provider makes a node.
    AddComputeNode,
    /// A node is drained and removed.
    RemoveComputeNode,
    /// An instance is made and started.
    Allocate,
    /// An instance moves to another node.
    Migrate,
    /// An instance is started.
    StartInstance,
    /// An instance is stopped.
    StopInstance,
    /// An instance is deleted.
    DeleteInstance,
}

impl OperationKind {
    /// As in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AddComputeNode => "add_compute_node",
            Self::RemoveComputeNode => "remove_compute_node",
            Self::Allocate => "allocate",
            Self::Migrate => "migrate",
            Self::StartInstance => "start_instance",
            Self::StopInstance => "stop_instance",
            Self::DeleteInstance => "delete_instance",
        }
    }
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether an operation has ended, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OperationState {
    /// It waits.
    Pending,
    /// It is at work.
    Running,
    /// Done.
    Succeeded,
    /// It ended without doing what it should; `error` says why.
    Failed,
    /// It was cancelled, and what it did is undone.
    Cancelled,
}

impl OperationState {
    /// Whether it has ended.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// As in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for OperationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
