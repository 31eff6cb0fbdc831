//! What goes into the registry and what comes back.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use crate::{
    ids::{
        ApiTokenId, Generation, InstanceId, NodeId, OperationId, PublicKey, SecretHash, TokenId, TypeId, Vni,
    },
    records::{
        AntiSpoof, Binding, BindingKey, BindingState, Capacity, Counters, Dhcp, IdempotencyKey, Mode, Role,
        Subnet,
    },
};

/// Everything that happens to a registry.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A call of the API.
    Command(Request),
    /// A key without a node comes with a join token's secret.
    Enrol {
        /// The hash of the secret.
        secret_hash: SecretHash,
        /// The key that it proved.
        public_key: PublicKey,
        /// The name that it would like: the host's.
        name_hint: String,
    },
    /// Something of a node's switch.
    Switch(NodeId, SwitchInput),
    /// Something of a node's agent.
    Agent(NodeId, AgentInput),
    /// How far a provider says that it is with what [`Effect::CreateNode`](crate::Effect::CreateNode) asked for.
    ProviderProgress {
        /// The operation that the effect named.
        operation: OperationId,
        /// 0 to 100 of the provider's own work.
        percent: u8,
        /// A sentence for people.
        detail: String,
    },
    /// A provider did, or did not, what [`Effect::CreateNode`](crate::Effect::CreateNode) or
    /// [`Effect::DestroyNode`](crate::Effect::DestroyNode) asked for.
    ProviderResult {
        /// The node that it was about.
        node: NodeId,
        /// What came of it.
        result: ProviderResult,
    },
    /// The store was put back from a backup: a new epoch, and generations that the lost part cannot have used.
    Restored {
        /// A random number.
        epoch: u64,
        /// The counters of the store that it replaced, so that a backup may be put back twice; none if unknown.
        replaced: Counters,
    },
    /// Time has passed. Due by [`Registry::poll_timeout`](crate::Registry::poll_timeout).
    Tick,
}

/// A call of the API.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Who calls, for operations, events and idempotency.
    pub principal: String,
    /// With one, a repetition of the call is answered with the first one's outcome and does nothing.
    pub idempotency: Option<IdempotencyClaim>,
    /// What is to be done.
    pub command: Command,
}

impl From<Command> for Request {
    fn from(command: Command) -> Self {
        Request { principal: String::new(), idempotency: None, command }
    }
}

/// The idempotency key of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyClaim {
    /// The caller's key.
    pub key: String,
    /// A hash of the call.
    pub request_hash: SecretHash,
    /// How long it is kept, in milliseconds.
    pub ttl_ms: u64,
}

/// What may be asked for. Nodes, networks, types and instances are named by id or by name; networks also by VNI.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Makes the cluster, once.
    InitCluster {
        /// Its name.
        name: String,
        /// A random number.
        epoch: u64,
    },
    /// Makes a network.
    CreateNetwork(NewNetwork),
    /// Changes a network.
    UpdateNetwork {
        /// The network.
        network: String,
        /// What changes.
        update: NetworkUpdate,
    },
    /// Removes a network without instances.
    DeleteNetwork {
        /// The network.
        network: String,
    },
    /// Makes a type.
    AddType(NewType),
    /// Removes a type; instances keep their copy of it.
    DeleteType {
        /// The type.
        reference: String,
    },
    /// Invites a node and, with a provider other than `manual`, has it made.
    AddComputeNode(NewNode),
    /// Replaces the join token of a node that has not come yet.
    RenewToken {
        /// The node.
        node: String,
        /// The hash of the new secret.
        secret_hash: SecretHash,
        /// How long it may be used, in milliseconds.
        ttl_ms: u64,
    },
    /// Changes what the operator says about a node.
    UpdateNode {
        /// The node.
        node: String,
        /// New instances may be placed here.
        schedulable: Option<bool>,
        /// All labels.
        labels: Option<BTreeMap<String, String>>,
    },
    /// Moves a node's instances away and removes it.
    RemoveComputeNode {
        /// The node.
        node: String,
        /// Instances that cannot be moved are deleted with it.
        force: bool,
        /// Nothing is moved: it is cut off at once, and its instances are deleted with it.
        now: bool,
    },
    /// Makes an instance and starts it.
    Allocate(NewInstance),
    /// Starts a stopped instance.
    StartInstance {
        /// The instance.
        instance: String,
    },
    /// Stops an instance; its volume stays.
    StopInstance {
        /// The instance.
        instance: String,
    },
    /// Removes an instance with its volume.
    DeleteInstance {
        /// The instance.
        instance: String,
    },
    /// Moves an instance to another node: stop, move, start.
    Migrate {
        /// The instance.
        instance: String,
        /// The destination.
        node: String,
    },
    /// Ends an operation and takes back what it did, where that is possible.
    CancelOperation {
        /// The operation.
        operation: OperationId,
    },
    /// Sets a binding by hand.
    SetBinding {
        /// The station.
        key: BindingKey,
        /// Its IPs.
        ips: Vec<IpAddr>,
        /// Where it lives.
        node: String,
        /// Whether it attracts traffic.
        state: BindingState,
        /// Only if the binding has this generation; 0 for only if there is none; none for in any case.
        expected: Option<Generation>,
    },
    /// Removes a binding that no placement set.
    RemoveBinding {
        /// The station.
        key: BindingKey,
        /// Only if the binding has this generation.
        expected: Option<Generation>,
    },
    /// Makes a token of the API.
    CreateApiToken {
        /// Its name.
        name: String,
        /// What it may do.
        role: Role,
        /// The hash of its secret.
        secret_hash: SecretHash,
        /// How long it is good, in milliseconds; none for always.
        ttl_ms: Option<u64>,
    },
    /// Removes a token of the API.
    DeleteApiToken {
        /// The token, by id or name.
        token: String,
    },
    /// Keeps the answer of a call, or the whole record.
    PutIdempotencyKey(IdempotencyKey),
}

