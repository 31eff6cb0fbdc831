//! The registry's records as the API's types.

use controller_api::rest;
use controller_registry as registry;
use controller_registry::Registry;
use node_session::key::PublicKey;

use crate::nodes::Observed;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

pub(crate) fn time(at: registry::Timestamp) -> rest::Timestamp {
    rest::Timestamp::from_unix_millis(at.0)
}

pub(crate) fn role(role: registry::Role) -> rest::Role {
    match role {
        registry::Role::Reader => rest::Role::Reader,
        registry::Role::Operator => rest::Role::Operator,
        registry::Role::Admin => rest::Role::Admin,
    }
}

pub(crate) fn api_token(token: &registry::ApiToken) -> rest::ApiToken {
    rest::ApiToken {
        id: token.id.to_string(),
        name: token.name.clone(),
        role: role(token.role),
        created_at: time(token.created),
        expires_at: token.expires.map(time),
    }
}

pub(crate) fn node_name(registry: &Registry, id: registry::NodeId) -> String {
    registry.nodes().get(&id).map_or_else(|| id.to_string(), |node| node.name.clone())
}

fn network_name(registry: &Registry, vni: registry::Vni) -> String {
    registry.networks().get(&vni).map_or_else(|| vni.to_string(), |network| network.name.clone())
}

pub(crate) fn compute_node_state(registry: &Registry, node: &registry::Node) -> rest::ComputeNodeState {
    let runtime = registry.runtime(node.id);
    match node.state {
        registry::NodeState::Removed => rest::ComputeNodeState::Removed,
        _ if runtime.is_some_and(registry::NodeRuntime::is_cloned) => rest::ComputeNodeState::Cloned,
        registry::NodeState::Draining => rest::ComputeNodeState::Draining,
        registry::NodeState::Invited => rest::ComputeNodeState::Pending,
        registry::NodeState::Enrolled if runtime.is_some_and(|runtime| runtime.switch.is_some()) => {
            rest::ComputeNodeState::Online
        }
        registry::NodeState::Enrolled => rest::ComputeNodeState::Offline,
    }
}

pub(crate) fn compute_node(
    registry: &Registry,
    observed: &Observed,
    node: &registry::Node,
) -> rest::ComputeNode {
    let runtime = registry.runtime(node.id);
    let (switch, agent) = (runtime.and_then(|r| r.switch.as_ref()), runtime.and_then(|r| r.agent.as_ref()));
    let here = || registry.instances_on(node.id);
    let reports = observed.node(node.id);
    let mut problems: Vec<String> = runtime.into_iter().flat_map(|r| &r.conditions).map(condition).collect();
    problems.extend(reports.into_iter().flat_map(|reports| reports.problems));
    rest::ComputeNode {
        id: node.id.to_string(),
        name: node.name.clone(),
        provider: node.provider.clone(),
        node_type: node.node_type.clone().unwrap_or_default(),
        state: compute_node_state(registry, node),
        schedulable: node.schedulable,
        labels: node.labels.clone(),
        agent_online: agent.is_some(),
        public_key: node.public_key.map(|key| PublicKey(key.0).to_string()),
        addresses: node.addresses.iter().map(ToString::to_string).collect(),
        host_addresses: registry.host_addresses(node.id).collect(),
        switch_version: switch.map(|session| session.version.clone()),
        agent_version: agent.map(|session| session.version.clone()),
        capacity: (node.capacity != registry::Capacity::default()).then(|| rest::Capacity {
            cores: f64::from(node.capacity.cores),
            memory_mib: node.capacity.memory_bytes / MIB,
            disk_gib: node.capacity.disk_bytes / GIB,
        }),
        allocated: here().fold(rest::Capacity::default(), |sum, instance| {
            let limits = limits(&instance.limits);
            rest::Capacity {
                cores: sum.cores + limits.cores,
                memory_mib: sum.memory_mib + limits.memory_mib,
                disk_gib: sum.disk_gib + limits.disk_gib,
            }
        }),
        instances: here().count() as u64,
        drivers: node.drivers.clone(),
        accelerator: node.capacity.accelerator.clone(),
        problems,
        created_at: time(node.created),
        joined_at: node.enrolled_at.map(time),
        last_seen_at: runtime.and_then(|runtime| runtime.last_seen).map(time),
    }
}

