//! Roles, refusals, idempotency and pages.

use super::*;
use crate::rest::openapi_document;

#[tokio::test(flavor = "multi_thread")]
async fn every_role_on_every_operation() {
    let lab = Lab::new().await;
    let rank = |role| ["none", "reader", "operator", "admin"].iter().position(|r| *r == role).unwrap();
    for (path, item) in openapi_document()["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            let needed = match (method.as_str(), path.as_str()) {
                (_, "/healthz" | "/readyz" | "/openapi.json") => "none",
                (_, path) if path.starts_with("/v1/tokens") => "admin",
                ("get", _) => "reader",
                _ => "operator",
            };
            let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).unwrap();
            let uri: String = path
                .split('/')
                .map(|part| if part.starts_with('{') { "none-1" } else { part })
                .collect::<Vec<_>>()
                .join("/");
            for (role, token) in [
                ("none", "skt_forged"),
                ("reader", &lab.reader),
                ("operator", &lab.operator),
                ("admin", &lab.admin),
            ] {
                let response = lab
                    .router
                    .clone()
                    .oneshot(request(method.clone(), &uri, token, Value::Null))
                    .await
                    .unwrap();
                let status = response.status();
                match (rank(role) >= rank(needed), role) {
                    (true, _) => {
                        assert!(!matches!(status.as_u16(), 401 | 403 | 500..), "{id} as {role}: {status}");
                    }
                    (false, "none") => {
                        assert_eq!(status, StatusCode::UNAUTHORIZED, "{id}");
                        assert!(response.headers().contains_key(header::WWW_AUTHENTICATE), "{id}");
                    }
                    (false, _) => assert_eq!(status, StatusCode::FORBIDDEN, "{id} as {role}"),
                }
            }
        }
    }
    let refused = lab.send(request(Method::POST, "/v1/types", &lab.reader, json!({}))).await;
    assert!(refused.body["detail"].as_str().unwrap().contains("operator"), "{}", refused.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_refused_and_said() {
    let (lab, ..) = Lab::furnished().await;
    let type_ = |extra: Value| {
        let mut body = json!({"name": "t", "cores": 1, "memory_mib": 64});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    let (post, get, put, delete) = (Method::POST, Method::GET, Method::PUT, Method::DELETE);
    let table = [
        (&get, "/v1/nothing", Value::Null, 404, "not-found", ""),
        (&put, "/v1/types", json!({}), 405, "method-not-allowed", ""),
        (&get, "/v1/instances/none", Value::Null, 404, "not-found", ""),
        (&get, "/v1/operations/none", Value::Null, 404, "not-found", ""),
        (&get, "/v1/operations/op-1?wait=61", Value::Null, 422, "invalid", "wait"),
        (&get, "/v1/types?limit=0", Value::Null, 422, "invalid", "limit"),
        (&get, "/v1/types?limit=x", Value::Null, 422, "invalid", "limit"),
        (&get, "/v1/types?limt=1", Value::Null, 422, "invalid", "limt"),
        (&get, "/v1/types?cursor=x", Value::Null, 422, "invalid", "cursor"),
        (&get, "/v1/events?after=x", Value::Null, 422, "invalid", "after"),
        (&get, "/v1/bindings?mac=x", Value::Null, 422, "invalid", "mac"),
        (&get, "/v1/bindings/blue/02:00:00:00:00:09?vlans=0", Value::Null, 422, "invalid", "vlans"),
        (&get, "/v1/links?compute_node=none", Value::Null, 404, "not-found", ""),
        (&post, "/v1/types", type_(json!({"cores": "x"})), 422, "invalid", "cores"),
        (&post, "/v1/types", type_(json!({"cores": 1e300})), 422, "invalid", "cores"),
        (&post, "/v1/types", type_(json!({"memory_mib": u64::MAX})), 422, "invalid", "memory_mib"),
        (&post, "/v1/types", type_(json!({"memory_mib": 1})), 422, "invalid", "memory_mib"),
        (&post, "/v1/types", type_(json!({"name": "Ä"})), 422, "invalid", "name"),
        (&post, "/v1/types", type_(json!({"name": "small"})), 409, "conflict", ""),
        (&post, "/v1/types", type_(json!({"coers": 1})), 422, "invalid", "coers"),
        (&post, "/v1/types", Value::Null, 415, "media-type", ""),
        (
            &post,
            "/v1/networks",
            json!({"name": "n", "subnet_v4": "10.0.0.1/24"}),
            422,
            "invalid",
            "subnet_v4",
        ),
        (&post, "/v1/networks", json!({"name": "n", "dhcp": "no"}), 422, "invalid", "dhcp"),
        (&post, "/v1/networks", json!({"name": "n", "vni": 0}), 422, "invalid", "vni"),
        (&post, "/v1/compute-nodes", json!({"provider": "none"}), 422, "invalid", "provider"),
        (
            &post,
            "/v1/compute-nodes",
            json!({"provider": "manual", "token_ttl_seconds": 0}),
            422,
            "invalid",
            "token_ttl_seconds",
        ),
        (&post, "/v1/compute-nodes/a/token", Value::Null, 409, "conflict", ""),
        (&post, "/v1/instances", json!({"type": "none"}), 404, "not-found", ""),
        (&post, "/v1/instances", json!({"type": "small", "ips": ["10.9.9.9"]}), 422, "invalid", "ips"),
        (&post, "/v1/instances/none/migrate", json!({"compute_node": "b"}), 404, "not-found", ""),
        (&post, "/v1/tokens", json!({"name": "t", "role": "king"}), 422, "invalid", "role"),
        (
            &post,
            "/v1/tokens",
            json!({"name": "t", "role": "reader", "ttl_seconds": 0}),
            422,
            "invalid",
            "ttl_seconds",
        ),
        (&delete, "/v1/compute-nodes/none", Value::Null, 404, "not-found", ""),
        (&delete, "/v1/compute-nodes/a?force=perhaps", Value::Null, 422, "invalid", "force"),
        (&delete, "/v1/compute-nodes/a?now=perhaps", Value::Null, 422, "invalid", "now"),
    ];
    for (method, path, body, status, problem, field) in table {
        let answered = lab.call(method.clone(), path, body.clone()).await;
        let what = format!("{method} {path} {body}: {} {}", answered.status, answered.body);
        assert_eq!(answered.status.as_u16(), status, "{what}");
        assert_eq!(answered.headers[header::CONTENT_TYPE], "application/problem+json", "{what}");
        assert_eq!(answered.body["type"], format!("/problems/{problem}"), "{what}");
        assert_eq!(answered.body["status"], status, "{what}");
        assert_eq!(answered.headers["x-request-id"], answered.body["instance"].as_str().unwrap(), "{what}");
        assert_eq!(answered.body.get("field").and_then(Value::as_str).unwrap_or_default(), field, "{what}");
        if status == 405 {
            assert!(answered.headers[header::ALLOW].to_str().unwrap().contains("POST"), "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_makes_a_post_idempotent() {
    let (lab, ..) = Lab::furnished().await;
    let send = |path: &'static str, key: &'static str, token: &str, body: Value| {
        let mut request = request(Method::POST, path, token, body);
        request.headers_mut().insert("idempotency-key", key.parse().unwrap());
        lab.send(request)
    };
    let body = json!({"type": "small", "name": "web"});
    let first = send("/v1/instances", "k", &lab.admin, body.clone()).await;
    let second = send("/v1/instances", "k", &lab.admin, body.clone()).await;
    assert_eq!((first.status, &first.body), (second.status, &second.body));
    assert_eq!(first.headers[header::LOCATION], second.headers[header::LOCATION]);
    assert_eq!(second.headers["idempotency-replayed"], "true");
    let other = send("/v1/instances", "k", &lab.admin, json!({"type": "small"})).await;
    assert_eq!((other.status.as_u16(), &other.body["type"]), (422, &json!("/problems/key-reused")));
    // Another caller's key is another key.
    assert_eq!(send("/v1/instances", "k", &lab.operator, body).await.status, StatusCode::CONFLICT);
    let body = json!({"name": "ci", "role": "reader"});
    let first = send("/v1/tokens", "t", &lab.admin, body.clone()).await;
    let second = send("/v1/tokens", "t", &lab.admin, body.clone()).await;
    assert_eq!(first.body["token"], second.body["token"]);
    assert!(first.body["secret"].is_string() && second.body.get("secret").is_none(), "a secret is told once");
    let stored = std::fs::read(lab.directory.path().join("store")).unwrap();
    let secret = first.body["secret"].as_str().unwrap().as_bytes();
    assert!(!stored.windows(secret.len()).any(|window| window == secret), "no secret is stored");
    // Many at once do it once.
    let body = json!({"type": "small"});
    let calls = (0..20).map(|_| send("/v1/instances", "many", &lab.admin, body.clone()));
    let answers = futures_util::future::join_all(calls).await;
    assert!(answers.iter().all(|answer| answer.body["id"] == answers[0].body["id"]));
    assert_eq!(lab.get("/v1/instances").await.body["items"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_comes_in_parts() {
    let lab = Lab::new().await;
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..250 {
        let engine = lab.engine.clone();
        calls.spawn(async move {
            let network = registry::NewNetwork { name: format!("n{n}"), ..registry::NewNetwork::default() };
            engine.command(Command::CreateNetwork(network)).await.unwrap();
        });
    }
    calls.join_all().await;
    let (mut vnis, mut cursor, mut parts) = (Vec::new(), String::new(), 0);
    loop {
        let page = lab.get(&format!("/v1/networks?limit=100{cursor}")).await.body;
        vnis.extend(page["items"].as_array().unwrap().iter().map(|item| item["vni"].as_u64().unwrap()));
        parts += 1;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!((vnis.len(), parts), (250, 3));
    assert!(vnis.is_sorted());
    assert_eq!(lab.get("/v1/networks").await.body["items"].as_array().unwrap().len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_makes_a_delete_tell_the_same_twice() {
    let (lab, a, _) = Lab::furnished().await;
    let allocated = lab.ok(Method::POST, "/v1/instances", json!({"type": "small", "name": "web"})).await;
    lab.runs(allocated["compute_node"].as_str().unwrap_or(&a), "inst-1").await;
    lab.ok(Method::POST, "/v1/tokens", json!({"name": "ci", "role": "reader"})).await;
    lab.ok(Method::POST, "/v1/networks", json!({"name": "red"})).await;
    for (n, path) in
        ["/v1/types/small", "/v1/tokens/ci", "/v1/networks/red", "/v1/instances/web", "/v1/compute-nodes/b"]
            .into_iter()
            .enumerate()
    {
        let send = |path: &str, key: String| {
            let mut request = request(Method::DELETE, path, &lab.admin, Value::Null);
            request.headers_mut().insert("idempotency-key", key.parse().unwrap());
            lab.send(request)
        };
        let first = send(path, format!("k{n}")).await;
        let second = send(path, format!("k{n}")).await;
        assert!(first.status.is_success(), "{path}: {} {}", first.status, first.body);
        assert_eq!((first.status, &first.body), (second.status, &second.body), "{path}");
        assert_eq!(second.headers["idempotency-replayed"], "true", "{path}");
        let other = send("/v1/types/other", format!("k{n}")).await;
        assert_eq!(other.body["type"], "/problems/key-reused", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_nobody_knows_is_a_problem_of_its_node() {
    let (lab, a, _) = Lab::furnished().await;
    let node: NodeId = a.parse().unwrap();
    let status = registry::InstanceStatus {
        id: "inst-77".parse().unwrap(),
        generation: registry::Generation(9),
        state: registry::InstanceState::Running,
        ..registry::InstanceStatus::default()
    };
    let report = AgentInput::Report { session: node.0 * 10 + 1, full: true, instances: vec![status] };
    lab.engine.execute(Input::Agent(node, report)).await.unwrap();
    let shown = lab.get(&format!("/v1/compute-nodes/{a}")).await.body;
    assert!(shown["problems"][0].as_str().is_some_and(|p| p.contains("inst-77")), "{shown}");
    assert_eq!(shown["state"], "online");
}