/// What a network is to be. `..Default::default()` gives the defaults of [`Network`](crate::Network).
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the fields of Network")]
pub struct NewNetwork {
    pub name: String,
    /// None for the next free one.
    pub vni: Option<Vni>,
    pub mode: Mode,
    pub mtu: u32,
    pub subnet_v4: Option<Subnet>,
    pub subnet_v6: Option<Subnet>,
    pub gateways: Vec<IpAddr>,
    pub dhcp: Dhcp,
    pub anti_spoof: AntiSpoof,
    pub mss_clamp: bool,
    pub broadcast_rate: u32,
    pub broadcast_burst: u32,
    pub host: bool,
    /// Nodes by id or name; none for all.
    pub nodes: Option<Vec<String>>,
}

/// What changes of a network; none leaves it.
#[derive(Debug, Clone, PartialEq, Default)]
#[expect(missing_docs, reason = "the fields of Network")]
pub struct NetworkUpdate {
    pub mode: Option<Mode>,
    pub mtu: Option<u32>,
    pub gateways: Option<Vec<IpAddr>>,
    pub dhcp: Option<Dhcp>,
    pub anti_spoof: Option<AntiSpoof>,
    pub mss_clamp: Option<bool>,
    pub broadcast_rate: Option<u32>,
    pub broadcast_burst: Option<u32>,
    /// Nodes by id or name; `Some(None)` for all.
    pub nodes: Option<Option<Vec<String>>>,
}

/// What a type is to be.
#[derive(Debug, Clone, PartialEq, Default)]
#[expect(missing_docs, reason = "the fields of InstanceType")]
pub struct NewType {
    pub name: String,
    pub cores_milli: u32,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    /// `container` or `qemu`.
    pub driver: String,
    pub image: String,
    pub description: String,
}

/// What a node is to be.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NewNode {
    /// `manual`, or a provider that the shell knows.
    pub provider: String,
    /// A type, for the provider.
    pub node_type: Option<String>,
    /// None: the host's name when it enrols, if that is free, or its id.
    pub name: Option<String>,
    /// The operator's own words about it.
    pub labels: BTreeMap<String, String>,
    /// The hash of the join token's secret.
    pub secret_hash: SecretHash,
    /// How long the token may be used, in milliseconds.
    pub ttl_ms: u64,
}

/// What an instance is to be.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NewInstance {
    /// None: the online node with the driver and the most free memory.
    pub node: Option<String>,
    /// Its type.
    pub instance_type: String,
    /// None: its id.
    pub name: Option<String>,
    /// Empty: the only network, or the one named `default`.
    pub networks: Vec<String>,
    /// None: the type's.
    pub image: Option<String>,
    /// What it runs.
    pub command: Vec<String>,
    /// The command's environment.
    pub env: BTreeMap<String, String>,
    /// Addresses that it shall have; the network is the one whose subnet has it. Others are chosen.
    pub ips: Vec<IpAddr>,
}

/// Something of a node's switch. A session's number is the shell's, never used twice; what an older session says
/// late is [`Stale`](crate::RefusalKind::Stale).
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the fields of the protocol's messages")]
pub enum SwitchInput {
    Registered {
        session: u64,
        boot: u64,
        version: String,
        machine: String,
        addresses: Vec<SocketAddr>,
        /// Another session with another boot number (see
        /// [`Registry::switch_session`](crate::Registry::switch_session)) has just answered a probe: two machines
        /// have one key.
        old_alive: bool,
    },
    /// Peers may reach it elsewhere now.
    Addresses {
        session: u64,
        addresses: Vec<SocketAddr>,
    },
    Gone {
        session: u64,
    },
    RotateKey {
        session: u64,
        public_key: PublicKey,
    },
    Bindings {
        session: u64,
        full: bool,
        claims: Vec<BindingClaim>,
        withdrawals: Vec<BindingWithdrawal>,
    },
}

