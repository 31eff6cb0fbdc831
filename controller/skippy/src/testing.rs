//! Things of the API, for tests.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use controller_api::rest::Timestamp;
use serde_json::{Value, json};

use crate::output::Output;

/// Two hours after the things were made.
pub(crate) fn later() -> Timestamp {
    "2026-03-01T14:00:00Z".parse().unwrap()
}

pub(crate) fn node(id: &str, name: &str) -> Value {
    json!({
        "id": id, "name": name, "provider": "manual", "type": "small", "state": "online", "schedulable": true,
        "labels": {"rack": "1"}, "agent_online": true, "addresses": ["203.0.113.9:7000"],
        "switch_version": "0.1.0", "capacity": {"cores": 8.0, "memory_mib": 16384, "disk_gib": 200},
        "allocated": {"cores": 0.5, "memory_mib": 256, "disk_gib": 0}, "instances": 1, "drivers": ["container"],
        "accelerator": "", "problems": [], "created_at": "2026-03-01T12:00:00Z",
    })
}

pub(crate) fn instance(id: &str, name: &str) -> Value {
    json!({
        "id": id, "name": name, "type": "small", "compute_node": "node-1", "compute_node_name": "rack1-a",
        "state": "running", "desired": "running", "detail": "", "generation": 41, "driver": "container",
        "image": "", "command": ["sh"], "environment": {}, "runtime": "namespaces",
        "nics": [{"network": "100", "network_name": "blue", "vni": 100, "mac": "02:73:69:00:00:01", "ips": ["10.0.0.2"]}],
        "limits": {"cores": 0.5, "memory_mib": 256, "disk_gib": 0},
        "usage": {"cpu_seconds": 12.5, "memory_bytes": 9437184, "cores_limit": 0.5, "memory_bytes_limit": 268435456},
        "created_at": "2026-03-01T13:59:30Z",
    })
}

pub(crate) fn link(from: &str, to: &str, bytes: u64, at: &str) -> Value {
    json!({
        "compute_node": from, "compute_node_name": format!("{from}-name"), "peer": to,
        "peer_name": format!("{to}-name"), "state": "up", "address": "203.0.113.9:7000", "path": "host",
        "rtt_us": 254, "path_mtu": 1452, "datagrams_to_peer": 1, "datagrams_from_peer": 1,
        "bytes_to_peer": bytes, "bytes_from_peer": 2 * bytes, "reported_at": at,
    })
}

pub(crate) fn operation(id: &str, state: &str, percent: u8) -> Value {
    json!({
        "id": id, "kind": "migrate", "state": state, "step": "moving the volume", "percent": percent,
        "detail": "", "subjects": ["inst-12", "node-2"], "cancellable": true, "requested_by": "admin",
        "created_at": "2026-03-01T12:00:00Z",
    })
}

pub(crate) fn cluster() -> Value {
    json!({
        "name": "lab", "public_key": "25c6", "version": "0.1.0", "node_addresses": ["203.0.113.5:7070"],
        "epoch": "5f2c9a1e0b7d4c33", "revision": 1042, "started_at": "2026-03-01T12:00:00Z",
        "counts": {"compute_nodes": 1, "compute_nodes_online": 1, "instances": 1, "instances_running": 1,
                   "networks": 1, "bindings": 1, "operations_running": 0},
    })
}

/// An output that can be read again.
#[derive(Clone, Default)]
pub(crate) struct Printed(Arc<Mutex<Vec<u8>>>);

impl Printed {
    pub(crate) fn output(&self, json: bool, wide: bool, columns: &[&str]) -> Output {
        let columns = columns.iter().map(|&column| column.to_owned()).collect();
        Output { now: later(), out: Box::new(self.clone()), ..Output::new(json, wide, columns) }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
