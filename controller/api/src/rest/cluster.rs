//! The cluster as a whole.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Timestamp;

/// The cluster and its controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    /// The cluster's name.
    #[schema(example = "lab")]
    pub name: String,
    /// The controller's Ed25519 public key, 32 bytes in base64: what nodes pin.
    #[schema(example = "JcZy0n1u0v5vQ3zFf1gq3m3cYtq1bH4sZr8o2i5y7kQ=")]
    pub public_key: String,
    /// The controller's version.
    #[schema(example = "0.1.0")]
    pub version: String,
    /// Where nodes reach the controller.
    #[schema(example = json!(["203.0.113.5:7070"]))]
    pub node_addresses: Vec<String>,
    /// Names the store's history; another one after a restore from a backup. 16 hexadecimal digits.
    #[schema(example = "5f2c9a1e0b7d4c33")]
    pub epoch: String,
    /// Rises with each change of what the nodes are told.
    #[schema(example = 1042)]
    pub revision: u64,
    /// When this controller's process started.
    pub started_at: Timestamp,
    /// How much there is.
    pub counts: ClusterCounts,
}

/// How much there is in a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterCounts {
    /// Compute nodes.
    #[schema(example = 3)]
    pub compute_nodes: u64,
    /// Those of them whose switch has a session.
    #[schema(example = 3)]
    pub compute_nodes_online: u64,
    /// Instances.
    #[schema(example = 12)]
    pub instances: u64,
    /// Those of them that run.
    #[schema(example = 11)]
    pub instances_running: u64,
    /// Networks.
    #[schema(example = 2)]
    pub networks: u64,
    /// Bindings.
    #[schema(example = 14)]
    pub bindings: u64,
    /// Operations that have not ended.
    #[schema(example = 1)]
    pub operations_running: u64,
}