fn condition(condition: &registry::Condition) -> String {
    match condition {
        registry::Condition::Cloned { since, machine } => format!(
            "another machine ({machine}) came with this node's key at {}: give one of the two a new key with \
             `switchd join`",
            time(*since)
        ),
        registry::Condition::Stray { instance, generation, known: true } => format!(
            "its agent has a copy of {instance} that is newer (generation {generation}) than what the controller \
             knows, as after an older backup was restored: it is left alone; look at both, and remove one by hand"
        ),
        registry::Condition::Stray { instance, known: false, .. } => format!(
            "its agent has {instance}, which the controller does not know, as after an older backup was restored: it \
             is left alone; remove it by hand if nobody needs it"
        ),
    }
}

fn limits(limits: &registry::Limits) -> rest::Capacity {
    rest::Capacity {
        cores: cores(limits.cores_milli),
        memory_mib: limits.memory_bytes / MIB,
        disk_gib: limits.disk_bytes / GIB,
    }
}

fn cores(milli: u32) -> f64 {
    f64::from(milli) / 1000.0
}

fn driver(name: &str) -> rest::Driver {
    if name == rest::Driver::Qemu.as_str() { rest::Driver::Qemu } else { rest::Driver::Container }
}

pub(crate) fn instance_type(record: &registry::InstanceType) -> rest::InstanceType {
    let limits = limits(&record.limits);
    rest::InstanceType {
        id: record.id.to_string(),
        name: record.name.clone(),
        cores: limits.cores,
        memory_mib: limits.memory_mib,
        disk_gib: limits.disk_gib,
        driver: driver(&record.driver),
        image: record.image.clone(),
        description: record.description.clone(),
        created_at: time(record.created),
    }
}

pub(crate) fn network(network: &registry::Network) -> rest::Network {
    rest::Network {
        id: network.vni.to_string(),
        name: network.name.clone(),
        vni: network.vni.0,
        subnet_v4: network.subnet_v4.map(|subnet| subnet.to_string()),
        subnet_v6: network.subnet_v6.map(|subnet| subnet.to_string()),
        gateways: network.gateways.clone(),
        mode: match network.mode {
            registry::Mode::Rewrite => rest::NetworkMode::Rewrite,
            registry::Mode::Preserve => rest::NetworkMode::Preserve,
        },
        mtu: network.mtu,
        dhcp: match network.dhcp {
            registry::Dhcp::Forward => "forward".to_owned(),
            registry::Dhcp::LocalOnly => "local-only".to_owned(),
            registry::Dhcp::Trusted(mac) => format!("trusted:{mac}"),
        },
        anti_spoof: match network.anti_spoof {
            registry::AntiSpoof::Learn => rest::AntiSpoof::Learn,
            registry::AntiSpoof::Strict => rest::AntiSpoof::Strict,
        },
        mss_clamp: network.mss_clamp,
        broadcast_rate: network.broadcast_rate,
        broadcast_burst: network.broadcast_burst,
        host: network.host,
        compute_nodes: match &network.nodes {
            registry::Membership::All => None,
            registry::Membership::Nodes(nodes) => Some(nodes.iter().map(ToString::to_string).collect()),
        },
        created_at: time(network.created),
    }
}

pub(crate) fn instance_state(registry: &Registry, instance: &registry::Instance) -> rest::InstanceState {
    let agent = registry.runtime(instance.node).is_some_and(|runtime| runtime.agent.is_some());
    match instance.phase {
        _ if instance.migration.is_some() => rest::InstanceState::Moving,
        _ if instance.desired == registry::DesiredState::Absent => rest::InstanceState::Deleting,
        registry::Phase::Pending => rest::InstanceState::Pending,
        registry::Phase::Lost => rest::InstanceState::Lost,
        _ if !agent => rest::InstanceState::Unknown,
        registry::Phase::Starting => rest::InstanceState::Starting,
        registry::Phase::Running => rest::InstanceState::Running,
        registry::Phase::Stopping => rest::InstanceState::Stopping,
        registry::Phase::Stopped => rest::InstanceState::Stopped,
        registry::Phase::Failed => rest::InstanceState::Failed,
    }
}

