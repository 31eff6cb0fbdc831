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
    /// The id of the node that it is about; absent if it is about none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "node-8")]
    pub compute_node: Option<String>,
    /// The id of the instance that it is about; absent if it is about none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "inst-12")]
    pub instance: Option<String>,
    /// The id of the operation that it is a part of; absent if it stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "op-32")]
    pub parent: Option<String>,
    /// Whether it can be cancelled now.
    #[schema(example = true)]
    pub cancellable: bool,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it began; absent before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended; absent before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Why it failed, with the mend; absent if it has not.
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
    Start,
    /// An instance is stopped.
    Stop,
    /// An instance is deleted.
    Delete,
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
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Delete => "delete",
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
    /// It is being cancelled: what it did is undone.
    Cancelling,
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
            Self::Cancelling => "cancelling",
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
