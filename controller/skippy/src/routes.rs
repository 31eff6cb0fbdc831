//! The API's paths: every call that it has, in one place.

use std::time::Duration;

use controller_api::rest::Operation;

use crate::client::Call;

pub(crate) fn nodes() -> Call {
    Call::get(&["compute-nodes"])
}

pub(crate) fn node(node: &str) -> Call {
    Call::get(&["compute-nodes", node])
}

pub(crate) fn add_node() -> Call {
    Call::post(&["compute-nodes"])
}

pub(crate) fn set_node(node: &str) -> Call {
    Call::patch(&["compute-nodes", node])
}

pub(crate) fn remove_node(node: &str, force: bool, now: bool) -> Call {
    let call = Call::delete(&["compute-nodes", node]).query_opt("force", force.then_some(true));
    call.query_opt("now", now.then_some(true))
}

pub(crate) fn node_token(node: &str) -> Call {
    Call::post(&["compute-nodes", node, "token"])
}

pub(crate) fn types() -> Call {
    Call::get(&["types"])
}

pub(crate) fn one_type(name: &str) -> Call {
    Call::get(&["types", name])
}

pub(crate) fn add_type() -> Call {
    Call::post(&["types"])
}

pub(crate) fn remove_type(name: &str) -> Call {
    Call::delete(&["types", name])
}

pub(crate) fn networks() -> Call {
    Call::get(&["networks"])
}

pub(crate) fn network(network: &str) -> Call {
    Call::get(&["networks", network])
}

pub(crate) fn add_network() -> Call {
    Call::post(&["networks"])
}

pub(crate) fn set_network(network: &str) -> Call {
    Call::patch(&["networks", network])
}

pub(crate) fn remove_network(network: &str) -> Call {
    Call::delete(&["networks", network])
}

pub(crate) fn instances() -> Call {
    Call::get(&["instances"])
}

pub(crate) fn instance(instance: &str) -> Call {
    Call::get(&["instances", instance])
}

pub(crate) fn allocate() -> Call {
    Call::post(&["instances"])
}

pub(crate) fn start(instance: &str) -> Call {
    Call::post(&["instances", instance, "start"])
}

pub(crate) fn stop(instance: &str) -> Call {
    Call::post(&["instances", instance, "stop"])
}

pub(crate) fn migrate(instance: &str) -> Call {
    Call::post(&["instances", instance, "migrate"])
}

pub(crate) fn delete_instance(instance: &str) -> Call {
    Call::delete(&["instances", instance])
}

pub(crate) fn bindings() -> Call {
    Call::get(&["bindings"])
}

pub(crate) fn binding(network: &str, mac: &str, vlans: &[u16]) -> Call {
    Call::get(&["bindings", network, mac]).query_opt("vlans", joined(vlans))
}

pub(crate) fn set_binding(network: &str, mac: &str, vlans: &[u16]) -> Call {
    Call::put(&["bindings", network, mac]).query_opt("vlans", joined(vlans))
}

pub(crate) fn remove_binding(network: &str, mac: &str, vlans: &[u16]) -> Call {
    Call::delete(&["bindings", network, mac]).query_opt("vlans", joined(vlans))
}

pub(crate) fn links() -> Call {
    Call::get(&["links"])
}

pub(crate) fn operations() -> Call {
    Call::get(&["operations"])
}

pub(crate) fn operation(id: &str) -> Call {
    Call::get(&["operations", id])
}

pub(crate) fn operation_wait(seen: &Operation, wait: Duration) -> Call {
    Call::get(&["operations", &seen.id]).query("wait", wait.as_secs())
}

pub(crate) fn cancel(id: &str) -> Call {
    Call::post(&["operations", id, "cancel"])
}

pub(crate) fn events() -> Call {
    Call::get(&["events"])
}

pub(crate) fn tokens() -> Call {
    Call::get(&["tokens"])
}

pub(crate) fn create_token() -> Call {
    Call::post(&["tokens"])
}

pub(crate) fn revoke_token(token: &str) -> Call {
    Call::delete(&["tokens", token])
}

pub(crate) fn whoami() -> Call {
    Call::get(&["whoami"])
}

pub(crate) fn cluster() -> Call {
    Call::get(&["cluster"])
}

pub(crate) fn health() -> Call {
    Call::get(&["healthz"]).unversioned()
}

pub(crate) fn readiness() -> Call {
    Call::get(&["readyz"]).unversioned()
}

pub(crate) fn metrics() -> Call {
    Call::get(&["metrics"]).unversioned()
}

pub(crate) fn openapi() -> Call {
    Call::get(&["openapi.json"]).unversioned()
}

fn joined(vlans: &[u16]) -> Option<String> {
    let texts: Vec<_> = vlans.iter().map(ToString::to_string).collect();
    (!texts.is_empty()).then(|| texts.join(","))
}
