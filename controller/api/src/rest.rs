//! The types of the REST API, with their OpenAPI schemas.
//!
//! Requests refuse fields that they do not know; answers may gain fields, so clients ignore those that they do not
//! know. Times are RFC 3339 text in UTC. Wherever a field or a path names something, its id or its name will do.

mod auth;
mod binding;
mod cluster;
mod compute_node;
mod event;
mod instance;
mod instance_type;
mod link;
mod network;
mod operation;
mod page;
mod problem;
mod time;

pub use auth::{ApiToken, ApiTokenCreated, CreateToken, Role, WhoAmI};
pub use binding::{Binding, BindingSource, BindingState, SetBinding};
pub use cluster::{Cluster, ClusterCounts};
pub use compute_node::{
    AddComputeNode, Capacity, ComputeNode, ComputeNodeAdded, ComputeNodeState, Join, RemoveComputeNode,
    RenewToken, UpdateComputeNode,
};
pub use event::Event;
pub use instance::{Allocate, DesiredState, Instance, InstanceState, Migrate, Nic, Usage};
pub use instance_type::{AddType, Driver, InstanceType};
pub use link::{Link, LinkState};
pub use network::{AntiSpoof, CreateNetwork, Network, NetworkMode, UpdateNetwork};
pub use operation::{Operation, OperationKind, OperationState};
pub use page::Page;
pub use problem::{PROBLEM_JSON, Problem};
pub use time::{InvalidTimestamp, Timestamp};