/// A station that a switch learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingClaim {
    /// The station.
    pub key: BindingKey,
    /// All IPs that it has.
    pub ips: Vec<IpAddr>,
    /// The generation that the switch knew when it saw the station; 0 for none.
    pub seen_generation: Generation,
}

/// A station that a switch no longer has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingWithdrawal {
    /// The station.
    pub key: BindingKey,
    /// The generation that is withdrawn.
    pub generation: Generation,
}

/// A claim or withdrawal that was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRefusal {
    /// The station.
    pub key: BindingKey,
    /// Why.
    pub reason: ClaimRefusalReason,
    /// The binding in force, if any.
    pub current: Option<Binding>,
}

/// Why a claim was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimRefusalReason {
    /// A newer generation is known.
    Stale,
    /// The controller placed it elsewhere.
    BoundElsewhere,
    /// No such network, or the node is not in it.
    Network,
    /// Not a unicast MAC, not a bindable IP, an IP that is another's by placement, or a station that is no node in a
    /// network of the nodes themselves.
    Address,
    /// The node has too many learned bindings.
    Full,
}

/// Something of a node's agent. Sessions as with [`SwitchInput`].
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the fields of the protocol's messages")]
pub enum AgentInput {
    Registered {
        session: u64,
        boot: u64,
        version: String,
        capacity: Capacity,
        drivers: Vec<String>,
        /// Everything that is there.
        instances: Vec<InstanceStatus>,
        /// As for switches.
        old_alive: bool,
    },
    Gone {
        session: u64,
    },
    Report {
        session: u64,
        /// Everything that is there is named.
        full: bool,
        instances: Vec<InstanceStatus>,
    },
}

/// How an instance is, by the agent of a node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the fields of the protocol's InstanceStatus")]
pub struct InstanceStatus {
    pub id: InstanceId,
    pub generation: Generation,
    pub state: InstanceState,
    pub detail: String,
    pub uploaded: bool,
    pub cpu_usec: u64,
    pub memory_bytes: u64,
    pub cores_milli_limit: u32,
    pub memory_bytes_limit: u64,
    pub runtime: String,
    pub progress_percent: u32,
}

/// The state of an instance, by its agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the protocol's InstanceStatus.State")]
pub enum InstanceState {
    #[default]
    Starting,
    Running,
    Stopping,
    Stopped,
    Failed,
    Absent,
}

/// What came of a provider's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderResult {
    /// The node was made.
    Created {
        /// What the provider calls it, to destroy it by.
        reference: String,
    },
    /// It was not made; what there is of it has to be destroyed.
    CreateFailed {
        /// Why.
        error: String,
    },
    /// It was destroyed.
    Destroyed,
    /// It was not.
    DestroyFailed {
        /// Why.
        error: String,
    },
}

/// What came of an input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each field is the id of what it is named after")]
pub enum Outcome {
    /// Nothing to say.
    Done,
    Network(Vni),
    Type(TypeId),
    /// Invited; the operation has ended already if nothing has to be made.
    NodeAdded {
        node: NodeId,
        token: TokenId,
        operation: OperationId,
    },
    Token {
        node: NodeId,
        token: TokenId,
    },
    /// A long call goes on under this operation.
    Operation(OperationId),
    /// An instance and the operation that starts it.
    Allocated {
        instance: InstanceId,
        operation: OperationId,
    },
    Enrolled {
        node: NodeId,
        name: String,
        cluster: String,
    },
    Node(NodeId),
    ApiToken(ApiTokenId),
    /// The binding in force.
    Binding(Generation),
    /// Claims that were not accepted.
    #[serde(skip)]
    Claims(Vec<ClaimRefusal>),
    /// The stored answer of the same call, made before.
    #[serde(skip)]
    Replayed(Box<IdempotencyKey>),
}

/// Whose a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyStatus {
    /// Nobody's: it may enrol.
    Unknown,
    /// A node's.
    Node(NodeId),
    /// A removed node's, or one that was rotated out.
    Revoked(NodeId),
}

impl Default for NewNetwork {
    fn default() -> Self {
        let d = crate::records::Network::default();
        NewNetwork {
            name: d.name,
            vni: None,
            mode: d.mode,
            mtu: d.mtu,
            subnet_v4: None,
            subnet_v6: None,
            gateways: Vec::new(),
            dhcp: d.dhcp,
            anti_spoof: d.anti_spoof,
            mss_clamp: d.mss_clamp,
            broadcast_rate: d.broadcast_rate,
            broadcast_burst: d.broadcast_burst,
            host: d.host,
            nodes: None,
        }
    }
}
