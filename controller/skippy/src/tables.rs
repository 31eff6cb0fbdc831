//! The columns of each kind of thing.

use std::collections::BTreeMap;
use std::time::Duration;

use controller_api::rest::{
    ApiToken, Binding, Capacity, Cluster, ComputeNode, Event, Instance, InstanceType, Link, Network,
    Operation, Timestamp, WhoAmI,
};
use serde::Serialize;

use crate::output::{Column, Shown};
use crate::units;

macro_rules! columns {
    ($($name:literal $shown:ident $cell:expr;)*) => {
        &[$(Column { name: $name, shown: Shown::$shown, cell: $cell }),*]
    };
}

pub(crate) const NODES: &[Column<ComputeNode>] = columns! {
    "ID" Always |node, _| node.id.clone();
    "NAME" Always |node, _| node.name.clone();
    "STATE" Always |node, _| node_state(node);
    "AGENT" Always |node, _| if node.agent_online { "online" } else { "offline" }.to_owned();
    "INSTANCES" Always |node, _| node.instances.to_string();
    "CORES" Always |node, _| share(node, |c| units::cores_f64(c.cores));
    "MEMORY" Always |node, _| share(node, |c| units::size(c.memory_mib << 20));
    "DISK" Wide |node, _| share(node, |c| units::size(c.disk_gib << 30));
    "PROVIDER" Always |node, _| node.provider.clone();
    "TYPE" Wide |node, _| node.node_type.clone();
    "ADDRESSES" Wide |node, _| node.addresses.join(", ");
    "HOST ADDRESSES" Wide |node, _| list(&node.host_addresses);
    "DRIVERS" Wide |node, _| node.drivers.join(", ");
    "ACCELERATOR" Wide |node, _| node.accelerator.clone();
    "SWITCH" Wide |node, _| node.switch_version.clone().unwrap_or_default();
    "AGENT VERSION" Wide |node, _| node.agent_version.clone().unwrap_or_default();
    "LABELS" Wide |node, _| pairs(&node.labels);
    "SEEN" Wide |node, now| opt_age(node.last_seen_at, now);
    "AGE" Always |node, now| age(node.created_at, now);
    "PROBLEMS" Wide |node, _| node.problems.join("; ");
    "PUBLIC KEY" Wide |node, _| node.public_key.clone().unwrap_or_default();
};

pub(crate) const TYPES: &[Column<InstanceType>] = columns! {
    "ID" Wide |t, _| t.id.clone();
    "NAME" Always |t, _| t.name.clone();
    "CORES" Always |t, _| units::cores_f64(t.cores);
    "MEMORY" Always |t, _| units::size(t.memory_mib << 20);
    "DISK" Always |t, _| if t.disk_gib == 0 { String::new() } else { units::size(t.disk_gib << 30) };
    "DRIVER" Always |t, _| t.driver.to_string();
    "IMAGE" Always |t, _| t.image.clone();
    "DESCRIPTION" Always |t, _| t.description.clone();
    "AGE" Wide |t, now| age(t.created_at, now);
};

pub(crate) const NETWORKS: &[Column<Network>] = columns! {
    "NAME" Always |n, _| n.name.clone();
    "VNI" Always |n, _| n.vni.to_string();
    "SUBNET" Always |n, _| [&n.subnet_v4, &n.subnet_v6].into_iter().flatten().cloned().collect::<Vec<_>>().join(", ");
    "GATEWAYS" Always |n, _| list(&n.gateways);
    "MODE" Always |n, _| word(&n.mode);
    "MTU" Always |n, _| n.mtu.to_string();
    "DHCP" Wide |n, _| n.dhcp.clone();
    "ANTI-SPOOF" Always |n, _| word(&n.anti_spoof);
    "MSS CLAMP" Wide |n, _| n.mss_clamp.to_string();
    "BROADCAST RATE" Wide |n, _| or_default(n.broadcast_rate);
    "BROADCAST BURST" Wide |n, _| or_default(n.broadcast_burst);
    "NODES" Always |n, _| n.compute_nodes.as_ref().map_or_else(|| "all".to_owned(), |nodes| nodes.join(", "));
    "FOR" Wide |n, _| if n.host { "nodes" } else { "instances" }.to_owned();
    "AGE" Wide |n, now| age(n.created_at, now);
};

