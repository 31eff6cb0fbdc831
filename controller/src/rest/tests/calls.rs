//! Each call's good path, and the OpenAPI document.

use super::*;
use crate::rest::openapi_document;

#[tokio::test(flavor = "multi_thread")]
async fn a_life_of_everything() {
    let (lab, a, b) = Lab::furnished().await;
    assert_eq!(lab.get("/v1/whoami").await.body["role"], "admin");
    let node = lab.get("/v1/compute-nodes/a").await.body;
    assert_eq!(
        (&node["id"], &node["state"], &node["agent_online"]),
        (&json!(a), &json!("online"), &json!(true))
    );
    assert_eq!(node["capacity"]["memory_mib"], 8192);

    let allocated =
        lab.post("/v1/instances", json!({"type": "small", "name": "web", "compute_node": "a"})).await;
    assert_eq!(allocated.status, StatusCode::ACCEPTED, "{}", allocated.body);
    let operation = allocated.body["id"].as_str().unwrap().to_owned();
    assert_eq!(allocated.headers[header::LOCATION], format!("/v1/operations/{operation}").as_str());
    let instance = allocated.body["subjects"][0].as_str().unwrap().to_owned();
    assert!(instance.starts_with("inst-"), "{}", allocated.body);

    let path = format!("/v1/operations/{operation}?wait=30");
    let (waited, ()) = tokio::join!(lab.get(&path), lab.runs(&a, &instance));
    assert_eq!(waited.body["state"], "succeeded", "{}", waited.body);
    let web = lab.get("/v1/instances/web").await.body;
    assert_eq!((&web["state"], &web["nics"][0]["ips"]), (&json!("running"), &json!(["10.0.0.1"])), "{web}");

    let bindings = lab.get("/v1/bindings?network=blue&compute_node=a&ip=10.0.0.1").await.body;
    assert_eq!(
        (&bindings["items"][0]["instance"], &bindings["items"][0]["state"]),
        (&json!(instance), &json!("active"))
    );
    assert_eq!(lab.get("/v1/instances?state=running&compute_node=b").await.body["items"], json!([]));

    let moved = lab.post("/v1/instances/web/migrate", json!({"compute_node": "b"})).await;
    assert_eq!((moved.status, &moved.body["kind"]), (StatusCode::ACCEPTED, &json!("migrate")));
    assert_eq!(lab.get("/v1/instances/web").await.body["moving_to"], json!(b));
    let operation = moved.body["id"].as_str().unwrap();
    let cancelled = lab.post(&format!("/v1/operations/{operation}/cancel"), Value::Null).await;
    assert_eq!(cancelled.status, StatusCode::ACCEPTED, "{}", cancelled.body);
    assert_eq!(lab.get("/v1/operations?kind=migrate&instance=web").await.body["items"][0]["id"], operation);

    for path in ["/v1/cluster", "/v1/links", "/v1/tokens", "/v1/networks/blue", "/v1/types/small", "/metrics"]
    {
        assert_eq!(lab.get(path).await.status, StatusCode::OK, "{path}");
    }
    assert_eq!(lab.get("/v1/cluster").await.body["counts"]["instances"], 1);

    let update =
        lab.ok(Method::PATCH, "/v1/networks/blue", json!({"mtu": 1400, "compute_nodes": ["*"]})).await;
    assert_eq!(update["mtu"], 1400);
    let update = lab
        .ok(Method::PATCH, "/v1/compute-nodes/b", json!({"schedulable": false, "labels": {"rack": "1"}}))
        .await;
    assert_eq!((&update["schedulable"], &update["labels"]["rack"]), (&json!(false), &json!("1")));
    let removed = lab.call(Method::DELETE, "/v1/compute-nodes/b?now=true", Value::Null).await;
    assert_eq!(removed.status, StatusCode::ACCEPTED, "{}", removed.body);
    let deleted = lab.call(Method::DELETE, "/v1/types/small", Value::Null).await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_of_the_nodes_themselves() {
    let (lab, a, _) = Lab::furnished().await;
    let network = json!({"name": "mgmt", "host": true, "subnet_v4": "100.80.0.0/16"});
    let made = lab.ok(Method::POST, "/v1/networks", network).await;
    assert_eq!(
        (&made["host"], &lab.get("/v1/networks/blue").await.body["host"]),
        (&json!(true), &json!(false))
    );
    let node = lab.get(&format!("/v1/compute-nodes/{a}")).await.body;
    assert_eq!(node["host_addresses"], json!(["100.80.0.1"]), "{node}");
    let refused =
        lab.post("/v1/instances", json!({"type": "small", "name": "in", "networks": ["mgmt"]})).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", refused.body);
    assert!(refused.body.to_string().contains("for the nodes themselves"), "{}", refused.body);
    let refused = lab.post("/v1/networks", json!({"name": "other", "host": true})).await;
    assert!(refused.body.to_string().contains("name a subnet"), "{}", refused.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_by_hand_compare_their_generation() {
    let (lab, ..) = Lab::furnished().await;
    let path = "/v1/bindings/blue/02:00:00:00:00:09?vlans=10,20";
    let set = lab
        .ok(Method::PUT, path, json!({"compute_node": "a", "ips": ["10.0.0.9"], "expected_generation": 0}))
        .await;
    assert_eq!((&set["vlans"], &set["source"]), (&json!([10, 20]), &json!("controller")));
    let stale = lab.call(Method::PUT, path, json!({"compute_node": "b", "expected_generation": 0})).await;
    assert_eq!((stale.status, &stale.body["type"]), (StatusCode::CONFLICT, &json!("/problems/stale")));
    let generation = set["generation"].as_u64().unwrap();
    let moved =
        lab.ok(Method::PUT, path, json!({"compute_node": "b", "expected_generation": generation})).await;
    assert!(moved["generation"].as_u64().unwrap() > generation);
    let late =
        lab.call(Method::DELETE, &format!("{path}&expected_generation={generation}"), Value::Null).await;
    assert_eq!(late.status, StatusCode::CONFLICT, "{}", late.body);
    assert_eq!(lab.get(path).await.body["compute_node_name"], "b");
    assert_eq!(lab.call(Method::DELETE, path, Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(lab.get(path).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn join_tokens_are_renewed_and_providers_get_their_own() {
    let lab = Lab::new().await;
    let added = lab.post("/v1/compute-nodes", json!({"provider": "manual", "name": "n"})).await;
    assert_eq!(added.status, StatusCode::CREATED);
    assert!(added.body["join"]["command"].as_str().unwrap().starts_with("switchd join skj1."));
    assert_eq!(added.body["compute_node"]["state"], "pending");
    let renewed = lab.post("/v1/compute-nodes/n/token", Value::Null).await;
    assert_eq!(renewed.status, StatusCode::CREATED, "{}", renewed.body);
    assert_ne!(renewed.body["join"]["token"], added.body["join"]["token"]);
    let made = lab.post("/v1/compute-nodes", json!({"provider": "exec"})).await;
    assert_eq!((made.status, made.body.get("join")), (StatusCode::ACCEPTED, None), "{}", made.body);
    assert_eq!(made.body["operation"]["kind"], "add_compute_node");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_made_used_and_deleted() {
    let lab = Lab::new().await;
    let made =
        lab.ok(Method::POST, "/v1/tokens", json!({"name": "ci", "role": "reader", "ttl_seconds": 60})).await;
    let secret = made["secret"].as_str().unwrap();
    let whoami = || lab.send(request(Method::GET, "/v1/whoami", secret, Value::Null));
    assert_eq!(whoami().await.body["name"], "ci");
    assert_eq!(lab.call(Method::DELETE, "/v1/tokens/ci", Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(whoami().await.status, StatusCode::UNAUTHORIZED);
}

#[test]
fn the_document_is_the_one_that_is_checked_in() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    let text = serde_json::to_string_pretty(&openapi_document()).unwrap() + "\n";
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let checked_in = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        checked_in == text,
        "controller/openapi.json differs from the API: look at the change, then run this with BLESS=1"
    );
}

#[test]
fn every_operation_is_described() {
    let document = openapi_document();
    let mut ids = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(operation["summary"].as_str().is_some_and(|text| text.ends_with('.')), "{id}");
            assert!(operation["security"].is_array(), "{id}");
            assert!(operation["responses"].get("503").is_some(), "{id}");
            assert!(path.starts_with("/v1/") || method == "get", "{id}");
            ids.push(id.to_owned());
        }
    }
    for id in ["add_compute_node", "remove_compute_node", "add_type", "allocate", "migrate"] {
        assert!(ids.iter().any(|other| other == id), "{id}");
    }
    let all = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), all);
}
