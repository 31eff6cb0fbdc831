use controller_api::rest::{ComputeNode, Instance, InstanceType, Link};

use super::*;
use crate::tables;
use crate::testing::{Printed, instance, link, node};

#[test]
fn nodes_are_a_table() {
    let printed = Printed::default();
    let nodes = vec![node("node-1", "rack1-a"), node("node-12", "b")];
    printed.output(false, false, &[]).list::<ComputeNode>(nodes, tables::NODES, "none").unwrap();
    assert_eq!(
        printed.text(),
        "\
ID       NAME     STATE   AGENT   INSTANCES  CORES  MEMORY          PROVIDER  AGE
node-1   rack1-a  online  online  1          0.5/8  256 MiB/16 GiB  manual    2h
node-12  b        online  online  1          0.5/8  256 MiB/16 GiB  manual    2h
"
    );
}

#[test]
fn instances_and_links_too() {
    let printed = Printed::default();
    printed
        .output(false, false, &[])
        .list::<Instance>(vec![instance("inst-12", "web")], tables::INSTANCES, "none")
        .unwrap();
    assert_eq!(
        printed.text(),
        "\
ID       NAME  TYPE   NODE     STATE    NETWORKS  IPS       MEMORY         AGE
inst-12  web   small  rack1-a  running  blue      10.0.0.2  9 MiB/256 MiB  30s
"
    );
    let printed = Printed::default();
    let links = vec![link("node-1", "node-2", 4096, "2026-03-01T13:59:59Z")];
    printed.output(false, false, &[]).list::<Link>(links, tables::LINKS, "none").unwrap();
    assert_eq!(
        printed.text(),
        "\
NODE         PEER         STATE  PATH  ADDRESS           RTT      LOSS  TO PEER  FROM PEER
node-1-name  node-2-name  up     host  203.0.113.9:7000  0.25 ms  0 %   4 KiB    8 KiB
"
    );
}

#[test]
fn columns_are_chosen_and_ordered_by_the_user() {
    let printed = Printed::default();
    let mut output = printed.output(false, false, &["labels", "NAME", "public-key"]);
    output.list::<ComputeNode>(vec![node("node-1", "a")], tables::NODES, "none").unwrap();
    assert_eq!(printed.text(), "LABELS  NAME  PUBLIC KEY\nrack=1  a     -\n");
    let error = printed
        .output(false, false, &["nmae"])
        .list::<ComputeNode>(vec![], tables::NODES, "none")
        .unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("there are id,name,state"), "{error}");
}

#[test]
fn wide_tables_have_everything() {
    let printed = Printed::default();
    let mut output = printed.output(false, true, &[]);
    output.list::<ComputeNode>(vec![node("node-1", "a")], tables::NODES, "none").unwrap();
    for column in tables::NODES {
        assert!(printed.text().contains(column.name), "{}", column.name);
    }
}

#[test]
fn one_thing_is_a_line_for_each_column() {
    let printed = Printed::default();
    let small = json!({
        "id": "type-2", "name": "small", "cores": 0.5, "memory_mib": 256, "disk_gib": 0, "driver": "container",
        "image": "", "description": "for services", "created_at": "2026-03-01T12:00:00Z", "later_field": 1,
    });
    printed.output(false, false, &[]).show::<InstanceType>(small, tables::TYPES).unwrap();
    assert_eq!(
        printed.text(),
        "\
id:          type-2
name:        small
cores:       0.5
memory:      256 MiB
disk:        -
driver:      container
image:       -
description: for services
age:         2h
"
    );
}

#[test]
fn json_is_the_apis_own() {
    let printed = Printed::default();
    let mut item = node("node-1", "a");
    item["a_field_of_a_later_version"] = json!([1, {"x": null}]);
    let mut output = printed.output(true, false, &[]);
    output.list::<ComputeNode>(vec![item.clone()], tables::NODES, "none").unwrap();
    assert_eq!(serde_json::from_str::<Value>(&printed.text()).unwrap(), json!({ "items": [item] }));
}

#[test]
fn an_empty_list_says_what_to_do_and_is_a_document_as_json() {
    let printed = Printed::default();
    printed.output(false, false, &[]).list::<ComputeNode>(vec![], tables::NODES, "no nodes").unwrap();
    assert_eq!(printed.text(), "no nodes\n");
    let printed = Printed::default();
    printed.output(true, false, &[]).list::<ComputeNode>(vec![], tables::NODES, "no nodes").unwrap();
    assert_eq!(serde_json::from_str::<Value>(&printed.text()).unwrap(), json!({"items": []}));
}

#[test]
fn a_name_cannot_drive_the_terminal() {
    let printed = Printed::default();
    let mut evil = node("node-1", "a\u{1b}[2J\u{7}b\nc");
    evil["labels"] = json!({});
    printed.output(false, false, &["name"]).list::<ComputeNode>(vec![evil], tables::NODES, "").unwrap();
    assert_eq!(printed.text(), "NAME\na\u{fffd}[2J\u{fffd}b\u{fffd}c\n");
}