pub(crate) const INSTANCES: &[Column<Instance>] = columns! {
    "ID" Always |i, _| i.id.clone();
    "NAME" Always |i, _| i.name.clone();
    "TYPE" Always |i, _| i.instance_type.clone();
    "NODE" Always |i, _| match &i.moving_to {
        Some(to) => format!("{} > {to}", i.compute_node_name),
        None => i.compute_node_name.clone(),
    };
    "STATE" Always |i, _| word(&i.state);
    "DESIRED" Wide |i, _| word(&i.desired);
    "NETWORKS" Always |i, _| i.nics.iter().map(|nic| nic.network_name.as_str()).collect::<Vec<_>>().join(", ");
    "IPS" Always |i, _| list(i.nics.iter().flat_map(|nic| &nic.ips));
    "MACS" Wide |i, _| i.nics.iter().map(|nic| nic.mac.as_str()).collect::<Vec<_>>().join(", ");
    "DRIVER" Wide |i, _| i.driver.to_string();
    "RUNTIME" Wide |i, _| i.runtime.clone();
    "IMAGE" Wide |i, _| i.image.clone();
    "COMMAND" Wide |i, _| i.command.join(" ");
    "ENVIRONMENT" Wide |i, _| pairs(&i.environment);
    "CPU" Wide |i, _| i.usage.map(|u| format!("{:.1} s", u.cpu_seconds)).unwrap_or_default();
    "CORES" Wide |i, _| {
        let enforced = i.usage.is_some_and(|usage| usage.cores_limit > 0.0);
        format!("{}{}", units::cores_f64(i.limits.cores), if enforced { " (enforced)" } else { "" })
    };
    "MEMORY" Always |i, _| {
        let limit = units::size(i.limits.memory_mib << 20);
        i.usage.map_or_else(|| limit.clone(), |usage| format!("{}/{limit}", units::size(usage.memory_bytes)))
    };
    "GENERATION" Wide |i, _| i.generation.to_string();
    "OPERATION" Wide |i, _| i.operation.clone().unwrap_or_default();
    "AGE" Always |i, now| age(i.created_at, now);
    "DETAIL" Wide |i, _| i.detail.clone();
};

pub(crate) const BINDINGS: &[Column<Binding>] = columns! {
    "NETWORK" Always |b, _| b.network_name.clone();
    "VNI" Wide |b, _| b.vni.to_string();
    "VLANS" Wide |b, _| b.vlans.iter().map(ToString::to_string).collect::<Vec<_>>().join(".");
    "MAC" Always |b, _| b.mac.clone();
    "IPS" Always |b, _| list(&b.ips);
    "NODE" Always |b, _| b.compute_node_name.clone();
    "INSTANCE" Always |b, _| b.instance.clone().unwrap_or_default();
    "SOURCE" Always |b, _| word(&b.source);
    "STATE" Always |b, _| word(&b.state);
    "GENERATION" Always |b, _| b.generation.to_string();
};

pub(crate) const LINKS: &[Column<Link>] = columns! {
    "NODE" Always |l, _| l.compute_node_name.clone();
    "PEER" Always |l, _| l.peer_name.clone();
    "STATE" Always |l, _| word(&l.state);
    "PATH" Always |l, _| l.path.clone().unwrap_or_default();
    "ADDRESS" Always |l, _| l.address.clone().unwrap_or_default();
    "RTT" Always |l, _| l.rtt_us.map(|us| units::milliseconds(us.into())).unwrap_or_default();
    "LOSS" Always |l, _| l.path.as_ref().map(|_| units::parts_per_million(l.loss_ppm)).unwrap_or_default();
    "MTU" Wide |l, _| l.path_mtu.map(|mtu| mtu.to_string()).unwrap_or_default();
    "TO PEER" Always |l, _| units::size(l.bytes_to_peer);
    "FROM PEER" Always |l, _| units::size(l.bytes_from_peer);
    "LOCAL" Wide |l, _| l.local_candidate.clone().unwrap_or_default();
    "REMOTE" Wide |l, _| l.remote_candidate.clone().unwrap_or_default();
    "REPORTED" Wide |l, now| age(l.reported_at, now);
    "WHY RELAYED" Wide |l, _| l.why_relayed.clone().unwrap_or_default();
    "LAST ERROR" Wide |l, _| l.last_error.clone().unwrap_or_default();
};

