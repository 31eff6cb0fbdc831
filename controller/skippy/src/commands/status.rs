//! Health on one screen.

use controller_api::rest::{
    Cluster, ComputeNode, ComputeNodeState, Instance, InstanceState, Link, LinkState, Operation,
    OperationState,
};
use serde_json::{Value, json};

use super::Session;
use crate::error::Error;
use crate::output::{clean, table, typed};
use crate::{routes, tables, units};

/// So many of each are shown; the lists have the rest.
const SHOWN: usize = 10;

pub(super) async fn run(s: &mut Session) -> Result<(), Error> {
    let cluster = s.client.call(&routes::cluster()).await?;
    let nodes = s.client.list(&routes::nodes()).await?;
    let links = s.client.list(&routes::links()).await?;
    let instances = s.client.list(&routes::instances()).await?;
    let operations = s.client.list(&routes::operations()).await?;
    if s.out.json {
        return s.out.json(&json!({
            "cluster": cluster, "compute_nodes": nodes, "links": links, "instances": instances,
            "operations": operations,
        }));
    }
    let text = Status {
        cluster: typed(cluster)?,
        nodes: all(nodes)?,
        links: all(links)?,
        instances: all(instances)?,
        operations: all(operations)?,
    }
    .text(s.out.now);
    s.out.text(&text)
}

struct Status {
    cluster: Cluster,
    nodes: Vec<ComputeNode>,
    links: Vec<Link>,
    instances: Vec<Instance>,
    operations: Vec<Operation>,
}

impl Status {
    fn text(&self, now: controller_api::rest::Timestamp) -> String {
        let cluster = &self.cluster;
        let online = self.nodes.iter().filter(|node| node.state == ComputeNodeState::Online).count();
        let running = self.instances.iter().filter(|it| it.state == InstanceState::Running).count();
        let up = self.links.iter().filter(|link| link.state == LinkState::Up).count();
        let mut text = format!(
            "cluster {}, controller {}, up {}\n\
             nodes {online} of {} online, links {up} of {} up, instances {running} of {} running, networks {}\n",
            clean(&cluster.name),
            clean(&cluster.version),
            tables::age(cluster.started_at, now),
            self.nodes.len(),
            self.links.len(),
            self.instances.len(),
            cluster.counts.networks,
        );
        let rows = |nodes: &[ComputeNode]| {
            nodes
                .iter()
                .take(SHOWN)
                .map(|node| {
                    let agent = if node.agent_online { "online" } else { "offline" };
                    [
                        node.name.clone(),
                        tables::node_state(node),
                        agent.to_owned(),
                        node.instances.to_string(),
                        tables::share(node, |capacity| units::cores_f64(capacity.cores)),
                        tables::share(node, |capacity| units::size(capacity.memory_mib << 20)),
                    ]
                    .map(|cell| clean(&cell))
                    .to_vec()
                })
                .collect()
        };
        if !self.nodes.is_empty() {
            text.push('\n');
            text += &table(&["NODE", "STATE", "AGENT", "INSTANCES", "CORES", "MEMORY"], rows(&self.nodes));
            text += &more(self.nodes.len(), "node list");
        }
        let trouble = self.trouble();
        text.push('\n');
        if trouble.is_empty() {
            text.push_str("nothing is wrong\n");
        }
        for line in trouble.iter().take(2 * SHOWN) {
            text.push_str(&format!("! {}\n", clean(line)));
        }
        if trouble.len() > 2 * SHOWN {
            text.push_str(&format!("! and {} more\n", trouble.len() - 2 * SHOWN));
        }
        for operation in self.operations.iter().filter(|operation| !operation.state.is_final()).take(SHOWN) {
            let line =
                format!("{} {}: {} {}%", operation.id, operation.kind, operation.step, operation.percent);
            text.push_str(&format!("> {}\n", clean(&line)));
        }
        text
    }

    /// What is not as it should be, a line each, the widest trouble first.
    fn trouble(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for node in &self.nodes {
            match node.state {
                ComputeNodeState::Offline => lines.push(format!("node {} is offline", node.name)),
                ComputeNodeState::Cloned => {
                    lines.push(format!("node {} is cloned: its key is used in two places", node.name));
                }
                ComputeNodeState::Online if !node.agent_online => {
                    lines.push(format!(
                        "node {}'s agent has no session: instances cannot be placed there",
                        node.name
                    ));
                }
                _ => {}
            }
            lines.extend(node.problems.iter().map(|problem| format!("node {}: {problem}", node.name)));
        }
        for link in self.links.iter().filter(|link| link.state != LinkState::Up) {
            let why = link.last_error.as_deref().unwrap_or("no reason is reported");
            let (from, to, state) = (&link.compute_node_name, &link.peer_name, tables::word(&link.state));
            lines.push(format!("link {from} to {to} is {state}: {why}"));
        }
        for instance in &self.instances {
            if matches!(instance.state, InstanceState::Failed | InstanceState::Lost | InstanceState::Unknown)
            {
                let (name, state) = (&instance.name, tables::word(&instance.state));
                lines.push(format!("instance {name} is {state}: {}", instance.detail));
            }
        }
        let failed = self.operations.iter().rev().filter(|it| it.state == OperationState::Failed);
        for operation in failed.take(SHOWN) {
            let why = operation.error.as_deref().unwrap_or(&operation.detail);
            lines.push(format!("{} {} failed: {why}", operation.id, operation.kind));
        }
        lines
    }
}

fn more(there: usize, list: &str) -> String {
    match there.saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!("and {more} more: skippy {list}\n"),
    }
}

pub(crate) fn all<T: serde::de::DeserializeOwned>(items: Vec<Value>) -> Result<Vec<T>, Error> {
    items.into_iter().map(typed).collect()
}

#[cfg(test)]
mod tests;
