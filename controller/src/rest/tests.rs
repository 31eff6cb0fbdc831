//! The API on a real engine with a store in a temporary directory.

mod calls;
mod robust;
mod rules;

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use controller_registry as registry;
use controller_registry::{AgentInput, Command, Input, NodeId, SecretHash, SwitchInput};
use node_session::{key::PrivateKey, token::Token};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt;

use super::{Api, Identity, MAX_WATCHERS, router};
use crate::{
    api_secret::new_secret,
    audit::AuditLog,
    config,
    engine::{self, Engine, Started},
    metrics::Metrics,
    nodes::Nodes,
    store::FileStore,
};

/// An API with one token of each role.
struct Lab {
    directory: tempfile::TempDir,
    engine: Engine,
    metrics: Arc<Metrics>,
    router: Router,
    reader: String,
    operator: String,
    admin: String,
    _started: tokio::sync::mpsc::UnboundedReceiver<registry::Effect>,
    _ready: watch::Sender<bool>,
}

struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Lab {
    async fn new() -> Lab {
        Lab::with(registry::Settings::default()).await
    }

    async fn with(settings: registry::Settings) -> Lab {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(FileStore::create(&directory.path().join("store")).unwrap());
        let Started { engine, effects } =
            Engine::start_with(store, vec!["manual".to_owned(), "exec".to_owned()], settings).unwrap();
        engine.command(Command::InitCluster { name: "lab".to_owned(), epoch: 7 }).await.unwrap();
        let mut secrets = Vec::new();
        for (name, role) in [
            ("looks", registry::Role::Reader),
            ("does", registry::Role::Operator),
            ("rules", registry::Role::Admin),
        ] {
            let (secret, secret_hash) = new_secret();
            let command = Command::CreateApiToken { name: name.to_owned(), role, secret_hash, ttl_ms: None };
            engine.command(command).await.unwrap();
            secrets.push(secret);
        }
        let nodes = Nodes::new(engine.clone(), config::Limits::default());
        let metrics = Arc::new(Metrics::new(nodes.clone()));
        let (ready, on_ready) = watch::channel(true);
        let api = Arc::new(Api {
            engine: engine.clone(),
            observed: nodes.observed().clone(),
            metrics: metrics.clone(),
            audit: AuditLog::open(directory.path()).unwrap(),
            identity: Identity {
                public_key: PrivateKey::generate().unwrap().public(),
                addresses: vec!["192.0.2.1:4842".to_owned()],
            },
            started: engine::now(),
            ready: on_ready,
            watchers: Arc::new(Semaphore::new(MAX_WATCHERS)),
        });
        let mut secrets = secrets.into_iter();
        let mut secret = || secrets.next().unwrap();
        Lab {
            router: router(&api),
            directory,
            engine,
            metrics,
            reader: secret(),
            operator: secret(),
            admin: secret(),
            _started: effects,
            _ready: ready,
        }
    }

    async fn send(&self, request: Request<Body>) -> Answered {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 64 << 20).await.unwrap();
        let text = || Value::String(String::from_utf8_lossy(&body).into_owned());
        let body = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body).unwrap_or_else(|_| text())
        };
        Answered { status: parts.status, headers: parts.headers, body }
    }

    /// A call as an administrator.
    async fn call(&self, method: Method, path: &str, body: Value) -> Answered {
        self.send(request(method, path, &self.admin, body)).await
    }

    async fn get(&self, path: &str) -> Answered {
        self.call(Method::GET, path, Value::Null).await
    }

    async fn post(&self, path: &str, body: Value) -> Answered {
        self.call(Method::POST, path, body).await
    }

    /// A call that must succeed.
    async fn ok(&self, method: Method, path: &str, body: Value) -> Value {
        let answered = self.call(method.clone(), path, body).await;
        assert!(answered.status.is_success(), "{method} {path}: {} {}", answered.status, answered.body);
        answered.body
    }

    /// A node that has joined, with switch and agent.
    async fn node(&self, name: &str) -> String {
        let added =
            self.ok(Method::POST, "/v1/compute-nodes", json!({"provider": "manual", "name": name})).await;
        let token: Token = added["join"]["token"].as_str().unwrap().parse().unwrap();
        let public_key = registry::PublicKey(PrivateKey::generate().unwrap().public().0);
        let secret_hash = SecretHash(token.secret.hash());
        let enrol = Input::Enrol { secret_hash, public_key, name_hint: name.to_owned() };
        self.engine.execute(enrol).await.unwrap();
        let id = added["compute_node"]["id"].as_str().unwrap().to_owned();
        let node: NodeId = id.parse().unwrap();
        let switch = SwitchInput::Registered {
            session: node.0 * 10,
            boot: node.0,
            version: "1".to_owned(),
            machine: String::new(),
            addresses: Vec::new(),
            old_alive: false,
        };
        self.engine.execute(Input::Switch(node, switch)).await.unwrap();
        let agent = AgentInput::Registered {
            session: node.0 * 10 + 1,
            boot: node.0,
            version: "1".to_owned(),
            capacity: registry::Capacity {
                cores: 8,
                memory_bytes: 8 << 30,
                disk_bytes: 100 << 30,
                accelerator: String::new(),
            },
            drivers: vec!["container".to_owned()],
            instances: Vec::new(),
            old_alive: false,
        };
        self.engine.execute(Input::Agent(node, agent)).await.unwrap();
        id
    }

    /// The node's agent says that the instance runs.
    async fn runs(&self, node: &str, instance: &str) {
        let node: NodeId = node.parse().unwrap();
        let id = instance.parse().unwrap();
        let generation = self.engine.read(|registry| registry.instances()[&id].generation).await;
        let status = registry::InstanceStatus {
            id,
            generation,
            state: registry::InstanceState::Running,
            ..registry::InstanceStatus::default()
        };
        let report = AgentInput::Report { session: node.0 * 10 + 1, full: false, instances: vec![status] };
        self.engine.execute(Input::Agent(node, report)).await.unwrap();
    }

    /// A type, a network and two nodes.
    async fn furnished() -> (Lab, String, String) {
        Lab::furnished_with(registry::Settings::default()).await
    }

    async fn furnished_with(settings: registry::Settings) -> (Lab, String, String) {
        let lab = Lab::with(settings).await;
        lab.ok(Method::POST, "/v1/types", json!({"name": "small", "cores": 0.5, "memory_mib": 64})).await;
        lab.ok(Method::POST, "/v1/networks", json!({"name": "blue", "subnet_v4": "10.0.0.0/24"})).await;
        let (a, b) = (lab.node("a").await, lab.node("b").await);
        (lab, a, b)
    }
}

fn request(method: Method, path: &str, token: &str, body: Value) -> Request<Body> {
    let builder =
        Request::builder().method(method).uri(path).header(header::AUTHORIZATION, format!("Bearer {token}"));
    match body {
        Value::Null => builder.body(Body::empty()).unwrap(),
        body => builder
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_string()))
            .unwrap(),
    }
}