pub(crate) const OPERATIONS: &[Column<Operation>] = columns! {
    "ID" Always |o, _| o.id.clone();
    "KIND" Always |o, _| o.kind.to_string();
    "STATE" Always |o, _| o.state.to_string();
    "STEP" Always |o, _| o.step.clone();
    "%" Always |o, _| o.percent.to_string();
    "SUBJECTS" Always |o, _| o.subjects.join(", ");
    "PARENT" Wide |o, _| o.parent.clone().unwrap_or_default();
    "CANCELLABLE" Wide |o, _| o.cancellable.to_string();
    "BY" Wide |o, _| o.requested_by.clone();
    "AGE" Always |o, now| age(o.created_at, now);
    "TOOK" Wide |o, now| o.started_at.map(|began| age(began, o.finished_at.unwrap_or(now))).unwrap_or_default();
    "DETAIL" Wide |o, _| o.detail.clone();
    "ERROR" Always |o, _| o.error.clone().unwrap_or_default();
};

pub(crate) const EVENTS: &[Column<Event>] = columns! {
    "AT" Always |e, _| e.at.to_string();
    "KIND" Always |e, _| e.kind.clone();
    "SUBJECT" Always |e, _| e.subject.clone();
    "MESSAGE" Always |e, _| e.message.clone();
    "ID" Wide |e, _| e.id.clone();
};

pub(crate) const TOKENS: &[Column<ApiToken>] = columns! {
    "ID" Always |t, _| t.id.clone();
    "NAME" Always |t, _| t.name.clone();
    "ROLE" Always |t, _| t.role.to_string();
    "EXPIRES" Always |t, now| expiry(t.expires_at, now);
    "AGE" Always |t, now| age(t.created_at, now);
};

pub(crate) const WHOAMI: &[Column<WhoAmI>] = columns! {
    "TOKEN" Always |w, _| w.token_id.clone();
    "NAME" Always |w, _| w.name.clone();
    "ROLE" Always |w, _| w.role.to_string();
    "EXPIRES" Always |w, now| expiry(w.expires_at, now);
};

pub(crate) const CLUSTER: &[Column<Cluster>] = columns! {
    "NAME" Always |c, _| c.name.clone();
    "VERSION" Always |c, _| c.version.clone();
    "UP" Always |c, now| age(c.started_at, now);
    "NODES REACH IT AT" Always |c, _| c.node_addresses.join(", ");
    "NODES" Always |c, _| format!("{}, {} online", c.counts.compute_nodes, c.counts.compute_nodes_online);
    "INSTANCES" Always |c, _| format!("{}, {} running", c.counts.instances, c.counts.instances_running);
    "NETWORKS" Always |c, _| c.counts.networks.to_string();
    "BINDINGS" Always |c, _| c.counts.bindings.to_string();
    "OPERATIONS" Always |c, _| format!("{} running", c.counts.operations_running);
    "EPOCH" Always |c, _| c.epoch.clone();
    "REVISION" Always |c, _| c.revision.to_string();
    "PUBLIC KEY" Always |c, _| c.public_key.clone();
};

/// How a node is, with what keeps instances away.
pub(crate) fn node_state(node: &ComputeNode) -> String {
    let state = word(&node.state);
    if node.schedulable || state == "draining" { state } else { format!("{state}, not schedulable") }
}

/// The API's own word for a value of an enum.
pub(crate) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

pub(crate) fn age(since: Timestamp, now: Timestamp) -> String {
    units::age(Duration::from_millis(now.unix_millis().saturating_sub(since.unix_millis())))
}

/// `0.5/8`: what is taken of what there is.
pub(crate) fn share(node: &ComputeNode, figure: fn(&Capacity) -> String) -> String {
    let taken = figure(&node.allocated);
    node.capacity.as_ref().map_or_else(|| taken.clone(), |capacity| format!("{taken}/{}", figure(capacity)))
}

fn opt_age(since: Option<Timestamp>, now: Timestamp) -> String {
    since.map(|since| age(since, now)).unwrap_or_default()
}

fn expiry(at: Option<Timestamp>, now: Timestamp) -> String {
    match at {
        None => "never".to_owned(),
        Some(at) if at <= now => "expired".to_owned(),
        Some(at) => format!("in {}", age(now, at)),
    }
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

fn pairs(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(", ")
}

fn or_default(figure: u32) -> String {
    if figure == 0 { "default".to_owned() } else { figure.to_string() }
}
