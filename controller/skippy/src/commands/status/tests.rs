use super::*;
use crate::testing::{cluster, instance, later, link, node, operation};

fn status() -> Status {
    Status {
        cluster: typed(cluster()).unwrap(),
        nodes: all(vec![node("node-1", "rack1-a")]).unwrap(),
        links: all(vec![link("node-1", "node-2", 1, "2026-03-01T13:59:59Z")]).unwrap(),
        instances: all(vec![instance("inst-12", "web")]).unwrap(),
        operations: vec![],
    }
}

#[test]
fn a_healthy_cluster_says_so() {
    assert_eq!(
        status().text(later()),
        "\
cluster lab, controller 0.1.0, up 2h
nodes 1 of 1 online, links 1 of 1 up, instances 1 of 1 running, networks 1

NODE     STATE   AGENT   INSTANCES  CORES  MEMORY
rack1-a  online  online  1          0.5/8  256 MiB/16 GiB

nothing is wrong
"
    );
}

#[test]
fn trouble_is_told_with_its_reason() {
    let mut status = status();
    status.nodes[0].state = ComputeNodeState::Offline;
    status.nodes[0].problems = vec!["network blue: no bridge br-blue".into()];
    status.links[0].state = LinkState::Down;
    status.links[0].last_error = Some("timed out".into());
    status.instances[0].state = InstanceState::Failed;
    status.instances[0].detail = "no image debian".into();
    let mut failed: Operation = typed(operation("op-1", "failed", 40)).unwrap();
    failed.error = Some("node-2 was removed".into());
    status.operations = vec![failed, typed(operation("op-2", "running", 60)).unwrap()];
    let text = status.text(later());
    let tail: Vec<_> = text.lines().skip(6).collect();
    assert_eq!(
        tail,
        [
            "! node rack1-a is offline",
            "! node rack1-a: network blue: no bridge br-blue",
            "! link node-1-name to node-2-name is down: timed out",
            "! instance web is failed: no image debian",
            "! op-1 migrate failed: node-2 was removed",
            "> op-2 migrate: moving the volume 60%",
        ]
    );
}
