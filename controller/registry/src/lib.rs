//! What the controller knows and decides: nodes, networks, instances, bindings, operations. Pure: no clock, no
//! randomness, no I/O. The shell hands in commands, reports and time with [`Registry::handle`], takes what changed
//! with [`Registry::take_changes`], persists that in one transaction, and only then answers, publishes and acts.
//!
//! A value that the store gives back ([`Registry::restore`]) goes on where the last one stopped: operations advance
//! when reports show what is desired, so nothing depends on a message that a crash may have swallowed.

mod access;
mod bindings;
mod changelog;
mod changes;
mod command;
mod drain;
mod enrolment;
mod hosts;
mod ids;
mod index;
mod instances;
mod migration;
mod names;
mod networks;
mod nodes;
mod operations;
mod placement;
mod records;
mod refusal;
mod registry;
mod reports;
mod restored;
mod sessions;
mod strays;
mod types;
mod views;

pub use changelog::{Delta, Snapshot, Stations, View};
pub use changes::{Changes, CloseReason, Effect, Event, EventKind, Write};
pub use command::{
    AgentInput, BindingClaim, BindingWithdrawal, ClaimRefusal, ClaimRefusalReason, Command, IdempotencyClaim,
    Input, InstanceState, InstanceStatus, KeyStatus, NetworkUpdate, NewInstance, NewNetwork, NewNode,
    NewType, Outcome, ProviderResult, Request, SwitchInput,
};
pub use hosts::HostStation;
pub use ids::{
    ApiTokenId, Generation, InstanceId, Mac, NodeId, OperationId, ParseIdError, PublicKey, Revision,
    SecretHash, Timestamp, TokenId, TypeId, Vni,
};
pub use records::{
    AntiSpoof, ApiToken, Binding, BindingKey, BindingSource, BindingState, Capacity, Cluster, Counters,
    DesiredState, Dhcp, IdempotencyKey, Instance, InstanceType, Limits, Membership, Migration, Mode, Network,
    Nic, Node, NodeState, Operation, OperationKind, OperationState, Phase, Provision, Record, RecordKey,
    Role, Stage, Subject, Subnet, Token,
};
pub use refusal::{Refusal, RefusalKind};
pub use registry::{Registry, RestoreError, Settings};
pub use sessions::{AgentSession, Condition, NodeRuntime, SwitchSession};
pub use views::{DesiredInstance, DesiredNic, Peer, TransferEnds};