pub(crate) fn instance(registry: &Registry, instance: &registry::Instance) -> rest::Instance {
    let observed = registry.observed(instance.id);
    let state = instance_state(registry, instance);
    let nic = |nic: &registry::Nic| rest::Nic {
        network: nic.vni.to_string(),
        network_name: network_name(registry, nic.vni),
        vni: nic.vni.0,
        mac: nic.mac.to_string(),
        ips: nic.ips.clone(),
    };
    rest::Instance {
        id: instance.id.to_string(),
        name: instance.name.clone(),
        instance_type: instance.instance_type.clone(),
        compute_node: instance.node.to_string(),
        compute_node_name: node_name(registry, instance.node),
        moving_to: instance.migration.as_ref().map(|migration| migration.to.to_string()),
        state,
        desired: match instance.desired {
            registry::DesiredState::Running => rest::DesiredState::Running,
            registry::DesiredState::Stopped => rest::DesiredState::Stopped,
            registry::DesiredState::Absent => rest::DesiredState::Absent,
        },
        detail: match state {
            rest::InstanceState::Unknown => {
                format!("its node's agent has no session; it was {} before", phase(instance.phase))
            }
            _ => instance.detail.clone(),
        },
        generation: instance.generation.0,
        driver: driver(&instance.driver),
        image: instance.image.clone(),
        command: instance.command.clone(),
        environment: instance.env.clone(),
        nics: instance.nics.iter().map(nic).collect(),
        limits: limits(&instance.limits),
        usage: observed.map(|observed| rest::Usage {
            // Exact up to 2^53 microseconds, 285 years.
            cpu_seconds: observed.cpu_usec as f64 / 1e6,
            memory_bytes: observed.memory_bytes,
            cores_limit: cores(observed.cores_milli_limit),
            memory_bytes_limit: observed.memory_bytes_limit,
        }),
        runtime: observed.map(|observed| observed.runtime.clone()).unwrap_or_default(),
        operation: instance.operation.map(|operation| operation.to_string()),
        created_at: time(instance.created),
    }
}

fn phase(phase: registry::Phase) -> &'static str {
    match phase {
        registry::Phase::Pending => "pending",
        registry::Phase::Starting => "starting",
        registry::Phase::Running => "running",
        registry::Phase::Stopping => "stopping",
        registry::Phase::Stopped => "stopped",
        registry::Phase::Failed => "failed",
        registry::Phase::Lost => "lost",
    }
}

pub(crate) fn binding(registry: &Registry, binding: &registry::Binding) -> rest::Binding {
    rest::Binding {
        network: binding.key.vni.to_string(),
        network_name: network_name(registry, binding.key.vni),
        vni: binding.key.vni.0,
        vlans: binding.key.vlans.clone(),
        mac: binding.key.mac.to_string(),
        ips: binding.ips.clone(),
        compute_node: binding.node.to_string(),
        compute_node_name: node_name(registry, binding.node),
        instance: binding.instance.map(|instance| instance.to_string()),
        generation: binding.generation.0,
        source: binding_source(binding.source),
        state: binding_state(binding.state),
    }
}

pub(crate) fn binding_source(source: registry::BindingSource) -> rest::BindingSource {
    match source {
        registry::BindingSource::Controller => rest::BindingSource::Controller,
        registry::BindingSource::Learned => rest::BindingSource::Learned,
    }
}

pub(crate) fn binding_state(state: registry::BindingState) -> rest::BindingState {
    match state {
        registry::BindingState::Prepared => rest::BindingState::Prepared,
        registry::BindingState::Active => rest::BindingState::Active,
    }
}

pub(crate) fn operation(operation: &registry::Operation) -> rest::Operation {
    rest::Operation {
        id: operation.id.to_string(),
        kind: operation_kind(operation.kind),
        state: operation_state(operation.state),
        step: operation.step.clone(),
        percent: operation.percent.min(100),
        detail: operation.detail.clone(),
        subjects: operation.subjects.iter().map(ToString::to_string).collect(),
        parent: operation.parent.map(|parent| parent.to_string()),
        cancellable: !operation.is_finished(),
        requested_by: operation.requested_by.clone(),
        created_at: time(operation.created),
        started_at: operation.started.map(time),
        finished_at: operation.finished.map(time),
        error: operation.error.clone(),
    }
}

pub(crate) fn operation_kind(kind: registry::OperationKind) -> rest::OperationKind {
    match kind {
        registry::OperationKind::AddComputeNode => rest::OperationKind::AddComputeNode,
        registry::OperationKind::RemoveComputeNode => rest::OperationKind::RemoveComputeNode,
        registry::OperationKind::Allocate => rest::OperationKind::Allocate,
        registry::OperationKind::Migrate => rest::OperationKind::Migrate,
        registry::OperationKind::StartInstance => rest::OperationKind::StartInstance,
        registry::OperationKind::StopInstance => rest::OperationKind::StopInstance,
        registry::OperationKind::DeleteInstance => rest::OperationKind::DeleteInstance,
    }
}

pub(crate) fn operation_state(state: registry::OperationState) -> rest::OperationState {
    match state {
        registry::OperationState::Pending => rest::OperationState::Pending,
        registry::OperationState::Running => rest::OperationState::Running,
        registry::OperationState::Succeeded => rest::OperationState::Succeeded,
        registry::OperationState::Failed => rest::OperationState::Failed,
        registry::OperationState::Cancelled => rest::OperationState::Cancelled,
    }
}
