//! Types and instances.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::ids::{Generation, InstanceId, Mac, NodeId, OperationId, Timestamp, TypeId, Vni};

/// What an instance of it may use.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Thousandths of a core.
    pub cores_milli: u32,
    /// Memory.
    pub memory_bytes: u64,
    /// Disk.
    pub disk_bytes: u64,
}

/// A type: limits and driver under a name.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceType {
    /// Its id.
    pub id: TypeId,
    /// Its name.
    pub name: String,
    /// What an instance may use.
    pub limits: Limits,
    /// `container` or `qemu`.
    pub driver: String,
    /// The image of instances that name none; may be empty.
    pub image: String,
    /// A sentence about it.
    pub description: String,
    /// When it was made.
    pub created: Timestamp,
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Its name.
    pub name: String,
    /// Its type. The limits below are a copy: a type may be deleted and made again.
    #[serde(rename = "type")]
    pub instance_type: String,
    /// What it may use.
    pub limits: Limits,
    /// `container` or `qemu`.
    pub driver: String,
    /// Its image; empty for the driver's own.
    pub image: String,
    /// What it runs; empty for the image's own.
    pub command: Vec<String>,
    /// The command's environment.
    pub env: BTreeMap<String, String>,
    /// Its interfaces.
    pub nics: Vec<Nic>,
    /// Where it lives: the only node that may be told to run it.
    pub node: NodeId,
    /// Of its placement. A copy with an older one is never started again.
    pub generation: Generation,
    /// What the operator wants.
    pub desired: DesiredState,
    /// What the node's agent said last.
    pub phase: Phase,
    /// Its words about that.
    pub detail: String,
    /// The move that is under way.
    pub migration: Option<Migration>,
    /// Nodes where a copy of an older placement has to go, with that placement's generation.
    pub leftovers: BTreeMap<NodeId, Generation>,
    /// Since a restore from a backup it is not clear that it lives on its node, which is told nothing about it. A copy
    /// there of this generation or an older one has not been stopped for a move after the backup.
    pub unconfirmed: Option<Generation>,
    /// The operation that works on it; another one has to wait.
    pub operation: Option<OperationId>,
    /// When it was made.
    pub created: Timestamp,
}

/// An interface of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Nic {
    /// Its network.
    pub vni: Vni,
    /// Its MAC, kept through moves.
    pub mac: Mac,
    /// Its IPs, kept through moves; empty where the network has no subnet.
    pub ips: Vec<IpAddr>,
}

/// What the operator wants of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DesiredState {
    /// It runs.
    #[default]
    Running,
    /// It is there and does not run.
    Stopped,
    /// It is stopped and removed with its volume; the record goes when that is done.
    Absent,
}

/// What an agent says of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing yet.
    #[default]
    Pending,
    /// It is being made or started.
    Starting,
    /// It runs.
    Running,
    /// It is being stopped.
    Stopping,
    /// It is there and does not run.
    Stopped,
    /// It cannot be what is desired.
    Failed,
    /// It was there and is no more.
    Lost,
}

/// A move that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Migration {
    /// Where it came from. Until the commit the instance lives here.
    pub from: NodeId,
    /// The generation of the copy there.
    pub from_generation: Generation,
    /// A copy that can run is there.
    pub from_has_copy: bool,
    /// Where it goes. From the commit on the instance lives here.
    pub to: NodeId,
    /// The generation of the copy there.
    pub generation: Generation,
    /// What the two agents call the transfer of the volume; empty once there is nothing to transfer.
    pub transfer: String,
    /// The destination said that it has everything.
    pub downloaded: bool,
    /// How far it is.
    pub stage: Stage,
    /// The operation.
    pub operation: OperationId,
}

/// How far a move is. The commit is between `Transfer` and `Start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// A leftover of an earlier move has to go from the destination; the instance runs on at the source.
    #[default]
    Prepare,
    /// The source stops it.
    Stop,
    /// The volume goes to the destination.
    Transfer,
    /// The instance lives at the destination, which starts it; the source still has its copy.
    Start,
}
